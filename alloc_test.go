//go:build !race

package mesherstream

import (
	"strings"
	"testing"

	"github.com/mesher/mesherstream/internal/link"
)

func TestDeliveringToAClientAllocatesNothing(t *testing.T) {
	m := newMessage(&Message{Project: "shop", Level: "error", Data: make([]byte, 512)})
	for name, l := range map[string]link.Link{"fast": sink{}, "slow": wall{}, "fast, with the protocol": sink{}, "slow, with the protocol": wall{}} {
		for _, broadcasts := range []int{1, 10} {
			s := newTestShard(t, 100, l)
			if strings.HasSuffix(name, "protocol") {
				for _, c := range s.everyone() {
					c.agree(&config{})
				}
			}
			publishTurn(t, s, m, 100) // buffers grow once
			if got := testing.AllocsPerRun(100, func() { publishTurn(t, s, m, broadcasts) }); got != 0 {
				t.Errorf("%s clients, %d broadcasts in one turn to 100 clients: got %v allocations, want 0", name, broadcasts, got)
			}
		}
	}
}

func TestABroadcastAllocatesTwice(t *testing.T) {
	data := make([]byte, 512)
	if got := testing.AllocsPerRun(100, func() {
		newMessage(&Message{Project: "shop", Level: "error", Environment: "production", Data: data})
	}); got > 2 {
		t.Errorf("a message: got %v allocations, want at most 2", got)
	}
}

func TestABroadcastToManyClientsAllocatesTwice(t *testing.T) {
	s := newTestShard(t, 100, sink{})
	m := &Manager{cfg: *s.cfg, shards: []*shard{s}}
	msg := Message{Project: "shop", Level: "error", Environment: "production", Data: make([]byte, 512)}
	if got := testing.AllocsPerRun(100, func() {
		if err := m.Broadcast(msg); err != nil {
			t.Fatal(err)
		}
		s.take()
		s.takeTurn()
	}); got > 2 {
		t.Errorf("Broadcast, and its delivery to 100 clients: got %v allocations, want at most 2", got)
	}
}

func TestABroadcastThatNobodyFollowsAllocatesNothing(t *testing.T) {
	m, err := NewManager()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 512)
	if got := testing.AllocsPerRun(100, func() { _ = m.Broadcast(Message{Project: "shop", Data: data}) }); got != 0 {
		t.Errorf("Broadcast without clients: got %v allocations, want 0", got)
	}
}

func TestADrainWithNothingBufferedAllocatesNothing(t *testing.T) {
	s := newTestShard(t, 100, sink{})
	if got := testing.AllocsPerRun(100, func() { s.tick(true, false); s.take(); s.takeTurn() }); got != 0 {
		t.Errorf("a drain of 100 clients with empty buffers: got %v allocations, want 0", got)
	}
}
