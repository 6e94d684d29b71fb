package model

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		_ = flag.Set("rapid.checks", "20") // so that the default takes seconds
	}
	os.Exit(m.Run())
}

// The link that owns its socket, and the portable one twice.
func TestEveryClientGetsWhatTheModelSays(t *testing.T) {
	secure := &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	for name, wrap := range map[string]func(net.Listener) net.Listener{
		"tcp":     func(ln net.Listener) net.Listener { return ln },
		"wrapped": func(ln net.Listener) net.Listener { return wrappedListener{ln} },
		"tls":     func(ln net.Listener) net.Listener { return tls.NewListener(ln, secure) },
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := &machine{wrap: wrap, tls: name == "tls", maxBuffer: rapid.SampledFrom([]int{1, 5, 40}).Draw(t, "max_buffer")}
				m.start(t)
				defer m.end()
				m.connect(t) // or much would be for nobody
				m.connect(t)
				t.Repeat(map[string]func(*rapid.T){
					"connect": m.connect, "broadcast": m.broadcast, "broadcasts": m.broadcast, "flood": m.flood, "buffer": m.buffer,
					"drain": m.drain, "stall": m.stall, "resume": m.resume, "subscribe": m.subscribe, "set filter": m.setFilter,
					"disconnect": m.disconnect, "leave": m.leave, "": m.balance,
				})
				m.settle(t)
				m.shutdown(t)
			})
		})
	}
}

// wrappedListener accepts connections that are no sockets to look at.
type (
	wrapped         struct{ net.Conn }
	wrappedListener struct{ net.Listener }
)

func (l wrappedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wrapped{conn}, nil
}

func certificate(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// machine is a server and its viewers. It calls the manager from one goroutine, so that it knows the order.
type machine struct {
	wrap      func(net.Listener) net.Listener
	tls       bool
	maxBuffer int

	m       *mesherstream.Manager
	app     *fiber.App
	addr    string
	stop    func()
	viewers []*viewer
	last    int // the number of the last message

	mu    sync.Mutex
	ids   []mesherstream.ClientID // in the order in which they came
	ended map[mesherstream.ClientID]mesherstream.Client
}

func (m *machine) start(t *rapid.T) {
	m.app = fiber.New(fiber.Config{DisableStartupMessage: true})
	m.ended = map[mesherstream.ClientID]mesherstream.Client{}
	var err error
	m.m, err = mesherstream.NewManager(mesherstream.WithApp(m.app), mesherstream.WithLogger(slog.New(slog.DiscardHandler)),
		mesherstream.WithMaxBuffer(m.maxBuffer), mesherstream.WithUnsentLimit(1<<10), mesherstream.WithDrainInterval(20*time.Millisecond),
		mesherstream.WithHooks(mesherstream.Hooks{
			Connect: func(c mesherstream.Client) {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.ids = append(m.ids, c.ID)
			},
			Disconnect: func(c mesherstream.Client, _ int, _ string) {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.ended[c.ID] = c
			},
		}))
	if err != nil {
		t.Fatal(err)
	}
	m.app.Use(m.m.Handler())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = ln.Addr().String()
	m.stop = streamtest.Serve(t, m.app, m.wrap(ln))
}

// end leaves nothing behind, also after a failure.
func (m *machine) end() {
	for _, v := range m.viewers {
		v.leave()
	}
	m.stop()
}

func (m *machine) dial(network, _ string) (net.Conn, error) {
	d := net.Dialer{Control: streamtest.Narrow}
	conn, err := d.Dial(network, m.addr)
	if err != nil || !m.tls {
		return conn, err
	}
	return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), nil
}

var (
	projects     = rapid.SampledFrom([]string{"a", "b"})
	levels       = rapid.SampledFrom([]string{"", "error", "info"})
	environments = rapid.SampledFrom([]string{"", "live"})
)

