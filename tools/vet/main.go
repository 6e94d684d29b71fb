// Command vet runs the analyzers of go vet, with the same environment and the same names of packages:
//
//	go run ./tools/vet [packages]
//
// It compiles nothing. go vet reads the types of what is imported from compiled packages, so a gate whose build cache is
// empty would compile everything once for each system. This command reads the sources of all that is imported, which takes
// a tenth of the processor time.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/tools/go/analysis/checker"
	"golang.org/x/tools/go/analysis/suite/vet"
	"golang.org/x/tools/go/packages"
)

func main() {
	patterns := os.Args[1:]
	if len(patterns) == 0 {
		patterns = []string{"."}
	}
	if err := run(context.Background(), os.Stderr, patterns...); err != nil {
		fmt.Fprintln(os.Stderr, "vet:", err)
		os.Exit(1)
	}
}

// run writes what is wrong with the packages and their tests, and returns an error if anything is.
func run(ctx context.Context, to io.Writer, patterns ...string) error {
	loaded, err := packages.Load(&packages.Config{Context: ctx, Mode: packages.LoadAllSyntax | packages.NeedModule, Tests: true}, patterns...)
	if err != nil {
		return err
	}
	if len(loaded) == 0 {
		return fmt.Errorf("no packages in %q", patterns)
	}
	wrong := 0
	for p := range packages.Postorder(loaded) { // with everything that they import
		for _, err := range p.Errors {
			fmt.Fprintln(to, err)
			wrong++
		}
	}
	if wrong > 0 {
		return errors.New("does not compile")
	}
	graph, err := checker.Analyze(vet.Suite, loaded, nil)
	if err != nil {
		return err
	}
	for _, action := range graph.Roots {
		if action.Err != nil {
			return action.Err
		}
		wrong += len(action.Diagnostics)
	}
	if wrong > 0 {
		return errors.Join(graph.PrintText(to, 0), errors.New("failed"))
	}
	return nil
}
