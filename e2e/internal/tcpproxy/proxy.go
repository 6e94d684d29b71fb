package tcpproxy

import (
	"net"
	"slices"
	"sync"
	"testing"
)

// A Proxy listens on a port of its own and forwards to one server.
type Proxy struct {
	target string
	ln     net.Listener
	all    sync.WaitGroup

	mu       sync.Mutex
	onAccept func(*Conn)
	refuses  bool
	how      End
	ended    bool
	conns    []*Conn // those that have not ended
	accepted int
	cut      int
}

// New starts a proxy that forwards to the address of a server. It ends with the test, and so do its connections.
func New(t testing.TB, target string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, ln: ln}
	p.all.Go(p.serve)
	t.Cleanup(func() {
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		_ = ln.Close()
		p.cutAll(Reset)
		p.all.Wait()
	})
	return p
}

// Addr returns the address to dial.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// OnAccept sets a function that is called with each connection from now on, before any byte is forwarded. The function
// may set the connection's fate. nil sets none.
func (p *Proxy) OnAccept(fn func(*Conn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onAccept = fn
}

// Refuse cuts all connections, and from now on each new one before any byte is forwarded.
func (p *Proxy) Refuse(how End) {
	p.mu.Lock()
	p.refuses, p.how = true, how
	p.mu.Unlock()
	p.cutAll(how)
}

// Accept ends Refuse.
func (p *Proxy) Accept() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = false
}

// Conns returns the connections that have not ended, the oldest first.
func (p *Proxy) Conns() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.conns)
}

// Accepted returns how many connections there were.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Cuts returns how many connections the proxy has cut that neither end had closed before, without those that it refused.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

func (p *Proxy) cutAll(how End) {
	for _, c := range p.Conns() {
		c.Cut(how)
	}
}

func (p *Proxy) serve() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.all.Go(func() { p.forward(client.(*net.TCPConn)) })
	}
}

// forward is the life of one connection.
func (p *Proxy) forward(client *net.TCPConn) {
	c := newConn(p, client)
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		_ = client.Close()
		return
	}
	p.accepted++
	p.conns = append(p.conns, c)
	c.refused = p.refuses
	how, onAccept := p.how, p.onAccept
	p.mu.Unlock()
	switch {
	case c.refused:
		c.Cut(how)
	case onAccept != nil:
		onAccept(c)
	}
	c.live()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(other *Conn) bool { return other == c })
}
