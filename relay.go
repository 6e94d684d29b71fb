package mesherstream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A Relay carries messages between managers: those of other processes, and of other machines. [WithRelay] gives one to
// a manager. Package natsrelay has one over NATS; what follows is what another one, over Redis or Postgres, has to do.
//
// All methods must be safe for concurrent use. The manager itself takes care that a node neither delivers its own
// messages twice nor gets anything twice or out of order, that publishing never delays a Broadcast, and that a
// subscription is tried again; a Relay need not. It carries every field of [RelayMessage] as it is, and may use the JSON
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

// RelayMessage is a message on its way between nodes.
type RelayMessage struct {
	Node    string `json:"node"` // of the manager that published it; no two have the same; at most 64 bytes
	Seq     uint64 `json:"seq"`  // counts up what that manager publishes, with gaps
	Message        // an empty project is one of its own: every node with clients subscribes to it
}

// RelayStatus is how a [Relay] is.
type RelayStatus struct {
	Away   bool   // nothing gets through at the moment
	Missed uint64 // messages for this node that were lost on the way, as far as the relay knows
}

// RelayStats is the part of [Stats] that a [Relay] has to do with: all zero without one.
type RelayStats struct {
	RelayAway     bool `json:"relay_away"`     // nothing gets through at the moment
	RelayProjects int  `json:"relay_projects"` // projects that this node follows now, "" included
	RelayQueued   int  `json:"relay_queued"`   // messages that wait for the relay now

	RelayPublished uint64 `json:"relay_published"` // messages of this node that the relay has taken
	RelayDropped   uint64 `json:"relay_dropped"`   // messages of this node that left the queue for newer ones, or that the relay refused
	RelayReceived  uint64 `json:"relay_received"`  // messages of other nodes that were delivered here
	RelayUnwanted  uint64 `json:"relay_unwanted"`  // those whose level or environment no client here wanted
	RelayRefused   uint64 `json:"relay_refused"`   // those that came twice, out of order, or are no message for this node's bounds
	RelayMissed    uint64 `json:"relay_missed"`    // those that were lost on the way, as far as the relay knows
}

const (
	// The bounds of what waits for the relay. Beyond either, the oldest leave: those who watch want the newest.
	relayQueueMessages = 8 << 10
	relayQueueBytes    = 16 << 20

	relayBatch      = 256     // how many messages are taken out of the queue at a time
	relayBatchBytes = 1 << 20 // the same in bytes, but at least one message
	relayTick       = time.Second
)

// errQueueFull is told to the log only.
var errQueueFull = errors.New("the queue for the relay is full")

// relaying is what a manager with a relay has for as long as it lives.
type relaying struct {
	// Read-only after construction.
	m     *Manager
	relay Relay
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
	wake      chan struct{}   // holds one token when something is queued
	open      context.Context // done when the queue gets nothing more; shut does that
	shut      context.CancelFunc
	alive     context.Context // done when the shutdown's time is over; giveUp does that
	giveUp    context.CancelFunc

	// Owned by the goroutine.
	batch       []*message
	away        bool
	seenDropped uint64 // at the last tick

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
			err = r.relay.Publish(r.outgoing(msg))
		}
		switch {
		case err == nil:
			r.published.Add(1)
		case r.lose(1):
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
	if away := r.relay.Status().Away; away != r.away {
		r.away = away
		r.report(func() { r.logAway(away) })
	}
	dropped := r.dropped.Load()
	if r.losing.Load() && dropped == r.seenDropped {
		r.losing.Store(false)
		r.report(func() {
			r.m.cfg.logger.Info("mesherstream: other nodes get all messages of this one again", "node", r.node, "dropped", dropped)
		})
	}
	r.seenDropped = dropped
	r.interests.tend()
}

func (r *relayRun) logAway(away bool) {
	if away {
		r.m.cfg.logger.Warn("mesherstream: the relay is away, and clients get what is published on their own node only", "node", r.node)
	} else {
		r.m.cfg.logger.Info("mesherstream: the relay is back", "node", r.node)
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
	status := n.relay.Status()
	s := RelayStats{
		RelayAway:      status.Away,
		RelayMissed:    status.Missed,
		RelayPublished: n.published.Load(),
		RelayDropped:   n.dropped.Load(),
		RelayReceived:  n.received.Load(),
		RelayUnwanted:  n.unwanted.Load(),
		RelayRefused:   n.rejected.Load(),
	}
	if r := n.run.Load(); r != nil {
		s.RelayQueued = r.queued()
		s.RelayProjects = r.interests.len()
	}
	return s
}
