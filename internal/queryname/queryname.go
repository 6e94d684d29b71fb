// Package queryname recognizes near misses of the names that the query of a stream may have.
package queryname

import (
	"slices"
	"strings"
)

// A knownName is a name that the query of a stream may have, together with common mistakes for it.
type knownName struct {
	name    string
	aliases []string // other words for it, without an s at their end
	typos   int      // how many letters may be wrong without making it another word
}

var known = []knownName{
	{"level", []string{"lvl", "loglevel", "minlevel", "maxlevel", "minimumlevel", "maximumlevel", "severity", "severitie"}, 1},
	{"environment", []string{"env", "environ"}, 2},
}

// levelWords are the words that do not change the meaning of a level. Any other word before it, as in zoom_level, makes
// it something else.
var levelWords = []string{"min", "minimum", "max", "maximum", "lowest", "highest", "at", "least", "most", "from", "to", "log", "event", "error", "message", "filter", "filters", "by", "only", "not"}

// MeantBy returns the name that the author of key probably means, or "" if key is that name itself or another word. A key
// such as filter[] may mean either name, so the answer names both.
func MeantBy(key string) string {
	switch key {
	case "level", "environment", "last", "since":
		return ""
	}
	if singular := strings.TrimSuffix(strings.Join(wordsOf(key), ""), "s"); singular == "filter" {
		return "level and environment"
	}
	for _, q := range known {
		if q.meantBy(key) {
			return q.name
		}
	}
	return ""
}

// meantBy reports whether the author of key probably means q: in another case or number, with brackets, as in
// filter[level], or with words around it.
func (q knownName) meantBy(key string) bool {
	words := wordsOf(key)
	for i, word := range words {
		word = strings.TrimSuffix(word, "s")
		if (word == q.name || slices.Contains(q.aliases, word)) && (q.name != "level" || !slices.ContainsFunc(words[:i], isNoLevelWord)) {
			return true
		}
	}
	letters := strings.Join(words, "")
	for _, of := range []string{"filters", "filter"} {
		letters = strings.TrimSuffix(strings.TrimPrefix(letters, of), of)
	}
	singular := strings.TrimSuffix(letters, "s")
	return slices.Contains(q.aliases, singular) || q.isNear(letters) || q.isNear(singular)
}

// isNear reports whether a word is the name except for typos, each of which changes the length by at most 1.
func (q knownName) isNear(word string) bool {
	if longer := len(word) - len(q.name); longer < -q.typos || longer > q.typos {
		return false
	}
	return distance(word, q.name) <= q.typos
}

func isNoLevelWord(word string) bool { return !slices.Contains(levelWords, word) }

// wordsOf returns the words of a key, in lower case: snake_case, camelCase, with dots or brackets.
func wordsOf(key string) []string {
	if rest := strings.ToLower(key); strings.HasPrefix(rest, "amp;") { // of an address that was escaped for HTML once too often
		key = key[len("amp;"):]
	}
	isLetter := func(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
	isUpper := func(c byte) bool { return c >= 'A' && c <= 'Z' }
	var words []string
	for start := 0; start < len(key); {
		if !isLetter(key[start]) {
			start++
			continue
		}
		end := start + 1
		for end < len(key) && isLetter(key[end]) && (!isUpper(key[end]) || isUpper(key[end-1])) {
			end++
		}
		words = append(words, strings.ToLower(key[start:end]))
		start = end
	}
	return words
}

// distance returns how many letters must be added, removed, replaced or swapped with their neighbours to turn a into b.
func distance(a, b string) int {
	if len(a) > 2*len(b) {
		return len(a) - len(b) // a stranger may send long ones
	}
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			replaced := last[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(replaced, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
