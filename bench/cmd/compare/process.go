//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/control"
)

// process is a server or a load client that runs.
type process struct {
	name     string
	command  *exec.Cmd
	stdin    io.Closer
	commands *json.Encoder
	answers  chan control.Answer // closed when the process writes no more
	stderr   tail
}

// defaultNice makes every server yield to the load client, which stands for a thousand machines that have processors of their own.
// Without it, a server that keeps both cores busy would starve its clients, and what they then lose would be counted against it.
const defaultNice = 10

func start(name, binary string, nice int, args ...string) (*process, error) {
	p := &process{name: name, command: exec.Command(binary, args...), answers: make(chan control.Answer, 16)}
	p.command.Stderr = &p.stderr
	stdin, err := p.command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startNice(p.command, nice); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.stdin, p.commands = stdin, json.NewEncoder(stdin)
	go func() {
		defer close(p.answers)
		for decoder := json.NewDecoder(stdout); ; {
			var a control.Answer
			if decoder.Decode(&a) != nil {
				return
			}
			p.answers <- a
		}
	}()
	return p, nil
}

// startNice starts the command at a lower priority than this process has.
func startNice(command *exec.Cmd, nice int) error {
	if nice == 0 {
		return command.Start()
	}
	started := make(chan error)
	go func() {
		// A child inherits the priority of the thread that starts it. This one is never unlocked, so it ends with the goroutine.
		runtime.LockOSThread()
		err := os.NewSyscallError("setpriority", unix.Setpriority(unix.PRIO_PROCESS, 0, nice))
		if err == nil {
			err = command.Start()
		}
		started <- err
	}()
	return <-started
}

var errLate = errors.New("no answer in time")

// wait returns the next answer, which must be say.
func (p *process) wait(say string, patience time.Duration) (control.Answer, error) {
	select {
	case a, more := <-p.answers:
		switch {
		case !more:
			return a, fmt.Errorf("%s ended without saying %s: %s", p.name, say, p.stderr.String())
		case a.Say != say:
			return a, fmt.Errorf("%s said %s, want %s", p.name, a.Say, say)
		}
		return a, nil
	case <-time.After(patience):
		return control.Answer{}, fmt.Errorf("%s: %w (%s, %v)", p.name, errLate, say, patience)
	}
}

// ask sends a command and waits for its answer.
func (p *process) ask(c control.Command, say string, patience time.Duration) (control.Answer, error) {
	if err := p.commands.Encode(c); err != nil {
		return control.Answer{}, fmt.Errorf("ask %s: %w", p.name, err)
	}
	return p.wait(say, patience)
}

// stop ends the process: its standard input ends, and if that does not help within five seconds it is killed. The error is
// what the process said about itself by its exit code.
func (p *process) stop() error {
	_ = p.stdin.Close()
	killer := time.AfterFunc(5*time.Second, func() { _ = p.command.Process.Kill() })
	defer killer.Stop()
	for range p.answers {
		// Whatever it still says is read, so that Wait may close the pipe.
	}
	if err := p.command.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", p.name, err, p.stderr.String())
	}
	return nil
}

// tail keeps the last 2 KiB of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - 2048; over > 0 {
		t.kept = bytes.Clone(t.kept[over:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.kept))
}
