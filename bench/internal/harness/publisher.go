//go:build linux

package harness

import (
	"sync/atomic"
	"time"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/feed"
)

// publisher calls Broadcast on an absolute schedule: when one call is late, those behind it carry the instant at which they should have
// been made, so that a publisher which was held up shows in every client's latency.
type publisher struct {
	server  Server
	traffic control.Traffic
	author  *feed.Author
	timer   *clock.Timer
	first   uint64

	// Written by run, read by report while run may hang in a Broadcast.
	last      atomic.Uint64 // the last message whose Broadcast returned
	calledAt  atomic.Int64  // when the Broadcast that is running was called; 0 between two
	longest   atomic.Int64
	startedAt atomic.Int64
	endedAt   atomic.Int64
}

func newPublisher(server Server, timer *clock.Timer, traffic control.Traffic, first uint64) *publisher {
	p := &publisher{server: server, timer: timer, traffic: traffic, first: first, author: feed.NewAuthor(traffic.Plan, traffic.Size)}
	p.last.Store(first - 1)
	return p
}

func (p *publisher) run() {
	start := clock.Now()
	p.startedAt.Store(start)
	end := start + int64(p.traffic.For)
	n := p.first
	if p.traffic.Every == 0 {
		for now := start; now < end; now = clock.Now() {
			p.broadcast(n, now)
			n++
		}
	} else {
		for due := start; due < end; due += int64(p.traffic.Every) {
			p.timer.SleepUntil(due)
			for range p.traffic.Batch {
				p.broadcast(n, due)
				n++
			}
		}
	}
	p.endedAt.Store(clock.Now())
}

func (p *publisher) broadcast(n uint64, scheduled int64) {
	event := p.author.Event(n, scheduled)
	called := clock.Now()
	p.calledAt.Store(called)
	p.server.Broadcast(event)
	took := clock.Now() - called
	p.calledAt.Store(0)
	p.last.Store(n)
	if took > p.longest.Load() {
		p.longest.Store(took)
	}
}

// report may be called while run is at work, and counts a Broadcast that hangs as one that takes until now.
func (p *publisher) report() control.PublishReport {
	now := clock.Now()
	longest := p.longest.Load()
	if called := p.calledAt.Load(); called != 0 {
		longest = max(longest, now-called)
	}
	ended, last := p.endedAt.Load(), p.last.Load()
	r := control.PublishReport{
		Last:             last,
		Broadcasts:       last + 1 - p.first,
		StartedNanos:     p.startedAt.Load(),
		LongestBroadcast: time.Duration(longest),
		Running:          ended == 0,
	}
	if ended == 0 {
		ended = now
	}
	r.Elapsed = time.Duration(ended - r.StartedNanos)
	return r
}
