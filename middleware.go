package mesherstream

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// New returns the middleware, ready for app.Use. It combines [NewManager] and [Manager.Handler]. If an option is
// invalid, it panics at set-up, with the error that NewManager returns.
func New(opts ...Option) fiber.Handler {
	m, err := NewManager(opts...)
	if err != nil {
		panic(err)
	}
	return m.Handler()
}

// From returns the manager whose middleware c has passed. If c has passed several, it is the last one, except that of
// several on one path it is the first, which is the one that serves there. It returns nil if c has passed none; all
// methods of a nil manager that return an error return [ErrNotMounted].
func From(c *fiber.Ctx) *Manager {
	if p, ok := c.Locals(managerKey{}).(*passage); ok {
		return p.m
	}
	return nil
}

// Handler returns the handler that upgrades the clients. Mount it with app.Use, with or without a prefix, in a group,
// or in an app that is itself mounted. The stream is then at [WithPath] followed by the project's segment, below the
// mount point. Or pass it to app.Get with a route that has a parameter :project_id, and the stream is at that route. A
// prefix may have parameters, but no optional one, and none called project_id.
//
// On that path, a GET is answered as follows. 400: the project is empty, longer than 128 bytes, or has a slash, a
// control character or broken percent-encoding; or the handshake has a body, no host, a malformed key or several keys,
// or isn't HTTP/1.1. 426: it asks for no stream, or for another version, or has no key. 403: its origin isn't allowed
// or its filter isn't granted. 503 or 429: a cap is reached. 503: after Shutdown. 501: the app runs under net/http
// (Fiber's adaptor), which does not hand over its connections. An error of [WithAuthorize] is answered as that error
// says. A HEAD is answered as a GET without an upgrade.
//
// A GET without an upgrade streams over plain HTTP: Server-Sent Events if it accepts text/event-stream, and lines of JSON
// if it accepts application/x-ndjson or, as curl does, */* and nothing else. A client of such a stream is told its gaps,
// and can't send anything. An EventSource is answered with 200 and a time to wait if it is refused with 408, 425, 429 or
// 5xx except 501, since it would never come back after any other status. docs/http.md describes these streams.
//
// The query's level and environment, each repeated or with commas, are the first filter. A near miss of these names,
// such as levels or filter, is answered with 400.
//
// With last, from 1 to 1,000,000, the stream begins with that many of the newest messages that match the filter. With
// since, it begins with those that are at most as old as a duration such as 10m, or were published at an RFC 3339 time
// or later. Both together ask for the last ones of those. They come from the history, as far as it holds them; see
// [WithHistory] and Since of [Subscription]. Then come those that are published after the handshake. Any other value is
// answered with 400.
//
// A GET that asks for no stream, and accepts application/vnd.mesherstream.v1, is answered as the handshake would be.
// This is how mesherstream.js learns why it was refused, which a WebSocket doesn't tell a page. A GET or HEAD for
// mesherstream.js in place of the project receives the module for browsers. Everything else is passed to the next
// handler, for which [From] returns m.
//
// The 101 or the 200 of a stream is sent after all handlers have returned, with the headers that they have set. If one of
// them has set another status by then, the client receives that response, and no stream begins.
//
// The handler of a nil manager returns [ErrNotMounted].
func (m *Manager) Handler() fiber.Handler {
	if !m.isMade() {
		return func(*fiber.Ctx) error { return ErrNotMounted }
	}
	return m.handle // the same function each time, so that streamRoutes recognizes it
}

// handle is the handler. Called without a request, it reports its manager.
func (m *Manager) handle(c *fiber.Ctx) error {
	if c == nil {
		return handlerOf{m}
	}
	mount, rest := splitMount(c)
	m.pass(c, mount)
	project, ours := m.projectOf(c, rest)
	head := c.Method() == fiber.MethodHead
	if !ours || c.Method() != fiber.MethodGet && !head {
		if !ours {
			m.checkRoute(c)
			tellAddress(c)
		}
		return c.Next()
	}
	m.checkApp(c.App())
	o := readOpening(&c.Request().Header)
	o.connection = o.connection && !head // a HEAD is no handshake
	if project == browserClientName && !o.asked() {
		return serveBrowserClient(c)
	}
	var a admission
	if !o.asked() {
		a.encoding, a.v1 = plainEncoding(c, &o)
	}
	if !head && !o.asked() && !a.v1 && asksForRefusal(c) {
		return m.answerRefusal(c, project)
	}
	err := m.screen(c, &a, project, &o)
	switch {
	case err == nil && a.encoding == frames:
		err = m.upgrade(c, a, &o)
	case err == nil:
		err = m.stream(c, a)
	case a.encoding != frames:
		err = m.refuseStream(c, a.encoding, err)
	}
	if err != nil {
		// A proxy that doesn't look at the status believes that the connection is a WebSocket now, and would let
		// the next request on it pass unseen.
		c.Context().SetConnectionClose()
	}
	return err
}

