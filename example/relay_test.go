package main

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// relay passes connections on to a server. It can be taken away and brought back.
type relay struct {
	ln     net.Listener
	target string

	// Guarded by mu.
	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
	held  chan struct{} // closed when the relay forwards again; nil while it does
}

// newRelay runs a relay to a server until the test ends, and returns its address.
func newRelay(t *testing.T, server string) (r *relay, url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r = &relay{ln: ln, target: strings.TrimPrefix(server, "http://"), conns: make(map[net.Conn]bool)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.pass(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		r.cut()
		r.release()
		wg.Wait()
	})
	return r, "http://" + ln.Addr().String()
}

// pass passes on what comes either way, until one side ends.
func (r *relay) pass(conn net.Conn) {
	defer conn.Close()
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer server.Close()
	r.mu.Lock()
	if r.down {
		r.mu.Unlock()
		return
	}
	r.conns[conn], r.conns[server] = true, true
	r.mu.Unlock()
	var wg sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{conn: server, server: conn} {
		wg.Go(func() {
			io.Copy(to, reader(func(b []byte) (int, error) {
				n, err := from.Read(b)
				r.wait()
				return n, err
			}))
			conn.Close()
			server.Close()
		})
	}
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
	delete(r.conns, server)
}

// cut ends all connections, and refuses others until mend is called.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = true
	for conn := range r.conns {
		conn.Close()
	}
}

func (r *relay) mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = false
}

// hold forwards nothing until release is called, and keeps the connections.
func (r *relay) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = make(chan struct{})
}

func (r *relay) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held != nil {
		close(r.held)
		r.held = nil
	}
}

// wait waits until the relay forwards.
func (r *relay) wait() {
	r.mu.Lock()
	held := r.held
	r.mu.Unlock()
	if held != nil {
		<-held
	}
}

type reader func([]byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }
