package clients

import (
	"context"
	"errors"
	"net/http"

	"github.com/coder/websocket"
)

var coder = &driver{name: "coder", run: func(ctx context.Context, p plan) report {
	s := &seen{plan: p}
	ws, _, err := websocket.Dial(ctx, p.URL, &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: &http.Transport{TLSClientConfig: p.tls(), DisableKeepAlives: true}},
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		return s.fail(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	if p.Send != "" {
		if err := ws.Write(ctx, websocket.MessageText, []byte(p.Send)); err != nil {
			return s.fail(err)
		}
	}
	// The library chooses the payload itself, and returns when the same one has come back.
	pong := make(chan error, 1)
	if p.Ping != "" {
		go func() { pong <- ws.Ping(ctx) }()
	}
	for !s.leaves() {
		kind, data, err := ws.Read(ctx)
		if err != nil {
			if p.Ping != "" {
				if err := <-pong; err == nil {
					s.report.Pong = p.Ping
				}
			}
			if closed, ok := errors.AsType[websocket.CloseError](err); ok {
				return s.end(int(closed.Code), closed.Reason)
			}
			return s.fail(err)
		}
		s.take(kind == websocket.MessageBinary, data)
	}
	if p.Vanish {
		_ = ws.CloseNow()
		return s.vanished()
	}
	// It compares the code of the answer with its own.
	if err := ws.Close(websocket.StatusCode(p.Close.Code), p.Close.Reason); err != nil {
		return s.fail(err)
	}
	return s.end(p.Close.Code, p.Close.Reason)
}}
