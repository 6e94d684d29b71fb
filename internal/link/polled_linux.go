package link

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errPaused stops a Reader after a message that has not been handled yet.
var errPaused = errors.New("paused")

// readBytes is how much a link reads from its socket in one turn, so that a client that sends much can't keep the
// others waiting.
const readBytes = 4 << 10

// polled takes the socket over from fasthttp. It duplicates the descriptor, and the handler returns. The handler's
// goroutine, its buffers and everything else that belongs to the connection are then released. From then on the owner's
// goroutine reads and writes, without ever blocking, when the poller says that it can.
//
// A polled belongs to its owner's goroutine.
//
// It fits into one cache line: the state that only few links have at a time is in rare.
type polled struct {
	owner  Owner
	poller *Poller
	reader func(own bool) Reader
	rare   *rare         // nil until some of it is needed
	fd     int32         // of the socket
	slot   int32         // its index in Poller.links
	token  uint32        // distinguishes it from another link that had the same slot
	hints  atomic.Uint32 // hints of the poller that Ready has not seen yet
	ending bool          // the poller has seen the end of the stream; data before it may still be unread
	short  bool          // the last write did not have room for everything
	broken bool          // nothing can be written any longer
	local  bool          // a Unix socket: it has room again only when the other end has read
	state  linkState
}

// rare is the state of a link that has read something other than whole messages, or whose owner has asked whether the other
// end reads.
type rare struct {
	reader Reader // half-way through a message; nil at rest
	unread []byte // read, but after a message that is still being handled
	room   room   // at the last call of Progressed
	asked  bool   // there was one, so that room is kept
}

// rarely returns the link's rare, which it makes if there is none.
func (l *polled) rarely() *rare {
	if l.rare == nil {
		l.rare = new(rare)
	}
	return l.rare
}

// forget releases the link's rare if nothing is in it.
func (l *polled) forget() {
	if r := l.rare; r != nil && r.reader == nil && len(r.unread) == 0 && !r.asked {
		l.rare = nil
	}
}

type linkState uint8

const (
	linkReading linkState = iota // bytes are read as they arrive
	linkHanding                  // a message is being handed to the owner
	linkWaiting                  // the owner will call Resume
	linkRefused                  // the reader refused the received bytes; the rest is discarded
	linkClosed
)

// takeOver returns a link for the socket under conn. It returns nil, and has changed nothing, if there is no such
// socket: under TLS, in memory, and if conn is wrapped.
//
// A wrapper that offers the connection below is not looked through. It may change the bytes, as TLS does. It may hold
// bytes that it has read ahead, as a listener for the PROXY protocol does. And it may count the connection until it is
// closed, as fasthttp does for MaxConnsPerIP: fasthttp closes its own descriptor as soon as the handler has returned,
// and the count would then be wrong for as long as the client stays.
func takeOver(conn net.Conn, o Owner, opts Options) *polled {
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
	_, local := raw.(*net.UnixConn)
	l := &polled{owner: o, poller: p, fd: int32(fd), reader: opts.Reader, local: local}
	if early := readAhead(conn, raw); len(early) > 0 {
		l.rarely().unread = early
	}
	return l
}

// aheads has buffers for readAhead, which needs one for each handshake and copies what it keeps.
var aheads = sync.Pool{New: func() any { return new([readBytes]byte) }}

// readAhead returns the bytes that fasthttp has read from the socket together with the handshake. After a deadline in
// the past, a read returns buffered bytes and never asks the socket.
func readAhead(conn net.Conn, raw net.Conn) (early []byte) {
	_ = raw.SetReadDeadline(time.Unix(1, 0))
	pooled := aheads.Get().(*[readBytes]byte)
	defer aheads.Put(pooled)
	buf := pooled[:]
	for {
		n, err := conn.Read(buf)
		early = append(early, buf[:n]...)
		if err != nil || n == 0 {
			return early
		}
	}
}

// Begin is the link's first turn. From now on, the poller reports on the socket, immediately if something is already
// waiting.
func (l *polled) Begin() {
	if err := l.poller.add(l); err != nil {
		l.owner.Handle(Event{Kind: Failed, Err: err})
		return
	}
	if l.rare != nil {
		l.read()
	}
}

