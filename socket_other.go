//go:build !linux

package mesherstream

import "net"

// limitUnsent does nothing where the socket option doesn't exist, which is no fault of a wrapper.
func limitUnsent(net.Conn, int) (reached bool) { return true }

// ackedBytes knows nothing here.
func ackedBytes(net.Conn) uint64 { return 0 }
