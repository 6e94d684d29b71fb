package attack

import (
	"io"
	"net"
	"testing"
	"time"
)

// Handshakes that are never finished are Fiber's to end, by its ReadTimeout. They take no place of a client's, and the
// stream goes on beside them.
func TestHalfOpenConnectionsHoldNobodyUpAndEndByFibersReadTimeout(t *testing.T) {
	timeout := time.Duration(many()/1000+2) * time.Second // long enough for all to be there at once
	s := newTarget(t, settings{ReadTimeout: timeout, Ping: time.Second, Idle: 10 * time.Second, MaxClients: 20})
	b := s.watch()
	before := s.vitals()
	for i, conn := range s.dial(many()) {
		if _, err := conn.Write([]byte(handshake[:i%len(handshake)])); err != nil {
			t.Fatal(err)
		}
	}
	during := s.vitals()
	b.join()
	b.mustGetOn()
	if during.Stats.Clients != before.Stats.Clients {
		t.Errorf("clients: got %d, want %d as before", during.Stats.Clients, before.Stats.Clients)
	}
	s.eventually("they are gone", func(v vitals) bool { return v.Descriptors <= before.Descriptors+2 })
	b.leave()
	t.Logf("%d half-open connections: %d descriptors and %d KiB resident before, %d and %d during, %d and %d after", many(),
		before.Descriptors, before.Resident>>10, during.Descriptors, during.Resident>>10, s.vitals().Descriptors, s.vitals().Resident>>10)
}

// Clients that stream and then fall silent, as machines do that lose their network, are removed by the idle timeout.
func TestClientsThatFallSilentAreRemoved(t *testing.T) {
	s := newTarget(t, settings{Ping: time.Second, Idle: 3 * time.Second})
	b := s.watch()
	before := s.vitals()
	for _, conn := range s.dial(many()) {
		if _, err := conn.Write([]byte(handshake)); err != nil {
			t.Fatal(err)
		}
	}
	s.eventually("all are clients", func(v vitals) bool { return int(v.Stats.Connects) == len(b.conns)+many() })
	during := s.vitals()
	b.mustGetOn()
	s.eventually("they are gone", func(v vitals) bool { return v.Stats.Clients == len(b.conns) && v.Descriptors <= before.Descriptors })
	b.leave()
	t.Logf("%d silent clients: %d KiB resident before, %d during; %+v", many(), before.Resident>>10, during.Resident>>10, s.vitals())
}

// The place of a client that never sees its 101 comes back with the end of its connection, and not by a timer.
func TestHandshakesThatAreResetGiveTheirPlacesBack(t *testing.T) {
	const places = 20
	s := newTarget(t, settings{Ping: time.Second, Idle: 5 * time.Second, MaxClients: places})
	begin := time.Now()
	for range 10 * places {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(handshake)); err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	for !s.letsIn(places) {
		if time.Since(begin) > 8*time.Second {
			t.Fatalf("after eight seconds, not all of %d places are free", places)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("%d handshakes that were reset at once; all %d places were free after %v", 10*places, places, time.Since(begin).Round(100*time.Millisecond))
}

// letsIn says whether n clients find a place at the same time.
func (s *target) letsIn(n int) bool {
	s.Helper()
	in := 0
	for range n {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			s.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		head := make([]byte, len("HTTP/1.1 101"))
		if _, err := conn.Write([]byte(handshake)); err == nil {
			_, _ = io.ReadFull(conn, head)
		}
		if string(head) == "HTTP/1.1 101" {
			in++
		}
	}
	return in == n
}
