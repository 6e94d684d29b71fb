package mesherstream

import (
	"errors"
	"io"
	"time"
)

// This file is the life of a client on its shard's goroutine: it joins, asks for things, and leaves.

// closeGrace is how long a client may take to answer a close frame, which may have to wait for room itself.
const closeGrace = 2 * time.Second

// Why this package itself closes clients. Those of code 1013 tell when one may come back; a page waits a little longer,
// each a different time, so that not all come back at once.
const (
	reasonShutdown = "the server is shutting down"
	reasonTooSlow  = "too slow; retry_after_ms=1000"
	reasonTooMany  = "too many clients; retry_after_ms=5000"
	reasonTooOften = "more than 20 requests a second"
)

func (s *shard) add(c *client) {
	c.inWaiting = -1
	c.pingAt, c.askedAt = s.cfg.firstPing(c.connectedAt), c.connectedAt
	s.totals.Clients++
	s.totals.Connects++
	s.enterGroup(c)
	s.regrouping.Add(-1)
	s.wheel.add(c)
	s.hooks.connect(c)
	if c.v1 != nil {
		if err := s.writeControl(c, c.v1.hello(c)); err != nil {
			s.remove(c, err)
			return
		}
	}
	c.link.begin()
}

func (s *shard) enterGroup(c *client) {
	key := c.sub.key()
	g := s.groups[key]
	if g == nil {
		ofProject := s.projects[c.sub.Project]
		g = &group{key: key, sub: c.sub, inProject: len(ofProject)}
		s.mu.Lock()
		s.groups[key] = g
		s.projects[c.sub.Project] = append(ofProject, g)
		s.mu.Unlock()
	}
	c.group, c.inGroup = g, len(g.clients)
	g.clients = append(g.clients, c)
}

// leaveGroup ends what the client is offered.
func (s *shard) leaveGroup(c *client) {
	g := c.group
	if g == nil {
		return
	}
	c.group = nil
	g.clients = swapOut(g.clients, c.inGroup, func(moved *client) { moved.inGroup = c.inGroup })
	if len(g.clients) > 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.groups, g.key)
	ofProject := swapOut(s.projects[g.sub.Project], g.inProject, func(moved *group) { moved.inProject = g.inProject })
	if s.projects[g.sub.Project] = ofProject; len(ofProject) == 0 {
		delete(s.projects, g.sub.Project)
	}
}

// swapOut takes the element at i out of list and puts the last one in its place, telling which one that is.
func swapOut[T any](list []*T, i int, moved func(*T)) []*T {
	last := len(list) - 1
	list[i] = list[last]
	moved(list[i])
	list[last] = nil
	return list[:last]
}

// handle does what an event asks for.
func (s *shard) handle(e *event) {
	c := e.client
	if c.phase == phaseGone {
		return
	}
	switch e.kind {
	case eventJoined:
		s.add(c)
	case eventReady:
		c.link.ready()
	case eventWritable:
		s.writable(c, e.n, e.err)
	case eventReceived:
		s.received(c, e.op, e.payload)
	case eventResume:
		c.inHook = false
		c.markSeen(time.Now()) // what it sent meanwhile was not read
		c.link.resume()
	case eventRefused:
		var ce *closeError
		errors.As(e.err, &ce)
		s.shut(c, ce.code, ce.reason)
	case eventEnded:
		s.ended(c, e.err)
	case eventCut:
		s.remove(c, errors.New("the close handshake took too long"))
	}
}

