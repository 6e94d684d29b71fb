package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// longMessages need several lines: of words, of one word, of wide letters, of the other direction, and of their own.
var longMessages = []string{
	"short",
	strings.Repeat("read tcp 10.0.3.220:443: i/o timeout; ", 12),
	strings.Repeat("x", 700),
	strings.Repeat("漢字とかな", 40),
	strings.Repeat("👩‍👩‍👧🚀é", 40),
	strings.Repeat("שלום עולם ", 30),
	"panic: nil\n\tat a.go:1\r\n\tat b.go:2\n\n  indented     spaces     stay",
	strings.Repeat("Grüße aus Österreich, naïve façade – ", 10),
	strings.Repeat("a\tb", 60),
}

// misfit lists the rows whose text needs more room than they have, or that don't stand one below the other.
const misfit = `(() => {
	const rows = [...document.querySelectorAll('#list .row')].sort((a, b) => a.offsetTop - b.offsetTop);
	return rows.filter((row, i) => {
		const message = row.querySelector('.message');
		return message.scrollHeight > message.clientHeight + 1 || message.scrollWidth > message.clientWidth + 1 || row.offsetHeight < 22 ||
			message.getBoundingClientRect().bottom > row.getBoundingClientRect().bottom + 1 ||
			i > 0 && Math.abs(rows[i - 1].offsetTop + rows[i - 1].offsetHeight - row.offsetTop) > 1;
	}).map(row => row.offsetTop + ' ' + row.offsetHeight + ' ' + row.querySelector('.message').scrollHeight + ' ' + row.textContent.slice(0, 60));
})()`

