//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/feed"
)

// scenario is one kind of work. Each of its passes is a run of its own, and a figure may compare two of them. Scenarios share the
// passes of the same name.
type scenario struct {
	name    string
	about   string
	servers []string // that it compares, unless the flags say which
	rounds  int
	passes  []pass
	columns []column
}

// pass is one run's work.
type pass struct {
	name     string
	clients  int
	stalled  int
	churn    int
	plan     feed.Plan
	traffic  control.Traffic
	interval time.Duration // between two messages for one client, or bursts of them; 0 if no pace is kept
	fill     int           // bytes of a message before the window, instead of traffic's, for fillFor
	fillFor  time.Duration
	weigh    bool          // weigh the heap before the first message and after the window
	warmUp   time.Duration // at least so long, whatever the flags say
	pace     int           // handshakes a second, which are all that is measured
	collects bool          // some of its servers collect messages
	idle     bool          // publish nothing, weigh after settle
	rests    bool          // an idle pass that settles for so long that others are made meanwhile
	settle   time.Duration
	leaves   int // of an idle pass: clients that leave one after another, once it has been weighed
}

// size is what the flags say about how big a scenario is.
type size struct {
	clients, bytes, idle int
	rate                 int // messages a second to the paced clients
	handshakes           int // a second
	collected            int // clients of coalesced
	rounds               int
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
	{"coalesced", coalesced},
	{"flood", flood},
	{"stalled", stalled},
	{"filtered", filtered},
	{"churn", churn},
	{"fan", fan},
	{"events", streams},
	{"connect", connecting},
	{"idle", idle},
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
	p := pass{name: name, clients: z.clients, plan: feed.Plan{Projects: 1}, interval: every(z.rate)}
	p.traffic = control.Traffic{Plan: p.plan, Size: z.bytes, Every: every(z.rate), Batch: 1, For: z.window}
	return p
}

// burstSize is how many messages are published at once.
const burstSize = 100

// burstPass is a burst, which must have arrived when as many paced messages would have been published.
func burstPass(name string, z size) pass {
	p := pacedPass(name, z)
	p.interval = time.Second * burstSize / time.Duration(z.rate)
	p.traffic.Every, p.traffic.Batch, p.traffic.For = p.interval, burstSize, p.interval
	return p
}

func paced(z size) scenario {
	return scenario{
		name:    "paced",
		about:   fmt.Sprintf("%d clients, %d B, %d messages a second", z.clients, z.bytes, z.rate),
		servers: append(slices.Clone(allServers), scheduledLimit),
		rounds:  z.rounds,
		passes:  []pass{pacedPass("paced", z)},
		columns: []column{
			cpuColumn("paced"), checked(against("× syscalls", cpu("paced"), "syscalls")),
			duration("p50", p50("paced")), duration("p99", p99("paced")), duration("max", longestLatency("paced")),
			duration("longest Broadcast", longest("paced")), decimal("segments/delivery", segmentsPerDelivery("paced")),
			decimal("allocs/delivery", allocsPerDelivery("paced")), decimal("allocs/Broadcast", allocsPerBroadcast("paced")),
			mebibytes("peak RSS", peak("paced")), count("lost", lost("paced")),
		},
	}
}

func burst(z size) scenario {
	return scenario{
		name:   "burst",
		about:  fmt.Sprintf("%d clients, %d B, %d messages at once", z.clients, z.bytes, burstSize),
		rounds: z.rounds,
		passes: []pass{burstPass("burst", z)},
		columns: []column{
			cpuColumn("burst"), checked(against("× syscalls", cpu("burst"), "syscalls")), checked(against("× joined", cpu("burst"), "joined")),
			duration("p50", p50("burst")), duration("p99", p99("burst")), against("p99 × joined", p99("burst"), "joined"),
			duration("longest Broadcast", longest("burst")),
			decimal("allocs/delivery", allocsPerDelivery("burst")), mebibytes("peak RSS", peak("burst")), count("lost", lost("burst")),
		},
	}
}

const (
	// collectedRate is the messages a second of coalesced, always: how many share a write depends on that.
	collectedRate = 100

	// collectedFor is the least that coalesced publishes for: the first message to clients that had none for a while leaves alone, and
	// should not weigh as much as it does in a second.
	collectedFor = 3 * time.Second

	// collectedWarmUp is 20 writes, even if ten messages share one. The first ten writes of a connection cost more on loopback,
	// perhaps because the receiving kernel acknowledges up to 16 segments immediately, within the server's system call.
	collectedWarmUp = 2 * time.Second
)

func coalescedPass(name string, z size) pass {
	z.clients, z.rate, z.window = z.collected, collectedRate, max(z.window, collectedFor)
	p := pacedPass(name, z)
	p.collects, p.warmUp = true, collectedWarmUp
	return p
}

