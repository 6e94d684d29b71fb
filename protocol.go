package mesherstream

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/mesher/mesherstream/internal/request"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// The messages of the wire protocol that a client may send, and the replies. All are JSON text messages:
//
//	→ {"type":"subscribe","filters":{"level":"error","environment":["production","staging"]}}
//	← {"type":"filters_updated","filters":{"level":"error","environment":["production","staging"]},"filtered":0}
//	← {"type":"error","code":"invalid_filter","message":"…"}
const (
	typeFiltersUpdated = "filters_updated"
	typeError          = "error"
	typeHello          = "hello"
	typeGap            = "gap"
	typeMark           = "mark"
	typeReplay         = "replay"
	typeReplayed       = "replayed"
	typePast           = "past"
	typeDirect         = "direct"
	typeLarge          = "large"
	typeFetching       = "fetching"
	typeClose          = "close"
)

// The codes of an error reply.
const (
	errorMalformed     = "malformed"
	errorUnknownType   = "unknown_type"
	errorInvalidFilter = "invalid_filter"
	errorNotGranted    = "not_granted"
	errorInvalidAck    = "invalid_ack"
	errorInvalidGap    = "invalid_gap"
	errorBusy          = "busy"
)

type errorAnswer struct {
	Type    string `json:"type"`
	Stream  string `json:"stream,omitempty"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// filterOf returns the filter that a request asks for, normalized.
func filterOf(f *request.Filters) (Filter, error) {
	return Filter{Levels: f.Level.List, Environments: f.Environment.List}.normalize()
}

// filtersUpdated reports the filter that is now in force, written in the form of the request, and the number of messages
// that it has removed from the client's buffer. The reply is written in buf, which is reused, before it becomes a frame.
func filtersUpdated(buf *[]byte, form request.Filters, f Filter, stream, position string, filtered int) []byte {
	form.Level.List, form.Environment.List = f.Levels, f.Environments
	text := append((*buf)[:0], `{"type":"`+typeFiltersUpdated+`",`...)
	if stream != "" {
		text = append(append(append(text, `"stream":"`...), stream...), `",`...)
	}
	text = form.Append(append(text, `"filters":`...))
	text = strconv.AppendInt(append(text, `,"filtered":`...), int64(filtered), 10)
	if position != "" {
		text = append(append(append(text, `,"position":"`...), position...), '"')
	}
	*buf = append(text, '}')
	return wsframe.Append(nil, wsframe.OpText, *buf)
}

// refusal answers a request that can't be granted. stream is the name of the client's stream, if it has agreed on the
// protocol.
func refusal(stream, code, text string) []byte {
	return encodeAnswer(errorAnswer{typeError, stream, code, text})
}

// encodeAnswer returns v as a frame. It is called only with types of this package, which always encode.
func encodeAnswer(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return wsframe.Append(nil, wsframe.OpText, data)
}

// received handles one message or control frame of the client. Each call is eventually followed by one resume, even if
// it ends the client: the answer to a close frame has to be read.
func (c *client) received(op byte, payload []byte) {
	s := c.shard
	if c.closeReceived {
		c.link.Resume() // anything after a close frame is discarded
		return
	}
	switch op {
	case wsframe.OpPing:
		// Only the newest ping needs a reply (RFC 6455, section 5.5.3). A flood of pings is sent one reply per turn.
		o := c.outbox()
		if o.pong == nil {
			s.pinged = append(s.pinged, c)
		}
		o.pong = wsframe.Append(nil, wsframe.OpPong, payload)
		c.link.Resume()
	case wsframe.OpPong:
		c.link.Resume()
		c.ponged(payload)
	case wsframe.OpClose:
		code, reason := wsframe.ParseClose(payload)
		c.closeReceived = true
		c.link.Resume()
		c.shut(code, reason)
		c.settle(nil) // it may have been the answer to our close frame
	default:
		if c.phase != phaseOpen {
			c.link.Resume()
			return
		}
		c.said()
		c.receivedMessage(op, payload)
	}
}

