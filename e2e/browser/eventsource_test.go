package browser

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/tcpproxy"
)

// These tests let the browsers' own EventSource follow streams. The page is testdata/eventsource.html, and reports to a
// server of its own what it receives.

// browsers open a page, which is closed when the test ends.
var browsers = []struct {
	name string
	need func(t *testing.T)
	open func(t *testing.T, url string)
}{
	{"Chromium", needChromium, func(t *testing.T, url string) { open(t, url) }},
	{"Firefox", needFirefox, openInFirefox},
}

// A source is an EventSource in a page.
type source struct {
	*testing.T
	items chan item
	id    string // of the last event
}

// An item is an event, or a change of the EventSource: an "open" or an "error", with its readyState.
type item struct {
	Name  string `json:"name"`
	Data  string `json:"data"`
	ID    string `json:"id"`
	State int    `json:"state"`
}

const closedForGood = 2 // as a readyState

// reports receives what the pages report, and gives it to their sources by their number.
var reports struct {
	start   sync.Once
	origin  string
	mu      sync.Mutex
	sources []*source
}

func serveReports() {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	reports.origin = "http://" + ln.Addr().String()
	go func() {
		_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var items []item
			var number int
			_, err := fmt.Sscanf(r.URL.Path, "/%d", &number)
			if err = errors.Join(err, json.NewDecoder(r.Body).Decode(&items)); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			reports.mu.Lock()
			s := reports.sources[number]
			reports.mu.Unlock()
			for _, item := range items {
				s.items <- item
			}
		}))
	}()
}

// inBrowsers runs a scenario in each browser. visit opens a page of an origin, such as http://127.0.0.1:3000, whose
// EventSource has that URL.
func inBrowsers(t *testing.T, scenario func(t *testing.T, visit func(origin, stream string, more ...string) *source)) {
	t.Parallel()
	for _, browser := range browsers {
		t.Run(browser.name, func(t *testing.T) {
			t.Parallel()
			browser.need(t)
			scenario(t, func(origin, stream string, more ...string) *source {
				t.Helper()
				reports.start.Do(serveReports)
				s := &source{T: t, items: make(chan item, 100_000)}
				reports.mu.Lock()
				number := len(reports.sources)
				reports.sources = append(reports.sources, s)
				reports.mu.Unlock()
				query := url.Values{"stream": {stream}, "report": {fmt.Sprintf("%s/%d", reports.origin, number)}}
				for i := 0; i < len(more); i += 2 {
					query.Set(more[i], more[i+1])
				}
				browser.open(t, origin+"/eventsource.html?"+query.Encode())
				return s
			})
		})
	}
}

// next returns the next item.
func (s *source) next() item {
	s.Helper()
	i := take(s.T, s.items, "what the page reports")
	if i.ID != "" {
		s.id = i.ID
	}
	return i
}

// until returns the next item of that name, and how many others came before it.
func (s *source) until(name string) (i item, before []item) {
	s.Helper()
	for i = s.next(); i.Name != name; i = s.next() {
		before = append(before, i)
	}
	return i, before
}

// receives compares the next items that are messages.
func (s *source) receives(first, last int) {
	s.Helper()
	for n := first; n <= last; n++ {
		if i, before := s.until("message"); i.number() != n {
			s.Fatalf("got %+v after %+v, want message %d", i, before, n)
		}
	}
}

// number is that of a message of site.broadcast, or 0.
func (i item) number() int {
	var m struct{ N int }
	if err := json.Unmarshal([]byte(i.Data), &m); err != nil {
		return 0
	}
	return m.N
}

// dropped is how many messages a gap tells of.
func (i item) gap() (g struct {
	Reason  string
	Dropped int
},
) {
	_ = json.Unmarshal([]byte(i.Data), &g)
	return g
}

// asked collects what is asked of streams.
type asked struct {
	mu      sync.Mutex
	lastIDs []string // their Last-Event-ID, or "" without
}

func (a *asked) handler(c *fiber.Ctx) error {
	if strings.HasPrefix(c.Path(), "/stream/") {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.lastIDs = append(a.lastIDs, strings.Clone(c.Get("Last-Event-ID")))
	}
	return c.Next()
}

func (a *asked) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.lastIDs)
}

// newEventSite serves streams, notes what is asked, and lets its page report to another server.
func newEventSite(t *testing.T, opts ...mesherstream.Option) (*site, *asked) {
	t.Helper()
	a := new(asked)
	return serveWithoutBrowser(t, func(s *site, app *fiber.App) {
		app.Use("/eventsource.html", func(c *fiber.Ctx) error {
			c.Response().Header.Del("Content-Security-Policy")
			return c.Next()
		})
		app.Use(a.handler)
		streamsOf(opts...)(s, app)
	}), a
}

func (s *site) origin() string { return "http://" + s.addr }

