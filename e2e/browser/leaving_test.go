package browser

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

// goBack goes back to the first page. No page is loaded when it was kept, so there is no event to wait for.
func (tb *tab) goBack() {
	tb.Helper()
	tb.do(`setTimeout(() => history.back())`)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		ctx, stop := context.WithTimeout(tb.ctx, time.Second)
		back, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`location.pathname === "/" && Boolean(globalThis.page)`))
		stop()
		if back {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("the page isn't back: %v", err)
		}
	}
}

// A page that is left by a link is kept for the back button. It must be no client meanwhile.
func TestAPageThatIsLeftIsNoClientAndComesBack(t *testing.T) {
	s := newService(t)
	tb := open(t, s.url())
	tb.follow(`{ filters: { level: ["error"] } }`, 0)
	tb.do(`
		page.marker = "kept";
		addEventListener("pagehide", ({ persisted }) => page.persisted = persisted);
		await page.stream.setFilters({ level: ["error", "fatal"] });
	`)
	s.broadcast("error", 1, 3)
	tb.do(`await page.until(() => page.story.length === 3)`)

	tb.run(chromedp.Navigate(s.url() + "other.html"))
	s.until("the page is no client", func() bool { return s.m.Stats().Clients == 0 })
	if got := s.m.Stats(); got.Slow != 0 {
		t.Errorf("got %+v, want no slow client", got)
	}
	s.broadcast("error", 4, 500)

	tb.goBack()
	if got := eval[string](tb, `page.marker ?? ""`); got != "kept" {
		t.Fatal("the browser hasn't kept the page")
	}
	tb.do(`await page.until(() => page.stream.state === "open")`)
	if got := s.client().Levels; strings.Join(got, ",") != "error,fatal" {
		t.Errorf("levels: got %v, want error and fatal", got)
	}
	s.broadcast("fatal", 501, 501)
	tb.do(`await page.until(() => page.story.at(-1).n === 501)`)
	states := eval[string](tb, `page.states.map(({ state, reason }) => reason ? state + " (" + reason + ")" : state).join(", ")`)
	if want := "connecting, open, waiting (the page was put away), connecting, open"; states != want {
		t.Errorf("states: got %s, want %s", states, want)
	}
	if got := eval[bool](tb, `page.persisted`); !got {
		t.Error("pagehide wasn't told that the page may be kept")
	}
}

func TestAPageThatClosedItsStreamAndIsLeftStaysWithoutOne(t *testing.T) {
	s := newService(t)
	tb := open(t, s.url())
	tb.follow(`{}`, 0)
	tb.do(`addEventListener("pagehide", () => page.stream.close())`) // after the stream's own listener
	tb.run(chromedp.Navigate(s.url() + "other.html"))
	s.until("the page is no client", func() bool { return s.m.Stats().Clients == 0 })
	tb.goBack()
	if got := eval[string](tb, `page.stream?.state ?? "not kept"`); got != "closed" {
		t.Errorf("state: got %s, want closed", got)
	}
	if got := s.m.Stats().Clients; got != 0 {
		t.Errorf("got %d clients, want none", got)
	}
}

// A page can't see the status of a handshake, and would try for ever.
func TestAPageIsToldWhyItIsRefused(t *testing.T) {
	statuses := map[string]int{"session": 401, "secret": 403, "unknown": 404, "broken": 500, "busy": 429}
	s := newService(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		if status, ok := statuses[sub.Project]; ok {
			return fiber.NewError(status)
		}
		sub.Levels = []string{"error"}
		return nil
	}))
	tb := open(t, s.url())
	for url, want := range map[string]string{
		"session":          "closed 1006 401",
		"secret":           "closed 1006 403",
		"unknown":          "closed 1006 404",
		"shop?level=debug": "closed 1006 403",
		"a%2Fb":            "closed 1006 400",
		"broken":           "waiting 1006 500",
		"busy":             "waiting 1006 429",
	} {
		tb.do(`page.states = []; page.follow("/stream/projects/` + url + `", { minDelay: 1e6, maxDelay: 1e6 })`)
		got := eval[string](tb, `page.until(() => page.states.length > 1).then(() => {
			const { state, code, status } = page.states[1];
			page.stream.close();
			return [state, code, status].join(" ");
		})`)
		if got != want {
			t.Errorf("%s: got %s, want %s", url, got, want)
		}
	}
}

