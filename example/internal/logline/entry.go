package logline

import (
	"cmp"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Event is what one line of a log says, or one stack trace.
type Event struct {
	Time    time.Time       // as the log has it; zero if it has none
	Level   string          // debug, info, warning, error or fatal
	Service string          // may be empty
	Message string          // never blank, at most 2000 bytes
	Data    json.RawMessage // an object with what else there is, or nil
}

const (
	maxMessageBytes = 2000
	maxServiceBytes = 64
	maxDataBytes    = 24 << 10

	dockerPart = 16<<10 - 64 // bytes of a long line that Docker writes as one, or a few less to keep characters whole
)

// entry is one line, taken apart.
type entry struct {
	line   string   // as it came, for the reader who wants to see it
	source string   // whose line it is: the lines of a trace are of one source
	text   string   // without what others have put around it; an indentation is kept
	rest   []string // further lines that came with it

	service string
	message string // the text without its time
	moment  moment
	level   string // "" if the line doesn't say one
	weak    bool   // the level is what is said of lines that say nothing
	given   bool   // the level is of the envelope, which knows better than the text
	timed   bool   // the text itself has a time, so that it is no part of what came before
	stamped bool   // each line of the source has a time of its collector, those of a trace too
	object  object // of a line that is JSON, or of what was around the text
	raw     string // the text of the object, if nothing is added to it
	json    bool   // the program itself has logged JSON
	tail    bool   // the JSON is only the end of the line
	column  int    // where the text begins in a line of journalctl
	partial bool   // the line goes on with the next of its source
}

// unwrapped takes off what collectors of logs have put around a line. One may have collected from another.
func unwrapped(line string, now time.Time) entry {
	e := entry{line: line, text: line}
	for range 4 {
		if !e.unwrap(now) {
			break
		}
	}
	return e
}

// read takes the text of an entry apart. One that is an export of many records is as many entries.
func (e entry) read(now time.Time) []entry {
	before, o := cutObject(e.text)
	if o == nil || before == "" && len(o) == 0 {
		e.readText(now)
		return []entry{e}
	}
	records := o.records()
	if records == nil {
		if before == "" {
			e.raw = strings.TrimSpace(e.text)
		}
		e.readObject(before, o, now)
		return []entry{e}
	}
	list := make([]entry, len(records))
	for i, record := range records {
		list[i] = e
		list[i].readObject("", record, now)
	}
	return list
}

var (
	// web-1  | text, of docker compose, foreman and docker service logs; not "INFO  | text"
	composed = regexp.MustCompile(`^([A-Za-z0-9][\w.@-]*) +\| ?`)
	// 0|app  | text, of pm2
	ofPM2 = regexp.MustCompile(`^\d+\|([\w.@/-]+) +\| ?`)
	// [pod/web-7d9c/web] text, of kubectl logs --prefix
	ofKubectl = regexp.MustCompile(`^\[pod/[^/\]]+/([^\]]+)\] ?`)
	// 2026-11-23T18:31:01.123456789Z stderr F text, of Kubernetes on the disk of a node
	ofCRI = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT\S+) (?:stdout|stderr) ([FP])(?::\S+)?(?: |$)`)
	// 2026-11-23T18:31:01.123456789Z text, of docker logs -t and kubectl logs --timestamps
	ofTimestamps = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d))(?: |$)`)
	// <11>text: a priority of syslog, which journald and the kernel take at the start of a line
	priority = regexp.MustCompile(`^<(\d{1,3})>`)
	// 1 2026-11-23T18:31:01Z host app 123 ID [x@1 a="b"] text, of RFC 5424
	ofRFC5424 = regexp.MustCompile(`^1 (\S+) \S+ (\S+) \S+ \S+ (?:-|(?:\[(?:[^\]\\]|\\.)*\])+)(?: |$)(?:\x{FEFF})?`)
	// host service[123]: text, behind a time
	ofSyslog = regexp.MustCompile(`^[\w.:-]+ ([\w./@+()-]+?)(?:\[\d+\])?: `)
	// service[123]: text, as programs write to /dev/log
	ofDevLog = regexp.MustCompile(`^([\w./@+()-]+?)\[\d+\]: `)
	ofTag    = regexp.MustCompile(`^([\w./@+()-]+): `)
	// app[web.1]: text, of Heroku, behind a time
	ofHeroku = regexp.MustCompile(`^(?:app|heroku)\[([\w.-]+)\]: `)
)

