package mesherstream

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// FuzzProjectPath sends handshakes and plain requests for arbitrary targets through whole apps: nothing panics, and what
// is let in has a project and a filter within the bounds.
func FuzzProjectPath(f *testing.F) {
	for _, seed := range []string{
		"/stream/projects/shop", "/stream/projects/shop?level=error,fatal&environment=production", "/stream/projects/", "/stream/projects",
		"/stream/projects/%", "/stream/projects/%zz", "/stream/projects/a%2Fb", "/stream/projects/a/b", "/stream/projects/%00", "/stream/projects/%FF",
		"/STREAM/PROJECTS/x", "/live/stream/projects/x", "//stream//projects//x", "/stream/projects/../x", "/t/acme/stream/projects/x", "/e/x", "/e/", "/e/x/",
		"/e/%2e%2e", "/stream/projects/x?level=%FF", "/stream/projects/x?" + strings.Repeat("level=a&", 17), "http://evil.test/stream/projects/x", "*", "", "?", "#",
	} {
		f.Add(seed)
	}
	type target struct {
		app     *fiber.App
		granted *Subscription
	}
	var targets []target
	for _, config := range []fiber.Config{{}, {UnescapePath: true}, {CaseSensitive: true, StrictRouting: true}} {
		granted := new(Subscription)
		m, err := NewManager(WithAuthorize(func(_ *fiber.Ctx, sub *Subscription) error { *granted = sub.clone(); return nil }))
		if err != nil {
			f.Fatal(err)
		}
		app := quietApp(config)
		app.Get("/e/:project_id", m.Handler())
		app.Group("/t/:tenant").Use(m.Handler())
		app.Use("/live", m.Handler())
		app.Use(m.Handler())
		targets = append(targets, target{app, granted})
	}
	f.Fuzz(func(t *testing.T, uri string) {
		for i, target := range targets {
			for _, handshake := range []bool{true, false} {
				var req fasthttp.Request
				req.Header.SetHost("app.test")
				req.Header.SetRequestURI(uri)
				if handshake {
					for _, line := range upgrade {
						key, value, _ := strings.Cut(line, ": ")
						req.Header.Set(key, value)
					}
				}
				*target.granted = Subscription{}
				status, _ := askRaw(target.app, req.String())
				switch {
				case status == 0: // no request
				case status == 101 && handshake:
					p := target.granted.Project
					if p == "" || len(p) > maxProjectBytes || strings.Contains(p, "/") || !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
						t.Errorf("app %d, %q: let in with project %q", i, uri, p)
					}
				case status == 426 && !handshake, status == 400, status == 404:
					if target.granted.Project != "" {
						t.Errorf("app %d, %q: authorize was asked, and the status is %d", i, uri, status)
					}
				default:
					t.Errorf("app %d, %q, handshake %v: got %d", i, uri, handshake, status)
				}
			}
		}
	})
}
