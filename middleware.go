package mesherstream

import (
	"errors"
	"fmt"
	"net/url"
	"runtime/debug"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
)

// upgradeGrace is how long a place is kept for a client between its handshake and its first turn.
const upgradeGrace = 10 * time.Second

// managerKey is the key of the manager among a request's locals.
type managerKey struct{}

// New returns the middleware, ready for app.Use: it is [NewManager] and [Manager.Handler] in one. It panics at set-up if
// an option is invalid, with the error that NewManager returns.
func New(opts ...Option) fiber.Handler {
	m, err := NewManager(opts...)
	if err != nil {
		panic(err)
	}
	return m.Handler()
}

// From returns the manager whose middleware c has passed, and nil where it has passed none.
func From(c *fiber.Ctx) *Manager {
	m, _ := c.Locals(managerKey{}).(*Manager)
	return m
}

// Handler returns the handler that upgrades the clients. Mount it with app.Use, with or without a prefix, in a group, or
// in an app that is mounted itself: the stream is at [WithPath] and the project's segment, below where the handler is
// mounted. Or give it to app.Get with a route that has a parameter :project_id, and the stream is there.
// A prefix may have parameters, but none that is optional, and none called project_id.
//
// On that path, a GET is answered by 400 if the project is empty, over 128 bytes, or has a slash, a control character or
// broken percent-encoding, or if the handshake has a body or wants its connection closed; 426 if it asks for no upgrade,
// 403 if its origin isn't allowed or its filter isn't granted, 503 or 429 if a cap is reached, 503 after Shutdown, and by
// what the error of [WithAuthorize] says. The query's level and environment, each repeated or with commas, are the first
// filter. Where the project would be, a GET for mesherstream.js gets the module for browsers. Everything else goes to the
// next handler, for which [From] returns m.
func (m *Manager) Handler() fiber.Handler {
	return func(c *fiber.Ctx) error {
		c.Locals(managerKey{}, m)
		project, ours := m.projectOf(c)
		if !ours || c.Method() != fiber.MethodGet {
			return c.Next()
		}
		if project == browserClientName && !websocket.IsWebSocketUpgrade(c) {
			return serveBrowserClient(c)
		}
		sub, grant, p, err := m.screen(c, project)
		if err == nil {
			err = m.upgrade(c, sub, grant, p)
		}
		if err != nil {
			// A proxy that doesn't look at the status believes that the connection is a WebSocket now, and would let
			// the next request on it pass unseen.
			c.Context().SetConnectionClose()
		}
		return err
	}
}

// Serve streams to a client on an own route, whose handler has upgraded the connection itself. It hands conn over: the
// caller must not have read from it or written to it, and returns without touching it as soon as Serve returns, which
// may be at once, with the client living on. The upgrade must not agree on compression: what goes out is never
// compressed, and a client that sends a compressed frame is closed with code 1002, its frame unopened.
//
// sub is what the client is granted; over the wire it can narrow its filter within it. Origin and authorization are the
// caller's. The error is [ErrInvalidFilter] (of the filter or the project), [ErrClosed] or [ErrTooManyClients], which the
// client has been told with code 1011, 1001 or 1013, and had two seconds to answer; a client that leaves is no error.
func (m *Manager) Serve(conn *websocket.Conn, sub Subscription) error {
	filter, err := sub.normalize()
	if err != nil {
		refuse(conn, codeInternalError, "")
		return err
	}
	sub = Subscription{Project: strings.Clone(sub.Project), Filter: filter}
	p, err := m.reserve(strings.Clone(conn.IP()))
	if err != nil {
		return tellRefusal(conn, err)
	}
	return m.serve(conn, sub, filter, p)
}

// serve streams to a client that has its place, which serve gives back.
func (m *Manager) serve(conn *websocket.Conn, sub Subscription, grant Filter, p *place) error {
	// Where the server has KeepHijackedConns, fasthttp leaves the closing to the handler. Otherwise this does nothing.
	defer func() { _ = conn.Close() }()
	err := m.start(false)
	var leave func()
	if err == nil {
		leave, err = m.enter()
	}
	if err != nil {
		p.release()
		return tellRefusal(conn, err)
	}
	defer leave()
	registered := func() {}
	if m.relaying != nil {
		registered = m.relaying.follow(sub.Project)
	}

	id := ClientID(m.lastID.Add(1))
	c := &client{
		id:          id,
		shard:       m.shardOf(id),
		remoteAddr:  p.ip,
		place:       p,
		connectedAt: time.Now(),
		grant:       grant,
		sub:         sub,
	}
	if conn.Subprotocol() == Protocol {
		c.agree(&m.cfg)
	}
	c.markSeen(c.connectedAt)
	if raw := rawConn(conn); !limitUnsent(raw, m.cfg.unsentLimit) {
		m.tellOfWrapper(raw)
	}
	stay := c.connect(conn)
	err = c.shard.register(c)
	registered()
	if err != nil {
		c.link.close()
		p.release()
		return tellRefusal(conn, err)
	}
	stay()
	return nil
}

