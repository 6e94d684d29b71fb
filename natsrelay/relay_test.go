package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/nats-io/nats.go"
)

func TestAnEventReachesTheClientsOfThreeNodesOnceAndInOrder(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	const nodes, each = 3, 1000
	var all []*node
	var viewers []*viewer
	for range nodes {
		n := newNode(t, New(inProcess(t, ns)))
		all = append(all, n)
	}
	for _, n := range all {
		viewers = append(viewers, n.watch("shop"), n.watch("shop?level=error&environment=production"))
	}
	var publishers sync.WaitGroup
	for k, n := range all {
		publishers.Go(func() {
			for i := range each {
				n.broadcast(fmt.Sprintf("%d of %d", i, k))
			}
		})
	}
	publishers.Wait()
	for i, v := range viewers {
		v.n.eventually("everything has come", func() bool { return len(v.collected()) >= nodes*each })
		var next [nodes]int
		for _, text := range v.collected() {
			var number, from int
			if _, err := fmt.Sscanf(text, "%d of %d", &number, &from); err != nil || number != next[from] {
				t.Fatalf("viewer %d got %q, want number %d of that node", i, text, next[from])
			}
			next[from]++
		}
	}
	for _, n := range all {
		n.eventually("all is counted", func() bool { return n.m.Stats().RelayReceived == (nodes-1)*each })
		if s := n.m.Stats(); s.RelayPublished != each || s.RelayDropped+s.RelayMissed+s.RelayRefused+s.RelayUnwanted != 0 {
			t.Errorf("Stats(): got %+v, want %d published and nothing lost", s.RelayStats, each)
		}
	}
}

func TestManagersMayShareAConnectionAndEvenARelay(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	conn := inProcess(t, ns)
	relay := New(conn)
	for name, second := range map[string]*Relay{"a connection": New(conn), "a relay": relay} {
		t.Run(name, func(t *testing.T) {
			a, b := newNode(t, relay), newNode(t, second)
			atA, atB := a.watch("shop"), b.watch("shop")
			a.broadcast("from a")
			atA.wants("from a")
			atB.wants("from a")
			b.broadcast("from b")
			atA.wants("from a", "from b")
			atB.wants("from a", "from b")
		})
	}
}

func TestStrangeProjectsReachTheirOwnClientsAndNobodyElse(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	conn := inProcess(t, ns)
	relay := New(conn)
	projects := []string{
		"a.b", "a", "b", "*", ">", "a.>", "a b", " ", "\t", "\r\nPUB x 1", "café", "日本", "%2A", "+", "$SYS.>", "all", "\xFF", "\x00",
		strings.Repeat("é", 64), strings.Repeat("x", 128), strings.Repeat("x", 5000), strings.Repeat("x", 5001),
	}
	var mu sync.Mutex
	got := make(map[string][]string)
	for _, project := range projects {
		unsubscribe, err := relay.Subscribe(t.Context(), project, func(m mesherstream.RelayMessage) {
			mu.Lock()
			defer mu.Unlock()
			got[project] = append(got[project], string(m.Data))
		})
		if err != nil {
			t.Fatalf("Subscribe(%.20q): %v", project, err)
		}
		defer unsubscribe()
	}
	for _, project := range projects {
		if err := relay.Publish(mesherstream.RelayMessage{Message: mesherstream.Message{Project: project, Data: []byte(project)}}); err != nil {
			t.Fatalf("Publish(%.20q): %v", project, err)
		}
	}
	for _, project := range projects {
		eventually(t, fmt.Sprintf("%.20q has come", project), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got[project]) > 0
		}, func() any { return nil })
	}
	mu.Lock()
	defer mu.Unlock()
	for _, project := range projects {
		if len(got[project]) != 1 || got[project][0] != project {
			t.Errorf("%.20q: got %.50q, want its own message", project, got[project])
		}
	}
	if err := conn.LastError(); err != nil {
		t.Errorf("the connection: %v", err)
	}
}

