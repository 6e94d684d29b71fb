package mesherstream

import (
	"slices"
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// runTicker is the manager's only clock, and its goroutine: it lives from start to stop. It never waits for a shard. If
// a shard is busy, that shard skips ticks and no other one does.
func (m *Manager) runTicker(stop <-chan struct{}) {
	drain := time.NewTicker(m.cfg.drainInterval)
	defer drain.Stop()

	var ticks <-chan time.Time // nil, and silent, if there is nothing to keep alive
	wheel := beats{begin: time.Now(), interval: m.cfg.beatInterval()}
	if wheel.interval > 0 {
		beat := time.NewTicker(wheel.interval)
		defer beat.Stop()
		ticks = beat.C
	}

	for {
		select {
		case <-stop:
			return
		case <-drain.C:
			m.DrainBuffers()
		case <-ticks:
			for range wheel.due(time.Now()) {
				for _, s := range m.shards {
					s.tick(false, true)
				}
			}
		}
	}
}

// beats counts the beats that the wheels of the shards have to do. A ticker's channel holds one tick, and a busy
// machine loses some. If the wheel turned later because of that, pings would be late.
type beats struct {
	begin    time.Time
	interval time.Duration
	done     time.Duration // how many beats, including the lost ones
}

// due is how many beats have become due since the last call: one turn of the wheel at most.
func (b *beats) due(now time.Time) int {
	all := now.Sub(b.begin) / b.interval
	due := min(all-b.done, wheelSlots)
	b.done = all
	return int(due)
}

// DrainBuffers sends each client its buffered messages, in order, as far as its connection accepts them. The ticker
// calls it at every [WithDrainInterval]; call it to send the messages that [Manager.BufferMessage] has queued before
// the next tick. What [WithCoalescing] collects is not sent earlier. It returns immediately, is safe for concurrent
// use, and does nothing if nothing runs, or if m is nil.
func (m *Manager) DrainBuffers() {
	if !m.isMade() {
		return
	}
	for _, s := range m.shards {
		s.tick(true, false)
	}
}

// A lull begins with the answer to a mark. A message that is written a second or more after that mark is followed by the
// next mark. Messages that were written earlier, with nothing after them, would have to wait for the next mark in silence,
// and until then, the client's position would be before them. So they are followed by a mark at the end of the lull.
//
// The shard has the lulls of all clients in the order of their ends, so that a drain or a beat looks only at those that are
// over. The client's next answer begins another lull, which makes this one void.
type lull struct {
	client *client
	end    moment
}

const (
	// lullLength is longer than the pause between two marks: if a client is sent several messages a second, the next one is
	// written before the end of the lull, and the mark with it.
	lullLength = probePause + probePause/4

	// lullGrain is what the ends of lulls are rounded to, so that a client with many marks has few. It is a power of two.
	lullGrain = 128
)

// beginLull is called when the client has answered a mark.
func (c *client) beginLull() {
	end := (c.shard.now+lullGrain-1)&^(lullGrain-1) + lullLength
	if c.answersMarks() && c.v1.lull != end {
		c.v1.lull = end
		c.shard.lulls = append(c.shard.lulls, lull{c, end})
	}
}

// endLulls sends a mark to each client whose lull is over, and which has been sent something since its last mark.
func (s *shard) endLulls() {
	n := 0
	for n < len(s.lulls) && s.now.since(s.lulls[n].end) >= 0 {
		n++
	}
	for _, l := range s.lulls[:n] {
		// A client that is busy is asked when it no longer is, with the messages that wait.
		if c := l.client; c.v1.lull == l.end && c.takesMark() && !c.busy && c.position() != c.window.probed {
			c.pingDue = true
			c.drainControl()
		}
	}
	if s.lulls = slices.Delete(s.lulls, 0, n); len(s.lulls) == 0 && cap(s.lulls) > 1<<12 {
		s.lulls = nil
	}
}

// A pause begins with each write to a group, and lasts as long as [WithCoalescing] says. The messages that match the group
// in the meantime are its batch at the end of the pause. Until then, the shard has taken them and not written them: a client
// that joins is not sent them, one that leaves the group is sent them first, and a client's position is before them.
//
// All pauses have one length, so the shard has them in the order of their ends. One timer wakes it at the next end while a
// group holds messages, or may hold some by then. Until that alarm, a message that concerns only pausing groups wakes
// nobody: it can wait in the inbox.
type pause struct {
	group *group
	end   time.Duration // as shard.began
}

// pause begins a pause of a group.
func (s *shard) pause(g *group) {
	if !g.pauses {
		g.pauses = true
		g.ofProject.pausing++
		s.everyGroup.pausing++
	}
	s.pauses = append(s.pauses, pause{g, s.began + s.cfg.coalescing})
}

func (s *shard) unpause(g *group) {
	if g.pauses {
		g.pauses = false
		g.ofProject.pausing--
		s.everyGroup.pausing--
	}
}

// canWait reports whether a message to a project, which is in the inbox, can wait there for the alarm. It is called under mu
// while the shard's goroutine sleeps, since it reads what that owns.
func (s *shard) canWait(project string) bool {
	if !s.alarmed {
		return false
	}
	if a := s.audience(project); a == nil || a.pausing < len(a.groups) {
		return false
	}
	// No more than a turn takes without delivering any of it.
	return s.inbox.all.takes(0, s.limits.messages, joinBytes)
}

// ripe returns how many of the oldest messages of a group's batch are to be delivered now. Without a pause, that is all of
// them. In a pause, it is the held ones if a client's buffer could not hold the fresh ones too, since no turn offers a client
// more than an empty buffer holds. Otherwise it is all of them if they have more bytes than one write drains from a backlog,
// and none if they don't.
func (s *shard) ripe(g *group) int {
	n, held := len(g.batch), len(g.batch)-g.fresh
	switch {
	case s.cfg.coalescing == 0:
		return n
	case !g.pauses:
		s.pause(g)
		return n
	}
	bytes := 0
	for _, m := range g.batch {
		bytes += m.size()
	}
	switch {
	case held > 0 && (n > s.limits.messages || bytes > s.limits.bytes):
		n = held
	case bytes <= joinBytes:
		return 0
	}
	g.early = s.turns
	return n
}

// hold notes that a group holds messages.
func (s *shard) hold(g *group) {
	if !g.holds {
		g.holds = true
		s.holding++
	}
}

func (s *shard) unhold(g *group) {
	if g.holds {
		g.holds = false
		s.holding--
	}
}

// endPauses delivers the messages of the groups whose pauses are over, and begins the next pauses of these groups. If there
// were messages, the stream is steady: more are to be expected in the next pause.
func (s *shard) endPauses() {
	s.steady = false
	n := 0
	for n < len(s.pauses) && s.pauses[n].end <= s.began {
		n++
	}
	if n == 0 {
		return
	}
	rest := 0
	for i := range n {
		g := s.pauses[i].group
		switch {
		case len(g.clients) == 0: // and it has no more
			s.unhold(g)
		case g.early == s.turns && g.holds && s.turn.waited > 0: // what it holds has waited: the next turn comes at once
			s.pauses[rest] = s.pauses[i]
			rest++
		case g.early == s.turns: // written to in this turn
			s.pause(g)
		case !g.holds:
			s.unpause(g)
		default:
			s.touched = append(s.touched, g)
		}
	}
	s.pauses = slices.Delete(s.pauses, rest, n)
	if len(s.touched) == 0 {
		return
	}
	s.steady = true
	begin := s.beginLittle(s.beginBatch())
	for _, g := range s.touched {
		s.pause(g)
		s.deliverGroup(g, len(g.batch))
	}
	s.endLittle()
	clear(s.touched)
	s.touched = s.touched[:0]
	s.endBatch(begin)
}

// setAlarm makes the timer wake the shard at the next end of a pause.
func (s *shard) setAlarm() {
	s.alarmed = true
	in := s.pauses[0].end - time.Since(s.madeAt)
	if s.alarm == nil {
		s.alarm = time.AfterFunc(in, s.ring)
		return
	}
	s.alarm.Reset(in)
}

func (s *shard) ring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.inbox.alarm = true
		s.rouse()
	}
}

