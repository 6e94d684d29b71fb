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

// Message is one event. An empty field matches every client: without a level and an environment, a message reaches all
// clients of the project, whatever their filters, and without a project, the clients of all projects.
//
// The fields are UTF-8, within the bounds of a filter and a subscription: no client could ask for a longer value.
type Message struct {
	Project     string // at most 128 bytes
	Level       string // at most 64 bytes
	Environment string // at most 64 bytes
	Data        []byte // UTF-8 unless Binary
	Binary      bool   // sent as a binary message instead of text

	// Key names the value that the message updates, such as "issue 17". While a message waits for a slow client, a
	// newer one with the same key replaces it, so that the client receives only the newest value. The replaced message
	// is counted as Conflated. "" is no key. At most 256 bytes.
	Key string
}

// Manager streams messages to its clients. All its methods are safe for concurrent use, and none of them waits for a
// client. [From] returns a nil Manager for a request that has passed no middleware. On a nil Manager, methods return
// [ErrNotMounted], find no client, or do nothing.
type Manager struct {
	// Read-only after construction.
	cfg      config
	history  *history
	shards   []*shard
	relaying *relaying // nil without WithRelay

	// Atomic.
	lastID     atomic.Uint64
	prefork    atomic.Bool // the log has been told of Prefork
	netHTTP    atomic.Bool // the log has been told of a request over net/http
	wrapped    atomic.Bool // the log has been told that connections hide their sockets
	broadcasts atomic.Uint64
	hookPanics atomic.Uint64
	shadowed   atomic.Bool // the log has been told that another manager serves on the path
	strayApp   atomic.Bool // the log has been told that the app of WithApp isn't the one that listens
	listened   atomic.Bool // the app of WithApp has listened
	closed     atomic.Bool // Shutdown has been called, and the app has not listened since; changed under mu

	askedRoutes sync.Map // the routes that checkRoute has seen, by their first handler
	shadows     sync.Map // the result of shadowsIn, by the app

	writing chan struct{} // see shard.hasLittle

	// Guarded by mu.
	mu      sync.Mutex
	current *run           // nil while nothing runs
	clients int            // places that are taken
	perIP   map[string]int // by networkOf
	asking  map[string]int // running calls of WithAuthorize, by networkOf, if WithMaxClientsPerIP is set
}

// NewManager returns a manager, for code that publishes from outside a handler; mount its [Manager.Handler]. Its error
// joins one error for each invalid option. Each of them wraps [ErrInvalidOption] and names the option, its value and
// its bounds. Nothing runs until the app listens (see [WithApp]) or the first client connects.
func NewManager(opts ...Option) (*Manager, error) {
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	cfg.shards = runtime.GOMAXPROCS(0)
	cfg.logger = slog.New(survivor{cfg.logger.Handler()})
	m := &Manager{cfg: cfg, perIP: make(map[string]int), asking: make(map[string]int)}
	m.history = newHistory(&m.cfg)
	m.writing = make(chan struct{}, max(1, cfg.shards/2))
	for range cfg.shards {
		m.shards = append(m.shards, newShard(&m.cfg, m.history, m.writing))
	}
	if cfg.relay != nil {
		m.relaying = newRelaying(m)
	}
	if cfg.app != nil {
		m.attach(cfg.app)
	}
	return m, nil
}

// Broadcast sends msg to every client whose subscription it matches. A client that keeps up receives it immediately,
// unless [WithCoalescing] collects it with others. For a slow client it is buffered, and if the buffer is full, the
// oldest messages are dropped.
//
// Broadcast never waits for a client. If messages arrive faster than the machine can write them, it waits for a shard
// to catch up. Data and the strings are copied before it returns. Each client receives the messages that one goroutine
// publishes in that order. All clients receive the messages of one project in one order, whoever publishes them, and
// those to all projects have their place in it.
//
// With [WithRelay], the message is also queued for the other nodes, and Broadcast never waits for them. The message is
// also kept for [Manager.History], whether clients follow its project or not; see [WithHistory].
//
// On [ErrTooLarge], [ErrInvalidUTF8] and [ErrInvalidMessage], no client received the message. On [ErrClosed], clients
// whose shard was still open may have, and the history may hold it. A nil error says nothing about how many clients
// there were.
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
	if m.closed.Load() {
		return ErrClosed
	}
	if err := m.publish(&msg); err != nil {
		return err
	}
	m.broadcasts.Add(1)
	return nil
}

