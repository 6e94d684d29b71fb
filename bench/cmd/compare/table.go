//go:build linux

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// book holds every result of a comparison.
type book struct {
	Date     time.Time
	Command  string
	Machine  string
	Go       string
	Versions map[string]string
	Results  []result

	scenarios   []scenario
	rounds      int
	interrupted string // the scenario that was, if any
}

func newBook(s *settings, b *binaries) *book {
	k := &book{
		Date: time.Now().UTC(), Machine: machine(), scenarios: s.scenarios, rounds: s.rounds,
		Command: command(),
	}
	k.Go, k.Versions = b.versions()
	return k
}

// command returns how this was called, without the files that it was to write.
func command() string {
	words := []string{"go run ./bench/cmd/compare"}
	flag.Visit(func(f *flag.Flag) {
		if !slices.Contains([]string{"markdown", "json", "svg"}, f.Name) {
			words = append(words, "-"+f.Name, f.Value.String())
		}
	})
	return strings.Join(words, " ")
}

// machine describes processor, cores and kernel.
func machine() string {
	model := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var name unix.Utsname
	_ = unix.Uname(&name) // an unknown kernel is an empty word below
	release := strings.SplitN(unix.ByteSliceToString(name.Release[:]), ".", 3)
	return fmt.Sprintf("%s, %d cores, Linux %s", model, runtime.NumCPU(), strings.Join(release[:min(2, len(release))], "."))
}

func (b *book) add(r result) { b.Results = append(b.Results, r) }

// round returns one round of a scenario.
func (b *book) round(scenario string, number int) round {
	out := make(round)
	for _, r := range b.Results {
		if r.Scenario != scenario || r.Round != number {
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
	return median(b.values(sc, c, server))
}

// values returns the column's values of the rounds that have the figure.
func (b *book) values(sc *scenario, c *column, server string) (values []float64) {
	for i := range b.rounds {
		if v := c.value(b.round(sc.name, i), server); !math.IsNaN(v) && !math.IsInf(v, 0) {
			values = append(values, v)
		}
	}
	return values
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return none
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

// notes says what the figures don't.
func (b *book) notes(scenario, server string) string {
	var notes []string
	rounds := make(map[string]map[int]bool) // in which a note is true, in whatever pass
	for _, r := range b.Results {
		note := r.note()
		if note == "" || r.Scenario != scenario || r.Server != server {
			continue
		}
		if rounds[note] == nil {
			rounds[note] = make(map[int]bool)
			notes = append(notes, note)
		}
		rounds[note][r.Round] = true
	}
	for i, note := range notes {
		notes[i] = fmt.Sprintf("%s (%d of %d rounds)", note, len(rounds[note]), b.rounds)
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
	}
	return ""
}

// table is a scenario's figures as text.
type table struct {
	title string
	rows  [][]string // the first is the header
}

func (b *book) table(sc scenario) table {
	t := table{title: fmt.Sprintf("%s: %s (medians of %d)", sc.name, sc.about, b.rounds)}
	if sc.name == b.interrupted {
		t.title += ", interrupted: not every round is whole"
	}
	header := []string{"server"}
	for _, c := range sc.columns {
		header = append(header, c.title)
	}
	t.rows = append(t.rows, append(header, "notes"))
	for _, server := range sc.servers {
		row := []string{server}
		for _, c := range sc.columns {
			cell := "–"
			if values := b.values(&sc, &c, server); len(values) > 0 {
				cell = c.format(median(values)) // which sorts them
				if c.spread && len(values) > 1 {
					cell += fmt.Sprintf(" (%s – %s)", c.format(values[0]), c.format(values[len(values)-1]))
				}
			}
			row = append(row, cell)
		}
		t.rows = append(t.rows, append(row, b.notes(sc.name, server)))
	}
	return t
}

func (t table) text() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s\n\n", t.title)
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	return out.String()
}

func (t table) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "### %s\n\n", t.title)
	for i, row := range t.rows {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(&out, "|---|%s---|\n", strings.Repeat("---:|", len(row)-2))
		}
	}
	return out.String() + "\n"
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
		if slices.ContainsFunc(b.Results, func(r result) bool { return r.Scenario == sc.name }) {
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
	fmt.Fprintf(&out, "%s, %s, %s.\n\n    %s\n\n", b.Date.Format(time.DateOnly), b.Machine, b.Go, b.Command)
	var versions []string
	for _, path := range measured {
		if version, used := b.Versions[path]; used {
			versions = append(versions, strings.TrimPrefix(path, "github.com/")+" "+version)
		}
	}
	fmt.Fprintf(&out, "%s.\n\n", strings.Join(versions, ", "))
	for _, sc := range b.finished() {
		out.WriteString(b.table(sc).markdown())
	}
	return []byte(out.String()), nil
}
