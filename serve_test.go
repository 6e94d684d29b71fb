package mesherstream_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	fws "github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestServeStreamsOnAnOwnRouteWithinItsSubscription(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
	served := streamtest.OwnRoute(app, m, mesherstream.Filter{Levels: []string{"error", "fatal"}})
	s := streamtest.NewSite(t, app, m)
	ws, id := s.Connect("/own/shop?level=debug") // the query is the route's affair
	if c, ok := m.Client(id); !ok || c.Project != "shop" || !slices.Equal(c.Levels, []string{"error", "fatal"}) || c.RemoteAddr != "127.0.0.1" {
		t.Errorf("Client(%d): got %+v, %v, want project shop, levels error and fatal, address 127.0.0.1", id, c, ok)
	}
	s.Publish(mesherstream.Message{Project: "shop", Level: "debug", Data: []byte("no")})
	s.Publish(mesherstream.Message{Project: "shop", Level: "fatal", Data: []byte("yes")})
	s.Gets(ws, "yes")
	if err := ws.WriteMessage(fws.TextMessage, []byte(`{"type":"subscribe","filters":{"level":"debug"}}`)); err != nil {
		t.Fatal(err)
	}
	s.Gets(ws, `{"type":"error","code":"not_granted","message":"mesherstream: filter is outside of what was granted"}`)
	_ = ws.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve of a client that left: got %v, want nil", err)
	}
	s.Eventually("it has left", func() bool { return !m.IsStreamClient(id) })
}

func TestServeTellsTheClientAndTheCallerWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opts   []mesherstream.Option
		filter mesherstream.Filter
		before func(s *streamtest.Site)
		want   error
		code   int
	}{
		{name: "invalid filter", filter: mesherstream.Filter{Levels: make([]string, 17)}, want: mesherstream.ErrInvalidFilter, code: 1011},
		{name: "cap", opts: []mesherstream.Option{mesherstream.WithMaxClients(1)}, before: func(s *streamtest.Site) { s.Connect("/own/first") }, want: mesherstream.ErrTooManyClients, code: 1013},
		{name: "cap of an address", opts: []mesherstream.Option{mesherstream.WithMaxClientsPerIP(1)}, before: func(s *streamtest.Site) { s.Connect("/own/first") }, want: mesherstream.ErrTooManyClients, code: 1013},
		{name: "closed", before: func(s *streamtest.Site) {
			if err := s.M.Shutdown(s.Context()); err != nil {
				s.Fatal(err)
			}
		}, want: mesherstream.ErrClosed, code: 1001},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t, tt.opts...)
			served := streamtest.OwnRoute(app, m, tt.filter)
			s := streamtest.NewSite(t, app, m)
			if tt.before != nil {
				tt.before(s)
			}
			ws, resp, err := s.Dial("/own/shop")
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
	app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Forwarded-For"})
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClientsPerIP(1))
	streamtest.OwnRoute(app, m, mesherstream.Filter{})
	app.Get("/other", func(c *fiber.Ctx) error { return c.SendString(c.IP()) })
	s := streamtest.NewSite(t, app, m)
	var ids []mesherstream.ClientID
	for i := range 20 {
		_, id := s.Connect("/own/shop", fmt.Sprintf("X-Forwarded-For: 192.0.2.%d", 100+i))
		ids = append(ids, id)
		streamtest.Ask(t, app, "GET", "/other", "X-Forwarded-For: 198.51.100.99")
	}
	for i, id := range ids {
		if c, _ := m.Client(id); c.RemoteAddr != fmt.Sprintf("192.0.2.%d", 100+i) {
			t.Errorf("Client(%d).RemoteAddr: got %q, want 192.0.2.%d", id, c.RemoteAddr, 100+i)
		}
	}
}
