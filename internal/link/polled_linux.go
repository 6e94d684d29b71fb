package link

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofiber/contrib/websocket"
	"golang.org/x/sys/unix"
)

// errPaused stops a Reader after a message that isn't dealt with yet.
var errPaused = errors.New("paused")

// readBytes is how much a link reads from its socket in one turn, so that a client that sends much can't keep the
// others waiting.
const readBytes = 4 << 10

// polled takes the socket over from fasthttp: it duplicates the descriptor, the handler returns, and its goroutine, its
// buffers and everything else that belongs to the connection are gone. From then on the owner's goroutine reads and
// writes, without ever blocking, when the poller says that it can.
//
// A polled belongs to its owner's goroutine.
type polled struct {
	owner  Owner
	poller *Poller
	token  uint32 // tells it from another one with the same descriptor
	fd     int
	acked  uint64 // at the last call of Progressed
	reader Reader
	hints  atomic.Uint32 // of the poller, which Ready has not seen yet
	unread []byte        // was read, but follows a message that is still being dealt with
	ending bool          // the poller has seen the end of the stream, after what is still to be read
	short  bool          // the last write found no room for all
	broken bool          // nothing can be written any more
	state  linkState
}

type linkState uint8

const (
	linkReading linkState = iota // bytes are read as they come
	linkHanding                  // a message is being handed to the owner
	linkWaiting                  // the owner will call Resume
	linkRefused                  // the reader refused what was received; the rest is discarded
	linkClosed
)

// takeOver returns a link for the socket under conn, or nil if there is none: under TLS, in memory, and if something
// has wrapped the connection. It then has changed nothing.
//
// A wrapper that offers the connection below is not looked through. It may change the bytes, as TLS does. It may hold some
// that it has read ahead, as a listener for the PROXY protocol does. And it may count the connection until it is closed,
// as fasthttp does for MaxConnsPerIP: fasthttp closes its own descriptor as soon as the handler has returned, and then
// the count would be wrong for as long as the client stays.
func takeOver(conn *websocket.Conn, o Owner, opts Options) *polled {
	raw := Raw(conn)
	switch raw.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	control, err := raw.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	// Not through File(), which may change the blocking mode that both descriptors share.
	fd := -1
	err = control.Control(func(original uintptr) {
		fd, err = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err != nil || fd < 0 {
		return nil
	}
	p, err := opts.Poller()
	if err != nil {
		_ = unix.Close(fd)
		return nil
	}
	return &polled{owner: o, poller: p, fd: fd, reader: opts.Reader, unread: readAhead(conn, raw)}
}

// readAhead returns what fasthttp has read off the socket with the handshake. After a deadline in the past, a read
// returns what is buffered and never asks the socket.
func readAhead(conn *websocket.Conn, raw net.Conn) (early []byte) {
	_ = raw.SetReadDeadline(time.Unix(1, 0))
	buf := make([]byte, readBytes)
	for {
		n, err := conn.NetConn().Read(buf)
		early = append(early, buf[:n]...)
		if err != nil || n == 0 {
			return early
		}
	}
}

// Begin is the link's first turn: the poller speaks of the socket from now on, at once if something waits already.
func (l *polled) Begin() {
	if err := l.poller.add(l); err != nil {
		l.owner.Handle(Event{Kind: Failed, Err: err})
		return
	}
	if len(l.unread) > 0 {
		l.read()
	}
}

func (l *polled) Write(p []byte, _ []int) (sent, held int, err error) {
	for {
		n, err := unix.Write(l.fd, p)
		switch {
		case err == nil:
			l.short = n < len(p)
			return n, 0, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			l.short = true
			return 0, 0, nil
		case isReset(err) && l.state != linkWaiting: // for a hook, which may take its time
			l.ending, l.broken, l.short = true, true, true
			l.owner.Again()
			return 0, 0, nil
		default:
			return 0, 0, os.NewSyscallError("write", err)
		}
	}
}

func (l *polled) Retry() { l.owner.Handle(Event{Kind: Writable}) }

// Ready follows the poller's hints. They tell edges only, so everything that may be done is tried.
func (l *polled) Ready() {
	events := l.hints.Swap(0)
	if events&unix.EPOLLOUT != 0 {
		if l.short {
			l.owner.Seen(time.Now()) // there was no room, and now there is: it takes what waits
		}
		l.owner.Handle(Event{Kind: Writable})
	}
	switch {
	case events == unix.EPOLLOUT, l.state == linkClosed:
	case events&unix.EPOLLHUP != 0 && l.state == linkWaiting:
		l.owner.Handle(Event{Kind: Failed, Err: unix.ECONNRESET}) // nothing can be written any more
	default:
		l.ending = l.ending || events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
		l.read()
	}
}

// read reads once, hands over what it got, and asks for another turn where there may be more.
func (l *polled) read() {
	if l.state == linkWaiting || l.state == linkClosed {
		return // Resume comes back to it
	}
	if len(l.unread) > 0 {
		early := l.unread
		l.unread = nil
		l.feed(early)
		l.owner.Again()
		return
	}
	n, err := unix.Read(l.fd, l.poller.buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return
	case errors.Is(err, unix.EINTR):
		l.owner.Again()
		return
	case err != nil:
		l.owner.Handle(Event{Kind: Failed, Err: os.NewSyscallError("read", err)})
		return
	case n == 0 && l.broken: // a close frame that waits to be written waits for nothing
		l.owner.Handle(Event{Kind: Failed, Err: io.EOF})
		return
	case n == 0:
		l.owner.Handle(Event{Kind: Ended, Err: io.EOF})
		return
	}
	l.owner.Seen(time.Now())
	l.feed(l.poller.buf[:n])
	if n == len(l.poller.buf) || l.ending {
		l.owner.Again() // otherwise what is still to come has an edge of its own
	}
}

// feed hands the messages in p to the owner, up to one that the link has to wait for.
func (l *polled) feed(p []byte) {
	if l.state == linkRefused {
		return
	}
	n, err := l.reader.Feed(p, l.emit)
	switch {
	case l.state == linkClosed:
	case err != nil && !errors.Is(err, errPaused):
		l.state = linkRefused
		l.owner.Handle(Event{Kind: Refused, Err: err})
	case n < len(p):
		l.unread = append([]byte(nil), p[n:]...)
	}
}

// emit hands a message to the owner, which may have dealt with it when that returns.
func (l *polled) emit(op byte, payload []byte) error {
	l.state = linkHanding
	l.owner.Handle(Event{Kind: Received, Op: op, Payload: payload})
	switch l.state {
	case linkReading:
		return nil
	case linkHanding:
		l.state = linkWaiting
	}
	return errPaused
}

func (l *polled) Progressed() bool {
	before := l.acked
	l.acked = ackedOf(l.fd)
	return l.acked > before
}

func (l *polled) Resume() {
	switch l.state {
	case linkHanding:
		l.state = linkReading
	case linkWaiting:
		l.state = linkReading
		l.owner.Again()
	}
}

func (l *polled) Close() {
	if l.state == linkClosed {
		return
	}
	l.state = linkClosed
	l.unread = nil
	l.poller.remove(l)
	_ = unix.Close(l.fd)
}

// Open returns a link for conn. The handler of conn must call stay, which returns at once if the link has taken the
// socket over, and otherwise when the owner has closed the link.
func Open(conn *websocket.Conn, o Owner, opts Options) (l Link, stay func()) {
	if l := takeOver(conn, o, opts); l != nil {
		return l, func() {}
	}
	p := NewPortable(conn.NetConn(), Raw(conn), o, opts)
	return p, p.Serve
}
