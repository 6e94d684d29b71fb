package logline

import (
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"
	"unicode/utf8"
)

func utf16Of(s string, big bool) string {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		if big {
			out = append(out, byte(u>>8), byte(u))
		} else {
			out = append(out, byte(u), byte(u>>8))
		}
	}
	return string(out)
}

func TestReadLines(t *testing.T) {
	long := strings.Repeat("ä", maxLineBytes) // twice as many bytes
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"one byte", "a", []string{"a"}},
		{"last line without an end", "a\nb", []string{"a", "b"}},
		{"blank lines and carriage returns", "a\r\n\n  \t\nb\r\r\n", []string{"a", "b"}},
		{"an indentation is kept", "  a \n\tb\n", []string{"  a ", "\tb"}},
		{"colours", "\x1b[31mERROR\x1b[0m x\n\x1b[0m\n", []string{"ERROR x"}},
		{"a progress bar", " 1%\r 50%\r100%\nx\n", []string{"100%", "x"}},
		{"a progress bar that is wiped", "100%\r\x1b[K\nx\n", []string{"100%", "x"}},
		{"a progress bar that is wiped first", "50%\r\x1b[2K100%\r\n", []string{"100%"}},
		{"a long progress bar", strings.Repeat("50%\r", 50_000) + "done\n", []string{"done"}},
		{"invalid UTF-8", "a\xffb\n", []string{"a\uFFFDb"}},
		{"zeros", "a\x00b\n\x00\x00\n", []string{"ab"}},
		{"a mark of UTF-8", "\xef\xbb\xbfa\n\xef\xbb\xbfb\n", []string{"a", "b"}},
		{"UTF-16, the little end first", "\xff\xfe" + utf16Of("aä😀\r\nb\n", false), []string{"aä😀", "b"}},
		{"UTF-16, the big end first", "\xfe\xff" + utf16Of("aä😀\nb", true), []string{"aä😀", "b"}},
		{"UTF-16 that is broken", "\xff\xfea\x00\x00\xd8b\x00\n\x00x", []string{"a\uFFFDb"}},
		{"a long line is cut between runes", "x" + long + "\nb\n", []string{"x" + long[:maxLineBytes-2] + "…", "b"}},
		{"a long line ends the input", long, []string{long[:maxLineBytes] + "…"}},
		{"a line as long as the bound", long[:maxLineBytes] + "\nb", []string{long[:maxLineBytes], "b"}},
		{"a line as long as the bound, of Windows", long[:maxLineBytes] + "\r\nb", []string{long[:maxLineBytes], "b"}},
		{"a line a byte longer", long[:maxLineBytes] + "x\nb", []string{long[:maxLineBytes] + "…", "b"}},
		{"no UTF-8 at all", strings.Repeat("\xbf", maxLineBytes+9) + "\n", []string{strings.Repeat("\uFFFD", maxLineBytes) + "…"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(test.text), iotest.OneByteReader(strings.NewReader(test.text))} {
				var got []string
				err := readLines(r, func(line string) error {
					got = append(got, line)
					return nil
				})
				if err != nil || !slices.Equal(got, test.want) {
					t.Errorf("got %.60q, %v, want %.60q", got, err, test.want)
				}
			}
		})
	}
}

func TestReadLinesEndsWithTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	lines := 0
	count := func(string) error { lines++; return nil }
	if err := readLines(io.MultiReader(strings.NewReader("a\nb\n"), iotest.ErrReader(broken)), count); err != broken || lines != 2 {
		t.Errorf("got %v after %d lines, want %v after 2", err, lines, broken)
	}
	if err := readLines(strings.NewReader("a\nb\n"), func(string) error { return broken }); err != broken {
		t.Errorf("got %v, want the error of the function", err)
	}
}

// endless is a line without an end.
type endless struct{ b byte }

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.b
	}
	return len(p), nil
}

func TestALineWithoutAnEndTakesABoundedMemory(t *testing.T) {
	for _, b := range []byte{'x', 0, 0xff, '\r', 0x1b} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		reads := uint64(0)
		r := io.LimitReader(&endless{b}, 3<<20)
		err := readLines(io.TeeReader(r, writerFunc(func(p []byte) (int, error) {
			if reads++; reads%100 == 0 {
				runtime.GC()
				runtime.ReadMemStats(&after)
				if after.HeapAlloc > before.HeapAlloc+1<<20 {
					t.Errorf("%q: got %d bytes on the heap", b, after.HeapAlloc-before.HeapAlloc)
				}
			}
			return len(p), nil
		})), func(line string) error {
			if len(line) > 3*maxLineBytes+len("…") {
				t.Errorf("%q: got a line of %d bytes", b, len(line))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestClipCutsBetweenRunes(t *testing.T) {
	s := "aä€😀"
	for n := range len(s) + 2 {
		if got := clip(s, n); len(got) > n || !utf8.ValidString(got) || !strings.HasPrefix(s, got) {
			t.Errorf("clip(%q, %d): got %q", s, n, got)
		}
	}
}
