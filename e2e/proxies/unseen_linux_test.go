package proxies

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

var measure = flag.Int("measure", 3, "how often to measure what waits unseen in each proxy; docs/scaling.md is made of what -v prints")

// Bounds of what waits unseen. They are generous: the kernel decides.
const (
	seenBy    = 1 << 20 // with the configuration as it is printed
	unseenFor = 1 << 20 // without the line that bounds it
)

// Of a client that doesn't read, the manager notices when a message stays with it, and that is not before the kernels and
// the proxy on the way hold all they can.
func TestTheConfigurationBoundsWhatWaitsUnseenInTheProxy(t *testing.T) {
	t.Parallel()
	for _, p := range proxies {
		if p.bound == "" {
			continue // see TestTheKernelBoundsWhatWaitsUnseenWhereTheProxyDoesNot
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.need(t)
			if got := unseen(t, p, asPrinted); got > seenBy {
				t.Errorf("%d bytes waited unseen, want at most %d", got, seenBy)
			}
			if got := unseen(t, p, unbounded); got < unseenFor {
				t.Errorf("without %q %d bytes waited unseen: is it needed?", strings.TrimSpace(p.bound), got)
			}
		})
	}
}

func TestTheBuffersOfNginxForResponsesDoNotBoundAStream(t *testing.T) {
	t.Parallel()
	nginx := byName(t, "nginx")
	nginx.need(t)
	if got := unseen(t, nginx, fussy); got < unseenFor {
		t.Errorf("with proxy_buffering off and the smallest buffers %d bytes waited unseen: docs/scaling.md says that they change nothing", got)
	}
}

func TestTheWindowOfTheProtocolBoundsWhatWaitsUnseenWithoutTheProxy(t *testing.T) {
	const window = 100
	behindEach(t, func(t *testing.T, p *proxy) {
		v := unbounded
		if p.bound == "" {
			v = asPrinted
		}
		s := behind(t, p, v, mesherstream.WithWindow(window))
		ws := s.open(mesherstream.Protocol)
		defer ws.Close()
		if ws.Subprotocol() != mesherstream.Protocol {
			t.Fatalf("the protocol is %q, want %q", ws.Subprotocol(), mesherstream.Protocol)
		}
		got := s.fill()
		// The hello is one of the window too, and so are marks: there are some if it took more than a second to fill.
		messages := 0
		_ = ws.SetReadDeadline(time.Now().Add(patience))
		for n := range window {
			_, data, err := ws.ReadMessage()
			if err != nil {
				t.Fatalf("after %d messages, of which %d were published: %v", n, messages, err)
			}
			if data[0] == 'x' {
				messages++
			}
		}
		if got != messages {
			t.Errorf("%d messages went out that nobody acknowledged, want the %d in a window of %d", got, messages, window)
		}
	})
}

// insideVar is set in a process of this test that has a network namespace of its own.
const insideVar = "MESHERSTREAM_PROXIES_INSIDE"

// Caddy has no setting for its sockets. The kernel has one for all of a network namespace, which a container has of its
// own.
func TestTheKernelBoundsWhatWaitsUnseenWhereTheProxyDoesNot(t *testing.T) {
	const wmem = "4096 16384 65536" // as docs/scaling.md says
	caddy := byName(t, "Caddy")
	if os.Getenv(insideVar) == "" {
		t.Parallel()
		caddy.need(t)
		if got := unseen(t, caddy, asPrinted); got < unseenFor {
			t.Errorf("%d bytes waited unseen: docs/scaling.md says that it has no bound", got)
		}
		if _, err := exec.LookPath("ip"); err != nil {
			t.Skip("needs ip: apt-get install iproute2")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", fmt.Sprint("-measure=", *measure))
		cmd.Env = append(os.Environ(), insideVar+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
		out, err := cmd.CombinedOutput()
		if cmd.Process == nil {
			t.Skipf("needs permission for network namespaces: %v", err)
		}
		t.Logf("in a network namespace with net.ipv4.tcp_wmem %q:\n%s", wmem, out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_wmem", []byte(wmem), 0); err != nil {
		t.Fatal(err)
	}
	if got := unseen(t, caddy, asPrinted); got > seenBy {
		t.Errorf("%d bytes waited unseen, want at most %d", got, seenBy)
	}
}

// unseen measures how many bytes are sent to a client that doesn't read, until a message stays with the manager, and
// returns the median. There is no window, which would be reached before the way is full.
func unseen(t *testing.T, p *proxy, v variant) int {
	t.Helper()
	var all []int
	for range *measure {
		all = append(all, unseenOnce(t, p, v))
	}
	what := map[variant]string{asPrinted: "as printed", unbounded: "without " + strings.TrimSpace(p.bound), fussy: "without the bound, proxy_buffering off, smallest buffers"}[v]
	t.Logf("%s, %s: %d bytes waited unseen, in order %v", p.name, what, median(all), all)
	return median(all)
}

func unseenOnce(t *testing.T, p *proxy, v variant) int {
	t.Helper()
	s := behind(t, p, v, mesherstream.WithWindow(0))
	defer s.open().Close()
	return s.fill() * length
}

// length is that of the messages that fill a way.
const length = 1 << 10

// fill sends messages until one stays with the manager, and returns how many were sent before.
func (s *stage) fill() int {
	s.Helper()
	data := []byte(strings.Repeat("x", length))
	for range 64 << 10 { // 64 MiB would be no bound at all
		if err := s.m.Broadcast(mesherstream.Message{Project: "shop", Data: data}); err != nil {
			s.Fatal(err)
		}
		// Each message is waited for, so that the next one stays with the manager because the way is full, and not because
		// messages come faster than they are carried. On a busy machine a proxy may have no turn for a while.
		sent := func() bool { stats := s.m.Stats(); return stats.Sent == stats.Offered }
		if !within(2*time.Second, sent) {
			return int(s.m.Stats().Sent)
		}
	}
	s.Fatal("64 MiB were sent, and nothing waits for the client")
	return 0
}

// within says whether the condition holds at some time before the duration is over.
func within(d time.Duration, condition func() bool) bool {
	for end := time.Now().Add(d); !condition(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func median(all []int) int {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
