package test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// A page chooses the path that it connects to, and nothing else of the request. fasthttp takes the host from a request
// target that begins with two slashes and contains "://", and the page would choose that host.
func TestAPageCannotNameItsOwnHostInTheRequestTarget(t *testing.T) {
	for _, target := range []string{
		"//evil.test/stream/projects/shop?x=://",
		"//evil.test/stream/projects/shop?level=://error",
		"//evil.test:80/stream/projects/shop?://",
		"http://evil.test/stream/projects/shop", // what a page can't send
	} {
		app := streamtest.QuietApp()
		app.Use(streamtest.NewTestManager(t).Handler())
		for origin, let := range map[string]bool{"http://evil.test": false, "http://evil.test:80": false, "http://app.test": true} {
			got, body := streamtest.Ask(t, app, "GET", target, append(streamtest.Upgrade, "Origin: "+origin)...)
			if (got == 101) != let {
				t.Errorf("GET %s to app.test, origin %s: got %d %q, want to be let in: %v", target, origin, got, body, let)
			}
		}
	}
}

// Behind a proxy that the app trusts, the proxy determines the host and the scheme. From any other sender, these
// headers have no effect.
func TestTheForwardedHostCountsOnlyFromATrustedProxy(t *testing.T) {
	const proxy = "192.0.2.1" // the address of ask
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
		{"host, trusted, a list with spaces", trusted, []string{"X-Forwarded-Host: front.test , app.test"}, "http://front.test", 101},
		{"host, trusted, in quotes", trusted, []string{`X-Forwarded-Host: "front.test:8080"`}, "http://front.test:8080", 101},
		{"host, trusted, two lines", trusted, []string{"X-Forwarded-Host: front.test", "X-Forwarded-Host: app.test"}, "http://front.test", 101},
		{"host, trusted, an empty list", trusted, []string{"X-Forwarded-Host: ,"}, "http://app.test", 101},
		{"host, trusted, its own port", trusted, []string{"X-Forwarded-Host: FRONT.test:443", "X-Forwarded-Proto: https"}, "https://front.test", 101},
		{"host, untrusted", untrusted, []string{"X-Forwarded-Host: evil.test"}, "http://evil.test", 403},
		{"host, untrusted, and the page is ours", untrusted, []string{"X-Forwarded-Host: evil.test"}, "http://app.test", 101},
		{"host, no check of proxies", everybody, []string{"X-Forwarded-Host: front.test"}, "http://front.test", 101},
		{"scheme, trusted", trusted, []string{"X-Forwarded-Proto: https"}, "http://app.test", 403},
		{"scheme, trusted, and the page is secure", trusted, []string{"X-Forwarded-Proto: https"}, "https://app.test", 101},
		{"scheme, untrusted", untrusted, []string{"X-Forwarded-Proto: https"}, "http://app.test", 101},
		{"another header for the host", trusted, []string{"Forwarded: host=evil.test", "X-Host: evil.test", "X-Original-Host: evil.test"}, "http://evil.test", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := streamtest.QuietApp(tt.config)
			app.Use(streamtest.NewTestManager(t).Handler())
			header := append(append(tt.header, streamtest.Upgrade...), "Origin: "+tt.origin)
			if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", header...); got != tt.want {
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
		{"app.test:0", "http://app.test"},
		{"app.test:80a", "http://app.test"},
		{"app.test:65616", "http://app.test"},
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
		answers := s.exchange(streamtest.Handshake("/stream/projects/shop", "Host: "+tt.host, "Origin: "+tt.origin))
		if strings.Contains(answers, "HTTP/1.1 101") {
			t.Errorf("host %q, origin %q: got %q, want no 101", tt.host, tt.origin, answers)
		}
	}
	// fasthttp decides which of two headers counts, and a page can't send two.
	for _, two := range [][]string{
		{"Host: app.test", "Host: evil.test", "Origin: http://elsewhere.test"},
		{"Host: app.test", "Origin: http://elsewhere.test", "Origin: http://evil.test"},
	} {
		if answers := s.exchange(streamtest.Handshake("/stream/projects/shop", two...)); strings.Contains(answers, "HTTP/1.1 101") {
			t.Errorf("%q: got %q, want no 101", two, answers)
		}
	}
}