func coalesced(z size) scenario {
	const name = "coalesced"
	return scenario{
		name:    name,
		about:   fmt.Sprintf("%d clients, %d B, %d messages a second, collected for 20 and 100 ms", z.collected, z.bytes, collectedRate),
		servers: []string{"mesherstream", "mesherstream-20ms", "mesherstream-100ms", "syscalls"},
		rounds:  z.rounds,
		passes:  []pass{coalescedPass(name, z)},
		columns: []column{
			cpuColumn(name), checked(against("× syscalls", cpu(name), "syscalls")), decimal("reads/delivery", readsPerDelivery(name)),
			duration("p50", p50(name)), duration("p99", p99(name)), duration("max", longestLatency(name)),
			mebibytes("peak RSS", peak(name)), count("lost", lost(name)),
		},
	}
}

func flood(z size) scenario {
	p := pacedPass("flood", z)
	// Some servers queue without bound, so a flood is short.
	p.traffic.Every, p.traffic.For, p.interval = 0, min(z.window, 3*time.Second), 0
	return scenario{
		name:   "flood",
		about:  fmt.Sprintf("%d clients, %d B, as fast as Broadcast accepts, for %v; the machine is full by definition", z.clients, z.bytes, p.traffic.For),
		rounds: z.rounds,
		passes: []pass{p},
		columns: []column{
			spread(count("deliveries/s", throughput("flood"))), against("× centrifuge", throughput("flood"), "centrifuge"),
			cpuColumn("flood"), against("× syscalls", cpu("flood"), "syscalls"), against("CPU × centrifuge", cpu("flood"), "centrifuge"),
			duration("p99", p99("flood")), duration("longest Broadcast", longest("flood")),
			decimal("allocs/delivery", allocsPerDelivery("flood")), mebibytes("peak RSS", peak("flood")), percent("lost", lostShare("flood")),
		},
	}
}

func stalled(z size) scenario {
	slow := pacedPass("stalled", z)
	slow.stalled = z.clients / 10
	// Two kernels' buffers take some time before anybody notices that a client does not read, so they are filled first.
	slow.fill, slow.fillFor = 8*z.bytes, 2*z.window
	slow.weigh = true
	return scenario{
		name:   "stalled",
		about:  fmt.Sprintf("paced, %d of %d clients never read", slow.stalled, z.clients),
		rounds: z.rounds,
		passes: []pass{pacedPass("paced", z), slow},
		columns: []column{
			cpuColumn("stalled"), checked(ratio("× paced", cpu("stalled"), cpu("paced"))),
			duration("p99 of the healthy", p99("stalled")), ratio("p99 × paced", p99("stalled"), p99("paced")),
			duration("longest Broadcast", longest("stalled")), ratio("longest × paced", longest("stalled"), longest("paced")),
			mebibytes("RSS growth", residentGrowth("stalled")), mebibytes("live heap growth", heapGrowth("stalled")),
			count("lost by the healthy", lost("stalled")), count("closed by the server", closedByServer("stalled")),
		},
	}
}

func filtered(z size) scenario {
	// Of ten clients of a project five want any one message, so half as many clients a project without filters get the
	// same deliveries from the same Broadcasts. Each client has as many messages a second as in paced.
	plain, narrow := pacedPass("unfiltered", z), pacedPass("filtered", z)
	plain.plan = feed.Plan{Projects: max(z.clients/5, 1)}
	narrow.plan = feed.Plan{Projects: max(z.clients/10, 1), Filtered: true}
	for _, p := range []*pass{&plain, &narrow} {
		p.traffic.Plan = p.plan
		p.traffic.Every, p.traffic.Batch = time.Millisecond, max(z.deliveries()/1000/5, 1)
	}
	return scenario{
		name: "filtered",
		about: fmt.Sprintf("%d clients in %d projects, 4 levels, 3 environments; each message is for 5 of them; %d Broadcasts a millisecond",
			z.clients, narrow.plan.Projects, narrow.traffic.Batch),
		rounds: z.rounds,
		passes: []pass{plain, narrow},
		columns: []column{
			cpuColumn("filtered"), checked(against("× syscalls", cpu("filtered"), "syscalls")), checked(ratio("× unfiltered", cpu("filtered"), cpu("unfiltered"))),
			duration("CPU/Broadcast", cpuPerBroadcast("filtered")),
			duration("p50", p50("filtered")), duration("p99", p99("filtered")), duration("longest Broadcast", longest("filtered")),
			decimal("allocs/Broadcast", allocsPerBroadcast("filtered")), count("lost", lost("filtered")),
		},
	}
}

func churn(z size) scenario {
	p := pacedPass("churn", z)
	p.churn = 200
	return scenario{
		name:   "churn",
		about:  fmt.Sprintf("paced, and %d clients leave and come a second", p.churn),
		rounds: z.rounds,
		passes: []pass{pacedPass("paced", z), p},
		columns: []column{
			cpuColumn("churn"), checked(against("× syscalls", cpu("churn"), "syscalls")), checked(ratio("× paced", cpu("churn"), cpu("paced"))),
			duration("p50", p50("churn")), duration("p99", p99("churn")),
			duration("longest Broadcast", longest("churn")), mebibytes("peak RSS", peak("churn")),
			count("reconnects", reconnects("churn")), count("lost", lost("churn")),
		},
	}
}

