//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/wsframe"
)

// maxUnderway is how many viewers of a process connect for the first time at once.
const maxUnderway = 128

// patience is how long a phase may take.
const patience = time.Minute

// herd is the viewers of one process, and the loop that serves them. They do what mesherstream.js does: they keep their
// positions, and acknowledge hello and marks.
type herd struct {
	server  netip.AddrPort
	source  byte
	epoll   int
	viewers []viewer
	buffer  []byte
	returns bool
	left    int // viewers that have not finished the phase
}

// viewer is one connection after the other.
type viewer struct {
	fd        int
	connected bool
	upgraded  bool
	done      bool // with this phase
	position  []byte
	rest      []byte // what was read and is no whole frame, or no whole handshake, yet
	received  int    // messages on this connection
	shown     int    // those of the application
	asked     int64
	took      time.Duration
}

// view serves the viewers until the commands end.
func view(c config, address string, source byte) error {
	runtime.LockOSThread()
	runtime.GOMAXPROCS(1)
	server, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	h := &herd{server: server, source: source, viewers: make([]viewer, c.Clients), buffer: make([]byte, 128<<10)}
	if h.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	return obey(func(cmd command) (a answer, err error) {
		var failure error
		switch cmd.Do {
		case "connect":
			failure = h.phase(func(i int) bool { return i-(len(h.viewers)-h.left) < maxUnderway })
		case "leave":
			for i := range h.viewers {
				_ = unix.Close(h.viewers[i].fd)
			}
		case "return":
			h.returns = true
			failure = h.phase(func(i int) bool { return clock.Now() >= cmd.At+int64(c.Over)*int64(i)/int64(len(h.viewers)) })
			for i := range h.viewers {
				v := &h.viewers[i]
				a.Returns = append(a.Returns, outcome{v.took, v.shown})
			}
		}
		if failure != nil {
			a = answer{Error: failure.Error()}
		}
		return a, nil
	})
}

// phase connects all viewers, each when it may, and serves them until all are done.
func (h *herd) phase(may func(i int) bool) error {
	h.left = len(h.viewers)
	deadline := clock.Now() + int64(patience)
	events := make([]unix.EpollEvent, 256)
	for next := 0; h.left > 0; {
		for ; next < len(h.viewers) && may(next); next++ {
			if err := h.dial(next); err != nil {
				return fmt.Errorf("viewer %d: %w", next, err)
			}
		}
		wait := 1 // millisecond
		if next == len(h.viewers) {
			wait = 100
		}
		n, err := unix.EpollWait(h.epoll, events, wait)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, event := range events[:max(n, 0)] {
			if err := h.serve(&h.viewers[event.Fd], event.Events); err != nil {
				return fmt.Errorf("viewer %d: %w", event.Fd, err)
			}
		}
		if clock.Now() > deadline {
			return h.late()
		}
	}
	return nil
}

// late says how far the viewers are that are not done.
func (h *herd) late() error {
	dialing, asking, waiting := 0, 0, 0
	for i := range h.viewers {
		switch v := &h.viewers[i]; {
		case v.done:
		case !v.connected:
			dialing++ // the server's backlog was full, and the kernel tries again later and later
		case v.received == 0:
			asking++
		default:
			waiting++
		}
	}
	return fmt.Errorf("after %v, %d viewers are not connected, %d have no hello, and %d have hello and are not done", patience, dialing, asking, waiting)
}

// dial opens a socket and begins to connect it.
func (h *herd) dial(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	h.viewers[i] = viewer{fd: fd, position: h.viewers[i].position, rest: h.viewers[i].rest[:0]}
	for _, o := range []struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1460}, // that of Ethernet
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, h.source}}); err != nil {
		return err
	}
	target := &unix.SockaddrInet4{Addr: h.server.Addr().As4(), Port: int(h.server.Port())}
	if err := unix.Connect(fd, target); err != nil && err != unix.EINPROGRESS {
		return err
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(i)}
	return unix.EpollCtl(h.epoll, unix.EPOLL_CTL_ADD, fd, &event)
}

var errEnded = errors.New("the server has closed the connection")

func (h *herd) serve(v *viewer, events uint32) error {
	if !v.connected && events&unix.EPOLLOUT != 0 {
		if failure, err := unix.GetsockoptInt(v.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || failure != 0 {
			return errors.Join(err, unix.Errno(failure))
		}
		query := ""
		if h.returns {
			query = "?since=" + string(v.position)
		}
		v.connected, v.asked = true, clock.Now()
		if err := v.send([]byte("GET /stream/projects/shop" + query + " HTTP/1.1\r\nHost: " + h.server.String() +
			"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mesherstream.v1\r\n\r\n")); err != nil {
			return err
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return nil
	}
	for {
		n := copy(h.buffer, v.rest)
		got, err := unix.Read(v.fd, h.buffer[n:])
		switch {
		case err == unix.EAGAIN:
			return nil
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case got == 0:
			return errEnded
		}
		rest, err := h.take(v, h.buffer[:n+got])
		if err != nil {
			return err
		}
		v.rest = append(v.rest[:0], rest...)
	}
}

func (v *viewer) send(p []byte) error {
	if n, err := unix.Write(v.fd, p); err != nil || n < len(p) {
		return fmt.Errorf("sent %d bytes of %d: %w", n, len(p), err)
	}
	return nil
}

// take takes the frames off data, and returns what is no whole one.
func (h *herd) take(v *viewer, data []byte) (rest []byte, err error) {
	if !v.upgraded {
		head, rest, ok := bytes.Cut(data, []byte("\r\n\r\n"))
		if !ok {
			return data, nil
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
			return nil, fmt.Errorf("refused: %.200q", head)
		}
		v.upgraded, data = true, rest
	}
	for {
		f, rest, ok := wsframe.Next(data)
		if !ok {
			return data, nil
		}
		data = rest
		switch f.Opcode {
		case wsframe.Ping:
			err = v.send(wsframe.AppendControl(nil, wsframe.Pong, f.Payload))
		case wsframe.Close:
			err = errEnded
		default:
			err = h.message(v, f.Payload)
		}
		if err != nil {
			return nil, err
		}
	}
}

// message takes a message. Those of the application are no JSON.
func (h *herd) message(v *viewer, p []byte) error {
	v.received++
	kind, ok := bytes.CutPrefix(p, []byte(`{"type":"`))
	if !ok {
		v.shown++
		return nil
	}
	is := func(name string) bool { return bytes.HasPrefix(kind, []byte(name+`"`)) }
	if is("hello") || is("mark") {
		if _, after, ok := bytes.Cut(p, []byte(`"position":"`)); ok {
			position, _, _ := bytes.Cut(after, []byte(`"`))
			v.position = append(v.position[:0], position...)
		}
		n := strconv.Itoa(v.received)
		if err := v.send(wsframe.AppendControl(nil, wsframe.Text, []byte(`{"type":"ack","n":`+n+`}`))); err != nil {
			return err
		}
	}
	if ends := is("hello") && !h.returns || is("replayed"); ends && !v.done {
		v.done, v.took = true, time.Duration(clock.Now()-v.asked)
		h.left--
	}
	return nil
}
