package link

import (
	"net"

	"golang.org/x/sys/unix"
)

// A room is the state of a TCP connection's way to the other end at some moment.
type room struct {
	acked  uint64 // bytes that the other end's kernel has ever acknowledged
	edge   uint64 // how many it has ever offered room for: the right edge of its window
	queued uint32 // bytes after the acknowledged ones that our kernel has accepted
	unsent uint32 // how many of these it has never sent
	widest uint32 // the largest window that the other end has offered so far

	unanswered bool // some bytes were sent before the last room, and none have been acknowledged since
}

// advance replaces the room by that of a later moment, and reports whether a program at the other end has read in between. An
// acknowledgement is no sign of that, since a kernel sends it. The sign is the right edge of its window, which moves only
// if there is more room. But a kernel also moves the edge by itself, because it offers less than it has: as bytes arrive,
// the edge keeps its distance until they fill the buffer. With small messages this takes minutes, and a ping alone moves
// the edge by its own length. So the edge counts only
//   - if it has moved further than the bytes have that arrived: then the window is larger than before, or
//   - if bytes were kept waiting: some of those that were queued before still are, or some are unsent now. A buffer that
//     nobody reads is soon full of them, and the edge stops.
//
// A program that keeps up is never reported: its window is as open as ever. And the edge of a slow one moves in steps. A
// window that was shut opens when the larger of a segment and a 16th of the buffer is free. One that is less than half
// open is announced when it has doubled, or with the next acknowledgement. And Linux frees a buffer in pieces of up to
// 64 KiB. At 10 KB/s and with a buffer of 128 KiB, which Linux begins with, the steps were 3 to 13 s apart; at 300 bytes
// a second, and at 20 with a buffer of 32 KiB, there was none for more than a minute. A program that was fast has a larger
// buffer, by default of up to 6 MB: once that is full, its window stays shut for 20 to 40 s at 10 KB/s. A program that
// needs longer for a step than the idle timeout can't be told from a frozen one.
//
// Before Linux 5.4, the window isn't known. Then an acknowledgement counts if bytes were kept waiting.
func (r *room) advance(now room) (read bool) {
	before := *r
	*r = now
	r.widest = max(before.widest, now.widest)
	r.unanswered = before.queued > before.unsent && now.acked == before.acked
	r.edge = max(before.edge, now.edge) // a kernel without memory takes an offer back, and renews it later
	opened := now.edge-now.acked > before.edge-before.acked
	waited := now.unsent > 0 || now.acked < before.acked+uint64(before.queued)
	return now.edge > before.edge && (opened || waited)
}

// unread reports whether the other end's kernel holds much that its program has not read: less than half of its window is
// open. A program that keeps up leaves it open, and one that has never read anything leaves it open for some 100 KB, while
// its kernel still offers more than before.
func (r *room) unread() bool { return r.edge-r.acked < uint64(r.widest)/2 }

// roomUnder is roomOf for the socket under a connection.
func roomUnder(conn net.Conn) (r room, known bool) {
	if raw := socketUnder(conn); raw != nil {
		_ = raw.Control(func(fd uintptr) { r, known = roomOf(int(fd)) })
	}
	return r, known
}

// roomOf returns the room of a connection, if its socket is one of TCP.
func roomOf(fd int) (r room, known bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return room{}, false
	}
	// After the acknowledged bytes: in the other order, their sum could be more than was ever written.
	queued, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ)
	if err != nil {
		return room{}, false
	}
	return room{
		acked:  info.Bytes_acked,
		edge:   info.Bytes_acked + uint64(info.Snd_wnd),
		queued: uint32(queued),
		unsent: info.Notsent_bytes,
		widest: info.Snd_wnd,
	}, true
}
