// Command release makes a version of the published modules from the last commit, and proves that it can be used:
//
//	go run ./tools/release                 rehearses with a version that will never be released
//	go run ./tools/release v0.1.0          does everything in a clone, and leaves the repository unchanged
//	go run ./tools/release -tag v0.1.0     also copies the tags into the repository, from where they can be pushed
//
// CONTRIBUTING.md describes a release.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// rehearsal is a version that will never be released.
const rehearsal = "v0.0.0-rehearsal"

func main() {
	tag := flag.Bool("tag", false, "copy the tags into the repository")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./tools/release [[-tag] vX.Y.Z]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 1 || *tag && flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *tag); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// run releases a version, or rehearses if it is "".
func run(version string, tag bool) error {
	top, err := topLevel()
	if err != nil {
		return err
	}
	if version != "" {
		if err := mayBe(top, version, tag); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "release-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r := &release{dir: dir, top: top, clone: filepath.Join(dir, "clone"), version: version}
	if version == "" {
		r.version = rehearsal
	}
	tags, err := r.make()
	if err != nil {
		return err
	}
	switch names := strings.Join(tags, " "); {
	case tag:
		if err := r.bring(tags); err != nil {
			return err
		}
		fmt.Printf("\nThe repository now has the tags %s. To publish them:\n\n\tgit push origin %[1]s\n", names)
	case version != "":
		fmt.Printf("\nEverything works: %s. The repository is unchanged; add -tag to copy the tags into it.\n", names)
	}
	return nil
}
