package mesherstream

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// malformedRequests are texts that are refused as malformed, at every depth that a request has.
var malformedRequests = []string{
	// A member that is there twice.
	`{"type":"subscribe","type":"subscribe","filters":{}}`,
	`{"type":"subscribe","filters":{},"type":"ack"}`,
	`{"type":"subscribe","typ\u0065":"subscribe","filters":{}}`,
	`{"type":"subscribe","filters":{"level":"debug"},"filters":{"level":"error"}}`,
	`{"type":"subscribe","filters":{"level":"debug"},"filters":{}}`,
	`{"type":"subscribe","filters":{},"f\u0069lters":{}}`,
	`{"type":"subscribe","filters":{"level":"debug","level":"error"}}`,
	`{"type":"subscribe","filters":{"level":["debug"],"level":["debug"]}}`,
	`{"type":"subscribe","filters":{"level":"debug","le\u0076el":"error"}}`,
	`{"type":"subscribe","filters":{"environment":"a","level":"b","environment":"c"}}`,
	`{"filters":{},"type":"subscribe","filters":{}}`,
	`{"type":"publish","type":"publish"}`,
	`{"type":"publish","type":"subscribe","filters":{}}`,
	`{"type":null,"type":"subscribe","filters":{}}`,

	// A name in another case, down to letters that only fold to one.
	`{"Type":"subscribe","filters":{}}`,
	`{"TYPE":"publish"}`,
	`{"t\u0059pe":"publish"}`,
	`{"type":"subscribe","Filters":{"level":"error"}}`,
	`{"type":"subscribe","filterſ":{"level":"error"}}`,
	`{"type":"subscribe","filter\u017f":{"level":"error"}}`,
	`{"type":"subscribe","filters":{"Level":"error"}}`,
	`{"type":"subscribe","filters":{"LEVEL":"error"}}`,
	`{"type":"subscribe","filters":{"Environment":"live"}}`,
	`{"type":"subscribe","TYPE":"subscribe","filters":{}}`,
	`{"type":"subscribe","Type":"x","filters":{}}`,

	// A member that does not belong there.
	`{"type":"subscribe","filters":{},"n":1}`,
	`{"type":"subscribe","filters":{"filters":{}}}`,
	`{"type":"subscribe","filters":{"level":"a","type":"subscribe"}}`,
	`{"type":"subscribe","filters":{"":"a"}}`,
	`{"type":"subscribe","":1,"filters":{}}`,

	// A value of a wrong type.
	`{"type":"subscribe","filters":[]}`,
	`{"type":"subscribe","filters":{"level":{"level":"a"}}}`,
	`{"type":["subscribe"],"filters":{}}`,

	// No JSON, or more than that.
	`{"type":"subscribe","filters":{"level":"a",}}`,
	`{"type":"subscribe","filters":{"level":["a",]}}`,
	`{"type":"subscribe","filters":{"level":["a" "b"]}}`,
	`{"type":"subscribe","filters":{"level" "a"}}`,
	`{"type":"subscribe","filters":{"level":"\x61"}}`,
	`{"type":"subscribe","filters":{"level":"\u00g1"}}`,
	"{\"type\":\"subscribe\",\"filters\":{\"level\":\"a\tb\"}}",
	`{"type":"subscribe","filters":{}},`,
	`{"type":"subscribe","filters":{}}null`,
	`{"type":"subscribe"`,
	`{"type":"subscribe","filters":{"level":"a"`,
	"\uFEFF" + `{"type":"subscribe","filters":{}}`,
	strings.Repeat("[", 4000),
	`{"type":"x","y":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`,
}

// malformedAcks are those of a client with the protocol.
var malformedAcks = []string{
	`{"type":"ack","n":1,"n":1}`,
	`{"type":"ack","n":1,"\u006e":1}`,
	`{"type":"ack","type":"ack","n":1}`,
	`{"type":"ack","N":1}`,
	`{"Type":"ack","n":1}`,
	`{"type":"ack","n":1,"filters":{}}`,
	`{"type":"ack","n":null}`,
	`{"type":"ack","n":01}`,
	`{"type":"ack","n":+1}`,
	`{"type":"ack","n":1e0}`,
	`{"type":"ack","n":[1]}`,
	`{"type":"ack","n":18446744073709551616}`,
}

func TestARequestWithAMemberTooManyOrInAnotherCaseIsMalformed(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start()
		v := w.connectV1("shop?level=fatal")
		for i, text := range append(malformedRequests, malformedAcks...) {
			if i%15 == 14 { // so as not to ask too often
				v.close()
				v = w.connectV1("shop?level=fatal")
			}
			v.send(text)
			if got := v.viewer.next(); !strings.Contains(got, `"code":"malformed"`) || len(got) > 300 {
				w.Errorf("%.100s: got %.300s, want malformed", text, got)
			}
		}
		if got := fmt.Sprint(w.client(v.viewer).Levels); got != "[fatal]" {
			w.Errorf("the filter: got levels %s, want those from before", got)
		}
	})
}

func TestNamesAndValuesMayBeWrittenWithEscapeSequences(t *testing.T) {
	const in = `{"\u0074ype":"subscrib\u0065","f\u0069lters":{"\u006cevel":["\ud83d\ude00","a\/b\b\f\n\r\t\"\\","\ud800","\udc00x\ud800\u0041"]}}`
	kind, err := requestType([]byte(in))
	if kind != typeSubscribe || err != nil {
		t.Fatalf("requestType: got %q, %v", kind, err)
	}
	r, err := parseSubscribe([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"\U0001F600", "a/b\b\f\n\r\t\"\\", "\uFFFD", "\uFFFDx\uFFFDA"}
	if got := r.Filters.Level.values; fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A refusal quotes a name, and must not be a way to have much sent for little.
func TestARefusalIsShortWhateverTheNameIs(t *testing.T) {
	for _, name := range []string{strings.Repeat("<", 4000), strings.Repeat(`\u0000`, 600), strings.Repeat("é", 2000)} {
		_, err := parseSubscribe([]byte(`{"type":"subscribe","` + name + `":1}`))
		if err == nil {
			t.Fatalf("%.20s: got no error", name)
		}
		if frame := refusal("", errorMalformed, err.Error()); len(frame) > 1200 {
			t.Errorf("%.20s: got a refusal of %d bytes", name, len(frame))
		}
	}
}

// FuzzJSONReader compares with encoding/json, which reads the same texts as JSON, and the same strings.
func FuzzJSONReader(f *testing.F) {
	for _, seed := range append(malformedRequests, malformedAcks...) {
		f.Add([]byte(seed))
	}
	for _, seed := range []string{
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
		r := jsonReader{text: string(in)}
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
