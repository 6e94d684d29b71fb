package mesherstream

import (
	"encoding/binary"
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
	freshness           time.Duration
	coalescing          time.Duration
	interval            time.Duration // of the drain
	ping, idle          time.Duration
	madeAt              time.Time
	clients             []*modelClient
	events              []func() // they come before the casts
	casts               []modelCast
	drain               bool
	beatAt, awake       time.Time
	pinged              []*modelClient
	reached             map[string]int        // how often what has happened
	from                map[string]int        // the newest message when the first of the project's present clients joined; "" is any project
	ages                map[time.Duration]int // how often what age was shown
	groups              map[string]*modelGroup
	turns               int
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
	local   bool // its link doesn't, and room in the kernel shows that the other end reads
	project string
	filter  Filter
	phase   phase
	member  bool // the application can name it
	newest  int  // the number of the newest message when it was registered
	joined  bool // and it is in its group

	room    int // how much the kernel accepts now
	failing bool
	wire    []byte
	queue   []modelItem

	reordered bool // a newer message has been put before an older one, and the queue has not been empty since

	reply []byte // the pending reply
	moved bool   // it is to be told its position

	announced *modelMessage // the large message that it was told of
	busy      bool
	slow      bool

	// The bytes that can't be taken back. A link that holds sends them in pieces, each with a deadline.
	flight      []byte
	flying      []*modelMessage
	noticeBytes int // of the flight, before those
	flightBytes int // as the accounts count it
	flown       int
	piece       int // bytes of it that share one deadline
	pieceGone   int
	pieceBegan  time.Time

	pong, closing            []byte
	pingDue                  bool
	closeSent, closeReceived bool
	code                     int

	incoming []arrival
	waits    bool // for the reply to its last message
	refused  bool
	ended    bool

	seen, took, askedAt, pingBy, waitingSince, cutAt time.Time
	pinged                                           bool
	owing                                            bool          // it owed something at the last beat
	progressed                                       bool          // its other end has read since then
	unread                                           bool          // its kernel holds bytes that it has not read
	credit                                           time.Duration // for requests, as of creditAt
	creditAt                                         time.Time

	stream  string // in each message of the protocol, or "" for a client without it
	win     modelWindow
	base    modelAmount // the position at which the shard begins to count
	sign    func([]byte) uint64
	probing bool // a probe is in flight
	through bool // what is written has not waited
	left    bool // its link has left out the probe that was to follow the last messages

	held []*modelMessage // those of its group that it is yet to be offered

	offeredIDs                        []int
	filtered, conflated               int
	offered, sent, dropped, abandoned int
	slowCalls, disconnects            int
	slowQueued                        bool
}

// A modelGroup is the clients of one project with one filter. They are written to together, and not again in the pause
// after that.
type modelGroup struct {
	held  []*modelMessage
	until time.Time // when the pause ends; zero if there is none
	early int       // the turn of the newest write in a pause
}

