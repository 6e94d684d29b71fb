package streamtest

import (
	"bytes"
	"strconv"
	"strings"
)

// An Event is what a page receives of an event stream.
type Event struct {
	Name string // "" for a message
	Data string
	ID   string // the last one that the stream has given, with this event or before it
	Own  bool   // the stream has given it with this event
}

// An EventParser interprets an event stream as the HTML standard says in "Interpreting an event stream".
type EventParser struct {
	LastID   string
	Retry    int // milliseconds
	Comments []string

	begun     bool // the first bytes have been read
	line      []byte
	afterCR   bool // an LF belongs to the end of the line before
	name      string
	data      []byte
	own       bool
	ownLastID string
}

// Feed reads some bytes, and returns the events that are complete.
func (p *EventParser) Feed(b []byte) (events []Event) {
	for _, c := range b {
		lf := c == '\n'
		switch {
		case lf && p.afterCR:
			p.afterCR = false
			continue
		case !lf && c != '\r':
			p.afterCR = false
			p.line = append(p.line, c)
			continue
		}
		p.afterCR = c == '\r'
		line := p.line
		if !p.begun {
			line = bytes.TrimPrefix(line, []byte("\uFEFF"))
			p.begun = true
		}
		if e, ok := p.read(string(line)); ok {
			events = append(events, e)
		}
		p.line = p.line[:0]
	}
	return events
}

// Whole reports whether nothing of an event or a line has been read that is not complete.
func (p *EventParser) Whole() bool {
	return len(p.line) == 0 && len(p.data) == 0 && p.name == "" && !p.own
}

func (p *EventParser) read(line string) (e Event, ok bool) {
	if line == "" {
		return p.dispatch()
	}
	field, value, _ := strings.Cut(line, ":")
	if field == "" {
		p.Comments = append(p.Comments, value)
		return e, false
	}
	value = strings.TrimPrefix(value, " ")
	switch field {
	case "event":
		p.name = value
	case "data":
		p.data = append(append(p.data, value...), '\n')
	case "id":
		if !strings.Contains(value, "\x00") {
			p.ownLastID, p.own = value, true
		}
	case "retry":
		if strings.Trim(value, "0123456789") == "" {
			p.Retry, _ = strconv.Atoi(value)
		}
	}
	return e, false
}

func (p *EventParser) dispatch() (e Event, ok bool) {
	if p.own {
		p.LastID = p.ownLastID
	}
	e = Event{p.name, string(bytes.TrimSuffix(p.data, []byte("\n"))), p.LastID, p.own}
	ok = len(p.data) > 0
	p.name, p.data, p.own = "", p.data[:0], false
	return e, ok
}
