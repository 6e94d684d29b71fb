package main

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func TestReadLines(t *testing.T) {
	long := strings.Repeat("ä", maxLineBytes) // twice as many bytes
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"last line without an end", "a\nb", []string{"a", "b"}},
		{"blank lines and carriage returns", "a\r\n\n  \t\nb\n", []string{"a", "b"}},
		{"colours", "\x1b[31mERROR\x1b[0m x\n", []string{"ERROR x"}},
		{"invalid UTF-8", "a\xff\xfeb\n", []string{"a\uFFFDb"}},
		{"a long line is cut between runes", "x" + long + "\nb\n", []string{"x" + long[:maxLineBytes-2] + "…", "b"}},
		{"a long line ends the input", long, []string{long[:maxLineBytes] + "…"}},
		{"a line as long as the bound", long[:maxLineBytes] + "\nb", []string{long[:maxLineBytes], "b"}},
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

func TestStreamLinesPublishesUntilTheEnd(t *testing.T) {
	out := &recorder{}
	base := fields{Project: "p", Environment: "local"}
	streamLines(t.Context(), strings.NewReader("ERROR one\n\tat two\nthree "+strings.Repeat("x", 5000)), newFeed(out), base)
	if len(out.messages) != 3 {
		t.Fatalf("got %d messages, want 3", len(out.messages))
	}
	for i, want := range []string{"error", "error", "info"} {
		if m := out.messages[i]; m.Project != "p" || m.Environment != "local" || m.Level != want {
			t.Errorf("message %d: got %q %q %q, want level %q", i, m.Project, m.Environment, m.Level, want)
		}
	}
}

func TestClipCutsBetweenRunes(t *testing.T) {
	s := "aä€😀"
	for n := range len(s) + 2 {
		if got := clip(s, n); len(got) > n || !utf8.ValidString(got) || !strings.HasPrefix(s, got) {
			t.Errorf("clip(%q, %d): got %q", s, n, got)
		}
	}
}
