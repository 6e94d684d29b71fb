package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// The actual behaviour of Fiber v2, contrib/websocket and fasthttp in cases that would hurt this package. Each test
// fails if the package falls into the trap that it names.

// Close on a hijacked connection does nothing. The reader would stay blocked, and the client connected.
func TestConnCloseDoesNothingSoAClientThatDoesNotAnswerIsCutOff(t *testing.T) {
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start()
				v := w.Connect("shop")
				conn := v.WS.NetConn() // read as bytes, so that no close frame is ever answered
				_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				ctx, cancel := context.WithTimeout(w.Context(), 200*time.Millisecond)
				defer cancel()
				if err := w.M.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
					w.Errorf("Shutdown with a client that does not answer: got %v, want DeadlineExceeded", err)
				}
				buf := make([]byte, 512)
				for {
					_, err := conn.Read(buf)
					if streamtest.IsTimeout(err) {
						w.Fatalf("the connection is still open after Shutdown: %v", err)
					}
					if err != nil {
						break // the server has ended it
					}
				}
				if s := w.M.Stats(); s.Disconnects != 1 {
					w.Errorf("Stats().Disconnects: got %d, want 1", s.Disconnects)
				}
			})
		})
	}
}

// Contrib pools its Conn and fasthttp its hijacked connections. A goroutine that writes to one after its
// handler has returned writes into another client's socket.
func TestNothingForAClientThatLeftReachesTheOneThatGotItsPooledConn(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithDrainInterval(5 * time.Millisecond))
		for i := range 20 {
			first := w.Connect("secret")
			for range 5 { // some of it is still in flight when the client leaves
				if err := w.M.BufferMessage(first.ID, []byte("secret")); err != nil {
					w.Fatalf("BufferMessage: %v", err)
				}
			}
			_ = first.WS.NetConn().Close()

			second := w.Connect("public")
			for range 5 {
				if err := w.M.Broadcast(mesherstream.Message{Project: "secret", Data: []byte("secret")}); err != nil {
					w.Fatalf("Broadcast: %v", err)
				}
				if err := w.M.BufferMessage(first.ID, []byte("secret")); err != nil && !errors.Is(err, mesherstream.ErrUnknownClient) {
					w.Fatalf("BufferMessage: %v", err)
				}
				_ = w.M.SetFilter(first.ID, mesherstream.Filter{Levels: []string{"error"}})
				w.M.DrainBuffers()
			}
			w.Eventually("the first has left", func() bool { return !w.M.IsStreamClient(first.ID) })
			if err := w.M.BufferMessage(first.ID, []byte("secret")); !errors.Is(err, mesherstream.ErrUnknownClient) {
				w.Fatalf("BufferMessage for a client that left: got %v, want ErrUnknownClient", err)
			}
			if err := w.M.Disconnect(first.ID, 1000, "secret"); !errors.Is(err, mesherstream.ErrUnknownClient) {
				w.Fatalf("Disconnect of a client that left: got %v, want ErrUnknownClient", err)
			}
			public := fmt.Sprint("public ", i)
			if err := w.M.Broadcast(mesherstream.Message{Project: "public", Data: []byte(public)}); err != nil {
				w.Fatalf("Broadcast: %v", err)
			}
			if got := second.Next(); got != public {
				w.Fatalf("the client that came after: got %q, want %q", got, public)
			}
			second.Close()
		}
	})
}

