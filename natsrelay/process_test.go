package natsrelay

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/nats-io/nats.go"
)

// process is a NATS server in its own process, over TCP. It is killed and restarted like a machine.
type process struct {
	testing.TB
	args []string
	url  string
	cmd  *exec.Cmd
}

// binary is the server, built once from the module that go.mod names. TestMain removes it.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nats-server-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "nats-server")
	out, err := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("go build nats-server: %w\n%s", err, out)
	}
	builtBinary = path
	return path, nil
})

// dieWithTest makes a process end together with the test, however that ends, if the system supports it.
var dieWithTest = func(*exec.Cmd) {}

var builtBinary string // empty until binary has built it

func removeBinary() {
	if builtBinary != "" {
		_ = os.RemoveAll(filepath.Dir(builtBinary))
	}
}

func newProcess(tb testing.TB, port string, args ...string) *process {
	tb.Helper()
	p := &process{TB: tb, args: append([]string{"-a", "127.0.0.1", "-p", port}, args...), url: "nats://127.0.0.1:" + port}
	tb.Cleanup(p.kill)
	return p
}

// start returns when the server accepts connections.
func (p *process) start() *process {
	p.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		p.Skip("needs the go command, which builds the NATS server: apt-get install golang-go")
	}
	path, err := binary()
	if err != nil {
		p.Fatal(err)
	}
	p.cmd = exec.Command(path, p.args...)
	dieWithTest(p.cmd)
	if err := p.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	eventually(p, "the NATS server listens", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "nats://"))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, func() any { return p.args })
	return p
}

// kill ends the server without notice to its clients.
func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// arrive publishes numbered messages until one arrives everywhere, and returns its text. After a change, the first
// messages may be lost.
func arrive(what string, n *node, viewers ...*viewer) string {
	n.Helper()
	var text string
	for i := range 2000 {
		text = fmt.Sprintf("%s %d", what, i)
		n.broadcast(text)
		for range 10 {
			missing := false
			for _, v := range viewers {
				missing = missing || !v.has(text)
			}
			if !missing {
				return text
			}
			time.Sleep(time.Millisecond)
		}
	}
	n.Fatalf("still not everywhere: %s; %+v", what, n.m.Stats())
	return ""
}

func TestANATSServerIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	p := newProcess(t, streamtest.FreePort(t)).start()
	a, b := newNode(t, New(connect(t, p.url))), newNode(t, New(connect(t, p.url)))
	atA, atB := a.watch("shop"), b.watch("shop")
	a.broadcast("first")
	atA.wants("first")
	atB.wants("first")

	for episode := 1; episode <= 2; episode++ {
		p.kill()
		for _, n := range []*node{a, b} {
			n.eventually("the log tells that NATS is away", func() bool { return n.logs.Count("the relay is away") == episode && n.m.Stats().RelayAway })
		}
		// Local streaming continues, also for new clients and new projects.
		here := fmt.Sprint("local ", episode)
		a.broadcast(here)
		a.eventually("the local client has it", func() bool { return atA.has(here) })
		late := a.watch(fmt.Sprint("new-project-", episode))
		if atB.has(here) {
			t.Error("it arrived at the other node, without NATS")
		}

		p.start()
		for _, n := range []*node{a, b} {
			n.eventually("the log tells that it is back", func() bool { return n.logs.Count("the relay is back") == episode && !n.m.Stats().RelayAway })
		}
		arrive(fmt.Sprintf("a after %d", episode), a, atA, atB)
		arrive(fmt.Sprintf("b after %d", episode), b, atA, atB)
		if got := len(late.collected()); got != 0 {
			t.Errorf("a client of another project got %d messages, want none", got)
		}
	}
	checkNoneTwice(t, atA, atB)
}

func TestANodeThatStartsBeforeNATSFollowsWhenItComes(t *testing.T) {
	t.Parallel()
	p := newProcess(t, streamtest.FreePort(t))
	a, b := newNode(t, New(connect(t, p.url))), newNode(t, New(connect(t, p.url)))
	atA, atB := a.watch("shop"), b.watch("shop")
	a.broadcast("local")
	atA.wants("local")
	a.eventually("the log tells that NATS is away", func() bool { return a.logs.Count("the relay is away") == 1 })
	if s := a.m.Stats(); s.RelayDropped != 1 || a.logs.Count("reason=\""+errAway.Error()) != 1 {
		t.Errorf("Stats(): got %+v, want 1 dropped, and the log tell why", s.RelayStats)
	}
	p.start()
	arrive("a", a, atA, atB)
	arrive("b", b, atA, atB)
}

func TestAClusterOfThreeLosesOneServer(t *testing.T) {
	t.Parallel()
	var servers []*process
	var routes, urls []string
	var ports [3][2]string
	for i := range ports {
		ports[i] = [2]string{streamtest.FreePort(t), streamtest.FreePort(t)}
		routes = append(routes, "nats://127.0.0.1:"+ports[i][1])
		urls = append(urls, "nats://127.0.0.1:"+ports[i][0])
	}
	for i := range ports {
		servers = append(servers, newProcess(t, ports[i][0], "-n", fmt.Sprint("s", i),
			"--cluster_name", "c", "--cluster", routes[i], "--routes", strings.Join(routes, ",")).start())
	}
	var nodes []*node
	var viewers []*viewer
	var conns []*nats.Conn
	for i := range servers { // each node begins with its own server, and knows the others
		conn := connect(t, strings.Join(append([]string{urls[i]}, urls[(i+1)%3], urls[(i+2)%3]), ","))
		n := newNode(t, New(conn))
		conns, nodes, viewers = append(conns, conn), append(nodes, n), append(viewers, n.watch("shop"))
	}
	for i, n := range nodes {
		arrive(fmt.Sprint("with three servers, from ", i), n, viewers...)
		if got := conns[i].ConnectedUrl(); got != urls[i] {
			t.Errorf("node %d is at %s, want %s", i, got, urls[i])
		}
	}

	lost := urls[0]
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() { // while the server ends
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				nodes[1].broadcast(fmt.Sprint("all along ", i))
				time.Sleep(time.Millisecond)
			}
		}
	})
	servers[0].kill()
	eventually(t, "the node has gone to another server", func() bool { return conns[0].IsConnected() && conns[0].ConnectedUrl() != lost },
		func() any { return conns[0].ConnectedUrl() })
	for i, n := range nodes {
		arrive(fmt.Sprint("with two servers, from ", i), n, viewers...)
	}
	close(stop)
	publishing.Wait()
	// Nodes without a connection to that server missed nothing. No viewer received a message twice or out of order.
	last := arrive("the end", nodes[1], viewers...)
	for i, v := range viewers {
		next := 0
		for _, text := range v.collected() {
			var number int
			if _, err := fmt.Sscanf(text, "all along %d", &number); err != nil {
				continue
			}
			if number < next || i > 0 && number != next {
				t.Fatalf("client of node %d got number %d, want %d", i, number, next)
			}
			next = number + 1
		}
		if !v.has(last) {
			t.Errorf("client of node %d misses the end", i)
		}
	}
	checkNoneTwice(t, viewers...)
}

func checkNoneTwice(t *testing.T, viewers ...*viewer) {
	t.Helper()
	for i, v := range viewers {
		seen := make(map[string]bool)
		for _, text := range v.collected() {
			if seen[text] {
				t.Errorf("viewer %d got %q twice", i, text)
			}
			seen[text] = true
		}
	}
}
