package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mesher/mesherstream"
)

func testShortcuts(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	publish(t, f, 90)
	p.wait(isLast89)
	const open = `document.getElementById('keys').matches(':popover-open')`
	p.eval(`document.getElementById('list').focus()`, nil)
	p.key("ArrowUp")
	p.wait(`document.querySelector('[aria-selected=true]')`)
	p.key("?")
	p.wait(open + ` && document.getElementById('keys').contains(document.activeElement)`)
	p.shot("shortcuts")
	p.key(" ") // is the dialog's now
	p.key("Escape")
	p.wait(`!` + open + ` && document.activeElement.id === 'list'`)
	p.wait(`document.querySelector('[aria-selected=true]') && document.getElementById('pause').ariaPressed === 'false'`)
	p.key("?")
	p.wait(open)
	p.key("?")
	p.wait(`!` + open)
	p.key("/")
	p.wait(`document.activeElement.id === 'text'`)
	p.key("?")
	p.wait(`document.getElementById('text').value === '?' && !` + open)
}

func testNothingMatches(t *testing.T, browser *chromium) {
	url, f, stop := serveAt(t, "127.0.0.1:0")
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	publish(t, f, 20)
	p.wait(`document.getElementById('received').textContent === '20'`)
	stop()
	serveAt(t, strings.TrimPrefix(url, "http://"))
	p.wait(`document.querySelector('.row.gap')`) // no filter hides it
	p.wait(isLive)
	p.forgive()
	p.click("#text")
	p.call("Input.insertText", map[string]any{"text": "nothing says this"})
	const said = `document.querySelector('#nothingMatches h2').checkVisibility() && !document.getElementById('waitingForFirst').checkVisibility()`
	p.wait(said + ` && document.querySelectorAll('.row').length === 1`)
	p.wait(`document.getElementById('nothingMatchesHint').textContent.startsWith('The filters hide all 20 events')`)
	for _, theme := range []string{"dark", "light"} {
		p.theme(theme)
		for _, width := range []int{1280, 390, 320} {
			p.resize(width, 844)
			p.shot(fmt.Sprintf("nothing matches, %s, %d px", theme, width))
			p.wait(`(r => document.elementFromPoint(r.x + 30, r.y + r.height / 2).closest('.row.gap'))(document.querySelector('.row.gap').getBoundingClientRect())`)
			p.wait(`(r => document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2) === document.getElementById('everything'))(document.getElementById('everything').getBoundingClientRect())`)
		}
	}
	p.resize(1280, 800)
	p.click("#everything")
	p.wait(`document.getElementById('empty').hidden && document.getElementById('text').value === '' && document.querySelectorAll('.row').length >= 21 && document.activeElement.id === 'list'`)

	// Nothing has come yet, and the filters are narrow.
	other := browser.open(t, 1280, 800, url+"/?project=other&level=error")
	other.wait(isLive)
	other.wait(said + ` && document.getElementById('nothingMatchesHint').textContent.startsWith('No event on this page matches')`)
}

