//go:build linux

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/control"
)

// begin opens the window: messages from first on count.
func (l *load) begin(first uint64) {
	l.first = first
	for i := range l.clients {
		if c := &l.clients[i]; !c.churns && !c.stalled {
			c.account.begin(first)
		}
	}
	if l.churners > 0 {
		l.reconnectAt = clock.Now()
	}
	l.segments, l.reads = l.segmentsIn(), 0
	user, system := clock.CPU()
	l.cpu = user + system
}

// segmentsIn is how many segments with data have arrived at the clients that stay. Servers send by different system calls, and
// not all of them are counted in /proc, but a message that was sent by a call of its own is a segment of its own, as long as
// it is shorter than one.
func (l *load) segmentsIn() (n uint64) {
	for i := range l.clients {
		c := &l.clients[i]
		if c.stage != open || c.stalled || c.churns {
			continue
		}
		if info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n += uint64(info.Data_segs_in)
		}
	}
	return n
}

// end says which message was the last, and so how many are still to come.
func (l *load) end(last uint64) {
	l.ending, l.last, l.endAsked = true, last, clock.Now()
	l.reconnectAt = 0
	for i := range l.clients {
		c := &l.clients[i]
		switch {
		case c.churns && !c.account.begun:
			// It is about to come, or has come too late to see anything: there is nothing to wait for, and what it might still
			// begin with is not part of what is owed.
			l.leave(c)
		case c.stage == open:
			l.owed += c.account.owed(last)
		default:
			c.account.end(last, &l.tally)
		}
	}
}

// finished reports whether everything has come, or nothing does any more.
func (l *load) finished(now int64) bool {
	return l.owed == 0 ||
		now-max(l.lastArrival, l.endAsked) > int64(l.quiet) ||
		now-l.endAsked > int64(l.patience)
}

// connectReport says how long the handshakes took.
func (l *load) connectReport() *control.ReceivedReport {
	h := &l.handshakes
	return &control.ReceivedReport{
		Clients: l.established,
		P50:     h.Quantile(0.50), P95: h.Quantile(0.95), P99: h.Quantile(0.99), P999: h.Quantile(0.999), Max: h.Max(),
	}
}

// report closes the window and says what was counted.
func (l *load) report() error {
	l.reported = true
	user, system := clock.CPU()
	r := control.ReceivedReport{
		Clients:    len(l.clients),
		Stalled:    l.stalled,
		Complete:   l.owed == 0,
		Other:      l.other,
		Pings:      l.pings,
		ClosedByIt: l.closed,
		Reconnects: l.reconnects,
		Reads:      l.reads,
		Segments:   l.segmentsIn() - l.segments,
		Expected:   l.expected,
		P50:        l.latency.Quantile(0.50),
		P95:        l.latency.Quantile(0.95),
		P99:        l.latency.Quantile(0.99),
		P999:       l.latency.Quantile(0.999),
		Max:        l.latency.Max(),
		CPU:        user + system - l.cpu,
		// A run in which nothing arrived still has an end.
		LastNanos: max(l.lastArrival, l.endAsked-int64(time.Hour)),
	}
	for i := range l.clients {
		c := &l.clients[i]
		switch {
		case c.stalled:
			continue
		case c.churns:
			c.account.end(l.last, &l.tally)
			r.Expected += c.account.expected()
		default:
			c.account.end(l.last, &l.tally)
			// From the plan, not from the account, so that the sum below can fail.
			r.Expected += c.account.audience.Rank(l.last) - c.account.audience.Rank(l.first-1)
		}
	}
	r.Received, r.Lost, r.Repeated, r.Stray = l.received, l.lost, l.repeated, l.stray
	if err := l.answer(control.Answer{Say: control.Received, Receive: &r}); err != nil {
		return err
	}
	if r.Expected != r.Received+r.Lost || r.Stray > 0 {
		return fmt.Errorf("the run is void: expected %d, but received %d + lost %d, strays %d", r.Expected, r.Received, r.Lost, r.Stray)
	}
	return nil
}
