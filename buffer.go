package mesherstream

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// limits is what a backlog may hold, and what happens beyond that.
type limits struct {
	messages, bytes int
	overflow        Overflow
	conflate        bool // a message takes the place of an older one with the same key
}

// backlog is the queue of messages that wait for one client: a ring with two bounds, a number of messages and a number
// of bytes. When either is exceeded, messages leave: the oldest ones, unless the application has asked for others.
//
// A channel would not do: it can't drop its oldest without a race between the reader and the one who drops, it can't
// count bytes, and it takes its whole memory at once. The slots of this ring hold pointers to messages that all clients
// share, they are made when the first message has to wait, and a ring that has grown gives them back when it is empty,
// so that a client that keeps up costs nothing.
//
// A message may leave before its turn, and then its slot stays empty until the ring is full or filtered. That keeps every
// other message's number, and so each push costs the same, however many wait.
//
// A backlog belongs to its shard's goroutine.
type backlog struct {
	slots []*message // as many as a power of two; nil where a message has left before its turn
	first uint64     // the number of the oldest message; all that wait have numbers from first to next-1
	next  uint64     // the number that the next message gets
	count int
	bytes int

	kept uint64            // every message before this number has a level that WithKeepLevels names
	keys map[string]uint64 // the numbers of the messages that have a key
	gaps *gaps             // where messages were dropped, for a client that is told so
}

// The ring starts with minSlots, and keeps up to that many when it is empty.
const minSlots = 8

func (b *backlog) len() int { return b.count }

// slot is where the message of that number is, or was.
func (b *backlog) slot(number uint64) **message { return &b.slots[number&uint64(len(b.slots)-1)] }

// fits says whether so many messages more, with so many bytes, exceed no bound.
func (b *backlog) fits(messages, bytes int, most limits) bool {
	return b.count+messages <= most.messages && b.bytes+bytes <= most.bytes
}

// takes says whether m can come without another message's leaving.
func (b *backlog) takes(m *message, most limits) bool {
	if number, ok := b.keys[m.key]; ok {
		old := *b.slot(number)
		return b.fits(0, m.size()-old.size(), most)
	}
	return b.count == 0 || b.fits(1, m.size(), most)
}

// push appends m, or puts it in the place of the message that waits with the same key. It returns how many messages had
// to leave, of which the last may be m itself, and whether m has replaced one. A message that is larger than the bound
// alone is the caller's mistake (Broadcast refuses it).
func (b *backlog) push(m *message, most limits) (dropped int, replaced bool) {
	if m.key != "" && most.conflate {
		if number, ok := b.keys[m.key]; ok {
			replaced = true
			if b.replace(number, m, most.bytes) {
				return 0, true
			}
		}
	}
	for b.count > 0 && !b.fits(1, m.size(), most) {
		number, ok := b.victim(m, most.overflow)
		dropped++
		if !ok {
			b.gaps.note(b.next, b.next, m)
			return dropped, replaced
		}
		b.gaps.note(number, number+1, *b.slot(number))
		b.take(number)
		b.gaps.due(b.first) // or those of a client that stands still would add up
	}
	b.makeSlot()
	*b.slot(b.next) = m
	if most.conflate {
		b.remember(m, b.next)
	}
	b.next++
	b.count++
	b.bytes += m.size()
	return dropped, replaced
}

// replace puts m in the place of an older message with the same key. Where m is too large for that, the older one leaves
// all the same, and m is still to be appended: what is newest of a key must not be lost for a place.
func (b *backlog) replace(number uint64, m *message, mostBytes int) (done bool) {
	slot := b.slot(number)
	if b.bytes-(*slot).size()+m.size() > mostBytes {
		b.take(number)
		return false
	}
	b.bytes += m.size() - (*slot).size()
	*slot = m
	b.remember(m, number) // the map's key too is of the newer message now, or it would keep the older one alive
	if !m.keep {
		b.kept = min(b.kept, number)
	}
	return true
}

// victim chooses the message that leaves so that m can come, or none, and then it is m. A message of a level that is kept
// leaves for another one of such a level only.
func (b *backlog) victim(m *message, overflow Overflow) (number uint64, ok bool) {
	if overflow == DropNewest && !m.keep {
		return 0, false
	}
	b.kept = max(b.kept, b.first)
	for ; b.kept < b.next; b.kept++ {
		if waiting := *b.slot(b.kept); waiting != nil && !waiting.keep {
			return b.kept, true
		}
	}
	return b.first, m.keep && overflow == DropOldest
}

