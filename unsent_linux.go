package mesherstream

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// limitUnsent bounds what the kernel holds unsent for a connection, under TLS too. Where there is no socket underneath,
// there is no kernel to bound. A kernel that refuses leaves freshness as it was, and nothing else is lost.
func limitUnsent(conn net.Conn, bytes int) {
	if bytes == 0 {
		return
	}
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secure.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
	})
}
