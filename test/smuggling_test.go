package test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// rawSite is a site that is addressed byte by byte. It counts the requests that have reached the route /secret.
type rawSite struct {
	*streamtest.Site
	secrets atomic.Int64
}

func newRawSite(t *testing.T, config ...fiber.Config) *rawSite {
	t.Helper()
	app := streamtest.QuietApp(config...)
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
	s := &rawSite{}
	app.Use(m.Handler())
	app.All("/secret", func(c *fiber.Ctx) error {
		s.secrets.Add(1)
		return c.SendString("the secret")
	})
	s.Site = streamtest.NewSite(t, app, m)
	return s
}

// exchange sends p on a connection of its own, half closes it, and returns everything that it receives.
func (s *rawSite) exchange(p string) string {
	s.Helper()
	conn, err := s.Net("tcp", "app.test")
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = conn.Write([]byte(p)) // the server may have closed before the end
	// Half closed, so that a server that waits for more sees the end.
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	answers, err := io.ReadAll(conn)
	if streamtest.IsTimeout(err) {
		s.Fatalf("%.200q: no end after %.200q", p, answers)
	}
	return string(answers)
}

const secretRequest = "GET /secret HTTP/1.1\r\nHost: app.test\r\n\r\n"

// Everything after an upgrade is frames, whatever it looks like.
func TestARequestBehindTheUpgradeIsNoRequest(t *testing.T) {
	s := newRawSite(t)
	answers := s.exchange(streamtest.Handshake("/stream/projects/shop") + secretRequest)
	head, frames, _ := strings.Cut(answers, "\r\n\r\n")
	frames = string(streamtest.WithoutPings([]byte(frames)))
	if want := string(wsframe.Close(wsframe.CodeProtocolError, "frame of a client is not masked")); !strings.HasPrefix(head, "HTTP/1.1 101") || frames != want {
		t.Errorf("got %q, want 101 and %q", answers, want)
	}
	// A body of no bytes ends where every reader thinks that it ends.
	s.exchange(streamtest.Handshake("/stream/projects/shop", "Transfer-Encoding: chunked") + "0\r\n\r\n" + secretRequest)
	s.exchange(streamtest.Handshake("/stream/projects/shop", "Content-Length: 0") + secretRequest)
	if got := s.secrets.Load(); got != 0 {
		t.Errorf("the route behind the upgrade got %d requests, want 0", got)
	}
}

// Some proxies treat any response to a handshake as an upgrade, and from then on pass everything on that connection.
func TestARefusedHandshakeEndsItsConnection(t *testing.T) {
	s := newRawSite(t)
	ok := streamtest.Handshake("/stream/projects/shop")
	for name, request := range map[string]string{
		"wrong version": strings.Replace(ok, "Version: 13", "Version: 777", 1),
		"no key":        strings.Replace(ok, "dGhlIHNhbXBsZSBub25jZQ==", "", 1),
		"no upgrade":    "GET /stream/projects/shop HTTP/1.1\r\nHost: app.test\r\n\r\n",
		"wrong origin":  streamtest.Handshake("/stream/projects/shop", "Origin: http://evil.test"),
		"wrong project": streamtest.Handshake("/stream/projects/a%00b"),
		"wrong filter":  streamtest.Handshake("/stream/projects/shop?level=%FF"),
		"a body":        streamtest.Handshake("/stream/projects/shop", "Content-Length: 5") + "hello",
	} {
		t.Run(name, func(t *testing.T) {
			answers := s.exchange(request + secretRequest)
			if got := strings.Count(answers, "HTTP/1.1 "); got != 1 || !strings.Contains(answers, "HTTP/1.1 4") || !strings.Contains(answers, "Connection: close") {
				t.Errorf("got %q, want one refusal that closes the connection", answers)
			}
			if got := s.secrets.Swap(0); got != 0 {
				t.Errorf("the route behind the refusal got %d requests, want 0", got)
			}
		})
	}
}

// A body could hide frames or requests whenever a proxy and this server disagree about its length. With
// StreamRequestBody, fasthttp leaves the body unread.
func TestAHandshakeWithABodyIsRefused(t *testing.T) {
	frame := string(streamtest.Masked(wsframe.FinBit|wsframe.OpText, `{"type":"subscribe","filters":{}}`))
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(frame), frame)
	for _, config := range []fiber.Config{{}, {StreamRequestBody: true}} {
		s := newRawSite(t, config)
		for name, request := range map[string]string{
			"length":             streamtest.Handshake("/stream/projects/shop", fmt.Sprint("Content-Length: ", len(frame))) + frame,
			"length too short":   streamtest.Handshake("/stream/projects/shop", "Content-Length: 5") + frame,
			"chunked":            streamtest.Handshake("/stream/projects/shop", "Transfer-Encoding: chunked") + chunked,
			"chunked and length": streamtest.Handshake("/stream/projects/shop", "Transfer-Encoding: chunked", "Content-Length: 4") + chunked,
			"length and chunked": streamtest.Handshake("/stream/projects/shop", "Content-Length: 4", "Transfer-Encoding: chunked") + chunked,
			"two lengths":        streamtest.Handshake("/stream/projects/shop", "Content-Length: 0", "Content-Length: 5") + frame,
			"unknown encoding":   streamtest.Handshake("/stream/projects/shop", "Transfer-Encoding: xchunked") + frame,
			"expected":           streamtest.Handshake("/stream/projects/shop", "Expect: 100-continue", "Content-Length: 5") + "hello" + frame,
		} {
			t.Run(fmt.Sprintf("%s, streamed %v", name, config.StreamRequestBody), func(t *testing.T) {
				answers := strings.TrimPrefix(s.exchange(request), "HTTP/1.1 100 Continue\r\n\r\n")
				if !strings.HasPrefix(answers, "HTTP/1.1 4") || strings.Count(answers, "HTTP/1.1 ") != 1 || s.secrets.Load() != 0 {
					t.Errorf("got %q and %d requests for the secret, want one refusal and none", answers, s.secrets.Load())
				}
			})
		}
		if got := s.M.Stats().Connects; got != 0 {
			t.Errorf("clients that came of it: got %d, want 0", got)
		}
	}
}