// C.Params, c.Query, c.Get and c.Body return views of memory that the next request overwrites.
func TestLaterRequestsDoNotChangeALiveClientsSubscription(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Forwarded-For"})
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithDrainInterval(time.Hour), mesherstream.WithAuthorize(func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
		if env := c.Get("X-Environment"); env != "" {
			sub.Environments = []string{env} // a view
		}
		if p := c.Query("as"); p != "" {
			sub.Project = p // another
		}
		return nil
	}))
	app.Use(m.Handler())
	app.Get("/events/:project_id", m.Handler())
	app.Post("/publish/:project/:level", func(c *fiber.Ctx) error {
		msg := mesherstream.Message{Project: c.Params("project"), Level: c.Params("level"), Environment: c.Get("X-Environment"), Data: c.Body()}
		return mesherstream.From(c).Broadcast(msg)
	})
	app.Post("/buffer/:id", func(c *fiber.Ctx) error {
		id, err := c.ParamsInt("id")
		if err != nil {
			return err
		}
		return mesherstream.From(c).BufferMessage(mesherstream.ClientID(id), c.Body())
	})
	s := streamtest.NewSite(t, app, m)

	targets := []string{"/stream/projects/project-1?level=level-1", "/events/project-1?level=level-1", "/stream/projects/x?as=project-1&level=level-1"}
	var clients []*websocket.Conn
	var ids []mesherstream.ClientID
	for _, target := range targets {
		ws, id := s.Connect(target, "X-Environment: environment-1", "X-Forwarded-For: 192.0.2.1")
		clients, ids = append(clients, ws), append(ids, id)
	}
	// Through the server, one connection each, so that they reuse the memory that the clients' handshakes have given
	// back.
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
		return s.Net(network, addr)
	}}}
	request := func(i int, method, target, body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://app.test"+target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Environment", fmt.Sprint("environment-", i))
		req.Header.Set("X-Forwarded-For", fmt.Sprint("192.0.2.", i))
		resp, err := web.Do(req)
		if err != nil || resp.StatusCode >= 500 {
			t.Fatalf("%s %s: got %v, %v", method, target, resp, err)
		}
		resp.Body.Close()
	}
	for n := range 50 { // as long as the first, so that they fit into the same memory
		i := n%8 + 2
		target := fmt.Sprintf("project-%d?level=level-%d", i, i)
		request(i, "GET", "/stream/projects/"+target, "")
		request(i, "GET", "/events/"+target, "")
		request(i, "POST", fmt.Sprintf("/publish/project-%d/level-%d", i, i), "not for them")
		other, _ := s.Connect("/stream/projects/"+target, fmt.Sprint("X-Environment: environment-", i), fmt.Sprint("X-Forwarded-For: 192.0.2.", i))
		_ = other.Close()
	}
	for i, id := range ids {
		want := mesherstream.Subscription{Project: "project-1", Filter: mesherstream.Filter{Levels: []string{"level-1"}, Environments: []string{"environment-1"}}}
		if c, ok := m.Client(id); !ok || !reflect.DeepEqual(c.Subscription, want) || c.RemoteAddr != "192.0.2.1" {
			t.Errorf("Client(%d) of %s after many requests: got %+v, %v, want %+v from 192.0.2.1", id, targets[i], c, ok, want)
		}
	}
	for i, id := range ids { // bodies that wait while other requests arrive
		request(1, "POST", fmt.Sprint("/buffer/", id), fmt.Sprint("buffered ", i))
		request(2, "POST", "/publish/project-2/level-2", "overwritten")
	}
	request(1, "POST", "/publish/project-1/level-1", "for them")
	for i, ws := range clients {
		s.Gets(ws, fmt.Sprint("buffered ", i))
		s.Gets(ws, "for them")
	}
}

// Of a request's locals, only those with string keys survive the upgrade, and of its other parts, copies.
// Anything that a decision about a client depends on must have been read before.
func TestAuthorizeReadsEverythingBeforeTheUpgrade(t *testing.T) {
	type userKey struct{}
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithAuthorize(func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
		user, _ := c.Locals(userKey{}).(string)
		sub.Project = strings.Join([]string{user, c.Cookies("session"), c.Get("X-Tenant"), c.Query("q"), c.Params("tenant")}, ",")
		return nil
	}))
	group := app.Group("/:tenant", func(c *fiber.Ctx) error {
		c.Locals(userKey{}, "alice")
		return c.Next()
	})
	group.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	_, id := s.Connect("/acme/stream/projects/shop?q=query", "Cookie: session=cookie", "X-Tenant: header")
	if c, _ := m.Client(id); c.Project != "alice,cookie,header,query,acme" {
		t.Errorf("Client(%d).Project: got %q, want what authorize read", id, c.Project)
	}
}

// Fiber's timeouts, body limit and concurrency end at the upgrade. The manager has its own.
func TestFibersLimitsDoNotApplyAndOurOwnDo(t *testing.T) {
	t.Parallel()
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			app := streamtest.QuietApp(fiber.Config{
				ReadTimeout: 500 * time.Millisecond, WriteTimeout: 500 * time.Millisecond, IdleTimeout: 500 * time.Millisecond,
				BodyLimit: 64, Concurrency: 2,
			})
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithPingInterval(100*time.Millisecond), mesherstream.WithIdleTimeout(time.Second), mesherstream.WithMaxClients(4))
			app.Use(m.Handler())
			s := streamtest.NewSiteOver(t, app, m, tr)
			var clients []*websocket.Conn
			for range 3 { // more than Concurrency
				ws, _ := s.Connect("/stream/projects/shop")
				clients = append(clients, ws)
			}
			_, silent := s.Connect("/stream/projects/shop") // it answers no ping; its kernel accepts them all the same
			if _, resp, err := s.Dial("/stream/projects/shop"); err == nil || resp == nil || resp.StatusCode != 503 {
				t.Errorf("dial over WithMaxClients: got %v, %v, want 503", resp, err)
			}
			answers := make(chan string, 10)
			for _, ws := range clients {
				var reading sync.WaitGroup
				reading.Go(func() {
					for {
						_, data, err := ws.ReadMessage()
						if err != nil {
							return
						}
						answers <- string(data)
					}
				})
				t.Cleanup(func() { _ = ws.Close(); reading.Wait() })
			}
			for end := time.Now().Add(5 * time.Second); m.IsStreamClient(silent); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("a client that answers no ping is still there after five times WithIdleTimeout")
				}
			}
			if got := m.Stats().Clients; got != 3 {
				t.Errorf("clients that answer pings, after Fiber's timeouts: got %d, want 3", got)
			}
			if err := clients[0].WriteMessage(websocket.TextMessage, []byte(`{"type":"`+strings.Repeat("x", 500)+`"}`)); err != nil {
				t.Fatal(err)
			}
			if got := <-answers; !strings.Contains(got, "unknown_type") {
				t.Errorf("a message over BodyLimit and within WithReadLimit: got %q, want an answer", got)
			}
		})
	}
}

