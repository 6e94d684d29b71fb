package chunked

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestABodyIsTheSameWhereverReadsEnd(t *testing.T) {
	want := strings.Repeat("data: something\n\n", 40)
	var stream []byte
	for i, piece := range slices.Collect(slices.Chunk([]byte(want), 61)) {
		format := "%x\r\n%s\r\n"
		if i%2 == 1 {
			format = "%04X\r\n%s\r\n"
		}
		stream = fmt.Appendf(stream, format, len(piece), piece)
	}
	stream = append(stream, "0\r\n\r\n"...)
	for step := 1; step <= 100; step++ {
		var d Decoder
		var body, rest []byte
		var ended bool
		for piece := range slices.Chunk(stream, step) {
			if ended {
				break // the line after the last chunk
			}
			data := append(slices.Clone(rest), piece...)
			var err error
			if body, rest, ended, err = d.Append(body, data); err != nil {
				t.Fatal(err)
			}
		}
		if string(body) != want || !ended {
			t.Errorf("reads of %d bytes: ended %v with %q", step, ended, body)
		}
	}
}

func TestAnUnendedBodyHasNotEnded(t *testing.T) {
	var d Decoder
	body, rest, ended, err := d.Append(nil, []byte("3\r\nabc\r\n5\r\nde"))
	if string(body) != "abcde" || len(rest) != 0 || ended || err != nil {
		t.Errorf("got %q, %q, %v, %v", body, rest, ended, err)
	}
}

func TestWhatIsNoSizeIsRefused(t *testing.T) {
	for _, text := range []string{"\r\n", "x\r\n", "12345678\r\n", "-1\r\n", "3;a=b\r\n", "g\r\n", "`\r\n", "@\r\n"} {
		var d Decoder
		if _, _, _, err := d.Append(nil, []byte(text)); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}
