package mesherstream_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	fws "github.com/fasthttp/websocket"
	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

// server runs an example's app on a free port.
type server struct {
	app     *fiber.App
	ln      net.Listener
	addr    string
	served  chan error
	clients []*fws.Conn
}

func newApp() *fiber.App { return fiber.New(fiber.Config{DisableStartupMessage: true}) }

func serve(app *fiber.App) *server {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s := &server{app: app, ln: ln, addr: ln.Addr().String(), served: make(chan error, 1)}
	go func() { s.served <- app.Listener(ln) }()
	return s
}

func (s *server) stop() {
	for _, ws := range s.clients {
		_ = ws.Close()
	}
	if err := s.app.ShutdownWithTimeout(5 * time.Second); err != nil {
		fmt.Println(err)
	}
	_ = s.ln.Close() // fasthttp forgets a shutdown that is called before it has the listener
	<-s.served
}

// watch connects a client as a browser does. It asks for everything that it is granted; the reply shows that it is
// connected.
func (s *server) watch(path string, header http.Header) *fws.Conn {
	ws, _, err := fws.DefaultDialer.Dial("ws://"+s.addr+path, header)
	if err != nil {
		panic(err)
	}
	s.clients = append(s.clients, ws)
	send(ws, `{"type":"subscribe","filters":{}}`)
	receive(ws)
	return ws
}

func send(ws *fws.Conn, text string) {
	if err := ws.WriteMessage(fws.TextMessage, []byte(text)); err != nil {
		panic(err)
	}
}

func receive(ws *fws.Conn) string {
	_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, data, err := ws.ReadMessage()
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// One line mounts the stream at /stream/projects/:project_id. Handlers mounted after it can publish.
func ExampleNew() {
	app := newApp()
	app.Use(mesherstream.New(mesherstream.WithApp(app), mesherstream.WithMaxBuffer(100)))
	app.Post("/api/v1/events", func(c *fiber.Ctx) error {
		return mesherstream.From(c).Broadcast(mesherstream.Message{
			Project: "shop", Level: "error", Environment: "production", Data: c.Body(),
		})
	})
	s := serve(app)
	defer s.stop()

	browser := s.watch("/stream/projects/shop", nil)
	resp, err := http.Post("http://"+s.addr+"/api/v1/events", "application/json", strings.NewReader(`{"message":"out of stock"}`))
	if err != nil {
		panic(err)
	}
	resp.Body.Close()
	fmt.Println(receive(browser))

	send(browser, `{"type":"subscribe","filters":{"level":["error","fatal"]}}`)
	fmt.Println(receive(browser))
	// Output:
	// {"message":"out of stock"}
	// {"type":"filters_updated","filters":{"level":["error","fatal"],"environment":""},"filtered":0}
}

// A handler mounted after the middleware finds the manager.
func ExampleFrom() {
	app := newApp()
	app.Use(mesherstream.New(mesherstream.WithApp(app)))
	app.Get("/viewers", func(c *fiber.Ctx) error {
		return c.SendString(fmt.Sprint(mesherstream.From(c).Stats().Clients, " watching"))
	})
	s := serve(app)
	defer s.stop()
	s.watch("/stream/projects/shop", nil)

	_, body, errs := fiber.Get("http://" + s.addr + "/viewers").String()
	fmt.Println(body, errs)
	// Output:
	// 1 watching []
}

// To publish from outside a handler, create the manager first.
func ExampleNewManager() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app))
	if err != nil {
		panic(err)
	}
	app.Use("/live", stream.Handler())
	s := serve(app)
	defer s.stop()
	browser := s.watch("/live/stream/projects/shop", nil)

	done := make(chan error)
	go func() { // a worker, a consumer of a queue, …
		done <- stream.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("from a worker")})
	}()
	fmt.Println(<-done, receive(browser))

	_, err = mesherstream.NewManager(mesherstream.WithMaxBuffer(0))
	fmt.Println(err)
	// Output:
	// <nil> from a worker
	// mesherstream: invalid option: WithMaxBuffer(0): must be from 1 to 1000000
}

// The handler can also be that of a single route.
func ExampleManager_Handler() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app))
	if err != nil {
		panic(err)
	}
	app.Get("/projects/:project_id/live", stream.Handler())
	s := serve(app)
	defer s.stop()

	browser := s.watch("/projects/shop/live", nil)
	fmt.Println(stream.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("hello")}), receive(browser))
	// Output:
	// <nil> hello
}

