package streamtest

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// Masked is a frame as a client sends it. first is its first byte.
func Masked(first byte, payload string) []byte {
	var p []byte
	switch n := len(payload); {
	case n <= 125:
		p = append(p, first, 0x80|byte(n))
	case n <= 0xFFFF:
		p = binary.BigEndian.AppendUint16([]byte{first, 0x80 | 126}, uint16(n))
	default:
		p = binary.BigEndian.AppendUint64([]byte{first, 0x80 | 127}, uint64(n))
	}
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	p = append(p, mask[:]...)
	for i := range len(payload) {
		p = append(p, payload[i]^mask[i&3])
	}
	return p
}

// Concat joins frames.
func Concat(frames ...[]byte) []byte { return slices.Concat(frames...) }

// NextFrame returns the first frame of p and its payload, or nil if the frame is not complete.
func NextFrame(p []byte) (frame, payload []byte) {
	header, n := size(p)
	if n < 0 || len(p) < header+n {
		return nil, nil
	}
	return p[:header+n], p[header:][:n]
}

// missing returns how many bytes more can be read of the frame that p begins: the rest of its header, and then the rest
// of the frame.
func missing(p []byte) int {
	header, n := size(p)
	if n < 0 {
		return header - len(p)
	}
	return header + n - len(p)
}

// size returns the lengths of the header and the payload of the first frame of p. n is negative if the header is not
// complete.
func size(p []byte) (header, n int) {
	if header = 2; len(p) < header {
		return header, -1
	}
	switch n = int(p[1]); n {
	case 126:
		header = 4
	case 127:
		header = 10
	}
	if len(p) < header {
		return header, -1
	}
	switch header {
	case 4:
		n = int(binary.BigEndian.Uint16(p[2:]))
	case 10:
		n = int(binary.BigEndian.Uint64(p[2:]))
	}
	return header, n
}

// ReadFrame returns the next frame of a stream that is not a ping.
func ReadFrame(r io.Reader) (frame []byte, err error) {
	for {
		frame = frame[:0]
		for more := 2; more > 0; more = missing(frame) {
			frame = append(frame, make([]byte, more)...)
			if _, err := io.ReadFull(r, frame[len(frame)-more:]); err != nil {
				return frame, err
			}
		}
		if !isPing(frame) {
			return frame, nil
		}
	}
}

// WithoutPings returns the frames without the pings among them. Bytes at the end that are no whole frame stay.
func WithoutPings(p []byte) (kept []byte) {
	for {
		frame, _ := NextFrame(p)
		if frame == nil {
			return append(kept, p...)
		}
		if !isPing(frame) {
			kept = append(kept, frame...)
		}
		p = p[len(frame):]
	}
}

func isPing(frame []byte) bool { return frame[0] == wsframe.FinBit|wsframe.OpPing }

func IsTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
