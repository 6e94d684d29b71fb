package mesherstream

import (
	"bytes"
	"time"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// This file follows a message through a shard. The message is matched with groups, joined with those that arrived with
// it, and written to each client's link or put into its backlog. All of this runs on the shard's goroutine.

// maxScratch bounds how large the buffer for joined frames may stay between turns.
const maxScratch = 256 << 10

// joinBytes is about how many bytes of frames one write drains from a backlog.
const joinBytes = 64 << 10

// deliverBatch delivers the queued broadcasts together.
func (s *shard) deliverBatch() {
	if len(s.batch) == 0 {
		return
	}
	begin := s.beginBatch()
	for _, m := range s.batch {
		a := s.audience(m.project)
		if a == nil || !a.taken.take(m) {
			continue
		}
		if a.sieve != nil {
			s.offerSifted(a, m)
			continue
		}
		for _, g := range a.groups {
			s.offerGroup(g, m)
		}
	}
	held, delivered := false, false
	for _, g := range s.touched {
		n := s.ripe(g)
		if g.fresh = 0; n > 0 {
			if !delivered {
				begin = s.beginLittle(begin)
			}
			s.deliverGroup(g, n)
			delivered = true
		}
		if len(g.batch) > 0 {
			s.hold(g)
			held = true
		}
	}
	s.endLittle()
	clear(s.touched)
	s.touched = s.touched[:0]
	clear(s.batch)
	s.batch = s.batch[:0]
	if delivered || !held {
		s.endBatch(begin)
	}
}

// What is little: one goroutine writes it to the clients of all shards within some fifteen milliseconds.
const (
	littleWrites = 1200    // by all shards together
	littleBytes  = 8 << 10 // in each write
)

// hasLittle reports whether the batches of the touched groups are little to write. Of the shards that write little, only half
// do so at a time: on two cores, one after the other. If all processors write, they take each other's time, and that of what
// reads on the same machine, such as a proxy. With 13 messages a second to 1,000 clients on two cores, a message then cost a
// seventh more, and arrived 2 ms sooner in the median.
func (s *shard) hasLittle() bool {
	writes := 0
	for _, g := range s.touched {
		if writes += len(g.clients); writes*s.cfg.shards > littleWrites {
			return false
		}
		bytes := 0
		for _, m := range g.batch {
			if bytes += m.size(); bytes > littleBytes {
				return false
			}
		}
	}
	return true
}

// beginLittle waits, if the shard has little to write, until it may. A batch that began at begin then begins so much later.
func (s *shard) beginLittle(begin time.Time) time.Time {
	if !s.hasLittle() {
		return begin
	}
	s.counts = true
	if begin.IsZero() {
		s.writing <- struct{}{}
		return begin
	}
	waits := time.Now()
	s.writing <- struct{}{}
	return begin.Add(time.Since(waits))
}

// endLittle is called after the batches are written, or as soon as a backlog has to be: it may be much, and the client's link
// may accept all of it.
func (s *shard) endLittle() {
	if s.counts {
		s.counts = false
		<-s.writing
	}
}

// One of every deliveriesTimed batches of a shard is timed. Reading the clock twice costs about as much as handing one
// message to one client.
const deliveriesTimed = 64

// beginBatch returns when the batch began, or zero if it isn't timed.
func (s *shard) beginBatch() (begin time.Time) {
	if s.batches++; s.batches%deliveriesTimed == 0 {
		begin = time.Now()
	}
	return begin
}

func (s *shard) endBatch(begin time.Time) {
	if !begin.IsZero() {
		s.totals.Deliveries.observe(time.Since(begin))
	}
}

// offerSifted offers a message to the groups of an audience that has a sieve, without those whose filters it certainly does
// not pass.
func (s *shard) offerSifted(a *audience, m *message) {
	q := m.question()
	for i := a.sieve.Next(&q, 0); i < len(a.groups); i = a.sieve.Next(&q, i+1) {
		s.offerGroup(a.groups[i], m)
	}
}

func (s *shard) offerGroup(g *group, m *message) {
	if g.looksBack || g.apart && g.from.covers(m) || !g.sub.matches(m) {
		return
	}
	if g.fresh == 0 {
		s.touched = append(s.touched, g)
	}
	g.fresh++
	g.batch = append(g.batch, m.in(g.encoding))
}

// A batch is messages that are delivered together, to the clients of a group or to one of them.
type batch struct {
	messages []*message
	bytes    int
	large    bool    // one of them is
	joined   stretch // their frames, if isJoined
	isJoined bool
}

func newBatch(messages []*message) (b batch) {
	b.messages = messages
	for _, m := range messages {
		b.bytes += m.size()
		b.large = b.large || m.isLarge()
	}
	return b
}

// deliverGroup delivers the n oldest messages of the group's batch to each of its clients. It iterates backwards, since a
// client whose link fails leaves the group, and the last client then takes its place.
func (s *shard) deliverGroup(g *group, n int) {
	all := g.batch
	g.batch = all[n:] // the others are still pending
	b, ahead := newBatch(all[:n]), false
	for i := len(g.clients) - 1; i >= 0; i-- {
		c := g.clients[i]
		if c.ahead > 0 {
			ahead = true
			continue
		}
		c.deliver(&b)
	}
	if ahead {
		g.deliverAhead(all[:n])
	}
	rest := copy(all, all[n:])
	clear(all[rest:])
	if g.batch = all[:rest]; rest == 0 {
		s.unhold(g)
	}
}

// deliverAhead delivers a batch to the clients that are not to be sent all of it.
func (g *group) deliverAhead(messages []*message) {
	for i := len(g.clients) - 1; i >= 0; i-- {
		c := g.clients[i]
		if c.ahead == 0 {
			continue
		}
		without := min(int(c.ahead), len(messages))
		if c.ahead -= int32(without); without < len(messages) {
			b := newBatch(messages[without:])
			c.deliver(&b)
		}
	}
}

// deliver delivers a batch to the client.
func (c *client) deliver(b *batch) {
	s := c.shard
	if c.queued() > 0 && !c.out.backlog.fits(len(b.messages), b.bytes, s.limits) {
		if c.makeRoom(b.messages); c.phase == phaseGone {
			return
		}
	}
	c.countOffered(len(b.messages))
	if !c.idle() || b.large && c.v1 != nil { // such a client is told before a large message
		c.enqueue(b.messages)
		c.drain()
		return
	}
	if !b.isJoined { // the place after the batch is that of all clients that receive it at once
		b.joined, b.isJoined = join(&s.joined, b.messages, c.placeAfter(0, 0)), true
	}
	c.writeThrough(&b.joined, b.messages)
}

// writeThrough sends a batch to a client for which nothing is buffered, as far as its window and its link accept it.
// The rest is buffered.
func (c *client) writeThrough(joined *stretch, batch []*message) {
	s := c.shard
	now, p, buf := batch, joined, &s.joined
	var probe []byte
	passes := c.passes(len(batch), len(joined.bytes))
	if !passes {
		n, size := c.fitting(batch)
		if n < len(batch) {
			now, buf = batch[:n], &s.scratch
			part := join(buf, now, "")
			p = &part
			c.window.held = true
		}
		probe = c.probe(amount{uint32(n), uint32(size)}, 0, 0, batch[n:])
	}
	taken := 0
	var err error
	if len(now) > 0 {
		var landed int
		taken, landed, err = c.write(p, now, buf, probe)
		c.countSent(landed)
	}
	if taken < len(batch) {
		c.enqueue(batch[taken:])
	}
	if !passes {
		c.review()
	}
	c.settle(err)
}

// fitting returns how many messages of a batch fit into the client's window, and the size of their frames.
func (c *client) fitting(batch []*message) (n, size int) {
	messages, most := c.room(len(batch[0].frame))
	for _, m := range batch[:min(messages, len(batch))] {
		if n > 0 && size+len(m.frame) > most {
			break
		}
		size += len(m.frame)
		n++
	}
	return n, size
}

// A stretch is the frames of some messages, one after the other.
type stretch struct {
	bytes   []byte
	lengths []int // of the frames; nil if there is only one
	extra   int32 // how many of the frames are two, as those of BufferMessage to a client of the protocol
	notices bool  // some are notices
}

// length returns the length of one of the frames.
func (s *stretch) length(i int) int {
	if s.lengths == nil {
		return len(s.bytes)
	}
	return s.lengths[i]
}

// whole returns how many of the frames end within the first n bytes.
func (s *stretch) whole(n int) (frames int) {
	if s.lengths == nil && n == len(s.bytes) {
		return 1
	}
	for _, length := range s.lengths {
		if n -= length; n < 0 {
			break
		}
		frames++
	}
	return frames
}

// join returns the frames of batch. A single frame is returned as it is. Several are joined in buf, which is reused
// unless a link keeps it. If there is an ID, the last frame is an event, and receives it.
func join(buf *stretch, batch []*message, id string) stretch {
	if len(batch) == 1 && id == "" {
		return stretch{bytes: batch[0].frame, extra: batch[0].extra, notices: batch[0].notice}
	}
	if cap(buf.bytes) > maxScratch {
		*buf = stretch{}
	}
	p := stretch{bytes: buf.bytes[:0], lengths: buf.lengths[:0]}
	for i, m := range batch {
		begin := len(p.bytes)
		if id != "" && i == len(batch)-1 {
			p.bytes = appendEventID(p.bytes, id)
		}
		p.bytes = append(p.bytes, m.frame...)
		p.lengths = append(p.lengths, len(p.bytes)-begin)
		p.extra += m.extra
		p.notices = p.notices || m.notice
	}
	*buf = p
	return p
}

// write offers p to a client that isn't busy. p is the frames of batch, as join has put them into buf. It returns how
// many of the frames no longer belong to the shard: they are sent or in flight. If all of them are sent, a probe may
// follow in the same system call.
//
// It also returns how many messages are sent, which the caller counts. The notices in a batch are at its beginning or at
// its end.
func (c *client) write(p *stretch, batch []*message, buf *stretch, probe []byte) (taken, landed int, err error) {
	sent, held := 0, 0
	if len(p.bytes) > 0 || probe != nil { // an encoding may leave notices out
		sent, held, err = c.link.Write(p.bytes, p.lengths, probe)
	}
	if sent == len(p.bytes) && probe == nil && p.extra == 0 && !p.notices { // nearly always
		c.busy, c.left = false, false
		c.count(len(batch), sent)
		return len(batch), len(batch), err
	}
	c.busy = sent < len(p.bytes)+len(probe)
	c.left = held > 0 && probe != nil
	taken, end := len(batch), len(p.bytes)
	if sent < end {
		taken, end = 0, 0
		for taken < len(batch) && end+p.length(taken) <= sent {
			end += p.length(taken)
			taken++
		}
	}
	begin, stop := 0, len(batch)
	if p.notices {
		begin, stop = betweenNotices(batch)
	}
	landed = min(taken, stop) - min(taken, begin)
	switch {
	case !c.busy:
	case held > 0:
		first, f := taken, &c.outbox().flight
		*f = flight{notices: max(0, begin-first)}
		for taken < len(batch) && end+p.length(taken) <= sent+held {
			end += p.length(taken)
			if !batch[taken].notice {
				f.messages++
			}
			taken++
		}
		f.bytes = p.bytes[sent:end]
		if p.lengths != nil {
			f.lengths = p.lengths[first:taken]
			*buf = stretch{} // p belongs to the link now
		}
	case end < sent && taken < len(batch):
		// A frame is torn. Its own bytes replace the rest of p, so that p need not be kept.
		torn := batch[taken].frame
		if p.length(taken) > len(torn) { // with an ID
			torn = bytes.Clone(p.bytes[end : end+p.length(taken)])
		}
		f := &c.outbox().flight
		*f = flight{stretch: stretch{bytes: torn}, done: sent - end}
		if !batch[taken].notice {
			f.messages = 1
		}
		end += len(torn)
		taken++
	}
	extra := p.extra
	for i := taken; i < len(batch) && extra > 0; i++ {
		extra -= batch[i].extra
	}
	c.count(taken+int(extra), end)
	if probe != nil {
		c.willMark(batch[:taken])
	}
	if over := sent - len(p.bytes); over > 0 {
		c.sentProbe(probe, over)
	}
	return taken, landed, err
}

// betweenNotices returns the range of a batch without the notices at its beginning and its end.
func betweenNotices(batch []*message) (begin, end int) {
	end = len(batch)
	for begin < end && batch[begin].notice {
		begin++
	}
	for end > begin && batch[end-1].notice {
		end--
	}
	return begin, end
}

// sentProbe notes that the link has accepted a probe, or the beginning of one.
func (c *client) sentProbe(frame []byte, sent int) {
	if sent < len(frame) {
		c.outbox().flight = flight{stretch: stretch{bytes: bytes.Clone(frame)}, done: sent}
	}
	before := c.position()
	if c.v1 != nil {
		c.count(1, len(frame)) // a mark is a message
	}
	c.probed(c.position().minus(before))
}

// writeControl offers one frame that is not a message to a client that isn't busy. Bytes that the link doesn't accept
// immediately are in flight.
func (c *client) writeControl(frame []byte) error {
	sent, _, err := c.link.Write(frame, nil, nil)
	if c.busy = sent < len(frame); c.busy {
		c.outbox().flight = flight{stretch: stretch{bytes: frame}, done: sent}
	}
	if frame[0]&wsframe.ControlBit == 0 {
		c.count(1, len(frame))
	}
	return err
}

// writable continues a write: n more bytes of the flight have been sent.
func (c *client) writable(n int, err error) {
	if !c.busy {
		return
	}
	f := &c.outbox().flight
	f.done += n
	if err == nil && f.done < len(f.bytes) {
		var sent int
		sent, _, err = c.link.Write(f.bytes[f.done:], nil, nil)
		f.done += sent
	}
	if err != nil {
		c.landed(f.landed())
		c.settle(err)
		return
	}
	if f.done < len(f.bytes) {
		return
	}
	c.landed(f.messages)
	*f = flight{}
	c.busy = false
	c.drain()
}

// landed counts messages of the flight as sent.
func (c *client) landed(messages int) {
	f := &c.out.flight
	f.messages -= messages
	if f.replayed {
		c.countReplayed(messages)
	} else {
		c.countSent(messages)
	}
}

// makeRoom sends as much as possible before a message would be dropped needlessly: messages that BufferMessage has queued,
// and data for which the kernel has room by now but has not reported it yet. In a flood, one turn brings as many messages
// as a buffer holds, and the report of room may be one turn late. For a client that is already slow, nothing is tried: that
// would be a system call for each broadcast that it misses.
//
// The shard has taken the messages of batch, and the client is yet to be offered them: its position is before them.
func (c *client) makeRoom(batch []*message) {
	s := c.shard
	s.coming = batch
	defer func() { s.coming = nil }()
	switch {
	case !c.busy:
		c.drain()
	case !c.slow:
		c.link.Retry()
	}
}

// enqueue puts batch into the client's backlog, and counts the messages that had to leave.
func (c *client) enqueue(batch []*message) {
	s, o := c.shard, c.outbox()
	if o.backlog.len() == 0 {
		o.waitingSince = c.lifetime(time.Now())
	}
	dropped := 0
	for i, m := range batch {
		if s.limits.overflow == Disconnect && !o.backlog.takes(m, s.limits) {
			c.countAbandoned(len(batch) - i)
			c.leaveGroup() // what its group still holds comes after a message that it misses
			c.shut(wsframe.CodeTryAgainLater, reasonTooSlow)
			return
		}
		left, replaced := o.backlog.push(m, s.limits)
		dropped += left
		if replaced {
			c.countConflated(1)
		}
	}
	if dropped > 0 {
		c.countDropped(dropped)
		c.markSlow()
		s.hooks.drop(c, dropped)
	}
}

// buffer puts m into the client's backlog, where it waits for the next drain.
func (c *client) buffer(m *message) {
	s := c.shard
	c.takePending()
	c.countOffered(1)
	if c.phase != phaseOpen {
		c.countAbandoned(1)
		return
	}
	m = m.in(c.encoding)
	if m.own = true; c.replay != nil {
		m.number, m.stamp = c.taken().project, c.taken().all
	}
	if c.v1 != nil {
		c.direct(m)
	}
	s.drained = append(s.drained[:0], m)
	c.enqueue(s.drained)
	clear(s.drained)
	c.settle(nil)
}

// drain sends the client's buffered messages, in order, until the link or the client's window accepts no more. The
// client is told of dropped messages at their place, together with the messages after them.
//
// A client that looks back receives its buffered messages in their place in the replay, which goes on at the end of the
// turn.
func (c *client) drain() {
	err := c.sendControl()
	if err == nil && c.left && !c.busy {
		c.left = false
		err = c.ask() // now, or a client that never catches up would not be asked before its window is full
	}
	for err == nil && !c.busy && c.out != nil && len(c.out.rest) > 0 && c.phase < phaseClosing {
		err = c.sendRest()
	}
	if c.replay != nil || c.v1.fetches() {
		c.biteSoon()
	}
	for more := c.replay == nil; more && !c.busy && err == nil && c.phase < phaseClosing && !c.idle(); {
		room, size := c.room(c.oldest())
		if room == 0 {
			c.window.held = true
			break
		}
		more, err = c.sendBuffered(room, min(size, joinBytes))
	}
	c.conclude(err)
}

// conclude is called after messages were drained or replayed. It asks how far the client has got, if that is due.
func (c *client) conclude(err error) {
	if err == nil {
		err = c.ask()
	}
	c.review()
	c.settle(err)
}

// sendBuffered sends the client's oldest buffered messages in one write: at most n messages, and limit bytes of them
// after the first. It returns false if there are none.
func (c *client) sendBuffered(n, limit int) (some bool, err error) {
	s := c.shard
	s.endLittle()
	s.drained = s.drained[:0]
	b := &c.out.backlog
	told, notices := 0, 0
	if gap := b.gaps.due(b.first); gap != nil {
		s.drained, told, notices = append(s.drained, c.gapNotice(gap)), 1, 1
	}
	head := b.head()
	if n > notices+1 && c.v1.announces(head) {
		s.drained = append(s.drained, c.large(head))
		notices++
	}
	s.drained = b.peek(s.drained, n-len(s.drained), limit)
	if len(s.drained) == 0 {
		return false, nil
	}
	id := ""
	if sent := len(s.drained) - notices; sent > 0 {
		id = c.placeAfter(sent, told)
	}
	p := join(&s.scratch, s.drained, id)
	more := amount{uint32(len(s.drained) + int(p.extra)), uint32(len(p.bytes))}
	taken, landed, err := c.write(&p, s.drained, &s.scratch, c.probe(more, len(s.drained)-notices, told, nil))
	c.countSent(landed)
	if told > 0 && taken > 0 {
		b.gaps.told()
	}
	c.v1.announced(head, notices > told && taken == notices)
	b.discard(max(0, taken-notices))
	clear(s.drained)
	return true, err
}

// drainControl sends pending control frames and replies, without the messages that BufferMessage has queued for the
// next tick.
func (c *client) drainControl() { c.settle(c.sendControl()) }

func (c *client) sendControl() (err error) {
	for !c.busy && err == nil && c.phase != phaseGone {
		frame := c.nextControl()
		switch {
		case frame != nil:
			err = c.writeControl(frame)
		case c.pingDue && !c.closeSent: // after a reply: the place that a mark names is one of the new filter
			c.pingDue = false
			err = c.keepalive()
		default:
			return nil
		}
	}
	return err
}

// nextControl takes the frame that has to be sent before the next message, if there is one. The reply to a filter
// change is such a frame: buffered messages that do not match the new filter have been removed, so every message after
// the reply matches it.
func (c *client) nextControl() (frame []byte) {
	switch o := c.out; {
	case c.closeSent:
	case o != nil && o.pong != nil:
		frame, o.pong = o.pong, nil
	case o != nil && o.closing != nil:
		frame, o.closing, c.closeSent = o.closing, nil, true
	case o != nil && o.reply != nil:
		frame, o.reply = o.reply, nil
		c.link.Resume()
	case c.v1 != nil && c.v1.moved && c.phase == phaseOpen:
		switch c.encoding {
		case frames:
			frame = c.appendMark(nil, 0, 0, nil)
		case events:
			frame = c.appendPlace(nil)
		}
		c.v1.moved = false
	}
	return frame
}

// settle is called after each attempt to write. It removes the client if its link has failed, keeps the waiting list up
// to date, and takes the next step with a client that is leaving.
func (c *client) settle(err error) {
	switch {
	case c.phase == phaseGone:
		return
	case err != nil:
		c.remove(err)
		return
	case !c.idle():
		c.await()
		return
	}
	c.unawait()
	switch {
	case c.phase == phaseFlushing && c.replay == nil && c.fetching:
		c.shut(wsframe.CodeNormal, reasonFetched)
	case c.phase == phaseFlushing && c.replay == nil:
		c.shut(wsframe.CodeGoingAway, reasonShutdown)
	case c.closeSent && c.closeReceived:
		c.remove(nil)
	}
}

// drainAll carries out the drain of a tick. It costs nothing for a client that has nothing buffered.
func (s *shard) drainAll() {
	if len(s.waiting) == 0 {
		return
	}
	now := time.Now()
	for i := len(s.waiting) - 1; i >= 0; i-- { // backwards: drain removes clients that have caught up
		c := s.waiting[i]
		c.drain()
		c.askAgain()
		if c.queued() > 0 && c.lifetime(now)-c.out.waitingSince >= s.cfg.drainInterval {
			c.markSlow()
		}
	}
	s.totals.Drains.observe(time.Since(now))
}

// await adds the client to those that a drain visits.
func (c *client) await() {
	s, o := c.shard, c.outbox()
	if o.inWaiting < 0 {
		o.inWaiting = int32(len(s.waiting))
		s.waiting = append(s.waiting, c)
	}
}

// unawait removes the client from those that a drain visits. An episode of slowness ends here. It is short enough to be
// inlined, since each delivery calls it.
func (c *client) unawait() {
	c.unmarkSlow()
	if c.out != nil && c.out.inWaiting >= 0 {
		c.leaveWaiting()
	}
}

func (c *client) leaveWaiting() {
	s := c.shard
	if c.replay != nil { // its messages wait in the history
		return
	}
	s.waiting = swapOut(s.waiting, int(c.out.inWaiting), func(moved *client) { moved.out.inWaiting = c.out.inWaiting })
	c.out.inWaiting = -1
}

func (c *client) markSlow() {
	s := c.shard
	if !c.slow && c.phase == phaseOpen {
		c.slow = true
		s.totals.Slow++
		s.hooks.slow(c)
	}
}

func (c *client) unmarkSlow() {
	if c.slow {
		c.slow = false
		c.shard.totals.Slow--
	}
}
