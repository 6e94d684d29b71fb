package mesherstream

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
	"github.com/valyala/fasthttp"
)

// This file reads the opening handshake of a WebSocket (RFC 6455, section 4.2.1) with the semantics of HTTP: header
// lines of one name are one list (RFC 9110, section 5.3), and names match in any spelling. Fiber, contrib and fasthttp
// look only at the first line, in one spelling.

// An opening is the part of a request that is about an upgrade. It has bytes of its own, since WithAuthorize may change
// the request.
type opening struct {
	connection bool // Connection has the option upgrade
	websocket  bool // Upgrade has the protocol websocket
	version    bool // Sec-WebSocket-Version has 13
	v1         bool // Sec-WebSocket-Protocol has Protocol
	key        []byte
	keys       int  // lines of the name
	origins    int  // lines of the name
	stripped   bool // it has headers of a handshake, and a proxy may have taken out the upgrade
}

func readOpening(h *fasthttp.RequestHeader) (o opening) {
	//lint:ignore SA1019 the oldest fasthttp that go.mod allows has no RequestHeader.All
	h.VisitAll(func(name, value []byte) {
		o.stripped = o.stripped || len(name) > len(handshakePrefix) && sameASCII(name[:len(handshakePrefix)], handshakePrefix)
		switch {
		case sameASCII(name, fiber.HeaderConnection):
			o.connection = o.connection || lists(value, "upgrade")
		case sameASCII(name, fiber.HeaderUpgrade):
			o.websocket = o.websocket || lists(value, "websocket")
		case sameASCII(name, fiber.HeaderSecWebSocketVersion):
			o.version = o.version || lists(value, "13")
		case sameASCII(name, fiber.HeaderSecWebSocketProtocol):
			for element := range bytes.SplitSeq(value, []byte{','}) {
				o.v1 = o.v1 || string(bytes.Trim(element, " \t")) == Protocol // whose case counts
			}
		case sameASCII(name, fiber.HeaderSecWebSocketKey):
			o.key = bytes.Clone(bytes.Trim(value, " \t")) // fasthttp 1.52 trims spaces only
			o.keys++
		case sameASCII(name, fiber.HeaderOrigin):
			o.origins++
		}
	})
	return o
}

// handshakePrefix is how the names begin that only a handshake has.
const handshakePrefix = "Sec-WebSocket-"

// sameASCII compares without case. A character outside ASCII never equals one within it.
func sameASCII(b []byte, s string) bool {
	return len(b) == len(s) && strings.EqualFold(string(b), s)
}

// lists reports whether a list has that element, without case.
func lists(list []byte, element string) bool {
	for e := range bytes.SplitSeq(list, []byte{','}) {
		if sameASCII(bytes.Trim(e, " \t"), element) {
			return true
		}
	}
	return false
}

// fieldText returns a request header as one list: lines of one name are one list (RFC 9110, section 5.3), and names match
// in any spelling, also in an app with DisableHeaderNormalizing. The result is valid as long as the request is.
func fieldText(c *fiber.Ctx, name string) string {
	if !c.App().Config().DisableHeaderNormalizing {
		lines := c.Request().Header.PeekAll(name)
		if len(lines) == 0 {
			return ""
		}
		texts := make([]string, len(lines))
		for i, line := range lines {
			texts[i] = string(line)
		}
		return strings.Join(texts, ",")
	}
	var texts []string
	headers := c.GetReqHeaders()
	for _, key := range slices.Sorted(maps.Keys(headers)) {
		if strings.EqualFold(key, name) {
			texts = append(texts, headers[key]...)
		}
	}
	return strings.Join(texts, ",")
}

// asked reports whether the request asks for a WebSocket at all.
func (o *opening) asked() bool { return o.connection && o.websocket }

// check returns an error if the handshake of a request for a WebSocket is invalid.
func (o *opening) check(c *fiber.Ctx) error {
	h := &c.Request().Header
	// A body would be read as frames if Fiber streams it.
	if !h.IsHTTP11() || len(h.Peek(fiber.HeaderTransferEncoding)) > 0 || h.ContentLength() > 0 {
		return fiber.NewError(fiber.StatusBadRequest, "the handshake must have no body and be HTTP/1.1")
	}
	if len(h.Host()) == 0 {
		return fiber.NewError(fiber.StatusBadRequest, "the handshake must name its host")
	}
	if !o.version || len(o.key) == 0 && o.keys < 2 {
		return upgradeRequired(c)
	}
	if o.keys > 1 || !isKey(o.key) {
		return fiber.NewError(fiber.StatusBadRequest, "the handshake must have one Sec-WebSocket-Key, of 16 bytes in base64")
	}
	if o.origins > 1 {
		return fiber.NewError(fiber.StatusForbidden, "origin not allowed: the handshake has more than one")
	}
	return nil
}

