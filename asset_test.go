package mesherstream_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestTheBrowserClientIsServedBesideTheStreams(t *testing.T) {
	want, err := os.ReadFile("client/mesherstream.min.js")
	if err != nil {
		t.Fatal(err)
	}
	m := streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error { return fiber.ErrUnauthorized }))
	app := streamtest.QuietApp(fiber.Config{})
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

func TestTheServedModuleIsMadeOfItsSourceAndSaysSo(t *testing.T) {
	source, err := os.ReadFile("client/mesherstream.js")
	if err != nil {
		t.Fatal(err)
	}
	served, err := os.ReadFile("client/mesherstream.min.js")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(served), "\n")
	if want := fmt.Sprintf("client/mesherstream.js, SHA-256 %.8x…", sha256.Sum256(source)); !strings.HasSuffix(first, want) {
		t.Errorf("the first line of mesherstream.min.js: got %q, want %q at its end; run npm run build in client/", first, want)
	}
}

func TestTheDocumentsSayHowLargeTheServedModuleIs(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t).Handler())
	resp, err := app.Test(httptest.NewRequest("GET", "/stream/projects/mesherstream.js", nil))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	size := fmt.Sprintf("%.1f KB", float64(len(body))/1000)
	for name, said := range map[string]string{
		"README.md":        "The module is served minified, " + size,
		"client/README.md": "That is `mesherstream.min.js`, " + size,
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), said) {
			t.Errorf("%s: want %q, as is served", name, said)
		}
	}
}

func TestAPageThatHasTheModuleGets304(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t).Handler())
	const path = "/stream/projects/mesherstream.js"
	served, err := app.Test(httptest.NewRequest("GET", path, nil))
	if err != nil {
		t.Fatal(err)
	}
	tag := served.Header.Get("ETag")
	for _, method := range []string{"GET", "HEAD"} {
		for match, want := range map[string]int{
			"":                     200,
			`"another"`:            200,
			tag:                    304,
			"W/" + tag:             304, // as a proxy has it that compresses
			`"another", ` + tag:    304,
			`W/"another",W/` + tag: 304,
			"*":                    304,
		} {
			req := httptest.NewRequest(method, path, nil)
			if match != "" {
				req.Header.Set("If-None-Match", match)
			}
			resp, err := app.Test(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != want || resp.Header.Get("ETag") != tag || resp.Header.Get("Cache-Control") != "no-cache" {
				t.Errorf("%s, If-None-Match %s: got %d, %v, want %d with ETag and Cache-Control", method, match, resp.StatusCode, resp.Header, want)
			}
			if full := method == "GET" && want == 200; len(body) != 0 != full || want == 200 && resp.ContentLength != served.ContentLength {
				t.Errorf("%s, If-None-Match %s: got %d bytes, Content-Length %d", method, match, len(body), resp.ContentLength)
			}
		}
	}
}

func TestAProjectNamedAsTheBrowserClientCanBeFollowed(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("mesherstream.js")
		if err := w.M.Broadcast(mesherstream.Message{Project: "mesherstream.js", Data: []byte("hello")}); err != nil {
			w.Fatal(err)
		}
		if got := v.Next(); got != "hello" {
			w.Errorf("got %q, want hello", got)
		}
	})
}
