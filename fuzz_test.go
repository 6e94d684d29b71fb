package mesherstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// FuzzSubscribe: whatever a client asks, it is refused or gets a filter within the bounds, and the answer says which.
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
		kind, typeErr := requestType(in)
		r, err := parseSubscribe(in)
		if err == nil && typeErr != nil {
			t.Errorf("parseSubscribe(%q) takes what requestType refuses: %v", in, typeErr)
		}
		if err != nil || kind != typeSubscribe {
			return
		}
		filter, err := r.filter()
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

		// The answer tells the same filter, in a form that could be sent back.
		frame := r.answer(filter, "", 3)
		answer, err := parseSubscribe(bytes.Replace(frame[headerOf(frame):], []byte(`,"filtered":3}`), []byte("}"), 1))
		if err != nil || answer.Type != typeFiltersUpdated {
			t.Fatalf("answer to %q: got %q: %v", in, frame, err)
		}
		if told, err := answer.filter(); err != nil || !slices.Equal(told.Levels, filter.Levels) || !slices.Equal(told.Environments, filter.Environments) {
			t.Errorf("answer to %q: got %q, %v, want %+v in it", in, frame, err, filter)
		}
		if frame := refusal("", errorMalformed, string(in)); !json.Valid(frame[headerOf(frame):]) {
			t.Errorf("refusal that quotes %q is no JSON", in)
		}
	})
}

// headerOf is how long the header of a frame is that the server wrote.
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

// FuzzProjectPath sends handshakes and plain requests for arbitrary targets through whole apps: nothing panics, and what
// is let in has a project and a filter within the bounds.
func FuzzProjectPath(f *testing.F) {
	for _, seed := range []string{
		"/stream/projects/shop", "/stream/projects/shop?level=error,fatal&environment=production", "/stream/projects/", "/stream/projects",
		"/stream/projects/%", "/stream/projects/%zz", "/stream/projects/a%2Fb", "/stream/projects/a/b", "/stream/projects/%00", "/stream/projects/%FF",
		"/STREAM/PROJECTS/x", "/live/stream/projects/x", "//stream//projects//x", "/stream/projects/../x", "/t/acme/stream/projects/x", "/e/x", "/e/", "/e/x/",
		"/e/%2e%2e", "/stream/projects/x?level=%FF", "/stream/projects/x?" + strings.Repeat("level=a&", 17), "http://evil.test/stream/projects/x", "*", "", "?", "#",
	} {
		f.Add(seed)
	}
	type target struct {
		app     *fiber.App
		granted *Subscription
	}
	var targets []target
	for _, config := range []fiber.Config{{}, {UnescapePath: true}, {CaseSensitive: true, StrictRouting: true}} {
		granted := new(Subscription)
		m, err := NewManager(WithAuthorize(func(_ *fiber.Ctx, sub *Subscription) error { *granted = sub.clone(); return nil }))
		if err != nil {
			f.Fatal(err)
		}
		app := quietApp(config)
		app.Get("/e/:project_id", m.Handler())
		app.Group("/t/:tenant").Use(m.Handler())
		app.Use("/live", m.Handler())
		app.Use(m.Handler())
		targets = append(targets, target{app, granted})
	}
	f.Fuzz(func(t *testing.T, uri string) {
		for i, target := range targets {
			for _, handshake := range []bool{true, false} {
				var req fasthttp.Request
				req.Header.SetHost("app.test")
				req.Header.SetRequestURI(uri)
				if handshake {
					for _, line := range upgrade {
						key, value, _ := strings.Cut(line, ": ")
						req.Header.Set(key, value)
					}
				}
				*target.granted = Subscription{}
				status, _ := askRaw(target.app, req.String())
				switch {
				case status == 0: // no request
				case status == 101 && handshake:
					p := target.granted.Project
					if p == "" || len(p) > maxProjectBytes || strings.Contains(p, "/") || !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
						t.Errorf("app %d, %q: let in with project %q", i, uri, p)
					}
				case status == 426 && !handshake, status == 400, status == 404:
					if target.granted.Project != "" {
						t.Errorf("app %d, %q: authorize was asked, and the status is %d", i, uri, status)
					}
				default:
					t.Errorf("app %d, %q, handshake %v: got %d", i, uri, handshake, status)
				}
			}
		}
	})
}
