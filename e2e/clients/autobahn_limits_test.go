package clients

import (
	"fmt"
	"strings"
	"testing"
)

// Without -long, messages are a sixteenth of their size, and round trips a tenth.
func TestTheLimitsOfTheAutobahnSuite(t *testing.T) {
	if *long {
		playAll(t, limits(1<<10, 1000))
		return
	}
	playAll(t, limits(1<<6, 100))
}

// limits has the cases 9 and 10: large messages, many fragments, small pieces and many round trips. kib is how many bytes
// stand for a KiB of a message.
func limits(kib, trips int) (cases []wireCase) {
	pattern := strings.Repeat("BAsd7&jh23", 1<<21)
	for kind, make := range []func(string) frame{text, bin} {
		opcode := []byte{opText, opBinary}[kind]
		group := func(n int) string { return fmt.Sprint("9.", n+kind, ".") }
		for i, size := range []int{64, 256, 1 << 10, 4 << 10, 8 << 10, 16 << 10} {
			m := make(pattern[:size*kib])
			cases = append(cases, echo(group(1)+fmt.Sprint(i+1), fmt.Sprintf("a message of %d KiB", size), 0, m, m))
		}
		for i, size := range []int{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20} {
			m := pattern[:4<<10*kib]
			cases = append(cases, echo(group(3)+fmt.Sprint(i+1), fmt.Sprint("4 MiB in fragments of ", size), 0, make(m), fragments(opcode, m, size)...))
		}
		for i, chop := range []int{64, 128, 256, 512, 1 << 10, 2 << 10} {
			m := make(pattern[:1<<10*kib])
			cases = append(cases, echo(group(5)+fmt.Sprint(i+1), fmt.Sprint("1 MiB in pieces of ", chop), chop, m, m))
		}
		for i, size := range []int{0, 16, 64, 256, 1024, 4096} {
			c := wireCase{id: group(7) + fmt.Sprint(i+1), what: fmt.Sprint("many round trips of ", size)}
			m := make(pattern[:size])
			for range trips {
				c.steps = append(c.steps, sends(m).wants(m))
			}
			cases = append(cases, c)
		}
	}
	m := pattern[:65_536]
	return append(cases, echo("10.1.1", "65,536 bytes in fragments of 1,300", 0, text(m), fragments(opText, m, 1300)...))
}
