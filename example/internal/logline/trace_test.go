package logline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// stackOf returns the lines that an event has beyond its message.
func stackOf(t *testing.T, e Event) []string {
	t.Helper()
	var data struct{ Stack []string }
	if e.Data != nil {
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
	}
	return data.Stack
}

// traces are as the programs write them, without the blank lines, which no event keeps.
var traces = []struct{ name, level, text string }{
	{"Java", "error", `Exception in thread "main" java.lang.IllegalStateException: no INFO about the cart
	at com.example.Cart.total(Cart.java:31)
	at com.example.Main.main(Main.java:7)
	Suppressed: java.io.IOException: close
		at com.example.Cart.close(Cart.java:40)
		... 2 more
Caused by: java.sql.SQLException: ERROR: deadlock
	at org.postgresql.Driver.go(Driver.java:5) ~[postgresql.jar:42.1]
	... 12 more
Caused by: java.net.SocketException
	at java.base/java.net.Socket.read(Socket.java:1) [?:?]
	... 13 common frames omitted`},
	{"Java, alone", "error", `com.example.CartGone: it is gone
	at com.example.Cart.total(Cart.java:31)
Caused by: java.lang.Error
	... 1 more`},
	{"Java, logged", "error", `2026-11-23 18:31:01,123 ERROR [main] c.e.Foo - request failed
java.lang.IllegalStateException: no cart
	at com.example.Cart.total(Cart.java:31)
Caused by: java.lang.Error: x
	... 1 more`},
	{"Java, logged as a warning", "warning", `18:31:01.123 [main] WARN  c.e.Foo - again
java.io.IOException: broken pipe
	at com.example.Cart.total(Cart.java:31)`},
	{"Python", "error", `Traceback (most recent call last):
  File "/app/a.py", line 3, in <module>
    total({"INFO": 1})
    ~~~~~^^^^^^^^^^^^^
  File "/app/a.py", line 7, in total
    raise ValueError("no cart")
ValueError: no cart`},
	{"Python, chained", "error", `Traceback (most recent call last):
  File "/app/a.py", line 3, in <module>
    {}["x"]
KeyError: 'x'
During handling of the above exception, another exception occurred:
Traceback (most recent call last):
  File "/app/a.py", line 5, in <module>
    raise Gone("x")
app.errors.Gone: x
The above exception was the direct cause of the following exception:
Traceback (most recent call last):
  File "/app/a.py", line 9, in <module>
    sys.exit(main())
KeyboardInterrupt`},
	{"Python, a syntax error", "error", `  File "/app/a.py", line 1
    print(
         ^
SyntaxError: '(' was never closed`},
	{"Python, a syntax error in an import", "error", `Traceback (most recent call last):
  File "/app/b.py", line 1, in <module>
    import a
  File "/app/a.py", line 1
    print(
         ^
SyntaxError: '(' was never closed`},
	{"Python, logged", "error", `ERROR:root:it broke
Traceback (most recent call last):
  File "/app/a.py", line 3, in <module>
    1/0
ZeroDivisionError: division by zero`},
	{"Python, a group", "error", `  + Exception Group Traceback (most recent call last):
  |   File "/app/a.py", line 1, in <module>
  |     raise ExceptionGroup("many", [ValueError(1)])
  | ExceptionGroup: many (1 sub-exception)
  +-+---------------- 1 ----------------
    | ValueError: 1
    +------------------------------------`},
	{"uvicorn", "error", `ERROR:    Exception in ASGI application
Traceback (most recent call last):
  File "/app/a.py", line 3, in app
    1/0
ZeroDivisionError: division by zero`},
	{"Go", "fatal", `panic: runtime error: invalid memory address or nil pointer dereference [recovered]
	panic: again
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x4a0b31]
goroutine 1 [running]:
main.(*cart).total(...)
	/app/main.go:8
main.main()
	/app/main.go:4 +0x18
goroutine 7 [chan receive, 2 minutes]:
github.com/a/b/v2.Do[...](0xc000012345, {0x1, 0x2})
	/app/b.go:9 +0x99
created by net/http.(*Server).Serve in goroutine 1
	/go/src/net/http/server.go:3285 +0x4b4
exit status 2`},
	{"Go, a deadlock", "fatal", `fatal error: all goroutines are asleep - deadlock!
goroutine 1 [chan receive]:
main.main()
	/app/main.go:4 +0x18`},
	{"Go, net/http", "error", `2026/11/23 18:31:01 http: panic serving 127.0.0.1:40000: no cart
goroutine 19 [running]:
net/http.(*conn).serve.func1()
	/go/src/net/http/server.go:1898 +0xbe
panic({0x6a1e20?, 0x745f50?})
	/go/src/runtime/panic.go:770 +0x132`},
	{"Go, SIGQUIT", "fatal", `SIGQUIT: quit
PC=0x46c3a1 m=0 sigcode=0
goroutine 0 gp=0x55e2a0 m=0 mp=0x55f1a0 [idle]:
runtime.futex(0x55f2e8, 0x80, 0x0, 0x0, 0x0, 0x0)
	/go/src/runtime/sys_linux_amd64.s:557 +0x21
rax    0xca
r10    0x0
eflags 0x286
cs     0x33`},
	{"Go, a race", "error", `WARNING: DATA RACE
Read at 0x00c000012345 by goroutine 7:
  main.main.func1()
      /app/main.go:7 +0x33
Previous write at 0x00c000012345 by main goroutine:
  main.main()
      /app/main.go:9 +0x44
Goroutine 7 (running) created at:
  main.main()
      /app/main.go:6 +0x22
==================`},
	{"zap", "error", "2026-11-23T18:31:01.123+0100\tERROR\tshop/main.go:12\tit broke\t{\"n\": 1}\nmain.main\n\t/app/main.go:12\nruntime.main\n\t/go/src/runtime/proc.go:283"},
	{"Rust", "error", `thread 'main' panicked at src/main.rs:4:5:
index out of bounds: the len is 3 but the index is 99
note: run with RUST_BACKTRACE=1 environment variable to display a backtrace`},
	{"Rust with a backtrace", "error", `thread 'main' (4711) panicked at src/main.rs:4:5:
assertion failed: left == right
  left: 1
 right: 2
stack backtrace:
   0: rust_begin_unwind
             at /rustc/abc/library/std/src/panicking.rs:692:5
   1: shop::main
             at ./src/main.rs:4:5
note: Some details are omitted, run with RUST_BACKTRACE=full for a verbose backtrace.`},
	{"Rust before 1.73", "error", `thread 'tokio-runtime-worker' panicked at 'no cart', src/main.rs:2:5
stack backtrace:
   0: rust_begin_unwind
note: run with RUST_BACKTRACE=1 environment variable to display a backtrace`},
	{"Rust, anyhow", "error", `Error: cannot open the cart
Caused by:
    0: cannot read cart.toml
    1: No such file or directory (os error 2)
Stack backtrace:
   0: anyhow::error::new`},
	{"Node.js", "error", `Error: connect ECONNREFUSED 127.0.0.1:5432
    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1611:16)
    at async Promise.all (index 0) {
  errno: -111,
  [cause]: TypeError: x
      at main (/app/a.js:1:1)
}
Node.js v20.19.2`},
	{"Node.js, a rejection", "error", `(node:7) UnhandledPromiseRejectionWarning: Error: x
    at main (/app/a.js:1:7)`},
	{".NET", "error", `Unhandled exception. System.InvalidOperationException: no cart
 ---> System.IO.IOException: disk
   at Shop.Cart.Load() in /app/Cart.cs:line 31
   --- End of inner exception stack trace ---
   at Shop.Program.Main(String[] args)
--- End of stack trace from previous location ---
   at Shop.Program.<Main>(String[] args)`},
	{".NET, logged", "error", `fail: Shop.Cart[0]
      it broke
      System.InvalidOperationException: no cart
         at Shop.Cart.Load() in /app/Cart.cs:line 31`},
	{"Ruby", "error", "a.rb:1:in `total': no cart (RuntimeError)\n\tfrom a.rb:5:in `<main>'"},
	{"Ruby 3.4", "error", "a.rb:1:in 'Object#total': no cart (Shop::Gone)\n\tfrom a.rb:5:in '<main>'"},
	{"PHP", "fatal", `PHP Fatal error:  Uncaught Exception: no cart in /app/a.php:3
Stack trace:
#0 /app/a.php(7): total()
#1 {main}
  thrown in /app/a.php on line 3`},
	{"Laravel", "error", `[2026-11-23 18:31:01] production.ERROR: no cart {"exception":"[object] (Exception(code: 0): no cart at /app/a.php:3)
[stacktrace]
#0 /app/a.php(7): total()
#1 {main}
"}`},
	{".NET, many", "error", `Unhandled exception. System.AggregateException: One or more errors occurred. (x)
 ---> System.Exception: x
   at Shop.Program.Main()
   --- End of inner exception stack trace ---
   at Shop.Program.Main()
 ---> (Inner Exception #1) System.Exception: y
   at Shop.Program.Main()
<---`},
	{"Go, a stack that is full", "fatal", `runtime: goroutine stack exceeds 1000000000-byte limit
runtime: sp=0xc0200e0390 stack=[0xc0200e0000, 0xc0400e0000]
fatal error: stack overflow
runtime stack:
runtime.throw({0x4a0b31?, 0x0?})
	/go/src/runtime/panic.go:1077 +0x5c
goroutine 1 [running]:
main.f(0x1)
	/app/main.go:3 +0x2c
...100 frames elided...
created by main.main`},
	{"Java, a text of three lines", "error", `Exception in thread "main" java.lang.IllegalStateException: no cart
it is gone
  since noon
	at com.example.Main.main(Main.java:7)
Caused by: org.postgresql.util.PSQLException: ERROR: no such table
  Position: 15
ask the administrator
	at org.postgresql.Driver.go(Driver.java:5)`},
	{"Node.js, a text of two lines", "error", "TypeError: no cart\nit is gone\n    at f (/app/a.js:3:7)"},
	{"Go, a text of two lines", "fatal", "panic: no cart\nit is gone\ngoroutine 1 [running]:\nmain.main()\n\t/app/main.go:3 +0x1d"},
	{"Go, a text of two lines, served", "error", "2026/11/23 18:31:01 http: panic serving 127.0.0.1:1: no cart\nit is gone\ngoroutine 7 [running]:\nmain.f()\n\t/app/main.go:3 +0x1d"},
	{"Rust, a text of three lines", "error", `thread 'main' (123) panicked at src/main.rs:2:5:
no cart
it is gone
  since noon
stack backtrace:
   0: shop::main
             at ./src/main.rs:2:5
note: Some details are omitted`},
	{".NET, logged by Serilog", "error", "2026-11-23 18:31:01.123 +01:00 [ERR] no cart\nSystem.InvalidOperationException: it is gone\n   at Shop.Program.Main() in /app/Program.cs:line 3"},
	{"C++", "error", "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no cart"},
	{"Elixir", "error", "** (RuntimeError) no cart\n    (shop 0.1.0) lib/shop.ex:3: Shop.total/1"},
	{"Lua", "error", "lua: ERROR a.lua:1: no cart\nstack traceback:\n\t[C]: in function 'error'\n\ta.lua:1: in main chunk"},
	{"Dart", "error", "Unhandled exception:\nException: no cart\n#0      main (file:///app/a.dart:3:3)\n#1      _start (dart:isolate:1)"},
	{"a query over many lines", "info", "2026-11-23 18:31:01.123 UTC [1] LOG:  statement: SELECT 1\n\tFROM cart\n\tWHERE id = 7"},
	{"more of postgres", "error", "2026-11-23 18:31:01.123 UTC [1] ERROR:  duplicate key\n2026-11-23 18:31:01.123 UTC [1] u@shop DETAIL:  Key (id)=(7) already exists.\n2026-11-23 18:31:01.123 UTC [1] STATEMENT:  INSERT INTO cart"},
}

