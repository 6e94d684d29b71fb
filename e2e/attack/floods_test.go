package attack

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// masked is a frame as a client sends it.
func masked(first byte, payload string) []byte {
	p := []byte{first, 0x80 | byte(len(payload)), 1, 2, 3, 4}
	for i := range len(payload) {
		p = append(p, payload[i]^byte(i&3+1))
	}
	return p
}

// Floods from many clients at once: as fast as the sockets take it, and byte by byte.
func TestFloodsFromManyClientsHoldNobodyUp(t *testing.T) {
	lasts := 2 * time.Second
	if *long {
		lasts = 20 * time.Second
	}
	subscribe := masked(0x81, `{"type":"subscribe","filters":{"level":["error","fatal"]}}`)
	for _, flood := range []struct {
		name  string
		bytes []byte
		pause time.Duration // behind each byte; 0 sends as much as goes
		reads bool
	}{
		{"pings", bytes.Repeat(masked(0x89, strings.Repeat("p", 125)), 100), 0, false},
		{"pings, answers read", bytes.Repeat(masked(0x89, ""), 1000), 0, true},
		{"subscribes", bytes.Repeat(subscribe, 100), 0, false},
		{"byte by byte", subscribe, 5 * time.Millisecond, true},
	} {
		t.Run(flood.name, func(t *testing.T) {
			s := newTarget(t, settings{Ping: time.Second, Idle: 20 * time.Second})
			b := s.watch()
			before := s.vitals()
			end := time.Now().Add(lasts)
			var all sync.WaitGroup
			for _, conn := range s.dial(20) {
				_ = conn.SetDeadline(end)
				if _, err := conn.Write([]byte(handshake)); err != nil {
					t.Fatal(err)
				}
				if flood.reads {
					all.Go(func() { _, _ = io.Copy(io.Discard, conn) })
				}
				all.Go(func() { pour(conn, flood.bytes, flood.pause) })
			}
			b.join()
			b.mustGetOn()
			all.Wait()
			after := s.vitals()
			b.leave()
			if grown := after.Resident - before.Resident; grown > 64<<20 {
				t.Errorf("resident memory grew by %d KiB", grown>>10)
			}
			t.Logf("resident %d KiB before, %d after; %+v", before.Resident>>10, after.Resident>>10, after.Stats)
		})
	}
}

// pour writes p again and again until the connection or its time has ended.
func pour(conn net.Conn, p []byte, pause time.Duration) {
	defer conn.Close()
	for {
		if pause == 0 {
			if _, err := conn.Write(p); err != nil {
				return
			}
			continue
		}
		for i := range p {
			time.Sleep(pause)
			if _, err := conn.Write(p[i : i+1]); err != nil {
				return
			}
		}
	}
}
