package mesherstream

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// The model: what a shard promises to each of its clients, played one message at a time, with a list as the queue, and
// compared down to the bytes that each link receives. The model knows nothing of groups, rings, joined frames and
// waiting lists.

// modelShard holds the published messages and the requests of a test until the shard's turn takes them.
type modelShard struct {
	maxBuffer, maxBytes int
	overflow            Overflow
	keepLevels          []string
	window              int
	interval            time.Duration // of the drain
	ping, idle          time.Duration
	clients             []*modelClient
	events              []func() // they come before the casts
	casts               []modelCast
	drain               bool
	beatAt, awake       time.Time
	pinged              []*modelClient
}

// A modelCast is a message for every client that it matches, or something else to do.
type modelCast struct {
	message *modelMessage
	sub     func(*modelClient) bool // the clients that the message matches, when its turn has come
	do      func()
}

type modelClient struct {
	s       *modelShard
	holds   bool // its link accepts whole frames and sends them by itself
	project string
	filter  Filter
	phase   phase
	member  bool // the application can name it

	room    int // how much the kernel accepts now
	failing bool
	wire    []byte
	queue   []modelItem
	reply   []byte // the pending reply
	busy    bool
	slow    bool

	// The bytes that can't be taken back. A link that holds sends them in pieces, each with a deadline.
	flight      []byte
	flying      []*modelMessage
	noticeBytes int // of the flight, before those
	flightBytes int // as the accounts count it
	flown       int
	piece       int // bytes of it that share one deadline
	pieceGone   int
	pieceBegan  time.Time

	pong, pinging, closing   []byte
	closeSent, closeReceived bool
	code                     int

	incoming []arrival
	waits    bool // for the reply to its last message
	refused  bool
	ended    bool

	seen, askedAt, pingBy, waitingSince, cutAt time.Time
	pinged                                     bool
	credit                                     time.Duration // for requests, as of creditAt
	creditAt                                   time.Time

	stream         string // in each message of the protocol, or "" for a client without it
	written, acked int    // messages of any kind, for the window

	offeredIDs                        []int
	filtered, conflated               int
	offered, sent, dropped, abandoned int
	slowCalls, disconnects            int
	slowQueued                        bool
}

// turn does the work of the shard's next turn.
func (s *modelShard) turn() {
	for _, do := range take(&s.events) {
		do()
	}
	var run []modelCast
	for _, c := range take(&s.casts) {
		if c.message != nil {
			run = append(run, c)
			continue
		}
		s.deliver(take(&run))
		c.do()
	}
	s.deliver(run)
	if s.drain {
		s.drain = false
		for _, c := range s.clients {
			c.pump(everything)
			if c.messages() > 0 && time.Since(c.waitingSince) >= s.interval {
				c.markSlow()
			}
		}
	}
	for _, c := range take(&s.pinged) {
		c.pump(onlyControl)
	}
}

func take[T any](list *[]T) []T {
	all := *list
	*list = nil
	return all
}

func (s *modelShard) deliver(run []modelCast) {
	for _, c := range s.clients {
		var matching []*modelMessage
		for _, m := range run {
			if c.phase == phaseOpen && c.member && m.sub(c) {
				matching = append(matching, m.message)
			}
		}
		if len(matching) > 0 {
			c.offer(matching)
		}
	}
}

// offer: nothing is dropped while the client could accept it. If a message doesn't fit, the oldest is dropped.
func (c *modelClient) offer(run []*modelMessage) {
	if c.messages() > 0 && !c.fits(run) {
		switch {
		case !c.busy:
			c.pump(everything)
		case !c.slow && !c.holds: // the link is tried once more
			c.writable()
		}
		if c.phase == phaseGone {
			return
		}
	}
	c.count(run)
	switch {
	case !c.idle():
		c.enqueue(run)
		c.pump(everything)
	case c.failing && !c.holds && c.windowRoom() > 0:
		c.enqueue(run)
		c.remove(wsframe.CodeAbnormal)
	default:
		c.writeThrough(run)
	}
}

