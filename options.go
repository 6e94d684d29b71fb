package mesherstream

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/origin"
)

// Option configures a [Manager]. A later option overrides an earlier one of the same name. A nil Option is skipped.
type Option func(*config)

// config is what the options set. It doesn't change after construction.
type config struct {
	shards          int // not an option: as many as GOMAXPROCS
	app             *fiber.App
	appSet          bool
	path            string
	maxBuffer       int
	maxBufferBytes  int
	overflow        Overflow
	keepLevels      []string
	window          int
	windowSet       bool
	freshness       time.Duration
	coalescing      time.Duration
	drainInterval   time.Duration
	unsentLimit     int
	authorize       func(*fiber.Ctx, *Subscription) error
	authorizeSet    bool
	origins         []string
	maxClients      int
	maxClientsPerIP int
	readLimit       int
	pingInterval    time.Duration
	idleTimeout     time.Duration
	shutdownTimeout time.Duration
	history         int
	historyAge      time.Duration
	historyBytes    int
	relay           Relay
	relaySet        bool
	hooks           Hooks
	logger          *slog.Logger
}

func defaultConfig() config {
	return config{
		path:            "/stream/projects",
		maxBuffer:       100,
		maxBufferBytes:  1 << 20,
		window:          defaultWindow,
		freshness:       time.Second,
		drainInterval:   250 * time.Millisecond,
		unsentLimit:     64 << 10,
		readLimit:       4 << 10,
		pingInterval:    25 * time.Second,
		idleTimeout:     60 * time.Second,
		shutdownTimeout: 5 * time.Second,
		history:         1000,
		historyAge:      2 * time.Minute,
		historyBytes:    16 << 20,
		logger:          slog.Default(),
	}
}

// WithApp ties the manager to app. Listening starts the shards and the ticker, and logs one line with the drain
// interval. Shutting the app down flushes the buffers and closes every client with code 1001. Listening again starts
// the manager again. By default there is no app: the first client starts the manager and [Manager.Shutdown] ends it. A
// nil app is invalid.
//
// Pass the app that listens, not one that is mounted in it: Fiber runs only the hooks of the app that listens.
func WithApp(app *fiber.App) Option {
	return func(c *config) { c.app, c.appSet = app, true }
}

// WithPath sets the path before the project, overriding the default "/stream/projects". It is relative to the mount
// point of the handler, and the project is the one path segment after it. It is made of segments of letters, digits and
// -._~, each after one slash: no parameters, no wildcards, no trailing slash.
func WithPath(prefix string) Option {
	return func(c *config) { c.path = prefix }
}

// WithMaxBuffer sets how many messages are buffered for one slow client at most, overriding the default of 100. When
// the buffer is full, each new message drops the oldest buffered one. The same bound applies to the broadcasts that are
// queued for a shard. From 1 to 1,000,000 messages.
func WithMaxBuffer(n int) Option {
	return func(c *config) { c.maxBuffer = n }
}

// WithMaxBufferBytes sets how many bytes are buffered for one slow client at most, overriding the default of 1 MiB;
// whichever of this bound and [WithMaxBuffer] is reached first drops the oldest message. A message counts with its
// data, its frame's header and its fields. A message with more data than the bound is refused with [ErrTooLarge]. From
// 1 byte to 1 GiB.
func WithMaxBufferBytes(n int) Option {
	return func(c *config) { c.maxBufferBytes = n }
}

// Overflow says what happens when a message arrives for a client whose buffer is full.
type Overflow uint8

const (
	DropOldest Overflow = iota // the oldest buffered messages are dropped
	DropNewest                 // the arriving message is dropped
	Disconnect                 // the client is closed with code 1013, and its buffered messages are discarded
)

func (o Overflow) String() string {
	switch o {
	case DropOldest:
		return "DropOldest"
	case DropNewest:
		return "DropNewest"
	case Disconnect:
		return "Disconnect"
	default:
		return fmt.Sprintf("Overflow(%d)", uint8(o))
	}
}

// WithOverflow sets what happens when a client's buffer is full, overriding the default of [DropOldest]. A value other
// than the three of [Overflow] is invalid.
func WithOverflow(o Overflow) Option {
	return func(c *config) { c.overflow = o }
}

