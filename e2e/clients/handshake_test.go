package clients

import (
	"net/http"
	"strings"
	"testing"
)

// The opening handshake of RFC 6455, section 4.2. What is sent besides the request line and Host, and what is answered.
func TestTheOpeningHandshake(t *testing.T) {
	w := start(t, transports[0])
	const good = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	without := func(name string) string {
		var rest strings.Builder
		for line := range strings.SplitAfterSeq(good, "\r\n") {
			if !strings.HasPrefix(line, name+":") {
				rest.WriteString(line)
			}
		}
		return rest.String()
	}
	with := func(name, value string) string { return without(name) + name + ": " + value + "\r\n" }
	const get, accept = "GET /stream/projects/x HTTP/1.1", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	for _, tt := range []struct {
		name    string
		line    string
		headers string
		status  int
	}{
		{name: "as in the RFC", line: get, headers: good, status: 101},
		{name: "names and tokens in other letters", line: get, status: 101, headers: strings.NewReplacer(
			"Connection: Upgrade", "CONNECTION: keep-alive, uPgRaDe", "Upgrade: websocket", "upgrade: WebSocket").Replace(good)},
		{name: "extensions and protocols that are not agreed on", line: get, status: 101, headers: good +
			"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: chat, superchat\r\n"},
		{name: "no Upgrade", line: get, headers: without("Upgrade"), status: 426},
		{name: "Upgrade to something else", line: get, headers: with("Upgrade", "h2c"), status: 426},
		{name: "no Connection", line: get, headers: without("Connection"), status: 426},
		{name: "Connection without upgrade", line: get, headers: with("Connection", "keep-alive"), status: 426},
		{name: "HTTP of version 1.0", line: "GET /stream/projects/x HTTP/1.0", headers: good, status: 400},
		{name: "no version", line: get, headers: without("Sec-WebSocket-Version"), status: 426},
		{name: "version 8", line: get, headers: with("Sec-WebSocket-Version", "8"), status: 426},
		{name: "no key", line: get, headers: without("Sec-WebSocket-Key"), status: 426},
		{name: "empty key", line: get, headers: with("Sec-WebSocket-Key", ""), status: 426},
		{name: "POST", line: "POST /stream/projects/x HTTP/1.1", headers: good + "Content-Length: 0\r\n", status: 404},

		// fasthttp/websocket, below contrib, doesn't look at these.
		{name: "key of 15 bytes", line: get, headers: with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j"), status: 400},
		{name: "key that is no base64", line: get, headers: with("Sec-WebSocket-Key", "!!!!!!!!!!!!!!!!!!!!!!=="), status: 400},
		{name: "key twice", line: get, headers: good + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", status: 400},
		{name: "HEAD", line: "HEAD /stream/projects/x HTTP/1.1", headers: good, status: 426},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := connectRaw(t, w)
			if _, err := c.conn.Write([]byte(tt.line + "\r\nHost: " + w.addr + "\r\n" + tt.headers + "\r\n")); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(c.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			header := func(name string) string { return strings.Join(resp.Header.Values(name), ",") }
			if resp.StatusCode != tt.status {
				t.Errorf("status: got %d, want %d", resp.StatusCode, tt.status)
			}
			switch tt.status {
			case 101:
				if got := header("Sec-WebSocket-Accept"); got != accept {
					t.Errorf("Sec-WebSocket-Accept: got %q, want %q", got, accept)
				}
				for _, name := range []string{"Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"} {
					if got := header(name); got != "" {
						t.Errorf("%s: got %q, want none", name, got)
					}
				}
			case 426:
				if header("Upgrade") != "websocket" || header("Sec-WebSocket-Version") != "13" {
					t.Errorf("headers: got %v, want the protocol and its version", resp.Header)
				}
			}
		})
	}
}