func (m *machine) connect(t *rapid.T) {
	if len(m.viewers) >= 8 {
		t.Skip("enough")
	}
	project, level := projects.Draw(t, "project"), levels.Draw(t, "level")
	before := m.m.Stats().Connects // and everything that was published before is delivered
	d := websocket.Dialer{NetDial: m.dial, ReadBufferSize: 1 << 10}
	agreed := rapid.Bool().Draw(t, "protocol")
	if agreed {
		d.Subprotocols = []string{mesherstream.Protocol}
	}
	ws, resp, err := d.Dial("ws://app.test/stream/projects/"+project+"?level="+level, nil)
	if err != nil {
		t.Fatalf("dial: %v, %v", err, resp)
	}
	v := &viewer{ws: ws, project: project, filter: filter(level, ""), agreed: agreed, open: true, done: make(chan struct{})}
	v.changed.L = &v.mu
	m.viewers = append(m.viewers, v)
	go v.read()
	eventually(t, "connected", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return uint64(len(m.ids)) > before
	})
	v.id = m.ids[before]
}

func filter(level, environment string) (f mesherstream.Filter) {
	if level != "" {
		f.Levels = []string{level}
	}
	if environment != "" {
		f.Environments = []string{environment}
	}
	return f
}

// data returns the data of a message. It begins with the next number.
func (m *machine) data(size int) []byte {
	m.last++
	return fmt.Appendf(nil, "%d %s", m.last, strings.Repeat("x", size))
}

func (m *machine) publish(t *rapid.T, project, level, environment string, size int) {
	data := m.data(size)
	if err := m.m.Broadcast(mesherstream.Message{Project: project, Level: level, Environment: environment, Data: data}); err != nil {
		t.Fatalf("Broadcast: %v", err)
	}
	passes := func(list []string, v string) bool { return v == "" || len(list) == 0 || slices.Contains(list, v) }
	for _, v := range m.viewers {
		if v.open && (project == "" || project == v.project) && passes(v.filter.Levels, level) && passes(v.filter.Environments, environment) {
			v.offered = append(v.offered, m.last)
		}
	}
}

func (m *machine) broadcast(t *rapid.T) {
	project := rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "project")
	m.publish(t, project, levels.Draw(t, "level"), environments.Draw(t, "environment"), rapid.IntRange(0, 5000).Draw(t, "size"))
}

// flood publishes more than the kernels' buffers of a stalled client take.
func (m *machine) flood(t *rapid.T) {
	project := projects.Draw(t, "project")
	for range rapid.IntRange(10, 100).Draw(t, "messages") {
		m.publish(t, project, "", "", 2000)
	}
}

func (m *machine) any(t *rapid.T) *viewer {
	open := slices.DeleteFunc(slices.Clone(m.viewers), func(v *viewer) bool { return !v.open })
	if len(open) == 0 {
		t.Skip("nobody is there")
	}
	return rapid.SampledFrom(open).Draw(t, "viewer")
}

func (m *machine) buffer(t *rapid.T) {
	v := m.any(t)
	data := m.data(rapid.IntRange(0, 100).Draw(t, "size"))
	if err := m.m.BufferMessage(v.id, data); err != nil {
		t.Fatalf("BufferMessage: %v", err)
	}
	v.offered = append(v.offered, m.last)
}

func (m *machine) drain(*rapid.T)    { m.m.DrainBuffers() }
func (m *machine) stall(t *rapid.T)  { m.any(t).stall(true) }
func (m *machine) resume(t *rapid.T) { m.any(t).stall(false) }

// subscribe changes the filter over the wire. Requests of one client are read one after the other, the next one when the
// answer is on its way, and at most 20 in a second.
func (m *machine) subscribe(t *rapid.T) {
	v := m.any(t)
	if _, answers, _ := v.got(); answers < v.asked || v.asked >= 20 {
		t.Skip("it has asked already")
	}
	level, environment := levels.Draw(t, "level"), environments.Draw(t, "environment")
	before := m.m.Stats().FilterSets // and everything that was published before is delivered
	text := fmt.Sprintf(`{"type":"subscribe","filters":{"level":%q,"environment":%q}}`, level, environment)
	if err := v.ask(text); err != nil {
		t.Fatal(err)
	}
	v.asked++
	eventually(t, "the filter is changed", func() bool { return m.m.Stats().FilterSets > before })
	v.filter, v.filteredAt = filter(level, environment), len(v.offered)
}

func (m *machine) setFilter(t *rapid.T) {
	v := m.any(t)
	f := filter(levels.Draw(t, "level"), environments.Draw(t, "environment"))
	if err := m.m.SetFilter(v.id, f); err != nil {
		t.Fatalf("SetFilter: %v", err)
	}
	v.filter, v.filteredAt = f, len(v.offered)
}

