package clients

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// The opcodes and the bit of RFC 6455, section 5.2, that marks the last frame of a message.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
	fin            = 0x80
)

// A frame is one as a client sends it, right or wrong.
type frame struct {
	first   byte // FIN, the reserved bits and the opcode
	payload []byte

	unmasked   bool
	zeroMask   bool
	lengthBits int    // 7, 16 or 64; 0 is the shortest form
	claim      uint64 // what the length says instead of the truth; 0 is the truth
}

func (f frame) bytes() []byte {
	length := uint64(len(f.payload))
	if f.claim > 0 {
		length = f.claim
	}
	bits := f.lengthBits
	if bits == 0 {
		switch {
		case length <= 125:
			bits = 7
		case length <= 0xFFFF:
			bits = 16
		default:
			bits = 64
		}
	}
	mask := [4]byte{0x37, 0xFA, 0x21, 0x3D}
	maskBit := byte(0x80)
	if f.zeroMask || f.unmasked {
		mask = [4]byte{}
	}
	if f.unmasked {
		maskBit = 0
	}
	p := []byte{f.first}
	switch bits {
	case 7:
		p = append(p, maskBit|byte(length))
	case 16:
		p = binary.BigEndian.AppendUint16(append(p, maskBit|126), uint16(length))
	case 64:
		p = binary.BigEndian.AppendUint64(append(p, maskBit|127), length)
	}
	if !f.unmasked {
		p = append(p, mask[:]...)
	}
	start := len(p)
	p = append(p, f.payload...)
	for i := range p[start:] {
		p[start+i] ^= mask[i&3]
	}
	return p
}

func text(s string) frame          { return frame{first: fin | opText, payload: []byte(s)} }
func bin(s string) frame           { return frame{first: fin | opBinary, payload: []byte(s)} }
func ping(s string) frame          { return frame{first: fin | opPing, payload: []byte(s)} }
func pong(s string) frame          { return frame{first: fin | opPong, payload: []byte(s)} }
func closeFrame(s string) frame    { return frame{first: fin | opClose, payload: []byte(s)} }
func begin(s string) frame         { return frame{first: opText, payload: []byte(s)} }
func more(s string) frame          { return frame{first: opContinuation, payload: []byte(s)} }
func last(s string) frame          { return frame{first: fin | opContinuation, payload: []byte(s)} }
func op(code byte, s string) frame { return frame{first: fin | code, payload: []byte(s)} }

// reserved sets the three reserved bits of f to n.
func reserved(n byte, f frame) frame {
	f.first |= n << 4
	return f
}

// closeWith is a close frame with a code and a reason, whatever they are.
func closeWith(code int, reason string) frame {
	return closeFrame(string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason)
}

// fragments cuts a message into frames of size bytes.
func fragments(op byte, message string, size int) (list []frame) {
	for first := true; first || len(message) > 0; first = false {
		n := min(size, len(message))
		f := frame{first: opContinuation, payload: []byte(message[:n])}
		if first {
			f.first = op
		}
		if message = message[n:]; message == "" {
			f.first |= fin
		}
		list = append(list, f)
	}
	return list
}

// rawClient sends and reads bytes, and knows no protocol.
type rawClient struct {
	conn net.Conn
	r    *bufio.Reader
}

// dialRaw opens a stream of the project.
func dialRaw(t *testing.T, w *world, project string) *rawClient {
	t.Helper()
	c := connectRaw(t, w)
	request := "GET /stream/projects/" + project + " HTTP/1.1\r\nHost: " + w.addr +
		"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := c.conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v, response %+v", err, resp)
	}
	return c
}

// connectRaw opens a connection and sends nothing on it.
func connectRaw(t *testing.T, w *world) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	if w.transport.secure {
		conn = tls.Client(conn, &tls.Config{RootCAs: identity().pool, ServerName: "127.0.0.1"})
	}
	t.Cleanup(func() { _ = conn.Close() })
	must(conn.SetDeadline(time.Now().Add(2 * patience)))
	return &rawClient{conn: conn, r: bufio.NewReader(conn)}
}

// next reads one frame of the server, which may send nothing but whole messages, unmasked and in the shortest form.
func (c *rawClient) next() (frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return frame{}, err
	}
	length, least := uint64(head[1]), uint64(0)
	switch head[1] {
	case 126:
		var p [2]byte
		if _, err := io.ReadFull(c.r, p[:]); err != nil {
			return frame{}, err
		}
		length, least = uint64(binary.BigEndian.Uint16(p[:])), 126
	case 127:
		var p [8]byte
		if _, err := io.ReadFull(c.r, p[:]); err != nil {
			return frame{}, err
		}
		length, least = binary.BigEndian.Uint64(p[:]), 1<<16
	}
	if head[0]&fin == 0 || head[0]&0x70 != 0 || head[1]&0x80 != 0 || length < least || length > 64<<20 {
		return frame{}, fmt.Errorf("the server's frame begins with % x and has length %d", head, length)
	}
	f := frame{first: head[0], payload: make([]byte, length)}
	_, err := io.ReadFull(c.r, f.payload)
	return f, err
}

// endWriting tells the server that nothing more will come.
func (c *rawClient) endWriting() {
	_ = c.conn.(interface{ CloseWrite() error }).CloseWrite()
}