// A route that upgrades by itself passes the connection to Serve.
func ExampleManager_Serve() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app))
	if err != nil {
		panic(err)
	}
	app.Get("/errors/:project", websocket.New(func(conn *websocket.Conn) {
		_ = stream.Serve(conn, mesherstream.Subscription{
			Project: conn.Params("project"),
			Filter:  mesherstream.Filter{Levels: []string{"error"}},
		}) // and conn must not be touched any longer
	}))
	s := serve(app)
	defer s.stop()

	browser := s.watch("/errors/shop", nil)
	_ = stream.Broadcast(mesherstream.Message{Project: "shop", Level: "debug", Data: []byte("held back")})
	_ = stream.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Data: []byte("let through")})
	fmt.Println(receive(browser))
	// Output:
	// let through
}

// A message reaches the clients whose subscription it matches. An empty field matches every client.
func ExampleManager_Broadcast() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	browser := s.watch("/stream/projects/shop", nil)
	send(browser, `{"type":"subscribe","filters":{"level":"error"}}`)
	receive(browser)

	for _, msg := range []mesherstream.Message{
		{Project: "other", Level: "error", Data: []byte("of another project")},
		{Project: "shop", Level: "info", Data: []byte("of another level")},
		{Project: "shop", Level: "error", Data: []byte("an error")},
		{Project: "shop", Data: []byte("a notice, which no filter holds back")},
	} {
		if err := stream.Broadcast(msg); err != nil {
			panic(err)
		}
	}
	fmt.Println(receive(browser))
	fmt.Println(receive(browser))
	// Output:
	// an error
	// a notice, which no filter holds back
}

// A message for one client is put into its buffer, and sent together with the others by the next drain.
func ExampleManager_BufferMessage() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithDrainInterval(50*time.Millisecond))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	browser := s.watch("/stream/projects/shop", nil)

	for c := range stream.Clients() {
		fmt.Println(stream.BufferMessage(c.ID, []byte("welcome to "+c.Project)))
	}
	fmt.Println(receive(browser))
	fmt.Println(stream.BufferMessage(12345, []byte("nobody")))
	// Output:
	// <nil>
	// welcome to shop
	// mesherstream: unknown client
}

// The application may narrow a client's filter as the client itself could.
func ExampleManager_SetFilter() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	browser := s.watch("/stream/projects/shop", nil)

	for c := range stream.Clients() {
		if err := stream.SetFilter(c.ID, mesherstream.Filter{Levels: []string{"fatal"}}); err != nil {
			panic(err)
		}
	}
	_ = stream.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Data: []byte("an error")})
	_ = stream.Broadcast(mesherstream.Message{Project: "shop", Level: "fatal", Data: []byte("a disaster")})
	fmt.Println(receive(browser))
	// Output:
	// a disaster
}

// A client is granted the subscription that WithAuthorize leaves. Its query and its messages can only narrow that.
func ExampleWithAuthorize() {
	app := newApp()
	app.Use(mesherstream.New(mesherstream.WithApp(app), mesherstream.WithAuthorize(
		func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
			if c.Get("Authorization") != "Bearer s3cret" {
				return fiber.ErrUnauthorized
			}
			sub.Environments = []string{"production", "staging"}
			return nil
		},
	)))
	s := serve(app)
	defer s.stop()

	_, resp, err := fws.DefaultDialer.Dial("ws://"+s.addr+"/stream/projects/shop", nil)
	fmt.Println(resp.StatusCode, err)

	browser := s.watch("/stream/projects/shop", http.Header{"Authorization": {"Bearer s3cret"}})
	send(browser, `{"type":"subscribe","filters":{"environment":["staging","development"]}}`)
	fmt.Println(receive(browser))
	send(browser, `{"type":"subscribe","filters":{"environment":"development"}}`)
	fmt.Println(receive(browser))
	// Output:
	// 401 websocket: bad handshake
	// {"type":"filters_updated","filters":{"level":"","environment":["staging"]},"filtered":0}
	// {"type":"error","code":"not_granted","message":"mesherstream: filter is outside of what was granted"}
}

