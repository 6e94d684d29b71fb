package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

const exampleDir = "../../example"

// These tests use the example as its user does: it is a program of its own, and everything is done through its page.
// With -artifacts, they leave a picture of each state.

// program is the example.
type program struct {
	*testing.T
	path, addr string
	args       []string
	stdin      string
	cmd        *exec.Cmd
	posted     int
}

// newExample starts the example with these arguments and this standard input.
func newExample(t *testing.T, stdin string, args ...string) *program {
	t.Helper()
	needChromium(t)
	path, err := buildExample()
	if err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + streamtest.FreePort(t) // it stays the same over a restart
	p := &program{T: t, path: path, addr: addr, args: args, stdin: stdin}
	t.Cleanup(func() {
		if p.cmd != nil {
			_ = p.cmd.Process.Kill() // the test has failed, or is done with it
			_ = p.cmd.Wait()
		}
	})
	p.start()
	return p
}

// buildExample builds the example once for all tests. TestMain removes its folder.
var buildExample = sync.OnceValues(func() (path string, err error) {
	for _, pattern := range []string{"*.go", "web/*"} { // or a result would be cached when they have changed
		names, err := filepath.Glob(filepath.Join(exampleDir, pattern))
		if err != nil || len(names) == 0 {
			return "", fmt.Errorf("no files %s: %w", pattern, err)
		}
		for _, name := range names {
			if _, err := os.ReadFile(name); err != nil {
				return "", err
			}
		}
	}
	if exampleBuilt, err = os.MkdirTemp("", "example-"); err != nil {
		return "", err
	}
	path = filepath.Join(exampleBuilt, "example")
	if output, err := exec.Command("go", "build", "-o", path, "github.com/mesher/mesherstream/example").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, output)
	}
	return path, nil
})

// exampleBuilt is the folder of the program, or "" if no test needs it.
var exampleBuilt string

func (p *program) start() {
	p.Helper()
	p.cmd = exec.Command(p.path, append([]string{"-addr", p.addr}, p.args...)...)
	p.cmd.Stdin = strings.NewReader(p.stdin)
	p.cmd.Stdout, p.cmd.Stderr = p.Output(), p.Output()
	if err := p.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp4", p.addr)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			p.Fatalf("the example doesn't listen: %v", err)
		}
	}
}

// stop ends the example as whoever restarts a service does.
func (p *program) stop() {
	p.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.Errorf("the example ended with %v", err)
	}
	p.cmd = nil
}

func (p *program) url() string { return "http://" + p.addr }

// post publishes n events.
func (p *program) post(level string, n int) {
	p.Helper()
	for range n {
		p.posted++
		body := fmt.Sprintf(`{"project":"shop","level":%q,"environment":"production","message":"order %d failed"}`, level, p.posted)
		answer, err := http.Post(p.url()+"/api/v1/events", "application/json", strings.NewReader(body))
		if err != nil {
			p.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode/100 != 2 {
			p.Fatalf("POST %s: %s", body, answer.Status)
		}
	}
}

func (p *program) stats() (s mesherstream.Stats) {
	p.Helper()
	answer, err := http.Get(p.url() + "/stats")
	if err != nil {
		p.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		p.Fatal(err)
	}
	return s
}

// visit opens a page of the example, and waits until it follows.
func (p *program) visit(path string) *tab {
	p.Helper()
	tb := open(p.T, p.url()+path)
	tb.run(chromedp.EmulateViewport(1280, 800))
	tb.wait(isLive)
	return tb
}

const (
	isLive   = `/^Live( · [\d.]+ s)?$/.test(document.getElementById('state')?.textContent)`
	received = `Number(document.getElementById('received').textContent.replaceAll(',', ''))`
	missed   = `Number(document.getElementById('missed').textContent.replaceAll(',', ''))`
)

// wait polls a condition of the page that must come true.
func (tb *tab) wait(condition string) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !eval[bool](tb, "!!("+condition+")"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not in %v; the page says %q", condition, patience, eval[string](tb, `document.body.innerText`))
		}
	}
}

