//go:build linux

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mesher/mesherstream/bench/internal/machine"
	"github.com/mesher/mesherstream/bench/internal/report"
)

// book holds every result of a comparison.
type book struct {
	Date     time.Time
	Command  string
	Machine  string
	Go       string
	Rate     int // messages a second
	Clients  int // to whom
	Versions map[string]string
	Results  []result

	scenarios   []scenario
	interrupted bool
}

func newBook(s *settings, b *binaries) *book {
	k := &book{
		Date: time.Now().UTC(), Machine: machine.Model(), scenarios: s.scenarios,
		Command: command(), Rate: s.size.rate, Clients: s.size.clients,
	}
	k.Go, k.Versions = b.versions()
	return k
}

// command returns how this was called, without the files that it was to write.
func command() string {
	words := []string{"go run ./bench/cmd/compare"}
	flag.Visit(func(f *flag.Flag) {
		if !slices.Contains([]string{"markdown", "json", "svg", "write", "check"}, f.Name) {
			words = append(words, "-"+f.Name, f.Value.String())
		}
	})
	return strings.Join(words, " ")
}

func (b *book) add(r result) { b.Results = append(b.Results, r) }

// has reports whether the result is of one of the scenario's runs.
func (sc *scenario) has(r *result) bool {
	return r.Round < sc.rounds && slices.Contains(sc.servers, r.Server) &&
		slices.ContainsFunc(sc.passes, func(p pass) bool { return p.name == r.Pass })
}

// round returns one round of a scenario.
func (b *book) round(sc *scenario, number int) round {
	out := make(round)
	for _, r := range b.Results {
		if !sc.has(&r) || r.Round != number {
			continue
		}
		if out[r.Server] == nil {
			out[r.Server] = make(runs)
		}
		out[r.Server][r.Pass] = r
	}
	return out
}

// median returns the column's median over the rounds that have the figure, or NaN.
func (b *book) median(sc *scenario, c *column, server string) float64 {
	return report.Median(b.values(sc, c, server))
}

// values returns the column's values of the rounds that have the figure, in order. There are none of a ratio that less than
// half of the rounds have.
func (b *book) values(sc *scenario, c *column, server string) (values []float64) {
	for i := range sc.rounds {
		if v := c.value(b.round(sc, i), server); !math.IsNaN(v) && !math.IsInf(v, 0) {
			values = append(values, v)
		}
	}
	if c.compared && 2*len(values) < sc.rounds {
		return nil
	}
	slices.Sort(values)
	return values
}

// notes says what the figures don't.
func (b *book) notes(sc *scenario, server string) string {
	var notes []string
	rounds := make(map[string]map[int]bool) // in which a note is true, in whatever pass
	for _, r := range b.Results {
		note := r.note()
		if note == "" || !sc.has(&r) || r.Server != server {
			continue
		}
		if rounds[note] == nil {
			rounds[note] = make(map[int]bool)
			notes = append(notes, note)
		}
		rounds[note][r.Round] = true
	}
	for i, note := range notes {
		notes[i] = fmt.Sprintf("%s (%d of %d rounds)", note, len(rounds[note]), sc.rounds)
	}
	return strings.Join(notes, "; ")
}

// note says what was wrong with a run, if anything was.
func (r *result) note() string {
	switch {
	case r.Froze:
		return "froze"
	case r.Error != "":
		reason, _, _ := strings.Cut(r.Error, "\n")
		return "void: " + reason
	case r.Unnoticed:
		return "did not notice within 2 s that a client had left"
	case r.Load.Repeated > 0:
		return "repeated messages"
	case r.Load.ClosedByIt > 0 && r.Load.Lost > 0:
		return "closed clients that read"
	case r.Behind:
		return "fell behind"
	}
	return ""
}

func (b *book) table(sc scenario) *report.Table {
	t := &report.Table{Title: fmt.Sprintf("%s: %s (%s)", sc.name, sc.about, ofRounds(sc.rounds))}
	if b.interrupted {
		t.Title += ", interrupted: not every round is whole"
	}
	header := []string{"server"}
	for _, c := range sc.columns {
		header = append(header, c.title)
	}
	t.Rows = append(t.Rows, append(header, "notes"))
	for _, server := range sc.servers {
		row := []string{server}
		for _, c := range sc.columns {
			values := b.values(&sc, &c, server)
			if !c.spread && len(values) > 0 {
				row = append(row, c.format(report.Median(values)))
			} else {
				row = append(row, report.Spread(values, c.format))
			}
		}
		t.Rows = append(t.Rows, append(row, b.notes(&sc, server)))
	}
	var all []machine.Conditions
	for _, r := range b.Results {
		if sc.has(&r) {
			all = append(all, r.Conditions)
		}
	}
	t.Foot = machine.Describe(all)
	return t
}

func ofRounds(n int) string {
	if n == 1 {
		return "one round"
	}
	return fmt.Sprintf("medians of %d rounds", n)
}

// write writes the files that the flags ask for, with the scenarios that have results.
func (b *book) write(s *settings) error {
	for _, output := range []struct {
		file string
		make func() ([]byte, error)
	}{
		{s.markdown, b.markdown},
		{s.json, func() ([]byte, error) { return json.MarshalIndent(b, "", "\t") }},
		{s.svg, b.chart},
		{s.write, func() ([]byte, error) { return b.rewrite(s.write) }},
	} {
		if output.file == "" {
			continue
		}
		content, err := output.make()
		if err != nil {
			return fmt.Errorf("make %s: %w", output.file, err)
		}
		if content == nil {
			continue
		}
		if err := os.WriteFile(output.file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// finished returns the scenarios that have results.
func (b *book) finished() (done []scenario) {
	for _, sc := range b.scenarios {
		if slices.ContainsFunc(b.Results, func(r result) bool { return sc.has(&r) }) {
			done = append(done, sc)
		}
	}
	return done
}

// measured are the modules whose versions a table names.
var measured = []string{
	"github.com/gofiber/fiber/v2", "github.com/gofiber/contrib/websocket", "github.com/gofiber/contrib/socketio", "github.com/valyala/fasthttp",
	"github.com/olahol/melody", "github.com/gorilla/websocket", "github.com/coder/websocket", "github.com/lxzan/gws", "github.com/gobwas/ws",
	"github.com/centrifugal/centrifuge", "github.com/r3labs/sse/v2", "github.com/tmaxmax/go-sse", "github.com/alexandrevicenzi/go-sse",
}

func (b *book) markdown() ([]byte, error) {
	var out strings.Builder
	out.WriteString(b.head())
	for _, sc := range b.finished() {
		out.WriteString(b.table(sc).Markdown())
	}
	return []byte(out.String()), nil
}

// head says when and where the runs were made, how, and with which versions.
func (b *book) head() string {
	var versions []string
	for _, path := range measured {
		if version, used := b.Versions[path]; used {
			versions = append(versions, strings.TrimPrefix(path, "github.com/")+" "+version)
		}
	}
	pace := ""
	if slices.ContainsFunc(b.scenarios, func(sc scenario) bool { return slices.ContainsFunc(sc.passes, isPaced) }) {
		pace = fmt.Sprintf("The pace is %d messages a second to %d clients.\n\n", b.Rate, b.Clients)
	}
	return fmt.Sprintf("%s, %s, %s.\n\n    %s\n\n%s%s.\n\n",
		b.Date.Format("2 January 2006"), b.Machine, b.Go, b.Command, pace, strings.Join(versions, ", "))
}
