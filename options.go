package mesherstream

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"
)

// Option configures a [Manager]. A later option wins over an earlier one of the same name, and a nil Option is skipped.
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
		window:          1024,
		drainInterval:   250 * time.Millisecond,
		unsentLimit:     64 << 10,
		readLimit:       4 << 10,
		pingInterval:    25 * time.Second,
		idleTimeout:     60 * time.Second,
		shutdownTimeout: 5 * time.Second,
		logger:          slog.Default(),
	}
}

// WithApp hooks the manager into app: listening starts the shards and the ticker, and logs one line with the drain
// interval; shutting the app down flushes the buffers and closes every client with code 1001. Listening again starts it
// again. By default there is no app: the first client starts the manager and [Manager.Shutdown] ends it. A nil app is
// invalid.
//
// Give the app that listens, not one that is mounted in it: Fiber runs the hooks of that one only.
func WithApp(app *fiber.App) Option {
	return func(c *config) { c.app, c.appSet = app, true }
}

// WithPath sets the path in front of the project, overriding the default "/stream/projects". It is relative to where
// the handler is mounted; the project is the one path segment behind it. It is made of segments of letters, digits and
// -._~, each behind one slash: no parameters, no wildcards, no slash at the end.
func WithPath(prefix string) Option {
	return func(c *config) { c.path = prefix }
}

// WithMaxBuffer sets how many messages wait for one slow client at most, overriding the default of 100. From then on,
// each new message drops the oldest one that waits. The bound is also how many broadcasts may wait for a shard. From 1
// to 1,000,000 messages.
func WithMaxBuffer(n int) Option {
	return func(c *config) { c.maxBuffer = n }
}

// WithMaxBufferBytes sets how many bytes wait for one slow client at most, overriding the default of 1 MiB; whichever
// of this bound and [WithMaxBuffer] is reached first drops the oldest. A message counts with its data, its frame's header
// and its fields. One with more data than the bound is refused with [ErrTooLarge]. From 1 byte to 1 GiB.
func WithMaxBufferBytes(n int) Option {
	return func(c *config) { c.maxBufferBytes = n }
}

// Overflow says what happens when a message comes for a client whose buffer is full.
type Overflow uint8

