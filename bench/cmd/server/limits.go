//go:build linux

package main

import (
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
	"github.com/mesher/mesherstream/bench/internal/wsframe"
)

// limits is what no server can beat by much: frames encoded once, and one bare non-blocking write(2) per client and message from
// GOMAXPROCS goroutines; or, joined, one per client and whatever waits. It has no buffer: a client that has no room loses the message. Only
// what the kernel took a part of is kept, because the stream would be broken without the rest.
type limits struct {
	epoll   int
	workers []*limitsWorker
	next    atomic.Uint64
	count   atomic.Int64

	mu    sync.Mutex
	conns map[int32]*limitsConn // by descriptor
}

// limitsKind says which limit it is.
type limitsKind struct {
	join      bool
	scheduled bool // writes as most Go programs do
	filtered  bool
}

// limitsWorker owns a share of the clients.
type limitsWorker struct {
	limitsKind
	inbox chan limitsFrame

	mu        sync.Mutex               // guards what follows, and the clients' debts; held while a batch is written
	conns     []*limitsConn            // all of them
	byProject map[string][]*limitsConn // the same, where clients have filters
	scratch   []byte
	touched   []*limitsConn
}

type limitsFrame struct {
	event feed.Event
	bytes []byte
}

type limitsConn struct {
	worker *limitsWorker
	fd     int
	sub    feed.Subscription
	debt   []byte // the rest of what the kernel took a part of
	batch  []byte // while a filtered batch is joined
}

func newSyscalls(c harness.Config) (harness.Server, error) {
	return newLimits(limitsKind{filtered: c.Filtered})
}

func newScheduledSyscalls(c harness.Config) (harness.Server, error) {
	return newLimits(limitsKind{filtered: c.Filtered, scheduled: true})
}

func newJoined(c harness.Config) (harness.Server, error) {
	return newLimits(limitsKind{filtered: c.Filtered, join: true})
}

// newLimits has a worker of that kind for each processor.
func newLimits(kind limitsKind) (harness.Server, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	l := &limits{epoll: epoll, conns: make(map[int32]*limitsConn)}
	for range runtime.GOMAXPROCS(0) {
		w := &limitsWorker{
			limitsKind: kind,
			inbox:      make(chan limitsFrame, 128),
			byProject:  make(map[string][]*limitsConn),
		}
		l.workers = append(l.workers, w)
		go w.run()
	}
	go l.poll()
	return l, nil
}

func (l *limits) Clients() int { return int(l.count.Load()) }

func (l *limits) Broadcast(e feed.Event) {
	f := limitsFrame{event: e, bytes: wsframe.AppendServer(make([]byte, 0, len(e.Data)+10), wsframe.Text, e.Data)}
	f.event.Data = nil
	for _, w := range l.workers {
		w.inbox <- f
	}
}

// Serve does the handshake with gobwas, whose upgrade is the cheapest, and then needs nothing but the descriptor.
func (l *limits) Serve(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := l.accept(conn); err != nil {
				slog.Warn("client refused", "error", err)
			}
		}()
	}
}

func (l *limits) accept(conn net.Conn) error {
	defer conn.Close()
	c := &limitsConn{}
	upgrader := ws.Upgrader{OnRequest: func(uri []byte) error {
		c.sub = feed.SubscriptionOf(string(uri))
		return nil
	}}
	if _, err := upgrader.Upgrade(conn); err != nil {
		return err
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var duplicated error
	if err := raw.Control(func(fd uintptr) {
		c.fd, duplicated = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || duplicated != nil {
		return fmt.Errorf("duplicate descriptor: %w, %w", err, duplicated)
	}
	c.worker = l.workers[l.next.Add(1)%uint64(len(l.workers))]
	l.mu.Lock()
	l.conns[int32(c.fd)] = c
	l.mu.Unlock()
	c.worker.add(c)
	l.count.Add(1)
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(c.fd)}
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, c.fd, &event)
}

// poll reads what clients send, to see them leave, and pays debts.
func (l *limits) poll() {
	events := make([]unix.EpollEvent, 256)
	discard := make([]byte, 4096)
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			slog.Error("poller stopped", "error", err)
			return
		}
		for _, event := range events[:max(n, 0)] {
			l.mu.Lock()
			c := l.conns[event.Fd]
			l.mu.Unlock()
			if c == nil {
				continue
			}
			if event.Events&^unix.EPOLLOUT != 0 && gone(c.fd, discard) {
				l.mu.Lock()
				delete(l.conns, event.Fd)
				l.mu.Unlock()
				l.count.Add(-1)
				c.worker.remove(c)
				continue
			}
			if event.Events&unix.EPOLLOUT != 0 {
				c.worker.mu.Lock()
				c.payDebt()
				c.worker.mu.Unlock()
			}
		}
	}
}

