package logline

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestAJSONObjectTellsItsLevelServiceAndMessage(t *testing.T) {
	for _, test := range []struct {
		name, line, level, service, message string
	}{
		{"slog", `{"time":"2026-11-23T18:31:01Z","level":"ERROR+2","msg":"x"}`, "error", "", "x"},
		{"slog", `{"time":"2026-11-23T18:31:01Z","level":"DEBUG-4","msg":"x"}`, "debug", "", "x"},
		{"slog", `{"level":-4,"msg":"x"}`, "debug", "", "x"},
		{"slog", `{"level":4,"msg":"x"}`, "warning", "", "x"},
		{"slog", `{"level":8,"msg":"x"}`, "error", "", "x"},
		{"zap", `{"level":"dpanic","ts":1.5,"logger":"api","msg":"x"}`, "error", "api", "x"},
		{"zap in development", `{"L":"ERROR","T":"2026-11-23T18:31:01.123+0100","N":"api","C":"a.go:1","M":"x","S":"main.main"}`, "error", "api", "x"},
		{"zap on a console", "2026-11-23T18:31:01Z\tERROR\tapi\trequest failed\t{\"status\":500}", "error", "api", "ERROR\tapi\trequest failed"},
		{"zap on a console", "1.795458661123e+09\terror\tapi/a.go:1\trequest failed\t{\"status\":500}", "error", "", "error\tapi/a.go:1\trequest failed"},
		{"zerolog", `{"level":"fatal","service":"web","time":1795458661,"message":"x"}`, "fatal", "web", "x"},
		{"logrus", `{"level":"panic","msg":"x","time":"2026-11-23T18:31:01Z"}`, "fatal", "", "x"},
		{"hclog", `{"@level":"warn","@message":"x","@module":"agent","@timestamp":"2026-11-23T18:31:01Z"}`, "warning", "agent", "x"},
		{"klog", `{"ts":1795458661123.456,"caller":"a.go:1","msg":"x","v":0}`, "info", "", "x"},
		{"pino", `{"level":50,"time":1795458661123,"pid":1,"hostname":"h","name":"shop","msg":"x"}`, "error", "shop", "x"},
		{"pino", `{"level":20,"time":1,"msg":"x"}`, "debug", "", "x"},
		{"pino", `{"level":10,"time":1,"msg":"x"}`, "debug", "", "x"},
		{"pino", `{"level":"40","msg":"x"}`, "warning", "", "x"},
		{"bunyan", `{"name":"shop","hostname":"h","pid":1,"level":60,"msg":"x","time":"2026-11-23T18:31:01.1Z","v":0}`, "fatal", "shop", "x"},
		{"winston", `{"level":"verbose","message":"x"}`, "debug", "", "x"},
		{"ECS, with dots", `{"@timestamp":"2026-11-23T18:31:01Z","log.level":"error","message":"x","service.name":"web"}`, "error", "web", "x"},
		{"ECS, nested", `{"@timestamp":"2026-11-23T18:31:01Z","log":{"level":"error","logger":"c.e.Foo"},"message":"x","service":{"name":"web"}}`, "error", "web", "x"},
		{"ECS, nested, without a service", `{"log":{"level":"WARN","logger":"c.e.Foo"},"message":"x"}`, "warning", "c.e.Foo", "x"},
		{"Elasticsearch", `{"type":"server","timestamp":"2026-11-23T18:31:01,123Z","level":"ERROR","component":"o.e.b","message":"x"}`, "error", "o.e.b", "x"},
		{"Logback", `{"@timestamp":"2026-11-23T18:31:01Z","@version":"1","message":"x","logger_name":"c.e.Foo","level":"ERROR","level_value":40000}`, "error", "c.e.Foo", "x"},
		{"Logback, by number", `{"message":"x","level_value":30000}`, "warning", "", "x"},
		{"Log4j", `{"instant":{"epochSecond":1795458661,"nanoOfSecond":0},"level":"FATAL","loggerName":"c.e.Foo","message":"x"}`, "fatal", "c.e.Foo", "x"},
		{"Python", `{"levelname":"CRITICAL","message":"x","name":"app"}`, "fatal", "app", "x"},
		{"Python, by number", `{"levelno":50,"message":"x"}`, "fatal", "", "x"},
		{"structlog", `{"event":"x","level":"error","timestamp":"2026-11-23T18:31:01Z"}`, "error", "", "x"},
		{"loguru", `{"text":"18:31 x\n","record":{"level":{"icon":"❌","name":"ERROR","no":40},"message":"x","name":"app"}}`, "error", "app", "x"},
		{"Monolog", `{"message":"x","context":{},"level":400,"level_name":"ERROR","channel":"app","datetime":"2026-11-23T18:31:01.1+01:00","extra":{}}`, "error", "app", "x"},
		{"Monolog, by number", `{"message":"x","level":550,"channel":"app"}`, "fatal", "app", "x"},
		{"Rust, tracing", `{"timestamp":"2026-11-23T18:31:01Z","level":"ERROR","fields":{"message":"x","n":1},"target":"shop::cart"}`, "error", "shop::cart", "x"},
		{".NET", `{"EventId":13,"LogLevel":"Critical","Category":"Shop.Cart","Message":"x","State":{"Message":"x"}}`, "fatal", "Shop.Cart", "x"},
		{".NET", `{"Timestamp":"2026-11-23T18:31:01.123Z","EventId":0,"LogLevel":"Trace","Category":"Shop.Cart","Message":"x"}`, "debug", "Shop.Cart", "x"},
		{".NET, by number", `{"LogLevel":4,"Category":"Shop.Cart","Message":"x"}`, "error", "Shop.Cart", "x"},
		{"Serilog, compact", `{"@t":"2026-11-23T18:31:01.123Z","@mt":"{User} left {@Cart} {n:000} {gone}","@l":"Error","User":"ann","n":7,"SourceContext":"Shop.Cart"}`, "error", "Shop.Cart", "ann left {@Cart} 7 {gone}"},
		{"Serilog, compact", `{"@t":"2026-11-23T18:31:01.123Z","@m":"an ERROR in words","@i":"abc"}`, "info", "", "an ERROR in words"},
		{"Serilog, compact", `{"@t":"2026-11-23T18:31:01.123Z","@mt":"x","@l":"Warning","@x":"System.Exception: y\n   at z"}`, "warning", "", "x"},
		{"Serilog", `{"Timestamp":"2026-11-23T18:31:01.1+01:00","Level":"Fatal","MessageTemplate":"{User} left","Properties":{"User":"ann","SourceContext":"Shop"}}`, "fatal", "Shop", "ann left"},
		{"NLog", `{ "time": "2026-11-23 18:31:01.1234", "level": "ERROR", "logger": "Shop", "message": "x" }`, "error", "Shop", "x"},
		{"MongoDB", `{"t":{"$date":"2026-11-23T18:31:01.123+01:00"},"s":"E","c":"STORAGE","id":22,"ctx":"initandlisten","msg":"x","attr":{"error":{"code":1}}}`, "error", "STORAGE", "x"},
		{"MongoDB", `{"t":{"$date":"2026-11-23T18:31:01.123+01:00"},"s":"D3","c":"NETWORK","id":22,"ctx":"c","msg":"x"}`, "debug", "NETWORK", "x"},
		{"MongoDB", `{"t":{"$date":"2026-11-23T18:31:01.123+01:00"},"s":"W","c":"CONTROL","id":22,"ctx":"c","msg":"x"}`, "warning", "CONTROL", "x"},
		{"MongoDB", `{"t":{"$date":"2026-11-23T18:31:01.123+01:00"},"s":"F","c":"-","id":22,"ctx":"c","msg":"x"}`, "fatal", "-", "x"},
		{"OTel", `{"timeUnixNano":"1795458661123456000","severityNumber":17,"severityText":"Error","body":{"stringValue":"x"},"traceId":""}`, "error", "", "x"},
		{"OTel, by number", `{"severityNumber":13,"body":{"stringValue":"x"}}`, "warning", "", "x"},
		{"OTel, by number", `{"severityNumber":24,"body":"x","resource":{"attributes":[{"key":"service.name","value":{"stringValue":"web"}}]}}`, "fatal", "web", "x"},
		{"OTel, by name", `{"severityText":"ERROR3","body":"x"}`, "error", "", "x"},
		{"OTel of Go", `{"Timestamp":"2026-11-23T18:31:01Z","SeverityText":"","Severity":9,"Body":{"Type":"String","Value":"x"}}`, "info", "", "x"},
		{"Google", `{"severity":"WARNING","message":"x","service":"web","timestamp":{"seconds":1795458661,"nanos":0}}`, "warning", "web", "x"},
		{"Google", `{"severity":"DEFAULT","textPayload":"x"}`, "info", "", "x"},
		{"Google", `{"severity":"EMERGENCY","jsonPayload":{"message":"x"},"resource":{"labels":{"container_name":"web"}}}`, "fatal", "web", "x"},
		{"Google, by number", `{"severity":500,"message":"x"}`, "error", "", "x"},
		{"GELF", `{"version":"1.1","host":"h","short_message":"x","full_message":"x\ny","timestamp":1795458661.1,"level":4}`, "warning", "", "x"},
		{"GELF", `{"version":"1.1","short_message":"x","level":0}`, "fatal", "", "x"},
		{"GELF", `{"version":"1.1","short_message":"x","level":7}`, "debug", "", "x"},
		{"Datadog", `{"status":"error","message":"x","service":"web"}`, "error", "web", "x"},
		{"Windows", `{"Id":7,"Level":2,"LevelDisplayName":"Error","ProviderName":"Disk","Message":"x","TimeCreated":"\/Date(1795458661123)\/"}`, "error", "Disk", "x"},
		{"Windows, by number", `{"EventID":7,"Level":3,"ProviderName":"Disk","Message":"x"}`, "warning", "Disk", "x"},
		{"Caddy", `{"level":"error","ts":1795458661.12,"logger":"http.log","msg":"x"}`, "error", "http.log", "x"},
		{"journald", `{"PRIORITY":"3","MESSAGE":"x","SYSLOG_IDENTIFIER":"sshd"}`, "error", "sshd", "x"},
		{"journald, bytes", `{"PRIORITY":"4","MESSAGE":[104,195,164,27,91,51,49,109,33],"_COMM":"app","__REALTIME_TIMESTAMP":"1795458661123456"}`, "warning", "app", "hä!"},
		{"journald, bytes that are no UTF-8", `{"PRIORITY":"6","MESSAGE":[255,69,82,82,79,82,58],"_COMM":"app"}`, "error", "app", "\ufffdERROR:"},
		{"journald, more than one", `{"PRIORITY":"6","MESSAGE":["ERROR a",[98]],"_COMM":"app"}`, "error", "app", "ERROR a"},
		{"journald, left out", `{"PRIORITY":"3","MESSAGE":null,"_COMM":"app"}`, "error", "app", `{"MESSAGE":null,"PRIORITY":"3","_COMM":"app"}`},
		{"journald, default", `{"PRIORITY":"6","MESSAGE":"level=error msg=inner","_COMM":"app"}`, "error", "app", "inner"},
		{"journald, JSON", `{"PRIORITY":"6","MESSAGE":"{\"level\":\"warn\",\"msg\":\"inner\"}","_COMM":"app"}`, "warning", "app", "inner"},
		{"Docker", `{"log":"WARN x\n","stream":"stderr","time":"2026-11-23T18:31:01.123456789Z"}`, "warning", "", "WARN x"},
		{"Docker, colours", `{"log":"\u001b[33mWARN\u001b[0m x\r\n","stream":"stderr","time":"2026-11-23T18:31:01.123456789Z"}`, "warning", "", "WARN x"},
		{"Docker, JSON", `{"log":"{\"level\":50,\"name\":\"shop\",\"msg\":\"x\"}\n","stream":"stdout","time":"2026-11-23T18:31:01.123456789Z"}`, "error", "shop", "x"},
		{"Docker, logfmt", `{"log":"ts=1 level=error msg=\"x y\"\n","stream":"stdout","time":"2026-11-23T18:31:01.123456789Z"}`, "error", "", "x y"},
		{"Docker, klog", `{"log":"E1123 18:31:01.000000       1 a.go:1] x\n","stream":"stdout","time":"2026-11-23T18:31:01.123456789Z"}`, "error", "", "a.go:1] x"},
		{"fluentd", `{"log":"ERROR x","stream":"stderr","kubernetes":{"container_name":"web"},"time":"2026-11-23T18:31:01.1Z"}`, "error", "web", "ERROR x"},
		{"Kubernetes, JSON", `2026-11-23T18:31:01.123456789Z stderr F {"level":"error","msg":"x"}`, "error", "", "x"},
		{"compose, JSON", `web-1  | {"level":"error","msg":"x","service":"other"}`, "error", "web-1", "x"},
		// what nobody in particular writes
		{"no level", `{"msg":"no level"}`, "info", "", "no level"},
		{"no level but a word", `{"message":"ERROR: it broke"}`, "error", "", "ERROR: it broke"},
		{"an exception without a level", `{"message":"java.lang.Error: x\n\tat a.B.c(B.java:1)"}`, "error", "", "java.lang.Error: x"},
		{"nothing that is known", `{"answer":42}`, "info", "", `{"answer":42}`},
		{"more than one line", `{"level":"error","msg":"\n one\ntwo"}`, "error", "", "one"},
		{"blank", `{"level":"error","msg":" "}`, "error", "", `{"level":"error","msg":" "}`},
		{"behind text", `2026-11-23 18:31:01 ERROR it broke {"user":7}`, "error", "", "ERROR it broke"},
		{"behind a level", `ERROR {"msg":"it broke"}`, "error", "", "it broke"},
		{"behind braces", `{a} and {"msg":"it broke","level":"warn"}`, "warning", "", "{a} and"},
	} {
		got := one(t, test.line)
		if got.Level != test.level || got.Service != test.service || got.Message != test.message {
			t.Errorf("%s, %s:\ngot %s, %q, %q, want %s, %q, %q", test.name, test.line, got.Level, got.Service, got.Message, test.level, test.service, test.message)
		}
	}
}

