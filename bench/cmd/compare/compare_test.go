//go:build linux

package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream/bench/internal/control"
)

// TestEveryMessageIsAccountedFor runs real servers and a real load client, with few clients and for a short time.
func TestEveryMessageIsAccountedFor(t *testing.T) {
	binaries, err := build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(binaries.remove)
	z := size{clients: 20, rate: 100, bytes: 512, idle: 20, window: time.Second, settle: 10 * time.Millisecond}
	type run struct {
		server string
		make   func(size) scenario
	}
	all := []run{{"syscalls", paced}, {"joined", burst}, {"gws", paced}, {"mesherstream", filtered}, {"syscalls", churn}, {"gws", idle}, {"mesherstream-hooks", idle}, {"mesherstream-history", idle}}
	for _, server := range streamServers {
		all = append(all, run{server, paced}, run{server, burst})
	}
	for _, run := range all {
		z := z
		if run.server == "mesherstream" {
			z.rate = 10 // 5,000 messages a second for each of so few clients would be dropped while the load client waits for a core
		}
		if slices.Contains(streamServers, run.server) && run.server != "mesherstream" {
			z.window = 300 * time.Millisecond // there are many of them
		}
		sc := run.make(z)
		t.Run(sc.name+"/"+run.server, func(t *testing.T) {
			t.Parallel()
			// The last pass is the one that the scenario is named after.
			p := sc.passes[len(sc.passes)-1]
			r := runner{binaries: binaries, server: run.server, pass: p, warmUp: 100 * time.Millisecond}
			result := r.run(t.Context())
			if result.Error != "" || result.Froze {
				t.Fatalf("froze %v, error %q", result.Froze, result.Error)
			}
			if p.idle {
				if result.After.Clients != 20 || result.After.ResidentBytes == 0 {
					t.Errorf("got %+v, want 20 clients that weigh something", result.After)
				}
				return
			}
			got := result.Load
			if got.Expected == 0 || got.Expected != got.Received+got.Lost || got.Lost != 0 || got.Repeated != 0 || got.Stray != 0 {
				t.Errorf("got %+v, want all that was expected, once each", got)
			}
			if result.Measure.CPU == 0 || result.Measure.Publish.Running || got.P50 == 0 {
				t.Errorf("got %+v and a p50 of %v, want CPU time, an end and latencies", result.Measure, got.P50)
			}
			switch together := run.server == "joined"; { // a late message of the warm-up may be counted, too
			case together && (got.Segments > got.Received/2 || got.Reads > got.Received/2),
				run.server == "syscalls" && p.name == "paced" && got.Segments < got.Received, got.Reads == 0:
				t.Errorf("got %d segments and %d reads of %d messages, want few of messages that are joined, and one of each that is not",
					got.Segments, got.Reads, got.Received)
			}
			if p.churn > 0 && got.Reconnects < 100 {
				t.Errorf("got %d reconnects, want about 200", got.Reconnects)
			}
		})
	}
}

// interrupter is a log handler that ends the comparison when its first run has been logged.
type interrupter struct {
	slog.Handler
	interrupt context.CancelFunc
}

func (i interrupter) Handle(context.Context, slog.Record) error { i.interrupt(); return nil }

func TestAnInterruptedComparisonLeavesWhatItHas(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	before := slog.Default()
	slog.SetDefault(slog.New(interrupter{before.Handler(), interrupt}))
	defer slog.SetDefault(before)

	file := filepath.Join(t.TempDir(), "results")
	z := size{clients: 20, rate: 100, bytes: 512, window: 100 * time.Millisecond, rounds: 100, handshakes: 1, collected: 1}
	s := settings{names: "paced", servers: []string{"syscalls"}, size: z, markdown: file}
	if err := s.run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
	got, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(got), "\n| syscalls |") || !strings.Contains(string(got), "interrupted") {
		t.Errorf("got %v and\n%s", err, got)
	}
}