func TestAStackTraceIsOneEvent(t *testing.T) {
	for _, test := range traces {
		lines := strings.Split(test.text, "\n")
		check := func(how string, got Event) {
			t.Helper()
			stack := stackOf(t, got)
			if test.name == ".NET, logged" {
				stack = append([]string{"      it broke"}, stack...) // which is in the message
				got.Message = strings.TrimSuffix(got.Message, " it broke")
			}
			if got.Level != test.level || !strings.Contains(lines[0], strings.TrimSpace(got.Message)) || len(got.Message) < 9 {
				t.Errorf("%s, %s: got %s %q, want %s %q", test.name, how, got.Level, got.Message, test.level, lines[0])
			}
			if test.name != "more of postgres" && !slices.Equal(stack, lines[1:]) || len(stack) != len(lines)-1 {
				t.Errorf("%s, %s: got %q, want %q", test.name, how, stack, lines[1:])
			}
		}
		if got := one(t, test.text); got.Level != "" {
			check("alone", got)
		}

		// between lines that don't belong to it
		list := events(t, "18:30:00 INFO before\n"+test.text+"\n18:32:00 INFO after\n")
		if len(list) != 3 || list[0].Message != "INFO before" || list[2].Message != "INFO after" {
			t.Errorf("%s: got %d events %+v, want one between two", test.name, len(list), list)
		} else {
			check("between others", list[1])
		}
		list = events(t, "before it\n"+test.text+"\nafter it all\n")
		if len(list) != 3 || list[0].Message != "before it" || list[2].Message != "after it all" {
			t.Errorf("%s: got %d events %+v, want one between two", test.name, len(list), list)
		}

		// of two services at once, of Docker and of journald
		var compose, docker, journald, stamped strings.Builder
		for _, line := range lines {
			fmt.Fprintf(&compose, "web-1  | %s\ndb  | %s\n", line, line)
			fmt.Fprintf(&stamped, "2026-11-23T18:31:01.123456789Z %s\n", line)
			text, _ := json.Marshal(line + "\n")
			fmt.Fprintf(&docker, `{"log":%s,"stream":"stderr","time":"2026-11-23T18:31:01.1Z"}`+"\n", text)
			text, _ = json.Marshal(line)
			fmt.Fprintf(&journald, `{"MESSAGE":%s,"PRIORITY":"6","SYSLOG_IDENTIFIER":"web","_PID":"7","__REALTIME_TIMESTAMP":"1795458661123456"}`+"\n", text)
		}
		list = events(t, compose.String())
		if len(list) != 2 || list[0].Service == list[1].Service {
			t.Errorf("%s: got %d events of two services: %+v", test.name, len(list), list)
		} else {
			check("of compose", list[0])
			check("of compose", list[1])
		}
		for how, text := range map[string]string{"of Docker": docker.String(), "of journald": journald.String(), "of docker logs -t": stamped.String()} {
			if got := one(t, text); got.Level != "" {
				check(how, got)
			}
		}
		// and in one message
		text, _ := json.Marshal(test.text)
		for how, text := range map[string]string{
			"in one message of Docker":   fmt.Sprintf(`{"log":%s,"stream":"stderr","time":"2026-11-23T18:31:01.1Z"}`, text),
			"in one message of journald": fmt.Sprintf(`{"MESSAGE":%s,"PRIORITY":"6","SYSLOG_IDENTIFIER":"web"}`, text),
		} {
			got := one(t, text)
			if got.Level != test.level && test.level != "info" || !strings.Contains(lines[0], strings.TrimSpace(got.Message)) {
				t.Errorf("%s, %s: got %s %q", test.name, how, got.Level, got.Message)
			}
			if stack := stackOf(t, got); !slices.Equal(stack, lines[1:]) {
				t.Errorf("%s, %s: got %q", test.name, how, stack)
			}
		}
	}
}

