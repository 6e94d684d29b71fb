package network

import (
	"encoding/json"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
)

// pause is how long nothing arrives before a message is acknowledged at once.
const pause = time.Second

// marks is a client's part of the protocol: it acknowledges its hello, each mark, the first message after a pause, and
// whenever half of the window is handled.
type marks struct {
	stream  string // the word that the messages of the protocol have
	window  int    // 0 is none
	handled int    // messages of any kind
	acked   int
	last    time.Duration // when a message arrived
	dropped int           // that it was told of since the last event
}

// handle takes the next message, and says whether to acknowledge all that have been handled. For an event, told is how
// many were dropped before it.
func (m *marks) handle(kind int, data []byte, now time.Duration) (acknowledge bool, told int) {
	m.handled++
	due := now-m.last >= pause
	m.last = now
	if kind == websocket.BinaryMessage {
		told, m.dropped = m.dropped, 0
	} else {
		var message struct {
			Type, Stream    string
			Window, Dropped int
		}
		if json.Unmarshal(data, &message) == nil && (m.stream == "" || message.Stream == m.stream) {
			switch message.Type {
			case "hello", "mark":
				m.stream, m.window, due = message.Stream, message.Window, true
			case "gap":
				m.dropped += message.Dropped
			}
		}
	}
	if due || m.window > 0 && 2*(m.handled-m.acked) >= m.window {
		m.acked = m.handled
		return true, told
	}
	return false, told
}

// connectMarking connects one viewer that acknowledges by marks.
func (g *group) connectMarking(addr string) {
	g.t.Helper()
	var chosen string
	g.call("Connect", Connect{Addrs: []string{addr}, Subprotocol: mesherstream.Protocol, ByMarks: true}, &chosen)
	if chosen != mesherstream.Protocol {
		g.t.Fatalf("the server chose the subprotocol %q, want %q", chosen, mesherstream.Protocol)
	}
}

// record is what one viewer has seen, in stretches.
func record(stretches ...Seen) *pace.Record {
	r := new(pace.Record)
	for _, seen := range stretches {
		for _, a := range seen.Arrivals {
			if a.Told > 0 {
				r.Add(pace.Sight{Kind: pace.Gap, At: a.Arrived, Number: a.Told})
			}
			r.Add(pace.Sight{Kind: pace.Message, At: a.Arrived, Number: a.Number, Published: a.Published})
		}
		if seen.Ended != "" {
			r.Add(pace.Sight{Kind: pace.End, At: seen.EndedAt, Text: seen.Ended})
		}
	}
	return r
}
