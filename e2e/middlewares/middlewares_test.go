package middlewares

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/cache"
	"github.com/gofiber/fiber/v2/middleware/compress"
	"github.com/gofiber/fiber/v2/middleware/cors"
	"github.com/gofiber/fiber/v2/middleware/csrf"
	"github.com/gofiber/fiber/v2/middleware/encryptcookie"
	"github.com/gofiber/fiber/v2/middleware/etag"
	"github.com/gofiber/fiber/v2/middleware/helmet"
	"github.com/gofiber/fiber/v2/middleware/idempotency"
	"github.com/gofiber/fiber/v2/middleware/limiter"
	"github.com/gofiber/fiber/v2/middleware/logger"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/gofiber/fiber/v2/middleware/requestid"
	"github.com/gofiber/fiber/v2/middleware/session"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

const shopStream = "/stream/projects/shop"

var plainAccepts = []string{streamtest.AcceptEvents, streamtest.AcceptLines}

// Each middleware in front does what it does for any response, and the stream is whole.
func TestMiddlewaresInFrontOfAStream(t *testing.T) {
	sessions := session.New()
	for _, tt := range []struct {
		name   string
		config fiber.Config
		use    []fiber.Handler
		header []string // of the request
		want   map[string]string
	}{
		{name: "recover", use: []fiber.Handler{recover.New()}},
		{name: "logger", use: []fiber.Handler{logger.New(logger.Config{Output: io.Discard, Format: "${status} ${resBody} ${error} ${latency}\n"})}},
		{name: "requestid", use: []fiber.Handler{requestid.New()}, header: []string{"X-Request-ID: seven"}, want: map[string]string{"X-Request-Id": "seven"}},
		{name: "cors", use: []fiber.Handler{cors.New()}, header: []string{"Origin: http://app.test"}, want: map[string]string{"Access-Control-Allow-Origin": "http://app.test"}},
		{name: "session", use: []fiber.Handler{func(c *fiber.Ctx) error {
			sess, err := sessions.Get(c)
			if err != nil {
				return err
			}
			sess.Set("n", 1)
			if err := sess.Save(); err != nil {
				return err
			}
			return c.Next()
		}}, want: map[string]string{"Set-Cookie": "session_id="}},
		{name: "csrf", use: []fiber.Handler{csrf.New()}, want: map[string]string{"Set-Cookie": "csrf_="}},
		{name: "encryptcookie", use: []fiber.Handler{encryptcookie.New(encryptcookie.Config{Key: encryptcookie.GenerateKey()}), func(c *fiber.Ctx) error {
			c.Cookie(&fiber.Cookie{Name: "plain", Value: "value"})
			return c.Next()
		}}, want: map[string]string{"Set-Cookie": "plain="}},
		{name: "helmet", use: []fiber.Handler{helmet.New()}, want: map[string]string{"X-Content-Type-Options": "nosniff"}},
		{name: "limiter", use: []fiber.Handler{limiter.New(limiter.Config{Max: 777})}, want: map[string]string{"X-Ratelimit-Limit": "777"}},
		{name: "limiter with a sliding window", use: []fiber.Handler{limiter.New(limiter.Config{Max: 777, LimiterMiddleware: limiter.SlidingWindow{}, SkipFailedRequests: true})}},
		{name: "idempotency", use: []fiber.Handler{idempotency.New()}, header: []string{"X-Idempotency-Key: 00000000-0000-0000-0000-000000000000"}},
		{name: "compress", use: []fiber.Handler{compress.New()}, header: []string{"Accept-Encoding: gzip, deflate, br, zstd"}},
		{name: "compress for speed", use: []fiber.Handler{compress.New(compress.Config{Level: compress.LevelBestSpeed})}, header: []string{"Accept-Encoding: gzip"}},
		{name: "compress best", use: []fiber.Handler{compress.New(compress.Config{Level: compress.LevelBestCompression})}, header: []string{"Accept-Encoding: br"}},
		{name: "compress disabled", use: []fiber.Handler{compress.New(compress.Config{Level: compress.LevelDisabled})}, header: []string{"Accept-Encoding: gzip"}},
		{name: "compress of whatever comes before", use: []fiber.Handler{compress.New(), func(c *fiber.Ctx) error {
			err := c.Next()
			c.Response().SetBodyString(strings.Repeat("a long body ", 1000))
			return err
		}}, header: []string{"Accept-Encoding: gzip"}},
		{name: "etag", use: []fiber.Handler{etag.New()}, header: []string{"If-None-Match: *"}},
		{name: "etag, weak", use: []fiber.Handler{etag.New(etag.Config{Weak: true})}, header: []string{`If-None-Match: W/"x"`}},
		{name: "Fiber's own etag", config: fiber.Config{ETag: true}, header: []string{`If-None-Match: "x"`}},
		{name: "cache", use: []fiber.Handler{cache.New()}, header: []string{"Cache-Control: no-cache"}},
		{name: "all of them", config: fiber.Config{ETag: true, ServerHeader: "shop"}, use: []fiber.Handler{
			recover.New(), logger.New(logger.Config{Output: io.Discard}), requestid.New(), cors.New(), helmet.New(), limiter.New(limiter.Config{Max: 100}), csrf.New(), compress.New(), etag.New(), idempotency.New(),
		}, header: []string{"Accept-Encoding: gzip, br", "If-None-Match: *"}, want: map[string]string{"Server": "shop", "X-Ratelimit-Limit": "100", "Set-Cookie": "csrf_="}},
		{name: "an app of its own settings", config: fiber.Config{StrictRouting: true, CaseSensitive: true, Immutable: true, DisableHeaderNormalizing: true, ReduceMemoryUsage: true, StreamRequestBody: true, DisableKeepalive: true, DisableDefaultDate: true, DisableDefaultContentType: true, ReadTimeout: 100 * time.Millisecond, WriteTimeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond, BodyLimit: 1}},
	} {
		for _, tr := range streamtest.Sockets() {
			t.Run(tt.name+" over "+tr.Name, func(t *testing.T) {
				app := streamtest.QuietApp(tt.config)
				m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithOrigins("http://app.test"))
				for _, h := range tt.use {
					app.Use(h)
				}
				app.Use(m.Handler())
				s := streamtest.NewSiteOver(t, app, m, tr)
				for _, accept := range append(plainAccepts, plainAccepts...) {
					p := s.Get(shopStream, append([]string{accept}, tt.header...)...)
					s.Streams(p)
					for name, want := range tt.want {
						if got := strings.Join(p.Head.Header.Values(name), "\n"); !strings.HasPrefix(got, want) {
							t.Errorf("header %s: got %q, want %s", name, got, want)
						}
					}
					if tt.config.ReadTimeout > 0 {
						time.Sleep(3 * tt.config.ReadTimeout) // they would end the connection
						s.Publish(mesherstream.Message{Project: "shop", Data: []byte("later")})
						p.Expect("later")
					}
					_ = p.Conn.Close()
					s.Eventually("it has left", s.IsEmpty)
				}
			})
		}
	}
}

