package soak

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// vitals is what a process holds.
type vitals struct {
	heap        int // bytes that are in use after a collection
	goroutines  int
	descriptors int // 0 where that can't be known
}

func (v vitals) String() string {
	return fmt.Sprintf("heap %d KiB, %d goroutines, %d descriptors", v.heap>>10, v.goroutines, v.descriptors)
}

// heapTolerance is for what the runtime and its pools keep of a peak: maps don't shrink.
const heapTolerance = 1 << 20

// atRest measures when what is about to end has ended: when two measurements agree, and are not above want.
func atRest(want vitals) (v vitals) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		last := v
		v = measure()
		settled := v.goroutines == last.goroutines && v.descriptors == last.descriptors
		if settled && (want == vitals{} || !v.above(want)) {
			return v
		}
	}
	return v
}

func (v vitals) above(want vitals) bool {
	return v.heap > want.heap+heapTolerance || v.goroutines > want.goroutines || v.descriptors > want.descriptors
}

func measure() vitals {
	runtime.GC()
	runtime.GC() // what was in a sync.Pool goes with the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	descriptors, _ := os.ReadDir("/proc/self/fd")
	return vitals{int(m.HeapAlloc), len(goroutines()), len(descriptors)}
}

// goroutines returns the stack of each, but for those of fasthttp that look every ten seconds whether they may end.
func goroutines() []string {
	buf := make([]byte, 1<<20)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	return slices.DeleteFunc(all, func(stack string) bool { return strings.Contains(stack, "fasthttp.(*workerPool).Start.func") })
}

func (v vitals) compare(t *testing.T, before vitals) {
	t.Helper()
	if v.heap > before.heap+heapTolerance {
		t.Errorf("heap: %d KiB, and it was %d KiB", v.heap>>10, before.heap>>10)
	}
	if v.descriptors > before.descriptors {
		t.Errorf("descriptors: %d, and there were %d", v.descriptors, before.descriptors)
	}
	if v.goroutines > before.goroutines {
		t.Errorf("goroutines: %d, and there were %d:\n%s", v.goroutines, before.goroutines, strings.Join(goroutines(), "\n\n"))
	}
}
