package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// proxy is a folder of modules as the go command reads it, see go help goproxy.
type proxy struct {
	dir        string
	repository string // of its own modules
	others     string // the URL of all other modules: the cache of this machine
}

func newProxy(dir, repository string) (proxy, error) {
	cache, err := output("", nil, "go", "env", "GOMODCACHE")
	if err != nil {
		return proxy{}, err
	}
	return proxy{dir, repository, fileURL(filepath.Join(cache, "cache", "download"))}, nil
}

// list is a value of GOPROXY. It ends in off: the go command looks for a package in each folder above it too, and must ask
// no other proxy.
func (p proxy) list() string { return fileURL(p.dir) + "," + p.others + ",off" }

func fileURL(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") { // a drive of Windows
		path = "/" + path
	}
	return "file://" + path
}

// add makes the proxy offer a module: a folder of the repository, at a revision.
func (p proxy) add(path, version, revision, folder string) error {
	escaped, err := module.EscapePath(path)
	if err != nil {
		return err
	}
	dir := filepath.Join(p.dir, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	mod, err := output(p.repository, nil, "git", "show", revision+":"+strings.TrimPrefix(folder+"/go.mod", "/"))
	if err != nil {
		return err
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{version, time.Now().UTC()})
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"list": version + "\n", version + ".info": string(info), version + ".mod": mod + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	file, err := os.Create(filepath.Join(dir, version+".zip"))
	if err != nil {
		return err
	}
	err = zip.CreateFromVCS(file, module.Version{Path: path, Version: version}, p.repository, revision, folder)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
