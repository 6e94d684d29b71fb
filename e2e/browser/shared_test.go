package browser

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	cdptarget "github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/tcpproxy"
)

// These tests let many tabs follow one stream.

// share opens a tab that follows the events of a stream that it shares.
func (s *site) share(query string) *tab {
	s.Helper()
	tb := open(s.T, s.url())
	tb.share(query)
	return tb
}

func (tb *tab) share(query string) {
	tb.Helper()
	tb.do(fmt.Sprintf(`
		page.story = [];
		page.follow("/stream/projects/shop%s", {
			shared: true,
			transports: ["sse"],
			minDelay: 1,
			maxDelay: 50,
			ongap: (gap) => page.story.push(gap),
			onmessage: (data) => page.story.push(JSON.parse(data)),
		});
		await page.reach("open");
	`, query))
	if !eval[bool](tb, `page.stream.shared`) {
		tb.Fatalf("a tab has a stream of its own, want a shared one: %s", eval[string](tb, `JSON.stringify(page.states)`))
	}
}

// receives says whether the tab has received each of these numbers once and in order, and nothing else.
func (tb *tab) receives(first, last int) {
	tb.Helper()
	var got, want []int
	for _, item := range tb.story(last) {
		got = append(got, cmp.Or(item.N, -item.Dropped))
	}
	for n := first; n <= last; n++ {
		want = append(want, n)
	}
	if !slices.Equal(got, want) {
		tb.Errorf("a tab got %v, want each from %d to %d", got, first, last)
	}
}

// close closes a tab from outside, as its user does.
func (tb *tab) close() {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.ctx, patience)
	defer stop()
	if err := chromedp.Cancel(ctx); err != nil {
		tb.Error(err)
	}
}

// killWorker ends the worker that the tabs of an origin share.
func killWorker(tb *tab, origin string) {
	tb.Helper()
	targets, err := chromedp.Targets(tb.ctx)
	if err != nil {
		tb.Fatal(err)
	}
	i := slices.IndexFunc(targets, func(found *cdptarget.Info) bool {
		return found.Type == "shared_worker" && strings.HasPrefix(found.URL, origin+"/")
	})
	if i < 0 {
		tb.Fatal("there is no worker")
	}
	if _, err := chromedp.CallBrowser(tb.ctx, cdptarget.CloseTarget, cdptarget.CloseTargetParams{TargetID: targets[i].TargetID}); err != nil {
		tb.Fatal(err)
	}
}

// Why streams are shared: a browser opens six connections to a host over HTTP/1.1, and each of these streams is one.
func TestTheSeventhTabThatSharesNothingHangs(t *testing.T) {
	t.Parallel()
	s := newService(t)
	var tabs []*tab
	for range 7 {
		tabs = append(tabs, open(t, s.url())) // the page needs a connection too
	}
	const follow = `page.follow("/stream/projects/shop", { transports: ["sse"] });`
	for _, tb := range tabs[:6] {
		tb.do(follow + `await page.reach("open")`)
	}
	tabs[6].do(follow)
	if got := eval[map[string]any](tabs[6], `page.reach("waiting")`); got["reason"] != "no hello" {
		t.Errorf("the seventh tab: got %v, want no hello", got)
	}
	if n := s.m.Stats().Clients; n != 6 {
		t.Errorf("got %d clients, want 6", n)
	}
	tabs[0].do(`page.stream.close()`)
	tabs[6].do(`await page.reach("open")`)
}

