package mesherstream

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A poller watches the sockets of one shard's links and turns their readiness into events. Each socket is registered
// once, for edges in both directions, so that a link costs no system call but its reads and writes.
//
// The epoll descriptor is itself watched by the Go runtime's poller, so no thread is blocked in it.
type poller struct {
	shard *shard
	file  *os.File // the epoll descriptor
	conn  syscall.RawConn
	buf   []byte // what links read into; belongs to the shard's goroutine

	mu    sync.Mutex
	links []*linuxLink // by descriptor
}

// poll returns the shard's poller, which the first link starts.
func (s *shard) poll() (*poller, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.running:
		return nil, ErrClosed
	case s.poller != nil:
		return s.poller, nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // which is what makes the runtime watch it
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("setnonblock", err)
	}
	p := &poller{shard: s, file: os.NewFile(uintptr(fd), "epoll"), buf: make([]byte, readBytes)}
	if p.conn, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, err
	}
	s.poller = p
	s.spawn(p.loop)
	return p, nil
}

// loop is the poller's goroutine. It ends when the poller is closed.
func (p *poller) loop() {
	ready := make([]unix.EpollEvent, 256)
	events := make([]event, 0, len(ready))
	n := 0
	wait := func(fd uintptr) (done bool) {
		var err error
		for {
			if n, err = unix.EpollWait(int(fd), ready, 0); err != unix.EINTR {
				break
			}
		}
		return n > 0 || err != nil
	}
	for p.conn.Read(wait) == nil {
		p.mu.Lock()
		for _, e := range ready[:max(n, 0)] {
			// A descriptor may belong to another client by now, so the event names the client too.
			l := p.links[e.Fd]
			if l != nil && uint32(l.client.id) == uint32(e.Pad) && l.hints.Or(e.Events) == 0 {
				events = append(events, event{kind: eventReady, client: l.client})
			}
		}
		p.mu.Unlock()
		p.shard.post(events...)
		clear(events)
		events = events[:0]
	}
}

func (p *poller) close() { _ = p.file.Close() }

// add begins to watch l's socket.
func (p *poller) add(l *linuxLink) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.links) <= l.fd {
		p.links = append(p.links, nil)
	}
	p.links[l.fd] = l
	e := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(l.fd),
		Pad:    int32(uint32(l.client.id)),
	}
	var err error
	if failed := p.conn.Control(func(fd uintptr) {
		err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(int(fd), unix.EPOLL_CTL_ADD, l.fd, &e))
	}); failed != nil {
		return failed
	}
	return err
}

// remove ends that. The kernel takes a socket out of the set when its last descriptor is closed; until then there may be
// hints for nobody.
func (p *poller) remove(l *linuxLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.fd < len(p.links) && p.links[l.fd] == l {
		p.links[l.fd] = nil
	}
}
