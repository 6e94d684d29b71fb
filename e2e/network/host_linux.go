package network

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// Network is what one test has made.
type Network struct {
	t testing.TB
}

// New begins a network. It skips the test if there can be none, and says why. All that it gets ends with the test.
func New(t testing.TB) *Network {
	t.Helper()
	if refusal != nil {
		t.Skipf("needs %v", refusal)
	}
	return &Network{t}
}

// Host is a machine: a process in a network namespace of its own.
type Host struct {
	Conn io.ReadWriteCloser // to its program

	t         testing.TB
	cmd       *exec.Cmd
	namespace *os.File // open for as long as the test runs, so that the namespace outlives its process
}

// Host starts a host that runs the program of that name, see [Main]. It reaches nothing until it has a link.
func (n *Network) Host(program string) *Host {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), programVar+"="+program)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := start(cmd); err != nil {
		n.t.Fatalf("start of a host: %v", err)
	}
	h := &Host{t: n.t, cmd: cmd, Conn: struct {
		io.Reader
		io.WriteCloser
	}{out, in}}
	n.t.Cleanup(h.Kill)
	if h.namespace, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = h.namespace.Close() })
	return h
}

// Stop stops the host's process as a laptop's lid does: its kernel lives on, and acknowledges what still fits.
func (h *Host) Stop() { h.signal(syscall.SIGSTOP) }

// Continue ends Stop.
func (h *Host) Continue() { h.signal(syscall.SIGCONT) }

// Kill ends the host's process, and waits until it has ended. Its kernel lives on, and closes its connections.
func (h *Host) Kill() {
	if h.cmd.ProcessState != nil {
		return
	}
	h.signal(syscall.SIGKILL)
	_ = h.cmd.Wait() // which says that it was killed
}

// path is the host's namespace, as a program that this process starts can open it.
func (h *Host) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.namespace.Fd()) }

func (h *Host) signal(s syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(s); err != nil {
		h.t.Errorf("%v of a host: %v", s, err)
	}
}

// starter starts all hosts: their kernel kills them when the thread that started them ends, which any thread of a Go
// program may do, except one that a goroutine holds for ever.
var starter = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})

func start(cmd *exec.Cmd) error {
	started := make(chan error)
	starter() <- func() { started <- cmd.Start() }
	return <-started
}