func TestTabsOfAnOriginShareOneStream(t *testing.T) {
	t.Parallel()
	s := newService(t, mesherstream.WithHistory(10_000))
	var tabs []*tab
	for range 8 {
		tabs = append(tabs, s.share("?last=3"))
	}
	id := s.client().ID
	s.broadcast("error", 1, 100)
	for _, tb := range tabs {
		tb.receives(1, 100)
	}

	// The tab that had the worker made is closed.
	tabs[0].close()
	tabs = tabs[1:]
	s.broadcast("error", 101, 200)
	for _, tb := range tabs {
		tb.receives(1, 200)
	}

	late := s.share("?last=3")
	late.do(`await page.until(() => page.story.length === 3)`)
	s.broadcast("error", 201, 201)
	late.receives(198, 201)

	// A tab that is frozen delays nobody, and is told how much it has missed.
	frozen, tabs := tabs[0], tabs[1:]
	call(frozen, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateStateFrozen})
	last := 201
	publish := func() {
		s.broadcast("error", last+1, last+100)
		last += 100
		tabs[0].do(fmt.Sprintf(`await page.until(() => page.story.at(-1).n === %d)`, last))
	}
	for last < 3201 {
		publish()
	}
	for begin := time.Now(); time.Since(begin) < 6*time.Second; { // longer than the worker keeps anything for it
		publish()
		time.Sleep(50 * time.Millisecond)
	}
	for _, tb := range tabs {
		tb.receives(1, last)
	}
	call(frozen, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateStateActive})
	frozen.do(`await page.until(() => page.story.some(({ reason }) => reason === "slow"))`)
	last++
	s.broadcast("error", last, last)
	next, dropped := 1, 0
	for _, item := range frozen.story(last) {
		if item.N == 0 {
			next, dropped = next+item.Dropped, dropped+item.Dropped
		} else if item.N != next {
			t.Fatalf("the frozen tab got %d, want %d", item.N, next)
		} else {
			next++
		}
	}
	if next != last+1 || dropped < 1000 {
		t.Errorf("the frozen tab knows of %d messages and %d that are missing, want %d and more than 1000", next-1, dropped, last)
	}

	if c := s.client(); c.ID != id || c.Dropped != 0 {
		t.Errorf("got %+v, want the client %d, and none dropped", c, id)
	}
	for _, tb := range append(tabs, late, frozen) {
		tb.close()
	}
	s.until("the last tab has left", func() bool { return s.m.Stats().Clients == 0 })
}

// The stories of tabs, while the connection of their worker is cut at random, and at last the worker killed, under 200
// messages a second: everything, once and in order, or told at its place.
func TestNothingIsLostInTabsThatShareAStream(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"websocket", "sse"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			s := newService(t, mesherstream.WithHistory(10_000))
			proxy := tcpproxy.New(t, s.addr)
			var tabs []*tab
			var watches []*watch
			for i := range 3 { // as many as may go on by themselves over events
				w := &watch{URL: "/stream/projects/shop", Loop: i%2 == 1}
				tb := open(t, "http://"+proxy.Addr()+"/")
				tb.do(fmt.Sprintf(`
					page.told = (await import("/story.mjs")).follow(page.connect, %s, { shared: true, transports: [%q] });
					await page.until(() => page.told.stream.state === "open");
				`, toJSON(w), transport))
				tabs, watches = append(tabs, tb), append(watches, w)
			}
			if n := s.m.Stats().Clients; n != 1 {
				t.Errorf("got %d clients, want 1", n)
			}
			end := s.publishing()
			defer end()
			random := rand.New(rand.NewPCG(15, uint64(len(transport))))
			for range 6 {
				time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
				tabs[0].do(`await page.until(() => page.told.stream.state === "open")`)
				for _, conn := range proxy.Conns() {
					conn.Cut(tcpproxy.Reset)
				}
			}
			tabs[0].do(`await page.until(() => page.told.stream.state === "open")`)
			killWorker(tabs[0], "http://"+proxy.Addr())
			for _, tb := range tabs {
				tb.do(`await page.until(() => !page.told.stream.shared && page.told.stream.state === "open")`)
			}
			if n := s.m.Stats().Clients; n != len(tabs) {
				t.Errorf("got %d clients after the worker has ended, want %d", n, len(tabs))
			}
			last := end() + 1
			if err := s.m.Broadcast(numbered(last, true)); err != nil {
				t.Fatal(err)
			}
			for i, tb := range tabs {
				tb.do(`await page.told.done`)
				story := eval[[]told](tb, `page.told.seen`)
				a, faults := audit(watches[i], story, last)
				for _, fault := range faults {
					t.Errorf("tab %d: %s", i, fault)
				}
				if len(faults) > 0 {
					t.Logf("the story: %.5000s", excerpt(story))
				}
				t.Logf("tab %d: %d messages, %d returns, %d complete, %d missing, %d shown", i, last, a.returns, a.whole, a.missing, a.shown)
				if a.returns < 3 {
					t.Errorf("got %d returns: this proves nothing", a.returns)
				}
			}
		})
	}
}

// If every tab then followed events by itself, pages of the origin could no longer load.
func TestPagesLoadAfterTheWorkerOfManyTabsHasEnded(t *testing.T) {
	t.Parallel()
	s := newService(t)
	var tabs []*tab
	for range 7 {
		tabs = append(tabs, s.share(""))
	}
	killWorker(tabs[0], s.origin())
	alone := 0
	for _, tb := range tabs {
		tb.do(`await page.until(() => page.states.some(({ reason }) => reason === "the worker has ended") && page.stream.state === "open")`)
		if !eval[bool](tb, `page.stream.shared`) {
			alone++
		}
	}
	if n := s.m.Stats().Clients; alone != 3 || n != 4 {
		t.Errorf("got %d tabs alone and %d clients, want 3 and one more", alone, n)
	}
	s.broadcast("error", 1, 20)
	for _, tb := range tabs {
		tb.do(`await page.until(() => page.story.at(-1)?.n === 20)`)
	}
	s.share("")
}

