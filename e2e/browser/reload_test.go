package browser

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// keepStory follows a stream that is stored. When the page is left, it keeps what it has shown, as a page would that shows it
// again after a reload.
const keepStory = `
	const key = Object.keys(sessionStorage).find((key) => key.startsWith("mesherstream "));
	page.tail = key ? JSON.parse(sessionStorage.getItem(key)).tail?.length ?? -1 : -1;
	const earlier = JSON.parse(sessionStorage.getItem("story") ?? "[]");
	addEventListener("pagehide", () => sessionStorage.setItem("story", JSON.stringify([...earlier, ...page.told.seen])));
	const { follow } = await import("/story.mjs");
	page.told = follow(page.connect, %s, { storage: sessionStorage });
	page.whole = () => [...earlier, ...page.told.seen];
	await page.until(() => page.told.stream.state === "open");
`

// TestNothingIsLostOverAReload reloads a page that stores its position, at random moments under 200 messages a second: soon
// after it has been opened, before any mark, and later. What it has shown before and after is everything, once, but for the
// messages that it was told of as missing, because it was slow, as any page is on a busy machine.
func TestNothingIsLostOverAReload(t *testing.T) {
	t.Parallel()
	reloads := 8
	if *streamtest.Long {
		reloads = 60
	}
	for _, w := range []*watch{
		{},
		{Loop: true},
		{Loop: true, Rest: 12, Filters: map[string][]string{"level": {"error", "fatal"}}}, // a loop that is always late
	} {
		t.Run(fmt.Sprintf("loop %v, rest %d ms", w.Loop, w.Rest), func(t *testing.T) {
			t.Parallel()
			// Nothing leaves the history, however slow the machine is.
			s := newService(t, mesherstream.WithHistory(1_000_000), mesherstream.WithHistoryBytes(1<<30), mesherstream.WithHistoryAge(time.Hour))
			w.URL = "/stream/projects/shop"
			tb := open(t, s.url())
			follow := func() { tb.do(fmt.Sprintf(keepStory, toJSON(w))) }
			follow()
			end := s.publishing()
			defer end()
			random := rand.New(rand.NewPCG(14, uint64(w.Rest)))
			tails := 0 // reloads with messages after the stored position
			for i := range reloads {
				// Marks follow messages about once a second.
				open := 1500 * time.Millisecond
				if i%2 == 0 {
					open = 300 * time.Millisecond
				}
				time.Sleep(time.Duration(random.Int64N(int64(open))))
				tb.run(chromedp.Reload())
				follow()
				if eval[int](tb, `page.tail`) > 0 {
					tails++
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
			t.Logf("%d messages, %d reloads, %d of them with messages after the stored position; %d returns, %d complete, %d missing, %d shown",
				last, reloads, tails, a.returns, a.whole, a.missing, a.shown)
			if a.returns != reloads {
				t.Errorf("got %d returns, want %d", a.returns, reloads)
			}
			if tails == 0 {
				t.Error("no message was handled between a position and a reload: this proves nothing about such ones")
			}
			if len(faults) > 0 {
				t.Logf("the story: %.5000s", excerpt(story))
			}
		})
	}
}
