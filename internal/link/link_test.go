package link

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// One contract, tested on both links. The events that its owner receives, and the bytes that the other end receives,
// show what a link does.

// boss is an owner whose goroutine is the test's: it does nothing until the test says turn.
type boss struct {
	t    *testing.T
	link Link

	mu     sync.Mutex
	posted []Event
	again  bool
	ready  bool // the poller has woken the owner
	seen   int  // signs of life by bytes that were sent
	took   int  // those by bytes that were taken

	got    []Event // the reported events, except Ready
	failed bool
	during func(Event) // called with each event on the owner's goroutine
}

func (b *boss) Post(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.posted = append(b.posted, e)
}

func (b *boss) Handle(e Event) {
	b.got = append(b.got, e)
	b.failed = b.failed || e.Kind == Failed
	if b.during != nil {
		b.during(e)
	}
}

func (b *boss) Again() { b.again = true }

func (b *boss) Seen(_ time.Time, took bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if took {
		b.took++
		return
	}
	b.seen++
}

// signs returns how many signs of life were reported.
func (b *boss) signs() (seen, took int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen, b.took
}

func (b *boss) wake([]Owner) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = true
}

// turn does the owner's pending work, and reports whether there was any.
func (b *boss) turn() bool {
	b.mu.Lock()
	posted, ready := b.posted, b.ready || b.again
	b.posted, b.ready, b.again = nil, false, false
	b.mu.Unlock()
	for _, e := range posted {
		b.Handle(e)
	}
	if ready {
		b.link.Ready()
	}
	return len(posted) > 0 || ready
}

// until takes turns until the condition holds.
func (b *boss) until(what string, done func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			b.t.Fatalf("still not: %s; the last events %+v", what, b.got[max(0, len(b.got)-10):])
		}
		if !b.turn() {
			time.Sleep(time.Millisecond)
		}
	}
}

// find returns the first event of that kind.
func (b *boss) find(k Kind) (Event, bool) {
	i := slices.IndexFunc(b.got, func(e Event) bool { return e.Kind == k })
	if i < 0 {
		return Event{}, false
	}
	return b.got[i], true
}

// lines is a Reader for which each line is a message, whose first byte is its opcode. It refuses an empty line.
type lines struct{ rest []byte }

func newLines(bool) Reader { return &lines{} }

func (l *lines) AtRest() bool { return len(l.rest) == 0 }

var errEmptyLine = errors.New("the line is empty")

func (l *lines) Feed(p []byte, emit func(op byte, payload []byte) error) (n int, err error) {
	for n < len(p) {
		end := bytes.IndexByte(p[n:], '\n')
		if end < 0 {
			l.rest = append(l.rest, p[n:]...)
			return len(p), nil
		}
		line := append(l.rest, p[n:n+end]...)
		n += end + 1
		l.rest = nil
		if len(line) == 0 {
			return n, errEmptyLine
		}
		if err := emit(line[0], bytes.Clone(line[1:])); err != nil {
			return n, err
		}
	}
	return n, nil
}

// A socket is a stream of TCP or Unix.
type socket interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

