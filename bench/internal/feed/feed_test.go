package feed

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestRankCountsTheMessagesAClientWants(t *testing.T) {
	for _, plan := range []Plan{{Projects: 1}, {Projects: 7}, {Projects: 1, Filtered: true}, {Projects: 5, Filtered: true}} {
		for client := range 60 {
			a := plan.Audience(client)
			zero := a.Rank(0)
			var want uint64
			for n := uint64(1); n < 300; n++ {
				if a.Wants(n) {
					want++
				}
				if got := a.Rank(n) - zero; got != want {
					t.Fatalf("%+v, client %d: %d messages up to %d, want %d", plan, client, got, n, want)
				}
			}
		}
	}
}

func TestAudienceAndSubscriptionAgree(t *testing.T) {
	plan := Plan{Projects: 3, Filtered: true}
	author := NewAuthor(plan, MinSize)
	for client := range 60 {
		a := plan.Audience(client)
		sub := a.Subscription()
		if got := SubscriptionOf(sub.URI()); got != sub {
			t.Fatalf("SubscriptionOf(%q) = %+v, want %+v", sub.URI(), got, sub)
		}
		for n := uint64(1); n < 200; n++ {
			e := author.Event(n, 0)
			if got, want := a.Wants(n), sub.Wants(&e); got != want {
				t.Fatalf("client %d (%+v), message %d (%+v): Audience says %v, Subscription %v", client, sub, n, e, got, want)
			}
		}
	}
}

func TestFiveOfTenFilteredClientsWantAnyMessage(t *testing.T) {
	plan := Plan{Projects: 4, Filtered: true}
	for n := uint64(1); n < 100; n++ {
		var wanting int
		for client := range 40 {
			a := plan.Audience(client)
			if a.Wants(n) {
				wanting++
			}
		}
		if wanting != 5 {
			t.Fatalf("message %d is for %d clients, want 5", n, wanting)
		}
	}
}

func TestMessagesAreFoundInAnyEnvelope(t *testing.T) {
	author := NewAuthor(Plan{Projects: 1}, 80)
	var stream []byte
	for n := uint64(1); n <= 5; n++ {
		e := author.Event(n, int64(n)*1_000_000_007)
		if len(e.Data) != 80 || !json.Valid(e.Data) {
			t.Fatalf("message %d is %d bytes, valid JSON %v: %s", n, len(e.Data), json.Valid(e.Data), e.Data)
		}
		stream = append(stream, strings.Repeat("{", int(n)-1)...)
		stream = append(stream, e.Data...)
		stream = append(stream, "}\n"...)
	}
	var got []uint64
	for rest := stream; ; {
		n, nanos, tail, ok := Next(rest, 80)
		if !ok {
			break
		}
		if nanos != int64(n)*1_000_000_007 {
			t.Errorf("message %d carries %d", n, nanos)
		}
		got, rest = append(got, n), tail
	}
	if !slices.Equal(got, []uint64{1, 2, 3, 4, 5}) {
		t.Errorf("found %v, want 1 to 5", got)
	}
}

func TestAHalfStampIsKeptForTheNextFragment(t *testing.T) {
	e := NewAuthor(Plan{Projects: 1}, 80).Event(42, 7)
	stream := append([]byte("noise"), e.Data...)
	for cut := range stampLen + 5 {
		_, _, rest, ok := Next(stream[:cut], 80)
		if ok {
			t.Fatalf("found a message in the first %d bytes", cut)
		}
		n, nanos, _, ok := Next(append(slices.Clone(rest), stream[cut:]...), 80)
		if !ok || n != 42 || nanos != 7 {
			t.Fatalf("cut at %d: got %d, %d, %v, want 42, 7, true", cut, n, nanos, ok)
		}
	}
}
