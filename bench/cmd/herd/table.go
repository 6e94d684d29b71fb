//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesher/mesherstream/bench/internal/machine"
	"github.com/mesher/mesherstream/bench/internal/report"
)

// run is one return of all viewers.
type run struct {
	missed     int
	returns    []outcome // the quickest first
	used       usage
	conditions machine.Conditions
}

// parseMissed reads the numbers of the flag -missed.
func parseMissed(list string) (cases []int, err error) {
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q is no number of messages", word)
		}
		cases = append(cases, n)
	}
	return cases, nil
}

// compare runs the cases in turn, and prints and writes the table.
func (c config) compare(cases []int) error {
	var all []run
	for range c.Rounds {
		for _, c.Missed = range cases {
			r, err := c.measure()
			if err != nil {
				return fmt.Errorf("%d missed: %w", c.Missed, err)
			}
			r.missed = c.Missed
			all = append(all, r)
		}
	}
	t := c.table(cases, all)
	fmt.Print(t.Text())
	if c.Write == "" {
		return nil
	}
	document, err := os.ReadFile(c.Write)
	if err == nil {
		document, err = report.Replace(document, "returns", t.Markdown())
	}
	if err != nil {
		return err
	}
	return os.WriteFile(c.Write, document, 0o644)
}

// columns are the figures of a run.
var columns = []struct {
	title  string
	value  func(*run) float64
	format func(float64) string
}{
	{"messages replayed", (*run).messages, report.Count},
	{"CPU/return", func(r *run) float64 { return r.each(r.used.CPU) }, report.Duration},
	{"of which system", func(r *run) float64 { return r.each(r.used.System) }, report.Duration},
	{"allocs/return", func(r *run) float64 { return float64(r.used.Allocations) / float64(len(r.returns)) }, report.Count},
	{"handshake to replayed, p50", func(r *run) float64 { return r.took(50) }, report.Duration},
	{"p99", func(r *run) float64 { return r.took(99) }, report.Duration},
	{"max", func(r *run) float64 { return r.took(100) }, report.Duration},
	{"resident before", func(r *run) float64 { return float64(r.used.Before) }, report.Mebibytes},
	{"at most", func(r *run) float64 { return float64(r.used.Peak) }, report.Mebibytes},
	{"at rest, after collection", func(r *run) float64 { return float64(r.used.End) }, report.Mebibytes},
}

// messages is how many a viewer was sent by the replay, on average.
func (r *run) messages() float64 {
	sum := 0
	for _, o := range r.returns {
		sum += o.Messages
	}
	return float64(sum) / float64(len(r.returns))
}

func (r *run) each(d time.Duration) float64 { return float64(d) / float64(len(r.returns)) }

func (r *run) took(percent int) float64 {
	return float64(r.returns[(len(r.returns)-1)*percent/100].Took)
}

func (c config) table(cases []int, all []run) *report.Table {
	rounds := "one round"
	if c.Rounds > 1 {
		rounds = fmt.Sprintf("medians of %d rounds", c.Rounds)
	}
	t := &report.Table{Title: fmt.Sprintf("returns: %d clients return within %v, and have missed messages of %d B (%s)", c.Clients, c.Over, c.Size, rounds)}
	header := []string{"missed"}
	for _, column := range columns {
		header = append(header, column.title)
	}
	t.Rows = append(t.Rows, append(header, "notes"))
	var conditions []machine.Conditions
	for _, r := range all {
		conditions = append(conditions, r.conditions)
	}
	for _, missed := range cases {
		row := []string{report.Count(float64(missed))}
		for _, column := range columns {
			var values []float64
			for _, r := range all {
				if r.missed == missed {
					values = append(values, column.value(&r))
				}
			}
			slices.Sort(values)
			row = append(row, report.Spread(values, column.format))
		}
		t.Rows = append(t.Rows, append(row, ""))
	}
	t.Foot = machine.Describe(conditions)
	return t
}