// unwrap takes off what one collector of logs has put around the text, and says whether there was something.
func (e *entry) unwrap(now time.Time) bool {
	if m := ofCRI.FindStringSubmatch(e.text); m != nil {
		if at, _, ok := cutMoment(m[1], now); ok {
			e.say(at)
			e.text, e.partial = e.text[len(m[0]):], m[2] == "P"
			return true
		}
	}
	if m := ofTimestamps.FindStringSubmatch(e.text); m != nil && !e.stamped {
		if at, _, ok := cutMoment(m[1], now); ok {
			e.say(at)
			e.text, e.stamped = e.text[len(m[0]):], true
			return true
		}
	}
	if m := ofPM2.FindStringSubmatch(e.text); m != nil {
		return e.from(m[1], e.text[len(m[0]):])
	}
	if m := ofKubectl.FindStringSubmatch(e.text); m != nil {
		return e.from(m[1], e.text[len(m[0]):])
	}
	if m := composed.FindStringSubmatch(e.text); m != nil && namedLevel(m[1]) == "" && strings.Trim(m[1], "0123456789.:-") != "" {
		return e.from(m[1], e.text[len(m[0]):])
	}
	if m := priority.FindStringSubmatch(e.text); m != nil {
		n, _ := strconv.Atoi(m[1])
		e.transported(n % 8)
		e.text = e.text[len(m[0]):]
		if m := ofRFC5424.FindStringSubmatch(e.text); m != nil {
			if at, _, ok := cutMoment(m[1], now); ok {
				e.say(at)
			}
			return e.from(strings.TrimLeft(m[2], "-"), e.text[len(m[0]):])
		}
		return true
	}
	if at, rest, ok := cutMoment(e.text, now); ok && strings.HasPrefix(rest, " ") {
		rest = rest[1:]
		m := ofHeroku.FindStringSubmatch(rest)
		if m == nil && at.dated && (at.zoned && e.text[len("2006-01-02")] != ' ' || e.text[0] >= 'A') {
			if m = ofDevLog.FindStringSubmatch(rest); m == nil {
				m = ofSyslog.FindStringSubmatch(rest)
			}
			if m == nil && e.level != "" { // behind a priority
				m = ofTag.FindStringSubmatch(rest)
			}
		}
		if m != nil && namedLevel(m[1]) == "" && namedLevel(strings.Fields(rest)[0]) == "" {
			e.say(at)
			e.from(m[1], rest[len(m[0]):])
			e.column = len(e.line) - len(e.text)
			return true
		}
		if m := composed.FindStringSubmatch(rest); m != nil && namedLevel(m[1]) == "" && strings.Trim(m[1], "0123456789.:-") != "" {
			e.say(at)
			return e.from(m[1], rest[len(m[0]):])
		}
	}
	if e.text != "" && e.text[0] == '{' {
		return e.unwrapObject(now)
	}
	return false
}

