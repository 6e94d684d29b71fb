package network

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
)

// These tests measure how fresh the events are that slow clients handle, and log the rows of docs/reliability.md. They
// measure from 20 s after a client's first event, with -long for 100 s and with the defaults of everything, and need a
// machine that does nothing else. Otherwise, they measure for a few seconds, and the timeouts are shorter too. Then they
// check no ages, which depend on the machine: they check how many messages a client has before it.

// whole returns the first value with -long, and the second one without.
func whole[T any](value, short T) T {
	if *long {
		return value
	}
	return short
}

// newFreshServer has the defaults, and without -long a fifth of the default timeouts.
func newFreshServer(t *testing.T, opts ...mesherstream.Option) *server {
	t.Helper()
	if !*long {
		opts = append([]mesherstream.Option{mesherstream.WithIdleTimeout(12 * time.Second), mesherstream.WithPingInterval(5 * time.Second)}, opts...)
	}
	return newServer(t, opts...)
}

// freshViewer is a page or a plain client, as the test sees it.
type freshViewer interface {
	Summary(after time.Duration) pace.Summary
	Sights() []pace.Sight
	Last() int
}

// ahead returns how many other events the viewer has handled at most between an event's publication and its own turn, of
// the events that were published after that time.
func ahead(v freshViewer, after time.Duration) (most int) {
	var times []time.Duration // when it handled events
	for _, s := range v.Sights() {
		if s.Kind != pace.Message {
			continue
		}
		if s.Published >= after {
			earlier, _ := slices.BinarySearch(times, s.Published)
			most = max(most, len(times)-earlier)
		}
		times = append(times, s.At)
	}
	return most
}

func (s *server) url() string { return "ws://127.0.0.1:" + s.port + "/stream/projects/shop" }

// page opens a page with the module that the server has.
func (s *server) page(h pace.Handling) *pace.Page {
	s.t.Helper()
	return pace.OpenPage(s.t, s.url(), "http://127.0.0.1:"+s.port+"/stream/projects/mesherstream.js", h)
}

// plain connects a plain client over the loopback device, with whatever buffers the kernel gives it.
func (s *server) plain() *pace.Plain {
	s.t.Helper()
	return pace.DialPlain(s.t, s.url(), func() (net.Conn, error) { return net.Dial("tcp", "127.0.0.1:"+s.port) })
}

// fate says what the server did to its one client, and reports it as an error if the client was removed.
func (s *server) fate(joined time.Duration) string {
	s.t.Helper()
	select {
	case d := <-s.gone:
		fate := fmt.Sprintf("removed after %.0f s (%d %q)", (d.at - joined).Seconds(), d.code, d.reason)
		s.t.Error(fate)
		return fate
	default:
		return "lives"
	}
}

// awaitClient waits until the server has a client.
func (s *server) awaitClient() {
	s.t.Helper()
	s.eventually("the client is connected", func() bool { return s.Stats().Clients == 1 })
}

// holdsBack checks that the server keeps most of the messages that its one client has no time for. Without a window, all of
// them are on their way to the client. A busy machine may let more pass before the client counts as slow, but not half of
// them.
func (s *server) holdsBack() {
	s.t.Helper()
	s.eventually("the client misses messages", func() bool { return s.Stats().Dropped > 0 })
	for c := range s.Clients() {
		if most := c.Offered / 2; uint64(c.Unacknowledged) > most {
			s.t.Errorf("on their way to the client: got %d of %d messages, want at most %d", c.Unacknowledged, c.Offered, most)
		}
	}
}

// queued is how many events the server has not offered to its one client yet.
func (f *feed) queued(s *server) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.published) - int(s.Stats().Offered)
}

// needsPace skips what is left of a test if the machine was too busy even to publish at that rate since then: the clients,
// which are programs on it, had no turn either.
func (f *feed) needsPace(t *testing.T, perSecond int, since time.Duration) {
	t.Helper()
	now := pace.Clock()
	published, due := f.newest(now)-f.newest(since), (now-since).Seconds()*float64(perSecond)
	if float64(published) < 0.7*due {
		t.Skipf("needs a machine that isn't busy: it published %d events of %.0f", published, due)
	}
}

