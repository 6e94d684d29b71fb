package request

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
)

func TestASubscribeMessageIsReadStrictly(t *testing.T) {
	const head, tail = `{"type":"subscribe","filters":`, `}`
	for in, want := range map[string]string{
		head + `null` + tail:                                   "filters must be an object", // or a mistake would widen the filter
		head + `["error"]` + tail:                              "filters must be an object",
		head + `"error"` + tail:                                "filters must be an object",
		`{"type":"subscribe"}`:                                 "filters is missing",
		head + `{"lvl":"error"}` + tail:                        `unknown field "lvl"`,
		head + `{"Level":"error"}` + tail:                      `unknown field "Level"`,
		`{"type":"subscribe","filters":{},"project":"other"}`:  `unknown field "project"`,
		`{"type":"subscribe","filters":{},"filters":{}}`:       "filters is there twice",
		`{"type":"subscribe","filters":{},"type":"subscribe"}`: "type is there twice",
		head + `{"level":"a","level":"a"}` + tail:              "level is there twice",
		head + `{"level":null}` + tail:                         "a filter is a string or a list of strings",
		head + `{"level":[null]}` + tail:                       "a filter is a string or a list of strings",
		head + `{"level":5}` + tail:                            "a filter is a string or a list of strings",
		head + `{"level":["a",5]}` + tail:                      "a filter is a string or a list of strings",
		head + `{"level":[["a"]]}` + tail:                      "a filter is a string or a list of strings",
		head + `{"level":{"a":"b"}}` + tail:                    "a filter is a string or a list of strings",
		head + `{"level":true}` + tail:                         "a filter is a string or a list of strings",
		head + `{},"last":0` + tail:                            "last must be a whole number from 1 to 1000000",
		head + `{},"last":1000001` + tail:                      "last must be a whole number from 1 to 1000000",
		head + `{},"last":1.5` + tail:                          "last must be a whole number from 1 to 1000000",
		head + `{},"last":"1"` + tail:                          "last must be a whole number from 1 to 1000000",
		head + `{},"last":1e3` + tail:                          "last must be a whole number from 1 to 1000000",
		head + `{}` + tail + `{}`:                              "more than one value",
		head + `{}` + tail + `x`:                               "more than one value",
		head + `{}` + tail + `}`:                               "more than one value",
		head + `{"level":"er`:                                  "not JSON",
		``:                                                     "not JSON",
		`[]`:                                                   "the message must be an object",
	} {
		if q, err := ParseSubscribe([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("ParseSubscribe(%s): got %+v, %v, want the error %q", in, q, err, want)
		}
	}
}

// The filters of a reply can be sent back in a request.
func TestFiltersAreWrittenInTheFormInWhichTheyWereRead(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                              `{"level":"","environment":""}`,
		`{"level":"error"}`:               `{"level":"error","environment":""}`,
		` { "level" : [ ] } `:             `{"level":[],"environment":""}`,
		`{"environment":["a"]}`:           `{"level":"","environment":["a"]}`,
		`{"level":["b","a",""]}`:          `{"level":["b","a",""],"environment":""}`,
		`{"level":"\u00fc\"<"}`:           `{"level":"ü\"\u003c","environment":""}`,
		`{"environment":"a","level":"b"}`: `{"level":"b","environment":"a"}`,
	} {
		q, err := ParseSubscribe([]byte(`{"filters":` + in + `,"last":5}`))
		if err != nil || q.Last != 5 || string(q.Filters.Append(nil)) != want {
			t.Errorf("ParseSubscribe of %s: got %s, %d, %v, want %s and 5", in, q.Filters.Append(nil), q.Last, err, want)
		}
		text, err := json.Marshal(q.Filters)
		if err != nil || string(text) != want {
			t.Errorf("Marshal of %s: got %s, %v, want %s", in, text, err, want)
		}
	}
	both := Filters{Level: Values{List: []string{"a", "b"}}} // a single string was asked for, and both are granted
	if got, want := string(both.Append(nil)), `{"level":["a","b"],"environment":""}`; got != want {
		t.Errorf("two values in place of one: got %s, want %s", got, want)
	}
}

