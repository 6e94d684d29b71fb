package mesherstream

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// limits says how much a backlog may hold, and what happens beyond that.
type limits struct {
	messages, bytes int
	overflow        Overflow
	conflate        bool // a message replaces an older one with the same key
}

// backlog is the queue of messages that wait for one client: a ring with two bounds, a number of messages and a number
// of bytes. When either is exceeded, messages are dropped: the oldest ones, unless the application has asked for
// others.
//
// A channel would not do. It can't drop its oldest element without a race between the reader and the goroutine that
// drops. It can't count bytes. And it allocates all of its memory at once. The slots of this ring hold pointers to
// messages that all clients share. They are allocated when the first message has to wait, and a ring that has grown is
// released when it is empty, so that a client that keeps up costs nothing.
//
// A message may leave before its turn. Its slot then stays empty until the ring is full or filtered. Every other
// message therefore keeps its number, and each push costs the same, however many messages wait.
//
// A backlog belongs to its shard's goroutine.
type backlog struct {
	// Each delivery reads these two. They come first, so that they are next to the other fields that it touches.
	count int
	gaps  *gaps // where messages were dropped, for a client that is told of it

	bytes int
	slots []*message // the length is a power of two; nil if a message has left before its turn
	first uint64     // the number of the oldest message; the waiting messages have numbers from first to next-1
	next  uint64     // the number of the next message

	// A newer message has been put in the place of an older one with the same key while others waited or were missing, and
	// some have waited or been missing ever since: the backlog is not in the order of publication.
	reordered bool

	kept uint64            // every message before this number has a level that WithKeepLevels names
	keys map[string]uint64 // the numbers of the messages with a key
}

// The ring starts with minSlots, and keeps up to that many when it is empty.
const minSlots = 8

func (b *backlog) len() int { return b.count }

// slot is the place of the message with that number, even after the message has left.
func (b *backlog) slot(number uint64) **message { return &b.slots[number&uint64(len(b.slots)-1)] }

// fits reports whether that many more messages and bytes are within the bounds.
func (b *backlog) fits(messages, bytes int, most limits) bool {
	return b.count+messages <= most.messages && b.bytes+bytes <= most.bytes
}

// takes reports whether m fits without another message having to leave.
func (b *backlog) takes(m *message, most limits) bool {
	if number, ok := b.keys[m.key]; ok {
		old := *b.slot(number)
		return b.fits(0, m.size()-old.size(), most)
	}
	return b.count == 0 || b.fits(1, m.size(), most)
}

