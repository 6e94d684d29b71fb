package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// Streams over plain HTTP: which requests receive one, and what becomes of the connection. See docs/http.md.

const (
	eventsType = "text/event-stream"
	linesType  = "application/x-ndjson"
	shopStream = "/stream/projects/shop"
)

// formOf says what a client has received: the type of a stream, or the status of anything else.
func formOf(p *streamtest.Plain) string {
	if kind := p.Head.Header.Get("Content-Type"); p.Head.StatusCode == http.StatusOK && (kind == eventsType || kind == linesType) {
		return kind
	}
	return fmt.Sprint(p.Head.StatusCode)
}

func TestAcceptDecidesWhichFormARequestReceives(t *testing.T) {
	for name, config := range map[string]fiber.Config{"normal": {}, "DisableHeaderNormalizing": {DisableHeaderNormalizing: true}} {
		t.Run(name, func(t *testing.T) {
			app := streamtest.QuietApp(config)
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
			app.Use(m.Handler())
			s := streamtest.NewSite(t, app, m)
			const none = "426"
			for _, tt := range []struct {
				header []string
				want   string
			}{
				{[]string{"Accept: text/event-stream"}, eventsType},
				{[]string{"accept: text/event-stream"}, eventsType},
				{[]string{"ACCEPT:TEXT/Event-Stream"}, eventsType},
				{[]string{"Accept: \t text/event-stream \t "}, eventsType},
				{[]string{"Accept: text/event-stream, */*"}, eventsType},
				{[]string{"Accept: */*, text/event-stream"}, eventsType},
				{[]string{"Accept: text/html,text/event-stream;q=0.1"}, eventsType},
				{[]string{"Accept: text/event-stream;charset=utf-8"}, eventsType},
				{[]string{"Accept: text/event-stream ; charset=utf-8 ; q=0.3 , text/html"}, eventsType},
				{[]string{"Accept: text/html", "Accept: text/event-stream"}, eventsType},
				{[]string{"Accept: text/html", "accept: text/event-stream"}, eventsType},
				{[]string{"Accept: ,, text/event-stream,"}, eventsType},
				{[]string{`Accept: text/html;a="x,y;q=0", text/event-stream`}, eventsType},
				{[]string{`Accept: text/event-stream;a="x,application/x-ndjson";q=0.5, application/x-ndjson;q=0.6`}, linesType},
				{[]string{`Accept: text/html;a="text/event-stream, text/event-stream"`}, none},

				{[]string{"Accept: application/x-ndjson"}, linesType},
				{[]string{"Accept: Application/X-NDJSON"}, linesType},
				{[]string{"Accept: text/html, application/x-ndjson"}, linesType},
				{[]string{"Accept: */*"}, linesType},
				{[]string{"Accept:*/*"}, linesType},
				{[]string{"Accept: */*;q=0.8"}, linesType},
				{[]string{"Accept: */* , "}, linesType},
				{[]string{"Accept: */*", "Accept:"}, linesType},

				{[]string{"Accept: text/event-stream, application/x-ndjson"}, eventsType},
				{[]string{"Accept: application/x-ndjson, text/event-stream"}, eventsType},
				{[]string{"Accept: application/x-ndjson;q=0.5, text/event-stream;q=0.5"}, eventsType},
				{[]string{"Accept: application/x-ndjson;q=0.501, text/event-stream;q=0.5"}, linesType},
				{[]string{"Accept: application/x-ndjson, text/event-stream;q=0.9"}, linesType},
				{[]string{"Accept: application/x-ndjson;q=0.9, text/event-stream"}, eventsType},
				{[]string{"Accept: application/x-ndjson;Q=0.2", "Accept: text/event-stream;q=0.1"}, linesType},
				{[]string{"Accept: text/event-stream;q=0, application/x-ndjson;q=0.1"}, linesType},
				{[]string{"Accept: text/event-stream;q=0.000, */*"}, none},
				{[]string{"Accept: text/event-stream;q=0"}, none},
				{[]string{"Accept: text/event-stream; q=0"}, none},
				{[]string{"Accept: text/event-stream;q=0.0"}, none},
				{[]string{"Accept: application/x-ndjson;q=0"}, none},
				{[]string{"Accept: application/x-ndjson;q=0, */*"}, none},
				{[]string{"Accept: */*;q=0"}, none},
				{[]string{"Accept: text/event-stream;q=x"}, none},
				{[]string{"Accept: text/event-stream;q=NaN"}, none},
				{[]string{"Accept: text/event-stream;q=-1"}, none},

				{nil, none},
				{[]string{"Accept:"}, none},
				{[]string{"Accept: ,"}, none},
				{[]string{"Accept: text/*"}, none},
				{[]string{"Accept: text/plain"}, none},
				{[]string{"Accept: application/json"}, none},
				{[]string{"Accept: text/html, */*"}, none},
				{[]string{"Accept: */*, text/html"}, none},
				{[]string{"Accept: text/html", "Accept: */*"}, none},
				{[]string{"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}, none},
				{[]string{"Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"}, none},
				{[]string{"Accept: text/css,*/*;q=0.1"}, none},
				{[]string{"Accept: text/event-streams"}, none},
				{[]string{"Accept: text/event-stream-v2"}, none},
				{[]string{"Accept: xtext/event-stream"}, none},
				{[]string{"Accept: text / event-stream"}, none},
				{[]string{"X-Accept: text/event-stream"}, none},

				// A handshake from which a proxy has taken the upgrade.
				{[]string{"Accept: text/event-stream", "Sec-WebSocket-Version: 13"}, none},
				{[]string{"Accept: */*", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}, none},
				{[]string{"Accept: */*", "sec-websocket-protocol: mesherstream.v1"}, none},
				{[]string{"Accept: application/x-ndjson", "SEC-WEBSOCKET-EXTENSIONS: permessage-deflate"}, none},
				{[]string{"Accept: text/event-stream", "Sec-Websocket-Anything: x"}, none},
				{[]string{"Accept: text/event-stream", "Sec-WebSocket-Key:"}, none},
				{[]string{"Accept: text/event-stream", "Upgrade: websocket", "Sec-WebSocket-Version: 13"}, none},
				{[]string{"Accept: text/event-stream", "Sec-WebSocket: x"}, eventsType},
				{[]string{"Accept: text/event-stream", "Upgrade: websocket"}, eventsType},
				{[]string{"Accept: text/event-stream", "Connection: keep-alive, Upgrade", "Upgrade: h2c"}, eventsType},
				{[]string{"Accept: text/event-stream", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"}, eventsType},
				{append([]string{"Accept: text/event-stream"}, streamtest.Upgrade...), "101"},
			} {
				p := s.Get(shopStream, tt.header...)
				if got := formOf(p); got != tt.want {
					t.Errorf("%q: got %s, want %s", tt.header, got, tt.want)
				}
				if tt.want == none {
					if body, err := io.ReadAll(p.Head.Body); err != nil || !strings.Contains(string(body), "curl -N") {
						t.Errorf("%q: got %q, %v, want a sentence that says what to ask for", tt.header, body, err)
					}
				}
				_ = p.Conn.Close()
			}
			s.Eventually("all have left", s.IsEmpty)
		})
	}
}

func TestOtherMethodsAreForTheNextHandler(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t)
	app.Use(m.Handler())
	app.Use(func(c *fiber.Ctx) error { return c.SendString("next: " + string(c.Body())) })
	s := streamtest.NewSite(t, app, m)
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		for _, accept := range []string{streamtest.AcceptEvents, streamtest.AcceptLines} {
			p := streamtest.SendPlain(t, s.Net, streamtest.PlainRequest(method, shopStream, accept, "Content-Length: 2")+"hi")
			body, err := io.ReadAll(p.Head.Body)
			if p.Head.StatusCode != http.StatusOK || string(body) != "next: hi" || err != nil {
				t.Errorf("%s with %s: got %d %q, %v, want the next handler", method, accept, p.Head.StatusCode, body, err)
			}
			_ = p.Conn.Close()
		}
	}
}

// A HEAD receives the head that a GET would receive, and leaves the connection without a stream.
func TestAHEADReceivesTheHeadOfTheStream(t *testing.T) {
	app := streamtest.QuietApp()
	asked := 0
	m := streamtest.NewTestManager(t, mesherstream.WithMaxClients(1), mesherstream.WithOrigins("https://other.test"), mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		if asked++; sub.Project == "secret" {
			return fiber.ErrForbidden
		}
		return nil
	}))
	app.Use(func(c *fiber.Ctx) error {
		c.Set("X-Before", "1")
		err := c.Next()
		c.Set("X-After", "2")
		return err
	}, m.Handler())
	s := streamtest.NewSite(t, app, m)
	compare := func(target string, header ...string) {
		t.Helper()
		head := streamtest.SendPlain(t, s.Net, streamtest.PlainRequest("HEAD", target, header...))
		rest, err := io.ReadAll(head.Conn)
		if len(rest) > 0 || err != nil {
			t.Errorf("HEAD %s with %q: got the body %q, %v, want none and the end", target, header, rest, err)
		}
		before := m.Stats().Connects
		get := s.Get(target, header...)
		for _, h := range []http.Header{head.Head.Header, get.Head.Header} {
			h.Del("Date")
		}
		if get.Head.StatusCode != http.StatusOK || get.Head.ContentLength >= 0 {
			get.Head.Header.Del("Content-Length") // that of a refusal; a HEAD may leave it out
			head.Head.Header.Del("Content-Length")
		}
		if got, want := fmt.Sprint(head.Head.StatusCode, head.Head.Header), fmt.Sprint(get.Head.StatusCode, get.Head.Header); got != want {
			t.Errorf("HEAD %s with %q: got %s, want as for a GET: %s", target, header, got, want)
		}
		if get.Head.StatusCode == http.StatusOK && get.Head.ContentLength < 0 {
			s.Eventually("the GET has connected", func() bool { return m.Stats().Connects == before+1 })
		}
		_ = get.Conn.Close()
		s.Eventually("it has left", s.IsEmpty)
	}
	for _, accept := range []string{streamtest.AcceptEvents, streamtest.AcceptLines} {
		compare(shopStream, accept)
		compare(shopStream+"?last=3&level=error", accept)
		compare(shopStream, accept, "Origin: https://other.test")
		compare("/stream/projects/secret", accept)
		compare("/stream/projects/", accept)
		compare(shopStream+"?last=x", accept)
		compare(shopStream, accept, "Origin: https://evil.test")
		compare(shopStream, accept, "Sec-WebSocket-Version: 13")
	}
	compare(shopStream)
	if asked == 0 {
		t.Error("WithAuthorize was not asked for a HEAD")
	}

	// The only place is free after many of them, and a HEAD is refused as a GET when it is taken.
	p := s.Follow(shopStream, streamtest.AcceptEvents)
	for _, accept := range []string{streamtest.AcceptEvents, streamtest.AcceptLines} {
		head := streamtest.SendPlain(t, s.Net, streamtest.PlainRequest("HEAD", shopStream, accept))
		get := s.Get(shopStream, accept)
		if head.Head.StatusCode != get.Head.StatusCode || head.Head.Header.Get("Content-Type") != get.Head.Header.Get("Content-Type") {
			t.Errorf("at the cap with %s: a HEAD got %d %v, want as a GET: %d %v", accept, head.Head.StatusCode, head.Head.Header, get.Head.StatusCode, get.Head.Header)
		}
		_ = head.Conn.Close()
	}
	_ = p.Conn.Close()
}

