package mesherstream

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// This file reads requests. encoding/json would not do. It accepts members that appear twice, and merges their lists.
// It accepts names in any case, down to "filterſ". And it takes several times as long.

// maxDepth is how deep a value may be nested. No request is deeper than two. A message that is nested too deep is no
// request, and is passed to a Message hook all the same.
const maxDepth = 100

var (
	errSyntax   = errors.New("not JSON")
	errBehind   = errors.New("more than one value")
	errNoObject = errors.New("the message must be an object")
)

// A jsonReader reads one JSON text from its beginning to its end. The values that it returns may be views of the text.
type jsonReader struct {
	text string
	pos  int
}

// next skips white space and returns the byte after it, or 0 at the end.
func (r *jsonReader) next() byte {
	for ; r.pos < len(r.text); r.pos++ {
		switch c := r.text[r.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// take reads c if it comes next.
func (r *jsonReader) take(c byte) bool {
	if r.next() != c || c == 0 {
		return false
	}
	r.pos++
	return true
}

// document reads an object that is the whole text. member is called with each name, and reads the value.
func (r *jsonReader) document(member func(name string) error) error {
	switch {
	case r.next() == '{':
	case r.skip(0) != nil:
		return errSyntax
	default:
		return errNoObject
	}
	if err := r.object(member); err != nil {
		return err
	}
	if r.next(); r.pos < len(r.text) {
		return errBehind
	}
	return nil
}

// object reads an object, of which the first brace comes next.
func (r *jsonReader) object(member func(name string) error) error {
	r.pos++
	if r.take('}') {
		return nil
	}
	for {
		name, err := r.string()
		if err != nil {
			return err
		}
		if !r.take(':') {
			return errSyntax
		}
		if err := member(name); err != nil {
			return err
		}
		switch {
		case r.take('}'):
			return nil
		case !r.take(','):
			return errSyntax
		}
	}
}

// list reads a list, of which the first bracket comes next. value reads each value.
func (r *jsonReader) list(value func() error) error {
	r.pos++
	if r.take(']') {
		return nil
	}
	for {
		if err := value(); err != nil {
			return err
		}
		switch {
		case r.take(']'):
			return nil
		case !r.take(','):
			return errSyntax
		}
	}
}

// skip reads a value of any kind, at that depth.
func (r *jsonReader) skip(depth int) error {
	if depth > maxDepth {
		return errSyntax
	}
	switch c := r.next(); {
	case c == '{':
		return r.object(func(string) error { return r.skip(depth + 1) })
	case c == '[':
		return r.list(func() error { return r.skip(depth + 1) })
	case c == '"':
		_, err := r.string()
		return err
	case c == '-' || c >= '0' && c <= '9':
		_, err := r.number()
		return err
	}
	for _, word := range [...]string{"null", "true", "false"} {
		if strings.HasPrefix(r.text[r.pos:], word) {
			r.pos += len(word)
			return nil
		}
	}
	return errSyntax
}

// number reads a number and returns it as it is written.
func (r *jsonReader) number() (string, error) {
	start := r.pos
	digits := func() bool {
		from := r.pos
		for r.pos < len(r.text) && r.text[r.pos] >= '0' && r.text[r.pos] <= '9' {
			r.pos++
		}
		return r.pos > from
	}
	at := func(set string) bool {
		if r.pos < len(r.text) && strings.IndexByte(set, r.text[r.pos]) >= 0 {
			r.pos++
			return true
		}
		return false
	}
	at("-")
	ok := at("0") || digits()
	if ok && at(".") {
		ok = digits()
	}
	if ok && at("eE") {
		at("+-")
		ok = digits()
	}
	if !ok {
		return "", errSyntax
	}
	return r.text[start:r.pos], nil
}

// string reads a string. Only one with escape sequences is a copy.
func (r *jsonReader) string() (string, error) {
	if !r.take('"') {
		return "", errSyntax
	}
	text := r.text[r.pos:]
	for i := 0; i < len(text); i++ {
		if isPlain[text[i]] {
			continue
		}
		switch c := text[i]; {
		case c == '"':
			r.pos += i + 1
			return text[:i], nil
		case c == '\\':
			return r.escaped()
		case c < ' ':
			return "", errSyntax
		}
	}
	return "", errSyntax
}

// escaped reads the rest of a string that has escape sequences.
func (r *jsonReader) escaped() (string, error) {
	start := r.pos
	for ; r.pos < len(r.text); r.pos++ {
		switch c := r.text[r.pos]; {
		case c == '"':
			r.pos++
			return unescape(r.text[start : r.pos-1])
		case c == '\\':
			r.pos++ // an escaped character may be a quotation mark
		case c < ' ':
			return "", errSyntax
		}
	}
	return "", errSyntax
}

// unescape returns the meaning of a string with escape sequences, in one allocation: a request may have a thousand of
// them.
func unescape(s string) (string, error) {
	var b strings.Builder
	b.Grow(len(s))
	for {
		for ; s != "" && s[0] != '\\'; s = s[1:] {
			b.WriteByte(s[0])
		}
		switch len(s) {
		case 0:
			return b.String(), nil
		case 1:
			return "", errSyntax
		}
		c := s[1]
		s = s[2:]
		switch c {
		case '"', '\\', '/':
			b.WriteByte(c)
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'u':
			unit, ok := codeUnit(s)
			if !ok {
				return "", errSyntax
			}
			s = s[4:]
			if utf16.IsSurrogate(unit) {
				low, ok := rune(0), false
				if strings.HasPrefix(s, `\u`) {
					low, ok = codeUnit(s[2:])
				}
				if unit = utf16.DecodeRune(unit, low); ok && unit != utf8.RuneError {
					s = s[6:]
				}
			}
			b.WriteRune(unit)
		default:
			return "", errSyntax
		}
	}
}

// codeUnit reads the four digits of an escape sequence.
func codeUnit(s string) (unit rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for _, c := range []byte(s[:4]) {
		switch {
		case c >= '0' && c <= '9':
			unit = unit<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			unit = unit<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			unit = unit<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return unit, true
}

// errEnough ends a reading early.
var errEnough = errors.New("enough is known")

// requestType returns the type of a client's message, or "" if it has none. It fails if the message is not a JSON
// object, or if its type is ambiguous. It looks no further than the first type if that is one of the protocol's: the
// function that then reads the request refuses any mistake in the rest.
func requestType(data []byte) (string, error) {
	r := jsonReader{text: string(data)}
	kind, seen, twice := "", false, false
	err := r.document(func(name string) error {
		switch {
		case name == "type" && !seen:
			seen = true
			if r.next() == 'n' {
				return r.skip(1) // null
			}
			var err error
			if kind, err = r.string(); kind == typeSubscribe || kind == typeAck || kind == typeFetch {
				return errEnough
			}
			return err
		case name == "type":
			twice = true
		case strings.EqualFold(name, "type"):
			return unknownField(name)
		}
		return r.skip(1)
	})
	switch {
	case errors.Is(err, errEnough):
		return kind, nil
	case err == nil && twice:
		err = errTwice("type")
	}
	if err != nil {
		return "", err
	}
	return kind, nil
}

func unknownField(name string) error { return fmt.Errorf("unknown field %.64q", name) }

func errTwice(name string) error { return fmt.Errorf("%s is there twice", name) }

// A field is a member that an object may have, together with the function that reads its value.
type field struct {
	name string
	read func(r *jsonReader) error
	seen bool
}

// readMember reads a member into its field. An unknown member, or one that appears twice, is refused: otherwise a
// misspelt name would widen a filter without notice.
func readMember(r *jsonReader, name string, fields []field) error {
	for i := range fields {
		f := &fields[i]
		switch {
		case f.name != name:
			continue
		case f.seen:
			return errTwice(name)
		}
		f.seen = true
		return f.read(r)
	}
	return unknownField(name)
}

// parseSubscribe reads a subscribe message.
func parseSubscribe(data []byte) (subscribeRequest, error) {
	var q subscribeRequest
	r := jsonReader{text: string(data)}
	fields := [...]field{
		{name: "type", read: readText(&q.Type)},
		{name: "filters", read: func(r *jsonReader) error {
			q.Filters = new(wireFilters)
			return q.Filters.read(r)
		}},
		{name: "last", read: func(r *jsonReader) (err error) {
			r.next()
			text, err := r.number()
			if err != nil {
				return errNoLast
			}
			if q.Last, err = strconv.Atoi(text); err != nil || q.Last < 1 || q.Last > maxLast {
				return errNoLast
			}
			return nil
		}},
	}
	if err := r.document(func(name string) error { return readMember(&r, name, fields[:]) }); err != nil {
		return q, err
	}
	if q.Filters == nil {
		return q, errors.New("filters is missing")
	}
	return q, nil
}

// parseFetch reads a fetch message, and returns the ID of the gap.
func parseFetch(data []byte) (gap string, err error) {
	r := jsonReader{text: string(data)}
	var kind string
	fields := [...]field{
		{name: "type", read: readText(&kind)},
		{name: "gap", read: func(r *jsonReader) (err error) {
			if r.next() != '"' {
				return errNoGap
			}
			gap, err = r.string()
			return err
		}},
	}
	if err := r.document(func(name string) error { return readMember(&r, name, fields[:]) }); err != nil {
		return "", err
	}
	if !fields[1].seen {
		return "", errors.New("gap is missing")
	}
	return gap, nil
}

// parseAck reads an ack.
func parseAck(data []byte) (n uint64, err error) {
	r := jsonReader{text: string(data)}
	var kind string
	fields := [...]field{
		{name: "type", read: readText(&kind)},
		{name: "n", read: func(r *jsonReader) (err error) {
			r.next()
			text, err := r.number()
			if err != nil {
				return errNoCount
			}
			if n, err = strconv.ParseUint(text, 10, 64); err != nil {
				return errNoCount
			}
			return nil
		}},
	}
	if err := r.document(func(name string) error { return readMember(&r, name, fields[:]) }); err != nil {
		return 0, err
	}
	if !fields[1].seen {
		return 0, errors.New("n is missing")
	}
	return n, nil
}

var (
	errNoCount   = errors.New("n must be a whole number")
	errNoGap     = errors.New("gap must be a string")
	errNoLast    = fmt.Errorf("last must be a whole number from 1 to %d", maxLast)
	errNoFilters = errors.New("filters must be an object")
	errNoStrings = errors.New("a filter is a string or a list of strings")
)

func readText(into *string) func(*jsonReader) error {
	return func(r *jsonReader) (err error) {
		*into, err = r.string()
		return err
	}
}

func (f *wireFilters) read(r *jsonReader) error {
	if r.next() != '{' {
		return errNoFilters
	}
	fields := [...]field{{name: "level", read: f.Level.read}, {name: "environment", read: f.Environment.read}}
	return r.object(func(name string) error { return readMember(r, name, fields[:]) })
}

// read keeps one value more than a filter may have, which is enough for the filter to be refused.
func (v *wireValues) read(r *jsonReader) error {
	one := func() error {
		if r.next() != '"' {
			return errNoStrings
		}
		s, err := r.string()
		if len(v.values) <= maxFilterValues {
			v.values = append(v.values, s)
		}
		return err
	}
	if v.isList = r.next() == '['; !v.isList {
		return one()
	}
	v.values = make([]string, 0, maxFilterValues+1)
	return r.list(one)
}

// The bounds of a client's requests to its shard: that many requests at once, and that many more for each second since
// it connected. A client saves up the requests of a minute at most. Beyond that, it is closed with code 1008.
//
// Counting the requests within a second would not do. The network, or this process, may stall, and then the requests
// that a client has sent at its normal pace for half a minute are read at once. The savings are the requests that such
// a client has not used meanwhile. They don't add to the cost of a client in the long run, and since a turn of the
// shard reads one request of each client, no client waits for more than one of them.
const (
	maxRequestsPerSecond = 20
	maxRequestsSaved     = 60 * maxRequestsPerSecond

	requestPrice = time.Second / maxRequestsPerSecond
	mostSaved    = maxRequestsSaved * requestPrice
	savedAtFirst = time.Second
)

// pay charges the client for a request, and returns false if it can't pay. The currency is time: each client earns the
// time that passes, and a request costs a twentieth of a second.
func (c *client) pay(now time.Time) bool {
	earned := now.Sub(c.connectedAt) // on the monotonic clock
	paid := max(c.paid, earned-(mostSaved-savedAtFirst))
	if paid-earned > savedAtFirst-requestPrice {
		return false
	}
	c.paid = paid + requestPrice
	return true
}
