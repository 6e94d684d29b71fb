package browser

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

// broadcast publishes messages with the numbers from first to last.
func (s *site) broadcast(level string, first, last int) {
	s.Helper()
	for n := first; n <= last; n++ {
		data := fmt.Appendf(nil, `{"type":"event","n":%d}`, n)
		if err := s.m.Broadcast(mesherstream.Message{Project: "shop", Level: level, Data: data}); err != nil {
			s.Fatalf("Broadcast: %v", err)
		}
	}
}

// client returns the one client of the service.
func (s *site) client() mesherstream.Client {
	s.Helper()
	var last mesherstream.Client
	s.until("one client", func() bool {
		n := 0
		for last = range s.m.Clients() {
			n++
		}
		return n == 1
	})
	return last
}

// until polls a condition that must come true.
func (s *site) until(what string, condition func() bool) {
	s.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("%s: not in %v; %+v", what, patience, s.m.Stats())
		}
	}
}

// story is what a page got: {n} for a message, {dropped} for a gap.
type story []struct {
	N       int            `json:"n"`
	Dropped int            `json:"dropped"`
	ByLevel map[string]int `json:"byLevel"`
}

// check says whether each number from 1 to last was got, or told as dropped where it is missing, and returns how many
// were.
func (got story) check(t *testing.T, last int) (dropped int) {
	t.Helper()
	next := 1
	for i, item := range got {
		if item.N == 0 {
			sum := 0
			for _, n := range item.ByLevel {
				sum += n
			}
			if item.Dropped == 0 || sum != item.Dropped {
				t.Errorf("item %d: a gap of %d with levels %v", i, item.Dropped, item.ByLevel)
			}
			next += item.Dropped
			dropped += item.Dropped
			continue
		}
		if item.N != next {
			t.Fatalf("item %d: got message %d, want %d", i, item.N, next)
		}
		next++
	}
	if next != last+1 {
		t.Errorf("the page knows of %d messages, want %d", next-1, last)
	}
	return dropped
}

// follow connects with callbacks that tell the story, and block the page's only thread for so long with each message.
func (tb *tab) follow(options string, blocked time.Duration) {
	tb.Helper()
	tb.do(fmt.Sprintf(`
		page.story = [];
		page.follow("/stream/projects/shop", {
			ongap: (gap) => page.story.push(gap),
			onmessage: (data) => {
				page.story.push(JSON.parse(data));
				for (const end = performance.now() + %d; performance.now() < end; );
			},
			...%s
		});
		await page.reach("open");
	`, blocked.Milliseconds(), options))
}

func (tb *tab) story(last int) story {
	tb.Helper()
	return eval[story](tb, fmt.Sprintf(`page.until(() => page.story.at(-1)?.n === %d).then(() => page.story)`, last))
}

func TestAPageGetsEveryMessageThatItKeepsUpWith(t *testing.T) {
	const last = 2000
	s := newService(t, mesherstream.WithMaxBuffer(last), mesherstream.WithWindow(256))
	tb := open(t, s.url())
	tb.follow(`{}`, 0)
	s.broadcast("error", 1, last)
	if dropped := tb.story(last).check(t, last); dropped != 0 {
		t.Errorf("%d messages were dropped, want none", dropped)
	}
	s.until("an acknowledgement of each half", func() bool { return s.client().Unacknowledged < 128 })
}

func TestABusyPageIsToldWhatItMissed(t *testing.T) {
	const last = 500
	s := newService(t, mesherstream.WithMaxBuffer(10), mesherstream.WithWindow(8))
	tb := open(t, s.url())
	tb.follow(`{}`, 5*time.Millisecond)
	s.broadcast("error", 1, last/2)
	s.broadcast("debug", last/2+1, last)
	dropped := tb.story(last).check(t, last)
	if c := s.client(); uint64(dropped) != c.Dropped || dropped < last/2 {
		t.Errorf("the page was told of %d, and the server dropped %d, want the same and most of %d", dropped, c.Dropped, last)
	}
}

