package mesherstream

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"

	"github.com/mesher/mesherstream/internal/link"
)

// Hooks are functions that are called when something happens to a client. Each may be nil.
//
// Each shard calls the hooks of its clients one after the other, on a goroutine other than its own. Hooks for one
// client are called in the order of the events. Hooks for different clients may be called at the same time, so they
// must be safe for concurrent use. They may call the manager, except for [Manager.Shutdown], which waits for them.
//
// A slow hook delays other hooks, and reading from clients whose messages wait for it, but never a delivery. Meanwhile,
// calls for clients that connect and leave are queued, and [WithMaxClients] bounds their number. A panic is logged with
// its stack, and the client concerned is closed with code 1011.
type Hooks struct {
	// Connect is called when a client has connected.
	Connect func(Client)

	// Disconnect is called when a client has left, once for each Connect. code is the code of the first close frame,
	// from the client or from the server. It is 1005 if that frame had none, and 1006 if the connection ended without a
	// close frame, or if the client gave no sign of life. With 1006, reason says why, if that is known. A client counts
	// for [WithMaxClients] until Disconnect returns.
	Disconnect func(c Client, code int, reason string)

	// Message is called with each message of a client that is not part of the protocol: every binary message, and every
	// text message except {"type":"subscribe"} and, from a client of [Protocol], acknowledgements and fetches. data is
	// valid until the function returns. The client's next message is read after that. If Message is nil, a binary message
	// closes the client with code 1003, and a text message is answered with an error.
	Message func(c Client, data []byte, binary bool)

	// Slow is called when a client has become slow, once in each episode; see [Client].Slow.
	Slow func(Client)

	// Drop is called after messages for a client were dropped, with the number of its drops that have not been reported
	// to the hook yet.
	Drop func(c Client, dropped uint64)
}

// hookQueue runs the hooks of one shard's clients, in order, on a goroutine other than the shard's. Its length is
// bounded by the places that clients hold: for each place, one Connect, one Message, one Slow, one Drop and one
// Disconnect. Clients may give back their places before their calls have run only as long as keepsUp allows it.
type hookQueue struct {
	// Read-only after construction.
	fns     Hooks
	log     *slog.Logger
	onPanic func(ClientID)

	// Guarded by mu.
	mu     sync.Mutex
	wake   sync.Cond
	queue  []func()
	closed bool // the goroutine ends when the queue is empty
}

func newHookQueue(fns Hooks, log *slog.Logger, onPanic func(ClientID)) *hookQueue {
	q := &hookQueue{fns: fns, log: log, onPanic: onPanic}
	q.wake.L = &q.mu
	return q
}

// loop is the goroutine that runs the hooks, until close.
func (q *hookQueue) loop() {
	for {
		q.mu.Lock()
		for len(q.queue) == 0 && !q.closed {
			q.wake.Wait()
		}
		calls := q.queue
		q.queue = nil
		q.mu.Unlock()
		if len(calls) == 0 {
			return
		}
		for _, call := range calls {
			call()
		}
	}
}

// close ends the loop after the queued calls. The shard has ended before.
func (q *hookQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake.Signal()
}

func (q *hookQueue) push(call func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, call)
	q.wake.Signal()
}

// keepsUp reports whether few enough calls are queued that a leaving client may give its place back immediately.
// Otherwise its place is kept until its calls have run: if a hook hung, clients that connect and leave would fill the
// memory.
func (q *hookQueue) keepsUp() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.queue) < 64
}

// call runs a hook, and recovers from its panic.
func (q *hookQueue) call(name string, id ClientID, hook func()) {
	defer func() {
		if p := recover(); p != nil {
			q.onPanic(id)
			q.log.Error("mesherstream: a hook panicked", append(panicked(p), "hook", name, "client", uint64(id))...)
		}
	}()
	hook()
}

func (q *hookQueue) connect(c *client) {
	if q.fns.Connect == nil {
		return
	}
	snapshot := c.snapshot()
	q.push(func() { q.call("Connect", c.id, func() { q.fns.Connect(snapshot) }) })
}

// disconnect runs the Disconnect hook, and then gives the client's place back.
func (q *hookQueue) disconnect(c *client, code int, reason string) {
	snapshot := c.snapshot()
	q.push(func() {
		defer c.vacate()
		q.log.Debug("mesherstream: client left", "client", uint64(c.id), "code", code, "reason", reason)
		if q.fns.Disconnect != nil {
			q.call("Disconnect", c.id, func() { q.fns.Disconnect(snapshot, code, reason) })
		}
	})
}

// message queues the Message hook and returns true, or returns false if there is none. payload stays valid until the
// link is told to resume.
func (q *hookQueue) message(c *client, binary bool, payload []byte) bool {
	if q.fns.Message == nil {
		return false
	}
	snapshot := c.snapshot()
	q.push(func() {
		q.call("Message", c.id, func() { q.fns.Message(snapshot, payload, binary) })
		c.shard.post(event{client: c, Event: link.Event{Kind: eventResume}})
	})
	return true
}

func (q *hookQueue) slow(c *client) {
	if q.fns.Slow == nil {
		return
	}
	t := c.tallied()
	if t.slowQueued.Swap(true) {
		return
	}
	snapshot := c.snapshot()
	q.push(func() {
		t.slowQueued.Store(false)
		q.call("Slow", c.id, func() { q.fns.Slow(snapshot) })
	})
}

func (q *hookQueue) drop(c *client, n int) {
	if q.fns.Drop == nil {
		return
	}
	t := c.tallied()
	if t.unreported.Add(uint64(n)) != uint64(n) {
		return // the queued call reports these too
	}
	snapshot := c.snapshot()
	q.push(func() {
		dropped := t.unreported.Swap(0)
		q.call("Drop", c.id, func() { q.fns.Drop(snapshot, dropped) })
	})
}

// survivor is a log handler that survives a panic of the application's handler. A record that can't be logged is
// reported on standard error.
type survivor struct{ slog.Handler }

func (h survivor) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	defer survive()
	return h.Handler.Enabled(ctx, level)
}

func (h survivor) Handle(ctx context.Context, r slog.Record) error {
	defer survive()
	return h.Handler.Handle(ctx, r)
}

func (h survivor) WithAttrs(attrs []slog.Attr) slog.Handler {
	return survivor{h.Handler.WithAttrs(attrs)}
}

func (h survivor) WithGroup(name string) slog.Handler {
	return survivor{h.Handler.WithGroup(name)}
}

// panicked returns the log attributes of a recovered panic.
func panicked(p any) []any { return []any{"panic", fmt.Sprint(p), "stack", string(debug.Stack())} }

func survive() {
	if p := recover(); p != nil {
		fmt.Fprintf(os.Stderr, "mesherstream: the log handler panicked: %v\n%s", p, debug.Stack())
	}
}
