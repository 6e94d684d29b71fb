package natsrelay

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/mesher/mesherstream"
	"github.com/nats-io/nats.go"
)

// The headers of a message. An empty field has no header, and unknown headers are ignored.
const (
	headerNode        = "Node"
	headerSeq         = "Seq"
	headerLevel       = "Level"
	headerEnvironment = "Environment"
	headerBinary      = "Binary"
	headerKey         = "Key"
)

// maxTokenBytes bounds a project's name in a subject. A server closes the connection of a client that sends a protocol
// line longer than 4 KiB.
const maxTokenBytes = 384

// envelope is a message as NATS takes it. PublishMsg copies what it takes, so an envelope is used again: making a new one
// costs as much as the rest of publishing.
type envelope struct {
	nats.Msg
	values [6]string // of the headers
}

var envelopes = sync.Pool{New: func() any { return &envelope{Msg: nats.Msg{Header: make(nats.Header, len(envelope{}.values))}} }}

// encode returns m as an envelope. It doesn't copy the data. size is what the server's max_payload bounds: the data and the headers. The caller
// releases the envelope.
func encode(prefix string, m *mesherstream.RelayMessage) (e *envelope, size int) {
	e = envelopes.Get().(*envelope)
	e.Subject, e.Data = subject(prefix, m.Project), m.Data
	size = len("NATS/1.0\r\n\r\n") + len(m.Data)
	n := 0
	set := func(name, value string) {
		if value == "" {
			return
		}
		value = escape(value)
		e.values[n] = value
		e.Header[name] = e.values[n : n+1 : n+1]
		n++
		size += len(name) + len(": \r\n") + len(value)
	}
	set(headerNode, m.Node)
	set(headerSeq, strconv.FormatUint(m.Seq, 10))
	set(headerLevel, m.Level)
	set(headerEnvironment, m.Environment)
	set(headerKey, m.Key)
	if m.Binary {
		set(headerBinary, "1")
	}
	return e, size
}

// release keeps nothing of the message in memory.
func (e *envelope) release() {
	clear(e.Header)
	clear(e.values[:])
	e.Subject, e.Data = "", nil
	envelopes.Put(e)
}

// decode returns msg as a relay message. It doesn't copy the data. The project stays empty: the subscription determines
// it.
func decode(msg *nats.Msg) (m mesherstream.RelayMessage) {
	get := func(name string) string {
		if values := msg.Header[name]; len(values) > 0 {
			return unescape(values[0])
		}
		return ""
	}
	m.Data = msg.Data
	m.Node = get(headerNode)
	m.Seq, _ = strconv.ParseUint(get(headerSeq), 10, 64)
	m.Level = get(headerLevel)
	m.Environment = get(headerEnvironment)
	m.Binary = get(headerBinary) != ""
	m.Key = get(headerKey)
	return m
}

// subject returns the subject of a project. Each project has a different one.
func subject(prefix, project string) string {
	if project == "" {
		return prefix + ".all"
	}
	token := escape(project)
	if len(token) > maxTokenBytes {
		sum := sha256.Sum256([]byte(project))
		token = "+" + hex.EncodeToString(sum[:]) // escape never makes a +
	}
	return prefix + ".project." + token
}

// escape percent-encodes every byte except letters, digits, - and _. The result has no special meaning in a subject or
// a header.
func escape(s string) string {
	n := 0
	for i := range len(s) {
		if !plain(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 2*n)
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			const digits = "0123456789ABCDEF"
			b.Write([]byte{'%', digits[c>>4], digits[c&0xF]})
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// unescape returns s unchanged if it isn't validly escaped, because other programs publish too.
func unescape(s string) string {
	plain, err := url.PathUnescape(s)
	if err != nil {
		return s
	}
	return plain
}