// Docker writes lines of 16 KiB at most.
func TestALineThatDockerSplitsIsOneEvent(t *testing.T) {
	part := func(log string) string {
		text, _ := json.Marshal(log)
		return fmt.Sprintf(`{"log":%s,"stream":"stdout","time":"2026-11-23T18:31:01.1Z"}`+"\n", text)
	}
	long := `{"level":"error","msg":"` + strings.Repeat("x", 16<<10)
	text := part(long[:16<<10]) + part(long[16<<10:]+` end","n":1}`+"\n") + part("WARN next\n")
	got := events(t, text)
	if len(got) != 2 || got[0].Level != "error" || !strings.HasPrefix(got[0].Message, "xxx") || got[1].Message != "WARN next" {
		t.Errorf("got %d events %.300v", len(got), got)
	}
	if got := one(t, part("ERROR "+strings.Repeat("x", 16<<10))); got.Level != "error" {
		t.Errorf("a part without an end: got %.100v", got)
	}
}

func TestAnExportOfOTelIsAsManyEventsAsRecords(t *testing.T) {
	line := `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"web"}}]},"scopeLogs":[{"scope":{},"logRecords":[` +
		`{"timeUnixNano":"1795458661123456000","severityNumber":17,"body":{"stringValue":"one"}},{"severityText":"WARN","body":{"stringValue":"two"}}]}]}]}`
	got := events(t, line)
	if len(got) != 2 || got[0].Message != "one" || got[0].Level != "error" || got[0].Service != "web" || got[0].Time.UnixMicro() != 1795458661123456 ||
		got[1].Message != "two" || got[1].Level != "warning" {
		t.Errorf("got %+v", got)
	}
}

