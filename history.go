package mesherstream

import (
	"container/heap"
	"hash/maphash"
	"maps"
	"math"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mesher/mesherstream/internal/seal"
)

// history gives the messages of each project one order and contiguous numbers, and keeps the newest of them. It is
// bounded in three ways: by a number of messages for each project, by an age, and by a number of bytes for all projects
// together. Beyond the last bound, the oldest messages of the node leave, whatever their projects are.
//
// It is made of parts, each with a lock of its own, so that publishers of different projects don't wait for each other.
// The lock of a part is a leaf: its holder never waits and calls nothing else. A shard's goroutine may therefore take
// it. The order lock of a feed is different. Its holder may wait for room in the inbox of a shard, so a shard's
// goroutine never takes it.
type history struct {
	// Read-only after construction.
	begin    time.Time
	messages int // for each project; 0 turns the history off
	bytes    int64
	age      uint64 // in nanoseconds
	seed     maphash.Seed
	seal     seal.Seal // to be copied by whoever appends
	all      *feed     // of the messages to all projects; never forgotten

	// allOrder puts the messages to all projects into the order of every project. Their publisher holds it alone, and
	// every other publisher shares it.
	allOrder sync.RWMutex

	// Atomic.
	clock     atomic.Uint64 // the newest stamp
	forgotten atomic.Uint64 // the newest stamp of a message whose feed is forgotten, or that had none
	keptBytes atomic.Int64  // what the messages in all feeds count with
	lingering atomic.Int64  // the feeds in all lists of idle ones
	sweeping  atomic.Bool   // a sweep is due

	parts [historyParts]historyPart
}

const (
	historyParts = 16

	// historyBite is how many messages are handled at most while the lock of a part is held.
	historyBite = 256

	// A message counts with its size and what the message and its slot take besides, and a feed with messages counts
	// too. Otherwise short messages, or projects with one message each, would take many times the bound.
	historyMessageBytes = 192
	historyKeyBytes     = 64
	historyFeedBytes    = 256

	// historyIdle is how many feeds without messages are kept at most in each part for clients that may return. Clients
	// come and go as often as they like, and each can name another project.
	historyIdle = 1 << 10
)

// historyPart holds the feeds of some of the projects.
type historyPart struct {
	oldest atomic.Uint64 // the stamp of the oldest message, or noStamp; changed under mu

	// Guarded by mu.
	mu     sync.Mutex
	feeds  map[string]*feed
	most   int        // the largest number of feeds that the map has held
	kept   int        // the messages in all its feeds
	filled feedHeap   // the feeds with messages, the one with the oldest first
	idle   []idleFeed // the feeds that linger, in the order in which they are looked at
}

const noStamp = math.MaxUint64

// idleFeed is a feed that lingers, and since when it is in the list.
type idleFeed struct {
	*feed
	since uint64
}

// A feed is the messages of one project, in the order in which the clients of this node receive them. The messages to
// all projects are a feed of their own. A message has a number, which is one more than that of the message before, and
// a stamp, which no other message of the node has.
//
// A feed lives as long as it has messages or clients, or lingers. The next feed of the same project begins with a higher
// number.
type feed struct {
	// Read-only after construction.
	project string
	part    *historyPart

	// order covers a message's number, its place in the history, its casts to the shards and to the relay's queue, and
	// the registration of a client. Without it, two publishers could reach two shards in different orders. It is taken
	// after history.allOrder, which covers the same for the messages to all projects.
	order sync.Mutex
	gone  bool // guarded by order: the feed is forgotten, and whoever has waited for its lock has to look again

	// Guarded by part.mu.
	slots   []*message        // a ring; the length is a power of two
	keys    map[string]uint64 // the numbers of the newest messages with each key; nil if none has one
	first   uint64            // the kept messages have numbers from first to next-1
	next    uint64            // the number of the next message
	bytes   int64             // what they count with, without the feed itself
	oldest  uint64            // the stamp of the oldest message
	inHeap  int               // index in part.filled, or -1
	base    uint64            // the number before the first message of the feed
	newest  uint64            // the stamp of the newest message
	keyed   uint64            // the stamp of the newest message with a key
	since   uint64            // the stamp since which no message of the project is missing here
	clients int
	left    uint64 // when the last client left
	lingers bool   // is in part.idle
}

// A point is how far a reader has come in the messages of one project: to the message of that number. No later message
// has a stamp of at most asOf. While nothing is published, the number stays and asOf grows.
type point struct{ number, asOf uint64 }

