//go:build !linux

package mesherstream

import "net"

// limitUnsent does nothing where the socket option doesn't exist.
func limitUnsent(net.Conn, int) {}

// ackedBytes knows nothing here.
func ackedBytes(net.Conn) uint64 { return 0 }
