package natsrelay

import (
	"cmp"
	"slices"
	"sync"
)

// pending holds the messages that the connection has accepted, and that NATS has neither confirmed nor refused. The
// server answers a ping after it has checked all messages sent before it. If it refuses some of them, it says so before
// its answer, by subject.
type pending struct {
	// Guarded by mu.
	mu        sync.Mutex
	bySubject map[string][]*publication
	n         int
	seq       uint64
}

// publication is one message of pending. The fields that are not read-only are guarded by pending.mu.
type publication struct {
	// Read-only.
	subject string
	bytes   int
	epoch   uint64 // the number of reconnects before the connection that carries it
	outcome func(error)

	seq  uint64
	sent bool // the connection has accepted it
	done bool // its outcome has been reported, or is about to be
}

// add must be called before the message is sent, so that an answer finds it.
func (p *pending) add(m *publication) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bySubject == nil {
		p.bySubject = make(map[string][]*publication)
	}
	p.seq++
	m.seq = p.seq
	p.bySubject[m.subject] = append(p.bySubject[m.subject], m)
	p.n++
}

// sent marks a message as accepted by the connection, and returns how many messages wait for an answer now.
func (p *pending) sent(m *publication) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.sent = true
	return p.n
}

// cancel removes a message that the connection has not accepted. It returns false if its outcome has been reported. In
// that case another message to the same subject has no outcome.
func (p *pending) cancel(m *publication) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.done {
		return false
	}
	m.done = true
	p.sweep(m.subject)
	return true
}

// refuse reports to the oldest message to the subject that it was refused. It returns false if there is none.
func (p *pending) refuse(subject string, err error) bool {
	p.mu.Lock()
	list := p.bySubject[subject]
	if len(list) == 0 {
		p.mu.Unlock()
		return false
	}
	m := list[0]
	m.done = true
	list[0] = nil
	if p.n--; len(list) == 1 {
		delete(p.bySubject, subject)
	} else {
		p.bySubject[subject] = list[1:]
	}
	p.mu.Unlock()
	m.outcome(err)
	return true
}

// taken returns the messages that the connection has accepted so far, in order.
func (p *pending) taken() []*publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*publication, 0, p.n)
	for _, list := range p.bySubject {
		for _, m := range list {
			if m.sent {
				all = append(all, m)
			}
		}
	}
	slices.SortFunc(all, func(a, b *publication) int { return cmp.Compare(a.seq, b.seq) })
	return all
}

// settle reports an outcome to each message that has none yet.
func (p *pending) settle(messages []*publication, outcome func(*publication) error) {
	p.mu.Lock()
	messages = slices.DeleteFunc(messages, func(m *publication) bool { return m.done })
	for _, m := range messages {
		m.done = true
	}
	for subject := range p.bySubject {
		p.sweep(subject)
	}
	p.mu.Unlock()
	for _, m := range messages {
		m.outcome(outcome(m))
	}
}

// sweep removes the messages to a subject that are done. It needs the lock.
func (p *pending) sweep(subject string) {
	list := p.bySubject[subject]
	left := slices.DeleteFunc(list, func(m *publication) bool { return m.done })
	p.n -= len(list) - len(left)
	if len(left) == 0 {
		delete(p.bySubject, subject)
	} else {
		p.bySubject[subject] = left
	}
}

func (p *pending) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n == 0
}
