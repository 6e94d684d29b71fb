//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/histogram"
	"github.com/mesher/mesherstream/bench/internal/wsframe"
)

const (
	maxUnderway  = 128       // handshakes at a time, well inside of any listener's backlog
	maxLate      = 1024      // the same if they have a pace, so that a server that is late has them waiting
	bufferSize   = 128 << 10 // stays in the cache of one core
	commandIndex = -1        // in an epoll event, instead of a client's index
)

// load is all clients and the one loop that serves them. Nothing in it is shared with another goroutine.
type load struct {
	config
	commands  *os.File
	answers   *json.Encoder
	epoll     int
	handshake handshake
	clients   []client
	buffer    []byte // what is read, of one client at a time
	decoded   []byte // of a chunked body
	reply     []byte
	line      []byte // of a command, what has come

	next        int // the next client to connect for the first time
	underway    int
	established int
	turn        int   // the next churner to reconnect
	reconnectAt int64 // CLOCK_MONOTONIC of the next reconnect
	ready       bool
	startedAt   int64               // CLOCK_MONOTONIC of the first connect
	handshakes  histogram.Histogram // from when they were due, until ready

	// The window.
	tally
	first       uint64 // messages before it don't count
	last        uint64
	ending      bool
	reported    bool
	owed        uint64 // messages still to come, once ending
	expected    uint64 // of connections that are gone
	latency     histogram.Histogram
	lastArrival int64
	endAsked    int64
	cpu         time.Duration
	other       uint64
	pings       uint64
	closed      uint64
	reconnects  uint64
	reads       uint64
	segments    uint64 // with data, that had arrived when the window began
}

func newLoad(c config, commands *os.File, answers io.Writer) (*load, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: commandIndex}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, int(commands.Fd()), &event); err != nil {
		return nil, fmt.Errorf("watch standard input, which must be a pipe: %w", err)
	}
	l := &load{
		config:    c,
		commands:  commands,
		answers:   json.NewEncoder(answers),
		epoll:     epoll,
		handshake: newHandshake(c.wire),
		clients:   make([]client, c.clients),
		buffer:    make([]byte, bufferSize),
		first:     math.MaxUint64,
	}
	for i := range l.clients {
		k := &l.clients[i]
		k.account.audience = c.plan.Audience(i)
		sub := k.account.audience.Subscription()
		if l.plain() {
			k.request = plainRequest(c.wire, c.server.String(), sub.URI())
		} else {
			k.request = l.handshake.request(c.server.String(), sub.URI())
		}
		k.stalled = spread(i, c.stalled, c.clients)
		k.churns = !k.stalled && spread(i+1, c.churners+c.stalled, c.clients)
	}
	return l, nil
}

// plain reports whether the clients ask for streams over plain HTTP.
func (l *load) plain() bool { return l.wire == control.Events || l.wire == control.Lines }

// spread deals k of n evenly: it reports whether i is one of them.
func spread(i, k, n int) bool { return (i+1)*k/n != i*k/n }

// run serves the clients until the commands end: also when the window has been reported, so that the server's window, which ends a little
// later, has no client's end in it. It returns whether the run was valid.
func (l *load) run() (verdict error) {
	events := make([]unix.EpollEvent, 1024)
	l.startedAt = clock.Now()
	deadline := l.startedAt + int64(l.patience)
	for {
		if err := l.connectMore(); err != nil {
			return err
		}
		if !l.ready && l.established == len(l.clients) {
			l.ready = true
			if err := l.answer(control.Answer{Say: control.Ready, Clients: l.established, Receive: l.connectReport()}); err != nil {
				return err
			}
		}
		now := clock.Now()
		switch {
		case !l.ready && now > deadline:
			return fmt.Errorf("%d of %d clients are connected after %v", l.established, len(l.clients), l.patience)
		case l.ending && !l.reported && l.finished(now):
			verdict = l.report()
		}
		l.churnOne(now)
		l.awaitTurn()
		n, err := unix.EpollWait(l.epoll, events, l.timeout(now))
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for sockets: %w", err)
		}
		for _, event := range events[:max(n, 0)] {
			if event.Fd == commandIndex {
				if err := l.command(); errors.Is(err, io.EOF) {
					return verdict
				} else if err != nil {
					return err
				}
				continue
			}
			if err := l.serve(&l.clients[event.Fd], event.Events); err != nil {
				return err
			}
		}
	}
}

// timeout is how long the loop may sleep, in milliseconds.
func (l *load) timeout(now int64) int {
	switch {
	case l.reconnectAt != 0:
		return int(max(l.reconnectAt-now, 0) / int64(time.Millisecond))
	case l.ending && !l.reported:
		return 50
	case !l.ready && l.pace > 0 && l.next < len(l.clients):
		return 0 // awaitTurn has waited
	case !l.ready:
		return 1000
	}
	return -1
}