func isKey(b []byte) bool {
	var key [18]byte // the most that 24 characters decode to
	if len(b) != base64.StdEncoding.EncodedLen(16) {
		return false
	}
	n, err := base64.StdEncoding.Decode(key[:], b)
	return err == nil && n == 16
}

// settle rewrites the handshake in the request as contrib and Fiber look for it: one line of each name, in their
// spelling. It is called after WithAuthorize, since the offers of the client may hold its token.
func (o *opening) settle(h *fasthttp.RequestHeader) {
	h.Set(fiber.HeaderConnection, "Upgrade")
	h.Set(fiber.HeaderUpgrade, "websocket")
	h.Set(websocketVersion, "13")
	h.SetBytesV(websocketKey, o.key)
	if o.v1 {
		h.Set(websocketProtocol, Protocol)
	}
	if !o.v1 {
		h.Del(websocketProtocol) // last, since the memory of deleted lines is reused for new ones
	}
}

// How fasthttp's upgrader spells the names, which matters with DisableHeaderNormalizing.
const (
	websocketVersion  = "Sec-Websocket-Version"
	websocketKey      = "Sec-Websocket-Key"
	websocketProtocol = "Sec-Websocket-Protocol"
)

// upgradeGrace is how long sending the response to a handshake may take.
const upgradeGrace = 10 * time.Second

// upgrade settles the handshake and hands the request over to contrib, whose own checks it then satisfies. Everything
// that outlives the handler is a copy: Fiber reuses the memory of c as soon as upgrade returns.
//
// fasthttp sends no response, and calls the function as soon as every handler has returned. If fasthttp sent the 101
// itself, it would call the function only if the 101 has been sent, and only if neither side wants the connection
// closed after it. A place reserved for the client before that would have to be released by a timer. So the function
// sends the 101, and no place is reserved before.
func (m *Manager) upgrade(c *fiber.Ctx, a admission, o *opening) error {
	m.warnOfPrefork(c.App())
	o.settle(&c.Request().Header)
	c.Context().Response.Header.Del(fiber.HeaderSecWebSocketExtensions) // contrib would refuse
	r := reply{m: m, app: c.App(), ctx: c.Context(), sent: isAppTest(c.Context()), asks: true}
	err := websocket.New(func(conn *websocket.Conn) {
		p, ok := r.send(conn.NetConn(), &a)
		if !ok {
			_ = conn.Close() // as in serve
			return
		}
		a.v1 = conn.Subprotocol() == Protocol
		_ = m.serve(conn.NetConn(), a, p) // the client has been told
	}, websocket.Config{
		Subprotocols: []string{Protocol},
		// Nothing reads or writes through contrib's connection, whose buffers have 1 KiB each by default. The least is 1; 0
		// stands for the default.
		ReadBufferSize:  1,
		WriteBufferSize: 1,
		RecoverHandler: func(conn *websocket.Conn) { // the default one tells the client what the panic said
			m.recovered(recover(), conn.NetConn(), frames)
		},
	})(c)
	if err != nil {
		return upgradeRequired(c) // as contrib says for every reason
	}
	c.Context().HijackSetNoResponse(!r.sent)
	return nil
}

// isAppTest reports whether the request is one of app.Test, which reads its response before the function has run. It
// does not use the address that the request gives, since a middleware can set that.
func isAppTest(ctx *fasthttp.RequestCtx) bool {
	return ctx.Conn() != nil && isNoSocket(ctx.Conn().RemoteAddr()) && isNoSocket(ctx.Conn().LocalAddr())
}

// isNoSocket reports whether an address is one that no connected socket has: port 0, without a host.
func isNoSocket(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.Port == 0 && (len(tcp.IP) == 0 || tcp.IP.IsUnspecified())
}

// A reply is the response to an accepted request for a stream. fasthttp keeps ctx for the function to which it has handed
// the connection, and reuses ctx when that function has returned.
type reply struct {
	m    *Manager
	app  *fiber.App
	ctx  *fasthttp.RequestCtx
	sent bool // fasthttp has sent it
	asks bool // a refusal is to have its true status
}

