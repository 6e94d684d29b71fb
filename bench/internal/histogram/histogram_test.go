package histogram

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestEveryValueLiesInItsBucket(t *testing.T) {
	for _, v := range []int64{0, 1, 63, 64, 65, 127, 128, 129, 1000, 1 << 20, 1<<20 + 1, 1e9, 3e12, math.MaxInt64} {
		i := bucket(uint64(v))
		if i < 0 || i >= buckets {
			t.Fatalf("bucket(%d) = %d, outside of 0..%d", v, i, buckets-1)
		}
		if v > upper(i) {
			t.Errorf("value %d is above upper(%d) = %d", v, i, upper(i))
		}
		if i > 0 && v <= upper(i-1) {
			t.Errorf("value %d is not above upper(%d) = %d", v, i-1, upper(i-1))
		}
		if width := float64(upper(i)-v) / float64(max(v, 1)); width > 1.0/subBuckets {
			t.Errorf("upper(bucket(%d)) = %d: %.3f too high, want at most 1/64", v, upper(i), width)
		}
	}
}

func TestQuantilesAgreeWithASortedList(t *testing.T) {
	var h Histogram
	rng := rand.New(rand.NewPCG(1, 2))
	var all []int64
	for range 20_000 {
		v := int64(math.Exp(rng.Float64() * 20))
		all = append(all, v)
		h.Record(v)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999} {
		want := float64(all[int(q*float64(len(all))+0.5)-1])
		got := float64(h.Quantile(q))
		if got < want || got > want*(1+1.0/subBuckets)+1 {
			t.Errorf("Quantile(%v) = %v, want %v to 1.6 %% above it", q, got, want)
		}
	}
	if got, want := h.Max(), time.Duration(all[len(all)-1]); got != want {
		t.Errorf("Max() = %v, want %v", got, want)
	}
}

func TestEmptyHistogramAnswersZero(t *testing.T) {
	var h Histogram
	if h.Quantile(0.99) != 0 || h.Max() != 0 || h.Count() != 0 {
		t.Errorf("got %v, %v, %d, want zeros", h.Quantile(0.99), h.Max(), h.Count())
	}
}

func TestCrossedClocksCountAsZero(t *testing.T) {
	var h Histogram
	h.Record(-5)
	if h.Quantile(1) != 0 || h.Count() != 1 {
		t.Errorf("got %v of %d, want 0 of 1", h.Quantile(1), h.Count())
	}
}
