//go:build !unix

package browser

import "os/exec"

// groupOf returns what kills a process. A Chromium whose first process is killed ends the others.
func groupOf(cmd *exec.Cmd) (kill func()) {
	return func() { _ = cmd.Process.Kill() }
}
