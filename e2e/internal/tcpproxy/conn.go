package tcpproxy

import (
	"io"
	"net"
	"sync"
	"time"

	"github.com/mesher/mesherstream/internal/streamtest"
)

// End is how a connection is cut.
type End int

const (
	Reset  End = iota // RST: what was not forwarded is lost
	Finish            // FIN, to both ends, as from a process that exits
)

// lingers is how long a connection that was cut by a FIN accepts more bytes, and discards them: a reset would overtake the
// FIN.
const lingers = 2 * time.Second

// A Conn is one connection through a proxy.
type Conn struct {
	Up   *Direction // from the client to the server
	Down *Direction // from the server to the client

	proxy   *Proxy
	client  *net.TCPConn
	refused bool          // set before anyone else has the connection
	cut     chan struct{} // closed when the connection is cut
	ended   chan struct{} // closed when the connection has ended in any way

	mu      sync.Mutex
	server  *net.TCPConn // nil until it is dialed
	how     End
	isCut   bool
	isEnded bool
	thawed  chan struct{} // closed unless the connection is frozen
}

func newConn(p *Proxy, client *net.TCPConn) *Conn {
	c := &Conn{proxy: p, client: client, cut: make(chan struct{}), ended: make(chan struct{}), thawed: make(chan struct{})}
	close(c.thawed)
	c.Up, c.Down = newDirection(c), newDirection(c)
	return c
}

// Cut ends the connection at once. It does nothing if the connection has been cut, or has ended.
func (c *Conn) Cut(how End) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut || c.isEnded {
		return
	}
	c.isCut, c.how = true, how
	if !c.refused {
		c.proxy.mu.Lock()
		c.proxy.cut++
		c.proxy.mu.Unlock()
	}
	c.end()
	close(c.cut)
}

// end tells both ends that the connection is cut.
func (c *Conn) end() {
	for _, conn := range []*net.TCPConn{c.client, c.server} {
		switch {
		case conn == nil:
		case c.how == Finish:
			_ = conn.CloseWrite()
			_ = conn.SetWriteDeadline(time.Now()) // of a write that has no room
			_ = conn.SetReadDeadline(time.Now().Add(lingers))
		default:
			_ = conn.SetLinger(0)
			_ = conn.Close()
		}
	}
}

// abandon ends the reader of a direction whose other end accepts nothing more, unless it still discards.
func (c *Conn) abandon(from *net.TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isCut || c.how != Finish {
		_ = from.SetReadDeadline(time.Now())
	}
}

// Freeze makes the connection forward nothing from now on. Both ends stay open, and what they send is accepted as long as
// there is room for it.
func (c *Conn) Freeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.thawed:
		c.thawed = make(chan struct{})
	default:
	}
}

// Thaw ends Freeze. Everything that was sent meanwhile is forwarded.
func (c *Conn) Thaw() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.thawed:
	default:
		close(c.thawed)
	}
}

// Ended returns a channel that is closed when the connection has ended: it was cut, or both ends have closed it.
func (c *Conn) Ended() <-chan struct{} { return c.ended }

// flows waits while the connection is frozen, and reports whether it has not been cut.
func (c *Conn) flows() bool {
	c.mu.Lock()
	thawed := c.thawed
	c.mu.Unlock()
	select {
	case <-c.cut:
		return false
	case <-thawed:
		return true
	}
}

// live forwards until the connection has ended.
func (c *Conn) live() {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.isEnded = true
		_ = c.client.Close()
		if c.server != nil {
			_ = c.server.Close()
		}
		close(c.ended)
	}()
	select {
	case <-c.cut: // when it was accepted
		_, _ = io.Copy(io.Discard, c.client) // fails at once after a reset
		return
	default:
	}
	dialer := net.Dialer{Control: streamtest.Narrow} // or the kernel would accept a megabyte that is not forwarded
	server, err := dialer.Dial("tcp", c.proxy.target)
	if err != nil {
		return // the client is told by the end of its connection
	}
	c.mu.Lock()
	c.server = server.(*net.TCPConn)
	if c.isCut {
		c.end()
	}
	c.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { c.Up.forward(c.client, c.server) })
	both.Go(func() { c.Down.forward(c.server, c.client) })
	both.Wait()
}

