package mesherstream

import (
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// runTicker is the manager's only clock, and its goroutine: it lives from start to stop. It never waits for a shard, so
// a shard that is busy skips ticks and nobody else does.
func (m *Manager) runTicker(stop <-chan struct{}) {
	drain := time.NewTicker(m.cfg.drainInterval)
	defer drain.Stop()

	var ticks <-chan time.Time // nil, and silent, where there is nothing to keep alive
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

// beats counts what the wheels of the shards have to do. A ticker's channel holds one tick, and a machine that is busy
// loses some: a wheel that turned later for it would have pings come late.
type beats struct {
	begin    time.Time
	interval time.Duration
	done     time.Duration // how many, those that were lost included
}

// due is how many beats are due that were not before: a turn of the wheel at most.
func (b *beats) due(now time.Time) int {
	all := now.Sub(b.begin) / b.interval
	due := min(all-b.done, wheelSlots)
	b.done = all
	return int(due)
}

// DrainBuffers sends each client what is buffered for it, in order, as far as its connection takes it. The ticker calls
// it at every [WithDrainInterval]; call it to have what [Manager.BufferMessage] queued go out earlier. It returns at
// once, is safe for concurrent use, and does nothing if nothing runs, or if m is nil.
func (m *Manager) DrainBuffers() {
	if !m.isMade() {
		return
	}
	for _, s := range m.shards {
		s.tick(true, false)
	}
}

// wheelSlots is over how many moments of a turn the clients are spread.
const wheelSlots = 32

// wheel says whose turn it is: each beat visits the clients of one slot, so that in one turn of the wheel each client is
// visited once, and not all in one instant. A client stays in its slot.
type wheel struct {
	slots [wheelSlots][]*client
	next  int
}

// slot spreads the clients that the shards have dealt among themselves by their IDs.
func (c *client) slot() int { return int(uint64(c.id) / uint64(c.shard.cfg.shards) % wheelSlots) }

func (w *wheel) add(c *client) {
	slot := &w.slots[c.slot()]
	c.inWheel = len(*slot)
	*slot = append(*slot, c)
}

func (w *wheel) remove(c *client) {
	slot := &w.slots[c.slot()]
	*slot = swapOut(*slot, c.inWheel, func(moved *client) { moved.inWheel = c.inWheel })
}

// beatInterval is how long the wheel rests on a slot, or 0 where there is nothing to do for it. A turn takes a quarter
// of the ping interval, so that an idle client is noticed soon after its timeout.
func (c *config) beatInterval() time.Duration {
	turn := c.pingInterval
	if turn == 0 {
		turn = c.idleTimeout
	}
	return turn / 4 / wheelSlots
}

// turnInterval is how long a turn of the wheel takes, which is how long a client is alone between two visits.
func (c *config) turnInterval() time.Duration { return c.beatInterval() * wheelSlots }

// firstPing is when the first ping of a client is due that connects now, if each ping goes with the visit that is nearest
// to its time: then it goes within the ping interval, with the last visit that does.
func (c *config) firstPing(now time.Time) time.Time {
	return now.Add(c.pingInterval - c.turnInterval()/2)
}

// beat pings the clients of the next slot that are due, and removes those that have been silent for too long.
func (s *shard) beat(now time.Time) {
	// A process that was stopped, or a machine that slept, has read nothing meanwhile, and its clients are not to blame.
	if now.Sub(s.beatAt) >= s.cfg.idleTimeout/4 {
		s.awake = now
	}
	s.beatAt = now
	slot := s.wheel.slots[s.wheel.next]
	s.wheel.next = (s.wheel.next + 1) % wheelSlots
	for i := len(slot) - 1; i >= 0; i-- { // backwards: a client that is removed gives its place to a later one
		c := slot[i]
		c.watchProgress(now)
		if s.cfg.idleTimeout > 0 && !c.inHook && c.silent(now) {
			c.remove(link.ErrIdle)
			continue
		}
		// With the visit that is nearest to its time, which is the fourth one after the last ping, whatever a turn lacks to
		// a quarter of the interval, and however late a busy machine has made a visit. One visit later would be late.
		if s.cfg.pingInterval > 0 && now.Sub(c.pingAt) >= -s.cfg.turnInterval()/2 {
			if now.Sub(c.askedAt) >= c.silence(now) {
				c.askedAt = now // for the first time since it has given a sign
			}
			c.pingAt = now.Add(s.cfg.pingInterval)
			c.ping = wsframe.Ping
			c.drainControl()
		}
	}
}

// silent says whether the client has given no sign of life for too long, though it was asked for one in time. A shard
// that is busy asks late, and must not make the client pay for it.
func (c *client) silent(now time.Time) bool {
	s := c.shard
	silence, asked := c.silence(now), now.Sub(c.askedAt)
	if min(silence, now.Sub(s.awake)) < s.cfg.idleTimeout {
		return false
	}
	return s.cfg.pingInterval == 0 || asked < silence && asked >= s.cfg.idleTimeout-s.cfg.pingInterval
}

// watchProgress takes it as a sign of life that a client which has no room any more takes some of what the kernel holds
// for it. The kernel has room again only when much of that is gone, which at a few bytes a second is later than the idle
// timeout; and the pongs of such a client come behind all of it. Without a full window, an acknowledgement is no sign of
// life: the kernel of a machine whose browser is frozen gives it too.
func (c *client) watchProgress(now time.Time) {
	s := c.shard
	if s.cfg.idleTimeout == 0 || !c.busy {
		c.watched = false
		return
	}
	if c.link.Progressed() && c.watched {
		c.markSeen(now)
	}
	c.watched = true
}