// standStill follows with a loop that takes one message and then waits for goOn.
const standStill = `
	page.follow("/stream/projects/shop");
	page.story = [];
	page.mayGoOn = new Promise((resolve) => page.goOn = resolve);
	(async () => {
		for await (const item of page.stream) {
			page.story.push(item.gap ?? JSON.parse(item.data));
			await page.mayGoOn;
		}
	})();
	await page.reach("open");
`

func TestALoopThatStandsStillLeavesTheRestToTheServer(t *testing.T) {
	const window, buffer, last = 8, 10, 500
	s := newService(t, mesherstream.WithMaxBuffer(buffer), mesherstream.WithWindow(window))
	tb := open(t, s.url())
	tb.do(standStill)
	s.until("an acknowledged hello", func() bool { return s.client().Unacknowledged == 0 })
	s.broadcast("error", 1, last)
	s.until("a full window", func() bool { return s.client().Unacknowledged >= window && s.client().Buffered == buffer })
	// All of the window is in the page: one message in the loop, and the others wait for it. A mark may be one of them.
	tb.do(fmt.Sprintf(`await page.until(() => page.story.length === 1 && page.seen.length >= %d)`, window-1))
	// What a full window holds back is messages, not answers.
	tb.do(`await page.stream.setFilters({ level: "error" })`)
	tb.do(`page.goOn()`)
	dropped := tb.story(last).check(t, last)
	if c := s.client(); uint64(dropped) != c.Dropped {
		t.Errorf("the page was told of %d, and the server dropped %d", dropped, c.Dropped)
	}
}

func TestAPageWhoseThreadWasBlockedFindsTheNewest(t *testing.T) {
	const window, buffer, last = 16, 10, 5000
	s := newService(t, mesherstream.WithMaxBuffer(buffer), mesherstream.WithWindow(window))
	tb := open(t, s.url())
	tb.follow(`{
		onmessage: (data) => {
			page.story.push(JSON.parse(data));
			if (page.story.length > 1) return;
			const request = new XMLHttpRequest();
			request.open("GET", "/hold", false); // not even a timer runs until it is answered
			request.send();
		},
	}`, 0)
	s.until("an acknowledged hello", func() bool { return s.client().Unacknowledged == 0 })
	s.broadcast("error", 1, last)
	s.until("a full window", func() bool { return s.client().Unacknowledged >= window && s.client().Buffered == buffer })
	old := int(s.client().Sent) // a mark may be in the window too
	if old != window && old != window-1 {
		t.Errorf("a window of %d let %d messages pass", window, old)
	}
	close(s.hold)
	got := tb.story(last)
	if dropped := got.check(t, last); dropped != last-old-buffer || len(got) != old+1+buffer || got[old].Dropped == 0 {
		t.Errorf("the page got %v, want a window of messages, a gap of %d, and the %d newest", got, last-old-buffer, buffer)
	}
}

// Chromium 156 cuts the connection of a page that is frozen while messages come. Others may keep it.
func TestAPageThatWasFrozenFollowsAgain(t *testing.T) {
	s := newService(t)
	tb := open(t, s.url())
	tb.follow(`{ minDelay: 1 }`, 0)
	call(tb, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateStateFrozen})
	s.broadcast("error", 1, 5000)
	call(tb, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: page.SetWebLifecycleStateStateActive})
	last := 5000
	s.until("a message behind those", func() bool {
		last++
		s.broadcast("error", last, last)
		return eval[bool](tb, `page.story.some(({ n }) => n > 5000)`)
	})
}

