package proxies

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// These tests follow streams over plain HTTP through each of the proxies.

const (
	typeEvents = "text/event-stream"
	typeLines  = "application/x-ndjson"
)

// A response is a stream over plain HTTP.
type response struct {
	*stage
	lines chan string // closed at the end
	leave func()

	// Known once a line has arrived, or the stream has ended.
	proto  string
	header http.Header
	err    error // of the end
}

// browser returns a client that speaks HTTP/2 or HTTP/1.1 with the proxy.
func (s *stage) browser(http2 bool) *http.Client {
	transport := &http.Transport{
		DialContext:        s.dialer(""),
		TLSClientConfig:    &tls.Config{RootCAs: roots()},
		ForceAttemptHTTP2:  http2,
		DisableCompression: true,
	}
	s.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// stream opens the stream of the project "shop", as a page does, and waits until it is known to the manager. It doesn't wait
// for the head of the response, which nginx sends over HTTP/2 together with the first of the body.
func (s *stage) stream(client *http.Client, accept string, more ...string) *response {
	s.Helper()
	before := s.m.Stats().Connects
	ctx, leave := context.WithCancel(s.Context())
	s.Cleanup(leave)
	r := &response{stage: s, lines: make(chan string, 10_000), leave: leave}
	req := s.request(ctx, accept, more...)
	go func() {
		defer close(r.lines)
		r.err = r.read(client.Do(req))
	}()
	s.eventually("the manager knows the stream", func() bool {
		select {
		case _, open := <-r.lines: // of hello
			if !open {
				s.Fatalf("no stream: %v\n%s", r.err, s.proxy.output)
			}
		default:
		}
		return s.m.Stats().Connects == before+1
	})
	return r
}

func (s *stage) request(ctx context.Context, accept string, more ...string) *http.Request {
	s.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.proxy.origin()+"/stream/projects/shop", nil)
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	for i := 0; i < len(more); i += 2 {
		req.Header.Set(more[i], more[i+1])
	}
	return req
}

// read reads lines until the end.
func (r *response) read(answer *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(said(answer))
	}
	r.proto, r.header = answer.Proto, answer.Header
	body := io.Reader(answer.Body)
	if r.header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		r.lines <- lines.Text()
	}
	return lines.Err()
}

// wantsLine reads until that line.
func (r *response) wantsLine(want string) {
	r.Helper()
	for after := time.After(patience); ; {
		select {
		case line, ok := <-r.lines:
			if !ok {
				r.Fatalf("the stream has ended (%v) before %q\n%s", r.err, want, r.proxy.output)
			}
			if line == want {
				return
			}
		case <-after:
			r.Fatalf("%q doesn't arrive\n%s", want, r.proxy.output)
		}
	}
}

// ends reads until the end.
func (r *response) ends() error {
	r.Helper()
	for after := time.After(patience); ; {
		select {
		case _, ok := <-r.lines:
			if !ok {
				return r.err
			}
		case <-after:
			r.Fatalf("the stream doesn't end\n%s", r.proxy.output)
		}
	}
}

// overBothVersions runs a test behind each proxy, with HTTP/2 and HTTP/1.1 between browser and proxy.
func overBothVersions(t *testing.T, v variant, test func(s *stage, client *http.Client), opts ...mesherstream.Option) {
	behindEach(t, func(t *testing.T, p *proxy) {
		for _, http2 := range []bool{true, false} {
			t.Run(map[bool]string{true: "HTTP2", false: "HTTP1"}[http2], func(t *testing.T) {
				t.Parallel()
				s := behind(t, p, v, opts...)
				test(s, s.browser(http2))
			})
		}
	})
}

// arriveAtOnce publishes each message when the one before it has arrived.
func (s *stage) arriveAtOnce(client *http.Client) {
	s.Helper()
	for accept, line := range map[string]string{typeEvents: "data: %d", typeLines: "%d"} {
		r := s.stream(client, accept, "Accept-Encoding", "gzip")
		begin := time.Now()
		for n := range 10 {
			s.broadcast(fmt.Sprint(n))
			r.wantsLine(fmt.Sprintf(line, n))
		}
		if got := r.header.Get("Content-Type"); got != accept {
			s.Errorf("Content-Type: got %q, want %q", got, accept)
		}
		s.Logf("%s: %s over %s, Content-Encoding %q: 10 messages, one after the other, took %v", s.proxy.name, accept, r.proto, r.header.Get("Content-Encoding"), time.Since(begin).Round(time.Microsecond))
		r.leave()
	}
}

