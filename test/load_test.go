package test

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// TestAThousandClientsOfWhichAHundredNeverRead is the promise of the package in one test: the healthy clients lose
// nothing, memory stays flat, the accounts balance. Without -long it has a tenth of the clients.
func TestAThousandClientsOfWhichAHundredNeverRead(t *testing.T) {
	clients, stalled, broadcasts := 100, 10, 200
	if *streamtest.Long {
		clients, stalled, broadcasts = 1000, 100, 2000
	}
	w := &streamtest.World{T: t, Transport: streamtest.Transports[0]}
	w.Play(func(w *streamtest.World) {
		w.Start(mesherstream.WithShutdownTimeout(time.Second))
		var healthy []*counter
		for i := range clients {
			d := websocket.Dialer{NetDial: w.Dial}
			ws, _, err := d.Dial("ws://app.test/stream/projects/shop", nil)
			if err != nil {
				w.Fatalf("dial %d: %v", i, err)
			}
			w.Cleanup(func() { _ = ws.Close() })
			if i >= stalled {
				healthy = append(healthy, &counter{t: w.T, ws: ws})
			}
		}
		var readers sync.WaitGroup
		for _, c := range healthy {
			readers.Go(c.read)
		}
		w.Eventually("all are connected", func() bool { return w.M.Stats().Clients == clients })

		var longest time.Duration
		var resident []int
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := range broadcasts {
			<-tick.C
			data := fmt.Appendf(nil, "%08d%s", i, streamtest.Filler[:504])
			begin := time.Now()
			if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: data}); err != nil {
				w.Fatalf("Broadcast(%d): %v", i, err)
			}
			longest = max(longest, time.Since(begin))
			if i%(broadcasts/4) == broadcasts/4-1 {
				resident = append(resident, residentBytes())
			}
		}
		w.Eventually("the healthy ones have everything", func() bool {
			for _, c := range healthy {
				if int(c.received.Load()) < broadcasts {
					return false
				}
			}
			return true
		})
		s := w.M.Stats()
		if want := uint64(clients) * uint64(broadcasts); s.Offered != want {
			w.Errorf("Offered: got %d, want %d", s.Offered, want)
		}
		if s.Clients != clients || s.Abandoned != 0 {
			w.Errorf("Stats(): got %+v, want %d clients and nothing abandoned", s, clients)
		}
		if *streamtest.Long && (s.Slow != stalled || s.Dropped == 0) {
			w.Errorf("Stats(): got %+v, want %d slow ones, with drops", s, stalled)
		}
		for c := range w.M.Clients() {
			if c.Dropped > 0 && !c.Slow {
				w.Errorf("a healthy client lost something: %+v", c)
			}
		}
		w.CheckAccounts() // of each client too, while they are here

		// The race detector's shadow memory grows by itself.
		if growth := resident[3] - resident[1]; *streamtest.Long && growth > 16<<20 {
			w.Errorf("resident memory grew from %d to %d KiB in the second half", resident[1]>>10, resident[3]>>10)
		}
		w.Logf("longest Broadcast %v; resident after each quarter: %d KiB; %+v", longest, scaled(resident, 1<<10), s)

		w.Stop()
		readers.Wait()
	})
}

// counter is a client that checks that the numbers of its messages have no gap, as cheaply as possible.
type counter struct {
	t        *testing.T
	ws       *websocket.Conn
	received atomic.Int64
}

func (c *counter) read() {
	var text [8]byte
	for {
		_, r, err := c.ws.NextReader()
		if err == nil {
			_, err = io.ReadFull(r, text[:])
		}
		if err != nil {
			return
		}
		number, err := strconv.Atoi(string(text[:]))
		if want := int(c.received.Add(1)) - 1; err != nil || number != want {
			c.t.Errorf("a healthy client got message %d, %v, want %d", number, err, want)
			return
		}
	}
}

// residentBytes returns the memory of this process, clients included, after garbage has been returned to the system.
func residentBytes() int {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0 // known on Linux only
	}
	fields := strings.Fields(string(status))
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return pages * os.Getpagesize()
}

func scaled(list []int, unit int) []int {
	out := make([]int, len(list))
	for i := range list {
		out[i] = list[i] / unit
	}
	return out
}
