package test

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// Proxies write addresses in many ways, and all of them must count as one client. For a value that is not an address,
// the connection's own address counts: otherwise a client that can send arbitrary values would have as many addresses
// as there are texts.
func TestAnAddressIsOneHoweverAProxyWritesIt(t *testing.T) {
	const peer = "127.0.0.1" // where the test comes from
	forwarded := fiber.Config{ProxyHeader: "X-Forwarded-For"}
	validated := fiber.Config{ProxyHeader: "X-Forwarded-For", EnableIPValidation: true}
	checked := fiber.Config{
		ProxyHeader: "X-Forwarded-For", EnableTrustedProxyCheck: true,
		TrustedProxies: []string{peer, "10.0.0.0/8", "2001:db8:ffff::/48", "198.51.100.9", "2001:DB8:0::5", "::ffff:198.51.100.10"},
	}
	untrusted := fiber.Config{ProxyHeader: "X-Forwarded-For", EnableTrustedProxyCheck: true, TrustedProxies: []string{"198.51.100.7"}}
	rfc7239 := fiber.Config{ProxyHeader: "Forwarded"}
	spelled := fiber.Config{ProxyHeader: "X-Forwarded-For", DisableHeaderNormalizing: true}
	for _, tt := range []struct {
		config fiber.Config
		header []string
		want   string
	}{
		{forwarded, []string{"X-Forwarded-For: 203.0.113.7"}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For: 203.0.113.7:51001"}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For: 203.0.113.7:"}, "203.0.113.7"},
		{forwarded, []string{`X-Forwarded-For: "203.0.113.7:51001"`}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For:  203.0.113.7 "}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For: 2001:db8::1"}, "2001:db8::1"},
		{forwarded, []string{"X-Forwarded-For: 2001:0DB8:0:0::0001"}, "2001:db8::1"},
		{forwarded, []string{"X-Forwarded-For: [2001:db8::1]"}, "2001:db8::1"},
		{forwarded, []string{"X-Forwarded-For: [2001:db8::1]:443"}, "2001:db8::1"},
		{forwarded, []string{`X-Forwarded-For: "[2001:db8::1]:443"`}, "2001:db8::1"},
		{forwarded, []string{`X-Forwarded-For: "2001:db8::1"`}, "2001:db8::1"},
		{forwarded, []string{"X-Forwarded-For: 2001:db8:0:0:0:0:0:1:51001"}, "2001:db8::1"},
		{forwarded, []string{"X-Forwarded-For: fe80::1%eth0"}, "fe80::1"},
		{forwarded, []string{"X-Forwarded-For: [fe80::1%eth1]:80"}, "fe80::1"},
		{forwarded, []string{"X-Forwarded-For: [fe80::1%25eth1]:80"}, "fe80::1"},
		{forwarded, []string{"X-Forwarded-For: ::ffff:203.0.113.7"}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For: [::ffff:203.0.113.7]:51001"}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For: ::ffff:cb00:7107"}, "203.0.113.7"},
		{spelled, []string{"x-forwarded-for: 203.0.113.7:51001"}, "203.0.113.7"},

		// With EnableIPValidation, Fiber recognizes none of these, and returns the proxy's address.
		{validated, []string{"X-Forwarded-For: 203.0.113.7:51001"}, "203.0.113.7"},
		{validated, []string{"X-Forwarded-For: [2001:db8::1]:443"}, "2001:db8::1"},
		{validated, []string{"X-Forwarded-For: nonsense"}, peer},

		// A list. For an app that trusts everybody, the first address counts, as in Fiber with EnableIPValidation.
		{forwarded, []string{"X-Forwarded-For: 203.0.113.7, 10.0.0.1"}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For: 203.0.113.7:51001 ,10.0.0.1:80"}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 10.0.0.1"}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For: , 203.0.113.7, , 10.0.0.1,"}, "203.0.113.7"},
		{forwarded, []string{"X-Forwarded-For: unknown, 203.0.113.7"}, "203.0.113.7"},
		{validated, []string{"X-Forwarded-For: 203.0.113.7, 10.0.0.1"}, "203.0.113.7"},
		// For an app that checks its proxies, the last address that isn't one of theirs counts: the client can choose
		// everything before it.
		{checked, []string{"X-Forwarded-For: 203.0.113.7"}, "203.0.113.7"},
		{checked, []string{"X-Forwarded-For: 198.51.100.1, 203.0.113.7"}, "203.0.113.7"},
		{checked, []string{"X-Forwarded-For: 198.51.100.1, 203.0.113.7:51001, 10.1.2.3:80"}, "203.0.113.7"},
		{checked, []string{"X-Forwarded-For: 198.51.100.1, 203.0.113.7, [2001:db8:ffff::1]:80, 198.51.100.9"}, "203.0.113.7"},
		{checked, []string{"X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 203.0.113.7"}, "203.0.113.7"},
		{checked, []string{"X-Forwarded-For: 203.0.113.7, 2001:db8::5, 198.51.100.10"}, "203.0.113.7"},
		{checked, []string{"X-Forwarded-For: 10.0.0.7, 10.0.0.1"}, "10.0.0.7"},
		{checked, []string{"X-Forwarded-For: 198.51.100.1, nonsense, 10.0.0.1"}, "10.0.0.1"},
		{checked, []string{"X-Forwarded-For: 198.51.100.1, nonsense"}, peer},

		{rfc7239, []string{`Forwarded: for="[2001:db8::1]:4711";proto=https;by=10.0.0.1`}, "2001:db8::1"},
		{rfc7239, []string{"Forwarded: by=10.0.0.1; For=203.0.113.7"}, "203.0.113.7"},
		{rfc7239, []string{"Forwarded: for=203.0.113.7, for=10.0.0.1"}, "203.0.113.7"},
		{rfc7239, []string{"Forwarded: for=unknown"}, peer},
		{rfc7239, []string{"Forwarded: for=_hidden;proto=https"}, peer},

		{forwarded, nil, peer},
		{forwarded, []string{"X-Forwarded-For: "}, peer},
		{forwarded, []string{"X-Forwarded-For: ,"}, peer},
		{forwarded, []string{"X-Forwarded-For: unknown"}, peer},
		{forwarded, []string{"X-Forwarded-For: 203.0.113.7 level=ERROR"}, peer},
		{forwarded, []string{"X-Forwarded-For: 203.0.113"}, peer},
		{forwarded, []string{"X-Forwarded-For: 203.0.113.007"}, peer},
		{forwarded, []string{"X-Forwarded-For: 203.0.113.7:1:2"}, peer},
		{forwarded, []string{"X-Forwarded-For: :443"}, peer},
		{forwarded, []string{"X-Forwarded-For: []"}, peer},
		{untrusted, []string{"X-Forwarded-For: 203.0.113.7"}, peer},
		{fiber.Config{}, []string{"X-Forwarded-For: 203.0.113.7"}, peer},
	} {
		app := streamtest.QuietApp(tt.config)
		m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
		app.Use(m.Handler())
		s := streamtest.NewSite(t, app, m)
		ws, id := s.Connect("/stream/projects/shop", tt.header...)
		client, _ := m.Client(id)
		_ = ws.Close()
		if got := client.RemoteAddr; got != tt.want {
			t.Errorf("%q, proxies checked: %v, addresses validated: %v: got %q, want %q",
				tt.header, tt.config.EnableTrustedProxyCheck, tt.config.EnableIPValidation, got, tt.want)
		}
	}
}

