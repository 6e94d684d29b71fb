package mesherstream

import (
	"strings"
	"testing"
)

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

// A level is whatever the application says, as long as it is UTF-8.
func TestTheLevelsOfAGapSumUpWhateverTheyAre(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithWindow(20), WithMaxBuffer(1))
		v := w.connectV1("shop")
		w.stall(v, 20)
		for _, level := range []string{"\uFFFD", "é", "a\tb", "\U0001F600", `"`, "\x00", "\u2028", "<b>", "*", "__proto__", ""} {
			for range 3 {
				w.publishAll(Message{Level: level, Data: []byte("x")})
			}
		}
		w.publishAll(Message{Level: "error", Data: []byte("last")})
		w.eventually("they are dropped", func() bool { return w.client(v.viewer).Dropped == 33 })
		v.ack()
		v.expect("last")
		sum := 0
		for _, n := range v.gaps[0].ByLevel {
			sum += n
		}
		if len(v.gaps) != 1 || v.gaps[0].Dropped != 33 || sum != 33 {
			w.Errorf("got %+v, want one gap of 33, whose levels sum up", v.gaps)
		}
	})
}

// What a client has not been told yet when the server shuts down, it is told then, also where no message follows.
func TestAShutdownTellsTheLastGap(t *testing.T) {
	for name, opts := range map[string][]Option{
		"behind what was kept":     {WithOverflow(DropNewest)},
		"before what was filtered": nil,
	} {
		t.Run(name, func(t *testing.T) {
			overTransports(t, func(w *world) {
				const window = 20
				w.start(append(opts, WithWindow(window), WithMaxBuffer(2))...)
				v := w.connectV1("shop")
				w.stall(v, window)
				w.publishAll(texts("error", 0, 5)...)
				w.eventually("3 are dropped", func() bool { return w.client(v.viewer).Dropped == 3 })
				if opts != nil {
					v.received = 2 // room for those that wait, and for no gap behind them
					v.ack()
					v.expect("error 0", "error 1")
				} else {
					v.send(`{"type":"subscribe","filters":{"level":"fatal"}}`)
					v.viewer.next()
				}
				w.eventually("nothing waits", func() bool { return w.client(v.viewer).Buffered == 0 })
				v.collect()
				if err := w.m.Shutdown(w.Context()); err != nil {
					w.Errorf("Shutdown: %v", err)
				}
				<-v.done
				if got := v.collected(); len(got) != 1 || !strings.Contains(got[0], `"dropped":3,`) {
					w.Errorf("got %q, want a gap of 3", got)
				}
			})
		})
	}
}
