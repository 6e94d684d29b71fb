//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/mesher/mesherstream/bench/internal/report"
)

// target is what a figure is to be. A figure without a bound is only printed.
type target struct {
	scenario, server, column string
	want                     string
	least, most              float64 // 0: no such bound; they have room for what the format rounds
}

var targets = []target{
	{"paced", "mesherstream", "× syscalls", "≤ 1.00", 0, 1.005},
	{"paced", "mesherstream", "allocs/delivery", "0, but for pongs: one for each, and a client sends one a second", 0, 0},
	{"burst", "mesherstream", "× syscalls", "≤ 0.05", 0, 0.05},
	{"burst", "mesherstream", "× joined", "≤ 1.4", 0, 1.4},
	{"burst", "mesherstream", "p99 × joined", "≤ 1.2", 0, 1.2},
	{"coalesced", "mesherstream-20ms", "× syscalls", "≤ 0.6", 0, 0.605},
	{"coalesced", "mesherstream-20ms", "lost", "nothing", 0, 0.5},
	{"coalesced", "mesherstream-100ms", "× syscalls", "≤ 0.15", 0, 0.155},
	{"coalesced", "mesherstream-100ms", "lost", "nothing", 0, 0.5},
	{"flood", "mesherstream", "× centrifuge", "≥ 5", 5, 0},
	{"flood", "mesherstream", "lost", "nothing", 0, 0.00005},
	{"stalled", "mesherstream", "p99 × paced", "≤ 1.05", 0, 1.055},
	{"stalled", "mesherstream", "longest × paced", "≤ 1.5", 0, 1.5},
	{"stalled", "mesherstream", "live heap growth", "≤ 100 frames of 4 KiB and 1 KiB for each of 100 clients: 0.5 MiB", 0, 0.55 * (1 << 20)},
	{"filtered", "mesherstream", "× unfiltered", "≤ 1.3", 0, 1.3},
	{"fan", "mesherstream", "15000 × 1000", "≤ 1.15", 0, 1.155},
	{"events", "mesherstream-events", "× WebSocket", "≤ 1.05", 0, 1.055},
	{"events", "mesherstream-events", "… max", "≤ 50 ms", 0, 50e6},
	{"idle", "mesherstream", "… after collection", "≤ 0.8 KiB", 0, 819.5},
	{"idle", "mesherstream", "resident B/connection", "≤ 1.0 KiB, as a wish", 0, 1024.5},
	{"idle", "mesherstream-history", "… after collection", "≤ 1.1 KiB", 0, 1126.5},
	{"idle", "mesherstream-events", "… after collection", "≤ 1.0 KiB", 0, 1024.5},
	{"idle", "mesherstream", "goroutines", "0", 0, 0.05},
}

// targetTable compares the medians with the targets. It is nil if a scenario that has a target has no results.
func (b *book) targetTable() *report.Table {
	t := &report.Table{Title: "Targets", Rows: [][]string{{"scenario", "server", "figure", "target", "reached", ""}}}
	for _, want := range targets {
		at := slices.IndexFunc(b.scenarios, func(sc scenario) bool { return sc.name == want.scenario })
		if at < 0 || !slices.ContainsFunc(b.finished(), func(sc scenario) bool { return sc.name == want.scenario }) {
			return nil
		}
		sc := &b.scenarios[at]
		c := &sc.columns[slices.IndexFunc(sc.columns, func(c column) bool { return c.title == want.column })]
		values := b.values(sc, c, want.server)
		verdict := ""
		if is := report.Median(values); math.IsNaN(is) {
			verdict = "**not known**"
		} else if want.most > 0 && is > want.most || want.least > 0 && is < want.least {
			verdict = "**missed**"
		}
		t.Rows = append(t.Rows, []string{want.scenario, want.server, c.title, want.want, report.Spread(values, c.format), verdict})
	}
	return t
}

// targetSection is the table without a title, which the document has.
func (b *book) targetSection() string {
	t := b.targetTable()
	if t == nil {
		return ""
	}
	missed := 0
	for _, row := range t.Rows[1:] {
		if row[len(row)-1] != "" {
			missed++
		}
	}
	return fmt.Sprintf("%s\n%d of %d targets are reached.\n", t.Body(), len(t.Rows)-1-missed, len(t.Rows)-1)
}
