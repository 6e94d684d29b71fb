package network

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
)

// Plain opens streams over plain HTTP, one to each address. What arrives is read and thrown away.
func (v *Viewers) Plain(c Plain, _ *struct{}) error {
	for _, addr := range c.Addrs {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "GET /stream/projects/shop HTTP/1.1\r\nHost: %s\r\nAccept: %s\r\n\r\n", addr, c.Accept); err != nil {
			return err
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }() // until the host ends
	}
	return nil
}

// Plain is a call.
type Plain struct {
	Addrs  []string
	Accept string
}

// TestACutClientOfPlainHTTPIsRemovedByTheIdleTimeout cuts off clients of which nothing is heard anyway. All that is sent to
// them is heartbeats, which their kernels no longer acknowledge.
func TestACutClientOfPlainHTTPIsRemovedByTheIdleTimeout(t *testing.T) {
	t.Parallel()
	for name, accept := range map[string]string{"events": "text/event-stream", "lines": "*/*"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const idle, ping = 4 * time.Second, time.Second
			n := New(t)
			here, away := newGroup(t, n), newGroup(t, n)
			hereLink, awayLink := n.Link(here.Host, fair), n.Link(away.Host, fair)
			s := newServer(t, mesherstream.WithIdleTimeout(idle), mesherstream.WithPingInterval(ping))
			here.call("Plain", Plain{[]string{s.at(hereLink)}, accept}, nil)
			away.call("Plain", Plain{[]string{s.at(awayLink)}, accept}, nil)
			s.eventually("both are in", func() bool { return s.Stats().Clients == 2 })
			time.Sleep(2 * idle) // that it is quiet is no reason to remove anybody
			if got := s.Stats().Clients; got != 2 {
				t.Fatalf("after two idle timeouts in silence: got %d clients, want 2", got)
			}

			cutAt := pace.Clock()
			awayLink.Set(Quality{Cut: true})
			d := s.departure()
			after := d.at - cutAt
			t.Logf("idle timeout %v, ping interval %v: removed %v after the cut, with code %d, %q", idle, ping, after, d.code, d.reason)
			if d.client.RemoteAddr != awayLink.Client.String() || d.code != 1006 || d.reason != "the client gave no sign of life" {
				t.Errorf("the client that went: got %+v, want the one that was cut off, as idle", d)
			}
			if earliest, latest := idle-ping, idle+2*ping+20*time.Second; after < earliest || after > latest {
				t.Errorf("removed %v after the cut, want from %v to %v", after, earliest, latest)
			}
			if got := s.Stats().Clients; got != 1 {
				t.Errorf("got %d clients, want the one beside it", got)
			}
		})
	}
}
