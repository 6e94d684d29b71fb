package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// startApp serves a stream and its metrics.
func startApp(t *testing.T, opts ...mesherstream.Option) (m *mesherstream.Manager, addr string) {
	t.Helper()
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	m, err := mesherstream.NewManager(append(opts, mesherstream.WithApp(app), mesherstream.WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		t.Fatal(err)
	}
	app.Use(m.Handler())
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics.NewCollector(m))
	app.Get("/metrics", adaptor.HTTPHandler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(streamtest.Serve(t, app, ln))
	return m, ln.Addr().String()
}

func TestAnAppThatIsShutDownAsItBeginsToListenEnds(t *testing.T) {
	for range 50 {
		t.Run("", func(t *testing.T) { startApp(t) })
	}
}

// watch connects a client that reads only if it is told to.
func watch(t *testing.T, m *mesherstream.Manager, addr string, read bool) {
	t.Helper()
	before := m.Stats().Connects
	ws, _, err := websocket.DefaultDialer.Dial("ws://"+addr+"/stream/projects/shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	eventually(t, "the client is known", func() bool { return m.Stats().Connects > before })
	if read {
		go func() {
			for err := error(nil); err == nil; {
				_, _, err = ws.NextReader() // which answers pings
			}
		}()
	}
}

// watchWithProtocol connects a client that has acknowledged hello. acknowledge does so for the first n messages.
func watchWithProtocol(t *testing.T, addr string) (read func() error, acknowledge func(n int) error) {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{mesherstream.Protocol}}
	ws, _, err := dialer.Dial("ws://"+addr+"/stream/projects/shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	read = func() error {
		_, _, err := ws.ReadMessage()
		return err
	}
	acknowledge = func(n int) error {
		return ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"ack","n":%d}`, n))
	}
	if err := errors.Join(read(), acknowledge(1)); err != nil {
		t.Fatal(err)
	}
	return read, acknowledge
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func scrape(t *testing.T, addr string) string {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET /metrics: %v, %v\n%s", resp.Status, err, text)
	}
	return string(text)
}

func TestTheNumbersOfStatsAreShown(t *testing.T) {
	m, addr := startApp(t, mesherstream.WithMaxBuffer(10), mesherstream.WithDrainInterval(time.Hour))
	watch(t, m, addr, true)
	for c := range m.Clients() {
		for range 15 {
			if err := m.BufferMessage(c.ID, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.SetFilter(c.ID, mesherstream.Filter{Levels: []string{"error"}}); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 {
		if err := m.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all is sent", func() bool { s := m.Stats(); return s.Sent+s.Dropped == s.Offered && s.Offered == 215 })
	s := m.Stats()
	text := scrape(t, addr)
	for name, want := range map[string]any{
		"clients": 1, "slow_clients": s.Slow, "buffered_messages": 0, "buffered_bytes": 0, "broadcasts_total": 200, "messages_offered_total": 215,
		"messages_sent_total": s.Sent, `messages_dropped_total{reason="buffer_full"}`: s.Dropped, `messages_dropped_total{reason="client_left"}`: 0,
		"connects_total": 1, "disconnects_total": 0, "filter_changes_total": 1, "hook_panics_total": 0, "relay_away": 0,
	} {
		if line := fmt.Sprintf("\nmesherstream_%s %v\n", name, want); !strings.Contains(text, line) {
			t.Errorf("got no line %q in\n%s", line, text)
		}
	}
	if !strings.Contains(text, `mesherstream_delivery_duration_seconds_bucket{le="+Inf"}`) || s.Dropped == 0 {
		t.Errorf("want a histogram, and some dropped:\n%s", text)
	}
}

func TestTheAgesOfWhatClientsHaveHandledAreShown(t *testing.T) {
	m, addr := startApp(t)
	read, acknowledge := watchWithProtocol(t, addr)
	eventually(t, "hello is acknowledged", func() bool {
		for c := range m.Clients() {
			return c.Unacknowledged == 0
		}
		return false
	})
	begin := time.Now()
	if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(read(), read()); err != nil { // the message and the mark after it
		t.Fatal(err)
	}
	const least = 50 * time.Millisecond
	time.Sleep(least - time.Since(begin)) // this is how long the client handles the message
	if err := acknowledge(3); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an age is shown", func() bool { return m.Stats().Ages.Sum > 0 })
	text := scrape(t, addr)
	for _, line := range []string{
		"# TYPE mesherstream_message_age_seconds histogram",
		`mesherstream_message_age_seconds_bucket{le="0.02"} 0`,
		`mesherstream_message_age_seconds_bucket{le="300"} 1`,
		`mesherstream_message_age_seconds_bucket{le="+Inf"} 1`,
		fmt.Sprintf("mesherstream_message_age_seconds_sum %v", m.Stats().Ages.Sum.Seconds()),
		"mesherstream_message_age_seconds_count 1",
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("got no line %q in\n%s", line, text)
		}
	}
	if got := m.Stats().Ages.Sum; got < least {
		t.Errorf("got an age of %v, want at least %v", got, least)
	}
}

// away is an unavailable relay.
type away struct{}

func (away) Publish(mesherstream.RelayMessage) error { return context.DeadlineExceeded }
func (away) Subscribe(context.Context, string, func(mesherstream.RelayMessage)) (func(), error) {
	return func() {}, nil
}
func (away) Flush(context.Context) error { return nil }
func (away) Status() mesherstream.RelayStatus {
	return mesherstream.RelayStatus{Away: true, Missed: 7}
}

func TestARelayThatIsAwayIsShown(t *testing.T) {
	m, addr := startApp(t, mesherstream.WithRelay(away{}))
	watch(t, m, addr, true)
	for range 3 {
		if err := m.Broadcast(mesherstream.Message{Project: "shop"}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "three are dropped", func() bool { return m.Stats().RelayDropped == 3 })
	text := scrape(t, addr)
	for _, line := range []string{
		"relay_away 1", "relay_projects 2", `relay_messages_dropped_total{reason="unpublished"} 3`,
		`relay_messages_dropped_total{reason="missed"} 7`, `relay_messages_dropped_total{reason="refused"} 0`,
	} {
		if !strings.Contains(text, "\nmesherstream_"+line+"\n") {
			t.Errorf("got no %q in\n%s", line, text)
		}
	}
}

func TestTheMetricsAreNamedAsPrometheusWants(t *testing.T) {
	m, err := mesherstream.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.CollectAndLint(metrics.NewCollector(m))
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: got %+v, %v, want nothing", problems, err)
	}
}

func TestACollectorNeedsAManager(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("NewCollector(nil): got no panic")
		}
	}()
	metrics.NewCollector(nil)
}

func BenchmarkCollect(b *testing.B) {
	m, err := mesherstream.NewManager(mesherstream.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		b.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.NewCollector(m))
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	b.ReportAllocs()
	for b.Loop() {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil))
	}
}
