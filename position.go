package mesherstream

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"time"

	"github.com/mesher/mesherstream/internal/request"
	"github.com/mesher/mesherstream/internal/seal"
)

// This file says how far a client has got, what it has missed when it returns, and brings the messages of a gap to a client
// that asks for them.

// A position says how far a client has got in the messages of its project: everything before it was sent to the client,
// or the client was told of it. The client holds it as a text that only this process can read, and returns with it.
type position struct {
	cursor
	asOf   uint64 // every message after the cursor has a higher stamp
	filter uint64 // a digest of the filter in force
	rate   uint32 // how many messages a second the client handles; 0 if it has never been late
	again  bool   // it is in a look-back, and the client may have some of what follows already
}

// The kinds of sealed texts. No time and no age begins with such a letter.
const (
	sealsPosition = 'p'
	sealsGap      = 'g'
)

// againBit of the rate in the text of a position is set if the client looks back.
const againBit = 1 << 31

// append appends what the text of the position is made of.
func (p position) append(b []byte) []byte {
	for _, v := range [...]uint64{p.project, p.all, p.asOf, p.filter} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	rate := min(p.rate, againBit-1)
	if p.again {
		rate |= againBit
	}
	return binary.BigEndian.AppendUint32(b, rate)
}

// openPosition reads the text of a position. Messages after the position were published at the time at or later. For a text
// that this process can't open, at is the time that the text names, or zero.
func openPosition(s *seal.Seal, project, text string) (p position, at time.Time, ok bool) {
	b, at, ok := s.Open(sealsPosition, project, text)
	if !ok {
		return position{}, at, false
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	rate := binary.BigEndian.Uint32(b[4*8:])
	return position{cursor{field(0), field(1)}, field(2), field(3), rate &^ againBit, rate&againBit != 0}, at, true
}

// A hole is what the ID of a gap says: between which places the messages are that were not sent, and the filter that they
// match.
type hole struct {
	after, until cursor
	filter       Filter
	latest       bool // without values of keys that have newer ones
}

// append appends what the text of the hole is made of.
func (h *hole) append(b []byte) []byte {
	for _, v := range [...]uint64{h.after.project, h.after.all, h.until.project, h.until.all} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	for _, list := range [...][]string{h.filter.Levels, h.filter.Environments} {
		b = append(b, byte(len(list)))
		for _, v := range list {
			b = append(append(b, byte(len(v))), v...)
		}
	}
	if h.latest {
		b = append(b, 1)
	}
	return b
}

// has reports whether a message between the places of the hole belongs to it.
func (h *hole) has(in *history, m *message) bool {
	return h.filter.matches(m) && !(h.latest && in.newer(m, &h.filter) != nil)
}

// openHole reads the text of a hole.
func openHole(s *seal.Seal, project, text string) (h hole, ok bool) {
	b, _, ok := s.Open(sealsGap, project, text)
	if !ok {
		return hole{}, false
	}
	// Nobody but append has written what follows.
	number := func() (v uint64) {
		v, b = binary.BigEndian.Uint64(b), b[8:]
		return v
	}
	list := func() (values []string) {
		n := int(b[0])
		b = b[1:]
		for range n {
			values = append(values, string(b[1:1+b[0]]))
			b = b[1+b[0]:]
		}
		return values
	}
	h.after = cursor{number(), number()}
	h.until = cursor{number(), number()}
	h.filter = Filter{Levels: list(), Environments: list()}
	h.latest = len(b) > 0
	return h, true
}

// reached returns the position that a client has after as many of the oldest messages of its backlog as sent says, and after
// it is told of as many of its oldest gaps as told says. rest are messages that are to follow, and not in the backlog yet.
// There is no position if a newer message with the same key has taken the place of an older one, and others still wait or
// are missing: then no place in the order separates what the client has received from what it is due.
func (c *client) reached(sent, told int, rest []*message) (p position, ok bool) {
	r := c.replay
	switch {
	case r != nil:
		begun := r.told || r.back != nil || r.then.reaches(r.first) // it may have some of what it looks back for, and must know
		return c.within(r.then, r.asOf), begun && !r.searching && !r.back.isKeyed(r.then) && !c.hasGaps() && (told > 0 || !r.loss.any())
	case c.group == nil, c.out != nil && c.out.untold: // it is being flushed, or yet to be told what it has missed
		return p, false
	}
	return c.reachedLive(sent, told, rest)
}

func (c *client) reachedLive(sent, told int, rest []*message) (p position, ok bool) {
	s := c.shard
	p.filter, p.rate = c.group.digest, c.handles()
	p.cursor, p.asOf = c.taken(), c.takenStamp()
	if c.apart {
		p.cursor, p.asOf = p.cursor.most(c.joined.cursor), max(p.asOf, c.joined.stamp)
	}
	newest := p.cursor
	if c.out != nil && !p.precedeBacklog(&c.out.backlog, sent, told) {
		return p, false
	}
	for _, m := range rest {
		p.precede(m)
	}
	for _, m := range c.pending() {
		p.precede(m)
	}
	for _, m := range s.coming {
		p.precede(m)
	}
	if p.cursor == newest {
		p.asOf = max(p.asOf, s.history.quietSince(c.sub.Project, newest))
	}
	return p, true
}

// precede moves the position before a message.
func (p *position) precede(m *message) {
	if !m.own {
		p.cursor.precede(m)
		p.asOf = min(p.asOf, m.stamp-1)
	}
}

// precedeBacklog moves the position back, before every message that waits in a backlog or is in one of its gaps. The oldest
// messages and gaps, as many as sent and told say, are left out. It returns false if there is no such position.
func (p *position) precedeBacklog(b *backlog, sent, told int) (ok bool) {
	for number := b.first; number < b.next; number++ {
		switch m := *b.slot(number); {
		case m == nil:
		case sent > 0:
			sent--
		case b.reordered:
			return false
		default:
			p.precede(m)
		}
	}
	for _, g := range b.gaps.untold(told) {
		if b.reordered {
			return false
		}
		if g.first > 0 {
			p.asOf = min(p.asOf, g.first-1)
			p.cursor = g.precedes(p.cursor)
		}
	}
	return true
}

// setPlace tells a client of the protocol its position, or that it has none, after the application has changed its filter.
// What it receives from now on is another part of the stream than what it has received since its last position.
func (c *client) setPlace() {
	if c.v1 != nil {
		c.v1.moved = true
	}
	c.drainControl()
}

// before returns the position before next, the messages that a replay has read and not sent. If there are none, it is the
// position of the replay or, if the replay ends, of the client after it. Messages to this client alone have no place, so a
// gap of such messages is neither before nor after it.
func (c *client) before(next []*message, ends bool) (p position, ok bool) {
	r := c.replay
	switch {
	case c.out != nil && c.out.backlog.gaps.hold():
		return p, false
	case len(next) > 0:
		return c.within(c.placeBefore(nil, next)), true
	case ends && c.group != nil:
		return c.reachedLive(0, 0, nil)
	}
	return c.within(r.at, r.asOf), true
}

// within returns a position in the client's replay.
func (c *client) within(at cursor, asOf uint64) position {
	r := c.replay
	return position{at, asOf, c.digest(), c.handles(), r.vague || !at.reaches(r.first)}
}

// appendPosition appends the text of a position.
func (c *client) appendPosition(dst []byte, p position) []byte {
	s := c.shard
	s.payload = p.append(s.payload[:0])
	return s.seal.Append(dst, sealsPosition, c.sub.Project, s.history.timeOf(p.asOf), s.payload)
}

// positionText returns the text of a position, or "" if there is none.
func (c *client) positionText(p position, ok bool) string {
	if !ok {
		return ""
	}
	return string(c.appendPosition(nil, p))
}

// holeText returns the text of a hole, or "" if it would be too long, or too long for a request that the client may send.
func (c *client) holeText(h *hole) string {
	payload := h.append(nil)
	if !seal.Fits(len(payload)) {
		return ""
	}
	text := c.shard.seal.Append(nil, sealsGap, c.sub.Project, time.Now(), payload)
	if c.encoding == frames && len(text)+len(`{"type":"fetch","gap":""}`) > c.shard.cfg.readLimit {
		return ""
	}
	return string(text)
}

// name gives a gap the ID of its hole, and says how many of its messages can be fetched with that. If there are none, it has
// no ID. dropped is how many it has, or 0 if that isn't known.
func (n *gapNotice) name(c *client, of *hole, dropped int) {
	held := c.held(of, dropped)
	if held == 0 {
		return
	}
	if n.ID = c.holeText(of); n.ID != "" {
		n.Held = held
	}
}

// held returns how many messages of a hole can be fetched. dropped is how many it has, or 0 if that isn't known.
func (c *client) held(of *hole, dropped int) int {
	h := c.shard.history
	if dropped > 0 && h.holds(c.sub.Project, of) {
		return dropped
	}
	return h.count(c.sub.Project, of)
}

// digest returns the digest of the filter in force.
func (c *client) digest() uint64 {
	if c.group == nil { // it is being flushed
		return c.shard.history.digest(c.sub)
	}
	return c.group.digest
}

// digest is the same for equal filters of a project, and differs for nearly all others.
func (h *history) digest(sub *Subscription) uint64 { return maphash.String(h.seed, sub.key()) }

// A comeback is what a returning client says, and what that means. The tail of a client is what it has received since its
// position. The client itself takes its tail out of the replay, if the replay has all of it.
type comeback struct {
	position string
	received int           // the messages in its tail, or uncounted
	ago      time.Duration // since it received the newest of these

	complete bool   // the replay has everything since the position
	renamed  bool   // the position is of another filter than the one that is now in force
	known    bool   // how many messages there were since the position
	atMost   uint64 // that many, of any filter
	tail     cursor // up to where the tail may reach
	repeated int    // how many messages it has been sent since the position
	keyed    bool   // some of these have keys
	values   bool   // some messages since the position have keys

	rate  uint32 // how many messages a second the client handled before; 0 if it has kept up
	sent  uint32 // how many it has been sent since
	since moment // it has been sent these
	skip  *skip  // nil unless the client is about to skip what it can't take
}

// uncounted is the number of received messages of a client that has lost count.
const uncounted = -1

// clockSlack is by how much a client may have measured a short time as too long. For a long one, it may be a thousandth
// more, since the client's clock may be fast.
const clockSlack = 10 * time.Millisecond

// returnPatience is how long a client may take for what it has missed. What it can't take in that time is skipped, except
// for the newest, and told as a gap, which can be fetched.
const returnPatience = 5000 // milliseconds

// comeBack finds out what has happened since the position of a returning client. The order of the project is locked.
func (c *client) comeBack() {
	h, r, project := c.shard.history, c.replay, c.sub.Project
	b, now := r.back, time.Now()
	held := h.placeOf(project, 0)
	if b.received != 0 {
		b.tail = h.since(project, now.Add(clockSlack-b.ago+b.ago/1000))
	}
	pos, at, ok := openPosition(&h.seal, project, b.position)
	if at.IsZero() || at.After(now) {
		at = now // the text is damaged or forged
	}
	if r.seen = at.UnixNano(); ok {
		c.resume(pos, held)
	} else {
		// The server has restarted since, and the client has received nothing that this process holds. With a relay, it may
		// have received some of that from another node.
		r.loss.unknown = true
		r.at = held.most(h.since(project, at))
		if c.shard.cfg.relay != nil {
			r.at = r.at.most(b.tail).most(h.since(project, at.Add(clockSlack)))
		}
		r.loss.after = r.at
	}
	if granted := r.at.most(h.since(project, c.sub.Since)); granted != r.at {
		if ok && b.received != 0 { // it may have received some of what follows
			granted, b.received = granted.most(b.tail), 0
		}
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
	left, sameFilter := held.beyond(pos.cursor), pos.filter == h.digest(c.sub)
	switch {
	case !b.known:
		l.unknown = true
		r.at = pos.most(held).most(b.tail)
	case b.received == 0 || b.received > 0 && left == 0 && sameFilter:
		r.at = pos.most(held)
		l.messages = left
		b.complete, b.renamed = left == 0, !sameFilter
		b.values = h.hasKeys(project, pos.asOf)
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

// isKeyed reports whether a place is within a tail that may have values of keys. The client may have received such a value
// before an older message that is equal. It then takes that message for the value until the value arrives, so no place
// between the two can be its position.
func (b *comeback) isKeyed(at cursor) bool {
	return b != nil && b.values && b.received > 0 && !at.reaches(b.tail)
}

// tellReturn tells a client that returns what it has missed, if there is no history from which it could receive that.
func (c *client) tellReturn() error {
	r := c.replay
	r.then = c.taken()
	batch := []*message{c.replayNotice(nil)}
	if r.loss.any() {
		batch = append(batch, c.lossNotice(nil, true))
	}
	o := c.outbox()
	o.rest, o.untold = append(batch, c.replayedNotice()), true
	if c.replay = nil; c.busy {
		return nil
	}
	return c.sendRest()
}

// A skip is what a returning client is about to leave out. First the place to which it skips is searched for, backwards from
// the newest message. Then the messages before that place are counted.
type skip struct {
	to       cursor
	missing  int    // how many messages the search has not found yet
	at       cursor // up to where the messages are counted, when the place is found
	counting bool
	messages uint64
	tail     int    // how many of the client's tail have yet to be counted: the first messages
	after    cursor // the place after them
	lost     bool   // some are no longer held, and nobody knows how many of these match
	keyed    bool   // some have keys
}

// catchUp lets a returning client leave out what it can't take in time. It returns false if there is more to do for that.
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
		takes := int(min(rate, request.MaxLast) * (returnPatience / 1000))
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
		if k.after = r.at; !r.at.reaches(b.tail) {
			k.tail = max(0, b.received-b.repeated)
		}
	}
	bite := historyBite
	if k.tail > 0 {
		bite = min(bite, k.tail)
	}
	got := h.read(c.sub.Project, filter, k.at, k.to, s.drained[:0], bite, joinBytes)
	if k.tail > 0 {
		k.tail -= len(got.messages)
		k.after = got.at
	}
	for _, m := range got.messages {
		k.keyed = k.keyed || m.key != ""
		if h.newer(m, filter) == nil {
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
		if l.atMost = l.atMost || k.keyed || k.lost || b.keyed; !l.atMost {
			k.messages -= min(k.messages, uint64(max(0, b.received-b.repeated)))
			l.after = k.after // a fetch doesn't bring them again
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
	hole   hole
	at     cursor // how far it has read
	filter Filter // that of the hole, as far as it is granted
	none   bool   // the client is no longer granted any of its messages
	sent   int    // how many messages were sent so far
}

// fetch begins to bring the messages of a gap, and returns the reply.
func (c *client) fetch(data []byte) []byte {
	gap, err := request.ParseFetch(data)
	switch {
	case err != nil:
		return refusal(c.v1.name(), errorMalformed, err.Error())
	case c.v1.fetch != nil:
		return refusal(c.v1.name(), errorBusy, "another gap is being fetched")
	}
	h, ok := openHole(&c.shard.history.seal, c.sub.Project, gap)
	if !ok {
		return refusal(c.v1.name(), errorInvalidGap, notAGap)
	}
	f := &fetch{gap: gap, hole: h, at: h.after.most(c.shard.history.since(c.sub.Project, c.sub.Since))}
	if f.filter, err = h.filter.within(c.grant.Filter); err != nil {
		f.none = true
	}
	c.v1.fetch = f
	c.biteSoon()
	return encodeAnswer(replayNotice{Type: typeFetching, Stream: c.v1.name(), Gap: gap})
}

const notAGap = "not a gap of this server and project, or of its time before a restart"

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
		got = s.history.read(c.sub.Project, &f.filter, f.at, f.hole.until, got.messages, max(1, min(room-2, historyBite)), min(size, fetchBytes))
	}
	s.drained = got.messages
	defer func() { clear(s.drained) }()
	f.at = got.at
	s.drained = slices.DeleteFunc(s.drained, func(m *message) bool { return m != nil && !f.hole.has(s.history, m) })
	n := len(s.drained) - 1
	if n == 0 && got.more {
		c.biteSoon()
		return nil
	}
	f.sent += n
	notice := replayNotice{Type: typeReplay, Stream: c.v1.name(), Of: ofGap, Gap: f.gap}
	if n > 0 && s.drained[1].isLarge() {
		s.drained = slices.Insert(s.drained, 1, c.large(s.drained[1]))
	}
	s.drained[0] = c.notice(notice.Type, "", notice)
	notice.Type, notice.Messages, notice.More = typeReplayed, f.sent, got.more
	s.drained = append(s.drained, c.notice(notice.Type, "", notice))
	c.outbox().rest = slices.Clone(s.drained)
	if !got.more {
		c.v1.fetch = nil
	}
	return c.sendRest()
}

// fetchBytes is about how many bytes a bite of a fetch has: newer messages may have to wait for them.
const fetchBytes = 16 << 10

// sendRest sends what has not been sent of a bite.
func (c *client) sendRest() error {
	s, o := c.shard, c.out
	batch := o.rest
	p := join(&s.scratch, batch, "")
	untold := o.untold
	o.untold = false // a probe follows all of it
	probe := c.probe(amount{uint32(len(batch)), uint32(len(p.bytes))}, 0, 0, nil)
	taken, landed, err := c.write(&p, batch, &s.scratch, probe)
	o.flight.replayed = c.busy
	c.countReplayed(landed)
	if o.rest = batch[taken:]; len(o.rest) > 0 {
		o.untold = untold
	} else {
		o.rest = nil
		if c.v1.fetch != nil {
			c.biteSoon()
		}
	}
	return err
}
