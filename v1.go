package mesherstream

import (
	"crypto/rand"
	"math"
)

// Protocol is the WebSocket subprotocol by which a client agrees to be told more: who it is, what it has missed, and by
// which it acknowledges what it has got. docs/protocol.md describes it. A client that doesn't offer it gets the application's
// messages and nothing else, but for the answers to its own requests.
//
// A route with an upgrade of its own offers it by the Subprotocols of its [websocket.Config].
const Protocol = "mesherstream.v1"

// v1 is what a shard keeps for a client that has agreed on the protocol. The methods of a nil *v1 are those of a client
// that hasn't.
type v1 struct {
	stream  string // a random word in each of the protocol's messages, so that no message of the application passes for one
	window  int
	written uint64 // messages of any kind that were handed to the link
	acked   uint64 // how many of them the client has acknowledged
	gaps    gaps
}

// agree makes c a client that has agreed on the protocol. It comes before the client is registered.
func (c *client) agree(cfg *config) {
	c.v1 = &v1{stream: rand.Text()[:12], window: cfg.window}
	c.backlog.gaps = &c.v1.gaps
}

func (v *v1) name() string {
	if v == nil {
		return ""
	}
	return v.stream
}

func (v *v1) wrote(messages int) {
	if v != nil {
		v.written += uint64(messages)
	}
}

func (v *v1) unacknowledged() int {
	if v == nil {
		return 0
	}
	return int(v.written - v.acked)
}

// room is how many messages more the client may be sent before it acknowledges some.
func (c *client) room() int {
	// Nothing comes behind a flush, so there is nothing fresher to hold the rest back for.
	if c.v1 == nil || c.v1.window == 0 || c.phase == phaseFlushing {
		return math.MaxInt
	}
	return max(0, c.v1.window-c.v1.unacknowledged())
}

type helloMessage struct {
	Type      string      `json:"type"`
	Stream    string      `json:"stream"`
	ID        ClientID    `json:"id"`
	Project   string      `json:"project"`
	Filters   wireFilters `json:"filters"`
	MaxBuffer int         `json:"max_buffer"`
	Window    int         `json:"window"`
}

// hello is the first message of the stream.
func (v *v1) hello(c *client) []byte {
	list := func(values []string) wireValues { return wireValues{values: values, isList: true} }
	return encodeAnswer(helloMessage{
		Type:      typeHello,
		Stream:    v.stream,
		ID:        c.id,
		Project:   c.sub.Project,
		Filters:   wireFilters{Level: list(c.sub.Levels), Environment: list(c.sub.Environments)},
		MaxBuffer: c.shard.cfg.maxBuffer,
		Window:    v.window,
	})
}

// acknowledged takes the client's count of the messages that it has handled. One that acknowledges something new isn't
// counted as a request: a client that gets much acknowledges much.
func (s *shard) acknowledged(c *client, data []byte) {
	n, err := parseAck(data)
	switch {
	case err != nil:
		s.answer(c, func() []byte { return refusal(c, errorMalformed, err.Error()) })
		return
	case n > c.v1.written || n <= c.v1.acked:
		s.answer(c, func() []byte {
			return refusal(c, errorInvalidAck, "n is not a number of messages that are to be acknowledged")
		})
		return
	}
	full := c.room() == 0
	c.v1.acked = n
	c.link.resume()
	if full && !c.busy {
		s.drain(c)
	}
}
