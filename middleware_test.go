package mesherstream

import (
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
)

func TestAnAppThatIsShutDownAsItBeginsToListenEnds(t *testing.T) {
	for range 50 {
		t.Run("", func(t *testing.T) {
			app := quietApp()
			m := newTestManager(t, WithApp(app))
			newSite(t, app, m)
		})
	}
}

// A mount is one way to put the handler into an app.
type mount struct {
	name   string
	mount  func(app *fiber.App, h fiber.Handler)
	before string // the path in front of the project
	after  string // and behind it
}

var mounts = []mount{
	{"app.Use", func(app *fiber.App, h fiber.Handler) { app.Use(h) }, "/stream/projects/", ""},
	{"app.Use with a prefix", func(app *fiber.App, h fiber.Handler) { app.Use("/live", h) }, "/live/stream/projects/", ""},
	{"app.Use with a long prefix", func(app *fiber.App, h fiber.Handler) { app.Use("/a/b/c/", h) }, "/a/b/c/stream/projects/", ""},
	{"group.Use", func(app *fiber.App, h fiber.Handler) { app.Group("/api/v1").Use(h) }, "/api/v1/stream/projects/", ""},
	{"app.Group", func(app *fiber.App, h fiber.Handler) { app.Group("/api", h) }, "/api/stream/projects/", ""},
	{"nested groups", func(app *fiber.App, h fiber.Handler) {
		app.Group("/api").Group("/v1").Use("/live", h)
	}, "/api/v1/live/stream/projects/", ""},
	{"group with a parameter", func(app *fiber.App, h fiber.Handler) {
		app.Group("/tenants/:tenant").Use(h)
	}, "/tenants/a-much-longer-name/stream/projects/", ""},
	{"mounted app", func(app *fiber.App, h fiber.Handler) {
		sub := fiber.New()
		sub.Use(h)
		app.Mount("/sub", sub)
	}, "/sub/stream/projects/", ""},
	{"prefix on a mounted app", func(app *fiber.App, h fiber.Handler) {
		sub := fiber.New()
		sub.Use("/live", h)
		app.Mount("/sub", sub)
	}, "/sub/live/stream/projects/", ""},
	{"route", func(app *fiber.App, h fiber.Handler) { app.Get("/events/:project_id", h) }, "/events/", ""},
	{"route with a tail", func(app *fiber.App, h fiber.Handler) {
		app.Get("/projects/:project_id/events", h)
	}, "/projects/", "/events"},
	{"route in a group", func(app *fiber.App, h fiber.Handler) {
		app.Group("/tenants/:tenant").Get("/events/:project_id", h)
	}, "/tenants/acme/events/", ""},
	{"route on a mounted app", func(app *fiber.App, h fiber.Handler) {
		sub := fiber.New()
		sub.Get("/events/:project_id", h)
		app.Mount("/sub", sub)
	}, "/sub/events/", ""},
}

