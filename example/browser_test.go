package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mesher/mesherstream"
)

var long = flag.Bool("long", false, "run TestFrames")

const isLive = `/^Live( · [\d.]+ s)?$/.test(document.getElementById('state')?.textContent)`

// isAtEnd says whether the list shows the newest item.
const isAtEnd = `(l => l.scrollTop + l.clientHeight >= l.scrollHeight - 2)(document.getElementById('list'))`

// isLast89 says whether the list shows the last of the first 90 events, and ends there.
const isLast89 = isAtEnd + ` && document.querySelector('.row:last-child .message')?.textContent === 'event 89'`

// publish publishes n events, all levels in turn.
func publish(t *testing.T, f *feed, n int) {
	t.Helper()
	for i := range n {
		level := levels[i%len(levels)]
		e := fields{Project: "shop", Level: level, Environment: "production", Service: "api", Message: fmt.Sprintf("event %d", i)}
		if level == "error" {
			e.Issue = "SHOP-1"
		}
		if _, err := f.publishEvent(e); err != nil {
			t.Fatal(err)
		}
	}
}

// All of these share one browser, which takes longer to start than they take to run.
func TestPagesInABrowser(t *testing.T) {
	browser := startChromium(t)
	for name, test := range map[string]func(*testing.T, *chromium){
		"the list holds many events in few elements":    testManyEvents,
		"the list stands still for a reader":            testReader,
		"the keyboard reaches details and filters":      testKeyboard,
		"an operator disconnects a client":              testOperator,
		"a page that reads slowly is told":              testSlow,
		"issues end with the server's process":          testRestart,
		"everything is legible":                         testLegible,
		"a reader connects at once, and keeps the list": testConnectNow,
		"the state says why in words":                   testStateText,
		"the server tells a page its age":               testAge,
		"the state says how fresh the page is":          testFreshness,
		"the head has room for long reasons and names":  testHead,
		"a narrow screen is for the list":               testNarrow,
		"a question mark opens the shortcuts":           testShortcuts,
		"gaps don't hide that nothing matches":          testNothingMatches,
		"the address holds the filters":                 testAddress,
		"the words are marked":                          testHighlight,
		"long lines wrap":                               testWrap,
		"the details show any data":                     testDetails,
		"whatever is published is shown":                testOddMessages,
		"the title counts what nobody has seen":         testTitle,
		"a log that has times of its own":               testLogged,
		"a log that has been read before":               testLoggedBefore,
		"a page begins with the newest events":          testBeginning,
		"a page outlives its server's process":          testRestartedServer,
		"a page is given what it missed":                testCutConnection,
		"a gap says what is known":                      testGapText,
		"a level fills the list with its events":        testLevel,
		"a slow page drops what other filters had sent": testLevelSlow,
		"what was missed is loaded in its place":        testLoad,
		"what the server still has is loaded":           testLoadSome,
		"a reader who has paused sees the same":         testLoadStill,
		"the button of a gap has room":                  testLoadButton,
		"a gap that can't be loaded says why":           testLoadFails,
		"what the server has let go can't be loaded":    testLoadLate,
		"a gap is told aloud":                           testGapAloud,
		"a page says that it hears nothing":             testSilence,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, browser)
		})
	}
}

