//go:build linux

package main

import (
	"bytes"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/wsframe"
)

// readable reads all that the socket holds. It returns gone true when the server has closed the connection. ended says that the end is
// in the socket already: no edge will tell of it again.
func (l *load) readable(c *client, ended bool) (gone bool, err error) {
	for {
		// What waits for more goes first, so that frames are whole in one place: a copy of less than a message, usually.
		kept := copy(l.buffer, c.rest)
		if kept == len(l.buffer) || kept < len(c.rest) {
			l.buffer = make([]byte, 2*max(len(c.rest), len(l.buffer)))
			continue
		}
		n, errno := read(c.fd, l.buffer[kept:])
		switch {
		case errno == unix.EAGAIN:
			return false, nil
		case errno == unix.EINTR:
			continue
		case errno != 0 || n == 0:
			return true, nil
		}
		l.reads++
		full := kept+n == len(l.buffer)
		data := l.buffer[:kept+n]
		if c.stage == upgrading {
			if data, err = l.upgraded(c, data); err != nil || c.stalled {
				return false, err
			}
		}
		if c.stage == open {
			if l.plain() {
				data, gone, err = l.body(c, data)
			} else {
				data, gone = l.frames(c, data)
			}
			if gone || err != nil {
				return gone, err
			}
		}
		c.rest = keep(c.rest, data)
		if !full && !ended {
			// A short read has emptied the socket, and what comes later is a new edge.
			return false, nil
		}
	}
}

// read calls read(2) without telling the scheduler: the socket never blocks, and nothing else waits for this thread.
func read(fd int, p []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), errno
}

// frames handles every whole frame in data and returns what follows them.
func (l *load) frames(c *client, data []byte) (rest []byte, closed bool) {
	now := clock.Now()
	for {
		frame, rest, ok := wsframe.Next(data)
		if !ok {
			if c.handled-c.acknowledged >= acknowledgeEvery {
				l.acknowledge(c)
			}
			return data, false
		}
		data = rest
		switch frame.Opcode {
		case wsframe.Text, wsframe.Binary, wsframe.Continuation:
			if l.wire == control.Protocol {
				c.handled++
				if bytes.HasPrefix(frame.Payload, []byte(`{"type":"hello"`)) || bytes.HasPrefix(frame.Payload, []byte(`{"type":"mark"`)) {
					l.acknowledge(c)
				}
			}
			l.payload(c, frame, now)
		case wsframe.Ping:
			l.pings++
			if l.pong {
				l.reply = wsframe.AppendControl(l.reply[:0], wsframe.Pong, frame.Payload)
				// A pong that finds no room is a pong that comes too late: the server's rules decide what that means.
				_, _ = unix.Write(c.fd, l.reply)
			}
		case wsframe.Close:
			return nil, true
		}
	}
}

// acknowledgeEvery is a quarter of the default window of this library.
const acknowledgeEvery = 256

// acknowledge says how much a client with the protocol has handled.
func (l *load) acknowledge(c *client) {
	c.acknowledged = c.handled
	l.reply = wsframe.AppendControl(l.reply[:0], wsframe.Text, fmt.Appendf(nil, `{"type":"ack","n":%d}`, c.handled))
	_, _ = unix.Write(c.fd, l.reply) // as with a pong
}

// payload counts the messages of one data frame. Servers that join messages put several into one frame, and some cut a frame
// in the middle of one: then the tail that may be the beginning of a stamp is carried into the next fragment.
func (l *load) payload(c *client, frame wsframe.Frame, now int64) {
	data := frame.Payload
	if len(c.carry) > 0 {
		c.carry = append(c.carry, data...)
		data = c.carry
	}
	found := false
	for {
		n, nanos, rest, ok := feed.Next(data, l.size)
		if !ok {
			data = rest
			break
		}
		l.message(c, n, now, nanos)
		data, found = rest, true
	}
	if frame.Final {
		c.carry = c.carry[:0]
		if !found && frame.Opcode != wsframe.Continuation {
			l.other++
		}
		return
	}
	c.carry = append(c.carry[:0], data...)
}

func (l *load) message(c *client, n uint64, now, nanos int64) {
	if n < l.first {
		return // of the warm-up
	}
	settled, counted := c.account.saw(n, &l.tally)
	if !counted {
		return
	}
	if c.again {
		// Only now, since what a client misses at its beginning is not counted: a server that forgets those who come again
		// would have lost nothing.
		c.again = false
		l.reconnects++
	}
	if l.ending {
		l.owed -= min(settled, l.owed)
	}
	l.latency.Record(now - nanos)
	l.lastArrival = now
}
