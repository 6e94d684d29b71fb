package browser

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/tcpproxy"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// A cutting is how large a run of cuts is.
type cutting struct {
	node, tabs int // viewers
	processes  int // of Node
	cuts       int // of each viewer's connections
	life       time.Duration
	history    int
	away, long time.Duration // how long the proxies refuse everything; for every fourth, long
}

// TestWhatViewersMissOverConnectionsThatAreCutIsTold cuts the connections of viewers at random bytes and moments, freezes
// some, and restarts the proxies, under 200 messages a second. At the end, each viewer has everything, and in order: shown
// once, or told at its place.
func TestWhatViewersMissOverConnectionsThatAreCutIsTold(t *testing.T) {
	c := cutting{
		node: 36, tabs: 4, processes: 2, cuts: 12, life: 250 * time.Millisecond, history: 300,
		away: 300 * time.Millisecond, long: 2 * time.Second,
	}
	if *streamtest.Long {
		c.node, c.tabs, c.processes, c.cuts, c.life, c.history = 290, 10, 4, 50, time.Second, 1000
		c.away, c.long = 2*time.Second, 8*time.Second
	}
	c.run(t)
}

func (c cutting) run(t *testing.T) {
	const seed = 14
	s := newService(t, mesherstream.WithHistory(c.history), mesherstream.WithPingInterval(500*time.Millisecond),
		mesherstream.WithIdleTimeout(20*time.Second))
	targets := s.overTransports()
	var (
		proxies []*tcpproxy.Proxy
		watches []*watch
		nodes   []*nodeProcess
		tabs    []tabStory
	)
	for i := range c.node + c.tabs {
		target := targets[i%len(targets)]
		if i >= c.node { // a browser doesn't trust the test's certificate
			target = targets[i%2]
		}
		w := &watch{Loop: i%5 == 0}
		switch { // a machine must have the time for all of them
		case c.node > 100 && i%6 > 0:
			w.Filters = map[string][]string{"level": {"error"}}
		case i%3 == 1:
			w.Filters = map[string][]string{"level": {"error", "fatal"}}
		}
		if i%15 == 10 {
			w.Rest = 8 // somewhat more than it has
		}
		p := tcpproxy.New(t, target.addr)
		w.URL = target.scheme + p.Addr() + "/stream/projects/shop"
		proxies, watches = append(proxies, p), append(watches, w)
	}
	for first, n := 0, c.processes; n > 0; n-- {
		share := (c.node - first) / n
		nodes = append(nodes, followInNode(t, watches[first:first+share]))
		first += share
	}
	for i, w := range watches[c.node:] {
		tb := followInTab(t, proxies[c.node+i].Addr(), w)
		tabs = append(tabs, tb)
	}
	s.until("all viewers are connected", func() bool { return s.m.Stats().Clients == len(watches) })

	for i, p := range proxies {
		p.OnAccept(fate(p, c, rand.New(rand.NewPCG(seed, uint64(i)))))
		for _, conn := range p.Conns() {
			time.AfterFunc(time.Duration(i)*c.life/time.Duration(len(proxies)), func() { conn.Cut(tcpproxy.Reset) })
		}
	}
	begin := time.Now()
	end := s.publishing()
	defer end()
	await := func(cuts int) {
		t.Helper()
		s.within(10*time.Minute, func() string {
			for i, p := range proxies {
				if n := p.Cuts(); n < cuts {
					return fmt.Sprintf("%d cuts of viewer %d, which has %d of %d connections", cuts, i, n, p.Accepted())
				}
			}
			return ""
		})
	}
	await(c.cuts / 2)
	for i, p := range proxies {
		p.Refuse(tcpproxy.Reset)
		away := c.away
		if i%4 == 3 {
			away = c.long
		}
		time.AfterFunc(away, p.Accept)
	}
	await(c.cuts)
	for _, p := range proxies {
		p.OnAccept(nil)
	}
	published := time.Since(begin)
	last := end()
	// A viewer that returns after the last message, and doesn't know what it has received, may only be told of it.
	s.within(time.Minute, func() string {
		if n := s.m.Stats().Clients; n < len(watches) {
			return fmt.Sprintf("%d viewers, and %d are there", len(watches), n)
		}
		return ""
	})
	last++
	if err := s.m.Broadcast(numbered(last, true)); err != nil {
		t.Fatal(err)
	}

	var stories [][]told
	for _, n := range nodes {
		stories = append(stories, n.end(time.Minute)...)
	}
	for _, tb := range tabs {
		stories = append(stories, tb.end(time.Minute)...)
	}
	if len(stories) != len(watches) {
		t.Fatalf("%d stories, want %d", len(stories), len(watches))
	}
	var total account
	for i, story := range stories {
		a, faults := audit(watches[i], story, last)
		total.add(a)
		for j, fault := range faults {
			if j < 3 {
				t.Errorf("viewer %d (%s, filters %v, loop %v): %s", i, watches[i].URL, watches[i].Filters, watches[i].Loop, fault)
			}
		}
		if len(faults) > 0 { // with -artifacts, this is kept
			name := filepath.Join(t.ArtifactDir(), fmt.Sprintf("viewer%d", i))
			if err := os.WriteFile(name, []byte(excerpt(story)), 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	cuts := 0
	for _, p := range proxies {
		cuts += p.Cuts()
	}
	t.Logf("%d viewers, %d messages in %.1f s, %d connections cut, %d ends seen, %d by silence; %d returns, %d complete; "+
		"%d shown, %d missing: %d exact gaps, %d bounds (of %d messages); %d fetched; seconds in all: %.1f; %+v",
		len(watches), last, published.Seconds(), cuts, total.ends, total.silences, total.returns, total.whole,
		total.shown, total.missing, total.exact, total.bounds, total.messagesInBounds, total.fetched, time.Since(begin).Seconds(), s.m.Stats())
	for what, n := range map[string]int{
		"silence": total.silences, "complete return": total.whole, "incomplete return": total.returns - total.whole, "exact gap": total.exact,
		"fetched message": total.fetched,
	} {
		if n == 0 {
			t.Errorf("the run had no %s: it proves nothing about that", what)
		}
	}
}

// publishing publishes as publishUntil does, until the returned function is called, which returns how many messages that
// were.
func (s *site) publishing() (end func() (last int)) {
	stop, published := make(chan struct{}), make(chan int, 1)
	go func() { published <- s.publishUntil(stop) }()
	return sync.OnceValue(func() int {
		close(stop)
		return <-published
	})
}

// publishUntil publishes 200 messages a second until stop is closed, and returns how many that were.
func (s *site) publishUntil(stop <-chan struct{}) (last int) {
	const perSecond = 200
	ticker := time.NewTicker(time.Second / perSecond)
	defer ticker.Stop()
	for begin := time.Now(); ; {
		for due := int(time.Since(begin).Seconds() * perSecond); last < due; {
			last++
			if err := s.m.Broadcast(numbered(last, false)); err != nil {
				s.Error(err)
			}
		}
		select {
		case <-ticker.C:
		case <-stop:
			return last
		}
	}
}

// fate gives the connections of one viewer their fates, until enough of them are cut.
func fate(p *tcpproxy.Proxy, c cutting, random *rand.Rand) func(*tcpproxy.Conn) {
	var mu sync.Mutex
	return func(conn *tcpproxy.Conn) {
		mu.Lock()
		defer mu.Unlock()
		if p.Cuts() >= c.cuts {
			return
		}
		how := tcpproxy.End(random.IntN(2))
		time.AfterFunc(6*c.life+3*time.Second, func() { conn.Cut(how) }) // in any case
		after := time.Duration(random.Int64N(int64(2 * c.life)))
		if random.IntN(3) == 0 {
			conn.Down.Delay(time.Duration(random.IntN(60)) * time.Millisecond)
			conn.Up.Delay(time.Duration(random.IntN(60)) * time.Millisecond)
		}
		switch kind := random.IntN(100); {
		case kind < 10: // while it asks, or as it acknowledges
			conn.Up.CutAfter(1+random.IntN(900), how)
		case kind < 20: // in the response or the hello
			conn.Down.CutAfter(1+random.IntN(1200), how)
		case kind < 50:
			const perSecond = 60_000
			conn.Down.CutAfter(1+random.IntN(int(perSecond*2*c.life/time.Second)), how)
		case kind < 54:
			time.AfterFunc(after, conn.Freeze)
			// The viewer notices, and gives it up. That is a cut too, once the proxy knows.
			time.AfterFunc(after+3*time.Second, func() { conn.Cut(how) })
		case kind < 64:
			conn.Down.Limit(20_000)
			time.AfterFunc(after, func() { conn.Cut(how) })
		default:
			time.AfterFunc(after, func() { conn.Cut(how) })
		}
	}
}

// A target is a listener of the app, over one transport.
type target struct{ scheme, addr string }

// overTransports makes the app listen over each transport: the first is that of the polled link, and the others have the
// portable one.
func (s *site) overTransports() (targets []target) {
	s.Helper()
	for _, tr := range streamtest.Sockets() {
		ln, _ := tr.Listen(s.T)
		scheme := "ws://"
		if tr.Name == "tls" {
			scheme = "wss://"
		}
		targets = append(targets, target{scheme, ln.Addr().String()})
		s.listenToo(ln)
	}
	return targets
}

// listenToo makes the app listen on another listener, until it is shut down.
func (s *site) listenToo(ln net.Listener) {
	go func() { _ = s.app.Listener(listener{ln, s}) }() // the kernel accepts until it does
}

// within waits for a condition that may take so long. The condition says what is missing.
func (s *site) within(patience time.Duration, missing func() string) {
	s.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		what := missing()
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%s: not in %v; %+v", what, patience, s.m.Stats())
		}
	}
}
