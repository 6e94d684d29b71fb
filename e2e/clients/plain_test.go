package clients

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// A fetcher is a program that reads streams over plain HTTP with what its language has for that.
type fetcher struct {
	name    string
	program string
	missing string
	left    string // what it prints after it has left
	// start begins with a stream of that URL, and leaves after so many messages.
	start func(t *testing.T, w *world, url string, messages int, headers ...string) *process
}

var fetchers = []fetcher{
	{
		name: "fetch", program: "node", missing: "needs Node: apt-get install nodejs npm", left: "AbortError",
		start: func(t *testing.T, w *world, url string, messages int, headers ...string) *process {
			args := []string{"node", "testdata/fetch.mjs", url, strconv.Itoa(messages)}
			if w.transport.secure {
				args = append([]string{"NODE_EXTRA_CA_CERTS=" + identity().file}, args...)
			}
			return run(t, "env", append(args, headers...)...)
		},
	},
	{
		name: "urllib", program: "python3", missing: "needs Python: apt-get install python3", left: "left",
		start: func(t *testing.T, w *world, url string, messages int, headers ...string) *process {
			ca := ""
			if w.transport.secure {
				ca = identity().file
			}
			python, err := exec.LookPath("/usr/bin/python3") // others may take long to begin
			if err != nil {
				python = "python3"
			}
			return run(t, python, append([]string{"testdata/read.py", ca, url, strconv.Itoa(messages)}, headers...)...)
		},
	},
}

func withFetchers(t *testing.T, scenario func(t *testing.T, w *world, f fetcher)) {
	overTransports(t, func(t *testing.T, tr transport) {
		t.Parallel()
		for _, f := range fetchers {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				if _, err := exec.LookPath(f.program); err != nil {
					t.Skip(f.missing)
				}
				for _, file := range []string{"testdata/fetch.mjs", "testdata/read.py"} { // or a result would be cached when it has changed
					if _, err := os.ReadFile(file); err != nil {
						t.Fatal(err)
					}
				}
				scenario(t, start(t, tr), f)
			})
		}
	})
}

// number publishes messages of level error with these numbers, and others between them.
func (w *world) number(t *testing.T, first, last int) {
	t.Helper()
	for n := first; n <= last; n++ {
		w.tell(t, "shop", "debug", `"not for you"`)
		w.tell(t, "shop", "error", fmt.Sprintf(`{"n":%d}`, n))
	}
}

// expect reads lines until the number comes, which must be the next one with a number.
func (p *process) expect(prefix string, first, last int) {
	p.Helper()
	for n := first; n <= last; {
		line := p.line()
		if strings.Contains(line, "not for you") {
			p.Fatalf("a message arrives that the filter excludes: %q", line)
		}
		if !strings.Contains(line, `"n":`) {
			continue
		}
		if want := fmt.Sprintf(`%s{"n":%d}`, prefix, n); line != want {
			p.Fatalf("got %q, want %q", line, want)
		}
		n++
	}
}

func TestAProgramReadsLinesAndLeaves(t *testing.T) {
	withFetchers(t, func(t *testing.T, w *world, f fetcher) {
		p := f.start(t, w, w.httpURL("shop?level=error"), 100, "Accept=application/x-ndjson")
		p.prints("200 application/x-ndjson")
		p.joins(w, "shop")
		w.number(t, 1, 1)
		p.expect("", 1, 1) // before the next one is published
		w.number(t, 2, 99)
		p.expect("", 2, 99)
		w.number(t, 100, 100)
		p.expect("", 100, 100)
		p.prints(f.left)
		w.leaves(t, "shop", closing{Code: 1006})

		// What was published before is in the history.
		again := f.start(t, w, w.httpURL("shop?level=error&last=60"), 100, "Accept=application/x-ndjson")
		again.prints("200 application/x-ndjson")
		again.expect("", 41, 100)
		w.number(t, 101, 110)
		again.expect("", 101, 110)
		w.stop()
		again.prints(`{"mesherstream":{"type":"close","code":1001,"reason":"the server is shutting down"}}`, "the end")
	})
}

func TestAProgramGoesOnWhereItHasLeftTheEvents(t *testing.T) {
	withFetchers(t, func(t *testing.T, w *world, f fetcher) {
		const events = "Accept=text/event-stream"
		p := f.start(t, w, w.httpURL("shop?level=error"), 47, events)
		p.prints("200 text/event-stream")
		p.joins(w, "shop")
		w.number(t, 1, 50)
		last, position, tail := 0, "", 0 // the tail is the messages after the event with the position
		id, isMessage := "", false       // of the event that is being read
		for line := p.line(); line != f.left; line = p.line() {
			switch {
			case strings.HasPrefix(line, "id: "):
				id = line[len("id: "):]
			case strings.Contains(line, `"n":`):
				isMessage = true
			case line == "":
				if isMessage {
					last, tail = last+1, tail+1
				}
				if id != "" {
					position, tail = id, 0
				}
				id, isMessage = "", false
			}
		}
		w.leaves(t, "shop", closing{Code: 1006})
		w.number(t, 51, 70)

		t.Logf("it has left after message %d, with %d since its position", last, tail)
		// By the header, as an EventSource does, or by a URL with a count, it receives what came after the position.
		byHeader := f.start(t, w, w.httpURL("shop?level=error"), 100, events, "Last-Event-ID="+position)
		byHeader.expect("data: ", last+1-tail, 70)
		url := fmt.Sprintf("shop?level=error&since=%s&received=%d&ago=0", position, tail)
		byCount := f.start(t, w, w.httpURL(url), 100, events)
		byCount.expect("data: ", last+1-tail, 70)
	})
}