func TestWhatSlowClientsHandleIsFresh(t *testing.T) {
	t.Parallel()
	page := func(h pace.Handling) func(s *server) (freshViewer, func()) {
		return func(s *server) (freshViewer, func()) { return s.page(h), func() {} }
	}
	const slowBytes = 10_000 // a second
	for _, row := range []struct {
		name              string
		perSecond, length int // of the events that are published
		join              func(s *server) (v freshViewer, slow func())
		protocol          bool
		fast              time.Duration // for how long it is fast at first
		settled           time.Duration // when ages begin to count, after that
		p99, oldest       time.Duration // what they may be; 0 is as old as the handling of the first few makes them
		least             float64       // events that it handles in a second, if it is never made to wait
	}{
		{
			name: "page, a handler of 150 ms", perSecond: 50, length: 350, protocol: true,
			join:    page(pace.Handling{Each: 150 * time.Millisecond}),
			settled: 20 * time.Second, p99: 5 * time.Second, oldest: 10 * time.Second, least: 1 / 0.15,
		},
		{
			name: "page, a loop of 150 ms", perSecond: 50, length: 350, protocol: true,
			join:    page(pace.Handling{Each: 150 * time.Millisecond, Loop: true}),
			settled: 20 * time.Second, p99: 5 * time.Second, oldest: 10 * time.Second, least: 1 / 0.15,
		},
		{
			name: "page, a handler of 2 s", perSecond: 50, length: 350, protocol: true,
			join:    page(pace.Handling{Each: 2 * time.Second}),
			settled: whole(20*time.Second, 32*time.Second), p99: 10 * time.Second, oldest: 10 * time.Second, least: 0.5,
		},
		{
			name: "page, a loop of 2 s", perSecond: 50, length: 350, protocol: true,
			join:    page(pace.Handling{Each: 2 * time.Second, Loop: true}),
			settled: whole(20*time.Second, 32*time.Second), p99: 10 * time.Second, oldest: 10 * time.Second, least: 0.5,
		},
		{
			name: "page, a loop of 10 s", perSecond: 50, length: 350, protocol: true,
			join:    page(pace.Handling{Each: 10 * time.Second, Loop: true}),
			settled: 20 * time.Second,
		},
		{
			name: "plain client, 10 KB/s of 74 KB/s", perSecond: 200, length: 370,
			join: func(s *server) (freshViewer, func()) {
				p := s.plain()
				p.Read(slowBytes)
				return p, func() {}
			},
			settled: 20 * time.Second, p99: 4 * time.Second, oldest: 5 * time.Second, least: slowBytes / 374.,
		},
		{
			name: "plain client, fast at first, then 10 KB/s of 74 KB/s", perSecond: 200, length: 370,
			join: func(s *server) (freshViewer, func()) {
				p := s.plain()
				return p, func() { p.Read(slowBytes) }
			},
			fast:    whole(8*time.Second, 4*time.Second),
			settled: whole(30*time.Second, 16*time.Second), p99: 5 * time.Second, oldest: 5 * time.Second, least: slowBytes / 374.,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newFreshServer(t)
			v, slow := row.join(s)
			s.awaitClient()
			f := &feed{t: t, servers: []*server{s}, bytes: row.length}
			defer f.start(row.perSecond)()
			joined := pace.Clock()
			time.Sleep(row.fast)
			slow()
			time.Sleep(row.settled)
			from := pace.Clock()
			time.Sleep(whole(100*time.Second, 8*time.Second))
			seconds := (pace.Clock() - from).Seconds()
			fate := s.fate(joined)
			got := v.Summary(from)
			t.Logf("%s: %s, %.2g events a second, %v; at most %d others before a new one", row.name, fate, float64(got.Handled)/seconds, got, ahead(v, from))
			if row.protocol && got.Untold != "" {
				t.Error(got.Untold)
			}
			s.holdsBack()
			// That is only as true as the answers to pings.
			if most, limit := ahead(v, from), 2*maxBuffer; !row.protocol && most > limit {
				t.Errorf("handled %d other events before a new one, want at most %d", most, limit)
			}
			if !*long {
				return
			}
			f.needsPace(t, row.perSecond, joined)
			if row.p99 > 0 && (got.P99 > row.p99 || got.Max > row.oldest) {
				t.Errorf("age: got p99 %v and at most %v, want %v and %v", got.P99, got.Max, row.p99, row.oldest)
			}
			// Ages alone are also good if the client gets next to nothing.
			if want := row.least * seconds / 2; float64(got.Handled) < want {
				t.Errorf("handled %d events in %.0f s, want at least %.0f", got.Handled, seconds, want)
			}
		})
	}
}