// unwrapObject takes the text out of the JSON of journald, and of Docker's json-file.
func (e *entry) unwrapObject(now time.Time) bool {
	o := parseObject(strings.TrimSpace(e.text))
	if o == nil {
		return false
	}
	if log, ok := o["log"].(string); ok && (o["stream"] != nil || o["time"] != nil) {
		if at, ok := o.moment(now); ok {
			e.say(at)
		}
		stream := o.text("stream")
		e.partial = len(log) >= dockerPart && !strings.Contains(log, "\n")
		delete(o, "log")
		delete(o, "time")
		e.object = o
		service := cmp.Or(o.text("kubernetes.container_name", "container_name"), o.text("attrs.tag"))
		e.from(service, "")
		e.source += "/" + stream
		e.lines(log)
		return true
	}
	if message, ok := o["MESSAGE"]; ok && o.has("__REALTIME_TIMESTAMP", "PRIORITY", "SYSLOG_IDENTIFIER", "_COMM", "_TRANSPORT", "__CURSOR") {
		text := journalText(message)
		if strings.TrimSpace(text) == "" {
			return false
		}
		if at, ok := o.moment(now); ok {
			e.say(at)
		}
		if n, ok := number(scalar(o["PRIORITY"])); ok {
			e.transported(int(n))
		}
		if _, plain := message.(string); !plain {
			o["MESSAGE"] = text
		}
		e.object = o
		e.from(cmp.Or(o.text("SYSLOG_IDENTIFIER"), o.text("_COMM"), o.text("_SYSTEMD_UNIT")), "")
		e.source += "/" + scalar(o["_PID"])
		e.lines(text)
		return true
	}
	return false
}

// journalText reads a field of journald: a text, or its bytes if they aren't all printable, or the values of a field that
// there is more than once.
func journalText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		var text []byte
		for i, part := range v {
			if n, ok := number(scalar(part)); ok && n >= 0 && n < 256 {
				if _, isNumber := part.(json.Number); isNumber {
					text = append(text, byte(n))
					continue
				}
			}
			if i > 0 {
				text = append(text, '\n')
			}
			text = append(text, journalText(part)...)
		}
		return string(text)
	}
	return ""
}

// from notes where the text comes from. The outermost name counts: it is what somebody has called this part of the
// system.
func (e *entry) from(service, text string) bool {
	e.service = cmp.Or(e.service, service)
	e.source += "/" + service
	e.text = text
	return true
}

// lines takes a text of one line or more.
func (e *entry) lines(text string) {
	lines := strings.Split(strings.TrimRight(clean(text), "\n"), "\n")
	for len(lines) > 1 && strings.TrimSpace(lines[0]) == "" {
		lines = lines[1:]
	}
	e.text, e.rest = lines[0], lines[1:]
	for i, line := range lines {
		if line, ok := strings.CutPrefix(line, "\ufeff"); ok {
			lines[i] = line
		}
	}
}

// say notes a time. What the program itself says counts most, unless it leaves out the day or the zone.
func (e *entry) say(m moment) {
	if e.moment.IsZero() || m.dated && m.zoned {
		e.moment = m
	}
}

// transported notes a priority of syslog. The one of most lines is what a service manager gives to those that say none.
func (e *entry) transported(severity int) {
	if e.level == "" {
		e.level, e.weak = syslogLevel(severity), severity >= 5
		e.given = !e.weak
	}
}

// found notes the level that the text itself has.
func (e *entry) found(level string) {
	if level != "" && (e.level == "" || e.weak) {
		e.level, e.weak = level, false
	}
}

