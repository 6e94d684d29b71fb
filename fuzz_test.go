package mesherstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// FuzzBacklog compares the ring with a slice. Each byte of ops is one step: a push of a frame as long as its low bits
// say, a peek, or a discard.
func FuzzBacklog(f *testing.F) {
	f.Add(uint8(3), uint16(100), []byte{1, 2, 3, 4, 5, 0x80, 0xC1, 6, 0x81})
	f.Add(uint8(1), uint16(1), []byte{0, 1, 0xC0, 1, 1})
	f.Add(uint8(100), uint16(500), bytes.Repeat([]byte{9}, 300))
	f.Add(uint8(17), uint16(9999), append(bytes.Repeat([]byte{63}, 40), 0xFF, 1, 1, 0xFF))
	f.Fuzz(func(t *testing.T, maxMessages uint8, maxBytes uint16, ops []byte) {
		most, mostBytes := max(1, int(maxMessages)), max(64, int(maxBytes)) // the longest frame fits, as Broadcast sees to
		var b backlog
		var model []*message
		size := func(list []*message) (n int) {
			for _, m := range list {
				n += len(m.frame)
			}
			return n
		}
		var came, left uint64
		for _, op := range ops {
			n := int(op & 0x3F)
			switch op >> 6 {
			case 0, 1:
				m := &message{frame: make([]byte, n)}
				want := 0
				for len(model) > 0 && (len(model) >= most || size(model)+n > mostBytes) {
					model = model[1:]
					want++
				}
				model = append(model, m)
				came++
				left += uint64(want)
				if got := b.push(m, most, mostBytes); got != want {
					t.Fatalf("push of %d bytes: got %d dropped, want %d", n, got, want)
				}
			case 2:
				limit := 4 * n
				want := model[:0:0]
				for _, m := range model {
					if len(want) == n || len(want) > 0 && size(want)+len(m.frame) > limit {
						break
					}
					want = append(want, m)
				}
				prefix := []*message{nil}
				if got := b.peek(prefix, n, limit); got[0] != nil || !slices.Equal(got[1:], want) {
					t.Fatalf("peek(%d, %d): got %d messages, want %d", n, limit, len(got)-1, len(want))
				}
			case 3:
				n = min(n, len(model))
				model = model[n:]
				left += uint64(n)
				b.discard(n)
			}
			if b.len() != len(model) || b.bytes != size(model) || b.next != came || b.first != left {
				t.Fatalf("backlog: got %d messages, %d bytes, numbers %d to %d, want %d, %d, %d to %d",
					b.len(), b.bytes, b.first, b.next, len(model), size(model), left, came)
			}
			if got := b.peek(nil, b.len(), 1<<30); !slices.Equal(got, model) {
				t.Fatalf("backlog: got other messages than the model")
			}
			held := 0
			for _, m := range b.slots {
				if m != nil {
					held++
				}
			}
			if held != len(model) || len(b.slots) > most || len(model) == 0 && op>>6 == 3 && len(b.slots) > minSlots {
				t.Fatalf("ring: got %d slots of which %d hold something, want at most %d and %d", len(b.slots), held, most, len(model))
			}
		}
	})
}

// FuzzFrameReader feeds arbitrary bytes in arbitrary pieces. The pieces must not matter, nor whether the reader has to
// stop behind each message.
func FuzzFrameReader(f *testing.F) {
	f.Add(masked(finBit|opText, "hello"), uint8(3), uint16(100))
	f.Add(concat(masked(opText, "a"), masked(finBit|opPing, "p"), masked(finBit|opContinuation, "b")), uint8(1), uint16(10))
	f.Add(masked(finBit|opText, strings.Repeat("x", 300)), uint8(200), uint16(256))
	f.Add([]byte{finBit | opText, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4}, uint8(5), uint16(4096))
	f.Add(masked(finBit|opClose, "\x03\xE8bye"), uint8(2), uint16(64))
	f.Add(concat(masked(finBit|opText, ""), masked(finBit|opText, "\xFF")), uint8(1), uint16(64))
	f.Fuzz(func(t *testing.T, in []byte, piece uint8, limit uint16) {
		whole, wholeErr := readFrames(t, in, int(limit), len(in), false)
		for _, pause := range []bool{false, true} {
			got, err := readFrames(t, in, int(limit), int(piece), pause)
			if !slices.Equal(got, whole) {
				t.Errorf("in pieces of %d, pausing %v: got %q, whole %q", piece, pause, got, whole)
			}
			if (err == nil) != (wholeErr == nil) || err != nil && err.Error() != wholeErr.Error() {
				t.Errorf("in pieces of %d, pausing %v: got error %v, whole %v", piece, pause, err, wholeErr)
			}
		}
		var ce *closeError
		if wholeErr != nil && (!errors.As(wholeErr, &ce) || !isSendableCode(ce.code) || !utf8.ValidString(ce.reason)) {
			t.Errorf("got %v, want an error that a close frame can tell", wholeErr)
		}
		for _, message := range whole {
			switch op, payload := message[0], message[2:]; {
			case op == '1' && !utf8.ValidString(payload), op <= '2' && len(payload) > int(limit), op > '2' && len(payload) > maxControlPayload:
				t.Errorf("emitted %.100q, which is no valid message within %d bytes", message, limit)
			}
		}
	})
}

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

		// The answer is a subscribe message but for its type, and means the same filter.
		frame := r.answer(filter)
		answer, err := parseSubscribe(frame[headerOf(frame):])
		if err != nil || answer.Type != typeFiltersUpdated {
			t.Fatalf("answer to %q: got %q: %v", in, frame, err)
		}
		if told, err := answer.filter(); err != nil || !slices.Equal(told.Levels, filter.Levels) || !slices.Equal(told.Environments, filter.Environments) {
			t.Errorf("answer to %q: got %q, %v, want %+v in it", in, frame, err, filter)
		}
		if frame := refusal(errorMalformed, string(in)); !json.Valid(frame[headerOf(frame):]) {
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
				var ctx fasthttp.RequestCtx
				ctx.Init(&req, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, nil)
				*target.granted = Subscription{}
				target.app.Handler()(&ctx)
				switch status := ctx.Response.StatusCode(); {
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