func testManyEvents(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	p.wait(`!document.getElementById('empty').hidden && document.getElementById('curl').textContent.includes('/api/v1/events')`)

	p.shot("waiting for the first event")
	publish(t, f, 90)
	p.wait(isLast89)
	p.shot("live")
	p.wait(`document.getElementById('received').textContent === '90' && document.getElementById('missed').textContent === '0'`)
	p.wait(`document.querySelector('#issueList .count').textContent === '×18'`)

	// A list of its own, with more than a list keeps, in parts as a stream brings them.
	var got struct{ Rows, Size, Shown, Number int }
	p.eval(`(async () => {
		const {List} = await import('/assets/list.js');
		const box = document.body.appendChild(document.createElement('div'));
		box.style.cssText = 'height: 440px; overflow: auto; position: fixed; --row: 22px';
		let drawn;
		const frame = () => new Promise(done => { drawn = done; });
		const even = item => item.number % 2 === 0;
		const list = new List(box, {matches: even, issueOf: () => undefined, on: {drawn: () => drawn(), opened() {}}});
		for (let number = 0; number < 20_000;) {
			for (const part = number + 500; number < part; number++) list.add({type: 'event', level: 'info', time: 0, message: 'x', number});
			await frame();
		}
		const rows = [...box.querySelectorAll('.row')];
		return {Rows: rows.length, Size: list.size, Shown: list.shown, Number: rows.at(-1).item.number};
	})()`, &got)
	if got.Rows < 20 || got.Rows > 40 || got.Size < 5000 || got.Size > 6000 || got.Shown != got.Size/2 || got.Number != 19_998 {
		t.Errorf("got %+v, want the newest 5,000 to 6,000, half of them shown, and few rows", got)
	}
}

func testReader(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	publish(t, f, 90)
	p.wait(isLast89)

	top := func() (top float64) {
		p.eval(`document.getElementById('list').scrollTop`, &top)
		return top
	}
	hold := func(n int) string {
		return fmt.Sprintf(`document.getElementById('resume').textContent === '%d new events ↓' && !document.getElementById('resume').hidden`, n)
	}
	p.call("Input.dispatchMouseEvent", map[string]any{"type": "mouseWheel", "x": 400, "y": 400, "deltaX": 0, "deltaY": -200})
	p.wait(`!document.getElementById('resume').hidden`)
	p.eval(`new Promise(done => { const l = document.getElementById('list'); let last = -1; // until the wheel has come to rest
		(function look() { if (l.scrollTop === last) return done(); last = l.scrollTop; setTimeout(look, 200); })(); })`, nil)
	before := top()
	publish(t, f, 70)
	p.wait(hold(70))
	p.shot("held by a reader")
	if after := top(); after != before {
		t.Errorf("the list moved from %v to %v", before, after)
	}
	p.click("#resume")
	p.wait(isAtEnd)
	p.wait(`document.getElementById('resume').hidden`)

	// Space pauses and goes on.
	p.key(" ")
	p.wait(`document.getElementById('pause').ariaPressed === 'true'`)
	publish(t, f, 30)
	p.wait(hold(30))
	p.key(" ")
	p.wait(`document.getElementById('resume').hidden`)
	p.wait(isAtEnd)

	// A change of the size, and with it of the rows' height, is no reader who scrolls, also where something makes the
	// document lay itself out before the list can hear of it.
	p.eval(`void setInterval(() => document.body.offsetHeight, 1)`, nil)
	for i, height := range []int{500, 900, 400, 800} {
		p.resize([]int{360, 1280}[i%2], height)
		p.wait(isAtEnd)
		publish(t, f, 1)
		p.wait(fmt.Sprintf(`document.getElementById('received').textContent === '%d'`, 191+i))
		p.wait(isAtEnd + ` && document.getElementById('resume').hidden`)
	}
}