// socketConn returns both ends of a TCP connection whose buffers are small.
func socketConn(t *testing.T) (ours, theirs *net.TCPConn) {
	t.Helper()
	a, b := pairOf(t, "tcp", "127.0.0.1:0")
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// unixConn is socketConn over a Unix socket.
func unixConn(t *testing.T) (ours, theirs socket) {
	t.Helper()
	return pairOf(t, "unix", filepath.Join(t.TempDir(), "s"))
}

func pairOf(t *testing.T, network, addr string) (ours, theirs socket) {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed, err := net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = accepted.(socket), dialed.(socket)
	_ = ours.SetWriteBuffer(16 << 10)
	_ = theirs.SetReadBuffer(32 << 10)
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return ours, theirs
}

// onBothLinks tests one part of the contract. Both links exist on every system, except the polled one.
func onBothLinks(t *testing.T, play func(t *testing.T, b *boss, far *net.TCPConn)) {
	for name, open := range kinds {
		t.Run(name, func(t *testing.T) {
			ours, theirs := socketConn(t)
			b := &boss{t: t}
			open(t, b, ours)
			t.Cleanup(b.link.Close)
			b.link.Begin()
			play(t, b, theirs)
		})
	}
}

// kinds opens each link over a connection.
var kinds = map[string]func(t *testing.T, b *boss, conn socket){"portable": openPortable}

func openPortable(t *testing.T, b *boss, conn socket) { openPlain(t, b, conn) }

// openPlain opens the portable link over any connection.
func openPlain(t *testing.T, b *boss, conn net.Conn) {
	p := NewPortable(conn, conn, b, Options{Reader: newLines, IdleTimeout: time.Minute})
	b.link = p
	var handler sync.WaitGroup
	handler.Go(p.Serve)
	t.Cleanup(func() { p.Close(); handler.Wait() })
}

func TestMessagesComeOneAtATimeAndInOrder(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		var want []string
		for i := range 50 {
			line := fmt.Sprintf("m%d", i)
			want = append(want, line)
			if _, err := far.Write([]byte(line + "\n")); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		b.during = func(e Event) {
			if e.Kind == Received {
				got = append(got, string(e.Op)+string(e.Payload))
			}
		}
		for i := range want {
			b.until("the next message", func() bool { return len(got) > i })
			for range 20 { // the link must not continue by itself
				b.turn()
			}
			if len(got) != i+1 {
				t.Fatalf("before Resume: got %d messages, want %d", len(got), i+1)
			}
			b.link.Resume()
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if seen, took := b.signs(); seen == 0 || took > 0 {
			t.Errorf("the other end sent, and took nothing: got %d and %d signs", seen, took)
		}
		if err := far.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b.until("the end", func() bool { e, ok := b.find(Ended); return ok && errors.Is(e.Err, io.EOF) })
	})
}

func TestAMessageMayBeResumedWhileItIsHandled(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		messages := 0
		b.during = func(e Event) {
			if e.Kind == Received {
				messages++
				b.link.Resume()
			}
		}
		if _, err := far.Write(bytes.Repeat([]byte("x\n"), 300)); err != nil {
			t.Fatal(err)
		}
		b.until("all messages", func() bool { return messages == 300 })
	})
}

// The reports to the owner about its bytes must agree with the bytes that the other end receives, for any lengths and
// however much room there is.
func TestWhatIsSentAndHeldIsWhatTheOtherEndGets(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		var sent []byte
		var lengths []int
		for i := range 300 {
			m := bytes.Repeat([]byte{'a' + byte(i%26)}, 1+i*97%3000)
			sent, lengths = append(sent, m...), append(lengths, len(m))
		}
		received := make(chan []byte, 1)
		go func() {
			p := make([]byte, len(sent))
			n, _ := io.ReadFull(far, p)
			received <- p[:n]
		}()

		rest, units := sent, lengths
		room := true
		held, torn := 0, 0
		b.during = func(e Event) {
			if e.Kind != Writable {
				return
			}
			if e.Err != nil || e.N != held {
				t.Errorf("Writable: got %d, %v, want the %d held bytes", e.N, e.Err, held)
			}
			room, held = true, 0
		}
		for len(rest) > 0 {
			if !room {
				b.until("there is room", func() bool { return room })
			}
			now, sizes := rest, units
			if torn > 0 { // the rest of one message
				now, sizes = rest[:torn], nil
			}
			taken, kept, err := b.link.Write(now, sizes, nil)
			if err != nil {
				t.Fatal(err)
			}
			room, held = taken == len(now), kept
			if kept > 0 && taken == 0 && sizes != nil {
				whole := 0
				for _, n := range sizes {
					if whole == kept {
						break
					}
					whole += n
				}
				if whole != kept || kept > 16<<10 {
					t.Fatalf("held %d bytes, want whole messages of at most 16 KiB", kept)
				}
			}
			gone := taken + kept
			rest = rest[gone:]
			if torn > 0 {
				torn -= gone
				continue
			}
			for len(units) > 0 && gone >= units[0] {
				gone, units = gone-units[0], units[1:]
			}
			if gone > 0 {
				torn, units = units[0]-gone, units[1:]
			}
		}
		b.until("nothing is held", func() bool { return room })
		if got := <-received; !bytes.Equal(got, sent) {
			t.Errorf("the other end got %d bytes that differ, want the %d that were sent", len(got), len(sent))
		}
	})
}