// A proxy that changes the host makes every handshake of a page one of another origin.
func TestAPageIsToldThatItsOriginIsRefused(t *testing.T) {
	s := serve(t, func(_ *site, app *fiber.App) {
		m, err := mesherstream.NewManager(mesherstream.WithApp(app))
		if err != nil {
			t.Fatal(err)
		}
		app.Use(func(c *fiber.Ctx) error {
			c.Request().Header.SetHost("backend.internal:3000")
			return c.Next()
		}, m.Handler())
	})
	tb := open(t, s.url())
	tb.do(`page.follow("/stream/projects/shop", { minDelay: 1e6, maxDelay: 1e6 })`)
	if got := eval[string](tb, `page.until(() => page.states.length > 1).then(() => page.states[1].state + " " + page.states[1].status)`); got != "closed 403" {
		t.Errorf("got %s, want closed 403", got)
	}
}

// A route that upgrades by itself need not read the query, and grants more than the page asked for.
func TestAPageOnAnOwnRouteGetsTheFiltersThatItAskedFor(t *testing.T) {
	s := serve(t, func(s *site, app *fiber.App) {
		m, err := mesherstream.NewManager(mesherstream.WithApp(app))
		if err != nil {
			t.Fatal(err)
		}
		s.m = m
		app.Get("/own", websocket.New(func(conn *websocket.Conn) {
			_ = m.Serve(conn, mesherstream.Subscription{Project: "shop"}) // the page is told
		}, websocket.Config{Subprotocols: []string{mesherstream.Protocol}}))
		app.Use(m.Handler())
	})
	tb := open(t, s.url())
	tb.do(`page.follow("/own", { filters: { level: "error" } }); await page.reach("open")`)
	s.until("the filters are in force", func() bool { return strings.Join(s.client().Levels, ",") == "error" })
	s.broadcast("debug", 1, 3)
	s.broadcast("error", 4, 4)
	if got := eval[string](tb, `page.until(() => page.seen.length).then(() => page.seen[0])`); got != `{"type":"event","n":4}` {
		t.Errorf("got %s first, want message 4", got)
	}
}

// No event tells a worker that its page is put away, so the page does.
func TestTheWorkerOfAPageThatIsLeftIsNoClientAndComesBack(t *testing.T) {
	s := newService(t)
	tb := open(t, s.url())
	tb.do(`
		page.marker = "kept";
		page.worker = new Worker("/worker.js", { type: "module" });
		page.worker.onmessage = ({ data }) => page.seen.push(data);
		for (const type of ["pagehide", "pageshow"]) addEventListener(type, () => page.worker.postMessage({ type }));
	`)
	s.client()
	tb.run(chromedp.Navigate(s.url() + "other.html"))
	s.until("the worker is no client", func() bool { return s.m.Stats().Clients == 0 })
	tb.goBack()
	if got := eval[string](tb, `page.marker ?? ""`); got != "kept" {
		t.Fatal("the browser hasn't kept the page")
	}
	s.client()
	s.broadcast("worker", 1, 1)
	tb.do(`await page.until(() => page.seen.length === 1)`)
}

func TestAPageThatIsFrozenIsNoClientAndComesBack(t *testing.T) {
	s := newService(t)
	tb := open(t, s.url())
	tb.follow(`{}`, 0)
	call(tb, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateStateFrozen})
	s.until("the page is no client", func() bool { return s.m.Stats().Clients == 0 })
	call(tb, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateStateActive})
	s.client()
	s.broadcast("error", 1, 1)
	tb.do(`await page.until(() => page.story.at(-1)?.n === 1)`)
}