func testKeyboard(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	publish(t, f, 90)
	p.wait(isLast89)

	p.key("ArrowUp") // the list has it, though nothing has the focus yet
	p.key("ArrowUp")
	p.wait(`document.querySelector('[aria-selected=true] .message')?.textContent === 'event 88'`)
	p.wait(`document.getElementById(document.getElementById('list').getAttribute('aria-activedescendant')) === document.querySelector('[aria-selected=true]')`)
	p.key("Enter")
	p.wait(`document.activeElement.textContent === 'event 88' && document.activeElement.closest('#details')`)
	p.wait(`document.querySelector('#details .issue span').textContent === 'SHOP-1: open, seen 18 times'`)

	// An issue changes in place.
	if _, err := f.publishAction("shop", "SHOP-1", "resolve", "ann", ""); err != nil {
		t.Fatal(err)
	}
	p.wait(`document.querySelector('#details .issue span').textContent === 'SHOP-1: resolved, seen 18 times'`)
	p.wait(`document.querySelector('#issueList .what').textContent === 'resolved'`)
	p.wait(`document.querySelector('[aria-selected=true] .issue').textContent === 'SHOP-1 ×18 resolved'`)

	p.key("Escape")
	p.wait(`document.getElementById('details').hidden && document.activeElement.id === 'list'`)
	p.wait(`document.getElementById('resume').hidden`)
	p.wait(`document.querySelector('.row:last-child .message').textContent === 'SHOP-1 resolved by ann: event 88'`)

	// Words filter what is here; chips filter what is here and what comes.
	p.key("/")
	p.wait(`document.activeElement.id === 'text'`)
	p.call("Input.insertText", map[string]any{"text": "fatal event"})
	p.wait(`[...document.querySelectorAll('.row')].every(r => r.item.level === 'fatal') && document.querySelectorAll('.row').length === 18`)
	p.key("Escape")
	p.wait(`document.getElementById('text').value === '' && document.querySelectorAll('.row').length > 18`)
	p.click("#levels [value=error]")
	p.wait(`document.getElementById('status').textContent === 'Showing error events'`)
	publish(t, f, 90)
	p.wait(`document.getElementById('received').textContent === '108'`)
	p.wait(`[...document.querySelectorAll('.row')].every(r => r.item.type !== 'event' || r.item.level === 'error')`)
	p.shot("filtered")
	p.wait(`[...document.querySelectorAll('.row.filter')].length === 1 && location.search === '?project=shop&level=error'`)
}

func testOperator(t *testing.T, browser *chromium) {
	url, _ := serve(t)
	viewer := browser.open(t, 1280, 800, url+"/?project=shop&level=error")
	viewer.wait(isLive)
	operator := browser.open(t, 1280, 800, url+"/clients")
	operator.wait(`document.querySelectorAll('#rows tr').length === 2`)
	operator.wait(`[...document.querySelectorAll('#rows tr')].filter(r => r.textContent.includes('(this page)')).every(r => r.textContent.includes('@clients'))`)
	operator.click("#columns th:nth-child(3) button")
	operator.wait(`document.querySelector('[aria-sort]').textContent === 'Project'`)
	operator.wait(`document.querySelector('#rows tr:first-child').textContent.includes('@clients')`)
	operator.click("#rows tr:last-child button")
	operator.wait(`document.querySelectorAll('#rows tr').length === 1`)
	viewer.wait(`document.getElementById('state').textContent === 'Disconnected by an operator'`)
	viewer.shot("disconnected")
	viewer.click("#again")
	viewer.wait(isLive)
}

func testSlow(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	p.click("#text")
	p.call("Input.insertText", map[string]any{"text": "no event has this"}) // so that only gaps are in sight
	ctx, stop := context.WithCancel(t.Context())
	var demo sync.WaitGroup
	demo.Go(func() { streamDemo(ctx, f, "shop", 500) })
	t.Cleanup(func() { stop(); demo.Wait() })
	p.wait(`Number(document.getElementById('received').textContent.replaceAll(',', '')) > 500`)
	p.click("#slow")
	p.wait(`document.querySelector('.row.gap')`)
	p.shot("gaps")
	stop()
	demo.Wait()
	p.click("#slow")
	dropped := f.out.(*mesherstream.Manager).Stats().Dropped // nothing is published any more
	p.wait(fmt.Sprintf(`Number(document.getElementById('missed').textContent.replaceAll(',', '')) === %d`, dropped))
	p.wait(fmt.Sprintf(`[...document.querySelectorAll('.row.gap .message')].map(e => Number(e.textContent.split(' ')[0].replaceAll(',', ''))).reduce((a, b) => a + b) === %d`, dropped))
	p.wait(`[...document.querySelectorAll('.row.gap .message')].some(e => e.textContent.match(/^[\d,]+ events missed: [\d,]+ debug, /))`) // the first may be of one event
}

