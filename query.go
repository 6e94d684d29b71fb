package mesherstream

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// A queryName is a name that the query of a stream may have, and what is written for it by mistake.
type queryName struct {
	name    string
	aliases []string // other words for it, without an s at their end
	typos   int      // how many letters may be wrong, without that it is another word
}

var queryNames = []queryName{
	{"level", []string{"lvl", "loglevel", "minlevel", "severity", "severitie"}, 1},
	{"environment", []string{"env", "environ"}, 2},
}

// checkQuery returns an error if a parameter of the query nearly has a name that means something here: the stream would
// carry everything, and nobody would know why. Other parameters are the application's.
func checkQuery(c *fiber.Ctx) error {
	for key := range c.Queries() {
		for _, known := range queryNames {
			if key != known.name && known.meantBy(key) {
				return fmt.Errorf("query parameter %s is unknown: use %s", harmless(key), known.name)
			}
		}
	}
	return nil
}

// meantBy says whether somebody who writes key means q: in another case or number, with brackets, as a filter's.
func (q queryName) meantBy(key string) bool {
	key = strings.TrimPrefix(strings.ToLower(key), "amp;") // of an address that was escaped for HTML once too often
	letters := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, key)
	for _, of := range []string{"filters", "filter"} {
		letters = strings.TrimSuffix(strings.TrimPrefix(letters, of), of)
	}
	singular := strings.TrimSuffix(letters, "s")
	return slices.Contains(q.aliases, singular) || distance(letters, q.name) <= q.typos || distance(singular, q.name) <= q.typos
}

// distance returns how many letters are to be added, removed, replaced or swapped with their neighbours to make b of a.
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
