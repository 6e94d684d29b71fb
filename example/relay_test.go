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
			io.Copy(to, from)
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
