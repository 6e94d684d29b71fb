package mesherstream

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/seal"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// A shard is an actor: one goroutine that owns some of the clients, and an inbox for requests from other goroutines. No
// other goroutine touches a client's state, so the delivery of a message to a client takes no lock.
//
// Each shard has a goroutine of its own. If they have little to write, only half of them write at a time, see hasLittle.
//
// One turn of the shard takes the whole inbox at once. The broadcasts in it are sent with one write per client.
type shard struct {
	// Read-only after construction.
	cfg     *config
	limits  limits
	madeAt  time.Time
	history *history      // of the manager
	writing chan struct{} // likewise: holds a token for each shard that writes its little
	readers [encodings]func(own bool) link.Reader

	// Guarded by mu.
	mu        sync.Mutex
	wake      sync.Cond             // the shard waits for work
	room      sync.Cond             // publishers wait for space in the inbox
	inbox     inbox                 // taken by the next turn
	turns     uint64                // how many turns have begun
	members   map[ClientID]*client  // the clients that the application can name
	followers map[string]*following // the projects of these clients
	closed    bool                  // nothing more is accepted from the application
	running   bool                  // the goroutine lives, and owns the fields below
	sleeps    bool                  // it waits for work, and nobody has roused it yet
	spawn     func(func())          // starts a goroutine of this run
	poller    *link.Poller          // nil until a link of this run needs it

	// Atomic.
	regrouping atomic.Int64 // clients that move between two groups, or to their first one

	// Owned by the goroutine; by mu while no goroutine runs.
	hooks      *hookQueue    // of this run
	turn       inbox         // the inbox that this turn has taken
	now        moment        // when it began
	began      time.Duration // the same, exactly
	batch      []*message
	batches    uint64
	groups     map[string]*group    // changed under mu, so that wants can read it
	projects   map[string]*audience // likewise
	everyGroup audience             // likewise
	touched    []*group
	counts     bool                // one of the tokens in writing is its own
	pinged     []*client           // they are sent a pong at the end of the turn
	again      []*client           // their links have asked for another turn
	apart      []*client           // they have groups of their own until the end of a turn
	biting     []*client           // their replays and fetches go on at the end of the turn
	shares     map[shareKey]*share // what these have read
	waiting    []*client           // the clients that a drain visits: they are busy, or have something buffered
	wheel      wheel
	lulls      []lull      // the one that ends first comes first
	pauses     []pause     // likewise
	holding    int         // how many groups hold messages
	alarm      *time.Timer // wakes the shard at the end of a pause; nil until it has to
	alarmed    bool        // it is set
	steady     bool        // a pause that ended in this turn had messages
	beatAt     time.Time   // the last beat
	awake      time.Time   // since when beats have come on time
	joined     stretch     // the frames of a group's batch
	drained    []*message  // the messages that a drain takes from a backlog
	coming     []*message  // the messages for which a client makes room
	scratch    stretch     // the frames of batch
	seal       seal.Seal   // a copy of that of the history
	payload    []byte      // what a position is made of
	probe      []byte      // the frame of the last probe
	answer     []byte      // the text of a reply; no filter makes it much larger than 12 KiB
	stopping   bool
	leaving    map[*client]struct{} // clients in their close handshake
	totals     Stats
}

func newShard(cfg *config, h *history, writing chan struct{}) *shard {
	s := &shard{
		cfg:       cfg,
		writing:   writing,
		madeAt:    time.Now(),
		history:   h,
		seal:      h.seal,
		limits:    limits{cfg.maxBuffer, cfg.maxBufferBytes, cfg.overflow, true},
		members:   make(map[ClientID]*client),
		followers: make(map[string]*following),
		groups:    make(map[string]*group),
		projects:  make(map[string]*audience),
		leaving:   make(map[*client]struct{}),
		shares:    make(map[shareKey]*share),
	}
	for e := range s.readers {
		s.readers[e] = encoding(e).readers(cfg)
	}
	s.wake.L = &s.mu
	s.room.L = &s.mu
	return s
}

// start makes the shard accept casts. The caller then runs loop on a goroutine.
func (s *shard) start(hooks *hookQueue, spawn func(func())) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks, s.spawn = hooks, spawn
	s.closed, s.running, s.stopping = false, true, false
}

// publish casts a broadcast. It waits while the inbox is full. It then waits for the shard to catch up, and never for a
// client: a turn takes the whole inbox, and no turn waits for a client.
func (s *shard) publish(m *message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasViewersLocked(m.project) {
		return s.closedErrLocked()
	}
	return s.castLocked(cast{message: m}, m.project, m.size())
}

