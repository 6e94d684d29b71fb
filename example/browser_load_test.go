package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/mesher/mesherstream"
)

// settled is how many events the page has shown or been told of.
const settled = `document.getElementById('received').textContent.replaceAll(',', '') - -document.getElementById('missed').textContent.replaceAll(',', '')`

// starve publishes info events, n at a time and numbered from a number, while the page is held, until it has missed some. It
// returns the number after the last one, and what the button in the row of the gap says.
func starve(t *testing.T, p *page, f *feed, from, n int) (to int, offer string) {
	t.Helper()
	for to = from; p.text("missed") == "0"; {
		release := p.hold()
		say(t, f, "info", to, to+n)
		release()
		to += n
		p.wait(fmt.Sprintf(`%s === %d`, settled, to))
	}
	p.resize(1280, 40_000)
	p.wait(`document.querySelectorAll('.row.gap').length === 1`)
	p.eval(`document.querySelector('.row.gap .load')?.textContent ?? ''`, &offer)
	return to, offer
}

// press clicks on what may be out of sight in the list.
func (p *page) press(selector string) {
	p.t.Helper()
	p.resize(1280, 40_000)
	p.eval(`new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))`, nil)
	p.click(selector)
	p.resize(1280, 800)
}

// serveShort runs a new app, which keeps no more than 1,000 events.
func serveShort(t *testing.T) (url string, f *feed) {
	t.Helper()
	app, m, f, err := newApp(localhost, mesherstream.WithHistory(1000))
	if err != nil {
		t.Fatal(err)
	}
	url, _ = listen(t, app, m, "127.0.0.1:0")
	return url, f
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.ReplaceAll(text, ",", ""))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func testLoad(t *testing.T, browser *chromium) {
	server, f := serve(t)
	r, url := newRelay(t, server)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	n, offer := starve(t, p, f, 0, 600)
	missed := p.text("missed")
	if want := "Load " + missed + " missed"; offer != want {
		t.Errorf("the button says %q, want %q", offer, want)
	}

	p.eval(`window.said = []; new MutationObserver(() => said.push(document.getElementById('status').textContent)).observe(document.getElementById('status'), {childList: true})`, nil)

	// On a later connection, and while there is none.
	r.cut()
	p.wait(`document.getElementById('state').matches('.waiting, .connecting')`)
	p.press(".row.gap .load")
	p.resize(1280, 40_000)
	p.wait(`(b => b.disabled && b.textContent === 'Loading…')(document.querySelector('.row.gap .load') ?? {})`)
	p.wait(`said.includes('Loading ` + missed + ` missed events')`)
	r.mend()
	p.wait(`said.includes('Loaded ` + missed + ` missed events')`)
	say(t, f, "info", n, n+3)
	wantRows(t, p, numbered("info %d", 0, n+3))
	p.wait(fmt.Sprintf(`document.getElementById('missed').textContent === '0' && document.getElementById('received').textContent.replaceAll(',', '') === '%d' && `, n+3) + isAtEnd)
	p.forgive()
}

