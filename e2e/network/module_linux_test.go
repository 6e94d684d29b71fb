package network

import (
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
)

// oldModule is client/mesherstream.js as of commit d2f7e12, unchanged. It acknowledges by its count alone, each half of the
// window that its hello named: not hello itself, and no mark. Pages that have it keep it for as long as they are open.
const oldModule = "testdata/mesherstream-d2f7e12.js"

// oldPage opens a page with the old module, and returns it with the window of its hello.
func (s *server) oldPage(h pace.Handling) (p *pace.Page, window int) {
	s.t.Helper()
	p = pace.OpenPage(s.t, s.url(), oldModule, h)
	s.eventually("the page is connected", func() bool { return len(p.Sights()) > 0 })
	window = p.Sights()[0].Number
	if window < 1024 {
		s.t.Fatalf("hello's window: got %d, want the 1,024 that the module was made for, or more", window)
	}
	return p, window
}

// soon waits for a condition that holds within moments, unless the server holds something back.
func (s *server) soon(what string, cond func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			var clients []any
			for c := range s.Clients() {
				clients = append(clients, c)
			}
			s.t.Fatalf("not within a minute: %s; clients: %+v", what, clients)
		}
	}
}

// TestAFastPageWithTheOldModuleGetsEverything has as much outstanding as the page's window allows at any time: half of it
// may be handled but not acknowledged. If the server's window were smaller, the page would never acknowledge, and the test
// would stand still. The buffer has room for whatever is published before the server has a turn.
func TestAFastPageWithTheOldModuleGetsEverything(t *testing.T) {
	t.Parallel()
	events := whole(1_000_000, 50_000)
	s := newFreshServer(t, mesherstream.WithMaxBuffer(10_000))
	p, window := s.oldPage(pace.Handling{})
	f := &feed{t: t, servers: []*server{s}, bytes: 64}
	begin := pace.Clock()
	handled := 0
	for number := range events {
		if number-handled >= window/2-20 {
			s.soon("the page handles more", func() bool { handled = p.Last() + 1; return number-handled < window/2-20 })
		}
		f.publish()
	}
	s.soon("the page has everything", func() bool { return p.Last() == events-1 })
	got := p.Summary(0)
	t.Logf("old module: %.0f events a second, %v", float64(events)/(pace.Clock()-begin).Seconds(), got)
	if got.Handled != events || got.Told != 0 || len(got.Ends) > 0 {
		t.Errorf("got %d events, want all %d, no gap and no end", got.Handled, events)
	}
}

// TestAPageWithTheOldModuleIsSentToAlthoughItAcknowledgesNothing has marks that stay unanswered for seconds: the page has
// not handled half of its window yet.
func TestAPageWithTheOldModuleIsSentToAlthoughItAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	s := newFreshServer(t)
	p, window := s.oldPage(pace.Handling{})
	f := &feed{t: t, servers: []*server{s}, bytes: 64}
	publish := func(events int) {
		number := 0
		for range events {
			number = f.publish()
		}
		s.soon("the events have arrived", func() bool { return p.Last() == number })
	}
	const few = 10
	for range (window/2 - 100) / few {
		publish(few)
	}
	for range whole(300, 40) { // with pauses, for longer than WithFreshness
		time.Sleep(100 * time.Millisecond)
		publish(1)
	}
	for range window / few {
		publish(few)
	}
	if got := p.Summary(0); got.Told != 0 || len(got.Ends) > 0 {
		t.Errorf("got %v, want no gap and no end", got)
	}
}

// TestTheWindowOfASlowPageWithTheOldModuleIsNeverLessThanItsHelloSaid: the loop acknowledges late, but the page's socket is
// read at once, so that nothing but the window holds the server back.
func TestTheWindowOfASlowPageWithTheOldModuleIsNeverLessThanItsHelloSaid(t *testing.T) {
	t.Parallel()
	s := newFreshServer(t)
	p, window := s.oldPage(pace.Handling{Each: 5 * time.Millisecond, Loop: true})
	f := &feed{t: t, servers: []*server{s}, bytes: 64}
	defer f.start(1000)()
	acknowledged := 0
	for range whole(20, 4) {
		s.soon("as much is unacknowledged as hello said", func() bool {
			for c := range s.Clients() {
				acknowledged = int(c.Sent) - c.Unacknowledged
				return c.Unacknowledged >= window
			}
			return false
		})
		s.soon("the page acknowledges", func() bool {
			for c := range s.Clients() {
				return int(c.Sent)-c.Unacknowledged >= acknowledged+window/4
			}
			return false
		})
	}
	if got := p.Summary(0); got.Untold != "" || len(got.Ends) > 0 {
		t.Errorf("got %v, want all that is missing told, and no end", got)
	}
}