// hasViewers reports whether any client follows the project.
func (s *shard) hasViewers(project string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hasViewersLocked(project)
}

func (s *shard) hasViewersLocked(project string) bool {
	if project == "" {
		return len(s.members) > 0
	}
	return s.followers[project] != nil
}

// cast arranges for do to be called with the client of that ID, which may be leaving by then. bytes is how much do will
// add to the client's buffer.
func (s *shard) cast(id ClientID, bytes int, do func(*client)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.members[id]
	if !ok {
		if err := s.closedErrLocked(); err != nil {
			return err
		}
		return ErrUnknownClient
	}
	return s.castLocked(cast{do: func() { do(c) }}, c.grant.Project, bytes)
}

func (s *shard) closedErrLocked() error {
	if s.closed {
		return ErrClosed
	}
	return nil
}

// ask runs fn at a moment at which it may read the fields that the goroutine owns, and waits for it. Everything that the
// caller cast before is done first.
func (s *shard) ask(fn func()) {
	s.mu.Lock()
	if !s.running {
		fn()
		s.mu.Unlock()
		return
	}
	done := make(chan struct{})
	s.doLocked(func() { fn(); close(done) })
	s.mu.Unlock()
	<-done
}

// tell runs fn on the shard's goroutine, or not at all if that goroutine has ended.
func (s *shard) tell(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.doLocked(fn)
	}
}

func (s *shard) doLocked(fn func()) {
	s.inbox.casts = append(s.inbox.casts, cast{do: fn})
	s.rouse()
}

// post delivers events. It never blocks. Few events of a link are pending at a time.
func (s *shard) post(events ...event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return // and no client is left
	}
	s.inbox.events = append(s.inbox.events, events...)
	s.rouse()
}

// poll returns the shard's poller, which the first link starts.
func (s *shard) poll() (*link.Poller, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return nil, ErrClosed
	}
	var err error
	if s.poller == nil {
		s.poller, err = link.NewPoller(s.hint, s.spawn)
	}
	return s.poller, err
}

// hint lets the links of these clients do what they can.
func (s *shard) hint(ready []link.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return
	}
	for _, o := range ready {
		s.inbox.events = append(s.inbox.events, event{client: o.(*client), Event: link.Event{Kind: link.Ready}})
	}
	s.rouse()
}

// tick asks for a drain, a keepalive beat, or both. Pending drains are merged into one. Beats are not, or a busy shard
// would visit each client too late.
func (s *shard) tick(drain, beat bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.inbox.drain = s.inbox.drain || drain
		if beat {
			s.inbox.beats++
		}
		s.rouse()
	}
}

// register makes c one of the shard's clients. Messages published after it has returned are offered to c. It may wait
// for publishers, which wait for shards, so that no shard may call it.
func (s *shard) register(c *client) error {
	unlock := s.history.follow(c.sub.Project)
	defer unlock()
	c.joined = &joining{stamp: s.history.clock.Load(), cursor: s.history.end(c.sub.Project)}
	if c.replay != nil && c.replay.of == ofReturn {
		c.comeBack()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.running {
		s.history.leave(c.sub.Project)
		return ErrClosed
	}
	s.regrouping.Add(1) // until add
	s.members[c.id] = c
	f := s.followers[c.sub.Project]
	if f == nil {
		f = &following{}
		s.followers[c.sub.Project] = f
	}
	f.clients++
	if f.granted == nil || !f.granted.is(c.grant) {
		f.granted = c.grant
	}
	c.grant = f.granted
	// An event and not a cast, since everything that the link will report about the client is an event, and events keep
	// their order.
	s.inbox.events = append(s.inbox.events, event{client: c, Event: link.Event{Kind: eventJoined}})
	s.rouse()
	return nil
}

// unregister reverts register, as far as the application can see it.
func (s *shard) unregister(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.members, c.id)
	if f := s.followers[c.sub.Project]; f.clients > 1 {
		f.clients--
	} else {
		delete(s.followers, c.sub.Project)
	}
	s.history.leave(c.sub.Project)
}

// find returns the client of that ID, or nil.
func (s *shard) find(id ClientID) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members[id]
}

// close stops accepting anything from the application and closes every client. If flush is true, each client is flushed
// first. The goroutine ends with its last client.
func (s *shard) close(flush bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.room.Broadcast()
	if s.running {
		s.doLocked(func() { s.stopping = true; s.shutAll(flush) })
	}
}

// cut removes every client that is still connected, together with its buffered messages.
func (s *shard) cut() {
	s.tell(s.removeAll)
}

// rouse makes the shard take a turn. The caller holds mu.
func (s *shard) rouse() {
	s.sleeps = false
	s.wake.Signal()
}