func TestAPageNarrowsWhatItIsGranted(t *testing.T) {
	s := newService(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		sub.Levels = []string{"error", "fatal", "a,b"}
		return nil
	}))
	tb := open(t, s.url())
	tb.follow(`{ filters: { level: ["error", "fatal"] } }`, 0)
	if got := eval[string](tb, `page.stream.hello.filters.level.join()`); got != "error,fatal" {
		t.Errorf("hello: got levels %s, want error,fatal", got)
	}
	for _, c := range []struct{ filters, want string }{
		{`{ level: "fatal" }`, `{"level":["fatal"],"environment":[]}`},
		{`{ level: "debug" }`, `not_granted`},
		{`{ level: "x".repeat(65) }`, `invalid_filter`},
		{`{ level: Array(17).fill("error") }`, `invalid_filter`},
		{`{ level: ["debug", "fatal"], environment: "" }`, `{"level":["fatal"],"environment":[]}`},
		{`{ level: "a,b" }`, `{"level":["a,b"],"environment":[]}`},
	} {
		got := eval[string](tb, `page.stream.setFilters(`+c.filters+`).then(({ filters }) => JSON.stringify(filters), ({ code }) => code)`)
		if got != c.want {
			t.Errorf("setFilters(%s): got %s, want %s", c.filters, got, c.want)
		}
	}
	s.broadcast("fatal", 1, 1)
	s.broadcast("a,b", 2, 2)
	if got := tb.story(2); len(got) != 1 {
		t.Errorf("the page got %v, want only message 2", got)
	}
	if got := s.client().Levels; len(got) != 1 || got[0] != "a,b" {
		t.Errorf("the server has %q, want a,b", got)
	}
}

func TestFiltersWithCommasAreInForceOnceTheyAreAnswered(t *testing.T) {
	s := newService(t)
	tb := open(t, s.url())
	tb.follow(`{ filters: { level: ["a,b"], environment: "production" } }`, 0)
	s.until("the filter", func() bool { return strings.Join(s.client().Levels, "|") == "a,b" })
	if got := s.client().Environments; len(got) != 1 || got[0] != "production" {
		t.Errorf("environments: got %q, want production", got)
	}
}

func TestAPageThatChangesItsFiltersAllTheTimeStays(t *testing.T) {
	s := newService(t)
	tb := open(t, s.url())
	tb.follow(`{}`, 0)
	got := eval[string](tb, `(async () => {
		const changes = [];
		for (let i = 0; i < 500; i++) {
			changes.push(page.stream.setFilters({ level: "l" + i }));
			await new Promise((resolve) => setTimeout(resolve, 4));
		}
		const last = (await Promise.all(changes)).at(-1);
		return last.filters.level[0] + " " + page.stream.state + " " + page.states.length;
	})()`)
	if want := "l499 open 2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := s.m.Stats().FilterSets; n < 2 || n > 100 {
		t.Errorf("%d requests, want a few", n)
	}
}

func TestAPageObeysDisconnect(t *testing.T) {
	s := newService(t)
	tb := open(t, s.url())
	tb.follow(`{ minDelay: 1 }`, 0)
	for _, code := range []int{1000, 1012} {
		id := s.client().ID
		if err := s.m.Disconnect(id, code, "moved; retry_after_ms=20"); err != nil {
			t.Fatal(err)
		}
		s.until("another connection", func() bool { return s.client().ID != id })
		tb.do(`await page.until(() => page.stream.state === "open" && page.stream.hello.id !== ` + fmt.Sprint(id) + `)`)
	}
	if err := s.m.Disconnect(s.client().ID, 4001, "signed out"); err != nil {
		t.Fatal(err)
	}
	closed := eval[map[string]any](tb, `page.reach("closed")`)
	if closed["code"] != 4001.0 || closed["reason"] != "signed out" {
		t.Errorf("closed: got %v, want 4001 signed out", closed)
	}
}

func TestAPageThatWasTooSlowComesBackWhenItMay(t *testing.T) {
	s := newService(t, mesherstream.WithOverflow(mesherstream.Disconnect), mesherstream.WithMaxBuffer(10), mesherstream.WithWindow(8))
	tb := open(t, s.url())
	tb.follow(`{ minDelay: 1e6, maxDelay: 1e6 }`, 20*time.Millisecond)
	s.broadcast("error", 1, 100)
	waiting := eval[map[string]any](tb, `page.reach("waiting")`)
	if delay := waiting["delay"].(float64); waiting["code"] != 1013.0 || delay < 1000 || delay > 1500 {
		t.Errorf("waiting: got %v, want 1013 and a delay from 1000 to 1500", waiting)
	}
	tb.do(`await page.reach("open", page.states.length)`)
}