// push appends m, or puts it in the place of the waiting message with the same key. It returns how many messages had to
// leave, the last of which may be m itself, and whether m has replaced one. It is the caller's mistake if m alone
// exceeds the bound (Broadcast refuses such a message).
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
			b.gaps.note(b.next, b.next, m, b.reordered)
			return dropped, replaced
		}
		b.gaps.note(number, number+1, *b.slot(number), b.reordered)
		b.take(number)
		b.gaps.due(b.first) // otherwise the gaps of a client that makes no progress would add up
	}
	if b.count == 0 && !b.gaps.any() {
		b.reordered = false
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

// replace puts m in the place of an older message with the same key. If m is too large for that, the older message is
// removed all the same, and the caller has yet to append m: the newest value of a key must not be lost for lack of
// space.
func (b *backlog) replace(number uint64, m *message, mostBytes int) (done bool) {
	slot := b.slot(number)
	if b.bytes-(*slot).size()+m.size() > mostBytes {
		b.take(number)
		return false
	}
	b.bytes += m.size() - (*slot).size()
	*slot = m
	b.reordered = b.reordered || b.count > 1 || b.gaps.any()
	b.remember(m, number) // the key in the map must also be the newer message's, or it would keep the older message alive
	if !m.keep {
		b.kept = min(b.kept, number)
	}
	return true
}

// victim chooses the message that leaves to make room for m. It returns false if that is m itself. A message of a kept
// level leaves only for another one of such a level.
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

// head returns the oldest message, or nil if none waits.
func (b *backlog) head() *message {
	if b.count == 0 {
		return nil
	}
	return *b.slot(b.first)
}

// oldest returns the size of the oldest message's frame, or 0 if none waits.
func (b *backlog) oldest() int {
	if b.count == 0 {
		return 0
	}
	return len((*b.slot(b.first)).frame)
}

// peek appends the oldest messages to dst, up to the next gap: at most n messages, with at most limit bytes of frames,
// but at least one message.
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

// filter removes the messages that accept refuses, and returns how many it has removed.
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

// giveBack releases a ring that has grown and is empty.
func (b *backlog) giveBack() {
	if b.count == 0 && len(b.slots) > minSlots {
		b.slots, b.keys = nil, nil
	}
}

// take removes the message with that number.
func (b *backlog) take(number uint64) {
	slot := b.slot(number)
	b.bytes -= (*slot).size()
	if b.count--; b.count == 0 && !b.gaps.any() {
		b.reordered = false
	}
	if key := (*slot).key; key != "" {
		delete(b.keys, key)
	}
	*slot = nil // otherwise the message would live until the slot is used again
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

// makeSlot makes sure that the next message has a slot. A ring that is half empty is closed up instead of being grown.
// Its size is therefore bounded by the number of messages that may wait, rounded up to a power of two, or by twice that
// if messages leave before their turn.
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

// closeUp renumbers the messages so that there are no holes between them.
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

// maxGapLevels bounds how many levels the gaps of one client count separately.
const maxGapLevels = 16

// otherLevels is the name under which a notice counts all further levels.
const otherLevels = "*"

// gaps remembers, for one client, where messages were dropped that it has not been told of. The gaps are in the order
// of the stream, and no two of them are before the same message. With the default [DropOldest] there is never more than
// one, since every dropped message is older than all that wait. With kept levels there may be one for each waiting
// message. Therefore a gap has a fixed size, and the names of the levels are shared.
//
// The methods do nothing for a nil *gaps, which belongs to a client that isn't told.
type gaps struct {
	list   []gap
	levels []string // those that the gaps count separately; forgotten with the last gap
	filter *Filter  // the one in force
}

// A gap is a run of dropped messages between two others.
type gap struct {
	before       uint64 // the number of the first message after the gap
	dropped      int
	byLevel      [maxGapLevels]uint32 // in the order of gaps.levels; the rest of dropped is of other levels
	since, until int64                // when the oldest and the newest dropped message were published, in Unix nanoseconds

	// The dropped messages are those that match the filter and have numbers after the first place and up to the second one.
	// If the gap is loose, others may have such numbers too. Of a feed whose number in last is 0, none is dropped.
	after, last cursor
	first       uint64 // the stamp of the oldest dropped message of a feed, or 0
	filter      *Filter
	loose       bool
}

// note adds a message with that number to the gap before another number. If there was a gap before the message itself,
// that gap moves there too and is joined with the one that is there already. loose says that a message with a number
// between those of the gap may have another place in the stream.
func (g *gaps) note(number, before uint64, m *message, loose bool) {
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
		g.list = slices.Insert(g.list, i, gap{since: m.at, until: m.at, filter: g.filter})
	}
	at := &g.list[i]
	at.before = before
	at.dropped++
	at.since, at.until = min(at.since, m.at), max(at.until, m.at)
	at.span(m)
	at.loose = at.loose || loose || at.filter != g.filter
	if level := g.level(m.level); level >= 0 {
		at.count(level, 1)
	}
}

// span widens the places of the gap so that a message is between them.
func (g *gap) span(m *message) {
	if m.own {
		g.loose = true
		return
	}
	after, last := &g.after.all, &g.last.all
	if m.project != "" {
		after, last = &g.after.project, &g.last.project
	}
	if *last == 0 {
		*after = m.number - 1
	}
	*after, *last = min(*after, m.number-1), max(*last, m.number)
	if g.first == 0 {
		g.first = m.stamp
	}
	g.first = min(g.first, m.stamp)
}

// precedes moves a place before the messages of the gap. Of a feed of which none is dropped, the place stays.
func (g *gap) precedes(at cursor) cursor {
	if g.last.project > 0 {
		at.project = min(at.project, g.after.project)
	}
	if g.last.all > 0 {
		at.all = min(at.all, g.after.all)
	}
	return at
}

// makeRoom grows a full list by a quarter. append would double it, and clients may keep it for long.
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
		g.levels = append(g.levels, strings.Clone(name)) // the substring would keep its whole message alive
	}
	return i
}

// count counts messages of a level. Messages beyond the range of the number count as those of other levels.
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
		counts[otherLevels] += rest // a level may have that name, too
	}
	return counts
}

// after returns the number before which the first gap after a message lies.
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

// untold returns the gaps without the oldest ones, of which the client is told.
func (g *gaps) untold(told int) []gap {
	if g == nil {
		return nil
	}
	return g.list[told:]
}

// any reports whether there is something to tell.
func (g *gaps) any() bool { return g != nil && len(g.list) > 0 }

// hold reports whether a gap has messages that others receive, too.
func (g *gaps) hold() bool {
	return g != nil && slices.ContainsFunc(g.list, func(a gap) bool { return a.first > 0 })
}

// due joins the gaps before the oldest message, whose number is first, into one. It returns that gap, or nil.
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

// clear is for a client that receives nothing more.
func (g *gaps) clear() {
	if g != nil {
		*g = gaps{filter: g.filter}
	}
}

// told forgets the gap that was due.
func (g *gaps) told() { g.remove(0) }

// remove removes a gap. Removing the first one moves none of the others, of which there may be as many as messages
// wait.
func (g *gaps) remove(i int) {
	if i > 0 {
		g.list = slices.Delete(g.list, i, i+1)
		return
	}
	g.list[0] = gap{}
	if g.list = g.list[1:]; len(g.list) == 0 {
		*g = gaps{filter: g.filter} // together with the memory that it has grown to
	}
}

