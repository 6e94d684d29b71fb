package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
)

// patience is how long a browser on a busy machine may take for anything.
const patience = time.Minute

// chromium is a browser without a screen that runs for one test.
type chromium struct {
	devtools string // where it obeys
}

// startChromium skips the test where there is no Chromium.
func startChromium(t *testing.T) *chromium {
	t.Helper()
	name := ""
	for _, candidate := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(candidate); err == nil {
			name = path
			break
		}
	}
	if name == "" {
		t.Skip("needs Chromium: apt-get install chromium")
	}
	profile, err := os.MkdirTemp("", "chromium-")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, "--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--user-data-dir="+profile,
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "about:blank")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt) // so that it ends its children, which write into the profile
		impatience := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		cmd.Wait()
		impatience.Stop()
		deadline := time.Now().Add(patience)
		for err := os.RemoveAll(profile); err != nil; err = os.RemoveAll(profile) {
			if time.Now().After(deadline) {
				t.Error(err)
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	watchdog := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	listening := regexp.MustCompile(`listening on (ws://\S+)`)
	lines := bufio.NewScanner(stderr)
	var said []string
	for lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, stderr) // ends with the process
			return &chromium{devtools: m[1]}
		}
		said = append(said, lines.Text())
	}
	t.Fatalf("Chromium did not start (%v):\n%s", lines.Err(), strings.Join(said, "\n"))
	return nil
}

// page is one page, or the browser itself.
type page struct {
	t    *testing.T
	conn *websocket.Conn
	held chan struct{} // receives when the page no longer runs

	// Guarded by mu.
	mu       sync.Mutex
	lastID   int
	calls    map[int]chan devtoolsMessage
	problems []string // what the page logged, threw, or was refused
	forgives bool     // what is forgivable
}

type devtoolsMessage struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// open opens a window of a size, and goes to url. A window is drawn whatever other tests do beside. When the test ends,
// the window closes, and nothing may have gone wrong in it.
func (c *chromium) open(t *testing.T, width, height int, url string) *page {
	t.Helper()
	browser := connect(t, c.devtools)
	var target struct{ TargetID string }
	if err := json.Unmarshal(browser.call("Target.createTarget", map[string]any{"url": "about:blank", "newWindow": true}), &target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { browser.call("Target.closeTarget", map[string]any{"targetId": target.TargetID}) })
	p := connect(t, regexp.MustCompile(`/browser/.*`).ReplaceAllString(c.devtools, "/page/"+target.TargetID))
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, problem := range p.problems {
			if !p.forgives || !forgivable.MatchString(problem) {
				t.Errorf("%s: %s", url, problem)
			}
		}
	})
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		p.call(domain+".enable", nil)
	}
	p.call("Emulation.setFocusEmulationEnabled", map[string]any{"enabled": true})
	p.resize(width, height)
	p.call("Page.navigate", map[string]any{"url": url})
	p.wait(`document.readyState === 'complete' && location.href !== 'about:blank'`)
	return p
}

func connect(t *testing.T, devtools string) *page {
	t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial(devtools, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &page{t: t, conn: conn, held: make(chan struct{}, 1), calls: make(map[int]chan devtoolsMessage)}
	var reading sync.WaitGroup
	reading.Go(p.read)
	t.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return p
}

func (p *page) read() {
	for {
		var m devtoolsMessage
		if err := p.conn.ReadJSON(&m); err != nil {
			return
		}
		p.mu.Lock()
		switch {
		case m.ID > 0:
			p.calls[m.ID] <- m
			delete(p.calls, m.ID)
		case m.Method == "Debugger.paused":
			p.held <- struct{}{}
		case m.Method == "Runtime.exceptionThrown", m.Method == "Runtime.consoleAPICalled", m.Method == "Log.entryAdded":
			p.problems = append(p.problems, m.Method+" "+string(m.Params))
		}
		p.mu.Unlock()
	}
}

// forgive forgives the page that the browser could not reach the server, and that the stream has asked why. The browser may
// report that later than what has followed it.
func (p *page) forgive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgives = true
}

var forgivable = regexp.MustCompile(`net::ERR_|status of 426`)

// call makes a call of the browser's protocol, and returns its result.
func (p *page) call(method string, params any) json.RawMessage {
	p.t.Helper()
	return p.result(method, p.send(method, params))
}