func testAddress(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop&level=audit,error&level=error&environment=production&environment=qa%20%C3%A9&words=Event+83")
	p.wait(isLive)
	pressed := func(group string) string {
		return fmt.Sprintf(`[...document.querySelectorAll('#%s [aria-pressed=true]')].map(c => c.textContent).join()`, group)
	}
	p.wait(pressed("levels") + ` === 'error,audit'`) // as the chips stand
	p.wait(pressed("environments") + ` === 'production,qa é'`)
	p.wait(`document.getElementById('text').value === 'Event 83'`)
	publish(t, f, 90)
	p.wait(`document.getElementById('received').textContent === '18'`)
	p.wait(`document.querySelectorAll('.row').length === 1 && document.querySelector('.row .message').textContent === 'event 83'`)

	// Each choice is an address; words that are still being typed are one.
	p.click("#levels [value=audit]")
	p.wait(`new URLSearchParams(location.search).get('level') === 'error'`)
	p.click("#text")
	p.eval(`document.getElementById('text').select()`, nil)
	for _, letter := range []string{"e", "v", "3"} {
		p.call("Input.insertText", map[string]any{"text": letter})
		p.wait(fmt.Sprintf(`new URLSearchParams(location.search).get('words')?.endsWith(%q)`, letter))
	}
	p.wait(`new URLSearchParams(location.search).get('words') === 'ev3'`)
	p.eval(`history.back()`, nil)
	p.wait(`document.getElementById('text').value === 'Event 83' && ` + pressed("levels") + ` === 'error'`)
	p.eval(`history.back()`, nil)
	p.wait(pressed("levels") + ` === 'error,audit' && new URLSearchParams(location.search).get('words') === 'Event 83'`)
	p.eval(`history.forward()`, nil)
	p.wait(pressed("levels") + ` === 'error'`)
	p.eval(`history.forward()`, nil)
	p.wait(`document.getElementById('text').value === 'ev3'`)
	p.call("Page.reload", nil)
	p.wait(`document.readyState === 'complete' && document.getElementById('text')?.value === 'ev3'`)
	p.wait(isLive)
	p.wait(pressed("levels") + ` === 'error' && ` + pressed("environments") + ` === 'production,qa é'`)

	// What no filter can have is said, and doesn't keep the page from its stream.
	for query, said := range map[string]string{
		"level=" + strings.Repeat("x", 65):               "would refuse",
		"level=" + strings.Repeat("a,", 10) + manyLevels: "would refuse",
		"project=my+shop":                                "can’t be the name of a project",
	} {
		odd := browser.open(t, 1280, 800, url+"/?"+query)
		odd.wait(isLive)
		odd.wait(fmt.Sprintf(`document.getElementById('toast').textContent.includes(%q)`, said))
	}
	chips := browser.open(t, 390, 844, url+"/?level="+strings.Repeat("w", 64)+"&environment="+strings.Repeat("é", 32))
	chips.wait(isLive)
	chips.wait(`[...document.querySelectorAll('.chip')].every(chip => chip.getBoundingClientRect().width < 200)`)
	chips.wait(`document.querySelectorAll('.chip[title]').length === 2`)
}

// manyLevels are more than a filter takes.
const manyLevels = "b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s"

func testHighlight(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop&words=PAY+%281%2B1%29.*")
	p.wait(isLive)
	message := "payment <b>(1+1).*</b> of İstanbul: repay in full"
	e := fields{Project: "shop", Level: "error", Environment: "production", Service: "payments", Message: message}
	if _, err := f.publishEvent(e); err != nil {
		t.Fatal(err)
	}
	marks := func(selector string) string {
		return fmt.Sprintf(`[...document.querySelectorAll('%s mark')].map(m => m.textContent).join('|')`, selector)
	}
	p.wait(marks(".row .message") + ` === 'pay|(1+1).*|pay'`)
	p.wait(marks(".row .service") + ` === 'pay'`)
	p.wait(fmt.Sprintf(`document.querySelector('.row .message').textContent === %q && !document.querySelector('.row b')`, message))
	p.click(".row .message")
	p.wait(marks("#details .title") + ` === 'pay|(1+1).*|pay'`)
	p.click("#details .close")

	// Rows are used again for other events, and other words mark them again.
	p.eval(`(text => { text.value = 'istanbul'; text.dispatchEvent(new Event('input')); text.value = 'full prod'; text.dispatchEvent(new Event('input')); })(document.getElementById('text'))`, nil)
	p.wait(marks(".row") + ` === 'prod|full'`)
	publish(t, f, 90)
	p.eval(`(text => { text.value = 'event 8'; text.dispatchEvent(new Event('input')); })(document.getElementById('text'))`, nil)
	p.wait(`document.querySelectorAll('.row').length > 10 && [...document.querySelectorAll('.row')].every(row => row.querySelector('.message mark:nth-of-type(1)')?.textContent === 'event')`)
	for _, theme := range []string{"light", "dark"} {
		p.theme(theme)
		p.wait(fmt.Sprintf(`(%s).Checked > 20 && (%s).Bad.length === 0`, contrast, contrast))
	}
	p.eval(`document.getElementById('text').value = ''; document.getElementById('text').dispatchEvent(new Event('input'))`, nil)
	p.wait(`document.querySelectorAll('.row').length > 20 && !document.querySelector('.row mark')`)
}

