package pace

import (
	"encoding/binary"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
)

// Plain is a client without the protocol. It answers pings in the order in which it reads them, with what they say.
type Plain struct {
	Record
	rate atomic.Int64
}

// DialPlain connects a plain client. url begins with ws, and dial connects to the server or to a proxy, by TLS if there has
// to be any. The client reads as fast as it can until it is told otherwise, and leaves with the test.
func DialPlain(t testing.TB, url string, dial func() (net.Conn, error)) *Plain {
	t.Helper()
	p := new(Plain)
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	paced := func(string, string) (net.Conn, error) { return &pacedConn{Conn: conn, rate: &p.rate}, nil }
	d := websocket.Dialer{
		NetDial:          paced,
		HandshakeTimeout: time.Minute,
		ReadBufferSize:   chunkBytes, // which it reads ahead of what it handles
	}
	ws, _, err := d.Dial(url, nil)
	if err != nil {
		_ = conn.Close()
		t.Fatalf("%s: %v", url, err)
	}
	p.Add(Sight{Kind: Open, At: Clock()})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.watch(ws)
	}()
	t.Cleanup(func() {
		_ = ws.Close()
		<-ended
	})
	return p
}

// Read sets how many bytes a second the client reads from now on; 0 is as many as it can.
func (p *Plain) Read(perSecond int) { p.rate.Store(int64(perSecond)) }

func (p *Plain) watch(ws *websocket.Conn) {
	for {
		_, data, err := ws.ReadMessage()
		now := Clock()
		if err != nil {
			p.Add(Sight{Kind: End, At: now, Text: err.Error()})
			return
		}
		if len(data) >= headBytes {
			p.Add(Sight{
				Kind: Message, At: now, Number: int(binary.BigEndian.Uint64(data)),
				Published: time.Duration(binary.BigEndian.Uint64(data[8:])),
			})
		}
	}
}

// chunkBytes is how much a client with a pace reads at a time.
const chunkBytes = 1 << 10

// pacedConn is a connection that is read at a steady rate.
type pacedConn struct {
	net.Conn
	rate *atomic.Int64 // bytes a second; 0 is no bound
	due  time.Time     // of the next read
}

func (c *pacedConn) Read(p []byte) (int, error) {
	rate := c.rate.Load()
	if rate == 0 {
		return c.Conn.Read(p)
	}
	time.Sleep(time.Until(c.due))
	began := time.Now()
	n, err := c.Conn.Read(p[:min(len(p), chunkBytes)])
	// The time of a wait for bytes is not made up for, but that of a wait for the processor is.
	if now := time.Now(); now.Sub(began) > 10*time.Millisecond || now.Sub(c.due) > time.Second {
		c.due = now
	}
	c.due = c.due.Add(time.Duration(n) * time.Second / time.Duration(rate))
	return n, err
}
