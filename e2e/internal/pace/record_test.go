package pace

import (
	"testing"
	"time"
)

func TestASummarySaysWhatWasMissedAndWhatWasTold(t *testing.T) {
	message := func(number int, at, age time.Duration) Sight {
		return Sight{Kind: Message, Number: number, At: at, Published: at - age}
	}
	for _, c := range []struct {
		name   string
		sights []Sight
		want   Summary
	}{
		{name: "nothing"},
		{
			"all told",
			[]Sight{message(3, 1, 1), {Kind: Gap, Number: 2}, {Kind: Gap, Number: 1}, message(7, 2, 1), message(8, 3, 2)},
			Summary{Handled: 2, P50: 2, P99: 2, Max: 2, Missing: 3, Told: 3},
		},
		{
			"told too late",
			[]Sight{message(0, 2, 1), message(2, 3, 1), {Kind: Gap, Number: 1}, message(3, 4, 1)},
			Summary{Handled: 3, P50: 1, P99: 1, Max: 1, Missing: 1, Told: 1, Untold: "between events 0 and 2: 1 missing, 0 told"},
		},
		{
			"told of events that may still come",
			[]Sight{message(0, 0, 9), {Kind: Gap, Number: 5}},
			Summary{},
		},
	} {
		r := &Record{sights: c.sights}
		got := r.Summary(2)
		if got.String() != c.want.String() || got.Untold != c.want.Untold || got.P50 != c.want.P50 || got.Max != c.want.Max {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}
