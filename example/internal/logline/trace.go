package logline

import (
	"regexp"
	"strings"
)

// language says how a trace goes on.
type language int

const (
	none   language = iota
	common          // indented lines, and those that many languages have: Java, .NET, JavaScript, Ruby, PHP
	python
	golang
	rust
	node // before the error: its place, its line, and a caret
	zap  // a function, and its place in the next line
)

var (
	// java.lang.IllegalStateException: text, Error: text, Exception in thread "main" java.lang.Error
	exception = regexp.MustCompile(`^(?:Uncaught |Unhandled exception[.:] |Exception in thread "[^"]*" |Error: )?(?:[A-Za-z_$][\w$]*(?:\.|::|\\|/))*(?:[A-Z][\w$]*)?` +
		`(?:Error|Exception|Throwable|Failure|Fault|Interrupt)(?: \[\w+\]|\d+)?(?:: .*|:?$| \(.*\):$)`)
	pythonTrace = regexp.MustCompile(`^\s*(?:\+ Exception Group )?Traceback \(most recent call last\):`)
	pythonFile  = regexp.MustCompile(`^\s+File ".*", line \d+`)
	// the last line of Python's, KeyboardInterrupt or pkg.Error: text
	chained    = regexp.MustCompile(`^(?:During handling of the above exception, another|The above exception was the direct cause of)`)
	goTrace    = regexp.MustCompile(`^(?:panic: |fatal error: |goroutine \d+ (?:gp=\S+ )?.*\[.*\]:$|SIG[A-Z]+: |unexpected fault address |runtime: (?:goroutine stack exceeds|out of memory)|WARNING: DATA RACE$|http: panic serving )`)
	goPanicked = regexp.MustCompile(`\bhttp: panic serving `)
	goLine     = regexp.MustCompile(`^(?:(?:[\w.~%@+-]+/)*[\w.~%@+-]+\.\S*\(.*\)$|panic\(|created by |goroutine |runtime: |\[signal |\[recovered|\.\.\.|exit status \d|runtime stack:|` +
		`(?:r\w{1,2}|e\w\w|[cfg]s|lr|sp|pc|[er]flags|fault|x\d+|trap|error|oldmask|cpsr)\s+0x|PC=|(?:Previous )?(?:[Rr]ead|[Ww]rite|atomic \w+) (?:at|of) |Goroutine \d|={10,}$|panic: |fatal error: )`)
	cause     = regexp.MustCompile(`^\s*(?:Caused by|Suppressed): `)
	panicText = regexp.MustCompile(`^(?:panic|fatal error): |\bhttp: panic serving `)
	rustTrace = regexp.MustCompile(`^thread .* panicked at |^thread caused non-unwinding panic`)
	rustLine  = regexp.MustCompile(`^(?:note: |stack backtrace:|thread caused non-unwinding)`)
	nodeTrace = regexp.MustCompile(`^(?:(?:/|[A-Z]:\\|file://|node:)\S*|\[(?:eval|stdin)\]):\d+$`)
	rubyTrace = regexp.MustCompile("^\\S+:\\d+:in [`'].*': .*\\([A-Z][\\w:]*\\)$")
	phpTrace  = regexp.MustCompile(`^(?:PHP )?(?:Fatal|Parse|Recoverable fatal) error: `)
	other     = regexp.MustCompile(`^(?:Unhandled exception|Fatal Python error: |Exception (?:ignored in|in callback)|Task exception was never retrieved|\*\* \(\w|==\d+==ERROR: |terminate called |Caused by: |error: Uncaught |panicked at )`)
	zapFunc   = regexp.MustCompile(`^[^\s:=]+\.[^\s:=]+$`)

	// what goes on with a trace though it isn't indented
	goesOn = regexp.MustCompile(`^(?:Caused by:|Suppressed: |Wrapped by: |\.\.\. \d+ |--- End of |<---$|Stack trace:$|[Ss]tack traceback:$|[Ss]tack backtrace:$|Location:$|Backtrace:$|Next \S+: |` +
		"\\[stacktrace\\]$|#\\d+ |\"\\} *$|\\}$|Node\\.js v\\d|note: |(?:Current thread|Thread) 0x|SUMMARY: |\\S+:\\d+:in [`'])")
	// a frame: at com.example.Main(Main.java:3), at main (x.js:1:2), from x.rb:1, ... 12 more
	frame = regexp.MustCompile(`^\s+(?:at .*(?:\)|:\d+|>)|from \S+:\d+|\.\.\. \d+ (?:more|common|lines)|Caused by: |Suppressed: )`)
	// postgres tells more in lines of their own
	postgresMore = regexp.MustCompile(`(?:^|\s)(?:DETAIL|HINT|CONTEXT|STATEMENT|QUERY|LOCATION):  `)

	// Nov 23, 2026 6:31:01 PM com.example.Main run, whose level and text are in the next line
	julHead   = regexp.MustCompile(`^[A-Z][a-z]{2} \d{1,2}, \d{4} \d{1,2}:\d\d:\d\d [AP]M \S+ \S+$`)
	julText   = regexp.MustCompile(`^[A-Z]+: `)
	dotNet    = regexp.MustCompile(`^(?:trce|dbug|info|warn|fail|crit): ?\S+\[-?\d+\]$`)
	loggedFor = regexp.MustCompile(`\b(?:WRN|WARN|WARNING|ERR|EROR|ERROR|SEVERE|FTL|FATAL|CRIT|CRITICAL)\b`)
	labelled1 = regexp.MustCompile(`^(?:WARNING|ERROR|SEVERE|CRITICAL):`)
)

