package report

import (
	"bytes"
	"fmt"
	"strings"
)

// The tables of a document stand between marks, which readers don't see:
//
//	<!-- compare paced -->
//	…
//	<!-- end -->
//
// What stands between them is replaced. The mark "run" is for the date, the machine and the command.

func marks(name string) (begin, end string) {
	return "<!-- compare " + name + " -->\n", "<!-- end -->\n"
}

// Replace returns the document with text between the marks of a name.
func Replace(document []byte, name, text string) ([]byte, error) {
	begin, end := marks(name)
	before, rest, ok := bytes.Cut(document, []byte(begin))
	_, after, closed := bytes.Cut(rest, []byte(end))
	if !ok || !closed {
		return document, fmt.Errorf("no %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return fmt.Appendf(nil, "%s%s\n%s\n%s%s", before, begin, strings.TrimSpace(text), "\n"+end, after), nil
}

// Section returns what stands between the marks of a name.
func Section(document, name string) (section string, ok bool) {
	begin, end := marks(name)
	_, rest, ok := strings.Cut(document, begin)
	section, _, closed := strings.Cut(rest, end)
	return section, ok && closed
}
