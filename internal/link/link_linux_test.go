package link

import (
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const knowsProgress = true

func init() {
	kinds["polled"] = openPolled
}

// openPolled duplicates the descriptor as takeOver does. takeOver itself needs a connection that has been upgraded.
func openPolled(t *testing.T, b *boss, conn socket) {
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	if failed := raw.Control(func(original uintptr) { fd, err = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0) }); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	_ = conn.Close()
	var loops sync.WaitGroup
	p, err := NewPoller(b.wake, loops.Go)
	if err != nil {
		t.Fatal(err)
	}
	_, local := conn.(*net.UnixConn)
	b.link = &polled{owner: b, poller: p, fd: int32(fd), reader: newLines, local: local}
	t.Cleanup(func() { b.link.Close(); p.Close(); loops.Wait() })
}

// The poller watches a connection until its last descriptor is closed, and the server that accepted the connection may
// close its own descriptor after the link. A reset in between must not end another link that has been given the same
// number.
func TestAResetOfAConnectionWhoseLinkIsClosedEndsNoOtherLink(t *testing.T) {
	ours, theirs := socketConn(t)
	b := &boss{t: t}
	openPolled(t, b, ours)
	b.link.Begin()
	b.until("the first hint is dealt with", func() bool { return !b.turn() })
	old := b.link.(*polled)
	kept, err := unix.FcntlInt(uintptr(old.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(kept) }()
	old.Close()

	_, far := b.reuse(old)
	if _, err := far.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	b.until("it waits for Resume", func() bool { _, ok := b.find(Received); return ok })
	_ = theirs.SetLinger(0)
	_ = theirs.Close()
	if _, err := far.Write([]byte("bye\n")); err != nil {
		t.Fatal(err)
	}
	b.until("a hint has come", b.turn)
	if e, failed := b.find(Failed); failed {
		t.Fatalf("the reset of another connection has ended it: %v", e.Err)
	}
	b.got = nil
	b.link.Resume()
	b.until("it goes on", func() bool { e, ok := b.find(Received); return ok && string(e.Payload) == "ye" })
}

// reuse begins a link for another connection, with the descriptor of one that is closed.
func (b *boss) reuse(closed *polled) (fresh *polled, far *net.TCPConn) {
	b.t.Helper()
	again, far := socketConn(b.t)
	raw, err := again.SyscallConn()
	if err != nil {
		b.t.Fatal(err)
	}
	dup := func(original uintptr) { err = unix.Dup3(int(original), int(closed.fd), unix.O_CLOEXEC) }
	if failed := raw.Control(dup); failed != nil || err != nil {
		b.t.Fatal(failed, err)
	}
	b.got = nil
	fresh = &polled{owner: b, poller: closed.poller, fd: closed.fd, reader: newLines}
	b.link = fresh
	b.t.Cleanup(fresh.Close)
	fresh.Begin()
	return fresh, far
}

// The number of a descriptor is given to the next connection as soon as it is free, and a hint for the previous one may
// still be pending.
func TestAHintForALinkThatIsClosedWakesNobodyElse(t *testing.T) {
	ours, theirs := socketConn(t)
	b := &boss{t: t}
	openPolled(t, b, ours)
	b.link.Begin()
	b.until("the first hint is dealt with", func() bool { return !b.turn() })
	old := b.link.(*polled)
	old.Close()
	if _, err := theirs.Write([]byte("late\n")); err != nil {
		t.Fatal(err)
	}
	fresh, far := b.reuse(old)
	if fresh.token == old.token {
		t.Fatal("two links have one token")
	}
	for until := time.Now().Add(20 * time.Millisecond); time.Now().Before(until); {
		b.turn()
	}
	if _, received := b.find(Received); received {
		t.Error("what was sent to the old link was received by the new one")
	}
	if _, err := far.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	b.until("the new one receives", func() bool { e, ok := b.find(Received); return ok && string(e.Payload) == "ello" })
}

// buffered is a connection of which something has been read ahead.
type buffered struct {
	net.Conn
	ahead *strings.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.ahead.Read(p) }

func TestLookingForEarlyBytesAllocatesLessThanItReads(t *testing.T) {
	ours, theirs := socketConn(t)
	if _, err := theirs.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	// What fasthttp would have read together with the handshake is before the connection's own bytes.
	if got := readAhead(buffered{ours, strings.NewReader("read ahead")}, ours); string(got) != "read ahead" {
		t.Errorf("got %q of what was read ahead", got)
	}
	const times = 1000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		if early := readAhead(ours, ours); early != nil {
			t.Fatalf("read %q from the socket", early)
		}
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / times; got >= readBytes/2 {
		t.Errorf("got %d B allocated for each connection, want no buffer of %d", got, readBytes)
	}
}

// A close frame that can't be written any longer must not be waited for: the end of such a connection is a failure, and
// not the end of what it receives.
func TestAConnectionThatWasResetFails(t *testing.T) {
	ours, theirs := socketConn(t)
	b := &boss{t: t}
	openPolled(t, b, ours)
	b.link.Begin()
	_ = theirs.SetLinger(0)
	_ = theirs.Close()
	b.until("the connection has failed", func() bool {
		if !b.failed {
			_, _, _ = b.link.Write([]byte("closing\n"), nil, nil)
		}
		return b.failed
	})
	if _, ended := b.find(Ended); ended {
		t.Error("got Ended, after which a close frame would be waited for")
	}
}

// window is how much more the other end has offered to receive.
func (r room) window() uint64 { return r.edge - r.acked }

// stands returns how the connection under a link stands.
func (b *boss) stands() room {
	b.t.Helper()
	var r room
	var known bool
	switch l := b.link.(type) {
	case *polled:
		r, known = roomOf(int(l.fd))
	case *Portable:
		r, known = roomUnder(l.raw)
	}
	if !known {
		b.t.Fatal("got nothing about a connection of TCP")
	}
	return r
}

// say writes a small message, and returns when the other end's kernel has acknowledged it.
func (b *boss) say(p []byte) {
	b.t.Helper()
	done := false
	b.during = func(e Event) { done = done || e.Kind == Writable && e.Err == nil }
	sent, held, err := b.link.Write(p, nil, nil)
	if err != nil || sent+held != len(p) {
		b.t.Fatalf("write: got %d and %d of %d bytes, %v", sent, held, len(p), err)
	}
	b.until("it is written", func() bool { return done || held == 0 })
	b.until("it is acknowledged", func() bool { return b.stands().queued == 0 })
	b.during = nil
}

// The kernel of a frozen program acknowledges each ping, and moves the edge of its window by as much.
func TestWhatOnlyAKernelHasTakenIsNoProgress(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		b.say([]byte("ping")) // the first acknowledgement rounds the window up
		b.link.Progressed()
		before := b.stands()
		for i := range 20 {
			b.say([]byte("ping"))
			if b.link.Progressed() {
				t.Fatalf("Progressed() after %d pings that nobody has read: got true, want false", i+1)
			}
		}
		now := b.stands()
		if now.edge == before.edge {
			t.Skip("this kernel moves the edge only if somebody reads")
		}
	})
}

