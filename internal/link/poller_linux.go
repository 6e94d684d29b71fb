package link

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Poller watches the sockets of the links of one goroutine. Each socket is registered once, for edges in both
// directions, so that a link needs no system calls except its reads and writes.
//
// The epoll descriptor is itself watched by the Go runtime's poller, so no thread is blocked in it.
type Poller struct {
	wake func(ready []Owner)
	file *os.File // the epoll descriptor
	conn syscall.RawConn
	buf  []byte                              // the links read into it; belongs to the owners' goroutine
	pair pair                                // they write from it; likewise
	fed  *polled                             // the link that is fed now; likewise
	emit func(op byte, payload []byte) error // passes a message to it; a method value of each link would be an allocation

	mu     sync.Mutex
	links  []*polled
	free   []int32 // the indexes in links that nobody has
	tokens uint32
}

// NewPoller returns a poller whose goroutine is started by spawn. That goroutine calls wake with the owners whose links
// have a hint, all at once after each wait; wake must not keep the slice.
func NewPoller(wake func(ready []Owner), spawn func(func())) (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // which makes the runtime watch it
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("setnonblock", err)
	}
	p := &Poller{wake: wake, file: os.NewFile(uintptr(fd), "epoll"), buf: make([]byte, readBytes)}
	if p.conn, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, err
	}
	p.emit = func(op byte, payload []byte) error { return p.fed.emit(op, payload) }
	spawn(p.loop)
	return p, nil
}

// loop is the poller's goroutine. It ends when the poller is closed. A rest of 1 to 10 ms after each wait, so that more hints
// are handled at once, was tried, and brought nothing.
func (p *Poller) loop() {
	ready := make([]unix.EpollEvent, 256)
	owners := make([]Owner, 0, len(ready))
	n := 0
	wait := func(fd uintptr) (done bool) {
		var err error
		for {
			if n, err = pending(int(fd), ready); err != unix.EINTR {
				break
			}
		}
		return n > 0 || err != nil
	}
	for p.conn.Read(wait) == nil {
		p.mu.Lock()
		for _, e := range ready[:n] {
			// A slot may belong to another link by now, so the event has the link's token too.
			l := p.links[e.Fd]
			if l != nil && l.token == uint32(e.Pad) && l.hints.Or(e.Events) == 0 {
				owners = append(owners, l.owner)
			}
		}
		p.mu.Unlock()
		p.wake(owners)
		clear(owners)
		owners = owners[:0]
	}
}

// Close ends the poller.
func (p *Poller) Close() { _ = p.file.Close() }

// add starts watching l's socket. An event names the slot of its link, and not the descriptor: each of many pollers would
// need a table as large as all descriptors together.
func (p *Poller) add(l *polled) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.free) - 1; last >= 0 {
		l.slot, p.free = p.free[last], p.free[:last]
	} else {
		l.slot = int32(len(p.links))
		p.links = append(p.links, nil)
	}
	p.links[l.slot] = l
	p.tokens++
	l.token = p.tokens
	e := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     l.slot,
		Pad:    int32(l.token),
	}
	var err error
	if failed := p.conn.Control(func(fd uintptr) {
		err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(fd), unix.EPOLL_CTL_ADD, int(l.fd), &e))
	}); failed != nil {
		return failed
	}
	return err
}

// remove stops watching it. The kernel removes a socket from the set when its last descriptor is closed. Until then,
// hints without a link may arrive.
func (p *Poller) remove(l *polled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(l.slot) < len(p.links) && p.links[l.slot] == l { // it may never have begun
		p.links[l.slot] = nil
		p.free = append(p.free, l.slot)
	}
}
