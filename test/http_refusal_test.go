package test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/follower"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// Refused requests for streams over plain HTTP. See "Refusals" in docs/http.md.

const (
	acceptV1     = "Accept: text/event-stream, application/vnd.mesherstream.v1" // as mesherstream.js asks
	acceptNDJSON = "Accept: application/x-ndjson"
)

// A refusal is what a client has received in the place of a stream.
type refusalOf struct {
	status int
	body   string
	head   http.Header
}

func refused(t *testing.T, s *streamtest.Site, target string, header ...string) refusalOf {
	t.Helper()
	p := s.Get(target, header...)
	body, err := io.ReadAll(p.Head.Body)
	if err != nil {
		t.Fatalf("%s with %q: got %+v, %q, %v", target, header, p.Head, body, err)
	}
	if _, err := p.Conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%s with %q: after the response got %v, want the end", target, header, err)
	}
	_ = p.Conn.Close()
	return refusalOf{p.Head.StatusCode, string(body), p.Head.Header}
}

// softened checks that an EventSource was told to come back, and why.
func (r refusalOf) softened(t *testing.T, why string) {
	t.Helper()
	var parser follower.EventReader
	events := parser.Read([]byte(r.body))
	if r.status != 200 || r.head.Get("Content-Type") != eventsType || r.head.Get("Cache-Control") != "no-store" || len(events) > 0 || !parser.IsWhole() ||
		fmt.Sprint(parser.Comments) != "[ "+why+"]" || parser.Retry < 5000 || parser.Retry > 15_000 {
		t.Errorf("got %+v, want 200, %q as a comment, and a time to wait", r, why)
	}
}

func TestEveryRefusalIsOneThatItsClientUnderstands(t *testing.T) {
	classes := map[string]error{ // of WithAuthorize, by project
		"204": fiber.NewError(204), "301": fiber.NewError(301), "400": fiber.ErrBadRequest, "401": fiber.ErrUnauthorized, "402": fiber.ErrPaymentRequired, "403": fiber.ErrForbidden, "404": fiber.ErrNotFound,
		"408": fiber.ErrRequestTimeout, "425": fiber.ErrTooEarly,
		"409": fiber.ErrConflict, "410": fiber.ErrGone, "418": fiber.ErrTeapot, "429": fiber.ErrTooManyRequests, "451": fiber.ErrUnavailableForLegalReasons, "500": fiber.ErrInternalServerError, "501": fiber.ErrNotImplemented,
		"502": fiber.ErrBadGateway, "503": fiber.NewError(503, "down until noon"), "504": fiber.ErrGatewayTimeout, "599": fiber.NewError(599, "odd"), "507": fiber.NewError(507, "two\nlines\n\ndata: x"), "own": errors.New("the secret text"),
	}
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithOrigins("https://other.test"), mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		if sub.Project == "panics" {
			panic("the secret text")
		}
		sub.Levels = []string{"error", "info"}
		return classes[sub.Project]
	}))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	for _, tt := range []struct {
		target string
		status int
		why    string // of a refusal that will pass
	}{
		{"204", 204, ""},
		{"301", 301, ""},
		{"400", 400, ""},
		{"401", 401, ""},
		{"402", 402, ""},
		{"403", 403, ""},
		{"404", 404, ""},
		{"408", 408, "Request Timeout"},
		{"409", 409, ""},
		{"410", 410, ""},
		{"418", 418, ""},
		{"425", 425, "Too Early"},
		{"429", 429, "Too Many Requests"},
		{"451", 451, ""},
		{"500", 500, "Internal Server Error"},
		{"501", 501, ""},
		{"502", 502, "Bad Gateway"},
		{"503", 503, "down until noon"},
		{"504", 504, "Gateway Timeout"},
		{"507", 507, "Insufficient Storage"},
		{"599", 599, "odd"},
		{"own", 500, "Internal Server Error"},
		{"panics", 500, "Internal Server Error"},
		{"", 400, ""},
		{"a%2Fb", 400, ""},
		{"a%zz", 400, ""},
		{strings.Repeat("x", 129), 400, ""},
		{"shop?level=" + strings.Repeat("x", 65), 400, ""},
		{"shop?levels=error", 400, ""},
		{"shop?level=debug", 403, ""}, // not granted
		{"shop?last=0", 400, ""},
		{"shop?last=1&last=2", 400, ""},
		{"shop?since=yesterday", 400, ""},
		{"shop?since=1h&last=x", 400, ""},
	} {
		for _, accept := range []string{streamtest.AcceptEvents, acceptV1, streamtest.AcceptLines, acceptNDJSON} {
			for _, origin := range []string{"", "Origin: https://other.test"} {
				header := []string{accept}
				if origin != "" {
					header = append(header, origin)
				}
				r := refused(t, s, "/stream/projects/"+tt.target, header...)
				if strings.Contains(r.body, "no stream here") || tt.target == "panics" && strings.Contains(r.body, "secret") {
					t.Errorf("%s with %q: got %q", tt.target, header, r.body)
				}
				if got := r.head.Get("Access-Control-Allow-Origin"); origin != "" && (got != "https://other.test" || r.head.Get("Access-Control-Allow-Credentials") != "true" || !strings.Contains(r.head.Get("Vary"), "Origin")) {
					t.Errorf("%s with %q: got %v, want a response that the page can read", tt.target, header, r.head)
				}
				if accept == streamtest.AcceptEvents && tt.why != "" {
					r.softened(t, tt.why)
				} else if r.status != tt.status {
					t.Errorf("%s with %q: got %d %q, want %d", tt.target, header, r.status, r.body, tt.status)
				}
			}
		}
	}
	if m.Stats().Connects > 0 {
		t.Errorf("got %d clients, want none", m.Stats().Connects)
	}
}