func newHistory(cfg *config) *history {
	h := &history{
		begin:    time.Now(),
		messages: cfg.history,
		bytes:    int64(cfg.historyBytes),
		age:      uint64(cfg.historyAge),
		seed:     maphash.MakeSeed(),
		seal:     seal.New(),
	}
	for i := range h.parts {
		h.parts[i].feeds = make(map[string]*feed)
		h.parts[i].oldest.Store(noStamp)
	}
	h.all = h.feedLocked(h.part(""), "")
	return h
}

func (h *history) part(project string) *historyPart {
	return &h.parts[maphash.String(h.seed, project)%historyParts]
}

func (h *history) isOn() bool { return h.messages > 0 }

func (h *history) now() uint64 { return uint64(time.Since(h.begin)) }

// timeOf returns the time of a stamp. If nothing was published since, that is now.
func (h *history) timeOf(stamp uint64) time.Time {
	now := time.Now()
	if stamp >= h.clock.Load() {
		return now
	}
	return now.Add(-time.Duration(uint64(now.Sub(h.begin)) - stamp))
}

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
		f = &feed{
			project: strings.Clone(project), part: p,
			base: base, first: base + 1, next: base + 1, inHeap: -1, since: h.forgotten.Load(),
		}
		p.feeds[f.project] = f
		p.most = max(p.most, len(p.feeds))
	}
	return f
}

// lock locks the order of a project's messages, until unlock is called, and returns the project's feed. If the history
// is off, a project that nobody follows has no feed, and there is no order to keep: lock only notes that a message was
// published, and returns nil.
func (h *history) lock(project string) *feed {
	if project == "" {
		h.allOrder.Lock()
		return h.all
	}
	h.allOrder.RLock()
	p := h.part(project)
	for {
		p.mu.Lock()
		f := p.feeds[project]
		switch {
		case f != nil:
		case !h.isOn():
			h.forget(h.tick())
			p.mu.Unlock()
			h.allOrder.RUnlock()
			return nil
		default:
			f = h.feedLocked(p, project)
		}
		p.mu.Unlock()
		f.order.Lock()
		if !f.gone {
			return f
		}
		f.order.Unlock()
	}
}

// unlock ends what lock has begun.
func (h *history) unlock(f *feed) {
	if f == h.all {
		h.allOrder.Unlock()
		return
	}
	f.order.Unlock()
	h.allOrder.RUnlock()
}

// append gives a message the next number of a feed whose order is locked, and keeps the message. m is nil if the history
// is off and nobody here wants the message. append returns how many clients follow the project.
func (h *history) append(f *feed, m *message) (clients int) {
	p := f.part
	p.mu.Lock()
	f.newest = h.tick()
	if m != nil {
		// The publisher may have waited for the lock, and the places and times of messages have the same order.
		m.number, m.stamp, m.at = f.next, f.newest, time.Now().UnixNano()
		if m.key != "" {
			f.keyed = f.newest
		}
	}
	switch bytes := m.historyBytes(); {
	case !h.isOn():
		f.next++
		f.first = f.next
	case bytes+historyFeedBytes > h.bytes:
		// It would push out the messages of all projects and then itself.
		h.emptyLocked(f)
		f.next++
		f.first = f.next
	default:
		if f.next-f.first >= uint64(h.messages) {
			h.dropLocked(f)
		}
		f.push(m)
		if m.key != "" {
			f.remember(m)
		}
		f.bytes += bytes
		p.kept++
		h.keptBytes.Add(bytes)
		h.placeLocked(f)
	}
	if clients = f.clients; clients == 0 && f.inHeap < 0 {
		h.lingerLocked(f)
	}
	p.mu.Unlock()
	if h.keptBytes.Load() > h.bytes {
		h.trim()
	}
	return clients
}

// historyBytes is what the message counts with in the history.
func (m *message) historyBytes() int64 {
	if m == nil {
		return 0
	}
	if m.key != "" {
		return int64(m.size() + historyMessageBytes + historyKeyBytes)
	}
	return int64(m.size() + historyMessageBytes)
}

// trim removes the oldest messages of the node until the others are within the bound in bytes.
func (h *history) trim() {
	for h.keptBytes.Load() > h.bytes {
		oldest := &h.parts[0]
		for i := range h.parts {
			if p := &h.parts[i]; p.oldest.Load() < oldest.oldest.Load() {
				oldest = p
			}
		}
		if !h.trimPart(oldest) {
			return
		}
	}
}