func (tb *tab) click(selector string) {
	tb.Helper()
	tb.run(chromedp.Click(chromedp.CSS(selector)))
}

// pictures keeps what the tab shows, in light and in dark.
func (tb *tab) pictures(name string) {
	tb.Helper()
	for _, scheme := range []string{"light", "dark"} {
		features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
		call(tb, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
		picture := value(tb, chromedp.CaptureScreenshot())
		if err := os.WriteFile(filepath.Join(tb.ArtifactDir(), name+"-"+scheme+".png"), picture, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
}

func TestTheExampleShowsEventsAndItsFiltersBite(t *testing.T) {
	t.Parallel()
	p := newExample(t, "")
	tb := p.visit("/?project=shop")
	tb.wait(`!document.getElementById('empty').hidden`)
	tb.pictures("empty")
	p.post("info", 20)
	p.post("error", 10)
	tb.wait(received + ` === 30 && document.querySelector('.row:last-child .message')?.textContent === 'order 30 failed'`)
	tb.pictures("events")

	tb.click(`#levels [value=error]`)
	tb.wait(`document.getElementById('status').textContent === 'Showing error events'`)
	p.post("info", 20)
	p.post("error", 5)
	tb.wait(received + ` === 35 && document.querySelector('.row:last-child .message')?.textContent === 'order 55 failed'`)
	if got := eval[int](tb, `[...document.querySelectorAll('.row .level')].filter((level) => level.textContent === 'info').length`); got != 0 {
		t.Errorf("%d rows are of level info, want none", got)
	}
	if s := p.stats(); s.Offered != 35 || s.Sent != 35 {
		t.Errorf("the server offered %d and sent %d, want the 35 that match", s.Offered, s.Sent)
	}
	tb.click(`.row:last-child`)
	tb.wait(`document.querySelector('#details .title')?.textContent === 'order 55 failed'`)
	tb.pictures("details")
	tb.run(chromedp.EmulateViewport(360, 740))
	tb.pictures("narrow")
}

// On a busy machine, the fast tab may miss events too.
func TestOfTwoTabsTheSlowOneMissesMoreAndEachIsToldWhatItMissed(t *testing.T) {
	p := newExample(t, "")
	fast, slow, operator := p.visit("/?project=shop"), p.visit("/?project=shop"), p.visit("/clients")
	// 400 events a second, until the tab that handles half of them has missed some.
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	until := func(condition string) {
		t.Helper()
		for deadline := time.Now().Add(patience); !eval[bool](slow, condition); {
			for i := range 6 {
				<-tick.C
				p.post([]string{"debug", "info", "error"}[i%3], 10)
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: not in %v, with %d events: %+v", condition, patience, p.posted, p.stats())
			}
		}
	}
	until(`Number(document.getElementById('rate').textContent) > 100`) // it handles half of what it knows to arrive
	slow.click("#slow")
	until(missed + ` > 300`)

	// What waits for the slow tab is still to come.
	fast.wait(fmt.Sprintf(`%s + %s === %d`, received, missed, p.posted))
	slow.wait(fmt.Sprintf(`%s + %s === %d`, received, missed, p.posted))
	fewer, more := eval[int](fast, missed), eval[int](slow, missed)
	if s := p.stats(); s.Dropped != uint64(fewer+more) {
		t.Errorf("the tabs show %d and %d as missed, and the server dropped %d", fewer, more, s.Dropped)
	}
	if fewer >= more {
		t.Errorf("the fast tab has missed %d, want fewer than the %d of the slow one", fewer, more)
	}
	// The operator's view is of one second ago.
	operator.wait(fmt.Sprintf(`[...document.querySelectorAll('#rows [data-label=Dropped]')].map((cell) => cell.textContent.replaceAll(',', '')).sort((a, b) => a - b).join() === '0,%d,%d'`, fewer, more))
	operator.pictures("clients")

	// Gaps are rows of the list, whatever the words are that it is filtered by. So these leave nothing else.
	slow.run(chromedp.SendKeys(chromedp.CSS("#text"), "nothing says this"))
	slow.wait(`document.querySelector('.row.gap')`)
	slow.pictures("missed")
	slow.run(chromedp.EmulateViewport(1280, 20_000))
	slow.wait(`document.querySelector('.row') && [...document.querySelectorAll('.row')].every((row) => row.matches('.gap'))`)
	told := eval[struct{ Sum, Levels int }](slow, `(() => {
		const numbers = (text) => (text.match(/[\d,]+/g) ?? []).map((n) => Number(n.replaceAll(',', '')));
		const gaps = [...document.querySelectorAll('.row.gap .message')].map((cell) => numbers(cell.textContent));
		return {
			sum: gaps.reduce((sum, [all]) => sum + all, 0),
			levels: gaps.reduce((sum, [, ...levels]) => sum + levels.reduce((a, b) => a + b, 0), 0),
		};
	})()`)
	if told.Sum != more || told.Levels != more {
		t.Errorf("the gaps in the list tell of %d events, %d by level, want %d", told.Sum, told.Levels, more)
	}
}

func TestTheExamplePageComesBackAfterARestart(t *testing.T) {
	t.Parallel()
	p := newExample(t, "")
	tb := p.visit("/?project=shop&level=error")
	p.post("error", 5)
	tb.wait(received + ` === 5`)
	p.stop()
	tb.wait(`document.getElementById('state').textContent.startsWith('Reconnecting')`)
	tb.pictures("reconnecting")

	p.start()
	tb.wait(isLive + ` && document.querySelector('.row.gap.away')`)
	p.post("info", 5)
	p.post("error", 5)
	tb.wait(received + ` === 10 && document.querySelector('.row:last-child .message').textContent === 'order 15 failed'`)
	tb.pictures("back")
}

func TestTheExampleShowsTheLinesOfALogToWhoeverComesAfterwards(t *testing.T) {
	t.Parallel()
	p := newExample(t, "INFO one\nERROR two\nINFO three\n", "-stdin", "-project", "shop")
	for range 2 {
		tb := p.visit("/?project=shop")
		tb.wait(`[...document.querySelectorAll('.row .message')].map((cell) => cell.textContent).join() === 'INFO one,ERROR two,INFO three'`)
	}
}

// The README shows this line.
func TestTheExampleStreamsIntoATerminalWhileItsPageIsOpen(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl: apt-get install curl")
	}
	p := newExample(t, "", "-demo", "200")
	tb := p.visit("/")
	tb.wait(received + ` > 50`)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	curl := exec.CommandContext(ctx, "curl", "-sSN", p.url()+"/stream/projects/demo?level=error&last=20")
	output, err := curl.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	curl.Stderr = t.Output()
	if err := curl.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	for n := 0; n < 25; { // some are of the history, and some are live
		var event struct{ Type, Level string }
		if !lines.Scan() {
			t.Fatalf("curl printed %d lines: %v", n, lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil || event.Type == "event" && event.Level != "error" {
			t.Fatalf("curl prints %q, %v, want an event of level error", lines.Text(), err)
		}
		if event.Type == "event" { // and no notice of an issue, which every filter lets pass
			n++
		}
	}
	before := eval[int](tb, received)
	tb.wait(fmt.Sprintf(`%s > %d`, received, before+50))
	p.stop()
	last := ""
	for lines.Scan() {
		last = lines.Text()
	}
	if want := `{"mesherstream":{"type":"close","code":1001,"reason":"the server is shutting down"}}`; last != want {
		t.Errorf("at the end, curl prints %q, want %s", last, want)
	}
	if err := curl.Wait(); err != nil {
		t.Errorf("curl: %v", err)
	}
}
