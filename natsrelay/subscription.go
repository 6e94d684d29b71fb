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
	// A subscription that NATS has refused after it was active is retried after minRetry. The delay then doubles each
	// time, up to maxRetry.
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
	trying  bool   // an attempt is in progress
	answer  error  // the refusal during that attempt
	refused error  // why it isn't active; nil if it is, or will be once the connection is restored
	epoch   uint64 // of the connection over which it was last known to be active, plus 1
	since   time.Time
}

// inbox receives the messages of all subscriptions. The NATS client would run a goroutine for each subscription. With
// one channel for all, a project costs only a map entry.
type inbox struct {
	messages chan *nats.Msg
	stop     chan struct{} // closed when the last subscription has ended

	regaining bool // a goroutine retries refused subscriptions; guarded by Relay.mu
}

// Subscribe implements [mesherstream.Relay]. It waits for the answer of the server that this process is connected to.
// In a cluster, the other servers learn of the subscription some milliseconds later.
//
// The error is that of NATS, which refuses subjects by its permissions, and subscriptions beyond an account's limit.
// NATS may also refuse a subscription later, if permissions have been withdrawn or another server has different ones.
// The relay then retries it by itself. Until it succeeds, Status reports Away and the reason.
func (r *Relay) Subscribe(ctx context.Context, project string, receive func(mesherstream.RelayMessage)) (unsubscribe func(), err error) {
	r.watch()
	s := &subscription{subject: subject(r.cfg.prefix, project), receive: receive}
	if err := r.attempt(s); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxFlush)
	defer cancel()
	epoch := r.epoch()
	// If this fails, NATS is unavailable and the connection subscribes once it is restored, or the time is up.
	answered := r.hearAll(ctx) == nil
	if err := r.conclude(s, answered, epoch); err != nil {
		r.unsubscribe(s)
		return nil, err
	}
	return sync.OnceFunc(func() { r.unsubscribe(s) }), nil
}

// attempt asks NATS for the subscription, or asks again if it was refused. It holds the lock. Otherwise the first
// message could arrive before its receiver is known.
func (r *Relay) attempt(s *subscription) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.subs[s]; !known && s.sub != nil {
		return nil // the subscription has ended meanwhile
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

// conclude ends an attempt, and returns the reason if the subscription is refused. Without an answer, the state remains
// unchanged.
func (r *Relay) conclude(s *subscription, answered bool, epoch uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.trying = false
	switch {
	case s.answer != nil:
		s.refused = s.answer
	case answered:
		s.refused, s.epoch, s.since = nil, epoch+1, time.Now() // plus 1, because 0 means none
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

// release ends a subscription in NATS. It needs the lock.
func (r *Relay) release(s *subscription) {
	if s.sub == nil {
		return
	}
	if dropped, err := s.sub.Dropped(); err == nil {
		r.missed += uint64(dropped)
	}
	_ = s.sub.Unsubscribe() // it fails if the connection is closed, and then the subscription has ended anyway
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

// refuse is called when NATS has refused subscriptions: all to the subject or, if subject is empty, some of those
// requested since the connection was made. In the second case NATS doesn't say which ones, so all of them are retried.
func (r *Relay) refuse(subject string, err error) {
	epoch := r.epoch() + 1
	r.mu.Lock()
	defer r.mu.Unlock()
	trying := false
	for s := range r.subs {
		trying = trying || s.trying
	}
	// A subscription that is active over this connection stays active, unless it was considered active too soon.
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

// refused returns the number of subscriptions that are refused now, and the reason for one of them.
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

// regain retries refused subscriptions, on a goroutine of its own. It ends when no subscription of the inbox is
// refused, or the connection is closed.
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

// toRegain returns the refused subscriptions. If there are none, it marks the goroutine that retries them as ended.
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

// tryAgain asks for all refused subscriptions at once. If some exceed a limit, NATS doesn't say which ones. Then
// tryAgain first releases all of them, to make room, and asks for one after another until the first is refused.
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