// trimPart removes the oldest message of a part, and reports whether there was one.
func (h *history) trimPart(p *historyPart) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.filled) == 0 {
		return false
	}
	if h.keptBytes.Load() > h.bytes { // another publisher may have trimmed in the meantime
		h.evictLocked(p)
	}
	return true
}

// evictLocked removes the oldest message of a part.
func (h *history) evictLocked(p *historyPart) {
	f := p.filled[0]
	h.dropLocked(f)
	h.placeLocked(f)
	h.forgetLocked(f)
}

// dropLocked takes the oldest message out of a feed. The caller then calls placeLocked.
func (h *history) dropLocked(f *feed) {
	slot := f.slot(f.first)
	bytes := (*slot).historyBytes()
	if key := (*slot).key; key != "" && f.keys[key] == f.first {
		delete(f.keys, key)
	}
	*slot = nil
	f.first++
	f.bytes -= bytes
	f.part.kept--
	h.keptBytes.Add(-bytes)
	if n := len(f.slots); n > 1 && f.next-f.first <= uint64(n/4) {
		f.resize(n / 2)
	}
}

// emptyLocked takes all messages out of a feed.
func (h *history) emptyLocked(f *feed) {
	f.part.kept -= int(f.next - f.first)
	h.keptBytes.Add(-f.bytes)
	f.first, f.bytes = f.next, 0
	h.placeLocked(f)
}

// placeLocked corrects the place of a feed among those with messages, after it has gained or lost some.
func (h *history) placeLocked(f *feed) {
	p := f.part
	switch {
	case f.first == f.next:
		f.slots, f.keys = nil, nil
		if f.inHeap >= 0 {
			heap.Remove(&p.filled, f.inHeap)
			h.keptBytes.Add(-historyFeedBytes)
		}
	case f.inHeap < 0:
		f.oldest = (*f.slot(f.first)).stamp
		heap.Push(&p.filled, f)
		h.keptBytes.Add(historyFeedBytes)
		h.sweepSoon()
	default:
		if oldest := (*f.slot(f.first)).stamp; oldest != f.oldest {
			f.oldest = oldest
			heap.Fix(&p.filled, f.inHeap)
		}
	}
	oldest := uint64(noStamp)
	if len(p.filled) > 0 {
		oldest = p.filled[0].oldest
	}
	if p.oldest.Load() != oldest {
		p.oldest.Store(oldest)
	}
}

// slot is the place of the message with that number.
func (f *feed) slot(number uint64) **message { return &f.slots[number&uint64(len(f.slots)-1)] }

// remember makes m the newest message with its key. The key in the map becomes that of m, and keeps no older one alive.
func (f *feed) remember(m *message) {
	if f.keys == nil {
		f.keys = make(map[string]uint64)
	}
	f.keys[m.key] = m.number
}

// newer returns the newest message of the same project and key that is held, or nil if that is m itself, has no key, or is
// one that a filter holds back.
func (h *history) newer(m *message, filter *Filter) *message {
	if m.key == "" {
		return nil
	}
	p := h.part(m.project)
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.feeds[m.project]
	if f == nil || f.keys[m.key] <= m.number {
		return nil
	}
	if newest := *f.slot(f.keys[m.key]); filter.matches(newest) {
		return newest
	}
	return nil
}

func (f *feed) push(m *message) {
	if n := len(f.slots); f.next-f.first == uint64(n) {
		f.resize(max(1, 2*n))
	}
	*f.slot(f.next) = m
	f.next++
}

// resize moves the messages into a ring of another size.
func (f *feed) resize(n int) {
	other := feed{slots: make([]*message, n)}
	for number := f.first; number < f.next; number++ {
		*other.slot(number) = *f.slot(number)
	}
	f.slots = other.slots
}

// held returns the numbers of the messages that are kept and not too old: from first to next-1.
func (f *feed) held(now, age uint64) (first, next uint64) {
	if f.first == f.next || f.oldest+age > now {
		return f.first, f.next
	}
	old := sort.Search(int(f.next-f.first), func(i int) bool { return (*f.slot(f.first + uint64(i))).stamp+age > now })
	return f.first + uint64(old), f.next
}

// feedHeap orders feeds by their oldest messages, for container/heap.
type feedHeap []*feed