// TestALongSleepIsNoRoundTrip has a page whose only sample of a round trip in a while is the time that it was frozen for.
// It is as fresh after that as any other page that was fast and becomes slow.
func TestALongSleepIsNoRoundTrip(t *testing.T) {
	t.Parallel()
	s := newFreshServer(t)
	p := s.page(pace.Handling{Each: 75 * time.Millisecond, Loop: true})
	s.awaitClient()
	joined := pace.Clock()
	f := &feed{t: t, servers: []*server{s}, bytes: 350}
	handles := func(number int) {
		eventually(t, "the event is handled", func() bool { return p.Last() == number })
	}
	handles(f.publish())
	p.Freeze()
	number := f.publish()
	time.Sleep(whole(45*time.Second, 11*time.Second))
	p.Wake()
	handles(number)
	defer f.start(50)()
	time.Sleep(whole(30*time.Second, 16*time.Second)) // until it has handled what it was sent while it counted as fast
	from := pace.Clock()
	time.Sleep(whole(100*time.Second, 6*time.Second))
	fate := s.fate(joined)
	got := p.Summary(from)
	t.Logf("page, a loop of 75 ms, after a sleep with one event: %s, %v", fate, got)
	if got.Untold != "" {
		t.Error(got.Untold)
	}
	if s.holdsBack(); !*long {
		return
	}
	f.needsPace(t, 50, from)
	if limit := 5 * time.Second; got.P99 > limit {
		t.Errorf("age: got p99 %v, want at most %v", got.P99, limit)
	}
}

// A mark or a ping is sent about once a second while events flow. If it is not answered, the window shuts when it is as
// old as WithFreshness says, which is a second.
const windowTime = 2 * time.Second

func TestAPageThatWakesUpSeesTheNewest(t *testing.T) {
	t.Parallel()
	for _, published := range []struct{ perSecond, length int }{
		{200, 512},
		{50, 100}, // of which kernels hold a window of ten seconds
	} {
		t.Run(fmt.Sprintf("%d a second", published.perSecond), func(t *testing.T) {
			t.Parallel()
			s := newFreshServer(t)
			p := s.page(pace.Handling{})
			s.awaitClient()
			joined := pace.Clock()
			f := &feed{t: t, servers: []*server{s}, bytes: published.length}
			stop := f.start(published.perSecond)
			defer stop()
			time.Sleep(whole(20*time.Second, 5*time.Second))

			p.Freeze()
			frozen := pace.Clock()
			time.Sleep(whole(45*time.Second, 8*time.Second))
			newest := f.newest(pace.Clock())
			woken := pace.Clock()
			kept := float64(newest) / (woken - joined).Seconds() / float64(published.perSecond)
			p.Wake()
			eventually(t, "the page has what was newest when it woke", func() bool { return p.Last() >= newest || len(s.gone) > 0 })
			stop()
			last := f.publish()
			eventually(t, "the page has everything", func() bool { return p.Last() == last || len(s.gone) > 0 })

			old := slices.DeleteFunc(p.Sights(), func(s pace.Sight) bool { return s.Kind != pace.Message || s.At < woken })
			// What waited with the server is new.
			fresh := slices.IndexFunc(old, func(s pace.Sight) bool { return s.Number > newest-maxBuffer*5/4 })
			fate := s.fate(joined)
			if fresh < 0 {
				t.Fatalf("page, frozen for %v: %s, no event is new", woken-frozen, fate)
			}
			after := old[fresh].At - woken
			old = old[:fresh]
			var sent time.Duration // how long events were sent to it after it froze
			if len(old) > 0 {
				sent = old[len(old)-1].Published - frozen
			}
			got := p.Summary(0)
			t.Logf("page, frozen for %.0f s, %d events of %d B a second: %s, the newest %d ms after it wakes, after %d old events, published up to %.2g s after it froze; missing %d, told %d",
				(woken - frozen).Seconds(), published.perSecond, published.length, fate, after.Milliseconds(), len(old), sent.Seconds(), got.Missing, got.Told)
			if got.Untold != "" {
				t.Error(got.Untold)
			}
			// A busy machine sends marks late. Without a window, all that was published was sent.
			limit := (woken - frozen) * 5 / 8
			if *long {
				limit = windowTime + 500*time.Millisecond
				if kept < 0.7 {
					t.Skipf("needs a machine that isn't busy: it published %.0f %% of the events", 100*kept)
				}
				if limit := 300 * time.Millisecond; after > limit {
					t.Errorf("newest event: got it %v after the page woke, want it within %v", after, limit)
				}
			}
			if sent > limit {
				t.Errorf("old events: got some that were published %v after the page froze, want none after %v", sent, limit)
			}
		})
	}
}