const (
	DropOldest Overflow = iota // the oldest messages that wait are dropped
	DropNewest                 // the message that comes is dropped
	Disconnect                 // the client is closed with code 1013, and what waits is given up
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

// WithOverflow sets what happens when a client's buffer is full, overriding the default of [DropOldest]. Another value
// than the three is invalid.
func WithOverflow(o Overflow) Option {
	return func(c *config) { c.overflow = o }
}

// WithKeepLevels sets the levels whose messages are dropped last: while any other message waits, the oldest of those
// leaves first, and a message of another level never makes one of these leave. By default no level is kept. At most 16
// levels, none of them empty, and not together with [Disconnect], which drops nothing. A level is UTF-8 of at most 64
// bytes.
//
// What is dropped between messages that are kept is a gap. For a client that is told of gaps (see [Protocol]), each takes
// about 100 bytes, which BufferedBytes doesn't count, and there is at most one for each message that waits: with the
// default [WithMaxBuffer], 16 KiB for a client that stands still.
func WithKeepLevels(levels ...string) Option {
	return func(c *config) { c.keepLevels = slices.Clone(levels) }
}

// WithWindow sets how many messages a client that has agreed on [Protocol] may leave unacknowledged, overriding the
// default of 1,024. Beyond it nothing more is written, and the client's buffer takes over, so that after a pause it gets
// one window of old messages at most, whatever kernels and proxies hold, and then the newest. A window bounds what a
// client gets over a long way: less than one window in a round trip, which for the default and 100 ms is some 8,000 a
// second. 0 turns it off; otherwise to 1,000,000 messages.
func WithWindow(messages int) Option {
	return func(c *config) { c.window = messages }
}

// WithDrainInterval sets how often the ticker drains the buffers, overriding the default of 250 ms. A slow client that
// has room again is drained at once, without the ticker; what [Manager.BufferMessage] queued waits for it. From 1 ms to
// 1 h.
func WithDrainInterval(d time.Duration) Option {
	return func(c *config) { c.drainInterval = d }
}

// WithUnsentLimit sets how many bytes the kernel may hold for one client and not yet have sent, overriding the default
// of 64 KiB. A lower limit shows earlier that a client is slow, and makes what it gets then fresher. It is the socket
// option TCP_NOTSENT_LOWAT, set on Linux, behind TLS too; elsewhere it has no effect. 0 leaves it to the kernel;
// otherwise from 1 KiB to 1 GiB.
//
// A listener may wrap its connections, as one for the PROXY protocol does. The option reaches through every wrapper that
// offers the connection below, by NetConn, Raw or SyscallConn; if one doesn't, a line in the log says so once. A client
// behind any wrapper has a goroutine of its own, since no wrapper is known to pass bytes on unchanged, to hold none back,
// and to count nothing.
func WithUnsentLimit(bytes int) Option {
	return func(c *config) { c.unsentLimit = bytes }
}

// WithAuthorize sets a function that is called for each client before its connection is upgraded, on the goroutine of
// the request. By default everybody is let in. A nil function is invalid.
//
// The function gets the project of the path and an empty filter. What it leaves in sub is what the client is granted:
// neither the query nor a message over the wire ever widens it, both can only narrow it. It may set another project.
// Strings that it takes from c are copied before it returns to Fiber. It must be safe for concurrent use, and may take
// its time: nobody else waits for it. An error is handed to Fiber's error handler unchanged, and the client is not
// upgraded. A panic, or a filter that is invalid (see [Filter]), is logged and answered by 500. It is called once more
// when mesherstream.js asks by a plain GET why its handshake was refused (see [Manager.Handler]).
func WithAuthorize(fn func(c *fiber.Ctx, sub *Subscription) error) Option {
	return func(c *config) { c.authorize, c.authorizeSet = fn, true }
}

// WithOrigins adds origins whose pages may connect, such as "https://app.example.com" or "http://localhost:5173", and
// "*" for every origin. By default, and always, a page of the same origin may, and a client that sends no Origin header,
// since that is no browser. Others get 403.
//
// An origin is a scheme and a host, perhaps with a port, and nothing else: no slash at the end, no user, no wildcard
// inside. It is compared by its meaning: upper case, the port of the scheme itself, wss for https, a host in Unicode and
// the long form of an IPv6 address make no difference. Any other value is invalid.
//
// Applications have origins of their own schemes, such as "capacitor://localhost" or "chrome-extension://" with an ID;
// pages that Electron loads from files have "file://". "null" is the origin of every sandboxed frame and every data: URL,
// those of strangers too: let it in only if [WithAuthorize] asks for more than cookies.
func WithOrigins(origins ...string) Option {
	return func(c *config) { c.origins = origins }
}

// WithMaxClients sets how many clients may be connected at a time, overriding the default of 0, which is no cap. Over
// it, a request is answered by 503. Not negative.
func WithMaxClients(n int) Option {
	return func(c *config) { c.maxClients = n }
}

// WithMaxClientsPerIP sets how many clients of one address may be connected at a time, overriding the default of 0,
// which is no cap. An IPv6 network of 64 bits counts as one address. Over it, a request is answered by 429. Not negative.
//
// The address is that of the connection, or the one in Fiber's ProxyHeader if Fiber trusts whoever sent it; ports, brackets
// and quotes don't count. In a list, it is the last address that isn't one of Fiber's TrustedProxies, and without
// EnableTrustedProxyCheck the first. If no address is there, it is the connection's.
func WithMaxClientsPerIP(n int) Option {
	return func(c *config) { c.maxClientsPerIP = n }
}

// WithReadLimit sets how many bytes one message of a client may have, overriding the default of 4 KiB. A longer one
// closes that client with code 1009, before it is read. From 128 bytes to 16 MiB.
func WithReadLimit(bytes int) Option {
	return func(c *config) { c.readLimit = bytes }
}

// WithPingInterval sets how often each client is pinged, overriding the default of 25 s; the clients take turns, and the
// first ping of each comes within the interval too, after at least three quarters of it. 0 turns
// pings off, and then a browser gives no sign of life by itself: turn the idle timeout off too, or have pages send
// something. Otherwise from 10 ms to 24 h.
func WithPingInterval(d time.Duration) Option {
	return func(c *config) { c.pingInterval = d }
}

// WithIdleTimeout sets how long a client may neither send anything (a pong is something) nor take anything that waits
// for it, overriding the default of 60 s. After that, noticed within a quarter of the ping interval, it is removed. 0
// turns the timeout off; otherwise it must be longer than the ping interval, and from 10 ms to 24 h.
func WithIdleTimeout(d time.Duration) Option {
	return func(c *config) { c.idleTimeout = d }
}

// WithShutdownTimeout sets how long a shutdown may take that has no deadline of its own, overriding the default of 5 s:
// flushing the buffers and closing the clients. From 1 ms to 1 h.
func WithShutdownTimeout(d time.Duration) Option {
	return func(c *config) { c.shutdownTimeout = d }
}

// WithHooks sets functions that are called when something happens to a client; see [Hooks]. By default there are none.
// A later WithHooks replaces an earlier one.
func WithHooks(hooks Hooks) Option {
	return func(c *config) { c.hooks = hooks }
}

// WithRelay sets what carries broadcasts between this manager and those of other nodes; see [Relay]. By default there is
// none, and a broadcast reaches the clients of its own process. A nil relay is invalid. Several managers may share one.
//
// Local clients get a broadcast at once, and the others by the relay: each at most once, and what one node publishes to
// one project in order. Broadcast never waits for the relay: up to 8,192 messages and 16 MiB wait in a queue, and the
// oldest are dropped and counted beyond that, those of a level that [WithKeepLevels] names last. A node gets only the
// projects that its own clients follow, from the first client until ten seconds after the last.
//
// A client is known to the manager when the relay has subscribed to its project, or after two seconds; an answer to its
// subscribe comes after that, so what any node publishes later reaches it. That is not so where the relay is away or
// takes longer, and where it is a cluster itself, as long as its parts haven't told each other.
func WithRelay(relay Relay) Option {
	return func(c *config) { c.relay, c.relaySet = relay, true }
}

// WithLogger sets the logger, overriding the default of slog.Default() at the time of construction. The manager logs few
// lines, never while a client waits; a handler that blocks delays nobody's messages and one that panics is survived. A
// nil logger is invalid.
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
	c.origins = slices.Clone(c.origins) // the caller's otherwise
	for i, origin := range c.origins {
		c.origins[i], _ = allowedOrigin(origin)
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
		{"WithPingInterval", c.pingInterval, 10 * time.Millisecond, 24 * time.Hour, true},
		{"WithIdleTimeout", c.idleTimeout, 10 * time.Millisecond, 24 * time.Hour, true},
		{"WithShutdownTimeout", c.shutdownTimeout, time.Millisecond, time.Hour, false},
	} {
		if (o.value < o.least || o.value > o.most) && !(o.orZero && o.value == 0) {
			invalid(o.name, o.value, bounds(o.least, o.most, o.orZero))
		}
	}
	if c.idleTimeout > 0 && c.idleTimeout <= c.pingInterval {
		invalid("WithIdleTimeout", c.idleTimeout, fmt.Sprintf("longer than the ping interval of %v, or 0", c.pingInterval))
	}

	if !pathPattern.MatchString(c.path) {
		invalid("WithPath", fmt.Sprintf("%q", c.path), "a path of segments of letters, digits and -._~, each behind one slash")
	}
	for _, origin := range c.origins {
		if _, err := allowedOrigin(origin); err != nil {
			invalid("WithOrigins", fmt.Sprintf("%q", origin), err.Error())
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