func (l feedHeap) Len() int           { return len(l) }
func (l feedHeap) Less(i, j int) bool { return l[i].oldest < l[j].oldest }

func (l feedHeap) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].inHeap, l[j].inHeap = i, j
}

func (l *feedHeap) Push(f any) {
	f.(*feed).inHeap = len(*l)
	*l = append(*l, f.(*feed))
}

func (l *feedHeap) Pop() any {
	last := len(*l) - 1
	f := (*l)[last]
	f.inHeap = -1
	(*l)[last] = nil
	if *l = (*l)[:last]; last == 0 {
		*l = nil
	}
	return f
}

// follow counts a client of the project, and locks the order of everything that the client receives, until unlock is
// called. The client receives the messages that are published after that.
func (h *history) follow(project string) (unlock func()) {
	f := h.join("")
	if project != "" {
		f = h.join(project) // and so it is not forgotten while lock looks for it
	}
	h.lock(project)
	return func() { h.unlock(f) }
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
	if f.clients--; f.clients > 0 {
		return
	}
	f.left = h.now()
	h.lingerLocked(f)
}

// breakOff notes that messages of a project may be published from now on that this node doesn't receive.
func (h *history) breakOff(project string) {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.feeds[project]; f != nil {
		f.since = h.tick()
	} else {
		h.forget(h.tick())
	}
}

// reached returns the point at the newest message of a project. Without a feed, it is the point at which the next feed
// would begin.
func (h *history) reached(project string) point {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := h.clock.Load()
	if f := p.feeds[project]; f != nil {
		return point{f.next - 1, now}
	}
	return point{now, now}
}

// hasKeys reports whether a message of a project with a key was published after a stamp.
func (h *history) hasKeys(project string, stamp uint64) bool {
	newest := func(project string) uint64 {
		p := h.part(project)
		p.mu.Lock()
		defer p.mu.Unlock()
		if f := p.feeds[project]; f != nil {
			return f.keyed
		}
		return 0
	}
	return newest(project) > stamp || newest("") > stamp
}

// quietSince returns the newest stamp if a place is that of the newest messages of a project, and otherwise 0.
func (h *history) quietSince(project string, at cursor) uint64 {
	all := h.reached("")
	if all.number != at.all || project != "" && h.reached(project).number != at.project {
		return 0
	}
	return all.asOf
}

// missed returns how many messages of a project were published after a point, and whether that is all of them. If it is
// not, nobody knows how many more there were.
func (h *history) missed(project string, from point) (messages uint64, all bool) {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.feeds[project]
	if f == nil {
		return 0, from.asOf >= h.forgotten.Load()
	}
	last := f.next - 1
	return last - min(max(from.number, f.base), last), from.asOf >= f.since
}

// lingerLocked keeps a feed for the age of the history: a client that has left may return and ask what it has missed. If
// too many linger, it wakes the one that has lingered longest.
func (h *history) lingerLocked(f *feed) {
	h.idleLocked(f)
	if p := f.part; len(p.idle) > historyIdle {
		h.wakeLocked(p)
	}
}

func (h *history) idleLocked(f *feed) {
	if f.lingers || f == h.all {
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
	if f.clients > 0 || f.inHeap >= 0 || f.lingers || f == h.all {
		return
	}
	if !f.order.TryLock() { // never waits: somebody is publishing
		h.idleLocked(f)
		return
	}
	f.gone = true
	f.order.Unlock()
	h.forget(max(f.newest, f.since))
	p := f.part
	delete(p.feeds, f.project)
	if n := len(p.feeds); p.most > 2*historyBite && n <= historyBite/4 { // a map doesn't shrink
		feeds := make(map[string]*feed, n)
		maps.Copy(feeds, p.feeds)
		p.feeds, p.most = feeds, n
	}
}

// stats returns how many messages are kept, and how many bytes they count with.
func (h *history) stats() (messages int, bytes int64) {
	for i := range h.parts {
		p := &h.parts[i]
		p.mu.Lock()
		messages += p.kept
		p.mu.Unlock()
	}
	return messages, h.keptBytes.Load()
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
	if h.keptBytes.Load() > 0 || h.lingering.Load() > 0 {
		h.sweepSoon()
	}
}

// sweepSome takes a bite of a part, and reports whether there is more.
func (h *history) sweepSome(p *historyPart, now uint64) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range historyBite {
		if len(p.filled) > 0 && p.filled[0].oldest+h.age <= now {
			h.evictLocked(p)
			continue
		}
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