// Fiber's Shutdown neither waits for WebSockets nor closes them.
func TestShuttingDownTheAppFlushesAndClosesWith1001(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithDrainInterval(time.Hour))
		v := w.Connect("shop").Collect()
		for i := range 20 {
			if err := w.M.BufferMessage(v.ID, fmt.Append(nil, i)); err != nil {
				w.Fatal(err)
			}
		}
		w.Stop()
		<-v.Done
		if !websocket.IsCloseError(v.Err, websocket.CloseGoingAway) || len(v.Messages) != 20 {
			w.Errorf("the client: got %d messages and %v, want 20 and close 1001", len(v.Messages), v.Err)
		}
		if s := w.M.Stats(); s.Clients != 0 || s.Abandoned != 0 {
			w.Errorf("Stats() when app.Shutdown has returned: got %+v, want no client and nothing abandoned", s)
		}
	})
}

// Registering a hook of the app inside a request blocks forever while a shutdown holds the app's lock.
func TestAFirstClientThatComesDuringAShutdownDoesNotDeadlock(t *testing.T) {
	asked := make(chan struct{})
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithAuthorize(func(c *fiber.Ctx, _ *mesherstream.Subscription) error {
		close(asked)
		<-c.Context().Done() // the shutdown has begun, and waits for this request
		return nil
	}))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	var dialing sync.WaitGroup
	dialing.Go(func() {
		ws, resp, err := s.Dial("/stream/projects/shop")
		if err != nil {
			t.Errorf("dial: got %v, %v, want to be let in", resp, err)
			return
		}
		_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("the client: got %v, want close 1001", err)
		}
	})
	<-asked
	if err := app.ShutdownWithTimeout(10 * time.Second); err != nil {
		t.Errorf("app.Shutdown: %v", err)
	}
	dialing.Wait()
}

func TestAShutdownThatRacesWithTheFirstClientsDoesNotDeadlock(t *testing.T) {
	for round := range 10 {
		app := streamtest.QuietApp()
		m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
		app.Use(m.Handler())
		s := streamtest.NewSite(t, app, m)
		began := make(chan struct{}, 5)
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				began <- struct{}{}
				ws, _, err := s.Dial("/stream/projects/shop")
				if err != nil {
					return // too late
				}
				_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, _, err := ws.ReadMessage(); streamtest.IsTimeout(err) {
					t.Error("a client that came during the shutdown was never closed")
				}
			})
		}
		all.Go(func() {
			for range 1 + round%5 {
				<-began
			}
			if err := app.ShutdownWithTimeout(10 * time.Second); err != nil {
				t.Errorf("app.Shutdown: %v", err)
			}
		})
		all.Wait()
		if got := m.Stats(); got.Clients != 0 || got.Connects != got.Disconnects {
			t.Errorf("Stats() after the shutdown: got %+v, want no client", got)
		}
	}
}

// An app may make fasthttp leave the closing of hijacked connections to their handlers.
func TestAServerThatKeepsHijackedConnectionsKeepsNoneOfOurs(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.App = fiber.New(fiber.Config{DisableStartupMessage: true})
		w.App.Server().KeepHijackedConns = true
		m, err := mesherstream.NewManager(mesherstream.WithApp(w.App), mesherstream.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			w.Fatal(err)
		}
		w.M = m
		w.App.Use(m.Handler())
		w.Listen()
		v := w.Connect("shop")
		if err := m.Disconnect(v.ID, 4000, "bye"); err != nil {
			w.Fatalf("Disconnect: %v", err)
		}
		if _, err := v.CloseError(); !websocket.IsCloseError(err, 4000) {
			w.Errorf("got %v, want close 4000", err)
		}
		// The descriptor itself is closed, and not only the stream.
		conn := v.WS.NetConn()
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			w.Errorf("behind the close frame: got %d bytes, %v, want the end", n, err)
		}
	})
}
