package mesherstream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// The two write paths of a link, with a kernel that takes exactly as many bytes as a test says. Both exist without Linux
// and without a socket, so that what a shard does to them can be predicted byte by byte.

// A scriptedLink is what a test does with a link: it plays the kernel and the client on the other end.
type scriptedLink interface {
	link.Link
	grant(room int)              // the kernel takes that many bytes more
	fail(err error)              // from now on, writing fails with err
	arrive(op byte, data []byte) // the client has sent this; op frameBroken and frameEnd stand for what is no frame
	flow()                       // what happens beside the shard happens now
	wire() []byte                // what the kernel has taken
	faults() []string            // what the shard must not have done to the link
}

// What arrive takes for an opcode beside those of RFC 6455.
const (
	frameBroken = 0x10 // a frame against the protocol
	frameEnd    = 0x11 // the end of the stream
)

var errScripted = errors.New("scripted failure")

// directLink has the semantics of the polled link: a write takes what the kernel has room for, which may tear a frame, and
// a hint follows when there is room again.
type directLink struct {
	client  *client
	room    int
	taken   []byte
	err     error
	blocked bool // the last write came short, so there will be a hint

	incoming []arrival
	waits    bool // for Resume
	refused  bool
	closed   bool
	broke    []string
}

type arrival struct {
	op   byte
	data []byte
}

func (l *directLink) blame(what string) { l.broke = append(l.broke, what) }

func (l *directLink) Begin()           {}
func (l *directLink) Progressed() bool { return false }
func (l *directLink) Close()           { l.closed = true }

func (l *directLink) Write(p []byte, _ []int) (sent, held int, err error) {
	switch {
	case l.closed:
		l.blame("written to after its end")
	case l.blocked:
		l.blame("written to before it was writable")
	case len(p) == 0:
		l.blame("given nothing to write")
	}
	if l.err != nil {
		return 0, 0, l.err
	}
	sent = min(l.room, len(p))
	l.room -= sent
	l.taken = append(l.taken, p[:sent]...)
	l.blocked = sent < len(p)
	return sent, 0, nil
}

// Ready is the hint that there is room, as the polled link follows it.
func (l *directLink) Ready() {
	if l.closed {
		return
	}
	l.blocked = false
	if l.client.busy {
		l.client.markSeen(time.Now())
	}
	l.client.Handle(link.Event{Kind: link.Writable})
}

func (l *directLink) Retry() {
	l.blocked = false
	l.client.Handle(link.Event{Kind: link.Writable})
}

func (l *directLink) Resume() {
	if !l.waits {
		l.blame("resumed without a message")
	}
	l.waits = false
}

func (l *directLink) grant(room int) { l.room += room }
func (l *directLink) fail(err error) { l.err = err }
func (l *directLink) arrive(op byte, data []byte) {
	l.incoming = append(l.incoming, arrival{op, data})
}

func (l *directLink) flow() {
	if !l.closed && l.blocked && (l.room > 0 || l.err != nil) {
		l.client.Post(link.Event{Kind: link.Ready})
	}
	for !l.closed && !l.waits && len(l.incoming) > 0 {
		next := l.incoming[0]
		l.incoming = l.incoming[1:]
		switch {
		case next.op == frameEnd:
			l.client.Post(link.Event{Kind: link.Ended, Err: io.EOF})
			l.incoming = nil
		case l.refused:
		case next.op == frameBroken:
			l.refused = true
			l.client.markSeen(time.Now())
			l.client.Post(link.Event{Kind: link.Refused, Err: &wsframe.CloseError{Code: wsframe.CodeProtocolError, Reason: "scripted"}})
		default:
			l.waits = true
			l.client.markSeen(time.Now())
			l.client.Post(link.Event{Kind: link.Received, Op: next.op, Payload: bytes.Clone(next.data)})
		}
	}
}

func (l *directLink) wire() []byte     { return l.taken }
func (l *directLink) faults() []string { return l.broke }

// heldLink is the real portable link over a scripted connection. It works in a synctest bubble, where it is known when its
// two goroutines have done what they can: flow lets first the writer and then the reader go on.
type heldLink struct {
	*link.Portable
	conn *scriptedConn
	idle func() // synctest.Wait
}

func newHeldLink(c *client, idle func()) *heldLink {
	conn := &scriptedConn{}
	conn.changed.L = &conn.mu
	cfg := c.shard.cfg
	return &heldLink{conn: conn, idle: idle, Portable: link.NewPortable(conn, conn, c, link.Options{
		Reader:      &wsframe.Reader{Limit: cfg.readLimit},
		IdleTimeout: cfg.idleTimeout,
	})}
}

func (l *heldLink) grant(room int) { l.conn.update(func() { l.conn.room += room }) }
func (l *heldLink) fail(err error) { l.conn.update(func() { l.conn.err = err }) }
func (l *heldLink) arrive(op byte, data []byte) {
	var frame []byte
	switch op {
	case frameEnd:
	case frameBroken:
		frame = []byte{wsframe.FinBit | wsframe.OpText, 0} // not masked
	default:
		frame = masked(wsframe.FinBit|op, string(data))
	}
	l.conn.update(func() { l.conn.incoming = append(l.conn.incoming, frame) })
}

func (l *heldLink) flow() {
	l.conn.update(func() { l.conn.mayWrite = true })
	l.idle()
	l.conn.update(func() { l.conn.mayRead = true })
	l.idle()
	l.conn.update(func() { l.conn.mayWrite, l.conn.mayRead = false, false })
}

func (l *heldLink) wire() []byte {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	return l.conn.taken
}

func (l *heldLink) faults() []string { return nil }

// scriptedConn is a connection of which one Read returns one of the pieces that have arrived, and an empty piece is the
// end.
type scriptedConn struct {
	net.Conn // only what is below is called

	mu                sync.Mutex
	changed           sync.Cond
	room              int
	taken             []byte
	err               error
	incoming          [][]byte
	mayWrite, mayRead bool
	writeBy           time.Time // the deadline of the write, if any
	ended             bool      // the deadlines of both directions are over
	alarm             *time.Timer
}

func (c *scriptedConn) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.changed.Broadcast()
}

func (c *scriptedConn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.mayWrite && !c.expired() {
			taken := min(c.room, len(p)-n)
			if c.err != nil {
				return n, c.err
			}
			c.taken = append(c.taken, p[n:n+taken]...)
			c.room -= taken
			if n += taken; n == len(p) {
				return n, nil
			}
		}
		if c.expired() {
			return n, os.ErrDeadlineExceeded
		}
		c.changed.Wait()
	}
}

func (c *scriptedConn) expired() bool {
	return c.ended || !c.writeBy.IsZero() && !time.Now().Before(c.writeBy)
}

func (c *scriptedConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended {
		if c.mayRead && len(c.incoming) > 0 {
			piece := c.incoming[0]
			c.incoming = c.incoming[1:]
			if len(piece) == 0 {
				return 0, io.EOF
			}
			return copy(p, piece), nil
		}
		c.changed.Wait()
	}
	return 0, os.ErrDeadlineExceeded
}

func (c *scriptedConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alarm != nil {
		c.alarm.Stop()
	}
	if c.writeBy = t; !t.IsZero() {
		c.alarm = time.AfterFunc(time.Until(t), func() { c.update(func() {}) })
	}
	return nil
}

func (c *scriptedConn) SetDeadline(t time.Time) error {
	c.update(func() { c.ended = !t.After(time.Now()) })
	return nil
}