// Shutdown sends the buffered messages and then closes the clients. With WithApp, shutting down the app calls it.
func ExampleManager_Shutdown() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithDrainInterval(time.Hour))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	browser := s.watch("/stream/projects/shop", nil)
	for c := range stream.Clients() {
		_ = stream.BufferMessage(c.ID, []byte("the last word"))
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	done := make(chan error)
	go func() { done <- stream.Shutdown(ctx) }()
	fmt.Println(receive(browser))
	fmt.Println(receive(browser))
	fmt.Println(<-done)
	fmt.Println(stream.Broadcast(mesherstream.Message{Project: "shop"}))
	// Output:
	// the last word
	// websocket: close 1001 (going away): the server is shutting down
	// <nil>
	// mesherstream: manager is closed
}

// The numbers agree at every moment, for each client and in total.
func ExampleManager_Stats() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithDrainInterval(time.Hour))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	s.watch("/stream/projects/shop", nil)

	for c := range stream.Clients() {
		_ = stream.BufferMessage(c.ID, []byte("one"))
		_ = stream.BufferMessage(c.ID, []byte("two"))
		c, _ = stream.Client(c.ID)
		fmt.Println("client:", c.Offered, "offered,", c.Buffered, "buffered")
	}
	t := stream.Stats()
	fmt.Println(t.Clients, t.Buffered, t.Offered == t.Sent+t.Dropped+t.Abandoned+uint64(t.Buffered))
	// Output:
	// client: 2 offered, 2 buffered
	// 1 2 true
}

// The loop may call the manager.
func ExampleManager_Clients() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	browser := s.watch("/stream/projects/shop?level=error", nil)

	for c := range stream.Clients() {
		if c.Project == "shop" && !c.Slow {
			fmt.Println(stream.Disconnect(c.ID, 1012, "moving to another node"))
		}
	}
	fmt.Println(receive(browser))
	// Output:
	// <nil>
	// websocket: close 1012: moving to another node
}

// Queued messages are sent by the ticker, or when the application asks for it.
func ExampleManager_DrainBuffers() {
	app := newApp()
	stream, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithDrainInterval(time.Hour))
	if err != nil {
		panic(err)
	}
	app.Use(stream.Handler())
	s := serve(app)
	defer s.stop()
	browser := s.watch("/stream/projects/shop", nil)

	for c := range stream.Clients() {
		_ = stream.BufferMessage(c.ID, []byte("one"))
		_ = stream.BufferMessage(c.ID, []byte("two"))
	}
	stream.DrainBuffers()
	fmt.Println(receive(browser), receive(browser))
	// Output:
	// one two
}

// An app that strangers can reach, behind a proxy, under the usual limit of 1,024 descriptors.
func Example_strangers() {
	app := fiber.New(fiber.Config{
		DisableStartupMessage:   true,
		ReadTimeout:             10 * time.Second, // ends handshakes that are never finished
		Concurrency:             400,              // connections that are no streams
		EnableTrustedProxyCheck: true,
		TrustedProxies:          []string{"127.0.0.1"},
		ProxyHeader:             "X-Real-Ip", // which the proxy overwrites
	})
	hosts := []string{"app.test"}
	app.Use(mesherstream.New(
		mesherstream.WithApp(app),
		mesherstream.WithMaxClients(400), // and the connections that are streams
		mesherstream.WithMaxClientsPerIP(20),
		mesherstream.WithAuthorize(func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
			if !slices.Contains(hosts, string(c.Request().Header.Host())) {
				return fiber.ErrMisdirectedRequest // a name that somebody else has pointed at this server
			}
			if c.Cookies("session") != "of-"+sub.Project {
				return fiber.ErrUnauthorized
			}
			return nil
		}),
	))
	s := serve(app)
	defer s.stop()

	ask := func(host, cookie string) {
		header := http.Header{"Host": {host}, "Cookie": {"session=" + cookie}, "X-Real-Ip": {"192.0.2.1"}}
		ws, resp, err := fws.DefaultDialer.Dial("ws://"+s.addr+"/stream/projects/shop", header)
		if err == nil {
			s.clients = append(s.clients, ws)
		}
		fmt.Println(resp.Status)
	}
	ask("evil.test", "of-shop")
	ask("app.test", "of-blog")
	ask("app.test", "of-shop")
	// Output:
	// 421 Misdirected Request
	// 401 Unauthorized
	// 101 Switching Protocols
}
