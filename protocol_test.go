package mesherstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mesher/mesherstream/internal/request"
	"github.com/mesher/mesherstream/internal/wsframe"
)

func list(n int, value string) string {
	return "[" + strings.TrimSuffix(strings.Repeat(`"`+value+`",`, n), ",") + "]"
}

func TestASubscribeMessageIsAnsweredInItsOwnForm(t *testing.T) {
	levels := func(v ...string) Filter { return Filter{Levels: v} }
	const head, tail = `{"type":"subscribe","filters":`, `}`
	for _, tt := range []struct {
		name, in string
		want     Filter
		answer   string // of the filters
		invalid  bool   // it is read, but it is not a valid filter
	}{
		{name: "string", in: head + `{"level":"error"}` + tail, want: levels("error"), answer: `{"level":"error","environment":""}`},
		{
			name: "both", in: head + `{"level":"error","environment":"production"}` + tail,
			want: Filter{Levels: []string{"error"}, Environments: []string{"production"}}, answer: `{"level":"error","environment":"production"}`,
		},
		{name: "list", in: head + `{"level":["fatal","error"]}` + tail, want: levels("error", "fatal"), answer: `{"level":["error","fatal"],"environment":""}`},
		{name: "list of one", in: head + `{"level":["error"]}` + tail, want: levels("error"), answer: `{"level":["error"],"environment":""}`},
		{name: "repetitions", in: head + `{"level":["a","a","","a"]}` + tail, want: levels("a"), answer: `{"level":["a"],"environment":""}`},
		{name: "empty list", in: head + `{"level":[]}` + tail, answer: `{"level":[],"environment":""}`},
		{name: "list of an empty string", in: head + `{"level":[""]}` + tail, answer: `{"level":[],"environment":""}`},
		{name: "empty string", in: head + `{"level":""}` + tail, answer: `{"level":"","environment":""}`},
		{name: "empty filters", in: head + `{}` + tail, answer: `{"level":"","environment":""}`},
		{name: "white space around", in: " \n" + head + `{}` + tail + "\t\r\n ", answer: `{"level":"","environment":""}`},
		{name: "characters that JSON escapes", in: head + `{"level":"a\"\\\u00fc"}` + tail, want: levels(`a"\ü`), answer: `{"level":"a\"\\ü","environment":""}`},
		{name: "16 values", in: head + `{"level":` + list(16, "a") + `}` + tail, want: levels("a"), answer: `{"level":["a"],"environment":""}`},
		{name: "64 bytes", in: head + `{"level":"` + strings.Repeat("x", 64) + `"}` + tail, want: levels(strings.Repeat("x", 64)), answer: `{"level":"` + strings.Repeat("x", 64) + `","environment":""}`},

		{name: "17 values", in: head + `{"level":` + list(17, "a") + `}` + tail, invalid: true},
		{name: "17 environments", in: head + `{"environment":` + list(17, "a") + `}` + tail, invalid: true},
		{name: "65 bytes", in: head + `{"level":"` + strings.Repeat("x", 65) + `"}` + tail, invalid: true},
		{name: "65 bytes in a list", in: head + `{"level":["a","` + strings.Repeat("x", 65) + `"]}` + tail, invalid: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := request.ParseSubscribe([]byte(tt.in))
			if err != nil {
				t.Fatalf("ParseSubscribe(%s): %v", tt.in, err)
			}
			got, err := filterOf(&r.Filters)
			if errors.Is(err, ErrInvalidFilter) != tt.invalid {
				t.Fatalf("filter of %s: got %v, want ErrInvalidFilter: %v", tt.in, err, tt.invalid)
			}
			if tt.invalid {
				return
			}
			if !slices.Equal(got.Levels, tt.want.Levels) || !slices.Equal(got.Environments, tt.want.Environments) {
				t.Errorf("filter of %s: got %+v, want %+v", tt.in, got, tt.want)
			}
			want := string(wsframe.Append(nil, wsframe.OpText, []byte(`{"type":"filters_updated","filters":`+tt.answer+`,"filtered":0}`)))
			if got := string(filtersUpdated(new([]byte), r.Filters, got, "", "", 0)); got != want {
				t.Errorf("answer to %s: got %q, want %q", tt.in, got, want)
			}
		})
	}
}

// A refusal quotes a name. It must not be a way to make the server send much in return for little.
func TestARefusalIsShortWhateverTheNameIs(t *testing.T) {
	for _, name := range []string{strings.Repeat("<", 4000), strings.Repeat(`\u0000`, 600), strings.Repeat("é", 2000)} {
		_, err := request.ParseSubscribe([]byte(`{"type":"subscribe","` + name + `":1}`))
		if err == nil {
			t.Fatalf("%.20s: got no error", name)
		}
		if frame := refusal("", errorMalformed, err.Error()); len(frame) > 1200 {
			t.Errorf("%.20s: got a refusal of %d bytes", name, len(frame))
		}
	}
}

func TestAnErrorAnswerIsOneJSONObject(t *testing.T) {
	for _, text := range []string{"plain", `with "quotes"`, "with <html> & \u2028", "\xFF no UTF-8"} {
		frame := refusal("", errorMalformed, text)
		var got map[string]string
		if err := json.Unmarshal(frame[wsframe.HeaderLen(len(frame)-2):], &got); err != nil {
			t.Errorf("refusal(%q): got %q: %v", text, frame, err)
			continue
		}
		if want := strings.ToValidUTF8(text, "\uFFFD"); len(got) != 3 || got["type"] != "error" || got["code"] != "malformed" || got["message"] != want {
			t.Errorf("refusal(%q): got %v, want type error, code malformed and that message", text, got)
		}
	}
}