// forgetPauses is called when the last client has left.
func (s *shard) forgetPauses() {
	s.pauses, s.holding, s.alarmed, s.steady = nil, 0, false, false
	if s.alarm != nil {
		s.alarm.Stop()
	}
}

// pending returns the messages that the client's group holds for it.
func (c *client) pending() []*message {
	if c.group == nil {
		return nil
	}
	return c.group.batch[c.ahead:]
}

// pendingLoad returns how many they are, and their size.
func (c *client) pendingLoad() (messages, bytes int) {
	for _, m := range c.pending() {
		messages++
		bytes += m.size()
	}
	return messages, bytes
}

// takePending delivers the pending messages to the client alone, before something that has to follow them. The client may
// be gone afterwards.
func (c *client) takePending() {
	messages := c.pending()
	if len(messages) == 0 {
		return
	}
	c.ahead += int32(len(messages))
	b := newBatch(messages)
	c.deliver(&b)
}

// wheelSlots is the number of moments of a turn over which the clients are spread.
const wheelSlots = 32

// wheel decides which clients a beat visits: those of one slot, so that one turn of the wheel visits each client once, and
// not all at the same instant. A client stays in its slot.
type wheel struct {
	slots [wheelSlots][]*client
	next  int
}

// slot spreads the clients of a shard over the wheel. A client's ID already determines its shard.
func (c *client) slot() int { return int(uint64(c.id) / uint64(c.shard.cfg.shards) % wheelSlots) }

