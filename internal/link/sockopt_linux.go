package link

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxWrappers ends the search if a wrapper offers itself.
const maxWrappers = 16

// socketUnder returns the socket of a connection, or nil if there is none. It looks through every wrapper that offers
// the connection below, as crypto/tls does with NetConn and listeners for the PROXY protocol do with Raw. An option of
// the socket works whatever the wrapper does to the bytes.
func socketUnder(conn net.Conn) syscall.RawConn {
	for range maxWrappers {
		if socket, ok := conn.(syscall.Conn); ok {
			if raw, err := socket.SyscallConn(); err == nil && raw != nil {
				return raw
			}
		}
		switch wrapper := conn.(type) {
		case interface{ NetConn() net.Conn }:
			conn = wrapper.NetConn()
		case interface{ Raw() net.Conn }:
			conn = wrapper.Raw()
		default:
			return nil
		}
	}
	return nil
}

// LimitUnsent bounds how much the kernel holds unsent for a connection. It returns false if no socket is in reach. If
// the kernel refuses, messages are as fresh as before, and nothing else is lost.
func LimitUnsent(conn net.Conn, bytes int) (reached bool) {
	raw := socketUnder(conn)
	if raw != nil && bytes > 0 {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
		})
	}
	return raw != nil
}
