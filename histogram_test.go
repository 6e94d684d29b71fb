package mesherstream

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestADurationIsCountedUnderTheFirstBoundThatHoldsIt(t *testing.T) {
	var h Histogram
	last := len(h.Counts) - 1
	for d, want := range map[time.Duration]int{
		0: 0, 1: 0, time.Microsecond: 0, time.Microsecond + 1: 1, 4 * time.Microsecond: 1, 4*time.Microsecond + 1: 2,
		16 * time.Microsecond: 2, time.Millisecond: 5, time.Second: 10, 16 * time.Second: 12, 17 * time.Second: 13, time.Hour: 13,
	} {
		h = Histogram{}
		h.observe(d)
		if h.Counts[want] != 1 || h.Sum != d {
			t.Errorf("observe(%v): got %+v, want it in bucket %d", d, h, want)
		}
		if want < last && d > h.Bound(want) || want > 0 && d <= h.Bound(want-1) {
			t.Errorf("observe(%v): the bounds of bucket %d are %v and %v", d, want, h.Bound(want-1), h.Bound(want))
		}
	}
}

func TestDrainsAndOneRunInSixtyFourAreTimed(t *testing.T) {
	inBubble(t, func(w *world) {
		w.start()
		v := w.connect("shop").collect()
		for range 2*deliveriesTimed + 1 {
			w.publish("x")
			synctest.Wait() // a run each
		}
		if err := w.m.BufferMessage(v.id, []byte("buffered")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s := w.m.Stats()
		var runs, drains uint64
		for i := range s.Deliveries.Counts {
			runs += s.Deliveries.Counts[i]
			drains += s.Drains.Counts[i]
		}
		if runs != 2 || drains != 1 {
			t.Errorf("Stats(): got %d runs and %d drains timed, want 2 and 1: a drain with nothing to do is none", runs, drains)
		}
	})
}