func (w *wheel) add(c *client) {
	slot := &w.slots[c.slot()]
	c.inWheel = int32(len(*slot))
	*slot = append(*slot, c)
}

func (w *wheel) remove(c *client) {
	slot := &w.slots[c.slot()]
	*slot = swapOut(*slot, int(c.inWheel), func(moved *client) { moved.inWheel = c.inWheel })
}

// beatInterval is how long the wheel rests on a slot, or 0 if the wheel has nothing to do. A turn takes a quarter of
// the ping interval, so that an idle client is noticed soon after its timeout.
func (c *config) beatInterval() time.Duration {
	turn := c.pingInterval
	if turn == 0 {
		turn = c.idleTimeout
	}
	return turn / 4 / wheelSlots
}

// turnInterval is how long a turn of the wheel takes, which is also the time between two visits to a client.
func (c *config) turnInterval() time.Duration { return c.beatInterval() * wheelSlots }

// firstPing is how long after its connection a client's first ping is due. Each ping is sent with the visit that is
// nearest to its time. The first ping is therefore sent within the ping interval, with the last visit in it.
func (c *config) firstPing() time.Duration {
	return c.pingInterval - c.turnInterval()/2
}

// beat pings the clients of the next slot that are due, and removes those that have been silent for too long.
func (s *shard) beat(now time.Time) {
	// A process that was stopped, or a machine that slept, has read nothing during that time, and its clients are not
	// to blame.
	if now.Sub(s.beatAt) >= s.cfg.idleTimeout/4 {
		s.awake = now
	}
	s.beatAt = now
	slot := s.wheel.slots[s.wheel.next]
	s.wheel.next = (s.wheel.next + 1) % wheelSlots
	for i := len(slot) - 1; i >= 0; i-- { // backwards: a later client takes the place of one that is removed
		c := slot[i]
		if c.askAgain(); c.phase == phaseGone {
			continue
		}
		c.giveBack(now)
		c.watchProgress(now)
		if s.cfg.idleTimeout > 0 && !c.inHook && c.phase < phaseClosing && c.silent(now) {
			c.giveUp()
			continue
		}
		if c.isPingDue(now) {
			if c.lifetime(now)-c.askedAt >= c.silence(now) {
				c.askedAt = c.lifetime(now) // the first ping since its last sign of life
			}
			c.pingAt = c.lifetime(now) + s.cfg.pingInterval
			c.pingDue = true
			c.drainControl()
		}
	}
}

