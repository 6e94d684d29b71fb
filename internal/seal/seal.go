// Package seal makes texts that only the process that has made them can read, and that nobody else can make.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	mathrand "math/rand/v2"
	"time"
)

// MaxText bounds a text, in bytes.
const MaxText = 2 << 10

// A text is its kind, and the base64 of a time, which is legible, of random bits, and of the encrypted payload.
const (
	timeBytes = 6 // milliseconds
	headBytes = timeBytes + 6
	tagBytes  = 16
)

// A Seal makes and opens texts. Its copies open each other's texts. One goroutine may append at a time, and any number may
// open.
type Seal struct {
	aead          cipher.AEAD
	label, sealed []byte // reused by Append
}

// New returns a seal with a key of its own.
func New() Seal {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key would have a wrong length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return Seal{aead: aead}
}

// Append appends a text to dst. It begins with its kind, a letter, and can be opened only with the same kind and label.
// Everybody can read the time, to the millisecond.
func (s *Seal) Append(dst []byte, kind byte, label string, at time.Time, payload []byte) []byte {
	s.label = append(append(s.label[:0], kind), label...)
	head := binary.BigEndian.AppendUint64(s.sealed[:0], uint64(at.UnixMilli())<<16)
	head = binary.BigEndian.AppendUint64(head[:timeBytes], mathrand.Uint64())[:headBytes]
	s.sealed = s.aead.Seal(head, head, payload, s.label)
	return base64.RawURLEncoding.AppendEncode(append(dst, kind), s.sealed)
}

// Fits reports whether the text of a payload of n bytes is within MaxText.
func Fits(n int) bool {
	return 1+base64.RawURLEncoding.EncodedLen(headBytes+n+tagBytes) <= MaxText
}

// Open returns the payload of a text that a copy of this seal has made with that kind and label. The time is that of the
// text, also if another seal has made it, and zero if the text is damaged so that nobody can read it.
func (s *Seal) Open(kind byte, label, text string) (payload []byte, at time.Time, ok bool) {
	if !IsText(kind, text) {
		return nil, at, false
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text[1:])
	if err != nil || len(sealed) < headBytes {
		return nil, at, false
	}
	var ms [8]byte
	copy(ms[8-timeBytes:], sealed)
	at = time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
	payload, err = s.aead.Open(nil, sealed[:headBytes], sealed[headBytes:], append([]byte{kind}, label...))
	return payload, at, err == nil
}

// IsText reports whether a text looks like one of that kind: its first letter, its length and its alphabet are right. It may
// be damaged, or of another seal, and only Open can tell.
func IsText(kind byte, text string) bool {
	if text == "" || text[0] != kind || len(text) > MaxText {
		return false
	}
	for _, c := range []byte(text) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
