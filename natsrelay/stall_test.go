package natsrelay

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// stalling is a NATS server whose connections accept nothing while stalled is held. The same happens if the server has
// been stopped or a cable has been cut, and the kernel's buffers are full.
type stalling struct {
	*server.Server
	stalled sync.RWMutex
	waiting atomic.Int64 // writes
	broken  atomic.Bool  // the next write ends its connection
}

func (s *stalling) InProcessConn() (net.Conn, error) {
	conn, err := s.Server.InProcessConn()
	return &stallingConn{conn, s}, err
}

type stallingConn struct {
	net.Conn
	s *stalling
}

func (c *stallingConn) Write(p []byte) (int, error) {
	c.s.waiting.Add(1)
	c.s.stalled.RLock()
	defer c.s.stalled.RUnlock()
	c.s.waiting.Add(-1)
	if c.s.broken.Swap(false) {
		_ = c.Close()
	}
	return c.Conn.Write(p)
}

// The NATS client holds a lock while a write hangs, for up to a minute.
func TestAServerThatTakesNothingHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	s := &stalling{Server: embedded(t)}
	n := newNode(t, New(inProcess(t, s.Server, nats.InProcessServer(s))))
	v := n.watch("shop")
	s.stalled.Lock()
	defer s.stalled.Unlock()
	n.broadcast("local")
	eventually(t, "a write hangs", func() bool { return s.waiting.Load() > 0 }, func() any { return nil })
	v.wants("local")

	asked, stop := make(chan struct{}), make(chan struct{})
	defer close(stop)
	go func() {
		defer close(asked)
		for !n.m.Stats().RelayAway {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Fatal("Stats hangs, or doesn't say that the relay is away")
	}
	late := n.watch("blog")
	if err := n.m.Broadcast(mesherstream.Message{Project: "blog", Data: []byte("local too")}); err != nil {
		t.Fatal(err)
	}
	late.wants("local too")
}
