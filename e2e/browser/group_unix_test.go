//go:build unix

package browser

import (
	"os/exec"
	"syscall"
)

// groupOf makes a process that is still to start the first of a group, with all that it starts, and returns what kills
// them together.
func groupOf(cmd *exec.Cmd) (kill func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