// WithKeepLevels sets the levels whose messages are dropped last. While a message of any other level is buffered, the
// oldest of those is dropped first, and a message of another level never causes a kept one to be dropped. By default no
// level is kept. At most 16 levels, none of them empty, and not together with [Disconnect], which drops nothing. A
// level is UTF-8 of at most 64 bytes.
//
// Messages dropped between kept ones leave a gap. For a client that is told of gaps (see [Protocol]), each gap takes
// about 100 bytes, which BufferedBytes does not count. There is at most one gap for each buffered message: with the
// default [WithMaxBuffer], 16 KiB for a client that makes no progress.
func WithKeepLevels(levels ...string) Option {
	return func(c *config) { c.keepLevels = slices.Clone(levels) }
}

// WithFreshness sets how much longer than its shortest round trip a client may take to acknowledge what it was sent,
// overriding the default of 1 s. While an answer takes longer, no more messages are written to the client, and they go
// to its buffer. After a late answer, no more is on its way than the client handles in such a time, until it answers in
// time again. So whatever kernels and proxies hold, a slow client reads messages that are little older than this, beside
// the time that they have waited in its buffer. A client that turns slow is noticed within about a second more, and
// first reads what it was sent by then. From 50 ms to 1 min, and in effect at most a quarter of [WithIdleTimeout].
//
// A client that has agreed on [Protocol] acknowledges what its page has handled. Any other is sent a ping about once a
// second while it is sent messages, and its pong acknowledges what the nearest WebSocket endpoint has read: the client's
// library, the network process of a browser, or a proxy that ends WebSockets itself. A client that sends no pong within
// five seconds, or is sent no pings (see [WithPingInterval]), has no such bound.
func WithFreshness(d time.Duration) Option {
	return func(c *config) { c.freshness = d }
}

// WithWindow sets how many messages a client may leave unacknowledged, however fast it is, overriding the default of
// 32,768. Beside that, at most 8 MiB are on their way to it. [WithFreshness] is the bound that makes a slow client's
// messages fresh; this one bounds what a fast client has to read after a sudden pause. When it is reached, no more
// messages are written, and they go to the client's buffer. A client that has agreed on [Protocol] but doesn't answer
// marks may leave 1,024 unacknowledged, unless this option is set. 0 turns it off, and the bounds of WithFreshness with
// it; otherwise from 1 to 1,000,000 messages.
//
// The window also limits the throughput over a long distance, to less than one window per round trip.
func WithWindow(messages int) Option {
	return func(c *config) { c.window, c.windowSet = messages, true }
}

// WithCoalescing sets for how long broadcasts to the same clients are collected and then written together, overriding the
// default of 0, which writes each one at once. The clients are those of one project with equal filters. Messages
// that are published for them within d after the last write to them leave in one write, when d has passed. A message after
// a longer silence is written at once, and so are replies, buffered messages when a client has room again, and those of
// [Manager.BufferMessage] with a drain. From 1 ms to 1 s: with more, a stream would no longer be live, and hardly any
// stream would have fewer writes.
//
// A system call for each client is most of the cost of a broadcast. At 100 messages a second, 20 ms halve the number of
// calls, and 100 ms bring it to a tenth. The price is latency: a message waits for up to d, and for half of that on
// average. Nothing is lost by it, the order stays the same, and a client receives each message as it was published. The
// write is early if a client's buffer could not hold more (see [WithMaxBuffer]), and if it has more than 64 KiB. If the
// filter of a client changes, if BufferMessage sends to it, or if it is closed, it is first sent the messages that are
// collected for it, unless it is closed as too slow (see [WithOverflow]). Collected messages count as Buffered in [Client]
// and [Stats], don't make a client slow, and are not sent earlier by [Manager.DrainBuffers].
func WithCoalescing(d time.Duration) Option {
	return func(c *config) { c.coalescing = d }
}

// WithDrainInterval sets how often the ticker drains the buffers, overriding the default of 250 ms. A slow client that
// has room again is drained immediately, without the ticker. Messages that [Manager.BufferMessage] has queued wait for
// the ticker. From 1 ms to 1 h.
func WithDrainInterval(d time.Duration) Option {
	return func(c *config) { c.drainInterval = d }
}

// WithUnsentLimit sets how many bytes the kernel may hold unsent for one client, overriding the default of 64 KiB. With
// a lower limit, a slow client is noticed earlier and then receives fresher messages. It is the socket option
// TCP_NOTSENT_LOWAT, which is set on Linux, also under TLS. On other systems it has no effect. 0 leaves it to the
// kernel; otherwise from 1 KiB to 1 GiB.
//
// A listener may wrap its connections, as one for the PROXY protocol does. The option reaches through every wrapper
// that offers the connection below, by NetConn, Raw or SyscallConn. If a wrapper does not offer it, the log says so
// once. A client whose connection has any wrapper uses a goroutine of its own, since no wrapper is known to pass bytes
// on unchanged, to hold none back, and to count nothing.
func WithUnsentLimit(bytes int) Option {
	return func(c *config) { c.unsentLimit = bytes }
}