// received takes one message or control frame of the client. Each call is followed by one resume, sooner or later, also
// where it ends the client: the answer to a close frame wants to be read.
func (s *shard) received(c *client, op byte, payload []byte) {
	if c.closeReceived {
		c.link.resume() // what comes behind a close frame is discarded
		return
	}
	switch op {
	case opPing:
		// Only the newest ping needs an answer (RFC 6455, section 5.5.3), and a flood of them gets one in a turn.
		if c.pong == nil {
			s.pinged = append(s.pinged, c)
		}
		c.pong = appendFrame(nil, opPong, payload)
		c.link.resume()
	case opPong:
		c.link.resume()
	case opClose:
		code, reason := parseClose(payload)
		c.closeReceived = true
		c.link.resume()
		s.shut(c, code, reason)
		s.settle(c, nil) // it may have been the answer to ours
	default:
		if c.phase != phaseOpen {
			c.link.resume()
			return
		}
		s.receivedMessage(c, op, payload)
	}
}

func (s *shard) sendPongs() {
	for _, c := range s.pinged {
		if c.phase != phaseGone {
			s.drainControl(c)
		}
	}
	clear(s.pinged)
	s.pinged = s.pinged[:0]
}

func (s *shard) receivedMessage(c *client, op byte, payload []byte) {
	var kind string
	var malformed error
	if op == opText {
		kind, malformed = requestType(payload)
	}
	switch {
	case kind == typeSubscribe && malformed == nil:
		s.answer(c, func() []byte { return s.subscribe(c, payload) })
	case kind == typeAck && malformed == nil && c.v1 != nil:
		s.acknowledged(c, payload)
	case s.hooks.message(c, op == opBinary, payload):
		c.inHook = true // the link resumes when the hook has returned
	case op == opBinary:
		c.link.resume()
		s.shut(c, codeUnsupportedData, "binary messages are not accepted here")
	case malformed != nil:
		s.answer(c, func() []byte { return refusal(c, errorMalformed, "not a JSON object with a type") })
	default:
		s.answer(c, func() []byte { return refusal(c, errorUnknownType, `the type for a request is "subscribe"`) })
	}
}

// answer sends the reply to a request, in front of what is buffered. The link reads on when the reply is on its way, so
// there is never more than one.
func (s *shard) answer(c *client, reply func() []byte) {
	if !c.pay(time.Now()) {
		c.link.resume()
		s.shut(c, codePolicyViolation, reasonTooOften)
		return
	}
	c.reply = reply()
	s.drainControl(c)
}

// subscribe changes the filter as the client asks, and returns the answer.
func (s *shard) subscribe(c *client, data []byte) []byte {
	request, err := parseSubscribe(data)
	if err != nil {
		return refusal(c, errorMalformed, err.Error())
	}
	filter, err := request.filter()
	if err != nil {
		return refusal(c, errorInvalidFilter, err.Error())
	}
	if filter, err = filter.within(c.grant); err != nil {
		return refusal(c, errorNotGranted, err.Error())
	}
	return request.answer(filter, c.v1.name(), s.setFilter(c, filter))
}

// setFilter puts a filter into force that is within the grant, takes out what waits and doesn't pass it, and returns how
// many messages that was. What is in flight can't be taken back.
func (s *shard) setFilter(c *client, f Filter) (filtered int) {
	if c.phase != phaseOpen {
		return 0
	}
	s.regrouping.Add(1)
	s.leaveGroup(c)
	c.sub.Filter = f
	s.enterGroup(c)
	s.regrouping.Add(-1)
	s.totals.FilterSets++
	filtered = c.backlog.filter(f.matches)
	c.filtered += uint64(filtered)
	s.totals.Filtered += uint64(filtered)
	return filtered
}

// buffer puts m into the client's backlog, where it waits for the next drain.
func (s *shard) buffer(c *client, m *message) {
	c.offered++
	s.totals.Offered++
	if c.phase != phaseOpen {
		s.countAbandoned(c, 1)
		return
	}
	s.batch = append(s.batch[:0], m)
	s.enqueue(c, s.batch)
	clear(s.batch)
	s.settle(c, nil)
}