// The cap counts the client, whatever port its proxy adds, on the stream's path and on a route of the application's
// own.
func TestTheCapPerAddressBitesOneClientBehindAProxyThatTellsPorts(t *testing.T) {
	for _, config := range []fiber.Config{
		{ProxyHeader: "X-Forwarded-For"},
		{ProxyHeader: "X-Forwarded-For", EnableIPValidation: true},
		{ProxyHeader: "x-forwarded-for", EnableTrustedProxyCheck: true, TrustedProxies: []string{"127.0.0.1"}},
	} {
		app := streamtest.QuietApp(config)
		m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClientsPerIP(1))
		streamtest.OwnRoute(app, m, mesherstream.Filter{})
		app.Use(m.Handler())
		s := streamtest.NewSite(t, app, m)
		for _, path := range []string{"/stream/projects/shop", "/own/other"} {
			first, id := s.Connect(path, "X-Forwarded-For: 203.0.113.7:51001")
			if c, _ := m.Client(id); c.RemoteAddr != "203.0.113.7" {
				t.Errorf("%s: RemoteAddr: got %q, want 203.0.113.7", path, c.RemoteAddr)
			}
			if _, resp, _ := s.Dial("/stream/projects/shop", "X-Forwarded-For: 203.0.113.7:51002"); resp == nil || resp.StatusCode != 429 {
				t.Errorf("%s: another client of one address: got %v, want 429", path, resp)
			}
			again, resp, err := s.Dial("/own/other", "X-Forwarded-For: [::ffff:203.0.113.7]:51003")
			if err != nil {
				t.Fatalf("dial: %v, %v", err, resp)
			}
			_ = again.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, _, err := again.ReadMessage(); !websocket.IsCloseError(err, 1013) {
				t.Errorf("%s: another client of one address on an own route: got %v, want close 1013", path, err)
			}
			_ = again.NetConn().Close()
			second, _ := s.Connect(path, "X-Forwarded-For: 203.0.113.8:51001")
			_ = second.Close()
			_ = first.Close()
			s.Eventually("both have left", s.IsEmpty)
		}
	}
}

