//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/feed"
)

// scenario is one kind of work. Each of its passes is a run of its own, and a figure may compare two of them.
type scenario struct {
	name    string
	about   string
	servers []string // that it compares, unless the flags say which
	passes  []pass
	columns []column
}

// pass is one run's work.
type pass struct {
	name    string
	clients int
	stalled int
	churn   int
	plan    feed.Plan
	traffic control.Traffic
	weigh   bool // weigh the heap before and after the window
	idle    bool // publish nothing, weigh after settle
	settle  time.Duration
	leaves  int // of an idle pass: clients that leave one after another, once it has been weighed
}

// size is what the flags say about how big a scenario is.
type size struct {
	clients, bytes, idle int
	rate                 int // messages a second to the paced clients
	window, settle       time.Duration
}

// deliveries is how many a second fan and filtered keep to, whatever their clients and projects: as many as paced has with 1,000
// clients.
func (z *size) deliveries() int { return 1000 * z.rate }

// every is the time between two of n messages a second.
func every(n int) time.Duration { return time.Second / time.Duration(n) }

var allScenarios = []struct {
	name string
	make func(size) scenario
}{
	{"paced", paced},
	{"burst", burst},
	{"flood", flood},
	{"stalled", stalled},
	{"filtered", filtered},
	{"idle", idle},
	{"churn", churn},
	{"fan", fan},
	{"events", streams},
}

func scenarioNames() (names []string) {
	for _, s := range allScenarios {
		names = append(names, s.name)
	}
	return names
}

func scenarios(names string, z size) (chosen []scenario, err error) {
	if names == "all" {
		names = strings.Join(scenarioNames(), ",")
	}
next:
	for name := range strings.SplitSeq(names, ",") {
		for _, s := range allScenarios {
			if s.name == name {
				sc := s.make(z)
				if sc.servers == nil {
					sc.servers = allServers
				}
				chosen = append(chosen, sc)
				continue next
			}
		}
		return nil, fmt.Errorf("unknown scenario %q, known are %s and all", name, strings.Join(scenarioNames(), ", "))
	}
	return chosen, nil
}

// pacedPass is z.rate messages a second to everybody.
func pacedPass(name string, z size) pass {
	p := pass{name: name, clients: z.clients, plan: feed.Plan{Projects: 1}}
	p.traffic = control.Traffic{Plan: p.plan, Size: z.bytes, Every: every(z.rate), Batch: 1, For: z.window}
	return p
}

func paced(z size) scenario {
	return scenario{
		name:   "paced",
		about:  fmt.Sprintf("%d clients, %d B, %d messages a second", z.clients, z.bytes, z.rate),
		passes: []pass{pacedPass("paced", z)},
		columns: []column{
			cpuColumn("paced"), against("× syscalls", cpu("paced"), "syscalls"),
			duration("p50", p50("paced")), duration("p99", p99("paced")), duration("p99.9", p999("paced")), duration("max", longestLatency("paced")),
			duration("longest Broadcast", longest("paced")),
			decimal("allocs/delivery", allocsPerDelivery("paced")), decimal("allocs/Broadcast", allocsPerBroadcast("paced")),
			mebibytes("peak RSS", peak("paced")), count("lost", lost("paced")),
		},
	}
}

func burst(z size) scenario {
	p := pacedPass("burst", z)
	p.traffic.Every, p.traffic.Batch = time.Second, z.rate
	return scenario{
		name:   "burst",
		about:  fmt.Sprintf("%d clients, %d B, %d messages at once, every second", z.clients, z.bytes, z.rate),
		passes: []pass{p},
		columns: []column{
			cpuColumn("burst"), against("× syscalls", cpu("burst"), "syscalls"), against("× joined", cpu("burst"), "joined"),
			duration("p50", p50("burst")), duration("p99", p99("burst")), against("p99 × joined", p99("burst"), "joined"),
			duration("max", longestLatency("burst")), duration("longest Broadcast", longest("burst")),
			decimal("allocs/delivery", allocsPerDelivery("burst")), mebibytes("peak RSS", peak("burst")), count("lost", lost("burst")),
		},
	}
}

