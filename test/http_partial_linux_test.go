package test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// The kernel stops anywhere within what is written at once, with heartbeats and gaps in between. Events and lines stay
// whole, and each ID stays a place in the stream.
func TestTheKernelTearsEventsAnywhereAndTheStreamStaysWhole(t *testing.T) {
	const seed = 1
	for _, tr := range tight {
		for _, accept := range plainAccepts {
			for _, maxBuffer := range []int{20, 2000} { // with gaps and without
				t.Run(fmt.Sprint(tr.Name, " ", accept, " buffer=", maxBuffer), func(t *testing.T) {
					t.Parallel()
					(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
						w.Start(mesherstream.WithUnsentLimit(1<<10), mesherstream.WithMaxBuffer(maxBuffer), mesherstream.WithMaxBufferBytes(64<<20), mesherstream.WithHistory(10_000), mesherstream.WithHistoryBytes(256<<20),
							mesherstream.WithPingInterval(20*time.Millisecond), mesherstream.WithIdleTimeout(0), mesherstream.WithDrainInterval(time.Millisecond))
						random := rand.New(rand.NewPCG(seed, uint64(maxBuffer)))
						p := w.Follow("shop", accept)
						var all []string
						var got []string
						ids := map[string]bool{}
						dropped := 0
						publish := func(n int) {
							for range n {
								size := random.IntN(300)
								if random.IntN(40) == 0 {
									size = 60<<10 + random.IntN(20<<10)
								}
								text := fmt.Sprintf("%d %s", len(all), strings.Repeat("z\n", size/2))
								all = append(all, text)
								w.PublishAll(mesherstream.Message{Data: []byte(text)})
							}
						}
						for range 4 {
							publish(40)
							for len(got)+dropped < len(all) {
								gaps := len(p.Gaps)
								text := p.Next()
								for _, g := range p.Gaps[gaps:] {
									dropped += g.Dropped
								}
								if i := len(got) + dropped; i >= len(all) || text != all[i] {
									w.Fatalf("got %.20q of %d bytes, want message %d", text, len(text), i)
								}
								got = append(got, text)
								ids[p.Parser.LastID] = true
							}
						}
						if maxBuffer == 2000 && dropped > 0 || maxBuffer == 20 && dropped == 0 {
							w.Errorf("got %d dropped messages with a buffer of %d", dropped, maxBuffer)
						}
						delete(ids, "")
						if accept == streamtest.AcceptEvents && len(ids) < 3 {
							w.Errorf("got %d IDs, want more", len(ids))
						}
						tried := 0
						for id := range ids {
							if tried++; tried > 3 {
								break
							}
							// From there, it is a stream that ends as this one did.
							again := w.Follow("shop", streamtest.AcceptEvents, "Last-Event-ID: "+id)
							back := again.Hello.Returned
							if back == nil || !back.Complete || back.AtMost == nil {
								w.Fatalf("from ID %s: got %+v, want a complete return", id, again.Hello)
							}
							for next := len(all) - *back.AtMost; next < len(all); next++ {
								gaps := len(again.Gaps)
								text := again.Next()
								for _, g := range again.Gaps[gaps:] { // on a busy machine, it skips what it can't take in five seconds
									next += g.Dropped
								}
								if next >= len(all) || text != all[next] {
									w.Fatalf("from ID %s: got %.20q, gaps %+v, want message %d", id, text, again.Gaps, next)
								}
							}
							again.Leave()
						}
					})
				})
			}
		}
	}
}
