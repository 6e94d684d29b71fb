package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/mesher/mesherstream"
)

// recorder is a broadcaster that keeps what it gets, or fails.
type recorder struct {
	err      error
	messages []mesherstream.Message
}

func (r *recorder) Broadcast(m mesherstream.Message) error {
	if r.err == nil {
		r.messages = append(r.messages, m)
	}
	return r.err
}

// received is an event, or totals.
type received struct {
	event
	Counts map[string]map[string]uint64
}

// take returns what came since the last call.
func (r *recorder) take(t *testing.T) []received {
	t.Helper()
	got := make([]received, len(r.messages))
	for i, m := range r.messages {
		if err := json.Unmarshal(m.Data, &got[i]); err != nil {
			t.Fatalf("%s: %v", m.Data, err)
		}
	}
	r.messages = nil
	return got
}

func TestFeedNumbersEachSeriesByItself(t *testing.T) {
	out := &recorder{}
	f := newFeed(out)
	for i, test := range []struct {
		project, level, environment string
		seq                         uint64
	}{
		{"a", "error", "production", 1},
		{"a", "error", "production", 2},
		{"a", "error", "staging", 1},
		{"a", "info", "production", 1},
		{"b", "error", "production", 1},
		{"a", "error", "production", 3},
	} {
		id, err := f.publishEvent(fields{Project: test.project, Level: test.level, Environment: test.environment, Message: "x"})
		if err != nil {
			t.Fatal(err)
		}
		got := out.take(t)[0]
		if got.Seq != test.seq || got.ID != id || got.ID != f.run+"-"+strconv.Itoa(i+1) || got.Type != "event" {
			t.Errorf("%+v: got %+v", test, got)
		}
	}
}

func TestFeedDoesNotCountWhatWasNotBroadcast(t *testing.T) {
	out := &recorder{err: mesherstream.ErrClosed}
	f := newFeed(out)
	e := fields{Project: "a", Level: "info", Environment: "e", Message: "x"}
	if _, err := f.publishEvent(e); !errors.Is(err, mesherstream.ErrClosed) {
		t.Fatalf("got %v, want ErrClosed", err)
	}
	out.err = nil
	if _, err := f.publishEvent(e); err != nil {
		t.Fatal(err)
	}
	if got := out.take(t)[0]; got.Seq != 1 {
		t.Errorf("got number %d, want 1", got.Seq)
	}
}

func TestTotalsTellHowFarEachSeriesIs(t *testing.T) {
	out := &recorder{}
	f := newFeed(out)
	for range 3 {
		f.publishEvent(fields{Project: "a", Level: "info", Environment: "e", Message: "x"})
	}
	f.publishNotice(&notice{Project: "a", Issue: "1", Action: "resolve"})
	out.take(t)

	f.publishTotals()
	if m := out.messages; len(m) != 1 || m[0].Project != "a" || m[0].Level != "" || m[0].Environment != "" {
		t.Fatalf("got %+v, want one message for the project, for all filters", m)
	}
	if got := out.take(t)[0]; got.Type != "totals" || got.Run != f.run || fmt.Sprint(got.Counts) != "map[:map[:1] info:map[e:3]]" {
		t.Errorf("got %+v", got)
	}
	f.publishTotals()
	if len(out.messages) != 0 {
		t.Errorf("got %d messages while nothing changed, want none", len(out.messages))
	}
}

func TestFeedKeepsABoundedNumberOfSeries(t *testing.T) {
	f := newFeed(&recorder{})
	e := fields{Level: "info", Environment: "e", Message: "x"}
	for i := range maxSeries {
		e.Project = strconv.Itoa(i)
		if _, err := f.publishEvent(e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.publishEvent(e); err != nil {
		t.Errorf("a series that is known: got %v", err)
	}
	e.Project = "one more"
	if _, err := f.publishEvent(e); !errors.Is(err, errTooManySeries) {
		t.Errorf("one more series: got %v, want errTooManySeries", err)
	}
}

func TestFeedBroadcastsInTheOrderOfItsNumbers(t *testing.T) {
	out := &recorder{}
	f := newFeed(out)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				f.publishEvent(fields{Project: "a", Level: "info", Environment: "e", Message: "x"})
			}
		})
	}
	wg.Wait()
	for i, e := range out.take(t) {
		if e.Seq != uint64(i+1) {
			t.Fatalf("message %d has number %d", i, e.Seq)
		}
	}
}