func TestAnEventSourceReceivesEachMessage(t *testing.T) {
	inBrowsers(t, func(t *testing.T, visit func(origin, stream string, more ...string) *source) {
		s, _ := newEventSite(t)
		page := visit(s.origin(), "/stream/projects/shop?level=error,fatal")
		hello, before := page.until("hello")
		if !strings.Contains(hello.Data, `"level":["error","fatal"]`) || hello.ID == "" || len(before) != 1 || before[0].Name != "open" {
			t.Errorf("got %+v after %+v, want hello after open", hello, before)
		}
		s.broadcast("error", 1, 1)
		page.receives(1, 1) // before anything else is published
		if page.id == hello.ID {
			t.Error("the message has no ID")
		}
		s.broadcast("debug", 2, 2)
		nul := "a\x00b"
		if strings.HasSuffix(t.Name(), "/Firefox") {
			nul = "ab" // as docs/http.md says
		}
		for _, c := range []struct{ data, want string }{
			{"", ""},
			{"one\ntwo\r\nthree\rfour", "one\ntwo\nthree\nfour"},
			{"\n\n", "\n\n"},
			{" begins with a space: ", " begins with a space: "},
			{"data: id: 17\n\nevent: gap\n: retry: 1", "data: id: 17\n\nevent: gap\n: retry: 1"},
			{"\uFEFFé€😀\u2028", "\uFEFFé€😀\u2028"},
			{"a\x00b", nul},
			{strings.Repeat("long ", 100_000), strings.Repeat("long ", 100_000)},
		} {
			if err := s.m.Broadcast(mesherstream.Message{Project: "shop", Level: "fatal", Data: []byte(c.data)}); err != nil {
				t.Fatal(err)
			}
			if got, _ := page.until("message"); got.Data != c.want {
				t.Errorf("got %.100q, want %.100q", got.Data, c.want)
			}
		}
		binary := []byte{0, '\n', 0xff, '\r'}
		if err := s.m.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Data: binary, Binary: true}); err != nil {
			t.Fatal(err)
		}
		if got, _ := page.until("binary"); got.Data != base64.StdEncoding.EncodeToString(binary) {
			t.Errorf("a binary message: got %q", got.Data)
		}
	})
}

// What an EventSource has missed while its connection was cut, it receives after its last ID. It receives again only
// what came after that ID.
func TestAnEventSourceMissesNothingOverCuts(t *testing.T) {
	inBrowsers(t, func(t *testing.T, visit func(origin, stream string, more ...string) *source) {
		s, asked := newEventSite(t)
		proxy := tcpproxy.New(t, s.addr)
		page := visit("http://"+proxy.Addr(), "/stream/projects/shop")
		page.until("hello")
		last := 0
		publish := func(n int) {
			s.broadcast("error", last+1, last+n)
			last += n
		}
		stream := func() (streams []*tcpproxy.Conn) { // the browser keeps others for later
			for _, c := range proxy.Conns() {
				if c.Down.Forwarded() > 0 {
					streams = append(streams, c)
				}
			}
			return streams
		}
		next := 1  // the message that must come next
		named := 0 // the message that the last ID names
		for round, how := range []tcpproxy.End{tcpproxy.Finish, tcpproxy.Reset, tcpproxy.Finish} {
			if round > 0 { // the first one is cut before its first message
				publish(50)
			}
			if round == 1 { // in the middle of an event
				for _, c := range stream() {
					c.Down.CutAfter(c.Down.Forwarded()+300, how)
				}
				publish(50)
			}
			for _, c := range proxy.Conns() {
				c.Cut(how)
			}
			s.until("the server has noticed", func() bool { return s.m.Stats().Clients == 0 })
			publish(20)
			reopened := false
			for next <= last {
				before := page.id
				i := page.next()
				switch i.Name {
				case "gap":
					t.Fatalf("got %+v, want no gap", i)
				case "open":
					reopened = true
					if ids := asked.all(); ids[len(ids)-1] != page.id {
						t.Errorf("round %d: the browser asks with Last-Event-ID %q, want %q", round, ids[len(ids)-1], page.id)
					}
				case "message":
					n := i.number()
					if reopened {
						if n <= named || n > next {
							t.Fatalf("round %d: after the connection was cut, got message %d, want one after %d and up to %d", round, n, named, next)
						}
						next, reopened = n, false
					}
					if n != next {
						t.Fatalf("round %d: got message %d, want %d", round, n, next)
					}
					next++
				}
				if page.id != before {
					named = next - 1
				}
			}
			if n := len(asked.all()); n != round+2 {
				t.Errorf("round %d: %d requests, want %d", round, n, round+2)
			}
		}
	})
}