func fan(z size) scenario {
	s := scenario{
		name:    "fan",
		about:   fmt.Sprintf("paced, %d deliveries a second to more and more clients", z.deliveries()),
		servers: []string{"mesherstream", "gws", "centrifuge", "syscalls", "joined"},
		rounds:  z.rounds,
	}
	for _, clients := range []int{100, 1000, 5000, 15000} {
		p := pacedPass(fmt.Sprint(clients), z)
		p.clients = clients
		p.traffic.Every = time.Second * time.Duration(clients) / time.Duration(z.deliveries())
		p.interval = p.traffic.Every
		s.passes = append(s.passes, p)
		s.columns = append(s.columns, duration(fmt.Sprintf("CPU/delivery at %d", clients), cpu(p.name)))
	}
	s.columns = append(s.columns,
		checked(ratio("15000 × 1000", cpu("15000"), cpu("1000"))), checked(against("at 15000 × syscalls", cpu("15000"), "syscalls")),
		duration("p99 at 1000", p99("1000")), duration("p99 at 15000", p99("15000")), mebibytes("peak RSS at 15000", peak("15000")),
		count("lost at 15000", lost("15000")))
	return s
}

// streams compares ways to stream over plain HTTP with each other and with the WebSocket.
func streams(z size) scenario {
	const websocket = "mesherstream"
	steady, together := pacedPass("steady", z), burstPass("together", z)
	leaving := pass{
		name: "leaving", clients: z.clients, plan: feed.Plan{Projects: 1}, idle: true, settle: min(z.settle, time.Second), leaves: min(20, z.clients),
		traffic: control.Traffic{Size: z.bytes},
	}
	return scenario{
		name:    "events",
		about:   fmt.Sprintf("%d clients, %d B, %d messages a second; then %d at once; then 20 clients leave", z.clients, z.bytes, z.rate, burstSize),
		servers: streamServers,
		rounds:  z.rounds,
		passes:  []pass{steady, together, leaving},
		columns: []column{
			cpuColumn("steady"), checked(against("× WebSocket", cpu("steady"), websocket)),
			decimal("segments/delivery", segmentsPerDelivery("steady")), duration("p50", p50("steady")), duration("p99", p99("steady")),
			duration("CPU/delivery of bursts", cpu("together")), checked(against("bursts × WebSocket", cpu("together"), websocket)),
			decimal("reads/delivery of bursts", readsPerDelivery("together")), duration("p99 of bursts", p99("together")),
			count("lost", func(r runs) float64 { return lost("steady")(r) + lost("together")(r) }),
			duration("leaving seen, median", leavingMedian), duration("… max", leavingMax),
		},
	}
}

// connectPass is handshakes that begin on a schedule, whatever becomes of those before.
func connectPass(name string, z size) pass {
	return pass{name: name, clients: min(z.idle, 5000), plan: feed.Plan{Projects: 1}, pace: z.handshakes, traffic: control.Traffic{Size: z.bytes}}
}

// connecting is what handshakes cost.
func connecting(z size) scenario {
	const name = "connect"
	p := connectPass(name, z)
	return scenario{
		name:    name,
		about:   fmt.Sprintf("%d clients connect, %d a second", p.clients, p.pace),
		servers: slices.Concat(variants[:len(variants)-1], []string{"fiberhub", "gws", "gobwas", "fiberstream", "syscalls"}),
		rounds:  z.rounds,
		passes:  []pass{p},
		columns: []column{
			duration("CPU/handshake", perHandshake(name, cpuOf)), checked(against("× syscalls", perHandshake(name, cpuOf), "syscalls")),
			decimal("allocs/handshake", perHandshake(name, allocationsOf)), count("B allocated/handshake", perHandshake(name, allocatedOf)),
			duration("p50", handshakeTime(name, func(r *control.ReceivedReport) time.Duration { return r.P50 })),
			duration("p99", handshakeTime(name, func(r *control.ReceivedReport) time.Duration { return r.P99 })),
			duration("max", handshakeTime(name, func(r *control.ReceivedReport) time.Duration { return r.Max })),
		},
	}
}

func idle(z size) scenario {
	return scenario{
		name:    "idle",
		about:   fmt.Sprintf("%d connections that get nothing, after %v", z.idle, z.settle),
		servers: slices.Concat(variants, allServers[1:], streamServers[4:]),
		rounds:  min(2, z.rounds), // which differ by little
		passes: []pass{{
			name: "idle", clients: z.idle, plan: feed.Plan{Projects: 1}, idle: true, rests: true, settle: z.settle, traffic: control.Traffic{Size: z.bytes},
		}},
		columns: []column{
			spread(count("resident B/connection", restedPerConnection(residentOf))),
			checked(spread(count("… after collection", perConnection(residentOf)))),
			count("live heap", perConnection(heapOf)), count("heap in use", perConnection(heapUsedOf)),
			count("stack in use", perConnection(stackOf)), decimal("goroutines", perConnection(goroutinesOf)),
		},
	}
}
