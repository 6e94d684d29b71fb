package mesherstream

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A few cases of a full buffer; the fuzz target below compares any sequence with a list.
func TestAFullBufferDropsTheOldestUnlessItShallDropTheNewest(t *testing.T) {
	for _, tt := range []struct {
		name string
		most limits
		keep string // the level that is dropped last
		push string // levels, one letter each
		want string // the numbers of the messages that are left
	}{
		{"the oldest", limits{messages: 3, bytes: 1 << 20}, "", "aaaaa", "2 3 4"},
		{"the newest", limits{messages: 3, bytes: 1 << 20, overflow: DropNewest}, "", "aaaaa", "0 1 2"},
		{"by bytes", limits{messages: 100, bytes: 40}, "", "aaaaa", "3 4"},
		{"kept levels last", limits{messages: 3, bytes: 1 << 20}, "k", "kaakaa", "0 3 5"},
		{"the oldest other one for a kept one", limits{messages: 3, bytes: 1 << 20, overflow: DropNewest}, "k", "aaak", "1 2 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b backlog
			for i, level := range strings.Split(tt.push, "") {
				b.push(&message{frame: fmt.Appendf(nil, "%-16d", i), level: level, keep: level == tt.keep}, tt.most)
			}
			var left []string
			for _, m := range b.peek(nil, 100, 1<<20) {
				left = append(left, strings.TrimSpace(string(m.frame)))
			}
			if got := strings.Join(left, " "); got != tt.want {
				t.Errorf("left: got %s, want %s", got, tt.want)
			}
		})
	}
}

// queue is the model of a backlog: all messages that arrived, in order, and the fate of each.
type queue struct {
	limits
	entries []queueEntry
	levels  []string // those that are told apart
}

type queueEntry struct {
	*message
	left    bool
	dropped bool
	as      string // the level that it is told as
}

// drop notes that a message was dropped, and what its level is told as.
func (q *queue) drop(e *queueEntry) {
	if !slices.ContainsFunc(q.entries, func(e queueEntry) bool { return e.dropped }) {
		q.levels = nil
	}
	if !slices.Contains(q.levels, e.level) && len(q.levels) < 16 {
		q.levels = append(q.levels, e.level)
	}
	e.left, e.dropped, e.as = true, true, "*"
	if slices.Contains(q.levels, e.level) {
		e.as = e.level
	}
}

func (q *queue) waiting() (list []*message) {
	for _, e := range q.entries {
		if !e.left {
			list = append(list, e.message)
		}
	}
	return list
}

func (q *queue) size() (bytes int) {
	for _, m := range q.waiting() {
		bytes += held(m)
	}
	return bytes
}

// held is the size that a message counts with.
func held(m *message) int { return len(m.project + m.level + m.environment + m.key + string(m.frame)) }

// oldest returns the index of the oldest waiting message of that level's rank, or -1.
func (q *queue) oldest(keep bool) int {
	return slices.IndexFunc(q.entries, func(e queueEntry) bool { return !e.left && e.keep == keep })
}

func (q *queue) push(m *message) (dropped int, replaced bool) {
	if i := slices.IndexFunc(q.entries, func(e queueEntry) bool { return !e.left && m.key != "" && e.key == m.key }); i >= 0 {
		replaced = true
		if q.size()-held(q.entries[i].message)+held(m) <= q.bytes {
			q.entries[i].message = m
			return 0, true
		}
		q.entries[i].left = true
	}
	for n := len(q.waiting()); n > 0 && (n+1 > q.messages || q.size()+held(m) > q.bytes); n-- {
		dropped++
		victim := q.oldest(false)
		switch {
		case q.overflow == DropNewest && !m.keep, victim < 0 && (!m.keep || q.overflow == DropNewest):
			e := queueEntry{message: m}
			q.drop(&e)
			q.entries = append(q.entries, e)
			return dropped, replaced
		case victim < 0:
			victim = q.oldest(true)
		}
		q.drop(&q.entries[victim])
	}
	q.entries = append(q.entries, queueEntry{message: m})
	return dropped, replaced
}

func (q *queue) filter(accept func(*message) bool) (taken int) {
	for i := range q.entries {
		if e := &q.entries[i]; !e.left && !accept(e.message) {
			e.left = true
			taken++
		}
	}
	return taken
}

// next returns the next thing to send: how many messages of which levels were dropped before it, and the message, or
// nil at the end. It forgets both.
func (q *queue) next() (dropped map[string]int, m *message) {
	dropped = make(map[string]int)
	for i, e := range q.entries {
		switch {
		case !e.left:
			q.entries = q.entries[i+1:]
			return dropped, e.message
		case e.dropped:
			dropped[e.as]++
		}
	}
	q.entries = nil
	return dropped, nil
}

