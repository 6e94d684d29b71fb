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

// A Relay carries messages between managers, in other processes and on other machines. [WithRelay] passes one to a
// manager. Package natsrelay has one over NATS. The following describes what any other one, over Redis or Postgres, has
// to do.
//
// All methods must be safe for concurrent use. The manager itself makes sure that a node does not deliver its own
// messages twice, that it receives nothing twice or out of order, that publishing never delays a Broadcast, and that a
// failed subscription is tried again. A Relay need not do any of this, except that it renews a subscription that it
// loses after Subscribe has returned. It carries every field of [RelayMessage] unchanged, and may use the JSON names of
// the fields for that.
type Relay interface {
	// Publish passes m on to all nodes that have subscribed to m.Project. The publisher itself may be among them.
	// Messages published to one project stay in order. Only one call of a manager runs at a time. Publish may therefore
	// wait, but all later messages then wait too. m.Data and the strings are never changed, and Publish must not change
	// them either. An error says that m is lost; it is counted, and not tried again.
	Publish(m RelayMessage) error

	// Subscribe arranges for receive to be called with every message published to the project from now on. It returns
	// once the subscription is active, when ctx is done, or immediately if the relay is unavailable. In the last two
	// cases the subscription becomes active on its own as soon as it can. An error says that it never will, and the
	// manager subscribes again later. ctx has a deadline.
	//
	// Calls of receive for one subscription are made one after the other, in the order in which the messages were
	// published. receive may wait for a shard to catch up, but never for a client. It has copied all of m when it
	// returns.
	//
	// unsubscribe ends the subscription. It doesn't wait for running calls of receive; calls that come later do
	// nothing.
	Subscribe(ctx context.Context, project string, receive func(m RelayMessage)) (unsubscribe func(), err error)

	// Flush returns once all messages published before have left this process, or when ctx is done. ctx has a deadline.
	Flush(ctx context.Context) error

	// Status returns the state of the relay. It must not block.
	Status() RelayStatus
}

// A ConfirmingRelay is a [Relay] that learns only after Publish has returned whether a message is refused. The manager
// then calls PublishConfirmed instead of Publish.
type ConfirmingRelay interface {
	Relay

	// PublishConfirmed does what Publish does. If it returns nil, outcome is called once, on any goroutine: with nil
	// once the message has left this process and hasn't been refused, or with an error if the message is lost or its
	// fate is unknown. outcome doesn't block. If PublishConfirmed returns an error, outcome is not called. When Flush
	// has returned nil, or Status has returned, outcome has been called for each message published before, if the relay
	// knows its fate.
	PublishConfirmed(m RelayMessage, outcome func(error)) error
}

// RelayMessage is a message on its way between nodes.
type RelayMessage struct {
	Node    string `json:"node"` // identifies the manager that published the message; unique; at most 64 bytes
	Seq     uint64 `json:"seq"`  // increases with each message that the manager publishes, with gaps
	Message        // the empty project is a project of its own, to which every node with clients subscribes
}

// RelayStatus is the state of a [Relay].
type RelayStatus struct {
	Away   bool   // nothing gets through at the moment, or not for every subscription
	Missed uint64 // messages for this node that were lost on the way, as far as the relay knows

	Lost       uint64 // messages that Publish has accepted and that were lost or refused later; not those of PublishConfirmed
	Breaks     uint64 // how often the connection to the other nodes broke, however briefly: messages in flight may be lost
	Unfollowed int    // subscriptions that Subscribe has made and that are refused now; the relay makes them again
	Reason     error  // why the relay is away, or why a subscription is refused; nil if it doesn't know
}

const (
	// The bounds of the queue for the relay. Beyond either, the oldest messages are dropped: viewers want the newest.
	relayQueueMessages = 8 << 10
	relayQueueBytes    = 16 << 20

	relayBatch      = 256     // how many messages are taken from the queue at a time
	relayBatchBytes = 1 << 20 // the same in bytes, but at least one message
	relayTick       = time.Second
)

// These errors are only logged.
var (
	errQueueFull = errors.New("the queue for the relay is full")
	errLostLater = errors.New("the relay has lost them after it had taken them")
)

// relaying is the part of a manager with a relay that lives as long as the manager.
type relaying struct {
	// Read-only after construction.
	m     *Manager
	relay relaySurvivor
	node  string // names this manager among all nodes

	// Atomic.
	run                          atomic.Pointer[relayRun] // the newest run; nil before the first start
	seq                          atomic.Uint64
	published, dropped           atomic.Uint64
	received, unwanted, rejected atomic.Uint64
}

