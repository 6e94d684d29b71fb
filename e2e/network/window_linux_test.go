package network

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// An acknowledged window bounds what is on its way to one client, its own kernel and proxies included, and bounds by
// that how much a client gets over a long round trip. These tests measure both, for the default to be chosen.
var windows = flag.String("windows", "", "measure these windows of unacknowledged messages, separated by commas; 0 is none")

// eachWindow returns the windows to be measured, each with a server's options. It skips the test if there are none.
func eachWindow(t *testing.T) (list []int, options map[int][]mesherstream.Option) {
	t.Helper()
	if *windows == "" {
		t.Skip("measures: go test ./e2e/network -run " + t.Name() + " -v -windows 0,64,1024")
	}
	options = make(map[int][]mesherstream.Option)
	for field := range strings.SplitSeq(*windows, ",") {
		w, err := strconv.Atoi(field)
		if err != nil {
			t.Fatalf("-windows: %v", err)
		}
		options[w] = []mesherstream.Option{mesherstream.WithIdleTimeout(time.Hour), mesherstream.WithWindow(w)}
		list = append(list, w)
	}
	return list, options
}

// connectWithWindow connects one viewer that acknowledges each half window.
func (g *group) connectWithWindow(addr string, window int) {
	g.t.Helper()
	c := Connect{Addrs: []string{addr}}
	if window > 0 {
		c.Subprotocol, c.AckEvery = mesherstream.Protocol, max(window/2, 1)
	}
	var chosen string
	g.call("Connect", c, &chosen)
	if chosen != c.Subprotocol {
		g.t.Fatalf("the server chose the subprotocol %q, want %q", chosen, c.Subprotocol)
	}
}

// TestThroughputOverALongRoundTripByWindow floods one client over a round trip of 100 ms.
func TestThroughputOverALongRoundTripByWindow(t *testing.T) {
	list, options := eachWindow(t)
	n := New(t)
	for _, w := range list {
		g := newGroup(t, n)
		l := n.Link(g.Host, Quality{Delay: 50 * time.Millisecond})
		s := newServer(t, options[w]...)
		g.connectWithWindow(s.at(l), w)
		f := &feed{t: t, servers: []*server{s}}
		stop := f.start(20_000)
		time.Sleep(5 * time.Second) // in which TCP's own windows grow
		g.take()
		begin := time.Now()
		time.Sleep(10 * time.Second)
		seen := g.take()[0]
		seconds := time.Since(begin).Seconds()
		stop()
		s.checkAccounts()
		inOrder(t, fmt.Sprintf("the client with a window of %d", w), seen.Arrivals)
		var ages []time.Duration
		for _, a := range seen.Arrivals {
			ages = append(ages, a.age())
		}
		p50, p99, _ := quantiles(ages)
		t.Logf("window %6d: %6.0f messages and %8.0f KiB a second, p50 %v and p99 %v old", w,
			float64(len(seen.Arrivals))/seconds, float64(seen.Bytes)/1024/seconds, p50, p99)
	}
}

// TestRecoveryFromAStallOfAMinuteByWindow stops clients for a minute, all at the same time.
func TestRecoveryFromAStallOfAMinuteByWindow(t *testing.T) {
	list, options := eachWindow(t)
	n := New(t)
	var patients []*patient
	for _, w := range list {
		patients = append(patients, newPatient(t, n, fmt.Sprintf("window %6d, stopped for a minute", w)))
	}
	f := &feed{t: t}
	for i, p := range patients {
		p.server = newServer(t, options[list[i]]...)
		f.servers = append(f.servers, p.server)
		p.connectWithWindow(p.server.at(p.link), list[i])
	}
	f.storm(50)
	stop := f.start(200)
	defer stop()
	for _, p := range patients {
		p.Stop()
	}
	time.Sleep(time.Minute)
	for _, p := range patients {
		p.end(func(p *patient) { p.Continue() })
	}
	for _, p := range patients {
		p.awaitNewest(f)
	}
	stop()
	last := f.publish()
	for _, p := range patients {
		p.awaitLast(last)
		p.report(f)
		p.server.checkAccounts()
	}
}