// A page of another origin needs WithOrigins. What has no Origin, as an image or a script, is judged by the rest.
func TestWhichPagesMayOpenAStreamOverPlainHTTP(t *testing.T) {
	app := streamtest.QuietApp()
	asked := 0
	m := streamtest.NewTestManager(t, mesherstream.WithOrigins("https://other.test", "null"), mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error { asked++; return nil }))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	for _, tt := range []struct {
		header []string
		ok     bool
		cors   string // the origin that may read the stream
	}{
		{nil, true, ""},
		{[]string{"Origin: http://app.test"}, true, "http://app.test"},
		{[]string{"origin: http://APP.test:80"}, true, "http://APP.test:80"},
		{[]string{"Origin: https://other.test"}, true, "https://other.test"},
		{[]string{"Origin: https://other.test", "Sec-Fetch-Site: cross-site"}, true, "https://other.test"},
		{[]string{"Origin: https://other.test", "Sec-Fetch-Site: same-site", "Referer: https://evil.test/"}, true, "https://other.test"},
		{[]string{"Origin: null", "Sec-Fetch-Site: cross-site"}, true, "null"},
		{[]string{"Origin: http://app.test", "Sec-Fetch-Site: same-origin"}, true, "http://app.test"},
		{[]string{"Sec-Fetch-Site: same-origin"}, true, ""},
		{[]string{"Sec-Fetch-Site: same-origin", "Referer: http://app.test/page"}, true, ""},
		{[]string{"Sec-Fetch-Site: none"}, true, ""},
		{[]string{"Referer: http://app.test/page?a=b#c"}, true, ""},
		{[]string{"Referer: https://other.test/page"}, true, ""},
		{[]string{"Referer: about:blank"}, true, ""},

		{[]string{"Origin: https://evil.test"}, false, ""},
		{[]string{"Origin: https://evil.test", "Sec-Fetch-Site: same-origin"}, false, ""},
		{[]string{"Origin: https://evil.test", "Sec-Fetch-Site: none", "Referer: http://app.test/"}, false, ""},
		{[]string{"Origin: https://app.test.evil.test"}, false, ""},
		{[]string{"Origin: https://other.test.evil.test"}, false, ""},
		{[]string{"Origin: http://other.test"}, false, ""}, // another scheme
		{[]string{"Origin: https://other.test:8443"}, false, ""},
		{[]string{"Origin: https://other.test", "Origin: https://evil.test"}, false, ""},
		{[]string{"Origin: x"}, false, ""},
		{[]string{"Sec-Fetch-Site: cross-site"}, false, ""},
		{[]string{"Sec-Fetch-Site: cross-site", "Referer: http://app.test/"}, false, ""},
		{[]string{"Sec-Fetch-Site: same-site"}, false, ""},
		{[]string{"sec-fetch-site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script"}, false, ""},
		{[]string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"}, false, ""},
		{[]string{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"}, false, ""},
		{[]string{"Sec-Fetch-Site: new-in-2030"}, false, ""},
		{[]string{"Referer: https://evil.test/"}, false, ""},
		{[]string{"Sec-Fetch-Site: same-origin", "Referer: https://evil.test/"}, false, ""},
	} {
		for _, accept := range []string{streamtest.AcceptEvents, acceptV1, streamtest.AcceptLines, acceptNDJSON} {
			asked = 0
			p := s.Get(shopStream, append([]string{accept}, tt.header...)...)
			want, calls := "403", 0
			if tt.ok {
				if want, calls = eventsType, 1; accept == streamtest.AcceptLines || accept == acceptNDJSON {
					want = linesType
				}
			}
			if got := formOf(p); got != want || asked != calls {
				t.Errorf("%s with %q: got %s, asked %d times, want %s, %d", accept, tt.header, got, asked, want, calls)
			}
			h := p.Head.Header
			if got := strings.Join(h.Values("Access-Control-Allow-Origin"), "|"); got != tt.cors || (h.Get("Access-Control-Allow-Credentials") == "true") != (got != "") || strings.Contains(h.Get("Vary"), "Origin") != (got != "") {
				t.Errorf("%s with %q: got the CORS headers %v, want those for %q", accept, tt.header, h, tt.cors)
			}
			_ = p.Conn.Close()
		}
	}
	// An image accepts no stream, and neither does a page that is navigated to.
	for _, accept := range []string{"image/avif,image/webp,*/*;q=0.8", "text/html,application/xhtml+xml,*/*;q=0.8"} {
		asked = 0
		if got := formOf(s.Get(shopStream, "Accept: "+accept, "Sec-Fetch-Site: same-origin")); got != "426" || asked != 0 {
			t.Errorf("%s: got %s, asked %d times, want 426, unasked", accept, got, asked)
		}
	}
	s.Eventually("all have left", s.IsEmpty)
}

// A cap and a shutdown pass, so an EventSource comes back by itself.
func TestAStreamThatFindsNoPlace(t *testing.T) {
	for name, tt := range map[string]struct {
		option mesherstream.Option
		status int
		why    string
	}{
		"cap":             {mesherstream.WithMaxClients(1), 503, "too many streams"},
		"cap per address": {mesherstream.WithMaxClientsPerIP(1), 429, "too many streams from this address"},
		"shutdown":        {mesherstream.WithMaxClients(1), 503, "the server is shutting down"},
	} {
		t.Run(name, func(t *testing.T) {
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t, tt.option, mesherstream.WithOrigins("https://other.test"))
			app.Use(m.Handler())
			s := streamtest.NewSite(t, app, m)
			p := s.Follow(shopStream, streamtest.AcceptEvents)
			if name == "shutdown" {
				if err := m.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for _, origin := range []string{"Origin: http://app.test", "Origin: https://other.test"} {
				r := refused(t, s, shopStream, streamtest.AcceptEvents, origin)
				r.softened(t, tt.why)
				if got := r.head.Get("Access-Control-Allow-Origin"); "Origin: "+got != origin {
					t.Errorf("%s: got %v, want a response that the page can read", origin, r.head)
				}
				for _, accept := range []string{acceptV1, streamtest.AcceptLines, acceptNDJSON} {
					if r := refused(t, s, shopStream, accept, origin); r.status != tt.status || r.body != tt.why || "Origin: "+r.head.Get("Access-Control-Allow-Origin") != origin {
						t.Errorf("%s: got %+v, want %d", accept, r, tt.status)
					}
				}
			}
			_ = p.Conn.Close()
			if name != "shutdown" {
				s.Eventually("it has left", s.IsEmpty)
				s.Streams(s.Get(shopStream, streamtest.AcceptEvents))
			}
		})
	}
}

// The last place may be taken, or the manager shut down, after the last handler has returned.
func TestAStreamThatFindsItsPlaceTaken(t *testing.T) {
	for name, tt := range map[string]struct {
		option mesherstream.Option
		status int
		why    string
		broken bool
	}{
		"cap":             {mesherstream.WithMaxClients(1), 503, "too many streams", false},
		"cap per address": {mesherstream.WithMaxClientsPerIP(1), 429, "too many streams from this address", false},
		"shutdown":        {mesherstream.WithMaxClients(9), 503, "the server is shutting down", false},
		"it panics":       {mesherstream.WithMaxClients(1), 500, "too many streams", true},
	} {
		for _, accept := range []string{streamtest.AcceptEvents, acceptV1, streamtest.AcceptLines} {
			t.Run(name+" with "+accept, func(t *testing.T) {
				config := fiber.Config{}
				if tt.broken {
					config.ErrorHandler = func(*fiber.Ctx, error) error { panic("the secret text") }
				}
				app := streamtest.QuietApp(config)
				m := streamtest.NewTestManager(t, tt.option)
				var s *streamtest.Site
				app.Use(func(c *fiber.Ctx) error {
					c.Set("X-Other", "kept")
					err := c.Next()
					switch {
					case err != nil || c.Get("X-First") != "":
					case name == "shutdown":
						_ = m.Shutdown(t.Context())
					default:
						s.Follow(shopStream, streamtest.AcceptEvents, "X-First: yes")
					}
					return err
				})
				app.Use(m.Handler())
				s = streamtest.NewSite(t, app, m)
				r := refused(t, s, shopStream, accept)
				if r.head.Get("X-Other") != "kept" || strings.Contains(r.body, "secret") || strings.Contains(r.body, "no stream here") {
					t.Errorf("got %+v, want the headers of the others", r)
				}
				if accept == streamtest.AcceptEvents {
					r.softened(t, tt.why)
				} else if r.status != tt.status {
					t.Errorf("got %+v, want %d", r, tt.status)
				}
				want := 1
				if name == "shutdown" {
					want = 0
				}
				if got := m.Stats().Clients; got != want {
					t.Errorf("got %d clients, want %d", got, want)
				}
			})
		}
	}
}

// A client that breaks its connection at any point of the request or the head holds no place.
func TestARequestForAStreamThatBreaksHoldsNoPlace(t *testing.T) {
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			const places = 3
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t, mesherstream.WithMaxClients(places))
			app.Use(m.Handler())
			s := streamtest.NewSiteOver(t, app, m, tr)
			request := streamtest.PlainRequest("GET", shopStream, streamtest.AcceptEvents)
			for i := range 10 * places {
				resetHandshake(s, request[:len(request)-i%4])
			}
			s.Eventually("no place is held", func() bool { return s.IsEmpty() && s.HasRoom(shopStream, places) })
			for range places {
				s.Follow(shopStream, streamtest.AcceptEvents)
			}
		})
	}
}

