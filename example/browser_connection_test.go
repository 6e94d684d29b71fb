package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// disconnect closes every client of the server with a code and a reason.
func disconnect(t *testing.T, f *feed, code int, reason string) {
	t.Helper()
	m := f.out.(*mesherstream.Manager)
	for c := range m.Clients() {
		if err := m.Disconnect(c.ID, code, reason); err != nil {
			t.Fatal(err)
		}
	}
}

// broadcast publishes messages of which nothing is known but the text: they have no number by which to tell them apart.
func broadcast(t *testing.T, f *feed, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := f.out.Broadcast(mesherstream.Message{Project: "shop", Level: "debug", Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
}

func testConnectNow(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	publish(t, f, 20)
	p.wait(`document.getElementById('received').textContent === '20'`)
	p.eval(`window.sameDocument = true`, nil)
	want := numbered("event %d", 0, 20)
	for _, c := range []struct {
		code           int
		reason, button string
	}{
		{1013, "busy; retry_after_ms=3600000", "Connect now"},
		{1012, "restart; retry_after_ms=3600000", "Connect now"},
		{4000, "disconnected by an operator", "Connect again"},
		{4000, "disconnected by an operator", "Connect again"},
	} {
		broadcast(t, f, "same", "same", "last")
		p.wait(`document.querySelector('.row:last-child .message').textContent === 'last'`)
		disconnect(t, f, c.code, c.reason)
		p.wait(fmt.Sprintf(`(b => b.checkVisibility() && b.textContent === %q)(document.getElementById('again'))`, c.button))
		broadcast(t, f, "away", "same")
		p.eval(`document.getElementById('again').focus()`, nil)
		p.key("Enter")
		p.wait(isLive + ` && document.getElementById('again').hidden && document.activeElement.id === 'list'`)
		broadcast(t, f, "back")
		want = append(want, "same", "same", "last", "away", "same", "back")
		wantRows(t, p, want)
	}
	p.wait(`window.sameDocument`)

	// Other filters than before: what is shown is what they accept.
	disconnect(t, f, 4000, "disconnected by an operator")
	p.wait(`document.getElementById('state').matches('.closed')`)
	p.click("#levels [value=error]")
	p.click("#again")
	wantRows(t, p, []string{"event 3", "event 8", "event 13", "event 18"})

	clients := browser.open(t, 1280, 800, url+"/clients")
	clients.wait(isLive)
	disconnect(t, f, 1013, "busy; retry_after_ms=3600000")
	clients.wait(`document.getElementById('again').checkVisibility()`)
	clients.click("#again")
	clients.wait(isLive + ` && document.getElementById('again').hidden`)
}

func testStateText(t *testing.T, browser *chromium) {
	url, _ := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	for _, c := range []struct{ state, info, want string }{
		{"connecting", `undefined`, "Connecting"},
		{"open", `undefined`, "Live"},
		{"waiting", `{code: 1006, reason: ''}`, "Connection lost, reconnecting"},
		{"closed", `{code: 4000, reason: 'disconnected by an operator'}`, "Disconnected by an operator"},
		{"closed", `{code: 4000, reason: 'Disconnected: too slow'}`, "Disconnected: too slow"},
		{"closed", `{code: 4001, reason: 'the session has ended'}`, "Disconnected: the session has ended"},
		{"closed", `{code: 4001, reason: '<b>bold</b>'}`, "Disconnected: <b>bold</b>"},
		{"closed", `{code: 1008, reason: ' '}`, "Disconnected (code 1008)"},
		{"closed", `{code: 1000, reason: ''}`, "Disconnected"},
		{"closed", `{code: 1006, reason: 'HTTP 401', status: 401}`, "Disconnected: you are not signed in"},
		{"closed", `{code: 1006, reason: 'HTTP 403', status: 403}`, "Disconnected: you have no access to this project"},
		{"closed", `{code: 1006, reason: 'HTTP 404', status: 404}`, "Disconnected: the server refused the connection (HTTP 404)"},
	} {
		var got string
		p.eval(fmt.Sprintf(`import('/assets/state.js').then(m => m.stateText(%q, %s))`, c.state, c.info), &got)
		if got != c.want {
			t.Errorf("%s %s: got %q, want %q", c.state, c.info, got, c.want)
		}
	}
	var long string
	p.eval(`import('/assets/state.js').then(m => {
		const pill = document.createElement('span');
		m.drawState(pill, {state: 'waiting', info: {code: 1001, reason: '', retryAt: Infinity}});
		return pill.textContent;
	})`, &long)
	if strings.Contains(long, "Infinity") {
		t.Errorf("a page that was put away says %q", long)
	}
}

// testFreshness draws the state of streams as they may be.
func testFreshness(t *testing.T, browser *chromium) {
	url, _ := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	for _, c := range []struct{ stream, want, kind string }{
		{`{state: 'open', info: {}, age: undefined}`, "Live", "open"},
		{`{state: 'open', info: {}, age: 0}`, "Live · 0.0 s", "open"},
		{`{state: 'open', info: {}, age: 180}`, "Live · 0.2 s", "open"},
		{`{state: 'open', info: {}, age: 9949}`, "Live · 9.9 s", "open"},
		{`{state: 'open', info: {}, age: 9950}`, "Live · 10 s", "open"},
		{`{state: 'open', info: {}, age: 59_600}`, "Live · 1 min 0 s", "open"},
		{`{state: 'open', info: {}, age: 180, slow: true}`, "Reading slowly", "slow"},
		{`{state: 'open', info: {}, age: 180, lag: 5000}`, "5 s behind", "slow"},
		{`{state: 'open', info: {}, age: 180, silence: 0}`, "Live · 0.2 s", "open"},
		{`{state: 'open', info: {}, age: 180, silence: 27_400}`, "No sign of the server for 27 s", "waiting"},
		{`{state: 'open', info: {}, age: 180, silence: 27_400, slow: true}`, "No sign of the server for 27 s", "waiting"},
		{`{state: 'waiting', info: {retryAt: Infinity}, silence: 27_400}`, "Connection lost, reconnecting", "waiting"},
		{`{state: 'connecting', info: {}, age: 180}`, "Connecting", "connecting"},
		{`{state: 'closed', info: {code: 4000, reason: 'bye'}, age: 180}`, "Disconnected: bye", "closed"},
	} {
		var got struct{ Text, Kind string }
		p.eval(fmt.Sprintf(`import('/assets/state.js').then(m => {
			const pill = document.createElement('span');
			m.drawState(pill, %s);
			return {Text: pill.textContent, Kind: pill.classList[1]};
		})`, c.stream), &got)
		if got.Text != c.want || got.Kind != c.kind {
			t.Errorf("%s: got %+v, want %q, %s", c.stream, got, c.want, c.kind)
		}
	}
}

// testSilence has a relay forward nothing while it keeps the connections.
func testSilence(t *testing.T, browser *chromium) {
	app, m, f, err := newApp(localhost, mesherstream.WithPingInterval(6*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	server, _ := listen(t, app, m, "127.0.0.1:0")
	r, url := newRelay(t, server)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	r.hold()
	say(t, f, "info", 0, 1)
	p.wait(`/^No sign of the server for \d+ s$/.test(document.getElementById('state').textContent)`)
	p.shot("no sign of the server")
	r.release()
	p.wait(isLive)
	wantRows(t, p, []string{"info 0"})
	p.forgive()
}

func testAge(t *testing.T, browser *chromium) {
	url, _ := serve(t)
	p := browser.open(t, 1280, 800, url+"/?project=shop")
	p.wait(isLive)
	p.eval(`setInterval(() => fetch('/api/v1/events', {method: 'POST', body: JSON.stringify({project: 'shop', level: 'info', message: 'tick'})}), 300)`, nil)
	p.wait(`/^Live · \d\.\d s$/.test(document.getElementById('state').textContent)`)
	p.shot("live, with the age")

	clients := browser.open(t, 1280, 800, url+"/clients")
	clients.wait(`/^Live · \d\.\d s$/.test(document.getElementById('state').textContent)`)
}

// outside lists the controls and the texts of the head that are cut, hidden behind others, or not in the window.
const outside = `[...document.querySelectorAll('.top :is(#project, #state, #again, nav a, #theme, dd), .bar :is(#text, .actions button)')].filter(el => {
	if (!el.checkVisibility() || el.closest('[hidden]')) return false;
	const r = el.getBoundingClientRect();
	const at = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2);
	return r.left < 0 || r.right > innerWidth || r.top < 0 || r.bottom > innerHeight || !(el === at || el.contains(at) || at?.contains(el)) ||
		el.id !== 'project' && (el.scrollWidth > el.clientWidth + 1 || el.scrollHeight > el.clientHeight + 1) && el.clientWidth > 0;
}).map(el => el.id || el.textContent)`

func testHead(t *testing.T, browser *chromium) {
	url, f := serve(t)
	reasons := map[string]string{
		"operator":      "disconnected by an operator",
		"long":          strings.Repeat("the session has ended; ", 5) + "sign in",
		"one word":      strings.Repeat("x", 123),
		"markup":        `<img src=x onerror=alert(1)><b>bold</b> & "quoted" ` + strings.Repeat("<br>", 10),
		"right to left": strings.Repeat("انتهت الجلسة ", 5),
	}
	for _, project := range []string{"shop", strings.Repeat("long-name.", 6) + "last"} {
		p := browser.open(t, 1280, 800, url+"/?project="+project)
		for name, reason := range reasons {
			p.wait(isLive)
			disconnect(t, f, 4000, reason)
			p.wait(`document.getElementById('state').matches('.closed')`)
			for _, theme := range []string{"dark", "light"} {
				p.theme(theme)
				for _, width := range []int{1280, 1000, 640, 390, 320} {
					p.resize(width, 844)
					var bad []string
					p.eval(outside, &bad)
					p.shot(fmt.Sprintf("%.4s, %s reason, %s, %d px", project, name, theme, width))
					if len(bad) > 0 {
						t.Errorf("%s, %s reason, %s, %d px: these are cut or out of sight: %q", project, name, theme, width, bad)
					}
					var wide int
					p.eval(`document.scrollingElement.scrollWidth - innerWidth`, &wide)
					if wide > 0 {
						t.Errorf("%s, %s reason, %d px: the page is %d px wider than the window", project, name, width, wide)
					}
				}
			}
			p.resize(1280, 800)
			p.click("#again")
		}
		p.wait(isLive)
		p.eval(`new Promise(done => setTimeout(done))`, nil)
	}
}

func testNarrow(t *testing.T, browser *chromium) {
	url, f := serve(t)
	p := browser.open(t, 390, 844, url+"/?project=shop")
	p.wait(isLive)
	for i, environment := range []string{"production", "development", "staging"} {
		for _, level := range levels {
			e := fields{Project: "shop", Level: level, Environment: environment, Service: "payments", Message: "capture failed", Issue: fmt.Sprintf("SHOP-51%d", i)}
			if _, err := f.publishEvent(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := f.publishAction("shop", "SHOP-512", "resolve", "ann", ""); err != nil {
		t.Fatal(err)
	}
	p.wait(`[...document.querySelectorAll('.row .issue')].some(cell => cell.textContent === 'SHOP-512 ×5 resolved')`)
	head := func(state string, share float64) {
		t.Helper()
		for _, theme := range []string{"dark", "light"} {
			p.theme(theme)
			var got float64
			p.eval(`document.querySelector('.stage').getBoundingClientRect().top / innerHeight`, &got)
			p.shot("narrow, " + state + ", " + theme)
			if got > share {
				t.Errorf("%s, %s: what is above the list takes %.1f %% of the screen", state, theme, got*100)
			}
		}
	}
	head("live", 0.2)
	for _, width := range []int{390, 320} {
		p.resize(width, 844)
		p.wait(isAtEnd)
		var cut []string
		p.eval(`[...document.querySelectorAll('.row :is(.time, .level, .env, .issue)')].filter(el => el.scrollWidth > el.clientWidth || el.getBoundingClientRect().right > innerWidth).map(el => el.className + ' ' + el.textContent)`, &cut)
		if len(cut) > 0 {
			t.Errorf("%d px: these are cut: %q", width, cut)
		}
	}
	p.resize(390, 844)
	p.click("#slow")
	p.wait(`document.getElementById('slowBar').textContent.includes(' of about ') || document.getElementById('slowBar').textContent.startsWith('Measuring')`)
	head("reading slowly", 0.2)
	p.click("#slow")
	disconnect(t, f, 1013, "busy; retry_after_ms=3600000")
	p.wait(`document.getElementById('again').checkVisibility()`)
	head("waiting", 0.2)
	p.click("#again")
	p.wait(isLive)
	disconnect(t, f, 4000, strings.Repeat("the session has ended; ", 5)+"sign in")
	p.wait(`document.getElementById('state').matches('.closed')`)
	head("disconnected", 0.2)
}