// Nothing more is sent while it reads, so the only news is that its window opens.
func TestAWindowThatOpensIsProgress(t *testing.T) {
	onBothLinks(t, func(t *testing.T, b *boss, far *net.TCPConn) {
		written := 0
		for b.stands().window() > 4<<10 {
			b.say(make([]byte, 4<<10))
			written += 4 << 10
		}
		b.link.Progressed()
		shut := b.stands()
		if _, err := io.ReadFull(far, make([]byte, written)); err != nil {
			t.Fatal(err)
		}
		b.until("it has opened", b.link.Progressed)
		if now := b.stands(); now.queued > 0 || now.window() <= shut.window() {
			t.Errorf("got %+v after %+v, want a larger window", now, shut)
		}
	})
}

func TestOnlyAnEdgeThatReadingHasMovedIsProgress(t *testing.T) {
	tests := []struct {
		what        string
		before, now room
		want        bool
	}{
		{"nothing happens", room{acked: 10, edge: 1010}, room{acked: 10, edge: 1010}, false},
		{"small messages arrive", room{acked: 10, edge: 1010}, room{acked: 90, edge: 1090}, false},
		{"some of them are still in flight", room{acked: 10, edge: 1010, queued: 30}, room{acked: 90, edge: 1090, queued: 40}, false},
		{"nobody reads what arrives", room{acked: 10, edge: 1010}, room{acked: 90, edge: 1010}, false},
		{"the buffer is full", room{acked: 10, edge: 10, queued: 90, unsent: 90}, room{acked: 10, edge: 10, queued: 90, unsent: 90}, false},
		{"the rest of the buffer fills", room{acked: 10, edge: 70, queued: 90, unsent: 30}, room{acked: 70, edge: 70, queued: 90, unsent: 90}, false},
		{"a shut window opens", room{acked: 10, edge: 10}, room{acked: 10, edge: 510}, true},
		{"it opens, and is filled", room{acked: 10, edge: 10, queued: 600, unsent: 600}, room{acked: 510, edge: 510, queued: 600, unsent: 600}, true},
		{"it opens, and takes all", room{acked: 10, edge: 10, queued: 60, unsent: 60}, room{acked: 70, edge: 270}, true},
		{"the network is slow", room{acked: 10, edge: 1010, queued: 800}, room{acked: 80, edge: 1080, queued: 730}, true},
		{"the network is slow, and more is to be sent", room{acked: 10, edge: 1010, queued: 40}, room{acked: 80, edge: 1080, queued: 900, unsent: 100}, true},
		{"an old kernel: small messages arrive", room{acked: 10, edge: 10}, room{acked: 90, edge: 90}, false},
		{"an old kernel: some of them are kept waiting", room{acked: 10, edge: 10, queued: 90}, room{acked: 90, edge: 90, queued: 10}, true},
		{"an old kernel: nothing is acknowledged", room{acked: 10, edge: 10, queued: 90}, room{acked: 10, edge: 10, queued: 90}, false},
	}
	for _, tt := range tests {
		r := tt.before
		if got := r.advance(tt.now); got != tt.want {
			t.Errorf("%s: %+v after %+v: got %t, want %t", tt.what, tt.now, tt.before, got, tt.want)
		}
	}
}

