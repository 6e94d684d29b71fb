package network

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Program is what a host does. conn reaches the test that started it; the host ends when its program returns.
type Program func(conn io.ReadWriteCloser)

// The environment of a process says what it is: nothing for the one that the user starts, insideVar once that has its
// namespace, and programVar for a host.
const (
	insideVar  = "MESHERSTREAM_NETWORK_INSIDE"
	programVar = "MESHERSTREAM_NETWORK_PROGRAM"
)

// refusal is what networks need and this machine doesn't have, or nil.
var refusal error

// Main is the whole body of a TestMain. It moves the test's process into a network namespace of its own, where links end
// and servers listen, and runs the tests there. programs are what hosts can be told to run.
func Main(m *testing.M, programs map[string]Program) {
	if name := os.Getenv(programVar); name != "" {
		programs[name](struct {
			io.Reader
			io.WriteCloser
		}{os.Stdin, os.Stdout})
		return
	}
	if os.Getenv(insideVar) == "" {
		refusal = enter()
	} else {
		refusal = arrive()
	}
	os.Exit(m.Run())
}

// enter starts this process again inside a new namespace, under the same process ID and with the same files. It returns
// only if that fails.
func enter() error {
	for _, program := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s: apt-get install iproute2 util-linux", program)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// A namespace belongs to a thread, and the thread that calls exec is the one that goes on.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("network namespaces, which root may make (unshare: %w)", err)
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), insideVar+"=1"))
}

// arrive makes the new namespace ready.
func arrive() error {
	if err := run("ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	netemErr, tunErr = tryNetem(), tryTUN()
	if netemErr != nil && tunErr != nil {
		return fmt.Errorf("netem (%w) or TUN devices (%w) for a bad link", netemErr, tunErr)
	}
	return nil
}

// run runs a program that prints nothing unless it fails.
func run(args ...string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
