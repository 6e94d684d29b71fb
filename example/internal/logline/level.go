package logline

import (
	"regexp"
	"strconv"
	"strings"
)

// words are the levels as programs write them.
var words = map[string]string{
	"trace": "debug", "trac": "debug", "trce": "debug", "trc": "debug", "tra": "debug", "verbose": "debug", "verb": "debug", "vrb": "debug",
	"debug": "debug", "debu": "debug", "dbug": "debug", "dbg": "debug", "deb": "debug", "spam": "debug", "silly": "debug",
	"finest": "debug", "finer": "debug", "fine": "debug", "config": "debug",

	"info": "info", "inf": "info", "information": "info", "informational": "info", "notice": "info", "note": "info", "ntc": "info",
	"log": "info", "default": "info", "success": "info", "http": "info", "system": "info",

	"warn": "warning", "warning": "warning", "wrn": "warning", "warni": "warning",

	"err": "error", "error": "error", "erro": "error", "eror": "error", "severe": "error", "fail": "error", "failed": "error",
	"failure": "error", "dpanic": "error", "dpan": "error",

	"crit": "fatal", "critical": "fatal", "crt": "fatal", "alert": "fatal", "alrt": "fatal", "emerg": "fatal", "emergency": "fatal",
	"panic": "fatal", "pani": "fatal", "pnc": "fatal", "fatal": "fatal", "fata": "fatal", "ftl": "fatal", "fault": "fatal",
}

// letters are the levels of klog, Android, MongoDB and others who write one letter.
var letters = map[string]string{
	"V": "debug", "T": "debug", "D": "debug", "I": "info", "N": "info", "W": "warning", "E": "error", "C": "fatal", "F": "fatal", "A": "fatal",
}

// namedLevel returns one of our levels for a word of somebody else's, such as "WARN", slog's "ERROR+2" or OTel's
// "ERROR3", or "".
func namedLevel(word string) string {
	if i := strings.LastIndexAny(word, "+-"); i > 0 {
		word = word[:i]
	}
	word = strings.TrimRight(word, "0123456789!")
	if level := letters[word]; level != "" {
		return level
	}
	return words[strings.ToLower(word)]
}

const (
	inCapitals = `TRACE|TRAC|TRCE|TRC|VERBOSE|VRB|DEBUG[1-5]?|DEBU|DBUG|DBG|INFO|INFORMATION|INF|NOTICE|SUCCESS|WARN|WARNING|WRN|` +
		`ERR|ERROR|ERRO|EROR|SEVERE|FAIL|DPANIC|CRIT|CRITICAL|CRT|ALERT|EMERG|EMERGENCY|FATAL|FATA|FTL|PANIC|PANI|PNC`
	anyCase = `trace[1-8]?|trc|trce|verbose|vrb|debug[1-5]?|dbg|dbug|info|inf|information|informational|notice|note|success|warn|warning|wrn|` +
		`err|error|erro|eror|severe|fail|dpanic|crit|critical|crt|alert|emerg|emergency|fatal|ftl|panic|system`
)

