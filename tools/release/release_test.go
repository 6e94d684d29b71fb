package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

func TestAReleaseIsDescribed(t *testing.T) {
	const good = "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-11-27\n\n- All.\n"
	for _, c := range []struct {
		name, changelog, version string
		ok                       bool
	}{
		{"good", good, "v0.1.0", true},
		{"another version", good, "v0.1.1", false},
		{"no date", strings.Replace(good, " - 2026-11-27", "", 1), "v0.1.0", false},
		{"something waits", strings.Replace(good, "[Unreleased]\n", "[Unreleased]\n\n- More.\n", 1), "v0.1.0", false},
		{"no section for what comes", strings.Replace(good, "## [Unreleased]\n", "", 1), "v0.1.0", false},
		{"a dot is a dot", strings.Replace(good, "0.1.0", "0x1.0", 1), "v0.1.0", false},
	} {
		if err := describes(c.changelog, c.version); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want an error: %v", c.name, err, !c.ok)
		}
	}
}

func TestAReleasedModuleReplacesNothing(t *testing.T) {
	const good = "module " + root + "/metrics\n\ngo 1.26\n\nrequire " + root + " v0.1.0\n"
	for text, ok := range map[string]bool{
		good:                                   true,
		good + "replace " + root + " => ../\n": false,
		strings.Replace(good, "0.1.0", "0.0.0", 1): false,
	} {
		if err := mayBeUsed([]byte(text), "v0.1.0"); (err == nil) != ok {
			t.Errorf("%q: got %v, want an error: %v", text, err, !ok)
		}
	}
	if err := onlyRootIsNew("a v1 h1:x\n", "a v1 h1:x\n"+root+" v0.1.0 h1:y\n", "v0.1.0"); err != nil {
		t.Error(err)
	}
	if err := onlyRootIsNew("a v1 h1:x\n", "a v1 h1:x\nb v1 h1:y\n", "v0.1.0"); err == nil {
		t.Error("a new sum of another module: got nil, want an error")
	}
}

// A module that is forgotten here could not be downloaded.
func TestEachModuleIsReleasedOrForThoseWhoWorkOnIt(t *testing.T) {
	text, err := os.ReadFile("../../go.work")
	if err != nil {
		t.Fatal(err)
	}
	work, err := modfile.ParseWork("go.work", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, use := range work.Use {
		got = append(got, filepath.Base(use.Path))
	}
	want := append([]string{".", "bench", "e2e", "tools"}, nested...)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("go.work uses %q, and the release knows %q", got, want)
	}
}
