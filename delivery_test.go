package mesherstream

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/mesher/mesherstream/internal/link"
)

// gate is a link to a kernel that takes whole frames while it is open, and never says when that is.
type gate struct {
	sink
	client *client
	open   bool
	tries  int
	got    bytes.Buffer
}

func (g *gate) Write(p []byte, _ []int) (sent, held int, err error) {
	g.tries++
	if g.open {
		sent, _ = g.got.Write(p)
	}
	return sent, 0, nil
}

func (g *gate) Retry() { g.client.Handle(link.Event{Kind: link.Writable}) }

func TestNothingIsDroppedWhileTheKernelHasRoom(t *testing.T) {
	s := newTestShard(t, 1, &gate{})
	c := s.everyone()[0]
	g := c.link.(*gate)
	g.client = c
	var want bytes.Buffer
	turn := func(first, end int) {
		for i := first; i < end; i++ {
			m := newMessage(&Message{Project: "shop", Data: fmt.Append(nil, i)})
			want.Write(m.frame)
			publishTurn(t, s, m, 1)
		}
	}

	turn(0, 100) // refused once, and then they wait
	if g.tries != 1 || c.backlog.len() != 100 {
		t.Fatalf("behind a closed gate: got %d tries and %d messages waiting, want 1 and 100", g.tries, c.backlog.len())
	}
	g.open = true // without a word
	turn(100, 150)
	if c.dropped != 0 || c.sent != 150 || !bytes.Equal(g.got.Bytes(), want.Bytes()) {
		t.Errorf("after the gate has opened: got %d sent and %d dropped, want 150 and 0, in order", c.sent, c.dropped)
	}

	g.open, g.tries = false, 0
	turn(150, 1000)
	if g.tries != 2 || c.dropped != 750 {
		t.Errorf("to a client that is slow: got %d tries and %d dropped, want 2 and 750", g.tries, c.dropped)
	}
}
