package test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

const asks = "Accept: application/vnd.mesherstream.v1"

// A page can't see the status of a handshake, so it asks with a plain GET, which must receive the same status.
func TestWhoAsksWhyIsAnsweredAsItsHandshake(t *testing.T) {
	const is = "/stream/projects/"
	var authorized atomic.Int64
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithOrigins("https://other.test"), mesherstream.WithAuthorize(func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
		authorized.Add(1)
		switch sub.Project {
		case "session":
			return fiber.ErrUnauthorized
		case "secret":
			return fiber.ErrForbidden
		case "unknown":
			return fiber.ErrNotFound
		case "busy":
			return fiber.ErrTooManyRequests
		case "broken":
			panic("broken")
		}
		sub.Levels = []string{"error"}
		return nil
	}))
	app.Use(m.Handler())
	for _, tt := range []struct {
		target string
		header []string
		want   int // of a handshake; 101 if it is accepted, and the question is then answered with 426
		asked  int64
	}{
		{is + "shop", nil, 101, 1},
		{is + "shop?level=error", nil, 101, 1},
		{is + "shop?level=debug", nil, 403, 1},
		{is + "shop?level=" + fmt.Sprintf("%065d", 0), nil, 400, 0},
		{is + "session", nil, 401, 1},
		{is + "secret", nil, 403, 1},
		{is + "unknown", nil, 404, 1},
		{is + "busy", nil, 429, 1},
		{is + "broken", nil, 500, 1},
		{is, nil, 400, 0},
		{is + "a%2Fb", nil, 400, 0},
		{is + "shop", []string{"Origin: https://other.test"}, 101, 1},
		{is + "session", []string{"Origin: https://other.test"}, 401, 1},
		{is + "shop", []string{"Origin: https://evil.test"}, 403, 0},
		{is + "shop", []string{"Origin: http://app.test"}, 101, 1},
	} {
		want := tt.want
		for _, kind := range [][]string{streamtest.Upgrade, {asks}} {
			authorized.Store(0)
			status, body := streamtest.Ask(t, app, "GET", tt.target, append(kind, tt.header...)...)
			if got := authorized.Load(); status != want || got != tt.asked {
				t.Errorf("%s with %q and %q: got %d %q, %d times authorized, want %d, %d", tt.target, kind[0], tt.header, status, body, got, want, tt.asked)
			}
			if want == 101 {
				want = 426
			}
		}
	}
}

func TestAPlainGETThatDoesNotAskWhyIsNotAuthorized(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error {
		t.Error("WithAuthorize was asked")
		return fiber.ErrUnauthorized
	})).Handler())
	for _, accept := range []string{"", "Accept: text/html,application/xhtml+xml,*/*;q=0.8", "Accept: image/*", "Accept: text/*"} {
		if status, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", accept); status != 426 {
			t.Errorf("%q: got %d, want 426", accept, status)
		}
	}
	if status, _ := streamtest.Ask(t, app, "HEAD", "/stream/projects/shop", asks); status != 426 {
		t.Errorf("HEAD: got %d, want 426", status)
	}
}

// A page of another origin can make a browser send the question with the user's cookies. If the page may not follow the
// stream, the application's authorization is not called.
func TestAPageOfAnotherOriginCanNotAskWhy(t *testing.T) {
	app := streamtest.QuietApp()
	authorized := false
	app.Use(streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error {
		authorized = true
		return nil
	})).Handler())
	for _, tt := range []struct {
		header []string
		want   int
	}{
		{[]string{"Sec-Fetch-Site: cross-site"}, 403}, // mode no-cors sends no origin
		{[]string{"Sec-Fetch-Site: same-site"}, 403},
		{[]string{"Sec-Fetch-Site: cross-site", "Referer: http://app.test/"}, 403},
		{[]string{"Sec-Fetch-Site: same-origin"}, 426},
		{[]string{"Sec-Fetch-Site: same-origin", "Referer: http://app.test/page?a=1"}, 426},
		// The page's own host, and a proxy that has changed Host: the page's handshakes receive 403 as well.
		{[]string{"Sec-Fetch-Site: same-origin", "Referer: https://public.test/"}, 403},
		{[]string{"Sec-Fetch-Site: none"}, 426},
		{[]string{"Referer: http://app.test/"}, 426},
		{[]string{"Referer: %zz"}, 426},
		{nil, 426},
	} {
		authorized = false
		status, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", append([]string{asks}, tt.header...)...)
		if status != tt.want || authorized != (tt.want == 426) {
			t.Errorf("%q: got %d, authorized %v, want %d", tt.header, status, authorized, tt.want)
		}
	}
}