func (s *shard) sendPongs() {
	for _, c := range s.pinged {
		if c.phase != phaseGone {
			c.drainControl()
		}
	}
	clear(s.pinged)
	s.pinged = s.pinged[:0]
}

func (c *client) receivedMessage(op byte, payload []byte) {
	s := c.shard
	var kind string
	var malformed error
	if op == wsframe.OpText {
		kind, malformed = request.Type(payload)
	}
	switch {
	case kind == request.TypeSubscribe && malformed == nil:
		c.answer(func() []byte { return c.subscribe(payload) })
	case kind == request.TypeAck && malformed == nil && c.v1 != nil:
		c.acknowledged(payload)
	case kind == request.TypeFetch && malformed == nil && c.v1 != nil:
		c.answer(func() []byte { return c.fetch(payload) })
	case s.hooks.message(c, op == wsframe.OpBinary, payload):
		c.inHook = true // the link resumes when the hook has returned
	case op == wsframe.OpBinary:
		c.link.Resume()
		c.shut(wsframe.CodeUnsupportedData, "binary messages are not accepted here")
	case malformed != nil:
		c.answer(func() []byte { return refusal(c.v1.name(), errorMalformed, "not a JSON object with a type") })
	default:
		types := `the type for a request is "subscribe"`
		if c.v1 != nil {
			types += `, "ack" or "fetch"`
		}
		c.answer(func() []byte { return refusal(c.v1.name(), errorUnknownType, types) })
	}
}

// answer sends the reply to a request before any buffered message. The link continues to read once the reply is on its
// way, so there is never more than one reply.
func (c *client) answer(reply func() []byte) {
	if !c.pay(time.Now()) {
		c.link.Resume()
		c.shut(wsframe.CodePolicyViolation, reasonTooOften)
		return
	}
	if c.takePending(); c.phase >= phaseClosing {
		c.link.Resume()
		return
	}
	c.outbox().reply = reply()
	c.drainControl()
}

// subscribe changes the filter as the client asks, and returns the reply.
func (c *client) subscribe(data []byte) []byte {
	asked, err := request.ParseSubscribe(data)
	if err != nil {
		return refusal(c.v1.name(), errorMalformed, err.Error())
	}
	filter, err := filterOf(&asked.Filters)
	if err != nil {
		return refusal(c.v1.name(), errorInvalidFilter, err.Error())
	}
	if filter, err = filter.within(c.grant.Filter); err != nil {
		return refusal(c.v1.name(), errorNotGranted, err.Error())
	}
	filtered, position := c.setFilter(filter), ""
	if c.v1 != nil {
		position = c.positionText(c.reached(0, 0, nil))
	}
	if asked.Last > 0 {
		c.lookBack(asked.Last)
	}
	return filtersUpdated(&c.shard.answer, asked.Filters, filter, c.v1.name(), position, filtered)
}

// setFilter puts a filter within the grant into force. It removes the buffered messages that do not match the filter,
// and returns how many messages that was. Messages in flight can't be taken back.
func (c *client) setFilter(f Filter) (filtered int) {
	s := c.shard
	if c.takePending(); c.phase != phaseOpen {
		return 0
	}
	sub := *c.sub
	sub.Filter = f
	c.sub = &sub
	if c.replay != nil {
		c.replay.endTail()
	}
	c.changeGroup()
	s.totals.FilterSets++
	if c.out != nil {
		filtered = c.out.backlog.filter(f.matches)
		c.countFiltered(filtered)
	}
	return filtered
}

type gapNotice struct {
	Type     string         `json:"type"`
	Stream   string         `json:"stream,omitempty"`
	ID       string         `json:"id,omitempty"`
	Reason   string         `json:"reason"`
	Dropped  int            `json:"dropped,omitempty"`
	AtMost   uint64         `json:"at_most,omitempty"`
	Held     int            `json:"held"`
	ByLevel  map[string]int `json:"by_level,omitempty"`
	Since    time.Time      `json:"since"`
	Until    time.Time      `json:"until"`
	Position string         `json:"position,omitempty"`
}

