package network

import (
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/e2e/internal/pace"
)

// fair is the network of the clients that get into trouble, before and after it.
var fair = Quality{Rate: 10_000_000, QueueBytes: 128 << 10, Delay: 20 * time.Millisecond}

// maxBuffer is the default of WithMaxBuffer. A client that is no more events behind than that is within the newest ones.
const maxBuffer = 100

// patient is a client that gets into trouble and out of it again. Its server has an idle timeout of an hour.
type patient struct {
	*group
	name   string // what is special about it
	link   *Link
	server *server

	sent      uint64        // to the client when the trouble ended, as its server counts
	recovered time.Duration // when the trouble ended
	arrivals  []Arrival
}

// newPatient makes the client's host and its link. The server comes later, so that it is closed while its clients can
// still answer.
func newPatient(t *testing.T, n *Network, name string) *patient {
	t.Helper()
	p := &patient{group: newGroup(t, n), name: name}
	p.link = n.Link(p.Host, fair)
	return p
}

// client is what the server says of the patient.
func (p *patient) client() mesherstream.Client {
	p.t.Helper()
	c, ok := p.server.client(p.link.Client)
	if !ok {
		p.t.Fatalf("%s: the client is gone", p.name)
	}
	return c
}

// end ends the trouble.
func (p *patient) end(trouble func(p *patient)) {
	p.t.Helper()
	p.sent, p.recovered = p.client().Sent, pace.Clock()
	trouble(p)
}

// watch takes over what the patient has seen.
func (p *patient) watch() {
	p.t.Helper()
	seen := p.take()[0]
	p.arrivals = append(p.arrivals, seen.Arrivals...)
	if seen.Ended != "" {
		p.t.Fatalf("%s: the client was disconnected: %s", p.name, seen.Ended)
	}
}

// awaitNewest waits until the patient is within the newest events.
func (p *patient) awaitNewest(f *feed) {
	p.t.Helper()
	eventually(p.t, p.name+": within the newest events", func() bool {
		p.watch()
		_, ok := p.fresh(f)
		return ok
	})
}

// awaitLast waits until the patient has got that event.
func (p *patient) awaitLast(number int) {
	p.t.Helper()
	eventually(p.t, p.name+": the newest event has arrived", func() bool {
		p.watch()
		return p.arrivals[len(p.arrivals)-1].Number == number
	})
}

// stale is the index of the first event that arrived after the recovery.
func (p *patient) stale() int {
	for i, a := range p.arrivals {
		if a.Arrived > p.recovered {
			return i
		}
	}
	return len(p.arrivals)
}

// fresh is the index of the first event after the recovery that is within the newest ones.
func (p *patient) fresh(f *feed) (index int, ok bool) {
	for i := p.stale(); i < len(p.arrivals); i++ {
		if f.newest(p.arrivals[i].Arrived)-p.arrivals[i].Number <= maxBuffer {
			return i, true
		}
	}
	return 0, false
}

// report logs the patient's recovery, and checks what must hold of it on any machine. It is called when the patient has
// got everything.
func (p *patient) report(f *feed) {
	p.t.Helper()
	inOrder(p.t, p.name, p.arrivals)
	c := p.client()
	if got := uint64(len(p.arrivals)); c.Sent != got {
		p.t.Errorf("%s: the client got %d events, and the server has sent %d", p.name, got, c.Sent)
	}
	stale := p.stale()
	fresh, _ := p.fresh(f)
	first, newest := p.arrivals[stale], p.arrivals[fresh]
	held := int(p.sent) - stale // what both kernels and the road held when the trouble ended
	p.t.Logf("%-58s: first event after %6d ms, %6d ms old; within the newest after %6d ms, behind %4d events; the kernels held %4d (%3d KiB); %d dropped",
		p.name, (first.Arrived - p.recovered).Milliseconds(), first.age().Milliseconds(),
		(newest.Arrived - p.recovered).Milliseconds(), fresh-stale, held, held*frameBytes>>10, c.Dropped)
	// All that is stale was in the kernels when the trouble ended, or was among the newest then, or was published since:
	// what the server holds itself is never older than its buffer.
	if most := held + maxBuffer + 1 + f.newest(newest.Arrived) - f.newest(p.recovered); fresh-stale > most {
		p.t.Errorf("%s: %d stale events, want at most %d", p.name, fresh-stale, most)
	}
}
