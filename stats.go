package mesherstream

import (
	"math"
	"math/bits"
	"time"
)

// ClientID names one connection of a client. An ID is not reused during the life of the process.
type ClientID uint64

// Client is a snapshot of one client, an immutable value. Its numbers agree with each other: Offered == Sent + Dropped
// + Abandoned + Filtered + Conflated + Buffered.
type Client struct {
	ID           ClientID  `json:"id"`
	Subscription           // the project, and the filter in force
	RemoteAddr   string    `json:"remote_addr"` // the client's address, from the connection or from the app's ProxyHeader
	ConnectedAt  time.Time `json:"connected_at"`

	Offered       uint64 `json:"offered"`        // messages that matched the client's subscription, or were meant for it alone
	Sent          uint64 `json:"sent"`           // handed to the kernel completely
	Dropped       uint64 `json:"dropped"`        // lost, because the buffer was full
	Abandoned     uint64 `json:"abandoned"`      // buffered or in flight when the client left, which may have received the latter; 0 until then
	Filtered      uint64 `json:"filtered"`       // removed from the buffer by a filter change
	Conflated     uint64 `json:"conflated"`      // replaced in the buffer by newer ones with the same key
	Replayed      uint64 `json:"replayed"`       // read from the history and handed to the kernel completely; none of the other counts include these
	Buffered      int    `json:"buffered"`       // waiting now
	BufferedBytes int    `json:"buffered_bytes"` // the frames and fields of those; of messages being sent, only the unsent bytes of their frames

	// Slow reports whether the client has kept messages waiting for a whole drain interval, or has lost some, and
	// hasn't caught up since.
	Slow bool `json:"slow"`

	// Unacknowledged is how many messages of any kind have been sent to the client and not been acknowledged, by
	// [Protocol] or by its pongs. A client that keeps up acknowledges about once a second. It is 0 for a client that does
	// neither.
	Unacknowledged int `json:"unacknowledged"`

	// Age says how old messages were when the client had handled them, as of its last acknowledgement of a mark. If the
	// mark directly followed messages, that is the time from the publication of the newest of these to the arrival of the
	// acknowledgement. It includes the time that the message has waited in the client's buffer, even one of
	// [Manager.BufferMessage]. Older messages of a look-back count as if they had been published when the client asked for
	// them, and those of a fetched gap as if just now. A message of another node counts from its arrival at this one.
	//
	// If the mark followed no message directly, as in silence, and nothing waited for the client, Age is the round trip of
	// the mark. If something waited, such a mark changes nothing.
	//
	// A client that keeps up acknowledges a mark about once a second while it is sent messages, and in silence at least
	// once in each ping interval (see [WithPingInterval]). While it owes an acknowledgement, Age stays as it was. It is 0
	// until the first one, and for a client without [Protocol] or one that acknowledges no marks.
	Age time.Duration `json:"age_ns"`
}

// Stats is a snapshot of a [Manager], an immutable value. Its counters start at construction and continue over all
// restarts. Offered == Sent + Dropped + Abandoned + Filtered + Conflated + Buffered at every moment, since each shard
// counts between two of its turns. Broadcasts is counted by the publishers and may be ahead.
type Stats struct {
	Clients       int   `json:"clients"`        // connected now
	Slow          int   `json:"slow"`           // of those, the slow ones
	Buffered      int   `json:"buffered"`       // messages waiting now, over all clients
	BufferedBytes int64 `json:"buffered_bytes"` // the sum of Client.BufferedBytes, although clients share messages

	HistoryMessages int   `json:"history_messages"` // kept in the history now, over all projects
	HistoryBytes    int64 `json:"history_bytes"`    // what they count with for WithHistoryBytes

	Broadcasts  uint64 `json:"broadcasts"`  // calls of Broadcast that were accepted
	Offered     uint64 `json:"offered"`     // messages, each counted once for every client that it was for
	Sent        uint64 `json:"sent"`        // handed to the kernel completely
	Dropped     uint64 `json:"dropped"`     // lost, because a buffer was full
	Abandoned   uint64 `json:"abandoned"`   // buffered or in flight when their client left
	Filtered    uint64 `json:"filtered"`    // removed from a buffer by a filter change
	Conflated   uint64 `json:"conflated"`   // replaced in a buffer by newer ones with the same key
	Replayed    uint64 `json:"replayed"`    // read from the history and handed to the kernel completely; none of the other counts include these
	Connects    uint64 `json:"connects"`    // clients that have connected
	Disconnects uint64 `json:"disconnects"` // clients that have left
	FilterSets  uint64 `json:"filter_sets"` // filters changed, over the wire or by SetFilter
	HookPanics  uint64 `json:"hook_panics"` // panics of hooks that were recovered

	Deliveries Histogram `json:"deliveries"` // how long a shard takes to deliver the broadcasts of one turn, measured for one turn in 64
	Drains     Histogram `json:"drains"`     // how long a shard takes for a tick's drain, if anything is buffered

	Ages AgeHistogram `json:"ages"` // each Age of each client: how old messages were when pages had handled them

	RelayStats
}

func (s *Stats) add(o Stats) {
	s.Clients += o.Clients
	s.Slow += o.Slow
	s.Buffered += o.Buffered
	s.BufferedBytes += o.BufferedBytes
	s.Broadcasts += o.Broadcasts
	s.Offered += o.Offered
	s.Sent += o.Sent
	s.Dropped += o.Dropped
	s.Abandoned += o.Abandoned
	s.Filtered += o.Filtered
	s.Conflated += o.Conflated
	s.Replayed += o.Replayed
	s.Connects += o.Connects
	s.Disconnects += o.Disconnects
	s.FilterSets += o.FilterSets
	s.HookPanics += o.HookPanics
	s.Deliveries.add(o.Deliveries)
	s.Drains.add(o.Drains)
	s.Ages.add(o.Ages)
}

