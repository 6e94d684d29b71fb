package network

import (
	"fmt"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// trouble is what happens to a client for some time.
type trouble struct {
	name       string
	length     time.Duration
	begin, end func(p *patient)
}

// TestClientsRecoverFromTrouble measures what clients see after a trouble with the network or with themselves, by
// WithUnsentLimit: how old the first event is, and how long it takes until they are within the newest ones. With -long
// the trouble lasts as long as promised.
//
// The servers here have an idle timeout of an hour, so that the clients are still there;
// TestACutClientIsRemovedByTheIdleTimeout is about the others.
func TestClientsRecoverFromTrouble(t *testing.T) {
	t.Parallel()
	storms, short, cut := 5, 5*time.Second, 10*time.Second
	if *long {
		storms, short, cut = 50, 10*time.Second, 90*time.Second
	}
	troubles := []trouble{ // the shortest one first, since they begin together
		{"stopped", short, func(p *patient) { p.Stop() }, func(p *patient) { p.Continue() }},
		{"cable cut", cut, func(p *patient) { p.link.Set(Quality{Cut: true}) }, func(p *patient) { p.link.Set(fair) }},
		{"64 kbit/s, 300 ms, 5 % loss", cut, func(p *patient) { p.link.Set(far) }, func(p *patient) { p.link.Set(fair) }},
	}
	limits := []int{64 << 10, 16 << 10, 0}
	n := New(t)
	patients := make([][]*patient, len(troubles))
	for i, tr := range troubles {
		for _, limit := range limits {
			name := fmt.Sprintf("unsent limit %2d KiB, %s for %v", limit>>10, tr.name, tr.length)
			patients[i] = append(patients[i], newPatient(t, n, name))
		}
	}
	f := &feed{t: t}
	for j, limit := range limits {
		s := newServer(t, mesherstream.WithUnsentLimit(limit), mesherstream.WithIdleTimeout(time.Hour))
		f.servers = append(f.servers, s)
		for i := range troubles {
			patients[i][j].server = s
			patients[i][j].connect(s.at(patients[i][j].link))
		}
	}

	f.storm(storms)
	stop := f.start(200)
	defer stop()
	begin := time.Now()
	for i, tr := range troubles {
		for _, p := range patients[i] {
			tr.begin(p)
		}
	}
	for i, tr := range troubles {
		time.Sleep(time.Until(begin.Add(tr.length)))
		for _, p := range patients[i] {
			p.end(tr.end)
		}
	}
	for i := range troubles {
		for _, p := range patients[i] {
			p.awaitNewest(f)
		}
	}
	stop()
	last := f.publish()
	for i := range troubles {
		for _, p := range patients[i] {
			p.awaitLast(last)
			p.report(f)
		}
	}
	for j, s := range f.servers {
		s.checkAccounts()
		if st := s.Stats(); st.Clients != len(troubles) || st.Disconnects != 0 {
			t.Errorf("Stats() with an unsent limit of %d: got %+v, want %d clients, and none that has gone", limits[j], st, len(troubles))
		}
	}
}
