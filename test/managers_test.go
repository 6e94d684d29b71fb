package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/valyala/fasthttp"
)

// A publisher that is mounted before New, or an ignored error of NewManager, must not end the process. Serve has a test
// of its own, since it needs a connection.
func TestEveryMethodOfAManagerThatIsNoneReturnsErrNotMounted(t *testing.T) {
	methods := reflect.TypeFor[*mesherstream.Manager]()
	for name, m := range map[string]*mesherstream.Manager{"nil": nil, "zero": {}} {
		for method := range methods.Methods() {
			if method.Name == "Serve" {
				continue
			}
			t.Run(method.Name+" of a "+name+" manager", func(t *testing.T) {
				defer func() {
					if p := recover(); p != nil {
						t.Errorf("panic: %v", p)
					}
				}()
				in := []reflect.Value{reflect.ValueOf(m)}
				for i := 1; i < method.Type.NumIn(); i++ {
					arg := reflect.Zero(method.Type.In(i))
					if method.Type.In(i) == reflect.TypeFor[context.Context]() {
						arg = reflect.ValueOf(t.Context())
					}
					in = append(in, arg)
				}
				for _, out := range method.Func.Call(in) {
					switch got := out.Interface().(type) {
					case fiber.Handler:
						if err := got(nil); !errors.Is(err, mesherstream.ErrNotMounted) {
							t.Errorf("the handler: got %v, want ErrNotMounted", err)
						}
					case iter.Seq[mesherstream.Client]:
						for c := range got {
							t.Errorf("got client %v, want none", c)
						}
					case iter.Seq[mesherstream.Message]:
						for msg := range got {
							t.Errorf("got message %v, want none", msg)
						}
					case error:
						if !errors.Is(got, mesherstream.ErrNotMounted) {
							t.Errorf("got %v, want ErrNotMounted", got)
						}
					default:
						if !out.IsZero() || out.Type() == reflect.TypeFor[error]() {
							t.Errorf("got %v, want ErrNotMounted or nothing", got)
						}
					}
				}
			})
		}
	}
}

func TestServeOfANilManagerClosesTheConnection(t *testing.T) {
	app := streamtest.QuietApp()
	served := streamtest.OwnRoute(app, nil, mesherstream.Filter{})
	s := streamtest.NewSite(t, app, nil)
	ws, resp, err := s.Dial("/own/shop")
	if err != nil {
		t.Fatalf("dial: %v, %v", err, resp)
	}
	if _, _, err := ws.ReadMessage(); err == nil || !strings.Contains(err.Error(), "1011") {
		t.Errorf("the client: got %v, want close 1011", err)
	}
	_ = ws.NetConn().Close()
	if err := <-served; !errors.Is(err, mesherstream.ErrNotMounted) {
		t.Errorf("Serve: got %v, want ErrNotMounted", err)
	}
}

func TestAPublisherThatNoManagerIsMountedBeforeAnswersAnError(t *testing.T) {
	app := streamtest.QuietApp()
	publish := func(c *fiber.Ctx) error {
		return mesherstream.From(c).Broadcast(mesherstream.Message{Project: "shop", Data: c.Body()})
	}
	app.Post("/early", publish)
	app.Use(streamtest.NewTestManager(t).Handler())
	app.Post("/late", publish)
	if got, body := streamtest.Ask(t, app, "POST", "/early", "Content-Length: 0"); got != 500 || !strings.Contains(body, "mount New before") {
		t.Errorf("a publisher before New: got %d %q, want 500 that says what to do", got, body)
	}
	if got, body := streamtest.Ask(t, app, "POST", "/late", "Content-Length: 0"); got != 200 {
		t.Errorf("a publisher after New: got %d %q, want 200", got, body)
	}
}

// logged returns a logger option, and a function that returns everything logged from level info on.
func logged() (mesherstream.Option, *streamtest.LogBuffer) {
	logs := new(streamtest.LogBuffer)
	return mesherstream.WithLogger(slog.New(slog.NewTextHandler(logs, nil))), logs
}

