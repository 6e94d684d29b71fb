package mesherstream

import (
	"bytes"
	"iter"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/mesher/mesherstream/internal/wsframe"
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
	begin    cursor     // the place before them, after those that are no longer held
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
	begin := cursor{from.project + ownLost, from.all + allLost}
	r := reading{messages: buf, begin: begin, at: begin, lost: ownLost + allLost}
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

// lookBack moves a place back over messages of a project until n that match f are after it, or until no more are held.
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

// count returns how many messages of a hole are held. It stops after historyLooks stretches, more than most histories have.
func (h *history) count(project string, of *hole) (n int) {
	var buf [64]*message
	r := reading{at: of.after, more: true}
	for looks := 0; r.more && looks < historyLooks; looks++ {
		r = h.read(project, &of.filter, r.at, of.until, buf[:0], len(buf), math.MaxInt)
		for _, m := range r.messages {
			if of.has(h, m) {
				n++
			}
		}
	}
	return n
}

// holds reports whether all messages of a hole are held.
func (h *history) holds(project string, of *hole) bool {
	return (of.until.all == 0 || h.place("", 0) <= of.after.all) && (of.until.project == 0 || h.place(project, 0) <= of.after.project)
}

// historyLooks is how many stretches of a history are counted for one gap.
const historyLooks = 32

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

// place returns the number before the oldest message of a project that is held and has a stamp of at least that.
func (h *history) place(project string, stamp uint64) uint64 {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.feeds[project]
	if f == nil {
		return 0
	}
	first, next := f.held(h.now(), h.age)
	younger := sort.Search(int(next-first), func(i int) bool { return (*f.slot(first + uint64(i))).stamp >= stamp })
	return first + uint64(younger) - 1
}

// since returns the place before the messages of a project that were published at that time or later.
func (h *history) since(project string, t time.Time) cursor {
	stamp, age := h.now(), time.Since(t)
	switch {
	case age <= 0:
		stamp += uint64(-age)
	case uint64(age) < stamp:
		stamp -= uint64(age)
	default:
		stamp = 0
	}
	return h.placeOf(project, stamp)
}

// placeOf returns the place before the messages of a project, and of those to all projects, that are held and have a stamp
// of at least that.
func (h *history) placeOf(project string, stamp uint64) cursor {
	at := cursor{all: h.place("", stamp)}
	if project != "" {
		at.project = h.place(project, stamp)
	}
	return at
}

func (a cursor) least(b cursor) cursor { return cursor{min(a.project, b.project), min(a.all, b.all)} }

func (a cursor) most(b cursor) cursor { return cursor{max(a.project, b.project), max(a.all, b.all)} }

// reaches reports whether nothing is between a and b, if a is before b.
func (a cursor) reaches(b cursor) bool { return a.project >= b.project && a.all >= b.all }

// beyond returns how many messages are between b and a, if b is before a.
func (a cursor) beyond(b cursor) uint64 {
	return a.project - min(a.project, b.project) + a.all - min(a.all, b.all)
}

// covers reports whether a message is before the place.
func (a cursor) covers(m *message) bool {
	if m.project != "" {
		return m.number <= a.project
	}
	return m.number <= a.all
}

// precede moves the place before a message.
func (a *cursor) precede(m *message) {
	if m.project != "" {
		a.project = min(a.project, m.number-1)
	} else {
		a.all = min(a.all, m.number-1)
	}
}

// pass moves the place past a message.
func (a *cursor) pass(m *message) {
	if m.project != "" {
		a.project = m.number
	} else {
		a.all = m.number
	}
}

// A replay is the state of a client that looks back: one that asks for messages from before its join, or from before a
// change of its filter, or for those since a position. It receives these from the history. Until it has reached the
// newest message that its shard has taken, nothing is offered to it, and what is published in the meantime waits for it
// in the history as well. So a replay drops nothing, however small the client's buffer is, unless the history does. Then
// the client belongs to its group again, in the same turn, and receives what the shard takes next.
type replay struct {
	of    string // what it is, as the client is told
	at    cursor // how far the client has read
	first cursor // where the replay begins at the latest: what follows is not looked back for, it is due to the client
	end   cursor // where it ends, if the client is being flushed

	ahead cursor // how far the bite reaches that is being sent
	then  cursor // how far the client has read when what is being written has arrived
	asOf  uint64 // every message after that has a higher stamp

	since     time.Time // messages from before are not looked back for
	missing   int       // how many messages the search for the beginning has not found yet
	searching bool      // at is how far the search has got
	begun     bool      // something was read
	told      bool      // the client is told that the replay has begun
	loss      loss      // what the client is to be told of next
	vague     bool      // the client may have, or be told of, some of what the replay loses
	seen      int64     // when the last message that was sent was published, in Unix nanoseconds
	asked     int64     // when the client asked for it, likewise

	back *comeback // nil if it isn't a return
	gap  *fetched  // nil if it isn't one of the messages of a gap
	last int       // how many messages the client looks back for when this has ended; 0 if it doesn't
}

// fetched is the gap whose messages a client over plain HTTP asks for. They are all that it receives.
type fetched struct {
	id string
	hole
}

// The kinds of replays.
const (
	ofJoin      = "join"
	ofReturn    = "return"
	ofSubscribe = "subscribe"
	ofGap       = "gap"
)

func (f *fetched) name() string {
	if f == nil {
		return ""
	}
	return f.id
}

// A loss is the messages that have left the history before a replay has read them.
type loss struct {
	messages uint64 // whether they would match or not
	after    cursor // they are between this place and that of the replay
	slow     bool   // the client was connected when some of them were due
	away     bool   // it was not connected when others were
	counted  bool   // only those that match
	atMost   bool   // fewer may be missing
	unknown  bool   // nobody knows how many are missing
}

func (l *loss) any() bool { return l.messages > 0 || l.unknown }

// past is what a joining client asks for: the last messages, or those since a time, or if both are set, the last ones of
// those. Or it returns, or asks for the messages of a gap. A client of events that returns with other filters may also ask
// for the last messages, as it does over a WebSocket by a request. The zero value asks for nothing.
type past struct {
	last  int
	since time.Time
	back  *comeback
	gap   *fetched
}

// later returns the later one of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// recall makes a client look back from its join. It is called before the client is registered.
func (c *client) recall(p past) {
	switch {
	case p == past{}:
	case p.gap != nil:
		at := p.gap.after.most(c.shard.history.since(c.sub.Project, c.sub.Since))
		c.fetching = true
		c.replay = &replay{of: ofGap, gap: p.gap, at: at, first: at, begun: true, seen: c.connectedAt.UnixNano(), asked: c.connectedAt.UnixNano()}
	case p.back != nil && (c.v1 != nil || c.shard.history.isOn()): // without a history, there is still something to tell
		c.replay = &replay{of: ofReturn, back: p.back, since: c.sub.Since, asked: c.connectedAt.UnixNano()}
		if c.encoding == events {
			c.replay.last = p.last
		}
	case c.shard.history.isOn():
		c.replay = &replay{
			of: ofJoin, since: later(p.since, c.sub.Since), missing: p.last, searching: true, seen: c.connectedAt.UnixNano(), asked: c.connectedAt.UnixNano(),
		}
	}
}

// joinReplay begins the replay of a client that has joined.
func (c *client) joinReplay() error {
	r := c.replay
	switch {
	case !c.shard.history.isOn():
		return c.tellReturn()
	case r.back != nil:
		r.back.since = c.shard.now
	case r.gap != nil:
		c.flush(r.gap.until)
	default:
		r.first = c.joined.cursor
		if r.missing > 0 {
			r.at = c.joined.cursor
		}
	}
	c.await()
	c.biteSoon()
	return nil
}

// lookBack begins a replay with the last messages that match the client's filter. Those in its backlog, and those that a
// replay before has not sent yet, are among them, whatever their number.
func (c *client) lookBack(last int) {
	s := c.shard
	if c.phase != phaseOpen || !s.history.isOn() {
		return
	}
	at, now := c.taken(), time.Now().UnixNano()
	r := &replay{of: ofSubscribe, at: at, first: at, since: c.sub.Since, missing: last, searching: true, asked: now}
	r.seen = s.history.timeOf(c.takenStamp()).UnixNano()
	r.vague = c.out != nil && c.out.backlog.reordered || c.hasGaps()
	if before := c.replay; before != nil {
		r.loss, r.seen, r.vague = before.loss, before.seen, r.vague || before.vague
		if before.searching {
			r.first = before.first
		} else {
			r.first = before.at
		}
	}
	c.await()
	c.countFiltered(c.out.backlog.filter(func(m *message) bool {
		if r.seen = min(r.seen, m.at); !m.own {
			r.first.precede(m)
		}
		return m.own
	}))
	c.replay = r
	c.changeGroup()
	c.biteSoon()
}

// A share is what several replays of a turn read at the same place, as those of clients that return together do: it is read
// once, and its frames are joined once.
type share struct {
	reading
	joined stretch // nobody writes into it, so links may keep parts of it
}

// shareKey identifies a share by what is read.
type shareKey struct {
	group    string // its key
	from, to cursor
	n, limit int
}

// readOnce reads the history for a client's replay, or returns what another replay has read in this turn. It appends the
// messages to buf.
func (s *shard) readOnce(c *client, to cursor, buf []*message, n, limit int) (reading, *share) {
	r, h := c.replay, s.history
	if len(s.biting) < 2 || c.group == nil {
		return h.read(c.sub.Project, &c.sub.Filter, r.at, to, buf, n, limit), nil
	}
	key := shareKey{c.group.key, r.at, to, n, limit}
	sh := s.shares[key]
	if sh == nil {
		sh = &share{reading: h.read(c.sub.Project, &c.sub.Filter, r.at, to, nil, n, limit)}
		s.shares[key] = sh
	}
	got := sh.reading
	got.messages = append(buf, sh.messages...)
	return got, sh
}

// join returns the frames of a batch if that is exactly what was read, and otherwise nil.
func (sh *share) join(batch []*message) *stretch {
	if sh == nil || !slices.Equal(batch, sh.messages) {
		return nil
	}
	if sh.joined.bytes == nil {
		sh.joined = join(new(stretch), batch, "")
	}
	return &sh.joined
}

// biteSoon gives the client's replay, or its fetch, another bite.
func (c *client) biteSoon() {
	if s := c.shard; !c.biting {
		c.biting = true
		s.biting = append(s.biting, c)
	}
}

// biteAll gives a bite to each client that was due before this turn has ended. It is called after the shard has taken the
// messages of the turn.
func (s *shard) biteAll() {
	n := len(s.biting)
	for _, c := range s.biting[:n] {
		if c.biting = false; c.replay != nil || c.v1.fetches() {
			c.bite()
		}
	}
	s.biting = slices.Delete(s.biting, 0, n)
	clear(s.shares)
}

// bite lets the client's replay, or its fetch, go on for one write.
func (c *client) bite() {
	err := c.sendControl()
	switch {
	case c.busy || err != nil || c.phase >= phaseClosing:
	case c.replay != nil:
		err = c.replaySomeMore()
	default:
		err = c.fetchSome()
	}
	c.conclude(err)
}

func (c *client) replaySomeMore() error {
	s, r := c.shard, c.replay
	if r.searching && !r.search(c) || !c.catchUp() {
		c.biteSoon()
		return nil
	}
	to, whole := c.taken(), true
	if !c.idle() { // by messages of BufferMessage, or a gap from before the replay
		place := r.at
		if m := c.head(); m != nil {
			place = cursor{m.number, m.stamp}
		}
		if r.at.reaches(place) && (c.v1 == nil || !r.loss.any()) {
			return c.replayBuffered()
		}
		to, whole = place, false
	}
	room, size := c.room(0)
	if room == 0 {
		c.window.held = true
		return nil
	}
	var space [mostNotices]*message
	got, shared := s.readOnce(c, to, append(s.drained[:0], space[:]...), min(room, 2*historyBite), min(size, joinBytes))
	s.drained = got.messages
	defer func() { clear(s.drained) }()
	if r.gap != nil {
		r.at = got.begin // the client knows that these are missing
	} else if !r.lose(got.begin) {
		c.biteSoon()
		return nil
	}
	if r.loss.slow && !r.loss.away && s.limits.overflow == Disconnect { // one that was away was not slow
		c.shut(wsframe.CodeTryAgainLater, reasonTooSlow)
		return nil
	}
	if read := got.messages[mostNotices:]; c.encoding != frames {
		for i, m := range read {
			read[i] = m.in(c.encoding)
		}
	}
	r.ahead = got.at
	rest := c.withoutOld(got.messages[mostNotices:])
	// The shard may have to take messages that have left the history. Those of a gap are never taken.
	ends := whole && !got.more && (to.reaches(got.at) || r.gap != nil)
	batch, tells := c.withNotices(s.drained[:mostNotices+len(rest)], ends, got.more)
	if ends && c.v1 != nil {
		batch = append(batch, c.replayedNotice())
		s.drained = batch
	}
	all := len(batch) <= room
	batch = batch[:min(room, len(batch))]
	if len(batch) > 0 {
		if room, _ := c.room(len(batch[0].frame)); room == 0 {
			c.window.held = true
			return nil
		}
		asOf, told := r.asOf, r.told
		r.told = true // the notice is among the batch, or was before
		r.then, r.asOf = c.between(rest, len(batch)-tells.notices, all)
		id := ""
		if !batch[len(batch)-1].notice {
			id = c.placeAfter(0, tells.told(len(batch)))
		}
		p, buf := shared.join(batch), new(stretch)
		if p == nil || id != "" {
			own := join(&s.scratch, batch, id)
			p, buf = &own, &s.scratch
		}
		taken, landed, err := c.write(p, batch, buf, c.probe(amount{uint32(len(batch)), uint32(len(p.bytes))}, 0, tells.told(len(batch)), nil))
		c.out.flight.replayed = c.busy
		c.countReplayed(landed)
		if r.back != nil {
			r.back.sent += uint32(taken)
		}
		if taken < len(batch) {
			all = false
			r.asOf = asOf
			r.then, r.asOf = c.between(rest, taken-tells.notices, all)
		}
		r.at = r.then
		r.told = told
		if r.passed(batch[:taken], tells); len(rest) > 0 {
			c.v1.announced(rest[0], taken == tells.notices)
		}
		if err != nil {
			return err
		}
	}
	if all {
		r.at = got.at
	}
	r.then = r.at
	switch {
	case all && ends:
		c.endReplay()
	case !c.busy:
		c.biteSoon()
	}
	return nil
}

// between returns the place after the first messages of a bite, as many as sent says, and before the rest of it. all says
// that the whole bite is before the place, even if nothing of it is sent.
func (c *client) between(bite []*message, sent int, all bool) (at cursor, asOf uint64) {
	switch r := c.replay; {
	case sent >= len(bite) && len(bite) > 0:
		return r.ahead, bite[len(bite)-1].stamp
	case all:
		return r.ahead, r.asOf
	case sent <= 0:
		return r.at, r.asOf
	}
	return c.placeBefore(bite[:sent], bite[sent:])
}

// placeBefore returns the place after some messages of a bite and before the next ones. It is one moment in the order, for
// the messages to the project and for those to all projects: what the filter holds back, and is older than the next
// message, is before the place, and everything else is after it.
func (c *client) placeBefore(sent, next []*message) (at cursor, asOf uint64) {
	r := c.replay
	at = r.at
	for _, m := range sent {
		at.pass(m)
	}
	at = at.most(c.shard.history.placeOf(c.sub.Project, next[0].stamp)).least(r.ahead)
	for _, m := range next { // some may have left the history since they were read
		at.precede(m)
	}
	return at, next[0].stamp - 1
}

// mostNotices is how many notices there are at most before the messages of a bite.
const mostNotices = 3

// tells says which notices are before the messages of a bite.
type tells struct {
	notices int  // how many there are
	replay  bool // the first one tells that the replay begins
	gaps    int  // 1 if the next one tells of a loss
}

// told returns how many gaps the first n messages of a batch tell the client of.
func (t tells) told(n int) int {
	if t.replay {
		n--
	}
	return min(max(0, n), t.gaps)
}

// withNotices puts the notices that are due before the messages of a bite. The first slots of the batch are for them, and it
// returns the part of the batch that is used.
func (c *client) withNotices(batch []*message, ends, more bool) (used []*message, t tells) {
	if c.v1 == nil {
		return batch[mostNotices:], t
	}
	r, rest := c.replay, batch[mostNotices:]
	put := func(notice *message) {
		t.notices++
		batch[mostNotices-t.notices] = notice
	}
	if len(rest) > 0 && c.v1.announces(rest[0]) {
		put(c.large(rest[0]))
	}
	if r.loss.any() && (len(rest) > 0 || !more) {
		put(c.lossNotice(rest, ends))
		t.gaps = 1
	}
	if t.replay = !r.told; t.replay {
		put(c.replayNotice(rest))
	}
	return batch[mostNotices-t.notices:], t
}

// passed notes that the link has taken messages, and the notices before them.
func (r *replay) passed(batch []*message, t tells) {
	for _, m := range batch {
		switch {
		case !m.notice:
			r.seen = m.at
			if b := r.back; b != nil {
				b.repeated++
				b.keyed = b.keyed || m.key != ""
			}
		case t.replay:
			t.replay, r.told = false, true
		case t.gaps > 0:
			t.gaps, r.loss = 0, loss{}
		}
	}
}

// withoutOld leaves out the messages whose keys have newer values in the replay. In the place of one that the client may
// have received before, there is a message that says so.
func (c *client) withoutOld(messages []*message) []*message {
	rest := messages[:0]
	for _, m := range messages {
		switch b, gap := c.replay.back, c.replay.gap; {
		case gap != nil:
			if gap.has(c.shard.history, m) {
				rest = append(rest, m)
			}
		case !c.comesAgain(m):
			rest = append(rest, m)
		case c.v1 != nil && b != nil && b.received > 0 && b.tail.covers(m):
			rest = append(rest, c.past(m))
		}
	}
	return rest
}

// comesAgain reports whether the replay has yet to send a newer message with the same key, which then stands for both.
func (c *client) comesAgain(m *message) bool {
	newer := c.shard.history.newer(m, &c.sub.Filter)
	if newer == nil {
		return false
	}
	end := c.replay.at
	end.pass(newer)
	return c.phase == phaseOpen || c.replay.end.reaches(end) // the replay of an open client has no end yet
}

// search goes back for a bite, and reports whether it has found where the replay begins.
func (r *replay) search(c *client) (done bool) {
	h, project := c.shard.history, c.sub.Project
	if r.missing > 0 {
		var more bool
		r.at, r.missing, more = h.lookBack(project, &c.sub.Filter, r.at, r.missing)
		if more {
			return false
		}
	}
	r.at = r.at.most(h.since(project, r.since)).least(r.first)
	next := h.read(project, &Filter{}, r.at, c.taken(), nil, 1, 0)
	if len(next.messages) > 0 {
		r.seen = min(r.seen, next.messages[0].at)
	}
	switch {
	case next.lost > 0: // and nobody knows their stamps
	case len(next.messages) > 0:
		r.asOf = next.messages[0].stamp - 1
	case c.group != nil:
		r.asOf = c.takenStamp()
	}
	r.then, r.searching = r.at, false
	return true
}

// lose moves the place over messages that are no longer held. Those that leave while the beginning is searched for were not
// promised to the client. It returns false if the place has moved beyond what was read: the client may have received some of
// those that have left, and of those that follow, and it is not known which.
func (r *replay) lose(to cursor) (ok bool) {
	due := to.beyond(r.at.most(r.first))
	lost := due
	if r.begun {
		lost = to.beyond(r.at)
	}
	if lost > 0 && !r.loss.any() {
		r.loss.after = to.least(r.at.most(r.first))
		if r.begun {
			r.loss.after = r.at
		}
	}
	b := r.back
	r.loss.messages += lost
	r.loss.counted = r.loss.counted && lost == 0
	r.loss.slow = r.loss.slow || due > 0
	r.loss.atMost = r.loss.atMost || lost > due && r.of == ofSubscribe // it may have received those before
	r.loss.atMost = r.loss.atMost || lost > 0 && b != nil && b.received != 0 && !r.at.reaches(b.tail)
	r.at, r.begun = to, true
	if lost == 0 || b == nil || b.received == 0 || to.reaches(b.tail) {
		return true
	}
	r.at = to.most(b.tail)
	r.loss.messages += r.at.beyond(to)
	r.loss.atMost = true
	b.received = 0
	return false
}

// endTail moves the place beyond what the client may have received already. It does so when its filter changes: the replay
// would no longer repeat exactly that.
func (r *replay) endTail() {
	b := r.back
	if b == nil || b.received == 0 || r.at.reaches(b.tail) {
		return
	}
	if !r.loss.any() {
		r.loss = loss{after: r.at, away: true}
	}
	to := r.at.most(b.tail)
	r.loss.messages += to.beyond(r.at)
	r.loss.atMost = true
	r.at, r.then = to, to
	b.received, b.skip = 0, nil
}

// replayBuffered sends the oldest message of BufferMessage, whose place in the replay has been reached, or a gap.
func (c *client) replayBuffered() error {
	if room, _ := c.room(c.oldest()); room == 0 {
		c.window.held = true
		return nil
	}
	_, err := c.sendBuffered(1, 0)
	if !c.busy {
		c.biteSoon()
	}
	return err
}

// endReplay makes the client one that its shard offers messages to, unless it looks back then.
func (c *client) endReplay() {
	last := c.replay.last
	c.replay = nil
	if last > 0 && c.phase == phaseOpen {
		c.lookBack(last)
	} else if c.phase == phaseOpen {
		c.changeGroup()
	}
	if c.v1.fetches() {
		c.biteSoon()
	}
}