func TestGarbageInAHandshakeIsRefusedOrHarmless(t *testing.T) {
	s := newRawSite(t)
	ok := streamtest.Handshake("/stream/projects/shop")
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	for name, tt := range map[string]struct {
		request string
		let     bool
	}{
		"key that is short":         {strings.Replace(ok, key, "x", 1), false},
		"key of 3 KB":               {strings.Replace(ok, key, strings.Repeat("x", 3000), 1), false},
		"no key at all":             {strings.Replace(ok, key, "", 1), false},
		"header over the limit":     {streamtest.Handshake("/stream/projects/shop", "X: "+strings.Repeat("x", 5000)), false},
		"a thousand headers":        {streamtest.Handshake("/stream/projects/shop", slices.Repeat([]string{"A: b"}, 1000)...), false},
		"project of 1 MB":           {streamtest.Handshake("/stream/projects/" + strings.Repeat("x", 1<<20)), false},
		"project of 1 MB, encoded":  {streamtest.Handshake("/stream/projects/" + strings.Repeat("%78", 1<<20)), false},
		"query of 1 MB":             {streamtest.Handshake("/stream/projects/shop?level=" + strings.Repeat("x,", 1<<19)), false},
		"upgrade by another method": {strings.Replace(ok, "GET", "POST", 1), false},
		"method override":           {strings.Replace(streamtest.Handshake("/stream/projects/shop", "X-HTTP-Method-Override: GET"), "GET", "POST", 1), false},
		"space in front of a colon": {streamtest.Handshake("/stream/projects/shop", "Content-Length : 5") + "hello", false},
		"header that is folded":     {streamtest.Handshake("/stream/projects/shop", "Origin:\r\n http://evil.test"), false},
		"HTTP/2":                    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false},
		"TLS":                       {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", false},
		"extensions, all at once":   {streamtest.Handshake("/stream/projects/shop", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame, bbf-usp-protocol"), true},
		"subprotocols":              {streamtest.Handshake("/stream/projects/shop", "Sec-WebSocket-Protocol: evil, chat\tx"), true},
	} {
		t.Run(name, func(t *testing.T) {
			answers := s.exchange(tt.request)
			if got := strings.HasPrefix(answers, "HTTP/1.1 101"); got != tt.let {
				t.Errorf("got %.300q, want to be let in: %v", answers, tt.let)
			}
			for _, header := range []string{"Sec-Websocket-Extensions", "Sec-Websocket-Protocol"} {
				if strings.Contains(answers, header) {
					t.Errorf("got %.300q, want nothing agreed on", answers)
				}
			}
		})
	}
	s.Eventually("no place is held", s.IsEmpty)
	ws, _ := s.Connect("/stream/projects/shop")
	s.Publish(mesherstream.Message{Project: "shop", Data: []byte("after all that")})
	s.Gets(ws, "after all that")
}

// A route that guards a path is matched with the path as it is written, whereas the stream's project is the decoded
// path. So only WithAuthorize can guard a project.
func TestAuthorizeIsAskedAboutTheProjectThatAnEncodedPathMeans(t *testing.T) {
	var asked []string
	app := streamtest.QuietApp()
	app.Use("/stream/projects/secret", func(*fiber.Ctx) error { return fiber.ErrUnauthorized })
	app.Use(streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		asked = append(asked, strings.Clone(sub.Project))
		return fiber.ErrForbidden
	})).Handler())
	for target, want := range map[string]int{"secret": 401, "%73ecret": 403, "secre%74": 403, "%73%65%63%72%65%74": 403} {
		if got, _ := streamtest.Ask(t, app, "GET", "/stream/projects/"+target, streamtest.Upgrade...); got != want {
			t.Errorf("GET .../%s: got %d, want %d", target, got, want)
		}
	}
	if !slices.Equal(asked, []string{"secret", "secret", "secret"}) {
		t.Errorf("authorize was asked about %q, want three times about secret", asked)
	}
}
