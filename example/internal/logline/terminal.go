package logline

import (
	"strings"
	"unicode/utf8"
)

const (
	escape = 0x1b
	bell   = 0x07
)

// clean returns s as a terminal would leave it for reading: valid UTF-8 without escape sequences and without control
// characters other than tabs and line breaks. A backspace takes back the character before it.
func clean(s string) string {
	if isClean(s) {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		if n := sequence(s[i:]); n > 0 {
			i += n
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r == '\b':
			if _, last := utf8.DecodeLastRune(out); len(out) > 0 && out[len(out)-1] != '\n' {
				out = out[:len(out)-last]
			}
		case r == '\t' || r == '\n':
			out = append(out, byte(r))
		case r < ' ' || r >= 0x7f && r < 0xa0:
		default:
			out = utf8.AppendRune(out, r)
		}
	}
	return string(out)
}

func isClean(s string) bool {
	for i := range len(s) {
		if b := s[i]; b < ' ' && b != '\t' && b != '\n' || b >= 0x7f {
			return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
				return r < ' ' && r != '\t' && r != '\n' || r >= 0x7f && r < 0xa0
			})
		}
	}
	return true
}

// sequence returns the length of the control sequence that s begins with, or 0. One that s cuts off reaches to the end
// of s.
func sequence(s string) int {
	switch {
	case s[0] == escape:
		if len(s) == 1 {
			return 1
		}
		return 1 + escaped(s[1], s[1:])
	case strings.HasPrefix(s, "\xc2") && len(s) > 1 && s[1] >= 0x80 && s[1] < 0xa0: // a C1 control, in UTF-8
		return 1 + escaped(s[1]-0x40, s[1:])
	case s[0] >= 0x80 && s[0] < 0xa0: // a C1 control of 8 bits, or a character of a code page
		kind := s[0] - 0x40
		if isString(kind) && terminator(s[1:], kind) < 0 {
			return 0
		}
		return escaped(kind, s)
	}
	return 0
}

// escaped returns the length of what follows an ESC, or of an 8-bit control: s[0] stands for kind.
func escaped(kind byte, s string) int {
	switch {
	case kind == '[' && len(s) > 2 && s[1] == '[': // a function key of the Linux console
		return 3
	case kind == '[':
		i := 1
		for i < len(s) && s[i] >= 0x20 && s[i] <= 0x3f {
			i++
		}
		if i < len(s) && s[i] >= 0x40 && s[i] <= 0x7e {
			i++
		}
		return i
	case kind == ']' && len(s) > 1 && s[1] == 'P': // a colour of the Linux console's palette
		i := 2
		for i < min(len(s), 9) && strings.IndexByte("0123456789abcdefABCDEF", s[i]) >= 0 {
			i++
		}
		return i
	case kind == ']' && len(s) > 1 && s[1] == 'R':
		return 2
	case isString(kind):
		if n := terminator(s[1:], kind); n >= 0 {
			return 1 + n
		}
		return len(s)
	case kind == 'N' || kind == 'O': // the next character is of another set
		if len(s) > 1 && s[1] >= ' ' && s[1] < 0x7f {
			return 2
		}
		return 1
	case kind >= 0x20 && kind <= 0x2f:
		i := 1
		for i < len(s) && s[i] >= 0x20 && s[i] <= 0x2f {
			i++
		}
		if i < len(s) && s[i] >= 0x30 && s[i] <= 0x7e {
			i++
		}
		return i
	case kind >= 0x30 && kind <= 0x7e:
		return 1
	}
	return 0 // ESC before a control character, which counts by itself
}

// isString says whether a control begins a string: DCS, SOS, OSC, PM, APC, and the titles of screen.
func isString(kind byte) bool { return strings.IndexByte("PX]^_k", kind) >= 0 }

// terminator returns where s goes on after the string that it begins with, or -1.
func terminator(s string, kind byte) int {
	for i := range len(s) {
		switch {
		case s[i] == bell && kind == ']':
			return i + 1
		case s[i] == escape && i+1 < len(s) && s[i+1] == '\\':
			return i + 2
		case s[i] == 0xc2 && i+1 < len(s) && s[i+1] == 0x9c:
			return i + 2
		case s[i] == 0x9c && (i == 0 || s[i-1] < 0x80): // otherwise it may be a part of a character
			return i + 1
		case s[i] == 0x18 || s[i] == 0x1a: // CAN and SUB end whatever is under way
			return i + 1
		}
	}
	return -1
}
