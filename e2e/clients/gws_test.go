package clients

import (
	"context"
	"errors"

	"github.com/lxzan/gws"
)

// lxzan is the client of the package gws, which closes the connection as soon as its close frame is out.
var lxzan = &driver{name: "gws", noAnswer: true, noOneCode: true, run: func(_ context.Context, p plan) report {
	s := &gwsClient{seen: seen{plan: p}}
	ws, _, err := gws.NewClient(s, &gws.ClientOption{
		Addr:              p.URL,
		TlsConfig:         p.tls(),
		CheckUtf8Enabled:  true,
		PermessageDeflate: gws.PermessageDeflate{Enabled: true},
	})
	if err != nil {
		return s.fail(err)
	}
	ws.ReadLoop() // which calls OnOpen first, and OnClose last
	switch {
	case p.Vanish:
		return s.vanished()
	case s.left && s.err == nil:
		return s.end(p.Close.Code, p.Close.Reason)
	}
	if closed, ok := errors.AsType[*gws.CloseError](s.err); ok {
		return s.end(int(closed.Code), s.reason)
	}
	return s.fail(s.err)
}}

type gwsClient struct {
	gws.BuiltinEventHandler
	seen
	reason string
	err    error
}

func (s *gwsClient) OnOpen(ws *gws.Conn) {
	if s.plan.Send != "" {
		s.err = errors.Join(s.err, ws.WriteString(s.plan.Send))
	}
	if s.plan.Ping != "" {
		s.err = errors.Join(s.err, ws.WritePing([]byte(s.plan.Ping)))
	}
	s.leave(ws)
}

func (s *gwsClient) OnPing(ws *gws.Conn, payload []byte) { _ = ws.WritePong(payload) }

func (s *gwsClient) OnPong(_ *gws.Conn, payload []byte) { s.report.Pong = string(payload) }

func (s *gwsClient) OnMessage(ws *gws.Conn, m *gws.Message) {
	defer m.Close()
	s.take(m.Opcode == gws.OpcodeBinary, m.Bytes())
	s.leave(ws)
}

func (s *gwsClient) leave(ws *gws.Conn) {
	if !s.leaves() {
		return
	}
	if s.plan.Vanish {
		_ = ws.NetConn().Close()
		return
	}
	s.err = ws.WriteClose(uint16(s.plan.Close.Code), []byte(s.plan.Close.Reason))
}

func (s *gwsClient) OnClose(_ *gws.Conn, err error) {
	if closed, ok := errors.AsType[*gws.CloseError](err); ok {
		s.reason = string(closed.Reason) // which is valid only now
	}
	if !s.left {
		s.err = err
	}
}
