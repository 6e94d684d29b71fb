package attack

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fasthttp/websocket"
)

// bystanders are viewers that must lose nothing while others attack.
type bystanders struct {
	*target
	conns    []*websocket.Conn
	reading  sync.WaitGroup
	received atomic.Int64
	over     atomic.Bool
}

func (s *target) watch() *bystanders {
	s.Helper()
	b := &bystanders{target: s}
	for range 10 {
		b.join()
	}
	return b
}

// join adds a viewer: an attack must not keep it out.
func (b *bystanders) join() {
	b.Helper()
	d := websocket.Dialer{HandshakeTimeout: 30 * time.Second}
	ws, resp, err := d.Dial("ws://"+b.addr+"/stream/projects/shop", nil)
	if err != nil {
		b.Fatalf("a bystander is not let in: %v, %v", err, resp)
	}
	b.conns = append(b.conns, ws)
	b.Cleanup(func() { _ = ws.Close() })
	b.reading.Go(func() {
		for last := -1; ; {
			_ = ws.SetReadDeadline(time.Now().Add(30 * time.Second))
			_, data, err := ws.ReadMessage()
			if b.over.Load() {
				return
			}
			if err != nil {
				b.Errorf("a bystander: %v", err)
				return
			}
			n, err := strconv.Atoi(string(data))
			if err != nil || last >= 0 && n != last+1 {
				b.Errorf("a bystander got %q after %d", data, last)
				return
			}
			last = n
			b.received.Add(1)
		}
	})
}

// mustGetOn waits until all of them together have got a few seconds' worth of messages more.
func (b *bystanders) mustGetOn() {
	b.Helper()
	until := b.received.Load() + int64(100*len(b.conns))
	b.eventually("the bystanders get on", func(vitals) bool { return b.received.Load() >= until })
}

// leave ends them, and checks what the target counts.
func (b *bystanders) leave() {
	b.Helper()
	b.mustGetOn()
	b.over.Store(true)
	for _, ws := range b.conns {
		_ = ws.Close()
	}
	b.reading.Wait()
	b.eventually("all have left, and the accounts balance", func(v vitals) bool {
		s := v.Stats
		return s.Clients == 0 && s.Buffered == 0 && s.Connects == s.Disconnects && s.Sent+s.Dropped+s.Abandoned+s.Filtered+s.Conflated == s.Offered
	})
}