// writeThrough: nothing is buffered, so the part of the batch that the window and the link accept is sent as it is.
// Only the rest is buffered, and only buffered messages can be replaced. A pending pong is sent at the end of the turn.
func (c *modelClient) writeThrough(run []*modelMessage) {
	now := min(c.windowRoom(), len(run))
	for _, m := range run[:now] {
		c.queue = append(c.queue, modelItem{message: m})
	}
	c.pump(onlyMessages)
	c.enqueue(run[now-len(take(&c.queue)):])
}

func (c *modelClient) count(run []*modelMessage) {
	c.offered += len(run)
	for _, m := range run {
		c.offeredIDs = append(c.offeredIDs, m.id)
	}
}

// buffer models BufferMessage.
func (c *modelClient) buffer(m *modelMessage) {
	c.count([]*modelMessage{m})
	if c.phase != phaseOpen {
		c.abandoned++
		return
	}
	c.enqueue([]*modelMessage{m})
}

// answer: the reply to a request is sent before the buffered messages. The next request is read after that. Each
// request costs 50 ms of the time that a client has been connected. A client begins with a second, and can save up a
// minute.
func (c *modelClient) answer(reply func() []byte) {
	now := time.Now()
	c.credit, c.creditAt = min(time.Minute, c.credit+now.Sub(c.creditAt)), now
	if c.credit < 50*time.Millisecond {
		c.waits = false
		c.shut(wsframe.CodePolicyViolation, "more than 20 requests a second")
		return
	}
	c.credit -= 50 * time.Millisecond
	c.reply = reply()
	c.pump(onlyControl)
}

// next takes the control frame that must be sent before the next message, if there is one.
func (c *modelClient) next() (frame []byte) {
	switch {
	case c.closeSent:
	case c.pong != nil:
		frame, c.pong = c.pong, nil
	case c.closing != nil:
		frame, c.closing, c.closeSent = c.closing, nil, true
	case c.pinging != nil:
		frame, c.pinging = c.pinging, nil
	case c.reply != nil:
		frame, c.reply = c.reply, nil
		c.waits = false
	}
	return frame
}

// The kinds of frames that pump sends.
type cargo uint8

const (
	everything cargo = iota
	onlyControl
	onlyMessages
)

// pump sends everything that is due, as far as the link accepts it.
func (c *modelClient) pump(what cargo) {
	for !c.busy && c.phase != phaseGone {
		if what != onlyMessages {
			if frame := c.next(); frame != nil {
				c.sendControl(frame)
				continue
			}
		}
		if what == onlyControl || len(c.queue) == 0 || c.windowRoom() == 0 {
			break
		}
		if !c.holds && c.room == 0 && !c.failing {
			c.busy = true // no byte of the message has been sent, so it can still be dropped
			break
		}
		c.takeOff()
		c.send()
	}
	c.settle()
}

// sendControl passes the link a frame that is no message. A reply counts for the window all the same.
func (c *modelClient) sendControl(frame []byte) {
	c.flight, c.flying, c.noticeBytes = frame, nil, 0
	if frame[0]&wsframe.ControlBit == 0 {
		c.written++
	}
	c.send()
}

// takeOff passes the link the next message, or as many whole ones as a link that holds may accept. A gap is told
// together with the messages after it, and ends a run of messages before it.
func (c *modelClient) takeOff() {
	c.flight, c.flying, c.noticeBytes = nil, nil, 0
	room := c.windowRoom()
	if notice := c.takeGap(); notice != nil {
		c.flight, c.noticeBytes = notice, len(notice)
		c.written++
		room--
	}
	for ; room > 0 && len(c.queue) > 0 && c.queue[0].gap == nil; room-- {
		m := c.queue[0].message
		if len(c.flight) > 0 && (!c.holds || len(c.flight)+len(m.frame) > link.ChunkBytes) {
			break
		}
		c.flight = append(c.flight, m.frame...)
		c.flying = append(c.flying, m)
		c.queue = c.queue[1:]
		c.written++
	}
}