// upgradeInFasthttpsSpelling is a handshake that contrib also finds with DisableHeaderNormalizing.
var upgradeInFasthttpsSpelling = strings.Split(strings.ReplaceAll(strings.Join(streamtest.Upgrade, "\n"), "WebSocket", "Websocket"), "\n")

// The browser's connection counts as encrypted in whatever way a trusted proxy says so. A page that an attacker has put
// in place of http:// on the same host is then of another origin. From any other sender, these headers have no effect.
func TestTheForwardedSchemeIsComparedByItsMeaning(t *testing.T) {
	trusted := fiber.Config{EnableTrustedProxyCheck: true, TrustedProxies: []string{"192.0.2.1"}}
	untrusted := fiber.Config{EnableTrustedProxyCheck: true, TrustedProxies: []string{"198.51.100.7"}}
	spelled := fiber.Config{DisableHeaderNormalizing: true}
	for _, tt := range []struct {
		config fiber.Config
		header []string
		secure bool
	}{
		{trusted, []string{"X-Forwarded-Proto: https"}, true},
		{trusted, []string{"X-Forwarded-Proto: HTTPS"}, true},
		{trusted, []string{"X-Forwarded-Proto: wss"}, true},
		{trusted, []string{"X-Forwarded-Proto: WSS"}, true},
		{trusted, []string{"X-Forwarded-Proto: https , http"}, true},
		{trusted, []string{"X-Forwarded-Proto: https,http"}, true},
		{trusted, []string{"X-Forwarded-Proto: wss, ws"}, true},
		{trusted, []string{"X-Forwarded-Proto:\thttps\t"}, true},
		{trusted, []string{"X-Forwarded-Proto: , https"}, true},
		{trusted, []string{`X-Forwarded-Proto: "https"`}, true},
		{trusted, []string{"X-Forwarded-Proto: https:"}, true},
		{trusted, []string{"X-Forwarded-Proto: https", "X-Forwarded-Proto: http"}, true},
		{trusted, []string{"X-Forwarded-Proto: ", "X-Forwarded-Proto: https"}, true},
		{trusted, []string{"X-Forwarded-Protocol: Https"}, true},
		{trusted, []string{"X-Url-Scheme: HTTPS"}, true},
		{trusted, []string{"X-Forwarded-Ssl: on"}, true},
		{trusted, []string{"X-Forwarded-Ssl: On"}, true},
		{trusted, []string{"X-Forwarded-Ssl: on, off"}, true},
		{trusted, []string{"Front-End-Https: on"}, true},
		{trusted, []string{"Front-End-Https: On"}, true},
		{trusted, []string{"X-Forwarded-Scheme: https"}, true},
		{trusted, []string{"X-Scheme: HTTPS"}, true},
		{trusted, []string{"CloudFront-Forwarded-Proto: https"}, true},
		{trusted, []string{"Forwarded: for=192.0.2.9;Proto=HTTPS, proto=http"}, true},
		{trusted, []string{`Forwarded: proto="https"; by=10.0.0.1`}, true},
		{trusted, []string{"X-Forwarded-Ssl: on", "X-Forwarded-Proto: http"}, true},
		{spelled, []string{"x-forwarded-proto: https"}, true},
		{spelled, []string{"X-FORWARDED-PROTO: HTTPS"}, true},

		{trusted, nil, false},
		{trusted, []string{"X-Forwarded-Proto: http"}, false},
		{trusted, []string{"X-Forwarded-Proto: HTTP , https"}, false}, // encrypted only between proxies
		{trusted, []string{"X-Forwarded-Proto: ws"}, false},
		{trusted, []string{"X-Forwarded-Proto: "}, false},
		{trusted, []string{"X-Forwarded-Ssl: off"}, false},
		{trusted, []string{"Front-End-Https: Off"}, false},
		{trusted, []string{"Forwarded: for=192.0.2.9;proto=http, proto=https"}, false},
		{trusted, []string{"X-Forwarded-Scheme: http", "X-Scheme: http", "CloudFront-Forwarded-Proto: http"}, false},
		{untrusted, []string{"X-Forwarded-Proto: https"}, false},
		{untrusted, []string{"X-Scheme: https"}, false},
		{untrusted, []string{"X-Forwarded-Proto: wss", "X-Forwarded-Ssl: on", "Front-End-Https: on", "Forwarded: proto=https"}, false},
	} {
		app := streamtest.QuietApp(tt.config)
		app.Use(streamtest.NewTestManager(t).Handler())
		for origin, let := range map[string]bool{"http://app.test": !tt.secure, "https://app.test": true} {
			header := append(append(tt.header, upgradeInFasthttpsSpelling...), "Origin: "+origin)
			if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", header...); (got == 101) != let {
				t.Errorf("origin %s with %q: got %d %q, want to be let in: %v", origin, tt.header, got, body, let)
			}
		}
	}
}

