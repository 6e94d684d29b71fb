package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/mod/semver"
)

func step(format string, args ...any) { fmt.Printf("-- "+format+"\n", args...) }

// run1 runs a program. Its error contains the program's output.
func run1(dir string, env []string, args ...string) error {
	_, err := output(dir, env, args...)
	return err
}

func output(dir string, env []string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, env
	text, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return strings.TrimSpace(string(text)), nil
}

// topLevel returns the top folder of the repository that contains the working directory.
func topLevel() (string, error) {
	return output("", nil, "git", "rev-parse", "--show-toplevel")
}

// mayBe returns an error if the version can't be made from the repository as it is.
func mayBe(top, version string, tag bool) error {
	if !semver.IsValid(version) || semver.Canonical(version) != version {
		return fmt.Errorf("%q is not a version: want vX.Y.Z", version)
	}
	if m := semver.Major(version); m != "v0" && m != "v1" {
		return fmt.Errorf("%s: first change the paths of the modules to end in /%s", version, m)
	}
	tags, err := output(top, nil, "git", "tag", "--list", version, "*/"+version)
	if err != nil {
		return err
	}
	if tags != "" {
		return fmt.Errorf("%s: there already is a tag: %s", version, strings.ReplaceAll(tags, "\n", " "))
	}
	changelog, err := output(top, nil, "git", "show", "HEAD:CHANGELOG.md")
	if err != nil {
		return err
	}
	if err := describes(changelog, version); err != nil {
		return err
	}
	if !tag {
		return nil
	}
	changes, err := output(top, nil, "git", "status", "--porcelain")
	if err != nil {
		return err
	}
	if changes != "" {
		return errors.New("there are uncommitted changes:\n" + changes)
	}
	return nil
}

// describes returns an error unless a changelog has a dated section for the version, and no entry that is unreleased.
func describes(changelog, version string) error {
	number := strings.TrimPrefix(version, "v")
	heading := regexp.MustCompile(`(?m)^## \[` + regexp.QuoteMeta(number) + `\] - \d{4}-\d\d-\d\d$`)
	at := heading.FindStringIndex(changelog)
	if at == nil {
		return fmt.Errorf("CHANGELOG.md has no line %q", "## ["+number+"] - YYYY-MM-DD")
	}
	_, waiting, ok := strings.Cut(changelog[:at[0]], "\n## [Unreleased]\n")
	if !ok || strings.TrimSpace(waiting) != "" {
		return fmt.Errorf("CHANGELOG.md must have an empty section [Unreleased] right before [%s]", number)
	}
	return nil
}

// git runs a command in the clone. The author is the user of git, or the author of the last commit if none is configured.
func (r *release) git(args ...string) error {
	env := os.Environ()
	for _, who := range []struct{ key, format, name string }{{"user.name", "%an", "NAME"}, {"user.email", "%ae", "EMAIL"}} {
		value, err := output(r.top, nil, "git", "config", who.key)
		if err != nil {
			if value, err = output(r.top, nil, "git", "log", "-1", "--format="+who.format); err != nil {
				return err
			}
		}
		env = append(env, "GIT_AUTHOR_"+who.name+"="+value, "GIT_COMMITTER_"+who.name+"="+value)
	}
	return run1(r.clone, env, append([]string{"git"}, args...)...)
}

// tag tags the last commit of the clone.
func (r *release) tag(name string) error { return r.git("tag", "-a", "-m", name, name) }

// bring copies tags from the clone into the repository.
func (r *release) bring(tags []string) error {
	args := []string{"git", "fetch", "--quiet", "--no-tags", r.clone}
	for _, tag := range tags {
		args = append(args, "refs/tags/"+tag+":refs/tags/"+tag)
	}
	return run1(r.top, nil, args...)
}

// env is the environment of go commands that get modules of this repository from the proxy, and other modules from the
// cache of this machine. Their downloads go to a cache of their own: a rehearsed version must never be found in a cache
// that anything else uses. Without -trimpath, each run would compile everything again, because its folders have other
// names.
func (r *release) env(more ...string) []string {
	return append(append(os.Environ(),
		"GOWORK=off", "GOFLAGS=-modcacherw -buildvcs=false -trimpath", "GOPROXY="+r.proxy.list(),
		"GOMODCACHE="+filepath.Join(r.dir, "cache"), "GOBIN="+filepath.Join(r.dir, "bin"),
		// The checksum database knows published versions only. The sums of all other modules are in a go.sum already: a line
		// that tidy adds is refused.
		"GOSUMDB=off", "GOPRIVATE=", "GONOPROXY=none", "GOENV=off"), more...)
}