// join adds the contents of another gap.
func (g *gap) join(o *gap) {
	g.dropped += o.dropped
	g.loose = g.loose || o.loose || g.filter != o.filter
	g.after.project, g.last.project = joinSpans(g.after.project, g.last.project, o.after.project, o.last.project)
	g.after.all, g.last.all = joinSpans(g.after.all, g.last.all, o.after.all, o.last.all)
	if g.first == 0 || o.first > 0 && o.first < g.first {
		g.first = o.first
	}
	g.since, g.until = min(g.since, o.since), max(g.until, o.until)
	for level, n := range &o.byLevel {
		g.count(level, n)
	}
}

// joinSpans joins what two gaps span of one feed.
func joinSpans(after, last, otherAfter, otherLast uint64) (uint64, uint64) {
	switch {
	case otherLast == 0:
		return after, last
	case last == 0:
		return otherAfter, otherLast
	}
	return min(after, otherAfter), max(last, otherLast)
}

// renumber returns a function. It is called with each number in turn and with the number's replacement.
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

// compact joins the gaps that renumber has moved to the same place.
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

// An outbox holds everything that waits to be sent to a client: first the flight, then control frames, then the rest of a
// bite, then the backlog. A client that keeps up has none. An outbox is made when something has to wait, and a beat that
// finds nothing in it gives it back. If there are neither pings nor an idle timeout, there are no beats, and it stays.
type outbox struct {
	backlog       backlog       // can be dropped
	waitingSince  time.Duration // when the empty backlog received its first message, since connectedAt
	inWaiting     int32         // index in shard.waiting, or -1
	untold        bool          // rest is that of a return, and tells what the client has missed
	flight        flight        // sent before anything else; can't be dropped
	pong, closing []byte        // control frames to send as soon as a frame may start
	reply         []byte        // the reply to the client's last request, likewise
	rest          []*message    // of a bite of a fetch of which the beginning is on its way: nothing else may come between
	gaps          gaps          // of the backlog, if the client is told of them
	paid          time.Duration // the time that the client's requests have used up, since connectedAt

	// Of a client that is being closed.
	closeCode   int // the code and reason for the Disconnect hook
	closeReason string
	cutTimer    *time.Timer // ends a close handshake that the client does not complete
}

// outbox returns the client's outbox, which it makes if there is none.
func (c *client) outbox() *outbox {
	if c.out == nil {
		c.out = &outbox{inWaiting: -1}
		if c.v1 != nil {
			c.out.backlog.gaps = &c.out.gaps
		}
		if c.group != nil {
			c.out.gaps.filter = &c.group.sub.Filter
		}
	}
	return c.out
}

// giveBack releases an outbox in which nothing is left, and which need not remember requests.
func (c *client) giveBack(now time.Time) {
	switch o := c.out; {
	case o == nil || !c.idle() || c.phase != phaseOpen || c.replay != nil || o.inWaiting >= 0:
	case o.pong != nil || o.reply != nil || o.rest != nil || o.paid > c.saved(now):
	default:
		c.out = nil
	}
}

// queued is how many messages are in the client's backlog.
func (c *client) queued() int {
	if c.out == nil {
		return 0
	}
	return c.out.backlog.len()
}

// head returns the oldest message of the backlog, or nil if none waits.
func (c *client) head() *message {
	if c.out == nil {
		return nil
	}
	return c.out.backlog.head()
}

// oldest returns the size of that message's frame, or 0.
func (c *client) oldest() int {
	if c.out == nil {
		return 0
	}
	return c.out.backlog.oldest()
}

// hasGaps reports whether the client is to be told of a gap.
func (c *client) hasGaps() bool { return c.out != nil && c.out.backlog.gaps.any() }

// buffered returns how many messages wait for the client, and how many bytes of them.
func (c *client) buffered() (messages, bytes int) {
	o := c.out
	if o == nil {
		return 0, 0
	}
	messages, bytes = o.backlog.len()+o.flight.buffered(), o.backlog.bytes
	if o.flight.buffered() > 0 {
		bytes += len(o.flight.bytes) - o.flight.done
	}
	return messages, bytes
}

// idle reports whether nothing is waiting for the client, including a gap that it is to be told of. A drain need not
// visit such a client.
func (c *client) idle() bool {
	return !c.busy && (c.out == nil || c.out.backlog.len() == 0 && !c.out.backlog.gaps.any())
}

// A flight is a run of whole frames that the shard can't take back: the link is sending it, or the kernel has accepted
// its beginning.
type flight struct {
	stretch
	done     int  // how many of the bytes the kernel has accepted
	notices  int  // how many of the frames come before the messages
	messages int  // how many of the frames are messages
	replayed bool // the messages are of a replay
}

// buffered returns how many messages of the flight count as buffered: those of a replay don't.
func (f *flight) buffered() int {
	if f.replayed {
		return 0
	}
	return f.messages
}

// landed returns how many messages of the flight the kernel has accepted completely.
func (f *flight) landed() int {
	return min(max(0, f.whole(f.done)-f.notices), f.messages) // a reply is not a message either
}
