package mesherstream

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"weak"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// An encoding is how what is sent to a client looks on the wire. A shard and a link handle messages as bytes of some
// length, and know nothing of it.
type encoding uint8

const (
	frames encoding = iota // of a WebSocket
	events                 // Server-Sent Events
	lines                  // a line of JSON for each message
	encodings
)

// forms holds one message in the encodings of plain HTTP. Each form is made when the first client needs it, and shared by
// all that do. Only the clients for which it waits keep it alive, so that a message of the history takes no more memory than
// it counts with.
type forms struct {
	frame *message

	// Guarded by mu.
	mu    sync.Mutex
	plain [encodings]weak.Pointer[message]
}

// in returns the message in an encoding.
func (m *message) in(e encoding) *message {
	if e == frames {
		return m
	}
	return m.inPlain(e)
}

func (m *message) inPlain(e encoding) *message {
	f := m.forms.Load()
	if f == nil {
		m.forms.CompareAndSwap(nil, &forms{frame: m})
		f = m.forms.Load()
	}
	return f.in(e)
}

func (f *forms) in(e encoding) *message {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.plain[e].Value(); m != nil {
		return m
	}
	of := f.frame
	m := of.withFrame(e.encode(of.payload(), of.isBinary()))
	m.forms.Store(f)
	f.plain[e] = weak.Make(m)
	return m
}

// asFrame returns the message that newMessage has made.
func (m *message) asFrame() *message {
	if f := m.forms.Load(); f != nil {
		return f.frame
	}
	return m
}

// withFrame returns a message that is sent in the place of m.
func (m *message) withFrame(frame []byte) *message {
	return &message{
		project: m.project, level: m.level, environment: m.environment, key: m.key,
		frame: frame, number: m.number, stamp: m.stamp, at: m.at, keep: m.keep,
	}
}

// reader returns what reads the bytes of a client. Over plain HTTP, nothing follows the request.
func (e encoding) reader(cfg *config) link.Reader {
	if e == frames {
		return &wsframe.Reader{Limit: cfg.readLimit}
	}
	return new(deaf)
}

// readers returns the function with which the links of a shard ask for a reader. See [link.Options].
func (e encoding) readers(cfg *config) func(own bool) link.Reader {
	var shared link.Reader // by the links that are at rest
	return func(own bool) link.Reader {
		switch {
		case own:
			return e.reader(cfg)
		case shared == nil || !shared.AtRest(): // a link keeps it
			shared = e.reader(cfg)
		}
		return shared
	}
}

// A deaf reader is for a client that has nothing more to say. It puts up with the body of its request or another request,
// and not with a flood.
type deaf struct{ heard int }

// mostHeard is how many bytes may follow the request for a stream over plain HTTP.
const mostHeard = 64 << 10

var errTalkative = errors.New("too much follows the request for the stream")

func (d *deaf) AtRest() bool { return d.heard == 0 }

func (d *deaf) Feed(p []byte, _ func(op byte, payload []byte) error) (n int, err error) {
	if d.heard += len(p); d.heard > mostHeard {
		return 0, errTalkative
	}
	return len(p), nil
}

// encode returns a message of the application as it is sent.
func (e encoding) encode(data []byte, binary bool) []byte {
	switch {
	case e == events && binary:
		return appendEvent(nil, "binary", "", encodeBase64(data))
	case e == events:
		return appendEvent(nil, "", "", data)
	case binary:
		return quoted(encodeBase64(data))
	case bytes.ContainsAny(data, "\r\n") || !json.Valid(data) || isLikeNotice(data):
		return quoted(data)
	default:
		return append(bytes.Clone(data), '\n')
	}
}

func encodeBase64(data []byte) []byte { return base64.StdEncoding.AppendEncode(nil, data) }

// quoted returns a text as a line that is a JSON string, as readable as it can be.
func quoted(text []byte) []byte {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(string(text)) // a string always encodes
	return line.Bytes()
}

// noticeMember is the member of the objects with which lines tell of gaps and of the end.
const noticeMember = "mesherstream"

// isLikeNotice reports whether valid JSON could be mistaken for such an object: a program that reads the lines may ask for
// nothing else than that member, wherever it is. Few messages can have it, and only those are read for it.
func isLikeNotice(data []byte) bool {
	if !bytes.Contains(data, []byte(noticeMember)) && !bytes.Contains(data, []byte(`\u`)) {
		return false
	}
	var members map[string]json.RawMessage
	_ = json.Unmarshal(data, &members) // what is no object has none
	_, is := members[noticeMember]
	return is
}

