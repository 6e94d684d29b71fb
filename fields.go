package mesherstream

import (
	"fmt"
	"unicode/utf8"
)

// The bounds of the fields of a message and of a subscription, in bytes. Without bounds, they would be the part of a
// message that nothing counts; and a level that no filter can name would reach nobody who filters.
const (
	maxProjectBytes     = 128
	maxFilterValueBytes = 64 // a level or an environment
	maxKeyBytes         = 256
	maxNodeBytes        = 64 // the name of a node of a relay
)

// checkField returns what is wrong with the value of a field, or nil.
func checkField(field, value string, most int) error {
	switch {
	case len(value) > most:
		return fmt.Errorf("%s has %d bytes, and the most is %d", field, len(value), most)
	case !utf8.ValidString(value):
		return fmt.Errorf("%s is not valid UTF-8", field)
	}
	return nil
}

// checkFields checks everything in the message but its data.
func (msg *Message) checkFields() error {
	for _, f := range [...]struct {
		name, value string
		most        int
	}{
		{"Project", msg.Project, maxProjectBytes},
		{"Level", msg.Level, maxFilterValueBytes},
		{"Environment", msg.Environment, maxFilterValueBytes},
		{"Key", msg.Key, maxKeyBytes},
	} {
		if err := checkField(f.name, f.value, f.most); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalidMessage, err)
		}
	}
	return nil
}

// isNoLevel says whether no message has a level of that name.
func isNoLevel(name string) bool {
	return name == "" || checkField("level", name, maxFilterValueBytes) != nil
}

// normalize returns a copy of the filter in the form that [Filter.normalize] describes, and fails if that fails or if the
// project is out of its bounds. It takes the place of the method of the embedded filter, so that no subscription comes in
// with one half unchecked.
func (s *Subscription) normalize() (Filter, error) {
	if err := checkField("project", s.Project, maxProjectBytes); err != nil {
		return Filter{}, fmt.Errorf("%w: %w", ErrInvalidFilter, err)
	}
	return s.Filter.normalize()
}