// peek appends the oldest messages to dst, up to the next gap: at most n of them, at most limit bytes of frames, but at
// least one.
func (b *backlog) peek(dst []*message, n, limit int) []*message {
	size := 0
	for number, end := b.first, min(b.next, b.gaps.after(b.first)); number < end && n > 0; number++ {
		m := *b.slot(number)
		if m == nil {
			continue
		}
		size += len(m.frame)
		if number > b.first && size > limit {
			break
		}
		dst = append(dst, m)
		n--
	}
	return dst
}

// discard removes the n oldest messages.
func (b *backlog) discard(n int) {
	for range n {
		b.take(b.first)
	}
	b.giveBack()
}

// filter takes out what accept refuses, and returns how many messages that was.
func (b *backlog) filter(accept func(*message) bool) (taken int) {
	for number := b.first; number < b.next; number++ {
		if m := *b.slot(number); m != nil && !accept(m) {
			b.take(number)
			taken++
		}
	}
	if taken > 0 {
		b.closeUp()
		b.giveBack()
	}
	return taken
}

// giveBack lets go of a ring that has grown and is empty.
func (b *backlog) giveBack() {
	if b.count == 0 && len(b.slots) > minSlots {
		b.slots, b.keys = nil, nil
	}
}

// take removes the message of that number.
func (b *backlog) take(number uint64) {
	slot := b.slot(number)
	b.bytes -= (*slot).size()
	b.count--
	if key := (*slot).key; key != "" {
		delete(b.keys, key)
	}
	*slot = nil // or a message would live for as long as the slot isn't used again
	for b.first < b.next && *b.slot(b.first) == nil {
		b.first++
	}
}

func (b *backlog) remember(m *message, number uint64) {
	if m.key == "" {
		return
	}
	if b.keys == nil {
		b.keys = make(map[string]uint64)
	}
	b.keys[m.key] = number
}

// makeSlot makes sure that the next message has a slot. A ring that is half empty is closed up instead of being grown, so
// that it is never larger than what may wait, rounded up to a power of two, or twice that where messages leave before
// their turn.
func (b *backlog) makeSlot() {
	switch {
	case b.next-b.first < uint64(len(b.slots)):
		return
	case b.count > 0 && b.count <= len(b.slots)/2:
		b.closeUp()
		return
	}
	grown := backlog{slots: make([]*message, max(minSlots, 2*len(b.slots)))}
	for number := b.first; number < b.next; number++ {
		*grown.slot(number) = *b.slot(number)
	}
	b.slots = grown.slots
}

// closeUp gives the messages new numbers without holes between them.
func (b *backlog) closeUp() {
	to := b.first
	renumber := b.gaps.renumber()
	for number := b.first; number < b.next; number++ {
		renumber(number, to)
		m := *b.slot(number)
		if m == nil {
			continue
		}
		*b.slot(number) = nil
		*b.slot(to) = m
		if b.keys != nil {
			b.remember(m, to)
		}
		to++
	}
	renumber(b.next, to)
	b.gaps.compact()
	b.next, b.kept = to, b.first
}

// maxGapLevels bounds how many levels the gaps of one client tell apart.
const maxGapLevels = 16

// otherLevels is what a notice calls the levels beyond those.
const otherLevels = "*"

// gaps remembers for one client where messages were dropped that it has not been told of. They are in the order of the
// stream, and no two of them are in front of the same message. With the default [DropOldest] there is never more than one:
// what is dropped is always in front of all that waits. With levels that are kept there may be one for each message that
// waits, and so a gap has a fixed size, and the names of the levels are shared.
//
// The methods do nothing for a nil *gaps, which is that of a client that isn't told.
type gaps struct {
	list   []gap
	levels []string // those that the gaps tell apart; forgotten with the last gap
}

// A gap is some dropped messages, between two others.
type gap struct {
	before       uint64 // the number of the message behind it
	dropped      int
	byLevel      [maxGapLevels]uint32 // in the order of gaps.levels; the rest of dropped is of other levels
	since, until int64                // when the oldest and the newest of them were published, in Unix nanoseconds
}

