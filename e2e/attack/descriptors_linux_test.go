package attack

import (
	"net"
	"strings"
	"testing"
	"time"
)

// fasthttp takes it for the end when the process has no descriptor left for the next connection: app.Listen returns, and
// nobody is let in any more. Those who stream lose nothing even then.
func TestStreamsGoOnWhenDescriptorsRunOut(t *testing.T) {
	s := newTarget(t, settings{ReadTimeout: 3 * time.Second, Ping: time.Second, Idle: 10 * time.Second, Descriptors: 300})
	b := s.watch()
	s.knock(600)
	b.mustGetOn()
	b.leave()
	s.end()
	if !strings.Contains(s.log.String(), "app.Listener returned") {
		t.Errorf("app.Listener did not return, and SECURITY.md says that it does:\n%s", s.log)
	}
}

// Fiber's Concurrency bounds the connections that are no streams, WithMaxClients those that are. Where both fit into the
// limit of descriptors, it is never reached.
func TestCapsThatFitIntoTheDescriptorsKeepTheAppListening(t *testing.T) {
	s := newTarget(t, settings{
		ReadTimeout: 3 * time.Second, Ping: time.Second, Idle: 10 * time.Second,
		Descriptors: 300, Concurrency: 100, MaxClients: 80,
	})
	b := s.watch()
	before := s.vitals()
	for range 3 {
		s.knock(400)
		for _, conn := range s.knock(200) {
			_, _ = conn.Write([]byte(handshake)) // beyond the caps, it is closed already
		}
		b.mustGetOn()
	}
	s.eventually("the attackers are gone", func(v vitals) bool { return v.Stats.Clients == len(b.conns) && v.Descriptors <= before.Descriptors })
	b.join()
	b.leave()
	s.end()
	if strings.Contains(s.log.String(), "app.Listener returned") {
		t.Errorf("app.Listener returned:\n%s", s.log)
	}
}

// knock opens up to n connections, as many as are taken.
func (s *target) knock(n int) (conns []net.Conn) {
	s.Helper()
	for range n {
		conn, err := net.DialTimeout("tcp", s.addr, 10*time.Second)
		if err != nil {
			break
		}
		s.Cleanup(func() { _ = conn.Close() })
		conns = append(conns, conn)
	}
	return conns
}