// shut begins the end: what is buffered is given up, the close frame goes out as soon as a frame may start, and the
// client has a moment to answer it.
func (s *shard) shut(c *client, code int, reason string) {
	if c.phase >= phaseClosing {
		return
	}
	s.withdraw(c)
	c.phase = phaseClosing
	c.closeCode, c.closeReason = code, reason
	c.closing = closeFrame(code, reason)
	s.abandon(c)
	if c.reply != nil {
		c.reply = nil
		c.link.resume()
	}
	c.cutTimer = time.AfterFunc(closeGrace, func() { s.post(event{kind: eventCut, client: c}) })
	s.drain(c)
}

// withdraw takes the client out of sight: nothing more is offered to it, and the application can't name it any more.
func (s *shard) withdraw(c *client) {
	if c.phase != phaseOpen {
		return
	}
	s.leaveGroup(c)
	s.unmarkSlow(c)
	s.unregister(c)
	s.leaving[c] = struct{}{}
	s.totals.Clients--
}

// abandon gives up what is buffered for the client and what it was to be told of gaps, but not what is in flight.
func (s *shard) abandon(c *client) {
	n := c.backlog.len()
	c.backlog.discard(n)
	c.backlog.gaps.clear()
	s.countAbandoned(c, n)
}

func (s *shard) countAbandoned(c *client, n int) {
	c.abandoned += uint64(n)
	s.totals.Abandoned += uint64(n)
}

// ended is told when nothing more will come from the client, which may have said so itself and still be reading: a close
// frame that is on its way to it isn't taken back.
func (s *shard) ended(c *client, err error) {
	if c.phase == phaseClosing && c.busy && errors.Is(err, io.EOF) {
		c.closeReceived = true // there will be no better answer
		return
	}
	s.remove(c, err)
}

// remove ends the client's life. cause is nil when the close handshake is complete.
func (s *shard) remove(c *client, cause error) {
	if c.phase == phaseGone {
		return
	}
	s.withdraw(c)
	c.phase = phaseGone
	delete(s.leaving, c)
	s.unawait(c)
	s.wheel.remove(c)
	if c.cutTimer != nil {
		c.cutTimer.Stop()
	}
	if s.hooks.fns.Disconnect == nil && s.hooks.keepsUp() {
		c.place.release() // before the client can know that it is gone, or one that comes back at once meets itself
	}
	c.link.close()

	s.abandon(c)
	s.countAbandoned(c, c.flight.messages)
	c.flight = flight{}
	s.totals.Disconnects++
	if c.closeCode == 0 {
		c.closeCode = codeAbnormal
		if cause != nil && !errors.Is(cause, io.EOF) {
			c.closeReason = cause.Error()
		}
	}
	s.hooks.disconnect(c)
}

// shutAll closes every client: after it has got what it was offered, and was told what it missed, if flush is true, and
// otherwise as soon as a frame may start.
func (s *shard) shutAll(flush bool) {
	for _, c := range s.everyone() {
		if !flush || c.idle() {
			s.shut(c, codeGoingAway, reasonShutdown)
			continue
		}
		if c.phase == phaseOpen {
			s.withdraw(c)
			c.phase = phaseFlushing
			s.drain(c)
		}
	}
}

func (s *shard) removeAll() {
	for _, c := range s.everyone() {
		s.remove(c, errors.New("the shutdown took too long"))
	}
}

// everyone lists the clients, those that are leaving included.
func (s *shard) everyone() []*client {
	var all []*client
	for _, g := range s.groups {
		all = append(all, g.clients...)
	}
	for c := range s.leaving {
		all = append(all, c)
	}
	return all
}

// snapshots lists the clients that are open.
func (s *shard) snapshots() []Client {
	list := make([]Client, 0, s.totals.Clients)
	for _, g := range s.groups {
		for _, c := range g.clients {
			list = append(list, c.snapshot())
		}
	}
	return list
}

// stats completes the running totals with what waits now.
func (s *shard) stats() Stats {
	t := s.totals
	for _, c := range s.waiting {
		t.Buffered += c.buffered()
		t.BufferedBytes += int64(c.bufferedBytes())
	}
	return t
}
