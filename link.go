package mesherstream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// A link is how a shard reaches one client's socket. The shard's goroutine calls its methods, and none of them blocks.
// What happens on the socket, the link tells by events: received, writable, ended.
type link interface {
	// begin is called once, when the client has joined.
	begin()

	// write starts to send p, which is whole frames or the rest of one, and says how much of it is out of the shard's
	// hands: the kernel has taken the first sent bytes, and the link goes on to send the held bytes behind them by
	// itself, and refers to them until then. Where sent is less than len(p), the link can't take more until it says
	// that it is writable; that event tells how many held bytes the kernel has taken. An error means that the
	// connection is of no use any more.
	write(p []byte) (sent, held int, err error)

	// retry takes the link for writable without its having said so, where trying costs no more than a system call.
	retry()

	// progressed says whether the other end has acknowledged bytes since the last call, and false where that can't be
	// known.
	progressed() bool

	// resume asks for the next message of the client. After each one, the link waits for this call.
	resume()

	// ready gives the link the turn that it, or its poller, has asked for.
	ready()

	// close ends the connection in both directions, and whatever the link still does. It may be called twice.
	close()
}

// chunkBytes is how much the portable link takes at a time, and how much has to go out within one deadline. What it has
// taken can't be dropped any more: more would be staler, less would be more wake-ups.
const chunkBytes = 16 << 10

// blockedFor is how long a write takes at least that had to wait for the client. That it ends is a sign of life. A write
// that the kernel takes at once is none: it would take a ping to a machine that is long gone.
const blockedFor = 10 * time.Millisecond

// isReset says whether a write has failed because the client has reset the connection, as one does that closes it with
// something unread. Its close frame, if it has sent one, may still be unread here. So the client isn't removed by the
// write, but by the end of what there is to read.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// portableLink works on every connection that Fiber can upgrade: the handler's goroutine reads, and a goroutine that
// lives only while there is something to send writes with deadlines.
//
// Fiber, contrib and fasthttp put what belongs to the connection back into pools when the handler returns. So the handler
// is the last to leave: after the shard has closed the link, and after the writer has ended.
type portableLink struct {
	// Read-only after construction.
	client *client
	conn   io.Reader // with what fasthttp has read ahead; the handler's goroutine reads from it
	raw    net.Conn  // deadlines and writes
	limit  time.Duration
	run    func() // l.send, as a value: starting it allocates nothing

	acked    uint64 // at the last call of progressed
	out      []byte // handed from write to the writer
	writer   sync.WaitGroup
	resumed  chan struct{}
	closed   atomic.Bool
	released chan struct{} // closed when the shard has closed the link
}

func newPortableLink(conn *websocket.Conn, limit time.Duration) *portableLink {
	l := &portableLink{
		conn:     conn.NetConn(),
		raw:      rawConn(conn),
		limit:    limit,
		resumed:  make(chan struct{}, 1),
		released: make(chan struct{}),
	}
	l.run = l.send
	return l
}

// connectPortably gives the client a link that works everywhere. Its handler has to stay.
func (c *client) connectPortably(conn *websocket.Conn) (stay func()) {
	l := newPortableLink(conn, c.shard.cfg.idleTimeout)
	l.client = c
	c.link = l
	return l.serve
}

// rawConn returns the connection under the one that fasthttp has wrapped, whose Close does nothing.
func rawConn(conn *websocket.Conn) net.Conn {
	raw := conn.NetConn()
	if u, ok := raw.(interface{ UnsafeConn() net.Conn }); ok {
		return u.UnsafeConn()
	}
	return raw
}

// tellOfWrapper says once that clients come over connections that hide their sockets. It logs beside the caller, whose
// client must not wait for a log. A connection in memory has no socket to hide, and its address is of another network.
func (m *Manager) tellOfWrapper(conn net.Conn) {
	switch conn.LocalAddr().(type) {
	case *net.TCPAddr, *net.UnixAddr:
	default:
		return
	}
	if m.wrapped.Swap(true) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil { // ended meanwhile
		return
	}
	m.current.rest.Go(func() {
		m.cfg.logger.Warn("mesherstream: connections hide their sockets: WithUnsentLimit has no effect, and each client has a goroutine; "+
			"have the wrapper offer its connection by NetConn or Raw", "type", fmt.Sprintf("%T", conn))
	})
}

