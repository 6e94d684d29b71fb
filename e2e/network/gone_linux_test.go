package network

import (
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
)

// departure waits for the next client that goes.
func (s *server) departure() departure {
	s.t.Helper()
	select {
	case d := <-s.gone:
		return d
	case <-time.After(3 * time.Minute):
		s.t.Fatal("no client has gone")
		return departure{}
	}
}

// TestACutClientIsRemovedByTheIdleTimeout cuts a client off for longer than the idle timeout: with -long for 90 s, with
// the default timeout of 60 s and the default ping interval of 25 s, and otherwise for 10 s, with 4 s and 1 s.
func TestACutClientIsRemovedByTheIdleTimeout(t *testing.T) {
	t.Parallel()
	cut, idle, ping := 10*time.Second, 4*time.Second, time.Second
	if *long {
		cut, idle, ping = 90*time.Second, 60*time.Second, 25*time.Second
	}
	n := New(t)
	here, away := newGroup(t, n), newGroup(t, n)
	hereLink, awayLink := n.Link(here.Host, fair), n.Link(away.Host, fair)
	s := newServer(t, mesherstream.WithIdleTimeout(idle), mesherstream.WithPingInterval(ping))
	f := &feed{t: t, servers: []*server{s}}
	here.connect(s.at(hereLink))
	away.connect(s.at(awayLink))
	stop := f.start(200)
	defer stop()
	eventually(t, "both get events", func() bool {
		return len(here.take()[0].Arrivals) > 0 && len(away.take()[0].Arrivals) > 0
	})

	begin := time.Now()
	cutAt := pace.Clock()
	awayLink.Set(Quality{Cut: true})
	d := s.departure()
	after := d.at - cutAt
	t.Logf("idle timeout %v, ping interval %v: removed %v after the cut, with code %d, %q; %+v", idle, ping, after, d.code, d.reason, d.client)
	if d.client.RemoteAddr != awayLink.Client.String() || d.code != 1006 || d.reason != "the client gave no sign of life" {
		t.Errorf("the client that went: got %+v, want the one that was cut off, as idle", d)
	}
	// Its last sign of life was a pong, at most one ping interval and a round trip before the cut. The wheel notices
	// within a quarter of the ping interval, and a busy machine somewhat later.
	if earliest, latest := idle-ping-time.Second, idle+ping/4+20*time.Second; after < earliest || after > latest {
		t.Errorf("removed %v after the cut, want from %v to %v", after, earliest, latest)
	}
	if got := d.client.Sent + d.client.Dropped + d.client.Abandoned; got != d.client.Offered {
		t.Errorf("accounts of the client that went: Sent+Dropped+Abandoned = %d, want Offered = %d", got, d.client.Offered)
	}

	time.Sleep(time.Until(begin.Add(cut)))
	mended := pace.Clock()
	awayLink.Set(fair)
	// Whether its kernel ever hears that the connection is over depends on how long the server's kernel still tries.
	var last Seen
	old := 0
	for deadline := mended + 20*time.Second; last.Ended == "" && pace.Clock() < deadline; time.Sleep(10 * time.Millisecond) {
		last = away.take()[0]
		for _, a := range last.Arrivals {
			if a.Arrived > mended {
				old++
			}
		}
	}
	if last.Ended == "" {
		t.Logf("the client was told nothing within 20s of the mending, and got %d old events", old)
	} else {
		t.Logf("the client was told %v after the mending, behind %d old events: %s", last.EndedAt-mended, old, last.Ended)
	}

	away.close()
	again := pace.Clock()
	newest := f.newest(again)
	away.connect(s.at(awayLink))
	var first Arrival
	eventually(t, "it gets events again", func() bool {
		seen := away.take()[0]
		if len(seen.Arrivals) == 0 {
			return false
		}
		first = seen.Arrivals[0]
		return true
	})
	t.Logf("connected again: first event after %v, %v old", first.Arrived-again, first.age())
	if first.Number <= newest {
		t.Errorf("first event of the new connection: got %d, want one after %d", first.Number, newest)
	}
	if seen := here.take()[0]; seen.Ended != "" {
		t.Errorf("the client beside it was disconnected: %s", seen.Ended)
	}
	s.eventually("the accounts of who is there", func() bool {
		st := s.Stats()
		return st.Clients == 2 && st.Connects == 3 && st.Disconnects == 1
	})
}

// TestAKilledClientIsRemovedAtOnce kills clients. Their kernels say so, and the idle timeout, of an hour, has no part in
// it.
func TestAKilledClientIsRemovedAtOnce(t *testing.T) {
	t.Parallel()
	for name, quality := range map[string]Quality{"fair": fair, "far": far} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := New(t)
			here, away := newGroup(t, n), newGroup(t, n)
			hereLink, awayLink := n.Link(here.Host, fair), n.Link(away.Host, quality)
			s := newServer(t, mesherstream.WithIdleTimeout(time.Hour))
			f := &feed{t: t, servers: []*server{s}}
			here.connect(s.at(hereLink))
			away.connect(s.at(awayLink))
			stop := f.start(200)
			defer stop()
			eventually(t, "the client has missed something, or has much", func() bool {
				c, _ := s.client(awayLink.Client)
				return c.Dropped > 0 || c.Sent > 400
			})

			killed := pace.Clock()
			away.Kill()
			d := s.departure()
			t.Logf("removed %v after it was killed, with code %d, %q; %+v", d.at-killed, d.code, d.reason, d.client)
			if d.client.RemoteAddr != awayLink.Client.String() || d.code != 1006 {
				t.Errorf("the client that went: got %+v, want the one that was killed, with code 1006", d)
			}
			if got := d.client.Sent + d.client.Dropped + d.client.Abandoned; got != d.client.Offered {
				t.Errorf("accounts of the client that went: Sent+Dropped+Abandoned = %d, want Offered = %d", got, d.client.Offered)
			}
			if st := s.Stats(); st.Clients != 1 || st.Disconnects != 1 || st.Abandoned != d.client.Abandoned {
				t.Errorf("Stats(): got %+v, want one client left and one gone", st)
			}
		})
	}
}