// gone empties the socket and reports whether the client has closed it.
func gone(fd int, discard []byte) bool {
	for {
		n, err := unix.Read(fd, discard)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return false
		case err != nil || n == 0:
			return true
		}
	}
}

func (w *limitsWorker) add(c *limitsConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, c)
	w.byProject[c.sub.Project] = append(w.byProject[c.sub.Project], c)
}

// remove closes the descriptor too: under the lock, because its number may be another client's at once.
func (w *limitsWorker) remove(c *limitsConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	is := func(other *limitsConn) bool { return other == c }
	w.conns = slices.DeleteFunc(w.conns, is)
	w.byProject[c.sub.Project] = slices.DeleteFunc(w.byProject[c.sub.Project], is)
	unix.Close(c.fd)
}

func (w *limitsWorker) run() {
	batch := make([]limitsFrame, 0, cap(w.inbox))
	for f := range w.inbox {
		batch = append(batch[:0], f)
		for w.join && len(batch) < cap(batch) && len(w.inbox) > 0 {
			batch = append(batch, <-w.inbox)
		}
		w.mu.Lock()
		if w.filtered {
			w.deliverFiltered(batch)
		} else {
			w.deliver(batch)
		}
		w.mu.Unlock()
	}
}

// deliver writes the batch to all clients.
func (w *limitsWorker) deliver(batch []limitsFrame) {
	out := batch[0].bytes
	if len(batch) > 1 {
		w.scratch = w.scratch[:0]
		for _, f := range batch {
			w.scratch = append(w.scratch, f.bytes...)
		}
		out = w.scratch
	}
	for _, c := range w.conns {
		c.write(out)
	}
}

// deliverFiltered writes to each client what it wants of the batch.
func (w *limitsWorker) deliverFiltered(batch []limitsFrame) {
	if len(batch) == 1 {
		for _, c := range w.byProject[batch[0].event.Project] {
			if c.sub.Wants(&batch[0].event) {
				c.write(batch[0].bytes)
			}
		}
		return
	}
	for i := range batch {
		for _, c := range w.byProject[batch[i].event.Project] {
			if !c.sub.Wants(&batch[i].event) {
				continue
			}
			if len(c.batch) == 0 {
				w.touched = append(w.touched, c)
			}
			c.batch = append(c.batch, batch[i].bytes...)
		}
	}
	for _, c := range w.touched {
		c.write(c.batch)
		c.batch = c.batch[:0]
	}
	w.touched = w.touched[:0]
}

func (c *limitsConn) write(p []byte) {
	if len(c.debt) > 0 && !c.payDebt() {
		return
	}
	n, err := c.worker.write(c.fd, p)
	if err != nil || n == len(p) {
		return // no room, or a connection whose end the poller is about to see
	}
	c.debt = append(c.debt[:0], p[n:]...)
}

// payDebt reports whether nothing is owed any more.
func (c *limitsConn) payDebt() bool {
	if len(c.debt) == 0 {
		return true
	}
	n, err := c.worker.write(c.fd, c.debt)
	if err == nil {
		c.debt = c.debt[n:]
	}
	return len(c.debt) == 0
}

func (w *limitsWorker) write(fd int, p []byte) (n int, err error) {
	if w.scheduled {
		return unix.Write(fd, p)
	}
	return bareWrite(fd, p)
}

// bareWrite is write(2) and nothing else. unix.Write tells the scheduler before and after, which hands the processor to
// another goroutine if the kernel takes long; so it would not be the limit. The socket doesn't block, and neither does the
// call.
func bareWrite(fd int, p []byte) (n int, err error) {
	written, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(written), nil
}