// The head of a stream has nothing that would end it early, keep it in a proxy, or let the client reuse the connection.
func TestTheHeadOfAStream(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t)
	app.Use(func(c *fiber.Ctx) error {
		err := c.Next()
		for _, field := range [][2]string{
			{"Content-Length", "17"},
			{"Content-Encoding", "gzip"},
			{"Transfer-Encoding", "chunked"},
			{"ETag", `"x"`},
			{"Connection", "keep-alive"},
			{"Keep-Alive", "timeout=5"},
			{"Upgrade", "h2c"},
			{"X-Mine", "yes"},
		} {
			c.Set(field[0], field[1])
		}
		c.Cookie(&fiber.Cookie{Name: "a", Value: "1"})
		c.Cookie(&fiber.Cookie{Name: "b", Value: "2"})
		return err
	}, m.Handler())
	s := streamtest.NewSite(t, app, m)
	for accept, kind := range map[string]string{streamtest.AcceptEvents: eventsType, streamtest.AcceptLines: linesType} {
		p := s.Follow(shopStream, accept)
		h := p.Head.Header
		for name, want := range map[string][]string{
			"Content-Type": {kind}, "Cache-Control": {"no-store"}, "X-Accel-Buffering": {"no"}, "X-Mine": {"yes"}, "Set-Cookie": {"a=1; path=/; SameSite=Lax", "b=2; path=/; SameSite=Lax"},
			"Content-Length": nil, "Content-Encoding": nil, "Transfer-Encoding": nil, "Etag": nil, "Keep-Alive": nil, "Upgrade": nil,
		} {
			if got := h.Values(name); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s of %s: got %q, want %q", name, kind, got, want)
			}
		}
		head := rawHead(t, s, streamtest.PlainRequest("GET", shopStream, accept))
		if strings.Count(head, "\r\nConnection: ") != 1 || !strings.Contains(head, "\r\nConnection: close\r\n") {
			t.Errorf("Connection of %s: got %q, want close only", kind, head)
		}
		if len(p.Head.TransferEncoding) > 0 {
			t.Errorf("Transfer-Encoding of %s: got %q, want none", kind, p.Head.TransferEncoding)
		}
		_ = p.Conn.Close()
	}
}

