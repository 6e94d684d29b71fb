package link

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A polled link's calls never wait, whatever the mode of the descriptor is. O_NONBLOCK would not do: all duplicates of a
// descriptor share it, so whoever holds one, such as fasthttp or a child process, can turn it off.
//
// The scheduler isn't told of these calls. unix.Write tells it before and after, which costs a small write some 100 ns,
// and hands the processor to another thread when the kernel takes longer than 20 µs. This is meant for calls that wait.
// It also keeps the thread awake that looks for such calls, for a millisecond or more after each of them.
//
// But a goroutine can't be stopped while it is in the kernel. So a collection, which stops all goroutines for a moment,
// begins later by up to the length of one call. docs/scaling.md says how long that is.

// sendFlags also keep a broken connection from raising a signal.
const sendFlags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL

// send writes p.
func send(fd int, p []byte) (n int, err error) {
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDTO,
		uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), sendFlags, 0, 0)
	runtime.KeepAlive(p)
	switch errno {
	case 0:
		return int(sent), nil
	case unix.ENOSYS: // before Linux 4.3, some processors have another call for it
		return unix.SendmsgN(fd, p, nil, nil, sendFlags)
	}
	return 0, errno
}

// receive reads into p.
func receive(fd int, p []byte) (n int, err error) {
	received, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM,
		uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
	runtime.KeepAlive(p)
	switch errno {
	case 0:
		return int(received), nil
	case unix.ENOSYS:
		n, _, err = unix.Recvfrom(fd, p, unix.MSG_DONTWAIT)
		return n, err
	}
	return 0, errno
}

// pending fills events with what an epoll descriptor has to report, if anything.
func pending(epoll int, events []unix.EpollEvent) (n int, err error) {
	// epoll_wait isn't there on every processor. Go's own poller calls epoll_pwait too.
	count, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT,
		uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	runtime.KeepAlive(events)
	if errno != 0 {
		return 0, errno
	}
	return int(count), nil
}

// A pair is the memory that sending two pieces needs. It is kept, so that sending allocates nothing.
type pair struct {
	header unix.Msghdr
	pieces [2]unix.Iovec
}

// send writes two pieces with one system call.
func (v *pair) send(fd int, a, b []byte) (n int, err error) {
	v.pieces[0].Base, v.pieces[1].Base = unsafe.SliceData(a), unsafe.SliceData(b)
	v.pieces[0].SetLen(len(a))
	v.pieces[1].SetLen(len(b))
	v.header.Iov = &v.pieces[0]
	v.header.SetIovlen(len(v.pieces))
	sent, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&v.header)), sendFlags)
	*v = pair{}
	switch errno {
	case 0:
		return int(sent), nil
	case unix.ENOSYS:
		return unix.SendmsgBuffers(fd, [][]byte{a, b}, nil, nil, sendFlags)
	}
	return 0, errno
}
