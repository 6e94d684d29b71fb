// Package control is the conversation between compare and the processes it starts: one JSON object a line, commands on their
// standard input, answers on their standard output. A process whose standard input ends stops.
package control

import (
	"time"

	"github.com/mesher/mesherstream/bench/internal/feed"
)

// Commands.
const (
	Count   = "count"   // server: how many clients are registered? Answer: Counted
	Memory  = "memory"  // server: collect garbage, then say what is in use. Answer: Remembered
	Publish = "publish" // server: begin the window and publish. Answer: Published, when the last Broadcast has returned
	Measure = "measure" // server: end the window. Answer: Measured
	Glance  = "glance"  // server: what is in use, garbage included. Answer: Remembered
	Watch   = "watch"   // server: when are there fewer than Clients? Answer: Noticed
	Open    = "open"    // server: begin a window in which nothing is published. Answer: Begun
	Begin   = "begin"   // load: count messages from First on. Answer: Begun
	End     = "end"     // load: the last message was Last; answer Received when all have come or no more do
	Leave   = "leave"   // load: close one client's connection, without a word. Answer: Left
)

// Answers.
const (
	Listening  = "listening"
	Counted    = "counted"
	Remembered = "remembered"
	Published  = "published"
	Measured   = "measured"
	Ready      = "ready"
	Begun      = "begun"
	Received   = "received"
	Noticed    = "noticed"
	Left       = "left"
	Failed     = "failed"
)

// Wires: what the clients ask a server for.
const (
	WebSocket = "websocket"
	Protocol  = "protocol" // a WebSocket with this library's subprotocol
	Events    = "events"   // Server-Sent Events
	Lines     = "lines"    // a line for each message
)

// Command is one line to a process.
type Command struct {
	Do      string
	Traffic *Traffic `json:",omitempty"` // Publish
	First   uint64   `json:",omitempty"` // Publish, Begin: the first message's number
	Last    uint64   `json:",omitempty"` // End
	Clients int      `json:",omitempty"` // Watch
}

// Traffic is what the publisher does: Batch messages every Every, for For. An Every of zero publishes as fast as Broadcast returns.
type Traffic struct {
	Plan  feed.Plan
	Size  int
	Every time.Duration
	Batch int
	For   time.Duration
}

// Answer is one line from a process. Exactly the fields that Say asks for are set.
type Answer struct {
	Say     string
	Error   string          `json:",omitempty"`
	Address string          `json:",omitempty"`
	Clients int             `json:",omitempty"`
	Nanos   int64           `json:",omitempty"` // CLOCK_MONOTONIC; of Noticed, 0 if nothing was noticed
	Memory  *MemoryReport   `json:",omitempty"`
	Publish *PublishReport  `json:",omitempty"`
	Measure *MeasureReport  `json:",omitempty"`
	Receive *ReceivedReport `json:",omitempty"`
}

// MemoryReport is what a server holds at rest.
type MemoryReport struct {
	Clients       int
	ResidentBytes int64 // Rss of /proc/self/smaps_rollup, which is exact
	HeapBytes     int64 // objects that no collection has found to be garbage
	HeapUsedBytes int64 // the spans that hold them
	StackBytes    int64
	Goroutines    int
}

// PublishReport is what the publisher did.
type PublishReport struct {
	Last             uint64 // the last message's number
	Broadcasts       uint64 // messages published
	StartedNanos     int64  // CLOCK_MONOTONIC of the first message
	LongestBroadcast time.Duration
	Elapsed          time.Duration
	Running          bool // the publisher is still at it, perhaps stuck in a Broadcast
}

// MeasureReport is what a server used between Publish and Measure.
type MeasureReport struct {
	Publish           PublishReport
	CPU               time.Duration // user and system
	User, System      time.Duration
	Wall              time.Duration
	Allocations       uint64
	AllocatedBytes    uint64
	Collections       uint32
	ResidentBytes     int64 // VmRSS at the beginning of the window
	PeakResidentBytes int64 // VmHWM, reset at the beginning of the window
	Goroutines        int
	Clients           int
}

// ReceivedReport is what the load client counted. With Ready, only Clients and the times of the handshakes are set.
type ReceivedReport struct {
	Clients    int
	Stalled    int
	Expected   uint64
	Received   uint64 // each message once
	Lost       uint64
	Repeated   uint64 // the same message again, or an older one behind a newer
	Stray      uint64 // a message that the client had not asked for
	Other      uint64 // data frames without a message, such as an envelope's greeting
	Pings      uint64
	ClosedByIt uint64 // connections that the server closed
	Reconnects uint64 // of which each got at least one message
	Reads      uint64 // that returned something
	Segments   uint64 // with data, that arrived at clients which read and don't reconnect
	Complete   bool   // everything arrived, so nobody had to wait for silence

	P50, P95, P99, P999, Max time.Duration // from the scheduled instant
	LastNanos                int64         // CLOCK_MONOTONIC of the last arrival
	CPU                      time.Duration // the load client's own, for the window
}
