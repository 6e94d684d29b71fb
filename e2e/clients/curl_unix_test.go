//go:build unix

package clients

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/mesher/mesherstream"
)

// A curl that is stopped is a slow client. Its gap says where to go on from.
func TestCurlIsToldWhatItMissesAndGoesOnFromThere(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		t.Parallel()
		w := start(t, tr, mesherstream.WithMaxBuffer(5), mesherstream.WithUnsentLimit(16<<10), mesherstream.WithHistory(10_000), mesherstream.WithHistoryBytes(256<<20))
		c := w.curl(t, "shop", "-sSN")
		id := c.joins(w, "shop")
		pause := func(s syscall.Signal) {
			if err := c.cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		pause(syscall.SIGSTOP)
		last, padding := 0, strings.Repeat("x", 8<<10)
		publish := func() {
			last++
			w.tell(t, "shop", "", fmt.Sprintf(`{"n":%d,"p":%q}`, last, padding))
		}
		for dropped := uint64(0); dropped < 10; {
			if publish(); last > 5000 {
				t.Fatalf("after %d messages of 8 KiB, the client isn't slow", last)
			}
			seen, _ := w.m.Client(id)
			dropped = seen.Dropped
		}
		pause(syscall.SIGCONT)
		// Each message is printed or told as missing, in order.
		next, afterGap, position := 1, 0, ""
		for next <= last {
			got := parse(t, c.line())
			if gap := got.Mesherstream; gap != nil {
				if gap.Type != "gap" || gap.Dropped == 0 || gap.Position == "" {
					t.Fatalf("got %+v, want a gap with a position", gap)
				}
				next += gap.Dropped
				afterGap, position = next, gap.Position
				continue
			}
			if got.N != next {
				t.Fatalf("got message %d, want %d", got.N, next)
			}
			next++
		}
		if position == "" {
			t.Fatal("curl was told of no gap")
		}
		pause(syscall.SIGINT)
		w.leaves(t, "shop", closing{Code: 1006})
		publish()

		again := w.curl(t, "shop?since="+position, "-sSN")
		for next := afterGap; next <= last; next++ {
			if got := parse(t, again.line()); got.N != next {
				t.Fatalf("since the gap: got %+v, want message %d", got, next)
			}
		}
	})
}

// A printed is a line that curl has printed.
type printed struct {
	N            int
	Mesherstream *struct {
		Type     string
		Dropped  int
		Position string
	}
}

func parse(t *testing.T, line string) (p printed) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), &p); err != nil {
		t.Fatalf("the line %.200q: %v", line, err)
	}
	return p
}
