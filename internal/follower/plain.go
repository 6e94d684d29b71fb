package follower

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
)

// A ServerEvent is an event of a stream of Server-Sent Events.
type ServerEvent struct {
	Name string // "" if it has none
	Data string
	ID   string // the last one of the stream, and "" if there was none
	Own  bool   // the ID came with this event
}

// An EventReader interprets an event stream as the HTML standard says. Each connection has its own: of what it has read of
// an event that is not complete, nothing remains.
type EventReader struct {
	LastID   string   // that of the newest event that is complete
	Retry    int      // how long to wait before the next connection, in milliseconds; 0 if the stream hasn't said
	Comments []string // without their colons

	line    []byte
	afterCR bool // an LF ends the same line
	begun   bool
	next    ServerEvent
	data    []byte
}

// Read reads some bytes and returns the events that are complete.
func (r *EventReader) Read(p []byte) (list []ServerEvent) {
	for _, b := range p {
		joins := r.afterCR && b == '\n'
		if r.afterCR = b == '\r'; joins {
			continue
		}
		if b != '\r' && b != '\n' {
			r.line = append(r.line, b)
			continue
		}
		line := strings.ToValidUTF8(string(r.line), "\uFFFD")
		if !r.begun {
			line, r.begun = strings.TrimPrefix(line, "\uFEFF"), true
		}
		if r.line = r.line[:0]; line != "" {
			r.field(line)
		} else if e, ok := r.end(); ok {
			list = append(list, e)
		}
	}
	return list
}

// IsWhole reports whether everything that was read belongs to complete events.
func (r *EventReader) IsWhole() bool {
	return len(r.line) == 0 && len(r.data) == 0 && r.next.Name == "" && !r.next.Own
}

func (r *EventReader) field(line string) {
	name, value, _ := strings.Cut(line, ":")
	if name == "" {
		r.Comments = append(r.Comments, value)
		return
	}
	switch value = strings.TrimPrefix(value, " "); {
	case name == "retry" && strings.Trim(value, "0123456789") == "":
		r.Retry, _ = strconv.Atoi(value)
	case name == "event":
		r.next.Name = value
	case name == "data":
		r.data = append(append(r.data, value...), '\n')
	case name == "id" && !strings.Contains(value, "\x00"):
		r.next.ID, r.next.Own = value, true
	}
}

// end ends an event at a blank line. One without data is none, although its ID counts.
func (r *EventReader) end() (e ServerEvent, ok bool) {
	e, ok = r.next, len(r.data) > 0
	e.Data = string(bytes.TrimSuffix(r.data, []byte{'\n'}))
	r.LastID, r.next, r.data = e.ID, ServerEvent{ID: e.ID}, r.data[:0]
	return e, ok
}

// A LineReader cuts a stream into lines, without empty ones. A line that has no end yet is none.
type LineReader struct{ line []byte }

// Read reads some bytes and returns the lines that are complete.
func (r *LineReader) Read(p []byte) (list []string) {
	for _, b := range p {
		if b != '\n' {
			r.line = append(r.line, b)
			continue
		}
		if len(r.line) > 0 {
			list = append(list, string(r.line))
		}
		r.line = r.line[:0]
	}
	return list
}

// IsWhole reports whether everything that was read belongs to complete lines.
func (r *LineReader) IsWhole() bool { return len(r.line) == 0 }

// OfLine reads a line. n is nil for a message of the application. text is that message: what its line says, if it is a JSON
// string, and the line otherwise.
func OfLine(line string) (text string, n *Notice, err error) {
	var all map[string]json.RawMessage
	if json.Unmarshal([]byte(line), &all) == nil && len(all) == 1 && all["mesherstream"] != nil {
		n = new(Notice)
		return "", n, json.Unmarshal(all["mesherstream"], n)
	}
	if strings.HasPrefix(line, `"`) {
		err = json.Unmarshal([]byte(line), &text)
		return text, nil, err
	}
	var any json.RawMessage
	return line, nil, json.Unmarshal([]byte(line), &any)
}

// ReceiveLine handles a line that OfLine has read.
func (f *Follower) ReceiveLine(text string, n *Notice) {
	f.Arrived++
	switch {
	case n == nil:
		f.show(text)
	case n.Type == "gap":
		f.Shown = append(f.Shown, Shown{Gap: n})
		if !f.FirstOnly {
			f.reach(n.Position, false)
		}
	}
}

// ReceiveEvent handles an event. It returns what the event says, if it is one of the protocol.
func (f *Follower) ReceiveEvent(e ServerEvent) (n *Notice, err error) {
	f.Arrived++
	switch e.Name {
	case "":
		f.show(e.Data)
	case "binary":
		data, err := base64.StdEncoding.DecodeString(e.Data)
		if err != nil {
			return nil, err
		}
		f.show("binary:" + string(data))
	default:
		n = new(Notice)
		if err := json.Unmarshal([]byte(e.Data), n); err != nil {
			return nil, err
		}
		if n.Type = e.Name; n.Type != "hello" || f.Tailless {
			n.Position = ""
		}
		if e.Own {
			n.Position = e.ID
		}
		f.heed(n)
	}
	if e.Own && (n == nil || n.Type == "direct" || n.Type == "past") {
		f.reach(e.ID, true)
	}
	return n, nil
}
