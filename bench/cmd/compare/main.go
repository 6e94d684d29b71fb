//go:build linux

// Command compare runs the same work through several servers, in rounds that alternate them, and prints what it cost each, beside what
// the bare system calls cost in the same round.
//
//	go run ./bench/cmd/compare -scenario paced -servers mesherstream,gws,syscalls
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
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
	scenarios []scenario
	rounds    int
	warmUp    time.Duration
	cpus      int
	profile   string

	markdown, json, svg string
}

// allServers are those of WebSockets, the limits last.
var allServers = []string{
	"mesherstream", "fiberhub", "socketio", "melody", "gorilla", "coder", "gws", "gobwas", "centrifuge", "syscalls", "joined",
}

// streamServers are those of the scenario events. The first is what the others are compared with.
var streamServers = []string{
	"mesherstream", "mesherstream-protocol", "mesherstream-events", "mesherstream-lines",
	"fiberstream", "r3labs", "tmaxmax", "alexandrevicenzi", "centrifuge-sse",
}

// wireOf returns what the clients ask a server for.
func wireOf(server string) string {
	switch {
	case server == "mesherstream-protocol":
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

func parse() (settings, error) {
	var (
		s       settings
		z       = size{}
		names   = flag.String("scenario", "paced", "`scenarios`, by comma: "+strings.Join(scenarioNames(), ", ")+", or all")
		servers = flag.String("servers", "", "`servers`, by comma, instead of all that a scenario compares: "+strings.Join(allServers, ", ")+
			"; of events: "+strings.Join(streamServers, ", "))
	)
	flag.IntVar(&s.rounds, "rounds", 3, "rounds; figures are medians over them")
	flag.DurationVar(&z.window, "seconds", 10*time.Second, "how long a window publishes: a `duration`, such as 10s")
	flag.DurationVar(&s.warmUp, "warmup", time.Second, "publishing before the window")
	flag.IntVar(&z.clients, "clients", 1000, "connections where the scenario does not say")
	flag.IntVar(&z.rate, "rate", 100, "messages a second; a machine that can't keep up measures its queues instead of its servers")
	flag.IntVar(&z.bytes, "size", 512, "bytes of a message")
	flag.IntVar(&z.idle, "idle", 10_000, "idle connections of the scenarios idle and events")
	flag.DurationVar(&z.settle, "settle", 12*time.Second, "rest before idle connections are weighed; pools and worker goroutines need about ten seconds to give up")
	flag.StringVar(&s.profile, "profile", "", "write each server's CPU profile to this `folder`; it costs the servers some time")
	flag.IntVar(&s.cpus, "cpus", 0, "GOMAXPROCS of the servers; 0 leaves it to Go")
	flag.StringVar(&s.markdown, "markdown", "", "write the tables to this `file`")
	flag.StringVar(&s.json, "json", "", "write every run's raw figures to this `file`")
	flag.StringVar(&s.svg, "svg", "", "write a chart of CPU per delivery × syscalls to this `file`")
	flag.Parse()
	if flag.NArg() > 0 {
		return s, fmt.Errorf("%q is no flag: lists are by comma, without spaces", flag.Arg(0))
	}

	if s.rounds < 1 || z.clients < 10 || z.rate < 1 || z.window <= 0 {
		return s, fmt.Errorf("%d rounds of %v with %d clients and %d messages a second: want at least 1, more than 0, 10 and 1",
			s.rounds, z.window, z.clients, z.rate)
	}
	if z.bytes < feed.MinSize || z.idle < 1 {
		return s, fmt.Errorf("messages of %d bytes and %d idle connections: want at least %d and 1", z.bytes, z.idle, feed.MinSize)
	}
	var err error
	if s.scenarios, err = scenarios(*names, z); err != nil {
		return s, err
	}
	if *servers != "" {
		if err := choose(s.scenarios, strings.Split(*servers, ",")); err != nil {
			return s, err
		}
	}
	drawn := slices.ContainsFunc(s.scenarios, func(sc scenario) bool {
		return slices.Contains(charted, sc.name) && slices.Contains(sc.servers, "syscalls")
	})
	if s.svg != "" && !drawn {
		return s, fmt.Errorf("a chart needs the server syscalls and one of the scenarios %s", strings.Join(charted, ", "))
	}
	return s, nil
}

// choose gives all scenarios the servers that the flags name.
func choose(scenarios []scenario, servers []string) error {
	for i := range scenarios {
		sc := &scenarios[i]
		known := slices.Concat(allServers, streamServers[1:])
		if slices.ContainsFunc(sc.passes, func(p pass) bool { return p.plan.Projects > 1 }) {
			known = allServers // those of streams don't filter
		}
		for _, server := range servers {
			if !slices.Contains(known, server) {
				return fmt.Errorf("unknown server %q, known to %s are %s", server, sc.name, strings.Join(known, ", "))
			}
		}
		sc.servers = servers
	}
	return nil
}

func (s *settings) run(ctx context.Context) error {
	binaries, err := build(ctx)
	if err != nil {
		return err
	}
	defer binaries.remove()

	book := newBook(s, binaries)
	for _, sc := range s.scenarios {
		interrupted := s.play(ctx, binaries, book, &sc)
		if interrupted != nil {
			book.interrupted = sc.name
		}
		fmt.Print(book.table(sc).text(), "\n")
		// Written after every scenario, and when one is interrupted, so that a long comparison leaves what it has.
		if err := errors.Join(interrupted, book.write(s)); err != nil {
			return err
		}
	}
	return nil
}

// play makes all runs of a scenario, or those before ctx ends.
func (s *settings) play(ctx context.Context, binaries *binaries, book *book, sc *scenario) error {
	for round := range s.rounds {
		for i := range sc.servers {
			// Every round begins with another server, so that none always runs behind the same one.
			server := sc.servers[(i+round)%len(sc.servers)]
			for _, p := range sc.passes {
				r := runner{binaries: binaries, server: server, pass: p, warmUp: s.warmUp, cpus: s.cpus, profile: s.profile}
				result := r.run(ctx)
				if err := ctx.Err(); err != nil {
					return err // and the run was cut short
				}
				result.Scenario, result.Server, result.Pass, result.Round = sc.name, server, p.name, round
				book.add(result)
				progress(s, result)
			}
		}
	}
	return nil
}

func progress(s *settings, r result) {
	state := "ok"
	switch {
	case r.Froze:
		state = "froze"
	case r.Error != "":
		state = r.Error
	}
	slog.Info("run", "scenario", r.Scenario, "pass", r.Pass, "server", r.Server, "round", fmt.Sprintf("%d/%d", r.Round+1, s.rounds), "state", state)
}