func TestBadFlagsAreRefusedBeforeAnythingRuns(t *testing.T) {
	t.Parallel()
	compare := filepath.Join(t.TempDir(), "compare")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", compare, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for flags, want := range map[string]string{
		"-scenario paced, burst":             "is no flag",
		"paced":                              "is no flag",
		"-scenario paced,nap":                "unknown scenario",
		"-servers mesherstream,nginx":        "unknown server",
		"-scenario filtered -servers r3labs": "unknown server",
		"-rounds 0":                          "want at least 1",
		"-seconds 5":                         "parse error",
		"-size 10":                           "messages of 10 bytes",
		"-idle 0":                            "0 idle connections",
		"-rate -1":                           "want at least 1",
		"-tolerance -1":                      "a tolerance of -1",
		"-scenario idle -svg chart.svg":      "a chart needs",
		"-servers gws -svg chart.svg":        "a chart needs",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		out, err := exec.CommandContext(ctx, compare, strings.Fields(flags)...).CombinedOutput()
		cancel()
		ended, ok := errors.AsType[*exec.ExitError](err)
		if !ok || ended.ExitCode() != 2 || !strings.Contains(string(out), want) {
			t.Errorf("compare %s: got %v, want exit code 2 and %q in\n%s", flags, err, want, out)
		}
	}
}

// TestLeavingClientsAreSeen lets clients leave servers that notice it, and one that doesn't.
func TestLeavingClientsAreSeen(t *testing.T) {
	binaries, err := build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(binaries.remove)
	sc := streams(size{clients: 20, rate: 100, bytes: 512, idle: 20, window: time.Second, settle: 10 * time.Millisecond})
	for _, server := range streamServers {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			r := runner{binaries: binaries, server: server, pass: sc.passes[len(sc.passes)-1]}
			result := r.run(t.Context())
			if result.Error != "" {
				t.Fatal(result.Error)
			}
			if server == "fiberstream" {
				if !result.Unnoticed || len(result.Leaving) != 0 {
					t.Errorf("noticed %v, want nothing: it writes nothing", result.Leaving)
				}
				return
			}
			if result.Unnoticed || len(result.Leaving) != 20 || slices.Min(result.Leaving) <= 0 {
				t.Errorf("unnoticed %v, noticed %v, want all 20, after they have left", result.Unnoticed, result.Leaving)
			}
			if result.Rested.ResidentBytes == 0 || result.After.Clients != 20 {
				t.Errorf("got %+v and %+v, want what 20 clients weigh", result.Rested, result.After)
			}
		})
	}
}

// bookOfThree is a paced comparison of three rounds in which gws costs 2, 3 and 4 × syscalls, and melody froze.
func bookOfThree() *book {
	sc := paced(size{clients: 10, rate: 100, bytes: 512, window: time.Second, rounds: 3})
	sc.servers = []string{"gws", "melody", "syscalls"}
	b := &book{scenarios: []scenario{sc}}
	for i := range 3 {
		base := time.Duration(i+1) * time.Millisecond
		for server, factor := range map[string]time.Duration{"gws": time.Duration(i + 2), "syscalls": 1} {
			b.add(result{
				Pass: "paced", Server: server, Round: i,
				Measure: control.MeasureReport{CPU: base * factor},
				Load:    control.ReceivedReport{Received: 1000, Expected: 1000},
			})
		}
		b.add(result{Pass: "paced", Server: "melody", Round: i, Froze: true})
	}
	return b
}

func TestRatiosAreTakenWithinARound(t *testing.T) {
	b := bookOfThree()
	sc := b.scenarios[0]
	sc.rounds = 2 // of medians the ratio would be 4 ms / 1.5 ms
	if got := b.median(&sc, &sc.columns[1], "gws"); got != 2.5 {
		t.Errorf("got a ratio of %v, want 2.5, between the rounds' 2 and 3", got)
	}
}

func TestASpreadIsThatOfTheRounds(t *testing.T) {
	b := bookOfThree()
	sc := b.scenarios[0]
	narrow := sc.columns[1]
	narrow.spread = false
	sc.columns = []column{sc.columns[1], narrow}
	if got, want := strings.Join(b.table(sc).Rows[1], "|"), "gws|3.00 (2.00 – 4.00)|3.00|"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAFrozenServerHasANoteInsteadOfFigures(t *testing.T) {
	b := bookOfThree()
	text := b.table(b.scenarios[0]).Text()
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "melody") {
			if !strings.Contains(line, "froze (3 of 3 rounds)") || !strings.Contains(line, "–") {
				t.Errorf("got %q, want dashes and a note", line)
			}
			return
		}
	}
	t.Errorf("no line for melody in\n%s", text)
}

