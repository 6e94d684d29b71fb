package proxies

import (
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gorilla/websocket"
	"github.com/mesher/mesherstream"
)

func TestAPageOfTheSameOriginGetsItsMessagesAndAForeignOneIsRefused(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		s := behind(t, p, asPrinted)
		ws := s.open()
		s.broadcast("hello")
		s.wants(ws, "hello")

		for _, origin := range []string{"https://evil.example", "https://app.example.com", "http://app.example.com:" + s.proxy.port} {
			if _, answer, err := s.ask("", http.Header{"Origin": {origin}}); err == nil || answer == nil || answer.StatusCode != http.StatusForbidden {
				t.Errorf("a page of %s got %s, %v, want 403", origin, said(answer), err)
			}
		}
		// What a client says of itself in the proxy's name does not count.
		forged := http.Header{"Origin": {"https://evil.example"}, "X-Forwarded-Host": {"evil.example"}, "X-Forwarded-Proto": {"https"}}
		if _, answer, err := s.ask("", forged); err == nil || answer == nil || answer.StatusCode != http.StatusForbidden {
			t.Errorf("a page of another origin with a forged X-Forwarded-Host got %s, %v, want 403", said(answer), err)
		}
	})
}

func TestTheProxyOverwritesWhatAClientSaysInItsName(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		s := behind(t, p, asPrinted)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.proxy.origin()+"/seen", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
			req.Header[name] = []string{"forged", "forged too"}
		}
		_, seen := s.get("127.0.0.2", req)
		host := "app.example.com:" + s.proxy.port
		for name, want := range map[string]string{
			"Host": host, "X-Forwarded-Host": host, "X-Forwarded-For": "127.0.0.2", "X-Forwarded-Proto": "https",
		} {
			var got []string
			for line := range strings.Lines(seen) {
				if n, value, _ := strings.Cut(line, ":"); strings.EqualFold(n, name) {
					got = append(got, strings.TrimSpace(value))
				}
			}
			if len(got) != 1 || got[0] != want {
				t.Errorf("the app gets %s %q, want %q alone", name, got, want)
			}
		}
	})
}

func TestTheCapPerAddressCountsTheClientsAndNotTheProxy(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		s := behind(t, p, asPrinted, mesherstream.WithMaxClientsPerIP(1))
		connect := func(from string, header http.Header) int {
			t.Helper()
			ws, answer, err := s.ask(from, header)
			if answer == nil {
				t.Fatalf("from %s: %v\n%s", from, err, s.proxy.output)
			}
			if err == nil {
				t.Cleanup(func() { _ = ws.Close() })
			}
			return answer.StatusCode
		}
		for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
			if got := connect(from, nil); got != http.StatusSwitchingProtocols {
				t.Errorf("the first from %s got %d, want 101", from, got)
			}
		}
		for _, header := range []http.Header{
			nil,
			{"X-Forwarded-For": {"192.0.2.7"}},
			{"X-Forwarded-For": {"192.0.2.7", "192.0.2.8"}},
			{"X-Real-Ip": {"192.0.2.7"}, "Forwarded": {"for=192.0.2.7"}},
		} {
			if got := connect("127.0.0.2", header); got != http.StatusTooManyRequests {
				t.Errorf("the second from 127.0.0.2 with %v got %d, want 429", header, got)
			}
		}
		for c := range s.m.Clients() {
			if c.RemoteAddr != "127.0.0.2" && c.RemoteAddr != "127.0.0.3" {
				t.Errorf("a client's address is %q", c.RemoteAddr)
			}
		}
	})
}

func TestWhatTheHandlerAnswersReachesTheClient(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		s := behind(t, p, asPrinted, mesherstream.WithMaxClients(1), mesherstream.WithAuthorize(func(c *fiber.Ctx, _ *mesherstream.Subscription) error {
			if c.Get("Authorization") == "" {
				return fiber.NewError(fiber.StatusUnauthorized, "who are you?")
			}
			return nil
		}))
		get := func(path, etag string) (*http.Response, string) {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.proxy.origin()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("If-None-Match", etag)
			return s.get("", req)
		}
		module, text := get("/stream/projects/mesherstream.js", "")
		if module.StatusCode != http.StatusOK || !strings.Contains(text, "export") || !strings.HasPrefix(module.Header.Get("Content-Type"), "text/javascript") {
			t.Errorf("the module: %s, %v, %d bytes", module.Status, module.Header, len(text))
		}
		if module.ProtoMajor != 2 {
			t.Errorf("the proxy speaks %s to a browser, want HTTP/2", module.Proto)
		}
		if again, _ := get("/stream/projects/mesherstream.js", module.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
			t.Errorf("the module that the page has: %s, want 304", again.Status)
		}
		if plain, _ := get("/stream/projects/shop", ""); plain.StatusCode != http.StatusUpgradeRequired {
			t.Errorf("without an upgrade: %s, want 426", plain.Status)
		}

		refused := func(what string, want int, body string, header http.Header) {
			t.Helper()
			_, answer, err := s.ask("", header)
			if got := said(answer); err == nil || answer == nil || answer.StatusCode != want || !strings.Contains(got, body) {
				t.Errorf("%s: got %s, %v, want %d %q", what, got, err, want, body)
			}
		}
		known := http.Header{"Authorization": {"Bearer 1"}}
		refused("nobody in particular", http.StatusUnauthorized, "who are you?", nil)
		ws, answer, err := s.ask("", known)
		if err != nil {
			t.Fatalf("%v: %s", err, said(answer))
		}
		defer ws.Close()
		s.eventually("the place is taken", func() bool { return s.m.Stats().Clients == 1 })
		refused("a second one", http.StatusServiceUnavailable, "", known)
	})
}

