package mesherstream

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// Partial writes of the link that owns its socket, on real sockets. A seam for its system calls would be there for tests
// only, and on the way of every message; a socket with a small buffer and a reader that takes a few bytes at a time make
// the kernel itself stop anywhere.

// tightListener accepts sockets whose send buffer is as small as the kernel allows.
type tightListener struct{ net.Listener }

func (l tightListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if c, ok := conn.(interface{ SetWriteBuffer(int) error }); ok {
		_ = c.SetWriteBuffer(1)
	}
	return conn, err
}

// tight are transports over such sockets. Over a Unix socket the kernel takes 2 KiB at a time, over TCP what segments
// and windows leave.
var tight = []transport{
	{"unix", false, func(t *testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
		addr := filepath.Join(t.TempDir(), "socket")
		ln, err := net.Listen("unix", addr)
		if err != nil {
			t.Fatal(err)
		}
		return tightListener{ln}, func(string, string) (net.Conn, error) { return net.Dial("unix", addr) }
	}},
	{"tcp", false, func(t *testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
		ln, dial := listenTCP(t)
		return tightListener{ln}, dial
	}},
}

// tearing is a link that notes where the kernel tore a frame. It belongs to its shard, as what it wraps does.
type tearing struct {
	link.Link
	at map[int]bool
}

func (l *tearing) Write(p []byte, lengths []int) (sent, held int, err error) {
	sent, held, err = l.Link.Write(p, lengths)
	if whole, _ := wsframe.Whole(p, sent); err == nil && whole < sent {
		l.at[sent-whole] = true
	}
	return sent, held, err
}

// tearingClient connects to where the shard owns the socket, and returns the connection and where frames get torn.
func (w *world) tearingClient() (net.Conn, *tearing, ClientID) {
	w.Helper()
	v := w.connect("shop")
	l := &tearing{at: map[int]bool{}}
	s := w.m.shardOf(v.id)
	s.ask(func() {
		c := s.find(v.id)
		l.Link = c.link
		c.link = l
	})
	return v.ws.NetConn(), l, v.id
}

func TestTheKernelTearsFramesAnywhereAndTheStreamStaysWhole(t *testing.T) {
	rounds := 20
	if *long {
		rounds = 1000
	}
	for _, tr := range tight {
		for _, piece := range []int{1, 2, 3, 7, 125, 4096} {
			t.Run(fmt.Sprintf("%s/read=%d", tr.name, piece), func(t *testing.T) {
				t.Parallel()
				(&world{T: t, transport: tr}).play(func(w *world) {
					w.start(WithUnsentLimit(1<<10), WithMaxBuffer(20), WithPingInterval(0), WithIdleTimeout(0))
					conn, link, id := w.tearingClient()
					_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
					reader := &tornReader{world: w, conn: conn, piece: piece, last: -1}
					for round := range rounds {
						for i := range 30 { // of which some are dropped
							n := round*30 + i
							data := fmt.Appendf(nil, "%0*d", 130+n*37%251, n) // so that the kernel stops elsewhere each time
							if err := w.m.Broadcast(Message{Project: "shop", Data: data}); err != nil {
								w.Fatal(err)
							}
						}
						reader.send(appendMasked(nil, wsframe.OpPing, fmt.Append(nil, round)))
						if round < maxRequestsPerSecond {
							reader.send(appendMasked(nil, wsframe.OpText, []byte(`{"type":"hello"}`)))
						}
						reader.until(func() bool { return reader.last == round*30+29 && reader.pongs == round+1 })
					}
					c, _ := w.m.Client(id)
					if uint64(reader.messages) != c.Sent || uint64(rounds*30-reader.messages) != c.Dropped {
						w.Errorf("got %d messages of %d, and the accounts say %+v", reader.messages, rounds*30, c)
					}
					s := w.m.shardOf(id)
					var torn int
					s.ask(func() { torn = len(link.at) })
					w.Logf("frames were torn at %d different bytes; %d dropped, %d pongs, %d answers", torn, c.Dropped, reader.pongs, reader.answers)
					if torn == 0 {
						w.Error("no frame was ever torn")
					}
				})
			})
		}
	}
}

// tornReader reads frames a few bytes at a time, and checks them.
type tornReader struct {
	*world
	conn                     net.Conn
	piece                    int
	buf                      []byte
	last                     int // the number of the last message
	messages, pongs, answers int
}

func (r *tornReader) send(frame []byte) {
	r.Helper()
	if _, err := r.conn.Write(frame); err != nil {
		r.Fatal(err)
	}
}

func (r *tornReader) until(done func() bool) {
	r.Helper()
	piece := make([]byte, r.piece)
	for !done() {
		n, err := r.conn.Read(piece)
		if err != nil {
			r.Fatalf("read after message %d and pong %d: %v", r.last, r.pongs, err)
		}
		r.buf = append(r.buf, piece[:n]...)
		for frame, payload := nextFrame(r.buf); frame != nil; frame, payload = nextFrame(r.buf) {
			r.take(frame[0], string(payload))
			r.buf = r.buf[:copy(r.buf, r.buf[len(frame):])]
		}
	}
}

func (r *tornReader) take(first byte, payload string) {
	r.Helper()
	switch {
	case first == wsframe.FinBit|wsframe.OpPong && payload == strconv.Itoa(r.pongs):
		r.pongs++
	case first == wsframe.FinBit|wsframe.OpText && strings.HasPrefix(payload, `{"type":"error","code":"unknown_type"`):
		r.answers++
	case first == wsframe.FinBit|wsframe.OpText && len(payload) >= 130:
		n, err := strconv.Atoi(payload)
		if err != nil || n <= r.last {
			r.Fatalf("after message %d came %.300q", r.last, payload)
		}
		r.last = n
		r.messages++
	default:
		r.Fatalf("after message %d came a frame that begins with %#x: %.300q", r.last, first, payload)
	}
}

// TestAConnectionThatBreaksAtAnyByteCostsNobodyElse resets connections after so many bytes: the server meets EPIPE and
// ECONNRESET, in reads and in writes, wherever it is.
func TestAConnectionThatBreaksAtAnyByteCostsNobodyElse(t *testing.T) {
	breaks := 60
	if *long {
		breaks = 2000
	}
	for _, tr := range tight {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			(&world{T: t, transport: tr}).play(func(w *world) {
				w.start(WithUnsentLimit(1 << 10))
				healthy := w.connect("shop").collect()
				sent := 0
				for i := range breaks {
					v := w.connect("shop")
					conn := v.ws.NetConn()
					w.broadcast(sent, sent+10, healthy)
					sent += 10
					_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
					buf := make([]byte, 1+i*37%9000)
					if _, err := conn.Read(buf); err != nil {
						w.Fatal(err)
					}
					if tcp, ok := conn.(*net.TCPConn); ok && i%2 == 0 {
						_ = tcp.SetLinger(0)
					}
					_ = conn.Close()
					w.broadcast(sent, sent+1, healthy)
					sent++
					w.eventually("it is removed", func() bool { return !w.m.IsStreamClient(v.id) })
				}
				w.eventually("the other one has everything", func() bool { return len(healthy.numbers()) == sent })
				w.checkAccounts()
				for i, n := range healthy.numbers() {
					if i != n {
						w.Fatalf("the other one got %d in place %d", n, i)
					}
				}
			})
		})
	}
}
