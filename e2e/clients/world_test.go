package clients

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

var long = streamtest.Long

// patience is how long a condition may take on a machine that does much else.
const patience = time.Minute

var (
	endsMu sync.Mutex
	ends   []func()
)

// atEnd has fn called after all tests.
func atEnd(fn func()) {
	endsMu.Lock()
	defer endsMu.Unlock()
	ends = append(ends, fn)
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, end := range ends {
		end()
	}
	os.Exit(code)
}

// A transport is a way for bytes between a client and the app.
type transport struct {
	name   string
	secure bool
}

// On Linux the first one has the link whose socket the shard reads and writes; the second one has the portable link.
var transports = []transport{{name: "tcp"}, {name: "tls", secure: true}}

func overTransports(t *testing.T, scenario func(t *testing.T, tr transport)) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) { scenario(t, tr) })
	}
}

// world is an app that streams, and what its hooks were told. Each connection has a project of its own for a name.
type world struct {
	transport transport
	app       *fiber.App
	m         *mesherstream.Manager
	addr      string
	stop      func()

	mu  sync.Mutex
	ids map[string]mesherstream.ClientID
	end map[string]closing
}

// start serves until the test has ended, and then checks that nothing was lost without being counted.
func start(t *testing.T, tr transport, opts ...mesherstream.Option) *world {
	t.Helper()
	return serve(t, tr, nil, opts...)
}

// startEcho serves an app that sends each message back to the client that it came from, which is alone in its project.
func startEcho(t *testing.T, tr transport, opts ...mesherstream.Option) *world {
	t.Helper()
	return serve(t, tr, func(m *mesherstream.Manager, c mesherstream.Client, data []byte, binary bool) {
		if err := m.Broadcast(mesherstream.Message{Project: c.Project, Data: data, Binary: binary}); err != nil {
			t.Errorf("echo: %v", err)
		}
	}, append(opts, mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(0))...)
}

func TestAnAppThatIsShutDownAsItBeginsToListenEnds(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		for range 50 {
			start(t, tr).stop()
		}
	})
}

type messageHook func(m *mesherstream.Manager, c mesherstream.Client, data []byte, binary bool)

func serve(t *testing.T, tr transport, message messageHook, opts ...mesherstream.Option) *world {
	t.Helper()
	w := &world{transport: tr, ids: make(map[string]mesherstream.ClientID), end: make(map[string]closing)}
	w.app = fiber.New(fiber.Config{DisableStartupMessage: true})
	m, err := mesherstream.NewManager(append([]mesherstream.Option{
		mesherstream.WithApp(w.app),
		mesherstream.WithOrigins("*"),
		mesherstream.WithLogger(slog.New(slog.DiscardHandler)),
		mesherstream.WithHooks(w.hooks(message)),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	w.m = m
	w.app.Use(m.Handler())

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	if tr.secure {
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{identity().certificate}})
	}
	w.stop = streamtest.Serve(t, w.app, ln)
	t.Cleanup(func() {
		w.stop()
		s := m.Stats()
		if s.Offered != s.Sent+s.Dropped+s.Abandoned+s.Filtered+s.Conflated || s.Clients != 0 || s.Connects != s.Disconnects || s.HookPanics != 0 {
			t.Errorf("Stats() after the shutdown: %+v", s)
		}
	})
	return w
}

// hooks notes who comes and how they go.
func (w *world) hooks(message messageHook) mesherstream.Hooks {
	hooks := mesherstream.Hooks{
		Connect: func(c mesherstream.Client) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ids[c.Project] = c.ID
		},
		Disconnect: func(c mesherstream.Client, code int, reason string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.end[c.Project] = closing{Code: code, Reason: reason}
		},
	}
	if message != nil {
		hooks.Message = func(c mesherstream.Client, data []byte, binary bool) { message(w.m, c, data, binary) }
	}
	return hooks
}

func (w *world) url(project string) string {
	scheme := "ws"
	if w.transport.secure {
		scheme = "wss"
	}
	return fmt.Sprintf("%s://%s/stream/projects/%s", scheme, w.addr, project)
}

// plan is one that connects to a project and waits for the server to end the connection.
func (w *world) plan(project string) plan {
	p := plan{URL: w.url(project)}
	if w.transport.secure {
		p.CA = identity().file
	}
	return p
}

// tls is how a Go client trusts the server.
func (p plan) tls() *tls.Config {
	if p.CA == "" {
		return nil
	}
	return &tls.Config{RootCAs: identity().pool}
}

// joined waits for the client of that project.
func (w *world) joined(t *testing.T, project string) mesherstream.ClientID {
	t.Helper()
	var id mesherstream.ClientID
	w.eventually(t, "a client of "+project+" has joined", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		id = w.ids[project]
		return id != 0
	})
	return id
}

// leaves waits for the Disconnect hook of the client of that project and compares what it is told. A code of 1006 says
// in its reason what the system said, which is not compared.
func (w *world) leaves(t *testing.T, project string, want closing) {
	t.Helper()
	var got closing
	w.eventually(t, "the client of "+project+" has left", func() (ok bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		got, ok = w.end[project]
		return ok
	})
	if got.Code != want.Code || got.Reason != want.Reason && want.Code != 1006 {
		t.Errorf("Disconnect hook of %s: got %+v, want %+v", project, got, want)
	}
}

func (w *world) eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s; %+v", what, w.m.Stats())
		}
		time.Sleep(time.Millisecond)
	}
}

// checkLink makes sure that the test is about the link that it claims to be about: only the portable one has a goroutine
// for each client.
func (w *world) checkLink(t *testing.T) {
	t.Helper()
	var stacks bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	portable := strings.Contains(stacks.String(), "link.(*Portable).Serve")
	if want := w.transport.secure || runtime.GOOS != "linux"; portable != want {
		t.Errorf("over %s: portable link %v, want %v", w.transport.name, portable, want)
	}
}

// credentials are who the server is under TLS, and how clients trust it.
type credentials struct {
	certificate tls.Certificate
	pool        *x509.CertPool
	file        string
}

var identity = sync.OnceValue(func() credentials {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "127.0.0.1"}, // curl accepts no issuer without a name
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	must(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	dir, err := os.MkdirTemp("", "clients-")
	must(err)
	atEnd(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "ca.pem")
	must(os.WriteFile(file, text, 0o600))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return credentials{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool, file}
})

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func withPatience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	return ctx
}
