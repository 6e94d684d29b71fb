package mesherstream

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// asking is a client whose requests are read at moments that the test chooses.
type asking struct {
	*testing.T
	s *shard
	c *client
}

func newAsking(t *testing.T, agrees bool) *asking {
	t.Helper()
	s := newTestShard(t, 1, sink{})
	c := s.find(0)
	c.connectedAt = time.Now()
	if agrees {
		agree(c)
	}
	return &asking{t, s, c}
}

// ask has n requests read at once, and returns how many were answered before the client was closed.
func (a *asking) ask(n int) (answered int) {
	for range n {
		a.c.received(wsframe.OpText, []byte(`{"type":"subscribe","filters":{}}`))
		if a.c.phase != phaseOpen {
			return answered
		}
		answered++
	}
	return answered
}

// Requests that a client has sent at its normal pace may be read in one burst, if the network or the process has
// stalled.
func TestAClientThatKeepsToItsPaceMayBeReadInBursts(t *testing.T) {
	for _, pace := range []int{1, 10, 20} {
		for _, stall := range []time.Duration{time.Second, 10 * time.Second, time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				a := newAsking(t, false)
				for round := range 20 {
					time.Sleep(stall)
					n := pace * int(stall/time.Second)
					if got := a.ask(n); got != n {
						t.Fatalf("round %d of %v at %d a second: closed after %d requests of %d", round, stall, pace, got, n)
					}
				}
			})
		}
	}
}

// The same by the client's clock, at whatever moments within a second.
func TestAClientMayUseASecondAsItLikes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsking(t, false)
		for range 100 {
			time.Sleep(999 * time.Millisecond) // the end of one, and the beginning of the next
			first := a.ask(20)
			time.Sleep(time.Millisecond)
			if second := a.ask(20); first+second != 40 {
				t.Fatalf("closed after %d and %d requests", first, second)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestAClientThatAsksTooOftenIsClosed(t *testing.T) {
	for name, tt := range map[string]struct {
		wait time.Duration
		want int
	}{
		"at once":           {0, 20},
		"after a second":    {time.Second, 40},
		"after half a day":  {12 * time.Hour, maxRequestsSaved},
		"within 50 ms more": {49 * time.Millisecond, 20},
		"after 50 ms":       {50 * time.Millisecond, 21},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := newAsking(t, false)
			time.Sleep(tt.wait)
			if got := a.ask(10_000); got != tt.want || a.c.out.closeCode != wsframe.CodePolicyViolation {
				t.Errorf("%s: got %d answers and close code %d, want %d and 1008", name, got, a.c.out.closeCode, tt.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		a := newAsking(t, false)
		begin := time.Now()
		for a.ask(1) == 1 && time.Since(begin) < time.Hour {
			time.Sleep(time.Second / 25)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("25 a second: closed after %v, want within five seconds", took)
		}
	})
}

func TestAnswersToPingsAndAcknowledgementsAreNotRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsking(t, true)
		for i := range 1000 {
			a.c.received(wsframe.OpPong, nil)
			a.c.received(wsframe.OpPing, nil)
			publishTurn(t, a.s, newMessage(&Message{Project: "shop", Data: []byte("x")}), 1)
			a.c.received(wsframe.OpText, fmt.Append(nil, modelAck, i+1, "}"))
		}
		if got := a.ask(21); got != 20 {
			t.Errorf("behind 1,000 of each: got %d answers, want 20", got)
		}
	})
}

// How large these are decides how many viewers a process holds, and how many cache lines a delivery reads.
func TestAClientThatKeepsUpIsSmall(t *testing.T) {
	var c client
	for _, size := range []struct {
		of        string
		got, most uintptr
	}{
		{"client", unsafe.Sizeof(c), 256},
		{"the part of it that a delivery touches", unsafe.Offsetof(c.id), 2 * 64},
		{"window", unsafe.Sizeof(window{}), 48},
		{"v1", unsafe.Sizeof(v1{}), 64},
		{"outbox", unsafe.Sizeof(outbox{}), 384},
	} {
		if size.got > size.most {
			t.Errorf("%s: got %d bytes, want at most %d", size.of, size.got, size.most)
		}
	}
}

func TestAClientHasAnOutboxOnlyWhileSomethingWaits(t *testing.T) {
	s, c := newQuietShard(t, WithPingInterval(0), WithIdleTimeout(0))
	l := c.link.(*directLink)
	turn := func() {
		t.Helper()
		publishTurn(t, s, newMessage(&Message{Project: "shop", Data: []byte("1")}), 1)
		s.beatAll(time.Now())
	}
	if turn(); c.out != nil {
		t.Fatalf("it keeps up: got %+v", c.out)
	}
	l.room = 0
	if turn(); c.out == nil || c.queued()+c.out.flight.messages != 1 {
		t.Fatalf("a message waits: got %+v", c.out)
	}
	l.room = 1 << 30
	c.link.Retry()
	if s.beatAll(time.Now()); c.out != nil || c.sent != 2 {
		t.Errorf("it was sent: got %d sent and %+v", c.sent, c.out)
	}

	now := time.Now()
	for c.pay(now) {
	}
	if s.beatAll(now); c.out == nil || c.pay(now) {
		t.Error("a beat has given back what the client has used up")
	}
	later := now.Add(mostSaved)
	if s.beatAll(later); c.out != nil {
		t.Errorf("after it has saved up again: got %+v", c.out)
	}
	asked := 0
	for c.pay(later) {
		asked++
	}
	if asked != maxRequestsSaved {
		t.Errorf("after it has saved up again: got %d requests, want %d", asked, maxRequestsSaved)
	}
}

// The clients of a project with the same filter and grant share them. One that may look back less far has its own.
func TestClientsShareTheirTerms(t *testing.T) {
	m := startManager(t)
	shop := func(since time.Time, levels ...string) *client {
		var c *client
		for c == nil || c.shard != m.shards[0] {
			c = connect(t, m, Subscription{Project: "shop", Filter: Filter{Levels: levels}, Since: since}, openSink)
		}
		return c
	}
	since := time.Now()
	a, b, other, restricted := shop(time.Time{}, "error"), shop(time.Time{}, "error"), shop(time.Time{}, "info"), shop(since, "error")
	m.shards[0].ask(func() {
		if a.sub != b.sub || a.grant != b.grant || a.grant != other.grant {
			t.Errorf("got %p %p, %p %p and %p", a.sub, a.grant, b.sub, b.grant, other.grant)
		}
		if other.sub == a.sub || restricted.sub == a.sub || restricted.grant == a.grant || !restricted.sub.Since.Equal(since) {
			t.Errorf("others: got %+v and %+v", other.sub, restricted.sub)
		}
		other.setFilter(Filter{Levels: []string{"error"}})
		if other.sub != a.sub || a.sub.Levels[0] != "error" {
			t.Errorf("after it has changed its filter: got %+v, and %+v for the others", other.sub, a.sub)
		}
		other.setFilter(Filter{Levels: []string{"debug"}})
		if a.sub.Levels[0] != "error" || other.sub.Levels[0] != "debug" {
			t.Errorf("after another change: got %+v, and %+v for the others", other.sub, a.sub)
		}
	})
}
