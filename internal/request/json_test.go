package request

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzJSONReader compares with encoding/json: both must accept the same texts as JSON, and read the same strings.
func FuzzJSONReader(f *testing.F) {
	for _, seed := range []string{
		`{"type":"subscribe","filters":{"level":"a","level":"b"}}`, `{"type":"ack","n":1,"\u006e":1}`, `{"type":"subscribe","filters":{}}null`,
		`{"type":"x","a":[1,-0.5e+3,0,1E9,true,false,null,"",{}],"b":"\ud83d\ude00\ud800"}`, `{"a":-}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`,
		`{"a":nul}`, `{"a":truefalse}`, ` { "a" : [ ] } `, `{"a":"\u+123"}`, `{"a":"\u12"}`, `{"a":"\`, `{"a":"\"`, `{"type":"a\u0000b"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		depth, deepest := 0, 0
		for _, c := range in {
			switch c {
			case '{', '[':
				depth++
				deepest = max(deepest, depth)
			case '}', ']':
				depth--
			}
		}
		if deepest > maxDepth {
			return
		}
		var names []string
		r := reader{text: string(in)}
		err := r.document(func(name string) error {
			names = append(names, strings.ToValidUTF8(name, "\uFFFD"))
			return r.skip(1)
		})
		var want map[string]json.RawMessage
		wantErr := json.Unmarshal(in, &want)
		isNull := strings.TrimSpace(string(in)) == "null" // which Unmarshal takes for an object
		if (err == nil) != (wantErr == nil) && !isNull {
			t.Fatalf("%q: got %v, encoding/json says %v", in, err, wantErr)
		}
		for _, name := range names {
			if _, ok := want[name]; err == nil && !ok && !strings.Contains(name, "\uFFFD") { // of which there may be more or fewer
				t.Errorf("%q: got member %q, want one of %v", in, name, want)
			}
		}
		s := string(in)
		text, _ := json.Marshal(s)
		if got := appendText(nil, s); string(got) != string(text) {
			t.Errorf("appendText(%q): got %s, want %s", in, got, text)
		}
	})
}

// encoding/json is what says how a text is written: each byte, each character, and each of them beside others.
func TestATextIsWrittenAsEncodingJSONWritesIt(t *testing.T) {
	check := func(text string) {
		t.Helper()
		want, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendText([]byte("before"), text); string(got) != "before"+string(want) {
			t.Errorf("%q: got %s, want before%s", text, got, want)
		}
	}
	for c := range 256 {
		check(string([]byte{byte(c)}))
		check("a" + string([]byte{byte(c)}) + "é")
		check(string([]byte{0xE2, byte(c), 0xA8}))
		check(string([]byte{0xE2, 0x80, byte(c)}))
	}
	for r := range rune(0x3000) {
		check("<" + string(r) + "x")
	}
	check("\U0001F600\U0010FFFF")
}

func TestWritingATextAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 4<<10)
	for _, text := range []string{"plain", "é", "<", "\b", "\u2028", "\x7f", "\xff", `"`, "\U0001F600"} {
		text = strings.Repeat(text, 64)
		if got := testing.AllocsPerRun(10, func() { appendText(dst, text) }); got != 0 {
			t.Errorf("%.8q: got %v allocations, want 0", text, got)
		}
	}
}