// tellRefusal closes a connection that can't be served, and returns why.
func tellRefusal(conn *websocket.Conn, err error) error {
	if errors.Is(err, ErrTooManyClients) {
		refuse(conn, codeTryAgainLater, reasonTooMany)
	} else {
		refuse(conn, codeGoingAway, reasonShutdown)
	}
	return err
}

// refuse closes a connection that no shard has seen, so that nobody else writes to it.
func refuse(conn *websocket.Conn, code int, reason string) {
	raw := rawConn(conn)
	_ = raw.SetDeadline(time.Now().Add(closeGrace))
	if _, err := raw.Write(closeFrame(code, reason)); err != nil {
		return
	}
	// The close frame arrives only if nothing is left unread when the connection closes.
	buf := make([]byte, 512)
	for {
		if _, err := conn.NetConn().Read(buf); err != nil {
			return
		}
	}
}

// projectOf returns the project's segment of the path as it is written there, and whether the path is a stream's.
func (m *Manager) projectOf(c *fiber.Ctx) (segment string, ours bool) {
	route := c.Route()
	mount, _, _ := strings.Cut(route.Path, "*")
	rest := c.Path()
	// A mount with parameters is as many segments long as its pattern.
	for range strings.FieldsFuncSeq(mount, func(r rune) bool { return r == '/' }) {
		rest = belowFirst(rest)
	}
	if rest == "" || rest == "/" {
		for _, param := range route.Params {
			if param == "project_id" {
				return c.Params(param), true
			}
		}
	}

	prefix := m.cfg.path
	if len(rest) < len(prefix) || !m.samePath(c, rest[:len(prefix)], prefix) {
		return "", false
	}
	switch rest = rest[len(prefix):]; {
	case rest == "":
		return "", true
	case rest[0] != '/':
		return "", false
	}
	return rest[1:], true
}

// belowFirst returns path without its first segment.
func belowFirst(path string) string {
	path = strings.TrimPrefix(path, "/")
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[i:]
	}
	return ""
}

// samePath compares as the app's router does.
func (m *Manager) samePath(c *fiber.Ctx, a, b string) bool {
	return a == b || strings.EqualFold(a, b) && !c.App().Config().CaseSensitive
}

// screen asks the questions that come before an upgrade, the cheap ones first. Where it returns no error, the client has
// its place.
func (m *Manager) screen(c *fiber.Ctx, segment string) (sub Subscription, grant Filter, p *place, err error) {
	if sub.Project, err = decodeProject(c, segment); err != nil {
		return sub, grant, nil, err
	}
	if !websocket.IsWebSocketUpgrade(c) {
		return sub, grant, nil, upgradeRequired(c)
	}
	if !staysOpen(c) {
		return sub, grant, nil, fiber.NewError(fiber.StatusBadRequest, "a handshake is HTTP/1.1, keeps its connection, and has no body")
	}
	if !m.originAllowed(c) {
		return sub, grant, nil, fiber.NewError(fiber.StatusForbidden, "origin not allowed")
	}
	asked, err := queryFilter(c)
	if err != nil {
		return sub, grant, nil, fiber.NewError(fiber.StatusBadRequest, err.Error())
	}
	if p, err = m.reserve(strings.Clone(c.IP())); err != nil {
		return sub, grant, nil, admissionError(err)
	}
	if sub, grant, err = m.grant(c, sub, asked); err != nil {
		p.release()
		return sub, grant, nil, err
	}
	return sub, grant, p, nil
}

// staysOpen says whether fasthttp leaves the connection to the client behind the 101. Where the request wants it closed,
// the 101 would be its last; and a body that Fiber streams would be read as frames.
func staysOpen(c *fiber.Ctx) bool {
	h := &c.Request().Header
	return !h.ConnectionClose() && len(h.Peek(fiber.HeaderTransferEncoding)) == 0 && h.ContentLength() <= 0
}

