package logline

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	months   = `(?P<mon>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)`
	weekday  = `(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?`
	ofDay    = `(?P<h>\d\d?):(?P<m>\d\d):(?P<s>\d\d)(?:[.,:](?P<frac>\d{1,9}))?`
	zone     = `(?:(?P<z>Z\b| ?[+-]\d\d:?\d\d\b|[+-]\d\d\b)|(?: (?P<z>UTC|GMT|CET|CEST|WET|WEST|EET|EEST|BST|MSK|IST|JST|EST|EDT|CST|CDT|MST|MDT|PST|PDT)\b))?(?: UTC\b)?`
	meridiem = `(?: ?(?P<ap>[AP]M)\b)`
)

// clocks are the ways to write a time. Those that say no date are only a time if the rest of the line has a level too.
var clocks = []*regexp.Regexp{
	// 2026-11-23T18:31:01.123+01:00, 2026/11/23 18:31:01, 2026-11-23 18:31:01,123 UTC
	regexp.MustCompile(`^` + weekday + `(?P<y>\d{4})[-/.](?P<mo>\d\d)[-/.](?P<d>\d\d)(?:[T_]| - | +)` + ofDay + meridiem + `?` + zone),
	// 20261123T183101Z
	regexp.MustCompile(`^(?P<y>20\d\d)(?P<mo>\d\d)(?P<d>\d\d)[T -](?P<h>\d\d):?(?P<m>\d\d):?(?P<s>\d\d)(?:[.,:](?P<frac>\d{1,9}))?` + zone),
	// Nov 23 18:31:01, Mon Nov 23 18:31:01.123456 2026, Nov 23, 2026 6:31:01 PM
	regexp.MustCompile(`^` + weekday + months + ` {1,2}(?P<d>\d\d?)(?:,? (?P<y>\d{4}))?,? +` + ofDay + meridiem + `?` + zone + `(?: (?P<y>20\d\d)\b)?`),
	// 23 Nov 2026 18:31:01.123, 23-Nov-2026 18:31:01, 23/Nov/2026:18:31:01 +0100, 23 Nov 18:31:01
	regexp.MustCompile(`^` + weekday + `(?P<d>\d\d?)[ /-]?` + months + `(?:[ /-]?(?P<y>\d{4}))?[ :]` + ofDay + zone),
	// 23.11.2026 18:31:01, 23.11.2026, 18:31:01
	regexp.MustCompile(`^` + weekday + `(?P<d>\d\d?)\.(?P<mo>\d\d?)\.(?P<y>\d{4}),? +` + ofDay + zone),
	// 11/23/2026, 6:31:01 PM
	regexp.MustCompile(`^(?P<mo>\d\d?)/(?P<d>\d\d?)/(?P<y>\d{4}),? ` + ofDay + meridiem),
	// 11-23 18:31:01.123, of Android
	regexp.MustCompile(`^(?P<mo>\d\d)-(?P<d>\d\d) ` + ofDay),
	// 261123 18:31:01, of MySQL
	regexp.MustCompile(`^(?P<y>\d\d)(?P<mo>\d\d)(?P<d>\d\d) +` + ofDay),
	// 18:31:01.123, 6:31PM
	regexp.MustCompile(`^(?:` + ofDay + meridiem + `?|(?P<h>\d\d?):(?P<m>\d\d)` + meridiem + `)`),
	// 1795458661.123, 1795458661123
	regexp.MustCompile(`^(?P<unix>1\d{9}(?:\.\d{1,9}|\d{3}|\d{6}|\d{9})?|1\.\d{5,18}[eE]\+?0?9)\b`),
}

// zones are hours and minutes for the names that logs use for them. Others count as local time.
var zones = map[string]int{
	"Z": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 60, "BST": 60, "CET": 60, "CEST": 120, "EET": 120, "EEST": 180, "MSK": 180, "IST": 330,
	"JST": 540, "EST": -300, "EDT": -240, "CST": -360, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420,
}

// moment is a time as a log says it.
type moment struct {
	time.Time
	dated bool // there was a date with it
	zoned bool // there was a zone with it
}

// cutMoment reads the time that s begins with.
func cutMoment(s string, now time.Time) (m moment, rest string, ok bool) {
	if s == "" || !strings.ContainsRune("0123456789JFMASONDTW", rune(s[0])) {
		return moment{}, s, false
	}
	for i, clock := range clocks {
		found := clock.FindStringSubmatch(s)
		if found == nil {
			continue
		}
		rest = s[len(found[0]):]
		if rest != "" && !strings.ContainsRune(" \t]|,:)>;\"", rune(rest[0])) {
			continue
		}
		field := make(map[string]string, 8)
		for j, name := range clock.SubexpNames() {
			if found[j] != "" {
				field[name] = strings.TrimSpace(found[j])
			}
		}
		if m, ok = makeMoment(field, now); ok {
			m.dated = i < len(clocks)-2 || field["unix"] != "" && strings.ContainsAny(field["unix"], ".e")
			return m, rest, true
		}
	}
	return moment{}, s, false
}

