package natsrelay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/nats-io/nats.go"
)

// Relay is a [mesherstream.ConfirmingRelay] over a NATS connection. It is safe for concurrent use, and several managers
// may share it. It has one goroutine while it has subscriptions, and another one while NATS refuses some of them.
type Relay struct {
	// Read-only after construction.
	conn  *nats.Conn
	cfg   config
	watch func() *watch // observes the connection's refusals from its first call on

	pending pending       // published messages that NATS has not answered yet
	lost    atomic.Uint64 // messages that Publish has accepted

	// Guarded by mu.
	mu        sync.RWMutex
	receivers map[*nats.Subscription]func(mesherstream.RelayMessage)
	subs      map[*subscription]struct{}
	inbox     *inbox // nil while there are no subscriptions
	missed    uint64 // messages, by subscriptions that have ended

	// Guarded by statusMu.
	statusMu sync.Mutex
	status   mesherstream.RelayStatus // as of the last answer
	answered chan struct{}            // closed with the pending answer; nil if there is none
	askedAt  time.Time                // when that answer was asked for
}

var _ mesherstream.ConfirmingRelay = (*Relay)(nil)

const (
	// maxFlush ends a flush whose context has no deadline.
	maxFlush = time.Minute

	// answerPatience is how long Status waits for the connection's answer. maxAnswer is how long the answer may take
	// before the connection counts as unavailable. It is longer than the delay on a busy machine.
	answerPatience = 200 * time.Millisecond
	maxAnswer      = 2 * time.Second

	// maxHearing is how long to wait for a refusal that is delayed by other callbacks of the connection. For a refusal
	// that may have been reported before, it is maxHearingAgain.
	maxHearing      = time.Second
	maxHearingAgain = 100 * time.Millisecond

	// maxPending is how many messages may wait for NATS's answer before the relay asks for it, if Status doesn't ask
	// sooner.
	maxPending = 4 << 10
)

var (
	// errAway is returned by Flush if NATS is unavailable, and by Publish if NATS has never been available.
	errAway = errors.New("natsrelay: NATS is unavailable")

	// errNone stands for a missing reason.
	errNone = errors.New("none")

	// errBroken is the outcome of a message whose fate is unknown.
	errBroken = errors.New("natsrelay: the connection broke before NATS had answered, so messages in flight may be lost")
)

// New returns a relay over conn. conn need not be connected yet, and remains the caller's. New panics if conn is nil or
// an option is invalid, with an error that names the fault.
func New(conn *nats.Conn, opts ...Option) *Relay {
	cfg := defaultConfig()
	for _, opt := range opts {
		if opt != nil {
			opt(&cfg)
		}
	}
	if err := cfg.validate(); err != nil {
		panic(err)
	}
	if conn == nil {
		panic(errors.New("natsrelay: New(nil): must be a connection"))
	}
	r := &Relay{
		conn: conn, cfg: cfg,
		receivers: make(map[*nats.Subscription]func(mesherstream.RelayMessage)), subs: make(map[*subscription]struct{}),
	}
	r.watch = sync.OnceValue(func() *watch {
		w := watchOf(conn, r)
		w.install(conn)
		return w
	})
	return r
}

// Publish implements [mesherstream.Relay]. It copies the message into the connection's buffer, and waits for the
// network if the buffer is full. The error is that of nats.Conn.PublishMsg, or says that NATS has not been available
// yet. Messages that NATS refuses later are counted as Lost by Status.
func (r *Relay) Publish(m mesherstream.RelayMessage) error {
	return r.PublishConfirmed(m, func(err error) {
		if err != nil {
			r.lost.Add(1)
		}
	})
}

// PublishConfirmed implements [mesherstream.ConfirmingRelay]. It does the same as Publish, and also calls outcome. If
// NATS refuses the message because of its subject, outcome receives that error. If the connection breaks, messages that
// NATS has not answered yet may be lost, and outcome receives an error that says so. If NATS closes the connection
// because a message is longer than its max_payload, it doesn't say which one. The longest message in flight is then
// taken for that one. All messages before it count as arrived, and it and all later ones as lost.
//
// Status and Flush ask NATS for its answer. PublishConfirmed does so itself after several thousand messages.
func (r *Relay) PublishConfirmed(m mesherstream.RelayMessage, outcome func(error)) error {
	r.watch()
	msg, size := encode(r.cfg.prefix, &m)
	defer msg.release()
	p := &publication{subject: msg.Subject, bytes: size, epoch: r.epoch(), outcome: outcome}
	if !r.conn.IsConnected() {
		p.epoch++ // the message waits for the next connection
	}
	r.pending.add(p)
	err := r.conn.PublishMsg(&msg.Msg)
	if err == nil {
		if r.pending.sent(p)%maxPending == 0 {
			r.begin()
		}
		return nil
	}
	if !r.pending.cancel(p) {
		return nil
	}
	if errors.Is(err, nats.ErrHeadersNotSupported) && !r.conn.IsConnected() {
		return errAway // before its first connection, the client knows of no server that supports headers
	}
	return err
}