func flood(z size) scenario {
	p := pacedPass("flood", z)
	// Some servers queue without bound, so a flood is short.
	p.traffic.Every, p.traffic.For = 0, min(z.window, 3*time.Second)
	return scenario{
		name:   "flood",
		about:  fmt.Sprintf("%d clients, %d B, as fast as Broadcast accepts, for %v", z.clients, z.bytes, p.traffic.For),
		passes: []pass{p},
		columns: []column{
			count("deliveries/s", throughput("flood")), against("× centrifuge", throughput("flood"), "centrifuge"),
			cpuColumn("flood"), against("× syscalls", cpu("flood"), "syscalls"),
			duration("p99", p99("flood")), duration("longest Broadcast", longest("flood")),
			decimal("allocs/delivery", allocsPerDelivery("flood")), mebibytes("peak RSS", peak("flood")), percent("lost", lostShare("flood")),
		},
	}
}

func stalled(z size) scenario {
	quick, slow := pacedPass("paced", z), pacedPass("stalled", z)
	slow.stalled = z.clients / 10
	// Two kernels' buffers take a thousand messages or two before anybody notices that a client does not read.
	quick.traffic.For, slow.traffic.For = 3*z.window, 3*z.window
	slow.weigh = true
	return scenario{
		name:   "stalled",
		about:  fmt.Sprintf("paced, %d of %d clients never read", slow.stalled, z.clients),
		passes: []pass{quick, slow},
		columns: []column{
			duration("p99 of the healthy", p99("stalled")), ratio("× paced", p99("stalled"), p99("paced")),
			duration("longest Broadcast", longest("stalled")), ratio("× paced", longest("stalled"), longest("paced")),
			mebibytes("RSS growth", residentGrowth("stalled")), mebibytes("live heap growth", heapGrowth("stalled")),
			cpuColumn("stalled"), count("lost by the healthy", lost("stalled")), count("closed by the server", closedByServer("stalled")),
		},
	}
}

func filtered(z size) scenario {
	// Of ten clients of a project five want any one message, so half as many clients a project without filters get the
	// same deliveries from the same Broadcasts.
	plain, narrow := pacedPass("unfiltered", z), pacedPass("filtered", z)
	plain.plan = feed.Plan{Projects: max(z.clients/5, 1)}
	narrow.plan = feed.Plan{Projects: max(z.clients/10, 1), Filtered: true}
	for _, p := range []*pass{&plain, &narrow} {
		p.traffic.Plan = p.plan
		p.traffic.Every, p.traffic.Batch = time.Millisecond, max(z.deliveries()/1000/5, 1)
	}
	one := pacedPass("paced", z)
	return scenario{
		name: "filtered",
		about: fmt.Sprintf("%d clients in %d projects, 4 levels, 3 environments; each message is for 5 of them; %d Broadcasts a millisecond",
			z.clients, narrow.plan.Projects, narrow.traffic.Batch),
		passes: []pass{one, plain, narrow},
		columns: []column{
			cpuColumn("filtered"), ratio("× unfiltered", cpu("filtered"), cpu("unfiltered")), ratio("× paced", cpu("filtered"), cpu("paced")),
			against("× syscalls", cpu("filtered"), "syscalls"), duration("CPU/Broadcast", cpuPerBroadcast("filtered")),
			duration("p50", p50("filtered")), duration("p99", p99("filtered")), duration("longest Broadcast", longest("filtered")),
			decimal("allocs/Broadcast", allocsPerBroadcast("filtered")), count("lost", lost("filtered")),
		},
	}
}

