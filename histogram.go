package mesherstream

import (
	"math/bits"
	"time"
)

// Histogram counts durations by their size. It is a value; counting goes on in the [Manager].
type Histogram struct {
	// Counts[i] is how many took at most Bound(i) and more than the bound before; the last is how many took longer than
	// every bound.
	Counts [14]uint64    `json:"counts"`
	Sum    time.Duration `json:"sum_ns"`
}

// Bound returns the bound of Counts[i]: 1 µs, 4 µs, 16 µs and so on, to 17 s.
func (h *Histogram) Bound(i int) time.Duration { return time.Microsecond << (2 * i) }

func (h *Histogram) observe(d time.Duration) {
	i := 0
	if us := uint64((d + time.Microsecond - 1) / time.Microsecond); us > 1 {
		i = min((bits.Len64(us-1)+1)/2, len(h.Counts)-1)
	}
	h.Counts[i]++
	h.Sum += d
}

func (h *Histogram) add(o Histogram) {
	for i := range h.Counts {
		h.Counts[i] += o.Counts[i]
	}
	h.Sum += o.Sum
}

// deliveriesTimed is how many runs of a shard there are for each one that is timed: reading the clock twice costs about
// as much as handing one message to one client.
const deliveriesTimed = 64

// beginRun returns when the run began, or zero if it isn't timed.
func (s *shard) beginRun() (begin time.Time) {
	if s.runs++; s.runs%deliveriesTimed == 0 {
		begin = time.Now()
	}
	return begin
}

func (s *shard) endRun(begin time.Time) {
	if !begin.IsZero() {
		s.totals.Deliveries.observe(time.Since(begin))
	}
}
