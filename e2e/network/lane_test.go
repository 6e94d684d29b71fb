package network

import (
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// receipts tells when packets come out of a lane, by its first byte.
type receipts struct {
	begin time.Time
	at    map[byte]time.Duration
}

func (r *receipts) Write(p []byte) (int, error) {
	r.at[p[0]] = time.Since(r.begin)
	return len(p), nil
}

// carry sends packets of 1,000 bytes through a lane in no time, and returns what has come out in the end. Between them,
// it calls change with the number of each.
func carry(t *testing.T, q Quality, packets int, change func(i int, quality *atomic.Pointer[Quality])) (got map[byte]time.Duration) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		var quality atomic.Pointer[Quality]
		quality.Store(&q)
		from, feed := io.Pipe()
		r := &receipts{begin: time.Now(), at: make(map[byte]time.Duration)}
		l := newLane(from, r, &quality)
		go l.take()
		go l.hand()
		for i := range packets {
			change(i, &quality)
			p := make([]byte, 1000)
			p[0] = byte(i)
			_, _ = feed.Write(p)
			synctest.Wait() // it is on the road
		}
		_ = feed.Close()
		time.Sleep(time.Hour)
		got = r.at
	})
	return got
}

func unchanged(int, *atomic.Pointer[Quality]) {}

func TestALaneKeepsItsRateAndItsDelay(t *testing.T) {
	got := carry(t, Quality{Rate: 80_000, Delay: 300 * time.Millisecond}, 10, unchanged)
	for i := range 10 {
		want := time.Duration(i+1)*100*time.Millisecond + 300*time.Millisecond
		if at, ok := got[byte(i)]; !ok || at != want {
			t.Errorf("packet %d: got it after %v (%v), want after %v", i, at, ok, want)
		}
	}
}

func TestALaneDropsWhatItsQueueCannotHold(t *testing.T) {
	got := carry(t, Quality{Rate: 80_000, QueueBytes: 4000}, 10, unchanged)
	for i := range 10 {
		if _, ok := got[byte(i)]; ok != (i < 4) {
			t.Errorf("packet %d arrived: got %v, want %v", i, ok, i < 4)
		}
	}
}

func TestALaneLosesItsShareOfThePackets(t *testing.T) {
	lost := 0
	for range 40 {
		lost += 250 - len(carry(t, Quality{Loss: 0.05}, 250, unchanged))
	}
	// 500 are expected, with a standard deviation of 22.
	if lost < 350 || lost > 650 {
		t.Errorf("lost of 10,000: got %d, want 5 %%", lost)
	}
}

func TestACutLaneLosesWhatIsOnItAndWhatComes(t *testing.T) {
	q := Quality{Delay: time.Second}
	got := carry(t, q, 4, func(i int, quality *atomic.Pointer[Quality]) {
		switch i {
		case 1: // packet 0 is on the road
			quality.Store(&Quality{Delay: time.Second, Cut: true})
			time.Sleep(2 * time.Second)
		case 3:
			quality.Store(&q)
		}
	})
	if len(got) != 1 || got[3] != 3*time.Second {
		t.Errorf("arrived: got %v, want only packet 3, after 3s", got)
	}
}

func TestANewRateHoldsForWhatComesAfterIt(t *testing.T) {
	got := carry(t, Quality{Rate: 80_000}, 3, func(i int, quality *atomic.Pointer[Quality]) {
		if i == 1 {
			quality.Store(&Quality{Rate: 800_000})
		}
	})
	for i, want := range []time.Duration{100, 110, 120} {
		if got[byte(i)] != want*time.Millisecond {
			t.Errorf("packet %d: got it after %v, want after %dms", i, got[byte(i)], want)
		}
	}
}