// A message has room for a thousand values.
func TestALongListIsKeptOnlyAsFarAsItTakesToRefuseIt(t *testing.T) {
	for _, n := range []int{MaxValues - 1, MaxValues, MaxValues + 1, 1000} {
		list := strings.Repeat(`"",`, n-1) + `""`
		q, err := ParseSubscribe([]byte(`{"type":"subscribe","filters":{"level":[` + list + `]}}`))
		if want := min(n, MaxValues+1); err != nil || len(q.Filters.Level.List) != want {
			t.Errorf("a list of %d: got %d values, %v, want %d", n, len(q.Filters.Level.List), err, want)
		}
	}
}

func TestAFetchIsReadStrictly(t *testing.T) {
	if gap, err := ParseFetch([]byte(`{"gap":"a\u0062","type":"fetch"}`)); gap != "ab" || err != nil {
		t.Errorf("got %q, %v, want ab", gap, err)
	}
	for in, want := range map[string]string{
		`{"type":"fetch"}`:                     "gap is missing",
		`{"type":"fetch","gap":5}`:             "gap must be a string",
		`{"type":"fetch","gap":null}`:          "gap must be a string",
		`{"type":"fetch","gap":"a","gap":"a"}`: "gap is there twice",
		`{"type":"fetch","gap":"a","id":1}`:    `unknown field "id"`,
		`{"type":"fetch","gap":"a"`:            "not JSON",
	} {
		if gap, err := ParseFetch([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("ParseFetch(%s): got %q, %v, want the error %q", in, gap, err, want)
		}
	}
}

func TestAnAckIsReadStrictly(t *testing.T) {
	for in, want := range map[string]uint64{`{"type":"ack","n":0}`: 0, `{"n": 18446744073709551615 ,"type":"ack"}`: math.MaxUint64} {
		if n, err := ParseAck([]byte(in)); n != want || err != nil {
			t.Errorf("ParseAck(%s): got %d, %v, want %d", in, n, err, want)
		}
	}
	for in, want := range map[string]string{
		`{"type":"ack"}`:                           "n is missing",
		`{"type":"ack","n":-1}`:                    "n must be a whole number",
		`{"type":"ack","n":1.0}`:                   "n must be a whole number",
		`{"type":"ack","n":"1"}`:                   "n must be a whole number",
		`{"type":"ack","n":18446744073709551616}`:  "n must be a whole number",
		`{"type":"ack","n":1,"\u006e":1}`:          "n is there twice",
		`{"type":"ack","n":1,"N":1}`:               `unknown field "N"`,
		`{"type":"ack","n":1}{"type":"ack","n":1}`: "more than one value",
	} {
		if n, err := ParseAck([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("ParseAck(%s): got %d, %v, want the error %q", in, n, err, want)
		}
	}
}

func TestTheTypeOfARequest(t *testing.T) {
	for in, want := range map[string]string{
		`{"type":"subscribe"}`:                "subscribe",
		`{"type":"ack","type":"x"`:            "ack", // ParseAck refuses it
		`{"filters":{},"type":"subscribe"}`:   "subscribe",
		`{"type":"x","other":[1,{"deep":2}]}`: "x",
		`{"type":""}`:                         "",
		`{"type":null}`:                       "",
		`{}`:                                  "",
	} {
		if got, err := Type([]byte(in)); got != want || err != nil {
			t.Errorf("Type(%s): got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{``, `{`, `{"type":5}`, `{"type":["subscribe"]}`, `[]`, `"subscribe"`, `5`, `{"type":"x"}{}`, `{"type":"x","type":"x"}`, `{"TYPE":"x"}`, `{type:"x"}`, "\x00"} {
		if got, err := Type([]byte(in)); err == nil {
			t.Errorf("Type(%q): got %q without an error", in, got)
		}
	}
}

func TestNamesAndValuesMayBeWrittenWithEscapeSequences(t *testing.T) {
	const in = `{"\u0074ype":"subscrib\u0065","f\u0069lters":{"\u006cevel":["\ud83d\ude00","a\/b\b\f\n\r\t\"\\","\ud800","\udc00x\ud800\u0041"]}}`
	kind, err := Type([]byte(in))
	if kind != TypeSubscribe || err != nil {
		t.Fatalf("Type: got %q, %v", kind, err)
	}
	r, err := ParseSubscribe([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"\U0001F600", "a/b\b\f\n\r\t\"\\", "\uFFFD", "\uFFFDx\uFFFDA"}
	if got := r.Filters.Level.List; fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