func TestNoSequenceOfATerminalIsLeftInTheData(t *testing.T) {
	for _, line := range []string{
		`{"msg":"\u001b[31mx\u001B]0;t\u0007","deep":[{"a":"\u009b1m\u001b(By"}]}`,
		`{"log":"{\"msg\":\"\\u001b[31mx\"}\n","stream":"stdout","time":"2026-11-23T18:31:01.1Z"}`,
		`{"MESSAGE":"\u001b[31mx","_COMM":"\u001b[0ma","PRIORITY":"6"}`,
	} {
		got := one(t, line)
		if got.Message != "x" || strings.Contains(strings.ToLower(string(got.Data)), `\u001b`) || strings.Contains(string(got.Data), "[31m") || strings.Contains(got.Service, "[") {
			t.Errorf("%s: got %q, %q, %s", line, got.Message, got.Service, got.Data)
		}
	}
}

func TestDataAreBounded(t *testing.T) {
	wide := `{"msg":"x","a":"` + strings.Repeat("<", 30_000) + `"}`
	for _, line := range []string{
		wide, `{"msg":"x","a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`,
		`ERROR ` + strings.Repeat("x", 100_000), strings.Repeat(`{"`, 20_000), strings.Repeat("[", 40_000), strings.Repeat("a=", 20_000),
		fmt.Sprintf(`{"log":%q,"stream":"stdout","time":"x"}`, strings.Repeat("y", 25_000)),
	} {
		got := one(t, line)
		if len(got.Data) > 2*maxDataBytes || len(got.Message) > maxMessageBytes || got.Data != nil && !json.Valid(got.Data) {
			t.Errorf("%.20s: got %d bytes of data", line, len(got.Data))
		}
	}
}