func TestEveryMountStreamsToItsClients(t *testing.T) {
	for _, mt := range mounts {
		t.Run(mt.name, func(t *testing.T) {
			t.Parallel()
			app := quietApp()
			m := newTestManager(t, WithApp(app))
			mt.mount(app, m.Handler())
			s := newSite(t, app, m)
			ws, id := s.connect(mt.before + "shop%201" + mt.after + "?level=error")
			if c, ok := m.Client(id); !ok || c.Project != "shop 1" || !slices.Equal(c.Levels, []string{"error"}) {
				t.Errorf("Client(%d): got %+v, %v, want project %q, level error", id, c, ok, "shop 1")
			}
			s.publish(Message{Project: "shop", Data: []byte("not for it")})
			s.publish(Message{Project: "shop 1", Level: "info", Data: []byte("nor this")})
			s.publish(Message{Project: "shop 1", Level: "error", Data: []byte("hello")})
			s.gets(ws, "hello")
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
		for _, mt := range mounts {
			t.Run(name+"/"+mt.name, func(t *testing.T) {
				app := quietApp(config)
				var project string
				m := newTestManager(t, WithAuthorize(func(_ *fiber.Ctx, sub *Subscription) error {
					project = strings.Clone(sub.Project)
					return nil
				}))
				mt.mount(app, m.Handler())
				for _, want := range []string{"shop", "Shop 1", "süß", "a.b~c-d_e", "..", "100%", "a:b*c", strings.Repeat("x", 128)} {
					target := mt.before + url.PathEscape(want) + mt.after
					if status, body := ask(t, app, "GET", target, upgrade...); status != 101 || project != want {
						t.Errorf("GET %s: got %d %q and project %q, want 101 and %q", target, status, body, project, want)
					}
					if status, _ := ask(t, app, "GET", target); status != 426 {
						t.Errorf("GET %s without upgrade: got %d, want 426", target, status)
					}
				}
			})
		}
	}
}

func TestWithPathMovesTheStream(t *testing.T) {
	app := quietApp()
	app.Use("/live", newTestManager(t, WithPath("/ws")).Handler())
	for target, want := range map[string]int{"/live/ws/shop": 101, "/live/stream/projects/shop": 404, "/ws/shop": 404, "/live/wsx": 404} {
		if got, _ := ask(t, app, "GET", target, upgrade...); got != want {
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
			app := quietApp()
			app.Use(newTestManager(t).Handler())
			var header []string
			if tt.upgrade {
				header = upgrade
			}
			if got, body := ask(t, app, "GET", tt.target, header...); got != tt.want {
				t.Errorf("GET %s: got %d %q, want %d", tt.target, got, body, tt.want)
			}
		})
	}
}

func TestACaseSensitiveAppHasACaseSensitiveStreamPath(t *testing.T) {
	app := quietApp(fiber.Config{CaseSensitive: true})
	app.Use(newTestManager(t).Handler())
	if got, _ := ask(t, app, "GET", "/Stream/projects/shop", upgrade...); got != 404 {
		t.Errorf("GET /Stream/projects/shop: got %d, want 404", got)
	}
}

func TestUnescapePathStillRefusesSlashesAndControlCharacters(t *testing.T) {
	app := quietApp(fiber.Config{UnescapePath: true})
	app.Use(newTestManager(t).Handler())
	for target, want := range map[string]int{"a%2Fb": 400, "a%00b": 400, "%20": 101, "a%252Fb": 101, "%FF": 400, "a%zz": 400} {
		if got, body := ask(t, app, "GET", "/stream/projects/"+target, upgrade...); got != want {
			t.Errorf("GET %s: got %d %q, want %d", target, got, body, want)
		}
	}
}

func TestEverythingElseReachesTheNextHandlerWhichFindsTheManager(t *testing.T) {
	app := quietApp()
	m := newTestManager(t)
	app.Get("/before", func(c *fiber.Ctx) error {
		if got := From(c); got != nil {
			t.Errorf("From in front of the middleware: got %p, want nil", got)
		}
		return c.SendString("before")
	})
	app.Use(m.Handler())
	app.All("*", func(c *fiber.Ctx) error {
		if got := From(c); got != m {
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
		if got, _ := ask(t, app, method, target, upgrade...); got != fiber.StatusTeapot {
			t.Errorf("%s: got %d, want %d from the next handler", request, got, fiber.StatusTeapot)
		}
	}
	if got, body := ask(t, app, "GET", "/before"); got != 200 || body != "before" {
		t.Errorf("GET /before: got %d %q, want 200", got, body)
	}
}

func TestFromFindsTheManagerOfThePrefixItIsUnder(t *testing.T) {
	app := quietApp()
	a, b := newTestManager(t), newTestManager(t)
	app.Use("/a", a.Handler())
	app.Use("/b", b.Handler())
	app.Get("*", func(c *fiber.Ctx) error {
		want := map[string]*Manager{"/a/x": a, "/b/x": b}[c.Path()]
		if got := From(c); got != want {
			t.Errorf("From at %s: got %p, want %p", c.Path(), got, want)
		}
		return nil
	})
	for _, target := range []string{"/a/x", "/b/x", "/x"} {
		ask(t, app, "GET", target)
	}
}

// RFC 6455, section 4.4: who asks with another version is told which one there is.
func TestA426NamesTheProtocolAndItsVersion(t *testing.T) {
	app := quietApp()
	app.Use(newTestManager(t).Handler())
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
