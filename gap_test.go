package mesherstream

import "testing"

// With levels that are kept, the dropped ones leave gaps between those that wait. When these give way too, their gaps must
// not be left behind: a page that is frozen answers pings, and stays for as long as it likes.
func TestTheGapsOfAClientThatStandsStillDoNotAddUp(t *testing.T) {
	const rounds, waiting = 10_000, 100
	b := backlog{gaps: new(gaps)}
	most := limits{waiting, 1 << 30, DropOldest, true}
	told := 0
	for i := range rounds {
		b.push(&message{frame: make([]byte, 10), level: "error", keep: true, at: int64(i)}, most)
		b.push(&message{frame: make([]byte, 10), level: "debug", at: int64(i)}, most)
		if len(b.gaps.list) > waiting+1 {
			t.Fatalf("after %d messages, %d gaps for the %d that wait", 2*i, len(b.gaps.list), b.len())
		}
	}
	for b.len() > 0 {
		if gap := b.gaps.due(b.first); gap != nil {
			told += gap.dropped
			b.gaps.told()
		}
		b.discard(1)
	}
	if gap := b.gaps.due(b.first); gap != nil {
		told += gap.dropped
	}
	if want := 2*rounds - waiting; told != want {
		t.Errorf("the gaps tell of %d, want %d", told, want)
	}
}
