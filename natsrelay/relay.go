package natsrelay

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/nats-io/nats.go"
)

// Relay is a [mesherstream.Relay] over a NATS connection. It is safe for concurrent use, several managers may share it,
// and it has one goroutine for as long as it has subscriptions.
type Relay struct {
	// Read-only after construction.
	conn *nats.Conn
	cfg  config

	// Guarded by mu.
	mu        sync.RWMutex
	receivers map[*nats.Subscription]func(mesherstream.RelayMessage)
	inbox     *inbox // nil while there are no subscriptions
	missed    uint64 // by subscriptions that have ended

	// Guarded by statusMu.
	statusMu sync.Mutex
	status   mesherstream.RelayStatus // as of the last answer
	answered chan struct{}            // closed with the answer that is waited for; nil where none is
	askedAt  time.Time                // when that was asked for
}

var _ mesherstream.Relay = (*Relay)(nil)

const (
	// maxFlush ends a flush whose context has no deadline.
	maxFlush = time.Minute

	// answerPatience is how long Status waits for the connection's answer, and maxAnswer how long that may take before the
	// connection counts as away: more than a busy machine makes it.
	answerPatience = 100 * time.Millisecond
	maxAnswer      = 2 * time.Second
)

// errAway is returned by Flush, and by Publish where NATS has never been there.
var errAway = errors.New("natsrelay: NATS is away")

// inbox is where the messages of all subscriptions arrive. NATS would run a goroutine for each subscription; one channel
// for all costs a project a map entry.
type inbox struct {
	messages chan *nats.Msg
	stop     chan struct{} // closed when the last subscription has ended
}

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
	return &Relay{conn: conn, cfg: cfg, receivers: make(map[*nats.Subscription]func(mesherstream.RelayMessage))}
}

// Publish implements [mesherstream.Relay]. It copies the message into the connection's buffer, and waits for the network
// where that is full. The error is that of nats.Conn.PublishMsg, or says that NATS has never been there yet.
func (r *Relay) Publish(m mesherstream.RelayMessage) error {
	err := r.conn.PublishMsg(encode(r.cfg.prefix, &m))
	if errors.Is(err, nats.ErrHeadersNotSupported) && !r.conn.IsConnected() {
		return errAway // as long as it has never been connected, it knows of no server that takes headers
	}
	return err
}

// Subscribe implements [mesherstream.Relay]. It waits until the server that this process is connected to has answered.
// In a cluster, the other servers hear of it some milliseconds later.
func (r *Relay) Subscribe(ctx context.Context, project string, receive func(mesherstream.RelayMessage)) (unsubscribe func(), err error) {
	sub, err := r.subscribe(project, receive)
	if err != nil {
		return nil, err
	}
	// Where this fails, NATS is away, and the connection subscribes when it is back; or time is up.
	_ = r.Flush(ctx)
	return sync.OnceFunc(func() { r.unsubscribe(sub) }), nil
}

// subscribe holds the lock, or the first message could arrive before its receiver is known.
func (r *Relay) subscribe(project string, receive func(mesherstream.RelayMessage)) (*nats.Subscription, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.inbox
	if in == nil {
		in = &inbox{messages: make(chan *nats.Msg, r.cfg.pending), stop: make(chan struct{})}
	}
	sub, err := r.conn.ChanSubscribe(subject(r.cfg.prefix, project), in.messages)
	if err != nil {
		return nil, err
	}
	r.receivers[sub] = receive
	if r.inbox == nil {
		r.inbox = in
		go r.receiveAll(in)
	}
	return sub, nil
}

func (r *Relay) unsubscribe(sub *nats.Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if dropped, err := sub.Dropped(); err == nil {
		r.missed += uint64(dropped)
	}
	_ = sub.Unsubscribe() // it fails where the connection has been closed, and then it has ended anyway
	delete(r.receivers, sub)
	if len(r.receivers) == 0 {
		close(r.inbox.stop)
		r.inbox = nil
	}
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

// Flush implements [mesherstream.Relay]. Where NATS is away it returns an error at once.
func (r *Relay) Flush(ctx context.Context) error {
	if !r.conn.IsConnected() {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, maxFlush) // NATS takes none without a deadline
	defer cancel()
	return r.conn.FlushWithContext(ctx)
}

// Status implements [mesherstream.Relay]. Missed counts what the NATS client has dropped because this process was slow.
// What a server drops, and what is published while NATS is away, nobody can count.
//
// The connection holds a lock while a write hangs, for up to a minute where a server has stopped or a cable is cut. So it
// is asked beside the caller, and is away where it doesn't answer.
func (r *Relay) Status() mesherstream.RelayStatus {
	r.statusMu.Lock()
	if r.answered == nil {
		r.answered, r.askedAt = make(chan struct{}), time.Now()
		go r.ask(r.answered)
	}
	answered := r.answered
	r.statusMu.Unlock()
	select {
	case <-answered:
	case <-time.After(answerPatience):
	}
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	s := r.status
	s.Away = s.Away || r.answered == answered && time.Since(r.askedAt) >= maxAnswer
	return s
}

// ask completes the status.
func (r *Relay) ask(answered chan struct{}) {
	defer close(answered)
	away, missed := !r.conn.IsConnected(), r.missedNow()
	r.statusMu.Lock()
	defer r.statusMu.Unlock()
	// A subscription of a connection that has been closed doesn't tell any more what it has dropped.
	r.status = mesherstream.RelayStatus{Away: away, Missed: max(missed, r.status.Missed)}
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
