package clients

import (
	"net/http"
	"strings"
	"testing"
)

// The opening handshake of RFC 6455, section 4.2. What is sent besides the request line and Host, and what is answered.
func TestTheOpeningHandshake(t *testing.T) {
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
	for _, tt := range []struct {
		name    string
		request string
		headers string
		status  int
	}{
		{name: "as in the RFC", headers: good, status: 101},
		{name: "names and tokens in other letters", headers: strings.NewReplacer("Connection: Upgrade", "CONNECTION: keep-alive, uPgRaDe", "Upgrade: websocket", "upgrade: WebSocket").Replace(good), status: 101},
		{name: "extensions and protocols that are not agreed on", headers: good + "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: chat, superchat\r\n", status: 101},
		{name: "no Upgrade", headers: without("Upgrade"), status: 426},
		{name: "Upgrade to something else", headers: without("Upgrade") + "Upgrade: h2c\r\n", status: 426},
		{name: "no Connection", headers: without("Connection"), status: 426},
		{name: "Connection without upgrade", headers: without("Connection") + "Connection: keep-alive\r\n", status: 426},
		{name: "no version", headers: without("Sec-WebSocket-Version"), status: 426},
		{name: "version 8", headers: without("Sec-WebSocket-Version") + "Sec-WebSocket-Version: 8\r\n", status: 426},
		{name: "no key", headers: without("Sec-WebSocket-Key"), status: 426},
		{name: "empty key", headers: without("Sec-WebSocket-Key") + "Sec-WebSocket-Key: \r\n", status: 426},
		{name: "key of 15 bytes", headers: without("Sec-WebSocket-Key") + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n", status: 426},
		{name: "key that is no base64", headers: without("Sec-WebSocket-Key") + "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==\r\n", status: 426},
		{name: "POST", request: "POST /stream/projects/x HTTP/1.1", headers: good + "Content-Length: 0\r\n", status: 404},
		{name: "HTTP/1.0", request: "GET /stream/projects/x HTTP/1.0", headers: good, status: 426},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overTransports(t, func(t *testing.T, tr transport) {
				w := start(t, tr)
				c := connectRaw(t, w)
				if tt.request == "" {
					tt.request = "GET /stream/projects/x HTTP/1.1"
				}
				if _, err := c.conn.Write([]byte(tt.request + "\r\nHost: " + w.addr + "\r\n" + tt.headers + "\r\n")); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(c.r, nil)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != tt.status {
					t.Errorf("status: got %d, want %d", resp.StatusCode, tt.status)
				}
				t.Log(resp.StatusCode, resp.Header)
			})
		})
	}
}
