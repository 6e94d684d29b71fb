package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"
)

// maxLineBytes is where a line of standard input is cut.
const maxLineBytes = 8 << 10

// streamLines publishes each line of r as an event with the project and the environment of base, until r ends.
func streamLines(ctx context.Context, r io.Reader, f *feed, base fields) {
	lines, lastLevel := 0, "info"
	err := readLines(r, func(line string) error {
		e := base
		e.Level, e.Service, e.Message, e.Data = parseLine(line, lastLevel)
		lastLevel = e.Level
		lines++
		_, err := f.publishEvent(e)
		return err
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		slog.Error("standard input: "+err.Error(), "lines", lines)
	default:
		slog.Info("standard input has ended, the page goes on", "lines", lines)
	}
}

// readLines calls fn for each line of r that isn't blank: cut, as valid UTF-8, without colours. It ends with r, or with
// the first error.
func readLines(r io.Reader, fn func(line string) error) error {
	in := bufio.NewReaderSize(r, maxLineBytes+2) // with its end, a line of maxLineBytes is still whole
	for {
		head, more, err := in.ReadLine()
		line := string(head)
		if more {
			line = clip(line, maxLineBytes) + "…"
		}
		for more && err == nil {
			_, more, err = in.ReadLine()
		}
		line = strings.ToValidUTF8(colours.ReplaceAllString(line, ""), "\uFFFD")
		if strings.TrimSpace(line) != "" {
			if err := fn(line); err != nil {
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

// clip cuts s to at most n bytes, between two runes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
