//go:build linux

// Command compare runs the same work through several servers, in rounds that alternate them, and prints what it cost each, beside what
// the bare system calls cost in the same round.
//
//	go run ./bench/cmd/compare -scenario paced -servers mesherstream,gws,syscalls
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/feed"
)

// settings is what the flags say.
type settings struct {
	names     string   // of the scenarios, by comma
	servers   []string // instead of those that the scenarios compare, if there are any
	size      size
	scenarios []scenario // made of these by choose, when the pace is known
	warmUp    time.Duration
	cpus      int
	nice      int // of the servers
	together  int
	profile   string

	markdown, json, svg, write string
	check                      string
	tolerance                  float64
}

// allServers are those of WebSockets, the limits last.
var allServers = []string{
	"mesherstream", "fiberhub", "socketio", "melody", "gorilla", "coder", "gws", "gobwas", "centrifuge", "syscalls", "joined",
}

// scheduledLimit is the limit as most Go programs write, which shows what the scheduler costs.
const scheduledLimit = "syscalls-go"

// streamServers are those of the scenario events. The first is what the others are compared with.
var streamServers = []string{
	"mesherstream", "mesherstream-protocol", "mesherstream-events", "mesherstream-lines",
	"fiberstream", "r3labs", "tmaxmax", "alexandrevicenzi", "centrifuge-sse",
}

// variants are this library with its options, and with clients that ask for something else.
var variants = []string{
	"mesherstream", "mesherstream-hooks", "mesherstream-protocol", "mesherstream-history", "mesherstream-events", "mesherstream-lines",
}

// collecting are this library with WithCoalescing, and for how long they collect messages.
var collecting = map[string]time.Duration{
	"mesherstream-20ms": 20 * time.Millisecond, "mesherstream-100ms": 100 * time.Millisecond,
}