// loop is the shard's goroutine. It ends when the shard has been closed and its last client has left.
func (s *shard) loop() {
	for s.take() {
		s.takeTurn()
	}
}

// take waits for work and moves the inbox into the turn. It returns false at the end of the shard's life.
func (s *shard) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.inbox.isEmpty() && len(s.again) == 0 && len(s.biting) == 0 {
		if s.stopping && len(s.members) == 0 && len(s.leaving) == 0 {
			s.running, s.lulls = false, nil
			s.forgetPauses()
			if s.poller != nil {
				s.poller.Close()
				s.poller = nil
			}
			return false
		}
		s.sleeps = true
		s.wake.Wait()
	}
	s.sleeps = false
	s.inbox, s.turn = s.turn, s.inbox
	s.turns++
	s.room.Broadcast()
	return true
}

func (s *shard) takeTurn() {
	s.clock()
	s.do(s.turn.casts[:s.turn.waited])
	for i := range s.turn.events {
		s.handle(&s.turn.events[i])
	}
	s.do(s.turn.casts[s.turn.waited:])
	s.alarmed = s.alarmed && !s.turn.alarm
	if len(s.pauses) > 0 {
		s.endPauses()
	}
	if s.turn.drain {
		s.drainAll()
	}
	for range min(s.turn.beats, wheelSlots) {
		s.beat(time.Now())
	}
	if s.turn.drain || s.turn.beats > 0 {
		s.endLulls()
	}
	if len(s.apart) > 0 {
		s.rejoin()
	}
	s.turn.reset()
	s.goOn()
	s.biteAll()
	s.sendPongs()
	if (s.holding > 0 || s.steady) && !s.alarmed {
		s.setAlarm()
	}
}

// do carries out casts in their order.
func (s *shard) do(casts []cast) {
	for _, c := range casts {
		if c.message != nil {
			s.batch = append(s.batch, c.message)
			continue
		}
		s.deliverBatch()
		c.do()
	}
	s.deliverBatch()
}

// handle carries out an event.
func (s *shard) handle(e *event) {
	c := e.client
	if c.phase == phaseGone {
		return
	}
	switch e.Kind {
	case eventJoined:
		c.add()
	case link.Ready:
		c.link.Ready()
	case link.Writable:
		c.writable(e.N, e.Err)
	case link.Received:
		c.received(e.Op, e.Payload)
	case eventResume:
		c.inHook = false
		c.markSeen(time.Now()) // messages that the client sent in the meantime were not read
		c.link.Resume()
	case link.Refused:
		c.refused(e.Err)
	case link.Ended:
		c.ended(e.Err)
	case link.Failed:
		c.remove(e.Err)
	case eventCut:
		c.remove(errors.New("the close handshake took too long"))
	}
}

// later gives a client's link another turn: the link has more to do, but other clients are waiting too.
func (c *client) later() {
	s := c.shard
	if !c.again {
		c.again = true
		s.again = append(s.again, c)
	}
}

// goOn gives another turn to the clients that have asked for one before this turn.
func (s *shard) goOn() {
	n := len(s.again)
	for _, c := range s.again[:n] {
		c.again = false
		if c.phase != phaseGone {
			c.link.Ready()
		}
	}
	s.again = slices.Delete(s.again, 0, n)
}

// shutAll closes every client. If flush is true, a client is closed after it has been sent the messages that it was
// offered and the gaps that it is to be told of. Otherwise it is closed as soon as a frame may start.
func (s *shard) shutAll(flush bool) {
	for _, c := range s.everyone() {
		c.takePending()
		if !flush || c.idle() && c.replay == nil {
			c.shut(wsframe.CodeGoingAway, reasonShutdown)
			continue
		}
		if c.phase == phaseOpen {
			var end cursor
			if c.replay != nil {
				end = c.taken()
			}
			c.flush(end)
		}
	}
}

func (s *shard) removeAll() {
	for _, c := range s.everyone() {
		c.remove(errors.New("the shutdown took too long"))
	}
}

// everyone lists all clients, including those that are leaving.
func (s *shard) everyone() []*client {
	var all []*client
	for _, g := range s.groups {
		all = append(all, g.clients...)
	}
	for c := range s.leaving {
		all = append(all, c)
	}
	return all
}

// snapshots lists the clients that are open.
func (s *shard) snapshots() []Client {
	list := make([]Client, 0, s.totals.Clients)
	for _, g := range s.groups {
		for _, c := range g.clients {
			list = append(list, c.snapshot())
		}
	}
	return list
}

