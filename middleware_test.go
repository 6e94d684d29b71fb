package mesherstream_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	fws "github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestAnAppThatIsShutDownAsItBeginsToListenEnds(t *testing.T) {
	for range 50 {
		t.Run("", func(t *testing.T) {
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
			streamtest.NewSite(t, app, m)
		})
	}
}

func TestEveryMountStreamsToItsClients(t *testing.T) {
	for _, mt := range streamtest.Mounts {
		t.Run(mt.Name, func(t *testing.T) {
			t.Parallel()
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
			mt.Use(app, m.Handler())
			s := streamtest.NewSite(t, app, m)
			ws, id := s.Connect(mt.Before + "shop%201" + mt.After + "?level=error")
			if c, ok := m.Client(id); !ok || c.Project != "shop 1" || !slices.Equal(c.Levels, []string{"error"}) {
				t.Errorf("Client(%d): got %+v, %v, want project %q, level error", id, c, ok, "shop 1")
			}
			s.Publish(mesherstream.Message{Project: "shop", Data: []byte("not for it")})
			s.Publish(mesherstream.Message{Project: "shop 1", Level: "info", Data: []byte("nor this")})
			s.Publish(mesherstream.Message{Project: "shop 1", Level: "error", Data: []byte("hello")})
			s.Gets(ws, "hello")
		})
	}
}

func TestEveryMountFindsTheProjectUnderEveryRouterConfig(t *testing.T) {
	configs := map[string]fiber.Config{
		"default":       {},
		"CaseSensitive": {CaseSensitive: true},
		"UnescapePath":  {UnescapePath: true},
		"StrictRouting": {StrictRouting: true},
		"Immutable":     {Immutable: true},
	}
	for name, config := range configs {
		for _, mt := range streamtest.Mounts {
			t.Run(name+"/"+mt.Name, func(t *testing.T) {
				app := streamtest.QuietApp(config)
				var project string
				m := streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
					project = strings.Clone(sub.Project)
					return nil
				}))
				mt.Use(app, m.Handler())
				for _, want := range []string{"shop", "Shop 1", "süß", "a.b~c-d_e", "..", "100%", "a:b*c", strings.Repeat("x", 128)} {
					target := mt.Before + url.PathEscape(want) + mt.After
					if status, body := streamtest.Ask(t, app, "GET", target, streamtest.Upgrade...); status != 101 || project != want {
						t.Errorf("GET %s: got %d %q and project %q, want 101 and %q", target, status, body, project, want)
					}
					if status, _ := streamtest.Ask(t, app, "GET", target); status != 426 {
						t.Errorf("GET %s without upgrade: got %d, want 426", target, status)
					}
				}
			})
		}
	}
}

func TestWithPathMovesTheStream(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use("/live", streamtest.NewTestManager(t, mesherstream.WithPath("/ws")).Handler())
	for target, want := range map[string]int{"/live/ws/shop": 101, "/live/stream/projects/shop": 404, "/ws/shop": 404, "/live/wsx": 404} {
		if got, _ := streamtest.Ask(t, app, "GET", target, streamtest.Upgrade...); got != want {
			t.Errorf("GET %s: got %d, want %d", target, got, want)
		}
	}
}

func TestTheStreamPathAnswersWhatIsWrongWithARequest(t *testing.T) {
	const is = "/stream/projects/"
	for _, tt := range []struct {
		name, target string
		upgrade      bool
		want         int
	}{
		{"no upgrade", is + "shop", false, 426},
		{"upgrade", is + "shop", true, 101},
		{"no project", "/stream/projects", true, 400},
		{"empty project", is, true, 400},
		{"empty project without upgrade", is, false, 400},
		{"128 bytes", is + strings.Repeat("x", 128), true, 101},
		{"129 bytes", is + strings.Repeat("x", 129), true, 400},
		{"129 bytes of which each is encoded", is + strings.Repeat("%78", 129), true, 400},
		{"128 bytes of which each is encoded", is + strings.Repeat("%78", 128), true, 101},
		{"broken percent", is + "a%zzb", true, 400},
		{"percent at the end", is + "a%", true, 400},
		{"half a percent at the end", is + "a%2", true, 400},
		{"slash", is + "a/b", true, 400},
		{"slash at the end", is + "a/", true, 400},
		{"encoded slash", is + "a%2Fb", true, 400},
		{"encoded slash in lower case", is + "a%2fb", true, 400},
		{"nothing but a slash", is + "%2F", true, 400},
		{"NUL", is + "a%00b", true, 400},
		{"line feed", is + "a%0Ab", true, 400},
		{"DEL", is + "a%7Fb", true, 400},
		{"not UTF-8", is + "a%FFb", true, 400},
		{"twice encoded is decoded once", is + "a%252Fb", true, 101},
		{"upper case path", "/STREAM/Projects/shop", true, 101},
		{"too many values", is + "shop?level=" + strings.Repeat("a,", 16) + "b", true, 400},
		{"16 values", is + "shop?level=" + strings.Repeat("a,", 15) + "b", true, 101},
		{"value too long", is + "shop?environment=" + strings.Repeat("e", 65), true, 400},
		{"value of 64 bytes", is + "shop?environment=" + strings.Repeat("e", 64), true, 101},
		{"value that is not UTF-8", is + "shop?level=%FF", true, 400},
		{"a query that is none of ours", is + "shop?token=x&level=", true, 101},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := streamtest.QuietApp()
			app.Use(streamtest.NewTestManager(t).Handler())
			var header []string
			if tt.upgrade {
				header = streamtest.Upgrade
			}
			if got, body := streamtest.Ask(t, app, "GET", tt.target, header...); got != tt.want {
				t.Errorf("GET %s: got %d %q, want %d", tt.target, got, body, tt.want)
			}
		})
	}
}