// relayRun is a relay's part of one run of the manager. Its goroutine publishes the messages that Broadcast has queued.
type relayRun struct {
	*relaying

	// Read-only after construction.
	interests *interests
	report    func(func())    // logs something that may take its time
	outcome   func(error)     // is called with the outcome of a message
	wake      chan struct{}   // holds one token when something is queued
	open      context.Context // done when nothing more is accepted into the queue; see shut
	shut      context.CancelFunc
	alive     context.Context // done when the time of the shutdown has passed; see giveUp
	giveUp    context.CancelFunc

	// Owned by the goroutine.
	batch       []*message
	last        RelayStatus // at the last tick
	missing     bool        // an episode of missed messages has been reported and hasn't ended
	seenDropped uint64      // at the last tick

	// Atomic.
	losing atomic.Bool // an episode of drops has been reported and hasn't ended

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

// start makes the relay's part of a run. The caller then starts its goroutine. report comes from the run's hooks, and
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

// publish queues msg for the other nodes. It never waits for the relay. If nothing runs yet, it starts the manager: a
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

// push returns false if the run is over.
func (r *relayRun) push(msg *message) bool {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return false
	}
	dropped, _ := r.queue.push(msg, limits{messages: relayQueueMessages, bytes: relayQueueBytes})
	r.mu.Unlock()
	// This is needed even if the queue wasn't empty. The goroutine takes the token before it looks into the queue, so a
	// token that is still there makes it look again.
	select {
	case r.wake <- struct{}{}:
	default:
	}
	if dropped > 0 && r.lose(dropped) {
		r.report(func() { r.logLosing(errQueueFull) }) // the log may block, and Broadcast may not
	}
	return true
}

// lose counts messages that the other nodes do not receive, and reports whether they begin an episode.
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

// publishSome publishes the oldest messages of the queue, and arranges to be called again if more are waiting. It
// returns the error to log, or nil.
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

// tell counts the outcome of a message that the relay had accepted.
func (r *relayRun) tell(err error) {
	switch {
	case err == nil:
		r.published.Add(1)
	case !r.lose(1):
	case r.open.Err() != nil: // the run is ending and may no longer report
		r.logLosing(err)
	default:
		r.report(func() { r.logLosing(err) })
	}
}

// outgoing returns msg as the relay carries it. Its bytes stay shared: they are never changed.
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
			r.m.cfg.logger.Info("mesherstream: other nodes receive all messages of this one again", "node", r.node, "dropped", dropped)
		})
	}
	r.seenDropped = dropped
	r.interests.tend()
}

// tellChanges logs how the relay's status differs from that at the last tick.
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
		log.Error("mesherstream: the relay refuses projects that this node follows, and tries again; their clients receive only messages published on their own node",
			"node", r.node, "projects", s.Unfollowed, "reason", s.Reason)
	case s.Away && s.Reason != nil:
		log.Warn("mesherstream: the relay is away, and clients receive only messages published on their own node", "node", r.node, "reason", s.Reason)
	case s.Away:
		log.Warn("mesherstream: the relay is away, and clients receive only messages published on their own node", "node", r.node)
	default:
		log.Info("mesherstream: the relay is back", "node", r.node)
	}
}

func (r *relayRun) logMissing(missing bool, missed uint64) {
	if missing {
		r.m.cfg.logger.Warn("mesherstream: this node misses messages from other nodes", "node", r.node, "missed", missed)
	} else {
		r.m.cfg.logger.Info("mesherstream: this node no longer misses messages from other nodes", "node", r.node, "missed", missed)
	}
}

// close accepts nothing more. Queued messages are published until ctx is done. The goroutine then ends, unless the
// relay blocks it.
func (r *relayRun) close(ctx context.Context) {
	r.mu.Lock()
	r.closed, r.deadline = true, ctx
	r.mu.Unlock()
	context.AfterFunc(ctx, r.giveUp)
	r.shut()
}

// finish publishes the messages that are still queued, within the deadline, and ends the subscriptions.
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
	status := n.relay.Status() // first, since it may call outcomes
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

// relaySurvivor is a relay whose panics become errors. A panic fails the call that it happened in, but it ends no
// goroutine of the manager, and so not the process, and it costs no client its place.
type relaySurvivor struct{ relay Relay }

func (r relaySurvivor) Publish(m RelayMessage) (err error) {
	defer survivePanic(&err)
	return r.relay.Publish(m)
}

// PublishConfirmed falls back to Publish if the relay has no PublishConfirmed. The outcome is then known immediately.
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

// Status reports a relay as away if its own Status panics.
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