// grant asks WithAuthorize what the client may get, and narrows that to what it asks for.
func (m *Manager) grant(c *fiber.Ctx, sub Subscription, asked Filter) (_ Subscription, grant Filter, err error) {
	if m.cfg.authorize != nil {
		if err := m.callAuthorize(c, &sub); err != nil {
			return sub, grant, err
		}
	}
	sub.Project = strings.Clone(sub.Project)
	if grant, err = sub.normalize(); err != nil {
		m.cfg.logger.Error("mesherstream: WithAuthorize left an invalid subscription", "error", err)
		return sub, grant, fiber.ErrInternalServerError
	}
	if sub.Filter, err = asked.within(grant); err != nil {
		return sub, grant, fiber.NewError(fiber.StatusForbidden, "filter not granted")
	}
	return sub, grant, nil
}

func (m *Manager) callAuthorize(c *fiber.Ctx, sub *Subscription) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.cfg.logger.Error("mesherstream: WithAuthorize panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fiber.ErrInternalServerError
		}
	}()
	return m.cfg.authorize(c, sub)
}

func admissionError(err error) error {
	var full capError
	switch {
	case errors.As(err, &full) && full.perIP:
		return fiber.NewError(fiber.StatusTooManyRequests, "too many streams from this address")
	case errors.As(err, &full):
		return fiber.NewError(fiber.StatusServiceUnavailable, "too many streams")
	default:
		return fiber.NewError(fiber.StatusServiceUnavailable, reasonShutdown)
	}
}

// upgrade hands over to contrib, whose own questions have been answered. Everything that lives on is a copy: Fiber uses
// the memory behind c again as soon as this returns.
func (m *Manager) upgrade(c *fiber.Ctx, sub Subscription, grant Filter, p *place) error {
	m.warnOfPrefork(c.App())
	// When the client is gone before it gets its 101, fasthttp never calls the function.
	lost := time.AfterFunc(upgradeGrace, p.release)
	err := websocket.New(func(conn *websocket.Conn) {
		if !lost.Stop() {
			refuse(conn, codeTryAgainLater, "the upgrade took too long")
			return
		}
		_ = m.serve(conn, sub, grant, p) // the client has been told
	}, websocket.Config{
		Subprotocols:   []string{Protocol},
		RecoverHandler: m.recovered, // the default one tells the client what the panic said
	})(c)
	if err == nil {
		return nil
	}
	if lost.Stop() {
		p.release()
	}
	return upgradeRequired(c) // as contrib says for every reason
}

// upgradeRequired says what the client has to ask for.
func upgradeRequired(c *fiber.Ctx) error {
	c.Set(fiber.HeaderUpgrade, "websocket")
	c.Set("Sec-WebSocket-Version", "13")
	return fiber.ErrUpgradeRequired
}

func (m *Manager) recovered(conn *websocket.Conn) {
	if p := recover(); p != nil {
		m.cfg.logger.Error("mesherstream: panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		refuse(conn, codeInternalError, "")
	}
}

// decodeProject returns the project that a segment of the path names. It has bytes of its own.
func decodeProject(c *fiber.Ctx, segment string) (string, error) {
	project := strings.Clone(segment)
	written := project
	decoded := c.App().Config().UnescapePath
	if decoded { // which leaves what is broken as it is
		written = string(c.Request().URI().PathOriginal())
	}
	plain, err := url.PathUnescape(written)
	if err != nil {
		return "", fiber.NewError(fiber.StatusBadRequest, "project has broken percent-encoding")
	}
	if !decoded {
		project = plain
	}
	switch {
	case project == "":
		return "", fiber.NewError(fiber.StatusBadRequest, "project is empty")
	case len(project) > maxProjectBytes:
		return "", fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("project is over %d bytes", maxProjectBytes))
	case strings.Contains(project, "/"):
		return "", fiber.NewError(fiber.StatusBadRequest, "project has a slash")
	case !utf8.ValidString(project), strings.ContainsFunc(project, unicode.IsControl):
		return "", fiber.NewError(fiber.StatusBadRequest, "project has control characters or is not UTF-8")
	}
	return project, nil
}

// queryFilter reads ?level= and ?environment=, each repeated or with commas.
func queryFilter(c *fiber.Ctx) (Filter, error) {
	values := func(key string) (list []string) {
		for _, v := range c.Context().QueryArgs().PeekMulti(key) {
			list = append(list, strings.Split(string(v), ",")...)
		}
		return list
	}
	return Filter{Levels: values("level"), Environments: values("environment")}.normalize()
}