// The time until an EventSource returns differs between clients, after a refusal and at the beginning of a stream.
func TestClientsDoNotAllComeBackAtOnce(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithMaxClients(20))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	first, later := map[int]bool{}, map[int]bool{}
	for range 20 {
		first[s.Follow(shopStream, streamtest.AcceptEvents).Parser.Retry] = true
	}
	for range 20 {
		var p follower.EventReader
		p.Read([]byte(refused(t, s, shopStream, streamtest.AcceptEvents).body))
		later[p.Retry] = true
	}
	if len(first) < 10 || len(later) < 10 {
		t.Errorf("got %d and %d times for 20 clients each, want nearly as many as clients", len(first), len(later))
	}
}

// c.SendStatus and c.Redirect return nil. Nobody who answers so means to let the client in.
func TestAStatusOfWithAuthorizeIsARefusal(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
		switch sub.Project {
		case "401":
			return c.SendStatus(fiber.StatusUnauthorized)
		case "403":
			return c.Status(fiber.StatusForbidden).JSON(fiber.Map{"error": "not you"})
		case "302":
			return c.Redirect("/login")
		case "503":
			return c.SendStatus(fiber.StatusServiceUnavailable)
		default:
			c.Status(fiber.StatusAccepted) // as the middleware in front has set
			return nil
		}
	}))
	app.Use(func(c *fiber.Ctx) error { return c.Status(fiber.StatusAccepted).Next() }, m.Handler())
	s := streamtest.NewSite(t, app, m)
	for project, want := range map[string]int{"401": 401, "403": 403, "302": 302, "503": 503} {
		target := "/stream/projects/" + project
		for _, header := range [][]string{{streamtest.AcceptLines}, {acceptV1}, {streamtest.AcceptEvents}, handshake} {
			r := refused(t, s, target, header...)
			switch {
			case want == 503 && header[0] == streamtest.AcceptEvents:
				r.softened(t, "Service Unavailable")
			case r.status != want || want == 302 && r.head.Get("Location") != "/login":
				t.Errorf("%s with %q: got %+v, want %d", project, header, r, want)
			}
		}
	}
	p := s.Get(shopStream, streamtest.AcceptEvents)
	s.Streams(p)
}

var handshake = []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}

// A refusal that says for how long it lasts is not asked again before.
func TestAnEventSourceWaitsAsLongAsARefusalSays(t *testing.T) {
	for says, least := range map[string]int{"120": 120_000, "0": 0, "": 5000, "soon": 5000, "-3": 5000, "999999999": 5000} {
		app := streamtest.QuietApp()
		m := streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(c *fiber.Ctx, _ *mesherstream.Subscription) error {
			c.Set("Retry-After", says)
			return fiber.ErrServiceUnavailable
		}))
		app.Use(m.Handler())
		var parser follower.EventReader
		r := refused(t, streamtest.NewSite(t, app, m), shopStream, streamtest.AcceptEvents)
		parser.Read([]byte(r.body))
		if r.status != 200 || parser.Retry < least || parser.Retry > max(3*least, least+2000) {
			t.Errorf("Retry-After: %s: got %+v and retry %d, want %d or a little more", says, r, parser.Retry, least)
		}
	}
}
