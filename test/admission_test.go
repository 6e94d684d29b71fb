package test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestOnlyPagesOfTheSameOriginMayConnect(t *testing.T) {
	for _, tt := range []struct {
		host, proto, origin string
		want                int
	}{
		{"app.test", "http", "", 101},
		{"app.test", "http", "http://app.test", 101},
		{"app.test", "http", "http://app.test:80", 101},
		{"app.test:80", "http", "http://app.test", 101},
		{"app.test:3000", "http", "http://app.test:3000", 101},
		{"app.test", "https", "https://app.test", 101},
		{"app.test:443", "https", "https://app.test", 101},
		{"app.test", "http", "https://app.test", 101}, // behind a proxy that terminates TLS and does not say so
		{"APP.test", "http", "http://app.test", 101},
		{"app.test", "http", "http://APP.TEST", 101},
		{"app.test", "http", "HTTP://app.test", 101},
		{"[::1]:3000", "http", "http://[::1]:3000", 101},
		{"[::1]", "http", "http://[::1]", 101},
		{"[::1]", "http", "http://[::1]:80", 101},
		{"127.0.0.1:3000", "http", "http://127.0.0.1:3000", 101},

		{"app.test", "http", "null", 403},
		{"app.test", "http", "http://evil.test", 403},
		{"app.test", "http", "http://app.test:8080", 403},
		{"app.test:3000", "http", "http://app.test", 403},
		{"app.test:3000", "http", "http://app.test:3001", 403},
		{"app.test", "https", "http://app.test", 403},
		{"app.test:443", "https", "http://app.test:443", 403},
		{"app.test", "http", "http://app.test.evil.test", 403},
		{"app.test", "http", "http://evilapp.test", 403},
		{"app.test", "http", "http://sub.app.test", 403},
		{"app.test", "http", "http://test", 403},
		{"app.test", "http", "http://app.test@evil.test", 403},
		{"app.test", "http", "http://evil.test@app.test", 403},
		{"app.test", "http", "http://app.test/", 403},
		{"app.test", "http", "http://app.test/x", 403},
		{"app.test", "http", "http://app.test?x", 403},
		{"app.test", "http", "http://app.test#x", 403},
		{"app.test", "http", "//app.test", 403},
		{"app.test", "http", "app.test", 403},
		{"app.test", "http", "http://", 403},
		{"app.test", "http", "file://", 403},
		{"app.test", "http", "*", 403},
		{"app.test", "http", "http://%zz", 403},
		{"app.test", "http", "http://app.test http://evil.test", 403},
		{"[::1]:3000", "http", "http://[::2]:3000", 403},
		{"[::1]:3000", "http", "http://[::1]", 403},
	} {
		t.Run(fmt.Sprintf("%s of %s %s", tt.origin, tt.proto, tt.host), func(t *testing.T) {
			app := streamtest.QuietApp()
			app.Use(streamtest.NewTestManager(t).Handler())
			header := append([]string{"Host: " + tt.host, "X-Forwarded-Proto: " + tt.proto}, streamtest.Upgrade...)
			if tt.origin != "" {
				header = append(header, "Origin: "+tt.origin)
			}
			if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", header...); got != tt.want {
				t.Errorf("origin %q on %s://%s: got %d %q, want %d", tt.origin, tt.proto, tt.host, got, body, tt.want)
			}
		})
	}
}

func TestWithOriginsLetsOthersInToo(t *testing.T) {
	list := mesherstream.WithOrigins("https://app.example.com", "http://localhost:5173", "https://Upper.example.com")
	for _, tt := range []struct {
		opt    mesherstream.Option
		origin string
		want   int
	}{
		{list, "https://app.example.com", 101},
		{list, "https://APP.example.com", 101},
		{list, "http://localhost:5173", 101},
		{list, "https://upper.example.com", 101},
		{list, "http://app.test", 101}, // the same origin is always allowed
		{list, "http://app.example.com", 403},
		{list, "https://app.example.com:8443", 403},
		{list, "https://app.example.com.evil.test", 403},
		{list, "http://localhost", 403},
		{list, "null", 403},
		{mesherstream.WithOrigins("*"), "https://anybody.test", 101},
		{mesherstream.WithOrigins("*"), "null", 101},
		{mesherstream.WithOrigins("https://x.test", "*"), "http://evil.test", 101},
		{mesherstream.WithOrigins(), "http://evil.test", 403},
	} {
		app := streamtest.QuietApp()
		m, err := mesherstream.NewManager(tt.opt)
		if err != nil {
			t.Fatalf("NewManager: %v", err)
		}
		app.Use(m.Handler())
		if got, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", append(streamtest.Upgrade, "Origin: "+tt.origin)...); got != tt.want {
			t.Errorf("origin %q: got %d, want %d", tt.origin, got, tt.want)
		}
	}
}

