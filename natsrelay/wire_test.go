package natsrelay

import (
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/nats-io/nats.go"
)

func TestEachProjectHasASubjectOfItsOwn(t *testing.T) {
	sum := sha256.Sum256([]byte(strings.Repeat("x", 385)))
	for project, want := range map[string]string{
		"":                       "mesherstream.all",
		"all":                    "mesherstream.project.all",
		"shop":                   "mesherstream.project.shop",
		"a.b":                    "mesherstream.project.a%2Eb",
		"*":                      "mesherstream.project.%2A",
		">":                      "mesherstream.project.%3E",
		"a b\t\r\n":              "mesherstream.project.a%20b%09%0D%0A",
		"café":                   "mesherstream.project.caf%C3%A9",
		"50%":                    "mesherstream.project.50%25",
		"$SYS":                   "mesherstream.project.%24SYS",
		"\xFF\x00":               "mesherstream.project.%FF%00",
		strings.Repeat("é", 64):  "mesherstream.project." + strings.Repeat("%C3%A9", 64), // 128 bytes, the longest of a path
		strings.Repeat("x", 384): "mesherstream.project." + strings.Repeat("x", 384),
		strings.Repeat("x", 385): "mesherstream.project.+" + hex.EncodeToString(sum[:]),
	} {
		got := subject("mesherstream", project)
		if got != want {
			t.Errorf("subject(%q): got %q, want %q", project, got, want)
		}
	}
}

func FuzzSubject(f *testing.F) {
	f.Add("shop", "a.b")
	f.Add("*", ">")
	f.Add("+", "%2B")
	f.Add(strings.Repeat(".", 128), strings.Repeat(".", 129))
	f.Fuzz(func(t *testing.T, a, b string) {
		sa, sb := subject("p", a), subject("p", b)
		if (sa == sb) != (a == b) {
			t.Fatalf("subjects of %q and %q: got %q and %q", a, b, sa, sb)
		}
		if a == "" {
			return
		}
		token, ok := strings.CutPrefix(sa, "p.project.")
		if !ok || token == "" || len(token) > maxTokenBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || r == '.' || r == '*' || r == '>' }) {
			t.Fatalf("subject(%q): got %q, want one plain token", a, sa)
		}
		if token[0] != '+' && unescape(token) != a {
			t.Fatalf("unescape(%q): got %q, want %q", token, unescape(token), a)
		}
	})
}

// The test goes field by field, so that a new field of Message is not forgotten.
func TestEveryFieldOfAMessageIsOnTheWire(t *testing.T) {
	for _, text := range []string{"plain", "with space ", "line\r\nbreak: x", "café", "100%", "\xFF"} {
		want := mesherstream.RelayMessage{Node: "n", Seq: 1<<64 - 1}
		fields := reflect.ValueOf(&want.Message).Elem()
		for i := range fields.NumField() {
			switch f := fields.Field(i); f.Interface().(type) {
			case string:
				f.SetString(text)
			case []byte:
				f.SetBytes([]byte(text))
			case bool:
				f.SetBool(true)
			case time.Time:
				f.Set(reflect.ValueOf(time.Unix(1, 2).UTC()))
			default:
				t.Fatalf("no value for %s", fields.Type().Field(i).Name)
			}
		}
		got := decode(overTheWire(t, encoded(t, &want)))
		want.Project = "" // the subscription determines it
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		empty := mesherstream.RelayMessage{Node: "n", Seq: 1, Message: mesherstream.Message{Data: []byte{}}}
		if got := decode(overTheWire(t, encoded(t, &empty))); !reflect.DeepEqual(got, empty) {
			t.Errorf("got %+v, want %+v", got, empty)
		}
	}
}

// overTheWire writes and reads the headers as NATS does.
func overTheWire(t *testing.T, msg *nats.Msg) *nats.Msg {
	t.Helper()
	var b strings.Builder
	b.WriteString("NATS/1.0\r\n")
	for name, values := range msg.Header {
		for _, v := range values {
			if strings.TrimSpace(v) != v || strings.ContainsAny(v, "\r\n") {
				t.Errorf("header %s: got %q, want nothing that a header can't carry", name, v)
			}
			b.WriteString(name + ": " + v + "\r\n")
		}
	}
	b.WriteString("\r\n")
	h, err := nats.DecodeHeadersMsg([]byte(b.String()))
	if err != nil {
		t.Fatalf("headers of %+v: %v", msg.Header, err)
	}
	return &nats.Msg{Header: h, Data: msg.Data}
}

func TestAnInvalidOptionPanics(t *testing.T) {
	conn := new(nats.Conn)
	for name, opts := range map[string][]Option{
		`WithPrefix("")`:      {WithPrefix("")},
		`WithPrefix("a..b")`:  {WithPrefix("a..b")},
		`WithPrefix("a.>")`:   {WithPrefix("a.>")},
		`WithPrefix("a b")`:   {WithPrefix("a b")},
		`WithPrefix("xx`:      {WithPrefix(strings.Repeat("x", 129))},
		`WithPending(0)`:      {WithPending(0)},
		`WithPending(1000001`: {WithPending(1_000_001)},
		"New(nil)":            nil,
	} {
		func() {
			defer func() {
				if err, ok := recover().(error); !ok || !strings.Contains(err.Error(), name) {
					t.Errorf("got panic %v, want an error that names %s", err, name)
				}
			}()
			if name == "New(nil)" {
				New(nil)
			}
			New(conn, opts...)
		}()
	}
	New(conn, nil, WithPrefix("bad prefix"), WithPrefix("a.b-c_D9"), WithPending(1), WithPending(1_000_000))
}

// encoded is m as NATS gets it, which has to have the size that is reckoned with.
func encoded(t *testing.T, m *mesherstream.RelayMessage) *nats.Msg {
	t.Helper()
	e, size := encode("p", m)
	if want := e.Size() - len(e.Subject); size != want {
		t.Errorf("%+v: got a size of %d, want %d", m, size, want)
	}
	return &e.Msg
}

// What publishing costs is mostly what it allocates, and nats.go has its share beside that.
func TestEncodingAllocatesLittle(t *testing.T) {
	m := mesherstream.RelayMessage{Node: "0123456789abcdef", Seq: 1 << 40, Message: mesherstream.Message{
		Project: "shop", Level: "error", Environment: "production", Key: "cart", Data: make([]byte, 512),
	}}
	const most = 4 // the subject, and the number as text; the pool gives some up to the garbage collector, and more under -race
	if got := testing.AllocsPerRun(1000, func() {
		e, _ := encode("mesherstream", &m)
		e.release()
	}); got > most {
		t.Errorf("got %v allocations, want at most %d", got, most)
	}
}

func TestAnEnvelopeIsEmptyWhenItIsUsedAgain(t *testing.T) {
	full := mesherstream.RelayMessage{Node: "n", Seq: 1, Message: mesherstream.Message{
		Project: "shop", Level: "error", Environment: "production", Key: "cart", Data: []byte("x"), Binary: true,
	}}
	e, _ := encode("p", &full)
	e.release()
	if len(e.Header) > 0 || e.Subject != "" || e.Data != nil || e.values != [6]string{} {
		t.Errorf("got %+v, want nothing of the message before", e)
	}
}
