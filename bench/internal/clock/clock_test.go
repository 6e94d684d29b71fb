//go:build linux

package clock

import (
	"testing"
	"time"
)

func TestAProcessThatIsInterruptedAtItsStartReadsTheSameClock(t *testing.T) {
	t.Parallel()
	readings := 0
	at, atNanos := pair(func() int64 {
		nanos := readNanos()
		if readings++; readings < 20 {
			time.Sleep(4 * time.Millisecond)
		}
		return nanos
	})
	off := time.Hour
	for range 100 { // this test may be interrupted too
		if again := time.Duration(readNanos()-atNanos) - time.Since(at); again.Abs() < off.Abs() {
			off = again
		}
	}
	if off.Abs() > time.Millisecond {
		t.Errorf("both clocks are %v apart, want that they agree", off)
	}
}