// epoch counts how often the connection has reconnected.
func (r *Relay) epoch() uint64 {
	return r.conn.Stats().Reconnects
}

// Flush implements [mesherstream.Relay]. If NATS is unavailable, it returns an error immediately.
func (r *Relay) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxFlush) // NATS accepts no context without a deadline
	defer cancel()
	return r.confirm(ctx)
}

// confirm asks NATS for the outcome of the published messages.
func (r *Relay) confirm(ctx context.Context) error {
	messages, epoch := r.pending.taken(), r.epoch()
	err := r.hearAll(ctx)
	switch {
	case err == nil: // over one connection: a flush fails if the connection breaks
		r.pending.settle(messages, func(m *publication) error {
			if m.epoch < epoch {
				return errBroken
			}
			return nil
		})
	case r.conn.IsClosed():
		r.settleClosed()
	}
	return err
}

// settleClosed settles all messages: there will be no more answers.
func (r *Relay) settleClosed() {
	messages, reason := r.pending.taken(), r.conn.LastError()
	if reason == nil || !strings.Contains(strings.ToLower(reason.Error()), "maximum payload") {
		r.pending.settle(messages, func(*publication) error { return errBroken })
		return
	}
	longest := 0
	for i, m := range messages {
		if m.bytes > messages[longest].bytes {
			longest = i
		}
	}
	var first uint64
	if len(messages) > 0 {
		first = messages[longest].seq
	}
	r.pending.settle(messages, func(m *publication) error {
		if m.seq < first {
			return nil
		}
		return reason
	})
}

// hearAll returns when NATS has checked all messages sent before, and its refusals of them have been heard. If NATS is
// unavailable, it returns an error immediately. ctx has a deadline.
//
// A refusal arrives before the answer, but a goroutine of the connection reports it, after all its other callbacks. The
// connection's last error shows whether there is a refusal that has not been reported yet.
func (r *Relay) hearAll(ctx context.Context) error {
	w := r.watch()
	if !r.conn.IsConnected() {
		return errAway
	}
	w.install(r.conn)
	l := w.listen()
	defer w.ignore(l)
	if err := r.conn.FlushWithContext(ctx); err != nil {
		return err
	}
	begin := time.Now()
	for {
		last, patience := r.conn.LastError(), maxHearing
		// The error for too many subscriptions is always the same value, so it may be an old one.
		again := last == nats.ErrMaxSubscriptionsExceeded
		if again {
			patience = maxHearingAgain
		}
		if !isRefusal(last) || w.knows(l, last, again) {
			return nil
		}
		select {
		case <-l.more:
		case <-time.After(patience - time.Since(begin)):
			if !again {
				w.hear(last) // the application has just replaced our handler, or its own handler blocks it
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Status implements [mesherstream.Relay]. Missed counts the messages that the NATS client has dropped because this
// process was slow. Messages that a server drops, and messages published while NATS is unavailable, can't be counted. A
// server that finds this process too slow ends the connection, which is counted in Breaks.
//
// The connection holds a lock while a write hangs, for up to a minute if a server has stopped or a cable is cut. So
// Status asks it on another goroutine and waits briefly. If there is no answer within two seconds, it reports Away.
func (r *Relay) Status() mesherstream.RelayStatus {
	answered := r.begin()
	select {
	case <-answered:
	case <-time.After(answerPatience):
	}
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	s := r.status
	s.Away = s.Away || r.answered == answered && time.Since(r.askedAt) >= maxAnswer
	s.Lost = r.lost.Load()
	return s
}

// begin starts asking the connection, unless that is already in progress. The channel is closed with the answer.
func (r *Relay) begin() (answered chan struct{}) {
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	if r.answered == nil {
		r.answered, r.askedAt = make(chan struct{}), time.Now()
		go r.ask(r.answered)
	}
	return r.answered
}

// ask completes the status.
func (r *Relay) ask(answered chan struct{}) {
	defer close(answered)
	r.watch().install(r.conn)
	away := !r.conn.IsConnected()
	breaks := r.epoch() // after IsConnected, or a break in between would be reported twice
	if !r.pending.empty() {
		ctx, cancel := context.WithTimeout(context.Background(), maxAnswer)
		defer cancel()
		away = r.confirm(ctx) != nil || away
	}
	s := mesherstream.RelayStatus{Away: away, Breaks: breaks, Missed: r.missedNow()}
	s.Unfollowed, s.Reason = r.refused()
	if s.Unfollowed > 0 {
		s.Away = true
	}
	if away {
		s.Reason = r.conn.LastError()
	}
	if r.conn.IsClosed() {
		s.Reason = fmt.Errorf("%w permanently; its last error: %w", nats.ErrConnectionClosed, cmp.Or(s.Reason, errNone))
	}
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	// A subscription of a closed connection no longer reports the messages it has dropped.
	s.Missed = max(s.Missed, r.status.Missed)
	r.status = s
	r.answered = nil
}

func (r *Relay) missedNow() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	missed := r.missed
	for sub := range r.receivers {
		if dropped, err := sub.Dropped(); err == nil {
			missed += uint64(dropped)
		}
	}
	return missed
}
