package mesherstream

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// client is one connection as its shard knows it.
type client struct {
	// Owned by the shard's goroutine. First what each delivery touches, so that it lies together.
	shard         *shard // read-only after construction
	link          link.Link
	phase         phase
	busy          bool // the link can't take more until it says so
	slow          bool
	closeSent     bool // the close frame is on its way
	closeReceived bool
	again         bool // is in shard.again
	inHook        bool // its message is with the Message hook, and nothing is read meanwhile
	inWaiting     int  // index in shard.waiting, or -1
	offered, sent uint64
	backlog       backlog // waits behind the flight, and can be dropped
	flight        flight  // goes out before anything else, and can't

	// Read-only after construction.
	id          ClientID
	remoteAddr  string
	place       *place
	connectedAt time.Time
	grant       Filter // what WithAuthorize, or the caller of Serve, allows

	// Owned by the shard's goroutine.
	pong, ping, closing []byte // control frames that go out as soon as a frame may start
	reply               []byte // the answer to the client's last request, which does too
	v1                  *v1    // nil where the client hasn't agreed on the protocol

	sub     Subscription // Filter is the one in force, within grant
	group   *group
	inGroup int // index in group.clients
	inWheel int // index in its slot of shard.wheel

	closeCode   int // what the Disconnect hook is told
	closeReason string
	cutTimer    *time.Timer // ends a close handshake that the client does not

	watched      bool          // was busy at the last beat
	pingAt       time.Time     // when the next ping is due
	askedAt      time.Time     // when the first ping was due that it has given no sign of life after
	waitingSince time.Time     // when the backlog, empty before, got its first message
	paid         time.Duration // since connectedAt, the time that its requests have used up

	dropped, abandoned, filtered, conflated uint64

	// Atomic.
	seen       atomic.Int64  // when the client last gave a sign of life, in nanoseconds since connectedAt
	unreported atomic.Uint64 // drops that the Drop hook has not been told yet
	slowQueued atomic.Bool   // the Slow hook's next call is queued
}

// phase is where a client is in its life. Phases only go up.
type phase uint8

const (
	phaseOpen     phase = iota
	phaseFlushing       // gets what it was offered, but nothing new; then it is closed
	phaseClosing        // gets the close frame, and nothing else
	phaseGone           // its link is closed, nothing refers to it
)

// A flight is a stretch of whole frames that the shard can't take back: the link is sending it, or the kernel has taken
// its beginning.
type flight struct {
	stretch
	done     int  // how many of the bytes the kernel has
	messages int  // how many of the frames are messages
	notice   bool // the first of the frames is a notice, and none of these
}

// landed returns how many messages of the flight the kernel has whole.
func (f *flight) landed() int {
	n := f.whole(f.done)
	if f.notice && n > 0 {
		n--
	}
	return min(n, f.messages) // an answer is no message either
}

func (c *client) buffered() int { return c.backlog.len() + c.flight.messages }

func (c *client) bufferedBytes() int {
	if c.flight.messages == 0 {
		return c.backlog.bytes
	}
	return c.backlog.bytes + len(c.flight.bytes) - c.flight.done
}

// idle says whether nothing waits for the client, a gap that it is to be told of included: a drain need not visit it.
func (c *client) idle() bool {
	return !c.busy && c.backlog.len() == 0 && !c.backlog.gaps.any()
}

// Post has the shard handle an event of the client's link.
func (c *client) Post(e link.Event) { c.shard.post(event{client: c, Event: e}) }

// Handle does at once what an event of the client's link asks for.
func (c *client) Handle(e link.Event) { c.shard.handle(&event{client: c, Event: e}) }

// Again gives the client's link another turn.
func (c *client) Again() { c.later() }

// Seen is markSeen, for the client's link.
func (c *client) Seen(now time.Time) { c.markSeen(now) }

func (c *client) markSeen(now time.Time) { c.seen.Store(int64(now.Sub(c.connectedAt))) }

// silence is how long the client has given no sign of life. It counts from connectedAt, whose clock is the monotonic
// one: by the wall clock, setting that would make all clients idle at once.
func (c *client) silence(now time.Time) time.Duration {
	return now.Sub(c.connectedAt) - time.Duration(c.seen.Load())
}

func (c *client) snapshot() Client {
	return Client{
		ID:            c.id,
		Subscription:  c.sub.clone(),
		RemoteAddr:    c.remoteAddr,
		ConnectedAt:   c.connectedAt,
		Offered:       c.offered,
		Sent:          c.sent,
		Dropped:       c.dropped,
		Abandoned:     c.abandoned,
		Filtered:      c.filtered,
		Conflated:     c.conflated,
		Buffered:      c.buffered(),
		BufferedBytes: c.bufferedBytes(),
		Slow:          c.slow,

		Unacknowledged: c.v1.unacknowledged(),
	}
}

