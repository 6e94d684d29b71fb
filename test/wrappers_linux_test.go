package test

import (
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"golang.org/x/sys/unix"
)

// Wrappers as other listeners make them. Each hides the methods of the connection below, except the one with which it
// offers that connection.
type (
	offersNetConn struct {
		net.Conn
		below net.Conn
	}
	offersRaw struct {
		net.Conn
		below net.Conn
	}
	offersSyscallConn struct {
		net.Conn
		below syscall.Conn
	}
	offersItself  struct{ net.Conn }
	offersNothing struct{ net.Conn }
)

func (w offersNetConn) NetConn() net.Conn                         { return w.below }
func (w offersRaw) Raw() net.Conn                                 { return w.below }
func (w offersSyscallConn) SyscallConn() (syscall.RawConn, error) { return w.below.SyscallConn() }
func (w offersItself) NetConn() net.Conn                          { return w }

var wrappers = map[string]struct {
	wrap  func(net.Conn) net.Conn
	offer bool
}{
	"NetConn":        {func(c net.Conn) net.Conn { return offersNetConn{c, c} }, true},
	"Raw":            {func(c net.Conn) net.Conn { return offersRaw{c, c} }, true},
	"SyscallConn":    {func(c net.Conn) net.Conn { return offersSyscallConn{c, c.(syscall.Conn)} }, true},
	"several":        {func(c net.Conn) net.Conn { return offersRaw{c, offersNetConn{c, offersRaw{c, c}}} }, true},
	"one that hides": {func(c net.Conn) net.Conn { return offersNothing{c} }, false},
	"one below":      {func(c net.Conn) net.Conn { return offersRaw{c, offersNothing{c}} }, false},
	"nil":            {func(c net.Conn) net.Conn { return offersNetConn{c, nil} }, false},
	"itself":         {func(c net.Conn) net.Conn { return offersItself{c} }, false},
}

// wrappingListener wraps the connections that it accepts, and keeps the wrappers.
type wrappingListener struct {
	net.Listener
	wrap     func(net.Conn) net.Conn
	accepted chan net.Conn
}

func (l wrappingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.accepted <- conn
	return l.wrap(conn), nil
}

// The option reaches through wrappers, and the link through none. If the option does not reach the socket, the log says
// so once.
func TestTheUnsentLimitReachesThroughWrappersThatOfferTheirConnection(t *testing.T) {
	for name, tt := range wrappers {
		t.Run(name, func(t *testing.T) {
			accepted := make(chan net.Conn, 10)
			tr := streamtest.Transport{Name: name, Listen: func(t *testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
				ln, dial := streamtest.ListenTCP(t)
				return wrappingListener{ln, tt.wrap, accepted}, dial
			}}
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start(mesherstream.WithUnsentLimit(12345))
				for range 3 {
					v := w.Connect("shop")
					limit := 0
					raw, err := (<-accepted).(syscall.Conn).SyscallConn()
					if err != nil {
						w.Fatal(err)
					}
					_ = raw.Control(func(fd uintptr) {
						limit, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
					})
					if (limit == 12345) != tt.offer {
						w.Errorf("TCP_NOTSENT_LOWAT: got %d, want 12345: %v", limit, tt.offer)
					}
					w.Eventually("its socket wasn't taken over from under a wrapper", func() bool { return streamtest.Running("link.(*Portable).Serve") })
					w.Broadcast(0, 1)
					if got := v.Next(); !strings.HasPrefix(got, "0 ") {
						w.Errorf("got %.10q", got)
					}
				}
				told := 1
				if tt.offer {
					told = 0
				}
				w.Eventually("the log tells", func() bool { return w.Logs.Count("hide their sockets") >= told })
				if got := w.Logs.Count("hide their sockets"); got != told || got > 0 && w.Logs.Count("type=test.offers") != 1 {
					w.Errorf("got %d lines on wrappers, want %d with the type", got, told)
				}
			})
		})
	}
}
