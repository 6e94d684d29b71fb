package mesherstream

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// maxGapLevels bounds how many levels one notice tells apart.
const maxGapLevels = 16

// otherLevels is what a notice calls the levels beyond those.
const otherLevels = "*"

// gaps remembers for one client where messages were dropped that it has not been told of. They are in the order of the
// stream, and no two of them are in front of the same message. With the default [DropOldest] there is never more than one:
// what is dropped is always in front of all that waits.
//
// The methods do nothing for a nil *gaps, which is that of a client that isn't told.
type gaps struct {
	list []gap
}

// A gap is some dropped messages, between two others.
type gap struct {
	before       uint64 // the number of the message behind it
	dropped      int
	levels       []levelCount
	since, until int64 // when the oldest and the newest of them were published, in Unix nanoseconds
}

type levelCount struct {
	level string
	n     int
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
		g.list = slices.Insert(g.list, i, gap{since: m.at, until: m.at})
	}
	at := &g.list[i]
	at.before = before
	at.dropped++
	at.since, at.until = min(at.since, m.at), max(at.until, m.at)
	at.count(m.level, 1)
}

func (g *gap) count(level string, n int) {
	for i := range g.levels {
		if g.levels[i].level == level {
			g.levels[i].n += n
			return
		}
	}
	if len(g.levels) == maxGapLevels && level != otherLevels {
		g.count(otherLevels, n)
		return
	}
	g.levels = append(g.levels, levelCount{strings.Clone(level), n}) // which would keep its whole message alive
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
		g.list = nil
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
		g.list = nil // with what it has grown to
	}
}

// join adds what another gap tells.
func (g *gap) join(o *gap) {
	g.dropped += o.dropped
	g.since, g.until = min(g.since, o.since), max(g.until, o.until)
	for _, l := range o.levels {
		g.count(l.level, l.n)
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

type gapNotice struct {
	Type    string         `json:"type"`
	Stream  string         `json:"stream"`
	Dropped int            `json:"dropped"`
	ByLevel map[string]int `json:"by_level"`
	Since   time.Time      `json:"since"`
	Until   time.Time      `json:"until"`
}

// notice returns the message that tells a client of the gap.
func (g *gap) notice(stream string) *message {
	moment := func(nanos int64) time.Time { return time.Unix(0, nanos).UTC().Truncate(time.Millisecond) }
	n := gapNotice{typeGap, stream, g.dropped, make(map[string]int, len(g.levels)), moment(g.since), moment(g.until)}
	for _, l := range g.levels {
		n.ByLevel[l.level] = l.n
	}
	return &message{frame: encodeAnswer(n), notice: true}
}