// WithAuthorize sets a function that is called for each client before its connection is upgraded, on the goroutine of
// the request. By default every client is admitted. A nil function is invalid.
//
// The function receives the project of the path and an empty filter. When it returns, sub holds what the client is
// granted. Neither the query nor a message over the wire ever widens the grant; both can only narrow it. The function
// may set another project. Strings that it takes from c need not be cloned: they are copied before Fiber reuses them.
// It must be safe for concurrent use. It may take its time: no other client waits for it.
//
// An error is handed to Fiber's error handler unchanged, and the client is not upgraded. If the function sets another
// status and returns nil, as c.SendStatus and c.Redirect do, that counts as a [fiber.Error] of this status. A panic or an
// invalid filter (see [Filter]) is logged and answered with 500. The function is called once more if mesherstream.js asks,
// with a plain GET, why its handshake was refused (see [Manager.Handler]).
func WithAuthorize(fn func(c *fiber.Ctx, sub *Subscription) error) Option {
	return func(c *config) { c.authorize, c.authorizeSet = fn, true }
}

// WithOrigins adds origins whose pages may connect, such as "https://app.example.com" or "http://localhost:5173", and
// "*" for every origin. By default, and always, a page of the same origin may connect, and so may a client that sends
// no Origin header, since it is not a browser. Others receive 403.
//
// An origin is a scheme and a host, optionally with a port, and nothing else: no trailing slash, no user, no wildcard
// as part of it. Origins are compared by their meaning: upper case, the default port of the scheme, wss for https, a
// host in Unicode and the long form of an IPv6 address make no difference. Any other value is invalid.
//
// Applications have origins of their own schemes, such as "capacitor://localhost" or "chrome-extension://" with an ID;
// pages that Electron loads from files have "file://". "null" is the origin of every sandboxed frame and every data:
// URL, including those of strangers. Allow it only if [WithAuthorize] requires more than cookies.
func WithOrigins(origins ...string) Option {
	return func(c *config) { c.origins = origins }
}

// WithMaxClients sets how many clients may be connected at a time, overriding the default of 0, which is no cap. Beyond
// the cap, a request is answered with 503. Not negative.
func WithMaxClients(n int) Option {
	return func(c *config) { c.maxClients = n }
}

// WithMaxClientsPerIP sets how many clients of one address may be connected at a time, overriding the default of 0,
// which is no cap. An IPv6 network of 64 bits counts as one address. Beyond the cap, a request is answered with 429.
// Not negative.
//
// The address is that of the connection, or the one in Fiber's ProxyHeader if Fiber trusts the sender of that header;
// ports, brackets and quotes are ignored. In a list, it is the last address that isn't one of Fiber's TrustedProxies,
// and without EnableTrustedProxyCheck the first. If the header holds no address, it is the connection's.
func WithMaxClientsPerIP(n int) Option {
	return func(c *config) { c.maxClientsPerIP = n }
}

// WithReadLimit sets how many bytes one message of a client may have, overriding the default of 4 KiB. A longer message
// closes that client with code 1009, before it is read. From 128 bytes to 16 MiB.
func WithReadLimit(bytes int) Option {
	return func(c *config) { c.readLimit = bytes }
}

// WithPingInterval sets how often each client is pinged, overriding the default of 25 s; the pings of different clients
// are spread over the interval. The first ping of each client is sent within the interval too, after at least three
// quarters of it. 0 turns pings off. Browsers then give no sign of life by themselves: turn the idle timeout off too,
// or have pages send something. Otherwise from 10 ms to 24 h.
//
// A client that has agreed on [Protocol] and acknowledges marks is sent a mark instead, a quarter of the interval earlier,
// and only if there was none in the meantime. Its page then knows that it misses nothing, and gives up a connection on
// which nothing arrives in two intervals; with 0 it waits forever. While the client has yet to acknowledge a mark, it is
// pinged.
func WithPingInterval(d time.Duration) Option {
	return func(c *config) { c.pingInterval = d }
}