// TestABurstReachesAQuietClient measures that a window in time holds nobody back who isn't late. Without -long, an answer
// may take long, since the machine may be busy.
func TestABurstReachesAQuietClient(t *testing.T) {
	t.Parallel()
	const burst = 1000
	for name, join := range map[string]func(s *server) freshViewer{
		"page":         func(s *server) freshViewer { return s.page(pace.Handling{}) },
		"plain client": func(s *server) freshViewer { return s.plain() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFreshServer(t, whole(nil, []mesherstream.Option{
				mesherstream.WithFreshness(time.Minute), mesherstream.WithIdleTimeout(4 * time.Minute),
			})...)
			v := join(s)
			s.awaitClient()
			joined := pace.Clock()
			f := &feed{t: t, servers: []*server{s}}
			// publish publishes a burst after a quiet time, and returns how many of it didn't arrive.
			publish := func(quiet time.Duration, ready func(number int) bool) (missing int) {
				stop := f.start(10)
				time.Sleep(quiet)
				stop()
				number := f.publish()
				eventually(t, "the client has what is before the burst", func() bool { return v.Last() == number })
				before := v.Summary(0).Missing
				for range burst {
					if !ready(number) {
						eventually(t, "some of the burst has arrived", func() bool { return ready(number) })
					}
					number = f.publish()
				}
				number = f.publish()
				eventually(t, "the client has the newest", func() bool { return v.Last() == number })
				return v.Summary(0).Missing - before
			}

			// At once, the kernels may have no room for all of it, whatever the window.
			var atOnce []int
			for range whole(5, 1) {
				atOnce = append(atOnce, publish(whole(20*time.Second, 8*time.Second), func(int) bool { return true }))
			}
			// With never more on its way than they have room for, the window alone could hold it back.
			const room = 150
			missing := publish(whole(20*time.Second, 4*time.Second), func(number int) bool {
				return number-v.Last() < room && f.queued(s) < maxBuffer/2
			})
			got := v.Summary(0)
			t.Logf("burst of %d, %s: %s, missing of those published at once %v, of one with room for it %d; told %d",
				burst, name, s.fate(joined), atOnce, missing, got.Told)
			if missing > 0 {
				t.Errorf("missing of the burst: got %d, want none", missing)
			}
			if name == "page" && got.Untold != "" {
				t.Error(got.Untold)
			}
		})
	}
}

// TestAFastClientFarAwayIsNotHeldBack floods a client that acknowledges marks, over a round trip of 100 ms.
func TestAFastClientFarAwayIsNotHeldBack(t *testing.T) {
	t.Parallel()
	const perSecond = 20_000
	n := New(t)
	g := newGroup(t, n)
	l := n.Link(g.Host, Quality{Delay: 50 * time.Millisecond})
	s := newFreshServer(t)
	g.connectMarking(s.at(l))
	joined := pace.Clock()
	f := &feed{t: t, servers: []*server{s}}
	defer f.start(perSecond)()
	time.Sleep(whole(20*time.Second, 5*time.Second)) // in which TCP's own windows grow
	before := g.take()[0]
	first, from := f.newest(pace.Clock()), pace.Clock()
	time.Sleep(whole(60*time.Second, 5*time.Second))
	seen := g.take()[0]
	published := f.newest(pace.Clock()) - first
	seconds := (pace.Clock() - from).Seconds()
	fate := s.fate(joined)

	got := record(before, seen).Summary(from)
	rate := float64(got.Handled) / seconds
	t.Logf("fast client over 100 ms, %.0f a second published: %s, %.0f a second, %v", float64(published)/seconds, fate, rate, got)
	if seen.Ended != "" {
		t.Errorf("it was disconnected: %s", seen.Ended)
	}
	if got.Untold != "" {
		t.Error(got.Untold)
	}
	if want := published * 8 / 10; got.Handled < want {
		t.Errorf("got %d events of %d, want at least %d", got.Handled, published, want)
	}
	// A busy machine doesn't publish as many.
	if want := 0.8 * perSecond; float64(published)/seconds > 0.9*perSecond && rate < want {
		t.Errorf("got %.0f a second, want at least %.0f", rate, want)
	}
}