// stats adds the buffered messages to the running totals.
func (s *shard) stats() Stats {
	t := s.totals
	for _, p := range s.pauses {
		if !p.group.holds {
			continue
		}
		for _, c := range p.group.clients {
			n, bytes := c.pendingLoad()
			t.Offered += uint64(n)
			t.Buffered += n
			t.BufferedBytes += int64(bytes)
		}
	}
	for _, c := range s.waiting {
		messages, bytes := c.buffered()
		t.Buffered += messages
		t.BufferedBytes += int64(bytes)
	}
	return t
}

// inbox holds the work that is queued for a shard. Its casts are done in order. Its events, which come from links, have
// no order relative to the casts and are handled first, except after the casts that have waited for an alarm.
type inbox struct {
	casts  []cast
	waited int // how many of the casts, the first ones, roused nobody: they are older than all events
	events []event
	all    load // of the casts
	shared load // of the casts that clients of every project receive
	drain  bool
	alarm  bool // a pause is over
	beats  int
}

// load is how many of the casts a client receives, and how many bytes they may add to its buffer.
type load struct {
	messages, bytes int
}

// The bounds of an inbox as a whole, unless one buffer may hold more. They limit the messages of many projects
// together: the more of these a turn takes, the more of them share a write.
const (
	inboxMessages = 4 << 10
	inboxBytes    = 16 << 20
)

// following is a project that a shard's clients follow.
type following struct {
	clients int
	granted *Subscription // the grant of the newest one, which the next one shares if it has the same
	load    load          // the load of these clients in the inbox that the turn takes
	turn    uint64        // the number of that turn
}

// A cast is a message for every client that it matches, or something else to do. do is called on the shard's goroutine.
type cast struct {
	message *message
	do      func()
}

// An event is an event of a client's link, or one of these three.
type event struct {
	client *client
	link.Event
}

const (
	eventJoined = link.Kinds + iota // the first event of each client
	eventResume                     // the Message hook has returned
	eventCut                        // the client has not ended the close handshake in time
)

func (l load) takes(bytes, mostMessages, mostBytes int) bool {
	return l.messages < mostMessages && l.bytes+bytes <= mostBytes
}

func (l *load) add(bytes int) {
	l.messages++
	l.bytes += bytes
}

// castLocked puts a cast for the clients of a project, or of all projects, into the inbox when there is space.
func (s *shard) castLocked(c cast, project string, bytes int) error {
	for !s.closed && !s.hasRoom(project, bytes) {
		s.rouse()
		s.room.Wait()
	}
	if err := s.closedErrLocked(); err != nil {
		return err
	}
	s.inbox.casts = append(s.inbox.casts, c)
	s.inbox.all.add(bytes)
	switch f := s.followers[project]; {
	case project == "":
		s.inbox.shared.add(bytes)
	case f != nil: // nil if the last of them has left in the meantime
		if f.turn != s.turns {
			f.turn, f.load = s.turns, load{}
		}
		f.load.add(bytes)
	}
	if c.message != nil && s.sleeps && s.canWait(project) {
		s.inbox.waited = len(s.inbox.casts)
		return nil
	}
	s.rouse()
	return nil
}

// hasRoom makes sure that no turn offers a client more than an empty buffer can hold. There is always room for a
// message that is the only one.
func (s *shard) hasRoom(project string, bytes int) bool {
	in := &s.inbox
	theirs := in.all
	if project != "" {
		theirs = in.shared
		if f := s.followers[project]; f != nil && f.turn == s.turns {
			theirs.messages += f.load.messages
			theirs.bytes += f.load.bytes
		}
	}
	return in.all.messages == 0 ||
		(theirs.messages == 0 || theirs.takes(bytes, s.cfg.maxBuffer, s.cfg.maxBufferBytes)) &&
			in.all.takes(bytes, max(inboxMessages, s.cfg.maxBuffer), max(inboxBytes, s.cfg.maxBufferBytes))
}

func (in *inbox) isEmpty() bool {
	return len(in.casts) == 0 && len(in.events) == 0 && !in.drain && !in.alarm && in.beats == 0
}

// reset empties the inbox and keeps its memory for the turn after the next, unless a burst has made it large. With a beat,
// it keeps little: after a burst, there may be nothing to do for long.
func (in *inbox) reset() {
	casts, events := 2*inboxMessages, 1<<12
	if in.beats > 0 {
		casts, events = 1<<8, 1<<8
	}
	clear(in.casts)
	clear(in.events)
	*in = inbox{casts: in.casts[:0], events: in.events[:0]}
	if cap(in.events) > events {
		in.events = nil
	}
	if cap(in.casts) > casts {
		in.casts = nil
	}
}