// WithIdleTimeout sets how long a client may show no sign of life, overriding the default of 60 s. Everything that a
// client sends is one, pongs included, as long as it has taken what it was sent. While it has yet to take something, only
// taking some of it is one: the client acknowledges more, or its program reads, as far as the system can tell. A mark in
// silence (see [WithPingInterval]) also has to be taken, so a page that hangs in a living browser is removed as well. That
// a client gives no sign of life is noticed within a quarter of the ping interval; it is then removed, with code 1013 if a
// frame can still be written to it. 0 turns the timeout off; otherwise it must be longer than the ping interval, and from
// 10 ms to 24 h.
func WithIdleTimeout(d time.Duration) Option {
	return func(c *config) { c.idleTimeout = d }
}

// WithShutdownTimeout sets how long a shutdown without a deadline of its own may take, overriding the default of 5 s:
// flushing the buffers and closing the clients. From 1 ms to 1 h.
func WithShutdownTimeout(d time.Duration) Option {
	return func(c *config) { c.shutdownTimeout = d }
}

// WithHistory sets how many of the newest messages of each project are kept for clients that look back, with last or
// since in the query of their stream, and for [Manager.History], overriding the default of 1,000. Messages to all
// projects are kept likewise, beside those of the projects. Messages of other nodes are kept like those of this node, and
// messages of [Manager.BufferMessage] are not kept. Messages that are older than [WithHistoryAge] leave, and
// [WithHistoryBytes] bounds the memory.
//
// What is published while a client looks back waits for it in the history, and not in its buffer, so that
// [WithKeepLevels] doesn't apply to it. If it leaves the history before the client has received it, it is lost; with
// [Disconnect], the client is closed.
//
// 0 turns the history off, and then nobody can look back; otherwise from 1 to 1,000,000 messages.
func WithHistory(messages int) Option {
	return func(c *config) { c.history = messages }
}

// WithHistoryAge sets how long a message is kept in the history at most, overriding the default of 2 min. A project
// whose messages have all left takes no memory, unless clients follow it or have left it not long ago. From 1 s to 24 h.
func WithHistoryAge(d time.Duration) Option {
	return func(c *config) { c.historyAge = d }
}

// WithHistoryBytes sets how many bytes the histories of all projects take together at most, overriding the default of
// 16 MiB. Beyond that, the oldest messages leave, whatever their projects are; the bound is passed for a moment at most.
// A message counts with its data, its frame's header, its fields and 192 bytes, with 64 more if it has a key, and a
// project with messages counts with 256 bytes. A message that is larger than the bound is not kept, nor are the messages
// of its project before it. From 1 KiB to 1 GiB.
func WithHistoryBytes(n int) Option {
	return func(c *config) { c.historyBytes = n }
}

// WithHooks sets functions that are called when something happens to a client; see [Hooks]. By default there are none.
// A later WithHooks replaces an earlier one.
func WithHooks(hooks Hooks) Option {
	return func(c *config) { c.hooks = hooks }
}

// WithRelay sets the relay that carries broadcasts between this manager and those of other nodes; see [Relay]. By
// default there is none, and a broadcast reaches the clients of its own process. A nil relay is invalid. Several
// managers may share one relay.
//
// Local clients receive a broadcast directly, all others through the relay: at most once, and in order for each
// publishing node and project. Broadcast never waits for the relay. Up to 8,192 messages and 16 MiB wait in a queue;
// beyond that, the oldest are dropped and counted, those of a level that [WithKeepLevels] names last. A node receives
// only the projects that its own clients follow, from the first client until ten seconds after the last.
//
// The manager registers a client once the relay has subscribed to its project, or after two seconds. The reply to the
// client's subscribe is sent after that, so the client receives every message that any node publishes later. This does
// not hold while the relay is unavailable or slower than that, nor, if the relay is a cluster, until its members have
// told each other.
func WithRelay(relay Relay) Option {
	return func(c *config) { c.relay, c.relaySet = relay, true }
}

// WithLogger sets the logger, overriding the default of slog.Default() at the time of construction. The manager logs
// few lines, and never while a client waits. A log handler that blocks delays no messages, and one that panics does no
// harm. A nil logger is invalid.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) { c.logger = logger }
}

func newConfig(opts []Option) (config, error) {
	c := defaultConfig()
	for _, opt := range opts {
		if opt != nil {
			opt(&c)
		}
	}
	if err := c.validate(); err != nil {
		return c, err
	}
	c.origins = slices.Clone(c.origins) // the slice was the caller's until here
	for i, s := range c.origins {
		c.origins[i], _ = origin.Allowed(s)
	}
	return c, nil
}

