package mesherstream

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// newQuietShard returns a shard without a goroutine, and one client whose link takes everything.
func newQuietShard(t *testing.T, opts ...Option) (*shard, *client) {
	t.Helper()
	m, err := NewManager(append(opts, WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		t.Fatal(err)
	}
	m.cfg.shards = 1
	s := m.shards[0]
	s.start(newHookQueue(Hooks{}, m.cfg.logger, m.hookPanicked), nil)
	p, err := m.reserve("192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	c := &client{id: 1, shard: s, place: p, connectedAt: time.Now(), sub: Subscription{Project: "shop"}}
	c.link = &directLink{client: c, room: 1 << 30}
	c.markSeen(c.connectedAt)
	if err := s.register(c); err != nil {
		t.Fatal(err)
	}
	s.take()
	s.takeTurn()
	return s, c
}

// beatAll is a whole turn of the wheel.
func (s *shard) beatAll(now time.Time) {
	for range wheelSlots {
		s.beat(now)
	}
}

// stepped returns a moment as it looks after somebody has set the wall clock. Only the wall clock's part changes: its
// seconds begin at bit 30 of the first word.
func stepped(t *testing.T, now time.Time, by time.Duration) time.Time {
	t.Helper()
	after := now
	*(*uint64)(unsafe.Pointer(&after)) += uint64(by/time.Second) << 30
	if after.Sub(now) != 0 || after.Unix()-now.Unix() != int64(by/time.Second) {
		t.Fatalf("the clock is stepped by %v in another way: %v is %v", by, now, after)
	}
	return after
}

func TestAWallClockThatIsSetRemovesNobodyAndSparesNobody(t *testing.T) {
	s, c := newQuietShard(t)
	s.beatAll(stepped(t, time.Now(), 24*time.Hour))
	if c.phase != phaseOpen {
		t.Error("the clock was set to tomorrow, and a client is gone that has just connected")
	}
	for wait := time.Second; wait <= s.cfg.idleTimeout; wait += time.Second {
		s.beatAll(stepped(t, c.connectedAt.Add(wait), -24*time.Hour))
	}
	if s.beatAll(stepped(t, time.Now().Add(s.cfg.idleTimeout+time.Second), -24*time.Hour)); c.phase != phaseGone {
		t.Error("the clock was set to yesterday, and a client stays that is silent")
	}
}

func TestAMachineThatSleptBlamesNoClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newQuietShard(t)
		s.beatAll(time.Now())
		time.Sleep(8 * time.Hour) // neither the ticker nor the client can do anything
		s.beatAll(time.Now())
		if c.phase != phaseOpen {
			t.Fatal("the machine slept, and the client is gone")
		}
		if got := string(c.link.(*directLink).taken); got != string(wsframe.Ping) {
			t.Errorf("after the sleep: got %q, want one ping", got)
		}
		for awake := time.Duration(0); awake < s.cfg.idleTimeout; awake += time.Second {
			if c.phase != phaseOpen {
				t.Fatalf("removed %v after the sleep, want %v", awake, s.cfg.idleTimeout)
			}
			time.Sleep(time.Second)
			s.beatAll(time.Now())
		}
		if c.phase != phaseGone {
			t.Error("a client that gave no sign of life after the sleep either is still there")
		}
	})
}
