package proxies

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "40") // they wait more than they work
	os.Exit(m.Run())
}
