package streamtest

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// Long reports whether to run the long versions of the tests.
var Long = flag.Bool("long", false, "run the tests that have a long version in that")

// Main runs the tests of a package, and fails if goroutines of the library outlive them. Call it from TestMain.
func Main(m *testing.M) {
	// This starts fasthttp's process-wide clock outside every synctest bubble. No bubble could end otherwise.
	var h fasthttp.ResponseHeader
	_ = h.Header()

	code := m.Run()
	if code == 0 && leaked() {
		code = 1
	}
	os.Exit(code)
}

func leaked() bool {
	var stacks bytes.Buffer
	for range 200 {
		stacks.Reset()
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		if !strings.Contains(stacks.String(), "mesherstream.(*") && !strings.Contains(stacks.String(), "link.(*") {
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
