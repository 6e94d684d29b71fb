package logline

import (
	"bytes"
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// object is one JSON object. Its names are found in any spelling, and a path such as log.level is the name of one member
// or of one within another.
type object map[string]any

// parseObject returns nil if s isn't one JSON object.
func parseObject(s string) object {
	if s == "" || s[0] != '{' || s[len(s)-1] != '}' {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber() // a number that is an ID keeps all of its digits
	var o object
	if d.Decode(&o) != nil || len(bytes.TrimSpace([]byte(s[d.InputOffset():]))) > 0 {
		return nil
	}
	return o
}

// cutObject splits a line that is a JSON object, or ends with one, as zap and Monolog write them. The object is nil where
// there is none.
func cutObject(s string) (before string, o object) {
	tail := strings.TrimSpace(s)
	for _, empty := range []string{" []", " {}"} { // what Monolog adds
		tail = strings.TrimSuffix(tail, empty)
	}
	at := 0
	for range 8 {
		i := strings.IndexByte(tail[at:], '{')
		if i < 0 {
			break
		}
		at += i
		if at == 0 || strings.IndexByte(" \t|:=", tail[at-1]) >= 0 {
			if o := parseObject(tail[at:]); o != nil {
				return strings.TrimSpace(tail[:at]), o
			}
		}
		at++
	}
	return s, nil
}

func (o object) member(name string) any {
	if v, ok := o[name]; ok {
		return v
	}
	for k, v := range o {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return nil
}

func (o object) at(path string) any {
	if v := o.member(path); v != nil {
		return v
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		if inner, ok := o.member(path[:i]).(map[string]any); ok {
			if v := object(inner).at(path[i+1:]); v != nil {
				return v
			}
		}
	}
	return nil
}

func (o object) has(paths ...string) bool {
	return slices.ContainsFunc(paths, func(path string) bool { return o.at(path) != nil })
}

// text returns the first of paths that has a text which isn't blank.
func (o object) text(paths ...string) string {
	for _, path := range paths {
		if s, ok := o.at(path).(string); ok && strings.TrimSpace(s) != "" {
			return clean(s)
		}
	}
	return ""
}

// level returns the level of an object, by name or by number, or "".
func (o object) level() string {
	for _, path := range []string{
		"level_name", "levelname", "LevelDisplayName", "level", "severity", "lvl", "log.level", "@l", "@level", "loglevel", "log_level",
		"severityText", "severity_text", "record.level.name", "level.name", "jsonPayload.level", "jsonPayload.severity",
		"log.syslog.severity.name",
	} {
		switch v := o.at(path).(type) {
		case string:
			if level := namedLevel(v); level != "" {
				return level
			}
			if n, ok := number(v); ok {
				return o.numbered(path, n)
			}
		case json.Number:
			if n, err := v.Float64(); err == nil {
				return o.numbered(path, n)
			}
		}
	}
	for _, path := range []string{"severityNumber", "severity_number", "levelno", "level_number", "level_value", "PRIORITY", "log.syslog.severity.code", "syslogseverity"} {
		if n, ok := number(scalar(o.at(path))); ok {
			return o.numbered(path, n)
		}
	}
	if s := o.text("s"); s != "" && o.has("t.$date") { // MongoDB
		return namedLevel(s)
	}
	if level := namedLevel(o.short("L")); level != "" {
		return level
	}
	return namedLevel(o.text("status", "type")) // Datadog, and others
}

// numbered returns the level that the number under a name means.
func (o object) numbered(path string, n float64) string {
	switch strings.ToLower(path) {
	case "severitynumber", "severity_number":
		return step(n, 9, 13, 17, 21)
	case "levelno", "level_number":
		return step(n, 20, 30, 40, 50)
	case "priority", "syslogseverity", "log.syslog.severity.code":
		return syslogLevel(int(n))
	case "loglevel":
		return step(n, 2, 3, 4, 5)
	case "severity":
		switch {
		case o.has("severityText", "body.value"):
			return step(n, 9, 13, 17, 21)
		case n < 8:
			return syslogLevel(int(n))
		case n >= 100: // of Google, who have a notice between
			return step(n, 200, 400, 500, 600)
		}
	case "level":
		switch {
		case o.has("short_message"):
			return syslogLevel(int(n))
		case o.has("ProviderName", "EventID", "event_id"): // of Windows, where 1 is the worst
			return []string{"info", "fatal", "error", "warning", "info", "debug"}[max(0, min(int(n), 5))]
		}
	}
	return numberedLevel(n)
}

// scalar returns a text or a number as text.
func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// short returns one of the names of one letter that zap uses in development: L, T, N, C, M, S.
func (o object) short(name string) string {
	if o["L"] == nil || o["M"] == nil {
		return ""
	}
	s, _ := o[name].(string)
	return clean(s)
}

// service returns the part of a system that an object names.
func (o object) service() string {
	if s := o.text(
		"service.name", "service", "serviceName", "service_name", "resource.service.name", "SYSLOG_IDENTIFIER", "_COMM", "_SYSTEMD_UNIT",
		"logger", "loggerName", "logger_name", "log.logger", "component", "app", "application", "Category", "SourceContext",
		"Properties.SourceContext", "record.name", "name", "target", "@module", "channel", "container_name",
		"kubernetes.container_name", "ProviderName", "winlog.provider_name", "resource.labels.container_name",
	); s != "" {
		return s
	}
	if o.has("t.$date") {
		return o.text("c")
	}
	if s := o.short("N"); s != "" {
		return s
	}
	return attribute(o.at("resource.attributes"), "service.name")
}

// attribute finds one of the attributes of OTel, {"key":…,"value":{"stringValue":…}}, or with names in upper case.
func attribute(list any, key string) string {
	attributes, _ := list.([]any)
	for _, a := range attributes {
		if a, ok := a.(map[string]any); ok && object(a).text("key") == key {
			return object(a).text("value.stringValue", "value.value", "value")
		}
	}
	return ""
}

// message returns the text that an object logs.
func (o object) message() string {
	if s := o.text(
		"msg", "message", "MESSAGE", "short_message", "@m", "@message", "RenderedMessage", "fields.message", "record.message",
		"body.stringValue", "body.value", "body", "jsonPayload.message", "textPayload", "message.text",
	); s != "" {
		return s
	}
	if template := o.text("@mt", "MessageTemplate"); template != "" {
		return o.render(template)
	}
	if s := o.short("M"); s != "" {
		return s
	}
	return o.text("event", "log.message", "full_message", "State.Message", "text", "@x", "err.message", "error.message", "error.msg", "error", "err", "exception")
}

var hole = regexp.MustCompile(`\{[@$]?(\w+)(?:,-?\d+)?(?::[^{}]*)?\}`)

// render fills the holes of a message template of Serilog, such as "{User} left".
func (o object) render(template string) string {
	return hole.ReplaceAllStringFunc(template, func(s string) string {
		name := hole.FindStringSubmatch(s)[1]
		v := cmp.Or(scalar(o.at(name)), scalar(o.at("Properties."+name)))
		return cmp.Or(v, s)
	})
}

// moment returns the time that an object says.
func (o object) moment(now time.Time) (moment, bool) {
	for _, path := range []string{
		"_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP", "@timestamp", "@t", "timestamp", "time", "ts", "t", "datetime", "date",
		"timeUnixNano", "observedTimeUnixNano", "instant", "timeMillis", "eventTime", "TimeCreated", "asctime", "created", "log_time",
		"record.time", "timestampSeconds", "time_local", "time_iso8601",
	} {
		if m, ok := momentOf(o.at(path), now); ok {
			return m, true
		}
	}
	return moment{}, false
}

func momentOf(v any, now time.Time) (moment, bool) {
	switch v := v.(type) {
	case json.Number:
		t, ok := epoch(v.String())
		return moment{t, true, true}, ok
	case string:
		s := strings.TrimSpace(v)
		s = strings.TrimSuffix(strings.TrimPrefix(s, "/Date("), ")/") // of .NET
		if t, ok := epoch(s); ok {
			return moment{t, true, true}, true
		}
		m, rest, ok := cutMoment(s, now)
		return m, ok && m.dated && len(rest) < 12 // there may be the name of a zone
	case map[string]any:
		return object(v).insideMoment(now)
	}
	return moment{}, false
}

// insideMoment reads a time that is an object: of MongoDB, Google, Log4j, Monolog, loguru.
func (o object) insideMoment(now time.Time) (moment, bool) {
	for _, names := range [][2]string{{"seconds", "nanos"}, {"epochSecond", "nanoOfSecond"}} {
		seconds, err := strconv.ParseInt(scalar(o.at(names[0])), 10, 64)
		if err != nil {
			continue
		}
		nanos, _ := strconv.ParseInt(scalar(o.at(names[1])), 10, 64)
		t, ok := plausible(time.Unix(seconds, nanos))
		return moment{t, true, true}, ok
	}
	if date := o.text("date"); date != "" {
		if o.text("timezone") == "UTC" {
			date += "Z"
		}
		return momentOf(date, now)
	}
	for _, name := range []string{"$date", "$numberLong", "timestamp", "utc"} {
		if v := o.member(name); v != nil {
			return momentOf(v, now)
		}
	}
	return moment{}, false
}

// records returns the records of an export of OTel's, each with the resource that it comes from, or nil if o is none.
func (o object) records() []object {
	var list []object
	for _, r := range objects(o["resourceLogs"]) {
		for _, scope := range objects(r["scopeLogs"]) {
			for _, record := range objects(scope["logRecords"]) {
				record["resource"] = r["resource"]
				list = append(list, record)
			}
		}
	}
	return list
}

func objects(v any) []object {
	var list []object
	values, _ := v.([]any)
	for _, v := range values {
		if m, ok := v.(map[string]any); ok {
			list = append(list, m)
		}
	}
	return list
}

// cleaned returns o as JSON, with what [clean] leaves of its texts.
func (o object) cleaned() json.RawMessage {
	data, err := encode(cleanAll(map[string]any(o)))
	if err != nil {
		return nil
	}
	return data
}

func cleanAll(v any) any {
	switch v := v.(type) {
	case string:
		return clean(v)
	case []any:
		for i := range v {
			v[i] = cleanAll(v[i])
		}
	case map[string]any:
		for name, inner := range v {
			v[name] = cleanAll(inner)
		}
	}
	return v
}

// encode writes JSON without making the brackets of a stack trace unreadable.
func encode(v any) (json.RawMessage, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(out.Bytes()), err
}
