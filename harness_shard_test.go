package mesherstream

import (
	"log/slog"
	"testing"

	"github.com/mesher/mesherstream/internal/link"
)

// sink is a link that takes everything at once.
type sink struct{}

func (sink) Write(p []byte, _ []int) (sent, held int, err error) { return len(p), 0, nil }
func (sink) Begin()                                              {}
func (sink) Progressed() bool                                    { return false }
func (sink) Ready()                                              {}
func (sink) Retry()                                              {}
func (sink) Resume()                                             {}
func (sink) Close()                                              {}

// wall is a link that takes nothing.
type wall struct{ sink }

func (wall) Write([]byte, []int) (sent, held int, err error) { return 0, 0, nil }

// newTestShard returns a shard without a goroutine, whose turns the caller takes, with n clients.
func newTestShard(tb testing.TB, n int, l link.Link) *shard {
	tb.Helper()
	m, err := NewManager(WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		tb.Fatal(err)
	}
	s := m.shards[0]
	s.start(newHookQueue(Hooks{}, m.cfg.logger, func(ClientID) {}), nil)
	for i := range n {
		c := &client{id: ClientID(i * len(m.shards)), shard: s, link: l, sub: Subscription{Project: "shop"}}
		if err := s.register(c); err != nil {
			tb.Fatal(err)
		}
	}
	s.take()
	s.takeTurn()
	return s
}

// publishTurn publishes m times and takes one turn.
func publishTurn(tb testing.TB, s *shard, m *message, times int) {
	for range times {
		if err := s.publish(m); err != nil {
			tb.Fatal(err)
		}
	}
	s.take()
	s.takeTurn()
}
