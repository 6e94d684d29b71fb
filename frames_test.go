package mesherstream

import (
	"encoding/binary"
	"slices"
)

// masked is a frame as a client sends it. first is its first byte.
func masked(first byte, payload string) []byte {
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

func concat(frames ...[]byte) []byte { return slices.Concat(frames...) }
