//go:build !race

package link

import (
	"testing"

	"golang.org/x/sys/unix"
)

// socketPair returns two connected sockets that don't block.
func socketPair(tb testing.TB) (a, b int) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func TestWritingToASocketAllocatesNothing(t *testing.T) {
	ours, theirs := socketPair(t)
	l := &polled{fd: int32(ours), poller: &Poller{}}
	frame, buf := make([]byte, 512), make([]byte, 1<<10)
	if got := testing.AllocsPerRun(100, func() {
		if sent, _, err := l.Write(frame, nil, nil); sent != len(frame) || err != nil {
			t.Fatalf("write: got %d of %d bytes, %v", sent, len(frame), err)
		}
		_, _ = unix.Read(theirs, buf)
	}); got != 0 {
		t.Errorf("a write of a whole frame: got %v allocations, want 0", got)
	}
	if got := testing.AllocsPerRun(100, func() {
		if sent, _, err := l.Write(frame, nil, frame[:100]); sent != len(frame)+100 || err != nil {
			t.Fatalf("write: got %d of %d bytes, %v", sent, len(frame)+100, err)
		}
		_, _ = unix.Read(theirs, buf)
	}); got != 0 {
		t.Errorf("a write of two pieces: got %v allocations, want 0", got)
	}

	for { // until no room is left
		if sent, _, err := l.Write(frame, nil, nil); err != nil {
			t.Fatal(err)
		} else if sent < len(frame) {
			break
		}
	}
	if got := testing.AllocsPerRun(100, func() { _, _, _ = l.Write(frame, nil, nil) }); got != 0 {
		t.Errorf("a write that finds no room: got %v allocations, want 0", got)
	}
}
