package tcpproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// A pair is the two ends of a connection through a proxy.
type pair struct {
	*testing.T
	client, server net.Conn
	through        *Conn
}

// listen returns a proxy in front of a listener.
func listen(t *testing.T) (*Proxy, net.Listener) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return New(t, ln.Addr().String()), ln
}

func connect(t *testing.T, fate func(*Conn)) pair {
	t.Helper()
	p, ln := listen(t)
	through := make(chan *Conn, 1)
	p.OnAccept(func(c *Conn) {
		fate(c)
		through <- c
	})
	client, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{client, server} {
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return pair{t, client, server, <-through}
}

func (p pair) send(to net.Conn, data []byte) {
	p.Helper()
	if _, err := to.Write(data); err != nil {
		p.Fatal(err)
	}
}

func (p pair) receives(at net.Conn, want []byte) {
	p.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(at, got); err != nil || !bytes.Equal(got, want) {
		p.Fatalf("got %d bytes, %v, want the %d that were sent", n, err, len(want))
	}
}

// pattern is bytes that don't repeat soon.
func pattern(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	return data
}

func TestBothWaysAreForwardedUnchanged(t *testing.T) {
	p := connect(t, func(*Conn) {})
	data := pattern(1 << 20)
	go func() { _, _ = p.client.Write(data) }()
	p.receives(p.server, data)
	go func() { _, _ = p.server.Write(data) }()
	p.receives(p.client, data)
	_ = p.client.(*net.TCPConn).CloseWrite()
	if _, err := p.server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the client's end: got %v, want EOF", err)
	}
	p.send(p.server, data[:10]) // the other way stays open
	p.receives(p.client, data[:10])
	_ = p.server.Close()
	<-p.through.Ended()
	if n := p.through.proxy.Cuts(); n != 0 {
		t.Errorf("%d cuts, want none", n)
	}
}

func TestACutComesAfterThatManyBytes(t *testing.T) {
	data := pattern(100_000)
	for _, n := range []int{1, 4095, 4096, 4097, 50_000} {
		for name, up := range map[string]bool{"up": true, "down": false} {
			p := connect(t, func(c *Conn) {
				if up {
					c.Up.CutAfter(n, Finish)
				} else {
					c.Down.CutAfter(n, Finish)
				}
			})
			from, to := p.server, p.client
			if up {
				from, to = p.client, p.server
			}
			go func() { _, _ = from.Write(data) }() // fails where it is cut
			p.receives(to, data[:n])
			if _, err := to.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s, after %d bytes: got %v, want EOF", name, n, err)
			}
			if err := ended(from); err != io.EOF {
				t.Errorf("%s, the sender: got %v, want EOF", name, err)
			}
		}
	}
}

// ended reads until the connection has ended, and says how.
func ended(conn net.Conn) error {
	for p := make([]byte, 1000); ; {
		if _, err := conn.Read(p); err != nil {
			return err
		}
	}
}

func TestAResetEndsBothEndsAtOnce(t *testing.T) {
	p := connect(t, func(*Conn) {})
	p.send(p.client, pattern(10))
	p.receives(p.server, pattern(10))
	p.through.Cut(Reset)
	for name, conn := range map[string]net.Conn{"client": p.client, "server": p.server} {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %v, want a reset", name, err)
		}
	}
	<-p.through.Ended()
	if n := p.through.proxy.Cuts(); n != 1 {
		t.Errorf("%d cuts, want 1", n)
	}
}

func TestAFrozenConnectionForwardsNothingAndStaysOpen(t *testing.T) {
	p := connect(t, func(c *Conn) { c.Freeze() })
	p.send(p.client, pattern(10))
	p.send(p.server, pattern(10))
	for name, conn := range map[string]net.Conn{"client": p.client, "server": p.server} {
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: got %d bytes and %v, want a timeout", name, n, err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	p.through.Thaw()
	p.receives(p.server, pattern(10))
	p.receives(p.client, pattern(10))
	p.through.Freeze()
	p.through.Cut(Reset)
	if _, err := p.client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a cut while it is frozen: got %v, want a reset", err)
	}
}

func TestADelayAndARateTakeTheirTime(t *testing.T) {
	const late, rate, n = 200 * time.Millisecond, 100_000, 30_000
	p := connect(t, func(c *Conn) {
		c.Up.Delay(late)
		c.Down.Limit(rate)
	})
	begin := time.Now()
	p.send(p.client, pattern(n))
	p.receives(p.server, pattern(n))
	if took := time.Since(begin); took < late {
		t.Errorf("up took %v, want at least %v", took, late)
	}
	begin = time.Now()
	p.send(p.server, pattern(n))
	p.receives(p.client, pattern(n))
	if took, least := time.Since(begin), time.Second*n/rate*9/10; took < least {
		t.Errorf("down took %v, want at least %v", took, least)
	}
}

func TestAProxyThatRefusesCutsEveryConnection(t *testing.T) {
	p, ln := listen(t)
	open := func() net.Conn {
		conn, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn
	}
	first := open()
	if _, err := ln.Accept(); err != nil {
		t.Fatal(err)
	}
	p.Refuse(Finish)
	for name, conn := range map[string]net.Conn{"a connection": first, "a new connection": open()} {
		if err := ended(conn); err != io.EOF {
			t.Errorf("%s: got %v, want EOF", name, err)
		}
	}
	p.Accept()
	third := open()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	pair{T: t}.send(third, pattern(10))
	pair{T: t}.receives(server, pattern(10))
	if got := p.Accepted(); got != 3 {
		t.Errorf("%d connections, want 3", got)
	}
}