func (l *polled) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	for {
		var n int
		var err error
		if then == nil {
			n, err = send(int(l.fd), p)
		} else {
			n, err = l.poller.pair.send(int(l.fd), p, then)
		}
		switch {
		case err == nil:
			l.short = n < len(p)+len(then)
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

// Ready follows the poller's hints. They report only edges, so everything that may be done is tried.
func (l *polled) Ready() {
	events := l.hints.Swap(0)
	if events&unix.EPOLLOUT != 0 {
		if l.short && l.local {
			l.owner.Seen(time.Now(), true)
		}
		l.owner.Handle(Event{Kind: Writable})
	}
	switch {
	case events == unix.EPOLLOUT, l.state == linkClosed:
	case events&unix.EPOLLHUP != 0 && l.state == linkWaiting:
		l.owner.Handle(Event{Kind: Failed, Err: unix.ECONNRESET}) // nothing can be written any longer
	default:
		l.ending = l.ending || events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
		l.read()
	}
}

// read reads once, delivers the bytes, and asks for another turn if there may be more.
func (l *polled) read() {
	if l.state == linkWaiting || l.state == linkClosed {
		return // Resume continues from here
	}
	if r := l.rare; r != nil && len(r.unread) > 0 {
		early := r.unread
		r.unread = nil
		l.feed(early)
		l.owner.Again()
		return
	}
	n, err := receive(int(l.fd), l.poller.buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return
	case errors.Is(err, unix.EINTR):
		l.owner.Again()
		return
	case err != nil:
		l.owner.Handle(Event{Kind: Failed, Err: os.NewSyscallError("read", err)})
		return
	case n == 0 && l.broken: // a close frame that is still to be written has nothing left to wait for
		l.owner.Handle(Event{Kind: Failed, Err: io.EOF})
		return
	case n == 0:
		l.owner.Handle(Event{Kind: Ended, Err: io.EOF})
		return
	}
	l.owner.Seen(time.Now(), false)
	l.feed(l.poller.buf[:n])
	if n == len(l.poller.buf) || l.ending {
		l.owner.Again() // otherwise the bytes that are still to arrive have an edge of their own
	}
}

// feed delivers the messages in p to the owner, up to one that the link has to wait for.
func (l *polled) feed(p []byte) {
	if l.state == linkRefused {
		return
	}
	var reader Reader
	if l.rare != nil {
		reader, l.rare.reader = l.rare.reader, nil
	}
	if reader == nil {
		reader = l.reader(false)
	}
	l.poller.fed = l
	n, err := reader.Feed(p, l.poller.emit)
	switch {
	case l.state == linkClosed:
		return
	case err != nil && !errors.Is(err, errPaused):
		l.state = linkRefused
		l.owner.Handle(Event{Kind: Refused, Err: err})
		return
	}
	if !reader.AtRest() {
		l.rarely().reader = reader
	}
	if n < len(p) {
		l.rarely().unread = append([]byte(nil), p[n:]...)
	}
	l.forget()
}

// emit delivers a message to the owner, which may have handled it when emit returns.
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
	now, known := roomOf(int(l.fd))
	if !known {
		return false
	}
	r := l.rarely()
	r.asked = true
	return r.room.advance(now)
}

func (l *polled) Unread() bool { return l.rare != nil && l.rare.room.unread() }

func (l *polled) Unanswered() bool { return l.rare != nil && l.rare.room.unanswered }

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
	if l.rare != nil {
		l.rare.reader, l.rare.unread = nil, nil
	}
	l.poller.remove(l)
	_ = unix.Close(int(l.fd))
}

// Open returns a link for a connection that fasthttp has handed over. The handler of conn must call stay. If the link has
// taken the socket over, stay returns immediately. Otherwise it returns when the owner has closed the link.
func Open(conn net.Conn, o Owner, opts Options) (l Link, stay func()) {
	if l := takeOver(conn, o, opts); l != nil {
		return l, func() {}
	}
	p := NewPortable(conn, Raw(conn), o, opts)
	return p, p.Serve
}