// A limiter counts streams like other requests, and what it refuses never reaches the handler.
func TestALimiterCountsStreams(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t)
	app.Use(limiter.New(limiter.Config{Max: 2}), m.Handler())
	s := streamtest.NewSite(t, app, m)
	for _, want := range []int{200, 200, 429} {
		if got := s.Get(shopStream, streamtest.AcceptEvents).Head.StatusCode; got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
}

// Fiber's cache keeps what it sees of the response, and gives that to those who don't say no-cache or no-store.
func TestACacheInFrontOfAStream(t *testing.T) {
	for name, config := range map[string]cache.Config{
		"default": {}, "StoreResponseHeaders": {StoreResponseHeaders: true}, "CacheControl": {CacheControl: true},
	} {
		t.Run(name, func(t *testing.T) {
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t)
			app.Use(cache.New(config), m.Handler())
			s := streamtest.NewSite(t, app, m)
			first := s.Get(shopStream, streamtest.AcceptEvents)
			s.Streams(first)
			_ = first.Conn.Close()
			s.Eventually("it has left", s.IsEmpty)

			second := s.Get(shopStream, streamtest.AcceptEvents)
			body, err := io.ReadAll(second.Head.Body)
			if second.Head.Header.Get("Content-Type") != "text/event-stream" || err != nil || second.Head.Header.Get("X-Cache") != "hit" {
				t.Errorf("from the cache: got %+v, %q, %v", second.Head, body, err)
			}
			// An EventSource reads no event, a comment that says why, and comes back.
			if got := second.Parser.Read(body); len(got) > 0 || len(second.Parser.Comments) != 1 || second.Parser.Retry != 5000 || !second.Parser.IsWhole() {
				t.Errorf("from the cache: got %q: events %v, want a comment and the time to wait", body, got)
			}
			for _, says := range []string{"no-cache", "no-store"} {
				p := s.Get(shopStream, streamtest.AcceptEvents, "Cache-Control: "+says)
				s.Streams(p)
				_ = p.Conn.Close()
				s.Eventually("it has left", s.IsEmpty)
			}
		})
	}
}
