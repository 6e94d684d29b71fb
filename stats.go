package mesherstream

import "time"

// ClientID names one connection of a client. IDs are not used again while the process lives.
type ClientID uint64

// Client is a snapshot of one client: a value that doesn't change any more. Its numbers agree with each other:
// Offered == Sent + Dropped + Abandoned + Filtered + Conflated + Buffered.
type Client struct {
	ID           ClientID  `json:"id"`
	Subscription           // the project, and the filter that is in force
	RemoteAddr   string    `json:"remote_addr"` // what Fiber's c.IP() said
	ConnectedAt  time.Time `json:"connected_at"`

	Offered       uint64 `json:"offered"`        // messages that matched the client's subscription, or were meant for it alone
	Sent          uint64 `json:"sent"`           // handed to the kernel whole
	Dropped       uint64 `json:"dropped"`        // lost, because the buffer was full
	Abandoned     uint64 `json:"abandoned"`      // buffered or on their way when the client left, which may have got these; 0 until then
	Filtered      uint64 `json:"filtered"`       // left the buffer when the filter changed
	Conflated     uint64 `json:"conflated"`      // left the buffer for newer ones with the same key
	Buffered      int    `json:"buffered"`       // wait now
	BufferedBytes int    `json:"buffered_bytes"` // the frames and fields of those

	// Slow says that the client has kept messages waiting for a whole drain interval, or has lost some, and hasn't
	// caught up since.
	Slow bool `json:"slow"`

	// Unacknowledged is how many messages of any kind the client has been sent and hasn't acknowledged, where it has
	// agreed on [Protocol], and 0 otherwise.
	Unacknowledged int `json:"unacknowledged"`
}

// Stats is a snapshot of a [Manager]: a value that doesn't change any more. What it counts, it counts since
// construction, over all restarts. Offered == Sent + Dropped + Abandoned + Filtered + Conflated + Buffered at every
// moment, since each shard counts between two of its turns; Broadcasts is counted by the publishers and may be ahead.
type Stats struct {
	Clients       int   `json:"clients"`        // connected now
	Slow          int   `json:"slow"`           // of those, the slow ones
	Buffered      int   `json:"buffered"`       // messages that wait now, over all clients
	BufferedBytes int64 `json:"buffered_bytes"` // the frames and fields of those, counted for each client, though clients share them

	Broadcasts  uint64 `json:"broadcasts"`  // calls of Broadcast that were accepted
	Offered     uint64 `json:"offered"`     // messages times the clients that they were for
	Sent        uint64 `json:"sent"`        // handed to the kernel whole
	Dropped     uint64 `json:"dropped"`     // lost, because a buffer was full
	Abandoned   uint64 `json:"abandoned"`   // buffered or on their way when their client left
	Filtered    uint64 `json:"filtered"`    // left a buffer when a filter changed
	Conflated   uint64 `json:"conflated"`   // left a buffer for newer ones with the same key
	Connects    uint64 `json:"connects"`    // clients that came
	Disconnects uint64 `json:"disconnects"` // clients that went
	FilterSets  uint64 `json:"filter_sets"` // filters changed, over the wire or by SetFilter
	HookPanics  uint64 `json:"hook_panics"` // panics of hooks that were recovered

	Deliveries Histogram `json:"deliveries"` // how long a shard takes to hand over what came in together, of one time in 64
	Drains     Histogram `json:"drains"`     // how long a shard takes for a tick's drain, where something is buffered

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
	s.Connects += o.Connects
	s.Disconnects += o.Disconnects
	s.FilterSets += o.FilterSets
	s.HookPanics += o.HookPanics
	s.Deliveries.add(o.Deliveries)
	s.Drains.add(o.Drains)
}
