//go:build linux

// Command herd measures what it costs when all viewers return at once, as after the restart of a proxy: each was connected,
// left, has missed messages, and returns with its position within two seconds.
//
//	go run ./bench/cmd/herd
//	go run ./bench/cmd/herd -clients 5000 -missed 1000 -size 512 -over 2s -profile cpu.out
//	go run ./bench/cmd/herd -rounds 3 -missed 0,100,1000 -write bench/RESULTS.md
//
// The server is one process, and the viewers are a few others, since a process has a limited number of descriptors. The server
// runs at a nice value of 10, as in the other measurements, unless -nice says otherwise.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/machine"
)

// config is what the flags say.
type config struct {
	Clients   int
	Processes int
	Missed    int
	Rounds    int
	Size      int
	Over      time.Duration
	Nice      int
	Profile   string
	Write     string
}

// command is one line to a process, and answer one from it.
type command struct {
	Do string
	N  int   `json:",omitempty"`
	At int64 `json:",omitempty"` // CLOCK_MONOTONIC
}

type answer struct {
	Error   string    `json:",omitempty"`
	Address string    `json:",omitempty"`
	Clients int       `json:",omitempty"`
	Returns []outcome `json:",omitempty"`
	Used    *usage    `json:",omitempty"`
}

// outcome is how one return went.
type outcome struct {
	Took     time.Duration // from the handshake's request to the end of the replay
	Messages int           // in the replay
}

// usage is what the server has used.
type usage struct {
	CPU, User, System time.Duration
	Before, Peak, End int64 // resident bytes; the last one at rest, with all viewers
	Allocations       uint64
	Collections       uint32
}

func main() {
	var c config
	role := flag.String("role", "", "what a process is that this program has started itself")
	address := flag.String("addr", "", "address of the server, for viewers")
	source := flag.Int("source", 2, "last byte of the viewers' address")
	missed := flag.String("missed", "1000", "`messages` that each of them has missed, and the server's history; several numbers, by comma, are several cases")
	flag.IntVar(&c.Clients, "clients", 15_000, "viewers; the server needs as many descriptors, and a few")
	flag.IntVar(&c.Processes, "processes", 4, "processes that they are dealt over")
	flag.IntVar(&c.Rounds, "rounds", 1, "rounds of all cases; figures are medians over them")
	flag.IntVar(&c.Size, "size", 512, "bytes of a message")
	flag.DurationVar(&c.Over, "over", 2*time.Second, "time in which they return")
	flag.IntVar(&c.Nice, "nice", 10, "nice value of the server")
	flag.StringVar(&c.Profile, "profile", "", "file for a CPU profile of the server")
	flag.StringVar(&c.Write, "write", "", "replace the table in this `file`, which is RESULTS.md")
	flag.Parse()
	cases, err := parseMissed(*missed)
	if err != nil || c.Rounds < 1 || *role == "" && (c.Processes < 1 || c.Clients < c.Processes) {
		slog.Error("bad flags", "missed", *missed, "rounds", c.Rounds, "clients", c.Clients, "processes", c.Processes, "error", err)
		os.Exit(2)
	}
	c.Missed = cases[0]
	switch *role {
	case "server":
		err = serve(c)
	case "viewers":
		err = view(c, *address, byte(*source))
	default:
		err = c.compare(cases)
	}
	if err != nil {
		slog.Error("herd failed", "error", err)
		os.Exit(1)
	}
}

// process is a server, or some viewers.
type process struct {
	command *exec.Cmd
	stdin   io.WriteCloser
	stdout  io.Closer
	answers *json.Decoder
}

func start(nice int, args ...string) (*process, error) {
	p := &process{command: exec.Command("/proc/self/exe", args...)}
	p.command.Stderr = os.Stderr
	var err error
	if p.stdin, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdout, p.answers = stdout, json.NewDecoder(stdout)
	started := make(chan error)
	go func() {
		// A child inherits the priority of the thread that starts it. This one is never unlocked, so it ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice)
		if err == nil {
			err = p.command.Start()
		}
		started <- err
	}()
	return p, <-started
}

func (p *process) tell(c command) error { return json.NewEncoder(p.stdin).Encode(c) }

func (p *process) hear() (a answer, err error) {
	if err = p.answers.Decode(&a); err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

func (p *process) ask(c command) (answer, error) {
	if err := p.tell(c); err != nil {
		return answer{}, err
	}
	return p.hear()
}

func (p *process) stop() {
	_ = p.stdin.Close()
	_ = p.stdout.Close() // it may be in the middle of an answer that nobody reads any longer
	_ = p.command.Wait() // a failure was reported by an answer
}

// obey answers commands until they end, or until one fails.
func obey(carryOut func(command) (answer, error)) error {
	answers := json.NewEncoder(os.Stdout)
	for commands := json.NewDecoder(os.Stdin); ; {
		var cmd command
		if err := commands.Decode(&cmd); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err := carryOut(cmd)
		if err != nil {
			return err
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// measure runs the server and the viewers.
func (c config) measure() (r run, err error) {
	seen := machine.Observe()
	flags := []string{"-missed", fmt.Sprint(c.Missed), "-size", fmt.Sprint(c.Size), "-over", c.Over.String(), "-profile", c.Profile}
	server, err := start(c.Nice, append(flags, "-role", "server")...)
	if err != nil {
		return r, err
	}
	defer server.stop()
	a, err := server.hear()
	if err != nil {
		return r, err
	}
	var herd []*process
	for i, left := 0, c.Clients; i < c.Processes; i++ {
		share := left / (c.Processes - i)
		left -= share
		p, err := start(0, append(flags, "-role", "viewers", "-addr", a.Address, "-clients", fmt.Sprint(share), "-source", fmt.Sprint(2+i))...)
		if err != nil {
			return r, err
		}
		defer p.stop()
		herd = append(herd, p)
	}
	all := func(cmd command) (returns []outcome, err error) {
		for _, p := range herd {
			if err := p.tell(cmd); err != nil {
				return nil, err
			}
		}
		for _, p := range herd {
			a, err := p.hear()
			if err != nil {
				return nil, err
			}
			returns = append(returns, a.Returns...)
		}
		return returns, nil
	}
	for _, do := range []string{"connect", "leave"} {
		if _, err := all(command{Do: do}); err != nil {
			return r, err
		}
	}
	for _, cmd := range []command{{Do: "empty"}, {Do: "publish", N: c.Missed}, {Do: "begin"}} {
		if _, err := server.ask(cmd); err != nil {
			return r, err
		}
	}
	returns, err := all(command{Do: "return", At: clock.Now() + int64(100*time.Millisecond)})
	if err != nil {
		return r, err
	}
	end, err := server.ask(command{Do: "end"})
	if err != nil {
		return r, err
	}
	pids := []int{server.command.Process.Pid}
	for _, p := range herd {
		pids = append(pids, p.command.Process.Pid)
	}
	slices.SortFunc(returns, func(a, b outcome) int { return cmp.Compare(a.Took, b.Took) })
	return run{returns: returns, used: *end.Used, conditions: seen.End(pids...)}, nil
}