func TestANoteCountsRoundsAndNotPasses(t *testing.T) {
	b := bookOfThree()
	sc := b.scenarios[0]
	sc.passes = append(sc.passes, pass{name: "another"})
	b.add(result{Pass: "another", Server: "melody", Round: 1, Froze: true})
	b.add(result{Pass: "another", Server: "melody", Round: 1, Error: "late\nand more"})
	if got, want := b.notes(&sc, "melody"), "froze (3 of 3 rounds); void: late (1 of 3 rounds)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWhatFellBehindIsMarkedAndNotCompared(t *testing.T) {
	b := bookOfThree()
	sc := b.scenarios[0]
	for i := range b.Results {
		if r := &b.Results[i]; r.Server == "gws" && r.Round == 2 {
			r.Behind = true
		}
	}
	sc.columns = sc.columns[:2]
	if got, want := strings.Join(b.table(sc).Rows[1][2:], "|"), "2.50 (2.00 – 3.00)|fell behind (1 of 3 rounds)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := range b.Results {
		if r := &b.Results[i]; r.Server == "syscalls" && r.Round < 2 {
			r.Behind = true
		}
	}
	if got, want := strings.Join(b.table(sc).Rows[1], "|"), "gws|6.00 µs (2.00 µs – 12.0 µs)|–|fell behind (1 of 3 rounds)"; got != want {
		t.Errorf("the limit fell behind in two of three rounds: got %q, want %q", got, want)
	}
}

func TestFallingBehindIsSeenByBothEnds(t *testing.T) {
	p := pacedPass("paced", size{clients: 10, rate: 50, bytes: 512, window: time.Second})
	ended := func(p95, elapsed time.Duration) *result {
		return &result{
			Load:    control.ReceivedReport{P95: p95},
			Measure: control.MeasureReport{Publish: control.PublishReport{Elapsed: elapsed}},
		}
	}
	for _, test := range []struct {
		p95, elapsed time.Duration
		want         bool
	}{
		{20 * time.Millisecond, time.Second, false},
		{21 * time.Millisecond, 980 * time.Millisecond, true}, // one in twenty came when the next was due
		{time.Millisecond, 1001 * time.Millisecond, true},     // the last Broadcast, due after 980 ms, returned 21 ms later
	} {
		if got := p.behind(ended(test.p95, test.elapsed)); got != test.want {
			t.Errorf("behind(p95 %v, elapsed %v) = %v, want %v", test.p95, test.elapsed, got, test.want)
		}
	}
	collected := ended(120*time.Millisecond, 980*time.Millisecond)
	if collected.Server = "mesherstream-100ms"; p.behind(collected) {
		t.Error("messages that are collected for 100 ms and arrive after 120 ms are behind, want that they are in time")
	}
	if collected.Load.P95++; !p.behind(collected) {
		t.Error("messages that are collected for 100 ms and arrive after more than 120 ms are in time")
	}
	bursts := burstPass("burst", size{clients: 10, rate: 50, bytes: 512, window: time.Second})
	if bursts.behind(ended(1900*time.Millisecond, 1900*time.Millisecond)) || !bursts.behind(ended(2001*time.Millisecond, time.Second)) {
		t.Error("100 messages at once, at 50 a second, are behind if they take longer than two seconds")
	}
	crooked := p
	crooked.traffic.For += 10 * time.Millisecond // the last message is due after a second then
	if crooked.behind(ended(time.Millisecond, 1019*time.Millisecond)) || !crooked.behind(ended(time.Millisecond, 1021*time.Millisecond)) {
		t.Error("want a message to be late 20 ms after it was due")
	}
	flood := flood(size{clients: 10, rate: 50, bytes: 512, window: time.Second}).passes[0]
	if flood.behind(ended(time.Second, time.Minute)) {
		t.Error("a flood has no pace, and can't be behind it")
	}
	connect := connecting(size{clients: 10, idle: 10, rate: 50, bytes: 512, handshakes: 100}).passes[0]
	if slow := (result{Connect: control.ReceivedReport{P95: 51 * time.Millisecond}}); !connect.behind(&slow) {
		t.Error("handshakes of 51 ms are not behind, want more than 50 ms")
	}
}

