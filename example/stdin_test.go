package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestStreamLinesPublishesUntilTheEnd(t *testing.T) {
	out := &recorder{}
	base := fields{Project: "p", Environment: "local"}
	streamLines(t.Context(), strings.NewReader("ERROR one\n\tat two\nWRN three "+strings.Repeat("x", 5000)), newFeed(out), base)
	if len(out.messages) != 2 {
		t.Fatalf("got %d messages, want 2", len(out.messages))
	}
	for i, want := range []string{"error", "warning"} {
		m := out.messages[i]
		if m.Project != "p" || m.Environment != "local" || m.Level != want {
			t.Errorf("message %d: got %q %q %q, want level %q", i, m.Project, m.Environment, m.Level, want)
		}
		var e event
		if err := json.Unmarshal(m.Data, &e); err != nil || e.validate() != nil || e.Received != nil || e.Time.IsZero() {
			t.Errorf("message %d: got %s, %v, %v", i, m.Data, err, e.validate())
		}
	}
}

// The page measures by the time of reception how far it is behind.
func TestALoggedEventHasTheTimeOfTheLogAndTheOneOfItsReception(t *testing.T) {
	out := &recorder{}
	before := time.Now()
	streamLines(t.Context(), strings.NewReader("web-1  | 2026-11-23T18:31:01.123+01:00 ERROR x\n"), newFeed(out), fields{Project: "p", Environment: "e"})
	var e event
	out.take(t, &e)
	if want := time.Date(2026, 11, 23, 17, 31, 1, 123e6, time.UTC); !e.Time.Equal(want) || e.Received == nil || e.Received.Before(before.Add(-time.Second)) {
		t.Errorf("got %v, received %v, want %v", e.Time, e.Received, want)
	}
	if e.Service != "web-1" || e.Message != "ERROR x" || e.Level != "error" {
		t.Errorf("got %+v", e.fields)
	}
}
