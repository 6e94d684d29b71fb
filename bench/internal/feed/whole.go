package feed

import "bytes"

// NextWhole is [Next] for a stream without frames: a message that has not arrived as a whole is left in rest.
func NextWhole(data []byte, size int) (n uint64, nanos int64, rest []byte, ok bool) {
	n, nanos, rest, ok = Next(data, size)
	if ok && len(rest) == 0 {
		if data = data[bytes.Index(data, []byte(marker)):]; len(data) < size {
			return 0, 0, data, false
		}
	}
	return n, nanos, rest, ok
}
