package mesherstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// A publisher that is mounted before New, or an error of NewManager that nobody looked at, must not end the process.
func TestEveryMethodOfAManagerThatIsNoneReturnsErrNotMounted(t *testing.T) {
	for name, m := range map[string]*Manager{"nil": nil, "zero": {}} {
		for method, err := range map[string]error{
			"Broadcast":     m.Broadcast(Message{Project: "shop", Data: []byte("x")}),
			"BufferMessage": m.BufferMessage(1, []byte("x")),
			"SetFilter":     m.SetFilter(1, Filter{}),
			"Disconnect":    m.Disconnect(1, 1000, ""),
			"Shutdown":      m.Shutdown(t.Context()),
			"Handler":       m.Handler()(nil),
		} {
			if !errors.Is(err, ErrNotMounted) {
				t.Errorf("%s of a %s manager: got %v, want ErrNotMounted", method, name, err)
			}
		}
		if m.IsStreamClient(1) {
			t.Errorf("IsStreamClient of a %s manager: got true", name)
		}
		if c, ok := m.Client(1); ok || c.ID != 0 {
			t.Errorf("Client of a %s manager: got %v, %v, want none", name, c, ok)
		}
		for c := range m.Clients() {
			t.Errorf("Clients of a %s manager: got %v, want none", name, c)
		}
		if got := m.Stats(); got != (Stats{}) {
			t.Errorf("Stats of a %s manager: got %+v, want zeros", name, got)
		}
	}
}

func TestServeOfANilManagerClosesTheConnection(t *testing.T) {
	app := quietApp()
	served := ownRoute(app, nil, Filter{})
	s := newSite(t, app, nil)
	ws, resp, err := s.dial("/own/shop")
	if err != nil {
		t.Fatalf("dial: %v, %v", err, resp)
	}
	if _, _, err := ws.ReadMessage(); err == nil || !strings.Contains(err.Error(), "1011") {
		t.Errorf("the client: got %v, want close 1011", err)
	}
	_ = ws.NetConn().Close()
	if err := <-served; !errors.Is(err, ErrNotMounted) {
		t.Errorf("Serve: got %v, want ErrNotMounted", err)
	}
}

func TestAPublisherThatNoManagerIsMountedBeforeAnswersAnError(t *testing.T) {
	app := quietApp()
	publish := func(c *fiber.Ctx) error { return From(c).Broadcast(Message{Project: "shop", Data: c.Body()}) }
	app.Post("/early", publish)
	app.Use(newTestManager(t).Handler())
	app.Post("/late", publish)
	if got, body := ask(t, app, "POST", "/early", "Content-Length: 0"); got != 500 || !strings.Contains(body, "mount New before") {
		t.Errorf("a publisher before New: got %d %q, want 500 that says what to do", got, body)
	}
	if got, body := ask(t, app, "POST", "/late", "Content-Length: 0"); got != 200 {
		t.Errorf("a publisher after New: got %d %q, want 200", got, body)
	}
}

// logged returns a logger option and what it has logged from level info on.
func logged() (Option, *logBuffer) {
	logs := new(logBuffer)
	return WithLogger(slog.New(slog.NewTextHandler(logs, nil))), logs
}

