// Package histogram counts durations in logarithmic buckets, so that a percentile is exact to 1.6 % over any range,
// recording costs a few nanoseconds, and nothing is allocated.
package histogram

import (
	"math/bits"
	"time"
)

const (
	subBits    = 6 // 64 buckets per power of two
	subBuckets = 1 << subBits
	buckets    = (64 - subBits + 1) * subBuckets
)

// Histogram counts durations. The zero value is ready. It is not safe for concurrent use.
type Histogram struct {
	counts [buckets]uint64
	total  uint64
	max    int64
}

// Record counts one duration in nanoseconds. A negative one counts as zero: it means that two clock readings crossed.
func (h *Histogram) Record(nanos int64) { h.RecordN(nanos, 1) }

// RecordN counts n equal durations.
func (h *Histogram) RecordN(nanos int64, n uint64) {
	nanos = max(nanos, 0)
	h.counts[bucket(uint64(nanos))] += n
	h.total += n
	h.max = max(h.max, nanos)
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Max returns the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return time.Duration(h.max) }

// Quantile returns the duration that a share q (0 to 1) of all durations does not exceed, rounded up to its bucket's end, and
// zero where nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := uint64(q*float64(h.total) + 0.5)
	rank = min(max(rank, 1), h.total)
	var seen uint64
	for i, n := range h.counts {
		seen += n
		if seen >= rank {
			return time.Duration(min(upper(i), h.max))
		}
	}
	return h.Max()
}

// bucket maps a value to its bucket: values below 64 have one each, and above that the 6 bits behind the leading one
// choose among the 64 buckets of its power of two.
func bucket(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return shift<<subBits + int(v>>shift)
}

// upper is the largest value that bucket maps to i.
func upper(i int) int64 {
	if i < 2*subBuckets {
		return int64(i)
	}
	shift := i>>subBits - 1
	return int64(i-shift<<subBits+1)<<shift - 1
}
