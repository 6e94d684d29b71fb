package streamtest

import "syscall"

// Narrow gives a socket the small buffers of a distant one: loopback's segments of 64 KiB would hide for a minute that
// a client is slow.
func Narrow(_, _ string, c syscall.RawConn) error {
	var err error
	control := func(fd uintptr) {
		if err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1460); err == nil {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
		}
	}
	if err := c.Control(control); err != nil {
		return err
	}
	return err
}