func TestTabsThatShareAStreamAreToldOfARestart(t *testing.T) {
	t.Parallel()
	s := newService(t)
	tabs := []*tab{s.share(""), s.share("")}
	s.broadcast("error", 1, 1)
	for _, tb := range tabs {
		tb.receives(1, 1)
	}
	s.shutdown()
	for _, tb := range tabs {
		tb.do(`await page.reach("waiting")`)
	}
	s.listen()
	for _, tb := range tabs {
		tb.do(`await page.reach("open", page.states.findIndex(({ state }) => state === "waiting"))`)
	}
	s.client()
	s.broadcast("error", 3, 3)
	for _, tb := range tabs {
		if got := tb.story(3); len(got) != 3 || got[0].N != 1 || got[1].N != 0 || got[2].N != 3 {
			t.Errorf("the page got %v, want message 1, a gap of unknown size, and message 3", got)
		}
		if !eval[bool](tb, `page.stream.shared`) {
			t.Error("a tab has a stream of its own after a restart of the server")
		}
	}
}

// While all tabs are frozen, nobody is there for whom the server would have to send anything.
func TestTabsThatShareAStreamAreNoClientWhileAllAreFrozen(t *testing.T) {
	t.Parallel()
	s := newService(t)
	tabs := []*tab{s.share(""), s.share("")}
	s.broadcast("error", 1, 1)
	for _, tb := range tabs {
		tb.receives(1, 1)
		call(tb, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateStateFrozen})
	}
	s.until("the worker has left", func() bool { return s.m.Stats().Clients == 0 })
	s.broadcast("error", 2, 500)
	call(tabs[0], page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateStateActive})
	tabs[0].receives(1, 500)
	call(tabs[1], page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateStateActive})
	tabs[1].receives(1, 500)
}

// A tab that is reloaded comes later than the others, or finds the worker without any.
func TestATabThatSharesItsStreamIsReloaded(t *testing.T) {
	t.Parallel()
	s := newService(t)
	one, two := s.share("?last=2"), s.share("?last=2")
	s.broadcast("error", 1, 5)
	one.receives(1, 5)
	for range 3 {
		one.run(chromedp.Reload())
		one.share("?last=2")
		one.receives(4, 5)
	}
	two.close()
	for range 3 {
		one.run(chromedp.Reload())
		one.share("?last=2")
		one.receives(4, 5)
	}
	s.client()
}

// More pages than the browser has connections share one. Those in Firefox are frames of one tab.
func TestPagesShareOneStream(t *testing.T) {
	inBrowsers(t, func(t *testing.T, visit func(origin, stream string, more ...string) *source) {
		s, _ := newEventSite(t)
		var pages []*source
		for range 8 {
			pages = append(pages, visit(s.origin(), "/stream/projects/shop", "shared", "yes"))
		}
		for _, p := range pages {
			if i, before := p.until("open"); i.Data != "shared sse" {
				t.Fatalf("a page is %q after %+v, want shared sse", i.Data, before)
			}
		}
		id := s.client().ID
		s.broadcast("error", 1, 100)
		for _, p := range pages {
			p.receives(1, 100)
		}
		if c := s.client(); c.ID != id {
			t.Errorf("got the client %d, want %d as before", c.ID, id)
		}
	})
}

// Pages that are left by a link are kept for the back button, with their worker, which Chromium may stop at any moment then.
// It gives up a page if a message arrives for it.
func TestTabsThatShareAStreamAreLeftAndComeBack(t *testing.T) {
	t.Parallel()
	s := newService(t)
	tabs := []*tab{s.share(""), s.share("")}
	s.broadcast("error", 1, 1)
	for _, tb := range tabs {
		tb.receives(1, 1)
		tb.do(`page.marker = "kept"`)
	}
	for _, tb := range tabs {
		tb.run(chromedp.Navigate(s.url() + "other.html"))
	}
	tabs[1].goBack()
	if got := eval[string](tabs[1], `page.marker ?? ""`); got != "kept" {
		t.Fatal("the browser hasn't kept the page")
	}
	s.broadcast("error", 2, 100)
	tabs[1].receives(1, 100)
	tabs[0].goBack() // as it was, or loaded anew
	s.client()
}
