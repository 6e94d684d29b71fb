package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const module = "module example.test/shop\n\ngo 1.26\n"

const missing = `package shop

import (
	"fmt"
	"os/exec"
	"testing"
)

func TestInABrowser(t *testing.T) {
	t.Run("page", func(t *testing.T) {
		t.Log("looks for a browser")
		if _, err := exec.LookPath("browser-of-this-test"); err != nil {
			t.Skipf("needs a browser\nof this test: apt-get install %s", "browser")
		}
	})
}

func TestForLong(t *testing.T) { t.Skip("takes long: go test -long") }

func TestSilent(t *testing.T) { t.SkipNow() }

func TestPasses(t *testing.T) { fmt.Println("what passes is silent"); t.Log("as Go does it") }

func BenchmarkNothing(b *testing.B) { for b.Loop() {} }
`

const failing = `package shop

import "testing"

func TestFails(t *testing.T) { t.Run("one", func(t *testing.T) { t.Error("is wrong") }) }
`

const panics = `package shop

import "testing"

func TestPanics(t *testing.T) { panic("no way") }
`

// tested runs the command in a module with these files, and returns what it prints.
func tested(t *testing.T, want int, files map[string]string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return testedIn(t, dir, want, args...)
}

func testedIn(t *testing.T, dir string, want int, args ...string) string {
	t.Helper()
	t.Chdir(dir)
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "")
	var out strings.Builder
	if got := run(args, &out, &out); got != want {
		t.Errorf("run(%q): got exit code %d, want %d; it printed\n%s", args, got, want, &out)
	}
	return out.String()
}

func wantLines(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if strings.Count(out, line) != 1 {
			t.Errorf("%q is there %d times, want once:\n%s", line, strings.Count(out, line), out)
		}
	}
}

func TestWhatWasNotRunIsSaidOnce(t *testing.T) {
	out := tested(t, 0, map[string]string{"go.mod": module, "shop_test.go": missing})
	wantLines(
		t, out, "ok  \texample.test/shop",
		"needs a browser of this test: apt-get install browser\n      example.test/shop: TestInABrowser/page\n",
		"takes long: go test -long\n      example.test/shop: TestForLong\n",
		"no reason given\n      example.test/shop: TestSilent\n",
		"To run more of them, on Debian: apt-get install browser\n",
	)
	if strings.Contains(out, "silent") || strings.Contains(out, "PASS") || strings.Index(out, "needs a") > strings.Index(out, "takes long") {
		t.Errorf("got\n%s\nwant the result, then what the machine misses, then the rest", out)
	}
}

func TestWhatIsThereNowIsRunAfterItWasNot(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs programs whose names have no extension")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": module, "shop_test.go": missing} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	programs := t.TempDir()
	t.Setenv("PATH", os.Getenv("PATH")+string(filepath.ListSeparator)+programs)
	wantLines(t, testedIn(t, dir, 0, "-run", "Browser"), "needs a browser")
	if err := os.WriteFile(filepath.Join(programs, "browser-of-this-test"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out := testedIn(t, dir, 0, "-run", "Browser"); strings.Contains(out, "Not run:") || strings.Contains(out, "cached") {
		t.Errorf("after the program was installed: got\n%s", out)
	}
}

func TestWhatFailsIsShownAsGoShowsIt(t *testing.T) {
	out := tested(t, 1, map[string]string{"go.mod": module, "shop_test.go": missing, "more_test.go": failing}, "./...")
	wantLines(t, out, "--- FAIL: TestFails/one (0.00s)\n    more_test.go:5: is wrong\n", "--- FAIL: TestFails (", "FAIL\texample.test/shop", "needs a browser")
	if strings.Contains(out, "as Go does it") {
		t.Errorf("a test that passes is shown:\n%s", out)
	}
	out = tested(t, 1, map[string]string{"go.mod": module, "shop_test.go": panics}, ".")
	wantLines(t, out, "panic: no way", "FAIL\texample.test/shop")
	out = tested(t, 1, map[string]string{"go.mod": module, "shop_test.go": "package shop\n\nvar x int = true\n"})
	wantLines(t, out, "shop_test.go:3:13", "FAIL\texample.test/shop [build failed]")
	tested(t, 1, map[string]string{"go.mod": module, "shop_test.go": missing}, "-no-such-flag")
}

func TestFlagsReachGoTest(t *testing.T) {
	files := map[string]string{"go.mod": module, "shop_test.go": missing, "more_test.go": failing}
	out := tested(t, 0, files, "-shuffle", "on", "-run=Silent|Passes", "-v", "-count=2", ".")
	if got := strings.Count(out, "--- PASS: TestPasses"); got != 2 {
		t.Errorf("with -v and -count=2: got %d lines of the test, want 2:\n%s", got, out)
	}
	wantLines(t, out, "-test.shuffle ", "      example.test/shop: TestSilent, TestSilent\n")
	wantLines(t, tested(t, 0, files, "-run=^$", "-bench", ".", "-benchtime=10x"), " ns/op\n")
	wantLines(t, tested(t, 0, files, "-skip", "Fails", "-cover"), "coverage: [no statements]\n\nNot run:")
}

// What follows -args, or a flag of the tests, belongs to them. With "work" there, only the package of this folder was
// tested, and that passed for everything.
func TestFlagsOfTheTestsDoNotTakeThePackagesAway(t *testing.T) {
	const flags = "package shop\n\nimport (\n\t\"flag\"\n\t\"testing\"\n)\n\nvar long = flag.Bool(\"long\", false, \"\")\n\n" +
		"func TestLong(t *testing.T) { if !*long || flag.NArg() > 0 { t.Error(*long, flag.Args()) } }\n"
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": module, "shop_test.go": flags, "till/till_test.go": flags} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []string{"-args -long", "-run Long -args -long", "-long", "-run Long -long"} {
		wantLines(t, testedIn(t, dir, 0, strings.Fields(args)...), "ok  \texample.test/shop\t", "ok  \texample.test/shop/till\t")
	}
	// Without its value, a flag must not take the packages for it.
	wantLines(t, testedIn(t, dir, 2, "-run"), "flag needs an argument: -run")
}

func TestWithoutPackagesTheWorkspaceIsTested(t *testing.T) {
	for _, c := range []struct {
		args string
		want bool
	}{
		{"", false},
		{"-race -shuffle=on", false},
		{"-run TestX", false},
		{"--run TestX -v", false},
		{"-test.run TestX", false},
		{"-run=TestX .", true},
		{"-run TestX ./e2e/...", true},
		{"-race . ./natsrelay -long", true},
		{"-args -long", false},
	} {
		if got := namesPackages(strings.Fields(c.args)); got != c.want {
			t.Errorf("namesPackages(%s): got %v, want %v", c.args, got, c.want)
		}
	}
}
