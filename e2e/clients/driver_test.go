package clients

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"testing"
)

// A plan is what one connection of a client is to do. The programs get it as JSON.
type plan struct {
	ID     int      `json:"id"`
	URL    string   `json:"url"`
	CA     string   `json:"ca"`     // a file with the certificate to trust, or ""
	Send   string   `json:"send"`   // sent first; the first message is then its answer
	Ping   string   `json:"ping"`   // the payload of a ping, or ""
	After  int      `json:"after"`  // after how many messages the client leaves by itself, if it does
	Close  *closing `json:"close"`  // how it leaves; nil: it waits for the server
	Vanish bool     `json:"vanish"` // it leaves without a word
}

// A closing is a close frame's code and reason. The code 1005 is a close frame that has neither.
type closing struct {
	Code   int    `json:"code"`
	Reason string `json:"reason"`
}

const noCode = 1005

// A report is what the client saw on that connection.
type report struct {
	ID     int            `json:"id"`
	Answer string         `json:"answer"`
	Pong   string         `json:"pong"` // the payload that came back
	Counts map[string]int `json:"counts"`
	Digest string         `json:"digest"`
	Code   int            `json:"code"` // of the close frame that the client got, as it tells it
	Reason string         `json:"reason"`
	Error  string         `json:"error"`
}

// A driver makes a client that others wrote follow plans. Connections of one driver may run at the same time.
type driver struct {
	name string
	run  func(ctx context.Context, p plan) report

	// missing says what has to be installed, or "".
	missing func() string

	// What the client has no way to do.
	noPing    bool
	noOneCode bool // it can't close without a code
	noVanish  bool
	noAnswer  bool // it doesn't wait for the answer to its close frame
	noCodes   func(code int) bool
}

var drivers = []*driver{gorilla, coder, gobwas, lxzan, node, python, chromium}

// withEach lets each driver play its part at the same time, as a subtest.
func withEach(t *testing.T, part func(t *testing.T, d *driver)) {
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			d.skipIfMissing(t)
			part(t, d)
		})
	}
}

func (d *driver) skipIfMissing(t *testing.T) {
	t.Helper()
	if d.missing != nil {
		if what := d.missing(); what != "" {
			t.Skip(what)
		}
	}
}

// seen collects what a Go client reads.
type seen struct {
	plan       plan
	transcript transcript
	report     report
	left       bool
}

// take notes a message.
func (s *seen) take(binary bool, data []byte) {
	if s.plan.Send != "" && s.report.Answer == "" {
		s.report.Answer = string(data)
	} else {
		s.transcript.add(binary, data)
	}
}

// leaves says once that it is time for the client to leave.
func (s *seen) leaves() bool {
	if s.left || s.plan.Close == nil && !s.plan.Vanish || s.transcript.messages < s.plan.After {
		return false
	}
	s.left = true
	return true
}

func (s *seen) end(code int, reason string) report {
	s.report.ID = s.plan.ID
	s.report.Counts, s.report.Digest = s.transcript.counts, s.transcript.hex()
	s.report.Code, s.report.Reason = code, reason
	return s.report
}

func (s *seen) fail(err error) report {
	r := s.end(0, "")
	r.Error = err.Error()
	return r
}

// vanished is how a connection ends on the side that has cut it.
func (s *seen) vanished() report { return s.end(0, "") }

// mailbox brings reports back to those who wait for them.
type mailbox struct {
	mu      sync.Mutex
	lastID  int
	waiting map[int]chan report
	broken  error
}

// expect gives a plan its number.
func (m *mailbox) expect() (id int, arrives <-chan report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastID++
	ch := make(chan report, 1)
	if m.broken != nil {
		ch <- report{Error: m.broken.Error()}
		return m.lastID, ch
	}
	if m.waiting == nil {
		m.waiting = make(map[int]chan report)
	}
	m.waiting[m.lastID] = ch
	return m.lastID, ch
}

func (m *mailbox) deliver(r report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ch := m.waiting[r.ID]; ch != nil {
		ch <- r
		delete(m.waiting, r.ID)
	}
}

var errEnded = errors.New("the program has ended")

// shut tells everybody who waits that no more reports will come.
func (m *mailbox) shut(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = cmp.Or(err, errEnded)
	for id, ch := range m.waiting {
		ch <- report{ID: id, Error: m.broken.Error()}
		delete(m.waiting, id)
	}
}
