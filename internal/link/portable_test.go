package link

import (
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// broken is a connection that the other end has reset: nothing is left to read, and every write fails.
type broken struct{ net.Conn }

func (broken) Read([]byte) (int, error)         { return 0, io.EOF }
func (broken) Write([]byte) (int, error)        { return 0, syscall.EPIPE }
func (broken) SetDeadline(time.Time) error      { return nil }
func (broken) SetWriteDeadline(time.Time) error { return nil }

// An owner that has a close frame in flight may wait for the end of the write before it closes the link.
func TestAWriterDoesNotWaitForAReaderThatHasReachedTheEnd(t *testing.T) {
	for _, first := range []string{"the reader", "the writer"} {
		t.Run(first, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				b := &boss{t: t}
				l := NewPortable(broken{}, broken{}, b, Options{Reader: newLines})
				var handler sync.WaitGroup
				if first == "the writer" {
					_, _, _ = l.Write([]byte("closing\n"), nil, nil)
					synctest.Wait()
				}
				handler.Go(l.Serve)
				synctest.Wait()
				if first == "the reader" {
					_, _, _ = l.Write([]byte("closing\n"), nil, nil)
				}
				b.until("the write has failed", func() bool { _, over := b.find(Writable); return over })
				if b.got[0].Kind != Ended {
					t.Errorf("got %+v first, want the end of what the other end has sent", b.got[0])
				}
				if waited := time.Since(begin); waited >= resetGrace {
					t.Errorf("the writer has waited for %v", waited)
				}
				l.Close()
				handler.Wait()
			})
		})
	}
}
