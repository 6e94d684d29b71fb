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
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// Message is one event. A field that is empty is one that every client accepts: without a level and an environment it
// reaches all clients of the project, whatever their filters, and without a project those of all projects.
//
// The fields are UTF-8, within the bounds that a filter and a subscription have: nobody could ask for more.
type Message struct {
	Project     string // at most 128 bytes
	Level       string // at most 64 bytes
	Environment string // at most 64 bytes
	Data        []byte // UTF-8 unless Binary
	Binary      bool   // sent as a binary message, and otherwise as text

	// Key says what the message is the newest value of, such as "issue 17". While a message waits for a slow client, a
	// newer one with the same key takes its place, so that the client gets the newest value only; that is counted as
	// Conflated. "" is no key. At most 256 bytes.
	Key string
}

// Manager streams messages to its clients. All its methods are safe for concurrent use, and none of them waits for a
// client. On a nil Manager, as [From] returns one for a request that has passed no middleware, they return [ErrNotMounted],
// find no client, or do nothing.
type Manager struct {
	// Read-only after construction.
	cfg      config
	shards   []*shard
	relaying *relaying // nil without WithRelay

	// Atomic.
	lastID     atomic.Uint64
	prefork    atomic.Bool // has been asked about
	netHTTP    atomic.Bool // has been complained of
	wrapped    atomic.Bool // that connections hide their sockets has been told
	broadcasts atomic.Uint64
	hookPanics atomic.Uint64
	shadowed   atomic.Bool // the log has been told that another manager serves on the path
	strayApp   atomic.Bool // the log has been told that the app of WithApp isn't the one that listens
	listened   atomic.Bool // the app of WithApp has listened

	askedRoutes sync.Map // the routes that checkRoute has seen, by their first handler
	shadows     sync.Map // what shadowsIn has found, by the app

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
// It returns [ErrTooLarge], [ErrInvalidUTF8] or [ErrInvalidMessage], and then nobody got the message, or [ErrClosed], and
// then those may have got it whose shard was not closed yet. nil says nothing about how many clients there were.
func (m *Manager) Broadcast(msg Message) error {
	if !m.isMade() {
		return ErrNotMounted
	}
	if err := msg.checkFields(); err != nil {
		return err
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
		if !s.hasViewers(msg.Project) {
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
	return s.cast(id, msg.size(), func(c *client) { c.buffer(msg) })
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
	err = s.cast(id, 0, func(c *client) { c.setFilter(f); s.regrouping.Add(-1); c.settle(nil) })
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
	if !wsframe.IsSendableCode(code) || len(reason) > wsframe.MaxControlPayload-2 || !utf8.ValidString(reason) {
		return fmt.Errorf("%w: %d %.123q", ErrInvalidClose, code, reason)
	}
	s := m.shardOf(id)
	reason = strings.Clone(reason) // it may be a view of a request
	return s.cast(id, 0, func(c *client) { c.shut(code, reason) })
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

// The bounds of the fields of a message and of a subscription, in bytes. Without bounds, they would be the part of a
// message that nothing counts; and a level that no filter can name would reach nobody who filters.
const (
	maxProjectBytes     = 128
	maxFilterValueBytes = 64 // a level or an environment
	maxKeyBytes         = 256
	maxNodeBytes        = 64 // the name of a node of a relay
)

// checkField returns what is wrong with the value of a field, or nil.
func checkField(field, value string, most int) error {
	switch {
	case len(value) > most:
		return fmt.Errorf("%s has %d bytes, and the most is %d", field, len(value), most)
	case !utf8.ValidString(value):
		return fmt.Errorf("%s is not valid UTF-8", field)
	}
	return nil
}

// checkFields checks everything in the message but its data.
func (msg *Message) checkFields() error {
	for _, f := range [...]struct {
		name, value string
		most        int
	}{
		{"Project", msg.Project, maxProjectBytes},
		{"Level", msg.Level, maxFilterValueBytes},
		{"Environment", msg.Environment, maxFilterValueBytes},
		{"Key", msg.Key, maxKeyBytes},
	} {
		if err := checkField(f.name, f.value, f.most); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalidMessage, err)
		}
	}
	return nil
}

// isNoLevel says whether no message has a level of that name.
func isNoLevel(name string) bool {
	return name == "" || checkField("level", name, maxFilterValueBytes) != nil
}

// A message is one published message as all clients share it: encoded once, never changed.
type message struct {
	project, level, environment, key string // views of the bytes behind the frame

	frame  []byte // what goes on the wire
	at     int64  // when it was published, in Unix nanoseconds
	keep   bool   // its level is one that WithKeepLevels names
	notice bool   // it is of the protocol and for one client, and no message to count
}

// newMessage copies everything that it needs out of msg, in two allocations: the message, and one stretch of bytes for
// its frame and its strings.
func newMessage(msg *Message) *message {
	op := byte(wsframe.OpText)
	if msg.Binary {
		op = wsframe.OpBinary
	}
	frameLen := wsframe.HeaderLen(len(msg.Data)) + len(msg.Data)
	buf := make([]byte, 0, frameLen+len(msg.Project)+len(msg.Level)+len(msg.Environment)+len(msg.Key))
	buf = wsframe.Append(buf, op, msg.Data)
	take := func(s string) string {
		start := len(buf)
		buf = append(buf, s...)
		// Nobody writes to buf after this function, so a string may share it.
		return unsafe.String(unsafe.SliceData(buf[start:]), len(s))
	}
	return &message{
		project:     take(msg.Project),
		level:       take(msg.Level),
		environment: take(msg.Environment),
		key:         take(msg.Key),
		at:          time.Now().UnixNano(),
		frame:       buf[:frameLen:frameLen],
	}
}

// size is how many bytes the message counts with wherever bytes are bounded: those of its frame, and those of its strings,
// which it keeps in memory as long.
func (m *message) size() int {
	return len(m.frame) + len(m.project) + len(m.level) + len(m.environment) + len(m.key)
}

// payload returns the data that newMessage was given.
func (m *message) payload() []byte {
	switch m.frame[1] {
	case 127:
		return m.frame[10:]
	case 126:
		return m.frame[4:]
	default:
		return m.frame[2:]
	}
}

func (m *message) isBinary() bool { return m.frame[0] == wsframe.FinBit|wsframe.OpBinary }
