package proxies

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// documented has the configurations by what their blocks in docs/scaling.md are marked as.
var documented = map[string]string{
	"nginx":     "nginx.conf",
	"haproxy":   "haproxy.cfg",
	"caddyfile": "Caddyfile",
	"apache":    "apache.conf",
}

func TestTheConfigurationsInTheDocumentAreThoseThatAreTested(t *testing.T) {
	text, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]int)
	for fence, block := range blocks(string(text)) {
		file, ok := documented[fence]
		if !ok {
			continue
		}
		found[fence]++
		want, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if block != string(want) {
			t.Errorf("the block %q of docs/scaling.md is not testdata/%s:\n%s", fence, file, block)
		}
	}
	for fence := range documented {
		if found[fence] != 1 {
			t.Errorf("docs/scaling.md has %d blocks marked %q, want 1", found[fence], fence)
		}
	}
}

// blocks yields what each fenced block of a Markdown text is marked as, and its content.
func blocks(markdown string) func(yield func(fence, block string) bool) {
	return func(yield func(fence, block string) bool) {
		for markdown != "" {
			var line string
			line, markdown, _ = strings.Cut(markdown, "\n")
			fence, ok := strings.CutPrefix(line, "```")
			if !ok {
				continue
			}
			var block string
			block, markdown, _ = strings.Cut(markdown, "```\n")
			if !yield(fence, block) {
				return
			}
		}
	}
}
