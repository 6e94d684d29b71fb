package soak

import (
	"flag"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

var (
	duration = flag.Duration("duration", 5*time.Second, "how long the traffic lasts")
	viewers  = flag.Int("viewers", 24, "how many viewers there are at a time")
	pace     = flag.Duration("pace", 10*time.Millisecond, "how long the publisher waits after each message, but in a burst")
)

func TestMain(m *testing.M) {
	// Starts fasthttp's process-wide clock, which never ends, before anything is counted.
	var h fasthttp.ResponseHeader
	_ = h.Header()
	os.Exit(m.Run())
}

// TestAnAppAtRestHoldsWhatItHeldBeforeItsTraffic restarts the app a few times. Each run of it ends at rest, and
// what it holds then is compared with what it held after a first short run, which has filled the pools of all that is
// underneath.
func TestAnAppAtRestHoldsWhatItHeldBeforeItsTraffic(t *testing.T) {
	s := newServer(t)
	s.live(2 * time.Second)
	before := atRest(vitals{})
	t.Logf("before:  %v", before)

	run := min(max(*duration/30, 2*time.Second), time.Minute)
	end := time.Now().Add(*duration)
	for next := time.Now(); time.Now().Before(end); {
		s.live(min(run, time.Until(end)+100*time.Millisecond))
		if t.Failed() {
			return
		}
		if now := time.Now(); now.After(next) {
			next = now.Add(*duration / 20)
			t.Logf("restart %d: %v; %+v", s.starts.Load(), atRest(before), s.m.Stats())
		}
	}

	after := atRest(before)
	t.Logf("after:   %v; %d starts; %+v", after, s.starts.Load(), s.m.Stats())
	after.compare(t, before)
	for what, count := range map[string]uint64{"drops": s.m.Stats().Dropped, "filters set": s.m.Stats().FilterSets, "slow episodes": s.slow.Load()} {
		if count == 0 {
			t.Errorf("the traffic had no %s: it proves nothing about them", what)
		}
	}
}

// live is one run of the app, from its listening to its shutdown, under all kinds of traffic.
func (s *server) live(d time.Duration) {
	s.Helper()
	s.listen()
	quit := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { s.publish(quit) })
	all.Go(func() { s.buffer(quit) })
	f := &fleet{server: s, quit: quit}
	for i := range *viewers {
		all.Go(func() {
			for lives := 0; !f.over(); lives++ {
				token := strconv.Itoa(i) + "." + strconv.Itoa(lives)
				f.live(kinds[i%len(kinds)], token, rand.New(rand.NewPCG(uint64(i), uint64(lives))))
			}
		})
	}
	time.Sleep(d) // the traffic is the test, and this is how long it lasts
	close(quit)
	s.shutdown()
	all.Wait()
	s.checkAccounts()
	f.checkLives()
}