// If several managers are on one path, the first one takes all clients, so it is the one to publish with.
func TestOfTwoManagersOnOnePathFromReturnsTheOneThatServes(t *testing.T) {
	at := func(path string) mesherstream.Option { return mesherstream.WithPath(path) }
	for _, tt := range []struct {
		name  string
		mount func(app *fiber.App, first, second *mesherstream.Manager)
		paths [2]string
		post  string
		from  int  // which one From returns
		warns bool // those of the second
	}{
		{name: "twice", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, post: "/post", from: 1, warns: true},
		{name: "in one Use", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use(first.Handler(), second.Handler())
		}, post: "/post", from: 1, warns: true},
		{name: "twice on one prefix", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use("/live", first.Handler())
			app.Group("/live").Use(second.Handler())
		}, post: "/live/post", from: 1, warns: true},
		{name: "in two spellings", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use("/live", first.Handler())
			app.Use("/Live/", second.Handler())
		}, post: "/live/post", from: 1, warns: true},
		{name: "a prefix and a path", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use(first.Handler())
			app.Use("/live", second.Handler())
		}, paths: [2]string{"/live/stream", "/stream"}, post: "/live/post", from: 1, warns: true},
		{name: "a parameter", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use("/:tenant", first.Handler())
			app.Use("/live", second.Handler())
		}, post: "/live/post", from: 1, warns: true},
		{name: "a path below the other's", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, paths: [2]string{"/stream", "/stream/projects"}, post: "/post", from: 1, warns: true},
		{name: "an app that is mounted", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			sub := fiber.New()
			sub.Use(second.Handler())
			app.Use(first.Handler())
			app.Mount("/", sub)
		}, post: "/post", from: 1, warns: true},

		{name: "one of two prefixes", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use("/live", first.Handler())
			app.Use([]string{"/live", "/other"}, second.Handler())
		}, post: "/other/post", from: 2, warns: true},
		{name: "two paths", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, paths: [2]string{"/a", "/b"}, post: "/post", from: 2},
		{name: "two paths that begin alike", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, paths: [2]string{"/live", "/lively"}, post: "/post", from: 2},
		{name: "a group of its own", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use(first.Handler())
			app.Group("/live").Use(second.Handler())
		}, post: "/live/post", from: 2},
		{name: "a group of its own, outside of it", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use(first.Handler())
			app.Group("/live").Use(second.Handler())
		}, post: "/post", from: 1},
		{name: "the same one twice", mount: func(app *fiber.App, first, _ *mesherstream.Manager) {
			app.Use(first.Handler())
			app.Use(first.Handler())
		}, post: "/post", from: 1},
		{name: "a path above the other's", mount: func(app *fiber.App, first, second *mesherstream.Manager) {
			app.Use(first.Handler())
			app.Use(second.Handler())
		}, paths: [2]string{"/stream/projects", "/stream"}, post: "/post", from: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, logs := logged()
			opts := [2][]mesherstream.Option{{log}, {log}}
			for i, path := range tt.paths {
				if path != "" {
					opts[i] = append(opts[i], at(path))
				}
			}
			first, second := streamtest.NewTestManager(t, opts[0]...), streamtest.NewTestManager(t, opts[1]...)
			app := streamtest.QuietApp()
			tt.mount(app, first, second)
			var from *mesherstream.Manager
			app.Post(tt.post, func(c *fiber.Ctx) error { from = mesherstream.From(c); return nil })
			for range 3 {
				if got, body := streamtest.Ask(t, app, "POST", tt.post, "Content-Length: 0"); got != 200 {
					t.Fatalf("POST %s: got %d %q", tt.post, got, body)
				}
			}
			if want := map[int]*mesherstream.Manager{1: first, 2: second}[tt.from]; from != want {
				t.Errorf("From: got another manager than the %d. one", tt.from)
			}
			if got := logs.Count("two managers are mounted on one path"); (got == 1) != tt.warns || got > 1 {
				t.Errorf("got %d warnings, want one: %v\n%s", got, tt.warns, &logs.Buf)
			}
		})
	}
}

