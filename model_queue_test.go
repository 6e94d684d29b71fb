package mesherstream

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// This file is the model's queue: what waits for a client, what leaves it when it is full, and what is told of that.

type modelMessage struct {
	id                      int
	project                 string
	level, environment, key string
	keep                    bool
	at                      time.Time
	frame                   []byte
}

// size is what the message counts with: its frame and its fields.
func (m *modelMessage) size() int {
	return len(m.frame) + len(m.project+m.level+m.environment+m.key)
}

// A modelItem is a message that waits, or a gap where messages were dropped that the client has not been told of.
type modelItem struct {
	message *modelMessage
	gap     *modelGap
}

type modelGap struct {
	dropped      int
	levels       map[string]int
	since, until time.Time
}

func (c *modelClient) messages() (n int) {
	for _, item := range c.queue {
		if item.message != nil {
			n++
		}
	}
	return n
}

func (c *modelClient) messageBytes() (n int) {
	for _, item := range c.queue {
		if item.message != nil {
			n += item.message.size()
		}
	}
	return n
}

func (c *modelClient) fits(run []*modelMessage) bool {
	bytes := c.messageBytes()
	for _, m := range run {
		bytes += m.size()
	}
	return c.messages()+len(run) <= c.s.maxBuffer && bytes <= c.s.maxBytes
}

// windowRoom is how many messages more the client may have unacknowledged.
func (c *modelClient) windowRoom() int {
	if c.stream == "" || c.s.window == 0 || c.phase == phaseFlushing {
		return math.MaxInt
	}
	return max(0, c.s.window-c.unacknowledged())
}

func (c *modelClient) unacknowledged() int {
	if c.stream == "" {
		return 0
	}
	return c.written - c.acked
}

func (c *modelClient) enqueue(run []*modelMessage) {
	if c.messages() == 0 {
		c.waitingSince = time.Now()
	}
	for i, m := range run {
		if c.s.overflow == Disconnect && !c.takes(m) {
			c.abandoned += len(run) - i
			c.shut(wsframe.CodeTryAgainLater, reasonTooSlow)
			return
		}
		if c.replaces(m) {
			continue
		}
		for c.messages() > 0 && !c.fits([]*modelMessage{m}) {
			victim := c.victim(m)
			if victim < 0 {
				c.queue = append(c.queue, modelItem{message: m})
				c.drop(len(c.queue) - 1)
				m = nil
				break
			}
			c.drop(victim)
		}
		if m != nil {
			c.queue = append(c.queue, modelItem{message: m})
		}
	}
}

// sameKey is where a message with the key of m waits, or -1.
func (c *modelClient) sameKey(m *modelMessage) int {
	return slices.IndexFunc(c.queue, func(item modelItem) bool {
		return m.key != "" && item.message != nil && item.message.key == m.key
	})
}

// takes says whether m can wait without the loss of another one.
func (c *modelClient) takes(m *modelMessage) bool {
	if i := c.sameKey(m); i >= 0 {
		return c.messageBytes()-c.queue[i].message.size()+m.size() <= c.s.maxBytes
	}
	return c.messages() == 0 || c.fits([]*modelMessage{m})
}

// replaces puts m in the place of the message with the same key. If it is too large for that, the older one leaves all the
// same.
func (c *modelClient) replaces(m *modelMessage) bool {
	i := c.sameKey(m)
	if i < 0 {
		return false
	}
	c.conflated++
	if c.messageBytes()-c.queue[i].message.size()+m.size() > c.s.maxBytes {
		c.queue = slices.Delete(c.queue, i, i+1)
		return false
	}
	c.queue[i].message = m
	return true
}

// victim is where the message waits that leaves for m, or -1 where m does.
func (c *modelClient) victim(m *modelMessage) int {
	waits := func(item modelItem) bool { return item.message != nil }
	if c.s.overflow == DropNewest && !m.keep {
		return -1
	}
	if i := slices.IndexFunc(c.queue, func(item modelItem) bool { return waits(item) && !item.message.keep }); i >= 0 {
		return i
	}
	if m.keep && c.s.overflow == DropOldest {
		return slices.IndexFunc(c.queue, waits)
	}
	return -1
}

// drop puts a gap in the place of a message, if the client is told.
func (c *modelClient) drop(i int) {
	m := c.queue[i].message
	c.dropped++
	c.markSlow()
	if c.stream == "" {
		c.queue = slices.Delete(c.queue, i, i+1)
		return
	}
	c.queue[i] = modelItem{gap: &modelGap{dropped: 1, levels: map[string]int{m.level: 1}, since: m.at, until: m.at}}
}

// takeGap takes the gaps in front of the next message out, and returns what tells of them, or nil.
func (c *modelClient) takeGap() (notice []byte) {
	all := modelGap{levels: make(map[string]int)}
	for len(c.queue) > 0 && c.queue[0].gap != nil {
		gap := c.queue[0].gap
		c.queue = c.queue[1:]
		if all.dropped == 0 || gap.since.Before(all.since) {
			all.since = gap.since
		}
		if all.dropped == 0 || gap.until.After(all.until) {
			all.until = gap.until
		}
		all.dropped += gap.dropped
		for level, n := range maps.All(gap.levels) {
			all.levels[level] += n
		}
	}
	if all.dropped == 0 {
		return nil
	}
	levels, _ := json.Marshal(all.levels) // a map of numbers
	moment := func(t time.Time) string { return t.UTC().Truncate(time.Millisecond).Format(time.RFC3339Nano) }
	return wsframe.Append(nil, wsframe.OpText, fmt.Appendf(nil, `{"type":"gap","stream":%q,"dropped":%d,"by_level":%s,"since":%q,"until":%q}`,
		c.stream, all.dropped, levels, moment(all.since), moment(all.until)))
}

// setFilter: the new filter counts for what is offered from now on, and for what waits.
func (c *modelClient) setFilter(f Filter) (filtered int) {
	if c.phase != phaseOpen {
		return 0
	}
	c.filter = f
	waiting := len(c.queue)
	c.queue = slices.DeleteFunc(c.queue, func(item modelItem) bool {
		m := item.message
		return m != nil && !(lets(f.Levels, m.level) && lets(f.Environments, m.environment))
	})
	filtered = waiting - len(c.queue)
	c.filtered += filtered
	return filtered
}

func lets(list []string, v string) bool { return v == "" || len(list) == 0 || slices.Contains(list, v) }
