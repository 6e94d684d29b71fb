// Command release makes a version of the modules that others use, out of the last commit, and proves that it can be used:
//
//	go run ./tools/release                 rehearses with a version that nobody will ever make
//	go run ./tools/release v0.1.0          does everything in a clone, and leaves the repository as it is
//	go run ./tools/release -tag v0.1.0     brings the tags into the repository; to push them remains
//
// CONTRIBUTING.md says what a release is.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// rehearsal is the version that nobody will ever make.
const rehearsal = "v0.0.0-rehearsal"

func main() {
	tag := flag.Bool("tag", false, "bring the tags into the repository")
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
		fmt.Printf("\nThe repository has the tags %s. To publish them:\n\n\tgit push origin %[1]s\n", names)
	case version != "":
		fmt.Printf("\nAll of it works: %s. Nothing was changed; add -tag to bring the tags into the repository.\n", names)
	}
	return nil
}