// The reasons of a gap.
const (
	reasonSlow = "slow" // the client was connected, and too slow
	reasonAway = "away" // it was not connected
)

// message returns the notice as a message, with the times at which the first and the last of the missing messages were
// published.
func (n gapNotice) message(c *client, since, until int64) *message {
	moment := func(nanos int64) time.Time { return time.Unix(0, nanos).UTC().Truncate(time.Millisecond) }
	n.Type, n.Since, n.Until = typeGap, moment(since), moment(until)
	return c.notice(n.Type, n.Position, n)
}

// notice returns a message of the protocol.
func (c *client) notice(kind, position string, v any) *message {
	return &message{frame: c.encoding.notice(kind, position, v), notice: true}
}

// gapNotice returns the message that tells a client of the oldest of its gaps.
func (c *client) gapNotice(g *gap) *message {
	n := gapNotice{Stream: c.v1.name(), Reason: reasonSlow, Dropped: g.dropped, ByLevel: c.out.gaps.byLevel(g)}
	n.Position = c.positionText(c.reached(0, 1, nil))
	if !g.loose && c.shard.history.isOn() {
		n.name(c, &hole{g.after, g.last, *g.filter, false}, g.dropped)
	}
	return n.message(c, g.since, g.until)
}

// lossNotice returns the message that tells a client of the messages that have left the history before its replay could
// send them. They are between the last message that it was sent and the next ones. How many of them match its filter is known
// only if the filter accepts everything.
func (c *client) lossNotice(next []*message, ends bool) *message {
	r, f := c.replay, &c.sub.Filter
	l := &r.loss
	n := gapNotice{Stream: c.v1.name(), Reason: reasonAway}
	if l.slow && !l.away {
		n.Reason = reasonSlow
	}
	switch {
	case l.unknown:
	case l.atMost || r.vague || !l.counted && len(f.Levels)+len(f.Environments) > 0:
		n.AtMost = l.messages
	default:
		n.Dropped = int(l.messages)
	}
	if c.shard.history.isOn() {
		n.name(c, &hole{l.after, r.at, *f, true}, 0) // an old value of a key is not missing
		if !l.unknown {                              // those that a client may have received are among them
			n.Held = min(n.Held, max(n.Dropped, int(n.AtMost)))
		}
	}
	n.Position = c.positionText(c.before(next, ends))
	until := l.until(r.at, next)
	return n.message(c, min(r.seen, until), until)
}

// until returns when the newest of the missing messages was published, or a later time. The missing messages to all projects
// may be older than the missing ones to the project, and next has messages of both.
func (l *loss) until(to cursor, next []*message) (at int64) {
	end := func(ofAll bool) int64 {
		i := slices.IndexFunc(next, func(m *message) bool { return (m.project == "") == ofAll })
		if i < 0 {
			return time.Now().UnixNano()
		}
		return next[i].at
	}
	if l.unknown || to.project > l.after.project {
		at = end(false)
	}
	if l.unknown || to.all > l.after.all {
		at = max(at, end(true))
	}
	return at
}

type replayNotice struct {
	Type     string `json:"type"`
	Stream   string `json:"stream,omitempty"`
	Of       string `json:"of,omitempty"`
	Gap      string `json:"gap,omitempty"`
	Messages int    `json:"messages,omitempty"`
	More     bool   `json:"more,omitempty"`
	Position string `json:"position,omitempty"`
}

// replayNotice returns the message that precedes those of a replay.
func (c *client) replayNotice(next []*message) *message {
	n := replayNotice{Type: typeReplay, Stream: c.v1.name(), Of: c.replay.of, Gap: c.replay.gap.name()}
	if r := c.replay; r.back == nil && len(next) > 0 && !r.loss.any() {
		n.Position = c.positionText(c.before(next, false))
	}
	return c.notice(n.Type, n.Position, n)
}

// replayedNotice returns the message that follows those of a replay.
func (c *client) replayedNotice() *message {
	n := replayNotice{Type: typeReplayed, Stream: c.v1.name(), Of: c.replay.of, Gap: c.replay.gap.name()}
	if c.group != nil {
		n.Position = c.positionText(c.reachedLive(0, 0, nil))
	}
	return c.notice(n.Type, n.Position, n)
}

