package proxies

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream/internal/streamtest"
)

// Frames of HTTP/2 (RFC 9113, 6), and the setting by which a server offers WebSockets over it (RFC 8441, 3).
const (
	frameData     = 0
	frameHeaders  = 1
	frameSettings = 4

	flagAck        = 1 // of settings
	flagEndHeaders = 4

	settingConnectProtocol = 8
)

// http2Conn speaks just enough of HTTP/2.
type http2Conn struct {
	*testing.T
	conn net.Conn
	r    *bufio.Reader
}

// dialHTTP2 returns a connection to the proxy and the settings that it begins with.
func (s *stage) dialHTTP2() (*http2Conn, map[uint16]uint32) {
	s.Helper()
	conn, err := tls.Dial("tcp", s.proxy.addr(), &tls.Config{RootCAs: roots(), ServerName: "app.example.com", NextProtos: []string{"h2"}})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close() })
	if got := conn.ConnectionState().NegotiatedProtocol; got != "h2" {
		s.Fatalf("the protocol is %q, want h2", got)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &http2Conn{T: s.T, conn: conn, r: bufio.NewReader(conn)}
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
		s.Fatal(err)
	}
	c.write(frameSettings, 0, 0, nil)
	payload := c.read(frameSettings)
	settings := make(map[uint16]uint32)
	for ; len(payload) >= 6; payload = payload[6:] {
		settings[binary.BigEndian.Uint16(payload)] = binary.BigEndian.Uint32(payload[2:])
	}
	c.write(frameSettings, flagAck, 0, nil)
	return c, settings
}

func (c *http2Conn) write(kind, flags byte, stream uint32, payload []byte) {
	c.Helper()
	head := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	head = binary.BigEndian.AppendUint32(append(head, flags), stream)
	if _, err := c.conn.Write(append(head, payload...)); err != nil {
		c.Fatal(err)
	}
}

// read returns the payload of the next frame of a kind that isn't empty.
func (c *http2Conn) read(kind byte) []byte {
	c.Helper()
	for {
		var head [9]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			c.Fatalf("no frame of kind %d: %v", kind, err)
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(c.r, payload); err != nil {
			c.Fatal(err)
		}
		if head[3] == kind && len(payload) > 0 {
			return payload
		}
	}
}

// http2Data reads the data of a connection.
type http2Data struct {
	c    *http2Conn
	left []byte
}

func (d *http2Data) Read(p []byte) (int, error) {
	if len(d.left) == 0 {
		d.left = d.c.read(frameData)
	}
	n := copy(p, d.left)
	d.left = d.left[n:]
	return n, nil
}

// plainHeaders encodes short names and values as HPACK's literals, without its table and Huffman's code.
func plainHeaders(pairs ...string) (encoded []byte) {
	for i := 0; i < len(pairs); i += 2 {
		encoded = append(encoded, 0)
		for _, s := range pairs[i : i+2] {
			encoded = append(append(encoded, byte(len(s))), s...)
		}
	}
	return encoded
}

func TestOnlyHAProxyOffersWebSocketsOverHTTP2AndTranslatesThem(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		s := behind(t, p, asPrinted)
		c, settings := s.dialHTTP2()
		offered := settings[settingConnectProtocol] == 1
		if want := p.name == "HAProxy"; offered != want {
			t.Errorf("it offers WebSockets over HTTP/2: %v, want %v", offered, want)
		}
		if !offered {
			return
		}
		c.write(frameHeaders, flagEndHeaders, 1, plainHeaders(
			":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/stream/projects/shop",
			":authority", strings.TrimPrefix(s.proxy.origin(), "https://"), "origin", s.proxy.origin(), "sec-websocket-version", "13",
		))
		const status200 = 0x88 // in HPACK's table
		if headers := c.read(frameHeaders); headers[0] != status200 {
			t.Fatalf("the answer's headers begin with %#x, want %#x, which is status 200", headers[0], status200)
		}
		s.eventually("the manager knows the stream", func() bool { return s.m.Stats().Clients == 1 })
		s.broadcast("hello")
		if got, err := streamtest.ReadFrame(&http2Data{c: c}); err != nil || string(got) != "\x81\x05hello" {
			t.Errorf("got the frame %q, %v, want the message", got, err)
		}
	})
}