// TestAServerThatIsTooSlowFallsBehind publishes faster than one write for each client and message can be.
func TestAServerThatIsTooSlowFallsBehind(t *testing.T) {
	binaries, err := build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(binaries.remove)
	p := pacedPass("paced", size{clients: 1000, rate: 200, bytes: 512, window: 300 * time.Millisecond})
	r := runner{binaries: binaries, server: "fiberhub", pass: p, warmUp: 10 * time.Millisecond}
	if got := r.run(t.Context()); !got.Behind || got.Error != "" {
		t.Errorf("behind %v, error %q, p95 %v, want that 200,000 writes a second from one goroutine are too many", got.Behind, got.Error, got.Load.P95)
	}
}

func TestScenariosHaveThePacesThatAreGiven(t *testing.T) {
	given := size{clients: 20, bytes: 512, idle: 20, rounds: 1, window: time.Second, rate: 7, handshakes: 70, collected: 12}
	s := settings{names: "paced,coalesced,connect", size: given}
	before := given
	before.rate, before.handshakes, before.collected = 1, 1, 1
	if err := s.choose(before); err != nil {
		t.Fatal(err)
	}
	if err := s.findPaces(t.Context(), nil); err != nil { // without a server
		t.Fatal(err)
	}
	paced, collected, connects := s.scenarios[0].passes[0], s.scenarios[1].passes[0], s.scenarios[2].passes[0]
	if paced.interval != time.Second/7 || collected.clients != 12 || connects.pace != 70 {
		t.Errorf("got an interval of %v, %d clients and %d handshakes a second, want those that are given", paced.interval, collected.clients, connects.pace)
	}
}

// document is one that -write keeps.
const document = "# Results\n\n<!-- compare run -->\nwhen\n<!-- end -->\n\nWords.\n\n<!-- compare paced -->\nold\n<!-- end -->\n\nMore words.\n"

func TestTablesOfADocumentAreReplacedAndReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	b := bookOfThree()
	b.Rate = 40
	written, err := b.rewrite(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Results\n", "\nWords.\n", "\nMore words.\n", "| gws | 6.00 µs (2.00 µs – 12.0 µs) | 3.00 (2.00 – 4.00) |"} {
		if !strings.Contains(string(written), want) {
			t.Errorf("no %q in\n%s", want, written)
		}
	}
	if strings.Contains(string(written), "old") || strings.Contains(string(written), "when") {
		t.Errorf("what stood between the marks is still there:\n%s", written)
	}
	if err := os.WriteFile(file, written, 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := b.rewrite(file); err != nil || string(again) != string(written) {
		t.Errorf("%v; written again, the document is\n%s", err, again)
	}
	read := parseTables(string(written))
	if got, want := read["paced"]["gws"]["× syscalls"], (span{2, 4}); got != want {
		t.Errorf("read %v, want %v", got, want)
	}
	if _, ok := read["paced"]["melody"]["× syscalls"]; ok {
		t.Error("read a figure of a server that froze")
	}
	if rate, handshakes, collected := printedPaces(string(written)); rate != 40 || handshakes != 0 || collected != 0 {
		t.Errorf("read paces of %d and %d, and %d clients of coalesced, want 40, and 0 without a table", rate, handshakes, collected)
	}
	other := "<!-- compare run -->\nThe pace is 13 messages a second to 1000 clients.\n<!-- end -->\n" +
		"<!-- compare coalesced -->\n### coalesced: 320 clients, 512 B\n<!-- end -->\n" +
		"<!-- compare connect -->\n### connect: 5000 clients connect, 2500 a second (medians of 5 rounds)\n<!-- end -->\n"
	if rate, handshakes, collected := printedPaces(other); rate != 13 || handshakes != 2500 || collected != 320 {
		t.Errorf("read paces of %d and %d, and %d clients of coalesced, want 13, 2500 and 320", rate, handshakes, collected)
	}
	if n, left, err := b.check(read, 0); err != nil || n != 2 || left != nil {
		t.Errorf("%d figures are those that were just printed, without %q: %v", n, left, err)
	}

	if err := os.WriteFile(file, []byte(document+other[strings.Index(other, "<!-- compare connect"):]), 0o600); err != nil {
		t.Fatal(err)
	}
	if written, err := b.rewrite(file); err != nil || !strings.Contains(string(written), "\nwhen\n") {
		t.Errorf("%v; another table stays, and the way in which it was made doesn't:\n%s", err, written)
	}
	b.scenarios[0].name = "fan"
	if _, err := b.rewrite(file); err == nil {
		t.Error("got no error for a table that has no place in the document")
	}
}

