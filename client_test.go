package mesherstream

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

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
