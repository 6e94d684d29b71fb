package mesherstream

import (
	"bytes"
	"iter"
	"strings"
)

// This file reads the history: forwards, from a place to another, and backwards, to find the place at which the last
// messages begin. Both are done in bites, so that a reader never holds a lock for long.

// A cursor is a place among the messages that the clients of one project receive: the numbers of the last message to
// the project, and of the last one to all projects, before that place.
type cursor struct{ project, all uint64 }

// end returns the place after the newest message of a project.
func (h *history) end(project string) cursor {
	at := cursor{all: h.reached("").number}
	if project != "" {
		at.project = h.reached(project).number
	}
	return at
}

// after appends to dst the oldest messages of a project whose numbers are higher than one and at most another, as many
// as dst has space for. lost counts those before them that are no longer held, and more says that there are others.
func (h *history) after(dst []*message, project string, number, until uint64) (messages []*message, lost uint64, more bool) {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.feeds[project]
	if f == nil || until <= number {
		return dst, 0, false
	}
	first, next := f.held(h.now(), h.age)
	next = min(next, until+1)
	from := min(max(first, number+1), next)
	to := min(next, from+uint64(cap(dst)-len(dst)))
	return f.copy(dst, from, to), from - min(from, number+1), to < next
}

// upTo appends to dst the newest messages of a project whose numbers are at most that, as many as dst has space for.
// more says that there are others.
func (h *history) upTo(dst []*message, project string, number uint64) (messages []*message, more bool) {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.feeds[project]
	if f == nil {
		return dst, false
	}
	first, next := f.held(h.now(), h.age)
	to := max(min(next, number+1), first)
	from := max(first, to-min(to, uint64(cap(dst)-len(dst))))
	return f.copy(dst, from, to), from > first
}

// copy appends the messages with the numbers from one to another, exclusive.
func (f *feed) copy(dst []*message, from, to uint64) []*message {
	for number := from; number < to; number++ {
		dst = append(dst, *f.slot(number))
	}
	return dst
}

// A reading is the result of read.
type reading struct {
	messages []*message // those that match, in the order in which the node has published them
	at       cursor     // the place after them
	lost     uint64     // messages before at that are no longer held, whether they would match or not
	more     bool       // there is more between at and the place to which to read
}

// read reads the messages of a project that match f, from one place to another, and appends them to buf: at most n
// messages, and at most limit bytes of frames, but at least one message. It examines a bite of each feed, so that it may
// find nothing although there is more. It takes the locks of two parts, one after the other, and never waits.
func (h *history) read(project string, f *Filter, from, to cursor, buf []*message, n, limit int) reading {
	var space [2][historyBite]*message
	var own, all []*message
	var ownLost, allLost uint64
	var ownMore, allMore bool
	all, allLost, allMore = h.after(space[0][:0], "", from.all, to.all)
	if project != "" {
		own, ownLost, ownMore = h.after(space[1][:0], project, from.project, to.project)
	}
	r := reading{messages: buf, at: cursor{from.project + ownLost, from.all + allLost}, lost: ownLost + allLost}
	for len(r.messages) < len(buf)+n {
		var m *message
		switch {
		case len(own) > 0 && (len(all) > 0 && own[0].stamp < all[0].stamp || len(all) == 0 && !allMore):
			m = own[0]
		case len(all) > 0 && (len(own) > 0 || !ownMore):
			m = all[0]
		default: // the next message is not among these
			r.more = ownMore || allMore
			return r
		}
		if f.matches(m) {
			if limit -= len(m.frame); limit < 0 && len(r.messages) > len(buf) {
				break
			}
			r.messages = append(r.messages, m)
		}
		if m.project != "" {
			own, r.at.project = own[1:], m.number
		} else {
			all, r.at.all = all[1:], m.number
		}
	}
	r.more = len(own) > 0 || len(all) > 0 || ownMore || allMore
	return r
}

// lookBack moves a place back over messages of a project until n that match f are behind it, or until no more are held.
// It examines a bite of each feed, and returns how many messages it has not found yet, and whether it is worth going on.
func (h *history) lookBack(project string, f *Filter, from cursor, n int) (at cursor, missing int, more bool) {
	var space [2][historyBite]*message
	var own, all []*message
	var ownMore, allMore bool
	all, allMore = h.upTo(space[0][:0], "", from.all)
	if project != "" {
		own, ownMore = h.upTo(space[1][:0], project, from.project)
	}
	at = from
	for n > 0 {
		o, a := len(own)-1, len(all)-1
		var m *message
		switch {
		case o >= 0 && (a >= 0 && own[o].stamp > all[a].stamp || a < 0 && !allMore):
			m, own = own[o], own[:o]
			at.project = m.number - 1
		case a >= 0 && (o >= 0 || !ownMore):
			m, all = all[a], all[:a]
			at.all = m.number - 1
		default:
			return at, n, ownMore || allMore
		}
		if f.matches(m) {
			n--
		}
	}
	return at, 0, false
}

// historyReads bounds what History takes from the history at a time.
const (
	historyReads     = 64
	historyReadBytes = 256 << 10
)

// History yields the newest messages that a client of the project with that filter would have received, oldest first:
// the last ones of those that are held, at most last of them, and none if last is not positive. It is for a page that
// renders on the server. Messages to all projects are among them, in the place at which this manager has published
// them. With an empty project, they are the only ones. Messages of [Manager.BufferMessage] are not among them, and with
// [WithHistory] set to 0 there are none.
//
// The loop ends with the newest message at its beginning. A message that leaves the history during a slow loop may be
// missing. No lock is held while History yields, and the loop may call the manager. History waits for nobody, neither
// for a client nor for a shard. Each loop over the result reads anew. f is copied by the call.
//
// Data and the strings of each message are the caller's. An invalid filter matches nothing. A manager keeps its history
// over Shutdown and a new start, until it is too old, and History also reads it before the start and after Shutdown. A
// nil Manager has none.
func (m *Manager) History(project string, f Filter, last int) iter.Seq[Message] {
	f, err := f.normalize()
	return func(yield func(Message) bool) {
		if err != nil || !m.isMade() || last <= 0 {
			return
		}
		h := m.history
		end := h.end(project)
		at, missing, more := h.lookBack(project, &f, end, last)
		for more {
			at, missing, more = h.lookBack(project, &f, at, missing)
		}
		r := reading{at: at, more: true}
		for r.more {
			r = h.read(project, &f, r.at, end, r.messages[:0], historyReads, historyReadBytes)
			for _, msg := range r.messages {
				if !yield(msg.copy()) {
					return
				}
			}
		}
	}
}

// copy returns the message as its publisher gave it.
func (m *message) copy() Message {
	return Message{
		Project:     strings.Clone(m.project), // a part of the shared bytes would keep all of them alive
		Level:       strings.Clone(m.level),
		Environment: strings.Clone(m.environment),
		Data:        bytes.Clone(m.payload()),
		Binary:      m.isBinary(),
		Key:         strings.Clone(m.key),
	}
}
