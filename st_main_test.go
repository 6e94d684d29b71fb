package mesherstream

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"strings"
	"time"
)

var long = flag.Bool("long", false, "run the load test at full size: 1,000 clients, 100 broadcasts a second for 20 s")

// leaked reports goroutines of this package that outlive all tests.
func leaked() bool {
	var stacks bytes.Buffer
	for range 200 {
		stacks.Reset()
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		if !strings.Contains(stacks.String(), "mesherstream.(*") && !strings.Contains(stacks.String(), "link.(*") {
			return false
		}
		time.Sleep(10 * time.Millisecond) // they may be on their way out
	}
	fmt.Fprintf(os.Stderr, "goroutines leaked:\n%s", &stacks)
	return true
}

// running says whether a goroutine is in the function of that name.
func running(name string) bool {
	var stacks bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	return strings.Contains(stacks.String(), name)
}