// RelayStats is the part of [Stats] that is about the [Relay]. Without a relay, it is all zero.
type RelayStats struct {
	RelayAway       bool `json:"relay_away"`       // nothing gets through at the moment, or not for all projects
	RelayProjects   int  `json:"relay_projects"`   // projects that this node follows now, "" included
	RelayUnfollowed int  `json:"relay_unfollowed"` // those of them that the relay refuses: their clients receive nothing from other nodes
	RelayQueued     int  `json:"relay_queued"`     // messages waiting for the relay now

	RelayBreaks    uint64 `json:"relay_breaks"`    // how often the relay became unavailable, however briefly: messages in flight may be lost
	RelayPublished uint64 `json:"relay_published"` // messages of this node that the relay has accepted, and not refused later
	RelayDropped   uint64 `json:"relay_dropped"`   // messages of this node that were dropped from the queue for newer ones, that the relay refused, or whose fate it doesn't know
	RelayReceived  uint64 `json:"relay_received"`  // messages of other nodes that were delivered here
	RelayUnwanted  uint64 `json:"relay_unwanted"`  // those whose level or environment no client here wanted
	RelayRefused   uint64 `json:"relay_refused"`   // those that arrived twice or out of order, or are out of this node's bounds
	RelayMissed    uint64 `json:"relay_missed"`    // those that were lost on the way, as far as the relay knows
}

// Histogram counts durations by their size. It is a value; counting goes on in the [Manager].
type Histogram struct {
	// Counts[i] counts the durations of at most Bound(i) and more than Bound(i-1). The last element counts those longer
	// than every bound.
	Counts [14]uint64    `json:"counts"`
	Sum    time.Duration `json:"sum_ns"`
}

// Bound returns the bound of Counts[i]: 1 µs, 4 µs, 16 µs and so on, to 17 s.
func (h Histogram) Bound(i int) time.Duration { return time.Microsecond << (2 * i) }

func (h *Histogram) observe(d time.Duration) {
	i := 0
	if us := uint64((d + time.Microsecond - 1) / time.Microsecond); us > 1 {
		i = min((bits.Len64(us-1)+1)/2, len(h.Counts)-1)
	}
	h.Counts[i]++
	h.Sum += d
}

func (h *Histogram) add(o Histogram) {
	for i := range h.Counts {
		h.Counts[i] += o.Counts[i]
	}
	h.Sum += o.Sum
}

// AgeHistogram counts ages (see [Client]) by their size. It is a value; counting goes on in the [Manager].
type AgeHistogram struct {
	// Counts[i] counts the ages of at most Bound(i) and more than Bound(i-1). The last element counts those longer than
	// every other bound.
	Counts [14]uint64    `json:"counts"`
	Sum    time.Duration `json:"sum_ns"`
}

// ageBounds are from what nobody sees to what nobody waits for.
var ageBounds = [len(AgeHistogram{}.Counts)]time.Duration{
	10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second,
	10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute,
	math.MaxInt64,
}

// Bound returns the bound of Counts[i]: 10, 20, 50, 100, 200 and 500 ms, 1, 2, 5, 10 and 30 s, 1 and 5 min, and for the
// last element the longest duration.
func (h AgeHistogram) Bound(i int) time.Duration { return ageBounds[i] }

func (h *AgeHistogram) observe(d time.Duration) {
	i := 0
	for d > ageBounds[i] {
		i++
	}
	h.Counts[i]++
	h.Sum += d
}

func (h *AgeHistogram) add(o AgeHistogram) {
	for i := range h.Counts {
		h.Counts[i] += o.Counts[i]
	}
	h.Sum += o.Sum
}

// A freshness is how old what a client of the protocol has handled was. It is measured when a mark is written and when it
// is acknowledged, and costs nothing for a message that passes.
type freshness struct {
	age    time.Duration // as the last acknowledgement of a mark showed; 0 until the first
	newest int64         // when the newest message was published after which a mark is to follow, in Unix nanoseconds; 0 if there is none
	from   int64         // since when the age runs that the next acknowledgement shows, likewise; 0 if it shows none
}

func (c *client) age() time.Duration {
	if c.v1 == nil {
		return 0
	}
	return c.v1.fresh.age
}

// willMark is called when messages were written that a probe is to follow, now or as soon as the link has room for it.
func (c *client) willMark(batch []*message) {
	if c.v1 == nil {
		return
	}
	f, asked := &c.v1.fresh, int64(0)
	switch {
	case c.replay != nil:
		asked = c.replay.asked
	case c.out != nil && c.out.rest != nil: // a bite of a fetch: how long that takes as a whole says nothing about the stream
		asked = time.Now().UnixNano()
	}
	for _, m := range batch { // the last one need not be the newest: a message may have taken the place of one with its key
		if !m.notice {
			f.newest = max(f.newest, m.at, asked)
		}
	}
}

// marked notes what the acknowledgement of the mark will show that was just written. One that follows no message
// directly shows only the round trip: how long the messages before it have waited there is unknown, and in silence they
// were handled long ago.
func (c *client) marked() {
	switch f := &c.v1.fresh; {
	case f.newest != 0:
		f.from, f.newest = f.newest, 0
	case c.queued() > 0 || len(c.pending()) > 0 || c.replay != nil:
		f.from = 0
	default:
		f.from = time.Now().UnixNano()
	}
}

// aged notes the age that the acknowledgement of a mark shows. If the wall clock was set back, it shows little.
func (c *client) aged(now time.Time) {
	f := &c.v1.fresh
	if f.from == 0 {
		return
	}
	f.age = max(1, time.Duration(now.UnixNano()-f.from))
	c.shard.totals.Ages.observe(f.age)
}
