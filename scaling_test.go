package mesherstream

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// cluster is the model of docs/scaling.md: what many nodes have to do, from how many there are and who watches what.
type cluster struct {
	nodes, clients int     // clients of each node
	projects       int     // of which project k has a share of both the clients and the events that falls as 1/(k+1)
	wanting        float64 // the share of the clients that want every level; the others want "fatal", which no event is
	events         int     // over all nodes
}

// clusterLoad is what the model predicts and the simulation counts, as sums over all nodes.
type clusterLoad struct {
	followed   float64 // projects, "" included
	received   float64 // messages that came from other nodes and were delivered
	unwanted   float64 // those that came, and no client wanted
	deliveries float64
}

func (c cluster) shares() []float64 {
	shares, sum := make([]float64, c.projects), 0.0
	for k := range shares {
		shares[k] = 1 / float64(k+1)
		sum += shares[k]
	}
	for k := range shares {
		shares[k] /= sum
	}
	return shares
}

// predict: a node follows a project unless none of its clients does, which has the probability (1-share)^clients. It
// gets what the other nodes publish to these projects, and nothing else; so the sum grows with the nodes only for
// projects that are watched on all of them.
//
// deviation is the standard deviation of each number: chance decides who follows what, and how many events there are of a
// project.
func (c cluster) predict() (mean, deviation clusterLoad) {
	nodes, clients, events := float64(c.nodes), float64(c.clients), float64(c.events)
	var followed, received, unwanted, squares, cubes float64 // variances, and what that of the deliveries is made of
	mean.followed = nodes                                    // of what is for all projects
	for _, share := range c.shares() {
		follows := 1 - math.Pow(1-share, clients)
		wants := 1 - math.Pow(1-share*c.wanting, clients)
		mean.followed += nodes * follows
		followed += nodes * follows * (1 - follows)
		count := func(mean, variance *float64, p float64) { // each event goes to each of the other nodes with probability p
			ofProject, others := events*share, nodes-1
			*mean += ofProject * others * p
			*variance += ofProject*(others*p)*(others*p) + ofProject*ofProject*others*p*(1-p)
		}
		count(&mean.received, &received, wants)
		count(&mean.unwanted, &unwanted, follows-wants)
		mean.deliveries += events * share * nodes * clients * share * c.wanting
		squares += share * share
		cubes += share * share * share
	}
	deviation.followed = math.Sqrt(followed)
	deviation.received = math.Sqrt(received)
	deviation.unwanted = math.Sqrt(unwanted)
	deviation.deliveries = mean.deliveries * math.Sqrt(cubes*(1/(nodes*clients*c.wanting)+1/events)) / squares
	return mean, deviation
}

// simulate runs managers with that many clients, whose links take everything at once, and an exchange between them.
func (c cluster) simulate(t *testing.T, random *rand.Rand) (l clusterLoad) {
	x := newExchange()
	x.forget = true
	pick := c.picker(random)
	var nodes []*Manager
	for range c.nodes {
		m, err := NewManager(WithRelay(x), WithMaxBuffer(1000), WithLogger(slog.New(slog.DiscardHandler)), WithPingInterval(0), WithIdleTimeout(0))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.start(true); err != nil {
			t.Fatal(err)
		}
		for range c.clients {
			c.connect(t, m, pick(), random.Float64() < c.wanting)
		}
		nodes = append(nodes, m)
	}
	data := []byte("x")
	for i := range c.events {
		m := nodes[random.IntN(c.nodes)]
		if err := m.Broadcast(Message{Project: pick(), Level: "error", Data: data}); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			eventually(t, m, "the relay keeps up", func() bool { return m.Stats().RelayQueued == 0 })
		}
	}
	published := uint64(0)
	for _, m := range nodes {
		eventually(t, m, "everything is published", func() bool { return m.relaying.published.Load() == m.broadcasts.Load() })
		published += m.Stats().RelayPublished
	}
	if published != uint64(c.events) {
		t.Errorf("published: got %d, want %d: each event once, whatever the number of nodes", published, c.events)
	}
	for _, m := range nodes {
		s := m.Stats()
		if s.RelayDropped+s.RelayMissed+s.RelayRefused+s.Dropped != 0 {
			t.Errorf("something was lost: %+v", s)
		}
		l.followed += float64(s.RelayProjects)
		l.received += float64(s.RelayReceived)
		l.unwanted += float64(s.RelayUnwanted)
		l.deliveries += float64(s.Offered)
	}
	for _, m := range nodes {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond) // nobody answers a close frame here
		_ = m.Shutdown(ctx)
		cancel()
	}
	return l
}

func (c cluster) picker(random *rand.Rand) (pick func() string) {
	shares := c.shares()
	return func() string {
		r := random.Float64()
		for k, share := range shares {
			if r -= share; r < 0 {
				return fmt.Sprint("p", k)
			}
		}
		return "p0"
	}
}

// connect does what Manager.serve does for a client, without a connection.
func (c cluster) connect(t *testing.T, m *Manager, project string, wanting bool) {
	t.Helper()
	p, err := m.reserve("")
	if err != nil {
		t.Fatal(err)
	}
	id := ClientID(m.lastID.Add(1))
	client := &client{id: id, shard: m.shardOf(id), place: p, connectedAt: time.Now(), link: sink{}, sub: Subscription{Project: project}}
	if !wanting {
		client.sub.Levels = []string{"fatal"}
	}
	registered := m.relaying.follow(project)
	if err := client.shard.register(client); err != nil {
		t.Fatal(err)
	}
	registered()
}

var seed = flag.Uint64("seed", 1, "seed of the simulation")

// TestTheModelOfManyNodesAgreesWithASimulation is for docs/scaling.md. Without -long it is a tenth of that.
func TestTheModelOfManyNodesAgreesWithASimulation(t *testing.T) {
	clients, events := 500, 5_000
	if *long {
		clients, events = 5_000, 50_000
	}
	for _, c := range []cluster{
		{nodes: 1, clients: clients, projects: 1000, wanting: 1, events: events},
		{nodes: 2, clients: clients, projects: 1000, wanting: 1, events: events},
		{nodes: 4, clients: clients, projects: 1000, wanting: 1, events: events},
		{nodes: 8, clients: clients, projects: 1000, wanting: 1, events: events},
		{nodes: 4, clients: clients, projects: 20_000, wanting: 1, events: events},
		{nodes: 4, clients: clients, projects: 1000, wanting: 0.1, events: events},
		{nodes: 4, clients: clients / 10, projects: 1000, wanting: 1, events: events},
	} {
		want, deviation := c.predict()
		got := c.simulate(t, rand.New(rand.NewPCG(*seed, 2)))
		t.Logf("| %d | %d | %d | %.0f %% | %d | %.0f / %.0f | %.0f / %.0f | %.0f / %.0f | %.0f / %.0f |", c.nodes, c.clients, c.projects, 100*c.wanting, c.events,
			want.followed, got.followed, want.received, got.received, want.unwanted, got.unwanted, want.deliveries, got.deliveries)
		for name, n := range map[string][3]float64{
			"followed":   {want.followed, got.followed, deviation.followed},
			"received":   {want.received, got.received, deviation.received},
			"unwanted":   {want.unwanted, got.unwanted, deviation.unwanted},
			"deliveries": {want.deliveries, got.deliveries, deviation.deliveries},
		} {
			if math.Abs(n[0]-n[1]) > 4*n[2] {
				t.Errorf("%+v: %s: predicted %.0f with a deviation of %.0f, simulated %.0f", c, name, n[0], n[2], n[1])
			}
		}
	}
}
