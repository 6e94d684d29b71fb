package test

import (
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// messageFields are the text fields of a message, each with the length of the longest value that it may have. The list
// is made from the type, so that a field that is added is not forgotten.
func messageFields(t *testing.T) map[string]int {
	t.Helper()
	known := map[string]int{"Project": 128, "Level": 64, "Environment": 64, "Key": 256}
	for f := range reflect.TypeFor[mesherstream.Message]().Fields() {
		if _, ok := known[f.Name]; f.Type.Kind() == reflect.String && !ok {
			t.Fatalf("the field %s has no bound", f.Name)
		}
	}
	return known
}

// withField returns a message with one field, whose other fields are empty.
func withField(name, value string) (msg mesherstream.Message) {
	reflect.ValueOf(&msg).Elem().FieldByName(name).SetString(value)
	msg.Data = []byte("x")
	return msg
}

// outOfBounds returns values that a field with that many bytes at most must not have.
func outOfBounds(most int) []string {
	return []string{
		strings.Repeat("x", most+1),
		strings.Repeat("é", most/2) + "x", // correspondingly fewer characters
		strings.Repeat("x", 1<<20),
		"\xFF", "a\xC3", "\xED\xA0\x80", // half of a surrogate pair
	}
}

func TestTheFieldsOfAMessageHaveBounds(t *testing.T) {
	m := streamtest.NewTestManager(t)
	for name, most := range messageFields(t) {
		for _, good := range []string{"", strings.Repeat("x", most), strings.Repeat("é", most/2), "a/b", "with\nbreak", "\u0000"} {
			if err := m.Broadcast(withField(name, good)); err != nil {
				t.Errorf("Broadcast with a %s of %d bytes: got %v, want nil", name, len(good), err)
			}
		}
		for _, bad := range outOfBounds(most) {
			err := m.Broadcast(withField(name, bad))
			if !errors.Is(err, mesherstream.ErrInvalidMessage) || !strings.Contains(err.Error(), name) || len(err.Error()) > 200 {
				t.Errorf("Broadcast with a %s of %d bytes, %.10q: got %.200v, want ErrInvalidMessage that names the field", name, len(bad), bad, err)
			}
		}
	}
	if s := m.Stats(); s.Broadcasts == 0 || s.Offered != 0 {
		t.Errorf("Stats(): got %+v, want the valid messages to be counted", s)
	}
}

func TestARelayedMessageWithFieldsOutOfBoundsIsRefused(t *testing.T) {
	streamtest.OverNodes(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		v := nodes[0].Connect("shop?level=error") // it wants no other level
		refused := uint64(0)
		deliver := func(msg mesherstream.RelayMessage) {
			for _, s := range x.Subs["shop"] {
				s.Receive(msg)
			}
			refused++
		}
		for name, most := range messageFields(t) {
			for _, bad := range outOfBounds(most) {
				deliver(mesherstream.RelayMessage{Message: withField(name, bad)})
			}
		}
		for _, bad := range outOfBounds(64) {
			deliver(mesherstream.RelayMessage{Node: bad, Seq: 1, Message: mesherstream.Message{Data: []byte("x")}})
		}
		x.Deliver(mesherstream.RelayMessage{Node: strings.Repeat("n", 64), Seq: 1, Message: mesherstream.Message{
			Project: "shop", Level: "error", Environment: strings.Repeat("x", 64), Key: strings.Repeat("k", 256), Data: []byte("good"),
		}})
		if got := v.Next(); got != "good" {
			t.Errorf("got %q, want good", got)
		}
		if s := nodes[0].M.Stats().RelayStats; s.RelayRefused != refused || s.RelayReceived != 1 || s.RelayUnwanted != 0 {
			t.Errorf("Stats(): got %+v, want %d refused and 1 received", s, refused)
		}
	})
}

func TestWhatAuthorizeSetsHasTheBoundsOfAMessage(t *testing.T) {
	for name, set := range map[string]func(*mesherstream.Subscription, string){
		"project":     func(s *mesherstream.Subscription, v string) { s.Project = v },
		"level":       func(s *mesherstream.Subscription, v string) { s.Levels = []string{"ok", v} },
		"environment": func(s *mesherstream.Subscription, v string) { s.Environments = []string{v} },
	} {
		most := 64
		if name == "project" {
			most = 128
		}
		var logs streamtest.LogBuffer
		value := ""
		m := streamtest.NewTestManager(t, mesherstream.WithLogger(slog.New(slog.NewTextHandler(&logs, nil))), mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error { set(sub, value); return nil }))
		app := streamtest.QuietApp()
		app.Use(m.Handler())
		for i, bad := range outOfBounds(most) {
			value = bad
			status, body := streamtest.Ask(t, app, http.MethodGet, "/stream/projects/shop", streamtest.Upgrade...)
			if status != 500 || strings.Contains(body, name) {
				t.Errorf("%s of %d bytes, %.10q: got %d %q, want 500 that tells the client nothing", name, len(bad), bad, status, body)
			}
			if got := logs.Count("level=ERROR"); got != i+1 || logs.Count(name+" has")+logs.Count(name+" is") != i+1 {
				t.Errorf("%s: got %d lines in the log, want %d that name it: %.300s", name, got, i+1, &logs.Buf)
			}
		}
		if logs.Buf.Len() > 4<<10 {
			t.Errorf("%s: got a log of %d bytes, want none that has the values", name, logs.Buf.Len())
		}
		for _, good := range []string{strings.Repeat("x", most), "a/b", ""} {
			value = good
			if status, _ := streamtest.Ask(t, app, http.MethodGet, "/stream/projects/shop", streamtest.Upgrade...); status != 101 {
				t.Errorf("%s %q: got %d, want 101", name, good, status)
			}
		}
	}
}

func TestServeRefusesAProjectThatNoMessageCanHave(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t)
	served := make(chan error, 1)
	app.Get("/own", websocket.New(func(conn *websocket.Conn) {
		served <- m.Serve(conn, mesherstream.Subscription{Project: strings.Repeat("x", 129)})
	}))
	s := streamtest.NewSite(t, app, m)
	ws, _, err := s.Dial("/own")
	if err != nil {
		t.Fatal(err)
	}
	_, _, _ = ws.ReadMessage() // it answers the close frame
	_ = ws.Close()
	if err := <-served; !errors.Is(err, mesherstream.ErrInvalidFilter) || !strings.Contains(err.Error(), "project") {
		t.Errorf("Serve: got %v, want ErrInvalidFilter that names the project", err)
	}
}
