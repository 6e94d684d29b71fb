package streamtest

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
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
	header, n := 2, uint64(0)
	if len(p) < 2 {
		return nil, nil
	}
	switch n = uint64(p[1]); n {
	case 126:
		header = 4
	case 127:
		header = 10
	}
	if len(p) < header {
		return nil, nil
	}
	switch header {
	case 4:
		n = uint64(binary.BigEndian.Uint16(p[2:]))
	case 10:
		n = binary.BigEndian.Uint64(p[2:])
	}
	if uint64(len(p)-header) < n {
		return nil, nil
	}
	return p[:header+int(n)], p[header:][:n]
}

func IsTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
