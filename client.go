package mesherstream

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// client is one connection as its shard knows it. Its size decides how many viewers a process holds, so state that only
// some clients have is made when it is needed: see outbox, tally, window, v1 and replay.
type client struct {
	// Owned by the shard's goroutine. These fields come first: with the link, they are all that a delivery to a client that
	// keeps up touches. They fill two cache lines.
	shard         *shard // read-only after construction
	link          link.Link
	out           *outbox // what waits to be sent; nil if nothing has waited since a beat
	phase         phase
	encoding      encoding // read-only after construction
	acks          acks
	busy          bool // the link accepts nothing more until it says so
	slow          bool
	left          bool // its link has left out a probe that was to follow messages
	closeSent     bool // the close frame has been handed to the link
	closeReceived bool
	again         bool   // is in shard.again
	biting        bool   // is in shard.biting
	apart         bool   // has a group of its own, to which nothing is offered from before its join
	fetching      bool   // it receives the messages of a gap over plain HTTP, and nothing else
	inHook        bool   // its message is with the Message hook, and nothing more is read until the hook returns
	pingDue       bool   // a ping is to be sent as soon as a frame may start
	owing         bool   // it owed something at the last beat
	proven        bool   // a probe that followed messages has been answered
	weight, stop  uint32 // the weight of what was written, and the weight up to which the window need not be looked at
	lookAt        moment // when it has to be looked at anyway; before the first pong, when the client counts as sending none
	ahead         int32  // how many of the oldest messages that its group holds aren't for it: it has them or joined later
	written       uint64 // messages of any kind that the link has accepted
	offered, sent uint64
	group         *group
	v1            *v1     // what the client is told beside messages; nil if it hasn't agreed on that
	window        *window // nil until the first message
	replay        *replay // nil if it doesn't look back

	// Read-only after construction.
	id          ClientID
	place       place
	connectedAt time.Time

	terms

	// Owned by the shard's goroutine.
	joined  *joining      // nil once it has joined the clients of its group
	tally   *tally        // nil until there is something to count in it
	inGroup int32         // index in group.clients
	inWheel int32         // index in its slot of shard.wheel
	pingAt  time.Duration // when the next ping is due, since connectedAt
	askedAt time.Duration // when the first ping after its last sign of life was due, likewise
	rtt     uint32        // the shortest round trip, in milliseconds; 0 until the first one

	// Atomic.
	vacated atomic.Bool  // the place has been given back
	seen    atomic.Int64 // when the client last gave a sign of life, in nanoseconds since connectedAt
	took    atomic.Int64 // when it last took something of what it owed, or began to owe something, likewise
}

// A tally counts a client's messages that were dropped, abandoned, filtered, conflated or replayed.
type tally struct {
	dropped, abandoned, filtered, conflated, replayed uint64

	// Atomic.
	unreported atomic.Uint64 // drops not yet reported to the Drop hook
	slowQueued atomic.Bool   // a call of the Slow hook is queued
}

// A joining says which messages were the newest when a client was registered.
type joining struct {
	cursor
	stamp uint64 // the newest one at that time
}

// phase is the stage of a client's life. Phases only increase.
type phase uint8

const (
	phaseOpen     phase = iota
	phaseFlushing       // receives the messages that it was offered, but nothing new; then it is closed
	phaseClosing        // receives the close frame, and nothing else
	phaseGone           // its link is closed, and nothing refers to the client
)

// Post makes the shard handle an event of the client's link.
func (c *client) Post(e link.Event) { c.shard.post(event{client: c, Event: e}) }

// Handle handles an event of the client's link immediately.
func (c *client) Handle(e link.Event) { c.shard.handle(&event{client: c, Event: e}) }

// Again gives the client's link another turn.
func (c *client) Again() { c.later() }

// Seen records a sign of life: the client has sent bytes, or has taken some that waited for it.
func (c *client) Seen(now time.Time, took bool) {
	c.markSeen(now)
	if took {
		c.markTook(now)
	}
}

// lifetime is how long the client has been connected. It uses the monotonic clock: with the wall clock, setting the time would
// make all clients idle at once.
func (c *client) lifetime(now time.Time) time.Duration { return now.Sub(c.connectedAt) }

func (c *client) markTook(now time.Time) { c.took.Store(int64(c.lifetime(now))) }

func (c *client) markSeen(now time.Time) { c.seen.Store(int64(c.lifetime(now))) }

