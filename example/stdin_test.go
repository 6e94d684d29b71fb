package main

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream"
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

func TestLinesStayForThoseWhoComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m, f, err := newApp(localhost)
		if err != nil {
			t.Fatal(err)
		}
		streamLines(t.Context(), strings.NewReader("INFO one\nERROR two\n"), f, fields{Project: "p", Environment: "local"})
		time.Sleep(12 * time.Hour)
		var got []string
		for message := range m.History("p", mesherstream.Filter{}, 10) {
			var e event
			if err := json.Unmarshal(message.Data, &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Message)
		}
		if want := "INFO one|ERROR two"; strings.Join(got, "|") != want {
			t.Errorf("got %q twelve hours later, want %q", got, want)
		}
	})
}
