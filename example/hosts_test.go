package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// asker returns what sends requests with a Host header to one app, which are answered with a status and a body.
func asker(t *testing.T, names hosts) func(method, path, host string, headers map[string]string) (int, string) {
	t.Helper()
	app, _, _, err := newApp(names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { app.ShutdownWithTimeout(time.Second) })
	handle := app.Handler()
	return func(method, path, host string, headers map[string]string) (int, string) {
		var c fasthttp.RequestCtx
		c.Request.Header.SetMethod(method)
		c.Request.SetRequestURI(path)
		c.Request.Header.SetHost(host)
		for name, value := range headers {
			c.Request.Header.Set(name, value)
		}
		if method == http.MethodPost {
			c.Request.SetBodyString(`{"message":"x"}`)
		}
		handle(&c)
		return c.Response.StatusCode(), string(c.Response.Body())
	}
}

// A page whose name its owner points at this address asks for that name, on every path.
func TestARebindingPageFindsNothing(t *testing.T) {
	ask := asker(t, localhost)
	rebound := map[string]string{"Origin": "http://evil.test:3000", "Sec-Fetch-Site": "same-origin"}
	upgrade := map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"Origin": "http://evil.test:3000",
	}
	for _, test := range []struct {
		method, path string
		headers      map[string]string
	}{
		{"GET", "/", nil},
		{"HEAD", "/", nil},
		{"GET", "/clients", nil},
		{"GET", "/assets/app.js", nil},
		{"GET", "/stats", nil},
		{"GET", "/nowhere", nil},
		{"GET", "/stream/projects/mesherstream.js", nil},
		{"GET", "/stream/projects/demo", upgrade},
		{"GET", "/stream/projects/@clients", upgrade},
		{"GET", "/api/v1/issues", rebound},
		{"POST", "/api/v1/events", rebound},
		{"POST", "/api/v1/issues/SHOP-1/resolve", rebound},
		{"POST", "/api/v1/clients/1/disconnect", rebound},
		{"OPTIONS", "/api/v1/events", rebound},
		{"POST", "/api/v1/events", nil},
	} {
		status, body := ask(test.method, test.path, "evil.test:3000", test.headers)
		if status != http.StatusMisdirectedRequest || test.method != "HEAD" && !strings.Contains(body, "-host evil.test") {
			t.Errorf("%s %s: got %d %s, want 421 and what to do", test.method, test.path, status, body)
		}
	}
}

func TestTheHostsThatAreAnswered(t *testing.T) {
	names, _, _, err := hostsFor("192.0.2.7:3000", hosts{"dash.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	ask := asker(t, names)
	for host, want := range map[string]int{
		"localhost": 200, "localhost:3000": 200, "LocalHost:1": 200, "localhost.": 200, "127.0.0.1": 200, "127.0.0.1:3000": 200,
		"[::1]": 200, "[::1]:3000": 200, "[0:0:0:0:0:0:0:1]:3000": 200, "dash.example.com": 200, "DASH.example.com.:443": 200, "192.0.2.7:3000": 200,
		"evil.test": 421, "localhost.evil.test": 421, "evil.localhost": 421, "127.0.0.1.evil.test": 421, "evil.test:127": 421, "example.com": 421,
		"localhost@evil.test": 421, "evil.test#localhost": 421, "localhost:evil": 421, "localhost:3000:3000": 421, "0.0.0.0:3000": 421,
		"127.0.0.2": 421, "[::]": 421, "[127.0.0.1]": 421, "[::1": 421, "::1]": 421, "[::1%25lo]": 421, "[localhost]": 421, "2130706433": 421, "127.1": 421,
		"localhost,evil.test": 421, "192.0.2.8": 421, "localhost:": 421,
	} {
		if status, body := ask("GET", "/stats", host, nil); status != want {
			t.Errorf("%s: got %d %s, want %d", host, status, body, want)
		}
	}
}

// A request may name its host in two places, or nowhere.
func TestRequestsThatNameNoHostOrAnother(t *testing.T) {
	url, _ := serve(t)
	addr := strings.TrimPrefix(url, "http://")
	for head, want := range map[string]int{
		"GET /stats HTTP/1.1\r\nHost: " + addr + "\r\n":                             200,
		"GET /stats HTTP/1.1\r\nHost: evil.test\r\nX-Forwarded-Host: localhost\r\n": 421,
		"GET http://localhost/stats HTTP/1.1\r\nHost: evil.test\r\n":                421,
		"GET /stats HTTP/1.0\r\n":                                                   421,
		"GET //localhost/../stats HTTP/1.1\r\nHost: evil.test\r\n":                  421,
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "%sConnection: close\r\n\r\n", head)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		conn.Close()
		if err != nil || resp.StatusCode != want {
			t.Errorf("%q: got %v, %v, want %d", head, resp, err, want)
		}
	}
}

func TestHostsForAnAddress(t *testing.T) {
	for _, test := range []struct {
		addr    string
		given   hosts
		link    string
		also    string
		advised bool
	}{
		{"127.0.0.1:3000", nil, "127.0.0.1", "localhost", false},
		{"localhost:3000", nil, "localhost", "127.0.0.1", false},
		{"[::1]:3000", nil, "::1", "localhost", false},
		{"192.0.2.7:3000", nil, "192.0.2.7", "192.0.2.7", false},
		{"dash.example.com:3000", nil, "dash.example.com", "dash.example.com", false},
		{"0.0.0.0:3000", nil, "localhost", "localhost", true},
		{"[::]:3000", nil, "localhost", "localhost", true},
		{":3000", nil, "localhost", "localhost", true},
		{":3000", hosts{"dash.example.com"}, "dash.example.com", "localhost", false},
	} {
		all, link, advice, err := hostsFor(test.addr, test.given)
		if err != nil || link != test.link || !slices.Contains(all, test.also) || strings.Contains(advice, "-host ") != test.advised {
			t.Errorf("hostsFor(%q, %q): got %q, %q, %q, %v", test.addr, test.given, all, link, advice, err)
		}
		if slices.Contains(all, "0.0.0.0") || slices.Contains(all, "") {
			t.Errorf("hostsFor(%q): got %q", test.addr, all)
		}
	}
}

func TestTheHostFlagTakesNames(t *testing.T) {
	var h hosts
	for _, list := range []string{"a.test, B.test:443", "[2001:DB8::1]"} {
		if err := h.Set(list); err != nil {
			t.Error(err)
		}
	}
	if want := (hosts{"a.test", "b.test", "2001:db8::1"}); !slices.Equal(h, want) {
		t.Errorf("got %q, want %q", h, want)
	}
	for _, bad := range []string{"", "a.test,", "http://a.test", "*.test", "a b", "a/b", "münchen.test"} {
		if err := h.Set(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}
