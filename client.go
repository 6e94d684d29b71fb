package mesherstream

import (
	"sync/atomic"
	"time"
)

// client is one connection as its shard knows it.
type client struct {
	// Read-only after construction.
	id          ClientID
	shard       *shard
	remoteAddr  string
	place       *place
	connectedAt time.Time
	grant       Filter // what WithAuthorize, or the caller of Serve, allows

	// Owned by the shard's goroutine. First what each delivery touches, so that it lies together.
	link          link
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
	bytes    []byte
	done     int  // how many of the bytes the kernel has
	messages int  // how many of the frames are messages
	notice   bool // the first of the frames is a notice, and none of these
}

// landed returns how many messages of the flight the kernel has whole.
func (f *flight) landed() int {
	_, n := wholeFrames(f.bytes, f.done)
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