// turn does the work of the shard's next turn.
func (s *modelShard) turn() {
	s.turns++
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
	s.endPauses()
	if s.drain {
		s.drain = false
		for _, c := range s.clients {
			if c.idle() {
				continue
			}
			c.pump(everything)
			c.askAgain()
			if c.messages() > 0 && time.Since(c.waitingSince) >= s.interval {
				c.markSlow()
			}
		}
		for _, c := range s.clients {
			c.lull()
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
	done := make(map[string]bool)
	for _, c := range s.clients {
		if !c.isInGroup() || done[c.groupName()] {
			continue
		}
		done[c.groupName()] = true
		var matching []*modelMessage
		for _, m := range run {
			if m.sub(c) && m.message.id > s.from[m.message.project] {
				matching = append(matching, m.message)
			}
		}
		if len(matching) > 0 {
			s.match(c.groupName(), matching)
		}
	}
}

func (c *modelClient) isInGroup() bool { return c.joined && c.member && c.phase == phaseOpen }

func (c *modelClient) groupName() string {
	return fmt.Sprintf("%q %q %q", c.project, slices.Sorted(slices.Values(c.filter.Levels)), slices.Sorted(slices.Values(c.filter.Environments)))
}

// match: in a pause, a group holds the messages that match it, unless that is more than a client's buffer could take, or
// more than one write drains of a buffer.
func (s *modelShard) match(name string, run []*modelMessage) {
	g := s.groups[name]
	if g == nil {
		g = &modelGroup{}
		s.groups[name] = g
	}
	held := len(g.held)
	g.held = append(g.held, run...)
	for _, c := range s.clients {
		if c.isInGroup() && c.groupName() == name {
			c.held = append(c.held, run...)
		}
	}
	bytes := 0
	for _, m := range g.held {
		bytes += m.size()
	}
	switch {
	case s.coalescing == 0:
		s.release(name, g, len(g.held))
	case g.until.IsZero():
		g.until = time.Now().Add(s.coalescing)
		s.release(name, g, len(g.held))
	case held > 0 && (len(g.held) > s.maxBuffer || bytes > s.maxBytes):
		s.reach("a group that may not hold more messages")
		g.early = s.turns
		s.release(name, g, held)
	case bytes > 64<<10:
		s.reach("a group that may not hold more bytes")
		g.early = s.turns
		s.release(name, g, len(g.held))
	default:
		s.reach("a group that holds messages")
	}
}

// release offers the oldest messages that a group holds to its clients, but for those that they have.
func (s *modelShard) release(name string, g *modelGroup, n int) {
	rest := len(g.held) - n
	g.held = g.held[n:]
	for _, c := range s.clients {
		if !c.isInGroup() || c.groupName() != name {
			continue
		}
		run := c.held[:max(0, len(c.held)-rest)]
		if len(run) < n {
			s.reach("a client that is ahead of its group")
		}
		if c.held = c.held[len(run):]; len(run) > 0 {
			c.offer(run)
		}
	}
}

// endPauses: at the end of a pause in which something has matched the group, that is written, and the next pause begins.
func (s *modelShard) endPauses() {
	for name, g := range s.groups {
		switch {
		case g.until.IsZero() || time.Now().Before(g.until):
			continue
		case g.early != s.turns && len(g.held) == 0:
			g.until = time.Time{}
			continue
		}
		g.until = time.Now().Add(s.coalescing)
		if g.early == s.turns {
			s.reach("a pause that ends after a write in its turn")
			continue
		}
		if len(g.held) > 1 {
			s.reach("several messages in one write")
		}
		s.release(name, g, len(g.held))
	}
}

// takeHeld: what a client's group holds is offered to the client before what comes after that.
func (c *modelClient) takeHeld() {
	if held := take(&c.held); len(held) > 0 {
		c.s.reach("a client that takes what is held")
		c.offer(held)
	}
}

// forgetGroups: a group lives as long as it has clients.
func (s *modelShard) forgetGroups() {
	for name := range s.groups {
		if !slices.ContainsFunc(s.clients, func(c *modelClient) bool { return c.isInGroup() && c.groupName() == name }) {
			delete(s.groups, name)
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
			if c.s.coalescing > 0 {
				c.count(run)
				c.abandoned += len(run)
			}
			return
		}
	}
	c.count(run)
	if !c.idle() || slices.ContainsFunc(run, c.isLarge) {
		c.enqueue(run)
		c.pump(everything)
		return
	}
	c.writeThrough(run)
}

// isLarge reports whether a client of the protocol is told that the message is large.
func (c *modelClient) isLarge(m *modelMessage) bool { return c.stream != "" && len(m.frame) > 64<<10 }

// writeThrough: nothing is buffered, so the part of the batch that the window and the link accept is sent as it is.
// Only the rest is buffered, and only buffered messages can be replaced. A pending pong is sent at the end of the turn.
func (c *modelClient) writeThrough(run []*modelMessage) {
	now := c.fitting(run)
	if now > 0 && c.failing && !c.holds {
		c.enqueue(run)
		c.remove(wsframe.CodeAbnormal)
		return
	}
	for _, m := range run[:now] {
		c.queue = append(c.queue, modelItem{message: m})
	}
	if now > 0 {
		c.through = true
		c.sendRun(now, math.MaxInt)
		c.through = false
	}
	c.enqueue(run[now-len(take(&c.queue)):])
	if now < len(run) {
		c.win.held = true
		c.s.reach("a batch that the window splits")
	}
	c.settle()
}

// fitting is how many messages of a batch the window lets pass.
func (c *modelClient) fitting(run []*modelMessage) (n int) {
	messages, bytes := c.windowRoom(len(run[0].frame))
	for ; n < min(messages, len(run)); n++ {
		if bytes -= len(run[n].frame); n > 0 && bytes < 0 {
			break
		}
	}
	return n
}

func (c *modelClient) count(run []*modelMessage) {
	c.offered += len(run)
	for _, m := range run {
		c.offeredIDs = append(c.offeredIDs, m.id)
	}
}

// buffer models BufferMessage.
func (c *modelClient) buffer(m *modelMessage) {
	c.takeHeld()
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
	if c.takeHeld(); c.phase >= phaseClosing {
		c.waits = false
		return
	}
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
	case c.reply != nil:
		frame, c.reply = c.reply, nil
		c.waits = false
	case c.moved && c.phase == phaseOpen:
		frame = c.markText()
		c.moved = false
	}
	return frame
}

// The kinds of frames that pump sends.
type cargo uint8

const (
	everything cargo = iota
	onlyControl
)

// pump sends everything that is due, as far as the link and the window accept it.
func (c *modelClient) pump(what cargo) {
	for !c.busy && c.phase != phaseGone {
		frame := c.next()
		if frame == nil && c.pingDue && !c.closeSent {
			c.pingDue = false
			c.periodic()
			continue
		}
		if frame == nil {
			break
		}
		c.sendControl(frame)
	}
	if what == everything {
		if !c.busy && c.left {
			c.left = false
			c.ask()
		}
		for !c.busy && c.phase < phaseClosing && len(c.queue) > 0 {
			messages, bytes := c.windowRoom(c.oldest())
			if messages == 0 {
				c.win.held = true
				break
			}
			c.sendRun(messages, min(bytes, 64<<10))
		}
		c.ask()
	}
	c.settle()
}

// sendControl passes the link a frame that is no message. A reply counts for the window all the same.
func (c *modelClient) sendControl(frame []byte) {
	c.flight, c.flying, c.noticeBytes, c.probing = frame, nil, 0, false
	if frame[0]&wsframe.ControlBit == 0 {
		c.wrote(frame)
	}
	c.send()
}

// sendRun passes the link the next messages up to a gap: at most so many, and no more bytes after the first. A gap is
// told together with the messages after it, and counts as one of them. A probe that is due follows the last one in the
// same write, unless the link holds or has no room left.
func (c *modelClient) sendRun(messages, bytes int) {
	notice := c.takeGap
	if len(c.queue) > 0 && c.queue[0].gap != nil {
		messages--
	} else {
		notice = func() []byte { return nil }
	}
	var run []*modelMessage
	for _, item := range c.waiting() {
		if item.gap != nil || len(run) == messages {
			break
		}
		if bytes -= len(item.message.frame); len(run) > 0 && bytes < 0 {
			break
		}
		run = append(run, item.message)
	}
	if !c.holds && c.room == 0 && !c.failing {
		c.busy = true // no byte has been sent, so everything can still be dropped
		return
	}
	told, all := notice(), run
	var large []byte
	if len(run) > 0 && c.isLarge(run[0]) && c.announced != run[0] && messages > 1 {
		large = c.encode(fmt.Sprintf(`{"type":"large","bytes":%d}`, len(run[0].frame)))
		all = append([]*modelMessage{{frame: large}}, all...)
	}
	if told != nil {
		all = append([]*modelMessage{{frame: told}}, all...)
	}
	due := c.due(all...)
	if c.holds {
		if c.left = due; due {
			c.s.reach("a probe that was left out")
		}
		if c.announced = nil; large != nil {
			c.announced = run[0]
			run = nil
		}
		c.hold(append(told, large...), run)
		return
	}
	c.flying, c.flight = nil, told
	if c.noticeBytes = len(c.flight); c.noticeBytes > 0 {
		c.wrote(c.flight)
		c.send()
	}
	c.announced = nil
	for _, m := range run {
		if c.busy || c.phase == phaseGone {
			return
		}
		if c.room == 0 && !c.failing {
			c.busy = true
			return
		}
		if large != nil {
			c.flight, c.flying, c.noticeBytes, c.probing = large, nil, len(large), false
			c.wrote(large)
			c.announced, large = m, nil
			c.s.reach("a large message is announced")
			c.send()
			if c.busy || c.phase == phaseGone {
				return
			}
			if c.room == 0 && !c.failing {
				c.busy = true
				return
			}
		}
		c.announced = nil
		c.queue = c.queue[1:]
		c.flight, c.flying, c.noticeBytes, c.probing = slices.Clone(m.frame), []*modelMessage{m}, 0, false
		c.wroteMessage(m, due)
		c.send()
	}
	switch {
	case c.busy || c.phase == phaseGone || !due:
	case c.room == 0:
		c.busy = true
		c.s.reach("no room for a probe")
	default:
		c.s.reach("a probe in the same write")
		c.sendProbe()
	}
}

// waiting is the queue without the gaps before the first message.
func (c *modelClient) waiting() []modelItem {
	for i, item := range c.queue {
		if item.message != nil {
			return c.queue[i:]
		}
	}
	return nil
}

// oldest is the size of the first message that waits.
func (c *modelClient) oldest() int {
	if w := c.waiting(); len(w) > 0 {
		return len(w[0].message.frame)
	}
	return 0
}

// hold passes as many whole messages as fit to a link that holds them.
func (c *modelClient) hold(notice []byte, run []*modelMessage) {
	c.flight, c.flying, c.noticeBytes, c.probing = notice, nil, len(notice), false
	if notice != nil {
		c.wrote(notice)
	}
	for _, m := range run {
		if len(c.flight) > 0 && len(c.flight)+len(m.frame) > link.ChunkBytes {
			break
		}
		c.flight = append(c.flight, m.frame...)
		c.flying = append(c.flying, m)
		c.queue = c.queue[1:]
		c.wroteMessage(m, c.left)
	}
	c.send()
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
		c.seen, c.took = now, now
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
		if c.local {
			c.tookSome()
		}
		c.writable()
	}
}