// readObject reads what a program has logged as JSON, perhaps behind a time and a level.
func (e *entry) readObject(before string, o object, now time.Time) {
	outer := e.object
	e.json, e.tail, e.object = true, before != "", o
	head := entry{text: before, level: e.level, weak: e.weak, moment: e.moment}
	if before != "" {
		head.readText(now)
		e.moment, e.timed = head.moment, head.timed
		if head.message != "" {
			o["line"] = cmp.Or(o["line"], any(before))
		}
	}
	if level := o.level(); level != "" && (before == "" || head.level == "" || head.weak) {
		e.level, e.weak = level, false
	} else if head.level != "" {
		e.level, e.weak = head.level, head.weak
	} else if o.has("@mt", "@m") { // Serilog leaves out the level that most events have
		e.level, e.weak = "info", false
	}
	own, told := o.moment(now)
	if told {
		e.say(own)
	}
	e.service = cmp.Or(e.service, head.service, o.service())
	if stream := outer.text("stream"); stream != "" && o["stream"] == nil {
		o["stream"], e.raw = stream, ""
	}
	message := o.message()
	if before != "" && head.message != "" && !(message != "" && head.bare()) {
		message = head.message
	}
	if at, rest, ok := cutMomentInBrackets(message, now); ok && strings.TrimSpace(rest) != "" {
		message = rest
		if !told {
			e.say(at)
		}
	}
	if message == "" {
		delete(o, "line")
		if data, err := encode(map[string]any(o)); err == nil {
			message = strings.TrimSpace(before + " " + string(data))
		}
	}
	e.message = firstLine(message)
	if e.level == "" || e.weak {
		level, _ := textLevel(e.message, false)
		if begins(e.message) == common {
			level = "error"
		}
		e.found(level)
	}
}

// bare says whether nothing is left of a text but its level.
func (e *entry) bare() bool {
	_, word := textLevel(e.message, e.timed)
	return strings.Trim(e.message, "[]<>():| \t-") == word
}

// firstLine returns the first line of s that isn't blank.
func firstLine(s string) string {
	s = strings.TrimSpace(s)
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimSpace(line)
}

var (
	// E1123 18:31:01.000000    1234 file.go:12] text, of klog; with a year of glog, CockroachDB and Tornado
	klog = regexp.MustCompile(`^(\[?)([IWEFDC]) ?(20\d\d|\d\d)?(\d\d)(\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)\s+(?:\d+ )?`)
	// [I 2026-11-23 18:31:01.123 App] text, of Jupyter
	ofJupyter = regexp.MustCompile(`^\[([DIWEC]) (\d{4}-.*)`)
	// E, [2026-11-23T18:31:01.123 #42] ERROR -- app: text
	ofRuby = regexp.MustCompile(`^[DIWEFA], \[(\S+) #\d+\] +([A-Z]+) -- ([\w.:-]*): ?`)
	// the one message of JSON that was cut
	cutMessage = regexp.MustCompile(`"(?i:msg|message|short_message|@m|@message|log)" ?: ?"((?:[^"\\]|\\.)*)`)
	cutLevel   = regexp.MustCompile(`"(?i:level|lvl|severity|levelname|log\.level|@l)" ?: ?"?(\w+)`)
	cutClock   = regexp.MustCompile(`"(?i:time|ts|timestamp|@timestamp|@t|t)" ?: ?(?:\{"\$date":)?"?([\w:.+-]+)`)
)

// readText reads a line that is no JSON.
func (e *entry) readText(now time.Time) {
	text := strings.TrimSpace(e.text)
	if m := klog.FindStringSubmatch(text); m != nil {
		year := m[3]
		if len(year) == 2 {
			year = "20" + year
		}
		clock := m[4] + "-" + m[5] + " " + m[6]
		if year != "" {
			clock = year + "-" + clock
		}
		if at, _, ok := cutMoment(clock, now); ok {
			e.found(letters[m[2]])
			e.say(at)
			e.timed, e.message = true, m[1]+text[len(m[0]):]
			return
		}
	}
	if m := ofJupyter.FindStringSubmatch(text); m != nil {
		if at, rest, ok := cutMoment(m[2], now); ok {
			e.found(letters[m[1]])
			e.say(at)
			e.timed, e.message = true, "["+strings.TrimSpace(rest)
			return
		}
	}
	if m := ofRuby.FindStringSubmatch(text); m != nil {
		if at, _, ok := cutMoment(m[1], now); ok {
			e.found(namedLevel(m[2]))
			e.say(at)
			e.service = cmp.Or(e.service, m[3])
			e.timed, e.message = true, m[2]+": "+text[len(m[0]):]
			return
		}
	}
	if strings.HasPrefix(text, "{\"") && e.readCutObject(text, now) {
		return
	}
	if e.readTabs(text, now) {
		return
	}
	e.message = text
	if at, rest, ok := cutTime(text, now); ok {
		e.say(at)
		e.timed, e.message = true, rest
		if at, rest, ok := cutMomentInBrackets(rest, now); ok && rest != "" { // of what collects, and of the program
			e.say(at)
			e.message = rest
		}
	}
	if e.readLogfmt(now) {
		return
	}
	level, _ := textLevel(e.message, e.timed || e.stamped)
	e.found(level)
}