// connectMore begins the handshakes whose turn it is.
func (l *load) connectMore() error {
	limit := maxUnderway
	if l.pace > 0 {
		limit = maxLate
	}
	for l.next < len(l.clients) && l.underway < limit {
		due, now := l.due(l.next), clock.Now()
		if l.pace > 0 && due > now {
			return nil
		}
		if l.pace == 0 {
			due = now
		}
		l.clients[l.next].due = due
		if err := l.dial(l.next); err != nil {
			return err
		}
		l.next++
	}
	return nil
}

// due is when a client connects that has a pace.
func (l *load) due(index int) int64 {
	return l.startedAt + int64(time.Second)*int64(index)/int64(max(l.pace, 1))
}

// awaitTurn waits for a socket or for the next handshake's turn, whichever is first. The timeout of epoll_wait has whole
// milliseconds, which is longer than most handshakes take.
func (l *load) awaitTurn() {
	if l.ready || l.pace == 0 || l.next == len(l.clients) {
		return
	}
	wait := unix.NsecToTimespec(max(l.due(l.next)-clock.Now(), 0))
	if l.underway >= maxLate {
		wait = unix.NsecToTimespec(int64(time.Second)) // for a socket alone
	}
	// Whatever ends it, epoll_wait finds.
	_, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(l.epoll), Events: unix.POLLIN}}, &wait, nil)
}

// serve handles what epoll says about one client.
func (l *load) serve(c *client, events uint32) error {
	if c.stage == connecting && events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		if err := l.connected(c); err != nil {
			return err
		}
	}
	if c.stage < upgrading || events&^unix.EPOLLOUT == 0 {
		return nil
	}
	gone, err := l.readable(c, events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0)
	if err == nil && gone && c.stage != open {
		err = fmt.Errorf("%w: connection closed", errRefused)
	}
	if err != nil && l.ready && c.churns {
		gone, err = true, nil // a reconnect may fail; its turn comes again
	}
	if err != nil {
		return err
	}
	if gone {
		l.closed++
		l.leave(c)
	}
	return nil
}

// leave closes the connection. What a client that should have stayed has missed becomes lost when the window ends; a churner's account
// ends here.
func (l *load) leave(c *client) {
	l.hangUp(c)
	switch {
	case c.churns:
		l.owed -= min(l.owed, c.account.owed(l.last))
		l.expected += c.account.expected()
		c.account.begun, c.account.base, c.account.rank = false, 0, 0
	case l.ending:
		l.owed -= min(l.owed, c.account.owed(l.last))
		c.account.end(l.last, &l.tally)
	}
}

// churnOne closes the churner whose turn it is, as a browser's tab does, and connects it again.
func (l *load) churnOne(now int64) {
	for l.reconnectAt != 0 && now >= l.reconnectAt {
		l.reconnectAt += int64(time.Second) / int64(l.churn)
		for range l.clients {
			l.turn = (l.turn + 1) % len(l.clients)
			if l.clients[l.turn].churns {
				break
			}
		}
		c := &l.clients[l.turn]
		if c.stage == open && !l.plain() {
			l.reply = wsframe.AppendControl(l.reply[:0], wsframe.Close, []byte{0x03, 0xe8})
			_, _ = unix.Write(c.fd, l.reply)
		}
		if c.stage == open || c.stage == absent {
			l.leave(c)
			// A server that refuses is asked again a turn later.
			c.again = l.dial(l.turn) == nil
		}
	}
}

// leaveOne closes the connection of one client as a process does that is killed, and returns when that was.
func (l *load) leaveOne() (nanos int64) {
	for i := range l.clients {
		if c := &l.clients[i]; c.stage == open {
			nanos = clock.Now()
			l.leave(c)
			break
		}
	}
	return nanos
}

// command reads what has come on standard input and carries out each whole line.
func (l *load) command() error {
	chunk := make([]byte, 4096)
	n, err := l.commands.Read(chunk)
	if err != nil {
		return err
	}
	l.line = append(l.line, chunk[:n]...)
	for {
		line, rest, whole := bytes.Cut(l.line, []byte{'\n'})
		if !whole {
			return nil
		}
		var c control.Command
		if err := json.Unmarshal(line, &c); err != nil {
			return fmt.Errorf("read command: %w", err)
		}
		l.line = rest
		switch c.Do {
		case control.Begin:
			l.begin(c.First)
			if err := l.answer(control.Answer{Say: control.Begun}); err != nil {
				return err
			}
		case control.End:
			l.end(c.Last)
		case control.Leave:
			if err := l.answer(control.Answer{Say: control.Left, Nanos: l.leaveOne()}); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unknown command %q", c.Do)
		}
	}
}

func (l *load) answer(a control.Answer) error { return l.answers.Encode(a) }
