package metrics

import (
	"time"

	"github.com/mesher/mesherstream"
	"github.com/prometheus/client_golang/prometheus"
)

// NewCollector returns a collector of what m.Stats() says when it is asked, which waits for one turn of each shard and
// never for a client. It panics if m is nil. It is safe for concurrent use, and goes on working after m's shutdown.
func NewCollector(m *mesherstream.Manager) prometheus.Collector {
	if m == nil {
		panic("metrics: NewCollector(nil): must be a manager")
	}
	return &collector{m}
}

type collector struct{ m *mesherstream.Manager }

// A metric is one number of the Stats.
type metric struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	value  func(*mesherstream.Stats) float64
	reason []string // the value of the label reason, where there is one
}

var metrics = []metric{
	gauge("clients", "Clients that are connected.", func(s *mesherstream.Stats) float64 { return float64(s.Clients) }),
	gauge("slow_clients", "Clients that have kept messages waiting for a whole drain interval, or have lost some, and haven't caught up.",
		func(s *mesherstream.Stats) float64 { return float64(s.Slow) }),
	gauge("buffered_messages", "Messages that wait for clients.", func(s *mesherstream.Stats) float64 { return float64(s.Buffered) }),
	gauge("buffered_bytes", "Bytes that wait for clients, counted for each client, though clients share them.",
		func(s *mesherstream.Stats) float64 { return float64(s.BufferedBytes) }),

	counter("broadcasts_total", "Calls of Broadcast that were accepted.", func(s *mesherstream.Stats) uint64 { return s.Broadcasts }),
	counter("messages_offered_total", "Messages times the clients that they were for.", func(s *mesherstream.Stats) uint64 { return s.Offered }),
	counter("messages_sent_total", "Messages that the kernel has taken for a client.", func(s *mesherstream.Stats) uint64 { return s.Sent }),
	reason(dropped, "buffer_full", func(s *mesherstream.Stats) uint64 { return s.Dropped }),
	reason(dropped, "client_left", func(s *mesherstream.Stats) uint64 { return s.Abandoned }),
	counter("messages_filtered_total", "Messages that waited when their client changed its filter, and no longer passed.",
		func(s *mesherstream.Stats) uint64 { return s.Filtered }),
	counter("messages_conflated_total", "Messages that waited when a newer one with the same key came.", func(s *mesherstream.Stats) uint64 { return s.Conflated }),
	counter("connects_total", "Clients that came.", func(s *mesherstream.Stats) uint64 { return s.Connects }),
	counter("disconnects_total", "Clients that went.", func(s *mesherstream.Stats) uint64 { return s.Disconnects }),
	counter("filter_changes_total", "Filters that were changed.", func(s *mesherstream.Stats) uint64 { return s.FilterSets }),
	counter("hook_panics_total", "Panics of hooks that were recovered.", func(s *mesherstream.Stats) uint64 { return s.HookPanics }),

	gauge("relay_away", "1 while nothing gets through between nodes or not to all projects, and 0 otherwise or without a relay.", func(s *mesherstream.Stats) float64 {
		if s.RelayAway {
			return 1
		}
		return 0
	}),
	gauge("relay_projects", "Projects that this node follows on other nodes.", func(s *mesherstream.Stats) float64 { return float64(s.RelayProjects) }),
	gauge("relay_unfollowed_projects", "Projects of this node's clients that the relay refuses, so that they get nothing of other nodes.",
		func(s *mesherstream.Stats) float64 { return float64(s.RelayUnfollowed) }),
	gauge("relay_queued_messages", "Messages that wait for the relay.", func(s *mesherstream.Stats) float64 { return float64(s.RelayQueued) }),
	counter("relay_breaks_total", "Times that the relay was away, however briefly: what was on its way may be lost.",
		func(s *mesherstream.Stats) uint64 { return s.RelayBreaks }),
	counter("relay_messages_published_total", "Messages of this node that the relay has taken, and not refused.",
		func(s *mesherstream.Stats) uint64 { return s.RelayPublished }),
	counter("relay_messages_received_total", "Messages of other nodes that were delivered here.",
		func(s *mesherstream.Stats) uint64 { return s.RelayReceived }),
	counter("relay_messages_unwanted_total", "Messages of other nodes whose level or environment no client here wanted.",
		func(s *mesherstream.Stats) uint64 { return s.RelayUnwanted }),
	reason(relayDropped, "unpublished", func(s *mesherstream.Stats) uint64 { return s.RelayDropped }),
	reason(relayDropped, "missed", func(s *mesherstream.Stats) uint64 { return s.RelayMissed }),
	reason(relayDropped, "refused", func(s *mesherstream.Stats) uint64 { return s.RelayRefused }),
}

var (
	dropped = describe("messages_dropped_total", "Messages that a client was meant to get and didn't, by reason: its buffer was full, or it left.", "reason")

	relayDropped = describe("relay_messages_dropped_total", "Messages between nodes that were lost, by reason: this node couldn't publish them, "+
		"missed them, or refused them because they came twice, out of order or malformed.", "reason")

	deliveries = describe("delivery_duration_seconds", "How long a shard takes to hand the messages that came in together to its clients, of one time in 64.")
	drains     = describe("drain_duration_seconds", "How long a shard takes for the drain of a tick, where something is buffered.")
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

// reason is a counter of one of the reasons that a metric has.
func reason(desc *prometheus.Desc, why string, value func(*mesherstream.Stats) uint64) metric {
	return metric{desc, prometheus.CounterValue, func(s *mesherstream.Stats) float64 { return float64(value(s)) }, []string{why}}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for i, m := range metrics {
		if i == 0 || m.desc != metrics[i-1].desc { // those of one metric stand together
			ch <- m.desc
		}
	}
	ch <- deliveries
	ch <- drains
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.m.Stats()
	for _, m := range metrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&s), m.reason...)
	}
	ch <- histogram(deliveries, &s.Deliveries)
	ch <- histogram(drains, &s.Drains)
}

// histogram is h as Prometheus counts: each bucket holds those before it too.
func histogram(desc *prometheus.Desc, h *mesherstream.Histogram) prometheus.Metric {
	buckets := make(map[float64]uint64, len(h.Counts)-1)
	var total uint64
	for i, n := range h.Counts {
		total += n
		if i < len(h.Counts)-1 {
			buckets[h.Bound(i).Seconds()] = total
		}
	}
	return prometheus.MustNewConstHistogram(desc, total, float64(h.Sum)/float64(time.Second), buckets)
}
