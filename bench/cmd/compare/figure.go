//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/report"
)

// none is the figure of a run that has none.
var none = math.NaN()

// runs are one server's runs of one round, by pass.
type runs map[string]result

// round is every server's runs of one round.
type round map[string]runs

// figure takes one number out of a server's runs.
type figure func(runs) float64

// column is one figure of a table.
type column struct {
	title    string
	value    func(r round, server string) float64
	format   func(float64) string
	spread   bool // show the least and the greatest of the rounds, too
	compared bool // a ratio, which needs more than half of the rounds, because what fell behind is not compared
	checked  bool // it says the same on another machine and day, so another run must confirm it
}

// of makes a figure of one pass. A run that froze or failed has no figures, except where a figure asks for it itself.
func of(pass string, take func(*result) float64) figure {
	return func(r runs) float64 {
		result, there := r[pass]
		if !there || result.Froze || result.Error != "" {
			return none
		}
		return take(&result)
	}
}

func own(title string, f figure, format func(float64) string) column {
	return column{title: title, format: format, value: func(r round, server string) float64 { return f(r[server]) }}
}

// against divides by what the reference needed in the same round.
func against(title string, f figure, reference string) column {
	return column{title: title, format: times, spread: true, compared: true, value: func(r round, server string) float64 {
		return kept(f)(r[server]) / kept(f)(r[reference])
	}}
}

// ratio divides two figures of the same server and round.
func ratio(title string, above, below figure) column {
	c := own(title, func(r runs) float64 { return kept(above)(r) / kept(below)(r) }, times)
	c.spread, c.compared = true, true
	return c
}

// kept has no figure of a round in which the server fell behind in any of the passes that f asks for.
func kept(f figure) figure {
	return func(r runs) float64 {
		upright := make(runs)
		for name, result := range r {
			if !result.Behind {
				upright[name] = result
			}
		}
		return f(upright)
	}
}

// spread shows how far the rounds of a column are apart.
func spread(c column) column {
	c.spread = true
	return c
}

// checked asks for the column to be confirmed by another run: a ratio of CPU time, or memory. Latencies depend on how busy the
// machine is.
func checked(c column) column {
	c.checked = true
	return c
}

func duration(title string, f figure) column  { return spread(own(title, f, report.Duration)) }
func count(title string, f figure) column     { return own(title, f, report.Count) }
func mebibytes(title string, f figure) column { return own(title, f, report.Mebibytes) }
func percent(title string, f figure) column {
	return own(title, f, func(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) })
}

func decimal(title string, f figure) column {
	return own(title, f, func(v float64) string { return fmt.Sprintf("%.3f", v) })
}

func cpuColumn(pass string) column { return duration("CPU/delivery", cpu(pass)) }

func cpu(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Measure.CPU) / float64(r.Load.Received) })
}

func cpuPerBroadcast(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Measure.CPU) / broadcasts(r) })
}

func broadcasts(r *result) float64 { return float64(r.Measure.Publish.Broadcasts) }

func allocsPerDelivery(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Measure.Allocations) / float64(r.Load.Received) })
}

func allocsPerBroadcast(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Measure.Allocations) / broadcasts(r) })
}

// readsPerDelivery is below 1 if messages arrived together.
func readsPerDelivery(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Load.Reads) / float64(r.Load.Received) })
}

// segmentsPerDelivery is below 1 if messages were joined.
func segmentsPerDelivery(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Load.Segments) / float64(r.Load.Received) })
}

func p50(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Load.P50) })
}

func p99(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Load.P99) })
}

func longestLatency(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Load.Max) })
}

// longest has a figure for a run that froze too: as long as it was watched.
func longest(pass string) figure {
	return func(r runs) float64 {
		result := r[pass]
		if took := result.Measure.Publish.LongestBroadcast; took > 0 {
			return float64(took)
		}
		return none
	}
}

func peak(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Measure.PeakResidentBytes) })
}

func residentGrowth(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Measure.PeakResidentBytes - r.Before.ResidentBytes) })
}

func heapGrowth(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.After.HeapBytes - r.Before.HeapBytes) })
}

func lost(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Load.Lost) })
}

func lostShare(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Load.Lost) / float64(r.Load.Expected) })
}

func closedByServer(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Load.Clients - r.Measure.Clients) })
}

func reconnects(pass string) figure {
	return of(pass, func(r *result) float64 { return float64(r.Load.Reconnects) })
}

// throughput is deliveries a second, from the first Broadcast to the last arrival, or to the last Broadcast where nobody was left to get it.
func throughput(pass string) figure {
	return of(pass, func(r *result) float64 {
		elapsed := max(time.Duration(r.Load.LastNanos-r.Measure.Publish.StartedNanos), r.Measure.Publish.Elapsed)
		return float64(r.Load.Received) / elapsed.Seconds()
	})
}

// perConnection is what the idle scenario's clients add to a server without clients.
func perConnection(weight func(*control.MemoryReport) float64) figure {
	return of("idle", func(r *result) float64 {
		return (weight(&r.After) - weight(&r.Empty)) / float64(r.After.Clients)
	})
}

// perHandshake divides by the handshakes of a pass.
func perHandshake(pass string, take func(*control.MeasureReport) float64) figure {
	return of(pass, func(r *result) float64 { return take(&r.Measure) / float64(r.Connect.Clients) })
}

func cpuOf(m *control.MeasureReport) float64         { return float64(m.CPU) }
func allocationsOf(m *control.MeasureReport) float64 { return float64(m.Allocations) }
func allocatedOf(m *control.MeasureReport) float64   { return float64(m.AllocatedBytes) }

func handshakeTime(pass string, take func(*control.ReceivedReport) time.Duration) figure {
	return of(pass, func(r *result) float64 { return float64(take(&r.Connect)) })
}

// restedPerConnection is the same before the garbage is collected.
func restedPerConnection(weight func(*control.MemoryReport) float64) figure {
	return of("idle", func(r *result) float64 {
		return (weight(&r.Rested) - weight(&r.Empty)) / float64(r.After.Clients)
	})
}

// leaving are the times after which the server has seen that a client was gone.
func leaving(take func(seen []float64) float64) figure {
	return of("leaving", func(r *result) float64 {
		var seen []float64
		for _, d := range r.Leaving {
			seen = append(seen, float64(d))
		}
		if len(seen) == 0 {
			return none
		}
		return take(seen)
	})
}

var (
	leavingMedian = leaving(report.Median)
	leavingMax    = leaving(slices.Max[[]float64])
)

func residentOf(m *control.MemoryReport) float64   { return float64(m.ResidentBytes) }
func heapOf(m *control.MemoryReport) float64       { return float64(m.HeapBytes) }
func heapUsedOf(m *control.MemoryReport) float64   { return float64(m.HeapUsedBytes) }
func stackOf(m *control.MemoryReport) float64      { return float64(m.StackBytes) }
func goroutinesOf(m *control.MemoryReport) float64 { return float64(m.Goroutines) }

func times(v float64) string { return fmt.Sprintf("%.2f", v) }
