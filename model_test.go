package mesherstream

import (
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// The model: what a shard promises to each of its clients, played one message at a time, with a list for a queue, and
// down to the byte that each link is given. It knows nothing of groups, rings, joined frames and waiting lists. What waits
// for a client is in model_queue_test.go, and how a client lives in model_life_test.go.

// modelShard is what a test has published and asked for, and when the shard's turn takes it.
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

// A modelCast is a message for all whom it matches, or something else to do.
type modelCast struct {
	message *modelMessage
	sub     func(*modelClient) bool // whom the message matches, when its turn has come
	do      func()
}

type modelClient struct {
	s       *modelShard
	holds   bool // its link takes whole frames and sends them by itself
	project string
	filter  Filter
	phase   phase
	member  bool // the application can name it

	room    int // what the kernel takes now
	failing bool
	wire    []byte
	queue   []modelItem
	reply   []byte // the answer that is due
	busy    bool
	slow    bool

	// What can't be taken back. A link that holds sends it in pieces, each with a deadline.
	flight      []byte
	flying      []*modelMessage
	noticeBytes int // of the flight, in front of those
	flightBytes int // as accounts count it
	flown       int
	piece       int // bytes of it that are under one deadline
	pieceGone   int
	pieceBegan  time.Time

	pong, pinging, closing   []byte
	closeSent, closeReceived bool
	code                     int

	incoming []arrival
	waits    bool // for the answer to what it has sent
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

// turn does what the shard's next turn must do.
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

// offer: nothing is dropped while the client could take it. What doesn't fit drops the oldest.
func (c *modelClient) offer(run []*modelMessage) {
	if c.messages() > 0 && !c.fits(run) {
		switch {
		case !c.busy:
			c.pump(everything)
		case !c.slow && !c.holds: // it is asked once more
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

// writeThrough: nothing waits, so what the window and the link take of the run goes out as it is. Only the rest waits, and
// only what waits can be replaced. A pong that is due comes at the end of the turn.
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

// buffer is BufferMessage.
func (c *modelClient) buffer(m *modelMessage) {
	c.count([]*modelMessage{m})
	if c.phase != phaseOpen {
		c.abandoned++
		return
	}
	c.enqueue([]*modelMessage{m})
}

// answer: a request is answered in front of what waits. The next one is read after that. Each costs 50 ms of the time that
// a client has been there, of which it begins with a second, and has a minute at most.
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

// next takes the control frame that has to go out before the next message, if any.
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

// What pump sends.
type cargo uint8

const (
	everything cargo = iota
	onlyControl
	onlyMessages
)

// pump sends what is due, as far as the link takes it.
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
			c.busy = true // nothing of the message is gone, so it can still be dropped
			break
		}
		c.takeOff()
		c.send()
	}
	c.settle()
}

// sendControl gives the link a frame that is no message. An answer counts for the window all the same.
func (c *modelClient) sendControl(frame []byte) {
	c.flight, c.flying, c.noticeBytes = frame, nil, 0
	if frame[0]&wsframe.ControlBit == 0 {
		c.written++
	}
	c.send()
}

// takeOff gives the link the next message, or as many whole ones as a link that holds may take. A gap is told with the
// messages behind it, and ends those in front of it.
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

// send begins a flight. Over a link that doesn't hold, what the kernel has room for is gone at once.
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

// fly is what happens beside the shard: the kernel takes what it has room for, and the shard is told.
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

// signOfLife: that a write ends which had to wait for the client is one.
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

// fail ends a flight over a link that holds. The messages that are whole were sent.
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

// hint is the news of room, over a link that doesn't hold.
func (c *modelClient) hint() {
	if c.phase != phaseGone && c.busy {
		c.seen = time.Now()
		c.writable()
	}
}

// writable goes on where the room ended.
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