func TestThePagesOfOtherOriginsThatMayFollowCanReadWhy(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t, mesherstream.WithOrigins("https://other.test"), mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error {
		return fiber.ErrUnauthorized
	})).Handler())
	for _, tt := range []struct {
		origin, allowed, credentials string
		want                         int
	}{
		{"https://other.test", "https://other.test", "true", 401},
		{"https://evil.test", "", "", 403},
		{"", "", "", 401},
	} {
		req := httptest.NewRequest("GET", "/stream/projects/shop", nil)
		req.Header.Set("Accept", "application/vnd.mesherstream.v1")
		if tt.origin != "" {
			req.Header.Set("Origin", tt.origin)
		}
		resp, err := app.Test(req)
		if err != nil {
			t.Fatal(err)
		}
		allowed, credentials := resp.Header.Get("Access-Control-Allow-Origin"), resp.Header.Get("Access-Control-Allow-Credentials")
		if !resp.Close { // otherwise anything that a proxy takes for an upgrade would let the next request pass uninspected
			t.Errorf("%q: the connection is kept", tt.origin)
		}
		if resp.StatusCode != tt.want || allowed != tt.allowed || credentials != tt.credentials || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%q: got %d and %v, want %d, origin %q, credentials %q", tt.origin, resp.StatusCode, resp.Header, tt.want, tt.allowed, tt.credentials)
		}
	}
}

func TestAskingWhyTakesNoPlace(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(1), mesherstream.WithMaxClientsPerIP(1))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	for range 3 {
		if status, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", asks); status != 426 {
			t.Errorf("got %d, want 426", status)
		}
	}
	s.Connect("/stream/projects/shop")
	if status, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", asks); status != 503 {
		t.Errorf("with all places taken: got %d, want 503, as the handshake would be answered", status)
	}
}

// Names match in any spelling, also in an app that keeps the spelling of its clients and proxies.
func TestThePageThatAsksIsKnownInAnySpelling(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{DisableHeaderNormalizing: true})
	authorized := false
	app.Use(streamtest.NewTestManager(t, mesherstream.WithOrigins("https://other.test"), mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error {
		authorized = true
		return nil
	})).Handler())
	allowed := ""
	serve := app.Handler()
	outer := streamtest.QuietApp(fiber.Config{DisableHeaderNormalizing: true})
	outer.Use(func(c *fiber.Ctx) error {
		serve(c.Context())
		allowed = string(c.Response().Header.Peek("Access-Control-Allow-Origin"))
		return nil
	})
	for _, spell := range []func(string) string{strings.ToLower, strings.ToUpper, func(name string) string { return name }} {
		for _, tt := range []struct {
			name, value string
			want        int
			allowed     string
		}{
			{"Sec-Fetch-Site", "cross-site", 403, ""},
			{"Sec-Fetch-Site", "same-origin", 426, ""},
			{"Referer", "https://evil.test/x", 403, ""},
			{"Referer", "http://app.test/x", 426, ""},
			{"Referer", "https://other.test/x", 426, ""},
			{"Origin", "https://evil.test", 403, ""},
			{"Origin", "https://other.test", 426, "https://other.test"},
		} {
			authorized = false
			header := spell(tt.name) + ": " + tt.value
			status, body := streamtest.Ask(t, outer, "GET", "/stream/projects/shop", spell("Accept")+": application/vnd.mesherstream.v1", header)
			if status != tt.want || authorized != (tt.want == 426) || allowed != tt.allowed {
				t.Errorf("%q: got %d %q, authorized %v, allowed %q, want %d and %q", header, status, body, authorized, allowed, tt.want, tt.allowed)
			}
		}
	}
}