// Whichever request comes first: also one that only one of the two handlers ever sees.
func TestTwoManagersOnOnePathAreToldOfByAnyRequest(t *testing.T) {
	const route = "/stream/projects/:project_id"
	for _, tt := range []struct {
		name  string
		mount func(app *fiber.App, first, second fiber.Handler)
		from  int // which one From returns for a POST of /publish; 0 if it has passed none
		warns int
	}{
		{"two mounts", func(app *fiber.App, first, second fiber.Handler) {
			app.Use(first)
			app.Use(second)
		}, 1, 1},
		{"a route before a mount", func(app *fiber.App, first, second fiber.Handler) {
			app.Get(route, first)
			app.Use(second)
		}, 1, 1},
		{"a route before a mount of several handlers", func(app *fiber.App, first, second fiber.Handler) {
			app.Get(route, first)
			app.Use((*fiber.Ctx).Next)
			app.Use(second)
		}, 1, 1},
		{"one manager around another", func(app *fiber.App, first, second fiber.Handler) {
			app.Use(first)
			app.Get(route, second)
			app.Use(first)
		}, 1, 1},
		{"a mount before a route", func(app *fiber.App, first, second fiber.Handler) {
			app.Use(first)
			app.Get(route, second)
		}, 1, 1},
		{"two routes", func(app *fiber.App, first, second fiber.Handler) {
			app.Get(route, first)
			app.Get("/Stream/projects/:project_id/", second)
		}, 0, 1},
		{"one route", func(app *fiber.App, first, second fiber.Handler) { app.Get(route, first, second) }, 0, 1},
		{"a route with a parameter before another", func(app *fiber.App, first, second fiber.Handler) {
			app.Get("/:a/:b/:project_id", first)
			app.Get(route, second)
		}, 0, 1},
		{"a route of an app that is mounted", func(app *fiber.App, first, second fiber.Handler) {
			sub := fiber.New()
			sub.Get("/:project_id", first)
			app.Mount("/stream/projects", sub)
			app.Use(second)
		}, 1, 1},
		{"a mount with a wildcard", func(app *fiber.App, first, second fiber.Handler) {
			app.Get("/*", first)
			app.Get(route, second)
		}, 0, 1},

		{"a route below a mount", func(app *fiber.App, first, second fiber.Handler) {
			app.Get("/live"+route, first)
			app.Use(second)
		}, 2, 0},
		{"a route for some projects", func(app *fiber.App, first, second fiber.Handler) {
			app.Get("/stream/projects/:project_id<int>", first)
			app.Use(second)
		}, 2, 0},
		{"a route with a tail", func(app *fiber.App, first, second fiber.Handler) {
			app.Get(route+"/events", first)
			app.Use(second)
		}, 2, 0},
		{"a route of a method that no stream has", func(app *fiber.App, first, second fiber.Handler) {
			app.Post(route, first)
			app.Use(second)
		}, 2, 0},
		{"a route that can have no stream", func(app *fiber.App, first, second fiber.Handler) {
			app.Get("/:id", first)
			app.Get("/:id"+route, second)
			app.Get(route, second)
		}, 0, 0},
		{"one manager twice", func(app *fiber.App, first, _ fiber.Handler) {
			app.Get(route, first)
			app.Use(first)
		}, 1, 0},
	} {
		for _, streams := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, streams only: %v", tt.name, streams), func(t *testing.T) {
				log, logs := logged()
				managers := []*mesherstream.Manager{nil, streamtest.NewTestManager(t, log), streamtest.NewTestManager(t, log)}
				app := streamtest.QuietApp()
				tt.mount(app, managers[1].Handler(), managers[2].Handler())
				var from *mesherstream.Manager
				app.Post("/publish", func(c *fiber.Ctx) error { from = mesherstream.From(c); return nil })
				warns := tt.warns
				for range 3 {
					if streams {
						streamtest.Ask(t, app, "GET", "/stream/projects/shop", streamtest.Upgrade...)
						continue
					}
					if got, body := streamtest.Ask(t, app, "POST", "/publish", "Content-Length: 0"); got != 200 {
						t.Fatalf("POST /publish: got %d %q", got, body)
					}
					if from != managers[tt.from] {
						t.Errorf("From: got another manager than number %d", tt.from)
					}
					if from == nil {
						warns = 0 // neither has seen a request
					}
				}
				if got := logs.Count("two managers are mounted on one path"); got != warns {
					t.Errorf("got %d warnings, want %d:\n%s", got, warns, &logs.Buf)
				}
			})
		}
	}
}

func TestWhatIsPublishedReachesTheClientsOfTwoManagersOnOnePath(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
	app.Use(m.Handler())
	app.Use(mesherstream.New(mesherstream.WithLogger(slog.New(slog.DiscardHandler))))
	app.Post("/events", func(c *fiber.Ctx) error {
		return mesherstream.From(c).Broadcast(mesherstream.Message{Project: "shop", Data: []byte("news")})
	})
	s := streamtest.NewSite(t, app, m)
	ws, _ := s.Connect("/stream/projects/shop")
	streamtest.Ask(t, app, "POST", "/events", "Content-Length: 0")
	s.Gets(ws, "news")
}

