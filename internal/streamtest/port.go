package streamtest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
)

// The ports that FreePort returns are below those that a system gives to sockets that ask for any port. Between the time a
// port is found free and the time its program listens there, none of the sockets of the tests beside it can get it.
const (
	firstPort = 20_000
	ports     = 10_000
)

// next begins anywhere, so that two processes hardly try the same ports.
var next atomic.Uint32

func init() { next.Store(rand.Uint32N(ports)) }

// FreePort returns a port of 127.0.0.1 for a program that needs to be told where to listen. It returns none twice.
func FreePort(t testing.TB) string {
	t.Helper()
	for range ports {
		port := strconv.Itoa(firstPort + int(next.Add(1)%ports))
		if ln, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = ln.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}
