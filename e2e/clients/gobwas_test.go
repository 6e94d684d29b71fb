package clients

import (
	"bytes"
	"context"
	"io"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

var gobwas = &driver{name: "gobwas", run: func(ctx context.Context, p plan) report {
	s := &seen{plan: p}
	conn, early, _, err := ws.Dialer{TLSConfig: p.tls()}.Dial(ctx, p.URL)
	if err != nil {
		return s.fail(err)
	}
	defer conn.Close()
	source := io.Reader(conn)
	if early != nil { // what came together with the answer to the handshake
		source = early
	}
	reader := wsutil.Reader{Source: source, State: ws.StateClientSide, CheckUTF8: true}
	if p.Send != "" {
		if err := wsutil.WriteClientText(conn, []byte(p.Send)); err != nil {
			return s.fail(err)
		}
	}
	if p.Ping != "" {
		if err := wsutil.WriteClientMessage(conn, ws.OpPing, []byte(p.Ping)); err != nil {
			return s.fail(err)
		}
	}
	for {
		leave := s.leaves()
		if leave && p.Vanish {
			return s.vanished()
		}
		if leave {
			var body []byte
			if p.Close.Code != noCode {
				body = ws.NewCloseFrameBody(ws.StatusCode(p.Close.Code), p.Close.Reason)
			}
			if err := wsutil.WriteClientMessage(conn, ws.OpClose, body); err != nil {
				return s.fail(err)
			}
		}
		header, err := reader.NextFrame()
		if err != nil {
			return s.fail(err)
		}
		data, err := io.ReadAll(&reader)
		if err != nil {
			return s.fail(err)
		}
		switch header.OpCode {
		case ws.OpText, ws.OpBinary:
			s.take(header.OpCode == ws.OpBinary, data)
		case ws.OpPong:
			s.report.Pong = string(data)
		case ws.OpPing:
			handler := wsutil.ControlHandler{Src: bytes.NewReader(data), Dst: conn, State: ws.StateClientSide}
			if err := handler.Handle(header); err != nil {
				return s.fail(err)
			}
		case ws.OpClose:
			if !s.left {
				if err := wsutil.WriteClientMessage(conn, ws.OpClose, data[:min(len(data), 2)]); err != nil {
					return s.fail(err)
				}
			}
			if len(data) == 0 {
				return s.end(noCode, "")
			}
			code, reason := ws.ParseCloseFrameData(data)
			if err := ws.CheckCloseFrameData(code, reason); err != nil {
				return s.fail(err)
			}
			return s.end(int(code), reason)
		}
	}
}}
