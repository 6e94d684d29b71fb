package clients

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// A process is a program that prints what it receives over plain HTTP. It ends with the test.
type process struct {
	*testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string // what it prints; closed when it has ended
	done   chan struct{}
	failed error // how it ended, once it is done
	errors bytes.Buffer
}

func run(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{T: t, cmd: exec.Command(name, args...), lines: make(chan string, 100_000), done: make(chan struct{})}
	p.cmd.Stderr = &p.errors
	kill := groupOf(p.cmd)
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	go func() {
		defer close(p.done)
		for r := bufio.NewReader(stdout); ; {
			line, err := r.ReadString('\n')
			if err == nil {
				line = line[:len(line)-1]
			}
			if line != "" || err == nil {
				p.lines <- line
			}
			if err != nil {
				break
			}
		}
		p.failed = p.cmd.Wait()
		close(p.lines)
	}()
	t.Cleanup(func() {
		kill()
		for range p.lines { // so that it can end
		}
		<-p.done
	})
	return p
}

// joins waits until the program has a stream of that project.
func (p *process) joins(w *world, project string) mesherstream.ClientID {
	p.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		id := w.ids[project]
		w.mu.Unlock()
		if id != 0 {
			return id
		}
		select {
		case <-p.done:
			p.Fatalf("%s has ended: %v\n%s", p.cmd, p.failed, &p.errors)
		default:
		}
		if time.Now().After(deadline) {
			p.Fatalf("%s doesn't join", p.cmd)
		}
	}
}

// line returns the next line that the program prints.
func (p *process) line() string {
	p.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.Fatalf("%s has ended: %v\n%s", p.cmd, p.failed, &p.errors)
		}
		return line
	case <-time.After(patience):
		p.Fatalf("%s prints nothing", p.cmd)
		panic("unreachable")
	}
}

// prints compares the next lines.
func (p *process) prints(want ...string) {
	p.Helper()
	var got []string
	for range want {
		got = append(got, p.line())
	}
	if !slices.Equal(got, want) {
		p.Errorf("%s prints %q, want %q", p.cmd, got, want)
	}
}

// rest returns what the program prints before it ends, and its exit status.
func (p *process) rest() (lines []string, status int) {
	p.Helper()
	for after := time.After(patience); ; {
		select {
		case line, ok := <-p.lines:
			if ok {
				lines = append(lines, line)
				continue
			}
			if exit, ok := errors.AsType[*exec.ExitError](p.failed); ok {
				return lines, exit.ExitCode()
			}
			return lines, 0
		case <-after:
			p.Fatalf("%s doesn't end", p.cmd)
		}
	}
}

// httpURL is the URL of a project's stream over plain HTTP.
func (w *world) httpURL(project string) string {
	scheme := "http"
	if w.transport.secure {
		scheme = "https"
	}
	return scheme + "://" + w.addr + "/stream/projects/" + project
}

// tell publishes a text message.
func (w *world) tell(t *testing.T, project, level, text string) {
	t.Helper()
	if err := w.m.Broadcast(mesherstream.Message{Project: project, Level: level, Data: []byte(text)}); err != nil {
		t.Fatal(err)
	}
}
