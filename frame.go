package mesherstream

import (
	"encoding/binary"
)

// The opcodes of RFC 6455, section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA

	finBit     = 0x80
	controlBit = 0x08 // set in every control frame's opcode

	maxControlPayload = 125
)

// The close codes of RFC 6455, section 7.4.1, that this package sends or names.
const (
	codeNormal          = 1000
	codeGoingAway       = 1001
	codeProtocolError   = 1002
	codeUnsupportedData = 1003
	codeNoStatus        = 1005 // never on the wire: a close frame without a code
	codeAbnormal        = 1006 // never on the wire: no close frame at all
	codeInvalidPayload  = 1007
	codePolicyViolation = 1008
	codeTooBig          = 1009
	codeInternalError   = 1011
	codeTryAgainLater   = 1013
)

var pingFrame = appendFrame(nil, opPing, nil)

func frameHeaderLen(payload int) int {
	switch {
	case payload <= 125:
		return 2
	case payload <= 0xFFFF:
		return 4
	default:
		return 10
	}
}

// appendFrame appends one unmasked, unfragmented frame, as a server sends it.
func appendFrame(dst []byte, op byte, payload []byte) []byte {
	switch n := len(payload); frameHeaderLen(n) {
	case 2:
		dst = append(dst, finBit|op, byte(n))
	case 4:
		dst = append(dst, finBit|op, 126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, finBit|op, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return append(dst, payload...)
}

// closeFrame encodes a close frame. A code that may not be sent makes a close frame without one.
func closeFrame(code int, reason string) []byte {
	if code == codeNoStatus {
		return appendFrame(nil, opClose, nil)
	}
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	return appendFrame(nil, opClose, append(payload, reason...))
}

// isSendableCode says whether a close frame may carry code (RFC 6455, section 7.4, and the registry it opened).
func isSendableCode(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	default:
		return code >= 3000 && code <= 4999
	}
}

// frameLen returns how long the frame is that p starts with, as appendFrame made it, or 0 if p ends within its header.
func frameLen(p []byte) int {
	if len(p) < 2 {
		return 0
	}
	switch n := int(p[1]); {
	case n <= 125:
		return 2 + n
	case n == 126 && len(p) >= 4:
		return 4 + int(binary.BigEndian.Uint16(p[2:]))
	case n == 127 && len(p) >= 10:
		return 10 + int(binary.BigEndian.Uint64(p[2:]))
	default:
		return 0
	}
}

// wholeFrames returns how many bytes the frames have that end within the first limit bytes of p, and how many of these
// frames are messages. p starts with a frame that appendFrame made.
func wholeFrames(p []byte, limit int) (size, messages int) {
	for {
		n := frameLen(p[size:])
		if n == 0 || n > min(limit, len(p))-size {
			return size, messages
		}
		if p[size]&controlBit == 0 {
			messages++
		}
		size += n
	}
}