// wireOf returns what the clients ask a server for.
func wireOf(server string) string {
	switch {
	case server == "mesherstream-protocol", server == "mesherstream-history":
		return control.Protocol
	case server == "mesherstream-lines":
		return control.Lines
	case server != "mesherstream" && slices.Contains(streamServers, server):
		return control.Events
	default:
		return control.WebSocket
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := parse()
	if err != nil {
		slog.Error("bad flags", "error", err)
		os.Exit(2)
	}
	if err := s.run(ctx); err != nil {
		slog.Error("compare failed", "error", err)
		os.Exit(1)
	}
}

func parse() (*settings, error) {
	var (
		s       = &settings{}
		z       = &s.size
		servers = flag.String("servers", "", "`servers`, by comma, instead of all that a scenario compares: "+strings.Join(known(), ", "))
	)
	flag.StringVar(&s.names, "scenario", "paced", "`scenarios`, by comma: "+strings.Join(scenarioNames(), ", ")+", or all")
	flag.IntVar(&z.rounds, "rounds", 5, "rounds of each scenario, but of idle no more than two. Figures are medians over them")
	flag.DurationVar(&z.window, "seconds", 3*time.Second, "how long a window publishes: a `duration`, such as 10s")
	flag.DurationVar(&s.warmUp, "warmup", time.Second, "publishing before the window")
	flag.IntVar(&z.clients, "clients", 1000, "connections where the scenario does not say")
	flag.IntVar(&z.rate, "rate", 0, "messages a second; 0 finds a pace with which every server keeps up")
	flag.IntVar(&z.handshakes, "handshakes", 0, "handshakes a second of the scenario connect; 0 finds a pace with which every server keeps up")
	flag.IntVar(&z.collected, "collected", 0, "clients of the scenario coalesced; 0 finds as many as every server keeps up with")
	flag.IntVar(&z.bytes, "size", 512, "bytes of a message")
	flag.IntVar(&z.idle, "idle", 10_000, "connections of the scenarios idle and connect")
	flag.DurationVar(&z.settle, "settle", 150*time.Second, "rest before idle connections are weighed; pools and worker goroutines need at least ten seconds to give up, and the runtime collects its garbage every two minutes")
	flag.IntVar(&s.together, "together", 44, "servers that rest at the same time, each with all its idle connections; 44 with 10,000 each take 10 GiB, kernel included")
	flag.StringVar(&s.profile, "profile", "", "write each server's CPU profile to this `folder`; it costs the servers some time")
	flag.IntVar(&s.nice, "nice", defaultNice, "nice value of the servers, from 0 to 19; the clients have 0")
	flag.IntVar(&s.cpus, "cpus", 0, "GOMAXPROCS of the servers; 0 leaves it to Go")
	flag.StringVar(&s.markdown, "markdown", "", "write the tables to this `file`")
	flag.StringVar(&s.write, "write", "", "replace the tables in this `file`, which is RESULTS.md")
	flag.StringVar(&s.json, "json", "", "write every run's raw figures to this `file`")
	flag.StringVar(&s.svg, "svg", "", "write a chart of CPU per delivery × syscalls to this `file`")
	flag.StringVar(&s.check, "check", "", "fail if a ratio is not within the spread that the tables in this `file` print; their pace is taken, unless -rate gives one")
	flag.Float64Var(&s.tolerance, "tolerance", 0.2, "by which `share` a ratio may be beyond the spread; see -check")
	flag.Parse()
	if flag.NArg() > 0 {
		return s, fmt.Errorf("%q is no flag: lists are by comma, without spaces", flag.Arg(0))
	}

	if z.rounds < 1 || z.clients < 10 || z.rate < 0 || z.window <= 0 || z.handshakes < 0 || z.collected < 0 || s.together < 1 {
		return s, fmt.Errorf("%d rounds of %v with %d and %d clients, %d messages and %d handshakes a second, %d servers together: want at least 1, more than 0, 10, 0, 0, 0 and 1",
			z.rounds, z.window, z.clients, z.collected, z.rate, z.handshakes, s.together)
	}
	if z.bytes < feed.MinSize || z.idle < 1 {
		return s, fmt.Errorf("messages of %d bytes and %d idle connections: want at least %d and 1", z.bytes, z.idle, feed.MinSize)
	}
	if s.tolerance < 0 || s.nice < 0 || s.nice > 19 {
		return s, fmt.Errorf("a tolerance of %v and a nice value of %d: want at least 0, and 0 to 19", s.tolerance, s.nice)
	}
	if *servers != "" {
		s.servers = strings.Split(*servers, ",")
	}
	assumed := *z // what is to be found is not known yet
	assumed.rate, assumed.handshakes, assumed.collected = max(z.rate, 1), max(z.handshakes, 1), max(z.collected, 1)
	if err := s.choose(assumed); err != nil {
		return s, err
	}
	drawn := slices.ContainsFunc(s.scenarios, func(sc scenario) bool {
		return slices.Contains(charted, sc.name) && slices.Contains(sc.servers, "syscalls")
	})
	if s.svg != "" && !drawn {
		return s, fmt.Errorf("a chart needs the server syscalls and one of the scenarios %s", strings.Join(charted, ", "))
	}
	return s, nil
}

// known are all servers.
func known() []string {
	return slices.Concat(variants, slices.Sorted(maps.Keys(collecting)), allServers[1:], []string{scheduledLimit}, streamServers[4:])
}

// choose makes the scenarios that the flags name, with their servers.
func (s *settings) choose(z size) (err error) {
	if s.scenarios, err = scenarios(s.names, z); err != nil || s.servers == nil {
		return err
	}
	for i := range s.scenarios {
		sc := &s.scenarios[i]
		of := known()
		if slices.ContainsFunc(sc.passes, func(p pass) bool { return p.plan.Projects > 1 }) {
			of = allServers // those of streams don't filter
		}
		for _, server := range s.servers {
			if !slices.Contains(of, server) {
				return fmt.Errorf("unknown server %q, known to %s are %s", server, sc.name, strings.Join(of, ", "))
			}
		}
		sc.servers = s.servers
	}
	return nil
}

func (s *settings) run(ctx context.Context) error {
	var before map[string]printed
	if s.check != "" {
		content, err := os.ReadFile(s.check)
		if err != nil {
			return err
		}
		before = parseTables(string(content))
		rate, handshakes, collected := printedPaces(string(content)) // of a burst, the ratios depend on them
		s.size.rate, s.size.handshakes = cmp.Or(s.size.rate, rate), cmp.Or(s.size.handshakes, handshakes)
		s.size.collected = cmp.Or(s.size.collected, collected)
	}
	binaries, err := build(ctx)
	if err != nil {
		return err
	}
	defer binaries.remove()

	if err := s.findPaces(ctx, binaries); err != nil {
		return err
	}
	book := newBook(s, binaries)
	interrupted := s.play(ctx, binaries, book)
	book.interrupted = interrupted != nil
	for _, sc := range book.finished() {
		fmt.Print(book.table(sc).Text(), "\n")
	}
	if err := errors.Join(interrupted, book.write(s)); err != nil || s.check == "" {
		return err
	}
	compared, left, err := book.check(before, s.tolerance)
	fmt.Printf("\n%d figures were compared with those of %s, which allow for their spread and %.0f %% beyond it.\n", compared, s.check, 100*s.tolerance)
	if len(left) > 0 {
		fmt.Printf("Not compared, since too many of their rounds fell behind: %s.\n", strings.Join(left, ", "))
	}
	return err
}
