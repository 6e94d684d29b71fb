// Package chunked takes the chunks off a response's body, as it arrives.
package chunked

import (
	"bytes"
	"errors"
)

// Decoder is how far one body has been read.
type Decoder struct {
	left  int  // bytes of the chunk that are still to come
	begun bool // a chunk has begun, and the line break after it has not come
}

var errSize = errors.New("a chunk's size is no number")

// Append appends what data holds of the body to dst. It returns what must wait for more, a part of a line, and whether the body
// has ended.
func (d *Decoder) Append(dst, data []byte) (body, rest []byte, ended bool, err error) {
	for {
		if d.left > 0 {
			n := min(d.left, len(data))
			dst, data = append(dst, data[:n]...), data[n:]
			d.left -= n
		}
		if d.left > 0 {
			return dst, nil, false, nil
		}
		if d.begun {
			if len(data) < 2 {
				return dst, data, false, nil
			}
			data, d.begun = data[2:], false
		}
		line, after, whole := bytes.Cut(data, []byte("\r\n"))
		if !whole {
			return dst, data, false, nil
		}
		size, err := parse(line)
		if err != nil {
			return dst, nil, false, err
		}
		if size == 0 {
			return dst, nil, true, nil
		}
		data, d.left, d.begun = after, size, true
	}
}

// parse reads a size. No server here writes extensions after it.
func parse(line []byte) (size int, err error) {
	if len(line) == 0 || len(line) > 7 {
		return 0, errSize
	}
	for _, c := range line {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, errSize
		}
		size = size<<4 | int(c)
	}
	return size, nil
}
