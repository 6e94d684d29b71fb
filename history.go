package mesherstream

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// history gives the messages of each project one order and contiguous numbers.
//
// It is made of parts, each with a lock of its own, so that publishers of different projects don't wait for each other.
// The lock of a part is a leaf: its holder never waits and calls nothing else. A shard's goroutine may therefore take
// it. The order lock of a feed is different. Its holder may wait for room in the inbox of a shard, so a shard's
// goroutine never takes it.
type history struct {
	// Read-only after construction.
	begin time.Time
	age   uint64 // in nanoseconds
	seed  maphash.Seed
	all   *feed // of the messages to all projects; never forgotten

	// Atomic.
	clock     atomic.Uint64 // the newest stamp
	forgotten atomic.Uint64 // the newest stamp of a message whose feed is forgotten, or that had none
	lingering atomic.Int64  // the feeds in all lists of idle ones
	sweeping  atomic.Bool   // a sweep is due

	parts [historyParts]historyPart
}

const (
	historyParts = 16

	// historyBite is how much is done at most while the lock of a part is held.
	historyBite = 256

	// historyIdle is how many feeds without messages are kept at most in each part for clients that may return. Clients
	// come and go as often as they like, and each can name another project.
	historyIdle = 1 << 10
)

// historyPart holds the feeds of some of the projects.
type historyPart struct {
	// Guarded by mu.
	mu    sync.Mutex
	feeds map[string]*feed
	idle  []idleFeed // the feeds that linger, in the order in which they are looked at
}

// idleFeed is a feed that lingers, and since when it is in the list.
type idleFeed struct {
	*feed
	since uint64
}

// A feed is the messages of one project, in the order in which the clients of this node receive them. The messages to
// all projects are a feed of their own. A message has a number, which is one more than that of the message before, and
// a stamp, which no other message of the node has.
//
// A feed lives as long as it has clients or lingers. The next feed of the same project begins with a higher number.
type feed struct {
	// Read-only after construction.
	project string
	part    *historyPart

	// order covers a message's number, its casts to the shards and to the relay's queue, and the registration of a
	// client. Without it, two publishers could reach two shards in different orders.
	order sync.Mutex
	gone  bool // guarded by order: the feed is forgotten, and whoever has waited for its lock has to look again

	// Guarded by part.mu.
	base    uint64 // the number before the first message
	next    uint64 // the number of the next message
	newest  uint64 // the stamp of the newest message
	since   uint64 // the stamp since which no message of the project is missing here
	clients int
	left    uint64 // when the last client left
	lingers bool   // is in part.idle
}

func newHistory(cfg *config) *history {
	h := &history{begin: time.Now(), age: uint64(cfg.historyAge), seed: maphash.MakeSeed()}
	for i := range h.parts {
		h.parts[i].feeds = make(map[string]*feed)
	}
	h.all = h.feedLocked(h.part(""), "")
	return h
}

func (h *history) part(project string) *historyPart {
	return &h.parts[maphash.String(h.seed, project)%historyParts]
}

func (h *history) now() uint64 { return uint64(time.Since(h.begin)) }

// tick returns the next stamp: the time, or one nanosecond more than the last stamp.
func (h *history) tick() uint64 {
	now := h.now()
	for {
		last := h.clock.Load()
		next := max(last+1, now)
		if h.clock.CompareAndSwap(last, next) {
			return next
		}
	}
}

// feedLocked returns the feed of a project, and makes it if there is none.
func (h *history) feedLocked(p *historyPart, project string) *feed {
	f := p.feeds[project]
	if f == nil {
		// A number is never higher than the clock: a message moves both on. So the numbers of an earlier feed of the
		// project are all lower than those of this one.
		base := h.clock.Load()
		f = &feed{project: strings.Clone(project), part: p, base: base, next: base + 1, since: h.forgotten.Load()}
		p.feeds[f.project] = f
	}
	return f
}

// lock locks the order of a project's messages and returns the project's feed. If nobody follows the project, it has no
// feed, and there is no order to keep: lock only notes that a message was published, and returns nil.
func (h *history) lock(project string) *feed {
	p := h.part(project)
	for {
		p.mu.Lock()
		f := p.feeds[project]
		if f == nil {
			h.forget(h.tick())
		}
		p.mu.Unlock()
		if f == nil {
			return nil
		}
		f.order.Lock()
		if !f.gone {
			return f
		}
		f.order.Unlock()
	}
}

