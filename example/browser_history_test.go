package main

import (
	"fmt"
	"slices"
	"testing"
	"time"
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

// wantRows waits until the list has these rows, also those that are not in sight.
func wantRows(t *testing.T, p *page, want []string) {
	t.Helper()
	p.resize(1280, 40_000)
	defer p.resize(1280, 800)
	var got []string
	for deadline := time.Now().Add(patience); !slices.Equal(got, want); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %d rows, want %d:\n%q\n%q", len(got), len(want), got, want)
		}
		p.eval(`[...document.querySelectorAll('#list .row .message')].map(cell => cell.textContent)`, &got)
	}
}
