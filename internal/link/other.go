//go:build !linux

package link

import (
	"net"
)

// A Poller exists for the links of Linux.
type Poller struct{}

// NewPoller returns a poller that does nothing.
func NewPoller(func(ready []Owner), func(func())) (*Poller, error) { return &Poller{}, nil }

// Close does nothing.
func (*Poller) Close() {}

// Open returns a link for a connection that fasthttp has handed over. The handler of conn must call stay, which returns when
// the owner has closed the link.
func Open(conn net.Conn, o Owner, opts Options) (l Link, stay func()) {
	p := NewPortable(conn, Raw(conn), o, opts)
	return p, p.Serve
}

// LimitUnsent does nothing, since the socket option doesn't exist here, which is no fault of a wrapper.
func LimitUnsent(net.Conn, int) (reached bool) { return true }

// A room isn't known here.
type room struct{ unanswered bool }

func (*room) advance(room) (read bool) { return false }

func (*room) unread() bool { return false }

func roomUnder(net.Conn) (r room, known bool) { return room{}, false }
