package test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// The address is the one that Fiber determines. Behind a proxy that the app trusts, it is the one that the proxy sends.
// For every other sender, it is the connection's own, whatever the header contains.
func TestTheCapPerAddressHoldsBehindAProxyAndAgainstOneThatIsNone(t *testing.T) {
	for name, tt := range map[string]struct {
		trusted string
		second  int // the response to the second client of another X-Real-Ip
		again   int // and to the second of the same
	}{
		"trusted":   {"127.0.0.1", 101, 429},
		"untrusted": {"192.0.2.1", 429, 429},
	} {
		t.Run(name, func(t *testing.T) {
			app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Real-Ip", EnableTrustedProxyCheck: true, TrustedProxies: []string{tt.trusted}})
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClientsPerIP(1))
			app.Use(m.Handler())
			s := streamtest.NewSite(t, app, m)
			s.Connect("/stream/projects/shop", "X-Real-Ip: 198.51.100.1")
			for ip, want := range map[string]int{"198.51.100.1": tt.again, "198.51.100.2": tt.second} {
				if _, resp, _ := s.Dial("/stream/projects/shop", "X-Real-Ip: "+ip); resp == nil || resp.StatusCode != want {
					t.Errorf("a client of %s beside one of 198.51.100.1: got %v, want %d", ip, resp, want)
				}
			}
		})
	}
}

// An attacker opens as many streams as it can, from one address, until the cap is reached. A viewer of another address
// is still admitted.
func TestOneAddressCannotTakeThePlacesOfOthers(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Real-Ip"})
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(50), mesherstream.WithMaxClientsPerIP(10))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	var all sync.WaitGroup
	var let, refused atomic.Int64
	for i := range 300 {
		all.Go(func() {
			_, resp, _ := s.Dial("/stream/projects/shop", fmt.Sprintf("X-Real-Ip: 2001:db8::%x", i))
			switch {
			case resp == nil:
				t.Error("no answer")
			case resp.StatusCode == 101:
				let.Add(1)
			case resp.StatusCode == 429:
				refused.Add(1)
			}
		})
	}
	all.Wait()
	if let.Load() != 10 || refused.Load() != 290 {
		t.Errorf("of 300 clients of one network: got %d in and %d refused with 429, want 10 and 290", let.Load(), refused.Load())
	}
	s.Connect("/stream/projects/shop", "X-Real-Ip: 192.0.2.1")
}

// However clients connect and leave, many at once, each place is given back once.
func TestChurnLeavesNoPlaceTaken(t *testing.T) {
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Real-Ip"})
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(20), mesherstream.WithMaxClientsPerIP(3))
			app.Use(m.Handler())
			s := streamtest.NewSiteOver(t, app, m, tr)
			var all sync.WaitGroup
			for i := range 8 {
				all.Go(func() {
					for round := range 30 {
						ip := fmt.Sprint("X-Real-Ip: 192.0.2.", i%4)
						if round%3 == 0 {
							resetHandshake(s, streamtest.Handshake("/stream/projects/shop", "Host: app.test", ip))
							continue
						}
						ws, _, err := s.Dial("/stream/projects/shop", ip)
						if err != nil {
							continue // beyond a cap
						}
						if round%3 == 1 {
							_ = ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
							_, _, _ = ws.ReadMessage()
						}
						_ = ws.Close()
					}
				})
			}
			all.Wait()
			for i := range 4 {
				s.Eventually("no place of this address is taken", func() bool {
					return s.IsEmpty() && s.HasRoom("/stream/projects/shop", 3, fmt.Sprint("X-Real-Ip: 192.0.2.", i))
				})
			}
		})
	}
}

// resetHandshake asks for a stream and resets the connection immediately, so that the 101 may reach no client.
func resetHandshake(s *streamtest.Site, request string) {
	s.Helper()
	conn, err := s.Net("tcp", "app.test")
	if err != nil {
		s.Fatal(err)
	}
	_, _ = conn.Write([]byte(request))
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// A client that is closed may take two seconds for its answer, and holds its place no longer than that.
func TestClientsThatNeverAnswerACloseFrameHoldTheirPlacesForAMomentOnly(t *testing.T) {
	t.Parallel()
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(5))
			app.Use(m.Handler())
			s := streamtest.NewSiteOver(t, app, m, tr)
			for range 5 {
				ws, _ := s.Connect("/stream/projects/shop")
				if _, err := ws.NetConn().Write(streamtest.Masked(wsframe.FinBit|wsframe.OpBinary, "not accepted here")); err != nil {
					t.Fatal(err)
				}
			}
			s.Eventually("all are told to go", func() bool { return m.Stats().Clients == 0 })
			if _, resp, _ := s.Dial("/stream/projects/shop"); resp == nil || resp.StatusCode != 503 {
				t.Errorf("while they are there: got %v, want 503", resp)
			}
			s.Eventually("their places are free", func() bool { return m.Stats().Disconnects == 5 })
			s.Connect("/stream/projects/shop")
		})
	}
}

// Behind a proxy that appends to X-Forwarded-For, the client chooses the address that Fiber determines, with and
// without EnableIPValidation. The header must be one that the proxy overwrites.
func TestAHeaderThatAProxyAppendsToIsNoAddress(t *testing.T) {
	for _, validated := range []bool{false, true} {
		app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Forwarded-For", EnableIPValidation: validated})
		var ips []string
		app.Get("/", func(c *fiber.Ctx) error { ips = append(ips, strings.Clone(c.IP())); return nil })
		for i := range 2 {
			streamtest.Ask(t, app, "GET", "/", fmt.Sprintf("X-Forwarded-For: 10.0.0.%d, 192.0.2.1", i))
		}
		if ips[0] == ips[1] {
			t.Errorf("EnableIPValidation %v: c.IP() is %q for both; SECURITY.md warns of a trap that is gone", validated, ips[0])
		}
	}
}
