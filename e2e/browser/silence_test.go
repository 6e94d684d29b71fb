package browser

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/tcpproxy"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// A follower is a viewer, in whatever program, whose story can be had.
type follower interface {
	end(patience time.Duration) [][]told
}

// A line is one viewer over a proxy.
type line struct {
	*site
	*tcpproxy.Proxy
	t      *testing.T
	watch  *watch
	viewer follower
	last   int // the number of the newest message
}

// inBoth runs a test with one viewer in Chromium, and with one in Node. The server pings once per interval.
func inBoth(t *testing.T, w watch, interval time.Duration, test func(l *line), opts ...mesherstream.Option) {
	t.Parallel()
	for name, follow := range map[string]func(l *line) follower{
		"Chromium": func(l *line) follower { return followInTab(l.t, l.Proxy.Addr(), l.watch) },
		"Node":     func(l *line) follower { return followInNode(l.t, []*watch{l.watch}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := serveWithoutBrowser
			if name == "Chromium" {
				start = serve
			}
			opts := append([]mesherstream.Option{mesherstream.WithPingInterval(interval), mesherstream.WithIdleTimeout(time.Minute)}, opts...)
			s := start(t, streamsOf(opts...))
			own := w
			l := &line{site: s, Proxy: tcpproxy.New(t, s.addr), t: t, watch: &own}
			l.watch.URL = "ws://" + l.Proxy.Addr() + "/stream/projects/shop"
			l.viewer = follow(l)
			l.until("the viewer is connected", func() bool { return l.m.Stats().Clients == 1 })
			test(l)
		})
	}
}

// publish publishes the next messages.
func (l *line) publish(n int) {
	l.Helper()
	for range n {
		l.last++
		if err := l.m.Broadcast(numbered(l.last, false)); err != nil {
			l.Fatal(err)
		}
	}
}

// end publishes the last message, and checks the viewer's story. It returns how its connections ended.
func (l *line) end() (ends []string) {
	l.Helper()
	l.last++
	if err := l.m.Broadcast(numbered(l.last, true)); err != nil {
		l.Fatal(err)
	}
	story := l.viewer.end(2 * time.Minute)[0]
	_, faults := audit(l.watch, story, l.last)
	for _, fault := range faults {
		l.Error(fault)
	}
	for _, e := range story {
		if e.notice != nil && e.End != "" {
			ends = append(ends, e.End)
		}
	}
	if l.Failed() {
		l.Logf("the story: %s", excerpt(story))
	}
	return ends
}

// TestARelayThatForwardsNothingMoreIsNoticed: it keeps both ends open, so that nothing but the silence tells. The page
// notices within two and a half intervals, returns, and has missed nothing.
func TestARelayThatForwardsNothingMoreIsNoticed(t *testing.T) {
	const interval = 3 * time.Second
	inBoth(t, watch{}, interval, func(l *line) {
		l.publish(20)
		l.within(patience, l.unacknowledged)
		frozen := time.Now()
		for _, conn := range l.Conns() {
			conn.Freeze()
		}
		l.publish(20)
		l.until("the viewer returns", func() bool { return l.m.Stats().Connects == 2 })
		if took := time.Since(frozen); took > interval*5/2 {
			l.Errorf("the silence was noticed after %v, want at most %v", took, interval*5/2)
		}
		l.publish(20)
		if ends := l.end(); len(ends) != 1 || ends[0] != "silence" {
			l.Errorf("got ends %v, want one, by silence", ends)
		}
	})
}

// TestAPageToWhichNothingHappensStays: the server's marks are enough.
func TestAPageToWhichNothingHappensStays(t *testing.T) {
	const interval, intervals = time.Second, 10
	inBoth(t, watch{}, interval, func(l *line) {
		time.Sleep(intervals * interval) // this is what is tried
		if ends := l.end(); len(ends) > 0 {
			l.Errorf("got ends %v, want none", ends)
		}
	})
}

// TestALargeMessageOverASlowLineIsNotTakenForSilence: it takes many intervals, and nothing else can arrive meanwhile. With
// -long, it is 1 MiB at 10 KB a second.
func TestALargeMessageOverASlowLineIsNotTakenForSilence(t *testing.T) {
	const interval = time.Second
	rate := 100_000
	if *streamtest.Long {
		rate = 10_000
	}
	inBoth(t, watch{}, interval, func(l *line) {
		l.publish(5)
		for _, conn := range l.Conns() {
			conn.Down.Limit(rate)
		}
		l.last++
		data := fmt.Appendf(nil, `{"n":%d,"pad":%q}`, l.last, strings.Repeat("x", 1<<20-100)) // as large as a message may be
		if err := l.m.Broadcast(mesherstream.Message{Project: "shop", Data: data}); err != nil {
			l.Fatal(err)
		}
		l.publish(5)
		l.within(4*time.Minute, l.unacknowledged)
		if ends := l.end(); len(ends) > 0 {
			l.Errorf("got ends %v, want none", ends)
		}
	})
}

// TestAPageWhoseLoopStandsStillIsNotTakenForDeadByItself: its window is shut, and what the server can send it is nothing that
// a page is shown.
func TestAPageWhoseLoopStandsStillIsNotTakenForDeadByItself(t *testing.T) {
	const interval, intervals = time.Second, 10
	for _, loop := range []bool{true, false} {
		t.Run(fmt.Sprintf("loop %v", loop), func(t *testing.T) {
			w := watch{Loop: loop, Stand: &stand{At: 5, MS: int((intervals * interval).Milliseconds())}}
			inBoth(t, w, interval, func(l *line) {
				l.publish(50) // more than the window
				l.within(2*time.Minute, l.unacknowledged)
				if ends := l.end(); len(ends) > 0 {
					l.Errorf("got ends %v, want none", ends)
				}
			}, mesherstream.WithWindow(8))
		})
	}
}

// unacknowledged says what the one client has yet to acknowledge, or that there are others.
func (l *line) unacknowledged() string {
	n, owing := 0, 0
	for c := range l.m.Clients() {
		n, owing = n+1, owing+c.Buffered+c.Unacknowledged
	}
	if n == 1 && owing == 0 {
		return ""
	}
	return fmt.Sprintf("acknowledgements of %d messages by %d clients", owing, n)
}
