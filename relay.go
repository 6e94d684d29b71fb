package mesherstream

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A Relay carries messages between managers: those of other processes, and of other machines. [WithRelay] gives one to
// a manager. Package natsrelay has one over NATS; what follows is what another one, over Redis or Postgres, has to do.
//
// All methods must be safe for concurrent use. The manager itself takes care that a node neither delivers its own
// messages twice nor gets anything twice or out of order, that publishing never delays a Broadcast, and that a
// subscription is tried again; a Relay need not, but for one that it loses after Subscribe has returned. It carries every field of [RelayMessage] as it is, and may use the JSON
// names of the fields for that.
type Relay interface {
	// Publish hands m on to whoever has subscribed to m.Project, on whatever node; the publisher itself may be among
	// them. What is published to one project stays in order. Only one call of a manager runs at a time, so it may wait,
	// but as long as it does, everything behind it does too. m.Data and the strings are never changed, and Publish must
	// not change them either. An error says that m is lost; it is counted, and not tried again.
	Publish(m RelayMessage) error

	// Subscribe has receive called with everything that is published to the project from now on. It returns when that is
	// in force, or when ctx is done, or at once where the relay is away; in the last two cases it comes into force by
	// itself as soon as it can. An error says that it never will, and the manager subscribes again later. ctx has a
	// deadline.
	//
	// Calls of receive for one subscription come one after the other, in the order of what was published. receive may
	// wait for the CPU of a shard, never for a client, and has copied all of m when it returns.
	//
	// unsubscribe ends the subscription and doesn't wait for calls of receive, which do nothing from then on.
	Subscribe(ctx context.Context, project string, receive func(m RelayMessage)) (unsubscribe func(), err error)

	// Flush returns when everything published before has left this process, or when ctx is done. ctx has a deadline.
	Flush(ctx context.Context) error

	// Status tells how the relay is. It must not block.
	Status() RelayStatus
}

// A ConfirmingRelay is a [Relay] that learns only after Publish has returned whether a message is refused. The manager
// calls PublishConfirmed instead of Publish then.
type ConfirmingRelay interface {
	Relay

	// PublishConfirmed is Publish, and where it returns nil, outcome is called once, on any goroutine: with nil when the
	// message is out of this process and hasn't been refused, or with an error if it is lost, or nobody knows whether it
	// is. outcome doesn't block. Where PublishConfirmed returns an error, outcome is not called. When Flush has returned
	// nil, or Status, the outcome of what was published before has been told, if the relay knows it.
	PublishConfirmed(m RelayMessage, outcome func(error)) error
}

// RelayMessage is a message on its way between nodes.
type RelayMessage struct {
	Node    string `json:"node"` // of the manager that published it; no two have the same; at most 64 bytes
	Seq     uint64 `json:"seq"`  // counts up what that manager publishes, with gaps
	Message        // an empty project is one of its own: every node with clients subscribes to it
}

// RelayStatus is how a [Relay] is.
type RelayStatus struct {
	Away   bool   // nothing gets through at the moment, or not all that is subscribed to
	Missed uint64 // messages for this node that were lost on the way, as far as the relay knows

	Lost       uint64 // messages that Publish has taken, and that were lost or refused later; not those of PublishConfirmed
	Breaks     uint64 // how often the way to the other nodes broke, however briefly: what was on it may be lost
	Unfollowed int    // subscriptions that Subscribe has made, and that are refused now; the relay makes them again
	Reason     error  // why it is away, or why a subscription is refused; nil where it doesn't know
}

const (
	// The bounds of what waits for the relay. Beyond either, the oldest leave: those who watch want the newest.
	relayQueueMessages = 8 << 10
	relayQueueBytes    = 16 << 20

	relayBatch      = 256     // how many messages are taken out of the queue at a time
	relayBatchBytes = 1 << 20 // the same in bytes, but at least one message
	relayTick       = time.Second
)

