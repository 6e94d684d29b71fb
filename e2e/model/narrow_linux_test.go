package model

import "syscall"

// narrow makes a socket as small as one far away, so that a client that stops reading is soon slow.
func narrow(_, _ string, c syscall.RawConn) error {
	var err error
	failed := c.Control(func(fd uintptr) {
		if err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1460); err == nil {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
		}
	})
	if failed != nil {
		return failed
	}
	return err
}
