package test

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// Partial writes of the link that owns its socket, on real sockets. A seam for the system calls would exist only for
// tests, and each message would pay for it. With a socket that has a small buffer, and a reader that reads a few bytes
// at a time, the kernel itself stops anywhere.

// tightListener accepts sockets whose send buffer is as small as the kernel allows.
type tightListener struct{ net.Listener }

func (l tightListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if c, ok := conn.(interface{ SetWriteBuffer(int) error }); ok {
		_ = c.SetWriteBuffer(1)
	}
	return conn, err
}

// tight are transports over such sockets. Over a Unix socket the kernel accepts 2 KiB at a time, over TCP as much as
// segments and windows allow.
var tight = []streamtest.Transport{
	{Name: "unix", Listen: func(t *testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
		addr := filepath.Join(t.TempDir(), "socket")
		ln, err := net.Listen("unix", addr)
		if err != nil {
			t.Fatal(err)
		}
		return tightListener{ln}, func(string, string) (net.Conn, error) { return net.Dial("unix", addr) }
	}},
	{Name: "tcp", Listen: func(t *testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
		ln, dial := streamtest.ListenTCP(t)
		return tightListener{ln}, dial
	}},
}

func TestTheKernelTearsFramesAnywhereAndTheStreamStaysWhole(t *testing.T) {
	rounds := 20
	if *streamtest.Long {
		rounds = 1000
	}
	for _, tr := range tight {
		for _, piece := range []int{1, 2, 3, 7, 125, 4096} {
			t.Run(fmt.Sprintf("%s/read=%d", tr.Name, piece), func(t *testing.T) {
				t.Parallel()
				(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
					w.Start(mesherstream.WithUnsentLimit(1<<10), mesherstream.WithMaxBuffer(20), mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(0))
					v := w.Connect("shop")
					conn, id := v.WS.NetConn(), v.ID
					_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
					reader := &tornReader{World: w, conn: conn, piece: piece, last: -1}
					torn := map[int]bool{}
					for round := range rounds {
						// All messages of a round have the same length, so that the bytes of a torn frame show among
						// the buffered ones. The next round has another length, so that the kernel stops elsewhere.
						length := 130 + round*37%251
						for i := range 30 { // some of these are dropped
							n := round*30 + i
							data := fmt.Appendf(nil, "%0*d", length, n)
							if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: data}); err != nil {
								w.Fatal(err)
							}
						}
						if c, ok := w.M.Client(id); ok {
							torn[c.BufferedBytes%(4+length)] = true // 4 is the frame's header
						}
						reader.send(streamtest.Masked(wsframe.FinBit|wsframe.OpPing, fmt.Sprint(round)))
						if round < maxRequestsPerSecond {
							reader.send(streamtest.Masked(wsframe.FinBit|wsframe.OpText, `{"type":"hello"}`))
						}
						reader.until(func() bool { return reader.last == round*30+29 && reader.pongs == round+1 })
					}
					c, _ := w.M.Client(id)
					if uint64(reader.messages) != c.Sent || uint64(rounds*30-reader.messages) != c.Dropped {
						w.Errorf("got %d messages of %d, and the accounts say %+v", reader.messages, rounds*30, c)
					}
					delete(torn, 0)
					w.Logf("frames were torn at %d different bytes; %d dropped, %d pongs, %d answers", len(torn), c.Dropped, reader.pongs, reader.answers)
					if len(torn) == 0 {
						w.Error("no frame was ever torn")
					}
				})
			})
		}
	}
}

// tornReader reads frames a few bytes at a time, and checks them.
type tornReader struct {
	*streamtest.World
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
		for frame, payload := streamtest.NextFrame(r.buf); frame != nil; frame, payload = streamtest.NextFrame(r.buf) {
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

// TestAConnectionThatBreaksAtAnyByteCostsNobodyElse resets connections after a varying number of bytes: the server
// meets EPIPE and ECONNRESET, in reads and in writes, wherever it is.
func TestAConnectionThatBreaksAtAnyByteCostsNobodyElse(t *testing.T) {
	breaks := 60
	if *streamtest.Long {
		breaks = 2000
	}
	for _, tr := range tight {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start(mesherstream.WithUnsentLimit(1 << 10))
				healthy := w.Connect("shop").Collect()
				sent := 0
				for i := range breaks {
					v := w.Connect("shop")
					conn := v.WS.NetConn()
					w.Broadcast(sent, sent+10, healthy)
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
					w.Broadcast(sent, sent+1, healthy)
					sent++
					w.Eventually("it is removed", func() bool { return !w.M.IsStreamClient(v.ID) })
				}
				w.Eventually("the other one has everything", func() bool { return len(healthy.Numbers()) == sent })
				w.CheckAccounts()
				for i, n := range healthy.Numbers() {
					if i != n {
						w.Fatalf("the other one got %d in place %d", n, i)
					}
				}
			})
		})
	}
}