// silence is the time since the client's last sign of life.
func (c *client) silence(now time.Time) time.Duration {
	return c.lifetime(now) - time.Duration(c.seen.Load())
}

func (c *client) snapshot() Client {
	held, heldBytes := c.pendingLoad()
	t := c.tally
	if t == nil {
		t = new(tally)
	}
	buffered, bufferedBytes := c.buffered()
	return Client{
		ID:            c.id,
		Subscription:  c.sub.clone(),
		RemoteAddr:    c.place.ip,
		ConnectedAt:   c.connectedAt,
		Offered:       c.offered + uint64(held),
		Sent:          c.sent,
		Dropped:       t.dropped,
		Abandoned:     t.abandoned,
		Filtered:      t.filtered,
		Conflated:     t.conflated,
		Replayed:      t.replayed,
		Buffered:      buffered + held,
		BufferedBytes: bufferedBytes + heldBytes,
		Slow:          c.slow,

		Unacknowledged: int(c.unacknowledged().messages),
		Age:            c.age(),
	}
}

// The bounds of a client's requests to its shard: maxRequestsPerSecond at once, and as many more for each second since it
// connected. A client saves up the requests of a minute at most. Beyond that, it is closed with code 1008.
//
// Counting the requests within a second would not do. The network, or this process, may stall, and then the requests
// that a client has sent at its normal pace for half a minute are read at once. The savings are the requests that such
// a client has not used meanwhile. They don't add to the cost of a client in the long run, and since a turn of the
// shard reads one request of each client, no client waits for more than one of them.
const (
	maxRequestsPerSecond = 20
	maxRequestsSaved     = 60 * maxRequestsPerSecond

	requestPrice = time.Second / maxRequestsPerSecond
	mostSaved    = maxRequestsSaved * requestPrice
	savedAtFirst = time.Second
)

// pay charges the client for a request, and returns false if it can't pay. The currency is time: each client earns the
// time that passes, and a request costs a twentieth of a second.
func (c *client) pay(now time.Time) bool {
	o := c.outbox()
	paid := max(o.paid, c.saved(now))
	if paid-c.lifetime(now) > savedAtFirst-requestPrice {
		return false
	}
	o.paid = paid + requestPrice
	return true
}

// saved returns what a client counts as having paid at least: it saves up no more than the requests of a minute.
func (c *client) saved(now time.Time) time.Duration {
	return max(0, c.lifetime(now)-(mostSaved-savedAtFirst))
}

// closeGrace is how long a client may take to answer a close frame. The close frame itself may have to wait for room.
const closeGrace = 2 * time.Second

// The reasons for which this package itself closes clients. Those with code 1013 say when a client may come back. A
// page waits a little longer, each page a different time, so that they do not all reconnect at once.
const (
	reasonShutdown = "the server is shutting down"
	reasonTooSlow  = "too slow; retry_after_ms=1000"
	reasonSilent   = "no sign of life; retry_after_ms=1000"
	reasonTooMany  = "too many clients; retry_after_ms=5000"
	reasonTooOften = "more than 20 requests a second"
	reasonFetched  = "that is the gap"
)

func (c *client) add() {
	s := c.shard
	c.pingAt = s.cfg.firstPing()
	s.totals.Clients++
	s.totals.Connects++
	c.apart = c.replay != nil && !s.history.isOn()
	c.enterGroup()
	s.regrouping.Add(-1)
	s.wheel.add(c)
	s.hooks.connect(c)
	err := c.greet()
	if err == nil && c.replay != nil {
		err = c.joinReplay()
	}
	if err != nil {
		c.remove(err)
		return
	}
	if !c.apart {
		c.joined = nil
	}
	c.link.Begin()
}

// shut begins the end. Buffered messages are discarded, the close frame is sent as soon as a frame may start, and the
// client has a moment to answer it.
func (c *client) shut(code int, reason string) {
	s := c.shard
	c.takePending()
	if c.phase >= phaseClosing {
		return
	}
	c.withdraw()
	c.replay = nil
	c.phase = phaseClosing
	o := c.outbox()
	if o.closeCode == 0 {
		o.closeCode, o.closeReason = code, reason
	}
	o.closing = c.encoding.closing(code, reason)
	c.closeReceived = c.closeReceived || c.encoding != frames // nobody answers
	c.abandon()
	if o.reply != nil {
		o.reply = nil
		c.link.Resume()
	}
	o.cutTimer = time.AfterFunc(closeGrace, func() { s.post(event{client: c, Event: link.Event{Kind: eventCut}}) })
	c.drain()
}

