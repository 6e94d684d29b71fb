package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// say publishes events of one level from one number to another, exclusive.
func say(t *testing.T, f *feed, level string, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		e := fields{Project: "shop", Level: level, Environment: "production", Service: "api", Message: fmt.Sprintf("%s %d", level, i)}
		if _, err := f.publishEvent(e); err != nil {
			t.Fatal(err)
		}
	}
}

// numbered returns texts with a number each.
func numbered(format string, from, to int) (texts []string) {
	for i := from; i < to; i++ {
		texts = append(texts, fmt.Sprintf(format, i))
	}
	return texts
}

func testBeginning(t *testing.T, browser *chromium) {
	url, f := serve(t)
	say(t, f, "info", 0, 300)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive + ` && document.querySelector('.row:last-child .message')?.textContent === 'info 299' && ` + isAtEnd)
	p.wait(`document.getElementById('received').textContent === '200'`)
	say(t, f, "info", 300, 305)
	p.wait(`document.querySelector('.row:last-child .message').textContent === 'info 304' && ` + isAtEnd)
	wantRows(t, p, numbered("info %d", 100, 305))

	// A reload begins anew, and nothing of what was published before counts as new.
	p.call("Page.reload", nil)
	p.wait(`document.getElementById('received')?.textContent === '200'`)
	wantRows(t, p, numbered("info %d", 105, 305))
	p.wait(`document.getElementById('rate').textContent === '0'`)
}

// wantRows waits until the list has these rows, also those that are not in sight. A time of day is TIME.
func wantRows(t *testing.T, p *page, want []string) {
	t.Helper()
	p.resize(1280, 40_000)
	defer p.resize(1280, 800)
	var got []string
	for deadline := time.Now().Add(patience); !slices.Equal(got, want); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %d rows, want %d:\n%q\n%q", len(got), len(want), got, want)
		}
		got = p.rows()
	}
}

// wantAll waits until the list shows each of n numbered info events in its place or says that it is missing, and has nothing else.
func wantAll(t *testing.T, p *page, n int) (rows []string) {
	t.Helper()
	p.resize(1280, 40_000)
	defer p.resize(1280, 800)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		rows = p.rows()
		next := 0
		stray := slices.IndexFunc(rows, func(row string) bool {
			events := 1
			if row != fmt.Sprintf("info %d", next) {
				if _, err := fmt.Sscanf(row, "%d event", &events); err != nil {
					return true
				}
			}
			next += events
			return false
		})
		if next == n && stray < 0 {
			return rows
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d of %d events, and row %d is out of place (-1: none), in\n%q", next, n, stray, rows)
		}
	}
}

// rows returns what the rows in sight say, with TIME instead of each time.
func (p *page) rows() (texts []string) {
	p.t.Helper()
	p.eval(`[...document.querySelectorAll('#list .row .message')].map(cell => cell.textContent.replace(/\d\d:\d\d:\d\d/g, 'TIME').replace('at TIME', 'between TIME and TIME'))`, &texts)
	return texts
}

const restarted = "Nobody knows how many events are missing between TIME and TIME: the server has restarted"

func testRestartedServer(t *testing.T, browser *chromium) {
	url, f, stop := serveAt(t, "127.0.0.1:0")
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	say(t, f, "info", 0, 5)
	p.wait(`document.getElementById('received').textContent === '5'`)
	want := numbered("info %d", 0, 5)
	for i := 5; i < 11; i += 3 {
		stop()
		p.wait(`document.getElementById('state').matches('.waiting, .connecting')`)
		_, f, stop = serveAt(t, strings.TrimPrefix(url, "http://"))
		say(t, f, "info", i, i+1) // perhaps before the page is back
		p.wait(isLive)
		say(t, f, "info", i+1, i+3)
		want = append(append(want, restarted), numbered("info %d", i, i+3)...)
		wantRows(t, p, want)
	}
	p.shot("after restarts")
	p.wait(`document.getElementById('missed').textContent === '0?'`)
	p.click(".row.gap")
	p.wait(`document.querySelector('#details .meta').textContent.includes('it has restarted')`)
	p.forgive()
}

func testCutConnection(t *testing.T, browser *chromium) {
	server, f := serveShort(t)
	r, url := newRelay(t, server)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	say(t, f, "info", 0, 5)
	p.wait(`document.getElementById('received').textContent === '5'`)
	for i := 5; i < 25; i += 10 {
		r.cut()
		p.wait(`document.getElementById('state').matches('.waiting, .connecting')`)
		say(t, f, "info", i, i+7)
		r.mend()
		p.wait(isLive)
		say(t, f, "info", i+7, i+10)
		wantRows(t, p, numbered("info %d", 0, i+10))
		p.wait(fmt.Sprintf(`document.getElementById('received').textContent === '%d' && document.getElementById('missed').textContent === '0'`, i+10))
	}

	// More than the server keeps. A page that is too slow for the rest is told of what it misses of that.
	r.cut()
	p.wait(`document.getElementById('state').matches('.waiting, .connecting')`)
	say(t, f, "info", 25, 1537)
	r.mend()
	p.wait(isLive)
	rows := wantAll(t, p, 1537)
	p.wait(settled + ` === 1537`)
	if want := append(numbered("info %d", 0, 25), "512 events are missing between TIME and TIME"); !slices.Equal(rows[:min(26, len(rows))], want) {
		t.Errorf("got %q first, want %q", rows, want)
	}
	p.forgive()
}