func idle(z size) scenario {
	return scenario{
		name:   "idle",
		about:  fmt.Sprintf("%d connections that get nothing, after garbage collection", z.idle),
		passes: []pass{{name: "idle", clients: z.idle, plan: feed.Plan{Projects: 1}, idle: true, settle: z.settle, traffic: control.Traffic{Size: z.bytes}}},
		columns: []column{
			count("resident B/connection", perConnection(residentOf)), count("heap B/connection", perConnection(heapOf)),
			count("stack B/connection", perConnection(stackOf)), decimal("goroutines/connection", perConnection(goroutinesOf)),
		},
	}
}

func churn(z size) scenario {
	p := pacedPass("churn", z)
	p.churn = 200
	return scenario{
		name:   "churn",
		about:  fmt.Sprintf("paced, and %d clients leave and come a second", p.churn),
		passes: []pass{pacedPass("paced", z), p},
		columns: []column{
			cpuColumn("churn"), against("× syscalls", cpu("churn"), "syscalls"), ratio("× paced", cpu("churn"), cpu("paced")),
			duration("p50", p50("churn")), duration("p99", p99("churn")), duration("max", longestLatency("churn")),
			duration("longest Broadcast", longest("churn")), mebibytes("peak RSS", peak("churn")),
			count("reconnects", reconnects("churn")), count("lost", lost("churn")),
		},
	}
}

func fan(z size) scenario {
	s := scenario{name: "fan", about: fmt.Sprintf("paced, %d deliveries a second to more and more clients", z.deliveries())}
	for _, clients := range []int{100, 1000, 5000, 15000} {
		p := pacedPass(fmt.Sprint(clients), z)
		p.clients = clients
		p.traffic.Every = time.Second * time.Duration(clients) / time.Duration(z.deliveries())
		s.passes = append(s.passes, p)
		s.columns = append(s.columns, duration(fmt.Sprintf("CPU/delivery at %d", clients), cpu(p.name)))
	}
	s.columns = append(s.columns,
		ratio("15000 × 1000", cpu("15000"), cpu("1000")), against("at 15000 × syscalls", cpu("15000"), "syscalls"),
		duration("p99 at 1000", p99("1000")), duration("p99 at 15000", p99("15000")), mebibytes("peak RSS at 15000", peak("15000")),
		count("lost at 15000", lost("15000")))
	return s
}

// streams compares ways to stream over plain HTTP with each other and with the WebSocket.
func streams(z size) scenario {
	const websocket = "mesherstream"
	together := pacedPass("burst", z)
	together.traffic.Every, together.traffic.Batch = time.Second, z.rate
	rest := pass{
		name: "idle", clients: z.idle, plan: feed.Plan{Projects: 1}, idle: true, settle: z.settle, leaves: min(20, z.idle),
		traffic: control.Traffic{Size: z.bytes},
	}
	resident := perConnection(residentOf)
	return scenario{
		name: "events",
		about: fmt.Sprintf("%d clients, %d B, %d messages a second, then as many at once, every second; %d idle connections",
			z.clients, z.bytes, z.rate, z.idle),
		servers: streamServers,
		passes:  []pass{pacedPass("paced", z), together, rest},
		columns: []column{
			spread(cpuColumn("paced")), spread(against("× WebSocket", cpu("paced"), websocket)),
			decimal("writes/delivery", writesPerDelivery("paced")), duration("p50", p50("paced")), duration("p99", p99("paced")),
			spread(duration("CPU/delivery of bursts", cpu("burst"))), against("× WebSocket", cpu("burst"), websocket),
			decimal("writes/delivery of bursts", writesPerDelivery("burst")), duration("p99 of bursts", p99("burst")),
			count("lost", func(r runs) float64 { return lost("paced")(r) + lost("burst")(r) }),
			spread(count("resident B/connection", restedPerConnection(residentOf))), spread(count("… after collection", resident)),
			against("× WebSocket", resident, websocket),
			decimal("goroutines/connection", perConnection(goroutinesOf)),
			duration("leaving seen, median", leavingMedian), spread(duration("… max", leavingMax)),
		},
	}
}
