package mesherstream

import (
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
)

// messageFields are the text fields of a message, each with the longest value that it may have. It is made from the type,
// so that a field that is added is not forgotten.
func messageFields(t *testing.T) map[string]int {
	t.Helper()
	known := map[string]int{"Project": 128, "Level": 64, "Environment": 64, "Key": 256}
	for f := range reflect.TypeFor[Message]().Fields() {
		if _, ok := known[f.Name]; f.Type.Kind() == reflect.String && !ok {
			t.Fatalf("the field %s has no bound", f.Name)
		}
	}
	return known
}

// withField is a message whose other fields are empty.
func withField(name, value string) (msg Message) {
	reflect.ValueOf(&msg).Elem().FieldByName(name).SetString(value)
	msg.Data = []byte("x")
	return msg
}

// outOfBounds returns values that a field of at most so many bytes must not have.
func outOfBounds(most int) []string {
	return []string{
		strings.Repeat("x", most+1),
		strings.Repeat("é", most/2) + "x", // as many characters fewer
		strings.Repeat("x", 1<<20),
		"\xFF", "a\xC3", "\xED\xA0\x80", // half of a surrogate pair
	}
}

func TestTheFieldsOfAMessageHaveBounds(t *testing.T) {
	m := newTestManager(t)
	for name, most := range messageFields(t) {
		for _, good := range []string{"", strings.Repeat("x", most), strings.Repeat("é", most/2), "a/b", "with\nbreak", "\u0000"} {
			if err := m.Broadcast(withField(name, good)); err != nil {
				t.Errorf("Broadcast with a %s of %d bytes: got %v, want nil", name, len(good), err)
			}
		}
		for _, bad := range outOfBounds(most) {
			err := m.Broadcast(withField(name, bad))
			if !errors.Is(err, ErrInvalidMessage) || !strings.Contains(err.Error(), name) || len(err.Error()) > 200 {
				t.Errorf("Broadcast with a %s of %d bytes, %.10q: got %.200v, want ErrInvalidMessage that names the field", name, len(bad), bad, err)
			}
		}
	}
	if s := m.Stats(); s.Broadcasts == 0 || s.Offered != 0 {
		t.Errorf("Stats(): got %+v, want the valid messages to be counted", s)
	}
}

func TestARelayedMessageWithFieldsOutOfBoundsIsRefused(t *testing.T) {
	overNodes(t, 1, func(x *exchange, nodes []*world) {
		v := nodes[0].connect("shop?level=error") // which wants no other level
		refused := uint64(0)
		deliver := func(msg RelayMessage) {
			for _, s := range x.subs["shop"] {
				s.receive(msg)
			}
			refused++
		}
		for name, most := range messageFields(t) {
			for _, bad := range outOfBounds(most) {
				deliver(RelayMessage{Message: withField(name, bad)})
			}
		}
		for _, bad := range outOfBounds(64) {
			deliver(RelayMessage{Node: bad, Seq: 1, Message: Message{Data: []byte("x")}})
		}
		x.deliver(RelayMessage{Node: strings.Repeat("n", 64), Seq: 1, Message: Message{
			Project: "shop", Level: "error", Environment: strings.Repeat("x", 64), Key: strings.Repeat("k", 256), Data: []byte("good"),
		}})
		if got := v.next(); got != "good" {
			t.Errorf("got %q, want good", got)
		}
		if s := nodes[0].m.Stats().RelayStats; s.RelayRefused != refused || s.RelayReceived != 1 || s.RelayUnwanted != 0 {
			t.Errorf("Stats(): got %+v, want %d refused and 1 received", s, refused)
		}
	})
}

func TestWhatAuthorizeSetsHasTheBoundsOfAMessage(t *testing.T) {
	for name, set := range map[string]func(*Subscription, string){
		"project":     func(s *Subscription, v string) { s.Project = v },
		"level":       func(s *Subscription, v string) { s.Levels = []string{"ok", v} },
		"environment": func(s *Subscription, v string) { s.Environments = []string{v} },
	} {
		most := 64
		if name == "project" {
			most = 128
		}
		var logs logBuffer
		value := ""
		m := newTestManager(t, WithLogger(slog.New(slog.NewTextHandler(&logs, nil))), WithAuthorize(func(_ *fiber.Ctx, sub *Subscription) error { set(sub, value); return nil }))
		app := quietApp()
		app.Use(m.Handler())
		for i, bad := range outOfBounds(most) {
			value = bad
			status, body := ask(t, app, http.MethodGet, "/stream/projects/shop", upgrade...)
			if status != 500 || strings.Contains(body, name) {
				t.Errorf("%s of %d bytes, %.10q: got %d %q, want 500 that tells the client nothing", name, len(bad), bad, status, body)
			}
			if got := logs.count("level=ERROR"); got != i+1 || logs.count(name+" has")+logs.count(name+" is") != i+1 {
				t.Errorf("%s: got %d lines in the log, want %d that name it: %.300s", name, got, i+1, &logs.buf)
			}
		}
		if logs.buf.Len() > 4<<10 {
			t.Errorf("%s: got a log of %d bytes, want none that has the values", name, logs.buf.Len())
		}
		for _, good := range []string{strings.Repeat("x", most), "a/b", ""} {
			value = good
			if status, _ := ask(t, app, http.MethodGet, "/stream/projects/shop", upgrade...); status != 101 {
				t.Errorf("%s %q: got %d, want 101", name, good, status)
			}
		}
	}
}

func TestServeRefusesAProjectThatNoMessageCanHave(t *testing.T) {
	app := quietApp()
	m := newTestManager(t)
	served := make(chan error, 1)
	app.Get("/own", websocket.New(func(conn *websocket.Conn) {
		served <- m.Serve(conn, Subscription{Project: strings.Repeat("x", 129)})
	}))
	s := newSite(t, app, m)
	ws, _, err := s.dial("/own")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	_, _, _ = ws.ReadMessage() // answers the close frame
	if err := <-served; !errors.Is(err, ErrInvalidFilter) || !strings.Contains(err.Error(), "project") {
		t.Errorf("Serve: got %v, want ErrInvalidFilter that names the project", err)
	}
}