// flush begins the end of a client that is to receive everything it was offered, and is then closed. If it looks back, its
// replay ends at that place.
func (c *client) flush(end cursor) {
	if c.replay != nil {
		c.replay.end = end
	}
	c.withdraw()
	c.phase = phaseFlushing
	c.drain()
}

// withdraw hides the client: nothing more is offered to it, and the application can no longer name it.
func (c *client) withdraw() {
	s := c.shard
	if c.phase != phaseOpen {
		return
	}
	c.leaveGroup()
	c.unmarkSlow()
	s.unregister(c)
	s.leaving[c] = struct{}{}
	s.totals.Clients--
}

// abandon discards the client's buffered messages and untold gaps, but nothing that is in flight.
func (c *client) abandon() {
	if c.out == nil {
		return
	}
	b := &c.out.backlog
	n := b.len()
	b.discard(n)
	b.gaps.clear()
	c.countAbandoned(n)
}

// tallied returns the client's tally, which it makes if there is none.
func (c *client) tallied() *tally {
	if c.tally == nil {
		c.tally = new(tally)
	}
	return c.tally
}

// Every count of a client is added to its shard's totals too, here and nowhere else.

func (c *client) countOffered(n int) {
	c.offered += uint64(n)
	c.shard.totals.Offered += uint64(n)
}

func (c *client) countSent(n int) {
	c.sent += uint64(n)
	c.shard.totals.Sent += uint64(n)
}

func (c *client) countDropped(n int) {
	if n > 0 {
		c.tallied().dropped += uint64(n)
		c.shard.totals.Dropped += uint64(n)
	}
}

func (c *client) countAbandoned(n int) {
	if n > 0 {
		c.tallied().abandoned += uint64(n)
		c.shard.totals.Abandoned += uint64(n)
	}
}

func (c *client) countFiltered(n int) {
	if n > 0 {
		c.tallied().filtered += uint64(n)
		c.shard.totals.Filtered += uint64(n)
	}
}

func (c *client) countConflated(n int) {
	if n > 0 {
		c.tallied().conflated += uint64(n)
		c.shard.totals.Conflated += uint64(n)
	}
}

func (c *client) countReplayed(n int) {
	if n > 0 {
		c.tallied().replayed += uint64(n)
		c.shard.totals.Replayed += uint64(n)
	}
}

// refused closes a client that has violated the protocol, with the code for the violation.
func (c *client) refused(err error) {
	if broken, ok := errors.AsType[*wsframe.CloseError](err); ok {
		c.shut(broken.Code, broken.Reason)
	} else {
		c.remove(err)
	}
}

// ended is called when nothing more will arrive from the client. The client may have announced that and still be
// reading, so a close frame that is on its way to it isn't taken back.
func (c *client) ended(err error) {
	if c.phase == phaseClosing && c.busy && errors.Is(err, io.EOF) {
		c.closeReceived = true // no better answer will arrive
		return
	}
	c.remove(err)
}

// remove ends the client's life. cause is nil if the close handshake is complete.
func (c *client) remove(cause error) {
	s := c.shard
	if c.phase == phaseGone {
		return
	}
	c.withdraw()
	c.replay = nil
	c.phase = phaseGone
	delete(s.leaving, c)
	c.unawait()
	s.wheel.remove(c)
	if s.hooks.fns.Disconnect == nil && s.hooks.keepsUp() {
		c.vacate() // before the client can know of its end; one that reconnects at once would otherwise be refused for its own old place
	}
	c.link.Close()

	c.abandon()
	s.totals.Disconnects++
	code, reason := wsframe.CodeAbnormal, ""
	if cause != nil && !errors.Is(cause, io.EOF) {
		reason = cause.Error()
	}
	if o := c.out; o != nil {
		c.countAbandoned(o.flight.buffered())
		o.flight = flight{}
		if o.closeCode != 0 {
			code, reason = o.closeCode, o.closeReason
		}
		if o.cutTimer != nil {
			o.cutTimer.Stop()
		}
	}
	s.hooks.disconnect(c, code, reason)
}

// vacate gives the client's place back. Further calls do nothing.
func (c *client) vacate() {
	if !c.vacated.Swap(true) {
		c.place.release()
	}
}
