package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
	"github.com/valyala/fasthttp"
)

// viewers is the program of a host that watches streams, as the test tells it to by calls of Viewers.
func viewers(conn io.ReadWriteCloser) {
	server := rpc.NewServer()
	if err := server.Register(&Viewers{}); err != nil {
		panic(err)
	}
	server.ServeConn(conn) // until the test closes it
}

// Viewers is what a host of viewers can be told. Its methods are called over net/rpc, which is why they look like that.
type Viewers struct {
	mu   sync.Mutex
	list []*viewer
}

// viewer is one connection.
type viewer struct {
	ws    *websocket.Conn
	acks  int
	marks *marks // nil unless it acknowledges by them

	mu   sync.Mutex
	seen Seen
}

// Seen is what a viewer got since it was last asked.
type Seen struct {
	Arrivals []Arrival
	Bytes    int           // of all messages
	Ended    string        // how the connection ended, or "" while it has not
	EndedAt  time.Duration // on the machine's clock
}

// Arrival is one event: its number, and when it was published and arrived, on the machine's clock.
type Arrival struct {
	Number             int
	Published, Arrived time.Duration
	Told               int // events that were dropped between this one and the one before it, as a viewer by marks was told
}

func (a Arrival) age() time.Duration { return a.Arrived - a.Published }

// Connect is a call.
type Connect struct {
	Addrs       []string // one connection to each
	Subprotocol string   // that the viewers offer, or ""
	AckEvery    int      // messages; 0 is never
	ByMarks     bool     // acknowledge as mesherstream.js does
}

// Connect connects viewers, all at the same time, and returns the subprotocol that the server chose.
func (v *Viewers) Connect(c Connect, subprotocol *string) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for _, addr := range c.Addrs {
		wg.Go(func() {
			d := websocket.Dialer{HandshakeTimeout: time.Minute}
			if c.Subprotocol != "" {
				d.Subprotocols = []string{c.Subprotocol}
			}
			ws, _, err := d.Dial("ws://"+addr+"/stream/projects/shop", nil)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("dial %s: %w", addr, err))
				return
			}
			*subprotocol = ws.Subprotocol()
			one := &viewer{ws: ws, acks: c.AckEvery}
			if c.ByMarks {
				one.marks = new(marks)
			}
			go one.watch()
			v.mu.Lock()
			defer v.mu.Unlock()
			v.list = append(v.list, one)
		})
	}
	wg.Wait()
	return failed
}

// Take returns what each viewer got since the last call, in the order in which they connected.
func (v *Viewers) Take(_ struct{}, all *[]Seen) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, one := range v.list {
		one.mu.Lock()
		*all = append(*all, one.seen)
		one.seen.Arrivals, one.seen.Bytes = nil, 0
		one.mu.Unlock()
	}
	return nil
}

// Close closes all connections without a word, and forgets them.
func (v *Viewers) Close(struct{}, *struct{}) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, one := range v.list {
		_ = one.ws.Close()
	}
	v.list = nil
	return nil
}

// watch reads until the connection ends.
func (one *viewer) watch() {
	for count := 1; ; count++ {
		kind, data, err := one.ws.ReadMessage()
		now := pace.Clock()
		told := 0
		acknowledges := one.acks > 0 && count%one.acks == 0
		if one.marks != nil && err == nil {
			acknowledges, told = one.marks.handle(kind, data, now)
		}
		if err == nil && acknowledges {
			err = one.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"ack","n":%d}`, count))
		}
		one.mu.Lock()
		if err != nil {
			one.seen.Ended, one.seen.EndedAt = err.Error(), now
			one.mu.Unlock()
			return
		}
		one.seen.Bytes += len(data)
		if kind == websocket.BinaryMessage {
			number, published := parseEvent(data)
			one.seen.Arrivals = append(one.seen.Arrivals, Arrival{number, published, now, told})
		}
		one.mu.Unlock()
	}
}

// group is a host of viewers, as the test sees it.
type group struct {
	*Host
	t     *testing.T
	calls *rpc.Client
}

func newGroup(t *testing.T, n *Network) *group {
	t.Helper()
	h := n.Host("viewers")
	return &group{h, t, rpc.NewClient(h.Conn)}
}

func (g *group) call(method string, args, reply any) {
	g.t.Helper()
	if err := g.calls.Call("Viewers."+method, args, reply); err != nil {
		g.t.Fatalf("%s: %v", method, err)
	}
}

func (g *group) connect(addrs ...string) {
	g.t.Helper()
	g.call("Connect", Connect{Addrs: addrs}, new(string))
}

func (g *group) take() (all []Seen) {
	g.t.Helper()
	g.call("Take", struct{}{}, &all)
	return all
}

func (g *group) close() {
	g.t.Helper()
	g.call("Close", struct{}{}, &struct{}{})
}

// TestViewersAcknowledgeEveryFewMessages tries the client of the tests by window against a server that speaks the
// subprotocol and sends seven messages, one of which is no event.
func TestViewersAcknowledgeEveryFewMessages(t *testing.T) {
	t.Parallel()
	n := New(t)
	g := newGroup(t, n)
	wire := n.Wire(g.Host)
	ln, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	acks := make(chan string, 10)
	upgrader := websocket.FastHTTPUpgrader{Subprotocols: []string{mesherstream.Protocol}}
	go func() {
		_ = fasthttp.Serve(ln, func(ctx *fasthttp.RequestCtx) {
			_ = upgrader.Upgrade(ctx, func(conn *websocket.Conn) {
				_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"filters_updated"}`))
				for i := range 6 {
					_ = conn.WriteMessage(websocket.BinaryMessage, pace.Event(i, pace.Clock(), eventBytes))
				}
				for {
					_, data, err := conn.ReadMessage()
					if err != nil {
						return
					}
					acks <- string(data)
				}
			})
		})
	}()
	t.Cleanup(func() { _ = ln.Close() })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	g.connectWithWindow(net.JoinHostPort(wire.Server.String(), port), 6)
	for _, want := range []string{`{"type":"ack","n":3}`, `{"type":"ack","n":6}`} {
		select {
		case got := <-acks:
			if got != want {
				t.Errorf("acknowledgement: got %s, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no acknowledgement, want %s", want)
		}
	}
	arrived := 0
	eventually(t, "the viewer has got the events", func() bool {
		arrived += len(g.take()[0].Arrivals)
		return arrived == 6
	})
}
