package wsframe

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// A CloseError is a client's violation of the protocol, as the close frame reports it.
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string { return fmt.Sprintf("close %d: %s", e.Code, e.Reason) }

var errNotUTF8 = &CloseError{CodeInvalidPayload, "text is not valid UTF-8"}

func protocolError(reason string) error { return &CloseError{CodeProtocolError, reason} }

// A Reader turns the bytes of a client into messages and control frames. It is fed the bytes as they arrive, in any
// pieces, and holds no buffer between messages.
//
// The reader of contrib's connection would not do: it answers a broken frame by writing to the socket itself, while a
// data frame may be half written.
type Reader struct {
	Limit int // bytes of one message

	header [14]byte // of the frame that is being read
	have   int      // bytes of header read so far

	inPayload bool
	op        byte // of the frame that is being read
	fin       bool
	messageOp byte // of the message that is being read; 0 between messages
	mask      [4]byte
	maskPos   int
	remaining int // bytes of payload that have yet to arrive

	message []byte
	checked int // how many bytes of a text are known to be UTF-8
	control []byte
}

// Feed reads p and calls emit for each complete message and control frame, in order. It unmasks p in place. emit owns
// its payload. If emit returns an error, Feed returns that error and how much of p was read, and may continue from
// there. A *CloseError is final.
func (r *Reader) Feed(p []byte, emit func(op byte, payload []byte) error) (n int, err error) {
	all := len(p)
	for len(p) > 0 || r.inPayload && r.remaining == 0 {
		if !r.inPayload {
			n := copy(r.header[r.have:r.headerLen()], p)
			r.have += n
			p = p[n:]
			if r.have >= 2 && r.header[1]&0x80 == 0 {
				return all - len(p), protocolError("frame of a client is not masked")
			}
			if r.have == r.headerLen() {
				if err := r.begin(); err != nil {
					return all - len(p), err
				}
			}
			continue
		}
		n := min(r.remaining, len(p))
		r.take(p[:n])
		p = p[n:]
		if err := r.checkText(); err != nil {
			return all - len(p), err
		}
		if r.remaining > 0 {
			break
		}
		if err := r.end(emit); err != nil {
			return all - len(p), err
		}
	}
	return all, nil
}

// AtRest reports whether the reader is between two messages, and has read nothing of the next frame.
func (r *Reader) AtRest() bool { return r.have == 0 && !r.inPayload && r.messageOp == 0 }

// headerLen returns the length of the header, including the mask, as far as its first two bytes determine it.
func (r *Reader) headerLen() int {
	if r.have < 2 {
		return 2
	}
	switch r.header[1] & 0x7F {
	case 126:
		return 2 + 2 + 4
	case 127:
		return 2 + 8 + 4
	default:
		return 2 + 4
	}
}

// begin checks a complete header, before any of the payload is read.
func (r *Reader) begin() error {
	first := r.header[0]
	r.fin, r.op = first&FinBit != 0, first&0x0F
	length := uint64(r.header[1] & 0x7F)
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(r.header[2:]))
		if length < 126 {
			return protocolError("payload length is not in its shortest form")
		}
	case 127:
		length = binary.BigEndian.Uint64(r.header[2:])
		if length <= 0xFFFF || length>>63 != 0 {
			return protocolError("payload length is not in its shortest form")
		}
	}

	switch {
	case first&0x70 != 0:
		return protocolError("reserved bits are set, and no extension or compression is supported")
	case r.op&ControlBit != 0:
		if r.op > OpPong {
			return protocolError("reserved opcode")
		}
		if !r.fin || length > MaxControlPayload {
			return protocolError("control frame is fragmented or too long")
		}
	default:
		switch {
		case r.op > OpBinary:
			return protocolError("reserved opcode")
		case r.op == OpContinuation && r.messageOp == 0:
			return protocolError("continuation of no message")
		case r.op != OpContinuation && r.messageOp != 0:
			return protocolError("new message inside a fragmented one")
		}
		// Compared without adding: the client chooses the length, and the sum might overflow.
		if length > uint64(r.Limit-len(r.message)) {
			return &CloseError{CodeTooBig, fmt.Sprintf("message is over %d bytes", r.Limit)}
		}
		if r.op != OpContinuation {
			r.messageOp = r.op
		}
	}

	copy(r.mask[:], r.header[r.have-4:r.have])
	r.remaining, r.maskPos, r.inPayload = int(length), 0, true
	return nil
}

// take unmasks a piece of the payload and keeps it.
func (r *Reader) take(p []byte) {
	for i := range p {
		p[i] ^= r.mask[(r.maskPos+i)&3]
	}
	r.maskPos += len(p)
	r.remaining -= len(p)
	if r.op&ControlBit != 0 {
		r.control = append(r.control, p...)
	} else {
		r.message = append(r.message, p...)
	}
}

// checkText refuses a text as soon as it can no longer become UTF-8. A character that is still incomplete waits for the
// rest of it.
func (r *Reader) checkText() error {
	if r.op&ControlBit != 0 || r.messageOp != OpText {
		return nil
	}
	fresh := r.message[r.checked:]
	fresh = fresh[:len(fresh)-incomplete(fresh)]
	if !utf8.Valid(fresh) {
		return errNotUTF8
	}
	r.checked += len(fresh)
	return nil
}

// incomplete returns how many bytes at the end of p begin a character that may still be completed.
func incomplete(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if tail := p[len(p)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// end delivers the message or control frame that the frame has completed, if any.
func (r *Reader) end(emit func(op byte, payload []byte) error) error {
	r.inPayload, r.have = false, 0
	if r.op&ControlBit != 0 {
		payload := r.control
		r.control = nil
		if r.op == OpClose {
			if err := checkClose(payload); err != nil {
				return err
			}
		}
		return emit(r.op, payload)
	}
	if !r.fin {
		return nil
	}
	op, payload, checked := r.messageOp, r.message, r.checked
	r.messageOp, r.message, r.checked = 0, nil, 0
	if op == OpText && checked < len(payload) {
		return errNotUTF8
	}
	return emit(op, payload)
}

func checkClose(payload []byte) error {
	switch {
	case len(payload) == 0:
		return nil
	case len(payload) == 1 || !IsSendableCode(int(binary.BigEndian.Uint16(payload))):
		return protocolError("close frame has no valid code")
	case !utf8.Valid(payload[2:]):
		return &CloseError{CodeInvalidPayload, "close reason is not valid UTF-8"}
	}
	return nil
}

// ParseClose returns the code and reason of a checked close frame.
func ParseClose(payload []byte) (code int, reason string) {
	if len(payload) < 2 {
		return CodeNoStatus, ""
	}
	return int(binary.BigEndian.Uint16(payload)), string(payload[2:])
}
