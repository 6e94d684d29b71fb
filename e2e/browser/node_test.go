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
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("needs Node 20 or later: apt-get install nodejs npm")
	}
	version, err := exec.Command("node", "--print", "process.versions.node").Output()
	if err != nil {
		t.Fatalf("node --print: %v", err)
	}
	major, _, _ := strings.Cut(string(version), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		t.Skipf("needs Node 20 or later, and this is %s: apt-get install nodejs npm", strings.TrimSpace(string(version)))
	}
	if _, err := os.Stat(filepath.Join(clientDir, "node_modules")); err != nil {
		t.Skip("needs the packages of client/package-lock.json: npm ci --prefix client")
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
