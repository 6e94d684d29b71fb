//go:build linux

package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const modulePath = "github.com/mesher/mesherstream/bench"

// binaries are the two programs that runs are made of, in a temporary folder.
type binaries struct {
	folder, server, load string
}

// build compiles them. It finds the module through the go command, so that it works from the repository's root with a workspace
// and from bench/ without one.
func build(ctx context.Context) (*binaries, error) {
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", modulePath).Output()
	if err != nil {
		return nil, fmt.Errorf("find module %s, run this inside of the repository: %w", modulePath, err)
	}
	folder, err := os.MkdirTemp("", "mesherstream-bench-")
	if err != nil {
		return nil, err
	}
	b := &binaries{folder: folder, server: filepath.Join(folder, "server"), load: filepath.Join(folder, "load")}
	compile := exec.CommandContext(ctx, "go", "build", "-o", folder, "./cmd/server", "./cmd/load")
	compile.Dir = strings.TrimSpace(string(module))
	if out, err := compile.CombinedOutput(); err != nil {
		b.remove()
		return nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	return b, nil
}

func (b *binaries) remove() { _ = os.RemoveAll(b.folder) }

// versions returns the Go version and the module versions that the server was built with.
func (b *binaries) versions() (goVersion string, modules map[string]string) {
	modules = make(map[string]string)
	info, err := buildinfo.ReadFile(b.server)
	if err != nil {
		return "unknown", modules
	}
	for _, dep := range info.Deps {
		modules[dep.Path] = dep.Version
	}
	return info.GoVersion, modules
}