// publish publishes a message of this node to its clients and to the other nodes.
func (m *Manager) publish(msg *Message) error {
	var shared *message
	if m.history.isOn() || m.relaying != nil {
		shared = m.newMessage(msg) // before the lock, so that publishers encode at the same time
	}
	if f := m.history.lock(msg.Project); f != nil {
		defer m.history.unlock(f)
		if shared == nil && m.hasViewers(msg.Project) { // most projects have no viewer most of the time
			shared = m.newMessage(msg)
		}
		if err := m.deliver(f, shared); err != nil {
			return err
		}
	}
	if m.relaying != nil {
		return m.relaying.publish(shared)
	}
	return nil
}

// publishRelayed publishes a message of another node to the clients of this one. It reports whether any of them may
// want the message. With a history, the message is delivered even if none does: a client that changes its filter may
// then look back at it, and every number that the clients' shards have not seen yet is one that they will see.
func (m *Manager) publishRelayed(msg *Message) (wanted bool, err error) {
	var shared *message
	if m.history.isOn() {
		shared = m.newMessage(msg)
	}
	f := m.history.lock(msg.Project)
	if f == nil {
		return false, nil
	}
	defer m.history.unlock(f)
	// Under the lock: a client that registers, or changes its filter, after this must receive the message.
	wanted = m.wants(msg.Project, msg.Level, msg.Environment)
	if shared == nil && wanted {
		shared = m.newMessage(msg)
	}
	return wanted, m.deliver(f, shared)
}

// deliver puts a message in its place in the history, and casts it to the shards whose clients follow its project. The
// order of f is locked. shared is nil if the history is off and nobody wants the message, which then only takes a
// number.
func (m *Manager) deliver(f *feed, shared *message) error {
	if m.history.append(f, shared) == 0 || shared == nil {
		return nil
	}
	for _, s := range m.shards {
		if err := s.publish(shared); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) newMessage(msg *Message) *message {
	shared := newMessage(msg)
	shared.keep = slices.Contains(m.cfg.keepLevels, msg.Level)
	return shared
}

// BufferMessage puts a text message for one client into its buffer, whatever the client's filter is. The message is
// sent with the next drain, or before the next broadcast to that client. For a client that looks back, it keeps its place
// among the broadcasts. If the buffer is full, its oldest message is dropped. BufferMessage waits for a shard as
// Broadcast does. data is copied.
//
// The message is not kept in the history: what is on its way when the client's connection breaks is lost, and the client
// is not told when it returns.
//
// If id names no connected client, it changes nothing and returns [ErrUnknownClient]. It also returns [ErrTooLarge],
// [ErrInvalidUTF8] and [ErrClosed].
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

// SetFilter replaces the filter of one client. As when the client does so itself, the filter must be within the grant;
// otherwise SetFilter returns [ErrNotGranted]. Buffered messages that do not match the new filter are removed and
// counted as Filtered. The client isn't told. SetFilter also returns [ErrInvalidFilter], [ErrUnknownClient] and
// [ErrClosed], and waits for a shard as Broadcast does. f is copied.
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
		if f, err = f.within(c.grant.Filter); err != nil {
			return err
		}
	}
	s.regrouping.Add(1) // from now on, not only from when the shard handles the cast
	err = s.cast(id, 0, func(c *client) { c.setFilter(f); s.regrouping.Add(-1); c.setPlace() })
	if err != nil {
		s.regrouping.Add(-1)
	}
	return err
}