func TestFiguresBeyondThePrintedSpreadAreReported(t *testing.T) {
	b := bookOfThree() // the ratio is 3
	for _, test := range []struct {
		printed   span
		tolerance float64
		wrong     bool
	}{
		{span{2.9, 3.1}, 0, false},
		{span{3.1, 3.2}, 0, true},
		{span{3.1, 3.2}, 0.1, false},
		{span{2, 2.8}, 0, true},
		{span{2, 2.8}, 0.1, false},
		{span{2, 2.8}, 0.05, true},
	} {
		before := map[string]printed{"paced": {"gws": {"× syscalls": test.printed}}}
		if _, _, err := b.check(before, test.tolerance); (err != nil) != test.wrong {
			t.Errorf("printed %v, tolerance %v: got %v, want an error: %v", test.printed, test.tolerance, err, test.wrong)
		}
	}
	if _, _, err := b.check(nil, 1); err == nil {
		t.Error("got no error though nothing was printed")
	}
}

func TestACheckDoesNotPassOverThisPackage(t *testing.T) {
	for name, spoil := range map[string]func(*result){
		"fell behind": func(r *result) { r.Behind = true },
		"froze":       func(r *result) { r.Froze = true },
		"failed":      func(r *result) { r.Error = "the sum does not hold" },
	} {
		for _, server := range []string{"mesherstream-20ms", "gobwas"} {
			b := bookOfThree()
			b.scenarios[0].servers = append(b.scenarios[0].servers, server)
			for i := range 3 {
				r := result{Pass: "paced", Server: server, Round: i, Load: control.ReceivedReport{Received: 1000, Expected: 1000}}
				if i > 0 {
					spoil(&r)
				}
				b.add(r)
			}
			before := map[string]printed{"paced": {"gws": {"× syscalls": {3, 3}}, server: {"× syscalls": {1, 1}}}}
			n, left, err := b.check(before, 0)
			if own := server != "gobwas"; n != 1 || (err != nil) != own || (len(left) == 1) == own {
				t.Errorf("%s %s twice of three times: %d figures were compared, %q were left, and the error is %v", server, name, n, left, err)
			}
		}
	}
}

func TestCellsAreReadAsTheyAreWritten(t *testing.T) {
	for cell, want := range map[string]span{"1.03 (0.98 – 1.10)": {0.98, 1.1}, "1.00": {1, 1}, "1,234 (1,200 – 1,300)": {1200, 1300}} {
		if got, ok := parseSpan(cell); !ok || got != want {
			t.Errorf("parseSpan(%q) = %v, %v, want %v", cell, got, ok, want)
		}
	}
	for _, cell := range []string{"–", "", "12 ns", "1.0 (a – b)", "1.0 (1.0)"} {
		if got, ok := parseSpan(cell); ok {
			t.Errorf("parseSpan(%q) = %v, want nothing", cell, got)
		}
	}
}

