package network

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// far is the network of the bad clients: a phone on a train.
var far = Quality{Rate: 64_000, QueueBytes: 16 << 10, Delay: 300 * time.Millisecond, Loss: 0.05}

// TestBadNetworksDelayNobodyElse measures how late events are for good clients, in rounds with and without bad clients
// beside them. Without -long it is a small part of that.
func TestBadNetworksDelayNobodyElse(t *testing.T) {
	good, bad, rounds, length := 50, 10, 2, time.Second
	if *long {
		good, bad, rounds, length = 200, 50, 12, 10*time.Second
	} else {
		t.Parallel() // the ratio is of no interest then
	}
	const perSecond = 100
	n := New(t)
	near, away := newGroup(t, n), newGroup(t, n)
	wire := n.Wire(near.Host)
	var links []*Link
	for range bad {
		links = append(links, n.Link(away.Host, far))
	}
	s := newServer(t) // last, so that it is closed while its clients can still answer
	f := &feed{t: t, servers: []*server{s}}
	near.connect(slices.Repeat([]string{s.at(wire)}, good)...)
	s.eventually("the good clients are connected", func() bool { return s.Stats().Clients == good })

	stop := f.start(perSecond)
	defer stop()
	before := make([]int, good) // how many events each good client has got
	var without, with []time.Duration
	dropped := uint64(0)
	for round := range rounds {
		crowded := round%2 == 1
		if crowded {
			away.connect(s.atEach(links)...)
			s.eventually("the bad clients are slow, and have missed something", func() bool {
				st := s.Stats()
				return st.Slow == bad && st.Dropped > dropped
			})
			dropped = s.Stats().Dropped
			away.take()
		}
		collect(t, near, before)
		time.Sleep(length) // the round
		late := collect(t, near, before)
		p50, p99, worst := quantiles(late)
		t.Logf("round %2d, %3d bad clients: good ones get events after p50 %v, p99 %v, at most %v (%d arrivals)",
			round, s.Stats().Clients-good, p50, p99, worst, len(late))
		if !crowded {
			without = append(without, p99)
			continue
		}
		with = append(with, p99)
		var ages []time.Duration
		bytes := 0
		for i, seen := range away.take() {
			inOrder(t, fmt.Sprintf("bad client %d", i), seen.Arrivals)
			bytes += seen.Bytes
			for _, a := range seen.Arrivals {
				ages = append(ages, a.age())
			}
		}
		p50, _, worst = quantiles(ages)
		t.Logf("    the bad ones get %d kbit/s each, and events after p50 %v, at most %v",
			bytes*8/bad/int(length.Milliseconds()), p50, worst)
		if round < rounds-1 {
			away.close()
			s.eventually("the bad clients are gone", func() bool { return s.Stats().Clients == good })
		}
	}
	stop()

	// Their network is good again, and they see the newest.
	for _, l := range links {
		l.Set(Quality{})
	}
	begin, last := time.Now(), f.publish()
	reached := make(map[int]bool)
	s.eventually("the newest event has reached the bad clients", func() bool {
		for i, seen := range away.take() {
			if a := seen.Arrivals; len(a) > 0 && a[len(a)-1].Number == last {
				reached[i] = true
			}
		}
		return len(reached) == bad
	})
	t.Logf("%v after their network became good, all bad clients had the newest event", time.Since(begin))

	eventually(t, "the good clients have everything", func() bool {
		collect(t, near, before)
		return slices.Min(before) == last+1
	})
	s.checkAccounts()
	st := s.Stats()
	for c := range s.Clients() {
		if c.RemoteAddr == wire.Client.String() && (c.Dropped != 0 || c.Offered != uint64(last+1)) {
			t.Errorf("a good client: got %+v, want all %d events and no drop", c, last+1)
		}
	}
	slices.Sort(without)
	slices.Sort(with)
	t.Logf("p99 of the good clients: median of the rounds %v without bad clients, %v with them, ratio %.2f; %+v",
		without[len(without)/2], with[len(with)/2], with[len(with)/2].Seconds()/without[len(without)/2].Seconds(), st)
	// One that waits for a bad client waits for its round trip at least, and does so in every round. Rounds that are late
	// for other reasons show how busy the machine is.
	if rtt := 2 * far.Delay; with[0] > rtt && with[0] > 10*without[0] {
		t.Errorf("p99 of the good clients: got %v in the best round with bad clients, and %v in the best without, want less than a round trip of the bad ones, %v",
			with[0], without[0], rtt)
	}
}

// collect returns how late the events were that the viewers of a group got since the last call, and checks that none of
// them missed one. before is how many each of them had, and is brought up to date.
func collect(t *testing.T, g *group, before []int) (late []time.Duration) {
	t.Helper()
	for i, seen := range g.take() {
		if seen.Ended != "" {
			t.Fatalf("good client %d was disconnected: %s", i, seen.Ended)
		}
		for _, a := range seen.Arrivals {
			if a.Number != before[i] {
				t.Fatalf("good client %d got event %d, want event %d", i, a.Number, before[i])
			}
			before[i]++
			late = append(late, a.age())
		}
	}
	return late
}

func quantiles(list []time.Duration) (p50, p99, worst time.Duration) {
	if len(list) == 0 {
		return 0, 0, 0
	}
	slices.Sort(list)
	return list[len(list)/2], list[len(list)*99/100], list[len(list)-1]
}
