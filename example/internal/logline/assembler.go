package logline

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// quiet is how long an event waits for the next line of its source, and longest how long for all of them.
	quiet   = 150 * time.Millisecond
	longest = 2 * time.Second

	maxSources = 256
	maxOpen    = 16 // lines of an exception's text beyond its first
	maxPartial = 8  // lines that are parts of one

	// What an event keeps of a long trace: its beginning and its end, where the cause often is.
	maxHeadBytes = 12 << 10
	maxTailBytes = 6 << 10
)

// assembler makes events of lines: most are one, and the lines of a stack trace are one together.
//
// It isn't safe for concurrent use.
type assembler struct {
	emit    func(Event) error
	sources map[string]*source
	last    *source // of the line before
}

// source is where lines of one program come from, so that those of another may come in between.
type source struct {
	name      string
	pending   *pending
	column    int   // where the text of its last line began, if journalctl indents those that follow
	partial   entry // the parts of a line that is not yet whole
	parts     int
	lastLevel string
	used      time.Time
}

func newAssembler(emit func(Event) error) *assembler {
	return &assembler{emit: emit, sources: make(map[string]*source)}
}

// add takes the next line.
func (a *assembler) add(line string, now time.Time) error {
	if a.takesIndented(line, now) {
		return nil
	}
	e := unwrapped(line, now)
	s := a.sources[e.source]
	if s == nil {
		if len(a.sources) == maxSources {
			if err := a.forgetOldest(); err != nil {
				return err
			}
		}
		s = &source{name: e.source}
		a.sources[e.source] = s
	}
	s.used, s.column = now, e.column
	a.last = s
	if s.parts > 0 {
		e.text, e.line = clip(s.partial.text+e.text, maxLineBytes), s.partial.line
	}
	if e.partial && s.parts < maxPartial && len(e.text) < maxLineBytes {
		s.partial = e
		s.parts++
		return nil
	}
	s.partial, s.parts = entry{}, 0
	if strings.TrimSpace(e.text) == "" && len(e.rest) == 0 {
		return nil // a line of nothing but its envelope
	}
	for _, each := range e.read(now) {
		if err := a.take(s, &each, now); err != nil {
			return err
		}
	}
	return nil
}

// takesIndented adds a line of a message that journalctl has shown as several: all but the first are indented as far as
// the first one's text.
func (a *assembler) takesIndented(line string, now time.Time) bool {
	s := a.last
	if s == nil || s.column == 0 || s.pending == nil || len(line) <= s.column || strings.TrimLeft(line[:s.column], " ") != "" {
		return false
	}
	s.pending.append(line[s.column:])
	s.pending.touched, s.used = now, now
	return true
}

// take adds an entry to what is pending, or makes it the next to be so.
func (a *assembler) take(s *source, e *entry, now time.Time) error {
	if p := s.pending; p != nil && p.takes(e) {
		p.touched = now
		return nil
	}
	if err := a.flush(s); err != nil {
		return err
	}
	s.pending = newPending(e, now)
	return nil
}

func (a *assembler) flush(s *source) error {
	for s.pending != nil {
		p := s.pending
		s.pending = nil
		event := p.event(s.lastLevel)
		s.lastLevel = event.Level
		if err := a.emit(event); err != nil {
			return err
		}
		for i := range p.open {
			if err := a.take(s, &p.open[i], p.touched); err != nil {
				return err
			}
		}
	}
	return nil
}