// rawHead returns the head of the response to a request, which http.ReadResponse would interpret.
func rawHead(t *testing.T, s *streamtest.Site, request string) string {
	t.Helper()
	conn, err := s.Net("tcp", "app.test:80")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, b...) {
		if _, err := conn.Read(b); err != nil {
			t.Fatalf("head of the response: %q, %v", head, err)
		}
	}
	return string(head)
}

// What a client sends beside its request is no request any more, and never answered within the stream.
func TestNothingThatFollowsTheRequestReachesTheStream(t *testing.T) {
	for name, config := range map[string]fiber.Config{
		"normal": {}, "ReduceMemoryUsage": {ReduceMemoryUsage: true}, "StreamRequestBody": {StreamRequestBody: true},
		"DisableKeepalive": {DisableKeepalive: true},
	} {
		for _, tr := range streamtest.Sockets() {
			t.Run(name+" over "+tr.Name, func(t *testing.T) {
				t.Parallel()
				app := streamtest.QuietApp(config)
				m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
				app.Get("/hello", func(c *fiber.Ctx) error { return c.SendString("hello") })
				app.Use(m.Handler())
				s := streamtest.NewSiteOver(t, app, m, tr)
				hello := streamtest.PlainRequest("GET", "/hello")
				stream := streamtest.PlainRequest("GET", shopStream, streamtest.AcceptEvents)
				for what, request := range map[string]string{
					"a request after":        stream + hello + hello,
					"a body":                 streamtest.PlainRequest("GET", shopStream, streamtest.AcceptEvents, "Content-Length: 5") + "hello",
					"a body in chunks":       streamtest.PlainRequest("GET", shopStream, streamtest.AcceptEvents, "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n",
					"a body and a request":   streamtest.PlainRequest("GET", shopStream, streamtest.AcceptEvents, "Content-Length: 5") + "hello" + hello,
					"a large body":           streamtest.PlainRequest("GET", shopStream, streamtest.AcceptEvents, "Content-Length: 60000") + strings.Repeat("x", 60_000), // of the 64 KiB that may follow
					"garbage":                stream + "\x00\xff\r\n\r\n",
					"a request for a stream": stream + stream,
				} {
					before := m.Stats().Connects
					p := streamtest.SendPlain(t, s.Net, request)
					if got := formOf(p); got != eventsType {
						t.Fatalf("%s: got %s, want %s", what, got, eventsType)
					}
					s.Eventually("connected", func() bool { return m.Stats().Connects == before+1 })
					for i := range 3 {
						s.Publish(mesherstream.Message{Project: "shop", Data: fmt.Append(nil, what, i)})
						_, _ = io.WriteString(p.Conn, hello)
					}
					for i := range 3 {
						p.Expect(fmt.Sprint(what, i))
					}
					if err := m.Disconnect(onlyClient(t, m), 4000, "bye"); err != nil {
						t.Fatal(err)
					}
					if rest, err := p.Rest(); len(rest) > 0 || p.Close == nil || p.Close.Code != 4000 {
						t.Errorf("%s: got %q, %v, %+v, want nothing but the close event", what, rest, err, p.Close)
					}
					_ = p.Conn.Close()
				}
			})
		}
	}
}

func onlyClient(t *testing.T, m *mesherstream.Manager) mesherstream.ClientID {
	t.Helper()
	for c := range m.Clients() {
		return c.ID
	}
	t.Fatal("there is no client")
	return 0
}

// The requests before the one for the stream are answered, also if all of them arrive together.
func TestARequestBeforeTheStreamIsAnswered(t *testing.T) {
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t)
			app.Get("/hello", func(c *fiber.Ctx) error { return c.SendString("hello") })
			app.Use(m.Handler())
			s := streamtest.NewSiteOver(t, app, m, tr)
			hello, stream := streamtest.PlainRequest("GET", "/hello"), streamtest.PlainRequest("GET", shopStream, streamtest.AcceptEvents)
			head := streamtest.PlainRequest("HEAD", "/hello", streamtest.AcceptEvents)
			for _, together := range []bool{true, false} {
				request := hello
				if together {
					request += hello + head + stream
				}
				p := streamtest.SendPlain(t, s.Net, request)
				for i, method := range []string{"GET", "GET", "HEAD"} {
					if i > 0 {
						if !together {
							_, _ = io.WriteString(p.Conn, map[string]string{"GET": hello, "HEAD": head}[method])
						}
						p.NextHead(method)
					}
					if body, err := io.ReadAll(p.Head.Body); err != nil || method == "GET" && string(body) != "hello" {
						t.Fatalf("response %d: got %q, %v, want hello", i, body, err)
					}
				}
				if !together {
					_, _ = io.WriteString(p.Conn, stream)
				}
				before := m.Stats().Connects
				p.NextHead("GET")
				if got := formOf(p); got != eventsType {
					t.Fatalf("after other requests, together %t: got %s, want a stream", together, got)
				}
				s.Eventually("connected", func() bool { return m.Stats().Connects > before || m.Stats().Clients == 1 })
				s.Publish(mesherstream.Message{Project: "shop", Data: []byte("x")})
				p.Expect("x")
				_ = p.Conn.Close()
				s.Eventually("it has left", s.IsEmpty)
			}
		})
	}
}