// Serve streams to a client on a route of your own, whose handler has upgraded the connection itself. Serve takes over
// conn. The caller must not have read from or written to it, and must return without touching it once Serve returns,
// which may be immediately, while the client stays connected. The upgrade must not negotiate compression: outgoing
// messages are never compressed, and a client that sends a compressed frame is closed with code 1002, without its frame
// being decompressed.
//
// sub is what the client is granted; over the wire, the client can only narrow its filter within the grant. The caller
// is responsible for checking the origin and the authorization. Serve doesn't read the query of the request. A client of
// Serve looks back with a subscribe request that has last.
//
// If Fiber's ProxyHeader is set, it supplies the client's address. If the request has passed a handler of
// [Manager.Handler] before the route, the address is the one that the stream's path would determine. Otherwise Serve
// learns the trusted proxies from the app of [WithApp]; without it, all proxies are trusted. The last proxy must then
// write the header as one line, since contrib keeps only the last line, and HAProxy's option forwardfor adds one.
func (m *Manager) Serve(conn *websocket.Conn, sub Subscription) error {
	if !m.isMade() {
		frames.refuse(conn.NetConn(), wsframe.CodeInternalError, "")
		return ErrNotMounted
	}
	filter, err := sub.normalize()
	if err != nil {
		frames.refuse(conn.NetConn(), wsframe.CodeInternalError, "")
		return err
	}
	sub = Subscription{Project: strings.Clone(sub.Project), Filter: filter, Since: sub.Since}
	a := admission{sub: sub, grant: filter, v1: conn.Subprotocol() == Protocol}
	p, err := m.reserve(m.addressOfConn(conn))
	if err != nil {
		return a.end(conn.NetConn(), err)
	}
	return m.serve(conn.NetConn(), a, p)
}

// serve streams to a client that holds a place, and gives the place back.
func (m *Manager) serve(conn net.Conn, a admission, p place) error {
	// If the server has KeepHijackedConns, fasthttp leaves the closing to the handler. Otherwise this does nothing.
	defer func() { _ = conn.Close() }()
	connectedAt := time.Now() // not after waiting for the relay: the client may ask for something meanwhile
	err := m.start(false)
	var leave func()
	if err == nil {
		leave, err = m.enter()
	}
	if err != nil {
		p.release()
		return a.end(conn, err)
	}
	defer leave()
	registered := func() {}
	if m.relaying != nil {
		registered = m.relaying.follow(a.sub.Project)
	}

	id := ClientID(m.lastID.Add(1))
	c := &client{
		id:          id,
		shard:       m.shardOf(id),
		place:       p,
		connectedAt: connectedAt,
		terms:       termsOf(a.sub, a.grant),
		encoding:    a.encoding,
	}
	if a.v1 {
		c.agree()
	}
	c.recall(a.past)
	c.markSeen(time.Now()) // messages that it has sent in the meantime were not read
	if raw := link.Raw(conn); !link.LimitUnsent(raw, m.cfg.unsentLimit) {
		m.tellOfWrapper(raw)
	}
	var stay func()
	c.link, stay = link.Open(conn, c, link.Options{
		Reader:      c.shard.readers[c.encoding],
		IdleTimeout: m.cfg.idleTimeout,
		Poller:      c.shard.poll,
	})
	err = c.shard.register(c)
	registered()
	if err != nil {
		c.link.Close()
		p.release()
		return a.end(conn, err)
	}
	stay()
	return nil
}

