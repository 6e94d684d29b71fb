package browser

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/tcpproxy"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// newBlockedService makes a service to which no WebSocket gets through: block stands for something on the way.
func newBlockedService(t *testing.T, block fiber.Handler, opts ...mesherstream.Option) *site {
	t.Helper()
	return serve(t, func(s *site, app *fiber.App) {
		app.Use(func(c *fiber.Ctx) error {
			if c.Get(fiber.HeaderUpgrade) == "" {
				return c.Next()
			}
			return block(c)
		})
		streamsOf(opts...)(s, app)
	})
}

func refuse(c *fiber.Ctx) error { return c.SendStatus(fiber.StatusForbidden) }

// strip does what a proxy does that doesn't know of upgrades.
func strip(c *fiber.Ctx) error {
	c.Request().Header.Del(fiber.HeaderUpgrade)
	c.Request().Header.Del(fiber.HeaderConnection)
	return c.Next()
}

// TestNothingIsLostOverEventsIfWebSocketsAreBlocked cuts the connections of a page at random moments, and reloads it, under
// 200 messages a second. The story is everything, once and in order, or told at its place, and fetched if it is held.
func TestNothingIsLostOverEventsIfWebSocketsAreBlocked(t *testing.T) {
	t.Parallel()
	cuts := 10
	if *streamtest.Long {
		cuts = 100
	}
	for name, block := range map[string]fiber.Handler{"refused": refuse, "stripped": strip} {
		for _, w := range []*watch{{}, {Loop: true, Filters: map[string][]string{"level": {"error", "fatal"}}}} {
			t.Run(fmt.Sprintf("%s, loop %v", name, w.Loop), func(t *testing.T) {
				t.Parallel()
				s := newBlockedService(t, block, mesherstream.WithHistory(10_000))
				w := &watch{URL: "/stream/projects/shop", Loop: w.Loop, Filters: w.Filters}
				proxy := tcpproxy.New(t, s.addr)
				tb := open(t, "http://"+proxy.Addr()+"/")
				follow := func() { tb.do(fmt.Sprintf(keepStory, toJSON(w))) }
				follow()
				end := s.publishing()
				defer end()
				random := rand.New(rand.NewPCG(15, uint64(len(name))))
				reloads := 0
				for i := range cuts {
					time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
					if i%3 == 2 {
						tb.run(chromedp.Reload())
						follow()
						reloads++
						continue
					}
					for _, conn := range proxy.Conns() {
						conn.Cut(tcpproxy.Reset)
					}
				}
				last := end() + 1
				if err := s.m.Broadcast(numbered(last, true)); err != nil {
					t.Fatal(err)
				}
				tb.do(`await page.told.done`)
				story := eval[[]told](tb, `page.whole()`)
				a, faults := audit(w, story, last)
				for _, fault := range faults {
					t.Error(fault)
				}
				if len(faults) > 0 {
					t.Logf("the story: %.5000s", excerpt(story))
				}
				if got := eval[string](tb, `page.told.stream.transport`); got != "sse" {
					t.Errorf("transport: got %q, want sse", got)
				}
				t.Logf("%d messages, %d reloads, %d returns, %d complete, %d missing, %d shown", last, reloads, a.returns, a.whole, a.missing, a.shown)
				if a.returns < cuts/2 {
					t.Errorf("got %d returns after %d cuts and reloads: this proves nothing", a.returns, cuts)
				}
			})
		}
	}
}

// Nobody answers the handshake of this page, and it doesn't wait for that again after a reload.
func TestAPageWhoseWebSocketsAreSwallowedFollowsTheEvents(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	defer close(hold)
	s := newBlockedService(t, func(c *fiber.Ctx) error {
		<-hold
		return c.SendStatus(fiber.StatusBadGateway)
	})
	tb := open(t, s.url())
	follow := func() (ms int) {
		tb.do(`page.begin = performance.now(); page.follow("/stream/projects/shop?last=1")`)
		return eval[int](tb, `page.reach("open").then(({ at }) => Math.round(at - page.begin))`)
	}
	if ms := follow(); ms < 6000 || ms > 15_000 {
		t.Errorf("open after %d ms, want 6 s and a little", ms)
	}
	tb.run(chromedp.Reload())
	if ms := follow(); ms > 5000 {
		t.Errorf("open after %d ms after a reload, want at once", ms)
	}
	s.broadcast("error", 1, 3)
	tb.do(`await page.until(() => page.seen.length === 3)`)

	// A change of filters fills the list with what matches.
	tb.do(`await page.stream.setFilters({ level: "error" }, { last: 2 })`)
	tb.do(`await page.until(() => page.seen.length === 5)`)
	if got, want := eval[string](tb, `page.stream.transport + " " + page.stream.hello.filters.level`), "sse error"; got != want {
		t.Errorf("transport and level: got %q, want %q", got, want)
	}

	// A page that is left is seen to leave.
	tb.do(`page.stream.close()`)
	s.until("the page has left", func() bool { return s.m.Stats().Clients == 0 })
}
