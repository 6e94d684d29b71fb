package mesherstream

import (
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// Message is one event. A field that is empty is one that every client accepts: without a level and an environment it
// reaches all clients of the project, whatever their filters, and without a project those of all projects.
type Message struct {
	Project     string
	Level       string
	Environment string
	Data        []byte // UTF-8 unless Binary
	Binary      bool   // sent as a binary message, and otherwise as text

	// Key says what the message is the newest value of, such as "issue 17". While a message waits for a slow client, a
	// newer one with the same key takes its place, so that the client gets the newest value only; that is counted as
	// Conflated. "" is no key.
	Key string
}

// Manager streams messages to its clients. All its methods are safe for concurrent use, and none of them waits for a
// client. On a nil Manager, as [From] returns one for a request that has passed no middleware, they return [ErrNotMounted],
// or find no client.
type Manager struct {
	// Read-only after construction.
	cfg      config
	shards   []*shard
	relaying *relaying // nil without WithRelay

	// Atomic.
	lastID     atomic.Uint64
	prefork    atomic.Bool // has been asked about
	netHTTP    atomic.Bool // has been complained of
	broadcasts atomic.Uint64
	hookPanics atomic.Uint64
	shadowed   atomic.Bool // the log has been told that another manager serves on the path
	strayApp   atomic.Bool // the log has been told that the app of WithApp isn't the one that listens
	listened   atomic.Bool // the app of WithApp has listened

	askedRoutes sync.Map // the routes that checkRoute has seen, by their first handler

	// Guarded by mu.
	mu      sync.Mutex
	current *run           // nil where nothing runs
	closed  bool           // Shutdown has been called, and no listen since
	clients int            // places that are taken
	perIP   map[string]int // by networkOf
	asking  map[string]int // calls of WithAuthorize under way, by networkOf, where WithMaxClientsPerIP is set
}

// NewManager returns a manager for those who publish from outside of handlers; mount its [Manager.Handler]. Its error
// joins one error for each invalid option, each of which wraps [ErrInvalidOption] and names the option, its value and
// its bounds. Nothing runs until the app listens (see [WithApp]) or the first client connects.
func NewManager(opts ...Option) (*Manager, error) {
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	cfg.shards = runtime.GOMAXPROCS(0)
	cfg.logger = slog.New(survivor{cfg.logger.Handler()})
	m := &Manager{cfg: cfg, perIP: make(map[string]int), asking: make(map[string]int)}
	for range cfg.shards {
		m.shards = append(m.shards, newShard(&m.cfg))
	}
	if cfg.relay != nil {
		m.relaying = newRelaying(m)
	}
	if cfg.app != nil {
		m.attach(cfg.app)
	}
	return m, nil
}

// Broadcast sends msg to every client whose subscription it matches. A client that can take it gets it at once; for one
// that is slow it is buffered, and its oldest messages are dropped where that is more than the buffer holds.
//
// Broadcast never waits for a client. It waits for the CPU of a shard at most, when messages come faster than they can
// be written. Data and the strings are copied before it returns. Messages that one goroutine publishes reach each client
// in that order.
//
// With [WithRelay], the other nodes get it too: it is queued for them, and Broadcast never waits for that.
//
// It returns [ErrTooLarge] or [ErrInvalidUTF8], and then nobody got the message, or [ErrClosed], and then those may have
// got it whose shard was not closed yet. nil says nothing about how many clients there were.
func (m *Manager) Broadcast(msg Message) error {
	if !m.isMade() {
		return ErrNotMounted
	}
	if err := m.check(msg.Data, msg.Binary); err != nil {
		return err
	}
	shared, err := m.deliver(&msg)
	switch {
	case err != nil:
		return err
	case m.relaying != nil:
		if shared == nil {
			shared = m.newMessage(&msg)
		}
		if err := m.relaying.publish(shared); err != nil {
			return err
		}
	case shared == nil && m.isClosed():
		return ErrClosed
	}
	m.broadcasts.Add(1)
	return nil
}

// deliver publishes msg to the clients of this manager, and returns the message that they share, or nil if there are
// none.
func (m *Manager) deliver(msg *Message) (*message, error) {
	var shared *message // made when the first shard wants it: most projects have no viewer at most times
	for _, s := range m.shards {
		if !s.follows(msg.Project) {
			continue
		}
		if shared == nil {
			shared = m.newMessage(msg)
		}
		if err := s.publish(shared); err != nil {
			return shared, err
		}
	}
	return shared, nil
}

func (m *Manager) newMessage(msg *Message) *message {
	shared := newMessage(msg)
	shared.keep = slices.Contains(m.cfg.keepLevels, msg.Level)
	return shared
}

// BufferMessage puts a text message for one client into its buffer, whatever the client's filter is. It goes out with
// the next drain, or in front of the next broadcast to that client. Where the buffer is full, its oldest message is
// dropped. It waits as Broadcast does. data is copied.
//
// For an ID that names no streaming client it changes nothing and returns [ErrUnknownClient]; it also returns
// [ErrTooLarge], [ErrInvalidUTF8] and [ErrClosed].
func (m *Manager) BufferMessage(id ClientID, data []byte) error {
	if !m.isMade() {
		return ErrNotMounted
	}
	if err := m.check(data, false); err != nil {
		return err
	}
	s := m.shardOf(id)
	msg := newMessage(&Message{Data: data})
	return s.cast(id, len(msg.frame), func(c *client) { s.buffer(c, msg) })
}

// SetFilter replaces the filter of one client, as the client could do itself: within what it was granted, or else with
// [ErrNotGranted]. What waits in the client's buffer and doesn't pass the new filter is taken out and counted as
// Filtered. The client isn't told. It also returns [ErrInvalidFilter], [ErrUnknownClient] and [ErrClosed], and waits as
// Broadcast does. f is copied.
func (m *Manager) SetFilter(id ClientID, f Filter) error {
	if !m.isMade() {
		return ErrNotMounted
	}
	f, err := f.normalize()
	if err != nil {
		return err
	}
	s := m.shardOf(id)
	if c := s.find(id); c != nil {
		if f, err = f.within(c.grant); err != nil {
			return err
		}
	}
	s.regrouping.Add(1) // from now on, and not from when the shard gets to it
	err = s.cast(id, 0, func(c *client) { s.setFilter(c, f); s.regrouping.Add(-1); s.settle(c, nil) })
	if err != nil {
		s.regrouping.Add(-1)
	}
	return err
}

// Disconnect closes one client with a close code and a reason, and gives up what is buffered for it. It returns at once:
// the client is no streaming client any more when the call's turn comes in its shard, and has two seconds to answer.
//
// code is one that may be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999. reason is UTF-8 of at most 123 bytes.
// Otherwise it returns [ErrInvalidClose]; it also returns [ErrUnknownClient] and [ErrClosed].
func (m *Manager) Disconnect(id ClientID, code int, reason string) error {
	if !m.isMade() {
		return ErrNotMounted
	}
	if !isSendableCode(code) || len(reason) > maxControlPayload-2 || !utf8.ValidString(reason) {
		return fmt.Errorf("%w: %d %.123q", ErrInvalidClose, code, reason)
	}
	s := m.shardOf(id)
	reason = strings.Clone(reason) // it may be a view of a request
	return s.cast(id, 0, func(c *client) { s.shut(c, code, reason) })
}

// IsStreamClient says whether id names a client that is connected and isn't being closed. It doesn't block. After Shutdown
// there is none, and Client and Clients find none either.
func (m *Manager) IsStreamClient(id ClientID) bool {
	return m.isMade() && m.shardOf(id).find(id) != nil
}

// Client returns a snapshot of one client, and false if id names none. What the calling goroutine published before is
// in the numbers. It waits for a turn of one shard, never for a client.
func (m *Manager) Client(id ClientID) (snapshot Client, ok bool) {
	if !m.isMade() {
		return Client{}, false
	}
	s := m.shardOf(id)
	c := s.find(id)
	if c == nil {
		return Client{}, false
	}
	s.ask(func() {
		if ok = c.phase == phaseOpen; ok {
			snapshot = c.snapshot()
		}
	})
	return snapshot, ok
}

// Clients yields a snapshot of each client, in no order. No lock is held meanwhile, and the loop may call the manager;
// clients that come or go during it may be missing or be gone. It waits for a turn of each shard, never for a client.
func (m *Manager) Clients() iter.Seq[Client] {
	return func(yield func(Client) bool) {
		if !m.isMade() {
			return
		}
		for _, s := range m.shards {
			var list []Client
			s.ask(func() { list = s.snapshots() })
			for _, c := range list {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// Stats returns the totals over all clients, also after Shutdown. What the calling goroutine published before is in them. It waits for a turn
// of each shard, never for a client.
func (m *Manager) Stats() Stats {
	if !m.isMade() {
		return Stats{}
	}
	t := Stats{Broadcasts: m.broadcasts.Load(), HookPanics: m.hookPanics.Load()}
	if m.relaying != nil {
		t.RelayStats = m.relaying.stats()
	}
	for _, s := range m.shards {
		s.ask(func() { t.add(s.stats()) })
	}
	return t
}

func (m *Manager) check(data []byte, binary bool) error {
	switch {
	case len(data) > m.cfg.maxBufferBytes:
		return fmt.Errorf("%w: %d bytes, and the most is %d", ErrTooLarge, len(data), m.cfg.maxBufferBytes)
	case !binary && !utf8.Valid(data):
		return ErrInvalidUTF8
	}
	return nil
}

// isMade says whether NewManager has made m: not a nil one, as From may return, and not one that was only declared.
func (m *Manager) isMade() bool { return m != nil && len(m.shards) > 0 }

func (m *Manager) shardOf(id ClientID) *shard {
	return m.shards[uint64(id)%uint64(len(m.shards))]
}
