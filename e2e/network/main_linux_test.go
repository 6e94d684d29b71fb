package network

import (
	"flag"
	"io"
	"net"
	"testing"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "20") // they wait more than they work
	Main(m, map[string]Program{"viewers": viewers, "echo": echo})
}

// echo is a host that dials what it is told, a length byte and an address, and sends back over the connection what comes
// from it.
func echo(conn io.ReadWriteCloser) {
	var addr [256]byte
	if _, err := io.ReadFull(conn, addr[:1]); err != nil {
		return
	}
	to := addr[1 : 1+addr[0]]
	if _, err := io.ReadFull(conn, to); err != nil {
		return
	}
	peer, err := net.Dial("tcp", string(to))
	if err != nil {
		return
	}
	_, _ = io.Copy(peer, peer)
	_, _ = io.Copy(io.Discard, conn) // stay until the test ends
}
