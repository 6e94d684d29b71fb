package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseLineRecognisesTheLevel(t *testing.T) {
	for _, test := range []struct {
		line, level, service, message string
	}{
		// plain words
		{"just a line", "info", "", "just a line"},
		{"[ERROR] disk full", "error", "", "[ERROR] disk full"},
		{"WARN: low on space", "warning", "", "WARN: low on space"},
		{"2026-11-23 18:31:01,123 DEBUG com.example.Main started", "debug", "", ""},
		{"2026/11/23 18:31:01 [error] 123#0: *5 open() failed", "error", "", ""},
		{"2026-11-23 18:31:01 UTC [123] FATAL:  password authentication failed", "fatal", "", ""},
		{"INFO:root:ERROR is only a word here", "info", "", ""},
		{"ERROR_COUNT=0 and no error at all", "info", "", ""},
		{"main.go:3:1: warning: unused", "warning", "", ""},
		{"panic: runtime error: index out of range", "fatal", "", ""},
		{"Traceback (most recent call last):", "error", "", ""},
		{"TRACE entering", "debug", "", ""},
		{"NOTICE: table does not exist, skipping", "info", "", ""},
		{strings.Repeat("x", 200) + " ERROR", "info", "", ""},
		// klog
		{"E1123 18:31:01.000000    1234 file.go:12] Failed to sync", "error", "", ""},
		{"W1123 18:31:01.000000    1234 file.go:12] retrying after ERROR", "warning", "", ""},
		{"E1123 is a product", "info", "", ""},
		// logfmt
		{`time=2026-11-23T18:31:01Z level=WARN msg="slow query" ms=900`, "warning", "", "slow query"},
		{`ts=1 lvl=eror msg=odd`, "info", "", "odd"},
		{`level=error msg="a \"quoted\" word"`, "error", "", `a "quoted" word`},
		{`severity="critical" something`, "fatal", "", ""},
		// JSON: words
		{`{"time":"…","level":"ERROR+2","msg":"slog"}`, "error", "", "slog"},
		{`{"time":"…","level":"DEBUG-4","msg":"slog"}`, "debug", "", "slog"},
		{`{"level":"dpanic","ts":1.5,"logger":"api","msg":"zap"}`, "error", "api", "zap"},
		{`{"severity":"WARNING","message":"a cloud","service":"web"}`, "warning", "web", "a cloud"},
		{`{"log.level":"error","message":"ecs"}`, "error", "", "ecs"},
		{`{"levelname":"CRITICAL","message":"python"}`, "fatal", "", "python"},
		{`{"msg":"no level"}`, "info", "", "no level"},
		{`{"answer":42}`, "info", "", `{"answer":42}`},
		// JSON: numbers
		{`{"level":50,"time":1,"msg":"pino"}`, "error", "", "pino"},
		{`{"level":20,"time":1,"msg":"pino"}`, "debug", "", "pino"},
		{`{"level":60,"time":1,"msg":"bunyan"}`, "fatal", "", "bunyan"},
		{`{"level":-4,"msg":"slog"}`, "debug", "", "slog"},
		{`{"level":4,"msg":"slog"}`, "warning", "", "slog"},
		{`{"level":8,"msg":"slog"}`, "error", "", "slog"},
		{`{"version":"1.1","short_message":"gelf","level":4}`, "warning", "", "gelf"},
		{`{"PRIORITY":"3","MESSAGE":"journald","SYSLOG_IDENTIFIER":"sshd"}`, "error", "sshd", "journald"},
		// JSON behind something else, and JSON that was cut
		{`web-1  | {"level":"warn","msg":"compose"}`, "warning", "", "compose"},
		{`2026-11-23T18:31:01Z	ERROR	api	request failed	{"status":500}`, "error", "", "2026-11-23T18:31:01Z	ERROR	api	request failed"},
		{`{"level":"error","msg":"cut o…`, "error", "", ""},
		{`{not json}`, "info", "", "{not json}"},
		// syslog
		{"<11>Nov 23 18:31:01 web sshd[123]: error: no such user", "error", "sshd", "error: no such user"},
		{"<165>1 2026-11-23T18:31:01.003Z web app 1 - - hello", "info", "", ""},
		{"<4>[  12.3] usb 1-1: reset", "warning", "", ""},
		{"Nov 23 18:31:01 web sshd[123]: Accepted publickey", "info", "sshd", "Accepted publickey"},
		{"Nov  3 08:31:01 web systemd[1]: Failed to start nginx.service", "error", "systemd", "Failed to start nginx.service"},
		{`Nov 23 18:31:01 web app[9]: {"level":"warn","msg":"inner"}`, "warning", "app", "inner"},
		{"2026-11-23T18:31:01+0100 web kernel: WARNING: CPU 3", "warning", "kernel", "WARNING: CPU 3"},
		// edges
		{"<999>x", "debug", "", "x"},
		{"<11>", "error", "", "<11>"},
		{"<", "info", "", "<"},
		{"{}", "info", "", "{}"},
	} {
		level, service, message, data := parseLine(test.line, "info")
		if level != test.level || service != test.service {
			t.Errorf("parseLine(%q): got level %q, service %q, want %q, %q", test.line, level, service, test.level, test.service)
		}
		if test.message != "" && message != test.message {
			t.Errorf("parseLine(%q): got message %q, want %q", test.line, message, test.message)
		}
		if data != nil && !json.Valid(data) {
			t.Errorf("parseLine(%q): data %q is not JSON", test.line, data)
		}
	}
}

func TestParseLineGivesAnIndentedLineTheLevelBefore(t *testing.T) {
	if level, _, message, _ := parseLine("\tat com.example.Main(Main.java:3)", "error"); level != "error" || message != "at com.example.Main(Main.java:3)" {
		t.Errorf("got %q %q, want the level of the line before", level, message)
	}
	if level, _, _, _ := parseLine("not indented", "error"); level != "info" {
		t.Errorf("got %q, want info", level)
	}
}

func TestParseLineKeepsTheWholeLineAsData(t *testing.T) {
	line := "level=info msg=hello user=7"
	_, _, message, data := parseLine(line, "info")
	var got struct{ Line string }
	if err := json.Unmarshal(data, &got); err != nil || got.Line != line || message != "hello" {
		t.Errorf("got message %q, data %s (%v)", message, data, err)
	}
	if _, _, _, data := parseLine("plain", "info"); data != nil {
		t.Errorf("got data %s for a line that is its own message, want none", data)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add(`web-1 | {"level":"warn","msg":"x"}`)
	f.Add("<11>Nov 23 18:31:01 web sshd[123]: error: x")
	f.Fuzz(func(t *testing.T, text string) {
		err := readLines(strings.NewReader(text), func(line string) error {
			e := fields{Project: "p", Environment: "e"}
			e.Level, e.Service, e.Message, e.Data = parseLine(line, "info")
			if err := e.validate(); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			if e.Data != nil && !json.Valid(e.Data) {
				t.Errorf("%q: data %q is not JSON", line, e.Data)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
