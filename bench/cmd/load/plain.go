//go:build linux

package main

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/feed"
)

// This file is the client of a stream over plain HTTP.

// plainRequest asks for one.
func plainRequest(wire, host, uri string) []byte {
	accept := "text/event-stream"
	if wire == control.Lines {
		accept = "application/x-ndjson"
	}
	return []byte("GET " + uri + " HTTP/1.1\r\nHost: " + host + "\r\nAccept: " + accept + "\r\n\r\n")
}

// plainResponse takes the head of the answer off buf. It returns done false where it has not come as a whole.
func plainResponse(buf []byte) (rest []byte, chunked, done bool, err error) {
	head, rest, done := bytes.Cut(buf, []byte("\r\n\r\n"))
	if !done {
		return buf, false, false, nil
	}
	status, fields, _ := bytes.Cut(head, []byte("\r\n"))
	fields = bytes.ToLower(fields)
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) ||
		!bytes.Contains(fields, []byte("content-type: text/event-stream")) && !bytes.Contains(fields, []byte("content-type: application/x-ndjson")) {
		return nil, false, false, fmt.Errorf("%w: %s", errRefused, strconv.Quote(string(head)))
	}
	return rest, bytes.Contains(fields, []byte("transfer-encoding: chunked")), true, nil
}

// body counts the messages of what has come of a body. It returns what must wait for more, and gone true at the body's end.
func (l *load) body(c *client, data []byte) (rest []byte, gone bool, err error) {
	now := clock.Now()
	if !c.chunked {
		return l.stream(c, data, now), false, nil
	}
	l.decoded = append(l.decoded[:0], c.carry...)
	l.decoded, rest, gone, err = c.chunks.Append(l.decoded, data)
	c.carry = keep(c.carry, l.stream(c, l.decoded, now))
	return rest, gone, err
}

// stream counts every whole message in data and returns what follows them.
func (l *load) stream(c *client, data []byte, now int64) (rest []byte) {
	for {
		n, nanos, rest, ok := feed.NextWhole(data, l.size)
		if !ok {
			return rest
		}
		l.message(c, n, now, nanos)
		data = rest
	}
}
