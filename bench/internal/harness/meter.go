//go:build linux

package harness

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/control"
)

// Meter measures what the process uses in a window.
type Meter struct {
	began        time.Time
	user, system time.Duration
	memory       runtime.MemStats
	resident     int64
}

// Start begins the window.
func (m *Meter) Start() {
	// Writing 5 sets VmHWM back to what is resident now; without it the handshakes' peak would be the window's.
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
	m.resident = process("status", "VmRSS:") << 10
	runtime.ReadMemStats(&m.memory)
	m.user, m.system = clock.CPU()
	m.began = time.Now()
}

// Stop ends the window, and says what was used in it.
func (m *Meter) Stop() *control.MeasureReport {
	user, system := clock.CPU()
	wall := time.Since(m.began)
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return &control.MeasureReport{
		CPU:               user + system - m.user - m.system,
		User:              user - m.user,
		System:            system - m.system,
		Wall:              wall,
		Allocations:       memory.Mallocs - m.memory.Mallocs,
		AllocatedBytes:    memory.TotalAlloc - m.memory.TotalAlloc,
		Collections:       memory.NumGC - m.memory.NumGC,
		ResidentBytes:     m.resident,
		PeakResidentBytes: process("status", "VmHWM:") << 10,
		Goroutines:        runtime.NumGoroutine(),
	}
}

// Settle gives back what garbage collection and the pools that it empties can give back (sync.Pool takes two collections), and
// reports the rest.
func Settle() *control.MemoryReport {
	for range 3 {
		debug.FreeOSMemory()
	}
	return Glance()
}

// Glance reports what is in use, with the garbage that no collection has found yet. VmRSS of /proc/self/status may be wrong by
// a few dozen pages for each processor, because the kernel adds up its counters late; smaps_rollup counts the pages.
func Glance() *control.MemoryReport {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return &control.MemoryReport{
		ResidentBytes: process("smaps_rollup", "Rss:") << 10,
		HeapBytes:     int64(memory.HeapAlloc),
		HeapUsedBytes: int64(memory.HeapInuse),
		StackBytes:    int64(memory.StackInuse),
		Goroutines:    runtime.NumGoroutine(),
	}
}

// process returns the number in a line of a file in /proc/self, and 0 where there is none.
func process(file, key string) int64 {
	content, err := os.ReadFile("/proc/self/" + file)
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) > 1 && string(fields[0]) == key {
			n, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			return n
		}
	}
	return 0
}
