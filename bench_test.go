//go:build !race

package mesherstream

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

func BenchmarkDeliver(b *testing.B) {
	for _, clients := range []int{1, 100, 1000} {
		for name, l := range map[string]link.Link{"fast": sink{}, "slow": wall{}} {
			for _, together := range []int{1, 100} {
				b.Run(fmt.Sprintf("clients=%d/%s/together=%d", clients, name, together), func(b *testing.B) {
					m := newMessage(&Message{Project: "shop", Level: "error", Data: make([]byte, 512)})
					s := newTestShard(b, clients, l)
					publishTurn(b, s, m, 100)
					b.ReportAllocs()
					for b.Loop() {
						publishTurn(b, s, m, together)
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*together*clients), "ns/delivery")
				})
			}
		}
	}
}

// BenchmarkBroadcast measures a publisher: of a project that nobody follows, of one with a client on each shard, and of
// several publishers at once, to one project or each to its own.
func BenchmarkBroadcast(b *testing.B) {
	for _, followed := range []bool{false, true} {
		for _, publishers := range []string{"one", "several to one project", "several to their own"} {
			b.Run(fmt.Sprintf("followed=%v/publishers=%s", followed, publishers), func(b *testing.B) {
				m := startManager(b)
				var next atomic.Int64
				projects := make([]string, 64)
				for i := range projects {
					projects[i] = fmt.Sprint("project ", i)
					for range m.shards {
						if followed {
							connect(b, m, Subscription{Project: projects[i]}, openSink)
						}
					}
				}
				data := make([]byte, 512)
				publish := func(project string) {
					if err := m.Broadcast(Message{Project: project, Level: "error", Data: data}); err != nil {
						b.Error(err)
					}
				}
				b.ReportAllocs()
				if publishers == "one" {
					for b.Loop() {
						publish(projects[0])
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					project := projects[0]
					if publishers == "several to their own" {
						project = projects[int(next.Add(1))%len(projects)]
					}
					for pb.Next() {
						publish(project)
					}
				})
			})
		}
	}
}

