package wsframe

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// readFrames feeds p to a reader in pieces of that size. It returns everything that the reader emitted, and its error.
// If pause is true, it stops at each emit and continues from there, as does a link that has to wait for its shard.
func readFrames(t testing.TB, p []byte, limit, piece int, pause bool) (emitted []string, err error) {
	t.Helper()
	r := Reader{Limit: limit}
	stop := errors.New("stop")
	emit := func(op byte, payload []byte) error {
		emitted = append(emitted, fmt.Sprintf("%X:%s", op, payload))
		if pause {
			return stop
		}
		return nil
	}
	for p := range slices.Chunk(bytes.Clone(p), max(1, piece)) {
		for {
			n, err := r.Feed(p, emit)
			if held := cap(r.message) + cap(r.control); held > 2*(limit+MaxControlPayload)+512 {
				t.Errorf("the reader holds %d bytes, with a limit of %d", held, limit)
			}
			if !errors.Is(err, stop) {
				if err != nil {
					return emitted, err
				}
				if n != len(p) {
					t.Errorf("feed: got n = %d without an error, want %d", n, len(p))
				}
				break
			}
			if p = p[n:]; len(p) == 0 {
				break
			}
		}
	}
	return emitted, nil
}

func TestTheReader(t *testing.T) {
	const limit = 1 << 10
	const text, binaryFin, cont = FinBit | OpText, FinBit | OpBinary, FinBit | OpContinuation
	long := strings.Repeat("x", limit)
	withLength := func(b ...byte) []byte { return append([]byte{text}, append(b, 1, 2, 3, 4)...) }
	for _, tt := range []struct {
		name string
		in   []byte
		want []string
		code int
	}{
		{name: "nothing"},
		{name: "text", in: masked(text, "hello"), want: []string{"1:hello"}},
		{name: "empty text", in: masked(text, ""), want: []string{"1:"}},
		{name: "binary that is no UTF-8", in: masked(binaryFin, "\xFF\x00"), want: []string{"2:\xFF\x00"}},
		{name: "two messages", in: concat(masked(text, "a"), masked(text, "b")), want: []string{"1:a", "1:b"}},
		{name: "126 bytes", in: masked(text, long[:126]), want: []string{"1:" + long[:126]}},
		{name: "half a message", in: masked(text, "hello")[:8]},
		{name: "half a header", in: masked(text, long)[:3]},
		{name: "ping", in: masked(FinBit|OpPing, "p"), want: []string{"9:p"}},
		{name: "pong of 125 bytes", in: masked(FinBit|OpPong, long[:125]), want: []string{"A:" + long[:125]}},
		{name: "fragments", in: concat(masked(OpText, "a"), masked(OpContinuation, "b"), masked(cont, "c")), want: []string{"1:abc"}},
		{name: "empty fragments", in: concat(masked(OpText, ""), masked(OpContinuation, ""), masked(cont, "")), want: []string{"1:"}},
		{
			name: "control frames between fragments",
			in:   concat(masked(OpBinary, "a"), masked(FinBit|OpPing, "1"), masked(OpContinuation, "b"), masked(FinBit|OpPong, ""), masked(cont, "c")),
			want: []string{"9:1", "A:", "2:abc"},
		},
		{name: "a character over two fragments", in: concat(masked(OpText, "\xC3"), masked(cont, "\xBC")), want: []string{"1:ü"}},
		{name: "close without a code", in: masked(FinBit|OpClose, ""), want: []string{"8:"}},
		{name: "close with code and reason", in: masked(FinBit|OpClose, "\x03\xE8bye"), want: []string{"8:\x03\xE8bye"}},
		{name: "close 4999", in: masked(FinBit|OpClose, "\x13\x87"), want: []string{"8:\x13\x87"}},

		{name: "exactly the limit", in: masked(text, long), want: []string{"1:" + long}},
		{name: "over the limit", in: masked(text, long+"x"), code: 1009},
		{name: "over the limit before the payload", in: masked(text, long+"x")[:8], code: 1009},
		{name: "exactly the limit in fragments", in: concat(masked(OpText, long[:1000]), masked(cont, long[:24])), want: []string{"1:" + long}},
		{name: "over the limit in fragments", in: concat(masked(OpText, long[:1000]), masked(cont, long[:25])), code: 1009},
		{name: "a control frame does not count", in: concat(masked(OpText, long), masked(FinBit|OpPing, "p"), masked(cont, "")), want: []string{"9:p", "1:" + long}},
		{name: "2^62 bytes", in: withLength(0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0), code: 1009},
		{name: "2^63-1 bytes behind a fragment", in: concat(masked(OpText, "a"), append([]byte{cont, 0xFF, 0x7F}, bytes.Repeat([]byte{0xFF}, 11)...)), code: 1009},

		{name: "unmasked", in: []byte{text, 5, 'h', 'e', 'l', 'l', 'o'}, code: 1002},
		{name: "unmasked and empty", in: []byte{text, 0}, code: 1002},
		{name: "unmasked after a message", in: concat(masked(text, "a"), []byte{text, 0}), want: []string{"1:a"}, code: 1002},
		{name: "bit 1 reserved", in: masked(text|0x40, "a"), code: 1002},
		{name: "bit 2 reserved", in: masked(text|0x20, "a"), code: 1002},
		{name: "bit 3 reserved", in: masked(FinBit|OpPing|0x10, "a"), code: 1002},
		{name: "opcode 3", in: masked(FinBit|3, "a"), code: 1002},
		{name: "opcode 7", in: masked(FinBit|7, "a"), code: 1002},
		{name: "opcode B", in: masked(FinBit|0xB, "a"), code: 1002},
		{name: "opcode F", in: masked(FinBit|0xF, "a"), code: 1002},
		{name: "two bytes of length for 125", in: withLength(0xFE, 0, 125), code: 1002},
		{name: "eight bytes of length for 65535", in: withLength(0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF), code: 1002},
		{name: "the highest bit of the length", in: withLength(0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0), code: 1002},
		{name: "all bits of the length", in: withLength(0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF), code: 1002},
		{name: "ping of 126 bytes", in: masked(FinBit|OpPing, long[:126]), code: 1002},
		{name: "fragmented ping", in: masked(OpPing, "a"), code: 1002},
		{name: "continuation of nothing", in: masked(cont, "a"), code: 1002},
		{name: "continuation after the end", in: concat(masked(text, "a"), masked(cont, "b")), want: []string{"1:a"}, code: 1002},
		{name: "new message inside a fragmented one", in: concat(masked(OpText, "a"), masked(text, "b")), code: 1002},
		{name: "close of one byte", in: masked(FinBit|OpClose, "\x03"), code: 1002},
		{name: "close 999", in: masked(FinBit|OpClose, "\x03\xE7"), code: 1002},
		{name: "close 1004", in: masked(FinBit|OpClose, "\x03\xEC"), code: 1002},
		{name: "close 1005", in: masked(FinBit|OpClose, "\x03\xED"), code: 1002},
		{name: "close 1006", in: masked(FinBit|OpClose, "\x03\xEE"), code: 1002},
		{name: "close 1015", in: masked(FinBit|OpClose, "\x03\xF7"), code: 1002},
		{name: "close 5000", in: masked(FinBit|OpClose, "\x13\x88"), code: 1002},
		{name: "close reason that is no UTF-8", in: masked(FinBit|OpClose, "\x03\xE8\xFF"), code: 1007},
		{name: "text that is no UTF-8", in: masked(text, "a\xFF"), code: 1007},
		{name: "text that ends within a character", in: masked(text, "\xC3"), code: 1007},
		{name: "surrogate", in: masked(text, "\xED\xA0\x80"), code: 1007},
		{name: "NUL overlong", in: masked(text, "\xC0\x80"), code: 1007},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, piece := range []int{len(tt.in), 1, 3, 7} {
				for _, pause := range []bool{false, true} {
					got, err := readFrames(t, tt.in, limit, piece, pause)
					if !slices.Equal(got, tt.want) {
						t.Errorf("in pieces of %d, pausing %v: got %.200q, want %.200q", piece, pause, got, tt.want)
					}
					var ce *CloseError
					if code := 0; err != nil || tt.code != 0 {
						if errors.As(err, &ce) {
							code = ce.Code
						}
						if code != tt.code {
							t.Errorf("in pieces of %d, pausing %v: got error %v, want close %d", piece, pause, err, tt.code)
						}
					}
				}
			}
		})
	}
}

