package mesherstream

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// Field by field, so that a field added to Message is not forgotten by the relay.
func TestEveryFieldOfAMessageIsRelayed(t *testing.T) {
	var want Message
	fields := reflect.ValueOf(&want).Elem()
	for i := range fields.NumField() {
		switch f := fields.Field(i); f.Interface().(type) {
		case string:
			f.SetString("of " + fields.Type().Field(i).Name)
		case []byte:
			f.SetBytes([]byte(strings.Repeat("x", 200)))
		case bool:
			f.SetBool(true)
		case time.Time:
			f.Set(reflect.ValueOf(time.Unix(1, 2).UTC()))
		default:
			t.Fatalf("no value for %s", fields.Type().Field(i).Name)
		}
	}
	got := (&relayRun{relaying: &relaying{}}).outgoing(newMessage(&want))
	if !reflect.DeepEqual(got.Message, want) {
		t.Errorf("relayed: got %+v, want %+v", got.Message, want)
	}
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var back RelayMessage
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, got) {
		t.Errorf("through JSON: got %+v, %v, want %+v", back, err, got)
	}
	for _, size := range []int{0, 125, 126, 0xFFFF, 0x10000} {
		if got := len(newMessage(&Message{Data: make([]byte, size), Project: "shop"}).payload()); got != size {
			t.Errorf("payload: got %d bytes, want %d", got, size)
		}
	}
}

// A node's view of its clients' filters must at no moment miss a client that changes its filter.
func TestAChangeOfFilterLosesNothingThatBothFiltersWant(t *testing.T) {
	m := startManager(t, WithRelay(newBus()))
	c := connect(t, m, Subscription{Project: "shop"}, openSink)
	filter := func(i int) Filter { return Filter{Levels: []string{"error", fmt.Sprint(i % 3)}} }
	for name, change := range map[string]func(i int){
		"by the application": func(i int) { _ = m.SetFilter(c.id, filter(i)) },
		"over the wire":      func(i int) { _ = c.shard.cast(c.id, 0, func(c *client) { c.setFilter(filter(i)) }) },
	} {
		change(0)
		var changes sync.WaitGroup
		stop := make(chan struct{})
		changes.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					change(i)
				}
			}
		})
		for i := range 200_000 {
			if !m.wants("shop", "error", "") {
				t.Errorf("%s: at try %d, nobody wanted what every filter wants", name, i)
				break
			}
		}
		close(stop)
		changes.Wait()
	}
}

func TestANodeThatIsSilentForLongIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &interest{rotated: time.Now()}
		for n := range 1000 {
			node := fmt.Sprint(n)
			if !i.advance(node, 7) || i.advance(node, 7) || i.advance(node, 6) || !i.advance(node, 8) {
				t.Fatalf("node %s: want each number once and in order", node)
			}
			if last := fmt.Sprint(n - 1); n > 0 && i.advance(last, 8) {
				t.Fatalf("node %s: forgotten within a minute", last)
			}
			time.Sleep(time.Minute)
		}
		if got := len(i.heard) + len(i.older); got > 40 {
			t.Errorf("got %d nodes remembered, want those of about twenty minutes", got)
		}
	})
}

// The same with real concurrency: clients of many projects connect and leave, and the goroutine of the run looks all
// the time.
func TestClientsThatComeAndGoMissNothingOfOtherNodes(t *testing.T) {
	x := newBus()
	m := startManager(t, WithRelay(x))
	stop := make(chan struct{})
	var tending sync.WaitGroup
	tending.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			in := m.relaying.run.Load().interests // the work of a tick, as if the clock ran very fast
			in.tend()
			in.age(relayLinger)
		}
	})
	var clients sync.WaitGroup
	for n := range 4 {
		clients.Go(func() {
			for round := 0; round < 100 || x.subscriptions() < 50 && round < 100_000; round++ {
				project := fmt.Sprintf("p%d", (n+round)%3)
				got := make(chan string, 1000)
				c := connect(t, m, Subscription{Project: project}, func(*client) link.Link { return &recording{got: got} })
				want := fmt.Sprintf("%d/%d", n, round)
				x.deliver(RelayMessage{Message: Message{Project: project, Data: []byte(want)}})
				for text := range got {
					if text == want {
						break
					}
				}
				leave(c)
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("a client has missed what was delivered after it had joined")
	}
	close(stop)
	tending.Wait()
	if got := x.subscriptions(); got < 50 {
		t.Errorf("got %d subscriptions made: projects were hardly let go, and this test is about that", got)
	}
}

// recording is a link to a client that notes each message.
type recording struct {
	sink
	got chan<- string
}

func (r *recording) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	for rest := p; len(rest) > 0; {
		n := 2 + int(rest[1]) // short messages only
		if rest[0]&wsframe.ControlBit == 0 {
			r.got <- string(rest[2:n])
		}
		rest = rest[n:]
	}
	return len(p) + len(then), 0, nil
}

// bus is a relay in memory, which delivers within Publish. The exchange of streamtest is for managers with sockets.
type bus struct {
	mu   sync.Mutex
	subs map[string]map[int]func(RelayMessage)
	made int
}

func newBus() *bus { return &bus{subs: make(map[string]map[int]func(RelayMessage))} }

func (b *bus) Publish(m RelayMessage) error {
	b.deliver(m)
	return nil
}

func (b *bus) deliver(m RelayMessage) {
	b.mu.Lock()
	receivers := slices.Collect(maps.Values(b.subs[m.Project]))
	b.mu.Unlock()
	for _, receive := range receivers {
		receive(m)
	}
}

func (b *bus) Subscribe(_ context.Context, project string, receive func(RelayMessage)) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.made++
	id := b.made
	if b.subs[project] == nil {
		b.subs[project] = make(map[int]func(RelayMessage))
	}
	b.subs[project][id] = receive
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs[project], id)
	}, nil
}

