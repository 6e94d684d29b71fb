package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream"
)

func TestDemoEventsAreValidAndVaried(t *testing.T) {
	d := demo{project: "p", rand: rand.New(rand.NewPCG(1, 2))}
	seen := map[string]int{}
	issues := map[string]int{}
	size := 0
	for range 5000 {
		e := d.event()
		if err := e.validate(); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		seen[e.Level]++
		seen[e.Environment]++
		size += len(e.Data)
		if severe := e.Level == "error" || e.Level == "fatal"; severe != (e.Issue != "") {
			t.Errorf("got the issue %q for level %s", e.Issue, e.Level)
		} else if severe {
			issues[e.Issue]++
		}
	}
	for i := 1; i < len(levels)-1; i++ {
		if seen[levels[i]] <= seen[levels[i+1]] {
			t.Errorf("got %v, want more %s than %s", seen, levels[i], levels[i+1])
		}
	}
	if seen["fatal"] == 0 || seen["production"] < seen["staging"] || seen["staging"] < seen["development"] {
		t.Errorf("got %v", seen)
	}
	if len(issues) < 8 || len(issues) > 20 {
		t.Errorf("got %d issues, want some that come again: %v", len(issues), issues)
	}
	if mean := size / 5000; mean < 400 || mean > 2000 {
		t.Errorf("got %d bytes of data on average", mean)
	}
}

func TestStreamDemoKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []float64{0.5, 30, 200} {
			out := &recorder{}
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second+10*time.Millisecond)
			streamDemo(ctx, newFeed(out), "p", rate)
			cancel()
			made := 0 // events, and what is done to issues; the counts of issues come with events
			for _, m := range out.messages {
				if !bytes.Contains(m.Data, []byte(`"action":"count"`)) {
					made++
				}
			}
			if got, want := float64(made), rate*60; got < want-1 || got > want+1 {
				t.Errorf("rate %v: got %v events in a minute, want %v", rate, got, want)
			}
		}
	})
}

// A page that reads half as fast as events are published has, in its list, gaps among the newest 10,000.
func TestTheServerKeepsWhatIsMissingInAListOfThePage(t *testing.T) {
	_, m, f, err := newApp(localhost)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Shutdown(t.Context())
	const published = 10_000
	d := demo{project: "p", rand: rand.New(rand.NewPCG(1, 2))}
	for range published {
		if _, err := f.publishEvent(d.event()); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	for m := range m.History("p", mesherstream.Filter{}, 2*published) {
		if m.Level != "" { // no notice of an issue
			kept++
		}
	}
	if kept != published {
		t.Errorf("the server keeps %d of %d events", kept, published)
	}
}
