//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReturnsAreAveragedAndSortedByCase(t *testing.T) {
	c := config{Clients: 2, Rounds: 2, Size: 512, Over: time.Second}
	of := func(missed int, cpu time.Duration) run {
		return run{
			missed:  missed,
			returns: []outcome{{Took: time.Millisecond, Messages: missed}, {Took: 3 * time.Millisecond, Messages: missed}},
			used:    usage{CPU: cpu, Allocations: 10, Peak: 3 << 20},
		}
	}
	got := c.table([]int{0, 100}, []run{of(0, 2*time.Microsecond), of(100, 8*time.Microsecond), of(0, 4*time.Microsecond), of(100, 12*time.Microsecond)})
	for i, want := range []string{"0|0|1.50 µs (1.00 µs – 2.00 µs)", "100|100|5.00 µs (4.00 µs – 6.00 µs)"} {
		if row := strings.Join(got.Rows[i+1], "|"); !strings.HasPrefix(row, want) || !strings.Contains(row, "|3.00 ms|") || !strings.Contains(row, "|3.0 MiB|") {
			t.Errorf("got %q, want %q and what follows", row, want)
		}
	}
}

func TestCasesAreNumbers(t *testing.T) {
	if got, err := parseMissed("0,100"); err != nil || !slices.Equal(got, []int{0, 100}) {
		t.Errorf("got %v, %v, want 0 and 100", got, err)
	}
	for _, list := range []string{"", "1,", "-1", "a"} {
		if got, err := parseMissed(list); err == nil {
			t.Errorf("got %v of %q, want an error", got, list)
		}
	}
}