func TestHTTP10ReceivesAStream(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t)
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	for _, connection := range []string{"", "Connection: keep-alive\r\n", "Connection: close\r\n"} {
		for _, accept := range []string{streamtest.AcceptEvents, streamtest.AcceptLines} {
			request := "GET " + shopStream + " HTTP/1.0\r\n" + connection + accept + "\r\n\r\n"
			connects := m.Stats().Connects
			head := rawHead(t, s, request)
			if !strings.Contains(head, "\r\nConnection: close\r\n") || strings.Contains(head, "keep-alive") {
				t.Errorf("HTTP/1.0 with %q and %s: got %q, want Connection: close", connection, accept, head)
			}
			s.Eventually("it has been here, and left", func() bool { return m.Stats().Connects > connects && s.IsEmpty() })
			before := m.Stats().Connects
			p := streamtest.SendPlain(t, s.Net, request)
			if p.Head.StatusCode != http.StatusOK || len(p.Head.TransferEncoding) > 0 || p.Head.ContentLength >= 0 {
				t.Fatalf("HTTP/1.0 with %q and %s: got %+v, want a stream that ends with the connection", connection, accept, p.Head)
			}
			s.Eventually("connected", func() bool { return m.Stats().Connects > before })
			s.Publish(mesherstream.Message{Project: "shop", Data: []byte(`{"n":1}`)})
			p.Expect(`{"n":1}`)
			_ = p.Conn.Close()
		}
	}
	s.Eventually("all have left", s.IsEmpty)
}

