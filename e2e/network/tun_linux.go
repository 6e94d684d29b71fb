package network

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// tunErr is why links can't be made of TUN devices, or nil.
var tunErr error

func tryTUN() error {
	f, err := openTUN("probe")
	if err != nil {
		return err
	}
	return f.Close()
}

// openTUN makes a TUN device in the namespace of this process. What the kernel sends through the device is read from
// the file, and what is written to the file the kernel receives from it. The device ends with the file.
func openTUN(name string) (*os.File, error) {
	const path = "/dev/net/tun"
	// Not os.OpenFile, which would have the runtime watch the file before it is a device.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("TUN device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// tunLink makes two TUN devices and carries the packets between them.
func (n *Network) tunLink(h *Host, q Quality) *Link {
	n.t.Helper()
	l := n.newLink(h)
	var quality atomic.Pointer[Quality]
	l.set = func(q Quality) error {
		quality.Store(&q)
		return nil
	}
	l.must(l.set(q))

	var files [2]*os.File
	for end, name := range l.ends {
		f, err := openTUN(name)
		l.must(err)
		n.t.Cleanup(func() { _ = f.Close() }) // again, where the link was made
		files[end] = f
	}
	l.must(run("ip", "link", "set", l.ends[1], "netns", h.path()))
	l.must(l.address())

	var carriers sync.WaitGroup
	n.t.Cleanup(carriers.Wait)
	for end := range files {
		lane := newLane(files[end], files[1-end], &quality)
		carriers.Go(lane.take)
		carriers.Go(lane.hand)
		n.t.Cleanup(func() {
			close(lane.done)
			_ = files[end].Close()
		})
	}
	return l
}
