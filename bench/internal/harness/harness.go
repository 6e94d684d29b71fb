//go:build linux

// Package harness is what every server under test has in common: flags, the publisher, the meter, and the conversation with compare.
// What differs is a [Server].
package harness

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/feed"
)

// Server is one implementation under test. Its methods are called from different goroutines.
type Server interface {
	// Serve accepts clients until the process ends.
	Serve(net.Listener) error
	// Broadcast sends the event to every client that wants it. A server that keeps the data after returning copies it first.
	Broadcast(feed.Event)
	// Clients says how many clients would get a broadcast now.
	Clients() int
}

// Config is what a server may want to know before it starts.
type Config struct {
	// Filtered says that clients narrow by project, level and environment. Without it every client wants everything, and a server
	// whose fastest way to send to all differs from its way to send to some uses that.
	Filtered bool
}

// New makes one server.
type New func(Config) (Server, error)

// Main runs the server that the flags name, until standard input ends.
func Main(servers map[string]New) {
	var (
		name     = flag.String("server", "", "`name` of the server: "+strings.Join(Names(servers), ", "))
		address  = flag.String("addr", "127.0.0.1:0", "`address` to listen on")
		filtered = flag.Bool("filtered", false, "clients want one project each, and perhaps one level or environment")
		cpus     = flag.Int("cpus", 0, "GOMAXPROCS; 0 leaves it to Go")
	)
	profile := flag.String("cpuprofile", "", "write a CPU profile to this `file`")
	flag.Parse()
	if *cpus > 0 {
		runtime.GOMAXPROCS(*cpus)
	}
	create, known := servers[*name]
	if !known {
		slog.Error("unknown server", "name", *name, "known", Names(servers))
		os.Exit(2)
	}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(file)
		}
		if err != nil {
			slog.Error("profile", "error", err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	if err := run(create, Config{Filtered: *filtered}, *address, os.Stdin, os.Stdout); err != nil {
		pprof.StopCPUProfile()
		slog.Error("server failed", "name", *name, "error", err)
		os.Exit(1)
	}
}

// Names returns the servers' names in order.
func Names(servers map[string]New) []string {
	var names []string
	for name := range servers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func run(create New, config Config, address string, in io.Reader, out io.Writer) error {
	server, err := create(config)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()

	timer, err := clock.NewTimer()
	if err != nil {
		return err
	}
	defer timer.Close()
	s := &session{server: server, timer: timer, answers: json.NewEncoder(out)}
	s.answer(control.Answer{Say: control.Listening, Address: listener.Addr().String()})
	ended := make(chan error, 1)
	go func() { ended <- s.obey(json.NewDecoder(in)) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case err := <-ended:
		// Nothing is closed: a server that is stuck in a Broadcast could not, and the process ends anyway.
		return err
	}
}

// session is one conversation with compare.
type session struct {
	server    Server
	timer     *clock.Timer // for a publisher, or for a watch
	meter     Meter
	publisher *publisher // the one that ran last

	mu      sync.Mutex // held while an answer is written
	answers *json.Encoder
}

func (s *session) answer(a control.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// An answer that can't be written has nobody to read it; the end of standard input follows.
	_ = s.answers.Encode(a)
}

// obey carries out commands. Publishing has a goroutine of its own, so that a server which hangs in Broadcast can still be measured.
func (s *session) obey(commands *json.Decoder) error {
	for {
		var command control.Command
		if err := commands.Decode(&command); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read command: %w", err)
		}
		switch command.Do {
		case control.Count:
			s.answer(control.Answer{Say: control.Counted, Clients: s.server.Clients()})
		case control.Memory:
			report := Settle()
			report.Clients = s.server.Clients()
			s.answer(control.Answer{Say: control.Remembered, Memory: report})
		case control.Glance:
			s.answer(control.Answer{Say: control.Remembered, Memory: Glance()})
		case control.Open:
			s.publisher = nil
			s.meter.Start()
			s.answer(control.Answer{Say: control.Begun})
		case control.Watch:
			go func(n int) {
				s.answer(control.Answer{Say: control.Noticed, Nanos: s.watch(n)})
			}(command.Clients)
		case control.Publish:
			s.publisher = newPublisher(s.server, s.timer, *command.Traffic, command.First)
			s.meter.Start()
			go func(p *publisher) {
				p.run()
				s.answer(control.Answer{Say: control.Published, Publish: new(p.report())})
			}(s.publisher)
		case control.Measure:
			report := s.meter.Stop()
			if s.publisher != nil {
				report.Publish = s.publisher.report()
			}
			report.Clients = s.server.Clients()
			s.answer(control.Answer{Say: control.Measured, Measure: report})
		default:
			return fmt.Errorf("unknown command %q", command.Do)
		}
	}
}

// watchPatience is how long a client may be away unnoticed before the server is taken to be one that doesn't notice.
const watchPatience = 2 * time.Second

// watch returns when the server has fewer than n clients, and 0 if it keeps them.
func (s *session) watch(n int) int64 {
	for end := clock.Now() + int64(watchPatience); clock.Now() < end; {
		if s.server.Clients() < n {
			return clock.Now()
		}
		s.timer.SleepUntil(clock.Now() + int64(200*time.Microsecond))
	}
	return 0
}
