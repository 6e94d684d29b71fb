package mesherstream

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// This file is the model's life of a client: what it sends, how it leaves, and what time does to it.

// read takes what the client has sent, the next message when the one before it has been dealt with.
func (c *modelClient) read() {
	for c.phase != phaseGone && !c.waits && !c.ended && len(c.incoming) > 0 {
		next := c.incoming[0]
		c.incoming = c.incoming[1:]
		switch {
		case next.op == frameEnd:
			c.ended = true
			c.s.events = append(c.s.events, c.gone)
		case c.refused:
		case next.op == frameBroken:
			c.refused = true
			c.seen = time.Now()
			c.s.events = append(c.s.events, func() { c.shut(wsframe.CodeProtocolError, c.brokenReason()) })
		default:
			c.waits = true
			c.seen = time.Now()
			c.s.events = append(c.s.events, func() { c.received(next) })
		}
	}
}

func (c *modelClient) brokenReason() string {
	if c.holds {
		return "frame of a client is not masked"
	}
	return "scripted"
}

func (c *modelClient) received(a arrival) {
	switch {
	case c.phase == phaseGone:
		return
	case c.closeReceived:
		c.waits = false
		return
	}
	switch a.op {
	case wsframe.OpPing:
		c.pong = wsframe.Append(nil, wsframe.OpPong, a.data)
		c.s.pinged = append(c.s.pinged, c)
		c.waits = false
	case wsframe.OpPong:
		c.waits = false
	case wsframe.OpClose:
		c.waits, c.closeReceived = false, true
		code, reason := wsframe.ParseClose(a.data)
		c.shut(code, reason)
		c.settle()
	default:
		if c.phase != phaseOpen {
			c.waits = false
			return
		}
		if n, ok := strings.CutPrefix(string(a.data), modelAck); ok && c.stream != "" {
			c.acknowledge(strings.TrimSuffix(n, "}"))
			return
		} else if ok {
			a.data = []byte(`{"type":"hello"}`) // as unknown as that
		}
		i := slices.IndexFunc(modelRequests, func(r modelRequest) bool { return r.text == string(a.data) })
		if i < 0 || a.op == wsframe.OpBinary {
			c.waits = false
			c.shut(wsframe.CodeUnsupportedData, "binary messages are not accepted here")
			return
		}
		request := modelRequests[i]
		c.answer(func() []byte {
			answer := request.answer
			if request.filter != nil {
				answer = fmt.Sprintf(answer, c.setFilter(*request.filter))
			}
			return c.encode(answer)
		})
	}
}

// join: what a client with the protocol gets first is hello.
func (c *modelClient) join(id ClientID) {
	list := func(values []string) string {
		text, _ := json.Marshal(append([]string{}, values...)) // strings always encode
		return string(text)
	}
	c.sendControl(c.encode(fmt.Sprintf(`{"type":"hello","id":%d,"project":%q,"filters":{"level":%s,"environment":%s},"max_buffer":%d,"window":%d}`,
		id, c.project, list(c.filter.Levels), list(c.filter.Environments), c.s.maxBuffer, c.s.window)))
}

// encode makes the frame of a message of the protocol, which names the client's stream behind its type if the client has
// agreed on it.
func (c *modelClient) encode(text string) []byte {
	if c.stream != "" {
		text = strings.Replace(text, `",`, `","stream":"`+c.stream+`",`, 1)
	}
	return wsframe.Append(nil, wsframe.OpText, []byte(text))
}

// modelAck is how an acknowledgement begins.
const modelAck = `{"type":"ack","n":`

// acknowledge: where the window was full, what waits goes out.
func (c *modelClient) acknowledge(count string) {
	n, err := strconv.Atoi(count)
	if err != nil || n <= c.acked || n > c.written {
		c.answer(func() []byte {
			return c.encode(`{"type":"error","code":"invalid_ack","message":"n is not a number of messages that are to be acknowledged"}`)
		})
		return
	}
	full := c.windowRoom() == 0
	c.acked = n
	c.waits = false
	if full && !c.busy {
		c.pump(everything)
	}
}

// modelRequest is something that clients send, with what they must be told.
type modelRequest struct {
	text, answer string
	filter       *Filter // that is in force then
}

var modelRequests = []modelRequest{
	{
		`{"type":"subscribe","filters":{"level":"error"}}`,
		`{"type":"filters_updated","filters":{"level":"error","environment":""},"filtered":%d}`,
		&Filter{Levels: []string{"error"}},
	},
	{
		`{"type":"subscribe","filters":{"level":["info","error"],"environment":"live"}}`,
		`{"type":"filters_updated","filters":{"level":["error","info"],"environment":"live"},"filtered":%d}`,
		&Filter{Levels: []string{"error", "info"}, Environments: []string{"live"}},
	},
	{
		`{"type":"subscribe","filters":{}}`,
		`{"type":"filters_updated","filters":{"level":"","environment":""},"filtered":%d}`,
		&Filter{},
	},
	{
		`{"type":"subscribe"}`,
		`{"type":"error","code":"malformed","message":"filters is missing"}`,
		nil,
	},
	{
		`hello`,
		`{"type":"error","code":"malformed","message":"not a JSON object with a type"}`,
		nil,
	},
	{
		`{"type":"hello"}`,
		`{"type":"error","code":"unknown_type","message":"the type for a request is \"subscribe\""}`,
		nil,
	},
}