// These are told to the log only.
var (
	errQueueFull = errors.New("the queue for the relay is full")
	errLostLater = errors.New("the relay has lost them after it had taken them")
)

// relaying is what a manager with a relay has for as long as it lives.
type relaying struct {
	// Read-only after construction.
	m     *Manager
	relay relaySurvivor
	node  string // names this manager among all nodes

	// Atomic.
	run                          atomic.Pointer[relayRun] // the newest; nil before the first start
	seq                          atomic.Uint64
	published, dropped           atomic.Uint64
	received, unwanted, rejected atomic.Uint64
}

// relayRun is a relay's part of one run of the manager. Its goroutine publishes what Broadcast has queued.
type relayRun struct {
	*relaying

	// Read-only after construction.
	interests *interests
	report    func(func())    // has something logged where that may take its time
	outcome   func(error)     // is told what has become of a message
	wake      chan struct{}   // holds one token when something is queued
	open      context.Context // done when the queue gets nothing more; shut does that
	shut      context.CancelFunc
	alive     context.Context // done when the shutdown's time is over; giveUp does that
	giveUp    context.CancelFunc

	// Owned by the goroutine.
	batch       []*message
	last        RelayStatus // at the last tick
	missing     bool        // an episode of missed messages has been reported, and hasn't ended
	seenDropped uint64      // at the last tick

	// Atomic.
	losing atomic.Bool // an episode of drops has been reported, and hasn't ended

	// Guarded by mu.
	mu       sync.Mutex
	queue    backlog
	closed   bool
	deadline context.Context // of the shutdown; nil until then
}

func newRelaying(m *Manager) *relaying {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return &relaying{m: m, relay: relaySurvivor{m.cfg.relay}, node: hex.EncodeToString(id[:])}
}

// start makes the relay's part of a run, whose goroutine the caller then starts. report comes from the run's hooks, and
// spawn starts a goroutine of the run.
func (n *relaying) start(report, spawn func(func())) *relayRun {
	r := &relayRun{relaying: n, report: report, wake: make(chan struct{}, 1)}
	r.open, r.shut = context.WithCancel(context.Background())
	r.alive, r.giveUp = context.WithCancel(context.Background())
	r.outcome = r.tell
	r.interests = newInterests(n, r.open, report, spawn)
	n.run.Store(r)
	return r
}

// publish queues msg for the other nodes. It never waits for the relay. Where nothing runs yet, it starts the manager: a
// process without clients may be one that only publishes.
func (n *relaying) publish(msg *message) error {
	if r := n.run.Load(); r != nil && r.push(msg) {
		return nil
	}
	if err := n.m.start(false); err != nil {
		return err
	}
	if !n.run.Load().push(msg) {
		return ErrClosed
	}
	return nil
}

// push returns false where the run is over.
func (r *relayRun) push(msg *message) bool {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return false
	}
	dropped, _ := r.queue.push(msg, limits{messages: relayQueueMessages, bytes: relayQueueBytes})
	r.mu.Unlock()
	// Also where something was queued before: the goroutine takes the token first and looks into the queue then, so a
	// token that is still there will have it look again.
	select {
	case r.wake <- struct{}{}:
	default:
	}
	if dropped > 0 && r.lose(dropped) {
		r.report(func() { r.logLosing(errQueueFull) }) // the log may block, and Broadcast may not
	}
	return true
}

// lose counts messages that the other nodes don't get, and returns whether they are the first ones of an episode.
func (r *relayRun) lose(messages int) bool {
	r.dropped.Add(uint64(messages))
	return !r.losing.Swap(true)
}

func (r *relayRun) logLosing(reason error) {
	r.m.cfg.logger.Warn("mesherstream: other nodes miss messages of this one", "node", r.node, "reason", reason)
}