// HAProxy adds a line of its own after those that the client has sent, and contrib keeps one line of each name.
func TestServeTakesTheAddressOfAllLinesIfTheHandlerIsMountedBefore(t *testing.T) {
	config := fiber.Config{ProxyHeader: "X-Forwarded-For", EnableTrustedProxyCheck: true, TrustedProxies: []string{"127.0.0.1", "10.0.0.0/8"}}
	for _, header := range [][]string{
		{"X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 10.0.0.1"},
		{"X-Forwarded-For: 198.51.100.1, 203.0.113.7", "X-Forwarded-For: 10.0.0.2", "X-Forwarded-For: 10.0.0.1"},
	} {
		app := streamtest.QuietApp(config)
		m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
		app.Use(m.Handler())
		streamtest.OwnRoute(app, m, mesherstream.Filter{})
		s := streamtest.NewSite(t, app, m)
		_, id := s.Connect("/own/other", header...)
		if c, _ := m.Client(id); c.RemoteAddr != "203.0.113.7" {
			t.Errorf("%q: got %q, want 203.0.113.7", header, c.RemoteAddr)
		}
	}
}

// On a route of the application's own, and without WithApp, it is unknown which proxies are trusted.
func TestServeWithoutAnAppTakesTheAddressThatFiberTells(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Forwarded-For"})
	m := streamtest.NewTestManager(t)
	streamtest.OwnRoute(app, m, mesherstream.Filter{})
	s := streamtest.NewSite(t, app, m)
	for told, want := range map[string]string{
		"203.0.113.7:51001":       "203.0.113.7",
		"203.0.113.7, 10.0.0.1:1": "203.0.113.7",
		"unknown":                 "127.0.0.1",
	} {
		_, id := s.Connect("/own/other", "X-Forwarded-For: "+told)
		if c, _ := m.Client(id); c.RemoteAddr != want {
			t.Errorf("X-Forwarded-For: %s: got %q, want %q", told, c.RemoteAddr, want)
		}
	}
}

// Over a unix socket every connection is from 0.0.0.0, so that is the proxy to trust; docs/scaling.md says so.
func TestAProxyOnAUnixSocketIsTrustedAs0000(t *testing.T) {
	for _, tt := range []struct {
		trusted string
		want    string
		page    int // the response to a page of the host that the proxy sends
	}{
		{"0.0.0.0", "203.0.113.7", 101},
		{"127.0.0.1", "0.0.0.0", 403},
	} {
		app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Real-Ip", EnableTrustedProxyCheck: true, TrustedProxies: []string{tt.trusted}})
		m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
		app.Use(m.Handler())
		streamtest.OwnRoute(app, m, mesherstream.Filter{})
		socket := filepath.Join(t.TempDir(), "s")
		s := streamtest.NewSiteOver(t, app, m, streamtest.Transport{Listen: func(t *testing.T) (net.Listener, func(string, string) (net.Conn, error)) {
			ln, err := net.Listen("unix", socket)
			if err != nil {
				t.Skipf("no unix sockets: %v", err)
			}
			return ln, func(string, string) (net.Conn, error) { return net.DialTimeout("unix", socket, 10*time.Second) }
		}})
		for _, target := range []string{"/stream/projects/shop", "/own/other"} {
			_, id := s.Connect(target, "X-Real-Ip: 203.0.113.7")
			if c, _ := m.Client(id); c.RemoteAddr != tt.want {
				t.Errorf("TrustedProxies %s, %s: got address %q, want %q", tt.trusted, target, c.RemoteAddr, tt.want)
			}
		}
		_, resp, _ := s.Dial("/stream/projects/shop", "X-Forwarded-Host: front.test", "Origin: http://front.test")
		if resp == nil || resp.StatusCode != tt.page {
			t.Errorf("TrustedProxies %s: a page of the proxy's host: got %v, want %s", tt.trusted, resp, fmt.Sprint(tt.page))
		}
	}
}