// subscriptions returns how many subscriptions have ever been made.
func (b *bus) subscriptions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.made
}

func (b *bus) Flush(context.Context) error { return nil }
func (b *bus) Status() RelayStatus         { return RelayStatus{} }

// age makes every idle project look as if it had been idle for d longer.
func (in *interests) age(d time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, i := range in.byProject {
		if !i.idleSince.IsZero() {
			i.idleSince = i.idleSince.Add(-d)
		}
	}
}

// A relay may reuse the memory of a message as soon as receive has returned.
func TestTheNameOfANodeIsKeptAsACopyAndNamesAreBounded(t *testing.T) {
	i := &interest{}
	memory := []byte("node-1")
	if !i.advance(unsafe.String(unsafe.SliceData(memory), len(memory)), 1) {
		t.Fatal("the first message was refused")
	}
	copy(memory, "node-2") // of which nothing has come yet
	if i.advance("node-1", 1) || !i.advance("node-2", 1) {
		t.Error("the name of a node has changed with the memory that it was read from")
	}
	for n := range 10 * relayNodes {
		i.advance(fmt.Sprint("made up ", n), 1)
	}
	if got := len(i.heard) + len(i.older); got > 2*relayNodes {
		t.Errorf("got %d names of nodes, want at most %d", got, 2*relayNodes)
	}
}

// cluster is the model of docs/scaling.md: the load of many nodes, depending on their number and on which clients watch
// which projects.
type cluster struct {
	nodes, clients int     // clients of each node
	projects       int     // project k has a share of both the clients and the events that is proportional to 1/(k+1)
	wanting        float64 // the share of the clients that want every level; the others want "fatal", a level that no event has
	events         int     // over all nodes
}

// clusterLoad is the load that the model predicts and the simulation counts, as sums over all nodes.
type clusterLoad struct {
	followed   float64 // projects, "" included
	received   float64 // messages that arrived from other nodes and were delivered
	unwanted   float64 // messages that arrived and that no client wanted
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

// predict: a node follows a project unless none of its clients does. The probability of the latter is
// (1-share)^clients. The node receives the messages that the other nodes publish to these projects, and nothing else.
// So the sum grows with the nodes only for projects that are watched on all of them.
//
// deviation is the standard deviation of each number. Chance decides which node follows which project, and how many
// events a project has.
func (c cluster) predict() (mean, deviation clusterLoad) {
	nodes, clients, events := float64(c.nodes), float64(c.clients), float64(c.events)
	var followed, received, unwanted, squares, cubes float64 // variances, and the parts of that of the deliveries
	mean.followed = nodes                                    // of messages for all projects
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

// simulate runs managers with that many clients, whose links accept everything immediately, and a bus between them.
func (c cluster) simulate(t *testing.T, random *rand.Rand) (l clusterLoad) {
	x := newBus()
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
			waitFor(t, m, "the relay keeps up", func() bool { return m.Stats().RelayQueued == 0 })
		}
	}
	published := uint64(0)
	for _, m := range nodes {
		waitFor(t, m, "everything is published", func() bool { return m.relaying.published.Load() == m.broadcasts.Load() })
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
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond) // no client here answers a close frame
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

func (c cluster) connect(t *testing.T, m *Manager, project string, wanting bool) {
	t.Helper()
	sub := Subscription{Project: project}
	if !wanting {
		sub.Levels = []string{"fatal"}
	}
	connect(t, m, sub, openSink)
}

var seed = flag.Uint64("seed", 1, "seed of the simulation")

// TestTheModelOfManyNodesAgreesWithASimulation is for docs/scaling.md. Without -long it has a tenth of the size.
func TestTheModelOfManyNodesAgreesWithASimulation(t *testing.T) {
	clients, events := 500, 5_000
	if isLong() {
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