// flushDue emits what has waited long enough, and returns when the next does so: the zero time if nothing waits.
func (a *assembler) flushDue(now time.Time) (next time.Time, err error) {
	for _, s := range a.sources {
		if s.pending == nil {
			continue
		}
		due := s.pending.due()
		if !due.After(now) {
			if err := a.flush(s); err != nil {
				return time.Time{}, err
			}
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next, nil
}

// flushAll emits all that waits, the oldest first.
func (a *assembler) flushAll() error {
	for len(a.sources) > 0 {
		if err := a.forgetOldest(); err != nil {
			return err
		}
	}
	return nil
}

func (a *assembler) forgetOldest() error {
	var oldest *source
	for s := range maps.Values(a.sources) {
		if oldest == nil || s.used.Before(oldest.used) {
			oldest = s
		}
	}
	delete(a.sources, oldest.name)
	if oldest.parts > 0 {
		for _, each := range oldest.partial.read(oldest.used) {
			if err := a.take(oldest, &each, oldest.used); err != nil {
				return err
			}
		}
	}
	return a.flush(oldest)
}

// pending is an event that may not be whole yet.
type pending struct {
	first            entry
	trace            trace
	stack            stack
	open             []entry // lines of an exception's text, or of something else: what comes after them tells
	joined           bool    // the message is of two lines
	started, touched time.Time
}

func newPending(e *entry, now time.Time) *pending {
	p := &pending{first: *e, started: now, touched: now}
	text := e.message
	if !e.timed { // some traces begin indented
		text = strings.TrimRight(e.text, " \t")
	}
	if !e.json {
		p.trace.begin(text)
	}
	for _, line := range e.rest {
		p.append(line)
	}
	return p
}

// append adds a line that came with the first.
func (p *pending) append(line string) {
	if !p.trace.goesOn(line, line != "" && (line[0] == ' ' || line[0] == '\t')) && p.trace.language == none {
		p.trace.begin(line)
	}
	p.stack.add(line)
}

func (p *pending) due() time.Time {
	due := p.touched.Add(quiet)
	if last := p.started.Add(longest); last.Before(due) {
		return last
	}
	return due
}

// takes adds a line to the event, if it belongs to it.
func (p *pending) takes(e *entry) bool {
	first := &p.first
	if first.json && !first.tail || e.json || len(e.rest) > 0 {
		return false
	}
	text, indented := clip(e.text, 2*maxMessageBytes), e.indented()
	switch {
	case !p.joined && p.stack.empty() && (dotNet.MatchString(first.message) && indented ||
		julHead.MatchString(strings.TrimSpace(first.text)) && julText.MatchString(text)):
		first.message += " " + strings.TrimSpace(text)
		first.found(e.level)
		p.joined = true
		return true
	case first.timed && postgresMore.MatchString(clip(e.message, 200)):
		p.stack.add(e.message)
		return true
	case e.timed:
		return false
	case len(p.open) > 0 && !p.trace.closes(text):
		return p.leavesOpen(e)
	case p.trace.language == python && p.trace.shape == "" && !indented && pythonTrace.MatchString(text):
		return false
	case p.trace.language != node && frame.MatchString(text):
		if p.trace.language == none {
			p.trace.language = common
		}
	case p.trace.goesOn(text, indented):
		if p.trace.language == common && first.node() && exception.MatchString(text) {
			p.stack.head = slices.Insert(p.stack.head, 0, first.message)
			first.message = strings.TrimSpace(text)
			return true
		}
	case p.trace.language == none && strings.Contains(first.message, "\t") && first.timed && zapFunc.MatchString(text):
		p.trace.language = zap
	case p.trace.language == none && p.logsException() && (exception.MatchString(text) || first.severe() && pythonTrace.MatchString(text)):
		p.trace.begin(text)
	case p.trace.language == none && first.severe() && goesOn.MatchString(text):
		p.trace.language = common
	case p.trace.language == none && indented && begins(text) != python && (e.level == "" || e.weak) && (first.timed || first.stamped || first.level != "" && !first.weak):
	default:
		return p.leavesOpen(e)
	}
	for _, before := range p.open {
		p.stack.add(clip(before.text, 2*maxMessageBytes))
	}
	p.open = nil
	p.stack.add(text)
	return true
}

// leavesOpen keeps a line that belongs to the event if the text of its panic or exception has several lines. Whether it
// has shows when the trace goes on after them.
func (p *pending) leavesOpen(e *entry) bool {
	if !p.trace.open || len(p.open) == maxOpen || e.level != "" && !e.weak || begins(e.text) != none {
		return false
	}
	p.open = append(p.open, *e)
	return true
}

// node says whether the first line is only the place of an error of Node.js.
func (e *entry) node() bool { return nodeTrace.MatchString(e.message) }

func (e *entry) severe() bool { return e.level == "error" || e.level == "fatal" }

// logsException says whether an exception in the next line is what this line is about: loggers of Java and Python write
// it so. It has the time and the level of the line then, which it would not have otherwise.
func (p *pending) logsException() bool {
	first := &p.first
	head := clip(first.message, 160)
	return p.stack.empty() && ((first.timed || first.stamped) && loggedFor.MatchString(head) || labelled1.MatchString(head))
}

// event returns the event as it is now. A line that is indented and says no level has the one of the line before.
func (p *pending) event(lastLevel string) Event {
	e := &p.first
	level := e.level
	switch {
	case p.trace.language == none || e.node() && p.stack.empty():
	case p.trace.language == golang && strings.HasPrefix(e.message, "WARNING: DATA RACE"):
		level = "error"
	case level == "" || e.weak || !e.given && !e.timed && p.startsTrace() && p.trace.language != golang:
		level = p.traceLevel()
	}
	if level == "" && e.indented() {
		level = lastLevel
	}
	message := firstLine(clip(e.message, maxMessageBytes))
	message = cmp.Or(message, firstLine(clip(e.line, maxMessageBytes)), "(blank)")
	return Event{
		Time:    e.moment.Time,
		Level:   cmp.Or(level, "info"),
		Service: clip(e.service, maxServiceBytes),
		Message: message,
		Data:    p.data(message),
	}
}

// startsTrace says whether the trace begins with the first line, so that a word in it is no level.
func (p *pending) startsTrace() bool { return begins(p.first.message) != none }

// traceLevel returns the level of a trace that has none of its own.
func (p *pending) traceLevel() string {
	switch message := p.first.message; {
	case phpTrace.MatchString(message), p.trace.language == golang && !goPanicked.MatchString(message) && !strings.HasPrefix(message, "goroutine "):
		return "fatal"
	}
	return "error"
}

// data returns what else there is: the object, or the line as it came, and the lines that followed.
func (p *pending) data(message string) json.RawMessage {
	e := &p.first
	if e.raw != "" && p.stack.empty() && len(e.raw) <= maxDataBytes && !strings.Contains(e.raw, `\u00`) {
		return json.RawMessage(e.raw)
	}
	o := maps.Clone(e.object)
	if o == nil {
		o = object{}
	}
	line := e.line
	if e.object != nil && !e.json {
		line = e.text // what is around it is in the object
	}
	if !e.json && message != line && o["MESSAGE"] == nil {
		o["line"] = clip(line, maxHeadBytes)
	}
	if !p.stack.empty() {
		o["stack"] = p.stack.lines()
	}
	if len(o) == 0 {
		return nil
	}
	data := o.cleaned()
	if len(data) > 2*maxDataBytes {
		short := map[string]any{"line": clip(e.line, maxHeadBytes) + "…"}
		if !p.stack.empty() {
			short["stack"] = o["stack"]
		}
		data, _ = encode(short) // texts always encode
	}
	return data
}

// stack keeps the lines of a trace: the first and the last ones, if there are too many. Its zero value is empty.
type stack struct {
	head, tail        []string
	headBytes, inTail int
	left              int // lines that were left out between them
}

func (s *stack) empty() bool { return len(s.head) == 0 }

func (s *stack) add(line string) {
	line = clip(line, 2*maxMessageBytes)
	size := len(line) + 16 // an empty line takes its place too
	if len(s.tail) == 0 && s.headBytes+size <= maxHeadBytes {
		s.head, s.headBytes = append(s.head, line), s.headBytes+size
		return
	}
	s.tail, s.inTail = append(s.tail, line), s.inTail+size
	for s.inTail > maxTailBytes {
		s.inTail -= len(s.tail[0]) + 16
		s.tail = s.tail[1:]
		s.left++
	}
}

func (s *stack) lines() []string {
	lines := append([]string{}, s.head...)
	if s.left > 0 {
		lines = append(lines, "… "+plural(s.left, "line")+" left out …")
	}
	return append(lines, s.tail...)
}