// loop is the goroutine of the run. It ends after close.
func (r *relayRun) loop() {
	before := r.relay.Status()
	r.last.Breaks, r.last.Missed, r.last.Lost = before.Breaks, before.Missed, before.Lost
	tick := time.NewTicker(relayTick)
	defer tick.Stop()
	for {
		select {
		case <-r.wake:
			if lost := r.publishSome(); lost != nil {
				r.report(func() { r.logLosing(lost) })
			}
		case <-tick.C:
			r.tend()
		case <-r.open.Done():
			r.finish()
			return
		}
	}
}

// publishSome publishes the oldest messages of the queue, and has itself called again where more wait. It returns what
// to log, or nil.
func (r *relayRun) publishSome() (lost error) {
	r.mu.Lock()
	r.batch = r.queue.peek(r.batch[:0], relayBatch, relayBatchBytes)
	r.queue.discard(len(r.batch))
	more := r.queue.len() > 0
	r.mu.Unlock()
	for _, msg := range r.batch {
		err := r.alive.Err()
		if err == nil {
			err = r.relay.PublishConfirmed(r.outgoing(msg), r.outcome)
		}
		if err != nil && r.lose(1) {
			lost = err
		}
	}
	clear(r.batch)
	if more {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return lost
}

// tell counts what has become of a message that the relay had taken.
func (r *relayRun) tell(err error) {
	switch {
	case err == nil:
		r.published.Add(1)
	case !r.lose(1):
	case r.open.Err() != nil: // the run ends, and may not report any more
		r.logLosing(err)
	default:
		r.report(func() { r.logLosing(err) })
	}
}

// outgoing is msg as the relay carries it. Its bytes stay shared: nobody ever changes them.
func (r *relayRun) outgoing(msg *message) RelayMessage {
	return RelayMessage{Node: r.node, Seq: r.seq.Add(1), Message: Message{
		Project:     msg.project,
		Level:       msg.level,
		Environment: msg.environment,
		Data:        msg.payload(),
		Binary:      msg.isBinary(),
		Key:         msg.key,
	}}
}

// tend does what is due once in a tick: it tells the log what has changed, and keeps the subscriptions.
func (r *relayRun) tend() {
	before, now := r.last, r.relay.Status()
	r.last = now
	r.tellChanges(before, now)
	if now.Lost > before.Lost && !r.losing.Swap(true) {
		r.report(func() { r.logLosing(cmp.Or(now.Reason, errLostLater)) })
	}
	dropped := r.dropped.Load() + now.Lost
	if r.losing.Load() && dropped == r.seenDropped && !now.Away {
		r.losing.Store(false)
		r.report(func() {
			r.m.cfg.logger.Info("mesherstream: other nodes get all messages of this one again", "node", r.node, "dropped", dropped)
		})
	}
	r.seenDropped = dropped
	r.interests.tend()
}

// tellChanges logs what the relay tells otherwise than at the last tick.
func (r *relayRun) tellChanges(before, now RelayStatus) {
	switch {
	case now.Away != before.Away || now.Away && (now.Unfollowed == 0) != (before.Unfollowed == 0):
		r.report(func() { r.logAway(now) })
	case now.Breaks != before.Breaks && !now.Away: // between two ticks
		r.report(func() { r.logAway(RelayStatus{Away: true}); r.logAway(now) })
	}
	if missing := now.Missed > before.Missed; missing != r.missing {
		r.missing = missing
		r.report(func() { r.logMissing(missing, now.Missed) })
	}
}

func (r *relayRun) logAway(s RelayStatus) {
	log := r.m.cfg.logger
	switch {
	case s.Unfollowed > 0:
		log.Error("mesherstream: the relay refuses projects that this node follows, and tries again; their clients get what is published on their own node only",
			"node", r.node, "projects", s.Unfollowed, "reason", s.Reason)
	case s.Away && s.Reason != nil:
		log.Warn("mesherstream: the relay is away, and clients get what is published on their own node only", "node", r.node, "reason", s.Reason)
	case s.Away:
		log.Warn("mesherstream: the relay is away, and clients get what is published on their own node only", "node", r.node)
	default:
		log.Info("mesherstream: the relay is back", "node", r.node)
	}
}

func (r *relayRun) logMissing(missing bool, missed uint64) {
	if missing {
		r.m.cfg.logger.Warn("mesherstream: this node misses messages of other ones", "node", r.node, "missed", missed)
	} else {
		r.m.cfg.logger.Info("mesherstream: this node misses no more messages of other ones", "node", r.node, "missed", missed)
	}
}

// close accepts nothing more. What is queued is published until ctx is done; the goroutine ends then, unless the relay
// holds it.
func (r *relayRun) close(ctx context.Context) {
	r.mu.Lock()
	r.closed, r.deadline = true, ctx
	r.mu.Unlock()
	context.AfterFunc(ctx, r.giveUp)
	r.shut()
}

// finish publishes what is still queued, within the deadline, and ends the subscriptions.
func (r *relayRun) finish() {
	defer r.giveUp()
	for r.queued() > 0 {
		if lost := r.publishSome(); lost != nil {
			r.logLosing(lost)
		}
	}
	r.mu.Lock()
	deadline := r.deadline
	r.mu.Unlock()
	if err := r.relay.Flush(deadline); err != nil {
		r.m.cfg.logger.Warn("mesherstream: the relay may not have sent everything", "node", r.node, "error", err)
	}
	r.interests.endAll()
}

func (r *relayRun) queued() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queue.len()
}

