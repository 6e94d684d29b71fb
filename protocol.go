package mesherstream

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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

// maxRequestsPerSecond bounds what one client may ask of its shard. Over it, the client is closed with code 1008.
const maxRequestsPerSecond = 20

type errorAnswer struct {
	Type    string `json:"type"`
	Stream  string `json:"stream,omitempty"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

type subscribeRequest struct {
	Type    string       `json:"type"`
	Filters *wireFilters `json:"filters"`
}

type filtersUpdated struct {
	Type     string       `json:"type"`
	Stream   string       `json:"stream,omitempty"`
	Filters  *wireFilters `json:"filters"`
	Filtered int          `json:"filtered"`
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

func (v *wireValues) UnmarshalJSON(data []byte) error {
	v.isList = data[0] == '['
	if !v.isList {
		data = append(append([]byte{'['}, data...), ']')
	}
	var list []*string // since null, which is no string, would read as one
	if err := json.Unmarshal(data, &list); err != nil || slices.Contains(list, nil) {
		return errNoStrings
	}
	for _, s := range list {
		v.values = append(v.values, *s)
	}
	return nil
}

var errNoStrings = errors.New("a filter is a string or a list of strings")

func (v wireValues) MarshalJSON() ([]byte, error) {
	switch {
	case len(v.values) > 1 || v.isList && len(v.values) == 1:
		return json.Marshal(v.values)
	case len(v.values) == 1:
		return json.Marshal(v.values[0])
	case v.isList:
		return []byte(`[]`), nil
	default:
		return []byte(`""`), nil
	}
}

// requestType returns the type of a client's message, or "" where it has none.
func requestType(data []byte) (string, error) {
	var r struct {
		Type string `json:"type"`
	}
	err := json.Unmarshal(data, &r)
	return r.Type, err
}

// decodeStrictly reads a request into r: a name that is misspelt would otherwise widen a filter silently.
func decodeStrictly(data []byte, r any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return plainly(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// parseSubscribe reads a subscribe message.
func parseSubscribe(data []byte) (subscribeRequest, error) {
	var r subscribeRequest
	if err := decodeStrictly(data, &r); err != nil {
		return r, err
	}
	if r.Filters == nil {
		return r, errors.New("filters is missing")
	}
	return r, nil
}

// plainly says what is wrong with a message in words of the protocol, and not of this program.
func plainly(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s must not be of type %s", cmp.Or(wrong.Field, "the message"), wrong.Value)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
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
	return encodeAnswer(filtersUpdated{typeFiltersUpdated, stream, r.Filters, filtered})
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
