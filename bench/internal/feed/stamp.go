package feed

import "bytes"

// A message is JSON, so that servers which put it into an envelope of their own can carry it, and it begins with its number and its
// instant in hexadecimal digits of fixed width, so that the load client finds both without parsing JSON:
//
//	{"stamp":"0000002a00000012f3a4b5c6","pad":"xxxx…"}
const (
	marker     = `{"stamp":"`
	numberLen  = 8
	instantLen = 16
	stampLen   = len(marker) + numberLen + instantLen
	middle     = `","pad":"`
	ending     = `"}`

	// MinSize is the length of the shortest message.
	MinSize = stampLen + len(middle) + len(ending)
)

const digits = "0123456789abcdef"

// nibbles is the reverse of digits.
var nibbles = func() (t [256]uint8) {
	for i, d := range digits {
		t[d] = uint8(i)
	}
	return t
}()

func newMessage(size int) []byte {
	size = max(size, MinSize)
	m := append([]byte(marker), bytes.Repeat([]byte{'0'}, numberLen+instantLen)...)
	m = append(m, middle...)
	m = append(m, bytes.Repeat([]byte{'x'}, size-MinSize)...)
	return append(m, ending...)
}

func putStamp(m []byte, n uint64, nanos int64) {
	putHex(m[len(marker):len(marker)+numberLen], n)
	putHex(m[len(marker)+numberLen:stampLen], uint64(nanos))
}

func putHex(dst []byte, v uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = digits[v&15]
		v >>= 4
	}
}

func hex(src []byte) (v uint64) {
	for _, d := range src {
		v = v<<4 | uint64(nibbles[d])
	}
	return v
}

// Next finds the next message in data, which may carry several of them with anything in between. It returns the message's
// number and instant and what follows the message, which is taken to be size bytes long as far as data goes. Where there is none it returns ok false, and in rest the tail that might be the
// beginning of one.
func Next(data []byte, size int) (n uint64, nanos int64, rest []byte, ok bool) {
	if !bytes.HasPrefix(data, []byte(marker)) {
		at := bytes.Index(data, []byte(marker))
		if at < 0 {
			return 0, 0, data[max(0, len(data)-len(marker)+1):], false
		}
		data = data[at:]
	}
	if len(data) < stampLen {
		return 0, 0, data, false
	}
	n = hex(data[len(marker) : len(marker)+numberLen])
	nanos = int64(hex(data[len(marker)+numberLen : stampLen]))
	return n, nanos, data[min(max(size, stampLen), len(data)):], true
}