// writable continues after the room had ended.
func (c *modelClient) writable() {
	if len(c.flight) > 0 && c.failing {
		if c.probing {
			c.s.reach("a failure inside a probe")
		}
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
		if c.stream == "" {
			c.ponged(a.data)
		}
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
		if c.mute() && !c.unread {
			c.tookSome()
			c.s.reach("a message of a mute client")
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
				filtered, position := c.setFilter(*request.filter), ""
				if c.stream != "" {
					position = c.position()
				}
				answer = fmt.Sprintf(answer, filtered, position)
			}
			if c.stream != "" {
				answer = strings.Replace(answer, modelTypes, modelTypes+`, \"ack\" or \"fetch\"`, 1)
			}
			return c.encode(answer)
		})
	}
}

// hello is the first message to a client with the protocol.
func (c *modelClient) hello(id ClientID) []byte {
	list := func(values []string) string {
		text, _ := json.Marshal(append([]string{}, values...)) // strings always encode
		return string(text)
	}
	promise := ""
	if c.s.ping > 0 {
		promise = fmt.Sprintf(`,"mark_ms":%d`, c.s.ping.Milliseconds())
	}
	return c.encode(fmt.Sprintf(`{"type":"hello","id":%d,"project":%q,"filters":{"level":%s,"environment":%s},"max_buffer":%d,"window":%d%s,%s}`,
		id, c.project, list(c.filter.Levels), list(c.filter.Environments), c.s.maxBuffer, c.s.countedWindow(), promise, modelPosition))
}