var (
	// ERROR; postgres and NestJS say LOG, java.util.logging says FINE and CONFIG
	shouted = regexp.MustCompile(`\b(` + inCapitals + `)\b|(?:^|[\s\]])(LOG|FINE|FINER|FINEST|CONFIG)(?:: | +\[)`)
	// [error], <error>, (error), [core:error], |error|, and between tabs
	marked = regexp.MustCompile(`(?i)[\[(<](?:[\w.]*:)?(` + anyCase + `) *[\])>]|\|\s*(` + anyCase + `)\s*\||\t(` + anyCase + `)\t`)
	// error: in front of its message, fatal error: of Go, PHP and compilers, DeprecationWarning: of Python, error[E0308]: of
	// rustc, error TS2304: of tsc
	labelled = regexp.MustCompile(`(?i)(?:^|[\s\[])(trace|debug|info|notice|warn|warning|error|critical|fatal|panic|fatal error|\w+warning)(?:\[\w+\]| [A-Z]+\d+)?:(?:\s|$)`)
	// words that only count where a line begins: .NET, yarn, npm, apt, make, git, a line that has begun with a time, Android
	leading = regexp.MustCompile(`^(?:(?:(trce|dbug|info|warn|fail|crit|err|debug|alert|emerg): ?|(error|warn|warning|fatal)\s|npm (ERR!|error|WARN|warn|notice|info|verb|http)\s|([EWN]): |([VDIWEFA])/\S.*?: )|make(?:\[\d+\])?: \*\*\* ()|\w+ *:(emerg|alert|crit|err|warn|notice|info|debug) *: )`)
	// the same behind a time, where one word says it
	afterTime = regexp.MustCompile(`^(?i:(trace|debug|info|notice|warn|warning|err|error|crit|critical|fatal|verbose|panic)(?:[\s:|]|$))`)
	lettered  = regexp.MustCompile(`^(?:([VDIWEFC])[1-5]? +(?:[A-Z]{3,}|-) |\d+ +\d+ ([VDIWEFA]) \S)`) // MongoDB before 4.4, Android
	redis     = regexp.MustCompile(`^(?:\d+:[A-Z] )?([.*#-]) `)
	status    = regexp.MustCompile(`" (5\d\d) (?:\d+|-)(?: |$)|^(5\d\d) +\| `) // of an access log
	failed    = regexp.MustCompile(`^(?:Failed to |Fatal Python error|Unhandled exception|Uncaught |Exception |terminate called |Caused by: |Task exception was |\*\* \(|panicked at |http: panic serving |E\d{4}:)|UnhandledPromiseRejection|ERR_PNPM|Segmentation fault`)
)

// textLevel finds the level in a line that is no JSON, or returns "". In a line that began with a time, more words are
// levels. The word is the one that said it.
func textLevel(line string, timed bool) (level, word string) {
	line = clip(line, maxMessageBytes)
	if m := leading.FindStringSubmatch(line); m != nil {
		word = strings.Join(m[1:], "")
		if strings.HasPrefix(word, "http") {
			return "", ""
		}
		if word == "" { // make: ***
			word = "error"
		}
		return namedLevel(word), word
	}
	if timed {
		if m := afterTime.FindStringSubmatch(line); m != nil {
			return namedLevel(m[1]), m[1]
		}
		if m := lettered.FindStringSubmatch(line); m != nil {
			return letters[m[1]+m[2]], m[1] + m[2]
		}
		if m := redis.FindStringSubmatch(line); m != nil {
			return map[string]string{".": "debug", "-": "debug", "*": "info", "#": "warning"}[m[1]], m[1]
		}
	}
	head := clip(line, 160) // a level stands in front; further back the words are just words
	at := len(head)
	for _, way := range []*regexp.Regexp{shouted, marked, labelled} {
		m := way.FindStringSubmatchIndex(head)
		if m == nil {
			continue
		}
		for i := 2; i < len(m); i += 2 {
			if m[i] >= 0 && m[i] < at {
				at, word = m[i], head[m[i]:m[i+1]]
			}
		}
	}
	switch lower := strings.ToLower(word); {
	case failed.MatchString(line) && (at > 0 || word == ""):
		return "error", ""
	case word != "":
		if lower == "fatal error" {
			return "fatal", word
		}
		if strings.HasSuffix(lower, "warning") {
			return "warning", word
		}
		return namedLevel(word), word
	case status.MatchString(line):
		return "error", ""
	}
	return "", ""
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

// numberedLevel returns the level that a number means: of log/slog (-4, 0, 4, 8), of pino and bunyan (10, 20 … 60), of
// Monolog (100, 200 … 600), of Logback (5000, 10000 … 40000).
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
	case n >= 5000:
		return step(n, 20000, 30000, 40000, 50000)
	case n >= 100:
		return step(n, 200, 300, 400, 500)
	}
	return step(n, 30, 40, 50, 60)
}

// step returns the level of n on a scale where info, warning, error and fatal begin as given.
func step(n, info, warning, severe, fatal float64) string {
	switch {
	case n >= fatal:
		return "fatal"
	case n >= severe:
		return "error"
	case n >= warning:
		return "warning"
	case n >= info:
		return "info"
	}
	return "debug"
}

func number(s string) (float64, bool) {
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}
