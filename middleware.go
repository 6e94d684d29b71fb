package mesherstream

import (
	"bytes"
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
	"github.com/valyala/fasthttp"
)

// maxProjectBytes bounds a project's name in the path.
const maxProjectBytes = 128

// New returns the middleware, ready for app.Use: it is [NewManager] and [Manager.Handler] in one. It panics at set-up if
// an option is invalid, with the error that NewManager returns.
func New(opts ...Option) fiber.Handler {
	m, err := NewManager(opts...)
	if err != nil {
		panic(err)
	}
	return m.Handler()
}

// From returns the manager whose middleware c has passed: the last one, but of several on one path the first, which is the
// one that serves there. It returns nil if c has passed none; all methods of that return [ErrNotMounted].
func From(c *fiber.Ctx) *Manager {
	if p, ok := c.Locals(managerKey{}).(*passage); ok {
		return p.m
	}
	return nil
}

// Handler returns the handler that upgrades the clients. Mount it with app.Use, with or without a prefix, in a group, or
// in an app that is mounted itself: the stream is at [WithPath] and the project's segment, below where the handler is
// mounted. Or give it to app.Get with a route that has a parameter :project_id, and the stream is there.
// A prefix may have parameters, but none that is optional, and none called project_id.
//
// On that path, a GET is answered by 400 if the project is empty, over 128 bytes, or has a slash, a control character or
// broken percent-encoding, or if the handshake has a body, no host, a key that is none or several, or isn't HTTP/1.1; 426
// if it asks for no upgrade or another version, 403 if its origin isn't allowed or its filter isn't granted, 503 or 429 if
// a cap is reached, 503 after Shutdown, 501 if the app runs under net/http (Fiber's adaptor), which keeps its connections
// to itself, and by what the error of [WithAuthorize] says. A HEAD is answered as a GET without an upgrade. The query's
// level and environment, each repeated or with commas, are the first filter; a near miss of these names, such as levels,
// is a 400. A GET that asks for no upgrade, and accepts application/vnd.mesherstream.v1, is answered as the handshake
// would be: so mesherstream.js learns why it was refused, which a WebSocket doesn't tell a page. Where the project would
// be, a GET or HEAD for mesherstream.js gets the module for browsers. Everything else goes to the next handler, for which
// [From] returns m.
//
// The 101 is sent after all handlers have returned, with the headers that they have set. If one of them has set another
// status by then, the client receives that response, and nothing comes of the stream.
//
// The handler of a nil manager returns [ErrNotMounted].
func (m *Manager) Handler() fiber.Handler {
	if !m.isMade() {
		return func(*fiber.Ctx) error { return ErrNotMounted }
	}
	return func(c *fiber.Ctx) error {
		mount, rest := splitMount(c)
		m.pass(c, mount)
		project, ours := m.projectOf(c, rest)
		head := c.Method() == fiber.MethodHead
		if !ours || c.Method() != fiber.MethodGet && !head {
			if !ours {
				m.checkRoute(c)
			}
			return c.Next()
		}
		m.checkApp(c.App())
		var o opening // of a HEAD, none
		if !head {
			o = readOpening(&c.Request().Header)
		}
		if project == browserClientName && !o.asked() {
			return serveBrowserClient(c)
		}
		if !head && !o.asked() && asksForRefusal(c) {
			return m.answerRefusal(c, project)
		}
		a, err := m.screen(c, project, &o)
		if err == nil {
			err = m.upgrade(c, a)
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
// caller's. The error is [ErrInvalidFilter], [ErrClosed] or [ErrTooManyClients], which the client has been told with code
// 1011, 1001 or 1013, and had two seconds to answer, or [ErrNotMounted], with 1011; a client that leaves is no error.
//
// The client's address is told by Fiber's ProxyHeader, if there is one. Which proxies are trusted, Serve knows from the app
// of [WithApp]; without it, all are.
func (m *Manager) Serve(conn *websocket.Conn, sub Subscription) error {
	if !m.isMade() {
		refuse(conn, codeInternalError, "")
		return ErrNotMounted
	}
	filter, err := sub.normalize()
	if err != nil {
		refuse(conn, codeInternalError, "")
		return err
	}
	sub = Subscription{Project: strings.Clone(sub.Project), Filter: filter}
	p, err := m.reserve(m.addressOfConn(conn))
	if err != nil {
		return tellRefusal(conn, err)
	}
	return m.serve(conn, sub, filter, p)
}

// serve streams to a client that has its place, which serve gives back.
func (m *Manager) serve(conn *websocket.Conn, sub Subscription, grant Filter, p *place) error {
	// If the server has KeepHijackedConns, fasthttp leaves the closing to the handler. Otherwise this does nothing.
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
	limitUnsent(rawConn(conn), m.cfg.unsentLimit)
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

// projectOf returns the project's segment of the path as it is written there, and whether the path is a stream's. rest is
// the path below the mount.
func (m *Manager) projectOf(c *fiber.Ctx, rest string) (segment string, ours bool) {
	if rest == "" || rest == "/" {
		for _, param := range c.Route().Params {
			if param == projectParam {
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

// samePath compares as the app's router does.
func (m *Manager) samePath(c *fiber.Ctx, a, b string) bool {
	return a == b || strings.EqualFold(a, b) && !c.App().Config().CaseSensitive
}

// An admission is what a client gets whose handshake is accepted.
type admission struct {
	sub   Subscription
	grant Filter
	ip    string
}

// screen asks the questions that come before an upgrade, the cheap ones first. It takes no place.
func (m *Manager) screen(c *fiber.Ctx, segment string, o *opening) (a admission, err error) {
	if a.sub.Project, err = decodeProject(c, segment); err != nil {
		return a, err
	}
	if !o.asked() {
		return a, upgradeRequired(c)
	}
	if err := o.check(c); err != nil {
		return a, err
	}
	if c.Context().ConnRequestNum() == 0 { // fasthttp's server counts from 1
		return a, m.refuseNetHTTP()
	}
	o.settle(&c.Request().Header)
	if err = m.checkOrigin(c); err != nil {
		return a, err
	}
	asked, err := queryFilter(c)
	if err != nil {
		return a, fiber.NewError(fiber.StatusBadRequest, err.Error())
	}
	a.ip = addressOf(c)
	if err := m.admit(c, &a, asked); err != nil {
		return a, err
	}
	return a, nil
}

// refuseNetHTTP answers where no handler of a hijacked connection is ever called, and the client would wait for ever.
func (m *Manager) refuseNetHTTP() error {
	const why = "the app is served by net/http, through an adaptor, which can't hand a connection over to a stream; have Fiber listen itself"
	if !m.netHTTP.Swap(true) {
		m.cfg.logger.Error("mesherstream: " + why)
	}
	return fiber.NewError(fiber.StatusNotImplemented, why)
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
		m.cfg.logger.Error("mesherstream: WithAuthorize left an invalid filter", "error", err)
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
	var project string
	var err error
	if c.App().Config().UnescapePath {
		project, err = decodedAsPath(c, segment)
	} else {
		project, err = url.PathUnescape(strings.Clone(segment))
	}
	switch {
	case errors.Is(err, errAmbiguous), errors.Is(err, errSlash):
		return "", fiber.NewError(fiber.StatusBadRequest, err.Error())
	case err != nil:
		return "", fiber.NewError(fiber.StatusBadRequest, "project has broken percent-encoding")
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

// decodedAsPath returns what a segment means that UnescapePath has decoded: by the rules of forms, by which a plus is a
// space, and what is broken stays as it is. It is found in the path by its place, since both ways of decoding yield the
// same number of bytes. A slash that was encoded is refused wherever it is: Fiber has taken it for one that separates.
func decodedAsPath(c *fiber.Ctx, segment string) (string, error) {
	written := c.Request().URI().PathOriginal()
	plain, err := url.PathUnescape(string(written))
	if err != nil {
		return "", err
	}
	if strings.Count(plain, "/") != bytes.Count(written, []byte{'/'}) {
		return "", errSlash
	}
	path := c.Path()
	if !strings.Contains(segment, " ") {
		return strings.Clone(segment), nil
	}
	if string(fasthttp.AppendUnquotedArg(nil, written)) != path {
		return "", errAmbiguous // a handler has put another path there
	}
	project, found := "", false
	for at := 0; at+len(segment) <= len(path); at++ {
		if path[at:at+len(segment)] != segment {
			continue
		}
		if found && plain[at:at+len(segment)] != project {
			return "", errAmbiguous
		}
		project, found = plain[at:at+len(segment)], true
	}
	if !found {
		return "", errAmbiguous
	}
	return project, nil
}

var (
	errAmbiguous = errors.New("project has a space or a plus, and which one is not known")
	errSlash     = errors.New("project has a slash")
)

// queryFilter reads ?level= and ?environment=, each repeated or with commas.
func queryFilter(c *fiber.Ctx) (Filter, error) {
	if err := checkQuery(c); err != nil {
		return Filter{}, err
	}
	values := func(key string) (list []string) {
		for _, v := range c.Context().QueryArgs().PeekMulti(key) {
			list = append(list, strings.Split(string(v), ",")...)
		}
		return list
	}
	return Filter{Levels: values("level"), Environments: values("environment")}.normalize()
}