// A text that can no longer become UTF-8 is refused at once, without waiting for the rest of it.
func TestTextThatCannotBecomeUTF8IsRefusedBeforeItsEnd(t *testing.T) {
	for name, in := range map[string][]byte{
		"an unfinished message":            concat(masked(OpText, "\xCE\xBA"), masked(OpContinuation, "\xF4\x90")),
		"an unfinished frame":              masked(FinBit|OpText, "\xCE\xBA\xF4\x90 and so on")[:10],
		"a character torn between two":     concat(masked(OpText, "\xF4"), masked(OpContinuation, "\x90")),
		"a first byte that nothing begins": masked(OpText, "\xFF"),
	} {
		for _, piece := range []int{len(in), 1} {
			got, err := readFrames(t, in, 1<<10, piece, false)
			ce, ok := errors.AsType[*CloseError](err)
			if !ok || ce.Code != CodeInvalidPayload || len(got) > 0 {
				t.Errorf("%s, in pieces of %d: got %q, %v, want close 1007", name, piece, got, err)
			}
		}
	}
}

func TestWhatTheReaderEmitsIsTheCallersToKeep(t *testing.T) {
	var kept [][]byte
	r := Reader{Limit: 64}
	in := concat(masked(FinBit|OpText, "first"), masked(FinBit|OpPing, "ping"), masked(FinBit|OpText, "second"))
	if _, err := r.Feed(in, func(_ byte, payload []byte) error { kept = append(kept, payload); return nil }); err != nil {
		t.Fatalf("feed: %v", err)
	}
	clear(in) // the link reuses its buffer
	if got := string(bytes.Join(kept, []byte(","))); got != "first,ping,second" {
		t.Errorf("after later frames: got %q, want what was emitted", got)
	}
}