func TestLinesAfterAPanicWithoutATraceAreEventsOfTheirOwn(t *testing.T) {
	for _, text := range []string{"panic: no cart", "ValueError: no cart", "thread 'main' panicked at src/main.rs:2:5:\nno cart"} {
		list := events(t, text+"\nbefore\n  within\nERROR after\nlast\n")
		var messages []string
		for _, e := range list {
			messages = append(messages, e.Message)
		}
		if want := []string{strings.Split(text, "\n")[0], "before", "within", "ERROR after", "last"}; !slices.Equal(messages, want) {
			t.Errorf("%q: got %q, want %q", text, messages, want)
		}
	}
}

func TestNodeTellsThePlaceFirst(t *testing.T) {
	if got := one(t, "[eval]:1\nthrow new Error('x')\n^\n\nError: x\n    at [eval]:1:7\n"); got.Message != "Error: x" {
		t.Errorf("got %+v", got)
	}
	got := one(t, "/app/a.js:1\nthrow new Error('x')\n^\n\nError: x\n    at Object.<anonymous> (/app/a.js:1:7)\n\nNode.js v20.19.2\n")
	want := []string{"/app/a.js:1", "throw new Error('x')", "^", "    at Object.<anonymous> (/app/a.js:1:7)", "Node.js v20.19.2"}
	if got.Message != "Error: x" || got.Level != "error" || !slices.Equal(stackOf(t, got), want) {
		t.Errorf("got %+v with %q", got, stackOf(t, got))
	}
}

