package attack

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

var long = flag.Bool("long", false, "attack with ten times as many connections: 10,000")

func TestMain(m *testing.M) {
	if settings := os.Getenv("MESHERSTREAM_TARGET"); settings != "" {
		serve(settings)
		return
	}
	os.Exit(m.Run())
}

// settings is how the target is configured.
type settings struct {
	ReadTimeout time.Duration // of Fiber
	Ping, Idle  time.Duration
	MaxClients  int
	Concurrency int    // of Fiber, or 0
	Descriptors uint64 // that the process may have, or 0
}

// vitals is what the target says of itself.
type vitals struct {
	Stats       mesherstream.Stats
	Ends        map[string]int // how many clients left for which reason
	Goroutines  int
	Descriptors int
	Resident    int // bytes
}

// serve is the target: an app with a stream whose project "shop" gets a numbered message every 10 ms. It ends when the
// test does.
func serve(text string) {
	var set settings
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		log.Fatal(err)
	}
	if set.Descriptors > 0 {
		if err := limitDescriptors(set.Descriptors); err != nil {
			log.Fatal(err)
		}
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true, ReadTimeout: set.ReadTimeout, Concurrency: set.Concurrency})
	m, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithPingInterval(set.Ping), mesherstream.WithIdleTimeout(set.Idle),
		mesherstream.WithMaxClients(set.MaxClients), mesherstream.WithMaxBuffer(1000),
		mesherstream.WithHooks(mesherstream.Hooks{Disconnect: func(_ mesherstream.Client, code int, reason string) { ends.add(code, reason) }}))
	if err != nil {
		log.Fatal(err)
	}
	app.Use(m.Handler())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	questions, err := net.Listen("tcp", "127.0.0.1:0") // on a listener of their own, which no attack reaches
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		log.Fatal(http.Serve(questions, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(measure(m))
		})))
	}()
	go func() {
		for n := 0; ; n++ {
			time.Sleep(10 * time.Millisecond)
			if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: fmt.Append(nil, n)}); err != nil {
				log.Fatal(err)
			}
		}
	}()
	go func() {
		fmt.Println(ln.Addr(), questions.Addr())
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Fprintln(os.Stderr, "app.Listener returned:", app.Listener(ln))
	select {} // its clients live on
}

// ends is why clients left the target.
var ends reasons

type reasons struct {
	mu     sync.Mutex
	counts map[string]int
}

func (r *reasons) add(code int, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = make(map[string]int)
	}
	r.counts[fmt.Sprint(code, " ", reason)]++
}

func (r *reasons) all() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

func measure(m *mesherstream.Manager) vitals {
	runtime.GC()
	v := vitals{Stats: m.Stats(), Ends: ends.all(), Goroutines: runtime.NumGoroutine()}
	fds, _ := os.ReadDir("/proc/self/fd")
	v.Descriptors = len(fds)
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident int
		_, _ = fmt.Sscan(string(statm), &size, &resident)
		v.Resident = resident * os.Getpagesize()
	}
	return v
}

// target is the process under attack, as the test sees it.
type target struct {
	*testing.T
	addr, questions string
	end             func()           // ends the process, and checks how
	log             *strings.Builder // complete then
}

func newTarget(t *testing.T, set settings) *target {
	t.Helper()
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MESHERSTREAM_TARGET="+string(text))
	s := &target{T: t, log: new(strings.Builder)}
	cmd.Stderr = s.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.end = sync.OnceFunc(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil || strings.Contains(s.log.String(), "panic") {
			t.Errorf("the target: %v\n%.3000s", err, s.log)
		}
	})
	t.Cleanup(s.end)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the target did not start: %v", err)
	}
	if _, err := fmt.Sscan(line, &s.addr, &s.questions); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *target) vitals() (v vitals) {
	s.Helper()
	resp, err := http.Get("http://" + s.questions)
	if err != nil {
		s.Fatalf("the target does not answer: %v", err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		s.Fatal(err)
	}
	return v
}

func (s *target) eventually(what string, cond func(v vitals) bool) {
	s.Helper()
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		v := s.vitals()
		if cond(v) {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("still not: %s; %+v", what, v)
		}
	}
}

// many is how many connections an attack has.
func many() int {
	if *long {
		return 10_000
	}
	return 1_000
}

// dial opens n connections.
func (s *target) dial(n int) []net.Conn {
	s.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			s.Fatalf("connection %d: %v", i, err)
		}
		s.Cleanup(func() { _ = conn.Close() })
		conns[i] = conn
	}
	return conns
}

const handshake = "GET /stream/projects/shop HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
