//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mesher/mesherstream/bench/internal/report"
)

// rewrite returns the document with the tables of this comparison. Tables of scenarios that it has no results of stay. If there are
// some, what says how all tables were made stays too.
func (b *book) rewrite(file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	others := slices.ContainsFunc(scenarioNames(), func(name string) bool {
		_, has := report.Section(string(content), name)
		return has && !slices.ContainsFunc(b.finished(), func(sc scenario) bool { return sc.name == name })
	})
	if !others {
		content, err = report.Replace(content, "run", b.head())
	}
	if section := b.targetSection(); section != "" {
		var missing error
		content, missing = report.Replace(content, "targets", section)
		err = errors.Join(err, missing)
	}
	for _, sc := range b.finished() {
		var missing error
		content, missing = report.Replace(content, sc.name, b.table(sc).Markdown())
		err = errors.Join(err, missing)
	}
	return content, err
}

// printed is what a table prints of a scenario: for each server and column, the least and the greatest value.
type printed map[string]map[string]span

type span struct{ least, greatest float64 }

// parseTables reads the tables between the marks of a document, by scenario. Cells that are no plain numbers are left out.
func parseTables(document string) map[string]printed {
	out := make(map[string]printed)
	for _, name := range scenarioNames() {
		section, ok := report.Section(document, name)
		if !ok {
			continue
		}
		var header []string
		out[name] = make(printed)
		for line := range strings.Lines(section) {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") {
				continue
			}
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			if header == nil {
				header = cells
				continue
			}
			row := make(map[string]span)
			for i, cell := range cells {
				if s, ok := parseSpan(cell); ok && i < len(header) {
					row[header[i]] = s
				}
			}
			out[name][cells[0]] = row
		}
	}
	return out
}

// printedPaces returns the messages and the handshakes a second of the tables in a document, and the clients of coalesced. They are
// 0 if the document doesn't have them.
func printedPaces(document string) (rate, handshakes, collected int) {
	return printedNumber(document, "run", paceText), printedNumber(document, "connect", handshakesText), printedNumber(document, "coalesced", crowdText)
}

func printedNumber(document, section string, before *regexp.Regexp) int {
	text, _ := report.Section(document, section)
	found := before.FindStringSubmatch(text)
	if found == nil {
		return 0
	}
	n, _ := strconv.Atoi(found[1]) // of digits
	return n
}

var (
	paceText       = regexp.MustCompile(`The pace is (\d+) messages a second`)
	handshakesText = regexp.MustCompile(`clients connect, (\d+) a second`)
	crowdText      = regexp.MustCompile(`coalesced: (\d+) clients`)
)

// parseSpan reads a cell such as "1.03 (0.98 – 1.10)", or "1.03", whose spread is nothing.
func parseSpan(cell string) (s span, ok bool) {
	middle, spread, wide := strings.Cut(cell, " (")
	if !wide {
		v, err := strconv.ParseFloat(strings.ReplaceAll(middle, ",", ""), 64)
		return span{v, v}, err == nil
	}
	least, greatest, ok := strings.Cut(strings.TrimSuffix(spread, ")"), " – ")
	a, errA := strconv.ParseFloat(strings.ReplaceAll(least, ",", ""), 64)
	b, errB := strconv.ParseFloat(strings.ReplaceAll(greatest, ",", ""), 64)
	return span{a, b}, ok && errA == nil && errB == nil
}

// check returns an error that names the figures whose median is not within the printed spread. Three or five rounds don't show all
// that a figure can be, so it may be beyond by the tolerance, a share of the limit that it is beyond. What fell behind, here
// or there, is not compared. But if that is a run of this package, or if one failed, it is an error too.
func (b *book) check(before map[string]printed, tolerance float64) (compared int, left []string, err error) {
	var wrong []error
	for _, sc := range b.finished() {
		for _, c := range sc.columns {
			if !c.checked {
				continue
			}
			for _, server := range sc.servers {
				own := strings.HasPrefix(server, "mesherstream")
				was, printed := before[sc.name][server][c.title]
				if !printed || !c.compared && !own { // the memory of others depends on when their pools let go
					continue
				}
				name := fmt.Sprintf("%s of %s in %s", c.title, server, sc.name)
				values := b.values(&sc, &c, server)
				switch {
				case len(values) > 0:
				case own && !b.keepsUp(&sc, server):
					wrong = append(wrong, fmt.Errorf("%s: most runs failed or fell behind", name))
					continue
				default:
					left = append(left, name)
					continue
				}
				compared++
				if is := report.Median(values); is < was.least*(1-tolerance) || is > was.greatest*(1+tolerance) {
					wrong = append(wrong, fmt.Errorf("%s: %s, but printed is %s – %s, with a tolerance of %.0f %%",
						name, c.format(is), c.format(was.least), c.format(was.greatest), 100*tolerance))
				}
			}
		}
	}
	if compared == 0 {
		wrong = append(wrong, errors.New("nothing could be compared with the printed figures"))
	}
	return compared, left, errors.Join(wrong...)
}

// keepsUp reports whether at least half of a server's rounds have no run that failed or fell behind.
func (b *book) keepsUp(sc *scenario, server string) bool {
	kept := 0
	for i := range sc.rounds {
		runs := b.round(sc, i)[server]
		upright := len(runs) > 0
		for _, r := range runs {
			upright = upright && !r.Behind && !r.Froze && r.Error == ""
		}
		if upright {
			kept++
		}
	}
	return 2*kept >= sc.rounds
}
