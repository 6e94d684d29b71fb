package queryname

import (
	"strings"
	"testing"
)

func TestANearMissMeansTheName(t *testing.T) {
	for name, keys := range map[string][]string{
		"level": {
			"levels", "Level", "LEVEL", "LeVeLs", "level[]", "level.0", " level", "lvl", "lvls", "levl", "levle", "leve", "llevel", "lexel", "level2",
			"loglevel", "log_level", "logLevel", "minlevel", "severity", "severities", "filter[level]", "filters[levels][]", "levelFilter", "amp;level",
			"AMP;level", "at_least_level", "level-name", "filter_min_level", "filterlevl", "levlfilters",
		},
		"environment": {
			"environments", "Environment", "environment[]", "env", "envs", "ENV", "filter[env]", "environ", "enviroment", "enviornments", "environnement",
			"environement", "envronment", "envrnment", "amp;environment", "environmentName", "node-env", "zoom_env",
		},
		"level and environment": {"filter", "filters", "Filter", "FILTERS", "filter[]", "amp;filter"},
		"": {
			"level", "environment", "", "x", "s", "amp;", "zoom_level", "zoomLevel", "access_level", "levitate", "sealevel", "envelope", "event", "events",
			"ev", "development", "entertainment", "envrnmnt", "filtered", "token", strings.Repeat("level", 600),
		},
	} {
		for _, key := range keys {
			if got := MeantBy(key); got != name {
				t.Errorf("MeantBy(%.60q): got %q, want %q", key, got, name)
			}
		}
	}
}

func TestTheDistanceBetweenTwoWords(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "ab", 2},
		{"level", "level", 0},
		{"levl", "level", 1},
		{"levvel", "level", 1},
		{"lexel", "level", 1},
		{"elvel", "level", 1},
		{"levle", "level", 1},
		{"vlele", "level", 3},
		{"kitten", "sitting", 3},
		{"abcdefghijk", "level", 6}, // too long to be compared
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q): got %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestTheNamesThemselvesAreNotComparedLetterByLetter(t *testing.T) {
	for _, name := range []string{"level", "environment", "last", "since"} {
		if got := testing.AllocsPerRun(100, func() { MeantBy(name) }); got != 0 || MeantBy(name) != "" {
			t.Errorf("MeantBy(%q) = %q, with %v allocations; want nothing", name, MeantBy(name), got)
		}
	}
	// Nor is a word that is much longer or shorter than both: the rows of a table for each of its letters.
	if got := testing.AllocsPerRun(100, func() { MeantBy("tokentokentoken") }); got > 10 {
		t.Errorf("got %v allocations for another word of 15 letters, want at most 10", got)
	}
}