// Disconnect closes one client with a close code and a reason, and discards its buffered messages. It returns
// immediately. The client stops streaming once its shard handles the call, and then has two seconds to complete the
// close handshake.
//
// code must be one that may be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999. reason must be UTF-8 of at most 123
// bytes. Otherwise Disconnect returns [ErrInvalidClose]. It also returns [ErrUnknownClient] and [ErrClosed].
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

// IsStreamClient reports whether id names a client that is connected and isn't being closed. It doesn't block. After
// Shutdown there is no such client, and Client and Clients find none either.
func (m *Manager) IsStreamClient(id ClientID) bool {
	return m.isMade() && m.shardOf(id).find(id) != nil
}

// Client returns a snapshot of one client, and false if id names none. The numbers include everything that the calling
// goroutine published before. Client waits for a turn of one shard, never for a client.
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

// Clients yields a snapshot of each client, in no particular order. No lock is held while it yields, and the loop may
// call the manager. Clients that connect during the loop may be missing, and clients that leave during it may still be
// yielded. Clients waits for a turn of each shard, never for a client.
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

// Stats returns the totals over all clients, also after Shutdown. They include everything that the calling goroutine
// published before. Stats waits for a turn of each shard, never for a client.
func (m *Manager) Stats() Stats {
	if !m.isMade() {
		return Stats{}
	}
	t := Stats{Broadcasts: m.broadcasts.Load(), HookPanics: m.hookPanics.Load()}
	t.HistoryMessages, t.HistoryBytes = m.history.stats()
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
		return fmt.Errorf("%w: %d bytes, and the limit is %d", ErrTooLarge, len(data), m.cfg.maxBufferBytes)
	case !binary && !utf8.Valid(data):
		return ErrInvalidUTF8
	}
	return nil
}

// isMade reports whether NewManager has made m. A nil manager, as From may return, and a zero one are not made.
func (m *Manager) isMade() bool { return m != nil && len(m.shards) > 0 }

func (m *Manager) shardOf(id ClientID) *shard {
	return m.shards[uint64(id)%uint64(len(m.shards))]
}

// The bounds of the fields of a message and of a subscription, in bytes. Unbounded fields would be the one part of a
// message that nothing counts. And a level that is too long for any filter would reach none of the clients that filter.
const (
	maxProjectBytes     = 128
	maxFilterValueBytes = 64 // a level or an environment
	maxKeyBytes         = 256
	maxNodeBytes        = 64 // the name of a node of a relay
)

// checkField returns an error that says what is wrong with the value of a field, or nil.
func checkField(field, value string, most int) error {
	switch {
	case len(value) > most:
		return fmt.Errorf("%s has %d bytes, and the limit is %d", field, len(value), most)
	case !utf8.ValidString(value):
		return fmt.Errorf("%s is not valid UTF-8", field)
	}
	return nil
}

// checkFields checks every field of the message except Data.
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

// isNoLevel reports whether no message can have a level of that name.
func isNoLevel(name string) bool {
	return name == "" || checkField("level", name, maxFilterValueBytes) != nil
}

// A message is one published message, shared by all clients: encoded once, never changed.
type message struct {
	project, level, environment, key string // views of the bytes after the frame

	frame  []byte // the bytes sent on the wire
	number uint64 // its number in its feed, set before the message is shared
	stamp  uint64 // its stamp, likewise
	at     int64  // when it was published, in Unix nanoseconds
	keep   bool   // its level is one that WithKeepLevels names
	notice bool   // a message of the protocol for one client, which is not counted
	own    bool   // a message of BufferMessage, which is none of a feed; number and stamp are then its place in a replay
	extra  int32  // how many messages its frame has besides

	forms atomic.Pointer[forms] // in other encodings; nil until a client needs one
}

// newMessage copies everything that it needs from msg, in two allocations: the message, and one stretch of bytes for
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
		// No code writes to buf after this function, so a string may share it.
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

// size is how many bytes the message counts with wherever bytes are bounded: those of its frame and those of its
// strings, since the message keeps both in memory.
func (m *message) size() int {
	return len(m.frame) + len(m.project) + len(m.level) + len(m.environment) + len(m.key)
}

// payload returns the data that newMessage received. The message is one in frames.
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