// tellOfWrapper logs once that clients use connections that hide their sockets. It logs on a goroutine of its own,
// since the caller's client must not wait for a log. A connection in memory has no socket to hide, and its address is
// of another network, or one without a port, as that of app.Test.
func (m *Manager) tellOfWrapper(conn net.Conn) {
	switch addr := conn.LocalAddr().(type) {
	case *net.TCPAddr:
		if addr.Port == 0 {
			return
		}
	case *net.UnixAddr:
	default:
		return
	}
	if m.wrapped.Swap(true) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil { // the run has ended in the meantime
		return
	}
	m.current.rest.Go(func() {
		m.cfg.logger.Warn("mesherstream: connections hide their sockets: WithUnsentLimit has no effect, and each client has a goroutine; "+
			"have the wrapper offer its connection by NetConn or Raw", "type", fmt.Sprintf("%T", conn))
	})
}

// end closes a connection that can't be served, and returns the reason.
func (a *admission) end(conn net.Conn, err error) error {
	if errors.Is(err, ErrTooManyClients) {
		a.encoding.refuse(conn, wsframe.CodeTryAgainLater, reasonTooMany)
	} else {
		a.encoding.refuse(conn, wsframe.CodeGoingAway, reasonShutdown)
	}
	return err
}

// refuse closes a connection that no shard has seen, so that no other goroutine writes to it.
func (e encoding) refuse(conn net.Conn, code int, reason string) {
	raw := link.Raw(conn)
	_ = raw.SetDeadline(time.Now().Add(closeGrace))
	if _, err := raw.Write(e.closing(code, reason)); err != nil || e != frames {
		return
	}
	// The close frame arrives only if nothing is left unread when the connection closes.
	buf := make([]byte, 512)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}

// screen makes the checks that precede a stream, the cheap ones first. It reserves no place.
func (m *Manager) screen(c *fiber.Ctx, a *admission, segment string, o *opening) (err error) {
	if a.encoding != frames { // first of all, so that an allowed page can read every other answer
		if err := m.checkAskingOrigin(c); err != nil {
			return err
		}
		allowReading(c)
		readLastEventID(c, &a.past)
	}
	if a.sub.Project, err = decodeProject(c, segment); err != nil {
		return err
	}
	if a.encoding == frames {
		if !o.asked() {
			return upgradeRequired(c)
		}
		if err := o.check(c); err != nil {
			return err
		}
	}
	if c.Context().ConnRequestNum() == 0 { // fasthttp's server counts from 1
		return m.refuseNetHTTP()
	}
	if a.encoding == frames {
		if err := m.checkOrigin(c, originOf(c)); err != nil {
			return err
		}
	}
	asked, err := queryFilter(c)
	if err == nil && a.past.back == nil {
		a.past, err = queryPast(c)
	}
	if err != nil {
		return fiber.NewError(fiber.StatusBadRequest, err.Error())
	}
	a.ip = addressOf(c)
	if err := m.admit(c, a, asked); err != nil || a.encoding == frames {
		return err
	}
	return m.queryGap(c, a)
}

// browserClient is the module for pages, which the handler serves beside the streams, so that the two are always of one
// version. It is minified, by npm run build in client/, and its first line names the source.
//
//go:embed client/mesherstream.min.js
var browserClient []byte

// browserClientName is in the place of the project. A project of that name can still be followed, since a stream begins
// with an upgrade, and the request for a script doesn't.
const browserClientName = "mesherstream.js"

var browserClientTag = func() string {
	sum := sha256.Sum256(browserClient)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:9]) + `"`
}()

// serveBrowserClient answers with the module, or with 304 if the page has this version.
func serveBrowserClient(c *fiber.Ctx) error {
	c.Set(fiber.HeaderETag, browserClientTag)
	c.Set(fiber.HeaderCacheControl, "no-cache") // cached, but revalidated each time: the next release may speak another protocol
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	if hasBrowserClient(c) {
		return c.SendStatus(fiber.StatusNotModified)
	}
	c.Set(fiber.HeaderContentType, "text/javascript; charset=utf-8")
	return c.Send(browserClient)
}

// hasBrowserClient reports whether the page has this version. It doesn't use c.Fresh(), which finds names in only one
// spelling.
func hasBrowserClient(c *fiber.Ctx) bool {
	if lists([]byte(fieldText(c, fiber.HeaderCacheControl)), "no-cache") { // a page that is loaded anew
		return false
	}
	for tag := range strings.SplitSeq(fieldText(c, fiber.HeaderIfNoneMatch), ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || strings.TrimPrefix(tag, "W/") == browserClientTag {
			return true
		}
	}
	return false
}