// encode makes the frame of a message of the protocol. If the client has agreed on the protocol, the message names the
// client's stream after its type.
func (c *modelClient) encode(text string) []byte {
	if c.stream != "" {
		text = strings.Replace(text, `",`, `","stream":"`+c.stream+`",`, 1)
	}
	return wsframe.Append(nil, wsframe.OpText, []byte(strings.Replace(text, ",}", "}", 1)))
}

// position: there is none if a message waits or is missing that is older than one that may have been sent.
func (c *modelClient) position() string {
	if c.phase != phaseOpen || c.reordered && len(c.queue) > 0 {
		c.s.reach("no position")
		return ""
	}
	return "," + string(modelPosition)
}

// modelAck is the beginning of an acknowledgement.
const modelAck = `{"type":"ack","n":`

// modelTypes is the end of the reply to a request of another type. With the protocol, there are more types.
const modelTypes = `the type for a request is \"subscribe\"`

// modelRequest is a message that clients send, together with the expected reply.
type modelRequest struct {
	text, answer string
	filter       *Filter // the filter in force after it
}

var modelRequests = []modelRequest{
	{
		`{"type":"subscribe","filters":{"level":"error"}}`,
		`{"type":"filters_updated","filters":{"level":"error","environment":""},"filtered":%d%s}`,
		&Filter{Levels: []string{"error"}},
	},
	{
		`{"type":"subscribe","filters":{"level":["info","error"],"environment":"live"}}`,
		`{"type":"filters_updated","filters":{"level":["error","info"],"environment":"live"},"filtered":%d%s}`,
		&Filter{Levels: []string{"error", "info"}, Environments: []string{"live"}},
	},
	{
		`{"type":"subscribe","filters":{}}`,
		`{"type":"filters_updated","filters":{"level":"","environment":""},"filtered":%d%s}`,
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
		`{"type":"error","code":"unknown_type","message":"` + modelTypes + `"}`,
		nil,
	},
}

