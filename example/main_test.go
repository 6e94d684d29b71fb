package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

// call sends one request to a new app and returns the status and the body.
func call(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	app, _, _, err := newApp(hosts{"example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { app.ShutdownWithTimeout(time.Second) })
	resp, err := app.Test(httptest.NewRequest(method, path, strings.NewReader(body)), -1)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// serve runs a new app on a free port until the test ends.
func serve(t *testing.T) (url string, f *feed) {
	t.Helper()
	url, f, _ = serveAt(t, "127.0.0.1:0")
	return url, f
}

// serveAt runs a new app at an address, until it is stopped or the test ends.
func serveAt(t *testing.T, addr string) (url string, f *feed, stop func()) {
	t.Helper()
	app, m, f, err := newApp(localhost)
	if err != nil {
		t.Fatal(err)
	}
	url, stop = listen(t, app, m, addr)
	return url, f, stop
}

// listen runs an app at an address, until it is stopped or the test ends.
func listen(t *testing.T, app *fiber.App, m *mesherstream.Manager, addr string) (url string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	listening := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	app.Hooks().OnListen(func(fiber.ListenData) error { close(listening); return nil })
	wg.Go(func() { app.Listener(ln) })
	<-listening // or an app that is shut down before would start its manager afterwards
	wg.Go(func() { streamClients(ctx, m, 50*time.Millisecond) })
	stop = sync.OnceFunc(func() {
		cancel()
		app.ShutdownWithTimeout(10 * time.Second)
		ln.Close() // fasthttp forgets a shutdown that comes before it has the listener
		wg.Wait()
	})
	t.Cleanup(stop)
	return "http://" + ln.Addr().String(), stop
}

func TestAnAppThatIsShutDownAsItBeginsToListenEnds(t *testing.T) {
	for range 50 {
		t.Run("", func(t *testing.T) { serve(t) })
	}
}

func TestPostsAreValidated(t *testing.T) {
	const events, issues = "/api/v1/events", "/api/v1/issues/"
	long := strings.Repeat("x", 3000)
	for _, test := range []struct {
		name, path, body string
		status           int
		reason           string
	}{
		{"message alone", events, `{"message":"x"}`, 202, `"id"`},
		{"everything", events, `{"project":"shop","level":"fatal","environment":"staging","service":"s","message":"x","tags":{"a":"b"},"data":[1]}`, 202, `"id"`},
		{"no body", events, ``, 400, "bad JSON"},
		{"bad JSON", events, `{"message":`, 400, "bad JSON"},
		{"not an object", events, `[]`, 400, "bad JSON"},
		{"wrong type", events, `{"message":1}`, 400, "bad JSON"},
		{"two values", events, `{"message":"x"} {}`, 400, "more than one value"},
		{"unknown field", events, `{"message":"x","lvl":"error"}`, 400, `unknown field`},
		{"invalid UTF-8", events, "{\"message\":\"x\",\"data\":\"\xff\"}", 400, "UTF-8"},
		{"missing message", events, `{"level":"error"}`, 400, "message is missing"},
		{"blank message", events, `{"message":" \n"}`, 400, "message is missing"},
		{"unknown level", events, `{"message":"x","level":"loud"}`, 400, "level must be one of debug, info, warning, error, fatal"},
		{"bad project", events, `{"message":"x","project":"a/b"}`, 400, "project must be"},
		{"empty project", events, `{"message":"x","project":""}`, 400, "project must be"},
		{"bad environment", events, `{"message":"x","environment":"a b"}`, 400, "environment must be"},
		{"long project", events, `{"message":"x","project":"` + long + `"}`, 400, "project must be"},
		{"long message", events, `{"message":"` + long + `"}`, 400, "message has more than"},
		{"long service", events, `{"message":"x","service":"` + long + `"}`, 400, "service has more than"},
		{"with an issue", events, `{"message":"x","issue":"SHOP-1"}`, 202, `"id"`},
		{"bad issue of an event", events, `{"message":"x","issue":"a b"}`, 400, "issue must be"},
		{"long tag", events, `{"message":"x","tags":{"a":"` + long + `"}}`, 400, "tag has more than"},
		{"resolve", issues + "SHOP-1/resolve", ``, 202, `"id"`},
		{"assign", issues + "SHOP-1/assign", `{"project":"shop","by":"ann","to":"bob"}`, 202, `"id"`},
		{"assign to nobody", issues + "SHOP-1/assign", ``, 400, "assign needs"},
		{"unknown action", issues + "SHOP-1/explode", ``, 404, "action must be one of assign, ignore, reopen, resolve"},
		{"bad issue", issues + "a%20b/resolve", ``, 400, "issue must be"},
		{"bad issue body", issues + "SHOP-1/resolve", `{`, 400, "bad JSON"},
		{"bad issue project", issues + "SHOP-1/resolve", `{"project":"a/b"}`, 400, "project must be"},
		{"long name", issues + "SHOP-1/resolve", `{"by":"` + long + `"}`, 400, "at most 64"},
		{"no such path", "/api/v2/events", ``, 404, "Cannot POST"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, body := call(t, http.MethodPost, test.path, test.body)
			var answer map[string]string
			if err := json.Unmarshal([]byte(body), &answer); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			if status != test.status || !strings.Contains(body, test.reason) {
				t.Errorf("got %d %s, want %d with %q", status, body, test.status, test.reason)
			}
		})
	}
}

// app.Test reports no response that is written before the body has been read, so this takes a real listener.
func TestABodyThatIsTooBigIsRefused(t *testing.T) {
	url, _ := serve(t)
	resp, err := http.Post(url+"/api/v1/events", "application/json", strings.NewReader(strings.Repeat("x", maxBodyBytes+1)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusRequestEntityTooLarge || !json.Valid(body) {
		t.Errorf("got %d %s, want 413 and a reason", resp.StatusCode, body)
	}
}

func TestStatsAndPageAreServed(t *testing.T) {
	status, body := call(t, http.MethodGet, "/stats", "")
	var stats mesherstream.Stats
	if err := json.Unmarshal([]byte(body), &stats); status != http.StatusOK || err != nil {
		t.Errorf("/stats: got %d %s (%v)", status, body, err)
	}
	status, body = call(t, http.MethodGet, "/?project=shop", "")
	if status != http.StatusOK || !strings.HasPrefix(body, "<!doctype html>") {
		t.Errorf("/: got %d %.40q", status, body)
	}
	if status, _ = call(t, http.MethodGet, "/stream/projects/demo", ""); status != http.StatusUpgradeRequired {
		t.Errorf("the stream without an upgrade: got %d, want 426", status)
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for name, err := range map[string]error{
		"project":     run("127.0.0.1:0", nil, "a/b", "e", false, 0),
		"environment": run("127.0.0.1:0", nil, "a", "", false, 0),
		"rate":        run("127.0.0.1:0", nil, "a", "e", false, -1),
		"address":     run("256.0.0.1:x", nil, "a", "e", false, 0),
		"port":        run("127.0.0.1", nil, "a", "e", false, 0),
	} {
		if err == nil {
			t.Errorf("an invalid %s: got no error", name)
		}
	}
}