// closeGrace is how long a client may take to answer a close frame, which may have to wait for room itself.
const closeGrace = 2 * time.Second

// Why this package itself closes clients. Those of code 1013 tell when one may come back; a page waits a little longer,
// each a different time, so that not all come back at once.
const (
	reasonShutdown = "the server is shutting down"
	reasonTooSlow  = "too slow; retry_after_ms=1000"
	reasonTooMany  = "too many clients; retry_after_ms=5000"
	reasonTooOften = "more than 20 requests a second"
)

func (c *client) add() {
	s := c.shard
	c.inWaiting = -1
	c.pingAt, c.askedAt = s.cfg.firstPing(c.connectedAt), c.connectedAt
	s.totals.Clients++
	s.totals.Connects++
	c.enterGroup()
	s.regrouping.Add(-1)
	s.wheel.add(c)
	s.hooks.connect(c)
	if c.v1 != nil {
		if err := c.writeControl(c.v1.hello(c)); err != nil {
			c.remove(err)
			return
		}
	}
	c.link.Begin()
}

// shut begins the end: what is buffered is given up, the close frame goes out as soon as a frame may start, and the
// client has a moment to answer it.
func (c *client) shut(code int, reason string) {
	s := c.shard
	if c.phase >= phaseClosing {
		return
	}
	c.withdraw()
	c.phase = phaseClosing
	c.closeCode, c.closeReason = code, reason
	c.closing = wsframe.Close(code, reason)
	c.abandon()
	if c.reply != nil {
		c.reply = nil
		c.link.Resume()
	}
	c.cutTimer = time.AfterFunc(closeGrace, func() { s.post(event{client: c, Event: link.Event{Kind: eventCut}}) })
	c.drain()
}

// withdraw takes the client out of sight: nothing more is offered to it, and the application can't name it any more.
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

// abandon gives up what is buffered for the client and what it was to be told of gaps, but not what is in flight.
func (c *client) abandon() {
	n := c.backlog.len()
	c.backlog.discard(n)
	c.backlog.gaps.clear()
	c.countAbandoned(n)
}

// What is counted for a client is counted for its shard too, here and nowhere else.

func (c *client) countOffered(n int) {
	c.offered += uint64(n)
	c.shard.totals.Offered += uint64(n)
}

func (c *client) countSent(n int) {
	c.sent += uint64(n)
	c.shard.totals.Sent += uint64(n)
}

func (c *client) countDropped(n int) {
	c.dropped += uint64(n)
	c.shard.totals.Dropped += uint64(n)
}

func (c *client) countAbandoned(n int) {
	c.abandoned += uint64(n)
	c.shard.totals.Abandoned += uint64(n)
}

func (c *client) countFiltered(n int) {
	c.filtered += uint64(n)
	c.shard.totals.Filtered += uint64(n)
}

func (c *client) countConflated(n int) {
	c.conflated += uint64(n)
	c.shard.totals.Conflated += uint64(n)
}

// refused closes a client that has broken the protocol, with the code that says how.
func (c *client) refused(err error) {
	if broken, ok := errors.AsType[*wsframe.CloseError](err); ok {
		c.shut(broken.Code, broken.Reason)
	} else {
		c.remove(err)
	}
}

// ended is told when nothing more will come from the client, which may have said so itself and still be reading: a close
// frame that is on its way to it isn't taken back.
func (c *client) ended(err error) {
	if c.phase == phaseClosing && c.busy && errors.Is(err, io.EOF) {
		c.closeReceived = true // there will be no better answer
		return
	}
	c.remove(err)
}

// remove ends the client's life. cause is nil when the close handshake is complete.
func (c *client) remove(cause error) {
	s := c.shard
	if c.phase == phaseGone {
		return
	}
	c.withdraw()
	c.phase = phaseGone
	delete(s.leaving, c)
	c.unawait()
	s.wheel.remove(c)
	if c.cutTimer != nil {
		c.cutTimer.Stop()
	}
	if s.hooks.fns.Disconnect == nil && s.hooks.keepsUp() {
		c.place.release() // before the client can know that it is gone, or one that comes back at once meets itself
	}
	c.link.Close()

	c.abandon()
	c.countAbandoned(c.flight.messages)
	c.flight = flight{}
	s.totals.Disconnects++
	if c.closeCode == 0 {
		c.closeCode = wsframe.CodeAbnormal
		if cause != nil && !errors.Is(cause, io.EOF) {
			c.closeReason = cause.Error()
		}
	}
	s.hooks.disconnect(c)
}
