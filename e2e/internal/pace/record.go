package pace

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// headBytes is how much of an event is used, and so how long it is at least.
const headBytes = 16

// Event returns an event of that length: its number, when it was published, and padding.
func Event(number int, published time.Duration, length int) []byte {
	p := make([]byte, max(length, headBytes))
	binary.BigEndian.PutUint64(p, uint64(number))
	binary.BigEndian.PutUint64(p[8:], uint64(published))
	return p
}

// Kind says what a viewer has seen.
type Kind string

// What a viewer sees.
const (
	Open    Kind = "open"    // a connection
	Message Kind = "message" // an event
	Gap     Kind = "gap"     // being told that events were dropped
	End     Kind = "end"     // of a connection
)

// Sight is one thing that a viewer has seen. Times are those of the machine's monotonic clock.
type Sight struct {
	Kind      Kind
	At        time.Duration // when the viewer began to handle it
	Number    int           // of the event; of a gap, how many were dropped; of a page's connection, the window in its hello
	Published time.Duration // when the event was
	Text      string        // how the connection ended
}

// Age is how old an event was when it was handled.
func (s Sight) Age() time.Duration { return s.At - s.Published }

// Record is all that one viewer has seen, in order. It is safe for concurrent use.
type Record struct {
	mu     sync.Mutex
	sights []Sight
}

// Add adds what the viewer has seen next.
func (r *Record) Add(s Sight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sights = append(r.sights, s)
}

// Sights returns what the viewer has seen until now.
func (r *Record) Sights() []Sight {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sights)
}

// Last returns the number of the newest event that was handled, or -1.
func (r *Record) Last() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range slices.Backward(r.sights) {
		if s.Kind == Message {
			return s.Number
		}
	}
	return -1
}

// Summary is what a record comes to.
type Summary struct {
	Handled       int // events that were handled after the moment from which ages count
	P50, P99, Max time.Duration
	Missing, Told int    // events, from the first to the last that was handled
	Untold        string // the first place where these two differ, or ""
	Ends          []Sight
}

// Summary adds up what the viewer has seen. The ages are of what it handled after that time.
func (r *Record) Summary(after time.Duration) (s Summary) {
	var ages []time.Duration
	previous, told := -1, 0
	for _, sight := range r.Sights() {
		switch sight.Kind {
		case End:
			s.Ends = append(s.Ends, sight)
		case Gap:
			told += sight.Number
		case Message:
			if previous >= 0 { // the first event of a viewer may be any
				missing := sight.Number - previous - 1
				s.Missing, s.Told = s.Missing+missing, s.Told+told
				if missing != told && s.Untold == "" {
					s.Untold = fmt.Sprintf("between events %d and %d: %d missing, %d told", previous, sight.Number, missing, told)
				}
			}
			previous, told = sight.Number, 0
			if sight.At >= after {
				ages = append(ages, sight.Age())
			}
		}
	}
	s.Handled = len(ages)
	if len(ages) > 0 {
		slices.Sort(ages)
		s.P50, s.P99, s.Max = ages[len(ages)/2], ages[len(ages)*99/100], ages[len(ages)-1]
	}
	return s
}

// String is the summary as a row of docs/reliability.md says it.
func (s Summary) String() string {
	var b strings.Builder
	round := func(d time.Duration) string { return fmt.Sprintf("%.3g s", d.Seconds()) }
	fmt.Fprintf(&b, "%d handled, age p50 %s, p99 %s, max %s; missing %d, told %d",
		s.Handled, round(s.P50), round(s.P99), round(s.Max), s.Missing, s.Told)
	for _, end := range s.Ends {
		fmt.Fprintf(&b, "; ended: %s", end.Text)
	}
	return b.String()
}