// notice returns a message of the protocol, of a kind and with a position if it has one. Lines tell of gaps and of the end,
// and leave out everything else.
func (e encoding) notice(kind, position string, v any) []byte {
	data, err := json.Marshal(v)
	if err != nil { // all types of this package encode
		panic(err)
	}
	switch {
	case e == frames:
		return wsframe.Append(nil, wsframe.OpText, data)
	case e == events:
		return appendEvent(nil, kind, position, data)
	case kind == typeGap || kind == typeClose:
		return append(append([]byte(`{"`+noticeMember+`":`), data...), '}', '\n')
	default:
		return nil
	}
}

// closing returns what is sent before the end of a connection.
func (e encoding) closing(code int, reason string) []byte {
	if e == frames {
		return wsframe.Close(code, reason)
	}
	notice := e.notice(typeClose, "", closeNotice{typeClose, code, reason})
	if e == events {
		return append(appendRetry(nil, retryAfter(code, reason)), notice...)
	}
	return notice
}

// retryAfter returns after how many milliseconds a closed EventSource is to come back. As over a WebSocket, the reason may
// say when, and each client waits a little longer than that.
func retryAfter(code int, reason string) int {
	const most = 24 * 60 * 60 * 1000
	_, after, told := strings.Cut(reason, "retry_after_ms=")
	if !told || code != wsframe.CodeTryAgainLater && code != codeServiceRestart {
		return retry()
	}
	digits := after[:len(after)-len(strings.TrimLeft(after, "0123456789"))]
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), n > most:
		n = most
	case n == 0: // or no number
		return retry()
	}
	return int(n) + rand.IntN(int(n)/2+1)
}

const codeServiceRestart = 1012 // only the application closes with it

type closeNotice struct {
	Type   string `json:"type"`
	Code   int    `json:"code"`
	Reason string `json:"reason"`
}

// appendEvent appends an event. It has a data line for each line of the data, whatever ends these lines there: the client
// joins them by LF.
func appendEvent(dst []byte, name, id string, data []byte) []byte {
	if name != "" {
		dst = append(append(append(dst, "event: "...), name...), '\n')
	}
	if id != "" {
		dst = appendEventID(dst, id)
	}
	for {
		end := bytes.IndexAny(data, "\r\n")
		if end < 0 {
			break
		}
		dst = append(append(append(dst, "data: "...), data[:end]...), '\n')
		if data[end] == '\r' && end+1 < len(data) && data[end+1] == '\n' {
			end++
		}
		data = data[end+1:]
	}
	return append(append(append(dst, "data: "...), data...), '\n', '\n')
}

// appendEventID appends the line that gives the event after it an ID.
func appendEventID(dst []byte, id string) []byte {
	return append(append(append(dst, "id: "...), id...), '\n')
}

// retry returns how long a client is to wait before it comes back, in milliseconds, so that not all come at once.
func retry() int { return 1000 + rand.IntN(2000) }

// appendRetry appends how long a client is to wait, in milliseconds, before it comes back.
func appendRetry(dst []byte, milliseconds int) []byte {
	return append(strconv.AppendInt(append(dst, "retry: "...), int64(milliseconds), 10), '\n')
}

// placeAfter returns the ID of an event that is the last one of a write: the position of the client after it. As to the
// parameters, see reached. It is "" in other encodings.
func (c *client) placeAfter(sent, told int) string {
	if c.encoding != events {
		return ""
	}
	return c.positionText(c.reached(sent, told, nil))
}

// heartbeat returns what tells a client of plain HTTP that the connection lives. An event also gives it the position that it
// has reached: an ID without data would be ignored by some browsers.
func (c *client) heartbeat() []byte {
	if c.encoding == lines {
		return []byte{'\n'}
	}
	return c.appendPlace([]byte(":\n"))
}

// appendPlace appends an event that says where a client is in the stream, if that is known, or that it isn't known under the
// filter that the application has set.
func (c *client) appendPlace(dst []byte) []byte {
	position := c.positionText(c.reached(0, 0, nil))
	switch {
	case position != "":
		return appendEvent(dst, typeMark, position, []byte("{}"))
	case c.v1.moved:
		return appendEvent(dst, typeMark, "", []byte("{"+noPlace+"}"))
	}
	return append(dst, '\n')
}
