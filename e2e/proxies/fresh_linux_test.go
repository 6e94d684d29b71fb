package proxies

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// TestWhatASlowClientBehindAProxyHandlesIsFresh measures how old the events are that a plain client reads at 10 KB/s of
// 74 KB/s, behind each proxy without what bounds its buffers, and logs a row of docs/reliability.md. It measures from 20 s
// after the client's first event, with -long for 100 s and with the defaults of everything. Otherwise, it measures for a few
// seconds, and the timeouts are shorter too.
func TestWhatASlowClientBehindAProxyHandlesIsFresh(t *testing.T) {
	const (
		perSecond, length = 200, 370
		slowBytes         = 10_000
		limit             = 5 * time.Second
	)
	settle, measured := 20*time.Second, 8*time.Second
	options := []mesherstream.Option{mesherstream.WithIdleTimeout(12 * time.Second), mesherstream.WithPingInterval(5 * time.Second)}
	if *streamtest.Long {
		measured, options = 100*time.Second, nil
	}
	behindEach(t, func(t *testing.T, p *proxy) {
		v := unbounded
		if p.bound == "" {
			v = asPrinted
		}
		gone := make(chan string, 1)
		s := behind(t, p, v, append(options, mesherstream.WithHooks(mesherstream.Hooks{
			Disconnect: func(_ mesherstream.Client, _ int, reason string) { gone <- reason },
		}))...)
		client := pace.DialPlain(t, "ws://app.example.com:"+s.proxy.port+"/stream/projects/shop", func() (net.Conn, error) {
			return tls.Dial("tcp", s.proxy.addr(), &tls.Config{RootCAs: roots(), ServerName: "app.example.com"})
		})
		client.Read(slowBytes)
		s.eventually("the manager knows the stream", func() bool { return s.m.Stats().Clients == 1 })

		stop := make(chan struct{})
		var feed sync.WaitGroup
		var published atomic.Int64
		defer func() { close(stop); feed.Wait() }()
		feed.Go(func() {
			tick := time.NewTicker(time.Second / perSecond)
			defer tick.Stop()
			for number := 0; ; number++ {
				select {
				case <-tick.C:
					published.Add(1)
					data := pace.Event(number, pace.Clock(), length)
					if err := s.m.Broadcast(mesherstream.Message{Project: "shop", Data: data, Binary: true}); err != nil {
						t.Errorf("Broadcast(%d): %v", number, err)
					}
				case <-stop:
					return
				}
			}
		})
		joined := time.Now()
		over := time.After(settle + measured)
		time.Sleep(settle)
		from := pace.Clock()
		fate := "lives"
		select {
		case <-over:
		case reason := <-gone:
			fate = "removed after " + time.Since(joined).Round(time.Second).String() + ": " + reason
			t.Error(fate)
			<-over
		}
		seconds := (pace.Clock() - from).Seconds()
		got := client.Summary(from)
		t.Logf("plain client, 10 KB/s of 74 KB/s, behind %s: %s, %.2g events a second, %v", p.name, fate, float64(got.Handled)/seconds, got)
		// The client and the proxy are programs on this machine, and have had no turn either.
		if due := time.Since(joined).Seconds() * perSecond; float64(published.Load()) < 0.7*due {
			t.Skipf("needs a machine that isn't busy: it published %d events of %.0f", published.Load(), due)
		}
		if got.P99 > limit {
			t.Errorf("age: got p99 %v, want at most %v", got.P99, limit)
		}
		if want := slowBytes / (length + 4) * seconds / 2; float64(got.Handled) < want {
			t.Errorf("handled %d events in %.0f s, want at least %.0f", got.Handled, seconds, want)
		}
	})
}