func testTitle(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop&level=error,fatal")
	p.wait(isLive)
	publish(t, f, 20)
	p.wait(`document.getElementById('received').textContent === '8'`)
	p.wait(`document.title === 'shop · Live events'`)
	hide := func(hidden bool) {
		p.eval(fmt.Sprintf(`Object.defineProperty(document, 'hidden', {configurable: true, value: %t});
			Object.defineProperty(document, 'visibilityState', {configurable: true, value: %t ? 'hidden' : 'visible'});
			document.dispatchEvent(new Event('visibilitychange'))`, hidden, hidden), nil)
	}
	for range 2 {
		hide(true)
		publish(t, f, 30)
		p.wait(`document.title === '(12) shop · Live events'`)
		hide(false)
		p.wait(`document.title === 'shop · Live events'`)
	}
	p.wait(`document.getElementById('received').textContent === '32'`)

	// Only what the words let through is news.
	p.eval(`document.getElementById('text').value = 'event 3'; document.getElementById('text').dispatchEvent(new Event('input'))`, nil)
	hide(true)
	publish(t, f, 10)
	p.wait(`document.title === '(1) shop · Live events'`)
	hide(false)
}

func testOddMessages(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 390, 844, url+"/?project=shop")
	p.wait(isLive)
	m := f.out.(*mesherstream.Manager)
	odd := []mesherstream.Message{
		{Data: []byte("plain text <b>")},
		{Data: []byte{0, 1, 2, 0xff}, Binary: true},
		{Data: []byte("null")},
		{Data: []byte("42")},
		{Data: []byte(`["a", 1]`)},
		{Data: []byte(`{"type":"event"}`)},
		{Data: []byte(`{"type":"event","time":"yesterday","level":7,"message":null,"environment":["a"],"service":{},"tags":null}`)},
		{Data: []byte(`{"type":"event","level":"row gap","message":{"deep":[1]},"tags":"none"}`)},
		{Data: []byte(`{"type":"event","level":"info","message":"שלום עולם \u202e reversed \u0000 end"}`)},
		{Data: []byte(`{"type":"event","level":"info","message":"👩‍👩‍👧 ` + strings.Repeat("🚀", 300) + `"}`)},
		{Data: []byte(`{"type":"event","level":"info","__proto__":{"x":1},"message":"` + strings.Repeat("x", 100_000) + `"}`)},
		{Data: []byte(`{"type":"event","level":"info","message":` + strings.Repeat("[", 9900) + strings.Repeat("]", 9900) + `}`)},
		{Data: []byte(`{"type":"notice","issue":"A-1","action":"explode","revision":1,"count":2,"state":"open"}`)},
	}
	for _, msg := range odd {
		msg.Project = "shop"
		if err := m.Broadcast(msg); err != nil {
			t.Fatal(err)
		}
	}
	p.wait(fmt.Sprintf(`document.querySelectorAll('.row').length === %d`, len(odd)))
	for _, wrap := range []bool{false, true} {
		for i := range odd {
			p.eval(`document.getElementById('list').focus()`, nil)
			p.key("Home")
			for range i {
				p.key("ArrowDown")
			}
			p.key("Enter")
			p.wait(`!document.getElementById('details').hidden`)
			p.key("Escape")
			p.wait(`document.getElementById('details').hidden`)
		}
		var text string
		p.eval(`document.getElementById('list').innerText`, &text)
		for _, bad := range []string{"NaN", "undefined", "[object", "Invalid"} {
			if strings.Contains(text, bad) {
				t.Errorf("wrapped %v: the list says %q:\n%s", wrap, bad, text)
			}
		}
		p.eval(`document.getElementById('wrap').click()`, nil)
	}
	if _, err := f.publishEvent(fields{Project: "shop", Level: "info", Environment: "production", Message: "the page goes on"}); err != nil {
		t.Fatal(err)
	}
	p.wait(`document.querySelector('.row:last-child .message').textContent === 'the page goes on'`)
}
