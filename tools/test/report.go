package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// event is a line of go test -json, see go doc test2json.
type event struct {
	Action, Package, Test, Output string
}

// report prints what go test would print without -json, and remembers the skipped tests.
type report struct {
	to      io.Writer
	verbose bool
	lines   map[string]map[string][]string // of each package, of each of its tests that has not ended; "" for the package
	reasons []string                       // why tests were skipped, each once
	skipped map[string]map[string][]string // by reason and package
}

func newReport(to io.Writer, verbose bool) *report {
	return &report{to: to, verbose: verbose, lines: make(map[string]map[string][]string), skipped: make(map[string]map[string][]string)}
}

func (r *report) read(events io.Reader) {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil {
				r.take(e)
			} else {
				fmt.Fprint(r.to, line)
			}
		}
		if err != nil {
			return
		}
	}
}

func (r *report) take(e event) {
	tests := r.lines[e.Package]
	if tests == nil {
		tests = make(map[string][]string)
		r.lines[e.Package] = tests
	}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.to, e.Output)
	case "output":
		at := e.Test
		if r.verbose || strings.HasPrefix(e.Test, "Benchmark") && !strings.HasPrefix(e.Output, "=== ") {
			at = "" // among the lines of the package, in the order in which they were printed
		}
		tests[at] = append(tests[at], e.Output)
		if r.verbose && e.Test != "" {
			tests[e.Test] = append(tests[e.Test], e.Output) // for the reason of a skip
		}
	case "pass", "skip", "fail":
		if e.Test == "" {
			r.endPackage(e, tests)
			delete(r.lines, e.Package)
			return
		}
		if e.Action == "skip" {
			r.skip(e, reason(tests[e.Test]))
		}
		if e.Action == "fail" && !r.verbose {
			tests[""] = append(tests[""], printed(tests[e.Test])...)
		}
		delete(tests, e.Test)
	}
}

func (r *report) endPackage(e event, tests map[string][]string) {
	own := tests[""]
	if e.Action == "fail" {
		delete(tests, "")
		for _, test := range slices.Sorted(maps.Keys(tests)) { // the package ended while these were running
			if !r.verbose {
				fmt.Fprint(r.to, strings.Join(printed(tests[test]), ""))
			}
		}
	}
	for _, line := range own {
		// Without -v, the output of a package that passes isn't shown.
		if r.verbose || e.Action == "fail" || isResult(line) {
			fmt.Fprint(r.to, line)
		}
	}
}

// results matches the lines that go test shows of packages that pass.
var results = regexp.MustCompile(`^(ok  |\?   )?\t|^Benchmark|\d ns/op|^(goos|goarch|pkg|cpu): `)

func isResult(line string) bool { return results.MatchString(line) }

// printed returns the lines to show of a failed test: first its result, then its log.
func printed(lines []string) []string {
	var ends, logged []string
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "=== "):
		case strings.HasPrefix(line, "--- "):
			ends = append(ends, line)
		default:
			logged = append(logged, line)
		}
	}
	return append(ends, logged...)
}

// place matches the position in the source that begins a line of a test's log.
var place = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// reason returns the last entry of a test's log. For a skipped test, that is the reason.
func reason(lines []string) string {
	var last []string
	for _, line := range lines {
		switch {
		case place.MatchString(line):
			last = []string{place.ReplaceAllString(line, "")}
		case strings.HasPrefix(line, "        ") && last != nil:
			last = append(last, line)
		}
	}
	text := strings.Join(strings.Fields(strings.Join(last, " ")), " ")
	if text == "" {
		return "no reason given"
	}
	return text
}

func (r *report) skip(e event, why string) {
	if r.skipped[why] == nil {
		r.reasons = append(r.reasons, why)
		r.skipped[why] = make(map[string][]string)
	}
	r.skipped[why][e.Package] = append(r.skipped[why][e.Package], e.Test)
}

// needs begins the reason of a test that lacks something, and install begins the command that would provide it.
const (
	needs   = "needs "
	install = "apt-get install "
)

// summary lists the tests that were not run, why, and the packages that would let them run.
func (r *report) summary() {
	if len(r.reasons) > 0 {
		fmt.Fprint(r.to, "\nNot run:\n")
	}
	slices.SortStableFunc(r.reasons, func(a, b string) int { return rank(a) - rank(b) })
	var packages []string
	for _, why := range r.reasons {
		fmt.Fprintf(r.to, "\n  %s\n", why)
		for _, pkg := range slices.Sorted(maps.Keys(r.skipped[why])) {
			fmt.Fprintf(r.to, "      %s: %s\n", pkg, some(r.skipped[why][pkg]))
		}
		if _, list, ok := strings.Cut(why, install); ok && rank(why) == 0 {
			packages = append(packages, strings.Fields(list)...)
		}
	}
	if slices.Sort(packages); len(packages) > 0 {
		fmt.Fprintf(r.to, "\nTo run more of them, on Debian: %s%s\n", install, strings.Join(slices.Compact(packages), " "))
	}
	if runtime.GOOS != "linux" {
		fmt.Fprintf(r.to, "\nNot run on %s: the tests in files *_linux_test.go.\n", runtime.GOOS)
	}
}

func rank(why string) int {
	if strings.HasPrefix(why, needs) {
		return 0
	}
	return 1
}

// some names up to three of the tests.
func some(tests []string) string {
	const most = 3
	if len(tests) <= most+1 {
		return strings.Join(tests, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(tests[:most], ", "), len(tests)-most)
}
