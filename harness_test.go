package mesherstream

import (
	"os"
	"testing"

	"github.com/valyala/fasthttp"
)

func TestMain(m *testing.M) {
	// Starts fasthttp's process-wide clock outside of every synctest bubble, none of which could end otherwise.
	var h fasthttp.ResponseHeader
	_ = h.Header()

	code := m.Run()
	if code == 0 && leaked() {
		code = 1
	}
	os.Exit(code)
}
