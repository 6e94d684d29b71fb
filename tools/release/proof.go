package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// prove does with each module what its users do.
func (r *release) prove() error {
	for _, path := range append([]string{root}, withRoot(nested)...) {
		step("go get %s@%s, alone in a new module", path, r.version)
		if err := r.proveGet(path); err != nil {
			return err
		}
	}
	for _, command := range commands {
		step("go install %s@%s", command, r.version)
		if err := r.proveInstall(command); err != nil {
			return err
		}
	}
	return nil
}

func withRoot(folders []string) (paths []string) {
	for _, folder := range folders {
		paths = append(paths, root+"/"+folder)
	}
	return paths
}

// proveGet gets a module, and builds a program that imports it.
func (r *release) proveGet(path string) error {
	dir, err := os.MkdirTemp(r.dir, "user-")
	if err != nil {
		return err
	}
	program := fmt.Sprintf("package main\n\nimport _ %q\n\nfunc main() {}\n", path)
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o644); err != nil {
		return err
	}
	env := r.env("GOMODCACHE=" + filepath.Join(dir, "cache")) // empty, as on a new machine
	for _, args := range [][]string{
		{"go", "mod", "init", "example.test/user"},
		{"go", "get", path + "@" + r.version},
		{"go", "build", "-o", os.DevNull, "."},
	} {
		if err := run1(dir, env, args...); err != nil {
			return err
		}
	}
	all, err := output(dir, env, "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}", ".")
	if err != nil {
		return err
	}
	for line := range strings.Lines(all) {
		name, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		if within(name) && version != r.version {
			return fmt.Errorf("a program that imports %s uses %s %s, want %s", path, name, version, r.version)
		}
	}
	return nil
}

// proveInstall installs a command.
func (r *release) proveInstall(command string) error {
	bin, err := os.MkdirTemp(r.dir, "bin-")
	if err != nil {
		return err
	}
	if err := run1(r.dir, r.env("GOBIN="+bin, "GOMODCACHE="+filepath.Join(bin, "cache")), "go", "install", command+"@"+r.version); err != nil {
		return err
	}
	name := filepath.Base(command)
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	_, err = os.Stat(filepath.Join(bin, name))
	return err
}