// send begins a flight. Over a link that doesn't hold, the bytes for which the kernel has room are sent immediately.
func (c *modelClient) send() {
	c.flightBytes, c.flown = len(c.flight), 0
	switch {
	case c.holds:
		c.busy = true
		c.startPiece()
	case c.failing:
		c.remove(wsframe.CodeAbnormal)
	default:
		n := min(c.room, len(c.flight))
		c.take(n)
		c.flightBytes = len(c.flight)
		if c.busy = len(c.flight) > 0; !c.busy {
			c.land()
		}
	}
}

func (c *modelClient) startPiece() {
	c.piece, c.pieceGone, c.pieceBegan = min(len(c.flight), link.ChunkBytes), 0, time.Now()
}

func (c *modelClient) take(n int) {
	c.wire = append(c.wire, c.flight[:n]...)
	c.flight = c.flight[n:]
	c.flown += n
	c.room -= n
}

func (c *modelClient) land() {
	c.sent += len(c.flying)
	c.flight, c.flying, c.flightBytes, c.busy = nil, nil, 0, false
}

// fly models everything outside the shard: the kernel accepts as much as it has room for, and the shard is told.
func (c *modelClient) fly() {
	switch {
	case c.phase == phaseGone || !c.busy:
	case !c.holds:
		if c.room > 0 || c.failing {
			c.s.events = append(c.s.events, c.hint)
		}
	case len(c.flight) == 0:
	case c.failing:
		c.fail()
	default:
		for len(c.flight) > 0 && c.room > 0 {
			n := min(c.room, c.piece)
			c.take(n)
			c.piece -= n
			c.pieceGone += n
			if c.piece == 0 {
				c.signOfLife()
				c.startPiece()
			}
		}
		if len(c.flight) == 0 {
			c.s.events = append(c.s.events, c.landed)
		}
	}
}

// signOfLife: the end of a write that had to wait for the client is a sign of life.
func (c *modelClient) signOfLife() {
	if now := time.Now(); now.Sub(c.pieceBegan) >= link.BlockedFor {
		c.seen = now
	}
}

func (c *modelClient) landed() {
	if c.phase != phaseGone {
		c.land()
		c.pump(everything)
	}
}

// fail ends a flight over a link that holds. Its complete messages were sent.
func (c *modelClient) fail() {
	if c.pieceGone > 0 {
		c.signOfLife()
	}
	gone := c.flown - c.noticeBytes
	c.flight = nil
	c.s.events = append(c.s.events, func() {
		if c.phase == phaseGone {
			return
		}
		for len(c.flying) > 0 && gone >= len(c.flying[0].frame) {
			gone -= len(c.flying[0].frame)
			c.flying = c.flying[1:]
			c.sent++
		}
		c.remove(wsframe.CodeAbnormal)
	})
}

// hint reports room, over a link that doesn't hold.
func (c *modelClient) hint() {
	if c.phase != phaseGone && c.busy {
		c.seen = time.Now()
		c.writable()
	}
}

// writable continues after the room had ended.
func (c *modelClient) writable() {
	if len(c.flight) > 0 && c.failing {
		c.remove(wsframe.CodeAbnormal)
		return
	}
	c.take(min(c.room, len(c.flight)))
	c.flightBytes = len(c.flight)
	if len(c.flight) == 0 {
		c.land()
		c.pump(everything)
	}
}

// This part is the life of a client in the model: the messages that it sends, how it leaves, and the effects of time.

// read handles the client's bytes: each message after the one before it has been handled.
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
			c.s.events = append(c.s.events, func() { c.shut(wsframe.CodeProtocolError, "scripted") })
		default:
			c.waits = true
			c.seen = time.Now()
			c.s.events = append(c.s.events, func() { c.received(next) })
		}
	}
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

// join: the first message to a client with the protocol is hello.
func (c *modelClient) join(id ClientID) {
	list := func(values []string) string {
		text, _ := json.Marshal(append([]string{}, values...)) // strings always encode
		return string(text)
	}
	c.sendControl(c.encode(fmt.Sprintf(`{"type":"hello","id":%d,"project":%q,"filters":{"level":%s,"environment":%s},"max_buffer":%d,"window":%d}`,
		id, c.project, list(c.filter.Levels), list(c.filter.Environments), c.s.maxBuffer, c.s.window)))
}

