//go:build linux

package main

import (
	"testing"

	"github.com/mesher/mesherstream/bench/internal/feed"
)

func newAccount(plan feed.Plan, client int) *account {
	return &account{audience: plan.Audience(client)}
}

func TestAGapIsLostAndTheSumHolds(t *testing.T) {
	var sum tally
	a := newAccount(feed.Plan{Projects: 1}, 0)
	a.begin(10)
	for _, n := range []uint64{10, 11, 14, 15} {
		a.saw(n, &sum)
	}
	if got := a.owed(20); got != 5 {
		t.Errorf("owed(20) = %d, want 16 to 20", got)
	}
	a.end(20, &sum)
	if want := (tally{received: 4, lost: 7}); sum != want {
		t.Errorf("got %+v, want %+v", sum, want)
	}
	if got := a.expected(); got != 11 || got != sum.received+sum.lost {
		t.Errorf("expected() = %d, want 11 = received + lost", got)
	}
}

func TestARepeatedMessageIsNotReceivedTwice(t *testing.T) {
	var sum tally
	a := newAccount(feed.Plan{Projects: 1}, 0)
	a.begin(1)
	for _, n := range []uint64{1, 2, 2, 1, 3} {
		a.saw(n, &sum)
	}
	if want := (tally{received: 3, repeated: 2}); sum != want {
		t.Errorf("got %+v, want %+v", sum, want)
	}
}

func TestAcrossFiltersOnlyMatchingMessagesAreMissed(t *testing.T) {
	plan := feed.Plan{Projects: 3, Filtered: true}
	for client := range 30 {
		var sum tally
		a := newAccount(plan, client)
		a.begin(100)
		var wanted, skipped uint64
		for n := uint64(100); n <= 1000; n++ {
			if !a.audience.Wants(n) {
				continue
			}
			wanted++
			if wanted%5 == 0 {
				skipped++
				continue
			}
			a.saw(n, &sum)
		}
		a.end(1000, &sum)
		if sum.received != wanted-skipped || sum.lost != skipped || a.expected() != wanted {
			t.Errorf("client %d: got %+v of %d, want %d received and %d lost", client, sum, a.expected(), wanted-skipped, skipped)
		}
	}
}

func TestAMessageForSomebodyElseIsAStray(t *testing.T) {
	var sum tally
	a := newAccount(feed.Plan{Projects: 2}, 0)
	a.begin(1)
	if _, counted := a.saw(3, &sum); counted || sum.stray != 1 || sum.received != 0 {
		t.Errorf("counted %v, %+v, want one stray", counted, sum)
	}
}

func TestAClientThatComesLateOwesNothingFromBefore(t *testing.T) {
	var sum tally
	a := newAccount(feed.Plan{Projects: 1}, 0)
	if a.owed(50) != 0 || a.expected() != 0 {
		t.Errorf("owed %d, expected %d before the first message, want 0", a.owed(50), a.expected())
	}
	a.saw(40, &sum)
	a.saw(42, &sum)
	if a.expected() != 3 || sum.received != 2 || sum.lost != 1 {
		t.Errorf("expected %d, %+v, want 3 with one lost", a.expected(), sum)
	}
}