func testWrap(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.eval(`localStorage.removeItem('wrap')`, nil)
	p.wait(isLive)
	send := func(n int) {
		for i := range n {
			e := fields{Project: "shop", Level: levels[i%5], Environment: "production", Service: "api", Message: longMessages[i%len(longMessages)]}
			if i%3 == 0 {
				e.Issue = "SHOP-1"
			}
			if _, err := f.publishEvent(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 4 { // fewer than the window each, so that none is missed
		send(50)
		p.wait(fmt.Sprintf(`document.getElementById('received').textContent === '%d' && `, (i+1)*50) + isAtEnd)
	}
	p.wait(`[...document.querySelectorAll('.row')].every(row => row.offsetHeight === 22)`)
	p.eval(`document.getElementById('list').focus()`, nil)
	p.key("w")
	p.wait(`document.getElementById('wrap').ariaPressed === 'true' && [...document.querySelectorAll('.row')].some(row => row.offsetHeight > 60) && ` + isAtEnd)
	for _, width := range []int{1280, 1000, 700, 390, 320} {
		p.resize(width, 844)
		p.wait(isAtEnd)
		p.shot(fmt.Sprintf("wrapped, %d px", width))
		var bad []string
		p.eval(misfit, &bad)
		if len(bad) > 0 {
			t.Errorf("%d px: these rows don't fit: %q", width, bad)
		}
	}
	p.resize(1280, 800)
	p.wait(isAtEnd)

	// A reader in the middle stays there: the marked row keeps its place while lines wrap, and when they don't.
	p.key("Home")
	for range 30 {
		p.key("ArrowDown")
	}
	const marked = `document.querySelector('[aria-selected=true]')`
	p.wait(marked + `?.id === 'row31'`)
	place := func() (top float64, text string) {
		var got struct {
			Top  float64
			Text string
		}
		p.eval(`(row => ({Top: row.getBoundingClientRect().top, Text: row.id}))(`+marked+`)`, &got)
		return got.Top, got.Text
	}
	before, row := place()
	for _, pressed := range []string{"false", "true"} {
		p.key("w")
		p.wait(`document.getElementById('wrap').ariaPressed === '` + pressed + `'`)
		p.eval(`new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))`, nil)
		if after, now := place(); now != row || after < before-1 || after > before+1 {
			t.Errorf("wrap %s: the marked row %s at %v is now %s at %v", pressed, row, before, now, after)
		}
		var bad []string
		if p.eval(misfit, &bad); pressed == "true" && len(bad) > 0 {
			t.Errorf("in the middle, these rows don't fit: %q", bad)
		}
	}
	// Events that arrive don't move what is read; a click is for the row under the pointer.
	send(50)
	p.wait(`document.getElementById('received').textContent === '250'`)
	if after, now := place(); now != row || after != before {
		t.Errorf("the marked row %s at %v is now %s at %v", row, before, now, after)
	}
	p.key("Escape")
	p.wait(isAtEnd)
	p.click(".row:last-child .message")
	p.wait(`document.querySelector('[aria-selected=true]') === document.querySelector('.row:last-child')`)
	p.click("#details .close")

	// More than the list keeps: the oldest go, and the rest stands where it belongs.
	for i := range 70 {
		send(100)
		p.wait(fmt.Sprintf(`document.querySelector('.row:last-child').item.message === %q && Number(document.getElementById('received').textContent.replaceAll(',', '')) >= %d && `, longMessages[99%len(longMessages)], (i+1)*50) + isAtEnd)
	}
	var bad []string
	if p.eval(misfit, &bad); len(bad) > 0 {
		t.Errorf("after the oldest have gone, these rows don't fit: %q", bad)
	}

	p.call("Page.reload", nil)
	p.wait(isLive + ` && document.getElementById('wrap').ariaPressed === 'true' && document.getElementById('received').textContent === '0'`)
	p.click("#wrap")
	p.call("Page.reload", nil)
	p.wait(isLive + ` && document.getElementById('wrap').ariaPressed === 'false'`)
}

func testDetails(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.eval(`window.copied = ''; Object.defineProperty(navigator, 'clipboard', {value: {writeText: async text => { window.copied = text; }}})`, nil)
	p.wait(isLive)
	for i, data := range []string{
		strings.Repeat("[", 9900) + strings.Repeat("]", 9900),
		strings.Repeat(`{"a":`, 5000) + `1` + strings.Repeat("}", 5000),
		strings.Repeat(`[{"a":[`, 900) + `"x"` + strings.Repeat("]}]", 900),
		`{"large":12345678901234567890,"exact":1.10,"small":1e-400}`,
		`{"html":"<b>&","quote":"\"\\","stack":"java.lang.Error: x\n\tat a.b.C(D.java:1)\n\tat e.F"}`,
		`[` + strings.Repeat("1,", 14_000) + `1]`,
		`"` + strings.Repeat("x", 30_000) + `"`,
		`{"` + strings.Repeat("k", 15_000) + `":"` + strings.Repeat("v", 15_000) + `"}`,
		`"lone \ud800 surrogate and \u202e override"`,
		`null`, `[]`, `{}`, `[{},[]]`, `0`,
	} {
		e := fields{Project: "shop", Level: "info", Environment: "production", Message: fmt.Sprintf("data %d", i), Data: json.RawMessage(data)}
		if _, err := f.publishEvent(e); err != nil {
			t.Fatal(err)
		}
		p.wait(fmt.Sprintf(`document.querySelector('.row:last-child .message')?.textContent === 'data %d'`, i))
		p.eval(`document.querySelector('.row:last-child').click()`, nil)
		p.wait(fmt.Sprintf(`document.querySelector('#details .title').textContent === 'data %d' && document.querySelector('#details .json').textContent.length > 20`, i))
		p.eval(`document.querySelector('#details .copy').click()`, nil)
		p.wait(`window.copied !== ''`)
		var copied string
		p.eval(`(text => { window.copied = ''; return text; })(window.copied)`, &copied)
		var got struct{ Data json.RawMessage }
		if err := json.Unmarshal([]byte(copied), &got); err != nil {
			t.Errorf("data %d: what is copied is no JSON: %v", i, err)
		} else if want := compact(t, data); compact(t, string(got.Data)) != want {
			t.Errorf("data %d: got %.200s, want %.200s", i, compact(t, string(got.Data)), want)
		}
		if i == 4 {
			p.shot("details with a stack trace")
			p.wait(`document.querySelector('#details .json').textContent.includes('"java.lang.Error: x\n') && document.querySelector('#details .json').textContent.includes('"<b>&"')`)
		}
		p.eval(`document.querySelector('#details .close').click()`, nil)
	}
	var wide int
	p.eval(`document.scrollingElement.scrollWidth - innerWidth`, &wide)
	if wide > 0 {
		t.Errorf("the page is %d px wider than the window", wide)
	}
}

// compact returns JSON without spaces, and with its strings in one form.
func compact(t *testing.T, text string) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var b strings.Builder
	for {
		token, err := d.Token()
		if err != nil {
			return b.String()
		}
		fmt.Fprintf(&b, "%v ", token)
	}
}
