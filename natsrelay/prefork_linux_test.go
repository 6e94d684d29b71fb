package natsrelay

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/nats-io/nats.go"
)

// preforkEnv makes this test binary an app with Prefork. Its children are the same binary. The variable holds the port
// to listen on and the NATS server's URL, or "none".
const preforkEnv = "NATSRELAY_TEST_PREFORK"

func init() {
	if spec := os.Getenv(preforkEnv); spec != "" {
		runPreforked(spec)
	}
}

// runPreforked is the app. It never returns.
func runPreforked(spec string) {
	port, url, _ := strings.Cut(spec, " ")
	app := fiber.New(fiber.Config{Prefork: true, DisableStartupMessage: true})
	opts := []mesherstream.Option{mesherstream.WithApp(app)}
	if url != "none" {
		conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true))
		if err != nil {
			panic(err)
		}
		opts = append(opts, mesherstream.WithRelay(New(conn)))
	}
	app.Use(mesherstream.New(opts...))
	app.Post("/", func(c *fiber.Ctx) error {
		c.Set("Pid", fmt.Sprint(os.Getpid()))
		return mesherstream.From(c).Broadcast(mesherstream.Message{Project: "shop", Data: c.Body()})
	})
	app.Get("/stats", func(c *fiber.Ctx) error {
		return c.JSON(fiber.Map{"pid": os.Getpid(), "clients": mesherstream.From(c).Stats().Clients})
	})
	fmt.Fprintln(os.Stderr, app.Listen("127.0.0.1:"+port))
	os.Exit(1)
}

// startPreforked runs the app with two children, and returns its address and its output.
func startPreforked(t *testing.T, url string) (addr string, output *streamtest.LogBuffer) {
	t.Helper()
	port := streamtest.FreePort(t)
	output = &streamtest.LogBuffer{}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), preforkEnv+"="+port+" "+url, "GOMAXPROCS=2") // as many children
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the master and its children: a group that this test made
		_ = cmd.Wait()
	})
	addr = "127.0.0.1:" + port
	eventually(t, "both children answer", func() bool { return len(children(addr)) == 2 }, func() any { return output.String() })
	return addr, output
}

// children asks until it has seen every child, or often enough, and returns the number of clients of each.
func children(addr string) map[int]int {
	seen := make(map[int]int)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	for range 40 {
		resp, err := client.Get("http://" + addr + "/stats")
		if err != nil {
			return nil
		}
		var s struct{ Pid, Clients int }
		err = json.NewDecoder(resp.Body).Decode(&s)
		_ = resp.Body.Close()
		if err != nil {
			return nil
		}
		if seen[s.Pid] = s.Clients; len(seen) == 2 {
			break
		}
	}
	return seen
}

func TestPreforkWithARelayReachesTheClientsOfEveryChild(t *testing.T) {
	t.Parallel()
	p := newProcess(t, streamtest.FreePort(t)).start()
	addr, output := startPreforked(t, p.url)
	n := &node{TB: t, addr: addr}

	var viewers []*viewer
	eventually(t, "each child has clients", func() bool {
		viewers = append(viewers, n.watch("shop"))
		for _, clients := range children(addr) {
			if clients < 3 {
				return false
			}
		}
		return len(viewers) >= 8
	}, func() any { return children(addr) })

	const events = 60
	var want []string
	from := make(map[string]int)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	for i := range events {
		text := fmt.Sprint("event ", i)
		resp, err := client.Post("http://"+addr+"/", "text/plain", strings.NewReader(text))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("post: %v, %v; %s", resp, err, output.String())
		}
		_ = resp.Body.Close()
		from[resp.Header.Get("Pid")]++
		want = append(want, text)
		// Different children may publish at the same time, so each message waits for the one before.
		for _, v := range viewers {
			eventually(t, text+" has come", func() bool { return v.has(text) }, func() any { return output.String() })
		}
	}
	if len(from) != 2 {
		t.Errorf("events came in at %v, want both children", from)
	}
	for _, v := range viewers {
		v.wants(want...)
	}
	if got := output.Count("Prefork is on"); got != 0 {
		t.Errorf("with a relay, the warning is logged %d times:\n%s", got, output.String())
	}
}

func TestPreforkWithoutARelayIsWarnedOfByTheMasterAndEachChildOnce(t *testing.T) {
	t.Parallel()
	addr, output := startPreforked(t, "none")
	n := &node{TB: t, addr: addr}
	for range 10 { // each may make a child warn too
		n.watch("shop")
	}
	eventually(t, "three warnings", func() bool { return output.Count("Prefork is on") >= 3 }, func() any { return output.String() })
	if got := output.Count("Prefork is on"); got != 3 {
		t.Errorf("the warning is logged %d times, want 3: by the master and by each child once\n%s", got, output.String())
	}
}