func (n *relaying) stats() RelayStats {
	status := n.relay.Status() // which has outcomes told, so it comes first
	s := RelayStats{
		RelayAway:       status.Away,
		RelayUnfollowed: status.Unfollowed,
		RelayBreaks:     status.Breaks,
		RelayMissed:     status.Missed,
		RelayPublished:  n.published.Load(),
		RelayDropped:    n.dropped.Load() + status.Lost,
		RelayReceived:   n.received.Load(),
		RelayUnwanted:   n.unwanted.Load(),
		RelayRefused:    n.rejected.Load(),
	}
	if r := n.run.Load(); r != nil {
		s.RelayQueued = r.queued()
		projects, unfollowed := r.interests.count()
		s.RelayProjects = projects
		s.RelayUnfollowed += unfollowed
		s.RelayAway = s.RelayAway || unfollowed > 0
	}
	return s
}

// relaySurvivor is a relay whose panics are errors: they cost what the call was for, and neither a goroutine of the
// manager, and so the process, nor the place of a client.
type relaySurvivor struct{ relay Relay }

func (r relaySurvivor) Publish(m RelayMessage) (err error) {
	defer survivePanic(&err)
	return r.relay.Publish(m)
}

// PublishConfirmed is Publish where the relay has no other, and then it has an outcome at once.
func (r relaySurvivor) PublishConfirmed(m RelayMessage, outcome func(error)) (err error) {
	confirming, ok := r.relay.(ConfirmingRelay)
	if !ok {
		if err = r.Publish(m); err == nil {
			outcome(nil)
		}
		return err
	}
	defer survivePanic(&err)
	return confirming.PublishConfirmed(m, outcome)
}

func (r relaySurvivor) Subscribe(ctx context.Context, project string, receive func(RelayMessage)) (unsubscribe func(), err error) {
	defer survivePanic(&err)
	end, err := r.relay.Subscribe(ctx, project, receive)
	if err != nil {
		return nil, err
	}
	return func() {
		var ignored error
		defer survivePanic(&ignored)
		end()
	}, nil
}

func (r relaySurvivor) Flush(ctx context.Context) (err error) {
	defer survivePanic(&err)
	return r.relay.Flush(ctx)
}

// Status says that a relay is away which can't tell.
func (r relaySurvivor) Status() (s RelayStatus) {
	var err error
	defer func() { s.Away = s.Away || err != nil }()
	defer survivePanic(&err)
	return r.relay.Status()
}

func survivePanic(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the relay panicked: %v\n%s", p, debug.Stack())
	}
}