// readCutObject reads JSON that was cut: what there is of its message is its text.
func (e *entry) readCutObject(text string, now time.Time) bool {
	level, message := cutLevel.FindStringSubmatch(text), cutMessage.FindStringSubmatch(text)
	if level == nil && message == nil {
		return false
	}
	e.message = text
	if message != nil && strings.TrimSpace(message[1]) != "" {
		e.message = cmp.Or(firstLine(unquote(message[1])), text)
	}
	if level != nil {
		e.found(namedLevel(level[1]))
		if n, ok := number(level[1]); ok {
			e.found(numberedLevel(n))
		}
	}
	if m := cutClock.FindStringSubmatch(text); m != nil {
		if at, ok := momentOf(m[1], now); ok {
			e.say(at)
		}
	}
	return true
}

var caller = regexp.MustCompile(`^\S+\.\w+:\d+$`)

// readTabs reads what zap writes for people: time, level, perhaps a logger, perhaps a caller, and the message.
func (e *entry) readTabs(text string, now time.Time) bool {
	fields := strings.Split(text, "\t")
	if len(fields) < 3 {
		return false
	}
	at, rest, ok := cutMoment(fields[0], now)
	level := namedLevel(fields[1])
	if !ok || rest != "" || level == "" {
		return false
	}
	e.say(at)
	e.found(level)
	e.timed, e.message = true, strings.Join(fields[1:], "\t")
	if logger := fields[2]; len(fields) > 3 && !caller.MatchString(logger) && !strings.ContainsAny(logger, " ") {
		e.service = cmp.Or(e.service, logger)
	}
	return true
}

// readLogfmt reads the message as logfmt, if it has a level or a message of its own.
func (e *entry) readLogfmt(now time.Time) bool {
	before, pairs := logfmt(e.message)
	level := namedLevel(first(pairs, "level", "lvl", "severity", "loglevel", "log_level"))
	if level == "" {
		level = namedLevel(first(pairs, "at", "l"))
	}
	message := sentence(e.message, pairs, "msg", "message")
	text := first(pairs, "level", "lvl", "severity") != "" || level != ""
	if !text && !(message != "" && before == "" && len(pairs) > 1) {
		return false
	}
	if level == "" {
		level, _ = textLevel(before, e.timed)
	}
	e.found(level)
	for _, p := range pairs {
		switch p.key {
		case "time", "ts", "t", "timestamp", "@timestamp":
			if at, ok := momentOf(p.value, now); ok {
				e.say(at)
				e.timed = true
				e.message = strings.TrimSpace(e.message[:p.start] + strings.TrimLeft(e.message[p.end:], " \t"))
			}
		default:
			continue
		}
		break
	}
	e.service = cmp.Or(e.service, first(pairs, "service", "service.name", "component", "logger", "app", "subsys"))
	if message != "" && (before == "" || namedLevel(strings.Trim(before, "[]:<>")) != "") {
		lines := strings.Split(strings.TrimSpace(message), "\n")
		e.message, e.rest = lines[0], append(lines[1:], e.rest...)
	}
	e.message = cmp.Or(strings.TrimSpace(e.message), strings.TrimSpace(e.text))
	return true
}

func (e *entry) indented() bool {
	return e.text != "" && (e.text[0] == ' ' || e.text[0] == '\t')
}