// isPingDue reports whether the client is to be pinged, or sent a mark in silence, with this visit.
//
// A ping is sent with the visit that is nearest to its time. That is the fourth visit after the last ping, even if a turn
// is a little shorter than a quarter of the interval, and however late a busy machine makes a visit. One visit later
// would be late.
//
// A client that answers marks has been promised one in each interval, and takes the connection for dead if none arrives.
// The mark is therefore sent a visit earlier, so that even a visit that is late keeps the promise. While it owes an
// answer, it is pinged instead: its page has yet to handle what it was sent, and proxies want to see bytes.
func (c *client) isPingDue(now time.Time) bool {
	cfg := c.shard.cfg
	if cfg.pingInterval == 0 {
		return false
	}
	turn := cfg.turnInterval()
	if c.encoding != frames {
		return c.lifetime(now)-c.pingAt >= -turn-turn/2
	}
	if c.takesMark() {
		silence := time.Duration(c.shard.now.since(c.window.probedAt)) * time.Millisecond
		return silence >= cfg.pingInterval-turn-turn/2
	}
	return c.lifetime(now)-c.pingAt >= -turn/2
}

// giveUp ends a client that gives no sign of life. If a frame can still be written, the client is told: it may be frozen
// and go on one day.
func (c *client) giveUp() {
	o := c.outbox()
	o.closeCode, o.closeReason = wsframe.CodeAbnormal, link.ErrIdle.Error() // for the hook
	c.shut(wsframe.CodeTryAgainLater, reasonSilent)
}

// silent reports whether the client has given no sign of life for too long. If it owes nothing, it must have been pinged
// in time: a busy shard pings late, and the client must not pay for that.
//
// Both rules apply to a client that owes nothing but the answer to a mark. If it sends nothing, it is treated as one that
// owes nothing and has been pinged. If it sends pongs, as the browser of a dead page does, it is silent as soon as it has
// owed the answer for too long.
func (c *client) silent(now time.Time) bool {
	s := c.shard
	silence, asked, owed := c.silence(now), c.lifetime(now)-c.askedAt, c.lifetime(now)-time.Duration(c.took.Load())
	switch {
	case now.Sub(s.awake) < s.cfg.idleTimeout:
		return false
	case c.encoding != frames: // nothing is asked of it
		return c.owing && owed >= s.cfg.idleTimeout
	case c.owing && owed >= s.cfg.idleTimeout:
		return true
	case c.owing && !c.owesMark(), silence < s.cfg.idleTimeout:
		return false
	}
	return s.cfg.pingInterval == 0 || asked < silence && asked >= s.cfg.idleTimeout-s.cfg.pingInterval
}

// watchProgress checks whether a client that owes something takes some of it. An acknowledgement of more is a sign of that.
// So is that the far end reads what kernels hold, since the answer comes after all of that data. Room in our kernel, or an
// acknowledgement of TCP, is no sign of life: the kernel of a machine whose browser is frozen provides these too. Neither
// are pongs and other bytes, which a client that takes nothing can send for free.
func (c *client) watchProgress(now time.Time) {
	if c.shard.cfg.idleTimeout == 0 || c.acks == acksProbes && !c.owes() {
		c.owing = false
		return
	}
	progressed := c.link.Progressed()
	owed := c.owing
	c.owing = c.owes()
	switch {
	case owed && progressed:
		c.Seen(now, true)
	case c.owing && !owed:
		c.markTook(now)
	}
}
