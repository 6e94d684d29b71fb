package main

import (
	"encoding/json"
	"errors"
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

// take reads the data of the one message that came since the last call into v, and returns it.
func (r *recorder) take(t *testing.T, v any) mesherstream.Message {
	t.Helper()
	if len(r.messages) != 1 {
		t.Fatalf("got %d messages, want 1", len(r.messages))
	}
	m := r.messages[0]
	if err := json.Unmarshal(m.Data, v); err != nil {
		t.Fatalf("%s: %v", m.Data, err)
	}
	r.messages = nil
	return m
}

func TestEventsAreStampedAndAddressed(t *testing.T) {
	out := &recorder{}
	f := newFeed(out)
	seen := map[string]bool{}
	for range 3 {
		id, err := f.publishEvent(fields{Project: "shop", Level: "error", Environment: "staging", Message: "x"})
		if err != nil {
			t.Fatal(err)
		}
		var got event
		m := out.take(t, &got)
		if m.Project != "shop" || m.Level != "error" || m.Environment != "staging" {
			t.Errorf("got a message for %q %q %q", m.Project, m.Level, m.Environment)
		}
		if got.Type != "event" || got.ID != id || seen[id] || got.Time.IsZero() || got.Message != "x" {
			t.Errorf("got %+v, want it stamped with the new ID %q", got, id)
		}
		seen[id] = true
	}
}

func TestAnEventThatIsNotBroadcastCountsForNoIssue(t *testing.T) {
	out := &recorder{err: mesherstream.ErrClosed}
	f := newFeed(out)
	e := fields{Project: "shop", Level: "error", Environment: "e", Message: "x", Issue: "SHOP-1"}
	if _, err := f.publishEvent(e); !errors.Is(err, mesherstream.ErrClosed) {
		t.Fatalf("got %v, want ErrClosed", err)
	}
	if got := f.issues.list("shop"); len(got) != 0 {
		t.Errorf("got %+v, want no issue", got)
	}
}
