package browser

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const clientDir = "../../client"

func TestTheClientInNode(t *testing.T) {
	version, err := exec.Command("node", "--print", "process.versions.node").Output()
	if err != nil {
		t.Skipf("no Node: %v; install Node 20 or later", err)
	}
	major, _, _ := strings.Cut(string(version), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		t.Skipf("Node is %s, and the tests of the client need 20 or later", strings.TrimSpace(string(version)))
	}
	if _, err := os.Stat(filepath.Join(clientDir, "node_modules")); err != nil {
		t.Skipf("%v; run npm ci in client/", err)
	}
	// The result is cached until a file changes that this process itself has read.
	for _, pattern := range []string{"*", "tests/*", "tests/types/*"} {
		names, err := filepath.Glob(filepath.Join(clientDir, pattern))
		if err != nil || len(names) == 0 {
			t.Fatalf("no files %s: %v", pattern, err)
		}
		for _, name := range names {
			_, _ = os.ReadFile(name) // some are directories
		}
	}

	cmd := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=spec")
	cmd.Dir = clientDir
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("node --test: %v\n%s", err, output)
	}
}