// direct puts a notice before a message of BufferMessage, in one piece with it. So the client knows that the message is in
// no replay.
func (c *client) direct(m *message) {
	notice := c.encoding.notice(typeDirect, "", struct {
		Type   string `json:"type"`
		Stream string `json:"stream,omitempty"`
	}{typeDirect, c.v1.name()})
	m.frame = append(notice, m.frame...)
	m.extra = 1
}

// isLarge reports whether nothing else may arrive for long while a client receives the message.
func (m *message) isLarge() bool { return len(m.frame) > joinBytes }

// announces reports whether a client is to be told that a message is large.
func (v *v1) announces(m *message) bool {
	return v != nil && m != nil && m.isLarge() && (v.told == nil || v.told != m && (m.own || v.told.stamp != m.stamp))
}

// announced notes that a client was told of a large message, which could not be sent in the same write.
func (v *v1) announced(m *message, yes bool) {
	if v != nil {
		if v.told = nil; yes {
			v.told = m
		}
	}
}

// large returns the notice before a large message, so that the client doesn't take its connection for dead.
func (c *client) large(m *message) *message {
	return c.notice(typeLarge, "", struct {
		Type   string `json:"type"`
		Stream string `json:"stream,omitempty"`
		Bytes  int    `json:"bytes"`
	}{typeLarge, c.v1.name(), len(m.frame)})
}

type pastMessage struct {
	Type   string  `json:"type"`
	Stream string  `json:"stream,omitempty"`
	Data   *string `json:"data,omitempty"`
	Binary []byte  `json:"binary,omitzero"`
}

// past returns the message that stands for an old value of a key in the replay of a client that may have received it.
func (c *client) past(m *message) *message {
	of := m.asFrame()
	p := pastMessage{Type: typePast, Stream: c.v1.name(), Binary: of.payload()}
	if !of.isBinary() {
		text := string(of.payload())
		p.Data, p.Binary = &text, nil
	}
	return m.withFrame(c.encoding.notice(typePast, "", p))
}

// Protocol is the WebSocket subprotocol with which a client agrees to be told more: its ID and the gaps in its stream.
// It also acknowledges the messages that it has received. docs/protocol.md describes it. A client that doesn't offer it
// receives only the application's messages and the replies to its own requests.
//
// A route with an upgrade of its own offers it in the Subprotocols of its [websocket.Config].
const Protocol = "mesherstream.v1"

// v1 is the state that a shard keeps for a client that has agreed on the protocol, or streams over plain HTTP. The methods
// of a nil *v1 are those of a client that hasn't.
type v1 struct {
	stream [12]byte // over a WebSocket, a random word in each message of the protocol; no message of the application has it
	lull   moment   // when the lull ends that its newest answer has begun
	fresh  freshness
	fetch  *fetch   // nil if it fetches nothing
	told   *message // a large message that the client was told of, and that is to follow
	moved  bool     // the client is to be told its position, since the application has changed its filter
	quiet  bool     // the newest mark is one in silence
}

func (v *v1) fetches() bool { return v != nil && v.fetch != nil }

// agree marks c as a client that has agreed on the protocol. It is called before the client is registered.
func (c *client) agree() {
	c.v1 = new(v1)
	if c.encoding == frames {
		copy(c.v1.stream[:], rand.Text())
		c.window = new(window)
	}
}

// name returns the name of the client's stream, or "" if it has none.
func (v *v1) name() string {
	if v == nil || v.stream[0] == 0 {
		return ""
	}
	return string(v.stream[:])
}

type helloMessage struct {
	Type      string          `json:"type"`
	Stream    string          `json:"stream,omitempty"`
	ID        ClientID        `json:"id"`
	Project   string          `json:"project"`
	Filters   request.Filters `json:"filters"`
	MaxBuffer int             `json:"max_buffer"`
	Window    int             `json:"window"`
	MarkMS    int64           `json:"mark_ms,omitempty"`
	Position  string          `json:"position,omitempty"`
	Returned  *returned       `json:"returned,omitempty"`
}

