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

// Relay is a [mesherstream.ConfirmingRelay] over a NATS connection. It is safe for concurrent use, several managers may
// share it, and it has one goroutine for as long as it has subscriptions, and another one while NATS refuses some.
type Relay struct {
	// Read-only after construction.
	conn  *nats.Conn
	cfg   config
	watch func() *watch // has the connection's refusals heard from its first call on

	pending pending       // what is published, until NATS has answered
	lost    atomic.Uint64 // of what Publish has taken

	// Guarded by mu.
	mu        sync.RWMutex
	receivers map[*nats.Subscription]func(mesherstream.RelayMessage)
	subs      map[*subscription]struct{}
	inbox     *inbox // nil while there are no subscriptions
	missed    uint64 // by subscriptions that have ended

	// Guarded by statusMu.
	statusMu sync.Mutex
	status   mesherstream.RelayStatus // as of the last answer
	answered chan struct{}            // closed with the answer that is waited for; nil where none is
	askedAt  time.Time                // when that was asked for
}

var _ mesherstream.ConfirmingRelay = (*Relay)(nil)

const (
	// maxFlush ends a flush whose context has no deadline.
	maxFlush = time.Minute

	// answerPatience is how long Status waits for the connection's answer, and maxAnswer how long that may take before the
	// connection counts as away: more than a busy machine makes it.
	answerPatience = 200 * time.Millisecond
	maxAnswer      = 2 * time.Second

	// maxHearing is how long a refusal may wait for the other callbacks of the connection before it is not waited for.
	// One that may have been told before is waited for as long as maxHearingAgain.
	maxHearing      = time.Second
	maxHearingAgain = 100 * time.Millisecond

	// maxPending is how many messages wait for NATS's answer before it is asked for one, if Status doesn't ask sooner.
	maxPending = 4 << 10
)

var (
	// errAway is returned by Flush, and by Publish where NATS has never been there.
	errAway = errors.New("natsrelay: NATS is away")

	// errNone stands for a reason that there isn't.
	errNone = errors.New("none")

	// errBroken is the outcome of a message whose fate nobody knows.
	errBroken = errors.New("natsrelay: the connection broke before NATS had answered, and what was on its way may be lost")
)

// New returns a relay over conn, which needs not be connected yet, and stays the caller's. It panics at set-up if conn
// is nil or an option is invalid, with an error that says which.
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

// Publish implements [mesherstream.Relay]. It copies the message into the connection's buffer, and waits for the network
// where that is full. The error is that of nats.Conn.PublishMsg, or says that NATS has never been there yet. What NATS
// refuses later, Status counts as lost.
func (r *Relay) Publish(m mesherstream.RelayMessage) error {
	return r.PublishConfirmed(m, func(err error) {
		if err != nil {
			r.lost.Add(1)
		}
	})
}

// PublishConfirmed implements [mesherstream.ConfirmingRelay]. It is Publish, and outcome is told what NATS has refused by
// its subject. Where the connection breaks, all that NATS hasn't answered yet may be lost, and outcome says so. Where NATS
// closes the connection because a message is longer than its max_payload, it doesn't say which one, and the longest on
// the way counts as that one: all before it have arrived, and all others are lost.
//
// NATS is asked for an answer by Status and Flush, and by itself after some thousand messages.
func (r *Relay) PublishConfirmed(m mesherstream.RelayMessage, outcome func(error)) error {
	r.watch()
	msg, size := encode(r.cfg.prefix, &m)
	defer msg.release()
	p := &publication{subject: msg.Subject, bytes: size, epoch: r.epoch(), outcome: outcome}
	if !r.conn.IsConnected() {
		p.epoch++ // it waits for the next one
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
		return errAway // as long as it has never been connected, it knows of no server that takes headers
	}
	return err
}

// epoch counts the connections to servers that this one has had.
func (r *Relay) epoch() uint64 {
	return r.conn.Stats().Reconnects
}

// Flush implements [mesherstream.Relay]. Where NATS is away it returns an error at once.
func (r *Relay) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxFlush) // NATS takes none without a deadline
	defer cancel()
	return r.confirm(ctx)
}

// confirm asks NATS what has become of what has been published.
func (r *Relay) confirm(ctx context.Context) error {
	messages, epoch := r.pending.taken(), r.epoch()
	err := r.hearAll(ctx)
	switch {
	case err == nil: // over one connection: a flush fails where that breaks
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

// settleClosed settles everything: there will be no answer any more.
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

// hearAll returns when NATS has looked at all that was sent before, and what it has refused of that has been heard. Where
// NATS is away it returns an error at once. ctx has a deadline.
//
// A refusal comes before the answer, but it is told by a goroutine of the connection, behind whatever else that has to
// tell. The connection's last error says whether there is one that hasn't been told yet.
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
		// A subscription too many is always the same error, which may be an old one.
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
				w.hear(last) // the application has just taken our handler away, or its own holds it up
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Status implements [mesherstream.Relay]. Missed counts what the NATS client has dropped because this process was slow.
// What a server drops, and what is published while NATS is away, nobody can count; a server that finds this process too
// slow ends the connection, which Breaks counts.
//
// The connection holds a lock while a write hangs, for up to a minute where a server has stopped or a cable is cut. So it
// is asked beside the caller, and is away where it doesn't answer.
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

// begin has the connection asked, unless it is being asked already. The channel is closed with the answer.
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
	breaks := r.epoch() // after that, or a connection that breaks in between would be seen twice
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
		s.Reason = fmt.Errorf("%w, and doesn't come back; its last error: %w", nats.ErrConnectionClosed, cmp.Or(s.Reason, errNone))
	}
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	// A subscription of a connection that has been closed doesn't tell any more what it has dropped.
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