// shut begins the end: what waits is given up, and the close frame goes out as soon as a frame may start.
func (c *modelClient) shut(code int, reason string) {
	if c.phase >= phaseClosing {
		return
	}
	c.withdraw(phaseClosing)
	c.code = code
	c.closing = wsframe.Close(code, reason)
	c.giveUp()
	c.cutAt = time.Now().Add(closeGrace)
	c.pump(everything)
}

func (c *modelClient) withdraw(to phase) {
	c.phase, c.member, c.slow = to, false, false
}

func (c *modelClient) giveUp() {
	c.abandoned += c.messages()
	c.queue = nil
	if take(&c.reply) != nil {
		c.waits = false
	}
}

// gone: the client sends nothing more, and only a close frame that is on its way to it is still worth a try.
func (c *modelClient) gone() {
	if c.phase == phaseClosing && c.busy {
		c.closeReceived = true
		return
	}
	c.remove(wsframe.CodeAbnormal)
}

func (c *modelClient) remove(code int) {
	if c.phase == phaseGone {
		return
	}
	c.withdraw(phaseGone)
	c.giveUp()
	c.abandoned += len(c.flying)
	c.flight, c.flying, c.flightBytes, c.busy = nil, nil, 0, false
	if c.code == 0 {
		c.code = code
	}
	c.disconnects++
}

// settle: a client for which nothing waits has caught up, and takes the next step if it is on its way out.
func (c *modelClient) settle() {
	if c.phase == phaseGone || !c.idle() {
		return
	}
	c.slow = false
	switch {
	case c.phase == phaseFlushing:
		c.shut(wsframe.CodeGoingAway, reasonShutdown)
	case c.closeSent && c.closeReceived:
		c.remove(wsframe.CodeAbnormal)
	}
}

func (c *modelClient) idle() bool { return !c.busy && len(c.queue) == 0 }

func (c *modelClient) markSlow() {
	if c.slow || c.phase != phaseOpen {
		return
	}
	c.slow = true
	if !c.slowQueued { // the hooks run between turns
		c.slowQueued = true
		c.slowCalls++
	}
}

// shutAll is the shard's shutdown.
func (s *modelShard) shutAll(flush bool) {
	for _, c := range s.clients {
		switch {
		case c.phase == phaseGone:
		case !flush || c.idle():
			c.shut(wsframe.CodeGoingAway, reasonShutdown)
		case c.phase == phaseOpen:
			c.withdraw(phaseFlushing)
			c.pump(everything)
		}
	}
}

// beat: a client that has been silent for too long, while nobody slept, is removed, and one whose ping is due is pinged.
// A client is visited four times in a ping interval: the first ping goes with the last visit within the interval, the
// others with the visit that is nearest to it.
func (s *modelShard) beat() {
	now := time.Now()
	if now.Sub(s.beatAt) >= s.idle/4 {
		s.awake = now
	}
	s.beatAt = now
	for _, c := range s.clients {
		c.beat(now)
	}
}

func (c *modelClient) beat(now time.Time) {
	switch {
	case c.phase == phaseGone:
	case min(now.Sub(c.seen), now.Sub(c.s.awake)) >= c.s.idle && c.askedAt.After(c.seen) && now.Sub(c.askedAt) >= c.s.idle-c.s.ping:
		c.remove(wsframe.CodeAbnormal)
	case !c.pinged && now.Add(c.s.ping/4).Before(c.pingBy): // the next visit will still be in time
	case c.pinged && now.Add(c.s.ping/8).Before(c.pingBy): // the next visit is nearer
	default:
		if !c.askedAt.After(c.seen) {
			c.askedAt = now
		}
		c.pinged, c.pingBy = true, now.Add(c.s.ping)
		c.pinging = wsframe.Ping
		c.pump(onlyControl)
	}
}

// pass is what has come due by now, after some time without a turn: a write without progress has failed, and one with
// some has begun again; a close handshake was cut.
func (c *modelClient) pass() {
	now := time.Now()
	if c.phase == phaseGone {
		return
	}
	for c.holds && len(c.flight) > 0 {
		due := c.pieceBegan.Add(c.s.idle)
		c.cutBefore(due)
		switch {
		case now.Before(due):
			return
		case c.pieceGone == 0:
			c.fail()
		default:
			c.seen = due
			c.startPiece()
			c.pieceBegan = due
		}
	}
	c.cutBefore(now.Add(1))
}

// cutBefore cuts a close handshake that was to end before that moment, if it has come.
func (c *modelClient) cutBefore(due time.Time) {
	if now := time.Now(); !c.cutAt.IsZero() && !now.Before(c.cutAt) && c.cutAt.Before(due) {
		c.cutAt = time.Time{}
		c.s.events = append(c.s.events, func() { c.remove(wsframe.CodeAbnormal) })
	}
}
