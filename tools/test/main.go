// Command test runs the tests of every module. It ends with a list of the tests that were not run on this machine, and of
// the packages that would let them run:
//
//	go run ./tools/test [flags of go test] [packages [flags of their tests]]
//
// Without packages, it tests the whole workspace. It never uses cached results: Go doesn't know that a test has looked for a
// program, so a skipped test would still count as tested after the program has been installed.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code of go test.
func run(args []string, stdout, stderr io.Writer) int {
	if !namesPackages(args) {
		// First: what follows -args, or a flag that go test doesn't know, belongs to the tests.
		args = append([]string{"work"}, args...)
	}
	cmd := exec.Command("go", append([]string{"test", "-json", "-count=1"}, args...)...)
	cmd.Stderr = stderr
	events, err := cmd.StdoutPipe()
	if err == nil {
		signal.Ignore(os.Interrupt) // go test receives it too, and its last output is still reported
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	r := newReport(stdout, isVerbose(args))
	r.read(events)
	err = cmd.Wait()
	r.summary()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// valued are the flags of go test and go build whose value may be the next argument.
var valued = strings.Fields(`C asmflags bench benchtime blockprofile blockprofilerate buildmode buildvcs compiler count
	covermode coverpkg coverprofile cpu cpuprofile exec fuzz fuzzminimizetime fuzztime gccgoflags gcflags installsuffix
	ldflags list memprofile memprofilerate mod modfile mutexprofile mutexprofilefraction o outputdir overlay p parallel pgo
	pkgdir run shuffle skip tags timeout toolexec trace vet`)

// namesPackages says whether one of the arguments is a package.
func namesPackages(args []string) bool {
	for i := 0; i < len(args); i++ {
		name, isFlag := strings.CutPrefix(args[i], "-")
		switch name = strings.TrimPrefix(name, "-"); {
		case !isFlag:
			return true
		case name == "args":
			return false
		case slices.Contains(valued, strings.TrimPrefix(name, "test.")):
			i++
		}
	}
	return false
}

// isVerbose says whether the flags ask for all output of the tests.
func isVerbose(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		name = strings.TrimPrefix(name, "test.")
		return strings.HasPrefix(arg, "-") && (name == "v" && value != "false" || name == "list")
	})
}
