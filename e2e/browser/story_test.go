package browser

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// A told is one thing that a viewer has seen: a message by its number, or something that is no message.
type told struct {
	Number int // 0 if it is a tick, or no message
	*notice
}

// notice is what testdata/story.mjs makes of everything else.
type notice struct {
	Gap    *toldGap    `json:",omitempty"`
	Open   *toldReturn `json:",omitempty"`
	End    string      `json:",omitempty"`
	Closed any         `json:",omitempty"`
	At     float64     `json:",omitempty"` // milliseconds, of open and end
}

type toldGap struct {
	Reason  string
	Dropped *int `json:",omitempty"`
	AtMost  *int `json:",omitempty"`
	Held    int
	Fetched []int  `json:",omitempty"`
	Error   string `json:",omitempty"`
}

type toldReturn struct {
	Complete *bool `json:",omitempty"` // nil for a first connection
	AtMost   *int  `json:",omitempty"`
}

func (e *told) UnmarshalJSON(text []byte) error {
	if text[0] != '{' {
		return json.Unmarshal(text, &e.Number)
	}
	e.notice = new(notice)
	return json.Unmarshal(text, e.notice)
}

// The messages of these tests are numbered from 1. Some have no number in them, and are all the same; some are binary; some
// are long.
func isTick(n int) bool    { return n%10 == 0 }
func levelOf(n int) string { return []string{"error", "info", "debug", "fatal"}[n%4] }

func numbered(n int, last bool) mesherstream.Message {
	m := mesherstream.Message{Project: "shop", Level: levelOf(n)}
	pad := strings.Repeat("x", n%400)
	if n%97 == 0 {
		pad = strings.Repeat("y", 9000)
	}
	switch {
	case last:
		m.Level = ""
		m.Data = fmt.Appendf(nil, `{"type":"event","n":%d,"last":true}`, n)
	case isTick(n):
		m.Data = []byte(`{"type":"tick"}`)
	case n%7 == 3:
		m.Data, m.Binary = append(binary.BigEndian.AppendUint64(nil, uint64(n)), pad...), true
	default:
		m.Data = fmt.Appendf(nil, `{"type":"event","n":%d,"pad":%q}`, n, pad)
	}
	return m
}

// A watch is what a viewer is told to follow.
type watch struct {
	URL     string              `json:"url"`
	Filters map[string][]string `json:"filters,omitempty"`
	Loop    bool                `json:"loop"`
	Rest    int                 `json:"rest"` // milliseconds
	Stand   *stand              `json:"stand,omitempty"`
}

// stand is a message at which a viewer stands still for a number of milliseconds.
type stand struct {
	At int `json:"at"`
	MS int `json:"ms"`
}

func (w *watch) matches(n, last int) bool {
	return n == last || len(w.Filters["level"]) == 0 || slices.Contains(w.Filters["level"], levelOf(n))
}

// An account is what a story adds up to.
type account struct {
	shown, missing   int
	exact, bounds    int // gaps
	fetched          int // messages
	returns, whole   int
	ends, silences   int
	fetchesRefused   int
	messagesInBounds int // of which fewer may be missing
}

func (a *account) add(b account) {
	a.shown, a.missing = a.shown+b.shown, a.missing+b.missing
	a.exact, a.bounds = a.exact+b.exact, a.bounds+b.bounds
	a.fetched, a.fetchesRefused = a.fetched+b.fetched, a.fetchesRefused+b.fetchesRefused
	a.returns, a.whole = a.returns+b.returns, a.whole+b.whole
	a.ends, a.silences = a.ends+b.ends, a.silences+b.silences
	a.messagesInBounds += b.messagesInBounds
}

// audit holds a story against what was published, numbers 1 to last. Everything that matches is shown once and in order, or
// told of at its place: exactly, or by a bound that is no less.
func audit(w *watch, story []told, last int) (a account, faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	var (
		previous, ticks int  // the newest number, and ticks since
		told            int  // messages in gaps since
		bound           bool // fewer may be missing
		owed            bool // a return was not complete, and its gap is yet to follow
		fetched         [][]int
	)
	for _, e := range story {
		switch {
		case e.notice == nil && e.Number == 0:
			ticks++
			a.shown++
		case e.notice == nil:
			n := e.Number
			a.shown++
			if n <= previous || n > last || !w.matches(n, last) || isTick(n) && n != last {
				fault("message %d after %d", n, previous)
				continue
			}
			matching, tickNumbers := 0, 0
			for i := previous + 1; i < n; i++ {
				if w.matches(i, last) {
					matching++
					if isTick(i) {
						tickNumbers++
					}
				}
			}
			missing := matching - ticks
			a.missing += missing
			if ticks > tickNumbers {
				fault("%d ticks between %d and %d, want at most %d", ticks, previous, n, tickNumbers)
			}
			if missing > told || missing < told && !bound {
				fault("between %d and %d: %d missing, %d told (bound: %v)", previous, n, missing, told, bound)
			}
			for _, numbers := range fetched {
				before := previous
				for _, f := range numbers {
					switch {
					case f == 0:
					case f <= before && !bound || f >= n || !w.matches(f, last):
						fault("a gap between %d and %d brought %d after %d", previous, n, f, before)
					}
					before = max(before, f)
				}
				if len(numbers) > missing && !bound {
					fault("a gap between %d and %d brought %d messages of %d", previous, n, len(numbers), missing)
				}
			}
			previous, ticks, told, bound, fetched = n, 0, 0, false, nil
		case e.Gap != nil:
			g := e.Gap
			owed = owed && g.Reason != "away"
			switch {
			case g.Dropped != nil:
				told += *g.Dropped
				a.exact++
			case g.AtMost != nil:
				told, bound = told+*g.AtMost, true
				a.bounds++
				a.messagesInBounds += *g.AtMost
			default:
				fault("after %d: a gap without a number", previous)
			}
			if g.Error != "" {
				a.fetchesRefused++
				fault("after %d: the fetch of a gap failed: %s", previous, g.Error)
			}
			a.fetched += len(g.Fetched)
			fetched = append(fetched, g.Fetched)
		case e.Open != nil:
			if complete := e.Open.Complete; complete != nil {
				a.returns++
				owed = !*complete && !w.Loop // which handles later what has arrived before
				if *complete {
					a.whole++
				}
			}
		case e.End != "":
			a.ends++
			if e.End == "silence" {
				a.silences++
			}
			owed = false
		case e.Closed != nil:
			fault("after %d: closed: %v", previous, e.Closed)
		}
		if e.notice == nil && owed {
			fault("message %d before the gap of a return that was not complete", e.Number)
			owed = false
		}
	}
	if previous != last {
		fault("the newest message is %d, want %d", previous, last)
	}
	return a, faults
}