// Equal meanings compare equal, on both sides: browsers write an origin in only one way, and proxies and applications
// in many.
func TestOriginsAreComparedByTheirMeaning(t *testing.T) {
	const chrome = "chrome-extension://mhjfbmdgcfjbbpaeojofohoefgiehjai"
	for _, tt := range []struct {
		allowed string
		origin  string
		let     bool
	}{
		{"https://a.test:443", "https://a.test", true},
		{"http://a.test:80", "http://a.test", true},
		{"https://a.test:80", "https://a.test:80", true},
		{"https://a.test:80", "https://a.test", false},
		{"http://a.test:443", "https://a.test", false},
		{"http://a.test:0080", "http://a.test", true},
		{"http://a.test:08080", "http://a.test:8080", true},
		{"https://a.test:", "https://a.test", true},
		{"wss://a.test", "https://a.test", true},
		{"wss://a.test:443", "https://a.test", true},
		{"wss://a.test", "http://a.test", false},
		{"ws://a.test:3000", "http://a.test:3000", true},
		{"ws://a.test:80", "http://a.test", true},
		{"HTTPS://A.Test", "https://a.test", true},
		{"https://b\u00fccher.test", "https://xn--bcher-kva.test", true},
		{"https://B\u00dcCHER.test:443", "https://xn--bcher-kva.test", true},
		{"https://bu\u0308cher.test", "https://xn--bcher-kva.test", true}, // decomposed, as macOS writes it
		{"https://xn--bcher-kva.test", "https://xn--bcher-kva.test", true},
		{"https://XN--BCHER-KVA.test", "https://xn--bcher-kva.test", true},
		{"https://stra\u00dfe.test", "https://xn--strae-oqa.test", true},
		{"https://\u4f8b\u3048.\u30c6\u30b9\u30c8", "https://xn--r8jz45g.xn--zckzah", true},
		{"https://a\u3002test", "https://a.test", true},
		{"wss://b\u00fccher.test", "https://xn--bcher-kva.test", true},
		{"http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000", true},
		{"http://[2001:0DB8:0000::0001]", "http://[2001:db8::1]", true},
		{"https://[2001:db8::1]:443", "https://[2001:db8::1]", true},
		{"http://[::1]:", "http://[::1]", true},
		{"https://a.test.", "https://a.test.", true},
		{"https://a.test.", "https://a.test", false}, // a different origin to a browser
		{"https://a.test", "https://a.test.", false},
		{"https://my_app.test", "https://my_app.test", true},
		{"https://127.0.0.1:8443", "https://127.0.0.1:8443", true},
		{"http://localhost:5173", "http://LOCALHOST:5173", true},

		{"null", "null", true},
		{"null", "https://evil.test", false},
		{"null", "file://", false},
		{"file://", "file://", true},
		{"FILE://", "file://", true},
		{"file://", "null", false},
		{"file://", "file://evil.test", false},
		{"capacitor://localhost", "capacitor://localhost", true},
		{"capacitor://localhost", "ionic://localhost", false},
		{"capacitor://localhost", "http://localhost", false},
		{"tauri://localhost", "tauri://localhost", true},
		{"app://", "app://", true},
		{"app://.", "app://.", true},
		{"app://-", "app://-", true},
		{"app://obsidian.md", "app://obsidian.md", true},
		{"App://Bundle", "app://bundle", true},
		{chrome, chrome, true},
		{chrome, "chrome-extension://aaaabmdgcfjbbpaeojofohoefgiehjai", false},
		{"moz-extension://7b1c2d3e-0000-4a5b-8c6d-0123456789ab", "moz-extension://7b1c2d3e-0000-4a5b-8c6d-0123456789ab", true},

		{"https://a.test", "https://a.test/", false},
		{"https://a.test", "https://a.test, https://evil.test", false},
		{"https://b\u00fccher.test", "https://b\u00fccher.test", false}, // no browser sends these
		{"https://kit.test", "https://\u212ait.test", false},
	} {
		app := streamtest.QuietApp()
		app.Use(streamtest.NewTestManager(t, mesherstream.WithOrigins(tt.allowed)).Handler())
		if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", append(streamtest.Upgrade, "Origin: "+tt.origin)...); (got == 101) != tt.let {
			t.Errorf("WithOrigins(%q), origin %q: got %d %q, want to be let in: %v", tt.allowed, tt.origin, got, body, tt.let)
		}
	}

	for _, tt := range []struct{ host, origin string }{
		{"app.test:", "http://app.test"},
		{"app.test:080", "http://app.test"},
		{"App.Test:443", "https://app.test"},
		{"[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"},
		{"[2001:DB8::0001]", "https://[2001:db8::1]"},
	} {
		app := streamtest.QuietApp()
		app.Use(streamtest.NewTestManager(t).Handler())
		if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", append(streamtest.Upgrade, "Host: "+tt.host, "Origin: "+tt.origin)...); got != 101 {
			t.Errorf("host %q, origin %q: got %d %q, want 101", tt.host, tt.origin, got, body)
		}
	}
}

