package test

import (
	"bytes"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// The messages of floods, which are sent until the server ends them.
var floods = []struct {
	name  string
	frame []byte
}{
	{"pings", streamtest.Masked(wsframe.FinBit|wsframe.OpPing, strings.Repeat("p", wsframe.MaxControlPayload))},
	{"empty pings", streamtest.Masked(wsframe.FinBit|wsframe.OpPing, "")},
	{"pongs", streamtest.Masked(wsframe.FinBit|wsframe.OpPong, "nobody asked")},
	{"subscribes", streamtest.Masked(wsframe.FinBit|wsframe.OpText, `{"type":"subscribe","filters":{"level":["a","b","c"]}}`)},
	{"malformed requests", streamtest.Masked(wsframe.FinBit|wsframe.OpText, strings.Repeat("[", 100))},
	{"empty fragments", streamtest.Masked(wsframe.OpContinuation, "")},
	{"binary", streamtest.Masked(wsframe.FinBit|wsframe.OpBinary, "x")},
}

// A client that floods the server and reads nothing does not affect the others, and the server's memory does not grow
// with its 16 MiB. Without -long, a flood is a sixteenth of that.
func TestAFloodOfAClientThatReadsNothingCostsNobodyElseAnything(t *testing.T) {
	size, patience := 1<<20, time.Second
	if *streamtest.Long {
		size, patience = 16<<20, 20*time.Second
	}
	for _, flood := range floods {
		t.Run(flood.name, func(t *testing.T) {
			for _, tr := range streamtest.Sockets() {
				t.Run(tr.Name, func(t *testing.T) {
					(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
						w.Start()
						bystander := w.Connect("shop").Collect()
						attacker := w.Connect("shop")
						conn := attacker.WS.NetConn()
						if flood.name == "empty fragments" {
							if _, err := conn.Write(streamtest.Masked(wsframe.OpText, "")); err != nil {
								w.Fatal(err)
							}
						}
						before := heapBytes()
						var flooding sync.WaitGroup
						flooding.Go(func() {
							chunk := bytes.Repeat(flood.frame, 32<<10/len(flood.frame))
							_ = conn.SetWriteDeadline(time.Now().Add(patience))
							for range size / len(chunk) { // or until the server has enough, or no longer accepts anything
								if _, err := conn.Write(chunk); err != nil {
									return
								}
							}
						})
						w.Broadcast(0, 200, bystander)
						flooding.Wait()
						w.Broadcast(200, 220, bystander)
						w.Eventually("the other client has everything", func() bool { return len(bystander.Numbers()) == 220 })
						if got := bystander.Numbers(); !slices.IsSorted(got) {
							w.Errorf("the other client got %v", got)
						}
						if c := w.Client(bystander); c.Dropped > 0 {
							w.Errorf("the other client lost something: %+v", c)
						}
						// The memory of 220 messages of 4 KiB in the buffers of one client and in this test, and no
						// more.
						if after := heapBytes(); after > before+8<<20 {
							w.Errorf("the heap grew from %d to %d KiB under a flood", before>>10, after>>10)
						}
					})
				})
			}
		})
	}
}

func heapBytes() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// A client may send a frame as slowly as it likes: the server holds the part that has arrived, and no other client
// waits.
func TestAFrameThatComesByteByByteHoldsNobodyUp(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		bystander := w.Connect("shop").Collect()
		loris := w.Connect("shop")
		request := `{"type":"subscribe","filters":{"level":"` + strings.Repeat("x", 60) + `"}}`
		frame := streamtest.Masked(wsframe.FinBit|wsframe.OpText, request)
		for i := range frame {
			if _, err := loris.WS.NetConn().Write(frame[i : i+1]); err != nil {
				w.Fatal(err)
			}
			if i%20 == 0 {
				w.Broadcast(i/20, i/20+1)
			}
		}
		sent := (len(frame)-1)/20 + 1
		w.Eventually("the other client has everything", func() bool { return len(bystander.Numbers()) == sent })
		for !strings.Contains(loris.Next(), "filters_updated") { // after the messages that it was offered before
		}
	})
}
