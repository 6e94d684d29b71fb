package streamtest

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// Long reports whether to run the long versions of the tests.
var Long = flag.Bool("long", false, "run the tests that have a long version in that")

// Main runs the tests of a package and then cleanUp. It fails if goroutines outlive them: those of the library, and
// those whose stacks contain one of the other names. Call it from TestMain.
func Main(m *testing.M, cleanUp func(), others ...string) {
	// This starts fasthttp's process-wide clock outside every synctest bubble. No bubble could end otherwise.
	var h fasthttp.ResponseHeader
	_ = h.Header()

	code := m.Run()
	if cleanUp != nil {
		cleanUp()
	}
	if code == 0 && leaked(append([]string{"mesherstream.(*", "link.(*"}, others...)) {
		code = 1
	}
	os.Exit(code)
}

func leaked(names []string) bool {
	var stacks bytes.Buffer
	for range 200 {
		stacks.Reset()
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		if !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(stacks.String(), name) }) {
			return false
		}
		time.Sleep(10 * time.Millisecond) // they may be ending
	}
	fmt.Fprintf(os.Stderr, "goroutines leaked:\n%s", &stacks)
	return true
}

// Running reports whether a goroutine is in the function of that name.
func Running(name string) bool {
	var stacks bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	return strings.Contains(stacks.String(), name)
}
