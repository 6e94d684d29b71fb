// Package request reads the requests of clients: JSON objects with a type. It reads them strictly. A member that is
// unknown, or appears twice, is an error: otherwise a misspelt name would widen a filter without notice. The text of an
// error is meant for the client.
package request

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The types of the requests that this package parses.
const (
	TypeSubscribe = "subscribe"
	TypeFetch     = "fetch"
	TypeAck       = "ack"
)

// MaxLast bounds how many messages a client may ask for. A history has no more.
const MaxLast = 1_000_000

// A Subscribe asks for the messages that pass a filter.
type Subscribe struct {
	Filters Filters
	Last    int // how many messages to look back for, from 1 to MaxLast; 0 if the request does not say
}

// errEnough ends a reading early.
var errEnough = errors.New("enough is known")

// Type returns the type of a client's message, or "" if it has none. It fails if the message is not a JSON object, or
// if its type is ambiguous. It looks no further than the first type if that is one of the above: the function that then
// parses the request refuses any mistake in the rest.
func Type(data []byte) (string, error) {
	r := reader{text: string(data)}
	kind, seen, twice := "", false, false
	err := r.document(func(name string) error {
		switch {
		case name == "type" && !seen:
			seen = true
			if r.next() == 'n' {
				return r.skip(1) // null
			}
			var err error
			if kind, err = r.string(); kind == TypeSubscribe || kind == TypeAck || kind == TypeFetch {
				return errEnough
			}
			return err
		case name == "type":
			twice = true
		case strings.EqualFold(name, "type"):
			return unknownField(name)
		}
		return r.skip(1)
	})
	switch {
	case errors.Is(err, errEnough):
		return kind, nil
	case err == nil && twice:
		err = errTwice("type")
	}
	if err != nil {
		return "", err
	}
	return kind, nil
}

var (
	errNoCount = errors.New("n must be a whole number")
	errNoGap   = errors.New("gap must be a string")
	errNoLast  = fmt.Errorf("last must be a whole number from 1 to %d", MaxLast)
)

// ParseSubscribe reads a subscribe message.
func ParseSubscribe(data []byte) (Subscribe, error) {
	var q Subscribe
	fields := [...]field{
		{name: "type", read: skipText},
		{name: "filters", read: q.Filters.read},
		{name: "last", read: func(r *reader) (err error) {
			r.next()
			text, err := r.number()
			if err != nil {
				return errNoLast
			}
			if q.Last, err = strconv.Atoi(text); err != nil || q.Last < 1 || q.Last > MaxLast {
				return errNoLast
			}
			return nil
		}},
	}
	err := parse(data, fields[:], "filters")
	return q, err
}

// ParseFetch reads a fetch message, and returns the ID of the gap.
func ParseFetch(data []byte) (gap string, err error) {
	fields := [...]field{
		{name: "type", read: skipText},
		{name: "gap", read: func(r *reader) (err error) {
			if r.next() != '"' {
				return errNoGap
			}
			gap, err = r.string()
			return err
		}},
	}
	if err := parse(data, fields[:], "gap"); err != nil {
		return "", err
	}
	return gap, nil
}

// ParseAck reads an ack, and returns the number of messages that it acknowledges.
func ParseAck(data []byte) (n uint64, err error) {
	fields := [...]field{
		{name: "type", read: skipText},
		{name: "n", read: func(r *reader) (err error) {
			r.next()
			text, err := r.number()
			if err != nil {
				return errNoCount
			}
			if n, err = strconv.ParseUint(text, 10, 64); err != nil {
				return errNoCount
			}
			return nil
		}},
	}
	if err := parse(data, fields[:], "n"); err != nil {
		return 0, err
	}
	return n, nil
}

// A field is a member that an object may have, together with the function that reads its value.
type field struct {
	name string
	read func(r *reader) error
	seen bool
}

// parse reads a whole request, which must have the field of that name.
func parse(data []byte, fields []field, needed string) error {
	r := reader{text: string(data)}
	if err := r.document(func(name string) error { return readMember(&r, name, fields) }); err != nil {
		return err
	}
	for i := range fields {
		if f := &fields[i]; f.name == needed && !f.seen {
			return errors.New(needed + " is missing")
		}
	}
	return nil
}

// readMember reads a member into its field.
func readMember(r *reader, name string, fields []field) error {
	for i := range fields {
		f := &fields[i]
		switch {
		case f.name != name:
			continue
		case f.seen:
			return errTwice(name)
		}
		f.seen = true
		return f.read(r)
	}
	return unknownField(name)
}

func unknownField(name string) error { return fmt.Errorf("unknown field %.64q", name) }

func errTwice(name string) error { return fmt.Errorf("%s is there twice", name) }

// skipText reads a type, which the caller knows.
func skipText(r *reader) error {
	_, err := r.string()
	return err
}