func TestAPageFollowsAnotherServerAfterARestart(t *testing.T) {
	s := newService(t)
	tb := open(t, s.url())
	tb.follow(`{ filters: { level: "error" }, minDelay: 1, maxDelay: 50 }`, 0)
	s.broadcast("error", 1, 1)
	tb.story(1)
	s.shutdown()
	if code := eval[map[string]any](tb, `page.reach("waiting")`)["code"]; code != 1001.0 && code != 1006.0 {
		t.Errorf("code: got %v, want 1001", code)
	}
	s.listen()
	tb.do(`await page.reach("open", page.states.findIndex(({ state }) => state === "waiting"))`)
	s.client()
	s.broadcast("debug", 2, 2)
	s.broadcast("error", 3, 3)
	if got := tb.story(3); len(got) != 3 || got[0].N != 1 || got[1].N != 0 || got[2].N != 3 {
		t.Errorf("the page got %v, want message 1, a gap of unknown size, and message 3", got)
	}
}

func TestASlowTabCostsAnotherOneNothing(t *testing.T) {
	const step, last = 5, 300
	s := newService(t, mesherstream.WithMaxBuffer(10), mesherstream.WithWindow(8))
	slow, fast := open(t, s.url()), open(t, s.url())
	slow.follow(`{}`, 20*time.Millisecond)
	fast.follow(`{}`, 0)
	id := eval[mesherstream.ClientID](fast, `page.stream.hello.id`)
	for n := 1; n <= last; n += step {
		s.broadcast("error", n, n+step-1)
		s.until("the fast page has taken all", func() bool { c, ok := s.m.Client(id); return ok && c.Buffered == 0 })
	}
	if dropped := fast.story(last).check(t, last); dropped != 0 {
		t.Errorf("the fast page missed %d, want none", dropped)
	}
	dropped := slow.story(last).check(t, last)
	if got := s.m.Stats().Dropped; uint64(dropped) != got || dropped == 0 {
		t.Errorf("the slow page was told of %d, and the server dropped %d, want the same and some", dropped, got)
	}
}

func TestAChangeOfTheFiltersTakesOutWhatWaits(t *testing.T) {
	const window, buffer = 8, 20
	s := newService(t, mesherstream.WithMaxBuffer(buffer), mesherstream.WithWindow(window))
	tb := open(t, s.url())
	tb.do(standStill)
	s.until("an acknowledged hello", func() bool { return s.client().Unacknowledged == 0 })
	s.broadcast("debug", 1, 13) // of which some wait
	s.broadcast("error", 14, 18)
	s.until("a full window", func() bool {
		c := s.client()
		return c.Unacknowledged >= window && c.Offered == 18 && c.Buffered == 18-int(c.Sent)
	})
	sent := int(s.client().Sent) // a mark may be in the window too
	if got := eval[int](tb, `page.stream.setFilters({ level: "error" }).then(({ filtered }) => filtered)`); got != 13-sent {
		t.Errorf("the answer says that %d were taken out, want %d", got, 13-sent)
	}
	if c := s.client(); int(c.Filtered) != 13-sent || c.Dropped != 0 || c.Buffered != 5 {
		t.Errorf("got %+v, want %d filtered, none dropped, and 5 that wait", c, 13-sent)
	}
	s.broadcast("debug", 19, 19)
	s.broadcast("error", 20, 20)
	tb.do(`page.goOn()`)
	var got []int
	for _, item := range tb.story(20) {
		got = append(got, item.N)
	}
	var want []int
	for n := range sent {
		want = append(want, n+1)
	}
	if want = append(want, 14, 15, 16, 17, 18, 20); !slices.Equal(got, want) {
		t.Errorf("the page got %v, want %v", got, want)
	}
}
