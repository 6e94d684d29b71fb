package mesherstream_test

import (
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

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

// RFC 6455, section 4.4: who asks with another version is told which one there is.
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