func TestWhatStreamsOverPlainHTTPArrivesAtOnce(t *testing.T) {
	overBothVersions(t, asPrinted, (*stage).arriveAtOnce)
}

func TestCompressionByTheProxyDelaysNoEvent(t *testing.T) {
	overBothVersions(t, compressing, (*stage).arriveAtOnce)
}

func TestTheServerNoticesThatAClientHasLeftTheProxy(t *testing.T) {
	const heartbeat = time.Second
	overBothVersions(t, asPrinted, func(s *stage, client *http.Client) {
		r := s.stream(client, typeEvents)
		s.broadcast("hello")
		r.wantsLine("data: hello")
		left := time.Now()
		r.leave()
		s.eventually("the server notices that it has left", func() bool { return s.m.Stats().Clients == 0 })
		s.Logf("%s: over %s it took %v", s.proxy.name, r.proto, time.Since(left).Round(time.Millisecond))
	}, mesherstream.WithPingInterval(heartbeat), mesherstream.WithIdleTimeout(patience))
}

func TestManyStreamsShareAConnectionOfHTTP2(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		streams := 20 // HTTP/1.1 would allow a browser six
		if p.name == "Apache" {
			streams = 6 // as docs/scaling.md says
		}
		s := behind(t, p, asPrinted)
		client := s.browser(true)
		var all []*response
		for range streams {
			all = append(all, s.stream(client, typeEvents))
		}
		s.broadcast("hello")
		for _, r := range all {
			r.wantsLine("data: hello")
		}
	})
}

func TestPagesOfOtherOriginsGetNoEvents(t *testing.T) {
	overBothVersions(t, asPrinted, func(s *stage, client *http.Client) {
		s.stream(client, typeEvents, "Origin", s.proxy.origin()).leave()
		s.stream(client, typeEvents, "Sec-Fetch-Site", "same-origin").leave()
		s.stream(client, typeEvents, "Referer", s.proxy.origin()+"/page").leave()
		for name, value := range map[string]string{
			"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Referer": "https://evil.example/page",
		} {
			answer, err := client.Do(s.request(s.Context(), typeEvents, name, value))
			if err != nil {
				s.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusForbidden {
				s.Errorf("%s %s: got %s, want 403", name, value, answer.Status)
			}
		}
	})
}

// The ratio is that of the defaults and of docs/scaling.md.
func TestHeartbeatsKeepAQuietResponseOpenBeyondTheProxysTimeout(t *testing.T) {
	const timeout = 2 * time.Second
	behindEach(t, func(t *testing.T, p *proxy) {
		if p.timeout == "" {
			t.Log("has no timeout for streams")
		}
		s := behind(t, p, brief, mesherstream.WithPingInterval(timeout*25/60), mesherstream.WithIdleTimeout(patience))
		dead := behind(t, p, brief, mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(0))
		var kept []*response
		for _, http2 := range []bool{true, false} {
			for _, accept := range []string{typeEvents, typeLines} {
				kept = append(kept, s.stream(s.browser(http2), accept))
			}
		}
		unpinged := dead.stream(dead.browser(false), typeEvents)
		over := time.NewTimer(timeout * 5 / 2)
		if p.timeout != "" { // or the test would prove nothing
			_ = unpinged.ends()
		}
		<-over.C
		s.broadcast("1")
		for i, r := range kept {
			r.wantsLine([]string{"data: 1", "1"}[i%2])
		}
	})
}

func TestAReloadOfTheProxyAndResponses(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		s := behind(t, p, asPrinted)
		var before []*response
		for _, http2 := range []bool{true, false} {
			before = append(before, s.stream(s.browser(http2), typeEvents))
		}
		p.reload(t, s.proxy)
		s.eventually("a new stream opens", func() bool {
			ws, _, err := s.ask("", nil)
			if err == nil {
				_ = ws.Close()
			}
			return err == nil
		})
		s.broadcast("still here")
		for _, r := range before {
			r.wantsLine("data: still here")
		}
	})
}