// number gives a message the next number of a feed whose order is locked. m is nil if nobody here wants the message. It
// returns how many clients follow the project.
func (h *history) number(f *feed, m *message) (clients int) {
	f.part.mu.Lock()
	defer f.part.mu.Unlock()
	f.newest = h.tick()
	if m != nil {
		m.number, m.stamp = f.next, f.newest
	}
	f.next++
	return f.clients
}

// follow counts a client of the project, and locks the order of everything that the client receives, until unlock is
// called. The client receives the messages that are published after that.
func (h *history) follow(project string) (unlock func()) {
	all, f := h.join(""), h.all
	if project != "" {
		f = h.join(project)
	}
	all.order.Lock() // always first
	if f == all {
		return all.order.Unlock
	}
	f.order.Lock()
	return func() { f.order.Unlock(); all.order.Unlock() }
}

// join counts a client of one feed, which is not forgotten while it has any.
func (h *history) join(project string) *feed {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	f := h.feedLocked(p, project)
	f.clients++
	return f
}

// leave reverts follow.
func (h *history) leave(project string) {
	h.quit("")
	if project != "" {
		h.quit(project)
	}
}

func (h *history) quit(project string) {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.feeds[project]
	if f.clients--; f.clients > 0 || f == h.all {
		return
	}
	f.left = h.now()
	h.lingerLocked(f)
	if len(p.idle) > historyIdle {
		h.wakeLocked(p)
	}
}

// breakOff notes that messages of a project may be published from now on that this node doesn't receive.
func (h *history) breakOff(project string) {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.feeds[project]; f != nil {
		f.since = h.tick()
	}
}

// lingerLocked keeps a feed for the age of the history: a client that has left may return and ask what it has missed.
func (h *history) lingerLocked(f *feed) {
	if f.lingers {
		return
	}
	f.lingers = true
	f.part.idle = append(f.part.idle, idleFeed{f, h.now()})
	h.lingering.Add(1)
	h.sweepSoon()
}

// wakeLocked takes the first feed from the list of those that linger.
func (h *history) wakeLocked(p *historyPart) {
	f := p.idle[0].feed
	p.idle[0] = idleFeed{}
	if p.idle = p.idle[1:]; len(p.idle) == 0 {
		p.idle = nil
	}
	f.lingers = false
	h.lingering.Add(-1)
	h.forgetLocked(f)
}

// forgetLocked forgets a feed that nothing keeps alive.
func (h *history) forgetLocked(f *feed) {
	if f.clients > 0 || f.lingers || f == h.all {
		return
	}
	if !f.order.TryLock() { // never waits: somebody is publishing
		h.lingerLocked(f)
		return
	}
	f.gone = true
	f.order.Unlock()
	h.forget(max(f.newest, f.since))
	delete(f.part.feeds, f.project)
}

// forget notes that a message with that stamp has left no trace.
func (h *history) forget(stamp uint64) {
	for {
		last := h.forgotten.Load()
		if last >= stamp || h.forgotten.CompareAndSwap(last, stamp) {
			return
		}
	}
}

// sweepSoon arranges for a sweep if none is due. A history without anything to sweep has no timer. The sweep isn't the
// ticker's work, since a manager may publish before it runs, and keeps its history after Shutdown.
func (h *history) sweepSoon() {
	if !h.sweeping.Load() && !h.sweeping.Swap(true) {
		time.AfterFunc(min(time.Second, time.Duration(h.age/16)), h.sweep)
	}
}

// sweep forgets what is too old. It does so in bites, so that no publisher waits for long.
func (h *history) sweep() {
	now := h.now()
	for i := range h.parts {
		for h.sweepSome(&h.parts[i], now) {
		}
	}
	h.sweeping.Store(false)
	if h.lingering.Load() > 0 {
		h.sweepSoon()
	}
}

// sweepSome takes a bite of a part, and reports whether there is more.
func (h *history) sweepSome(p *historyPart, now uint64) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range historyBite {
		if len(p.idle) == 0 || p.idle[0].since+h.age > now {
			return false
		}
		if f := p.idle[0].feed; f.clients == 0 && f.left+h.age > now { // clients have come and left in the meantime
			p.idle = append(p.idle[1:], idleFeed{f, now})
			continue
		}
		h.wakeLocked(p)
	}
	return true
}
