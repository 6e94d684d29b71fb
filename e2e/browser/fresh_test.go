package browser

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// rest is how long a slow page takes for an event.
const rest = 150 * time.Millisecond

// slowly follows a stream in the way that is asked for, and rests with each event. The times are those of the machine's wall
// clock, which a page has to the millisecond.
const slowly = `
	page.sights = [];
	const see = (Kind, sight) => page.sights.push({ Kind, At: Date.now() * 1e6, ...sight });
	const show = (data) => {
		const event = new DataView(data);
		see("message", { Number: Number(event.getBigUint64(0)), Published: Number(event.getBigUint64(8)) });
	};
	const told = (gap) => see("gap", { Number: gap.dropped });
	const blocking = (data) => {
		show(data);
		const request = new XMLHttpRequest();
		request.open("GET", "/rest", false);
		request.send();
	};
	const onstate = (state, info) => info && see("end", { Text: info.code + " " + info.reason });
	const url = "/stream/projects/shop";
	const ways = {
		handler: () => page.follow(url, { onmessage: blocking, ongap: told, onstate }),
		loop: async () => {
			page.follow(url, { onstate });
			for await (const { data, gap } of page.stream) {
				if (gap) {
					told(gap);
				} else {
					show(data);
					await new Promise((resolve) => setTimeout(resolve, %d));
				}
			}
		},
		plain: () => {
			const ws = new WebSocket(url);
			ws.binaryType = "arraybuffer";
			ws.onmessage = ({ data }) => blocking(data);
			ws.onclose = ({ code, reason }) => onstate("closed", { code, reason });
		},
	};
`

// TestWhatASlowPageInABrowserHandlesIsFresh has pages that take 150 ms for each of 50 events a second. Before an event is
// handled, a page that acknowledges handles only what is on its way to it and what is buffered for it. Without a window, that
// grows by six for each event that it handles. The test counts events, since seconds depend on the machine. With -long, it
// logs the rows of docs/reliability.md: it measures for 100 s, from 20 s after the start, and with the defaults of everything.
func TestWhatASlowPageInABrowserHandlesIsFresh(t *testing.T) {
	t.Parallel()
	needChromium(t)
	const perSecond, length = 50, 350
	const ahead = 40 // events on their way: as many as it handles in six seconds, the time of WithFreshness and a long round trip
	buffer, settle, measured, handles := 20, time.Duration(0), 6*time.Second, 100
	if *streamtest.Long {
		buffer, settle, measured, handles = 100, 20*time.Second, 100*time.Second, 600
	}
	for _, way := range []string{"handler", "loop", "plain"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			left := make(chan string, 1)
			s := newService(t, mesherstream.WithMaxBuffer(buffer), mesherstream.WithHooks(mesherstream.Hooks{
				Disconnect: func(_ mesherstream.Client, code int, reason string) { left <- fmt.Sprint(code, " ", reason) },
			}))
			tb := open(t, s.url())
			tb.do(fmt.Sprintf(slowly, rest.Milliseconds()) + "void ways." + way + "();")
			s.client()
			stop := make(chan struct{})
			var publisher sync.WaitGroup
			publisher.Go(func() {
				publish := time.NewTicker(time.Second / perSecond)
				defer publish.Stop()
				for number := 0; ; number++ {
					select {
					case <-publish.C:
					case <-stop:
						return
					}
					data := pace.Event(number, time.Duration(time.Now().UnixNano()), length)
					if err := s.m.Broadcast(mesherstream.Message{Project: "shop", Data: data, Binary: true}); err != nil {
						t.Errorf("Broadcast(%d): %v", number, err)
					}
				}
			})
			end := sync.OnceFunc(func() {
				close(stop)
				publisher.Wait()
			})
			defer end()

			acknowledges := way != "plain" // the browser reads ahead of that page, and answers pings for it
			if acknowledges {
				s.until("the page counts as slow, and has little ahead of it", func() bool {
					c := s.client()
					return c.Dropped > 0 && c.Unacknowledged <= ahead
				})
			}
			time.Sleep(settle)
			from, handled := time.Now(), func() int {
				c := s.client()
				return int(c.Sent) - c.Unacknowledged
			}
			before := handled()
			time.Sleep(measured)
			if acknowledges {
				s.until("the page has handled enough", func() bool { return len(left) > 0 || handled() >= before+handles })
			}
			to := time.Now()
			end()
			fate := "lives"
			if len(left) > 0 {
				fate = "removed: " + <-left
				t.Error(fate)
			}
			// A page that is far behind answers when it has handled all that it had been sent. It may now hurry.
			close(s.haste)
			ctx, cancel := context.WithTimeout(tb.ctx, 5*time.Minute)
			defer cancel()
			sights, err := chromedp.Run(ctx, chromedp.Evaluate[[]pace.Sight](`page.sights`))
			if err != nil {
				t.Fatalf("in the tab: %v", err)
			}
			seen := new(pace.Record)
			var times []time.Duration // when it handled events
			most := 0
			for _, sight := range sights {
				if sight.At > time.Duration(to.UnixNano()) {
					break
				}
				seen.Add(sight)
				if sight.Kind != pace.Message {
					continue
				}
				if sight.Published >= time.Duration(from.UnixNano()) {
					earlier, _ := slices.BinarySearch(times, sight.Published)
					most = max(most, len(times)-earlier)
				}
				times = append(times, sight.At)
			}
			got := seen.Summary(time.Duration(from.UnixNano()))
			t.Logf("page in Chromium, %s of 150 ms: %s, %.2g events a second, %v; it handled at most %d others before a new one",
				way, fate, float64(got.Handled)/to.Sub(from).Seconds(), got, most)
			if !acknowledges {
				return
			}
			if limit := buffer + ahead; most > limit {
				t.Errorf("it handled %d others before a new event, want at most %d", most, limit)
			}
			if got.Untold != "" {
				t.Error(got.Untold)
			}
		})
	}
}
