//go:build linux

package main

import "github.com/mesher/mesherstream/bench/internal/feed"

// tally is what all clients together have counted in the window.
type tally struct {
	received, lost, repeated, stray uint64
}

// account is one client's count of the messages in the window, by their rank among the messages that are for it.
type account struct {
	audience feed.Audience
	base     uint64 // rank of the last message before those that count
	rank     uint64 // rank of the last message that was received or is known to be lost
	begun    bool   // base and rank are set
}

// begin starts to count with message first.
func (a *account) begin(first uint64) {
	a.base = a.audience.Rank(first - 1)
	a.rank, a.begun = a.base, true
}

// saw counts message n and returns how many messages are accounted for by it: itself and those that it shows to be lost. An account that was not
// begun, that of a client which came in the middle, begins with the first message it sees. It reports counted false
// for a message that must not be there.
func (a *account) saw(n uint64, t *tally) (settled uint64, counted bool) {
	if !a.audience.Wants(n) {
		t.stray++
		return 0, false
	}
	if !a.begun {
		a.begin(n)
	}
	rank := a.audience.Rank(n)
	if rank <= a.rank {
		t.repeated++
		return 0, false
	}
	settled = rank - a.rank
	t.received++
	t.lost += settled - 1
	a.rank = rank
	return settled, true
}

// owed returns how many messages up to last have neither come nor been counted as lost.
func (a *account) owed(last uint64) uint64 {
	if !a.begun {
		return 0
	}
	return max(a.audience.Rank(last), a.rank) - a.rank
}

// end counts what is owed as lost.
func (a *account) end(last uint64, t *tally) {
	owed := a.owed(last)
	t.lost += owed
	a.rank += owed
}

// expected returns how many messages the client should have got since the account began.
func (a *account) expected() uint64 { return a.rank - a.base }
