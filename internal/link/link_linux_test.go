package link

import (
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const knowsProgress = true

func init() {
	kinds["polled"] = openPolled
}

// openPolled duplicates the descriptor as takeOver does. takeOver itself needs a connection that has been upgraded.
func openPolled(t *testing.T, b *boss, conn *net.TCPConn) {
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
	b.link = &polled{owner: b, poller: p, fd: fd, reader: &lines{}}
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
	p, fd := old.poller, old.fd
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(kept) }()
	old.Close()

	again, far := socketConn(t)
	raw, err := again.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if failed := raw.Control(func(original uintptr) { err = unix.Dup3(int(original), fd, unix.O_CLOEXEC) }); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	b.got = nil
	fresh := &polled{owner: b, poller: p, fd: fd, reader: &lines{}}
	b.link = fresh
	t.Cleanup(fresh.Close)
	fresh.Begin()
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

// The number of a descriptor is given to the next connection as soon as it is free, and a hint for the previous one may
// still be pending.
func TestAHintForALinkThatIsClosedWakesNobodyElse(t *testing.T) {
	ours, theirs := socketConn(t)
	b := &boss{t: t}
	openPolled(t, b, ours)
	b.link.Begin()
	b.until("the first hint is dealt with", func() bool { return !b.turn() })
	old := b.link.(*polled)
	p, fd := old.poller, old.fd
	old.Close()
	if _, err := theirs.Write([]byte("late\n")); err != nil {
		t.Fatal(err)
	}
	again, far := socketConn(t)
	raw, err := again.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if failed := raw.Control(func(original uintptr) { err = unix.Dup3(int(original), fd, unix.O_CLOEXEC) }); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	b.got = nil
	fresh := &polled{owner: b, poller: p, fd: fd, reader: &lines{}}
	b.link = fresh
	t.Cleanup(fresh.Close)
	fresh.Begin()
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
			_, _, _ = b.link.Write([]byte("closing\n"), nil)
		}
		return b.failed
	})
	if _, ended := b.find(Ended); ended {
		t.Error("got Ended, after which a close frame would be waited for")
	}
}