func TestAReaderHoldsNothingBetweenMessages(t *testing.T) {
	r := Reader{Limit: 1 << 20}
	big := strings.Repeat("x", 1<<20)
	if _, err := r.Feed(masked(FinBit|OpText, big), func(byte, []byte) error { return nil }); err != nil {
		t.Fatalf("feed: %v", err)
	}
	if cap(r.message)+cap(r.control) != 0 {
		t.Errorf("after a message: got %d bytes held, want 0", cap(r.message)+cap(r.control))
	}
}

func TestAFrameSaysHowLongItIsInItsShortestForm(t *testing.T) {
	for n, header := range map[int]string{
		0:       "\x82\x00",
		1:       "\x82\x01",
		125:     "\x82\x7D",
		126:     "\x82\x7E\x00\x7E",
		0xFFFF:  "\x82\x7E\xFF\xFF",
		0x10000: "\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00",
	} {
		payload := strings.Repeat("x", n)
		frame := string(Append([]byte("before"), OpBinary, []byte(payload)))
		if frame != "before"+header+payload || HeaderLen(n) != len(header) {
			t.Errorf("payload of %d bytes: got a frame that begins with %.16q and HeaderLen %d, want %q", n, frame, HeaderLen(n), header)
		}
	}
	for code, want := range map[int]string{CodeGoingAway: "\x88\x05\x03\xE9bye", CodeNoStatus: "\x88\x00"} {
		if got := string(Close(code, "bye")); got != want {
			t.Errorf("Close(%d): got %q, want %q", code, got, want)
		}
	}
}

// FuzzReader feeds arbitrary bytes in arbitrary pieces. The pieces must not matter, nor whether the reader has to stop
// after each message.
func FuzzReader(f *testing.F) {
	f.Add(masked(FinBit|OpText, "hello"), uint8(3), uint16(100))
	f.Add(concat(masked(OpText, "a"), masked(FinBit|OpPing, "p"), masked(FinBit|OpContinuation, "b")), uint8(1), uint16(10))
	f.Add(masked(FinBit|OpText, strings.Repeat("x", 300)), uint8(200), uint16(256))
	f.Add([]byte{FinBit | OpText, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4}, uint8(5), uint16(4096))
	f.Add(masked(FinBit|OpClose, "\x03\xE8bye"), uint8(2), uint16(64))
	f.Add(concat(masked(FinBit|OpText, ""), masked(FinBit|OpText, "\xFF")), uint8(1), uint16(64))
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
		var ce *CloseError
		if wholeErr != nil && (!errors.As(wholeErr, &ce) || !IsSendableCode(ce.Code) || !utf8.ValidString(ce.Reason)) {
			t.Errorf("got %v, want an error that a close frame can tell", wholeErr)
		}
		for _, message := range whole {
			switch op, payload := message[0], message[2:]; {
			case op == '1' && !utf8.ValidString(payload), op <= '2' && len(payload) > int(limit), op > '2' && len(payload) > MaxControlPayload:
				t.Errorf("emitted %.100q, which is no valid message within %d bytes", message, limit)
			}
		}
	})
}

func BenchmarkReader(b *testing.B) {
	frame := masked(FinBit|OpText, `{"type":"subscribe","filters":{"level":"error"}}`)
	reader := Reader{Limit: 4 << 10}
	b.ReportAllocs()
	for b.Loop() {
		p := append([]byte(nil), frame...)
		_, _ = reader.Feed(p, func(byte, []byte) error { return nil })
	}
}