func TestACaseSensitiveAppHasACaseSensitiveStreamPath(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{CaseSensitive: true})
	app.Use(streamtest.NewTestManager(t).Handler())
	if got, _ := streamtest.Ask(t, app, "GET", "/Stream/projects/shop", streamtest.Upgrade...); got != 404 {
		t.Errorf("GET /Stream/projects/shop: got %d, want 404", got)
	}
}

func TestUnescapePathStillRefusesSlashesAndControlCharacters(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{UnescapePath: true})
	app.Use(streamtest.NewTestManager(t).Handler())
	for target, want := range map[string]int{"a%2Fb": 400, "a%00b": 400, "%20": 101, "a%252Fb": 101, "%FF": 400, "a%zz": 400} {
		if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/"+target, streamtest.Upgrade...); got != want {
			t.Errorf("GET %s: got %d %q, want %d", target, got, body, want)
		}
	}
}

func TestEverythingElseReachesTheNextHandlerWhichFindsTheManager(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t)
	app.Get("/before", func(c *fiber.Ctx) error {
		if got := mesherstream.From(c); got != nil {
			t.Errorf("From in front of the middleware: got %p, want nil", got)
		}
		return c.SendString("before")
	})
	app.Use(m.Handler())
	app.All("*", func(c *fiber.Ctx) error {
		if got := mesherstream.From(c); got != m {
			t.Errorf("%s %s: From: got %p, want %p", c.Method(), c.Path(), got, m)
		}
		return c.SendStatus(fiber.StatusTeapot)
	})
	for _, request := range []string{
		"GET /", "GET /other", "GET /stream", "GET /stream/projectsx", "GET /stream/projectsx/shop", "GET /stream/project/shop",
		"GET /x/stream/projects/shop", "GET //stream/projects/shop", "GET /stream//projects/shop", "GET /streams/projects/shop",
		"POST /stream/projects/shop", "OPTIONS /stream/projects/shop", "DELETE /stream/projects", "HEAD /stream",
		"POST /api/v1/events",
	} {
		method, target, _ := strings.Cut(request, " ")
		if got, _ := streamtest.Ask(t, app, method, target, streamtest.Upgrade...); got != fiber.StatusTeapot {
			t.Errorf("%s: got %d, want %d from the next handler", request, got, fiber.StatusTeapot)
		}
	}
	if got, body := streamtest.Ask(t, app, "GET", "/before"); got != 200 || body != "before" {
		t.Errorf("GET /before: got %d %q, want 200", got, body)
	}
}

func TestFromFindsTheManagerOfThePrefixItIsUnder(t *testing.T) {
	app := streamtest.QuietApp()
	a, b := streamtest.NewTestManager(t), streamtest.NewTestManager(t)
	app.Use("/a", a.Handler())
	app.Use("/b", b.Handler())
	app.Get("*", func(c *fiber.Ctx) error {
		want := map[string]*mesherstream.Manager{"/a/x": a, "/b/x": b}[c.Path()]
		if got := mesherstream.From(c); got != want {
			t.Errorf("From at %s: got %p, want %p", c.Path(), got, want)
		}
		return nil
	})
	for _, target := range []string{"/a/x", "/b/x", "/x"} {
		streamtest.Ask(t, app, "GET", target)
	}
}

// RFC 6455, section 4.4: a client that asks for another version is told which one is supported.
func TestA426NamesTheProtocolAndItsVersion(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t).Handler())
	for name, header := range map[string]map[string]string{
		"no upgrade":      {},
		"another version": {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "8", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
	} {
		req := httptest.NewRequest("GET", "/stream/projects/shop", nil)
		for k, v := range header {
			req.Header.Set(k, v)
		}
		resp, err := app.Test(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		upgrade, version := resp.Header.Get("Upgrade"), resp.Header.Get("Sec-WebSocket-Version")
		if resp.StatusCode != 426 || upgrade != "websocket" || version != "13" {
			t.Errorf("%s: got %d, Upgrade %q, version %q, want 426, websocket and 13", name, resp.StatusCode, upgrade, version)
		}
	}
}

func TestServeStreamsOnAnOwnRouteWithinItsSubscription(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
	served := streamtest.OwnRoute(app, m, mesherstream.Filter{Levels: []string{"error", "fatal"}})
	s := streamtest.NewSite(t, app, m)
	ws, id := s.Connect("/own/shop?level=debug") // the query belongs to the route
	if c, ok := m.Client(id); !ok || c.Project != "shop" || !slices.Equal(c.Levels, []string{"error", "fatal"}) || c.RemoteAddr != "127.0.0.1" {
		t.Errorf("Client(%d): got %+v, %v, want project shop, levels error and fatal, address 127.0.0.1", id, c, ok)
	}
	s.Publish(mesherstream.Message{Project: "shop", Level: "debug", Data: []byte("no")})
	s.Publish(mesherstream.Message{Project: "shop", Level: "fatal", Data: []byte("yes")})
	s.Gets(ws, "yes")
	if err := ws.WriteMessage(fws.TextMessage, []byte(`{"type":"subscribe","filters":{"level":"debug"}}`)); err != nil {
		t.Fatal(err)
	}
	s.Gets(ws, `{"type":"error","code":"not_granted","message":"mesherstream: filter is outside of what was granted"}`)
	_ = ws.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve of a client that left: got %v, want nil", err)
	}
	s.Eventually("it has left", func() bool { return !m.IsStreamClient(id) })
}

func TestServeTellsTheClientAndTheCallerWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opts   []mesherstream.Option
		filter mesherstream.Filter
		before func(s *streamtest.Site)
		want   error
		code   int
	}{
		{name: "invalid filter", filter: mesherstream.Filter{Levels: make([]string, 17)}, want: mesherstream.ErrInvalidFilter, code: 1011},
		{name: "cap", opts: []mesherstream.Option{mesherstream.WithMaxClients(1)}, before: func(s *streamtest.Site) { s.Connect("/own/first") }, want: mesherstream.ErrTooManyClients, code: 1013},
		{name: "cap of an address", opts: []mesherstream.Option{mesherstream.WithMaxClientsPerIP(1)}, before: func(s *streamtest.Site) { s.Connect("/own/first") }, want: mesherstream.ErrTooManyClients, code: 1013},
		{name: "closed", before: func(s *streamtest.Site) {
			if err := s.M.Shutdown(s.Context()); err != nil {
				s.Fatal(err)
			}
		}, want: mesherstream.ErrClosed, code: 1001},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t, tt.opts...)
			served := streamtest.OwnRoute(app, m, tt.filter)
			s := streamtest.NewSite(t, app, m)
			if tt.before != nil {
				tt.before(s)
			}
			ws, resp, err := s.Dial("/own/shop")
			if err != nil {
				t.Fatalf("dial: %v, %v", err, resp)
			}
			if _, _, err := ws.ReadMessage(); !fws.IsCloseError(err, tt.code) {
				t.Errorf("the client: got %v, want close %d", err, tt.code)
			}
			_ = ws.NetConn().Close()
			if err := <-served; !errors.Is(err, tt.want) {
				t.Errorf("Serve: got %v, want %v", err, tt.want)
			}
		})
	}
}

// Trap 3 once more: if the app has a ProxyHeader, conn.IP is a view of the request's header.
func TestServeKeepsTheAddressThatAProxyTold(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Forwarded-For"})
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClientsPerIP(1))
	streamtest.OwnRoute(app, m, mesherstream.Filter{})
	app.Get("/other", func(c *fiber.Ctx) error { return c.SendString(c.IP()) })
	s := streamtest.NewSite(t, app, m)
	var ids []mesherstream.ClientID
	for i := range 20 {
		_, id := s.Connect("/own/shop", fmt.Sprintf("X-Forwarded-For: 192.0.2.%d", 100+i))
		ids = append(ids, id)
		streamtest.Ask(t, app, "GET", "/other", "X-Forwarded-For: 198.51.100.99")
	}
	for i, id := range ids {
		if c, _ := m.Client(id); c.RemoteAddr != fmt.Sprintf("192.0.2.%d", 100+i) {
			t.Errorf("Client(%d).RemoteAddr: got %q, want 192.0.2.%d", id, c.RemoteAddr, 100+i)
		}
	}
}

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
			"W/" + tag:             304, // as set by a proxy that compresses
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

func TestTheModuleOfAPageIsKnownInAnySpelling(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{DisableHeaderNormalizing: true})
	app.Use(streamtest.NewTestManager(t).Handler())
	resp, err := app.Test(httptest.NewRequest("GET", "/stream/projects/mesherstream.js", nil))
	if err != nil {
		t.Fatal(err)
	}
	tag := resp.Header.Get("ETag")
	for _, tt := range []struct {
		header []string
		want   int
	}{
		{[]string{"if-none-match: " + tag}, 304},
		{[]string{"IF-NONE-MATCH: W/" + tag}, 304},
		{[]string{`if-none-match: "another"`, "If-None-Match: " + tag}, 304},
		{[]string{`if-none-match: "another"`}, 200},
		{[]string{"if-none-match: " + tag, "cache-control: no-cache"}, 200}, // a page that is loaded anew
	} {
		if got, _ := streamtest.Ask(t, app, "GET", "/stream/projects/mesherstream.js", tt.header...); got != tt.want {
			t.Errorf("%q: got %d, want %d", tt.header, got, tt.want)
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
