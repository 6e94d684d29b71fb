package mesherstream

import (
	"slices"
	"time"
)

// The model: what a shard promises to each of its clients, played one message at a time, with a list for a queue, and
// down to the byte that each link is given. It knows nothing of groups, rings, joined frames and waiting lists.

// modelShard is what a test has published and asked for, and when the shard's turn takes it.
type modelShard struct {
	maxBuffer, maxBytes int
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

type modelMessage struct {
	id                 int
	level, environment string
	frame              []byte
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
	queue   []*modelMessage
	reply   []byte // the answer that is due
	busy    bool
	slow    bool

	// What can't be taken back. A link that holds sends it in pieces, each with a deadline.
	flight      []byte
	flying      []*modelMessage
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

	seen, askedAt, pingAt, waitingSince, cutAt time.Time
	requests                                   int
	requestsFrom                               time.Time

	offeredIDs                        []int
	filtered                          int
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
			if len(c.queue) > 0 && time.Since(c.waitingSince) >= s.interval {
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
	if len(c.queue) > 0 && !c.fits(run) {
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
	atOnce := c.idle()
	c.enqueue(run)
	if atOnce { // a pong that is due comes at the end of the turn
		c.pump(onlyMessages)
	} else {
		c.pump(everything)
	}
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

func (c *modelClient) fits(run []*modelMessage) bool {
	bytes := c.messageBytes()
	for _, m := range run {
		bytes += len(m.frame)
	}
	return len(c.queue)+len(run) <= c.s.maxBuffer && bytes <= c.s.maxBytes
}

func (c *modelClient) enqueue(run []*modelMessage) {
	if len(c.queue) == 0 {
		c.waitingSince = time.Now()
	}
	for _, m := range run {
		for len(c.queue) > 0 && (len(c.queue) >= c.s.maxBuffer || c.messageBytes()+len(m.frame) > c.s.maxBytes) {
			c.queue = c.queue[1:]
			c.dropped++
			c.markSlow()
		}
		c.queue = append(c.queue, m)
	}
}

func (c *modelClient) messageBytes() (n int) {
	for _, m := range c.queue {
		n += len(m.frame)
	}
	return n
}

// answer: a request is answered in front of what waits. The next one is read after that.
func (c *modelClient) answer(reply func() []byte) {
	if now := time.Now(); now.Sub(c.requestsFrom) >= time.Second {
		c.requests, c.requestsFrom = 0, now
	}
	if c.requests++; c.requests > maxRequestsPerSecond {
		c.waits = false
		c.shut(codePolicyViolation, "too many requests in one second")
		return
	}
	c.reply = reply()
	c.pump(onlyControl)
}

// setFilter: the new filter counts for what is offered from now on, and for what waits.
func (c *modelClient) setFilter(f Filter) (filtered int) {
	if c.phase != phaseOpen {
		return 0
	}
	c.filter = f
	waiting := len(c.queue)
	c.queue = slices.DeleteFunc(c.queue, func(m *modelMessage) bool {
		return !lets(f.Levels, m.level) || !lets(f.Environments, m.environment)
	})
	filtered = waiting - len(c.queue)
	c.filtered += filtered
	return filtered
}

func lets(list []string, v string) bool { return v == "" || len(list) == 0 || slices.Contains(list, v) }

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
				c.flight, c.flying = frame, nil
				c.send()
				continue
			}
		}
		if what == onlyControl || len(c.queue) == 0 {
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

// takeOff gives the link the next message, or as many whole ones as a link that holds may take.
func (c *modelClient) takeOff() {
	c.flight, c.flying = nil, nil
	for len(c.queue) > 0 {
		m := c.queue[0]
		if len(c.flying) > 0 && (!c.holds || len(c.flight)+len(m.frame) > chunkBytes) {
			break
		}
		c.flight = append(c.flight, m.frame...)
		c.flying = append(c.flying, m)
		c.queue = c.queue[1:]
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
		c.remove(codeAbnormal)
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
	c.piece, c.pieceGone, c.pieceBegan = min(len(c.flight), chunkBytes), 0, time.Now()
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
	if now := time.Now(); now.Sub(c.pieceBegan) >= blockedFor {
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
	gone := c.flown
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
		c.remove(codeAbnormal)
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
		c.remove(codeAbnormal)
		return
	}
	c.take(min(c.room, len(c.flight)))
	c.flightBytes = len(c.flight)
	if len(c.flight) == 0 {
		c.land()
		c.pump(everything)
	}
}
