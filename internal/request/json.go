package request

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// This file reads and writes JSON. To read requests, encoding/json would not do. It accepts members that appear twice, and
// merges their lists. It accepts names in any case, down to "filterſ". And it takes several times as long.

// maxDepth is how deep a value may be nested. No request is deeper than two. A message that is nested too deep is no
// request, and is passed to a Message hook all the same.
const maxDepth = 100

var (
	errSyntax   = errors.New("not JSON")
	errBehind   = errors.New("more than one value")
	errNoObject = errors.New("the message must be an object")
)

// A reader reads one JSON text from its beginning to its end. The values that it returns may be views of the text.
type reader struct {
	text string
	pos  int
}

// next skips white space and returns the byte after it, or 0 at the end.
func (r *reader) next() byte {
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
func (r *reader) take(c byte) bool {
	if r.next() != c || c == 0 {
		return false
	}
	r.pos++
	return true
}

// document reads an object that is the whole text. member is called with each name, and reads the value.
func (r *reader) document(member func(name string) error) error {
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
func (r *reader) object(member func(name string) error) error {
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
func (r *reader) list(value func() error) error {
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
func (r *reader) skip(depth int) error {
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
func (r *reader) number() (string, error) {
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
func (r *reader) string() (string, error) {
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
func (r *reader) escaped() (string, error) {
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

// escapes holds how encoding/json writes each ASCII character in a string.
var escapes = func() (list [utf8.RuneSelf]string) {
	for c := range list {
		text, _ := json.Marshal(string(rune(c))) // a string always encodes
		list[c] = string(text[1 : len(text)-1])
	}
	return list
}()

// isPlain holds the bytes that represent themselves in a JSON string, whatever is next to them.
var isPlain = func() (plain [256]bool) {
	for c, text := range escapes {
		plain[c] = len(text) == 1
	}
	return plain
}()

// appendText appends a string as encoding/json writes it. encoding/json itself would take several times as long, and
// memory of its own.
func appendText(dst []byte, s string) []byte {
	dst = append(dst, '"')
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if isPlain[c] {
			i++
			continue
		}
		escape, size := "", 1
		if c < utf8.RuneSelf {
			escape = escapes[c]
		} else {
			var r rune
			switch r, size = utf8.DecodeRuneInString(s[i:]); {
			case r == '\u2028':
				escape = `\u2028`
			case r == '\u2029':
				escape = `\u2029`
			case r == utf8.RuneError && size == 1:
				escape = `\ufffd`
			}
		}
		if escape != "" {
			dst = append(append(dst, s[done:i]...), escape...)
			done = i + size
		}
		i += size
	}
	return append(append(dst, s[done:]...), '"')
}