// The error of an origin that can't match names the one that was possibly meant.
func TestAnOriginThatNoBrowserSendsIsRefusedAtSetUp(t *testing.T) {
	for origin, perhaps := range map[string]string{
		"https://a.test/":               "https://a.test",
		"https://a.test/path":           "https://a.test",
		"https://a.test?x":              "https://a.test",
		"https://a.test#x":              "https://a.test",
		"https://u:p@a.test":            "https://a.test",
		"wss://A.test:443/stream":       "https://a.test",
		"https://b\u00fccher.test/":     "https://xn--bcher-kva.test",
		"file:///":                      "file://",
		"file:///srv/app.html":          "file://",
		"file://localhost":              "",
		"a.test":                        "",
		"//a.test":                      "",
		"https:a.test":                  "",
		"https://":                      "",
		"https://:443":                  "",
		"https://a.test:x":              "",
		"https://a.test:0":              "",
		"https://a.test:65536":          "",
		"https://a.test:-1":             "",
		"https://a.test:+443":           "",
		"https://a.test:443:443":        "",
		" https://a.test":               "",
		"https://a.test ":               "",
		"https://a.test,https://b.test": "",
		"https://a.test, b.test":        "",
		"https://a..test":               "",
		"https://.test":                 "",
		"https://.":                     "",
		"https://%61.test":              "",
		"https://b%C3%BCcher.test":      "https://xn--bcher-kva.test",
		"https://xn--a.test":            "",
		"https://\u200d.test":           "",
		"https://a\u202etest":           "",
		"https://a b.test":              "",
		"https://a<b.test":              "",
		"https://*.a.test":              "",
		"https://*":                     "",
		"*://a.test":                    "",
		"**":                            "",
		"http://127.1":                  "",
		"http://0x7f.0.0.1":             "",
		"http://127.0.0.0x1":            "",
		"http://2130706433":             "",
		"http://127.0.0.01":             "",
		"http://127.0.0.1.":             "",
		"http://256.0.0.1":              "",
		"http://::1":                    "",
		"http://[::1":                   "",
		"http://[::1]x":                 "",
		"http://[127.0.0.1]":            "",
		"http://[fe80::1%eth0]":         "",
		"http://[fe80::1%25eth0]":       "",
		"data://x":                      "",
		"blob:https://a.test/1":         "",
		"about://blank":                 "",
		"app":                           "",
		"app://a/b":                     "app://a",
		"app://:80":                     "",
		"1app://a":                      "",
		"nul":                           "",
		"https://" + strings.Repeat("a", 64) + ".test": "",
	} {
		_, err := mesherstream.NewManager(mesherstream.WithOrigins("https://good.test", origin))
		if !errors.Is(err, mesherstream.ErrInvalidOption) || !strings.Contains(err.Error(), fmt.Sprintf("WithOrigins(%q)", origin)) {
			t.Errorf("WithOrigins(%q): got %v, want ErrInvalidOption that names it", origin, err)
			continue
		}
		if hint := fmt.Sprintf("perhaps %q", perhaps); strings.Contains(err.Error(), "perhaps") != (perhaps != "") || perhaps != "" && !strings.Contains(err.Error(), hint) {
			t.Errorf("WithOrigins(%q): got %v, want a hint at %q", origin, err, perhaps)
		}
	}
}