// FuzzBacklog compares the ring with a list of all messages that ever arrived. Each byte of ops is one step: a push of
// a message whose length, level and key are in its low bits, a filter, or a look at the oldest message.
func FuzzBacklog(f *testing.F) {
	f.Add(uint8(3), uint16(100), uint8(0), []byte{1, 2, 3, 4, 5, 0x80, 0xC1, 6, 0x81})
	f.Add(uint8(1), uint16(1), uint8(1), []byte{0, 1, 0xC0, 1, 1})
	f.Add(uint8(100), uint16(500), uint8(0), bytes.Repeat([]byte{9, 30, 55}, 300))
	f.Add(uint8(17), uint16(9999), uint8(1), append(bytes.Repeat([]byte{63}, 40), 0xFF, 1, 1, 0xFF))
	f.Add(uint8(5), uint16(700), uint8(0), []byte{32, 33, 34, 35, 0, 1, 2, 32, 0x8F, 16, 17, 48, 49, 16, 0xC0, 0xC0, 0xC0, 1, 0xC0})
	f.Add(uint8(2), uint16(999), uint8(1), append(upTo(64), append([]byte{0xC0}, upTo(64)...)...))
	f.Add(uint8(4), uint16(999), uint8(0), append(upTo(64), append([]byte{0xC0}, upTo(64)...)...))
	f.Fuzz(func(t *testing.T, maxMessages uint8, maxBytes uint16, overflow uint8, ops []byte) {
		most := limits{max(1, int(maxMessages)), max(80, int(maxBytes)), Overflow(overflow % 2), true} // the longest frame fits, as Broadcast ensures
		q := queue{limits: most}
		b := backlog{gaps: new(gaps)}
		for step, op := range ops {
			switch low := int(op & 0x3F); op >> 6 {
			case 0, 1:
				m := &message{frame: make([]byte, low), level: fmt.Sprint("level ", low%20), keep: low&32 != 0, at: int64(step)}
				if low&16 != 0 {
					m.key = fmt.Sprint("key ", low%4)
				}
				wantDropped, wantReplaced := q.push(m)
				if got, replaced := b.push(m, most); got != wantDropped || replaced != wantReplaced {
					t.Fatalf("step %d: push of %d bytes: got %d dropped, replaced %v, want %d, %v", step, low, got, replaced, wantDropped, wantReplaced)
				}
			case 2:
				accept := func(m *message) bool { return int(m.level[len(m.level)-1])%4 != low%4 }
				if got, want := b.filter(accept), q.filter(accept); got != want {
					t.Fatalf("step %d: filter: got %d taken, want %d", step, got, want)
				}
			case 3:
				checkNext(t, &b, &q)
			}
			checkRing(t, &b, &q)
		}
		for range len(ops) + 1 {
			checkNext(t, &b, &q)
		}
		if b.len() != 0 || len(b.gaps.list) != 0 {
			t.Fatalf("at the end: got %d messages and %d gaps, want none", b.len(), len(b.gaps.list))
		}
	})
}

func upTo(n byte) (list []byte) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

// checkNext takes one message from both.
func checkNext(t *testing.T, b *backlog, q *queue) {
	t.Helper()
	dropped, sum := make(map[string]int), 0
	if gap := b.gaps.due(b.first); gap != nil {
		dropped = b.gaps.byLevel(gap)
		for _, n := range dropped {
			sum += n
		}
		if sum != gap.dropped || gap.since > gap.until {
			t.Fatalf("gap: got %+v, want its levels to sum up", gap)
		}
		b.gaps.told()
	}
	want, m := q.next()
	got := b.peek(nil, 1, 0)
	if !maps.Equal(dropped, want) || (m == nil) != (len(got) == 0) || m != nil && got[0] != m {
		t.Fatalf("next: got a gap of %v and %v, want %v and %v", dropped, got, want, m)
	}
	b.discard(len(got))
}