// encode makes the frame of a message of the protocol. If the client has agreed on the protocol, the message names the
// client's stream after its type.
func (c *modelClient) encode(text string) []byte {
	if c.stream != "" {
		text = strings.Replace(text, `",`, `","stream":"`+c.stream+`",`, 1)
	}
	return wsframe.Append(nil, wsframe.OpText, []byte(text))
}

// modelAck is the beginning of an acknowledgement.
const modelAck = `{"type":"ack","n":`

// acknowledge: if the window was full, buffered messages are sent.
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

// modelRequest is a message that clients send, together with the expected reply.
type modelRequest struct {
	text, answer string
	filter       *Filter // the filter in force after it
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

// shut begins the end: buffered messages are discarded, and the close frame is sent as soon as a frame may start.
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

// gone: the client sends nothing more, and only a close frame in flight is still worth a try.
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

// settle: a client for which nothing is buffered has caught up. If it is leaving, it takes the next step.
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

// beat: a client that has been silent for too long, while the process was awake, is removed, and one whose ping is due
// is pinged. A client is visited four times in a ping interval. The first ping is sent with the last visit within the
// interval, each other one with the visit that is nearest to it.
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

// pass handles everything that has become due by now, after some time without a turn. A write without progress has
// failed, and one with some progress has a new deadline. A close handshake was cut.
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

// cutBefore cuts a close handshake that was to end before that moment, if the moment has come.
func (c *modelClient) cutBefore(due time.Time) {
	if now := time.Now(); !c.cutAt.IsZero() && !now.Before(c.cutAt) && c.cutAt.Before(due) {
		c.cutAt = time.Time{}
		c.s.events = append(c.s.events, func() { c.remove(wsframe.CodeAbnormal) })
	}
}

// This part is the model's queue: the messages that wait for a client, the ones that leave it when it is full, and the
// gaps that the client is told of.

type modelMessage struct {
	id                      int
	project                 string
	level, environment, key string
	keep                    bool
	at                      time.Time
	frame                   []byte
}

// size is the size that the message counts with: its frame and its fields.
func (m *modelMessage) size() int {
	return len(m.frame) + len(m.project+m.level+m.environment+m.key)
}

// A modelItem is a waiting message, or a gap where messages were dropped that the client has not been told of.
type modelItem struct {
	message *modelMessage
	gap     *modelGap
}

type modelGap struct {
	dropped      int
	levels       map[string]int
	since, until time.Time
}

func (c *modelClient) messages() (n int) {
	for _, item := range c.queue {
		if item.message != nil {
			n++
		}
	}
	return n
}

func (c *modelClient) messageBytes() (n int) {
	for _, item := range c.queue {
		if item.message != nil {
			n += item.message.size()
		}
	}
	return n
}

func (c *modelClient) fits(run []*modelMessage) bool {
	bytes := c.messageBytes()
	for _, m := range run {
		bytes += m.size()
	}
	return c.messages()+len(run) <= c.s.maxBuffer && bytes <= c.s.maxBytes
}

// windowRoom is how many more messages the client may have unacknowledged.
func (c *modelClient) windowRoom() int {
	if c.stream == "" || c.s.window == 0 || c.phase == phaseFlushing {
		return math.MaxInt
	}
	return max(0, c.s.window-c.unacknowledged())
}

func (c *modelClient) unacknowledged() int {
	if c.stream == "" {
		return 0
	}
	return c.written - c.acked
}

func (c *modelClient) enqueue(run []*modelMessage) {
	if c.messages() == 0 {
		c.waitingSince = time.Now()
	}
	for i, m := range run {
		if c.s.overflow == Disconnect && !c.takes(m) {
			c.abandoned += len(run) - i
			c.shut(wsframe.CodeTryAgainLater, reasonTooSlow)
			return
		}
		if c.replaces(m) {
			continue
		}
		for c.messages() > 0 && !c.fits([]*modelMessage{m}) {
			victim := c.victim(m)
			if victim < 0 {
				c.queue = append(c.queue, modelItem{message: m})
				c.drop(len(c.queue) - 1)
				m = nil
				break
			}
			c.drop(victim)
		}
		if m != nil {
			c.queue = append(c.queue, modelItem{message: m})
		}
	}
}

// sameKey is the position of a waiting message with the key of m, or -1.
func (c *modelClient) sameKey(m *modelMessage) int {
	return slices.IndexFunc(c.queue, func(item modelItem) bool {
		return m.key != "" && item.message != nil && item.message.key == m.key
	})
}

// takes reports whether m can wait without the loss of another message.
func (c *modelClient) takes(m *modelMessage) bool {
	if i := c.sameKey(m); i >= 0 {
		return c.messageBytes()-c.queue[i].message.size()+m.size() <= c.s.maxBytes
	}
	return c.messages() == 0 || c.fits([]*modelMessage{m})
}

// replaces puts m in the place of the message with the same key. If m is too large for that, the older message is
// removed all the same.
func (c *modelClient) replaces(m *modelMessage) bool {
	i := c.sameKey(m)
	if i < 0 {
		return false
	}
	c.conflated++
	if c.messageBytes()-c.queue[i].message.size()+m.size() > c.s.maxBytes {
		c.queue = slices.Delete(c.queue, i, i+1)
		return false
	}
	c.queue[i].message = m
	return true
}

// victim is the position of the message that leaves for m, or -1 if m itself does.
func (c *modelClient) victim(m *modelMessage) int {
	waits := func(item modelItem) bool { return item.message != nil }
	if c.s.overflow == DropNewest && !m.keep {
		return -1
	}
	if i := slices.IndexFunc(c.queue, func(item modelItem) bool { return waits(item) && !item.message.keep }); i >= 0 {
		return i
	}
	if m.keep && c.s.overflow == DropOldest {
		return slices.IndexFunc(c.queue, waits)
	}
	return -1
}

// drop puts a gap in the place of a message, if the client is told of gaps.
func (c *modelClient) drop(i int) {
	m := c.queue[i].message
	c.dropped++
	c.markSlow()
	if c.stream == "" {
		c.queue = slices.Delete(c.queue, i, i+1)
		return
	}
	c.queue[i] = modelItem{gap: &modelGap{dropped: 1, levels: map[string]int{m.level: 1}, since: m.at, until: m.at}}
}

// takeGap removes the gaps before the next message. It returns the message that reports them, or nil.
func (c *modelClient) takeGap() (notice []byte) {
	all := modelGap{levels: make(map[string]int)}
	for len(c.queue) > 0 && c.queue[0].gap != nil {
		gap := c.queue[0].gap
		c.queue = c.queue[1:]
		if all.dropped == 0 || gap.since.Before(all.since) {
			all.since = gap.since
		}
		if all.dropped == 0 || gap.until.After(all.until) {
			all.until = gap.until
		}
		all.dropped += gap.dropped
		for level, n := range maps.All(gap.levels) {
			all.levels[level] += n
		}
	}
	if all.dropped == 0 {
		return nil
	}
	levels, _ := json.Marshal(all.levels) // a map of numbers
	moment := func(t time.Time) string { return t.UTC().Truncate(time.Millisecond).Format(time.RFC3339Nano) }
	return wsframe.Append(nil, wsframe.OpText, fmt.Appendf(nil, `{"type":"gap","stream":%q,"dropped":%d,"by_level":%s,"since":%q,"until":%q}`,
		c.stream, all.dropped, levels, moment(all.since), moment(all.until)))
}

// setFilter: the new filter applies to the messages offered from now on, and to the waiting ones.
func (c *modelClient) setFilter(f Filter) (filtered int) {
	if c.phase != phaseOpen {
		return 0
	}
	c.filter = f
	waiting := len(c.queue)
	c.queue = slices.DeleteFunc(c.queue, func(item modelItem) bool {
		m := item.message
		return m != nil && !(lets(f.Levels, m.level) && lets(f.Environments, m.environment))
	})
	filtered = waiting - len(c.queue)
	c.filtered += filtered
	return filtered
}

func lets(list []string, v string) bool { return v == "" || len(list) == 0 || slices.Contains(list, v) }
