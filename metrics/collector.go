package metrics

import (
	"time"

	"github.com/mesher/mesherstream"
	"github.com/prometheus/client_golang/prometheus"
)

// NewCollector returns a collector that calls m.Stats() for each scrape. A scrape waits for one turn of each shard, and
// never for a client. NewCollector panics if m is nil. The collector is safe for concurrent use, and continues to work
// after m's shutdown.
func NewCollector(m *mesherstream.Manager) prometheus.Collector {
	if m == nil {
		panic("metrics: NewCollector(nil): must be a manager")
	}
	return &collector{m}
}

type collector struct{ m *mesherstream.Manager }

// A metric is one field of the Stats.
type metric struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	value  func(*mesherstream.Stats) float64
	reason []string // the value of the label reason, if there is one
}

var metrics = []metric{
	gauge("clients", "Clients that are connected now.", func(s *mesherstream.Stats) float64 { return float64(s.Clients) }),
	gauge("slow_clients", "Connected clients that have kept messages waiting for a whole drain interval or lost some, and have not caught up since.",
		func(s *mesherstream.Stats) float64 { return float64(s.Slow) }),
	gauge("buffered_messages", "Messages that are buffered for clients now.", func(s *mesherstream.Stats) float64 { return float64(s.Buffered) }),
	gauge("buffered_bytes", "Bytes that are buffered for clients now. Bytes that several clients share are counted once for each client.",
		func(s *mesherstream.Stats) float64 { return float64(s.BufferedBytes) }),
	gauge("history_messages", "Messages that the history keeps now.", func(s *mesherstream.Stats) float64 { return float64(s.HistoryMessages) }),
	gauge("history_bytes", "Bytes that these messages count with, of those that WithHistoryBytes allows.",
		func(s *mesherstream.Stats) float64 { return float64(s.HistoryBytes) }),

	counter("broadcasts_total", "Accepted calls of Broadcast.", func(s *mesherstream.Stats) uint64 { return s.Broadcasts }),
	counter("messages_offered_total", "Messages that were offered to clients, counted once for each client.", func(s *mesherstream.Stats) uint64 { return s.Offered }),
	counter("messages_sent_total", "Messages that the kernel has accepted for a client.", func(s *mesherstream.Stats) uint64 { return s.Sent }),
	reason(dropped, "buffer_full", func(s *mesherstream.Stats) uint64 { return s.Dropped }),
	reason(dropped, "client_left", func(s *mesherstream.Stats) uint64 { return s.Abandoned }),
	counter("messages_filtered_total", "Buffered messages that a filter change has removed.",
		func(s *mesherstream.Stats) uint64 { return s.Filtered }),
	counter("messages_conflated_total", "Buffered messages that a newer one with the same key has replaced.", func(s *mesherstream.Stats) uint64 { return s.Conflated }),
	counter("messages_replayed_total", "Messages from the history that the kernel has accepted for a client. No other counter includes them.", func(s *mesherstream.Stats) uint64 { return s.Replayed }),
	counter("connects_total", "Clients that have connected.", func(s *mesherstream.Stats) uint64 { return s.Connects }),
	counter("disconnects_total", "Clients that have disconnected.", func(s *mesherstream.Stats) uint64 { return s.Disconnects }),
	counter("filter_changes_total", "Filter changes.", func(s *mesherstream.Stats) uint64 { return s.FilterSets }),
	counter("hook_panics_total", "Recovered panics of hooks.", func(s *mesherstream.Stats) uint64 { return s.HookPanics }),

	gauge("relay_away", "1 while the relay is unavailable, or refuses some projects; 0 otherwise, and without a relay.", func(s *mesherstream.Stats) float64 {
		if s.RelayAway {
			return 1
		}
		return 0
	}),
	gauge("relay_projects", "Projects that this node follows on the other nodes.", func(s *mesherstream.Stats) float64 { return float64(s.RelayProjects) }),
	gauge("relay_unfollowed_projects", "Followed projects that the relay refuses. Their clients receive nothing from other nodes.",
		func(s *mesherstream.Stats) float64 { return float64(s.RelayUnfollowed) }),
	gauge("relay_queued_messages", "Messages that are queued for the relay now.", func(s *mesherstream.Stats) float64 { return float64(s.RelayQueued) }),
	counter("relay_breaks_total", "Times that the relay became unavailable, however briefly. Messages in flight may be lost.",
		func(s *mesherstream.Stats) uint64 { return s.RelayBreaks }),
	counter("relay_messages_published_total", "Messages of this node that the relay has accepted and not refused.",
		func(s *mesherstream.Stats) uint64 { return s.RelayPublished }),
	counter("relay_messages_received_total", "Messages of other nodes that were delivered on this node.",
		func(s *mesherstream.Stats) uint64 { return s.RelayReceived }),
	counter("relay_messages_unwanted_total", "Messages of other nodes with a level or environment that no client of this node wanted.",
		func(s *mesherstream.Stats) uint64 { return s.RelayUnwanted }),
	reason(relayDropped, "unpublished", func(s *mesherstream.Stats) uint64 { return s.RelayDropped }),
	reason(relayDropped, "missed", func(s *mesherstream.Stats) uint64 { return s.RelayMissed }),
	reason(relayDropped, "refused", func(s *mesherstream.Stats) uint64 { return s.RelayRefused }),
}

