package mesherstream

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	fws "github.com/fasthttp/websocket"
	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
)

// ownRoute mounts a route that upgrades by itself and hands the connection over. It tells what Serve returned for
// tenant "shop".
func ownRoute(app *fiber.App, m *Manager, filter Filter) <-chan error {
	served := make(chan error, 100)
	app.Get("/own/:tenant", websocket.New(func(conn *websocket.Conn) {
		tenant := conn.Params("tenant")
		if err := m.Serve(conn, Subscription{Project: tenant, Filter: filter}); tenant == "shop" {
			served <- err
		}
	}))
	return served
}

func TestServeStreamsOnAnOwnRouteWithinItsSubscription(t *testing.T) {
	app := quietApp()
	m := newTestManager(t, WithApp(app))
	served := ownRoute(app, m, Filter{Levels: []string{"error", "fatal"}})
	s := newSite(t, app, m)
	ws, id := s.connect("/own/shop?level=debug") // the query is the route's affair
	if c, ok := m.Client(id); !ok || c.Project != "shop" || !slices.Equal(c.Levels, []string{"error", "fatal"}) || c.RemoteAddr != "127.0.0.1" {
		t.Errorf("Client(%d): got %+v, %v, want project shop, levels error and fatal, address 127.0.0.1", id, c, ok)
	}
	s.publish(Message{Project: "shop", Level: "debug", Data: []byte("no")})
	s.publish(Message{Project: "shop", Level: "fatal", Data: []byte("yes")})
	s.gets(ws, "yes")
	if err := ws.WriteMessage(fws.TextMessage, []byte(`{"type":"subscribe","filters":{"level":"debug"}}`)); err != nil {
		t.Fatal(err)
	}
	s.gets(ws, `{"type":"error","code":"not_granted","message":"mesherstream: filter is outside of what was granted"}`)
	_ = ws.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve of a client that left: got %v, want nil", err)
	}
	s.eventually("it has left", func() bool { return !m.IsStreamClient(id) })
}

func TestServeTellsTheClientAndTheCallerWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opts   []Option
		filter Filter
		before func(s *site)
		want   error
		code   int
	}{
		{name: "invalid filter", filter: Filter{Levels: make([]string, 17)}, want: ErrInvalidFilter, code: 1011},
		{name: "cap", opts: []Option{WithMaxClients(1)}, before: func(s *site) { s.connect("/own/first") }, want: ErrTooManyClients, code: 1013},
		{name: "cap of an address", opts: []Option{WithMaxClientsPerIP(1)}, before: func(s *site) { s.connect("/own/first") }, want: ErrTooManyClients, code: 1013},
		{name: "closed", before: func(s *site) {
			if err := s.m.Shutdown(s.Context()); err != nil {
				s.Fatal(err)
			}
		}, want: ErrClosed, code: 1001},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := quietApp()
			m := newTestManager(t, tt.opts...)
			served := ownRoute(app, m, tt.filter)
			s := newSite(t, app, m)
			if tt.before != nil {
				tt.before(s)
			}
			ws, resp, err := s.dial("/own/shop")
			if err != nil {
				t.Fatalf("dial: %v, %v", err, resp)
			}
			if _, _, err := ws.ReadMessage(); !fws.IsCloseError(err, tt.code) {
				t.Errorf("the client: got %v, want close %d", err, tt.code)
			}
			_ = ws.NetConn().Close()
			if err := <-served; !errors.Is(err, tt.want) {
				t.Errorf("Serve: got %v, want %v", err, tt.want)
			}
		})
	}
}

// Trap 3 once more: conn.IP is a view of the request's header where the app has a ProxyHeader.
func TestServeKeepsTheAddressThatAProxyTold(t *testing.T) {
	app := quietApp(fiber.Config{ProxyHeader: "X-Forwarded-For"})
	m := newTestManager(t, WithApp(app), WithMaxClientsPerIP(1))
	ownRoute(app, m, Filter{})
	app.Get("/other", func(c *fiber.Ctx) error { return c.SendString(c.IP()) })
	s := newSite(t, app, m)
	var ids []ClientID
	for i := range 20 {
		_, id := s.connect("/own/shop", fmt.Sprintf("X-Forwarded-For: 192.0.2.%d", 100+i))
		ids = append(ids, id)
		ask(t, app, "GET", "/other", "X-Forwarded-For: 198.51.100.99")
	}
	for i, id := range ids {
		if c, _ := m.Client(id); c.RemoteAddr != fmt.Sprintf("192.0.2.%d", 100+i) {
			t.Errorf("Client(%d).RemoteAddr: got %q, want 192.0.2.%d", id, c.RemoteAddr, 100+i)
		}
	}
}
