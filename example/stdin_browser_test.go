package main

import (
	"fmt"
	"strings"
	"testing"
)

// A log that has times of its own doesn't put the page behind, and a trace is one row with the rest in its details.
func testLogged(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	log := "web-1  | 2026-01-01 01:02:03.456 INFO now\n" +
		"web-1  | 2020-01-01 04:05:06.789 ERROR long ago\n" +
		"web-1  | java.lang.IllegalStateException: no cart\n" +
		"web-1  | \tat com.example.Cart.total(Cart.java:31)\n"
	streamLines(t.Context(), strings.NewReader(log), f, fields{Project: "shop", Environment: "local"})
	p.wait(`document.getElementById('received').textContent === '2'`)

	var rows []string
	p.eval(`[...document.querySelectorAll('#list .row')].map(row => ['time', 'level', 'service', 'message'].map(c => row.querySelector('.' + c).textContent).join(' '))`, &rows)
	want := []string{"01:02:03.456 info web-1 INFO now", "04:05:06.789 error web-1 ERROR long ago"}
	if strings.Join(rows, "\n") != strings.Join(want, "\n") {
		t.Errorf("got rows %q, want %q", rows, want)
	}
	var state string
	p.eval(`document.getElementById('state').textContent`, &state)
	if !strings.HasPrefix(state, "Live") {
		t.Errorf("got the state %q, want Live: the times are those of the log", state)
	}
	p.eval(`void [...document.querySelectorAll('#list .row')].at(-1).click()`, nil)
	p.wait(`document.body.textContent.includes('at com.example.Cart.total(Cart.java:31)')`)
}

// A page that is opened after the last line shows the last ones, the times of which may be of long ago.
func testLoggedBefore(t *testing.T, browser *chromium) {
	var log strings.Builder
	for i := range 250 {
		fmt.Fprintf(&log, "2020-01-01T00:00:00Z INFO line %d\n", i)
	}
	app, m, f, err := newApp(localhost)
	if err != nil {
		t.Fatal(err)
	}
	streamLines(t.Context(), strings.NewReader(log.String()), f, fields{Project: "shop", Environment: "local"}) // before it listens
	url, _ := listen(t, app, m, "127.0.0.1:0")
	for range 2 {
		p := browser.open(t, 1280, 800, url+"/?project=shop")
		p.wait(isLive)
		wantRows(t, p, numbered("INFO line %d", 50, 250))
	}
}
