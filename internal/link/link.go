// Package link moves the bytes of one connection, and never makes its owner wait.
//
// There are two links with one contract. On Linux, [Open] takes the descriptor of a plain socket over, and the owner's
// goroutine reads and writes it when a [Poller] says so. Everywhere else, and over TLS or in memory, two goroutines do
// that: the handler's, which reads, and one that writes while there is something to write.
package link

import (
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/gofiber/contrib/websocket"
)

// A Link is how its owner reaches one connection. The owner's goroutine calls its methods, and none of them blocks. The
// link reports what happens on the connection by events.
type Link interface {
	// Begin is called once, when the owner is ready for events.
	Begin()

	// Write starts to send p, which is whole messages of the given lengths, or one message or the rest of one if lengths
	// is nil. It returns how much of p the owner need not keep: the kernel has taken the first sent bytes, and the link
	// goes on to send the held bytes after them by itself, which are whole messages, and refers to p until it has. If
	// that is less than p, or anything is held, the link takes no more until its Writable event, which says how many
	// held bytes the kernel has taken. An error means that the connection is of no use any longer.
	Write(p []byte, lengths []int) (sent, held int, err error)

	// Retry acts as if the link had reported Writable, if trying costs no more than a system call.
	Retry()

	// Progressed says whether the other end has acknowledged bytes since the last call, and false if that can't be
	// known.
	Progressed() bool

	// Resume asks for the next message. After each Received event, the link waits for this call.
	Resume()

	// Ready gives the link the turn that it has asked for by Again, or its poller by waking the owner.
	Ready()

	// Close ends the connection in both directions, and whatever the link still does. It may be called twice.
	Close()
}

// An Owner is whom a link works for.
type Owner interface {
	// Post hands an event over from any goroutine. It never blocks.
	Post(Event)

	// Handle hands an event over on the owner's goroutine, and returns when it has been dealt with.
	Handle(Event)

	// Again asks for another call of Ready, after others have had their turn. The owner's goroutine calls it.
	Again()

	// Seen says that the other end has given a sign of life. It may be called from any goroutine.
	Seen(now time.Time)
}

// A Reader turns the bytes of the other end into messages.
type Reader interface {
	// Feed reads p and calls emit for each message that is complete, in order. emit may keep its payload. If emit returns
	// an error, Feed returns it and how much of p it has read, and may go on from there. Any other error is final.
	Feed(p []byte, emit func(op byte, payload []byte) error) (n int, err error)
}

// An Event is what a link reports to its owner.
type Event struct {
	Kind    Kind
	Op      byte
	N       int
	Payload []byte
	Err     error
}

// Kind says what has happened.
type Kind uint8

// The events of a link.
const (
	Ready    Kind = iota // the poller has a hint: call Link.Ready
	Writable             // N more held bytes have gone out and the link takes more, or Err
	Received             // a message: Op and Payload. The link waits for Resume
	Refused              // the reader refused what the other end sent: Err. The rest is read and discarded
	Ended                // nothing more will be received: Err
	Failed               // the connection is of no use any longer: Err
	Kinds                // how many there are
)

// Options are what a link has to know of its owner.
type Options struct {
	Reader      Reader
	IdleTimeout time.Duration           // how long a write may get nowhere; 0 is for ever
	Poller      func() (*Poller, error) // returns the one of the owner's goroutine
}

// ErrIdle ends a connection on which nothing gets on.
var ErrIdle = errors.New("the client gave no sign of life")

// isReset says whether a write has failed because the other end has reset the connection, as one does that closes it
// with something unread. A close frame that it has sent before may still be unread here. So it is not the failed write
// that ends the connection, but the end of what there is to read.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Raw returns the connection that fasthttp has wrapped in one whose Close does nothing.
func Raw(conn *websocket.Conn) net.Conn {
	raw := conn.NetConn()
	if u, ok := raw.(interface{ UnsafeConn() net.Conn }); ok {
		return u.UnsafeConn()
	}
	return raw
}
