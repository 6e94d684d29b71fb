package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// root is the module at the top of the repository.
const root = "github.com/mesher/mesherstream"

// nested are the folders of the modules that are released with it. The other modules are for development only.
var nested = []string{"metrics", "natsrelay"}

// commands are the programs of a released version that can be installed.
var commands = []string{root + "/example", root + "/natsrelay/example"}

// release is a version that is being made.
type release struct {
	version string
	top     string // the repository
	dir     string // of all of the following; removed when the program ends
	clone   string // receives the commits and tags
	proxy   proxy
}

// make makes the commit and the tags in the clone, and proves that others can use the tagged modules.
//
// On main, the nested modules require v0.0.0 of the root, which doesn't exist, and replace it by the folder above, so
// that a change to both is one commit. Users can't build such a module: a replacement counts only in the main module, and
// go install refuses a module that has one. So the tags of the nested modules name a commit of their own, beside main, in
// which they require the version. The tag of the root names the commit on main: its files are the same in both.
func (r *release) make() (tags []string, err error) {
	step("clone %s as %s", r.top, r.version)
	if err := run1(r.dir, nil, "git", "clone", "--quiet", r.top, r.clone); err != nil {
		return nil, err
	}
	if err := r.tag(r.version); err != nil {
		return nil, err
	}
	if r.proxy, err = newProxy(filepath.Join(r.dir, "proxy"), r.clone); err != nil {
		return nil, err
	}
	if err := r.proxy.add(root, r.version, r.version, ""); err != nil {
		return nil, err
	}
	for _, folder := range nested {
		step("%s requires %s", folder, r.version)
		if err := r.require(folder); err != nil {
			return nil, fmt.Errorf("%s: %w", folder, err)
		}
	}
	if err := r.git("commit", "--quiet", "-am", fmt.Sprintf("release: let nested modules require %s\n\n"+
		"On main, they replace the root module, and users can't build that.", r.version)); err != nil {
		return nil, err
	}
	tags = []string{r.version}
	for _, folder := range nested {
		tag := folder + "/" + r.version
		if err := r.tag(tag); err != nil {
			return nil, err
		}
		if err := r.proxy.add(root+"/"+folder, r.version, tag, folder); err != nil {
			return nil, err
		}
		tags = append(tags, tag)
	}
	return tags, r.prove()
}

// require makes the module in that folder of the clone require the version of the root, from the proxy. It adds no other
// requirement.
func (r *release) require(folder string) error {
	dir := filepath.Join(r.clone, folder)
	before, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		return err
	}
	// This also downloads the other modules that it needs into the cache of this machine.
	if err := run1(dir, append(os.Environ(), "GOWORK=off"), "go", "mod", "tidy", "-diff"); err != nil {
		return err
	}
	if err := run1(dir, r.env(), "go", "mod", "edit", "-dropreplace="+root, "-require="+root+"@"+r.version); err != nil {
		return err
	}
	if err := run1(dir, r.env("GOFLAGS=-mod=mod -modcacherw -trimpath"), "go", "mod", "tidy"); err != nil {
		return err
	}
	after, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		return err
	}
	if err := onlyRootIsNew(string(before), string(after), r.version); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return err
	}
	return mayBeUsed(text, r.version)
}

// onlyRootIsNew compares two texts of a go.sum. Lines that tidy has added were not checked against the checksum database.
func onlyRootIsNew(before, after, version string) error {
	known := strings.Split(before, "\n")
	for line := range strings.Lines(after) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, root+" "+version) && !slices.Contains(known, line) {
			return fmt.Errorf("go.sum has a new line %q: run go mod tidy in the module and commit the result first", line)
		}
	}
	return nil
}

// mayBeUsed checks a go.mod of a released module.
func mayBeUsed(text []byte, version string) error {
	file, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return err
	}
	if len(file.Replace) > 0 {
		return fmt.Errorf("go.mod replaces %v, which go install refuses", file.Replace[0].Old)
	}
	for _, r := range file.Require {
		if within(r.Mod.Path) && r.Mod.Version != version {
			return fmt.Errorf("go.mod requires %v, want %s", r.Mod, version)
		}
	}
	return nil
}

// within says whether a module is one of this repository.
func within(path string) bool { return path == root || strings.HasPrefix(path, root+"/") }