// Of managers on one path, the first takes all clients, so it is the one to publish by.
func TestOfTwoManagersOnOnePathFromReturnsTheOneThatServes(t *testing.T) {
	at := func(path string) Option { return WithPath(path) }
	for _, tt := range []struct {
		name  string
		mount func(app *fiber.App, first, second *Manager)
		paths [2]string
		post  string
		from  int  // which one From returns
		warns bool // of the second
	}{
		{name: "twice", mount: func(app *fiber.App, first, second *Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, post: "/post", from: 1, warns: true},
		{name: "in one Use", mount: func(app *fiber.App, first, second *Manager) {
			app.Use(first.Handler(), second.Handler())
		}, post: "/post", from: 1, warns: true},
		{name: "twice on one prefix", mount: func(app *fiber.App, first, second *Manager) {
			app.Use("/live", first.Handler())
			app.Group("/live").Use(second.Handler())
		}, post: "/live/post", from: 1, warns: true},
		{name: "in two spellings", mount: func(app *fiber.App, first, second *Manager) {
			app.Use("/live", first.Handler())
			app.Use("/Live/", second.Handler())
		}, post: "/live/post", from: 1, warns: true},
		{name: "a prefix and a path", mount: func(app *fiber.App, first, second *Manager) {
			app.Use(first.Handler())
			app.Use("/live", second.Handler())
		}, paths: [2]string{"/live/stream", "/stream"}, post: "/live/post", from: 1, warns: true},
		{name: "a parameter", mount: func(app *fiber.App, first, second *Manager) {
			app.Use("/:tenant", first.Handler())
			app.Use("/live", second.Handler())
		}, post: "/live/post", from: 1, warns: true},
		{name: "a path below the other's", mount: func(app *fiber.App, first, second *Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, paths: [2]string{"/stream", "/stream/projects"}, post: "/post", from: 1, warns: true},
		{name: "an app that is mounted", mount: func(app *fiber.App, first, second *Manager) {
			sub := fiber.New()
			sub.Use(second.Handler())
			app.Use(first.Handler())
			app.Mount("/", sub)
		}, post: "/post", from: 1, warns: true},

		{name: "two paths", mount: func(app *fiber.App, first, second *Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, paths: [2]string{"/a", "/b"}, post: "/post", from: 2},
		{name: "two paths that begin alike", mount: func(app *fiber.App, first, second *Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, paths: [2]string{"/live", "/lively"}, post: "/post", from: 2},
		{name: "a group of its own", mount: func(app *fiber.App, first, second *Manager) {
			app.Use(first.Handler())
			app.Group("/live").Use(second.Handler())
		}, post: "/live/post", from: 2},
		{name: "a group of its own, outside of it", mount: func(app *fiber.App, first, second *Manager) {
			app.Use(first.Handler())
			app.Group("/live").Use(second.Handler())
		}, post: "/post", from: 1},
		{name: "the same one twice", mount: func(app *fiber.App, first, _ *Manager) {
			app.Use(first.Handler())
			app.Use(first.Handler())
		}, post: "/post", from: 1},
		{name: "a path above the other's", mount: func(app *fiber.App, first, second *Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, paths: [2]string{"/stream/projects", "/stream"}, post: "/post", from: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, logs := logged()
			opts := [2][]Option{{log}, {log}}
			for i, path := range tt.paths {
				if path != "" {
					opts[i] = append(opts[i], at(path))
				}
			}
			first, second := newTestManager(t, opts[0]...), newTestManager(t, opts[1]...)
			app := quietApp()
			tt.mount(app, first, second)
			var from *Manager
			app.Post(tt.post, func(c *fiber.Ctx) error { from = From(c); return nil })
			for range 3 {
				if got, body := ask(t, app, "POST", tt.post, "Content-Length: 0"); got != 200 {
					t.Fatalf("POST %s: got %d %q", tt.post, got, body)
				}
			}
			if want := map[int]*Manager{1: first, 2: second}[tt.from]; from != want {
				t.Errorf("From: got another manager than the %d. one", tt.from)
			}
			if got := logs.count("two managers are mounted on one path"); (got == 1) != tt.warns || got > 1 {
				t.Errorf("got %d warnings, want one: %v\n%s", got, tt.warns, &logs.buf)
			}
		})
	}
}

func TestWhatIsPublishedReachesTheClientsOfTwoManagersOnOnePath(t *testing.T) {
	app := quietApp()
	m := newTestManager(t, WithApp(app))
	app.Use(m.Handler())
	app.Use(New(WithLogger(slog.New(slog.DiscardHandler))))
	app.Post("/events", func(c *fiber.Ctx) error { return From(c).Broadcast(Message{Project: "shop", Data: []byte("news")}) })
	s := newSite(t, app, m)
	ws, _ := s.connect("/stream/projects/shop")
	ask(t, app, "POST", "/events", "Content-Length: 0")
	s.gets(ws, "news")
}

// A route that can have no stream says so once, and one that can says nothing.
func TestARouteWithoutAProjectTellsTheLog(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mount  func(app *fiber.App, h fiber.Handler)
		target string
		warns  string // the route that it names
		want   int
	}{
		{"another name", func(app *fiber.App, h fiber.Handler) { app.Get("/live/:id", h) }, "/live/shop", "/live/:id", 404},
		{"a name in another case", func(app *fiber.App, h fiber.Handler) { app.Get("/live/:projectID", h) }, "/live/shop", "/live/:projectID", 404},
		{"the default path", func(app *fiber.App, h fiber.Handler) { app.Get("/stream/projects/:project", h) }, "/stream/projects/shop", "/stream/projects/:project", 404},
		{"no parameter", func(app *fiber.App, h fiber.Handler) { app.Get("/live", h) }, "/live", "/live", 404},
		{"in a group", func(app *fiber.App, h fiber.Handler) { app.Group("/v1").Get("/live/:id", h) }, "/v1/live/shop", "/v1/live/:id", 404},
		{"in an app that is mounted", func(app *fiber.App, h fiber.Handler) {
			sub := fiber.New()
			sub.Get("/live/:id", h)
			app.Mount("/sub", sub)
		}, "/sub/live/shop", "/sub/live/:id", 404},
		{"behind another handler", func(app *fiber.App, h fiber.Handler) {
			app.Get("/live/:id", func(c *fiber.Ctx) error { return c.Next() }, h)
		}, "/live/shop", "/live/:id", 404},
		{"all methods", func(app *fiber.App, h fiber.Handler) { app.All("/live/:id", h) }, "/live/shop", "/live/:id", 404},

		{"the right name", func(app *fiber.App, h fiber.Handler) { app.Get("/live/:project_id", h) }, "/live/shop", "", 101},
		{"a wildcard", func(app *fiber.App, h fiber.Handler) { app.Get("/live/*", h) }, "/live/page", "", 404},
		{"a mount with a parameter", func(app *fiber.App, h fiber.Handler) { app.Use("/:tenant", h) }, "/shop", "", 404},
		{"a mount, and a route of the same pattern", func(app *fiber.App, h fiber.Handler) {
			app.Use("/:tenant", h)
			app.Get("/:tenant", func(c *fiber.Ctx) error { return c.SendString("page") })
		}, "/shop", "", 200},
		{"a mount", func(app *fiber.App, h fiber.Handler) { app.Use(h) }, "/page", "", 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, logs := logged()
			app := quietApp()
			tt.mount(app, newTestManager(t, log).Handler())
			for range 3 {
				if got, body := ask(t, app, "GET", tt.target, upgrade...); got != tt.want {
					t.Errorf("GET %s: got %d %q, want %d", tt.target, got, body, tt.want)
				}
			}
			got := logs.count("a route has no parameter :project_id")
			if want := tt.warns != ""; (got == 1) != want || got > 1 || want && logs.count("route="+tt.warns+"\n") != 1 {
				t.Errorf("got %d warnings, want one of %q:\n%s", got, tt.warns, &logs.buf)
			}
		})
	}
}

// Fiber runs the hooks of the app that listens, and of no other one. Where WithApp got another, the streams outlive the
// shutdown, and the log says why.
func TestWithAppOfAnotherAppThanTheOneThatListensTellsTheLog(t *testing.T) {
	const mounted, another, unheard = "is mounted in another one", "another app than that of WithApp", "without having listened"
	for _, tt := range []struct {
		name  string
		build func(app, other *fiber.App, with func(*fiber.App) fiber.Handler)
		early string // what is logged before anybody has come
		late  string // and after
	}{
		{"mounted later", func(app, other *fiber.App, with func(*fiber.App) fiber.Handler) {
			other.Use(with(other))
			app.Mount("/", other)
		}, mounted, mounted},
		{"mounted before", func(app, other *fiber.App, with func(*fiber.App) fiber.Handler) {
			app.Mount("/", other)
			other.Use(with(other))
		}, mounted, mounted},
		{"mounted in a group", func(app, other *fiber.App, with func(*fiber.App) fiber.Handler) {
			other.Use(with(other))
			app.Group("/").Mount("/", other)
		}, mounted, mounted},
		{"another one", func(app, other *fiber.App, with func(*fiber.App) fiber.Handler) { app.Use(with(other)) }, "", another},
		{"the right one", func(app, _ *fiber.App, with func(*fiber.App) fiber.Handler) { app.Use(with(app)) }, "", ""},
		{"the right one, and the handler in a mounted one", func(app, other *fiber.App, with func(*fiber.App) fiber.Handler) {
			other.Use(with(app))
			app.Mount("/", other)
		}, "", ""},
		{"the right one, which hands over to another", func(app, other *fiber.App, with func(*fiber.App) fiber.Handler) {
			other.Use(with(app))
			serve := other.Handler()
			app.Use(func(c *fiber.Ctx) error { serve(c.Context()); return nil })
		}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, logs := logged()
			app, other := quietApp(), quietApp()
			var m *Manager
			tt.build(app, other, func(app *fiber.App) fiber.Handler {
				m = newTestManager(t, log, WithApp(app))
				return m.Handler()
			})
			check := func(when, want string) {
				t.Helper()
				for _, line := range []string{mounted, another, unheard} {
					if got := logs.count(line); (got == 1) != (line == want) || got > 1 {
						t.Errorf("%s: got %q %d times, want %q once:\n%s", when, line, got, want, &logs.buf)
					}
				}
			}
			check("at set-up", tt.early)
			s := newSite(t, app, m)
			s.connect("/stream/projects/shop")
			s.connect("/stream/projects/shop")
			check("with clients", tt.late)
		})
	}

	log, logs := logged()
	app := quietApp()
	m := newTestManager(t, log, WithApp(app))
	app.Use(m.Handler())
	server := &fasthttp.Server{Handler: app.Handler(), Logger: slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError)}
	ln, dial := listenTCP(t)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = ln.Close()
		<-served
		_ = m.Shutdown(context.WithoutCancel(t.Context()))
	})
	s := &site{t, app, m, dial}
	s.connect("/stream/projects/shop")
	s.connect("/stream/projects/shop")
	if got := logs.count(unheard); got != 1 {
		t.Errorf("a server of its own: got %d lines, want 1:\n%s", got, &logs.buf)
	}
}
