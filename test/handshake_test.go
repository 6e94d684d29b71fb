package test

import (
	"bufio"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/rewrite"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

const handshakeKey = "dGhlIHNhbXBsZSBub25jZQ=="

// request returns the bytes of a GET with these header lines and no others.
func request(target string, lines ...string) string {
	return "GET " + target + " HTTP/1.1\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// offer sends a request on a connection of its own and returns the head of the response.
func (s *rawSite) offer(raw string) *http.Response {
	s.Helper()
	answer := s.exchange(raw)
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
	if err != nil {
		s.Fatalf("%.300q: got %.300q: %v", raw, answer, err)
	}
	_ = resp.Body.Close()
	return resp
}

// RFC 9110, section 5.3: header lines of one name are one list. Section 5.6.1: a list may have empty elements.
func TestHeaderLinesOfOneNameAreOneList(t *testing.T) {
	const v1 = "mesherstream.v1"
	var (
		version = "Sec-WebSocket-Version: 13"
		key     = "Sec-WebSocket-Key: " + handshakeKey
	)
	for name, tt := range map[string]struct {
		lines    []string
		want     int
		protocol string
	}{
		"plain":                      {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key}, 101, ""},
		"two Connection lines":       {[]string{"Connection: keep-alive", "Connection: Upgrade", "Upgrade: websocket", version, key}, 101, ""},
		"the other way round":        {[]string{"Connection: Upgrade", "Connection: keep-alive", "Upgrade: websocket", version, key}, 101, ""},
		"keep-alive in the list":     {[]string{"Connection: keep-alive, Upgrade", "Keep-Alive: timeout=5", "Upgrade: websocket", version, key}, 101, ""},
		"tabs and empty elements":    {[]string{"Connection: ,\t,keep-alive\t,\tuPgRaDe\t,,", "Upgrade: ,,\tWebSocket ,", version, key}, 101, ""},
		"an empty line of the name":  {[]string{"Connection:", "Connection: upgrade", "Upgrade:", "Upgrade: websocket", version, key}, 101, ""},
		"h2c first, another line":    {[]string{"Connection: Upgrade", "Upgrade: h2c", "Upgrade: websocket", version, key}, 101, ""},
		"h2c first, one line":        {[]string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c, websocket", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", version, key}, 101, ""},
		"h2c last":                   {[]string{"Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c", version, key}, 101, ""},
		"h2c only":                   {[]string{"Connection: Upgrade", "Upgrade: h2c", version, key}, 426, ""},
		"a longer name":              {[]string{"Connection: Upgrade", "Upgrade: websockets", version, key}, 426, ""},
		"a part of a name":           {[]string{"Connection: Upgrade-Insecure", "Upgrade: websocket", version, key}, 426, ""},
		"a fold outside of ASCII":    {[]string{"Connection: Upgrade", "Upgrade: web\u017focket", version, key}, 426, ""},
		"subprotocol on line two":    {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: " + v1}, 101, v1},
		"subprotocol on line one":    {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Sec-WebSocket-Protocol: " + v1, "Sec-WebSocket-Protocol: chat"}, 101, v1},
		"subprotocol on line three":  {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Sec-WebSocket-Protocol:", "Sec-WebSocket-Protocol: a,b", "Sec-WebSocket-Protocol: c,\t" + v1}, 101, v1},
		"subprotocol in other case":  {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Sec-WebSocket-Protocol: Mesherstream.V1"}, 101, ""},
		"subprotocols, none of ours": {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: soap"}, 101, ""},
		"two versions":               {[]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8", version, key}, 101, ""},
		"two versions in one line":   {[]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8, 13", key}, 101, ""},
		"two wrong versions":         {[]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 7", key}, 426, ""},
		"a version that begins so":   {[]string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 130", key}, 426, ""},
		"extensions over lines":      {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Extensions: x; y=\"a,b\""}, 101, ""},
		"a key":                      {[]string{"Connection: Upgrade", "Upgrade: websocket", version, "Sec-WebSocket-Key:\t" + handshakeKey + " "}, 101, ""},
		"no key":                     {[]string{"Connection: Upgrade", "Upgrade: websocket", version}, 426, ""},
		"two keys":                   {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}, 400, ""},
		"a key twice":                {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, key}, 400, ""},
		"two keys in one line":       {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key + ", " + handshakeKey}, 400, ""},
		"a key of 15 bytes":          {[]string{"Connection: Upgrade", "Upgrade: websocket", version, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"}, 400, ""},
		"a key of 17 bytes":          {[]string{"Connection: Upgrade", "Upgrade: websocket", version, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTE="}, 400, ""},
		"a key of 18 bytes":          {[]string{"Connection: Upgrade", "Upgrade: websocket", version, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTEy"}, 400, ""},
		"a key that is no base64":    {[]string{"Connection: Upgrade", "Upgrade: websocket", version, "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="}, 400, ""},
		"a key in URL's base64":      {[]string{"Connection: Upgrade", "Upgrade: websocket", version, "Sec-WebSocket-Key: __________________-_-w=="}, 400, ""},
		"an origin":                  {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Origin: http://app.test"}, 101, ""},
		"two origins":                {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Origin: http://app.test", "Origin: http://evil.test"}, 403, ""},
		"an origin twice":            {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Origin: http://app.test", "Origin: http://app.test"}, 403, ""},
		"an origin after none":       {[]string{"Connection: Upgrade", "Upgrade: websocket", version, key, "Origin:", "Origin: http://evil.test"}, 403, ""},
	} {
		for _, spelled := range []struct {
			name   string
			config fiber.Config
			as     func(string) string
		}{
			{"as in the RFC", fiber.Config{}, func(s string) string { return s }},
			{"lower case", fiber.Config{}, strings.ToLower},
			{"DisableHeaderNormalizing", fiber.Config{DisableHeaderNormalizing: true}, func(s string) string { return s }},
			{"DisableHeaderNormalizing, lower case", fiber.Config{DisableHeaderNormalizing: true}, strings.ToLower},
			{"DisableHeaderNormalizing, upper case", fiber.Config{DisableHeaderNormalizing: true}, strings.ToUpper},
		} {
			t.Run(name+", "+spelled.name, func(t *testing.T) {
				s := newRawSite(t, spelled.config)
				lines := []string{"Host: app.test"}
				for _, line := range tt.lines {
					key, value, _ := strings.Cut(line, ":")
					lines = append(lines, spelled.as(key)+":"+value)
				}
				resp := s.offer(request("/stream/projects/shop", lines...))
				if resp.StatusCode != tt.want || resp.Header.Get("Sec-Websocket-Protocol") != tt.protocol {
					t.Errorf("got %s %v, want %d and subprotocol %q", resp.Status, resp.Header, tt.want, tt.protocol)
				}
				if resp.StatusCode == 101 && (resp.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" ||
					resp.Header.Get("Connection") != "Upgrade" || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-Websocket-Extensions") != "") {
					t.Errorf("got %v, want the accepted key, an upgrade, and no extension", resp.Header)
				}
				if resp.StatusCode == 426 && resp.Header.Get("Sec-Websocket-Version") != "13" {
					t.Errorf("got %v, want the version that there is", resp.Header)
				}
			})
		}
	}
}

// A page's origin counts, however a proxy has spelled the header's name.
func TestAnOriginIsFoundInAnySpelling(t *testing.T) {
	for _, name := range []string{"Origin", "origin", "ORIGIN", "oRiGiN"} {
		s := newRawSite(t, fiber.Config{DisableHeaderNormalizing: true})
		for origin, want := range map[string]int{"http://evil.test": 403, "http://app.test": 101} {
			if resp := s.offer(streamtest.Handshake("/stream/projects/shop", name+": "+origin)); resp.StatusCode != want {
				t.Errorf("%s: %s: got %s, want %d", name, origin, resp.Status, want)
			}
		}
	}
}

func TestAHandshakeWithoutAHostIsRefused(t *testing.T) {
	s := newRawSite(t)
	if resp := s.offer(request("/stream/projects/shop", streamtest.Upgrade...)); resp.StatusCode != 400 {
		t.Errorf("got %s, want 400", resp.Status)
	}
}

// lighttpd sends this. The "close" is true of every upgraded connection: no other request follows on it.
func TestAHandshakeThatClosesItsConnectionIsAStream(t *testing.T) {
	for name, connection := range map[string][]string{
		"close first":      {"Connection: close, upgrade"},
		"close last":       {"Connection: Upgrade, close"},
		"close on line 2":  {"Connection: Upgrade", "Connection: close"},
		"close on line 1":  {"Connection: close", "Connection: Upgrade"},
		"in capitals":      {"Connection: Close, Upgrade"},
		"with Keep-Alive":  {"Connection: close, upgrade, keep-alive", "Keep-Alive: timeout=5"},
		"and what is ours": {"Connection: close, upgrade, sec-websocket-key"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newRawSite(t)
			lines := slices.Concat([]string{"Host: app.test"}, connection, streamtest.Upgrade[1:])
			conn, err := s.Net("tcp", "app.test")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(request("/stream/projects/shop", lines...))); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != 101 || resp.Header.Get("Connection") != "Upgrade" {
				t.Fatalf("got %v, %v, want 101 and an upgrade", resp, err)
			}
			s.Eventually("it is in", func() bool { return s.M.Stats().Clients == 1 })
			s.Publish(mesherstream.Message{Project: "shop", Data: []byte("hello")})
			if frame, err := streamtest.ReadFrame(r); err != nil || string(frame) != "\x81\x05hello" {
				t.Errorf("got %q, %v, want the message", frame, err)
			}

			// The bytes after a handshake are frames. Nothing may follow a refusal.
			s.exchange(request("/stream/projects/shop", lines...) + secretRequest)
			s.exchange(request("/stream/projects/shop", append(lines, "Origin: http://evil.test")...) + secretRequest)
			s.exchange(request("/stream/projects/shop", append(lines, "Content-Length: 5")...) + "hello" + secretRequest)
			s.exchange(request("/stream/projects/shop", append(lines, "Transfer-Encoding: chunked")...) + "0\r\n\r\n" + secretRequest)
			if got := s.secrets.Load(); got != 0 {
				t.Errorf("the route behind the upgrade got %d requests, want 0", got)
			}
		})
	}
}

func TestAnUpgradeOfHTTP10IsRefused(t *testing.T) {
	s := newRawSite(t)
	for _, connection := range []string{"Upgrade", "Upgrade, keep-alive", "close, Upgrade"} {
		raw := strings.Replace(streamtest.Handshake("/stream/projects/shop"), "Connection: Upgrade", "Connection: "+connection, 1)
		raw = strings.Replace(raw, "HTTP/1.1", "HTTP/1.0", 1)
		if resp := s.offer(raw + secretRequest); resp.StatusCode != 400 || s.secrets.Load() != 0 {
			t.Errorf("Connection: %s: got %s and %d requests behind it, want 400 and none", connection, resp.Status, s.secrets.Load())
		}
	}
}

func TestHEADIsAnsweredAsAGETWithoutItsBody(t *testing.T) {
	for name, mt := range map[string]struct {
		mount          func(app *fiber.App, h fiber.Handler)
		module, stream string
	}{
		"app.Use": {func(app *fiber.App, h fiber.Handler) { app.Use(h) }, "/stream/projects/mesherstream.js", "/stream/projects/shop"},
		"app.Get": {func(app *fiber.App, h fiber.Handler) { app.Get("/events/:project_id", h) }, "/events/mesherstream.js", "/events/shop"},
	} {
		t.Run(name, func(t *testing.T) {
			app := streamtest.QuietApp()
			asked := false
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error { asked = true; return nil }))
			mt.mount(app, m.Handler())
			s := &rawSite{Site: streamtest.NewSite(t, app, m)}
			get := s.offer(request(mt.module, "Host: app.test", "Connection: close"))
			for _, extra := range [][]string{{"Connection: close"}, streamtest.Upgrade} {
				raw := strings.Replace(request(mt.module, append([]string{"Host: app.test"}, extra...)...), "GET", "HEAD", 1)
				answer := s.exchange(raw)
				head, body, _ := strings.Cut(answer, "\r\n\r\n")
				if !strings.HasPrefix(head, "HTTP/1.1 200 ") || body != "" {
					t.Errorf("HEAD of the module: got %.200q and %d bytes, want 200 and no body", head, len(body))
				}
				for _, name := range []string{"Content-Length", "Content-Type", "Etag", "Cache-Control"} {
					if want := name + ": " + get.Header.Get(name) + "\r\n"; get.Header.Get(name) == "" || !strings.Contains(head+"\r\n", want) {
						t.Errorf("HEAD of the module: got %q, want %q in it", head, want)
					}
				}
				raw = strings.Replace(request(mt.stream, append([]string{"Host: app.test"}, extra...)...), "GET", "HEAD", 1)
				head, body, _ = strings.Cut(s.exchange(raw), "\r\n\r\n")
				if !strings.HasPrefix(head, "HTTP/1.1 426 ") || !strings.Contains(head, "Upgrade: websocket") || body != "" || asked {
					t.Errorf("HEAD of the stream: got %q, %q, authorize asked: %v, want 426 and no body", head, body, asked)
				}
			}
		})
	}
}

// With UnescapePath, Fiber decodes a path by the rules of forms: a plus becomes a space.
func TestAPathMeansTheSameProjectWithUnescapePath(t *testing.T) {
	for _, segment := range []string{
		"c++", "c%2B%2B", "c+%2b", "a b+c", "a+b%20c", "a%20b", "%2B", "+", "++", "100%25", "%25+", "%252B", "a%252Fb", "s%C3%BC%C3%9F+", "a%2Fb", "+%2F+", "a%2f",
		"%20", "%20+", "+%20", "%", "+%", "%2", "+%zz", "%00+", "%FF+", ".", "..", "+..+", "a%3Fb+", "a;b+", "%7e+", "shop",
	} {
		if strings.Contains(segment, " ") {
			continue // not possible in a request
		}
		for _, mt := range streamtest.Mounts {
			var projects [2]string
			var statuses [2]int
			for i, unescape := range []bool{false, true} {
				app := streamtest.QuietApp(fiber.Config{UnescapePath: unescape})
				mt.Use(app, streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
					projects[i] = strings.Clone(sub.Project)
					return nil
				})).Handler())
				statuses[i], _ = streamtest.Ask(t, app, "GET", mt.Before+segment+mt.After, streamtest.Upgrade...)
			}
			if statuses[1] != 400 && statuses[1] != 404 && (statuses[0] != statuses[1] || projects[0] != projects[1]) {
				t.Errorf("%s, %s: got %d %q, with UnescapePath %d %q", mt.Name, segment, statuses[0], projects[0], statuses[1], projects[1])
			}
			if statuses[0] == 101 && statuses[1] != 101 {
				t.Errorf("%s, %s: got 101 for %q, with UnescapePath %d", mt.Name, segment, projects[0], statuses[1])
			}
		}
	}
}

// The same bytes may be those of the tenant and of the project.
func TestAProjectWhoseSpacesMayBePlusesIsRefusedAsAmbiguousOnly(t *testing.T) {
	var project string
	app := streamtest.QuietApp(fiber.Config{UnescapePath: true})
	app.Group("/:tenant").Use(streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		project = strings.Clone(sub.Project)
		return nil
	})).Handler())
	for target, want := range map[string]string{
		"/a+b/stream/projects/a%20b": "", "/a+b/stream/projects/a+b": "a+b", "/a%20b/stream/projects/a%20b": "a b", "/a+/stream/projects/c++": "c++", "/x+y/stream/projects/a%20b": "a b",
	} {
		project = ""
		if got, body := streamtest.Ask(t, app, "GET", target, streamtest.Upgrade...); (got == 101) != (want != "") || project != want {
			t.Errorf("GET %s: got %d %q and project %q, want %q", target, got, body, project, want)
		}
	}
}

// What a middleware has put in place of the path is decoded already, and whether a space of it was a plus is lost.
func TestAProjectThatARewriteHasDecodedIsRefusedIfItHasSpaces(t *testing.T) {
	var project string
	app := streamtest.QuietApp(fiber.Config{UnescapePath: true})
	app.Use(rewrite.New(rewrite.Config{Rules: map[string]string{"/ws/*": "/stream/projects/$1"}}))
	app.Use(streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		project = strings.Clone(sub.Project)
		return nil
	})).Handler())
	for target, want := range map[string]string{
		"/ws/shop": "shop", "/ws/c++": "", "/ws/a%20b": "", "/ws/c%2B%2B": "c++", "/stream/projects/c++": "c++", "/stream/projects/a%20b": "a b",
	} {
		project = ""
		status := map[bool]int{true: 400, false: 101}[want == ""]
		if got, body := streamtest.Ask(t, app, "GET", target, streamtest.Upgrade...); got != status || project != want {
			t.Errorf("GET %s: got %d %q and project %q, want %d and %q", target, got, body, project, status, want)
		}
	}
}

// A v1 client whose offer is on a second line is a v1 client to the stream, too.
func TestASubprotocolOnASecondLineIsAgreedOn(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	ws, resp, err := s.Dial("/stream/projects/shop", "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: "+mesherstream.Protocol)
	if err != nil {
		t.Fatalf("dial: %v, %v", err, resp)
	}
	kind, data, err := ws.ReadMessage()
	if err != nil || kind != websocket.TextMessage || !strings.Contains(string(data), `"type":"hello"`) {
		t.Errorf("first message: got %q, %v, want a hello", data, err)
	}
}

// A browser's only header of its own is the subprotocol, so that is where a page puts its token.
func TestAuthorizeSeesTheHandshakeAsItWasSent(t *testing.T) {
	const offer = "chat, " + mesherstream.Protocol + ", token.abc"
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithAuthorize(func(c *fiber.Ctx, _ *mesherstream.Subscription) error {
		if got := c.Get("Sec-WebSocket-Protocol"); got != offer {
			return fiber.NewError(fiber.StatusUnauthorized, "got "+got)
		}
		if got := c.Get("Connection"); got != "keep-alive, Upgrade" && got != "" {
			return fiber.NewError(fiber.StatusUnauthorized, "got "+got)
		}
		h := &c.Request().Header // which moves what is in its memory
		h.Del("Sec-WebSocket-Key")
		h.Set("X-First", strings.Repeat("x", 100))
		return nil
	}))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	raw := "GET /stream/projects/shop HTTP/1.1\r\nHost: app.test\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" +
		"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Protocol: " + offer + "\r\n\r\n"
	conn, err := s.Net("tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte(raw)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	accept := resp.Header.Get("Sec-WebSocket-Accept")
	if resp.StatusCode != 101 || accept != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || resp.Header.Get("Sec-WebSocket-Protocol") != mesherstream.Protocol {
		t.Errorf("got %s, %v, want 101 for the key and %s", resp.Status, resp.Header, mesherstream.Protocol)
	}
	if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", asks, "Sec-WebSocket-Protocol: "+offer); got != 426 {
		t.Errorf("the question why: got %d %q, want 426", got, body)
	}
}