func testGapText(t *testing.T, browser *chromium) {
	url, _ := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	for gap, want := range map[string]string{
		`{reason: 'slow', dropped: 1, byLevel: {error: 1}}`:                                     "1 event missed: 1 error",
		`{reason: 'slow', dropped: 1234, byLevel: {'': 4, debug: 1230}}`:                        "1,234 events missed: 1,230 debug, 4 issue updates",
		`{reason: 'slow', atMost: 12, byLevel: {}}`:                                             "At most 12 events missed",
		`{reason: 'away', dropped: 12, byLevel: {}}`:                                            "12 events are missing between 12:00:03 and 12:00:09",
		`{reason: 'away', dropped: 1, byLevel: {}}`:                                             "1 event is missing between 12:00:03 and 12:00:09",
		`{reason: 'away', atMost: 12, byLevel: {}}`:                                             "At most 12 events are missing between 12:00:03 and 12:00:09",
		`{reason: 'away', byLevel: {}}`:                                                         "Nobody knows how many events are missing between 12:00:03 and 12:00:09: the server has restarted",
		`{reason: 'relay', dropped: 2, byLevel: {}}`:                                            "2 events are missing between 12:00:03 and 12:00:09",
		`{reason: 'relay', byLevel: {}}`:                                                        "Nobody knows how many events are missing between 12:00:03 and 12:00:09",
		`{reason: 'away', dropped: 2, byLevel: {}, until: new Date(2026, 0, 1, 12, 0, 3, 900)}`: "2 events are missing at 12:00:03",
	} {
		var got string
		p.eval(`import('/assets/gap.js').then(({Gap}) => new Gap({since: new Date(2026, 0, 1, 12, 0, 3), until: new Date(2026, 0, 1, 12, 0, 9), ...`+gap+`}).text)`, &got)
		if got != want {
			t.Errorf("%s: got %q, want %q", gap, got, want)
		}
	}
}

// testGapAloud hears what a screen reader is told of a gap, whether its levels are known or not.
func testGapAloud(t *testing.T, browser *chromium) {
	url, _ := serve(t)
	for text, want := range map[string]string{"3 info, 1 error": "4 events missed: 3 info, 1 error", "": "4 events missed"} {
		p := browser.open(t, 1280, 800, url+"/?project=shop")
		p.wait(isLive)
		p.eval(fmt.Sprintf(`import('/assets/announce.js').then(m => m.sayMissed(4, %q))`, text), nil)
		p.wait(fmt.Sprintf(`document.getElementById('status').textContent === %q`, want))
	}
}

const showingErrors = "Filters changed: showing error events"

// testLevel chooses a level, and sees the newest events of that level.
func testLevel(t *testing.T, browser *chromium) {
	url, f := serve(t)
	say(t, f, "error", 0, 250)
	say(t, f, "info", 0, 300)
	old := `{"type":"event","level":"error","time":"2020-01-01T00:00:00Z","message":"long ago"}`
	if err := f.out.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Data: []byte(old)}); err != nil {
		t.Fatal(err)
	}
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive + ` && document.getElementById('received').textContent === '200'`)
	say(t, f, "info", 300, 301)
	p.wait(`document.getElementById('received').textContent === '201'`)
	p.key(" ")
	p.wait(`document.getElementById('pause').ariaPressed === 'true'`)
	p.click("#levels [value=error]")
	want := append(append([]string{showingErrors}, numbered("error %d", 51, 250)...), "long ago")
	wantRows(t, p, want)
	p.wait(isLive) // and not behind by years
	p.wait(isAtEnd + ` && document.getElementById('received').textContent === '201' && document.getElementById('rate').textContent.length < 4`)
	say(t, f, "info", 301, 310)
	say(t, f, "error", 250, 255)
	wantRows(t, p, append(want, numbered("error %d", 250, 255)...))

	// What was on its way before is not there twice: here, it has arrived and the page was busy.
	p.click("#levels [value='']")
	p.wait(`document.getElementById('status').textContent === 'Showing all events'`)
	p.eval(`void setTimeout(() => {
		for (const end = Date.now() + 500; Date.now() < end;);
		document.querySelector('#levels [value=error]').click();
	})`, nil)
	say(t, f, "error", 255, 280)
	p.wait(`document.getElementById('status').textContent === 'Showing error events'`)
	say(t, f, "error", 280, 285)
	p.wait(`document.querySelector('.row:last-child .message').textContent === 'error 284'`)
	var first int // 81, unless the page was done before the events came
	p.resize(1280, 40_000)
	p.wait(`document.querySelector('.row.filter:first-child')`)
	p.eval(`Number(document.querySelector('.row.filter').nextSibling.textContent.match(/error (\d+)/)[1])`, &first)
	want = append(append([]string{showingErrors}, numbered("error %d", first, 250)...), "long ago")
	wantRows(t, p, append(want, numbered("error %d", 250, 285)...))
	if len(want) < 150 {
		t.Errorf("got %d rows, want 200 events of before", len(want))
	}
}

// testLevelSlow chooses a level while the page has not handled all that has arrived.
func testLevelSlow(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	say(t, f, "error", 0, 50)
	p.wait(`Number(document.getElementById('rate').textContent) > 0`)
	p.click("#slow")
	p.wait(`document.getElementById('slowBar').textContent.includes(' of about ')`)
	say(t, f, "error", 50, 150)
	p.wait(`Number(document.querySelector('.row:last-child .message')?.textContent.slice(6)) > 50`)
	p.click("#levels [value=error]")
	p.wait(`document.getElementById('status').textContent === 'Showing error events'`)
	p.click("#slow")
	wantRows(t, p, append([]string{showingErrors}, numbered("error %d", 0, 150)...))
}