// Leaving is seen when the connection ends, and not when a write fails. How long it takes is logged, not tested.
func TestAClientThatLeavesIsSeenAtOnce(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithPingInterval(time.Hour), mesherstream.WithIdleTimeout(3*time.Hour))
		for _, accept := range []string{streamtest.AcceptEvents, streamtest.AcceptLines} {
			p := w.Follow("shop", accept)
			begin := time.Now()
			_ = p.Conn.Close()
			w.Eventually("it has left", func() bool { return w.M.Stats().Clients == 0 })
			w.Logf("%s: seen after %v", accept, time.Since(begin))
		}
	})
}

// This is how a client changes its filter over events and fills its list with what matches the new one.
func TestAReturnOverEventsMayLookBackToo(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	publish := func(level string, numbers ...int) {
		t.Helper()
		for _, n := range numbers {
			if err := m.Broadcast(mesherstream.Message{Project: "shop", Level: level, Data: fmt.Append(nil, n)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := s.Follow(shopStream, streamtest.AcceptEvents)
	publish("debug", 1, 2, 3, 4)
	first.Expect("1", "2", "3", "4")
	position := first.Parser.LastID
	first.Leave()
	publish("error", 5)
	publish("debug", 6)

	// Each reads what is published meanwhile, after all that it was due.
	for live, tt := range []struct {
		query  string
		header []string
		want   []string
	}{
		{
			"level=debug&last=3&since=" + position,
			[]string{streamtest.AcceptEvents},
			[]string{"replay return", "6", "replayed return", "replay subscribe", "3", "4", "6", "replayed subscribe", "10"},
		},
		{"level=debug&since=" + position, []string{streamtest.AcceptEvents}, []string{"replay return", "6", "10", "replayed return", "11"}},
		{"level=debug&last=3", []string{streamtest.AcceptEvents, "Last-Event-ID: " + position}, []string{"replay return", "6", "10", "11", "replayed return", "12"}},
	} {
		p := s.Follow(shopStream+"?"+tt.query, tt.header...)
		var got []string
		read := func(n int) {
			for len(got) < n {
				e := p.Event()
				var notice struct{ Of string }
				switch e.Name {
				case "replay", "replayed":
					_ = json.Unmarshal([]byte(e.Data), &notice)
					got = append(got, e.Name+" "+notice.Of)
				case "":
					got = append(got, e.Data)
				}
			}
		}
		read(len(tt.want) - 1)
		publish("debug", 10+live)
		if read(len(tt.want)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.query, got, tt.want)
		}
		p.Leave()
	}

	// Lines have no notices that would tell the one from the other.
	p := s.Follow(shopStream+"?level=debug&last=1&since="+position, "Accept: application/x-ndjson")
	p.Expect("6", "10", "11", "12")
	publish("debug", 13)
	p.Expect("13")
}

// This ends too, with what is left: all, some and none of the messages.
func TestTheMessagesOfAGapMayHaveLeftTheHistory(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithHistory(300), mesherstream.WithMaxBuffer(5))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	publish := func(count int, data string) {
		t.Helper()
		for range count {
			if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: []byte(data)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	slow := s.Follow(shopStream, streamtest.AcceptEvents)
	for publish(200, strings.Repeat("x", 60_000)); len(slow.Gaps) == 0; {
		slow.Next()
	}
	gap := slow.Gaps[0]
	slow.Leave()
	for i, count := range []int{0, 200, 100, 1000} {
		publish(count, "")
		messages, err := s.Follow(shopStream+"?gap="+gap.ID, streamtest.AcceptEvents).Rest()
		all, none := len(messages) == gap.Held, len(messages) == 0
		if err != nil || all != (i == 0) || none != (i >= 2) {
			t.Errorf("after %d messages: got %d of %d, %v", count, len(messages), gap.Held, err)
		}
	}
}
