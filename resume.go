package mesherstream

import (
	"slices"
	"time"
)

// This file says what a client has missed that returns with a position, and brings the messages of a gap to a client that
// asks for them.

// A comeback is what a client says that returns, and what that means. The tail of a client is what it has received since
// its position. It takes that out of the replay itself, if the replay has all of it.
type comeback struct {
	position string
	received int           // the messages in its tail, or uncounted
	ago      time.Duration // since it received the newest of these

	complete bool   // the replay has everything since the position
	known    bool   // how many messages there were since the position
	atMost   uint64 // that many, of any filter
	tail     cursor // up to where the tail may reach

	rate  uint32 // how many messages a second the client handled before; 0 if it has kept up
	sent  uint32 // how many it has been sent since
	since moment // it has been sent these
	skip  *skip  // nil unless the client is about to skip what it can't take
}

// uncounted is what a client has received that has lost count.
const uncounted = -1

// clockSlack is how much less a client may have measured for a short time, and a thousandth of a long one is how much
// faster its clock may be.
const clockSlack = 10 * time.Millisecond

// returnPatience is how long a client may take for what it has missed. What it can't take in that time is skipped, except
// for the newest, and told as a gap, which can be fetched.
const returnPatience = 5000 // milliseconds

// comeBack finds out what has happened since the position of a client that returns. The order of the project is locked.
func (c *client) comeBack() {
	h, r, project := c.shard.history, c.replay, c.sub.Project
	b, now := r.back, time.Now()
	held := cursor{all: h.place("", 0)}
	if project != "" {
		held.project = h.place(project, 0)
	}
	if b.received != 0 {
		b.tail = h.since(project, now.Add(clockSlack-b.ago+b.ago/1000))
	}
	pos, at, ok := h.seal.openPosition(project, b.position)
	if r.seen = min(at.UnixNano(), now.UnixNano()); ok {
		c.resume(pos, held)
	} else {
		// The server has restarted since, and the client has received nothing that this process holds. With a relay, it may
		// have received some of that from another node.
		r.loss.unknown = true
		r.at = held.most(h.since(project, at))
		if c.shard.cfg.relay != nil {
			r.at = r.at.most(b.tail)
		}
		r.loss.after = r.at
	}
	if granted := r.at.most(h.since(project, c.sub.Since)); granted != r.at {
		r.loss.messages += granted.beyond(r.at)
		r.loss.atMost, b.complete = true, false
		r.at = granted
	}
	r.loss.away = r.loss.any()
	r.first, r.then, r.begun = r.at, r.at, true
}

// resume finds the place from which a client is sent what it has missed since a position. held is the place before the
// oldest messages that are held.
func (c *client) resume(pos position, held cursor) {
	h, r, project := c.shard.history, c.replay, c.sub.Project
	b, l := r.back, &r.loss
	b.rate, r.vague = pos.rate, pos.again
	b.atMost, b.known = h.missed("", point{pos.all, pos.asOf})
	pos.all = c.joined.all - b.atMost // no message has a number between that and the first one of today's feed
	if project != "" {
		missed, known := h.missed(project, point{pos.project, pos.asOf})
		pos.project = c.joined.project - missed
		b.atMost, b.known = b.atMost+missed, b.known && known
	}
	r.at, r.asOf, l.after = pos.cursor, pos.asOf, pos.cursor
	left, sameFilter := held.beyond(pos.cursor), pos.filter == h.digest(&c.sub)
	switch {
	case !b.known:
		l.unknown = true
		r.at = pos.most(held).most(b.tail)
	case b.received == 0 || b.received > 0 && left == 0 && sameFilter:
		r.at = pos.most(held)
		l.messages = left
		b.complete = left == 0
	case b.received > 0 && held.reaches(b.tail):
		// All that it has received has left the history.
		r.at = pos.most(held)
		l.messages = left - min(left, uint64(b.received))
		l.atMost = h.hasKeys(project, pos.asOf) // a replaced message is neither received nor missing
	default:
		// Which of the messages it has received is not known, so it is sent what was published after that.
		r.at = pos.most(held).most(b.tail)
		l.messages = r.at.beyond(pos.cursor)
		l.atMost = true
	}
}

// expect takes out of the loss of a client that returns what it is yet to be offered, if there is no history from which it
// would receive that. It is called before the client is told of its return.
func (c *client) expect() {
	r := c.replay
	r.loss.messages -= min(r.loss.messages, c.joined.beyond(c.taken()))
	r.back.complete = !r.loss.any()
}

// tellReturn tells a client that returns what it has missed, if there is no history from which it could receive that.
func (c *client) tellReturn() error {
	r := c.replay
	r.then = c.taken()
	batch := []*message{c.replayNotice(nil)}
	if r.loss.any() {
		batch = append(batch, c.lossNotice(nil, true))
	}
	c.v1.rest = append(batch, c.replayedNotice())
	if c.replay = nil; c.busy {
		return nil
	}
	return c.sendRest()
}

// A skip is what a client that returns is about to leave out. First the place is searched to which it skips, backwards
// from the newest message. Then the messages are counted that are before that place.
type skip struct {
	to       cursor
	missing  int    // how many messages the search has not found yet
	at       cursor // up to where the messages are counted, when the place is found
	counting bool
	messages uint64
	lost     bool // some are no longer held, and nobody knows how many of these match
	keyed    bool // some have keys
}