// validate joins one error for each invalid option. Nothing is silently corrected.
func (c *config) validate() error {
	var errs []error
	invalid := func(option string, value any, bounds string) {
		errs = append(errs, fmt.Errorf("%w: %s(%v): must be %s", ErrInvalidOption, option, value, bounds))
	}

	for _, o := range []struct {
		name        string
		value       int
		least, most int
		orZero      bool
	}{
		{"WithMaxBuffer", c.maxBuffer, 1, 1_000_000, false},
		{"WithMaxBufferBytes", c.maxBufferBytes, 1, 1 << 30, false},
		{"WithWindow", c.window, 1, 1_000_000, true},
		{"WithUnsentLimit", c.unsentLimit, 1 << 10, 1 << 30, true},
		{"WithMaxClients", c.maxClients, 1, 1<<31 - 1, true},
		{"WithMaxClientsPerIP", c.maxClientsPerIP, 1, 1<<31 - 1, true},
		{"WithReadLimit", c.readLimit, 128, 16 << 20, false},
		{"WithHistory", c.history, 1, 1_000_000, true},
		{"WithHistoryBytes", c.historyBytes, 1 << 10, 1 << 30, false},
	} {
		if (o.value < o.least || o.value > o.most) && !(o.orZero && o.value == 0) {
			invalid(o.name, o.value, bounds(o.least, o.most, o.orZero))
		}
	}
	for _, o := range []struct {
		name        string
		value       time.Duration
		least, most time.Duration
		orZero      bool
	}{
		{"WithDrainInterval", c.drainInterval, time.Millisecond, time.Hour, false},
		{"WithFreshness", c.freshness, 50 * time.Millisecond, time.Minute, false},
		{"WithCoalescing", c.coalescing, time.Millisecond, time.Second, true},
		{"WithPingInterval", c.pingInterval, 10 * time.Millisecond, 24 * time.Hour, true},
		{"WithIdleTimeout", c.idleTimeout, 10 * time.Millisecond, 24 * time.Hour, true},
		{"WithShutdownTimeout", c.shutdownTimeout, time.Millisecond, time.Hour, false},
		{"WithHistoryAge", c.historyAge, time.Second, 24 * time.Hour, false},
	} {
		if (o.value < o.least || o.value > o.most) && !(o.orZero && o.value == 0) {
			invalid(o.name, o.value, bounds(o.least, o.most, o.orZero))
		}
	}
	if c.idleTimeout > 0 && c.idleTimeout <= c.pingInterval {
		invalid("WithIdleTimeout", c.idleTimeout, fmt.Sprintf("longer than the ping interval of %v, or 0", c.pingInterval))
	}

	if !pathPattern.MatchString(c.path) {
		invalid("WithPath", fmt.Sprintf("%q", c.path), "a path of segments of letters, digits and -._~, each after one slash")
	}
	for _, s := range c.origins {
		if _, err := origin.Allowed(s); err != nil {
			invalid("WithOrigins", fmt.Sprintf("%q", s), err.Error())
		}
	}
	if c.overflow > Disconnect {
		invalid("WithOverflow", c.overflow, "DropOldest, DropNewest or Disconnect")
	}
	switch {
	case len(c.keepLevels) > maxFilterValues || slices.ContainsFunc(c.keepLevels, isNoLevel):
		invalid("WithKeepLevels", fmt.Sprintf("%q", c.keepLevels),
			fmt.Sprintf("at most %d levels, none of them empty, each UTF-8 of at most %d bytes", maxFilterValues, maxFilterValueBytes))
	case len(c.keepLevels) > 0 && c.overflow == Disconnect:
		invalid("WithKeepLevels", fmt.Sprintf("%q", c.keepLevels), "without WithOverflow(Disconnect)")
	}
	if c.appSet && c.app == nil {
		invalid("WithApp", nil, "an app")
	}
	if c.authorizeSet && c.authorize == nil {
		invalid("WithAuthorize", nil, "a function")
	}
	if c.relaySet && c.relay == nil {
		invalid("WithRelay", nil, "a relay")
	}
	if c.logger == nil {
		invalid("WithLogger", nil, "a logger")
	}
	return errors.Join(errs...)
}

func bounds[T int | time.Duration](least, most T, orZero bool) string {
	if orZero {
		return fmt.Sprintf("0, or from %v to %v", least, most)
	}
	return fmt.Sprintf("from %v to %v", least, most)
}

var pathPattern = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)
