package link

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ChunkBytes is how much the portable link accepts at a time, and how much has to be sent within one deadline. Data
// that it has accepted can no longer be dropped. A larger chunk would be staler, and a smaller one would cause more
// wake-ups.
const ChunkBytes = 16 << 10

// resetGrace is how long a writer whose connection was reset leaves the reader to read a close frame.
const resetGrace = 2 * time.Second

// BlockedFor is the minimum duration of a write that had to wait for the client. The end of such a write is a sign of
// life, unless Progressed knows better: over TCP, the write ends when the other end's kernel has made room. A write that
// the kernel accepts immediately is none: otherwise a ping to a machine that is long gone would count.
const BlockedFor = 10 * time.Millisecond

// Portable works on every connection that Fiber can upgrade. The handler's goroutine reads. Another goroutine, which
// lives only while there is something to send, writes with deadlines.
//
// Fiber, contrib and fasthttp put everything that belongs to the connection back into pools when the handler returns.
// So the handler returns last: after the owner has closed the link, and after the writer has ended.
type Portable struct {
	// Read-only after construction.
	owner  Owner
	reader Reader
	idle   time.Duration // how long a write may make no progress; 0 is forever
	conn   io.Reader     // including the bytes that fasthttp has read ahead; the handler's goroutine reads from it
	raw    net.Conn      // deadlines and writes
	run    func()        // l.send as a value, so that starting it allocates nothing
	asks   bool          // Progressed can ask the kernel, so a write that had to wait says nothing

	room     room   // at the last call of Progressed
	out      []byte // handed from write to the writer
	writer   sync.WaitGroup
	resumed  chan struct{}
	closed   atomic.Bool
	ended    chan struct{} // closed when the reader has reached the end
	released chan struct{} // closed by Close
}

// NewPortable returns a link that reads from r and writes to raw. r is raw together with the bytes read ahead from it.
// The caller must call Serve.
func NewPortable(r io.Reader, raw net.Conn, o Owner, opts Options) *Portable {
	l := &Portable{
		owner:    o,
		reader:   opts.Reader(true),
		idle:     opts.IdleTimeout,
		conn:     r,
		raw:      raw,
		resumed:  make(chan struct{}, 1),
		ended:    make(chan struct{}),
		released: make(chan struct{}),
	}
	l.run = l.send
	_, l.asks = roomUnder(raw)
	return l
}

// Begin does nothing: Serve begins the link.
func (l *Portable) Begin() {}

// Ready does nothing, since no poller reports on this link.
func (l *Portable) Ready() {}

// Retry does nothing: the writer is still at work.
func (l *Portable) Retry() {}

// Unread is about the socket underneath.
func (l *Portable) Unread() bool { return l.room.unread() }

// Unanswered is about the socket underneath.
func (l *Portable) Unanswered() bool { return l.room.unanswered }

// Progressed also extends the deadline of a write that makes progress: under TLS, a write that reaches its deadline
// can't be continued.
func (l *Portable) Progressed() bool {
	if !l.asks {
		return false
	}
	now, known := roomUnder(l.raw)
	if !known || !l.room.advance(now) {
		return false
	}
	if l.idle > 0 && !l.closed.Load() {
		_ = l.raw.SetWriteDeadline(time.Now().Add(l.idle))
	}
	return true
}

// Write holds as many whole messages as fit into a chunk, and at least one. It leaves then out.
func (l *Portable) Write(p []byte, lengths []int, _ []byte) (sent, held int, err error) {
	held = len(p)
	if held > ChunkBytes && lengths != nil {
		held = 0
		for _, n := range lengths {
			if held > 0 && held+n > ChunkBytes {
				break
			}
			held += n
		}
	}
	l.out = p[:held]
	// Not WaitGroup.Go: its closure would be an allocation for each message and client.
	l.writer.Add(1)
	go l.run()
	return 0, held, nil
}

// send is the writer. A slow client is not dead: each chunk has its own deadline, and a chunk of which a part has been
// sent receives another one.
func (l *Portable) send() {
	defer l.writer.Done()
	p, done := l.out, 0
	var err error
	for done < len(p) && err == nil {
		var deadline time.Time
		if l.idle > 0 {
			deadline = time.Now().Add(l.idle)
		}
		_ = l.raw.SetWriteDeadline(deadline) // if it fails, the write fails
		if l.closed.Load() {
			// close stores this before it sets its own deadline. So either that deadline is in force, or this value is
			// seen.
			err = net.ErrClosed
			break
		}
		var n int
		begin := time.Now()
		n, err = l.raw.Write(p[done:min(len(p), done+ChunkBytes)])
		done += n
		if errors.Is(err, os.ErrDeadlineExceeded) && !l.closed.Load() {
			if err = ErrIdle; n > 0 {
				err = nil
			}
		}
		if now := time.Now(); n > 0 && !l.asks && now.Sub(begin) >= BlockedFor {
			l.owner.Seen(now, true)
		}
	}
	if isReset(err) {
		select {
		case <-l.ended:
		case <-l.released:
		case <-time.After(resetGrace): // it waits for a hook
		}
	}
	l.owner.Post(Event{Kind: Writable, N: done, Err: err})
}

// Resume lets the reader continue.
func (l *Portable) Resume() {
	select {
	case l.resumed <- struct{}{}:
	default:
	}
}

// Close interrupts the reader and the writer.
func (l *Portable) Close() {
	if l.closed.Swap(true) {
		return
	}
	// A deadline instead of Close: closing a TLS connection may block for seconds, and fasthttp closes the connection
	// anyway as soon as the handler has returned.
	_ = l.raw.SetDeadline(time.Unix(1, 0))
	close(l.released)
}

// Serve reads until the connection ends, and returns when the owner has closed the link.
func (l *Portable) Serve() {
	err := l.read()
	l.owner.Post(Event{Kind: Ended, Err: err})
	close(l.ended)
	<-l.released
	l.writer.Wait()
}

func (l *Portable) read() error {
	buf := make([]byte, 1<<10)
	for {
		n, err := l.conn.Read(buf)
		if n > 0 {
			l.owner.Seen(time.Now(), false)
			if _, broken := l.reader.Feed(buf[:n], l.emit); broken != nil {
				return l.refuse(broken, buf)
			}
		}
		if err != nil {
			return err
		}
	}
}

// emit delivers a message to the owner and waits until it has been handled, so that there is never more than one.
func (l *Portable) emit(op byte, payload []byte) error {
	l.owner.Post(Event{Kind: Received, Op: op, Payload: payload})
	select {
	case <-l.resumed:
		return nil
	case <-l.released:
		return net.ErrClosed
	}
}

// refuse reports the other end's mistake to the owner, and discards the rest. If a socket is closed with unread bytes
// in it, the connection is reset, and the other end would never see a close frame.
func (l *Portable) refuse(broken error, buf []byte) error {
	if errors.Is(broken, net.ErrClosed) { // of emit
		return broken
	}
	l.owner.Post(Event{Kind: Refused, Err: broken})
	for {
		if _, err := l.conn.Read(buf); err != nil {
			return err
		}
	}
}