func TestAMessageThatIsLargerThanAChunkGoesOutWhole(t *testing.T) {
	for _, second := range []int{0, 10} { // how long the message after it is
		onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
			large := bytes.Repeat([]byte("l"), 100<<10)
			received := make(chan []byte, 1)
			go func() {
				p := make([]byte, len(large))
				_, _ = io.ReadFull(far, p)
				received <- p
			}()
			gone := 0
			b.during = func(e Event) {
				if e.Kind != Writable || gone == len(large) {
					return
				}
				var lengths []int
				if first := len(large) - gone - second; second > 0 && first > 0 {
					lengths = []int{first, second}
				}
				n, held, err := b.link.Write(large[gone:], lengths, nil)
				if gone += n + held; err != nil {
					t.Error(err)
				}
			}
			b.during(Event{Kind: Writable})
			b.until("all of it is gone", func() bool { return gone == len(large) })
			b.during = nil
			if got := <-received; !bytes.Equal(got, large) {
				t.Error("the other end got something else")
			}
		})
	}
}

func TestWhatFollowsARefusedMessageIsDiscarded(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		b.during = func(e Event) {
			if e.Kind == Received {
				b.link.Resume()
			}
		}
		if _, err := far.Write([]byte("good\n\nbad\nworse\n")); err != nil {
			t.Fatal(err)
		}
		b.until("it is refused", func() bool { e, ok := b.find(Refused); return ok && errors.Is(e.Err, errEmptyLine) })
		if _, err := far.Write(bytes.Repeat([]byte("more\n"), 1000)); err != nil {
			t.Fatal(err)
		}
		if err := far.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b.until("the end", func() bool { _, ok := b.find(Ended); return ok })
		received := 0
		for _, e := range b.got {
			if e.Kind == Received {
				received++
			}
		}
		if received != 1 {
			t.Errorf("got %d messages, want the one before the refused one", received)
		}
	})
}

// A connection that is closed with unread data is reset. This discards data written to it, but nothing that it has
// sent. A close frame in the latter can still be read.
func TestWhatWasReceivedBeforeAResetIsRead(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		room := true
		b.during = func(e Event) {
			switch e.Kind {
			case Received:
				b.link.Resume()
			case Writable:
				room = e.Err == nil
			}
		}
		write := func() {
			if room {
				sent, _, err := b.link.Write([]byte("unread\n"), nil, nil)
				room = sent == 7 && err == nil
			}
		}
		write()
		_ = far.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := far.Read(make([]byte, 1)); err != nil { // so that the rest of it has arrived
			t.Fatal(err)
		}
		if _, err := far.Write([]byte("closing\n")); err != nil {
			t.Fatal(err)
		}
		_ = far.Close()
		b.until("the message is read, however many writes fail before", func() bool {
			write()
			e, ok := b.find(Received)
			return ok && string(e.Payload) == "losing"
		})
		b.until("the connection is over", func() bool { _, ended := b.find(Ended); return ended || b.failed })
	})
}

func TestACloseEndsBothDirectionsAndMayComeTwice(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		b.link.Close()
		b.link.Close()
		for range 20 {
			b.turn()
			b.link.Ready()
			b.link.Resume()
		}
		if _, received := b.find(Received); received {
			t.Error("a link that is closed has received something")
		}
	})
}