// A Direction is one of the two ways of a connection.
type Direction struct {
	conn *Conn

	mu        sync.Mutex
	forwarded int
	limit     int // of forwarded; negative is none
	how       End
	delay     time.Duration
	rate      int
}

func newDirection(c *Conn) *Direction { return &Direction{conn: c, limit: -1} }

// CutAfter cuts the connection as soon as n bytes have been forwarded in this direction, and no other: at once if it
// already has forwarded as many. Later calls replace earlier ones.
func (d *Direction) CutAfter(n int, how End) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limit, d.how = n, how
	if d.forwarded >= n {
		d.conn.Cut(how)
	}
}

// Delay makes each byte that arrives from now on stay in the proxy for so long, in addition to what it waits for others.
func (d *Direction) Delay(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay = by
}

// Limit sets how many bytes a second are forwarded from now on; 0 is no bound.
func (d *Direction) Limit(bytesPerSecond int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rate = bytesPerSecond
}

// Forwarded returns how many bytes have been forwarded.
func (d *Direction) Forwarded() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.forwarded
}

// A chunk is bytes that have arrived, and when they may be forwarded.
type chunk struct {
	bytes []byte
	due   time.Time
}

// A direction holds so much itself: a delay needs space for what arrives meanwhile.
const (
	chunkBytes = 4 << 10
	chunks     = 16
)

// forward forwards until one end closes this direction, or the connection is cut.
func (d *Direction) forward(from, to *net.TCPConn) {
	queue := make(chan chunk, chunks)
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		defer close(queue)
		d.read(from, queue)
	})
	for c := range queue {
		if !d.write(to, c) {
			d.conn.abandon(from)
			for range queue { // until the reader has ended
			}
			return
		}
	}
	if d.conn.flows() {
		_ = to.CloseWrite()
	}
}

// read puts what arrives into the queue. After a cut by a FIN it discards the rest.
func (d *Direction) read(from *net.TCPConn, queue chan<- chunk) {
	for {
		p := make([]byte, chunkBytes)
		n, err := from.Read(p)
		d.mu.Lock()
		due := time.Now().Add(d.delay)
		d.mu.Unlock()
		if n > 0 {
			select {
			case queue <- chunk{p[:n], due}:
			case <-d.conn.cut:
				_, _ = io.Copy(io.Discard, from)
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// write forwards a chunk at the direction's rate. It returns false if the connection does not go on.
func (d *Direction) write(to *net.TCPConn, c chunk) bool {
	if !d.wait(time.Until(c.due)) {
		return false
	}
	for len(c.bytes) > 0 {
		d.mu.Lock()
		n, rate, left := len(c.bytes), d.rate, d.limit-d.forwarded
		d.mu.Unlock()
		if rate > 0 {
			n = min(n, max(1, rate/20))
		}
		if left >= 0 {
			n = min(n, left)
		}
		if !d.conn.flows() {
			return false
		}
		sent, err := to.Write(c.bytes[:n])
		c.bytes = c.bytes[sent:]
		d.mu.Lock()
		d.forwarded += sent
		full, how := d.limit >= 0 && d.forwarded >= d.limit, d.how
		d.mu.Unlock()
		if full {
			d.conn.Cut(how)
		}
		if err != nil || full {
			return false
		}
		if rate > 0 && !d.wait(time.Duration(sent)*time.Second/time.Duration(rate)) {
			return false
		}
	}
	return true
}

// wait waits for so long, or until the connection is cut.
func (d *Direction) wait(duration time.Duration) bool {
	if duration <= 0 {
		return d.conn.flows()
	}
	select {
	case <-time.After(duration):
		return d.conn.flows()
	case <-d.conn.cut:
		return false
	}
}
