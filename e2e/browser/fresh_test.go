package browser

import (
	"context"
	"fmt"
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

// TestWhatASlowPageInABrowserHandlesIsFresh measures how old the events are that pages handle which take 150 ms for each of
// 50 a second, and logs rows of docs/reliability.md. It measures from 20 s after the start, with -long for 100 s.
func TestWhatASlowPageInABrowserHandlesIsFresh(t *testing.T) {
	t.Parallel()
	needChromium(t)
	const perSecond, length = 50, 350
	settle, measured := 20*time.Second, 6*time.Second
	if *streamtest.Long {
		measured = 100 * time.Second
	}
	for _, way := range []string{"handler", "loop", "plain"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			left := make(chan string, 1)
			s := newService(t, mesherstream.WithHooks(mesherstream.Hooks{
				Disconnect: func(_ mesherstream.Client, code int, reason string) { left <- fmt.Sprint(code, " ", reason) },
			}))
			tb := open(t, s.url())
			tb.do(fmt.Sprintf(slowly, rest.Milliseconds()) + "void ways." + way + "();")
			s.client()
			publish := time.NewTicker(time.Second / perSecond)
			defer publish.Stop()
			begin := time.Now()
			fate := "lives"
			for number := 0; time.Since(begin) < settle+measured; {
				select {
				case <-publish.C:
					data := pace.Event(number, time.Duration(time.Now().UnixNano()), length)
					if err := s.m.Broadcast(mesherstream.Message{Project: "shop", Data: data, Binary: true}); err != nil {
						t.Fatal(err)
					}
					number++
				case how := <-left:
					fate = fmt.Sprintf("removed after %.0f s (%s)", time.Since(begin).Seconds(), how)
					t.Error(fate)
				}
			}
			end := time.Duration(time.Now().UnixNano())
			// A page that is far behind answers when it has handled all that it had been sent. It may now hurry.
			close(s.haste)
			ctx, stop := context.WithTimeout(tb.ctx, 5*time.Minute)
			defer stop()
			sights, err := chromedp.Run(ctx, chromedp.Evaluate[[]pace.Sight](`page.sights`))
			if err != nil {
				t.Fatalf("in the tab: %v", err)
			}
			seen := new(pace.Record)
			for _, sight := range sights {
				if sight.At <= end {
					seen.Add(sight)
				}
			}
			got := seen.Summary(time.Duration(begin.Add(settle).UnixNano()))
			t.Logf("page in Chromium, %s of 150 ms: %s, %.2g events a second, %v", way, fate, float64(got.Handled)/measured.Seconds(), got)
			if way == "plain" {
				return // the browser reads ahead of such a page, and answers pings for it
			}
			if limit := 5 * time.Second; got.P99 > limit {
				t.Errorf("age: got p99 %v, want at most %v", got.P99, limit)
			}
			if want := measured.Seconds() / rest.Seconds() / 2; float64(got.Handled) < want {
				t.Errorf("handled %d events in %v, want at least %.0f", got.Handled, measured, want)
			}
			if got.Untold != "" {
				t.Error(got.Untold)
			}
		})
	}
}
