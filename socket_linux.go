package mesherstream

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketUnder returns the socket of a connection, under TLS too, or nil where there is none.
func socketUnder(conn net.Conn) syscall.RawConn {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secure.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// limitUnsent bounds what the kernel holds unsent for a connection. Where there is no socket underneath, there is no
// kernel to bound. A kernel that refuses leaves freshness as it was, and nothing else is lost.
func limitUnsent(conn net.Conn, bytes int) {
	if raw := socketUnder(conn); raw != nil && bytes > 0 {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
		})
	}
}

// ackedBytes returns how many bytes the other end's kernel has ever acknowledged, or 0 where that can't be known.
func ackedBytes(conn net.Conn) (acked uint64) {
	if raw := socketUnder(conn); raw != nil {
		_ = raw.Control(func(fd uintptr) { acked = ackedBytesOf(int(fd)) })
	}
	return acked
}

func ackedBytesOf(fd int) uint64 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Bytes_acked
}
