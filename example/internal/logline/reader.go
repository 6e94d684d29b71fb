package logline

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxLineBytes is where a line is cut. Docker writes lines of 16 KiB, in JSON that may double them.
const maxLineBytes = 64 << 10

// readLines calls fn for each line of r that isn't blank: cut, as valid UTF-8, without escape sequences and without what
// a carriage return has overwritten. It ends with r, or with the first error. A line of any length takes a bounded
// memory.
func readLines(r io.Reader, fn func(line string) error) error {
	in := bufio.NewReaderSize(r, 4<<10)
	if mark, _ := in.Peek(2); string(mark) == "\xff\xfe" || string(mark) == "\xfe\xff" {
		in = bufio.NewReader(&utf16Reader{in: in, big: mark[0] == 0xfe})
	}
	var line lineBuffer
	for {
		part, err := in.ReadSlice('\n')
		line.write(part)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if text := line.take(); strings.TrimSpace(text) != "" {
			if err := fn(text); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lineBuffer collects one line. A progress bar overwrites it again and again, behind carriage returns: the last text that
// isn't blank is what one sees in the end.
type lineBuffer struct {
	shown   string // what was written before the last carriage return
	current []byte
	cut     bool
}

func (b *lineBuffer) write(part []byte) {
	for i, segment := range strings.Split(string(part), "\r") {
		if i > 0 {
			b.carriageReturn()
		}
		n := min(len(segment), maxLineBytes+utf8.UTFMax-len(b.current))
		b.cut = b.cut || n < len(segment)
		b.current = append(b.current, segment[:n]...)
	}
}

func (b *lineBuffer) carriageReturn() {
	text := string(b.current)
	if b.cut || len(text) > maxLineBytes && strings.TrimRight(text, "\n") != clip(text, maxLineBytes) {
		text = clip(text, maxLineBytes) + "…"
	}
	text = strings.TrimRight(clean(strings.TrimLeft(text, "\ufeff")), "\n")
	if strings.TrimSpace(text) != "" {
		b.shown = text
	}
	b.current, b.cut = b.current[:0], false
}

func (b *lineBuffer) take() string {
	b.carriageReturn()
	text := b.shown
	b.shown = ""
	return text
}

// utf16Reader reads UTF-16, as PowerShell writes files, as UTF-8.
type utf16Reader struct {
	in   *bufio.Reader
	big  bool
	high uint16 // the first half of a character
	out  []byte
}

func (r *utf16Reader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		unit, err := r.unit()
		if err != nil {
			return 0, err
		}
		c := rune(unit)
		if r.high != 0 { // DecodeRune makes U+FFFD of two halves that don't belong together
			if whole := utf16.DecodeRune(rune(r.high), c); whole != utf8.RuneError {
				r.out, r.high = utf8.AppendRune(r.out, whole), 0
				continue
			}
			r.out, r.high = utf8.AppendRune(r.out, utf8.RuneError), 0
		}
		if c >= 0xd800 && c < 0xdc00 {
			r.high = unit
		} else {
			r.out = utf8.AppendRune(r.out, c)
		}
	}
	n := copy(p, r.out)
	r.out = r.out[:copy(r.out, r.out[n:])]
	return n, nil
}

func (r *utf16Reader) unit() (uint16, error) {
	var b [2]byte
	for i := range b {
		c, err := r.in.ReadByte()
		if err != nil {
			return 0, err
		}
		b[i] = c
	}
	if r.big {
		return uint16(b[0])<<8 | uint16(b[1]), nil
	}
	return uint16(b[1])<<8 | uint16(b[0]), nil
}

// clip cuts s to at most n bytes, between two runes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for at := n; at > 0 && at > n-utf8.UTFMax; at-- {
		if utf8.RuneStart(s[at]) {
			return s[:at]
		}
	}
	return s[:n] // no UTF-8
}