func (m *machine) disconnect(t *rapid.T) {
	v := m.any(t)
	if err := m.m.Disconnect(v.id, 4000, "out"); err != nil {
		t.Fatalf("Disconnect: %v", err)
	}
	v.open = false
	v.stall(false)
	m.gone(t, v)
	if _, _, err := v.got(); !websocket.IsCloseError(err, 4000) && !strings.Contains(err.Error(), "reset") && !cut(err) {
		t.Fatalf("the client that was disconnected: got %v", err)
	}
	if c := m.ended[v.id]; int(c.Offered) != len(v.offered) {
		t.Fatalf("client %d: got %+v, want %d offered", v.id, c, len(v.offered))
	}
}

// cut says whether a close handshake was ended by force, because the kernels still held too much in front of it.
func cut(err error) bool { return websocket.IsCloseError(err, websocket.CloseAbnormalClosure) }

// leave closes the socket, without a word.
func (m *machine) leave(t *rapid.T) {
	v := m.any(t)
	v.open = false
	v.leave()
	m.gone(t, v)
}

// gone waits until the manager has let go of the viewer, and checks what it got.
func (m *machine) gone(t *rapid.T, v *viewer) {
	<-v.done
	eventually(t, "it is gone", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		_, ok := m.ended[v.id]
		return ok && !m.m.IsStreamClient(v.id)
	})
	c := m.ended[v.id]
	v.check(t)
	messages, _, _ := v.got()
	if c.Offered != c.Sent+c.Dropped+c.Abandoned+c.Filtered+c.Conflated || c.Buffered != 0 || len(messages) > int(c.Offered-c.Dropped-c.Filtered) || int(c.Offered) > len(v.offered) {
		t.Fatalf("client %d got %d messages of %d: %+v", v.id, len(messages), len(v.offered), c)
	}
}

// balance is checked after every step.
func (m *machine) balance(t *rapid.T) {
	if s := m.m.Stats(); s.Offered != s.Sent+s.Dropped+s.Abandoned+s.Filtered+s.Conflated+uint64(s.Buffered) {
		t.Fatalf("accounts: got %+v", s)
	}
	for c := range m.m.Clients() {
		if c.Offered != c.Sent+c.Dropped+c.Abandoned+c.Filtered+c.Conflated+uint64(c.Buffered) || c.Buffered > m.maxBuffer+16 {
			t.Fatalf("accounts of a client, with max_buffer %d: got %+v", m.maxBuffer, c)
		}
	}
}

// settle lets everybody read, and then each has got everything but what was dropped.
func (m *machine) settle(t *rapid.T) {
	for _, v := range m.viewers {
		v.stall(false)
	}
	for _, v := range m.viewers {
		if !v.open {
			continue
		}
		var c mesherstream.Client
		eventually(t, "the client has caught up", func() bool {
			c, _ = m.m.Client(v.id)
			messages, answers, _ := v.got()
			return c.Buffered == 0 && len(messages) == int(c.Sent) && answers == v.asked
		})
		v.check(t)
		v.newest(t, m.maxBuffer)
		if messages, _, _ := v.got(); int(c.Offered) != len(v.offered) || len(messages)+int(c.Dropped+c.Filtered) != len(v.offered) || c.Slow {
			t.Fatalf("client %d got %d messages of %d, and the accounts say %+v", v.id, len(messages), len(v.offered), c)
		}
	}
}

func (m *machine) shutdown(t *rapid.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := m.m.Shutdown(ctx); err != nil {
		t.Fatalf("Shutdown: %v", err)
	}
	for _, v := range m.viewers {
		if <-v.done; v.open && !websocket.IsCloseError(v.err, websocket.CloseGoingAway) {
			t.Fatalf("client %d at the shutdown: got %v, want close 1001", v.id, v.err)
		}
		if v.open && v.agreed {
			eventually(t, "its end is told", func() bool {
				m.mu.Lock()
				defer m.mu.Unlock()
				_, ok := m.ended[v.id]
				return ok
			})
			if c := m.ended[v.id]; v.told != int(c.Dropped) {
				t.Fatalf("client %d was told of %d messages, and %d were dropped", v.id, v.told, c.Dropped)
			}
		}
	}
	if s := m.m.Stats(); s.Connects != s.Disconnects || s.Clients+s.Buffered+s.Slow != 0 {
		t.Fatalf("after the shutdown: got %+v", s)
	}
}
