package mesherstream

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What SECURITY.md says is tested must be.
func TestEveryTestThatSECURITYNamesExists(t *testing.T) {
	if _, err := os.Stat("e2e"); err != nil {
		t.Skip("only this module is here, and some of the tests are in another one: ", err)
	}
	text, err := os.ReadFile("SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, pattern := range []string{"*_test.go", "e2e/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(source)
		}
	}
	names := regexp.MustCompile("`((Test|Fuzz|Example)[A-Za-z0-9_]+)`").FindAllStringSubmatch(string(text), -1)
	if len(names) < 20 {
		t.Fatalf("found only %d names of tests in SECURITY.md", len(names))
	}
	for _, name := range names {
		if !strings.Contains(code.String(), "func "+name[1]+"(") {
			t.Errorf("SECURITY.md names %s, and there is no such test", name[1])
		}
	}
}