var (
	dropped = describe("messages_dropped_total", "Messages that were offered to a client and not delivered, by reason: its buffer was full, or it left.", "reason")

	relayDropped = describe("relay_messages_dropped_total", "Messages between nodes that were lost, by reason: this node could not publish them, "+
		"missed them, or refused them because they were duplicate, out of order or malformed.", "reason")

	deliveries = describe("delivery_duration_seconds", "Time a shard takes to hand a batch of messages to its clients. One batch in 64 is measured.")
	drains     = describe("drain_duration_seconds", "Time a shard takes to drain its buffers at a tick, if any message is buffered.")
	ages       = describe("message_age_seconds", "How old what clients have handled was, counted each time that a client acknowledges a mark.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("mesherstream_"+name, help, labels, nil)
}

func gauge(name, help string, value func(*mesherstream.Stats) float64) metric {
	return metric{describe(name, help), prometheus.GaugeValue, value, nil}
}

func counter(name, help string, value func(*mesherstream.Stats) uint64) metric {
	return metric{describe(name, help), prometheus.CounterValue, func(s *mesherstream.Stats) float64 { return float64(value(s)) }, nil}
}

// reason is the counter for one value of the label reason.
func reason(desc *prometheus.Desc, why string, value func(*mesherstream.Stats) uint64) metric {
	return metric{desc, prometheus.CounterValue, func(s *mesherstream.Stats) float64 { return float64(value(s)) }, []string{why}}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for i, m := range metrics {
		if i == 0 || m.desc != metrics[i-1].desc { // entries of one metric are adjacent
			ch <- m.desc
		}
	}
	ch <- deliveries
	ch <- drains
	ch <- ages
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.m.Stats()
	for _, m := range metrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&s), m.reason...)
	}
	ch <- histogram(deliveries, s.Deliveries.Counts[:], s.Deliveries.Bound, s.Deliveries.Sum)
	ch <- histogram(drains, s.Drains.Counts[:], s.Drains.Bound, s.Drains.Sum)
	ch <- histogram(ages, s.Ages.Counts[:], s.Ages.Bound, s.Ages.Sum)
}

// histogram converts a histogram to the form of Prometheus, in which each bucket includes the ones before it, and the
// last one needs no bound.
func histogram(desc *prometheus.Desc, counts []uint64, bound func(int) time.Duration, sum time.Duration) prometheus.Metric {
	buckets := make(map[float64]uint64, len(counts)-1)
	var total uint64
	for i, n := range counts {
		total += n
		if i < len(counts)-1 {
			buckets[bound(i).Seconds()] = total
		}
	}
	return prometheus.MustNewConstHistogram(desc, total, sum.Seconds(), buckets)
}