// A nodeProcess is Node with many viewers.
type nodeProcess struct {
	*testing.T
	stdin   io.Closer
	stories chan [][]told
}

// needNode skips a test if there is no Node that has a WebSocket: since 22 of itself, and since 20.10 behind a flag that
// later ones accept too.
func needNode(t *testing.T) {
	t.Helper()
	if err := exec.Command("node", "--experimental-websocket", "--eval", "").Run(); err != nil {
		t.Skip("needs Node 20.10 or later: apt-get install nodejs")
	}
}

// followInNode starts viewers in one process, which ends with the test.
func followInNode(t *testing.T, watches []*watch) *nodeProcess {
	t.Helper()
	needNode(t)
	dir := t.TempDir()
	for _, name := range []string{"story.mjs", "viewers.mjs"} {
		text, err := testdata.ReadFile("testdata/" + name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	module, err := os.ReadFile(clientDir + "/mesherstream.js")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "mesherstream.mjs"), module, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	args, err := json.Marshal(map[string]any{"module": "./mesherstream.mjs", "viewers": watches})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "--experimental-websocket", "--no-warnings", filepath.Join(dir, "viewers.mjs"), string(args))
	cmd.Env = append(os.Environ(), "NODE_TLS_REJECT_UNAUTHORIZED=0") // the certificate is the test's own
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &nodeProcess{t, stdin, make(chan [][]told, 1)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		var stories [][]told
		for r := bufio.NewReader(stdout); ; {
			line, err := r.ReadBytes('\n')
			if err != nil {
				break
			}
			var story []told
			if err := json.Unmarshal(line, &story); err != nil {
				t.Errorf("Node printed %.200q: %v", line, err)
			}
			stories = append(stories, story)
		}
		p.stories <- stories
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	return p
}

// end returns the stories when all have ended, or if that takes too long, as far as they have come.
func (p *nodeProcess) end(patience time.Duration) [][]told {
	p.Helper()
	select {
	case stories := <-p.stories:
		return stories
	case <-time.After(patience):
		p.Errorf("the stories in Node have not ended after %v", patience)
		_ = p.stdin.Close()
		return take(p.T, p.stories, "what Node has seen")
	}
}

// A tabStory is a tab with one viewer.
type tabStory struct{ *tab }

// followInTab starts a viewer in a tab. The page comes over the viewer's own way to the server.
func followInTab(t *testing.T, addr string, w *watch) tabStory {
	t.Helper()
	tb := tabStory{open(t, "http://"+addr+"/")}
	tb.do(fmt.Sprintf(`page.told = (await import("/story.mjs")).follow(page.connect, %s)`, toJSON(w)))
	return tb
}

// end is that of a nodeProcess.
func (tb tabStory) end(patience time.Duration) [][]told {
	tb.Helper()
	for deadline := time.Now().Add(patience); ; {
		over := eval[bool](tb.tab, `Promise.race([page.told.done.then(() => true), new Promise((resolve) => setTimeout(resolve, 1000, false))])`)
		if !over && time.Now().After(deadline) {
			tb.Errorf("the story in a tab has not ended after %v", patience)
			over = true
		}
		if over {
			return [][]told{eval[[]told](tb.tab, `page.told.seen`)}
		}
	}
}

// excerpt is a story without most of its messages.
func excerpt(story []told) string {
	var b strings.Builder
	run := 0
	for i, e := range story {
		if e.notice == nil {
			near := i > 0 && story[i-1].notice != nil || i+1 < len(story) && story[i+1].notice != nil
			if near || i+1 == len(story) || i == 0 {
				fmt.Fprintf(&b, " %d", e.Number)
			} else {
				run++
			}
			continue
		}
		text, _ := json.Marshal(e.notice)
		fmt.Fprintf(&b, " (%d more) %s", run, text)
		run = 0
	}
	return b.String()
}

func toJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}
