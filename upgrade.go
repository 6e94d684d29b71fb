package mesherstream

import (
	"bufio"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// upgradeGrace is how long the answer to a handshake may take to go out.
const upgradeGrace = 10 * time.Second

// upgrade hands over to contrib, whose own questions have been answered. Everything that lives on is a copy: Fiber uses
// the memory behind c again as soon as this returns.
//
// fasthttp sends no response, and calls the function as soon as every handler has returned. If it sent the 101 itself, it
// would call the function only if that has gone out, and only if neither side wants the connection closed behind it: a
// place that was taken for the client before would have to wait for a timer. So the function sends the 101, and no place
// is taken before.
func (m *Manager) upgrade(c *fiber.Ctx, a admission) error {
	m.warnOfPrefork(c.App())
	c.Context().Response.Header.Del(fiber.HeaderSecWebSocketExtensions) // contrib would refuse
	r := reply{m: m, app: c.App(), ctx: c.Context(), sent: isAppTest(c.Context())}
	err := websocket.New(func(conn *websocket.Conn) {
		p := r.send(conn, a.ip)
		if p == nil {
			_ = conn.Close() // as in serve
			return
		}
		_ = m.serve(conn, a.sub, a.grant, p) // the client has been told
	}, websocket.Config{
		Subprotocols:   []string{Protocol},
		RecoverHandler: m.recovered, // the default one tells the client what the panic said
	})(c)
	if err != nil {
		return upgradeRequired(c) // as contrib says for every reason
	}
	c.Context().HijackSetNoResponse(!r.sent)
	return nil
}

// isAppTest says whether the request is one of app.Test, which reads its answer before the function has run. No other
// peer has port 0.
func isAppTest(ctx *fasthttp.RequestCtx) bool {
	peer, ok := ctx.RemoteAddr().(*net.TCPAddr)
	return ok && peer.Port == 0
}

// A reply is the answer to a handshake that has been accepted. fasthttp keeps ctx for the function that it has handed the
// connection to, and uses it again when that has returned.
type reply struct {
	m    *Manager
	app  *fiber.App
	ctx  *fasthttp.RequestCtx
	sent bool // fasthttp has sent it
}

// send takes a place and sends the 101. Otherwise it returns nil, and the client has been told if that was possible.
func (r *reply) send(conn *websocket.Conn, ip string) *place {
	h := &r.ctx.Response.Header
	if h.StatusCode() != fiber.StatusSwitchingProtocols { // a middleware has decided otherwise
		r.refuse(conn)
		return nil
	}
	p, err := r.m.reserve(ip)
	switch {
	case err != nil && r.sent:
		_ = tellRefusal(conn, err)
		return nil
	case err != nil:
		r.explain(admissionError(err))
		r.refuse(conn)
		return nil
	case r.sent:
		return p
	}
	// A middleware or fasthttp may have put "close" there: no further request can follow anyway, and that is all it says.
	h.ResetConnectionClose()
	h.Set(fiber.HeaderConnection, "Upgrade")
	raw := rawConn(conn)
	_ = raw.SetWriteDeadline(time.Now().Add(upgradeGrace))
	if _, err := raw.Write(h.Header()); err != nil {
		p.release()
		return nil
	}
	_ = raw.SetWriteDeadline(time.Time{})
	return p
}

// explain has the app's ErrorHandler write the response, as it does if a handler returns err: between the last handler
// and here, the last place was taken, or the manager has shut down.
func (r *reply) explain(err error) {
	c := r.app.AcquireCtx(r.ctx)
	defer r.app.ReleaseCtx(c)
	defer func() {
		if p := recover(); p != nil {
			r.m.cfg.logger.Error("mesherstream: ErrorHandler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			_ = c.SendStatus(fiber.StatusInternalServerError)
		}
	}()
	if r.app.ErrorHandler(c, err) != nil {
		_ = c.SendStatus(fiber.StatusInternalServerError)
	}
}

// refuse sends what is no 101, and nothing that a proxy could take for one.
func (r *reply) refuse(conn *websocket.Conn) {
	if r.sent {
		return
	}
	h := &r.ctx.Response.Header
	h.Del(fiber.HeaderSecWebSocketAccept)
	h.Del(fiber.HeaderSecWebSocketProtocol)
	if h.StatusCode() != fiber.StatusUpgradeRequired {
		h.Del(fiber.HeaderUpgrade)
	}
	h.Del(fiber.HeaderConnection)
	h.SetConnectionClose()
	raw := rawConn(conn)
	_ = raw.SetWriteDeadline(time.Now().Add(upgradeGrace))
	w := bufio.NewWriter(raw)
	if err := r.ctx.Response.Write(w); err == nil {
		_ = w.Flush() // if it fails, there is nobody to tell
	}
}