// returned tells a client that has returned what has happened since its position.
type returned struct {
	Complete bool    `json:"complete"`
	AtMost   *uint64 `json:"at_most,omitempty"` // not set if nobody knows
}

// hello is the first message of the stream. A client that returns keeps the position that it has named, until it is told of
// a gap. If it has another filter now, the position is named anew: what it receives from now on is counted under that filter.
// A client that looks back has no position before the beginning of its replay is found. An EventSource receives the position
// as an ID only if it is new: one that returns keeps its ID.
func (v *v1) hello(c *client) []byte {
	var position, place string
	var back *returned
	switch r := c.replay; {
	case r == nil:
		position = c.positionText(c.reached(0, 0, nil))
		place = position
	case r.back != nil:
		if position = r.back.position; r.back.complete && r.back.renamed {
			p := c.within(r.at, r.asOf)
			p.rate = r.back.rate
			position = c.positionText(p, true)
		}
		back = &returned{Complete: r.back.complete}
		if r.back.known {
			back.AtMost = &r.back.atMost
		}
	}
	list := func(values []string) request.Values { return request.Values{List: values, IsList: true} }
	hello := helloMessage{
		Type:      typeHello,
		Stream:    v.name(),
		ID:        c.id,
		Project:   c.sub.Project,
		Filters:   request.Filters{Level: list(c.sub.Levels), Environment: list(c.sub.Environments)},
		MaxBuffer: c.shard.cfg.maxBuffer,
		Window:    c.shard.cfg.helloWindow(),
		MarkMS:    c.shard.cfg.pingInterval.Milliseconds(),
		Position:  position,
		Returned:  back,
	}
	if c.encoding != frames {
		hello.Window = 0
	}
	return c.encoding.notice(typeHello, place, hello)
}

// noPlace is in a mark that follows a change of the filter by the application, if no place can be named. The client can't
// count what it receives from now on: it is of another filter than its position.
const noPlace = `"position":null`

// appendMark appends the message that asks a client of the protocol how far it has got. As to the parameters, see reached.
func (c *client) appendMark(dst []byte, sent, told int, rest []*message) []byte {
	s := c.shard
	mark := append(s.answer[:0], `{"type":"`+typeMark+`","stream":"`...)
	mark = append(append(mark, c.v1.stream[:]...), `","window":`...)
	mark = strconv.AppendInt(mark, int64(c.windowSize()), 10)
	if age := c.v1.fresh.age; age > 0 {
		mark = strconv.AppendInt(append(mark, `,"age_ms":`...), age.Milliseconds(), 10)
	}
	switch p, ok := c.reached(sent, told, rest); {
	case ok:
		mark = append(c.appendPosition(append(mark, `,"position":"`...), p), '"')
	case c.v1.moved:
		mark = append(mark, `,`+noPlace...)
	}
	s.answer = append(mark, '}')
	return wsframe.Append(dst, wsframe.OpText, s.answer)
}

// windowSize is how many messages a client of the protocol may leave unacknowledged, and 0 if it has no window.
func (c *client) windowSize() int {
	cfg := c.shard.cfg
	switch {
	case cfg.window == 0:
		return 0
	case c.acks == acksProbes:
		return int(c.window.limit.messages)
	default:
		return cfg.helloWindow()
	}
}

// acknowledged handles the client's count of the messages that it has processed. An acknowledgement of something new
// isn't counted as a request: a client that receives much acknowledges much.
func (c *client) acknowledged(data []byte) {
	n, err := request.ParseAck(data)
	switch {
	case err != nil:
		c.answer(func() []byte { return refusal(c.v1.name(), errorMalformed, err.Error()) })
	case c.acknowledgedTo(n):
		c.link.Resume()
	default:
		c.answer(func() []byte {
			return refusal(c.v1.name(), errorInvalidAck, "n is not a number of messages that are to be acknowledged")
		})
	}
}