func TestHeadersTellLevelAndEnvironmentAndOtherProgramsMayPublish(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	n := newNode(t, New(inProcess(t, ns), WithPrefix("acme.live")))
	v := n.watch("shop?level=error&environment=production")
	other := inProcess(t, ns)

	seen, err := other.SubscribeSync("acme.live.project.*")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.FlushTimeout(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	n.broadcast("mine")
	msg, err := seen.NextMsg(20 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got := msg.Header.Get("Level") + " " + msg.Header.Get("Environment"); got != "error production" || string(msg.Data) != "mine" {
		t.Errorf("on the wire: got %q and headers %v, want the bare data, level and environment", msg.Data, msg.Header)
	}

	publish := func(data string, header nats.Header) {
		t.Helper()
		if err := other.PublishMsg(&nats.Msg{Subject: "acme.live.project.shop", Header: header, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	publish("bare", nil)
	publish("not wanted", nats.Header{"Level": {"debug"}})
	publish("wanted", nats.Header{"Level": {"error"}, "Environment": {"production"}, "Future": {"field"}})
	publish("0", nats.Header{"Binary": {"1"}})
	v.wants("mine", "bare", "wanted", "binary 0")
	if s := n.m.Stats(); s.RelayUnwanted != 1 {
		t.Errorf("Stats(): got %+v, want 1 unwanted", s.RelayStats)
	}
}

func TestANodeGetsOnlyTheProjectsOfItsClients(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	conns := [2]*nats.Conn{inProcess(t, ns), inProcess(t, ns)}
	a, b := newNode(t, New(conns[0])), newNode(t, New(conns[1]))
	at, elsewhere := a.watch("blog"), b.watch("shop")
	if got := ns.NumSubscriptions() - systemSubscriptions(t); got != 4 {
		t.Errorf("subscriptions: got %d, want 4: a project and all projects for each node", got)
	}
	before := conns[0].Stats().InMsgs
	for range 100 {
		b.broadcast("for nobody else")
	}
	if err := b.m.Broadcast(mesherstream.Message{Data: []byte("for all")}); err != nil {
		t.Fatal(err)
	}
	at.wants("for all")
	if got := conns[0].Stats().InMsgs - before; got != 1 {
		t.Errorf("the other node was sent %d messages, want the one for all projects", got)
	}

	at.close()
	elsewhere.close()
	eventually(t, "projects without clients are let go", func() bool { return ns.NumSubscriptions() == systemSubscriptions(t) },
		func() any { return ns.NumSubscriptions() })
}

// systemSubscriptions is the number of subscriptions that a server itself has.
func systemSubscriptions(t *testing.T) uint32 {
	t.Helper()
	systemSubs.Do(func() { systemSubs.n = embedded(t).NumSubscriptions() })
	return systemSubs.n
}

var systemSubs struct {
	sync.Once
	n uint32
}

func TestUnsubscribeEndsASubscriptionAndTheLastOneTheGoroutine(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	relay := New(inProcess(t, ns))
	var received atomic.Int64
	receive := func(mesherstream.RelayMessage) { received.Add(1) }
	publish := func() {
		t.Helper()
		if err := errors.Join(relay.Publish(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop"}}), relay.Flush(flushContext(t))); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 { // the relay starts again after its last subscription has ended
		first, err := relay.Subscribe(t.Context(), "shop", receive)
		if err != nil {
			t.Fatal(err)
		}
		second, err := relay.Subscribe(t.Context(), "shop", receive)
		if err != nil {
			t.Fatal(err)
		}
		received.Store(0)
		publish()
		eventually(t, "both have it", func() bool { return received.Load() == 2 }, func() any { return round })
		first()
		first()
		publish()
		eventually(t, "one has it", func() bool { return received.Load() == 3 }, func() any { return round })
		second()
		if relay.inbox != nil {
			t.Errorf("round %d: the goroutine hasn't been stopped", round)
		}
	}
}

func flushContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestWhatTheNATSClientDropsIsCounted(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	relay, other := New(inProcess(t, ns), WithPending(10)), New(inProcess(t, ns))
	held, entered := make(chan struct{}), make(chan struct{})
	var once sync.Once
	unsubscribe, err := relay.Subscribe(t.Context(), "shop", func(mesherstream.RelayMessage) {
		once.Do(func() { close(entered) })
		<-held
	})
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, relay)
	publish := func(times int) {
		for range times {
			if err := other.Publish(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop"}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(1)
	<-entered
	publish(10 + 7)
	n.eventually("seven are missed, and the manager tells it", func() bool { return n.m.Stats().RelayMissed == 7 })
	close(held)
	unsubscribe()
	if got := relay.Status().Missed; got != 7 {
		t.Errorf("Missed after the subscription has ended: got %d, want 7", got)
	}
}

// To Prometheus, a decreasing counter would look like a restart of the process.
func TestWhatWasMissedIsRememberedWhenTheConnectionIsClosed(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	conn := inProcess(t, ns)
	relay, other := New(conn, WithPending(1)), New(inProcess(t, ns))
	held := make(chan struct{})
	unsubscribe, err := relay.Subscribe(t.Context(), "shop", func(mesherstream.RelayMessage) { <-held })
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := other.Publish(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop"}}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "some are missed", func() bool { return relay.Status().Missed >= 8 }, func() any { return relay.Status() })
	missed := relay.Status().Missed
	conn.Close()
	if got := relay.Status().Missed; got != missed {
		t.Errorf("Missed when the connection is closed: got %d, want %d", got, missed)
	}
	close(held)
	unsubscribe()
	if got := relay.Status().Missed; got != missed {
		t.Errorf("Missed when the subscription has ended: got %d, want %d", got, missed)
	}
}

func TestWhatNATSRefusesIsCountedAndToldOnce(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	n := newNode(t, New(inProcess(t, ns)))
	local := n.watch("shop")
	big := strings.Repeat("x", 1<<20+1) // more than the server's max_payload
	n.broadcast(big)
	n.broadcast(big)
	local.wants(big, big)
	n.eventually("two are dropped", func() bool { return n.m.Stats().RelayDropped == 2 })
	if got := n.logs.Count("other nodes miss messages of this one"); got != 1 {
		t.Errorf("the log tells it %d times, want once", got)
	}
}

func TestAConnectionThatTheAppHasClosedIsAwayAndNothingPanics(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	conn := inProcess(t, ns)
	n := newNode(t, New(conn))
	v := n.watch("shop")
	conn.Close()
	n.broadcast("local")
	v.wants("local")
	late := n.watch("blog")
	if err := n.m.Broadcast(mesherstream.Message{Project: "blog", Data: []byte("local too")}); err != nil {
		t.Fatal(err)
	}
	late.wants("local too")
	n.eventually("the log tells that the relay is away and a project can't be followed", func() bool {
		return n.logs.Count("the relay is away") == 1 && n.logs.Count("can't be followed") == 1
	})
	if s := n.m.Stats(); !s.RelayAway || s.RelayDropped != 2 {
		t.Errorf("Stats(): got %+v, want the relay away and 2 dropped", s.RelayStats)
	}
}

func TestShutdownSendsWhatIsQueued(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	a, b := newNode(t, New(inProcess(t, ns))), newNode(t, New(inProcess(t, ns)))
	v := b.watch("shop")
	const n = 5000
	for i := range n {
		a.broadcast(fmt.Sprint(i))
	}
	a.stop()
	b.eventually("everything has come", func() bool { return len(v.collected()) == n })
	if s := a.m.Stats(); s.RelayPublished != n || s.RelayProjects != 0 {
		t.Errorf("Stats(): got %+v, want %d published and nothing followed", s.RelayStats, n)
	}
}