// catchUp lets a client that returns leave out what it can't take in time. It returns false if there is more to do for
// that.
func (c *client) catchUp() (done bool) {
	s, r := c.shard, c.replay
	b := r.back
	if b == nil {
		return true
	}
	if b.skip == nil {
		elapsed := uint32(s.now - b.since)
		rate := b.rate
		if rate == 0 {
			if elapsed < returnPatience {
				return true
			}
			rate = max(1, uint32(uint64(b.sent)*1000/uint64(elapsed)))
		}
		b.rate, b.sent, b.since = 0, 0, s.now
		takes := int(min(rate, maxLast) * (returnPatience / 1000))
		if c.taken().beyond(r.at) <= uint64(takes) {
			return true
		}
		b.skip = &skip{to: c.taken(), missing: takes}
	}
	k, h, filter := b.skip, s.history, &c.sub.Filter
	var more bool
	if !k.counting {
		if k.to, k.missing, more = h.lookBack(c.sub.Project, filter, k.to, k.missing); more && k.missing > 0 && !r.at.reaches(k.to) {
			return false
		}
		k.counting, k.at = true, r.at
		if r.at.reaches(k.to) || b.received > 0 && !k.to.reaches(b.tail) && !r.at.reaches(b.tail) {
			b.skip = nil // it takes everything, or what it has received is among what it takes
			return true
		}
		k.to = k.to.most(r.at)
	}
	got := h.read(c.sub.Project, filter, k.at, k.to, s.drained[:0], historyBite, joinBytes)
	for _, m := range got.messages {
		if m.key == "" {
			k.messages++
			continue
		}
		k.keyed = true
		if newer := h.newer(m); newer == nil || !filter.matches(newer) {
			k.messages++
		}
	}
	clear(got.messages)
	k.messages += got.lost
	k.lost = k.lost || got.lost > 0
	if k.at = got.at; got.more {
		return false
	}
	c.skipTo(k)
	return true
}

// skipTo moves the place of the replay.
func (c *client) skipTo(k *skip) {
	r := c.replay
	b, l := r.back, &r.loss
	if !l.any() {
		*l = loss{after: r.at, counted: true}
	}
	if b.received > 0 && !r.at.reaches(b.tail) { // some of the messages are in its tail
		if l.atMost = l.atMost || k.keyed || k.lost; !l.atMost {
			k.messages -= min(k.messages, uint64(b.received))
		}
	}
	l.atMost, l.slow = l.atMost || k.lost, l.slow || k.lost
	l.messages += k.messages
	b.received, b.skip = 0, nil
	r.at, r.then = k.to, k.to
}

// A fetch brings the messages of a gap. They leave in bites, each between two notices, and only while no other message
// waits for the client.
type fetch struct {
	gap    string // its ID
	at     cursor // how far it has read
	until  cursor
	filter Filter
	none   bool // the client is no longer granted any of them
	sent   int  // the messages so far
}

// fetch begins to bring the messages of a gap, and returns the reply.
func (c *client) fetch(data []byte) []byte {
	gap, err := parseFetch(data)
	switch {
	case err != nil:
		return refusal(c.v1.stream, errorMalformed, err.Error())
	case c.v1.fetch != nil:
		return refusal(c.v1.stream, errorBusy, "another gap is being fetched")
	}
	h, ok := c.shard.history.seal.openHole(c.sub.Project, gap)
	if !ok {
		return refusal(c.v1.stream, errorInvalidGap, "not a gap of this server and project, or of its time before a restart")
	}
	f := &fetch{gap: gap, at: h.after.most(c.shard.history.since(c.sub.Project, c.sub.Since)), until: h.until}
	if f.filter, err = h.filter.within(c.grant); err != nil {
		f.none = true
	}
	c.v1.fetch = f
	c.biteSoon()
	return encodeAnswer(replayNotice{Type: typeFetching, Stream: c.v1.stream, Gap: gap})
}

// fetchSome brings another bite of a gap.
func (c *client) fetchSome() error {
	s, f := c.shard, c.v1.fetch
	if !c.idle() || c.phase != phaseOpen {
		return nil // the drain goes first, and goes on here
	}
	room, size := c.room(0)
	if room == 0 {
		c.window.held = true
		return nil
	}
	got := reading{messages: append(s.drained[:0], nil)}
	if !f.none {
		got = s.history.read(c.sub.Project, &f.filter, f.at, f.until, got.messages, max(1, min(room-2, historyBite)), min(size, fetchBytes))
	}
	s.drained = got.messages
	defer func() { clear(s.drained) }()
	f.at = got.at
	n := len(got.messages) - 1
	if n == 0 && got.more {
		c.biteSoon()
		return nil
	}
	f.sent += n
	notice := replayNotice{Type: typeReplay, Stream: c.v1.stream, Of: ofGap, Gap: f.gap}
	if n > 0 && s.drained[1].isLarge() {
		s.drained = slices.Insert(s.drained, 1, c.v1.large(s.drained[1]))
	}
	s.drained[0] = newNotice(notice)
	notice.Type, notice.Messages, notice.More = typeReplayed, f.sent, got.more
	s.drained = append(s.drained, newNotice(notice))
	c.v1.rest = slices.Clone(s.drained)
	if !got.more {
		c.v1.fetch = nil
	}
	return c.sendRest()
}

// fetchBytes is about how many bytes a bite of a fetch has: newer messages may have to wait for them.
const fetchBytes = 16 << 10

// sendRest sends what has not been sent of a bite.
func (c *client) sendRest() error {
	s := c.shard
	batch := c.v1.rest
	p := join(&s.scratch, batch)
	probe := c.probe(amount{uint32(len(batch)), uint32(len(p.bytes))}, 0, 0, nil)
	taken, landed, err := c.write(&p, batch, &s.scratch, probe)
	c.flight.replayed = c.busy
	c.countReplayed(landed)
	if c.v1.rest = batch[taken:]; len(c.v1.rest) == 0 {
		c.v1.rest = nil
		if c.v1.fetch != nil {
			c.biteSoon()
		}
	}
	return err
}