// The ratio is that of the defaults and of docs/scaling.md: pings every 25 s, timeouts of 60 s.
func TestPingsKeepASilentStreamOpenBeyondTheProxysTimeout(t *testing.T) {
	const timeout = 2 * time.Second
	behindEach(t, func(t *testing.T, p *proxy) {
		if p.timeout == "" {
			t.Log("has no timeout for streams")
		}
		s := behind(t, p, brief, mesherstream.WithPingInterval(timeout*25/60), mesherstream.WithIdleTimeout(patience))
		dead := behind(t, p, brief, mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(0))
		silent, unpinged := s.open(), dead.open()
		kept := time.NewTimer(timeout * 5 / 2)
		over := make(chan error, 1)
		read := make(chan string, 1)
		go func() { // reading is what answers pings
			_, data, err := silent.ReadMessage()
			over <- err
			read <- string(data)
		}()
		if p.timeout != "" { // or the test would prove nothing
			if code := dead.end(unpinged); code != websocket.CloseAbnormalClosure {
				t.Errorf("a stream without pings ended with %d, want 1006 by the proxy's timeout", code)
			}
		}
		<-kept.C
		s.broadcast("still here")
		select {
		case err := <-over:
			if got := <-read; err != nil || got != "still here" {
				t.Errorf("a stream with pings: %q, %v", got, err)
			}
		case <-time.After(patience):
			t.Error("a stream with pings got nothing")
		}
	})
}

func TestCloseCodesPassBothWays(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		left := make(chan int, 3)
		s := behind(t, p, asPrinted, mesherstream.WithHooks(mesherstream.Hooks{
			Disconnect: func(_ mesherstream.Client, code int, _ string) { left <- code },
		}))
		leaves, removed, stays := s.open(), s.open(), s.open()
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "bye")
		if err := leaves.WriteControl(websocket.CloseMessage, bye, time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if got := s.end(leaves); got != websocket.CloseNormalClosure {
			t.Errorf("the answer to a close has code %d, want 1000", got)
		}
		if got := <-left; got != websocket.CloseNormalClosure {
			t.Errorf("the server was told %d, want 1000", got)
		}

		var ids []mesherstream.ClientID
		for c := range s.m.Clients() {
			ids = append(ids, c.ID)
		}
		if len(ids) != 2 {
			t.Fatalf("%d clients, want 2", len(ids))
		}
		if err := s.m.Disconnect(min(ids[0], ids[1]), 4001, "removed"); err != nil {
			t.Fatal(err)
		}
		if got := s.end(removed); got != 4001 {
			t.Errorf("a client that was disconnected was told %d, want 4001", got)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.app.ShutdownWithTimeout(patience) }()
		if got := s.end(stays); got != websocket.CloseGoingAway {
			t.Errorf("a shutdown told a client %d, want 1001", got)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestWhatAReloadOfTheProxyDoesToStreams(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		s := behind(t, p, asPrinted)
		before := s.open()
		p.reload(t, s.proxy)
		if p.reloaded != 0 {
			if code := s.end(before); code != p.reloaded {
				t.Errorf("a reload ended a stream with %d, want %d", code, p.reloaded)
			}
		}
		// A new stream is taken by the process that has the new configuration, or is about to have it.
		s.eventually("a new stream opens", func() bool {
			ws, _, err := s.ask("", nil)
			if err == nil {
				_ = ws.Close()
			}
			return err == nil
		})
		if p.reloaded == 0 {
			s.broadcast("still here")
			s.wants(before, "still here")
		}
	})
}

func TestARestartOfTheProxyEndsStreamsAndTheServerForgetsThem(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		s := behind(t, p, asPrinted)
		ws := s.open()
		s.proxy.signal(t, syscall.SIGTERM)
		if code := s.end(ws); !slices.Contains(p.terminated, code) {
			t.Errorf("a stream ended with %d, want %v", code, p.terminated)
		}
		s.eventually("the server has noticed", func() bool { return s.m.Stats().Clients == 0 })
	})
}