func TestAnOfferThatIsRenewedIsNoProgress(t *testing.T) {
	r := room{acked: 10, edge: 500}
	if r.advance(room{acked: 10, edge: 10}) || r.advance(room{acked: 10, edge: 500}) {
		t.Error("the kernel has taken its offer back and renewed it: got progress, want none")
	}
	if !r.advance(room{acked: 10, edge: 600}) {
		t.Error("it has offered more: got no progress, want some")
	}
}

// O_NONBLOCK belongs to what all duplicates of a descriptor share, and whoever holds one can turn it off. A link that
// then waited for room would stop its owner, and every collection.
func TestAWriteDoesNotWaitEvenIfTheDescriptorBlocks(t *testing.T) {
	for network, pair := range map[string]func(*testing.T) (ours, theirs socket){
		"tcp":  func(t *testing.T) (ours, theirs socket) { return socketConn(t) },
		"unix": unixConn,
	} {
		for pieces, then := range map[string][]byte{"one": nil, "two": []byte("then\n")} {
			t.Run(network+" "+pieces, func(t *testing.T) {
				ours, theirs := pair(t)
				b := &boss{t: t}
				openPolled(t, b, ours)
				l := b.link.(*polled)
				if err := unix.SetNonblock(int(l.fd), false); err != nil {
					t.Fatal(err)
				}
				full := make(chan error, 1)
				go func() {
					frame := make([]byte, 10<<10)
					for { // until nothing is sent: a signal can end a write that has sent a part and waits
						if sent, _, err := l.Write(frame, nil, then); err != nil || sent == 0 {
							full <- err
							return
						}
					}
				}()
				select {
				case err := <-full:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(20 * time.Second):
					_ = theirs.Close() // which ends the write
					<-full
					t.Error("a write has waited for room")
				}
			})
		}
	}
}

