package natsrelay

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/nats-io/nats.go"
)

const (
	// A subscription that NATS has refused after it was in force is tried again after minRetry, and then after twice as
	// long each time, up to maxRetry.
	minRetry = 250 * time.Millisecond
	maxRetry = 5 * time.Second
)

// subscription is one call of Subscribe.
type subscription struct {
	// Read-only after construction.
	subject string
	receive func(mesherstream.RelayMessage)

	// Guarded by Relay.mu.
	sub     *nats.Subscription
	trying  bool   // NATS is being asked for it
	answer  error  // what it has refused it with meanwhile
	refused error  // why it isn't in force; nil if it is, or will be when the connection is back
	epoch   uint64 // of the connection over which it was last known to be in force
	since   time.Time
}

// inbox is where the messages of all subscriptions arrive. NATS would run a goroutine for each subscription; one channel
// for all costs a project a map entry.
type inbox struct {
	messages chan *nats.Msg
	stop     chan struct{} // closed when the last subscription has ended

	regaining bool // a goroutine tries refused subscriptions again; guarded by Relay.mu
}

// Subscribe implements [mesherstream.Relay]. It waits until the server that this process is connected to has answered.
// In a cluster, the other servers hear of it some milliseconds later.
//
// The error is NATS's, which refuses subjects by its permissions, and subscriptions beyond an account's limit. What NATS
// refuses later, when permissions have been withdrawn or another server knows others, the relay tries again by itself;
// until then Status says that it is away, and why.
func (r *Relay) Subscribe(ctx context.Context, project string, receive func(mesherstream.RelayMessage)) (unsubscribe func(), err error) {
	r.watch()
	s := &subscription{subject: subject(r.cfg.prefix, project), receive: receive}
	if err := r.attempt(s); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxFlush)
	defer cancel()
	epoch := r.epoch()
	// Where this fails, NATS is away, and the connection subscribes when it is back; or time is up.
	answered := r.hearAll(ctx) == nil
	if err := r.conclude(s, answered, epoch); err != nil {
		r.unsubscribe(s)
		return nil, err
	}
	return sync.OnceFunc(func() { r.unsubscribe(s) }), nil
}

// attempt asks NATS for the subscription, once more if it has been refused. It holds the lock, or the first message could
// arrive before its receiver is known.
func (r *Relay) attempt(s *subscription) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.subs[s]; !known && s.sub != nil {
		return nil // it has ended meanwhile
	}
	in := r.inbox
	if in == nil {
		in = &inbox{messages: make(chan *nats.Msg, r.cfg.pending), stop: make(chan struct{})}
	}
	r.release(s)
	sub, err := r.conn.ChanSubscribe(s.subject, in.messages)
	if err != nil {
		return err
	}
	s.sub, s.trying, s.answer = sub, true, nil
	r.receivers[sub] = s.receive
	r.subs[s] = struct{}{}
	if r.inbox == nil {
		r.inbox = in
		go r.receiveAll(in)
	}
	return nil
}

// conclude ends an attempt, and returns why the subscription is refused. Without an answer it stays what it was.
func (r *Relay) conclude(s *subscription, answered bool, epoch uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.trying = false
	switch {
	case s.answer != nil:
		s.refused = s.answer
	case answered:
		s.refused, s.epoch, s.since = nil, epoch+1, time.Now() // not 0, which is that of none
	}
	return s.refused
}

func (r *Relay) unsubscribe(s *subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release(s)
	delete(r.subs, s)
	if len(r.subs) == 0 {
		close(r.inbox.stop)
		r.inbox = nil
	}
}

// release ends what NATS knows of a subscription. It needs the lock.
func (r *Relay) release(s *subscription) {
	if s.sub == nil {
		return
	}
	if dropped, err := s.sub.Dropped(); err == nil {
		r.missed += uint64(dropped)
	}
	_ = s.sub.Unsubscribe() // it fails where the connection has been closed, and then it has ended anyway
	delete(r.receivers, s.sub)
}

// receiveAll is the goroutine of an inbox. It ends with the last subscription.
func (r *Relay) receiveAll(in *inbox) {
	for {
		select {
		case <-in.stop:
			return
		case msg := <-in.messages:
			r.mu.RLock()
			receive := r.receivers[msg.Sub]
			r.mu.RUnlock()
			if receive != nil {
				receive(decode(msg))
			}
		}
	}
}

// refuse is called when NATS has refused subscriptions: all to the subject or, without one, some of those that it was
// asked for since the connection was made. Which ones it doesn't tell then, and they all are tried again.
func (r *Relay) refuse(subject string, err error) {
	epoch := r.epoch() + 1
	r.mu.Lock()
	defer r.mu.Unlock()
	trying := false
	for s := range r.subs {
		trying = trying || s.trying
	}
	// One that has been in force over this connection stays so, unless it was taken for that a moment too soon.
	inForce := func(s *subscription) bool {
		return !s.trying && s.epoch == epoch && (trying || time.Since(s.since) > maxHearing)
	}
	for s := range r.subs {
		switch {
		case subject != "" && subject != s.subject || subject == "" && inForce(s):
		case s.trying:
			s.answer = err
		default:
			s.refused = err
			if in := r.inbox; !in.regaining {
				in.regaining = true
				go r.regain(in)
			}
		}
	}
}

// refused returns how many subscriptions are refused now, and why one of them is.
func (r *Relay) refused() (n int, reason error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for s := range r.subs {
		if s.refused != nil {
			n, reason = n+1, s.refused
		}
	}
	return n, reason
}

// regain is a goroutine that ends when no subscription of the inbox is refused, or the connection is closed.
func (r *Relay) regain(in *inbox) {
	for wait := minRetry; ; wait = min(2*wait, maxRetry) {
		select {
		case <-in.stop:
			return
		case <-time.After(wait):
		}
		refused := r.toRegain(in)
		if len(refused) == 0 || r.conn.IsClosed() {
			return
		}
		if !r.conn.IsConnected() {
			wait = minRetry / 2
			continue
		}
		r.tryAgain(refused)
	}
}

// toRegain returns the subscriptions that are refused. If there are none, nobody tries them any longer.
func (r *Relay) toRegain(in *inbox) (refused []*subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.subs {
		if s.refused != nil {
			refused = append(refused, s)
		}
	}
	in.regaining = len(refused) > 0
	return refused
}

// tryAgain asks for all subscriptions at once; or, if NATS doesn't tell which ones are too many, for one after the other
// up to the first that is, when those that may be in force have made room.
func (r *Relay) tryAgain(refused []*subscription) {
	size := len(refused)
	if slices.ContainsFunc(refused, func(s *subscription) bool { return errors.Is(s.refused, nats.ErrMaxSubscriptionsExceeded) }) {
		size = 1
		r.mu.Lock()
		for _, s := range refused {
			r.release(s)
		}
		r.mu.Unlock()
	}
	for batch := range slices.Chunk(refused, size) {
		ctx, cancel := context.WithTimeout(context.Background(), maxAnswer)
		epoch := r.epoch()
		var err error
		for _, s := range batch {
			err = errors.Join(err, r.attempt(s))
		}
		err = errors.Join(err, r.hearAll(ctx))
		cancel()
		answered := err == nil
		for _, s := range batch {
			err = errors.Join(err, r.conclude(s, answered, epoch))
		}
		if err != nil && size == 1 {
			return
		}
	}
}
