package browser

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/gofiber/contrib/websocket"
)

func TestAPageGetsWhatItsServerSends(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`page.follow("/stream/projects/shop", { filters: { level: ["error", "a b"], environment: "" } })`)
	p := s.accept()
	if want := "level=error,a b environment="; p.query() != want {
		t.Errorf("query: got %q, want %q", p.query(), want)
	}
	p.hello(0)
	p.text("plain")
	p.text(`{"type":"event","n":1}`)
	p.send(websocket.BinaryMessage, "\x00\x01\xff")
	p.text(`{"type":"gap","stream":"guessed!","dropped":1}`)
	p.text(`{"type":"gap","stream":"` + token + `","dropped":137,"by_level":{"debug":130,"error":7},` +
		`"since":"2026-11-25T18:00:00.123Z","until":"2026-11-25T18:00:04.001Z"}`)
	p.text("last")

	got := eval[string](tb, `page.until(() => page.seen.includes("last")).then(() => JSON.stringify(page.seen))`)
	want := `["plain","{\"type\":\"event\",\"n\":1}",[0,1,255],` +
		`"{\"type\":\"gap\",\"stream\":\"guessed!\",\"dropped\":1}",` +
		`{"dropped":137,"held":0,"byLevel":{"debug":130,"error":7},"since":"2026-11-25T18:00:00.123Z","until":"2026-11-25T18:00:04.001Z"},"last"]`
	if got != want {
		t.Errorf("the page got %s, want %s", got, want)
	}
	if got := eval[string](tb, `page.stream.state + " " + page.stream.hello.id`); got != "open 17" {
		t.Errorf("state and hello: got %q, want %q", got, "open 17")
	}
}

func TestAPageChangesItsFilters(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`page.follow("/stream/projects/shop")`)
	p := s.accept()
	p.hello(0)
	tb.do(`await page.reach("open"); page.change = page.stream.setFilters({ level: "error", environment: ["a,b"] })`)
	r := take(t, p.received, "the request")
	if want := map[string][]string{"level": {"error"}, "environment": {"a,b"}}; r.Type != "subscribe" || !reflect.DeepEqual(r.Filters, want) {
		t.Errorf("request: got %+v, want a subscribe with %v", r, want)
	}
	p.text(`{"type":"filters_updated","stream":"` + token + `","filters":{"level":["error"],"environment":["a,b"]},"filtered":12}`)
	if got := eval[int](tb, `page.change.then(({ filtered }) => filtered)`); got != 12 {
		t.Errorf("filtered: got %d, want 12", got)
	}

	tb.do(`page.refused = page.stream.setFilters({ level: "secret" }).catch((error) => error.code)`)
	take(t, p.received, "the second request")
	p.text(`{"type":"error","stream":"` + token + `","code":"not_granted","message":"no"}`)
	if got := eval[string](tb, `page.refused`); got != "not_granted" {
		t.Errorf("code: got %q, want not_granted", got)
	}
}

func TestAServerWithoutTheProtocolIsAFailedConnection(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`page.follow("/stream/projects/old", { minDelay: 1, maxDelay: 1 })`)
	if got := eval[int](tb, `page.reach("waiting").then(() => page.reach("waiting", 2)).then(({ code }) => code)`); got != 1006 {
		t.Errorf("code: got %d, want 1006", got)
	}
	if got := eval[bool](tb, `page.states.some(({ state }) => state === "open")`); got {
		t.Error("it was open")
	}
}

func TestCodesEndAStreamOrDoNot(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	for _, c := range []struct {
		code  int
		state string
	}{
		{1000, "waiting"},
		{1001, "waiting"},
		{1011, "waiting"},
		{1012, "waiting"},
		{1013, "waiting"},
		{1014, "waiting"},
		{1002, "closed"},
		{1003, "closed"},
		{1007, "closed"},
		{1008, "closed"},
		{1009, "closed"},
		{4000, "closed"},
		{4999, "closed"},
	} {
		tb.do(`page.states = []; page.follow("/stream/projects/shop", { minDelay: 1e6, maxDelay: 1e6 })`)
		p := s.accept()
		p.hello(0)
		tb.do(`await page.reach("open")`)
		p.close(c.code, "why")
		got := eval[string](tb, `page.until(() => page.states.length > 2).then(() => Object.values(page.states[2]).slice(0, 3).join(" "))`)
		if want := fmt.Sprintf("%s %d why", c.state, c.code); got != want {
			t.Errorf("after %d: got %q, want %q", c.code, got, want)
		}
		tb.do(`page.stream.close()`)
	}
}

func TestAPageWaitsAsLongAsTheServerSays(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`page.follow("/stream/projects/shop", { minDelay: 1e6, maxDelay: 1e6 })`)
	p := s.accept()
	p.hello(0)
	tb.do(`await page.reach("open")`)
	p.close(1013, "retry_after_ms=300")
	waiting := eval[map[string]any](tb, `page.reach("waiting")`)
	if delay := waiting["delay"].(float64); delay < 300 || delay > 450 {
		t.Errorf("delay: got %v ms, want 300 to 450", delay)
	}
	s.accept().hello(0)
	again := eval[map[string]any](tb, `page.reach("connecting", 1)`)
	// Timers count from the start of the millisecond.
	if waited := again["at"].(float64) - waiting["at"].(float64); waited < 299 {
		t.Errorf("it waited %v ms, want at least 300", waited)
	}
}

