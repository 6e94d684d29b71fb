package model

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryClientGetsWhatTheModelSaysWhenSignalsInterruptItsCalls runs the test of the model once more, with every
// second read and write of each thread failing with EINTR, but for its first ones, which load the program. A kernel does that on no socket that never blocks, and a seam
// in the package would be there for this alone, so strace injects it.
func TestEveryClientGetsWhatTheModelSaysWhenSignalsInterruptItsCalls(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace: apt-get install strace")
	}
	calls := filepath.Join(t.TempDir(), "calls")
	traced := func(args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), strace, append([]string{
			"-f", "-qqq", "-o", calls, "-e", "trace=read,write", "-e", "inject=read,write:error=EINTR:when=5+2",
		}, args...)...)
	}
	if out, err := traced("true").CombinedOutput(); err != nil && strings.Contains(string(out), "ermi") {
		t.Skipf("needs permission to trace (strace says %q)", strings.TrimSpace(string(out)))
	}
	out, err := traced(os.Args[0], "-test.run=^TestEveryClientGetsWhatTheModelSays$/^tcp$", "-rapid.checks=30").CombinedOutput()
	if err != nil {
		t.Errorf("with interrupted calls: %v\n%s", err, out)
	}
	log, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	injected := strings.Count(string(log), "(INJECTED)")
	t.Logf("%d of %d calls were interrupted", injected, strings.Count(string(log), "\n"))
	if injected < 1000 {
		t.Errorf("%d calls were interrupted, want thousands", injected)
	}
}
