// Package wsframe reads the frames that a WebSocket server sends and writes the few that a client answers with.
package wsframe

import "encoding/binary"

// Opcodes of RFC 6455, section 5.2.
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xa
)

// Frame is one frame. Payload is a view of the bytes it was parsed from.
type Frame struct {
	Payload []byte
	Opcode  byte
	Final   bool
}

// Next takes the first frame off buf and returns it with the bytes behind it. It returns ok false, and buf as it was, where the
// frame is not there as a whole. Servers don't mask, so a masked frame can't be told from garbage: it comes out
// with its key as the beginning of its payload.
func Next(buf []byte) (f Frame, rest []byte, ok bool) {
	if len(buf) < 2 {
		return Frame{}, buf, false
	}
	header, length := 2, uint64(buf[1]&0x7f)
	switch length {
	case 126:
		if header = 4; len(buf) < header {
			return Frame{}, buf, false
		}
		length = uint64(binary.BigEndian.Uint16(buf[2:]))
	case 127:
		if header = 10; len(buf) < header {
			return Frame{}, buf, false
		}
		length = binary.BigEndian.Uint64(buf[2:])
	}
	if uint64(len(buf)-header) < length {
		return Frame{}, buf, false
	}
	end := header + int(length)
	return Frame{Payload: buf[header:end], Opcode: buf[0] & 0xf, Final: buf[0]&0x80 != 0}, buf[end:], true
}

// AppendServer appends an unfragmented frame as a server sends it.
func AppendServer(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, payload...)
}

// AppendControl appends a control frame as a client sends it. The masking key is zero, which leaves the payload as it is: the
// mask protects proxies from browsers, and neither is here. Payloads are cut at the 125 bytes that a control frame may have.
func AppendControl(dst []byte, opcode byte, payload []byte) []byte {
	payload = payload[:min(len(payload), 125)]
	dst = append(dst, 0x80|opcode, 0x80|byte(len(payload)), 0, 0, 0, 0)
	return append(dst, payload...)
}