func BenchmarkNewMessage(b *testing.B) {
	for _, size := range []int{64, 512, 16 << 10} {
		b.Run(fmt.Sprint("size=", size), func(b *testing.B) {
			msg := Message{Project: "shop", Level: "error", Environment: "production", Data: make([]byte, size)}
			b.ReportAllocs()
			for b.Loop() {
				newMessage(&msg)
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	f := Filter{Levels: []string{"error", "fatal", "warning"}, Environments: []string{"production", "staging"}}
	m := newMessage(&Message{Project: "shop", Level: "warning", Environment: "staging"})
	for b.Loop() {
		f.matches(m)
	}
}

// distinctFilters returns filters of 16 levels and 16 environments. Each shares half of its values with all others.
func distinctFilters(n int) []Filter {
	list := make([]Filter, n)
	for i := range list {
		for k := range maxFilterValues / 2 {
			list[i].Levels = append(list[i].Levels, fmt.Sprintf("level-%06d", k), fmt.Sprintf("own-l-%06d", i*maxFilterValues+k))
			list[i].Environments = append(list[i].Environments, fmt.Sprintf("envir-%06d", k), fmt.Sprintf("own-e-%06d", i*maxFilterValues+k))
		}
	}
	return list
}

// BenchmarkFilters measures a turn with one message that is offered to clients with different filters: to those of one
// project, or to those of as many projects as there are clients.
func BenchmarkFilters(b *testing.B) {
	small := []Filter{
		{},
		{Levels: []string{"error", "fatal"}},
		{Environments: []string{"production"}},
		{Levels: []string{"error", "fatal", "warning"}, Environments: []string{"production", "staging"}},
		{Levels: []string{"debug"}},
		{},
	}
	matching := map[string]Message{
		"none":         {Level: "info-000001", Environment: "other-00001"},
		"only a level": {Level: "level-000001", Environment: "other-00001"}, // of all filters
		"one":          {Level: "level-000001", Environment: "own-e-000003"},
	}
	run := func(name string, filters func() []Filter, project func(i int) string, msg Message) {
		b.Run(name, func(b *testing.B) {
			s := newTestShard(b, 0, sink{})
			admit(b, s, filters(), project)
			m := newMessage(&msg)
			publishTurn(b, s, m, 1)
			b.ReportAllocs()
			for b.Loop() {
				publishTurn(b, s, m, 1)
			}
		})
	}
	shop := func(int) string { return "shop" }
	for _, groups := range []int{1, 5} {
		for name, msg := range map[string]Message{"none": {Level: "trace", Environment: "test"}, "some": {Level: "error", Environment: "production"}} {
			msg.Project = "shop"
			run(fmt.Sprintf("groups=%d/values=few/matching=%s", groups, name), func() []Filter { return small[:groups] }, shop, msg)
		}
	}
	for _, groups := range []int{1, 5, 16, 50, 1000, 10_000} {
		filters := func() []Filter { return distinctFilters(groups) }
		for name, msg := range matching {
			msg.Project = "shop"
			run(fmt.Sprintf("groups=%d/values=16+16/matching=%s", groups, name), filters, shop, msg)
			if groups == 1000 {
				msg.Project = ""
				run(fmt.Sprintf("groups=%d/values=16+16/projects=1/matching=%s/to=all", groups, name), filters, shop, msg)
				run(fmt.Sprintf("groups=%d/values=16+16/projects=1000/matching=%s/to=all", groups, name), filters, func(i int) string { return fmt.Sprint("project ", i) }, msg)
			}
		}
	}
}

// BenchmarkFilterChange measures the change of one client's filter to one that nobody else has, beside others.
func BenchmarkFilterChange(b *testing.B) {
	for _, groups := range []int{1, 5, 16, 1000, 10_000} {
		b.Run(fmt.Sprint("groups=", groups), func(b *testing.B) {
			s := newTestShard(b, 0, sink{})
			filters := distinctFilters(groups + 100)
			c := admit(b, s, filters[:groups], func(int) string { return "shop" })[0]
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.setFilter(filters[groups+i%100])
			}
		})
	}
}

// BenchmarkBacklog pushes into a full backlog, in each way of making room.
func BenchmarkBacklog(b *testing.B) {
	plain := newMessage(&Message{Level: "debug", Data: make([]byte, 512)})
	keyed := newMessage(&Message{Level: "debug", Key: "issue 17", Data: make([]byte, 512)})
	kept := newMessage(&Message{Level: "fatal", Data: make([]byte, 512)})
	kept.keep = true
	for _, bm := range []struct {
		name     string
		overflow Overflow
		told     bool
		cycle    []*message
	}{
		{"oldest", DropOldest, false, []*message{plain}},
		{"oldest,told", DropOldest, true, []*message{plain}},
		{"newest", DropNewest, false, []*message{plain}},
		{"key", DropOldest, false, []*message{keyed}},
		{"kept=1/2", DropOldest, false, []*message{plain, kept}},
		{"kept=1/2,told", DropOldest, true, []*message{plain, kept}},
		{"kept=9/10", DropOldest, false, []*message{plain, kept, kept, kept, kept, kept, kept, kept, kept, kept}},
	} {
		for _, size := range []int{100, 10_000} {
			b.Run(fmt.Sprintf("%s/max=%d", bm.name, size), func(b *testing.B) {
				var ring backlog
				if bm.told {
					ring.gaps = new(gaps)
				}
				most := limits{size, 1 << 30, bm.overflow, true}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					ring.push(bm.cycle[i%len(bm.cycle)], most)
				}
			})
		}
	}
}

// BenchmarkHandshake measures the cost of a client from its request to the end of its connection.
func BenchmarkHandshake(b *testing.B) {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	m, err := NewManager(WithLogger(slog.New(slog.DiscardHandler)), WithMaxClients(1000), WithMaxClientsPerIP(1000),
		WithAuthorize(func(*fiber.Ctx, *Subscription) error { return nil }))
	if err != nil {
		b.Fatal(err)
	}
	app.Use(m.Handler())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- app.Listener(ln) }()
	defer func() {
		_ = app.ShutdownWithTimeout(5 * time.Second)
		<-served
		_ = m.Shutdown(b.Context())
	}()
	request := []byte("GET /stream/projects/shop?level=error HTTP/1.1\r\nHost: app.test\r\nOrigin: http://app.test\r\n" +
		"Sec-WebSocket-Protocol: mesherstream.v1\r\nUser-Agent: Mozilla/5.0\r\nCookie: session=x\r\nAccept-Language: en\r\n" +
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	answer := make([]byte, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		if n, err := conn.Read(answer); err != nil || string(answer[9:12]) != "101" {
			b.Fatalf("got %q, %v, want 101", answer[:n], err)
		}
		_ = conn.Close()
	}
}

// BenchmarkSubscribe measures the cost of a request: from its bytes to the bytes of the reply, including the change of
// the client's group.
func BenchmarkSubscribe(b *testing.B) {
	largest := func(first int, text string) []byte {
		list := func(first int) string {
			var values []string
			for i := range 16 {
				values = append(values, fmt.Sprintf(`"%02d%s"`, (first+7*i)%99, text))
			}
			return strings.Join(values, ",")
		}
		return fmt.Appendf(nil, `{"type":"subscribe","filters":{"level":[%s],"environment":[%s]}}`, list(first), list(first+50))
	}
	for name, requests := range map[string][2][]byte{
		"values=1":      {[]byte(`{"type":"subscribe","filters":{"level":"error"}}`), []byte(`{"type":"subscribe","filters":{"level":"fatal"}}`)},
		"values=16+16":  {largest(1, strings.Repeat("v", 62)), largest(2, strings.Repeat("v", 62))},
		"values=é":      {largest(1, strings.Repeat("é", 31)), largest(2, strings.Repeat("é", 31))},
		"values=<":      {largest(1, strings.Repeat("<", 62)), largest(2, strings.Repeat("<", 62))},
		"values=u2028":  {largest(1, strings.Repeat("\u2028", 20)), largest(2, strings.Repeat("\u2028", 20))},
		"values=\\b":    {largest(1, strings.Repeat(`\b`, 56)), largest(2, strings.Repeat(`\b`, 56))},
		"values=\\u":    {largest(1, strings.Repeat(`\u00e9`, 18)), largest(2, strings.Repeat(`\u00e9`, 18))},
		"names=\\ud800": {fmt.Appendf(nil, `{"type":"subscribe","%s":""}`, strings.Repeat(`\ud800`, 660)), []byte(`{"type":"subscribe","filters":{}}`)},
		"values=none":   {fmt.Appendf(nil, `{"type":"subscribe","filters":{"level":[%s""]}}`, strings.Repeat(`"",`, 1200)), []byte(`{"type":"subscribe","filters":{}}`)},
		"refused":       {[]byte(`{"type":"subscribe","filter":{}}`), []byte(strings.Repeat("[", 4000))},
	} {
		b.Run(name, func(b *testing.B) {
			s := newTestShard(b, 1, sink{})
			var c *client
			for _, member := range s.members {
				c = member
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				atPace(c)
				c.received(wsframe.OpText, requests[i%2])
			}
			if c.phase != phaseOpen {
				b.Fatal("the client was closed")
			}
		})
	}
}

// atPace allows the client another request immediately.
func atPace(c *client) { c.outbox().paid = 0 }

func TestDeliveringToAClientAllocatesNothing(t *testing.T) {
	m := newMessage(&Message{Project: "shop", Level: "error", Data: make([]byte, 512)})
	for name, l := range map[string]link.Link{"fast": sink{}, "slow": wall{}} {
		for _, kind := range []string{"without a window", "pinged", "marked", "silent"} {
			for _, broadcasts := range []int{1, 10} {
				s := newTestShard(t, 100, l)
				clients := s.everyone()
				for _, c := range clients {
					switch kind {
					case "pinged":
						c.acks = acksProbes
						c.openWindow()
					case "marked", "silent":
						agree(c)
					}
				}
				turn := func(broadcasts int) {
					publishTurn(t, s, m, broadcasts)
					for _, c := range clients {
						if w := c.window; w != nil && kind != "silent" && name == "fast" {
							w.acked, w.asked, w.probedAt = c.position(), false, s.now-probePause // the next turn asks again
							c.review()
						}
					}
				}
				turn(100) // buffers grow once
				turn(100)
				if got := testing.AllocsPerRun(100, func() { turn(broadcasts) }); got != 0 {
					t.Errorf("%s clients, %s, %d broadcasts in one turn to 100 clients: got %v allocations, want 0", name, kind, broadcasts, got)
				}
				probes := 0
				for _, c := range clients {
					if w := c.window; w != nil {
						probes += int(w.probed.messages)
					}
				}
				if name == "fast" && kind == "pinged" && probes == 0 {
					t.Error("no client was asked, and this test is about that")
				}
			}
		}
	}
}

func TestHoldingMessagesAllocatesNothing(t *testing.T) {
	s := newTestShard(t, 100, sink{})
	s.cfg.coalescing = time.Millisecond
	c, held := s.everyone()[0], 0
	m := newMessage(&Message{Project: "shop", Level: "error", Data: make([]byte, 512)})
	pause := func() {
		for sent := c.sent; c.sent == sent; {
			publishTurn(t, s, m, 3)
			held = max(held, len(c.pending()))
		}
	}
	pause()
	pause()
	if got := testing.AllocsPerRun(100, pause); got != 0 {
		t.Errorf("a pause of a group of 100 clients: got %v allocations, want 0", got)
	}
	if held == 0 {
		t.Error("nothing was held, and this test is about that")
	}
}

// plainShard is newTestShard with clients of an encoding beside one of a WebSocket.
func plainShard(t *testing.T, n int, e encoding, l link.Link) *shard {
	t.Helper()
	s := newTestShard(t, 1, l)
	for i := range n {
		c := &client{id: ClientID((i + 1) * 1000), shard: s, link: l, terms: grantedAll(Subscription{Project: "shop", Filter: Filter{Levels: []string{"error"}}}), encoding: e}
		c.agree()
		if err := s.register(c); err != nil {
			t.Fatal(err)
		}
	}
	s.take()
	s.takeTurn()
	return s
}

// A broadcast over plain HTTP costs the same number of allocations for one client and for many, if these are in step or
// take nothing at all.
func TestABroadcastOverPlainHTTPAllocatesNothingForEachClient(t *testing.T) {
	for _, e := range []encoding{events, lines} {
		for name, l := range map[string]link.Link{"fast": sink{}, "slow": wall{}} {
			for _, broadcasts := range []int{1, 10} {
				var got [2]float64
				for i, clients := range []int{1, 50} {
					s := plainShard(t, clients, e, l)
					m := newMessage(&Message{Project: "shop", Level: "error", Data: make([]byte, 512)})
					form := m.in(e) // made before, since the collector may take it from one of the two
					publishTurn(t, s, m, 100)
					publishTurn(t, s, m, 100)
					got[i] = testing.AllocsPerRun(100, func() { publishTurn(t, s, m, broadcasts) })
					runtime.KeepAlive(form)
				}
				if got[0] != got[1] {
					t.Errorf("%s clients of encoding %d, %d broadcasts in a turn: got %v allocations for 1 client and %v for 50, want as many", name, e, broadcasts, got[0], got[1])
				}
				if e == lines && got[0] != 0 {
					t.Errorf("%s clients of lines, %d broadcasts in a turn: got %v allocations, want 0", name, broadcasts, got[0])
				}
			}
		}
	}
}

func TestABroadcastAllocatesTwice(t *testing.T) {
	data := make([]byte, 512)
	if got := testing.AllocsPerRun(100, func() {
		newMessage(&Message{Project: "shop", Level: "error", Environment: "production", Data: data})
	}); got > 2 {
		t.Errorf("a message: got %v allocations, want at most 2", got)
	}
}

func TestABroadcastToManyClientsAllocatesTwice(t *testing.T) {
	s := newTestShard(t, 100, sink{})
	m := &Manager{cfg: *s.cfg, history: s.history, shards: []*shard{s}}
	msg := Message{Project: "shop", Level: "error", Environment: "production", Data: make([]byte, 512)}
	if got := testing.AllocsPerRun(100, func() {
		if err := m.Broadcast(msg); err != nil {
			t.Fatal(err)
		}
		s.take()
		s.takeTurn()
	}); got > 2 {
		t.Errorf("Broadcast, and its delivery to 100 clients: got %v allocations, want at most 2", got)
	}
}

func TestABroadcastThatNobodyFollowsAllocatesTheMessageThatTheHistoryKeeps(t *testing.T) {
	for history, want := range map[int]float64{0: 0, 1: 2, 1000: 2} {
		m, err := NewManager(WithHistory(history))
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 512)
		publish := func() { _ = m.Broadcast(Message{Project: "shop", Data: data}) }
		for range 2 * history { // the ring grows
			publish()
		}
		if got := testing.AllocsPerRun(1000, publish); got != want {
			t.Errorf("Broadcast without clients and a history of %d: got %v allocations, want %v", history, got, want)
		}
	}
}

func TestADrainWithNothingBufferedAllocatesNothing(t *testing.T) {
	s := newTestShard(t, 100, sink{})
	if got := testing.AllocsPerRun(100, func() { s.tick(true, false); s.take(); s.takeTurn() }); got != 0 {
		t.Errorf("a drain of 100 clients with empty buffers: got %v allocations, want 0", got)
	}
}

// refusing is a relay that allocates nothing of its own.
type refusing struct{ *bus }

var errRefused = errors.New("refused")

func (refusing) Publish(RelayMessage) error { return errRefused }

func TestABroadcastWithARelayAllocatesTwice(t *testing.T) {
	m, err := NewManager(WithRelay(refusing{newBus()}), WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	msg := Message{Project: "shop", Data: make([]byte, 512)}
	_ = m.Broadcast(msg)
	if got := testing.AllocsPerRun(1000, func() { _ = m.Broadcast(msg) }); got > 2 {
		t.Errorf("Broadcast: got %v allocations, want at most 2", got)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}