// TestThePaceIsFoundAndPrinted runs compare as a reader would, with few clients.
func TestThePaceIsFoundAndPrinted(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	compare, file := filepath.Join(folder, "compare"), filepath.Join(folder, "RESULTS.md")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", compare, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := "-servers syscalls,gws -clients 10 -seconds 100ms -warmup 20ms -rounds 1 -write " + file
	if out, err := exec.CommandContext(t.Context(), compare, strings.Fields(flags)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// A machine that does nothing else keeps up with the fastest pace, and the one that is taken is a step below.
	found := regexp.MustCompile(`(\d+) messages a second`).FindSubmatch(written)
	if found == nil {
		t.Fatalf("no pace in\n%s", written)
	}
	if rate, err := strconv.Atoi(string(found[1])); err != nil || !slices.Contains(paces[1:], rate) {
		t.Errorf("a pace of %s, want one of %v", found[1], paces[1:])
	}
	if !strings.Contains(string(written), "-servers syscalls,gws") || !strings.Contains(string(written), "Load average") {
		t.Errorf("no command or no load in\n%s", written)
	}
}

func TestTargetsAreComparedWithTheMedians(t *testing.T) {
	all, err := scenarios("all", size{clients: 10, rate: 100, bytes: 512, idle: 10, window: time.Second, rounds: 1, handshakes: 1})
	if err != nil {
		t.Fatal(err)
	}
	b := &book{scenarios: all}
	if got := b.targetSection(); got != "" {
		t.Errorf("got %q without any result", got)
	}
	for _, want := range targets {
		at := slices.IndexFunc(all, func(sc scenario) bool { return sc.name == want.scenario })
		if at < 0 || !slices.Contains(all[at].servers, want.server) ||
			!slices.ContainsFunc(all[at].columns, func(c column) bool { return c.title == want.column }) {
			t.Fatalf("no figure is %+v", want)
		}
	}
	for _, sc := range all {
		for _, p := range sc.passes {
			b.add(result{Pass: p.name, Server: "mesherstream", Error: "none"})
		}
	}
	b.add(result{Pass: "paced", Server: "mesherstream", Measure: control.MeasureReport{CPU: 1200}, Load: control.ReceivedReport{Received: 1, Expected: 1}})
	b.add(result{Pass: "paced", Server: "syscalls", Measure: control.MeasureReport{CPU: 1000}, Load: control.ReceivedReport{Received: 1, Expected: 1}})
	got := b.targetSection()
	for _, want := range []string{
		"| paced | mesherstream | × syscalls | ≤ 1.00 | 1.20 | **missed** |", "| burst | mesherstream | × joined | ≤ 1.4 | – | **not known** |",
		"| paced | mesherstream | allocs/delivery | 0, but for pongs: one for each, and a client sends one a second | 0.000 |  |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestPassesAreSharedAndRestsOverlap makes one round of three scenarios, two of which need the same pass.
func TestPassesAreSharedAndRestsOverlap(t *testing.T) {
	z := size{clients: 20, rate: 20, bytes: 512, idle: 20, rounds: 1, handshakes: 1000, window: 100 * time.Millisecond, settle: 10 * time.Millisecond}
	s := settings{names: "paced,churn,connect,idle", servers: []string{"mesherstream", "syscalls"}, size: z, together: 2}
	if err := s.choose(z); err != nil {
		t.Fatal(err)
	}
	binaries, err := build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(binaries.remove)
	b := newBook(&s, binaries)
	if err := s.play(t.Context(), binaries, b); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int)
	for _, r := range b.Results {
		if r.Error != "" {
			t.Errorf("%s of %s: %s", r.Pass, r.Server, r.Error)
		}
		if r.Pass == "connect" && (r.Connect.P50 == 0 || r.Connect.Clients != 20 || r.Measure.CPU == 0) {
			t.Errorf("connect of %s: got %+v and %+v, want 20 handshakes that took time", r.Server, r.Connect, r.Measure)
		}
		if r.Pass == "idle" && (r.Rested.ResidentBytes == 0 || r.After.HeapUsedBytes < r.After.HeapBytes) {
			t.Errorf("idle of %s: got %+v and %+v", r.Server, r.Rested, r.After)
		}
		got[r.Pass+" "+r.Server]++
	}
	for _, pass := range []string{"paced", "churn", "connect", "idle"} {
		for _, server := range s.servers {
			if got[pass+" "+server] != 1 {
				t.Errorf("got %d runs of %s by %s, want 1", got[pass+" "+server], pass, server)
			}
		}
	}
}

func TestFilesCanBeRead(t *testing.T) {
	b := bookOfThree()
	chart, err := b.chart()
	if err != nil {
		t.Fatal(err)
	}
	for decoder := xml.NewDecoder(strings.NewReader(string(chart))); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the chart is no XML: %v", err)
		}
	}
	if _, err := json.Marshal(b); err != nil {
		t.Errorf("the results are no JSON: %v", err)
	}
	tables, err := b.markdown()
	if err != nil || !strings.Contains(string(tables), "| gws |") {
		t.Errorf("got %v and\n%s", err, tables)
	}
}

func TestEveryScenarioCanBeChosen(t *testing.T) {
	all, err := scenarios("all", size{clients: 1000, rate: 100, bytes: 512, idle: 10, window: time.Second, rounds: 1})
	if err != nil || len(all) != len(allScenarios) {
		t.Errorf("got %d scenarios, %v, want %d", len(all), err, len(allScenarios))
	}
	if _, err := scenarios("paced,naps", size{clients: 1000, rate: 100}); err == nil {
		t.Error("got no error for an unknown scenario")
	}
}