// journalctl writes a message of several lines so.
func TestALineThatIsIndentedAsFarAsTheTextBelongsToIt(t *testing.T) {
	head := "Nov 23 18:31:01 host app[9]: "
	pad := strings.Repeat(" ", len(head))
	list := events(t, head+"Traceback (most recent call last):\n"+pad+"  File \"a.py\", line 1\n"+pad+"KeyError: 1\n"+head+"two\n"+pad+"lines\n"+"Nov 23 18:31:02 host app[9]: three\n")
	if len(list) != 3 || list[0].Level != "error" || list[1].Level != "info" || list[1].Service != "app" ||
		!slices.Equal(stackOf(t, list[0]), []string{"  File \"a.py\", line 1", "KeyError: 1"}) || !slices.Equal(stackOf(t, list[1]), []string{"lines"}) {
		t.Errorf("got %+v", list)
	}
}

func TestTracesThatFollowEachOtherAreEventsOfTheirOwn(t *testing.T) {
	for _, name := range []string{"Java", "Python", "Python, a syntax error", "Python, chained", "Rust", "Rust with a backtrace", "Node.js", "Ruby", "PHP"} {
		for _, test := range traces {
			if test.name != name {
				continue
			}
			if list := events(t, test.text+"\n"+test.text); len(list) != 2 || list[0].Message != list[1].Message {
				t.Errorf("%s: got %d events, want 2", name, len(list))
			}
		}
	}
	if list := events(t, "INFO one\nTraceback (most recent call last):\n  File \"a\", line 1\nKeyError: 1\nWARN two\n  File\nthree"); len(list) != 4 {
		t.Errorf("got %d events, want 4: %+v", len(list), list)
	}
	if list := events(t, "2026-11-23 18:31:01,123 WARNING root low\nTraceback (most recent call last):\n  File \"a\", line 1\nKeyError: 1"); len(list) != 2 || list[1].Level != "error" {
		t.Errorf("got %+v, want a crash behind a warning to be an error", list)
	}
	list := events(t, "a list\n  one\n  two\n\tERROR three")
	if len(list) != 4 || list[3].Level != "error" {
		t.Errorf("got %+v, want lines that are indented for another reason to be events", list)
	}
}

func TestALongTraceKeepsItsBeginningAndItsEnd(t *testing.T) {
	var text strings.Builder
	text.WriteString("java.lang.StackOverflowError\n")
	for i := range 5000 {
		fmt.Fprintf(&text, "\tat com.example.Deep.call%d(Deep.java:%d)\n", i, i)
	}
	text.WriteString("Caused by: java.lang.Error: the cause\n")
	got := one(t, text.String())
	stack := stackOf(t, got)
	if len(got.Data) > 32<<10 || len(stack) < 100 || stack[0] != "\tat com.example.Deep.call0(Deep.java:0)" ||
		stack[len(stack)-1] != "Caused by: java.lang.Error: the cause" || !strings.Contains(string(got.Data), " lines left out") {
		t.Errorf("got %d bytes and %d lines: %.500s", len(got.Data), len(stack), got.Data)
	}
}
