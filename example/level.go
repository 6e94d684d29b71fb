package main

import (
	"cmp"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
)

var (
	colours = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)

	// <11>Nov 23 18:31:01 …, and the priority that journald and the kernel take at the start of a line
	priority = regexp.MustCompile(`^<(\d{1,3})>(?:1 )?`)
	// Nov 23 18:31:01 host service[123]: message, or with an RFC 3339 time
	syslogHead = regexp.MustCompile(`^(?:[A-Z][a-z]{2} [ \d]\d [\d:.]{8,15}|\d{4}-\d\d-\d\dT[\d:.]{8,15}\S{0,6}) \S+ ([\w.@/-]+?)(?:\[\d+\])?: `)
	// E1123 18:31:01.000000    1234 file.go:12] message
	klog = regexp.MustCompile(`^([IWEF])\d{4} \d\d:\d\d:\d\d`)
	// level=warn msg="…", and JSON that was cut
	logfmt        = regexp.MustCompile(`(?:^|[\s{,])"?(?:level|lvl|severity)"?[=:] ?"?([A-Za-z]+)`)
	logfmtMessage = regexp.MustCompile(`(?:^|\s)(?:msg|message)=("(?:[^"\\]|\\.)*"|\S+)`)
	// ERROR, [error], <error>, error:
	shouted = regexp.MustCompile(`\b(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERR|ERROR|SEVERE|CRIT|CRITICAL|ALERT|EMERG|FATAL|PANIC)\b`)
	marked  = regexp.MustCompile(`(?i)[\[(<](trace|debug|info|notice|warn|warning|err|error|crit|critical|alert|emerg|fatal|panic)[\])>]|(?:^|\s)(trace|debug|info|notice|warn|warning|error|critical|fatal|panic):(?:\s|$)`)
	failed  = regexp.MustCompile(`^(?:Failed to |Traceback \(most|Exception in thread |thread '.*' panicked )`)
)

// parseLine makes the parts of an event out of one line of a log, in whatever shape it is. A line that is indented goes
// on with the level of the one before, as the lines of a stack trace do.
func parseLine(line, lastLevel string) (level, service, message string, data json.RawMessage) {
	message = strings.TrimSpace(line)
	if m := priority.FindStringSubmatch(message); m != nil {
		n, _ := strconv.Atoi(m[1])
		level, message = syslogLevel(n%8), message[len(m[0]):]
	}
	if m := syslogHead.FindStringSubmatch(message); m != nil {
		service, message = m[1], message[len(m[0]):]
	}
	if before, object := cutJSON(message); object != nil {
		level = cmp.Or(objectLevel(object), level, textLevel(before))
		service = cmp.Or(firstString(object, "service", "service.name", "logger", "component", "SYSLOG_IDENTIFIER", "_COMM"), service)
		data = json.RawMessage(message[len(before):])
		message = cmp.Or(firstString(object, "msg", "message", "MESSAGE", "short_message", "@m", "event"), strings.TrimSpace(before), message)
	} else {
		level = cmp.Or(level, textLevel(message))
		if m := logfmtMessage.FindStringSubmatch(message); m != nil && logfmt.MatchString(message) {
			message = m[1]
			if s, err := strconv.Unquote(message); err == nil && s != "" {
				message = s
			}
		}
	}
	if level == "" && (line[0] == ' ' || line[0] == '\t') {
		level = lastLevel
	}
	message = clip(message, maxMessageBytes)
	if data == nil && message != line {
		data, _ = json.Marshal(map[string]string{"line": line})
	}
	return cmp.Or(level, "info"), clip(service, maxServiceBytes), cmp.Or(message, line), data
}

// textLevel finds the level in a line that is no JSON, or returns "".
func textLevel(line string) string {
	if m := klog.FindStringSubmatch(line); m != nil {
		return map[string]string{"I": "info", "W": "warning", "E": "error", "F": "fatal"}[m[1]]
	}
	if m := logfmt.FindStringSubmatch(line); m != nil {
		if level := namedLevel(m[1]); level != "" {
			return level
		}
	}
	head := clip(line, 160) // a level stands in front; further back the words are just words
	word, at := "", len(head)
	if m := shouted.FindStringIndex(head); m != nil {
		word, at = head[m[0]:m[1]], m[0]
	}
	if m := marked.FindStringSubmatchIndex(head); m != nil && m[0] < at {
		word = strings.Trim(head[m[0]:m[1]], "[](<>): \t")
	}
	if word == "" && failed.MatchString(line) {
		return "error"
	}
	return namedLevel(word)
}

// cutJSON splits a line that is a JSON object, or ends with one, as docker compose and zap write them. The object is nil
// where there is none.
func cutJSON(line string) (before string, object map[string]any) {
	start := strings.IndexByte(line, '{')
	if start < 0 || line[len(line)-1] != '}' || json.Unmarshal([]byte(line[start:]), &object) != nil {
		return line, nil
	}
	return line[:start], object
}

// objectLevel returns the level of a JSON log: a word, or one of the three numberings in use.
func objectLevel(object map[string]any) string {
	_, gelf := object["short_message"]
	for _, key := range []string{"level", "severity", "lvl", "log.level", "levelname", "@l", "PRIORITY"} {
		level := ""
		switch v := object[key].(type) {
		case string:
			level = namedLevel(v)
			if n, err := strconv.Atoi(v); err == nil && key == "PRIORITY" { // journald
				level = syslogLevel(n)
			}
		case float64:
			level = numberedLevel(v)
			if gelf || key == "PRIORITY" {
				level = syslogLevel(int(v))
			}
		}
		if level != "" {
			return level
		}
	}
	return ""
}

func firstString(object map[string]any, keys ...string) string {
	for _, key := range keys {
		if s, ok := object[key].(string); ok && strings.TrimSpace(s) != "" {
			return s
		}
	}
	return ""
}

// namedLevel returns one of our levels for a word of somebody else's, such as "WARN" or slog's "ERROR+2", or "".
func namedLevel(word string) string {
	word = strings.ToLower(word)
	if i := strings.IndexAny(word, "+-"); i > 0 {
		word = word[:i]
	}
	switch word {
	case "trace", "verbose", "debug", "finest", "finer", "fine":
		return "debug"
	case "info", "information", "informational", "notice", "log", "default":
		return "info"
	case "warn", "warning":
		return "warning"
	case "err", "error", "severe", "dpanic":
		return "error"
	case "crit", "critical", "alert", "emerg", "emergency", "panic", "fatal":
		return "fatal"
	}
	return ""
}

// syslogLevel returns the level of a severity of RFC 5424.
func syslogLevel(severity int) string {
	switch {
	case severity <= 2:
		return "fatal"
	case severity == 3:
		return "error"
	case severity == 4:
		return "warning"
	case severity <= 6:
		return "info"
	}
	return "debug"
}

// numberedLevel returns the level of a number of log/slog (-4, 0, 4, 8), or of pino and bunyan (10, 20 … 60).
func numberedLevel(n float64) string {
	switch {
	case n < 0:
		return "debug"
	case n < 4:
		return "info"
	case n < 8:
		return "warning"
	case n < 10:
		return "error"
	case n < 30:
		return "debug"
	case n < 40:
		return "info"
	case n < 50:
		return "warning"
	case n < 60:
		return "error"
	}
	return "fatal"
}
