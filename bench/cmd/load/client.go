//go:build linux

package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/chunked"
	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/control"
)

// stage is how far a connection has come.
type stage uint8

const (
	absent     stage = iota
	connecting       // the TCP handshake
	upgrading        // the handshake, or a request without one
	open
)

// client is one connection, and the next one in its place when it reconnects.
type client struct {
	fd      int
	stage   stage
	stalled bool
	churns  bool
	again   bool   // it has come again, and got nothing yet
	due     int64  // CLOCK_MONOTONIC at which it was to connect
	request []byte // the handshake, kept for reconnects
	rest    []byte // what was read and is no whole frame, or no whole handshake, yet
	carry   []byte // of a fragmented message, what may be the beginning of a stamp; of a chunked body, what is no whole message
	account account

	// Over plain HTTP.
	chunked bool
	chunks  chunked.Decoder

	// With the protocol.
	handled, acknowledged int
}

// handshake is the part of the handshake that all clients share.
type handshake struct {
	key, accept, subprotocol string
}

func newHandshake(wire string) handshake {
	subprotocol := ""
	if wire == control.Protocol {
		subprotocol = "Sec-WebSocket-Protocol: mesherstream.v1\r\n"
	}
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails
	key := base64.StdEncoding.EncodeToString(nonce)
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return handshake{key: key, accept: base64.StdEncoding.EncodeToString(sum[:]), subprotocol: subprotocol}
}

func (h *handshake) request(host, uri string) []byte {
	return []byte("GET " + uri + " HTTP/1.1\r\nHost: " + host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + h.key + "\r\n" + h.subprotocol + "\r\n")
}

var errRefused = errors.New("handshake refused")

// response takes the server's answer off buf. It returns done false where it has not come as a whole.
func (h *handshake) response(buf []byte) (rest []byte, done bool, err error) {
	head, rest, done := bytes.Cut(buf, []byte("\r\n\r\n"))
	if !done {
		return buf, false, nil
	}
	status, _, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 101 ")) || !bytes.Contains(head, []byte(h.accept)) {
		return nil, false, fmt.Errorf("%w: %s", errRefused, strconv.Quote(string(status)))
	}
	return rest, true, nil
}

// dial opens a socket and begins to connect it.
func (l *load) dial(index int) error {
	c := &l.clients[index]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket %d: %w", index, err)
	}
	options := []struct{ level, name, value int }{
		// Loopback's segments of 64 KiB fill a receiver's window in leaps, which hides slow clients.
		{unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1460},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		// The port is chosen by connect, from all that are free towards this server.
		{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1},
	}
	if c.stalled {
		options = append(options, struct{ level, name, value int }{unix.SOL_SOCKET, unix.SO_RCVBUF, 4096})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			unix.Close(fd)
			return fmt.Errorf("set socket option %d: %w", o.name, err)
		}
	}
	source := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(2 + index%l.sources)}}
	if err := unix.Bind(fd, source); err != nil {
		unix.Close(fd)
		return fmt.Errorf("bind %v: %w", source.Addr, err)
	}
	target := &unix.SockaddrInet4{Addr: l.server.Addr().As4(), Port: int(l.server.Port())}
	if err := unix.Connect(fd, target); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return fmt.Errorf("connect to %v: %w", l.server, err)
	}
	// Edge-triggered, once for all: a socket costs no epoll_ctl after this one.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(index)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		unix.Close(fd)
		return fmt.Errorf("watch socket: %w", err)
	}
	c.fd, c.stage = fd, connecting
	c.rest, c.carry = c.rest[:0], c.carry[:0]
	c.chunks, c.handled, c.acknowledged = chunked.Decoder{}, 0, 0
	l.underway++
	return nil
}

// connected sends the handshake when the TCP connection stands.
func (l *load) connected(c *client) error {
	if failure, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || failure != 0 {
		return fmt.Errorf("connect to %v: %w", l.server, errors.Join(err, unix.Errno(failure)))
	}
	// A new socket's send buffer has room for a handshake, so a short write is as unlikely as an error and treated as one.
	if n, err := unix.Write(c.fd, c.request); n != len(c.request) {
		return fmt.Errorf("send handshake: %d bytes of %d: %w", n, len(c.request), err)
	}
	c.stage = upgrading
	return nil
}

// upgraded takes the handshake's answer off data and returns what follows it.
func (l *load) upgraded(c *client, data []byte) (rest []byte, err error) {
	var done bool
	if l.plain() {
		rest, c.chunked, done, err = plainResponse(data)
	} else {
		rest, done, err = l.handshake.response(data)
	}
	if err != nil || !done {
		return rest, err
	}
	c.stage = open
	l.underway--
	l.established++
	if !l.ready {
		l.handshakes.Record(clock.Now() - c.due)
	}
	if c.stalled {
		// From here on nobody looks at this socket: its buffers fill, and stay full.
		return nil, unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, c.fd, nil)
	}
	return rest, nil
}

// hangUp closes the connection. Closing takes a descriptor out of the epoll set by itself.
func (l *load) hangUp(c *client) {
	switch c.stage {
	case absent:
		return
	case open:
		l.established--
	default:
		l.underway--
	}
	unix.Close(c.fd)
	c.stage = absent
}

// keep stores in dst what of src must wait for more. src may be the tail of a shared buffer.
func keep(dst, src []byte) []byte { return append(slices.Grow(dst[:0], len(src)), src...) }
