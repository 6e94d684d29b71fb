package streamtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"
)

// A Transport is a way for bytes between a viewer and the app. Every scenario runs over each transport.
type Transport struct {
	Name   string
	Bubble bool // in a synctest bubble, where time is exact
	Listen func(*testing.T) (net.Listener, func(network, addr string) (net.Conn, error))
}

// On Linux, the shard owns the socket of tcp; the others have the portable link.
var Transports = []Transport{
	{"tcp", false, ListenTCP},
	{"wrapped", false, listenWrapped},
	{"tls", false, listenTLS},
	{"pipe", true, listenPipe},
}

func ListenTCP(t *testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	return ln, func(string, string) (net.Conn, error) {
		d := net.Dialer{Control: Narrow}
		return d.DialContext(context.Background(), "tcp", addr)
	}
}

// wrapped is a connection that hides its socket, as the wrappers of fasthttp and of other listeners do.
type wrapped struct{ net.Conn }

func (c wrapped) NetConn() net.Conn { return c.Conn }

type WrappedListener struct{ net.Listener }

func (l WrappedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wrapped{conn}, nil
}

func listenWrapped(t *testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
	ln, dial := ListenTCP(t)
	return WrappedListener{ln}, dial
}

func listenTLS(t *testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
	ln, dial := ListenTCP(t)
	ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	return ln, func(network, addr string) (net.Conn, error) {
		conn, err := dial(network, addr)
		if err != nil {
			return nil, err
		}
		return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), nil
	}
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"app.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// pipeListener accepts ends of net.Pipe, on which a write waits for its reader.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func listenPipe(*testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
	ln := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	return ln, func(string, string) (net.Conn, error) {
		client, server := net.Pipe()
		select {
		case ln.conns <- server:
			return &pipeEnd{Conn: client}, nil
		case <-ln.done:
			return nil, net.ErrClosed
		}
	}
}

// pipeEnd is a client's end of a pipe. It can look at the bytes that the other end is writing.
type pipeEnd struct {
	net.Conn
	ahead []byte // looked at, and not read
}

func (p *pipeEnd) Read(b []byte) (n int, err error) {
	if len(p.ahead) > 0 {
		n = copy(b, p.ahead)
		p.ahead = p.ahead[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// look returns what the other end is writing, or nil if it writes nothing. The clock of a bubble moves only once nobody
// has anything left to do.
func (p *pipeEnd) look() []byte {
	b := make([]byte, 4<<10)
	_ = p.SetReadDeadline(time.Now().Add(time.Nanosecond))
	n, _ := p.Conn.Read(b)
	_ = p.SetReadDeadline(time.Time{})
	if n > 0 {
		p.ahead = b[:n]
	}
	return p.ahead
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "127.0.0.1:0" }
