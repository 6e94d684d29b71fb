package mesherstream

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A shard is an actor: one goroutine that owns some of the clients, and an inbox of what others want of them. Nobody
// else touches a client's state, so nothing on the way of a message to a client takes a lock.
//
// One turn of the shard takes everything that waits in the inbox at once. The broadcasts among it leave in one write per
// client.
type shard struct {
	// Read-only after construction.
	cfg    *config
	limits limits

	// Guarded by mu.
	mu        sync.Mutex
	wake      sync.Cond             // the shard waits for work
	room      sync.Cond             // publishers wait for room in the inbox
	inbox     inbox                 // what the next turn takes
	turns     uint64                // how many have begun
	members   map[ClientID]*client  // whom the application can name
	followers map[string]*following // the projects of these
	closed    bool                  // nothing is accepted from the application any more
	running   bool                  // the goroutine lives, and owns what is below
	spawn     func(func())          // starts a goroutine of this run
	poller    *poller               // nil until a link of this run needs it

	// Atomic.
	regrouping atomic.Int64 // clients that are between two groups, or before their first one

	// Owned by the goroutine; by mu where none is running.
	hooks    *hookQueue // of this run
	turn     inbox      // what this turn has taken
	run      []*message
	runs     uint64
	groups   map[string]*group   // changed under mu, so that wants can read them
	projects map[string][]*group // the same
	touched  []*group
	pinged   []*client // they get a pong at the end of the turn
	again    []*client // their links have asked for another turn
	waiting  []*client // those that a drain visits: they are busy, or something is buffered for them
	wheel    wheel
	beatAt   time.Time  // the last one
	awake    time.Time  // since when beats have come as they should
	joined   []byte     // the frames of a group's run
	batch    []*message // what a drain takes out of a backlog
	scratch  []byte     // the frames of batch
	stopping bool
	leaving  map[*client]struct{} // in their close handshake
	totals   Stats
}

// A group is the clients of one project with one filter. A message is matched with the group, not with each client.
type group struct {
	key       string
	sub       Subscription
	inProject int // index in its list of shard.projects
	clients   []*client
	run       []*message // of this turn, the messages for this group
}

func newShard(cfg *config) *shard {
	s := &shard{
		cfg:       cfg,
		limits:    limits{cfg.maxBuffer, cfg.maxBufferBytes, cfg.overflow, true},
		members:   make(map[ClientID]*client),
		followers: make(map[string]*following),
		groups:    make(map[string]*group),
		projects:  make(map[string][]*group),
		leaving:   make(map[*client]struct{}),
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

// publish casts a broadcast. It waits while the inbox is full, which is for the shard's CPU and never for a client: a
// turn takes the whole inbox, and no turn waits for anybody.
func (s *shard) publish(m *message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.followed(m.project) {
		return s.stateLocked()
	}
	return s.castLocked(cast{message: m}, m.project, m.size())
}

// follows says whether any client follows the project.
func (s *shard) follows(project string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.followed(project)
}

func (s *shard) followed(project string) bool {
	if project == "" {
		return len(s.members) > 0
	}
	return s.followers[project] != nil
}

// cast has do called with the client of that ID, which may be on its way out by then. bytes is what do will add to the
// client's buffer.
func (s *shard) cast(id ClientID, bytes int, do func(*client)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.members[id]
	if !ok {
		if err := s.stateLocked(); err != nil {
			return err
		}
		return ErrUnknownClient
	}
	return s.castLocked(cast{do: func() { do(c) }}, c.sub.Project, bytes)
}

func (s *shard) stateLocked() error {
	if s.closed {
		return ErrClosed
	}
	return nil
}

// ask runs fn where it may read what the goroutine owns, and waits for it. What the caller cast before is done before.
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

// tell runs fn on the shard's goroutine, or not at all where that has ended.
func (s *shard) tell(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.doLocked(fn)
	}
}

func (s *shard) doLocked(fn func()) {
	s.inbox.casts = append(s.inbox.casts, cast{do: fn})
	s.wake.Signal()
}

// post delivers events. It never blocks; a link never has more than a few events under way.
func (s *shard) post(events ...event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return // and no client is left
	}
	s.inbox.events = append(s.inbox.events, events...)
	s.wake.Signal()
}

// tick asks for a drain, a keepalive beat, or both. Drains that wait together are one. Beats are not, or a shard that is
// busy would come to each client too late.
func (s *shard) tick(drain, beat bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.inbox.drain = s.inbox.drain || drain
		if beat {
			s.inbox.beats++
		}
		s.wake.Signal()
	}
}

// register makes c one of the shard's clients. What is published after it returned, c gets.
func (s *shard) register(c *client) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.running {
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
	// An event and not a cast, since all that the link will tell of the client are events, and they keep their order.
	s.inbox.events = append(s.inbox.events, event{kind: eventJoined, client: c})
	s.wake.Signal()
	return nil
}

// unregister ends what register began, as far as the application can see it.
func (s *shard) unregister(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.members, c.id)
	if f := s.followers[c.sub.Project]; f.clients > 1 {
		f.clients--
	} else {
		delete(s.followers, c.sub.Project)
	}
}

// find returns the client of that ID, or nil.
func (s *shard) find(id ClientID) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members[id]
}

// close stops accepting anything from the application and has every client closed: first flushed, if flush is true,
// and otherwise at once. The goroutine ends with its last client.
func (s *shard) close(flush bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.room.Broadcast()
	if s.running {
		s.doLocked(func() { s.stopping = true; s.shutAll(flush) })
	}
}

// cut removes every client that is still there, with what is still buffered for it.
func (s *shard) cut() {
	s.tell(s.removeAll)
}

// loop is the shard's goroutine. It ends when the shard has been closed and its last client is gone.
func (s *shard) loop() {
	for s.take() {
		s.takeTurn()
	}
}

// take waits for work, and moves the inbox into the turn. It returns false at the end of the shard's life.
func (s *shard) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.inbox.isEmpty() && len(s.again) == 0 {
		if s.stopping && len(s.members) == 0 && len(s.leaving) == 0 {
			s.running = false
			if s.poller != nil {
				s.poller.close()
				s.poller = nil
			}
			return false
		}
		s.wake.Wait()
	}
	s.inbox, s.turn = s.turn, s.inbox
	s.turns++
	s.room.Broadcast()
	return true
}

func (s *shard) takeTurn() {
	for i := range s.turn.events {
		s.handle(&s.turn.events[i])
	}
	for _, c := range s.turn.casts {
		if c.message != nil {
			s.run = append(s.run, c.message)
			continue
		}
		s.deliverRun() // so that casts keep their order
		c.do()
	}
	s.deliverRun()
	if s.turn.drain {
		s.drainAll()
	}
	for range min(s.turn.beats, wheelSlots) {
		s.beat(time.Now())
	}
	s.turn.reset()
	s.goOn()
	s.sendPongs()
}

// later gives a client's link another turn: it has more to do, but others wait too.
func (s *shard) later(c *client) {
	if !c.again {
		c.again = true
		s.again = append(s.again, c)
	}
}

// goOn gives those another turn that asked for it before this one.
func (s *shard) goOn() {
	n := len(s.again)
	for _, c := range s.again[:n] {
		c.again = false
		if c.phase != phaseGone {
			c.link.ready()
		}
	}
	s.again = slices.Delete(s.again, 0, n)
}
