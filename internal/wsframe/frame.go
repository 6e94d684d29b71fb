// Package wsframe writes and reads the frames of RFC 6455 as a server does.
package wsframe

import "encoding/binary"

// The opcodes of RFC 6455, section 5.2.
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xA

	FinBit     = 0x80
	ControlBit = 0x08 // set in every control frame's opcode

	MaxControlPayload = 125
)

// The close codes of RFC 6455, section 7.4.1, that the library sends or names.
const (
	CodeNormal          = 1000
	CodeGoingAway       = 1001
	CodeProtocolError   = 1002
	CodeUnsupportedData = 1003
	CodeNoStatus        = 1005 // never on the wire: a close frame without a code
	CodeAbnormal        = 1006 // never on the wire: no close frame at all
	CodeInvalidPayload  = 1007
	CodePolicyViolation = 1008
	CodeTooBig          = 1009
	CodeInternalError   = 1011
	CodeTryAgainLater   = 1013
)

// Ping is a ping without a payload.
var Ping = Append(nil, OpPing, nil)

// HeaderLen returns the length of the header of a frame that Append makes for a payload of n bytes.
func HeaderLen(payload int) int {
	switch {
	case payload <= 125:
		return 2
	case payload <= 0xFFFF:
		return 4
	default:
		return 10
	}
}

// Append appends one unmasked, unfragmented frame, as a server sends it.
func Append(dst []byte, op byte, payload []byte) []byte {
	switch n := len(payload); HeaderLen(n) {
	case 2:
		dst = append(dst, FinBit|op, byte(n))
	case 4:
		dst = append(dst, FinBit|op, 126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, FinBit|op, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return append(dst, payload...)
}

// Close encodes a close frame. If code may not be sent, the frame carries none.
func Close(code int, reason string) []byte {
	if code == CodeNoStatus {
		return Append(nil, OpClose, nil)
	}
	payload := binary.BigEndian.AppendUint16(nil, uint16(code))
	return Append(nil, OpClose, append(payload, reason...))
}

// IsSendableCode reports whether a close frame may carry code (RFC 6455, section 7.4, and the registry it opened).
func IsSendableCode(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	default:
		return code >= 3000 && code <= 4999
	}
}