func TestAReadDoesNotWaitEvenIfTheDescriptorBlocks(t *testing.T) {
	ours, theirs := socketConn(t)
	b := &boss{t: t}
	openPolled(t, b, ours)
	l := b.link.(*polled)
	if err := unix.SetNonblock(int(l.fd), false); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { l.read(); close(read) }()
	select {
	case <-read:
	case <-time.After(20 * time.Second):
		_ = theirs.Close() // which ends the read
		<-read
		t.Error("a read has waited for bytes")
	}
}

func TestTwoPiecesAreSentInOrder(t *testing.T) {
	ours, theirs := socketConn(t)
	b := &boss{t: t}
	openPolled(t, b, ours)
	for _, pieces := range [][2]string{{"first ", "second "}, {"", "only "}} {
		sent, _, err := b.link.Write([]byte(pieces[0]), nil, []byte(pieces[1]))
		if want := len(pieces[0]) + len(pieces[1]); sent != want || err != nil {
			t.Fatalf("got %d and %v, want %d", sent, err, want)
		}
	}
	const want = "first second only "
	got := make([]byte, len(want))
	if _, err := io.ReadFull(theirs, got); err != nil || string(got) != want {
		t.Errorf("got %q and %v, want %q", got, err, want)
	}
}

// What a link has at rest decides how many viewers a process holds. It is read and written with every message, so it is
// one cache line.
func TestALinkAtRestIsOneCacheLine(t *testing.T) {
	if size := unsafe.Sizeof(polled{}); size > 64 {
		t.Errorf("a link has %d bytes, want 64 at most", size)
	}
	ours, theirs := socketConn(t)
	b := &boss{t: t}
	openPolled(t, b, ours)
	l := b.link.(*polled)
	l.Begin()
	for _, piece := range []string{"he", "llo\nx", "world\n"} { // the second one waits with a part that is unread
		if _, err := theirs.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
		if piece == "he" {
			b.until("half a message is read", func() bool { return l.rare != nil && l.rare.reader != nil })
			continue
		}
		b.until("the message is read", func() bool { _, ok := b.find(Received); return ok })
		b.got = nil
		l.Resume()
	}
	if l.rare != nil {
		t.Errorf("after whole messages, the link keeps %+v", l.rare)
	}
}

// All links of a poller read with one reader, but for those that are half-way through a message.
func TestAReaderIsSharedBetweenMessagesOnly(t *testing.T) {
	var made []*lines
	share := func(own bool) Reader {
		if last := len(made) - 1; !own && last >= 0 && made[last].AtRest() {
			return made[last]
		}
		made = append(made, &lines{})
		return made[len(made)-1]
	}
	var bosses [3]*boss
	var far [3]*net.TCPConn
	for i := range bosses {
		ours, theirs := socketConn(t)
		bosses[i], far[i] = &boss{t: t}, theirs
		openPolled(t, bosses[i], ours)
		bosses[i].link.(*polled).reader = share
		bosses[i].link.Begin()
	}
	for _, piece := range []struct {
		of         int
		text, want string
	}{{0, "xone", ""}, {1, "xtw", ""}, {2, "xthree\n", "three"}, {1, "o\n", "two"}, {2, "xfour\n", "four"}, {0, "\n", "one"}} {
		b := bosses[piece.of]
		if _, err := far[piece.of].Write([]byte(piece.text)); err != nil {
			t.Fatal(err)
		}
		if piece.want == "" {
			b.until("it is read", func() bool { r := b.link.(*polled).rare; return r != nil && r.reader != nil })
			continue
		}
		var got Event
		b.until("the message has come", func() (ok bool) { got, ok = b.find(Received); return ok })
		if string(got.Payload) != piece.want {
			t.Fatalf("link %d: got %q, want %q", piece.of, got.Payload, piece.want)
		}
		b.got = nil
		b.link.Resume()
	}
	if len(made) != 3 {
		t.Errorf("got %d readers, want one for each of the two links with half a message, and one for the rest", len(made))
	}
}