// testLoadSome has the server keep less than was missed.
func testLoadSome(t *testing.T, browser *chromium) {
	url, f := serveShort(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	n, offer := starve(t, p, f, 0, 2000)
	missed := number(t, p.text("missed"))
	words := strings.Fields(offer) // Load 900 of 1,772 missed
	if len(words) != 5 || words[0]+words[2]+words[4] != "Loadofmissed" || number(t, words[3]) != missed {
		t.Fatalf("the button says %q, with %d missed", offer, missed)
	}
	held := number(t, words[1])
	var first int
	p.eval(`Number(document.querySelector('.row.gap').previousSibling.textContent.match(/info (\d+)/)[1]) + 1`, &first)

	// By the keyboard, in the details.
	p.eval(`document.getElementById('list').focus()`, nil)
	p.key("Home")
	for range first {
		p.key("ArrowDown")
	}
	p.key("Enter")
	p.wait(`document.querySelector('#details .load').textContent === document.querySelector('.row.gap .load')?.textContent && document.querySelector('[aria-selected=true].gap')`)
	p.eval(`document.querySelector('#details .load').focus()`, nil)
	p.key("Enter")
	rest := fmt.Sprintf("%d events missed: %[1]d info", missed-held)
	if missed-held >= 1000 {
		t.Fatalf("%d of %d events are held", held, missed)
	}
	p.wait(`document.querySelector('#details .title').textContent === '` + rest + `' && document.querySelector('#details .load').hidden && document.activeElement.closest('#details')`)
	p.key("Escape")
	want := append(numbered("info %d", 0, first), rest)
	wantRows(t, p, append(want, numbered("info %d", first+missed-held, n)...))
	p.wait(fmt.Sprintf(`document.getElementById('missed').textContent === '%d' && !document.querySelector('.row .load')`, missed-held))
}

// testLoadStill has a reader see the newest events, who has paused.
func testLoadStill(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	n, _ := starve(t, p, f, 0, 600)
	p.resize(1280, 800)
	p.wait(isAtEnd)
	p.click("#pause")
	p.wait(`document.getElementById('pause').ariaPressed === 'true'`)
	newest := fmt.Sprintf(`[...document.querySelectorAll('.row')].find(row => row.querySelector('.message').textContent === 'info %d')?.getBoundingClientRect().bottom`, n-1)
	var before, after float64
	p.resize(1280, 4000) // 100 of the buffer, and the gap above them
	p.wait(`document.querySelector('.row.gap .load')`)
	p.wait(newest + ` <= document.getElementById('list').getBoundingClientRect().bottom`)
	p.eval(newest, &before)
	p.click(".row.gap .load")
	p.wait(`!document.querySelector('.row.gap') && document.getElementById('missed').textContent === '0'`)
	p.shot("loaded while paused")
	if p.eval(newest, &after); after != before {
		t.Errorf("the newest event moved from %v to %v", before, after)
	}
	p.wait(`document.getElementById('pause').ariaPressed === 'true'`)
}

// testLoadLate has the server keep nothing of what was missed.
func testLoadLate(t *testing.T, browser *chromium) {
	url, f := serveShort(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	n, _ := starve(t, p, f, 0, 600)
	missed := p.text("missed")
	for range 20 {
		say(t, f, "info", n, n+50)
		n += 50
		p.wait(fmt.Sprintf(`document.querySelector('.row:last-child .message')?.textContent === 'info %d'`, n-1))
	}
	p.press(".row.gap .load")
	p.wait(`document.getElementById('toast').textContent === 'These events can’t be loaded: the server no longer has them'`)
	p.resize(1280, 40_000)
	p.wait(`document.querySelector('.row.gap .message')?.textContent === '` + missed + ` events missed: ` + missed + ` info' && !document.querySelector('.row .load')`)
}

func testLoadFails(t *testing.T, browser *chromium) {
	url, f, stop := serveAt(t, "127.0.0.1:0")
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	starve(t, p, f, 0, 600)
	missed := p.text("missed")
	stop()
	_, f, _ = serveAt(t, strings.TrimPrefix(url, "http://"))
	p.wait(`document.querySelector('.row.gap.away')`)
	p.press(".row.gap .load")
	p.wait(`document.getElementById('toast').textContent === 'These events can’t be loaded: the server has restarted since, and no longer has them'`)
	p.resize(1280, 40_000)
	p.wait(`document.querySelector('.row.gap:not(.away) .message')?.textContent === '` + missed + ` events missed: ` + missed + ` info' && !document.querySelector('.row .load')`)
	p.forgive()

	// Another stream can't ask for the gap of one that has been closed.
	p.click("#clear")
	p.wait(`document.getElementById('missed').textContent === '0' && document.getElementById('received').textContent === '0'`)
	starve(t, p, f, 0, 600)
	disconnect(t, f, 4000, "disconnected by an operator")
	p.wait(`document.getElementById('state').matches('.closed')`)
	p.click("#again")
	p.wait(isLive)
	p.press(".row.gap .load")
	p.wait(`document.getElementById('toast').textContent === 'These events can’t be loaded: the connection on which they were missed has been closed for good'`)
	p.resize(1280, 40_000)
	p.wait(`document.querySelector('.row.gap') && !document.querySelector('.row .load')`)
}

// crowded lists what is wrong with the room that a button has in the row of a gap.
const crowded = `[...document.querySelectorAll('.row .load')].flatMap(button => {
	const b = button.getBoundingClientRect(), row = button.closest('.row').getBoundingClientRect();
	const texts = [...button.closest('.row').querySelectorAll('.time, .message')].map(cell => cell.getBoundingClientRect());
	const over = r => r.left < b.right - 1 && b.left < r.right - 1 && r.top < b.bottom - 1 && b.top < r.bottom - 1;
	return [b.left < row.left || b.right > row.right || b.top < row.top || b.bottom > row.bottom ? 'it leaves the row' : '',
		texts.some(over) ? 'it covers a text' : '', button.scrollWidth > button.clientWidth ? 'it is cut' : ''].filter(Boolean);
})`

func testLoadButton(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.eval(`localStorage.removeItem('wrap')`, nil)
	p.wait(isLive)
	starve(t, p, f, 0, 2000)
	p.eval(`(text => { text.value = 'nothing says this'; text.dispatchEvent(new Event('input')); })(document.getElementById('text'))`, nil)
	for _, wrap := range []string{"", ", wrapped"} {
		for _, theme := range []string{"dark", "light"} {
			p.theme(theme)
			for _, width := range []int{1280, 1000, 640, 390, 320} {
				p.resize(width, 844)
				p.wait(`document.querySelector('.row .load')`)
				p.shot(fmt.Sprintf("load, %s%s, %d px", theme, wrap, width))
				var bad, fit []string
				p.eval(crowded, &bad)
				if p.eval(misfit, &fit); wrap != "" {
					bad = append(bad, fit...)
				}
				var colours struct{ Bad []string }
				p.eval(contrast, &colours)
				if bad = append(bad, colours.Bad...); len(bad) > 0 {
					t.Errorf("%s%s, %d px: %q", theme, wrap, width, bad)
				}
			}
		}
		p.eval(`document.getElementById('wrap').click()`, nil)
	}
	p.eval(`localStorage.removeItem('wrap')`, nil)
}