// A route that can have no stream logs so once, and one that can have a stream logs nothing.
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
		{"a wildcard", func(app *fiber.App, h fiber.Handler) { app.Get("/live/*", h) }, "/live/shop", "/live/*", 404},
		{"a wildcard that is not empty", func(app *fiber.App, h fiber.Handler) { app.Get("/live/+", h) }, "/live/shop", "/live/+", 404},
		{"a wildcard, and the default path", func(app *fiber.App, h fiber.Handler) { app.Get("/live/*", h) }, "/live/stream/projects/shop", "", 101},
		{"a wildcard that is not empty, and the default path", func(app *fiber.App, h fiber.Handler) { app.Get("/live/+", h) }, "/live/stream/projects/shop", "", 101},
		{"a mount with a wildcard", func(app *fiber.App, h fiber.Handler) { app.Use("/live/*", h) }, "/live/shop", "", 404},
		{"a parameter with a pattern", func(app *fiber.App, h fiber.Handler) { app.Use("/:tenant<regex([a-z]+)>/live", h) }, "/acme/live/stream/projects/shop", "", 101},
		{"a mount with a plus", func(app *fiber.App, h fiber.Handler) { app.Use("/c\\+\\+/live", h) }, "/c++/live/stream/projects/shop", "", 101},
		{"a mount with a parameter", func(app *fiber.App, h fiber.Handler) { app.Use("/:tenant", h) }, "/shop", "", 404},
		{"a mount, and a route of the same pattern", func(app *fiber.App, h fiber.Handler) {
			app.Use("/:tenant", h)
			app.Get("/:tenant", func(c *fiber.Ctx) error { return c.SendString("page") })
		}, "/shop", "", 200},
		{"a mount", func(app *fiber.App, h fiber.Handler) { app.Use(h) }, "/page", "", 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, logs := logged()
			app := streamtest.QuietApp()
			tt.mount(app, streamtest.NewTestManager(t, log).Handler())
			for range 3 {
				if got, body := streamtest.Ask(t, app, "GET", tt.target, streamtest.Upgrade...); got != tt.want {
					t.Errorf("GET %s: got %d %q, want %d", tt.target, got, body, tt.want)
				}
			}
			got := logs.Count("a route has no parameter :project_id")
			if want := tt.warns != ""; (got == 1) != want || got > 1 || want && logs.Count("route="+tt.warns+"\n") != 1 {
				t.Errorf("got %d warnings, want one of %q:\n%s", got, tt.warns, &logs.Buf)
			}
		})
	}
}

// Fiber runs only the hooks of the app that listens. If WithApp received another one, the streams outlive the shutdown,
// and the log says why.
func TestWithAppOfAnotherAppThanTheOneThatListensTellsTheLog(t *testing.T) {
	const mounted, another, unheard = "is mounted in another one", "an app other than that of WithApp", "without having listened"
	for _, tt := range []struct {
		name  string
		build func(app, other *fiber.App, with func(*fiber.App) fiber.Handler)
		early string // what is logged before any client has connected
		late  string // and after that
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
			app, other := streamtest.QuietApp(), streamtest.QuietApp()
			var m *mesherstream.Manager
			tt.build(app, other, func(app *fiber.App) fiber.Handler {
				m = streamtest.NewTestManager(t, log, mesherstream.WithApp(app))
				return m.Handler()
			})
			check := func(when, want string) {
				t.Helper()
				for _, line := range []string{mounted, another, unheard} {
					if got := logs.Count(line); (got == 1) != (line == want) || got > 1 {
						t.Errorf("%s: got %q %d times, want %q once:\n%s", when, line, got, want, &logs.Buf)
					}
				}
			}
			check("at set-up", tt.early)
			s := streamtest.NewSite(t, app, m)
			s.Connect("/stream/projects/shop")
			s.Connect("/stream/projects/shop")
			check("with clients", tt.late)
		})
	}

	log, logs := logged()
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, log, mesherstream.WithApp(app))
	app.Use(m.Handler())
	server := &fasthttp.Server{Handler: app.Handler(), Logger: slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError)}
	ln, dial := streamtest.ListenTCP(t)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = ln.Close()
		<-served
		_ = m.Shutdown(context.WithoutCancel(t.Context()))
	})
	s := &streamtest.Site{T: t, App: app, M: m, Net: dial}
	s.Connect("/stream/projects/shop")
	s.Connect("/stream/projects/shop")
	if got := logs.Count(unheard); got != 1 {
		t.Errorf("a server of its own: got %d lines, want 1:\n%s", got, &logs.Buf)
	}
}
