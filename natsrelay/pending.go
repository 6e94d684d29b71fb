package natsrelay

import (
	"cmp"
	"slices"
	"sync"
)

// pending are the messages that the connection has taken, and NATS has neither answered nor refused. The server answers a
// ping when it has looked at all that was sent before, and what it refuses it refuses before that, by its subject.
type pending struct {
	// Guarded by mu.
	mu        sync.Mutex
	bySubject map[string][]*publication
	n         int
	seq       uint64
}

// publication is one message of pending. All but outcome and what is read-only is guarded by pending.mu.
type publication struct {
	// Read-only.
	subject string
	bytes   int
	epoch   uint64 // of the connection that it goes over: how often that had reconnected
	outcome func(error)

	seq  uint64
	sent bool // the connection has taken it
	done bool // its outcome has been told, or is about to be
}

// add comes before the message is sent, so that the answer finds it.
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

// sent returns how many messages wait for an answer now.
func (p *pending) sent(m *publication) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.sent = true
	return p.n
}

// cancel forgets a message that the connection hasn't taken. It returns false if its outcome has been told: then another
// message to the same subject has none.
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

// refuse tells the oldest message to the subject that it has been refused, and returns false if there is none.
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

// taken returns the messages that the connection has taken so far, in their order.
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

// settle tells those of the messages that haven't been told what has become of them.
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

// sweep needs the lock.
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
