//go:build linux

package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mesher/mesherstream/bench/internal/chunked"
	"github.com/mesher/mesherstream/bench/internal/control"
)

// streamInPieces gives the client a body as a socket would that returns at most step bytes at a time.
func streamInPieces(t *testing.T, l *load, c *client, stream []byte, step int) (ended bool) {
	t.Helper()
	for piece := range slices.Chunk(stream, step) {
		rest, gone, err := l.body(c, append(slices.Clone(c.rest), piece...))
		if err != nil {
			t.Fatal(err)
		}
		if gone {
			return true
		}
		c.rest = keep(c.rest, rest)
	}
	return false
}

func TestEventsAreCountedWhereverReadsAndChunksEnd(t *testing.T) {
	var identity, chunks []byte
	identity = append(identity, ":\n\nretry: 1000\nevent: hello\ndata: {\"type\":\"hello\"}\n\n"...)
	for n := uint64(1); n <= 6; n++ {
		identity = fmt.Appendf(identity, "id: %d\ndata: %s\n\n", n, messages(n, n, ""))
	}
	for piece := range slices.Chunk(identity, 37) {
		chunks = fmt.Appendf(chunks, "%x\r\n%s\r\n", len(piece), piece)
	}
	chunks = append(chunks, "0\r\n\r\n"...)
	for _, step := range []int{1, 2, 7, 33, 64, 107, 1000} {
		for _, cut := range []bool{false, true} {
			l, c := newTestLoad()
			c.chunked = cut
			stream := identity
			if cut {
				stream = chunks
			}
			if ended := streamInPieces(t, l, c, stream, step); ended != cut {
				t.Errorf("reads of %d bytes, chunked %v: ended %v", step, cut, ended)
			}
			if want := (tally{received: 6}); l.tally != want {
				t.Errorf("reads of %d bytes, chunked %v: got %+v, want %+v", step, cut, l.tally, want)
			}
		}
	}
}

func TestAMessageCountsWhenItHasArrivedAsAWhole(t *testing.T) {
	l, c := newTestLoad()
	event := messages(1, 1, "")
	streamInPieces(t, l, c, event[:len(event)-1], 1000)
	if l.received != 0 {
		t.Errorf("a message counts before its last byte has come")
	}
	streamInPieces(t, l, c, event[len(event)-1:], 1000)
	if l.received != 1 {
		t.Errorf("received %d, want 1", l.received)
	}
}

func TestAnAnswerOverPlainHTTPIsRead(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]struct {
		rest          string
		chunked, done bool
		refused       bool
	}{
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:\n\n":                                          {rest: ":\n\n", done: true},
		"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n":                                            {done: true},
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: Chunked\r\n\r\n3": {rest: "3", chunked: true, done: true},
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-st":                                                           {rest: "HTTP/1.1 200 OK\r\nContent-Type: text/event-st"},
		"HTTP/1.1 426 Upgrade Required\r\nContent-Type: text/event-stream\r\n\r\n":                                 {refused: true},
		"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n":                                                       {refused: true},
	} {
		rest, cut, done, err := plainResponse([]byte(answer))
		if string(rest) != want.rest || cut != want.chunked || done != want.done || errors.Is(err, errRefused) != want.refused {
			t.Errorf("%q: got %q, chunked %v, done %v, %v", answer, rest, cut, done, err)
		}
	}
}

func TestReadingAStreamAllocatesNothing(t *testing.T) {
	for _, cut := range []bool{false, true} {
		l, c := newTestLoad()
		l.wire = control.Events
		var stream []byte
		for n := uint64(1); n <= 50; n++ {
			stream = fmt.Appendf(stream, "data: %s\n\n", messages(n, n, ""))
		}
		if c.chunked = cut; cut {
			stream = fmt.Appendf(nil, "%x\r\n%s\r\n", len(stream), stream)
		}
		got := testing.AllocsPerRun(20, func() {
			c.chunks = chunked.Decoder{}
			_, _, _ = l.body(c, stream)
		})
		if got != 0 {
			t.Errorf("chunked %v: got %v allocations for 50 messages, want 0", cut, got)
		}
	}
}
