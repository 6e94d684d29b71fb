package logline

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// pair is one key and its value in logfmt, and where in the line it stands.
type pair struct {
	key, value string
	start, end int
}

// logfmt reads the pairs of a line such as
//
//	time=2026-11-23T18:31:01Z level=warn msg="slow query" ms=900
//
// and returns the text before the first of them. A value that is cut, inside its quotes, is read as far as it goes.
func logfmt(line string) (before string, pairs []pair) {
	before = line
	for i := 0; i < len(line); {
		if line[i] == ' ' || line[i] == '\t' {
			i++
			continue
		}
		key := i
		for i < len(line) && isKey(line[i]) {
			i++
		}
		if i == key || i == len(line) || line[i] != '=' {
			for i < len(line) && line[i] != ' ' && line[i] != '\t' {
				i++
			}
			continue
		}
		name := line[key:i]
		value, n := logfmtValue(line[i+1:])
		i += 1 + n
		if pairs == nil {
			before = strings.TrimSpace(line[:key])
		}
		pairs = append(pairs, pair{name, value, key, i})
		if len(pairs) == 100 {
			break
		}
	}
	return before, pairs
}

func isKey(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("_.-@/", b) >= 0
}

// logfmtValue reads the value that s begins with, and says how long it is.
func logfmtValue(s string) (value string, n int) {
	if s == "" || s[0] != '"' && s[0] != '\'' {
		if n = strings.IndexAny(s, " \t"); n < 0 {
			n = len(s)
		}
		return s[:n], n
	}
	quote := s[0]
	for n = 1; n < len(s); n++ {
		switch {
		case s[n] == '\\':
			n++
		case s[n] == quote:
			return unquote(s[1:n]), n + 1
		}
	}
	return unquote(s[1:]), len(s)
}

// halfEscape is how a line may end that was cut.
var halfEscape = regexp.MustCompile(`^\\(?:u[\da-fA-F]{0,3}|U[\da-fA-F]{0,7}|x[\da-fA-F]?|[0-7]{1,2})?$`)

// unquote resolves what a backslash means, as far as it is known.
func unquote(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var out strings.Builder
	for s != "" {
		c, _, rest, err := strconv.UnquoteChar(s, '"')
		if err != nil {
			if len(s) > 1 && (s[1] == '\'' || s[1] == '/') {
				s = s[1:]
				continue
			}
			if halfEscape.MatchString(s) {
				break
			}
			out.WriteString(s[:1])
			s = s[1:]
			continue
		}
		out.WriteRune(c)
		s = rest
	}
	return clean(out.String())
}

// first returns the value of the first of keys that isn't empty.
func first(pairs []pair, keys ...string) string {
	for _, key := range keys {
		for _, p := range pairs {
			if strings.EqualFold(p.key, key) && strings.TrimSpace(p.value) != "" {
				return p.value
			}
		}
	}
	return ""
}

// sentence returns the value of the first of keys that isn't empty, and with it the words that follow it if it has no quotes:
// many write msg=disk is full.
func sentence(line string, pairs []pair, keys ...string) string {
	value := first(pairs, keys...)
	for i, p := range pairs {
		named := slices.ContainsFunc(keys, func(key string) bool { return strings.EqualFold(key, p.key) })
		if value == "" || !named || p.value != value {
			continue
		}
		begin := p.start + len(p.key) + 1
		if line[begin] == '"' || line[begin] == '\'' {
			break
		}
		end := len(line)
		if i+1 < len(pairs) {
			end = pairs[i+1].start
		}
		return strings.TrimSpace(line[begin:end])
	}
	return value
}
