package clients

import (
	"context"
	"errors"
	"time"

	"github.com/gorilla/websocket"
)

var gorilla = &driver{name: "gorilla", run: func(ctx context.Context, p plan) report {
	s := &seen{plan: p}
	d := websocket.Dialer{TLSClientConfig: p.tls(), EnableCompression: true}
	ws, _, err := d.DialContext(ctx, p.URL, nil)
	if err != nil {
		return s.fail(err)
	}
	defer ws.Close()
	ws.SetPongHandler(func(payload string) error { s.report.Pong = payload; return nil })
	if p.Send != "" {
		if err := ws.WriteMessage(websocket.TextMessage, []byte(p.Send)); err != nil {
			return s.fail(err)
		}
	}
	if p.Ping != "" {
		if err := ws.WriteControl(websocket.PingMessage, []byte(p.Ping), time.Time{}); err != nil {
			return s.fail(err)
		}
	}
	for {
		leave := s.leaves()
		if leave && p.Vanish {
			_ = ws.NetConn().Close()
			return s.vanished()
		}
		if leave {
			frame := websocket.FormatCloseMessage(p.Close.Code, p.Close.Reason)
			if err := ws.WriteControl(websocket.CloseMessage, frame, time.Time{}); err != nil {
				return s.fail(err)
			}
		}
		kind, data, err := ws.ReadMessage()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
			return s.end(closed.Code, closed.Text)
		}
		if err != nil {
			return s.fail(err)
		}
		s.take(kind == websocket.BinaryMessage, data)
	}
}}