func (l *portableLink) begin() {}
func (l *portableLink) ready() {}
func (l *portableLink) retry() {} // its writer is still at work

// progressed gives a write that gets on more time: under TLS, one that meets its deadline can't be continued.
func (l *portableLink) progressed() bool {
	before := l.acked
	if l.acked = ackedBytes(l.raw); l.acked <= before {
		return false
	}
	if l.limit > 0 && !l.closed.Load() {
		_ = l.raw.SetWriteDeadline(time.Now().Add(l.limit))
	}
	return true
}

func (l *portableLink) write(p []byte) (sent, held int, err error) {
	held = len(p)
	if held > chunkBytes {
		if held, _ = wsframe.Whole(p, chunkBytes); held == 0 {
			held = wsframe.Len(p)
		}
	}
	l.out = p[:held]
	// Not WaitGroup.Go, whose closure would be an allocation for each message and client.
	l.writer.Add(1)
	go l.run()
	return 0, held, nil
}

// send is the writer. Slow is not dead: each chunk has its own deadline, and one of which a part went out gets another.
func (l *portableLink) send() {
	defer l.writer.Done()
	p, done := l.out, 0
	var err error
	for done < len(p) && err == nil {
		var deadline time.Time
		if l.limit > 0 {
			deadline = time.Now().Add(l.limit)
		}
		_ = l.raw.SetWriteDeadline(deadline) // where it fails, the write fails
		if l.closed.Load() {
			// close stores this before it sets its own deadline, so either that one is in force, or this is seen.
			err = net.ErrClosed
			break
		}
		var n int
		begin := time.Now()
		n, err = l.raw.Write(p[done:min(len(p), done+chunkBytes)])
		done += n
		if errors.Is(err, os.ErrDeadlineExceeded) && !l.closed.Load() {
			if err = errIdle; n > 0 {
				err = nil
			}
		}
		if now := time.Now(); n > 0 && now.Sub(begin) >= blockedFor {
			l.client.markSeen(now)
		}
	}
	if isReset(err) {
		select {
		case <-l.released: // the reader has come to the end
		case <-time.After(closeGrace): // it waits for a hook
		}
	}
	l.client.shard.post(event{kind: eventWritable, client: l.client, n: done, err: err})
}

func (l *portableLink) resume() {
	select {
	case l.resumed <- struct{}{}:
	default:
	}
}

func (l *portableLink) close() {
	if l.closed.Swap(true) {
		return
	}
	// A deadline, and not Close: closing a TLS connection may block for seconds, and fasthttp closes the connection
	// anyway as soon as the handler has returned.
	_ = l.raw.SetDeadline(time.Unix(1, 0))
	close(l.released)
}

// serve reads until the connection ends and returns when the shard has let go of it.
func (l *portableLink) serve() {
	err := l.read()
	l.client.shard.post(event{kind: eventEnded, client: l.client, err: err})
	<-l.released
	l.writer.Wait()
}

func (l *portableLink) read() error {
	reader := wsframe.Reader{Limit: l.client.shard.cfg.readLimit}
	buf := make([]byte, 1<<10)
	for {
		n, err := l.conn.Read(buf)
		if n > 0 {
			l.client.markSeen(time.Now())
			if _, broken := reader.Feed(buf[:n], l.emit); broken != nil {
				return l.refuse(broken, buf)
			}
		}
		if err != nil {
			return err
		}
	}
}

// emit hands a message to the shard and waits until it has been dealt with, so that there is never more than one.
func (l *portableLink) emit(op byte, payload []byte) error {
	l.client.shard.post(event{kind: eventReceived, client: l.client, op: op, payload: payload})
	select {
	case <-l.resumed:
		return nil
	case <-l.released:
		return net.ErrClosed
	}
}

// refuse tells the shard what the client did wrong and reads on to nowhere: a socket that is closed with unread bytes
// in it resets the connection, and the client would never see the close frame.
func (l *portableLink) refuse(broken error, buf []byte) error {
	var ce *wsframe.CloseError
	if !errors.As(broken, &ce) {
		return broken
	}
	l.client.shard.post(event{kind: eventRefused, client: l.client, err: ce})
	for {
		if _, err := l.conn.Read(buf); err != nil {
			return err
		}
	}
}
