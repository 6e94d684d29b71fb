package mesherstream

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/mesher/mesherstream/internal/wsframe"
	"golang.org/x/sys/unix"
)

// errPaused stops a wsframe.Reader behind a message that isn't dealt with yet.
var errPaused = errors.New("paused")

// readBytes is how much a link reads from its socket in one turn of its shard, so that a client that sends much can't
// keep the others waiting.
const readBytes = 4 << 10

// linuxLink takes the socket over from fasthttp: it duplicates the descriptor, the handler returns, and its goroutine,
// its buffers and everything else that belongs to the connection are gone. From then on the shard itself reads and writes,
// without ever blocking, when the poller says that it can.
//
// A linuxLink belongs to its shard's goroutine.
type linuxLink struct {
	client *client
	poller *poller
	fd     int
	acked  uint64 // at the last call of progressed
	reader wsframe.Reader
	hints  atomic.Uint32 // of the poller, that ready has not seen yet
	unread []byte        // was read, but comes behind a message that is still being dealt with
	ending bool          // the poller has seen the end of the stream, behind what is still to be read
	broken bool          // nothing can be written any more
	state  linkState
}

type linkState uint8

const (
	linkReading linkState = iota // bytes are read as they come
	linkHanding                  // a message is being handed to the shard
	linkWaiting                  // the shard will call resume
	linkRefused                  // the client broke the protocol; what it still sends goes to nowhere
	linkClosed
)

// takeOver returns a link for the socket under conn, or nil where there is none: under TLS, in memory, and where
// something has wrapped the connection. It then has changed nothing.
//
// A wrapper that offers the connection below is not looked through. It may change the bytes, as TLS does. It may hold some
// that it has read ahead, as a listener for the PROXY protocol does. And it may count the connection until it is closed,
// as fasthttp does for MaxConnsPerIP: fasthttp closes its own descriptor as soon as the handler has returned, and then
// the count would be wrong for as long as the client stays.
func takeOver(conn *websocket.Conn, s *shard) *linuxLink {
	raw := rawConn(conn)
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
	p, err := s.poll()
	if err != nil {
		_ = unix.Close(fd)
		return nil
	}
	return &linuxLink{poller: p, fd: fd, reader: wsframe.Reader{Limit: s.cfg.readLimit}, unread: readAhead(conn, raw)}
}

// readAhead returns what fasthttp has read off the socket with the handshake. Behind a deadline in the past, a read
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

// begin is the link's first turn: the poller speaks of the socket from now on, at once if something waits already.
func (l *linuxLink) begin() {
	if err := l.poller.add(l); err != nil {
		l.client.shard.remove(l.client, err)
		return
	}
	if len(l.unread) > 0 {
		l.read()
	}
}

func (l *linuxLink) write(p []byte) (sent, held int, err error) {
	for {
		n, err := unix.Write(l.fd, p)
		switch {
		case err == nil:
			return n, 0, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, 0, nil
		case isReset(err) && l.state != linkWaiting: // for a hook, which may take its time
			l.ending, l.broken = true, true
			l.poller.shard.later(l.client)
			return 0, 0, nil
		default:
			return 0, 0, os.NewSyscallError("write", err)
		}
	}
}

func (l *linuxLink) retry() { l.client.shard.writable(l.client, 0, nil) }

// ready follows the poller's hints. They tell edges only, so everything that may be done is tried.
func (l *linuxLink) ready() {
	events := l.hints.Swap(0)
	if events&unix.EPOLLOUT != 0 {
		if l.client.busy {
			l.client.markSeen(time.Now()) // there was no room, and now there is: it takes what waits
		}
		l.client.shard.writable(l.client, 0, nil)
	}
	switch {
	case events == unix.EPOLLOUT, l.state == linkClosed:
	case events&unix.EPOLLHUP != 0 && l.state == linkWaiting:
		l.client.shard.remove(l.client, unix.ECONNRESET) // nothing can be written any more
	default:
		l.ending = l.ending || events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
		l.read()
	}
}

// read reads once, hands over what it got, and asks for another turn where there may be more.
func (l *linuxLink) read() {
	if l.state == linkWaiting || l.state == linkClosed {
		return // resume comes back to it
	}
	if len(l.unread) > 0 {
		early := l.unread
		l.unread = nil
		l.feed(early)
		l.poller.shard.later(l.client)
		return
	}
	n, err := unix.Read(l.fd, l.poller.buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return
	case errors.Is(err, unix.EINTR):
		l.poller.shard.later(l.client)
		return
	case err != nil:
		l.poller.shard.remove(l.client, os.NewSyscallError("read", err))
		return
	case n == 0 && l.broken: // a close frame that waits to be written waits for nothing
		l.poller.shard.remove(l.client, io.EOF)
		return
	case n == 0:
		l.poller.shard.ended(l.client, io.EOF)
		return
	}
	l.client.markSeen(time.Now())
	l.feed(l.poller.buf[:n])
	if n == len(l.poller.buf) || l.ending {
		l.poller.shard.later(l.client) // otherwise what is still to come has an edge of its own
	}
}

// feed hands the messages in p to the shard, up to one that the link has to wait for.
func (l *linuxLink) feed(p []byte) {
	if l.state == linkRefused {
		return
	}
	n, err := l.reader.Feed(p, l.emit)
	var broken *wsframe.CloseError
	switch {
	case l.state == linkClosed:
	case errors.As(err, &broken):
		l.state = linkRefused
		l.poller.shard.shut(l.client, broken.Code, broken.Reason)
	case n < len(p):
		l.unread = append([]byte(nil), p[n:]...)
	}
}

// emit hands a message to the shard, which may have dealt with it when that returns.
func (l *linuxLink) emit(op byte, payload []byte) error {
	l.state = linkHanding
	l.poller.shard.received(l.client, op, payload)
	switch l.state {
	case linkReading:
		return nil
	case linkHanding:
		l.state = linkWaiting
	}
	return errPaused
}

func (l *linuxLink) progressed() bool {
	before := l.acked
	l.acked = ackedBytesOf(l.fd)
	return l.acked > before
}

func (l *linuxLink) resume() {
	switch l.state {
	case linkHanding:
		l.state = linkReading
	case linkWaiting:
		l.state = linkReading
		l.poller.shard.later(l.client)
	}
}

func (l *linuxLink) close() {
	if l.state == linkClosed {
		return
	}
	l.state = linkClosed
	l.unread = nil
	l.poller.remove(l)
	_ = unix.Close(l.fd)
}

// connect gives the client its link, and returns what its handler has to do: nothing, or to stay as long as the client
// does.
func (c *client) connect(conn *websocket.Conn) (stay func()) {
	if l := takeOver(conn, c.shard); l != nil {
		l.client = c
		c.link = l
		return func() {}
	}
	return c.connectPortably(conn)
}
