package mesherstream

import (
	"bytes"
	"io"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/gofiber/fiber/v2"
)

func TestTheBrowserClientIsServedBesideTheStreams(t *testing.T) {
	want, err := os.ReadFile("client/mesherstream.js")
	if err != nil {
		t.Fatal(err)
	}
	m := newTestManager(t, WithAuthorize(func(*fiber.Ctx, *Subscription) error { return fiber.ErrUnauthorized }))
	app := quietApp(fiber.Config{})
	app.Use(m.Handler())
	app.Group("/live").Use(m.Handler())
	app.Get("/events/:project_id", m.Handler())

	for _, path := range []string{"/stream/projects/mesherstream.js", "/live/stream/projects/mesherstream.js?v=1", "/events/mesherstream.js"} {
		resp, err := app.Test(httptest.NewRequest("GET", path, nil))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || !bytes.Equal(got, want) || resp.Header.Get("Content-Type") != "text/javascript; charset=utf-8" {
			t.Errorf("%s: got %d, %s, %d bytes, want the module", path, resp.StatusCode, resp.Header.Get("Content-Type"), len(got))
		}
		again := httptest.NewRequest("GET", path, nil)
		again.Header.Set("If-None-Match", resp.Header.Get("ETag"))
		if resp, err = app.Test(again); err != nil || resp.StatusCode != 304 {
			t.Errorf("%s again: got %v, %v, want 304", path, resp.StatusCode, err)
		}
	}
	if resp, err := app.Test(httptest.NewRequest("GET", "/stream/projects/mesherstream.ts", nil)); err != nil || resp.StatusCode != 426 {
		t.Errorf("another project without an upgrade: got %v, %v, want 426", resp.StatusCode, err)
	}
}

func TestAProjectNamedAsTheBrowserClientCanBeFollowed(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start()
		v := w.connect(browserClientName)
		if err := w.m.Broadcast(Message{Project: browserClientName, Data: []byte("hello")}); err != nil {
			w.Fatal(err)
		}
		if got := v.next(); got != "hello" {
			w.Errorf("got %q, want hello", got)
		}
	})
}