// flood writes until the link accepts no more.
func (b *boss) flood() {
	b.t.Helper()
	full := false
	b.during = func(e Event) {
		if e.Kind == Writable {
			full = e.Err != nil
		}
	}
	p := bytes.Repeat([]byte("f"), 16<<10)
	for quiet := time.Now(); time.Since(quiet) < 50*time.Millisecond; b.turn() {
		if full {
			time.Sleep(time.Millisecond)
			continue
		}
		quiet = time.Now()
		sent, held, err := b.link.Write(p, nil, nil)
		if err != nil {
			b.t.Fatal(err)
		}
		full = sent < len(p) || held > 0
	}
	b.during = nil
}

// takes reads everything that the link has accepted, and stops when the owner has heard of it. It reports whether that
// was so.
func (b *boss) takes(conn net.Conn, heard func() bool) bool {
	b.t.Helper()
	buf := make([]byte, 4<<10)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := conn.Read(buf)
		b.turn()
		switch {
		case heard():
			return true
		case err != nil:
			return false
		}
	}
}

// hidden is a connection whose socket can't be asked.
type hidden struct{ net.Conn }

// A kernel makes room for a write whether or not anybody reads. So that is a sign only if no kernel is between, as in
// memory and over a Unix socket, or if nothing better is known.
func TestRoomForAWriteIsASignThatTheOtherEndReadsUnlessAKernelMakesIt(t *testing.T) {
	type over struct {
		name string
		pair func(t *testing.T) (ours, theirs net.Conn)
		want bool
	}
	tcp := over{"tcp", func(t *testing.T) (net.Conn, net.Conn) { a, b := socketConn(t); return a, b }, !knowsProgress}
	unix := over{"unix", func(t *testing.T) (net.Conn, net.Conn) { a, b := unixConn(t); return a, b }, true}
	unknown := over{"unknown", func(t *testing.T) (net.Conn, net.Conn) { a, b := socketConn(t); return hidden{a}, b }, true}
	memory := over{"memory", func(*testing.T) (net.Conn, net.Conn) { return net.Pipe() }, true}
	for kind, open := range kinds {
		tests := []over{tcp, unix}
		if kind == "portable" {
			tests = append(tests, unknown, memory)
		}
		for _, tt := range tests {
			t.Run(kind+" over "+tt.name, func(t *testing.T) {
				ours, theirs := tt.pair(t)
				defer theirs.Close()
				b := &boss{t: t}
				if s, ok := ours.(socket); ok {
					open(t, b, s)
				} else {
					openPlain(t, b, ours)
				}
				t.Cleanup(b.link.Close)
				b.link.Begin()
				took := func() bool { _, took := b.signs(); return took > 0 }
				got := false
				for range 20 { // a write that finds room in time is no sign on any of them
					b.flood()
					if got = b.takes(theirs, took); got == tt.want {
						break
					}
				}
				if got != tt.want {
					t.Errorf("the other end has read: got a sign %t, want %t", got, tt.want)
				}
				if seen, _ := b.signs(); seen > 0 {
					t.Errorf("got %d signs that it has sent something, want none", seen)
				}
			})
		}
	}
}

func TestProgressIsThatTheOtherEndReadsWhatHasWaited(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		if !knowsProgress {
			t.Skip("this system doesn't tell")
		}
		for range 3 {
			b.flood()
			moved := time.Now()
			b.until("it is over when nobody reads", func() bool {
				if b.link.Progressed() {
					moved = time.Now()
				}
				return time.Since(moved) > 100*time.Millisecond
			})
			if !b.takes(far, b.link.Progressed) {
				t.Fatal("the other end has read everything: got no progress, want some")
			}
		}
	})
}

func TestUnreadIsThatMuchIsHeldThatNobodyReads(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		if !knowsProgress {
			t.Skip("this system doesn't tell")
		}
		unread := func() bool {
			b.link.Progressed()
			return b.link.Unread()
		}
		for range 2 {
			if unread() {
				t.Fatal("got Unread, and nothing waits")
			}
			b.flood()
			b.until("much is held", unread)
			b.takes(far, func() bool { return !unread() })
			b.until("nothing is held", func() bool { return !unread() })
		}
	})
}
