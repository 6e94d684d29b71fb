package network

import (
	"cmp"
	"encoding/binary"
	"flag"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
	"github.com/mesher/mesherstream/internal/streamtest"
)

var long = streamtest.Long

var sysctl = flag.String("sysctl", "", "settings of the server's kernel, such as net.ipv4.tcp_congestion_control=cubic, separated by commas")

// eventBytes is how long an event is; frameBytes is how long it is on the wire.
const (
	eventBytes = 512
	frameBytes = eventBytes + 4
)

// server is an app with a manager, listening at every address of the test's namespace.
type server struct {
	*mesherstream.Manager
	t    *testing.T
	port string
	gone chan departure
}

// departure is the end of a client.
type departure struct {
	client mesherstream.Client
	code   int
	reason string
	at     time.Duration
}

func newServer(t *testing.T, opts ...mesherstream.Option) *server {
	t.Helper()
	for setting := range strings.SplitSeq(*sysctl, ",") {
		if name, value, ok := strings.Cut(setting, "="); ok {
			if err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := &server{t: t, gone: make(chan departure, 1000)}
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	opts = append([]mesherstream.Option{
		mesherstream.WithApp(app),
		mesherstream.WithShutdownTimeout(time.Second),
		mesherstream.WithLogger(slog.New(slog.DiscardHandler)),
		mesherstream.WithHooks(mesherstream.Hooks{Disconnect: func(c mesherstream.Client, code int, reason string) {
			s.gone <- departure{c, code, reason, pace.Clock()}
		}}),
	}, opts...)
	m, err := mesherstream.NewManager(opts...)
	if err != nil {
		t.Fatal(err)
	}
	s.Manager = m
	app.Use(m.Handler())
	ln, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	_, s.port, _ = net.SplitHostPort(ln.Addr().String())
	stop := streamtest.Serve(t, app, ln)
	t.Cleanup(func() {
		s.checkAccounts()
		stop()
		s.checkAccounts()
		if st := s.Stats(); st.Clients != 0 || st.Buffered != 0 || st.Connects != st.Disconnects {
			t.Errorf("Stats() after shutdown: got %+v, want no client and nothing buffered", st)
		}
	})
	return s
}

// at returns where the server is for the host at the other end of a link.
func (s *server) at(l *Link) string { return net.JoinHostPort(l.Server.String(), s.port) }

func (s *server) atEach(links []*Link) (addrs []string) {
	for _, l := range links {
		addrs = append(addrs, s.at(l))
	}
	return addrs
}

// checkAccounts checks that nothing was lost without being counted.
func (s *server) checkAccounts() {
	s.t.Helper()
	st := s.Stats()
	if got := st.Sent + st.Dropped + st.Abandoned + uint64(st.Buffered); got != st.Offered {
		s.t.Errorf("accounts: Sent+Dropped+Abandoned+Buffered = %d, want Offered = %d: %+v", got, st.Offered, st)
	}
	for c := range s.Clients() {
		if got := c.Sent + c.Dropped + c.Abandoned + uint64(c.Buffered); got != c.Offered {
			s.t.Errorf("accounts of a client: Sent+Dropped+Abandoned+Buffered = %d, want Offered = %d: %+v", got, c.Offered, c)
		}
	}
}

// client returns the client at an address, and false if there is none.
func (s *server) client(addr netip.Addr) (mesherstream.Client, bool) {
	for c := range s.Clients() {
		if c.RemoteAddr == addr.String() {
			return c, true
		}
	}
	return mesherstream.Client{}, false
}

func (s *server) eventually(what string, cond func() bool) {
	s.t.Helper()
	eventually(s.t, what, cond)
}

// eventually waits for a condition, longer than TCP's longest pause between two attempts, which is two minutes.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// feed publishes the same numbered events on some servers.
type feed struct {
	t       *testing.T
	servers []*server
	bytes   int // of an event; 0 is eventBytes

	mu        sync.Mutex
	published []time.Duration // when each event was, by its number
}

// publish publishes the next event, and returns its number.
func (f *feed) publish() int {
	f.mu.Lock()
	number, now := len(f.published), pace.Clock()
	f.published = append(f.published, now)
	f.mu.Unlock()
	data := pace.Event(number, now, cmp.Or(f.bytes, eventBytes))
	for _, s := range f.servers {
		if err := s.Broadcast(mesherstream.Message{Project: "shop", Data: data, Binary: true}); err != nil {
			f.t.Errorf("Broadcast(%d): %v", number, err)
		}
	}
	return number
}

// storm publishes bursts, in which the kernels learn that the clients are fast, and give them larger buffers.
func (f *feed) storm(bursts int) {
	for range bursts {
		for range 400 {
			f.publish()
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// start publishes so many events a second, until stop is called.
func (f *feed) start(perSecond int) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		beat := max(time.Second/time.Duration(perSecond), time.Millisecond)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C: // a beat that comes too late is not made up for: that would be a storm
				for range perSecond / int(time.Second/beat) {
					f.publish()
				}
			case <-done:
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// newest returns the number of the newest event at that time.
func (f *feed) newest(at time.Duration) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	after, _ := slices.BinarySearchFunc(f.published, at, func(published, at time.Duration) int {
		return cmp.Or(cmp.Compare(published, at), -1)
	})
	return after - 1
}

func parseEvent(p []byte) (number int, published time.Duration) {
	return int(binary.BigEndian.Uint64(p)), time.Duration(binary.BigEndian.Uint64(p[8:]))
}

// inOrder checks that the numbers only go up.
func inOrder(t *testing.T, who string, arrivals []Arrival) {
	t.Helper()
	for i := 1; i < len(arrivals); i++ {
		if arrivals[i].Number <= arrivals[i-1].Number {
			t.Fatalf("%s got event %d after event %d", who, arrivals[i].Number, arrivals[i-1].Number)
		}
	}
}