func TestWithOriginsLeavesTheCallersListAlone(t *testing.T) {
	list := []string{"WSS://A.test:443"}
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t, mesherstream.WithOrigins(list...)).Handler())
	if list[0] != "WSS://A.test:443" {
		t.Errorf("the list of the caller: got %q", list)
	}
	list[0] = "https://evil.test"
	for origin, want := range map[string]int{"https://a.test": 101, "https://evil.test": 403} {
		if status, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", append([]string{"Origin: " + origin}, streamtest.Upgrade...)...); status != want {
			t.Errorf("%s: got %d, want %d, whatever becomes of the list", origin, status, want)
		}
	}
}

// Proxies that speak HTTP/2 write names in lower case, and an app with DisableHeaderNormalizing leaves them so. If the
// origin weren't found, it would count as none, and every page would be admitted.
func TestAnOriginCountsInAnySpellingOfItsName(t *testing.T) {
	for _, name := range []string{"Origin", "origin", "ORIGIN"} {
		for _, config := range []fiber.Config{{}, {DisableHeaderNormalizing: true}} {
			app := streamtest.QuietApp(config)
			app.Use(streamtest.NewTestManager(t).Handler())
			if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", append(upgradeInFasthttpsSpelling, name+": https://evil.test")...); got != 403 {
				t.Errorf("%s: https://evil.test, names as they are: %v: got %d %q, want 403", name, config.DisableHeaderNormalizing, got, body)
			}
		}
	}
}

// A page can't report why it was refused, so the log has to, in one line, in which nothing that a stranger wrote can be
// more than text.
func TestARefusedOriginTellsTheOperatorWhatToDo(t *testing.T) {
	for _, tt := range []struct {
		origin string
		header []string
		want   []string
	}{
		{"https://front.test:8443", nil, []string{"origin=https://front.test:8443", "host=app.test", "https=false"}},
		{"https://front.test", []string{"X-Forwarded-Host: back.test:81", "X-Forwarded-Proto: wss"}, []string{"origin=https://front.test", "host=back.test:81", "https=true"}},
		{"http://app.test", []string{"X-Forwarded-Proto: https"}, []string{"origin=http://app.test", "host=app.test", "https=true"}},
		{"null", nil, []string{"origin=null"}},
		{"http://x[2J level=ERROR <b>\u00fc", nil, []string{"origin=http://x[2J%20level%3DERROR%20%3Cb%3E%C3%BC"}},
		{"http://" + strings.Repeat("x", 3000), nil, []string{"origin=http://" + strings.Repeat("x", 121) + "... "}},
		{"http://evil.test", []string{"X-Forwarded-Host: x\" msg=forged"}, []string{"origin=http://evil.test", "host=x%22%20msg%3Dforged"}},
	} {
		var logs streamtest.LogBuffer
		app := streamtest.QuietApp()
		m := streamtest.NewTestManager(t, mesherstream.WithLogger(slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))))
		app.Use(m.Handler())
		got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop", append(append(tt.header, streamtest.Upgrade...), "Origin: "+tt.origin)...)
		if want := "origin " + strings.TrimPrefix(strings.TrimSpace(tt.want[0]), "origin=") + " not allowed"; got != 403 || body != want {
			t.Errorf("origin %.60q: got %d %q, want 403 %q", tt.origin, got, body, want)
		}
		line := logs.Buf.String()
		for _, want := range append(tt.want, "level=DEBUG", "WithOrigins") {
			if !strings.Contains(line, want) {
				t.Errorf("origin %.60q: got %q, want %q in it", tt.origin, line, want)
			}
		}
		if strings.Count(line, "\n") != 1 {
			t.Errorf("origin %.60q: got %q, want one line", tt.origin, line)
		}
	}
}