func TestCapsRefuseClientsAndPlacesAreGivenBack(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Forwarded-For"})
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(2), mesherstream.WithMaxClientsPerIP(1))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	from := func(ip string) string { return "X-Forwarded-For: " + ip }
	refused := func(want int, header ...string) {
		t.Helper()
		if _, resp, err := s.Dial("/stream/projects/shop", header...); err == nil || resp == nil || resp.StatusCode != want {
			t.Fatalf("dial %v: got %v, %v, want status %d", header, resp, err, want)
		}
	}
	for range 5 {
		a, _ := s.Connect("/stream/projects/shop", from("192.0.2.1"))
		refused(429, from("192.0.2.1"))
		b, _ := s.Connect("/stream/projects/shop", from("192.0.2.2"))
		refused(503, from("192.0.2.3"))
		refused(503, from("192.0.2.1"))

		_ = a.NetConn().Close() // without a close frame
		s.Eventually("its place is free", func() bool { return s.HasRoom("/stream/projects/shop", 1, from("192.0.2.1")) })
		s.Eventually("and is free again", func() bool { return m.Stats().Clients == 1 })
		refused(429, from("192.0.2.2"))
		_ = b.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
		s.Eventually("both places are free", s.IsEmpty)
	}
}

func TestACapHoldsWhenManyComeAtOnce(t *testing.T) {
	const places = 3
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(places))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)

	var streaming, refused sync.Map
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			ws, resp, err := s.Dial("/stream/projects/shop")
			if err != nil {
				if resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("dial: got %v, %v, want status 503", resp, err)
				}
				refused.Store(i, true)
				return
			}
			_ = ws.WriteMessage(websocket.TextMessage, []byte("{}"))
			_, data, err := ws.ReadMessage()
			switch {
			case err == nil && strings.Contains(string(data), "unknown_type"):
				streaming.Store(i, true)
			case websocket.IsCloseError(err, websocket.CloseTryAgainLater):
				refused.Store(i, true)
			default:
				t.Errorf("client %d: got %q, %v, want an answer or close 1013", i, data, err)
			}
		})
	}
	all.Wait()
	count := func(m *sync.Map) (n int) { m.Range(func(any, any) bool { n++; return true }); return n }
	if got := count(&streaming); got != places || count(&refused) != 20-places {
		t.Errorf("got %d clients in and %d refused, want %d and %d", got, count(&refused), places, 20-places)
	}
}

func TestAnErrorOfAuthorizeReachesTheErrorHandlerUnchanged(t *testing.T) {
	denied := errors.New("denied: the tenant is suspended")
	var handled error
	app := streamtest.QuietApp(fiber.Config{ErrorHandler: func(c *fiber.Ctx, err error) error {
		handled = err
		return c.Status(fiber.StatusPaymentRequired).SendString("pay first")
	}})
	app.Use(streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error { return denied })).Handler())
	if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", streamtest.Upgrade...); got != 402 || body != "pay first" {
		t.Errorf("GET: got %d %q, want the error handler's 402", got, body)
	}
	if handled != denied { //nolint:errorlint // the very same value
		t.Errorf("the error handler: got %v, want %v, the same value", handled, denied)
	}
}

func TestAuthorizeIsAskedOnceAndOnlyAboutHandshakes(t *testing.T) {
	calls := 0
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		calls++
		if sub.Project != "shop" || len(sub.Levels)+len(sub.Environments) != 0 {
			t.Errorf("sub: got %+v, want project shop and an empty filter", sub)
		}
		return fiber.ErrUnauthorized
	})).Handler())
	streamtest.Ask(t, app, "GET", "/stream/projects/shop")
	streamtest.Ask(t, app, "POST", "/stream/projects/shop", streamtest.Upgrade...)
	streamtest.Ask(t, app, "GET", "/stream/projects/a%2Fb", streamtest.Upgrade...)
	streamtest.Ask(t, app, "GET", "/stream/projects/shop", append(streamtest.Upgrade, "Origin: http://evil.test")...)
	if calls != 0 {
		t.Errorf("authorize was called %d times for requests that are no valid handshake, want 0", calls)
	}
	if got, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop?level=error", streamtest.Upgrade...); got != 401 || calls != 1 {
		t.Errorf("handshake: got %d and %d calls, want 401 and 1", got, calls)
	}
}

func TestAPanicInAuthorizeIs500WithoutItsText(t *testing.T) {
	var logs streamtest.LogBuffer
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t, mesherstream.WithLogger(slog.New(slog.NewTextHandler(&logs, nil))),
		mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error { panic("the secret text") })).Handler())
	got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", streamtest.Upgrade...)
	if got != 500 || strings.Contains(body, "secret") {
		t.Errorf("GET: got %d %q, want 500 without the panic's text", got, body)
	}
	if logs.Count("the secret text") == 0 || logs.Count("admission_test.go") == 0 {
		t.Error("the log has no panic with its stack")
	}
}