// A server that has restarted knows nothing of what it has published before, and says so.
func TestAnEventSourceFollowsARestartedServerAndIsToldOfAGap(t *testing.T) {
	inBrowsers(t, func(t *testing.T, visit func(origin, stream string, more ...string) *source) {
		s, asked := newEventSite(t)
		page := visit(s.origin(), "/stream/projects/shop?level=error")
		page.until("hello")
		s.broadcast("error", 1, 100)
		page.receives(1, 100)
		// Shutdown flushes what waits, and what was published just before.
		s.broadcast("error", 101, 200)
		if err := s.m.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		page.receives(101, 200)
		id := page.id
		if bye, _ := page.until("close"); !strings.Contains(bye.Data, `"code":1001,"reason":"the server is shutting down"`) {
			t.Errorf("got %+v, want 1001", bye)
		}
		s.shutdown()
		page.until("error")
		if i, _ := page.until("error"); i.State == closedForGood { // nothing listened where it has tried again
			t.Fatalf("got %+v, want the EventSource to wait", i)
		}
		s.listen()
		gap, before := page.until("gap")
		if g := gap.gap(); g.Reason != "away" || gap.ID == "" || gap.ID == id {
			t.Errorf("got %+v after %+v, want an away gap with a new ID", gap, before)
		}
		if ids := asked.all(); ids[len(ids)-1] != id {
			t.Errorf("the browser asks with Last-Event-ID %q, want %q", ids, id)
		}
		s.broadcast("error", 201, 210)
		page.receives(201, 210)
	})
}

// A slow page is told what it has missed.
func TestAnEventSourceIsToldWhatItIsTooSlowFor(t *testing.T) {
	inBrowsers(t, func(t *testing.T, visit func(origin, stream string, more ...string) *source) {
		s, _ := newEventSite(t, mesherstream.WithMaxBuffer(10), mesherstream.WithUnsentLimit(16<<10))
		proxy := tcpproxy.New(t, s.addr)
		page := visit("http://"+proxy.Addr(), "/stream/projects/shop")
		page.until("hello")
		for _, c := range proxy.Conns() {
			c.Freeze()
		}
		last := 0
		for s.client().Dropped < 100 {
			s.broadcast("error", last+1, last+100)
			if last += 100; last > 1_000_000 {
				t.Fatal("the page is not slow")
			}
		}
		for _, c := range proxy.Conns() {
			c.Thaw()
		}
		dropped, gaps := 0, 0
		for next := 1; next <= last; {
			switch i := page.next(); i.Name {
			case "gap":
				g := i.gap()
				if g.Reason != "slow" || g.Dropped == 0 || i.ID == "" {
					t.Fatalf("got %+v, want a gap with an ID", i)
				}
				dropped += g.Dropped
				next += g.Dropped
				gaps++
			case "message":
				if i.number() != next {
					t.Fatalf("got message %d, want %d", i.number(), next)
				}
				next++
			}
		}
		if got := s.m.Stats().Dropped; uint64(dropped) != got || gaps == 0 {
			t.Errorf("%d gaps told of %d messages, and the server dropped %d", gaps, dropped, got)
		}
	})
}

// A refusal that passes keeps an EventSource waiting, and any other ends it for good.
func TestAnEventSourceComesBackAfterARefusalThatPasses(t *testing.T) {
	inBrowsers(t, func(t *testing.T, visit func(origin, stream string, more ...string) *source) {
		s, asked := newEventSite(t, mesherstream.WithMaxClients(1))
		first, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer first.Close()
		_, _ = fmt.Fprintf(first, "GET /stream/projects/shop HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\n\r\n", s.addr)
		s.client()
		page := visit(s.origin(), "/stream/projects/shop")
		i, _ := page.until("error")
		if i.State == closedForGood {
			t.Fatalf("after a cap: got %+v, want the EventSource to wait", i)
		}
		_ = first.Close()
		page.until("hello")
		s.broadcast("error", 1, 1)
		page.receives(1, 1)
		if n := len(asked.all()); n < 3 {
			t.Errorf("%d requests, want one of each client, and a repeated one", n)
		}
	})
}

func TestAnEventSourceGivesUpAfterARefusalThatStays(t *testing.T) {
	inBrowsers(t, func(t *testing.T, visit func(origin, stream string, more ...string) *source) {
		statuses := map[string]int{"session": 401, "secret": 403, "unknown": 404, "done": 204}
		s, asked := newEventSite(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
			if status, ok := statuses[sub.Project]; ok {
				return fiber.NewError(status)
			}
			return nil
		}))
		for project := range statuses {
			page := visit(s.origin(), "/stream/projects/"+project)
			if i := page.next(); i.Name != "error" || i.State != closedForGood {
				t.Errorf("%s: got %+v, want the EventSource to end", project, i)
			}
		}
		if n := len(asked.all()); n != len(statuses) {
			t.Errorf("%d requests, want one of each page", n)
		}
	})
}

func TestAnEventSourceOfAnotherOrigin(t *testing.T) {
	inBrowsers(t, func(t *testing.T, visit func(origin, stream string, more ...string) *source) {
		pages, _ := newEventSite(t)
		stranger, _ := newEventSite(t)
		s, _ := newEventSite(t, mesherstream.WithOrigins(pages.origin()))
		stream := s.origin() + "/stream/projects/shop"
		for _, credentials := range []string{"no", "yes"} {
			allowed := visit(pages.origin(), stream, "credentials", credentials)
			allowed.until("hello")
			s.broadcast("error", 1, 1)
			allowed.receives(1, 1)
			refused := visit(stranger.origin(), stream, "credentials", credentials)
			if i := refused.next(); i.Name != "error" || i.State != closedForGood {
				t.Errorf("a page of an origin that isn't allowed got %+v, want the EventSource to end", i)
			}
		}
	})
}