func TestAPageComesBackAfterARestart(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`page.follow("/stream/projects/shop", { filters: { level: "error" }, minDelay: 1, maxDelay: 50 })`)
	p := s.accept()
	p.hello(0)
	tb.do(`await page.reach("open"); page.change = page.stream.setFilters({ level: "fatal" })`)
	take(t, p.received, "the request") // which is never answered
	s.shutdown()
	tb.do(`await page.until(() => page.states.filter(({ state }) => state === "waiting").length > 3)`)

	s.listen()
	p = s.accept()
	if want := "level=error environment="; p.query() != want {
		t.Errorf("query: got %q, want %q", p.query(), want)
	}
	p.hello(0)
	if r := take(t, p.received, "the request again"); !reflect.DeepEqual(r.Filters["level"], []string{"fatal"}) {
		t.Errorf("request: got %+v, want level fatal", r)
	}
	p.text(`{"type":"filters_updated","stream":"` + token + `","filters":{"level":["fatal"],"environment":[]},"filtered":0}`)
	if got := eval[string](tb, `page.change.then(({ filters }) => filters.level[0])`); got != "fatal" {
		t.Errorf("filters: got %q, want fatal", got)
	}
}

func TestAPageThatIsBackOnlineTriesAtOnce(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`page.follow("/stream/projects/shop", { minDelay: 1e9, maxDelay: 1e9 })`)
	p := s.accept()
	p.hello(0)
	tb.do(`await page.reach("open")`)
	tb.offline(true)
	p.cut()
	tb.do(`await page.reach("waiting")`)
	tb.offline(false)
	s.accept().hello(0)
	tb.do(`await page.reach("open", 2)`)
}

func (tb *tab) offline(is bool) {
	tb.Helper()
	call(tb, network.OverrideNetworkState, network.OverrideNetworkStateParams{
		Offline: is, DownloadThroughput: -1, UploadThroughput: -1,
	})
}

func TestAPageThatBecomesVisibleTriesAtOnce(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`page.follow("/stream/projects/shop", { minDelay: 1e9, maxDelay: 1e9 })`)
	p := s.accept()
	p.hello(0)
	tb.do(`await page.reach("open")`)

	newTab(t, tb.ctx, chromedp.WithNewWindow(false)) // in front of the first one
	tb.do(`await page.until(() => document.visibilityState === "hidden")`)
	p.cut()
	tb.do(`await page.reach("waiting")`)
	call(tb, page.BringToFront, cdp.Empty{})
	s.accept().hello(0)
	tb.do(`await page.reach("open", 2)`)
}

func TestAPageThatIsHiddenAcknowledgesMarks(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`page.follow("/stream/projects/shop")`)
	p := s.accept()
	p.hello(1024)
	tb.do(`await page.reach("open")`)
	newTab(t, tb.ctx, chromedp.WithNewWindow(false)) // in front of the first one
	tb.do(`await page.until(() => document.visibilityState === "hidden")`)
	acked := 1
	for n := 3; n < 300; n += 2 {
		p.text("a message")
		p.text(`{"type":"mark","stream":"` + token + `","window":1024}`)
		// The message before the mark may be the first after a pause.
		for acked < n {
			r := take(t, p.received, "an acknowledgement")
			if r.Type != "ack" || r.N <= acked || r.N > n {
				t.Fatalf("got %+v after %d of %d", r, acked, n)
			}
			acked = r.N
		}
	}
	if got := eval[bool](tb, `page.seen.length === 149 && page.seen.every((data) => data === "a message")`); !got {
		t.Error("the page was shown something other than 149 messages")
	}
}

func TestASlowLoopHoldsTheServerBack(t *testing.T) {
	const window, total = 16, 500
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`
		page.follow("/stream/projects/shop");
		page.taken = 0;
		page.loop = (async () => {
			for await (const { data } of page.stream) {
				if (data !== String(page.taken++)) return "got " + data + " in place of " + (page.taken - 1);
				if (page.taken === ` + fmt.Sprint(total) + `) return "all";
				if (page.taken % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
				page.ahead = Math.max(page.ahead ?? 0, page.seen.length - page.taken);
			}
		})();
	`)
	p := s.accept()
	p.hello(window)
	sent, acked := 0, 0
	for sent < total {
		if sent+1-acked < window { // the hello counts too
			p.text(fmt.Sprint(sent))
			sent++
			continue
		}
		r := take(t, p.received, "an acknowledgement")
		if r.Type != "ack" || r.N <= acked || r.N > sent+1 {
			t.Fatalf("got %+v after %d of %d", r, acked, sent+1)
		}
		acked = r.N
	}
	if got := eval[string](tb, `page.loop`); got != "all" {
		t.Error(got)
	}
	if ahead := eval[int](tb, `page.ahead`); ahead <= 0 || ahead >= window {
		t.Errorf("%d messages waited for the loop, want 1 to %d", ahead, window-1)
	}
}

func TestAWorkerFollowsAStream(t *testing.T) {
	s := newSite(t)
	tb := open(t, s.url())
	tb.do(`
		page.got = new Promise((resolve) => {
			page.worker = new Worker("/worker.js", { type: "module" });
			page.worker.onmessage = ({ data }) => resolve(data);
		});
	`)
	p := s.accept()
	if want := "level=worker environment="; p.query() != want {
		t.Errorf("query: got %q, want %q", p.query(), want)
	}
	p.hello(0)
	p.text("to the worker")
	if got := eval[string](tb, `page.got`); got != "to the worker" {
		t.Errorf("got %q", got)
	}
}