func TestARestartOfTheProxyEndsResponsesAndTheServerForgetsThem(t *testing.T) {
	behindEach(t, func(t *testing.T, p *proxy) {
		if p.name == "Caddy" { // or it would wait for them, as docs/scaling.md says
			caddy := *p
			caddy.around = replaceOnce(t, caddy.around, "admin unix", "grace_period 1s\n\tadmin unix")
			p = &caddy
		}
		s := behind(t, p, asPrinted)
		var before []*response
		for _, http2 := range []bool{true, false} {
			before = append(before, s.stream(s.browser(http2), typeEvents))
		}
		s.proxy.signal(t, syscall.SIGTERM)
		for _, r := range before {
			err := r.ends()
			t.Logf("%s: the response over %s ended with %v", p.name, r.proto, err)
		}
		s.eventually("the server has noticed", func() bool { return s.m.Stats().Clients == 0 })
	})
}

func TestAShutdownOfTheServerEndsResponsesBehindTheProxy(t *testing.T) {
	overBothVersions(t, asPrinted, func(s *stage, client *http.Client) {
		r := s.stream(client, typeLines)
		ended := make(chan error, 1)
		go func() { ended <- s.app.ShutdownWithTimeout(patience) }()
		r.wantsLine(`{"mesherstream":{"type":"close","code":1001,"reason":"the server is shutting down"}}`)
		if err := r.ends(); err != nil {
			s.Errorf("the response ended with %v, want its end", err)
		}
		if err := <-ended; err != nil {
			s.Error(err)
		}
	})
}

func TestRefusalsOfEventsPassTheProxy(t *testing.T) {
	overBothVersions(t, asPrinted, func(s *stage, client *http.Client) {
		s.stream(client, typeEvents)
		for accept, want := range map[string]string{
			typeEvents: "200 : too many streams\nretry: ",
			typeLines:  "503 too many streams",
			typeEvents + ", application/vnd.mesherstream.v1": "503 too many streams",
		} {
			answer, err := client.Do(s.request(s.Context(), accept))
			if err != nil {
				s.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if got := fmt.Sprint(answer.StatusCode, " ", string(body)); err != nil || !strings.HasPrefix(got, want) {
				s.Errorf("%s: got %q, %v, want %q", accept, got, err, want)
			}
		}
	}, mesherstream.WithMaxClients(1))
}

// Of a response that is not read, the same waits unseen as of a WebSocket, and what the browser has room for besides.
func TestTheConfigurationBoundsWhatWaitsUnseenOfAResponse(t *testing.T) {
	t.Parallel()
	for _, p := range proxies {
		if p.bound == "" {
			continue // see TestTheKernelBoundsWhatWaitsUnseenWhereTheProxyDoesNot
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.need(t)
			var all []int
			for range *measure {
				s := behind(t, p, asPrinted)
				answer, err := s.browser(false).Do(s.request(s.Context(), typeEvents))
				if err != nil {
					t.Fatal(err)
				}
				defer answer.Body.Close()
				s.eventually("the manager knows the stream", func() bool { return s.m.Stats().Clients == 1 })
				all = append(all, s.fill()*length)
			}
			t.Logf("%s, a response: %d bytes waited unseen, in order %v", p.name, median(all), all)
			if got := median(all); got > seenBy {
				t.Errorf("%d bytes waited unseen, want at most %d", got, seenBy)
			}
		})
	}
}

// Why docs/scaling.md excludes the streams from Caddy's encode.
func TestCaddyHoldsBackEventsThatItCompresses(t *testing.T) {
	t.Parallel()
	caddy := *byName(t, "Caddy")
	caddy.need(t)
	caddy.compression = []string{"reverse_proxy", "encode gzip\n\treverse_proxy"}
	s := behind(t, &caddy, compressing)
	s.stream(s.browser(false), typeEvents, "Accept-Encoding", "gzip").wantsLine("event: hello") // is short, and not compressed
	long := url.Values{"level": {strings.Repeat("x", 64), strings.Repeat("y", 64), strings.Repeat("z", 64)}, "environment": {strings.Repeat("e", 64)}}
	req := s.request(s.Context(), typeEvents, "Accept-Encoding", "gzip")
	req.URL.RawQuery = long.Encode()
	arrived := make(chan string, 1)
	go func() {
		r := &response{stage: s, lines: make(chan string, 10)}
		go func() { r.err = r.read(s.browser(false).Do(req)) }()
		arrived <- <-r.lines
	}()
	s.eventually("the manager knows both", func() bool { return s.m.Stats().Clients == 2 })
	select {
	case line := <-arrived:
		t.Errorf("%q arrives: docs/scaling.md says that it doesn't", line)
	case <-time.After(500 * time.Millisecond): // it can't be told from one that is about to arrive, and so this can only pass too easily
	}
}