func makeMoment(field map[string]string, now time.Time) (moment, bool) {
	if unix := field["unix"]; unix != "" {
		t, ok := epoch(unix)
		return moment{t, true, true}, ok
	}
	number := func(name string) int { n, _ := strconv.Atoi(field[name]); return n }
	h, mi, s := number("h"), number("m"), number("s")
	if h > 23 || mi > 59 || s > 60 {
		return moment{}, false
	}
	switch ap := field["ap"]; {
	case ap != "" && (h == 0 || h > 12):
		return moment{}, false
	case ap == "PM" && h < 12:
		h += 12
	case ap == "AM" && h == 12:
		h = 0
	}
	frac, _ := strconv.Atoi((field["frac"] + "000000000")[:9])

	where, zoned := now.Location(), false
	if z := field["z"]; z != "" {
		where, zoned = time.FixedZone("", zoneSeconds(z)), true
	}
	y, mo, d := number("y"), number("mo"), number("d")
	if name := field["mon"]; name != "" {
		mo = strings.Index("JanFebMarAprMayJunJulAugSepOctNovDec", name)/3 + 1
	}
	if y > 0 && y < 100 {
		y += 2000
	}
	today := now.In(where)
	switch {
	case d == 0 && mo == 0: // a time of today, or of yesterday shortly after midnight
		y, mo, d = today.Year(), int(today.Month()), today.Day()
		if time.Date(y, time.Month(mo), d, h, mi, s, frac, where).After(now.Add(time.Hour)) {
			d--
		}
	case mo < 1 || mo > 12 || d < 1 || d > 31:
		return moment{}, false
	case y == 0: // of this year, or of last year shortly after it
		y = today.Year()
		if time.Date(y, time.Month(mo), d, h, mi, s, frac, where).After(now.Add(48 * time.Hour)) {
			y--
		}
	}
	t, ok := plausible(time.Date(y, time.Month(mo), d, h, mi, s, frac, where))
	return moment{t, true, zoned}, ok
}

func zoneSeconds(z string) int {
	if minutes, ok := zones[z]; ok {
		return minutes * 60
	}
	digits := strings.ReplaceAll(z[1:], ":", "")
	n, _ := strconv.Atoi((digits + "00")[:4])
	seconds := n/100*3600 + n%100*60
	if z[0] == '-' {
		return -seconds
	}
	return seconds
}

// epoch reads the seconds, milliseconds, microseconds or nanoseconds since 1970: which of them, the size tells.
func epoch(s string) (time.Time, bool) {
	whole, frac, _ := strings.Cut(s, ".")
	if strings.ContainsAny(s, "eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || f < 1e8 || f > 1e19 {
			return time.Time{}, false
		}
		whole, frac, _ = strings.Cut(strconv.FormatFloat(f, 'f', 6, 64), ".")
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n < 1e8 {
		return time.Time{}, false
	}
	scale := int64(1)
	for n/scale >= 1e11 {
		scale *= 1000
	}
	if scale > 1e9 {
		return time.Time{}, false
	}
	nanos := n % scale * (1e9 / scale)
	if scale < 1e9 && frac != "" {
		digits, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
		if err != nil {
			return time.Time{}, false
		}
		nanos += digits / scale
	}
	return plausible(time.Unix(n/scale, nanos))
}

func plausible(t time.Time) (time.Time, bool) {
	return t, t.Year() >= 1973 && t.Year() <= 2286
}

var (
	// what may stand before the time: a level, the prefixes of redis, NestJS, Gin and Ruby
	beforeTime = regexp.MustCompile(`^(?:\d+:[A-Z] |\[Nest\] \d+ +- |\[GIN\] |[A-Z], )`)
	levelFirst = regexp.MustCompile(`^[\[(<]? ?([A-Za-z]{3,11}) ?[\])>]?[:,]?\s+`)
	prefix     = regexp.MustCompile(`^[^\s\[]{1,32}: |^\[[^\s\]]{1,32}\][: ] *`) // of a logger of Go, of postgres in syslog
	separator  = regexp.MustCompile(`^\s*(?:[|,]|-\s|:\s|;)?\s*`)
)

// cutTime takes the time out of a line of text: where it begins, after a level, or in brackets further on.
func cutTime(s string, now time.Time) (m moment, rest string, ok bool) {
	head := ""
	if found := beforeTime.FindString(s); found != "" {
		head = found
	} else if found := levelFirst.FindStringSubmatch(s); found != nil && namedLevel(found[1]) != "" {
		head = found[0]
	}
	if head == "" {
		head = prefix.FindString(s)
		if m, _, ok := cutMoment(s[len(head):], now); !ok || !m.dated {
			head = ""
		}
	}
	for _, head := range []string{"", head} {
		if m, rest, ok = cutMomentInBrackets(s[len(head):], now); ok {
			if strings.HasPrefix(head, "[Nest]") || head == "[GIN] " || len(head) > 1 && head[1] == ',' {
				head = ""
			}
			return m, head + rest, true
		}
	}
	near := clip(s, 300)
	for range 8 {
		at := strings.IndexByte(near, '[')
		if at < 0 {
			break
		}
		near = near[at+1:]
		start := len(clip(s, 300)) - len(near)
		m, rest, ok := cutMoment(s[start:], now)
		if ok && m.dated && strings.HasPrefix(rest, "]") {
			return m, strings.TrimRight(s[:start-1], " ") + " " + strings.TrimLeft(rest[1:], " "), true
		}
	}
	return moment{}, s, false
}

// cutMomentInBrackets reads a time that may be the first thing in brackets, or alone in them.
func cutMomentInBrackets(s string, now time.Time) (m moment, rest string, ok bool) {
	open := ""
	if s != "" && (s[0] == '[' || s[0] == '(' || s[0] == '<') {
		open, s = s[:1], s[1:]
	}
	m, rest, ok = cutMoment(s, now)
	if !ok {
		return moment{}, "", false
	}
	if open != "" && rest != "" && strings.IndexByte("])>", rest[0]) >= 0 {
		open, rest = "", rest[1:]
	}
	rest = open + rest[len(separator.FindString(rest)):]
	if !m.dated {
		if level, _ := textLevel(strings.TrimSpace(rest), true); level == "" && !composed.MatchString(rest) {
			return moment{}, "", false
		}
	}
	return m, rest, true
}