// begins says whether a text is the first line of a trace, and whose.
func begins(text string) language {
	text = clip(text, maxMessageBytes)
	switch {
	case pythonTrace.MatchString(text), pythonFile.MatchString(text):
		return python
	case goTrace.MatchString(text), goPanicked.MatchString(text):
		return golang
	case rustTrace.MatchString(text):
		return rust
	case nodeTrace.MatchString(text):
		return node
	case exception.MatchString(text), rubyTrace.MatchString(text), phpTrace.MatchString(text), other.MatchString(text), frame.MatchString(text):
		return common
	}
	return none
}

// trace follows a trace from line to line. Its zero value is no trace.
type trace struct {
	language language
	step     int    // lines since the last one that decides what comes next
	open     bool   // the text of a panic or an exception may go on
	shape    string // what came last: of Python "", "error" or "chained", of others "" or "opening"
}

func (t *trace) begin(text string) {
	*t = trace{language: begins(text)}
	switch {
	case t.language == python && strings.Contains(text, "Exception Group"):
		t.shape = "error" // all of its lines are indented
	case text == "Unhandled exception:":
		t.shape = "opening" // of Dart, whose exception is in the next line
	case t.language == golang:
		t.open = panicText.MatchString(text)
	case t.language == rust && !strings.HasSuffix(strings.TrimSpace(text), ":"):
		t.step = 1 // before Rust 1.73, the message is in the first line
	}
	t.open = t.open || t.language == rust || t.language == common && exception.MatchString(clip(text, maxMessageBytes))
}

// closes says whether a line comes after the text of a panic or an exception.
func (t *trace) closes(text string) bool {
	switch t.language {
	case golang:
		return goLine.MatchString(text) && !panicText.MatchString(text)
	case rust:
		return rustLine.MatchString(text)
	case common:
		return frame.MatchString(text)
	}
	return true
}

// goesOn says whether a line belongs to the trace. A line that is indented does.
func (t *trace) goesOn(text string, indented bool) bool {
	if t.language == none {
		return false
	}
	text = clip(text, maxMessageBytes)
	t.step++
	t.open = t.open && !t.closes(text) || cause.MatchString(text)
	switch t.language {
	case python:
		switch {
		case t.shape == "chained":
			if pythonTrace.MatchString(text) || indented {
				t.shape = ""
				return true
			}
			return false
		case t.shape == "error" && chained.MatchString(text):
			t.shape = "chained"
			return true
		case indented:
			return t.shape == "" || !pythonFile.MatchString(text) // a syntax error has no other beginning
		case t.shape == "" && !pythonTrace.MatchString(text):
			t.shape = "error"
			return true
		}
		return false
	case golang:
		return indented || goLine.MatchString(text)
	case rust:
		return indented || t.step == 1 && !rustTrace.MatchString(text) || rustLine.MatchString(text)
	case node:
		if exception.MatchString(text) {
			t.language, t.open = common, true
			return true
		}
		return t.step <= 3 || indented && t.step <= 5
	case zap:
		return indented || zapFunc.MatchString(text)
	}
	return indented || t.step == 1 && t.shape == "opening" || goesOn.MatchString(text) && !rubyTrace.MatchString(text)
}
