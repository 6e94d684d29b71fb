package request

import "errors"

// MaxValues bounds a list of a filter. Any client may send a filter. Of a longer list, ParseSubscribe keeps one value more,
// so that the caller refuses it.
const MaxValues = 16

// Filters are the lists of a filter, as they are written in a request or a reply.
type Filters struct{ Level, Environment Values }

// Values is a list of strings that may be written as a single string.
type Values struct {
	List   []string
	IsList bool // it is written as a list, also if it is empty or has one value
}

var (
	errNoFilters = errors.New("filters must be an object")
	errNoStrings = errors.New("a filter is a string or a list of strings")
)

func (f *Filters) read(r *reader) error {
	if r.next() != '{' {
		return errNoFilters
	}
	fields := [...]field{{name: "level", read: f.Level.read}, {name: "environment", read: f.Environment.read}}
	return r.object(func(name string) error { return readMember(r, name, fields[:]) })
}

func (v *Values) read(r *reader) error {
	one := func() error {
		if r.next() != '"' {
			return errNoStrings
		}
		s, err := r.string()
		if len(v.List) <= MaxValues {
			v.List = append(v.List, s)
		}
		return err
	}
	if v.IsList = r.next() == '['; !v.IsList {
		return one()
	}
	v.List = make([]string, 0, MaxValues+1)
	return r.list(one)
}

// MarshalJSON returns the filters as Append writes them.
func (f Filters) MarshalJSON() ([]byte, error) { return f.Append(nil), nil }

// Append appends the filters as a JSON object, in a form that can be sent back in a request.
func (f *Filters) Append(dst []byte) []byte {
	dst = f.Level.append(append(dst, `{"level":`...))
	dst = f.Environment.append(append(dst, `,"environment":`...))
	return append(dst, '}')
}

func (v *Values) append(dst []byte) []byte {
	switch {
	case len(v.List) == 0 && !v.IsList:
		return append(dst, `""`...)
	case len(v.List) == 1 && !v.IsList:
		return appendText(dst, v.List[0])
	}
	dst = append(dst, '[')
	for i, s := range v.List {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(dst, s)
	}
	return append(dst, ']')
}
