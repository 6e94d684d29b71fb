package mesherstream

import (
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
)

// A page chooses the path that it connects to, and nothing else of the request. fasthttp takes the host out of a request
// target that begins with two slashes and has "://" somewhere, and that host would be the page's own.
func TestAPageCannotNameItsOwnHostInTheRequestTarget(t *testing.T) {
	for _, target := range []string{
		"//evil.test/stream/projects/shop?x=://",
		"//evil.test/stream/projects/shop?level=://error",
		"//evil.test:80/stream/projects/shop?://",
		"http://evil.test/stream/projects/shop", // what a page can't send
	} {
		app := quietApp()
		app.Use(newTestManager(t).Handler())
		for origin, let := range map[string]bool{"http://evil.test": false, "http://evil.test:80": false, "http://app.test": true} {
			got, body := ask(t, app, "GET", target, append(upgrade, "Origin: "+origin)...)
			if (got == 101) != let {
				t.Errorf("GET %s to app.test, origin %s: got %d %q, want to be let in: %v", target, origin, got, body, let)
			}
		}
	}
}

// Behind a proxy that the app trusts, the host and the scheme are what the proxy says; from anybody else these headers
// mean nothing.
func TestTheForwardedHostCountsOnlyFromATrustedProxy(t *testing.T) {
	const proxy = "192.0.2.1" // where ask comes from
	everybody := fiber.Config{}
	trusted := fiber.Config{EnableTrustedProxyCheck: true, TrustedProxies: []string{proxy}}
	untrusted := fiber.Config{EnableTrustedProxyCheck: true, TrustedProxies: []string{"198.51.100.7"}}
	for _, tt := range []struct {
		name   string
		config fiber.Config
		header []string
		origin string
		want   int
	}{
		{"host, trusted", trusted, []string{"X-Forwarded-Host: front.test"}, "http://front.test", 101},
		{"host, trusted, and the page is the backend's", trusted, []string{"X-Forwarded-Host: front.test"}, "http://app.test", 403},
		{"host, trusted, first of a list", trusted, []string{"X-Forwarded-Host: front.test, app.test"}, "http://front.test", 101},
		{"host, trusted, not the second of a list", trusted, []string{"X-Forwarded-Host: front.test, evil.test"}, "http://evil.test", 403},
		{"host, untrusted", untrusted, []string{"X-Forwarded-Host: evil.test"}, "http://evil.test", 403},
		{"host, untrusted, and the page is ours", untrusted, []string{"X-Forwarded-Host: evil.test"}, "http://app.test", 101},
		{"host, no check of proxies", everybody, []string{"X-Forwarded-Host: front.test"}, "http://front.test", 101},
		{"scheme, trusted", trusted, []string{"X-Forwarded-Proto: https"}, "http://app.test", 403},
		{"scheme, trusted, and the page is secure", trusted, []string{"X-Forwarded-Proto: https"}, "https://app.test", 101},
		{"scheme, untrusted", untrusted, []string{"X-Forwarded-Proto: https"}, "http://app.test", 101},
		{"another header for the host", trusted, []string{"Forwarded: host=evil.test", "X-Host: evil.test", "X-Original-Host: evil.test"}, "http://evil.test", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := quietApp(tt.config)
			app.Use(newTestManager(t).Handler())
			header := append(append(tt.header, upgrade...), "Origin: "+tt.origin)
			if got, body := ask(t, app, "GET", "/stream/projects/shop", header...); got != tt.want {
				t.Errorf("origin %s with %v: got %d %q, want %d", tt.origin, tt.header, got, body, tt.want)
			}
		})
	}
}

func TestAHostThatIsWrittenStrangelyIsNotTheSameOrigin(t *testing.T) {
	s := newRawSite(t)
	for _, tt := range []struct{ host, origin string }{
		{"app.test@evil.test", "http://app.test"},
		{"evil.test#app.test", "http://app.test"},
		{"app.test.", "http://app.test"},
		{"app.test:", "http://app.test"},
		{"app.test:080", "http://app.test"},
		{"app.test:80:80", "http://app.test"},
		{"app.test,evil.test", "http://evil.test"},
		{"", "http://"},
		{"", "http://:80"},
		{"[::1", "http://[::1]"},
		{"[::ffff:127.0.0.1]", "http://127.0.0.1"},
		{"127.1", "http://127.0.0.1"},
		{"xn--bcher-kva.test", "http://b\u00fccher.test"},
		{"app.test", "http://app.test\u3002"},
		{"app.test", "http://app.test%00.evil.test"},
		{"app.test", "http://app.test\\.evil.test"},
		{"app.test", "ftp://app.test"},
		{"app.test:443", "http://app.test"},
		{"app.test", "chrome-extension://app.test"},
		{"localhost", "capacitor://localhost"},
	} {
		answers := s.exchange(handshake("/stream/projects/shop", "Host: "+tt.host, "Origin: "+tt.origin))
		if strings.Contains(answers, "HTTP/1.1 101") {
			t.Errorf("host %q, origin %q: got %q, want no 101", tt.host, tt.origin, answers)
		}
	}
	// Which of two headers counts is fasthttp's affair, and nothing that a page could send.
	for _, two := range [][]string{
		{"Host: app.test", "Host: evil.test", "Origin: http://elsewhere.test"},
		{"Host: app.test", "Origin: http://elsewhere.test", "Origin: http://evil.test"},
	} {
		if answers := s.exchange(handshake("/stream/projects/shop", two...)); strings.Contains(answers, "HTTP/1.1 101") {
			t.Errorf("%q: got %q, want no 101", two, answers)
		}
	}
}