// checkRing compares all waiting messages.
func checkRing(t *testing.T, b *backlog, q *queue) {
	t.Helper()
	want := q.waiting()
	if b.len() != len(want) || b.bytes != q.size() {
		t.Fatalf("backlog: got %d messages of %d bytes, want %d of %d", b.len(), b.bytes, len(want), q.size())
	}
	var got []*message
	held, keyed := 0, 0
	for number := b.first; number < b.next; number++ {
		if m := *b.slot(number); m != nil {
			got = append(got, m)
		}
	}
	for _, m := range b.slots {
		if m != nil {
			held++
			if m.key != "" {
				keyed++
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Fatal("backlog: got other messages, or in another order, than the list has")
	}
	for i, gap := range b.gaps.list {
		if gap.before > b.next || i > 0 && gap.before <= b.gaps.list[i-1].before {
			t.Fatalf("gaps: got %+v in front of messages up to %d, want at most one in front of each, in order", b.gaps.list, b.next)
		}
	}
	if held != len(want) || keyed != len(b.keys) || len(b.slots) > max(minSlots, 4*q.messages) {
		t.Fatalf("ring: got %d slots that hold %d messages, %d with a key, and %d keys; want %d messages", len(b.slots), held, keyed, len(b.keys), len(want))
	}
}

// If levels are kept, the dropped messages leave gaps between the waiting ones. When the kept ones are dropped too,
// their gaps must not be left over: a frozen page answers pings, and stays for as long as it likes.
func TestTheGapsOfAClientThatStandsStillDoNotAddUp(t *testing.T) {
	const rounds, waiting = 10_000, 100
	b := backlog{gaps: new(gaps)}
	most := limits{waiting, 1 << 30, DropOldest, true}
	told := 0
	for i := range rounds {
		b.push(&message{frame: make([]byte, 10), level: "error", keep: true, at: int64(i)}, most)
		b.push(&message{frame: make([]byte, 10), level: "debug", at: int64(i)}, most)
		if len(b.gaps.list) > waiting+1 {
			t.Fatalf("after %d messages, %d gaps for the %d that wait", 2*i, len(b.gaps.list), b.len())
		}
	}
	for b.len() > 0 {
		if gap := b.gaps.due(b.first); gap != nil {
			told += gap.dropped
			b.gaps.told()
		}
		b.discard(1)
	}
	if gap := b.gaps.due(b.first); gap != nil {
		told += gap.dropped
	}
	if want := 2*rounds - waiting; told != want {
		t.Errorf("the gaps tell of %d, want %d", told, want)
	}
}

func TestAGapTellsSixteenLevelsApartAndTheOthersTogether(t *testing.T) {
	var v gaps
	for i := range 1000 {
		v.note(0, 0, &message{level: fmt.Sprint("level ", i)}, false)
	}
	got := byLevel(t, &v)
	if len(got) != 17 || got["*"] != 1000-16 || got["level 15"] != 1 {
		t.Errorf("1,000 levels: got %v, want 17 of which \"*\" has 984", got)
	}
}

// byLevel is what the client is told of the first gap.
func byLevel(t *testing.T, v *gaps) map[string]int {
	t.Helper()
	return v.byLevel(v.due(math.MaxUint64))
}

// With kept levels, there may be as many gaps as messages. Unlike the messages, which all clients share, gaps are
// memory that a client holds alone, and no count of bytes includes them.
func TestTheGapsOfAClientTakeLittleMemory(t *testing.T) {
	const backlogs = 64
	most := limits{defaultConfig().maxBuffer, defaultConfig().maxBufferBytes, DropOldest, true}
	kept := &message{level: "error", keep: true}
	var others []*message
	for i := range 16 {
		others = append(others, &message{level: fmt.Sprintf("%064d", i)})
	}
	held := func() int {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return int(s.HeapAlloc)
	}
	all := make([]backlog, backlogs)
	before := held()
	for i := range all {
		b := &all[i]
		b.gaps = new(gaps)
		for range 10 * most.messages {
			b.push(kept, most)
			for _, m := range others {
				b.push(m, most)
			}
		}
	}
	if got := (held() - before) / backlogs; got > 24<<10 {
		t.Errorf("got %d bytes for each client, want at most 24 KiB", got)
	}
	runtime.KeepAlive(all)
}

// A client may stand still for as long as it likes.
func TestAGapWhoseCountsAreFullStillSumsUp(t *testing.T) {
	const most = uint32(math.MaxUint32)
	if strconv.IntSize == 32 {
		t.Skip("no client has dropped so many here")
	}
	var v gaps
	v.note(0, 0, &message{level: "debug"}, false)
	full := &v.list[0]
	full.byLevel[0] = most
	full.dropped = int(full.byLevel[0])
	v.note(0, 0, &message{level: "debug"}, false)
	if got := byLevel(t, &v); len(got) != 2 || uint32(got["debug"]) != most || got["*"] != 1 {
		t.Errorf("got %v, want what debug can hold, and 1 of other levels", got)
	}
}