// shut begins the end: buffered messages are discarded, and the close frame is sent as soon as a frame may start.
func (c *modelClient) shut(code int, reason string) {
	if c.takeHeld(); c.phase >= phaseClosing {
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
	held := take(&c.held)
	c.count(held)
	c.abandoned += len(held)
	c.phase, c.member, c.slow = to, false, false
	c.s.forgetGroups()
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
	for name, g := range s.groups {
		s.release(name, g, len(g.held))
	}
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
	if c.phase == phaseGone {
		return
	}
	if c.askAgain(); c.phase == phaseGone {
		return
	}
	owed := c.owing
	c.owing = c.s.idle > 0 && c.owes()
	switch {
	case owed && c.progressed && (c.owing || !c.win.answers):
		c.seen, c.took = now, now
		c.s.reach("a client that owes and reads")
	case c.owing && !owed:
		c.took = now
	}
	if c.s.idle > 0 && (c.owing || !c.win.answers) {
		c.progressed = false // until the next look
	}
	switch {
	case c.phase < phaseClosing && c.silent(now):
		c.giveUpOn()
	case c.s.ping == 0:
	case c.takesMark() && time.Duration(c.s.now()-c.win.lastAt)*time.Millisecond < c.s.ping*5/8: // the next visit will be in time, even if it is late
	case c.takesMark():
		c.duePing(now)
	case !c.pinged && now.Add(c.s.ping/4).Before(c.pingBy): // the next visit will still be in time
	case c.pinged && now.Add(c.s.ping/8).Before(c.pingBy): // the next visit is nearer
	default:
		c.duePing(now)
	}
}

func (c *modelClient) duePing(now time.Time) {
	if !c.askedAt.After(c.seen) {
		c.askedAt = now
	}
	c.pinged, c.pingBy = true, now.Add(c.s.ping)
	c.pingDue = true
	c.pump(onlyControl)
}

// silent: a client that owes something must have taken some of it in time, and any other must have given a sign of life.
// Both holds for one that owes nothing but the answer to a mark.
func (c *modelClient) silent(now time.Time) bool {
	long := func(since time.Time) bool { return now.Sub(since) >= c.s.idle }
	switch {
	case c.s.idle == 0 || !long(c.s.awake):
		return false
	case c.owing && long(c.took):
		if !long(c.seen) {
			c.s.reach("removed because it takes nothing")
		}
		return true
	case c.owing && !c.owesMark():
		return false
	default:
		if long(c.seen) {
			c.s.reach("removed because it is silent")
		}
		return long(c.seen) && (c.s.ping == 0 || c.askedAt.After(c.seen) && now.Sub(c.askedAt) >= c.s.idle-c.s.ping)
	}
}

// owesMark: nothing but a mark is on its way to the client.
func (c *modelClient) owesMark() bool {
	w := &c.win
	return c.stream != "" && w.answers && !c.busy && len(w.asked) > 0 && w.asked[0].handled() == modelAmount{} && w.asked[0].to == w.written
}

// giveUpOn: the client is told if a frame can be written, and hooks are told why it is gone.
func (c *modelClient) giveUpOn() {
	if !c.busy {
		c.s.reach("told that it was silent")
	}
	c.shut(wsframe.CodeTryAgainLater, reasonSilent)
	c.code = wsframe.CodeAbnormal
}

// pass handles everything that has become due by now, after some time without a turn. A write without progress has
// failed, and one with some progress has a new deadline. A close handshake was cut.
func (c *modelClient) pass() {
	now := time.Now()
	if c.phase == phaseGone {
		return
	}
	for c.holds && len(c.flight) > 0 && c.s.idle > 0 {
		due := c.pieceBegan.Add(c.s.idle)
		c.cutBefore(due)
		switch {
		case now.Before(due):
			return
		case c.pieceGone == 0:
			c.fail()
		default:
			c.seen, c.took = due, due
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

func (c *modelClient) unacknowledged() int {
	if w := &c.win; w.made && (c.stream != "" || w.answers) {
		return w.written.messages - w.acked.messages
	}
	return 0
}

func (c *modelClient) enqueue(run []*modelMessage) {
	if c.messages() == 0 {
		c.waitingSince = time.Now()
	}
	c.reordered = c.reordered && len(c.queue) > 0
	for i, m := range run {
		if c.s.overflow == Disconnect && !c.takes(m) {
			held := take(&c.held) // it comes after a message that the client misses
			c.count(held)
			c.abandoned += len(run) - i + len(held)
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
			c.reordered = c.reordered && len(c.queue) > 0
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
		c.reordered = c.reordered && len(c.queue) > 0
		return false
	}
	c.queue[i].message = m
	c.reordered = c.reordered || len(c.queue) > 1
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
	return wsframe.Append(nil, wsframe.OpText, fmt.Appendf(nil, `{"type":"gap","stream":%q,"reason":"slow","dropped":%d,"held":0,"by_level":%s,"since":%q,"until":%q%s}`,
		c.stream, all.dropped, levels, moment(all.since), moment(all.until), c.position()))
}

// setFilter: the new filter applies to the messages offered from now on, and to the waiting ones.
func (c *modelClient) setFilter(f Filter) (filtered int) {
	if c.takeHeld(); c.phase != phaseOpen {
		return 0
	}
	c.filter = f
	c.s.forgetGroups()
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

// This part of the model is a client's window: what was written, what was asked about it, and what the answers have
// shown. It decides everything anew for each message, and knows nothing of the weights and moments with which a shard
// spares itself that.

type modelWindow struct {
	made    bool        // with the first message
	written modelAmount // messages of any kind, and their frames
	acked   modelAmount

	joinedAt        int
	pinged          bool                  // it was asked when it joined
	answers, counts bool                  // it answers probes, or acknowledges by count only; neither until it is known
	pings           map[string]modelProbe // by their payloads
	marks           int
	asked           []modelProbe // those that wait for an answer
	lastAt          int          // when the last probe was written
	probed          modelAmount  // what was written up to that
	lullBy          int          // when a mark is due if another message has followed the last one; 0 if that has been looked for
	repeats         int

	limit      modelAmount
	rtt, rttAt int
	proven     bool // a probe that followed messages was answered
	late       bool // an answer was late, and the limit has not been that of a fast client since
	held       bool // the window has held messages back since the last answer

	age    time.Duration // as the last answer showed
	newest time.Time     // when the newest message was published after which a mark is to follow
}

// A modelAmount is a number of messages and their bytes.
type modelAmount struct{ messages, bytes int }

// A modelProbe is a mark or a ping: how much was written up to it, how much of that was acknowledged by then, and when
// that was. Times are in milliseconds.
type modelProbe struct {
	to, before modelAmount
	at         int
	quiet      bool      // it is a mark in silence
	from       time.Time // since when the age runs that the answer shows
}

func (p modelProbe) handled() modelAmount {
	return modelAmount{p.to.messages - p.before.messages, p.to.bytes - p.before.bytes}
}

const (
	modelSecond  = 1000
	modelDefault = 32_768 // the window in messages
	modelBytes   = 8 << 20
)

func (s *modelShard) now() int { return int(time.Since(s.madeAt) / time.Millisecond) }

// reach counts how often something has happened.
func (s *modelShard) reach(what string) { s.reached[what]++ }

func (c *modelClient) wrote(frame []byte) {
	c.win.written.messages += framesIn(frame)
	c.win.written.bytes += len(frame)
}

// framesIn is 2 for a message of BufferMessage to a client of the protocol: a notice that it is in no replay comes before
// it.
func framesIn(text []byte) (n int) {
	for len(text) > 0 {
		frame, _ := firstFrame(text)
		text = text[len(frame):]
		n++
	}
	return n
}

// join: the first frame is hello, which asks whether the client answers marks, or a ping that asks whether it answers
// pings.
func (c *modelClient) join(id ClientID) {
	w := &c.win
	w.joinedAt, w.lastAt = c.s.now(), c.s.now()
	for _, project := range []string{"", c.project} {
		follows := func(o *modelClient) bool {
			return o.joined && o.phase == phaseOpen && (project == "" || o.project == project)
		}
		if !slices.ContainsFunc(c.s.clients, follows) {
			c.s.from[project] = c.newest
		}
	}
	c.joined = true
	switch {
	case c.stream != "":
		c.makeWindow()
		w.lastAt = c.s.now()
		c.sendControl(c.hello(id))
		w.probed = w.written
	case c.s.ping > 0 && c.s.window > 0:
		w.pinged = true
		c.sendControl(c.ping())
	}
	c.settle()
}

// makeWindow: everything before the first message counts as handled, and a probe is due with that message.
func (c *modelClient) makeWindow() {
	if w := &c.win; !w.made {
		w.made, w.acked, w.lastAt, w.rttAt, w.limit = true, w.written, c.s.now()-modelSecond, c.s.now(), c.s.caps()
	}
}

func (s *modelShard) caps() modelAmount { return modelAmount{s.window, modelBytes} }

// countedWindow is the window of a client that acknowledges by count only.
func (s *modelShard) countedWindow() int {
	if s.window == modelDefault { // which no script sets itself
		return 1024
	}
	return s.window
}

// ping makes a ping that asks how far the client has got.
func (c *modelClient) ping() []byte {
	w, now := &c.win, c.s.now()
	p := modelProbe{to: w.written, before: w.acked, at: now}
	if !w.made {
		p.before = modelAmount{-c.base.messages, -c.base.bytes} // 0, wherever the shard begins to count
	}
	var payload []byte
	for _, v := range []int{p.to.messages + c.base.messages, p.to.bytes + c.base.bytes, p.before.messages + c.base.messages, p.before.bytes + c.base.bytes, now} {
		payload = binary.BigEndian.AppendUint32(payload, uint32(v))
	}
	payload = binary.BigEndian.AppendUint64(payload, c.sign(payload))
	w.pings[string(payload)] = p
	return wsframe.Append(nil, wsframe.OpPing, payload)
}

// mark makes a mark, which says how large the window is.
func (c *modelClient) mark() []byte {
	c.win.marks++
	return c.markText()
}

func (c *modelClient) markText() []byte {
	w := &c.win
	size := c.s.countedWindow()
	switch {
	case c.s.window == 0:
		size = 0
	case w.answers:
		size = w.limit.messages
	}
	age := ""
	if w.age > 0 {
		age = fmt.Sprintf(`,"age_ms":%d`, w.age/time.Millisecond)
	}
	place := c.position()
	if place == "" && c.moved {
		c.s.reach("no position under the filter that is set")
		place = `,"position":null`
	}
	return c.encode(fmt.Sprintf(`{"type":"mark","window":%d%s%s}`, size, age, place))
}

// setPlace: a client of the protocol is told its position after the application has changed its filter.
func (c *modelClient) setPlace() {
	c.moved = c.stream != ""
	c.pump(onlyControl)
}

// takesMark reports whether a client is sent a mark in the place of a ping: it answers marks, and all were answered.
func (c *modelClient) takesMark() bool {
	return c.stream != "" && c.win.answers && len(c.win.asked) == 0 && c.phase == phaseOpen
}

// lull: a second and a quarter after the answer to a mark, rounded up, messages that came after the mark and have none of
// their own yet are followed by one.
func (c *modelClient) lull() {
	w := &c.win
	if w.lullBy == 0 || c.s.now() < w.lullBy {
		return
	}
	w.lullBy = 0
	switch {
	case !c.takesMark() || c.busy:
		c.s.reach("a lull in which the client is asked anyway")
	case w.written == w.probed:
		c.s.reach("a lull in which nothing was sent")
	default:
		c.s.reach("a mark after a lull")
		c.pingDue = true
		c.pump(onlyControl)
	}
}

// periodic sends a ping, which is a probe if the client is without the protocol, or a mark.
func (c *modelClient) periodic() {
	switch {
	case c.takesMark():
		c.sendProbe()
		c.win.asked[0].quiet = true
		c.s.reach("a mark in silence")
	case c.stream != "" || c.s.window == 0:
		c.sendControl(wsframe.Ping)
	default:
		c.sendProbe()
		c.s.reach("periodic ping")
	}
}

// due reports whether a probe is due after what has been written, and some more messages: a second after the last one, and earlier if more than
// a quarter of the window is on its way or the round trip is to be measured.
func (c *modelClient) due(more ...*modelMessage) bool {
	w := &c.win
	if !w.made || len(w.asked) > 0 || c.phase != phaseOpen || c.stream == "" && !w.answers {
		return false
	}
	messages, bytes := w.written.messages-w.acked.messages, w.written.bytes-w.acked.bytes
	for _, m := range more {
		messages += framesIn(m.frame)
		bytes += len(m.frame)
	}
	switch {
	case w.answers && c.mustMeasure():
		return true
	case messages == 0:
		return false
	case c.s.now()-w.lastAt >= modelSecond:
		return true
	case !w.answers || c.s.window == 0:
		return false
	}
	return 4*messages > w.limit.messages || 4*bytes > w.limit.bytes
}

// ask sends a probe by itself, if one is due.
func (c *modelClient) ask() {
	if !c.busy && c.due() {
		c.s.reach("a probe by itself")
		c.sendProbe()
	}
}

func (c *modelClient) sendProbe() {
	before := c.win.written
	if c.stream == "" {
		c.sendControl(c.ping())
	} else {
		c.sendControl(c.mark())
	}
	if c.asks(before); c.busy && !c.holds {
		c.s.reach("a torn probe")
	}
	c.probing = c.busy
}

// asks: a probe was the last thing written, after all the rest.
func (c *modelClient) asks(before modelAmount) {
	w := &c.win
	if !w.made {
		return
	}
	w.lastAt, w.probed = c.s.now(), w.written
	if len(w.asked) == 0 {
		w.repeats = 0
	}
	mark := modelAmount{w.written.messages - before.messages, w.written.bytes - before.bytes}
	w.asked = append(w.asked, modelProbe{to: w.written, before: modelAmount{w.acked.messages + mark.messages, w.acked.bytes + mark.bytes}, at: c.s.now(), from: c.ages()})
}

// ages is since when the age runs that the answer to a mark shows which is written now: since the newest message was
// published that it follows directly. Without one, it shows the round trip, unless something waits.
func (c *modelClient) ages() time.Time {
	newest := c.win.newest
	c.win.newest = time.Time{}
	switch {
	case !newest.IsZero():
		return newest
	case c.messages() > 0 || len(c.held) > 0:
		return time.Time{}
	default:
		return time.Now()
	}
}

func (c *modelClient) aged(mark modelProbe) {
	if mark.from.IsZero() {
		c.s.reach("an answer that shows no age")
		return
	}
	c.win.age = max(1, time.Since(mark.from))
	c.s.ages[c.win.age]++
}

// wroteMessage notes when a message was published after which a mark is due.
func (c *modelClient) wroteMessage(m *modelMessage, due bool) {
	c.wrote(m.frame)
	if due && m.at.After(c.win.newest) {
		c.win.newest = m.at
	}
}

// askAgain repeats a ping while the window is shut: after a second, and then after twice as long each time.
func (c *modelClient) askAgain() {
	w := &c.win
	if !w.made || c.stream != "" || c.busy || c.phase != phaseOpen {
		return
	}
	if w.held && c.mute() {
		w.held = false
		c.pump(everything)
		return
	}
	if len(w.asked) == 0 || !w.answers || c.s.now()-w.lastAt < modelSecond<<w.repeats {
		return
	}
	if n, _ := c.windowRoom(c.oldest()); n == 0 {
		w.repeats = min(w.repeats+1, 5)
		c.s.reach("a repeated ping")
		c.sendProbe()
		c.settle()
	}
}

// target is how long an answer may take beside the round trip.
func (s *modelShard) target() int {
	target := int(s.freshness.Milliseconds())
	if s.idle > 0 {
		target = min(target, int((s.idle / 4).Milliseconds()))
	}
	return target
}

// patience is how long an answer may take: as long as the shortest round trip and the target, or a tenth of the target
// until the client has proven something.
func (c *modelClient) patience() int {
	if !c.win.proven {
		return c.win.rtt + c.s.target()/10
	}
	return c.win.rtt + c.s.target()
}

func (c *modelClient) late() bool {
	patience := c.patience()
	if !c.win.proven {
		patience = min(patience, c.s.target()/3) // hello may have waited for a page that loads
	}
	return len(c.win.asked) > 0 && c.s.now()-c.win.asked[0].at > patience
}

// mustMeasure: every ten seconds, the round trip is measured of a client that was late and for which messages wait.
func (c *modelClient) mustMeasure() bool {
	return c.win.late && !c.through && c.messages() > 0 && c.s.now()-c.win.rttAt >= 10*modelSecond
}

// windowRoom returns how many more messages may be written, the first of which has next bytes, and how many bytes of them.
// One message may always go when nothing is on its way.
func (c *modelClient) windowRoom(next int) (messages, bytes int) {
	c.makeWindow()
	w := &c.win
	out := modelAmount{w.written.messages - w.acked.messages, w.written.bytes - w.acked.bytes}
	most, why := modelAmount{math.MaxInt32, math.MaxInt32}, ""
	switch {
	case c.s.window == 0:
	case c.phase == phaseFlushing:
	case w.answers && c.mustMeasure():
		most, why = modelAmount{}, "shut for a measurement"
	case w.answers && c.late():
		most, why = modelAmount{1, 0}, "shut by time"
	case w.answers:
		most, why = w.limit, "shut by amount"
	case c.stream != "":
		most.messages, why = c.s.countedWindow(), "shut by count"
	case w.pinged && c.s.now() < w.joinedAt+5*modelSecond:
		most, why = modelAmount{c.s.window, 64 << 10}, "shut before the first pong"
	case w.pinged:
		c.s.reach("served without pongs")
	}
	if out.messages >= most.messages || out.messages > 0 && out.bytes+next > most.bytes {
		c.s.reach(why)
		if w.limit == c.s.caps() && why == "shut by amount" {
			c.s.reach("shut by a cap")
		}
		if out.messages < most.messages {
			c.s.reach("shut by bytes")
		}
		return 0, 0
	}
	return most.messages - out.messages, max(0, most.bytes-out.bytes)
}

// acknowledge handles the count of a client with the protocol.
func (c *modelClient) acknowledge(count string) {
	w := &c.win
	n, err := strconv.Atoi(count)
	if err != nil || n <= w.acked.messages || n > w.written.messages {
		c.answer(func() []byte {
			return c.encode(`{"type":"error","code":"invalid_ack","message":"n is not a number of messages that are to be acknowledged"}`)
		})
		return
	}
	c.waits = false
	if !w.answers && !w.counts {
		w.answers, w.counts = n == 1, n != 1
		if w.answers && w.marks == 0 {
			w.rtt, w.lastAt = max(1, c.s.now()-w.joinedAt), w.joinedAt-modelSecond
			c.s.reach("hello acknowledged")
		} else if w.answers {
			c.s.reach("hello acknowledged after a mark")
		}
	}
	held := w.held
	switch {
	case len(w.asked) == 0:
		w.acked = between(w.acked, w.written, n)
		c.s.reach("acknowledged without a mark")
	case n < w.asked[0].to.messages:
		w.acked = between(w.acked, w.asked[0].to, n)
		c.s.reach("acknowledged before the mark")
	default:
		mark := w.asked[0]
		if mark.quiet && c.late() {
			c.s.reach("a late answer to a mark in silence")
		}
		if w.answers {
			c.learn(c.s.now()-mark.at, mark.handled(), mark.quiet)
			c.aged(mark)
		}
		if w.counts {
			c.s.reach("a mark counted")
		}
		if n > mark.to.messages {
			c.s.reach("acknowledged beyond the mark")
		}
		w.asked = nil
		if w.answers {
			w.lullBy = (c.s.now()+127)/128*128 + 1250
		}
		w.acked = between(mark.to, w.written, n)
	}
	c.tookSome()
	c.handled(held)
}

// between returns the amount of the first n messages, if those from one amount to another all have the same size.
func between(from, to modelAmount, n int) modelAmount {
	if n == to.messages {
		return to
	}
	return modelAmount{n, from.bytes + (to.bytes-from.bytes)*(n-from.messages)/(to.messages-from.messages)}
}

// ponged handles a pong. It means something if it is the payload of a ping that this client was sent.
func (c *modelClient) ponged(payload []byte) {
	w := &c.win
	ping, ok := w.pings[string(payload)]
	switch first := !w.answers; {
	case !ok:
		if len(payload) == 28 {
			c.s.reach("a forged pong")
		}
	case w.made && len(w.asked) > 0 && ping.at >= w.asked[0].at:
		w.answers = true
		c.answered(ping)
	case first || !w.made: // no message precedes the ping at join
		w.answers = true
		if rtt := max(1, c.s.now()-ping.at); w.rtt == 0 || rtt < w.rtt {
			w.rtt = rtt
		}
		switch {
		case !w.made:
			c.s.reach("a pong before the first message")
			return
		case c.s.now() >= w.joinedAt+5*modelSecond:
			c.s.reach("a first pong after five seconds")
		}
		c.handled(w.held)
	default:
		c.s.reach("an old pong")
	}
}

// answered: the newest ping is all that waits for an answer after an earlier one was answered.
func (c *modelClient) answered(ping modelProbe) {
	w := &c.win
	held, isNews := w.held, ping.to != w.acked
	if isNews {
		c.tookSome()
	}
	if isNews || ping.to == ping.before {
		c.learn(c.s.now()-ping.at, ping.handled(), false)
	}
	newest := w.asked[len(w.asked)-1]
	switch {
	case ping.to != newest.to || ping.at != newest.at:
		w.asked = []modelProbe{newest}
		c.s.reach("a pong for an earlier ping")
	case len(w.asked) > 1:
		c.s.reach("a pong for several pings")
		fallthrough
	default:
		w.asked = nil
	}
	w.repeats = 0
	w.acked = ping.to
	c.handled(held)
}

// tookSome: the client has taken something that it owed.
func (c *modelClient) tookSome() { c.seen, c.took = time.Now(), time.Now() }

// handled: messages that the window has held back may go.
func (c *modelClient) handled(held bool) {
	switch {
	case c.busy:
	case held:
		c.pump(everything)
	default:
		c.ask()
		c.settle()
	}
}

// learn: an answer came after some time, and shows that the client has handled some messages in it. That a page answers
// a mark in silence late says nothing about its way.
func (c *modelClient) learn(took int, handled modelAmount, quiet bool) {
	w := &c.win
	took = max(1, took)
	alone := handled.messages == 0
	if w.rtt == 0 || took <= w.rtt || alone && !quiet && w.late && c.s.now()-w.rttAt >= 10*modelSecond {
		if took > w.rtt && w.rtt > 0 {
			c.s.reach("a longer round trip")
		}
		w.rtt, w.rttAt = took, c.s.now()
	}
	late := took > c.patience()
	if !alone {
		w.proven = true
	}
	patience, before := c.patience(), w.limit
	able := modelAmount{max(1, handled.messages*patience/took), max(1, handled.bytes*patience/took)}
	double := modelAmount{2 * w.limit.messages, 2 * w.limit.bytes}
	switch {
	case alone:
	case late:
		c.s.reach("a late answer")
		if w.held {
			if !w.late { // its way may have become longer
				w.late, w.rttAt = true, c.s.now()-10*modelSecond
			}
			w.limit = least(w.limit, able)
		}
	case w.limit == c.s.caps():
	case took-w.rtt <= patience/8: // it was hardly busy
		w.limit = least(double, c.s.caps())
	default:
		more := modelAmount{max(w.limit.messages, able.messages), max(w.limit.bytes, able.bytes)}
		w.limit = least(least(more, double), c.s.caps())
	}
	w.late = w.late && w.limit != c.s.caps()
	switch {
	case w.limit.messages < before.messages:
		c.s.reach("a limit that shrinks")
	case w.limit.messages > before.messages:
		c.s.reach("a limit that grows")
	}
	w.held = false
}

func least(a, b modelAmount) modelAmount {
	return modelAmount{min(a.messages, b.messages), min(a.bytes, b.bytes)}
}

// mute reports whether the client has not answered a ping within five seconds.
func (c *modelClient) mute() bool {
	return c.win.pinged && !c.win.answers && c.s.now() >= c.win.joinedAt+5*modelSecond
}

// owes reports whether there is something that the client has to take before anything else is a sign of life.
func (c *modelClient) owes() bool {
	w := &c.win
	switch {
	case !w.made:
		return false
	case c.busy && c.messages()+len(c.flying) > 0:
		return true
	case w.answers:
		return len(w.asked) > 0 && w.written != w.acked
	case c.stream == "":
		return c.mute() || c.unread
	default:
		return c.messages() > 0 || c.unread
	}
}
