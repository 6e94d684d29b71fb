package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// None of these imports a package of the standard library, whose sources would all be read for it.
const (
	module = "module example.test/shop\n\ngo 1.26\n"
	sound  = "package shop\n\nfunc answer() int { return 42 }\n"
	strays = "package shop\n\nfunc stray(n int) { n = n }\n"
	untrue = "package shop\n\nvar text string = answer()\n"
	big    = "package shop\n\nconst big int = 1 << 40\n"
)

func TestWhatIsWrongIsSaid(t *testing.T) {
	for _, c := range []struct {
		name         string
		files        map[string]string
		goos, goarch string
		want         string // "" if nothing is wrong
	}{
		{"sound", map[string]string{"shop.go": sound}, "linux", "amd64", ""},
		{"an analyzer", map[string]string{"shop.go": sound, "stray.go": strays}, "linux", "amd64", "stray.go:3"},
		{"a type", map[string]string{"shop.go": sound, "text.go": untrue}, "linux", "amd64", "text.go:3"},
		{"of another system", map[string]string{"shop.go": sound, "text_windows.go": untrue}, "linux", "amd64", ""},
		{"of this system", map[string]string{"shop.go": sound, "text_windows.go": untrue}, "windows", "amd64", "text_windows.go:3"},
		{"64 bits", map[string]string{"shop.go": big}, "linux", "amd64", ""},
		{"32 bits", map[string]string{"shop.go": big}, "linux", "386", "shop.go:3"},
		{"syntax", map[string]string{"shop.go": "package shop\n\nfunc {"}, "linux", "amd64", "shop.go:3"},
		{"an import that isn't there", map[string]string{"shop.go": "package shop\n\nimport _ \"example.test/shop/till\"\n"}, "linux", "amd64", "shop/till"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := vetted(t, c.goos, c.goarch, c.files, "./...")
			if (err == nil) != (c.want == "") || !strings.Contains(out, c.want) || c.want == "" && out != "" {
				t.Errorf("got %v and\n%s\nwant %q", err, out, c.want)
			}
		})
	}
}

func TestTestsAreVettedToo(t *testing.T) {
	out, err := vetted(t, "linux", "amd64", map[string]string{
		"shop.go": sound, "inside_test.go": strays, "outside_test.go": strings.Replace(strays, "shop", "shop_test", 1),
	}, ".")
	if err == nil || strings.Count(out, "inside_test.go:3") != 1 || strings.Count(out, "outside_test.go:3") != 1 {
		t.Errorf("got %v and\n%s\nwant each test's file once", err, out)
	}
}

func TestNothingIsNotSound(t *testing.T) {
	for _, pattern := range []string{"./till", "./till/..."} {
		if out, err := vetted(t, "linux", "amd64", map[string]string{"shop.go": sound}, pattern); err == nil {
			t.Errorf("%s, which isn't there: got no error, and\n%s", pattern, out)
		}
	}
}

// vetted returns what the command writes in a module with these files.
func vetted(t *testing.T, goos, goarch string, files map[string]string, pattern string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(module), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for name, value := range map[string]string{"GOWORK": "off", "GOFLAGS": "", "GOOS": goos, "GOARCH": goarch, "CGO_ENABLED": "0"} {
		t.Setenv(name, value)
	}
	var out strings.Builder
	err := run(t.Context(), &out, pattern)
	return out.String(), err
}