func TestAFilterIsNarrowedToItsGrant(t *testing.T) {
	type l = []string
	for _, tt := range []struct{ asked, granted, want l }{
		{nil, nil, nil},
		{l{"a"}, nil, l{"a"}},
		{nil, l{"a"}, l{"a"}},
		{l{"a", "b"}, l{"b", "c"}, l{"b"}},
		{l{"a"}, l{"a"}, l{"a"}},
	} {
		for _, pair := range [][3]Filter{
			{{Levels: tt.asked}, {Levels: tt.granted}, {Levels: tt.want}},
			{{Environments: tt.asked}, {Environments: tt.granted}, {Environments: tt.want}},
		} {
			got, err := pair[0].within(pair[1])
			if err != nil || fmt.Sprint(got) != fmt.Sprint(pair[2]) {
				t.Errorf("%+v within %+v: got %+v, %v, want %+v", pair[0], pair[1], got, err, pair[2])
			}
		}
	}
	granted := Filter{Levels: l{"error"}, Environments: l{"production"}}
	for _, asked := range []Filter{{Levels: l{"debug"}}, {Environments: l{"staging"}}, {Levels: l{"error"}, Environments: l{"staging"}}} {
		if got, err := asked.within(granted); !errors.Is(err, ErrNotGranted) {
			t.Errorf("%+v within %+v: got %+v, %v, want ErrNotGranted", asked, granted, got, err)
		}
	}
}

func TestTheKeyOfASubscriptionIsItsOwn(t *testing.T) {
	type l = []string
	seen := map[string]Subscription{}
	for _, s := range []Subscription{
		{},
		{Project: "a"},
		{Project: `a"`},
		{Project: `a"|"b`},
		{Project: "|"},
		{Project: "a", Filter: Filter{Levels: l{"b"}}},
		{Project: "a", Filter: Filter{Environments: l{"b"}}},
		{Project: "a", Filter: Filter{Levels: l{"b", "c"}}},
		{Project: "a", Filter: Filter{Levels: l{`b""c`}}},
		{Project: "a", Filter: Filter{Levels: l{"bc"}}},
		{Project: "a", Filter: Filter{Levels: l{"b"}, Environments: l{"c"}}},
		{Project: "\xFF"},
		{Project: "\uFFFD"},
	} {
		if other, ok := seen[s.key()]; ok {
			t.Errorf("key of %+v: got that of %+v", s, other)
		}
		seen[s.key()] = s
	}
}

// FuzzSubscribe: any request of a client is either refused, or results in a filter within the bounds, and the reply
// says which.
func FuzzSubscribe(f *testing.F) {
	for _, seed := range []string{
		`{"type":"subscribe","filters":{"level":"error","environment":["production","staging"]}}`,
		`{"type":"subscribe"}`, `{"type":"subscribe","filters":null}`, `{"type":"subscribe","filters":{"level":null}}`,
		`{"type":"subscribe","filters":{"level":[]}}`, `{"type":"subscribe","filters":{"level":["",""]}}`, `{"filters":{"x":1}}`, `{}{}`, `[`, ``,
		`{"type":"subscribe","filters":{"level":"\ud800"}}`, `{"TYPE":"subscribe","Filters":{"LEVEL":"a"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		kind, typeErr := request.Type(in)
		r, err := request.ParseSubscribe(in)
		if err == nil && typeErr != nil {
			t.Errorf("ParseSubscribe(%q) takes what Type refuses: %v", in, typeErr)
		}
		if err != nil || kind != request.TypeSubscribe {
			return
		}
		filter, err := filterOf(&r.Filters)
		if err != nil {
			if !errors.Is(err, ErrInvalidFilter) {
				t.Errorf("filter of %q: got %v, want ErrInvalidFilter", in, err)
			}
			return
		}
		checkFilter(t, filter)
		again, err := filter.normalize()
		if err != nil || !slices.Equal(again.Levels, filter.Levels) || !slices.Equal(again.Environments, filter.Environments) {
			t.Errorf("normalized again: got %+v, %v, want %+v", again, err, filter)
		}

		// The reply reports the same filter, in a form that could be sent back.
		frame := filtersUpdated(new([]byte), r.Filters, filter, "", "", 3)
		text := bytes.Replace(frame[headerOf(frame):], []byte(`,"filtered":3}`), []byte("}"), 1)
		answer, err := request.ParseSubscribe(text)
		if kind, _ := request.Type(text); err != nil || kind != typeFiltersUpdated {
			t.Fatalf("answer to %q: got %q: %v", in, frame, err)
		}
		if told, err := filterOf(&answer.Filters); err != nil || !slices.Equal(told.Levels, filter.Levels) || !slices.Equal(told.Environments, filter.Environments) {
			t.Errorf("answer to %q: got %q, %v, want %+v in it", in, frame, err, filter)
		}
		if frame := refusal("", errorMalformed, string(in)); !json.Valid(frame[headerOf(frame):]) {
			t.Errorf("refusal that quotes %q is no JSON", in)
		}
	})
}

// headerOf returns the length of the header of a frame that the server wrote.
func headerOf(frame []byte) int {
	switch frame[1] {
	case 126:
		return 4
	case 127:
		return 10
	default:
		return 2
	}
}

func checkFilter(t *testing.T, f Filter) {
	t.Helper()
	for _, values := range [][]string{f.Levels, f.Environments} {
		if len(values) > maxFilterValues || !slices.IsSorted(values) {
			t.Errorf("filter: got %q, want at most %d values, sorted", values, maxFilterValues)
		}
		for i, v := range values {
			if v == "" || len(v) > maxFilterValueBytes || !utf8.ValidString(v) || i > 0 && v == values[i-1] {
				t.Errorf("filter: got value %q, want valid ones, each once", v)
			}
		}
	}
}
