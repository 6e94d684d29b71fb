package logline

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// berlin is where the tests' machine stands, and now when they run.
var (
	berlin = time.FixedZone("CET", 3600)
	now    = time.Date(2026, time.November, 23, 19, 0, 0, 0, berlin)
)

// events returns what the lines of text make.
func events(t *testing.T, text string) []Event {
	t.Helper()
	var list []Event
	a := newAssembler(func(e Event) error {
		if e.Data != nil && !json.Valid(e.Data) {
			t.Errorf("%q: data %q is no JSON", text, e.Data)
		}
		list = append(list, e)
		return nil
	})
	err := readLines(strings.NewReader(text), func(line string) error { return a.add(line, now) })
	if err == nil {
		err = a.flushAll()
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// one returns the one event that a text makes.
func one(t *testing.T, text string) Event {
	t.Helper()
	list := events(t, text)
	if len(list) != 1 {
		t.Errorf("%q: got %d events, want 1: %+v", text, len(list), list)
		return Event{}
	}
	return list[0]
}

func TestALineTellsItsLevelServiceAndMessage(t *testing.T) {
	for _, test := range []struct {
		line, level, service, message string
	}{
		// plain words
		{"just a line", "info", "", "just a line"},
		{"[ERROR] disk full", "error", "", "[ERROR] disk full"},
		{"WARN: low on space", "warning", "", "WARN: low on space"},
		{"2026-11-23 18:31:01,123 DEBUG com.example.Main started", "debug", "", "DEBUG com.example.Main started"},
		{"2026/11/23 18:31:01 [error] 123#0: *5 open() failed", "error", "", "[error] 123#0: *5 open() failed"},
		{"2026/11/23 18:31:01 [emerg] 1#1: host not found", "fatal", "", "[emerg] 1#1: host not found"},
		{"2026-11-23 18:31:01 UTC [123] FATAL:  password authentication failed", "fatal", "", "[123] FATAL:  password authentication failed"},
		{"2026-11-23 18:31:01.123 UTC [123] LOG:  checkpoint starting: ERROR is a word", "info", "", ""},
		{"2026-11-23 18:31:01.123 CET [123] app@shop WARNING:  there is no transaction in progress", "warning", "", "[123] app@shop WARNING:  there is no transaction in progress"},
		{"INFO:root:ERROR is only a word here", "info", "", "INFO:root:ERROR is only a word here"},
		{"ERROR_COUNT=0 and no error at all", "info", "", ""},
		{"main.go:3:1: warning: unused", "warning", "", ""},
		{"panic: runtime error: index out of range", "fatal", "", ""},
		{"TRACE entering", "debug", "", ""},
		{"NOTICE: table does not exist, skipping", "info", "", ""},
		{strings.Repeat("x", 200) + " ERROR", "info", "", ""},
		{"00:00:05 remaining", "info", "", "00:00:05 remaining"},
		{"1795458661 bytes copied", "info", "", "1795458661 bytes copied"},
		{"2026/11/23 18:31:01 http: Server closed", "info", "", "http: Server closed"},
		{"2026/11/23 18:31:01 http server: listening", "info", "", "http server: listening"},
		// abbreviations: zerolog, Serilog, logrus, charm, log15
		{"6:31PM WRN low on space free=3", "warning", "", "WRN low on space free=3"},
		{"6:31PM FTL cannot go on", "fatal", "", "FTL cannot go on"},
		{"2026-11-23T18:31:01Z DBG cache hit", "debug", "", "DBG cache hit"},
		{"2026-11-23T18:31:01Z TRC enter", "debug", "", "TRC enter"},
		{"2026-11-23T18:31:01Z ERR it broke error=\"EOF\"", "error", "", ""},
		{"2026-11-23T18:31:01Z PNC it broke", "fatal", "", ""},
		{"WRN low on space", "warning", "", "WRN low on space"},
		{"FTL cannot go on", "fatal", "", "FTL cannot go on"},
		{"DBG x", "debug", "", "DBG x"},
		{"TRC x", "debug", "", "TRC x"},
		{"ERRO it broke", "error", "", "ERRO it broke"},
		{"FATA it broke", "fatal", "", "FATA it broke"},
		{"ERRO[0000] it broke                                    err=EOF", "error", "", ""},
		{"DEBU[0012] hello", "debug", "", ""},
		{"PANI[0012] hello", "fatal", "", ""},
		{"2026/11/23 18:31:01 ERRO baking failed err=\"no flour\"", "error", "", "ERRO baking failed err=\"no flour\""},
		{"[18:31:01 INF] Serilog", "info", "", "[INF] Serilog"},
		{"[18:31:01 WRN] Serilog", "warning", "", "[WRN] Serilog"},
		{"[18:31:01 FTL] Serilog", "fatal", "", "[FTL] Serilog"},
		{"[18:31:01 VRB] Serilog", "debug", "", "[VRB] Serilog"},
		{"EROR[11-23|18:31:01] log15              n=1", "error", "", ""},
		{"t=2026-11-23T18:31:01+0100 lvl=eror msg=odd", "error", "", "odd"},
		{"t=2026-11-23T18:31:01+0100 lvl=crit msg=odd", "fatal", "", "odd"},
		// .NET
		{"fail: Microsoft.AspNetCore.Server.Kestrel[13]", "error", "", ""},
		{"crit: Microsoft.AspNetCore.Hosting[6]", "fatal", "", ""},
		{"dbug: Shop.Cart[0]", "debug", "", ""},
		{"trce: Shop.Cart[0]", "debug", "", ""},
		{"warn: Shop.Cart[0]", "warning", "", ""},
		{"18:31:01 fail: Shop.Cart[0] text", "error", "", "fail: Shop.Cart[0] text"},
		{"fail: Shop.Cart[0]\n      the cart is gone", "error", "", "fail: Shop.Cart[0] the cart is gone"},
		{"2026-11-23 18:31:01.1234|ERROR|Shop.Cart|NLog", "error", "", "ERROR|Shop.Cart|NLog"},
		// Apache
		{"[Mon Nov 23 18:31:01.123456 2026] [core:error] [pid 7:tid 9] AH00037: Symbolic link not allowed", "error", "", "[core:error] [pid 7:tid 9] AH00037: Symbolic link not allowed"},
		{"[core:error] x", "error", "", "[core:error] x"},
		{"[Mon Nov 23 18:31:01 2026] [:warn] x", "warning", "", "[:warn] x"},
		{"[Mon Nov 23 18:31:01.123456 2026] [ssl:trace3] x", "debug", "", "[ssl:trace3] x"},
		{"[Mon Nov 23 18:31:01.123456 2026] [mpm_event:notice] x", "info", "", "[mpm_event:notice] x"},
		{"[Mon Nov 23 18:31:01.123456 2026] [proxy_http:crit] x", "fatal", "", "[proxy_http:crit] x"},
		{`203.0.113.7 - - [23/Nov/2026:18:31:01 +0100] "GET / HTTP/1.1" 200 12`, "info", "", `203.0.113.7 - - "GET / HTTP/1.1" 200 12`},
		{`203.0.113.7 - - [23/Nov/2026:18:31:01 +0100] "GET / HTTP/1.1" 502 12 "-" "curl"`, "error", "", `203.0.113.7 - - "GET / HTTP/1.1" 502 12 "-" "curl"`},
		// Java
		{"18:31:01.123 [main] ERROR c.e.Foo - logback", "error", "", "[main] ERROR c.e.Foo - logback"},
		{"2026-11-23T18:31:01.123+01:00  WARN 1 --- [main] c.e.Foo : Spring", "warning", "", "WARN 1 --- [main] c.e.Foo : Spring"},
		{"23-Nov-2026 18:31:01.123 SEVERE [main] org.apache.Foo.bar Tomcat", "error", "", "SEVERE [main] org.apache.Foo.bar Tomcat"},
		{"Nov 23, 2026 6:31:01 PM com.example.Foo bar\nSEVERE: JUL", "error", "", "com.example.Foo bar SEVERE: JUL"},
		{"Nov 23, 2026 6:31:01 PM com.example.Foo bar\nFINE: JUL", "debug", "", "com.example.Foo bar FINE: JUL"},
		{"SEVERE: it broke", "error", "", "SEVERE: it broke"},
		{"[2026-11-23T18:31:01,123][WARN ][o.e.c.r.a.D] [node] Elasticsearch", "warning", "", "[WARN ][o.e.c.r.a.D] [node] Elasticsearch"},
		{"[2026-11-23 18:31:01,123] ERROR Kafka (kafka.server.Broker)", "error", "", "ERROR Kafka (kafka.server.Broker)"},
		// Python
		{"2026-11-23 18:31:01,123 - app - CRITICAL - x", "fatal", "", "app - CRITICAL - x"},
		{"2026-11-23 18:31:01.123 | SUCCESS  | app:run:1 - loguru, no ERROR", "info", "", ""},
		{"[2026-11-23 18:31:01 +0100] [7] [CRITICAL] WORKER TIMEOUT", "fatal", "", "[7] [CRITICAL] WORKER TIMEOUT"},
		{"ERROR 2026-11-23 18:31:01,123 Django", "error", "", "ERROR Django"},
		{"[ERROR]\t2026-11-23T18:31:01.123Z\t6f0c\tlambda", "error", "", ""},
		{"app.py:3: DeprecationWarning: old", "warning", "", ""},
		{"[E 261123 18:31:01 web:12] Tornado", "error", "", "[web:12] Tornado"},
		{"[W 2026-11-23 18:31:01.123 ServerApp] Jupyter", "warning", "", "[ServerApp] Jupyter"},
		{"ValueError: a single line", "error", "", ""},
		// Ruby, PHP, Rust, JavaScript, Erlang
		{"E, [2026-11-23T18:31:01.123456 #42] ERROR -- shop: Ruby", "error", "shop", "ERROR: Ruby"},
		{"[23-Nov-2026 18:31:01 UTC] PHP Fatal error:  Uncaught x", "fatal", "", "PHP Fatal error:  Uncaught x"},
		{"PHP Warning:  Undefined variable $x", "warning", "", ""},
		{"[2026-11-23T18:31:01.123456+01:00] app.ERROR: Monolog {\"user\":7} []", "error", "", "app.ERROR: Monolog"},
		{"[2026-11-23T18:31:01Z ERROR shop::cart] env_logger", "error", "", "[ERROR shop::cart] env_logger"},
		{"2026-11-23T18:31:01.123456Z  WARN shop::cart: tracing", "warning", "", "WARN shop::cart: tracing"},
		{"error[E0308]: mismatched types", "error", "", ""},
		{"src/a.ts(3,1): error TS2304: Cannot find name 'x'.", "error", "", ""},
		{"npm ERR! code ELIFECYCLE", "error", "", ""},
		{"npm error code ENOENT", "error", "", ""},
		{"npm warn deprecated x", "warning", "", ""},
		{"(node:7) DeprecationWarning: old", "warning", "", ""},
		{"[Nest] 7  - 11/23/2026, 6:31:01 PM   ERROR [Main] NestJS", "error", "", "ERROR [Main] NestJS"},
		{"[Nest] 7  - 11/23/2026, 6:31:01 PM     LOG [Main] no ERROR", "info", "", "LOG [Main] no ERROR"},
		{"[18:31:01.123] ERROR (7): pino-pretty", "error", "", "ERROR (7): pino-pretty"},
		{"18:31:01.123 [error] Elixir", "error", "", "[error] Elixir"},
		{"2026-11-23T18:31:01.123Z error winston", "error", "", "error winston"},
		// databases and proxies
		{"2026-11-23T18:31:01.123456Z 0 [ERROR] [MY-010119] [Server] Aborting", "error", "", "0 [ERROR] [MY-010119] [Server] Aborting"},
		{"2026-11-23T18:31:01.123456Z 0 [Note] InnoDB", "info", "", "0 [Note] InnoDB"},
		{"1:M 23 Nov 2026 18:31:01.123 # Out Of Memory", "warning", "", "1:M # Out Of Memory"},
		{"1:M 23 Nov 2026 18:31:01.123 * Ready", "info", "", "1:M * Ready"},
		{"2026-11-23T18:31:01.123+0100 E STORAGE  [initandlisten] MongoDB 4.2", "error", "", "E STORAGE  [initandlisten] MongoDB 4.2"},
		{"2026-11-23T18:31:01.123+0100 D2 NETWORK  [conn] MongoDB 4.2", "debug", "", ""},
		{"[ALERT]    (1) : HAProxy", "fatal", "", "[ALERT]    (1) : HAProxy"},
		{"[2026-11-23 18:31:01.123][1][critical][main] Envoy", "fatal", "", "[1][critical][main] Envoy"},
		{"2026-11-23T18:31:01.123Z [WARN]  agent: hclog: key=1", "warning", "", "[WARN]  agent: hclog: key=1"},
		{"2026-11-23 18:31:01.123456+01:00 [error] <0.123.0> RabbitMQ", "error", "", "[error] <0.123.0> RabbitMQ"},
		{"261123 18:31:01 [ERROR] mysqld got signal 11", "error", "", "[ERROR] mysqld got signal 11"},
		{"[GIN] 2026/11/23 - 18:31:01 | 500 | 1ms | GET", "error", "", "500 | 1ms | GET"},
		{"level=WARN ts=1795458661 no message here", "warning", "", "level=WARN no message here"},
		{"error Command failed with exit code 1.", "error", "", ""},
		{"[Error: boom]", "error", "", ""},
		// Android, make, apt
		{"11-23 18:31:01.123  1234  5678 E Tag: logcat", "error", "", "1234  5678 E Tag: logcat"},
		{"E/Tag( 123): logcat", "error", "", ""},
		{"make: *** [all] Error 2", "error", "", ""},
		{"E: Unable to locate package x", "error", "", ""},
		// klog and its kin
		{"E1123 18:31:01.000000    1234 file.go:12] Failed to sync", "error", "", "file.go:12] Failed to sync"},
		{"W1123 18:31:01.000000    1234 file.go:12] retrying after ERROR", "warning", "", "file.go:12] retrying after ERROR"},
		{"F1123 18:31:01.000000       1 main.go:1] x", "fatal", "", "main.go:1] x"},
		{"I20261123 18:31:01.123456 123 file.cc:7] glog", "info", "", "file.cc:7] glog"},
		{"E261123 18:31:01.123456 123 file.go:7] CockroachDB", "error", "", "file.go:7] CockroachDB"},
		{"E1123 is a product", "info", "", "E1123 is a product"},
		// syslog and journald
		{"<11>Nov 23 18:31:01 web sshd[123]: error: no such user", "error", "sshd", "error: no such user"},
		{"<3>Nov 23 18:31:01 app: x", "error", "app", "x"},
		{"Nov 23 18:31:01 db postgres[12]: [3-1] 2026-11-23 18:31:01.123 UTC [12] ERROR:  x", "error", "postgres", "[3-1] [12] ERROR:  x"},
		{"shop: 2026/11/23 18:31:01 a prefix", "info", "", "shop: a prefix"},
		{"[shop] 2026/11/23 18:31:01 a prefix", "info", "", "[shop] a prefix"},
		{"<30>Nov 23 18:31:01 dockerd[1]: level=warning msg=\"without a host\"", "warning", "dockerd", "without a host"},
		{"<165>1 2026-11-23T18:31:01.003Z web app 1 - - hello", "info", "app", "hello"},
		{"<163>1 2026-11-23T18:31:01.003Z web app 1 ID47 [x@1 a=\"b\\]\"] \ufeffhello", "error", "app", "hello"},
		{"<4>[  12.3] usb 1-1: reset", "warning", "", "[  12.3] usb 1-1: reset"},
		{"<3>it broke", "error", "", "it broke"},
		{"<7>INFO x", "info", "", "INFO x"},
		{"<2>x", "fatal", "", "x"},
		{"Nov 23 18:31:01 web sshd[123]: Accepted publickey", "info", "sshd", "Accepted publickey"},
		{"Nov  3 08:31:01 web systemd[1]: Failed to start nginx.service", "error", "systemd", "Failed to start nginx.service"},
		{`Nov 23 18:31:01 web app[9]: {"level":"warn","msg":"inner"}`, "warning", "app", "inner"},
		{"2026-11-23T18:31:01+0100 web kernel: WARNING: CPU 3", "warning", "kernel", "WARNING: CPU 3"},
		{"1795458661.123456 web postfix/smtpd[9]: warning: x", "warning", "postfix/smtpd", "warning: x"},
		{"Nov 23 18:31:01 web dockerd[1]: time=\"2026-11-23T18:31:01.1Z\" level=error msg=\"no such image\"", "error", "dockerd", "no such image"},
		{"2026-11-23T18:31:01.123456+00:00 heroku[router]: at=error code=H12", "error", "router", "at=error code=H12"},
		{"2026-11-23T18:31:01.123456+00:00 app[web.1]: FATAL x", "fatal", "web.1", "FATAL x"},
		// what collects
		{"web-1  | WARN x", "warning", "web-1", "WARN x"},
		{"web-1  |", "", "", ""},
		{"shop_web_1  | 2026-11-23 18:31:01 ERROR x", "error", "shop_web_1", "ERROR x"},
		{"db  | 2026-11-23 18:31:01.123 UTC [1] LOG:  ready", "info", "db", "[1] LOG:  ready"},
		{"web-1  | 2026-11-23T18:31:01.123456789Z it works", "info", "web-1", "it works"},
		{`web-1  | {"level":"warn","msg":"compose","logger":"http"}`, "warning", "web-1", "compose"},
		{"web.1.x7k2@node1    | ERROR x", "error", "web.1.x7k2@node1", "ERROR x"},
		{"18:31:01 web.1  | ERROR x", "error", "web.1", "ERROR x"},
		{"0|shop  | ERROR x", "error", "shop", "ERROR x"},
		{"[pod/web-7d9c/web] ERROR x", "error", "web", "ERROR x"},
		{"INFO  | a table", "info", "", "INFO  | a table"},
		{"2026-11-23T18:31:01.123456789Z stderr F ERROR x", "error", "", "ERROR x"},
		{"2026-11-23T18:31:01.1Z stdout P half a \n2026-11-23T18:31:01.2Z stdout F line", "info", "", "half a line"},
		{"2026-11-23T18:31:01.123456789Z E1123 18:31:01.000000       1 a.go:1] x", "error", "", "a.go:1] x"},
		{"2026-11-23T18:31:01.123456789Z 2026-11-23 18:31:01,123 ERROR x", "error", "", "ERROR x"},
		{"2026-11-23T18:31:01Z 2026/11/23 18:31:01 [error] x", "error", "", "[error] x"},
		{`2026-11-23T18:31:01.1Z {"level":"warn","msg":"x"}`, "warning", "", "x"},
		{`{"message":"2026-11-23 18:31:01 ERROR x"}`, "error", "", "ERROR x"},
		{"web-1  | 2026-11-23T18:31:01.123456789Z time=2026-11-23T18:31:01Z level=error msg=x", "error", "web-1", "x"},
		// edges
		{"<999>x", "debug", "", "x"},
		{"<", "info", "", "<"},
		{"{}", "info", "", "{}"},
		{"{not json}", "info", "", "{not json}"},
	} {
		if test.level == "" {
			if got := events(t, test.line); len(got) != 0 {
				t.Errorf("%q: got %+v, want nothing", test.line, got)
			}
			continue
		}
		got := one(t, test.line)
		if got.Level != test.level || got.Service != test.service || test.message != "" && got.Message != test.message {
			t.Errorf("%q: got %s, %q, %q, want %s, %q, %q", test.line, got.Level, got.Service, got.Message, test.level, test.service, test.message)
		}
	}
}

func TestALineKeepsItselfAsData(t *testing.T) {
	line := "level=info msg=hello user=7"
	got := one(t, line)
	var data struct{ Line string }
	if err := json.Unmarshal(got.Data, &data); err != nil || data.Line != line || got.Message != "hello" {
		t.Errorf("got message %q, data %s (%v)", got.Message, got.Data, err)
	}
	if got := one(t, "plain"); got.Data != nil {
		t.Errorf("got data %s for a line that is its own message, want none", got.Data)
	}
	if got := one(t, `{"z":1,"msg":"x","a":12345678901234567890}`); string(got.Data) != `{"z":1,"msg":"x","a":12345678901234567890}` {
		t.Errorf("got data %s, want the object as it was", got.Data)
	}
}

func TestALogfmtValueThatIsCutIsStillItsText(t *testing.T) {
	for line, want := range map[string]string{
		`level=error msg="a \"quoted\" word" x=1`:                  `a "quoted" word`,
		`level=error msg="connection refused by the remo`:          `connection refused by the remo`,
		`time=2026-11-23T18:31:01Z level=error msg="cut after \`:   `cut after`,
		`level=error msg="cut in an escape \u00e`:                  `cut in an escape`,
		`level=error message='one quote`:                           `one quote`,
		`level=error msg=plain`:                                    `plain`,
		`level=error msg=connection refused by x=1 y=2`:            `connection refused by`,
		`time=2026-11-23T18:31:01Z level=error msg=disk is full`:   `disk is full`,
		`level=error type=AVC msg=audit(1.2:3): avc: denied pid=1`: `audit(1.2:3): avc: denied`,
		`level=error a=full msg=full b=1 "quoted" c=2`:             `full`,
		`level=error msg=`:                                         `level=error msg=`,
		`level=error msg="`:                                        `level=error msg="`,
		`time=2026-11-23T18:31:01Z level=error user=7`:             `level=error user=7`,
		`msg="no level=debug inside" level=error`:                  `no level=debug inside`,
		`{"level":"error","msg":"cut o`:                            `cut o`,
		`{"time":"2026-11-23T18:31:01Z","level":"error","msg":"a`:  `a`,
	} {
		if got := one(t, line); got.Level != "error" || got.Message != want {
			t.Errorf("%s: got %s %q, want error %q", line, got.Level, got.Message, want)
		}
	}
}

func TestTheTimeOfTheLogIsTheTimeOfTheEvent(t *testing.T) {
	at := func(frac int, zone *time.Location) time.Time {
		return time.Date(2026, time.November, 23, 18, 31, 1, frac, zone)
	}
	const ms, µs = 123_000_000, 123_456_000
	for line, want := range map[string]time.Time{
		"2026-11-23T18:31:01Z x":                                               at(0, time.UTC),
		"2026-11-23T18:31:01.123456789+01:00 x":                                at(123_456_789, berlin),
		"2026-11-23T18:31:01,123+0100 x":                                       at(ms, berlin),
		"2026-11-23 18:31:01,123 x":                                            at(ms, berlin),
		"2026-11-23 18:31:01.123+00 x":                                         at(ms, time.UTC),
		"2026-11-23 18:31:01 UTC x":                                            at(0, time.UTC),
		"2026-11-23 18:31:01 EST x":                                            at(0, time.FixedZone("", -5*3600)),
		"2026-11-23 18:31:01 +0000 UTC x":                                      at(0, time.UTC),
		"[2026-11-23 18:31:01] x":                                              at(0, berlin),
		"2026-11-23_18:31:01.123 x":                                            at(ms, berlin),
		"20261123T183101Z x":                                                   at(0, time.UTC),
		"2026/11/23 18:31:01 x":                                                at(0, berlin),
		"2026/11/23 18:31:01.123456 x":                                         at(µs, berlin),
		"[GIN] 2026/11/23 - 18:31:01 | x":                                      at(0, berlin),
		"Nov 23 18:31:01 web app: x":                                           at(0, berlin),
		"Mon Nov 23 18:31:01 2026 x":                                           at(0, berlin),
		"[Mon Nov 23 18:31:01.123456 2026] [:error] x":                         at(µs, berlin),
		"Nov 23, 2026 6:31:01 PM x":                                            at(0, berlin),
		"2026-11-23 6:31:01 PM x":                                              at(0, berlin),
		"23.11.2026 18:31:01 x":                                                at(0, berlin),
		"23.11.2026, 18:31:01.123 x":                                           at(ms, berlin),
		"[23Nov2026 18:31:01.123] [main/ERROR] x":                              at(ms, berlin),
		"[INFO ] 2026-11-23 18:31:01 x":                                        at(0, berlin),
		"[ ERROR ] 2026-11-23 18:31:01 x":                                      at(0, berlin),
		"23 Nov 2026 18:31:01.123 x":                                           at(ms, berlin),
		"1:M 23 Nov 2026 18:31:01.123 * x":                                     at(ms, berlin),
		"23-Nov-2026 18:31:01.123 INFO x":                                      at(ms, berlin),
		`1.2.3.4 - - [23/Nov/2026:18:31:01 +0000] "x"`:                         at(0, time.UTC),
		"Mon, 23 Nov 2026 18:31:01 GMT x":                                      at(0, time.UTC),
		"18:31:01.123 INFO x":                                                  at(ms, berlin),
		"6:31:01PM INF x":                                                      at(0, berlin),
		"I1123 18:31:01.123456       1 x.go:1] x":                              at(µs, berlin),
		"1795458661.123 x":                                                     at(ms, berlin),
		"1795458661123\tINFO\tx":                                               at(ms, berlin),
		"time=2026-11-23T18:31:01.123Z level=INFO msg=x":                       at(ms, time.UTC),
		`ts=1795458661.123 level=info msg=x`:                                   at(ms, berlin),
		`{"time":"2026-11-23T18:31:01.123Z","msg":"x"}`:                        at(ms, time.UTC),
		`{"ts":1795458661.123,"msg":"x"}`:                                      at(ms, berlin),
		`{"ts":1.795458661123e9,"msg":"x"}`:                                    at(ms, berlin),
		`{"time":1795458661123,"msg":"x"}`:                                     at(ms, berlin),
		`{"time":"1795458661123456","msg":"x"}`:                                at(µs, berlin),
		`{"timeUnixNano":"1795458661123456000","msg":"x"}`:                     at(µs, berlin),
		`{"@timestamp":"2026-11-23T18:31:01.123Z","message":"x"}`:              at(ms, time.UTC),
		`{"t":{"$date":"2026-11-23T18:31:01.123+01:00"},"s":"I","msg":"x"}`:    at(ms, berlin),
		`{"timestamp":{"seconds":1795458661,"nanos":123000000},"message":"x"}`: at(ms, berlin),
		`{"instant":{"epochSecond":1795458661,"nanoOfSecond":123000000},"message":"x"}`:                     at(ms, berlin),
		`{"log":"x\n","stream":"stdout","time":"2026-11-23T18:31:01.123Z"}`:                                 at(ms, time.UTC),
		`{"log":"2026-11-23T18:31:01.123Z x\n","stream":"stdout","time":"2026-11-23T19:00:00Z"}`:            at(ms, time.UTC),
		`{"log":"2026-11-23 12:00:00 x\n","stream":"stdout","time":"2026-11-23T18:31:01.123Z"}`:             at(ms, time.UTC),
		`{"__REALTIME_TIMESTAMP":"1795458661123456","MESSAGE":"x"}`:                                         at(µs, berlin),
		`{"TimeCreated":"\/Date(1795458661123)\/","Message":"x"}`:                                           at(ms, berlin),
		"web-1  | 2026-11-23T18:31:01.123456Z x":                                                            at(µs, time.UTC),
		"2026-11-23T18:31:01.123456Z stdout F x":                                                            at(µs, time.UTC),
		"Dec 31 23:59:59 web app: last year's":                                                              time.Date(2025, 12, 31, 23, 59, 59, 0, berlin),
		"20:30:00 INFO yesterday's":                                                                         time.Date(2026, 11, 22, 20, 30, 0, 0, berlin),
		"no time":                                                                                           {},
		"2026-13-23 18:31:01 no month":                                                                      {},
		"2026-11-23 25:31:01 no hour":                                                                       {},
		`{"time":12,"msg":"a duration"}`:                                                                    {},
		"9999-12-31T23:59:59-12:00 is a way to say never":                                                   {},
		`{"date":{"date":"2026-11-23 18:31:01.123456","timezone_type":3,"timezone":"UTC"},"message":"x"}`:   at(µs, time.UTC),
		`{"text":"x","record":{"message":"x","level":{"name":"INFO"},"time":{"timestamp":1795458661.123}}}`: at(ms, berlin),
	} {
		got := one(t, line)
		if strings.Contains(strings.ReplaceAll(line, ".", ""), "1795458661") && !want.IsZero() {
			want = time.Unix(1795458661, int64(want.Nanosecond()))
		}
		if !got.Time.Equal(want) {
			t.Errorf("%s: got %v, want %v", line, got.Time, want)
		}
		if !want.IsZero() && strings.Contains(got.Message, "31") {
			t.Errorf("%s: got message %q, which has the time again", line, got.Message)
		}
	}
}