// note adds a message to the gap in front of a number. Where that number was the message's own, the gap is in front of the
// next one from then on, together with what is there already.
func (g *gaps) note(number, before uint64, m *message) {
	if g == nil {
		return
	}
	i, found := slices.BinarySearchFunc(g.list, number, func(a gap, n uint64) int { return cmp.Compare(a.before, n) })
	switch {
	case found && i+1 < len(g.list) && g.list[i+1].before == before:
		g.list[i+1].join(&g.list[i])
		g.remove(i)
	case !found && (i == len(g.list) || g.list[i].before != before):
		g.makeRoom()
		g.list = slices.Insert(g.list, i, gap{since: m.at, until: m.at})
	}
	at := &g.list[i]
	at.before = before
	at.dropped++
	at.since, at.until = min(at.since, m.at), max(at.until, m.at)
	if level := g.level(m.level); level >= 0 {
		at.count(level, 1)
	}
}

// makeRoom grows a full list by a quarter. append would double it, and clients may hold it for long.
func (g *gaps) makeRoom() {
	if n := len(g.list); n == cap(g.list) {
		g.list = append(make([]gap, 0, n+n/4+1), g.list...)
	}
}

// level returns the index of a level in levels, or -1 if there are too many.
func (g *gaps) level(name string) int {
	i := slices.Index(g.levels, name)
	if i < 0 && len(g.levels) < maxGapLevels {
		i = len(g.levels)
		g.levels = append(g.levels, strings.Clone(name)) // which would keep its whole message alive
	}
	return i
}

// count counts messages of a level. Those that the number can't hold any more are of other levels.
func (g *gap) count(level int, n uint32) {
	g.byLevel[level] += min(n, math.MaxUint32-g.byLevel[level])
}

// byLevel returns how many messages of which levels the gap holds.
func (g *gaps) byLevel(of *gap) map[string]int {
	counts := make(map[string]int, len(g.levels)+1)
	rest := of.dropped
	for i, level := range g.levels {
		if n := int(of.byLevel[i]); n > 0 {
			counts[level] = n
			rest -= n
		}
	}
	if rest > 0 {
		counts[otherLevels] += rest // of which name there may be a level, too
	}
	return counts
}

// after returns the number that the first gap behind a message stands in front of.
func (g *gaps) after(number uint64) uint64 {
	if g != nil {
		for i := range g.list {
			if g.list[i].before > number {
				return g.list[i].before
			}
		}
	}
	return math.MaxUint64
}

// any says whether there is something to tell.
func (g *gaps) any() bool { return g != nil && len(g.list) > 0 }

// due joins the gaps in front of the oldest message, which has that number, into one, and returns it, or nil.
func (g *gaps) due(first uint64) *gap {
	if !g.any() || g.list[0].before > first {
		return nil
	}
	for len(g.list) > 1 && g.list[1].before <= first {
		g.list[1].join(&g.list[0])
		g.told()
	}
	g.list[0].before = first
	return &g.list[0]
}

// clear is for a client that gets nothing more.
func (g *gaps) clear() {
	if g != nil {
		*g = gaps{}
	}
}

// told forgets the gap that was due.
func (g *gaps) told() { g.remove(0) }

// remove takes a gap out. The first one leaves without moving the others, of which there may be as many as messages wait.
func (g *gaps) remove(i int) {
	if i > 0 {
		g.list = slices.Delete(g.list, i, i+1)
		return
	}
	g.list[0] = gap{}
	if g.list = g.list[1:]; len(g.list) == 0 {
		*g = gaps{} // with what it has grown to
	}
}

// join adds what another gap tells.
func (g *gap) join(o *gap) {
	g.dropped += o.dropped
	g.since, g.until = min(g.since, o.since), max(g.until, o.until)
	for level, n := range &o.byLevel {
		g.count(level, n)
	}
}

// renumber returns a function that is told each number in turn, and which one it becomes.
func (g *gaps) renumber() func(number, to uint64) {
	if g == nil {
		return func(uint64, uint64) {}
	}
	i := 0
	return func(number, to uint64) {
		for ; i < len(g.list) && g.list[i].before <= number; i++ {
			g.list[i].before = to
		}
	}
}

// compact joins the gaps that renumber has put in the same place.
func (g *gaps) compact() {
	if g == nil {
		return
	}
	list := g.list[:0]
	for _, a := range g.list {
		if last := len(list) - 1; last >= 0 && list[last].before == a.before {
			list[last].join(&a)
			continue
		}
		list = append(list, a)
	}
	clear(g.list[len(list):])
	g.list = list
}
