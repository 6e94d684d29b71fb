package logline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// streamed is a stream that a test writes to, and what came of it when.
type streamed struct {
	io.Writer
	end   func() error
	ended chan error

	// Guarded by mu until the stream has ended.
	mu     sync.Mutex
	events []string
	after  []time.Duration
}

// soFar returns what has come already.
func (s *streamed) soFar() (events []string, after []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events), slices.Clone(s.after)
}

// startStream begins a stream in a bubble.
func startStream(ctx context.Context) *streamed {
	r, w := io.Pipe()
	s := &streamed{Writer: w, end: w.Close, ended: make(chan error, 1)}
	start := time.Now()
	go func() {
		s.ended <- Stream(ctx, r, func(e Event) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e.Level+" "+e.Message)
			s.after = append(s.after, time.Since(start))
			return nil
		})
		r.Close()
	}()
	return s
}

func TestAnEventWaitsForItsTraceOnlyAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStream(t.Context())
		for _, line := range []string{"INFO one", "INFO two", "java.lang.Error: three", "\tat a.B.c(B.java:1)"} {
			fmt.Fprintln(s, line)
		}
		synctest.Wait()
		events, _ := s.soFar()
		if want := []string{"info INFO one", "info INFO two"}; !slices.Equal(events, want) {
			t.Errorf("got %q at once, want %q: what another line follows doesn't wait", events, want)
		}
		time.Sleep(2 * quiet)
		synctest.Wait()
		events, after := s.soFar()
		if want := []string{"info INFO one", "info INFO two", "error java.lang.Error: three"}; !slices.Equal(events, want) {
			t.Fatalf("got %q, want %q", events, want)
		}
		if after[2] < quiet || after[2] > 2*quiet {
			t.Errorf("got the last after %v, want it after %v", after[2], quiet)
		}
		// The rest of a trace that paused for too long has its level.
		fmt.Fprintln(s, "\tat a.B.d(B.java:2)")
		s.end()
		if err := <-s.ended; err != nil || len(s.events) != 4 || s.events[3] != "error at a.B.d(B.java:2)" {
			t.Errorf("got %q, %v", s.events, err)
		}
	})
}

func TestATraceThatGrowsForEverHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStream(t.Context())
		fmt.Fprintln(s, "web-1 | java.lang.Error: endless")
		fmt.Fprintln(s, "db-1 | INFO beside it")
		for i := range 100 {
			time.Sleep(quiet / 3)
			fmt.Fprintf(s, "web-1 | \tat a.B.c(B.java:%d)\n", i)
		}
		s.end()
		if err := <-s.ended; err != nil {
			t.Fatal(err)
		}
		if s.events[0] != "info INFO beside it" || s.after[0] > 2*quiet {
			t.Errorf("got %q after %v, want what another service has logged, soon", s.events[0], s.after[0])
		}
		if s.events[1] != "error java.lang.Error: endless" || s.after[1] > longest+quiet {
			t.Errorf("got %q after %v, want the trace after %v", s.events[1], s.after[1], longest)
		}
	})
}

func TestLinesThatComeOneByOneAreLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startStream(t.Context())
		for i := range 20 {
			before, _ := s.soFar()
			fmt.Fprintf(s, "INFO %d\n", i)
			time.Sleep(2 * quiet)
			synctest.Wait()
			if events, _ := s.soFar(); len(events) != len(before)+1 {
				t.Fatalf("line %d: got %d events after %v, want 1", i, len(events)-len(before), 2*quiet)
			}
		}
		s.end()
		<-s.ended
	})
}

func TestStreamEndsWithTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	err := Stream(t.Context(), strings.NewReader("a\nb\nc\n"), func(Event) error { return broken })
	if err != broken {
		t.Errorf("got %v, want %v", err, broken)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := startStream(ctx)
		fmt.Fprintln(s, "a")
		cancel()
		if err := <-s.ended; err != context.Canceled {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
}

func TestSourcesAreBounded(t *testing.T) {
	n := 0
	a := newAssembler(func(Event) error { n++; return nil })
	for i := range 10 * maxSources {
		if err := a.add(fmt.Sprintf("service-%d | x", i), now.Add(time.Duration(i))); err != nil {
			t.Fatal(err)
		}
		if len(a.sources) > maxSources {
			t.Fatalf("got %d sources, want at most %d", len(a.sources), maxSources)
		}
	}
	if err := a.flushAll(); err != nil || n != 10*maxSources {
		t.Errorf("got %d events, %v, want %d", n, err, 10*maxSources)
	}
}

// Whatever comes in, what comes out is an event that pages can show, and no line is lost.
func FuzzStream(f *testing.F) {
	for _, test := range traces {
		f.Add([]byte(test.text))
	}
	for _, line := range []string{
		`web-1 | {"level":"warn","msg":"x"}`, "<11>Nov 23 18:31:01 web sshd[123]: error: x", "\xff\xfea\x00\n\x00", "a\rb\x1b]0;t\x07\bc",
		`{"log":"{\"msg\":\"x\"}\n","stream":"stdout","time":"2026-11-23T18:31:01.1Z"}`, `{"MESSAGE":[1,2,300,"x"],"PRIORITY":"6"}`,
		`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{}}]}]}]}`, `{"@mt":"{a}","a":1}`, `level=error msg="cut \`,
		`2026-11-23T18:31:01.1Z stdout P x`, `{"t":{"$date":{"$numberLong":"1"}},"s":"E"}`, "E1123 18:31:01.1 1 a:1] x", "1.7e9\tinfo\tx",
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		lines, kept := 0, 0
		a := newAssembler(func(e Event) error {
			kept++
			switch {
			case !slices.Contains([]string{"debug", "info", "warning", "error", "fatal"}, e.Level):
				t.Errorf("%q: got level %q", text, e.Level)
			case strings.TrimSpace(e.Message) == "" || len(e.Message) > maxMessageBytes || clean(e.Message) != e.Message || !utf8.ValidString(e.Message):
				t.Errorf("%q: got message %q", text, e.Message)
			case len(e.Service) > maxServiceBytes || clean(e.Service) != e.Service:
				t.Errorf("%q: got service %q", text, e.Service)
			case e.Data != nil && (!json.Valid(e.Data) || e.Data[0] != '{' || len(e.Data) > 4*maxDataBytes || !utf8.Valid(e.Data)):
				t.Errorf("%q: got data %q", text, e.Data)
			}
			if _, err := e.Time.UTC().MarshalJSON(); err != nil {
				t.Errorf("%q: %v", text, err)
			}
			return nil
		})
		err := readLines(strings.NewReader(string(text)), func(line string) error {
			if strings.TrimSpace(unwrapped(line, now).text) != "" {
				lines++
			}
			return a.add(line, now)
		})
		if err == nil {
			err = a.flushAll()
		}
		if err != nil {
			t.Error(err)
		}
		if lines > 0 && kept == 0 {
			t.Errorf("%q: got no event of %d lines", text, lines)
		}
	})
}