// send reserves a place and sends the head of the response. If it returns false, it has failed, and the client has been
// told if that was possible.
func (r *reply) send(conn net.Conn, a *admission) (p place, ok bool) {
	h, accepted := &r.ctx.Response.Header, fiber.StatusSwitchingProtocols
	if a.encoding != frames {
		accepted = fiber.StatusOK
	}
	if h.StatusCode() != accepted || a.encoding != frames && r.isReplaced(a.encoding) { // a middleware has decided otherwise
		r.refuse(conn)
		return p, false
	}
	p, err := r.m.reserve(a.ip)
	switch {
	case err != nil && r.sent:
		_ = a.end(conn, err)
		return p, false
	case err != nil:
		r.explain(admissionError(err), a.encoding)
		r.refuse(conn)
		return p, false
	case r.sent:
		return p, true
	}
	if a.encoding != frames {
		openStream(h, a.encoding)
	} else {
		// A middleware or fasthttp may have put "close" there. No further request can follow anyway, and that is all it
		// says.
		h.ResetConnectionClose()
		h.Set(fiber.HeaderConnection, "Upgrade")
	}
	raw := link.Raw(conn)
	_ = raw.SetWriteDeadline(time.Now().Add(upgradeGrace))
	if _, err := raw.Write(h.Header()); err != nil {
		p.release()
		return p, false
	}
	_ = raw.SetWriteDeadline(time.Time{})
	return p, true
}

// explain has the app's ErrorHandler write the response, as if a handler had returned err: between the last handler and
// here, the last place was reserved, or the manager has shut down.
func (r *reply) explain(err error, e encoding) {
	c := r.app.AcquireCtx(r.ctx)
	defer r.app.ReleaseCtx(c)
	defer func() {
		if e == events && !r.asks {
			softenRefusal(r.ctx, reasonOf(err))
		}
	}()
	defer func() {
		if p := recover(); p != nil {
			r.m.cfg.logger.Error("mesherstream: ErrorHandler panicked", panicked(p)...)
			_ = c.SendStatus(fiber.StatusInternalServerError)
		}
	}()
	if r.app.ErrorHandler(c, err) != nil {
		_ = c.SendStatus(fiber.StatusInternalServerError)
	}
}

// refuse sends a response that begins no stream, and that no proxy could mistake for one that does.
func (r *reply) refuse(conn net.Conn) {
	if r.sent {
		return
	}
	h := &r.ctx.Response.Header
	if string(r.ctx.Response.Body()) == stand { // as c.SendStatus answers if it finds no body
		r.ctx.Response.SetBodyString(http.StatusText(h.StatusCode()))
		h.SetContentType(fiber.MIMETextPlainCharsetUTF8)
		deleteFields(h, fiber.HeaderETag)
	}
	h.Del(fiber.HeaderSecWebSocketAccept)
	h.Del(fiber.HeaderSecWebSocketProtocol)
	if h.StatusCode() != fiber.StatusUpgradeRequired {
		h.Del(fiber.HeaderUpgrade)
	}
	h.Del(fiber.HeaderConnection)
	h.SetConnectionClose()
	raw := link.Raw(conn)
	_ = raw.SetWriteDeadline(time.Now().Add(upgradeGrace))
	w := bufio.NewWriter(raw)
	if err := r.ctx.Response.Write(w); err == nil {
		_ = w.Flush() // if it fails, there is no way to tell the client
	}
}

// upgradeRequired says what the client has to ask for, to programs and to people.
func upgradeRequired(c *fiber.Ctx) error {
	c.Set(fiber.HeaderUpgrade, "websocket")
	c.Set("Sec-WebSocket-Version", "13")
	return fiber.NewError(fiber.StatusUpgradeRequired, "this is a stream of events, which a WebSocket, an EventSource or curl -N can open")
}

// refuseNetHTTP answers if the handler of a hijacked connection would never be called, and the client would wait
// forever.
func (m *Manager) refuseNetHTTP() error {
	const why = "the app is served by net/http through an adaptor, which can't hand a connection over to a stream; let Fiber listen itself"
	if !m.netHTTP.Swap(true) {
		m.cfg.logger.Error("mesherstream: " + why)
	}
	return fiber.NewError(fiber.StatusNotImplemented, why)
}

// recovered ends a connection whose handler has panicked. p is what recover has returned.
func (m *Manager) recovered(p any, conn net.Conn, e encoding) {
	if p != nil {
		m.cfg.logger.Error("mesherstream: panic", panicked(p)...)
		e.refuse(conn, wsframe.CodeInternalError, "")
	}
}