// send begins a call, whose answer may come much later.
func (p *page) send(method string, params any) (answer <-chan devtoolsMessage) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastID++
	answers := make(chan devtoolsMessage, 1)
	p.calls[p.lastID] = answers
	if err := p.conn.WriteJSON(map[string]any{"id": p.lastID, "method": method, "params": params}); err != nil {
		p.t.Fatal(err)
	}
	return answers
}

func (p *page) result(method string, answer <-chan devtoolsMessage) json.RawMessage {
	p.t.Helper()
	select {
	case m := <-answer:
		if m.Error != nil {
			p.t.Fatalf("%s: %s", method, m.Error)
		}
		return m.Result
	case <-time.After(patience):
		p.t.Fatalf("%s: no answer", method)
		return nil
	}
}

// hold keeps the page from running, as a long task does, until it is released.
func (p *page) hold() (release func()) {
	p.t.Helper()
	p.call("Debugger.enable", nil)
	const method = "Runtime.evaluate"
	evaluated := p.send(method, map[string]any{"expression": "debugger"})
	select {
	case <-p.held:
	case <-time.After(patience):
		p.t.Fatal("the page goes on")
	}
	return func() {
		p.t.Helper()
		p.call("Debugger.resume", nil)
		p.result(method, evaluated)
		p.call("Debugger.disable", nil)
	}
}

// eval evaluates an expression in the page, which may be a promise, into v.
func (p *page) eval(expression string, v any) {
	p.t.Helper()
	result := p.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true})
	var got struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	if err := json.Unmarshal(result, &got); err != nil || got.ExceptionDetails != nil {
		p.t.Fatalf("%s: %s %v", expression, got.ExceptionDetails, err)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(got.Result.Value, v); err != nil {
		p.t.Fatalf("%s: %s: %v", expression, got.Result.Value, err)
	}
}

// wait waits until a condition holds in the page.
func (p *page) wait(condition string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		var holds bool
		if p.eval("Boolean("+condition+")", &holds); holds {
			return
		}
		if time.Now().After(deadline) {
			var text string
			p.eval("document.body.innerText.slice(0, 1500)", &text)
			p.t.Fatalf("%s does not become true; the page says\n%s\n%v", condition, text, p.problems)
		}
	}
}

// text returns what an element says.
func (p *page) text(id string) (text string) {
	p.t.Helper()
	p.eval(fmt.Sprintf("document.getElementById(%q).textContent", id), &text)
	return text
}

func (p *page) resize(width, height int) {
	p.t.Helper()
	p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false})
}

func (p *page) theme(name string) {
	p.t.Helper()
	p.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": name}}})
}

// shot waits until the page is drawn. With -artifacts, it keeps a picture of it, which takes longer than the checks
// beside it.
func (p *page) shot(name string) {
	p.t.Helper()
	if flag.Lookup("test.artifacts").Value.String() != "true" {
		p.eval(`new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))`, nil)
		return
	}
	var picture struct{ Data []byte }
	if err := json.Unmarshal(p.call("Page.captureScreenshot", nil), &picture); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.t.ArtifactDir(), name+".png"), picture.Data, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// key presses a key, which is named as in KeyboardEvent.key.
func (p *page) key(name string) {
	p.t.Helper()
	codes := map[string]int{"Enter": 13, "Escape": 27, " ": 32, "Home": 36, "ArrowUp": 38, "ArrowDown": 40, "/": 191, "?": 191}
	event := map[string]any{"type": "keyDown", "key": name, "windowsVirtualKeyCode": codes[name]}
	if len(name) == 1 {
		event["text"] = name
	} else if name == "Enter" {
		event["text"] = "\r"
	}
	p.call("Input.dispatchKeyEvent", event)
	p.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": name, "windowsVirtualKeyCode": codes[name]})
}

// click clicks in the middle of the first element that a selector finds.
func (p *page) click(selector string) {
	p.t.Helper()
	var at struct{ X, Y float64 }
	p.eval(fmt.Sprintf("(() => { const r = document.querySelector(%q).getBoundingClientRect(); return {X: r.x + r.width / 2, Y: r.y + r.height / 2}; })()", selector), &at)
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		p.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1})
	}
}
