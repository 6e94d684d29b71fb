package mesherstream

import (
	"encoding/json"
	"strconv"
	"strings"
)

// The messages of the wire protocol that a client may send, and the answers. All are JSON text messages:
//
//	→ {"type":"subscribe","filters":{"level":"error","environment":["production","staging"]}}
//	← {"type":"filters_updated","filters":{"level":"error","environment":["production","staging"]},"filtered":0}
//	← {"type":"error","code":"invalid_filter","message":"…"}
const (
	typeSubscribe      = "subscribe"
	typeFiltersUpdated = "filters_updated"
	typeError          = "error"
	typeHello          = "hello"
	typeGap            = "gap"
	typeAck            = "ack"
)

// The codes of an error answer.
const (
	errorMalformed     = "malformed"
	errorUnknownType   = "unknown_type"
	errorInvalidFilter = "invalid_filter"
	errorNotGranted    = "not_granted"
	errorInvalidAck    = "invalid_ack"
)

type errorAnswer struct {
	Type    string `json:"type"`
	Stream  string `json:"stream,omitempty"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

type subscribeRequest struct {
	Type    string
	Filters *wireFilters
}

type wireFilters struct {
	Level       wireValues `json:"level"`
	Environment wireValues `json:"environment"`
}

// wireValues is a list of strings that may be written as one string. It is written as it was read.
type wireValues struct {
	values []string
	isList bool
}

func (v wireValues) MarshalJSON() ([]byte, error) { return v.append(nil), nil }

func (v wireValues) append(dst []byte) []byte {
	switch {
	case len(v.values) == 0 && !v.isList:
		return append(dst, `""`...)
	case len(v.values) == 1 && !v.isList:
		return appendText(dst, v.values[0])
	}
	dst = append(dst, '[')
	for i, s := range v.values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(dst, s)
	}
	return append(dst, ']')
}

// isPlain holds the bytes that mean themselves in a JSON string, as encoding/json writes it.
var isPlain = func() (plain [256]bool) {
	for c := ' '; c <= '~'; c++ {
		plain[c] = !strings.ContainsRune(`"\<>&`, c)
	}
	return plain
}()

// appendText appends a string as encoding/json writes it, which is asked if something in it is special.
func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		if !isPlain[s[i]] {
			text, _ := json.Marshal(s) // a string always encodes
			return append(dst, text...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// filter returns what the request asks for, normalized.
func (r *subscribeRequest) filter() (Filter, error) {
	return Filter{Levels: r.Filters.Level.values, Environments: r.Filters.Environment.values}.normalize()
}

// answer tells the filter that is in force now, written in the form of the request, and how many messages it has taken
// out of the client's buffer.
func (r *subscribeRequest) answer(f Filter, stream string, filtered int) []byte {
	r.Filters.Level.values = f.Levels
	r.Filters.Environment.values = f.Environments
	text := append(make([]byte, 0, 4<<10), `{"type":"`+typeFiltersUpdated+`",`...)
	if stream != "" {
		text = append(appendText(append(text, `"stream":`...), stream), ',')
	}
	text = r.Filters.Level.append(append(text, `"filters":{"level":`...))
	text = r.Filters.Environment.append(append(text, `,"environment":`...))
	text = strconv.AppendInt(append(text, `},"filtered":`...), int64(filtered), 10)
	return appendFrame(nil, opText, append(text, '}'))
}

func refusal(c *client, code, text string) []byte {
	return encodeAnswer(errorAnswer{typeError, c.v1.name(), code, text})
}

// encodeAnswer returns v as a frame. Only types of this package come here, and they always encode.
func encodeAnswer(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return appendFrame(nil, opText, data)
}