// testRestart has the page come back to a process that knows nothing of the issues before.
func testRestart(t *testing.T, browser *chromium) {
	url, f, stop := serveAt(t, "127.0.0.1:0")
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	publish(t, f, 15)
	p.wait(`document.querySelector('#issueList .count')?.textContent === '×3'`)

	stop()
	_, f, _ = serveAt(t, strings.TrimPrefix(url, "http://"))
	p.wait(`document.querySelector('.row.gap')`)
	p.wait(isLive)
	p.forgive()
	p.shot("back")
	p.eval(`document.querySelector('#issueList button')?.click()`, nil) // before the page knows
	p.wait(`!document.querySelector('#issueList li')`)
	publish(t, f, 5)
	p.wait(`document.querySelector('#issueList .count')?.textContent === '×1'`)
}

// contrast returns what is written with less than 4.5:1 (WCAG 2.2, 1.4.3), as it is drawn: with the colours of the
// system, of what lies below, and of what is transparent.
const contrast = `(() => {
	const pen = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
	const known = new Map();
	const over = (colours) => { // the first lies lowest
		const key = colours.join();
		if (known.has(key)) return known.get(key);
		pen.clearRect(0, 0, 1, 1);
		for (const c of colours) { pen.fillStyle = c; pen.fillRect(0, 0, 1, 1); }
		known.set(key, [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)]);
		return known.get(key);
	};
	const luminance = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const bad = new Set();
	const check = (el, colour, what) => {
		const below = ['white'];
		for (let up = el; up; up = up.parentElement) below.splice(1, 0, getComputedStyle(up).backgroundColor);
		const [a, b] = [luminance(over(below)), luminance(over([...below, colour]))];
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		checked++;
		if (ratio < 4.5) bad.add(ratio.toFixed(2) + ' ' + (el.className || el.id || el.tagName) + ' ' + what.trim().slice(0, 40));
	};
	let checked = 0;
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walk.nextNode()) {
		const el = walk.currentNode.parentElement;
		if (walk.currentNode.data.trim() && el.checkVisibility() && !el.closest('.unseen')) check(el, getComputedStyle(el).color, walk.currentNode.data);
	}
	for (const el of document.querySelectorAll('input')) check(el, getComputedStyle(el, el.value ? null : '::placeholder').color, el.value || el.placeholder);
	return {Checked: checked, Bad: [...bad]};
})()`

func testLegible(t *testing.T, browser *chromium) {
	url, f := serve(t)
	clients := browser.open(t, 1280, 800, url+"/clients")
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	clients.wait(`document.querySelectorAll('#rows tr').length === 2`)
	publish(t, f, 15)
	p.wait(`document.getElementById('received').textContent === '15'`)
	if _, err := f.publishAction("shop", "SHOP-2", "ignore", "ann", ""); err != nil {
		t.Fatal(err)
	}
	p.click("#levels [value=error]") // a chip that is on, and a row that says so
	p.wait(`document.querySelector('.row.filter')`)
	p.click("#levels [value='']")
	p.wait(`document.getElementById('status').textContent === 'Showing all events'`)
	// While the page is busy: more than it may leave unacknowledged, and the server buffers.
	for sent, missed := 15, "0"; missed == "0"; missed = p.text("missed") {
		p.eval(`void setTimeout(() => { for (const end = Date.now() + 500; Date.now() < end;); })`, nil)
		publish(t, f, 1000)
		sent += 1000
		p.wait(fmt.Sprintf(`document.getElementById('missed').textContent !== '0' || document.getElementById('received').textContent.replaceAll(',', '') === '%d'`, sent))
	}
	p.click("#text") // few enough rows that the gap is in sight, which is shown whatever the words are
	p.call("Input.insertText", map[string]any{"text": "event 2"})
	p.wait(`document.querySelector('.row.gap')?.textContent.includes('missed: ')`)
	p.eval(`document.getElementById('slow').click()`, nil) // the switch that is on
	p.eval(`document.getElementById('list').focus()`, nil)
	p.key("ArrowUp")
	p.key("Enter")
	p.wait(`!document.getElementById('details').hidden`)

	for _, theme := range []string{"light", "dark"} {
		for name, tab := range map[string]*page{"events": p, "clients": clients} {
			for _, width := range []int{1440, 1100, 800, 360} {
				tab.theme(theme)
				tab.resize(width, 780)
				var got struct {
					Checked int
					Bad     []string
				}
				tab.eval(contrast, &got)
				tab.shot(fmt.Sprintf("%s, %s, %d px", name, theme, width))
				if slices.Sort(got.Bad); len(got.Bad) > 0 || got.Checked < 20 {
					t.Errorf("%s, %s, %d px: of %d texts, these have too little contrast: %q", name, theme, width, got.Checked, got.Bad)
				}
				var overflow int
				tab.eval(`document.scrollingElement.scrollWidth - innerWidth`, &overflow)
				if overflow > 0 {
					t.Errorf("%s, %d px: the page is %d px wider than the window", name, width, overflow)
				}
			}
		}
	}
}

