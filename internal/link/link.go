// Package link moves the bytes of one connection, and never makes its owner wait.
//
// There are two links with one contract. On Linux, [Open] takes over the descriptor of a plain socket. The owner's
// goroutine then reads and writes it when a [Poller] says so. On other systems, and over TLS or in memory, two
// goroutines do that: the handler's, which reads, and one that writes while there is something to write.
package link

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// A Link gives its owner access to one connection. The owner's goroutine calls its methods, and none of them blocks.
// The link reports by events what happens on the connection.
type Link interface {
	// Begin is called once, when the owner is ready for events.
	Begin()

	// Write starts to send p. p consists of whole messages of the given lengths or, if lengths is nil, of one message
	// or the rest of one. Write returns how much of p the owner need not keep. The kernel has accepted the first sent
	// bytes. The link sends the held bytes after them by itself. These are whole messages, and the link refers to p
	// until it has sent them.
	//
	// then is one more message that is to follow p in the same system call, or nil. It is never held, so the link may
	// leave it out. Bytes of it that were sent count in sent.
	//
	// If sent is less than p and then, or anything is held, the link accepts no more until its Writable event. That
	// event says how many held bytes the kernel has accepted. An error means that the connection is no longer usable.
	Write(p []byte, lengths []int, then []byte) (sent, held int, err error)

	// Retry acts as if the link had reported Writable, unless trying costs more than a system call.
	Retry()

	// Progressed reports whether the program at the other end has read since the last call. It asks the kernel, so it is
	// for a client that something waits for. See room.advance for how that is known and when it isn't; then it
	// returns false.
	Progressed() bool

	// Unread reports whether, at the last call of Progressed, much that was sent had not been read by the program at the
	// other end. It returns false if that can't be known.
	Unread() bool

	// Unanswered reports whether, at the last call of Progressed, the other end's kernel had acknowledged none of what has
	// been waiting for that since the call before. It returns false if that can't be known.
	Unanswered() bool

	// Resume asks for the next message. After each Received event, the link waits for this call.
	Resume()

	// Ready gives the link the turn that it has requested with Again, or that its poller has requested by waking the
	// owner.
	Ready()

	// Close ends the connection in both directions, and everything that the link still does. It may be called twice.
	Close()
}

// An Owner is the user of a link.
type Owner interface {
	// Post delivers an event from any goroutine. It never blocks.
	Post(Event)

	// Handle delivers an event on the owner's goroutine, and returns when the event has been handled.
	Handle(Event)

	// Again requests another call of Ready, after others have had their turn. It is called on the owner's goroutine.
	Again()

	// Seen reports a sign of life from the other end. It may be called from any goroutine. took means that the other end
	// itself, and not just its kernel, has taken bytes that waited for it. Otherwise it has sent some.
	Seen(now time.Time, took bool)
}

// A Reader turns the bytes of the other end into messages.
type Reader interface {
	// Feed reads p and calls emit for each message that is complete, in order. emit may keep its payload. If emit
	// returns an error, Feed returns that error and how much of p it has read, and may continue from there. Any other
	// error is final.
	Feed(p []byte, emit func(op byte, payload []byte) error) (n int, err error)

	// AtRest reports whether nothing is half read, so that the reader may go on with the bytes of somebody else.
	AtRest() bool
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
	Writable             // N more held bytes have been sent and the link accepts more, or Err
	Received             // a message: Op and Payload. The link waits for Resume
	Refused              // the reader refused the other end's bytes: Err. The rest is read and discarded
	Ended                // nothing more will be received: Err
	Failed               // the connection is no longer usable: Err
	Kinds                // how many there are
)

// Options are the facts that a link has to know about its owner.
type Options struct {
	// Reader returns a reader that is at rest. A link that asks for its own keeps it, on a goroutine of its own. Any other
	// link asks on its owner's goroutine, each time that bytes arrive, and keeps the reader only while a message is half
	// read. Between messages, all links of an owner's goroutine therefore share one.
	Reader      func(own bool) Reader
	IdleTimeout time.Duration           // how long a write may make no progress; 0 is forever
	Poller      func() (*Poller, error) // returns the poller of the owner's goroutine
}

// ErrIdle ends a connection that makes no progress.
var ErrIdle = errors.New("the client gave no sign of life")

// isReset reports whether a write has failed because the other end has reset the connection. An end that closes with
// unread data does so. A close frame that it sent before may still be unread here. So the connection is not ended by
// the failed write, but by the end of the data to read.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Raw returns the connection that fasthttp has wrapped in one whose Close does nothing.
func Raw(conn net.Conn) net.Conn {
	if u, ok := conn.(interface{ UnsafeConn() net.Conn }); ok {
		return u.UnsafeConn()
	}
	return conn
}