func TestAuthorizeThatLeavesAnInvalidFilterIs500(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t, mesherstream.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
		mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
			sub.Levels = slices.Repeat([]string{"x"}, 17)
			return nil
		})).Handler())
	if got, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", streamtest.Upgrade...); got != 500 {
		t.Errorf("GET: got %d, want 500", got)
	}
}

func TestTheQuerySetsTheFirstFilterRepeatedOrWithCommas(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	for query, want := range map[string]mesherstream.Filter{
		"":                                  {},
		"?level=&environment=":              {},
		"?level=error":                      {Levels: []string{"error"}},
		"?level=fatal,error":                {Levels: []string{"error", "fatal"}},
		"?level=fatal&level=error":          {Levels: []string{"error", "fatal"}},
		"?level=b,a&level=c,a&environment=": {Levels: []string{"a", "b", "c"}},
		"?level=,error,":                    {Levels: []string{"error"}},
		"?level=error,+warn":                {Levels: []string{"error", "warn"}},
		"?level=+error%09&level=+,":         {Levels: []string{"error"}},
		"?environment=pre%20prod&level=a%2Cb": {
			Levels: []string{"a", "b"}, Environments: []string{"pre prod"},
		},
	} {
		ws, id := s.Connect("/stream/projects/shop" + query)
		c, _ := m.Client(id)
		if !slices.Equal(c.Levels, want.Levels) || !slices.Equal(c.Environments, want.Environments) {
			t.Errorf("%q: got %+v, want %+v", query, c.Filter, want)
		}
		_ = ws.Close()
	}
}

func TestQueryAndWireOnlyNarrowTheGrant(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		sub.Levels = []string{"fatal", "error"}
		return nil
	}))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)

	if _, resp, err := s.Dial("/stream/projects/shop?level=debug"); err == nil || resp == nil || resp.StatusCode != 403 {
		t.Errorf("dial with a level that is not granted: got %v, %v, want status 403", resp, err)
	}
	for query, want := range map[string][]string{
		"":                   {"error", "fatal"},
		"?level=":            {"error", "fatal"},
		"?level=error,debug": {"error"},
		"?environment=prod":  {"error", "fatal"},
	} {
		_, id := s.Connect("/stream/projects/shop" + query)
		if c, _ := m.Client(id); !slices.Equal(c.Levels, want) {
			t.Errorf("%q: got levels %v, want %v", query, c.Levels, want)
		}
	}

	ws, id := s.Connect("/stream/projects/shop?level=error")
	say := func(filters, want string) {
		t.Helper()
		if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","filters":`+filters+`}`)); err != nil {
			t.Fatal(err)
		}
		s.Gets(ws, want)
	}
	say(`{"level":"debug"}`, `{"type":"error","code":"not_granted","message":"mesherstream: filter is outside of what was granted"}`)
	if c, _ := m.Client(id); !slices.Equal(c.Levels, []string{"error"}) {
		t.Errorf("after a refusal: got levels %v, want what was in force", c.Levels)
	}
	say(`{"level":["fatal","debug"]}`, `{"type":"filters_updated","filters":{"level":["fatal"],"environment":""},"filtered":0}`)
	say(`{}`, `{"type":"filters_updated","filters":{"level":["error","fatal"],"environment":""},"filtered":0}`)
	s.Publish(mesherstream.Message{Project: "shop", Level: "debug", Data: []byte("not granted")})
	s.Publish(mesherstream.Message{Project: "shop", Level: "fatal", Data: []byte("granted")})
	s.Gets(ws, "granted")
	if err := m.SetFilter(id, mesherstream.Filter{Levels: []string{"debug"}}); !errors.Is(err, mesherstream.ErrNotGranted) {
		t.Errorf("SetFilter outside of the grant: got %v, want ErrNotGranted", err)
	}
}

func TestAuthorizesProjectWins(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithAuthorize(func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
		sub.Project = c.Get("X-Tenant") + "/" + sub.Project
		return nil
	}))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	ws, id := s.Connect("/stream/projects/shop", "X-Tenant: acme")
	if c, _ := m.Client(id); c.Project != "acme/shop" {
		t.Errorf("Client(%d).Project: got %q, want %q", id, c.Project, "acme/shop")
	}
	s.Publish(mesherstream.Message{Project: "shop", Data: []byte("of another tenant")})
	s.Publish(mesherstream.Message{Project: "acme/shop", Data: []byte("its own")})
	s.Gets(ws, "its own")
}