// TestFrames measures how smooth the page is at 500 events a second:
//
//	go test ./example -run TestFrames -v -long
func TestFrames(t *testing.T) {
	if !*long {
		t.Skip("takes 12 s and a machine with nothing else to do: go test ./example -run TestFrames -v -long")
	}
	url, f := serve(t)
	p := startChromium(t).open(t, 1440, 860, url+"/?project=shop")
	p.wait(isLive)
	var demo sync.WaitGroup
	demo.Go(func() { streamDemo(t.Context(), f, "shop", 500) })
	t.Cleanup(demo.Wait)
	p.wait(`document.querySelectorAll('.row').length > 20`)

	p.call("Performance.enable", map[string]any{"timeDomain": "threadTicks"})
	cpu := func() (seconds float64) {
		var got struct {
			Metrics []struct {
				Name  string
				Value float64
			}
		}
		if err := json.Unmarshal(p.call("Performance.getMetrics", nil), &got); err != nil {
			t.Fatal(err)
		}
		for _, m := range got.Metrics {
			if m.Name == "TaskDuration" {
				return m.Value
			}
		}
		t.Fatal("no TaskDuration")
		return 0
	}
	before := cpu()
	var got struct {
		Frames, Events, Rows       int
		Median, P99, Longest       float64
		LongTasks, LongestLongTask float64
	}
	p.eval(`(async () => {
		const long = [], frames = [], received = () => Number(document.getElementById('received').textContent.replaceAll(',', ''));
		const watch = new PerformanceObserver(list => long.push(...list.getEntries().map(e => e.duration)));
		watch.observe({type: 'longtask'});
		const before = received();
		await new Promise(done => {
			const start = performance.now();
			(function frame(now) { frames.push(now); if (now - start < 10000) requestAnimationFrame(frame); else done(); })(start);
		});
		const gaps = frames.slice(1).map((at, i) => at - frames[i]).sort((a, b) => a - b);
		return {Frames: gaps.length, Events: received() - before, Rows: document.querySelectorAll('.row').length, Median: gaps[gaps.length >> 1],
			P99: gaps[Math.floor(gaps.length * 0.99)], Longest: gaps.at(-1), LongTasks: long.length, LongestLongTask: Math.max(0, ...long)};
	})()`, &got)
	t.Logf("10 s at 500 events/s: %d events, %d rows in the document, %d frames %.1f ms apart in the median, %.1f ms at p99, %.1f ms at most; "+
		"%v tasks over 50 ms, the longest %.0f ms; the page's thread was busy for %.1f s; %s missed",
		got.Events, got.Rows, got.Frames, got.Median, got.P99, got.Longest, got.LongTasks, got.LongestLongTask, cpu()-before, p.text("missed"))
	if got.Frames < 10 || got.Events < 1000 {
		t.Error("the page stood still")
	}
}
