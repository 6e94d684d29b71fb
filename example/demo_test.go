package main

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

func TestDemoEventsAreValidAndVaried(t *testing.T) {
	d := demo{project: "p", rand: rand.New(rand.NewPCG(1, 2))}
	seen := map[string]int{}
	bytes := 0
	for range 5000 {
		e := d.event()
		if err := e.validate(); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		seen[e.Level]++
		seen[e.Environment]++
		bytes += len(e.Data)
	}
	for i := 1; i < len(levels)-1; i++ {
		if seen[levels[i]] <= seen[levels[i+1]] {
			t.Errorf("got %v, want more %s than %s", seen, levels[i], levels[i+1])
		}
	}
	if seen["fatal"] == 0 || seen["production"] < seen["staging"] || seen["staging"] < seen["development"] {
		t.Errorf("got %v", seen)
	}
	if mean := bytes / 5000; mean < 400 || mean > 2000 {
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
			if got, want := float64(len(out.messages)), rate*60; got < want-1 || got > want+1 {
				t.Errorf("rate %v: got %v events in a minute, want %v", rate, got, want)
			}
		}
	})
}
