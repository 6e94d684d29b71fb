package clients

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mesher/mesherstream"
)

// The cases of the Autobahn test suite by their numbers, for a server that echoes. What is missing on purpose: 12 and 13
// are about compression, which is never agreed on here, and 9.9 and 9.10 are switched off in the suite itself.
func autobahn() []wireCase {
	return slices.Concat(framing(), pings(), reservedBits(), opcodes(), fragmentation(), utf8Fragments(), utf8Sequences(),
		closeHandling())
}

func TestTheCasesOfTheAutobahnSuite(t *testing.T) { playAll(t, autobahn()) }

func playAll(t *testing.T, cases []wireCase) {
	overTransports(t, func(t *testing.T, tr transport) {
		w := startEcho(t, tr, mesherstream.WithReadLimit(16<<20), mesherstream.WithMaxBufferBytes(64<<20))
		for _, c := range cases {
			t.Run(c.id, func(t *testing.T) { c.play(t, w) })
		}
	})
}

// echo is a case in which frames make one message, which comes back.
func echo(id, what string, chop int, back frame, frames ...frame) wireCase {
	return wireCase{id: id, what: what, chop: chop, steps: []step{sends(frames...).wants(back)}}
}

func framing() (cases []wireCase) {
	for kind, make := range []func(string) frame{text, bin} {
		letter := []string{"*", "\xFE"}[kind]
		for i, size := range []int{0, 125, 126, 127, 128, 65_535, 65_536, 65_536} {
			c := echo(fmt.Sprintf("1.%d.%d", kind+1, i+1), fmt.Sprint("a message of ", size), 0,
				make(strings.Repeat(letter, size)), make(strings.Repeat(letter, size)))
			if i == 7 {
				c.chop = 997
			}
			cases = append(cases, c)
		}
	}
	return cases
}

func pings() []wireCase {
	const newest = "answers the newest ping of those that came together, as section 5.5.3 allows: a flood of pings costs one pong"
	var ten []frame
	var pongs step
	for i := range 10 {
		ten = append(ten, ping(fmt.Sprint("payload-", i)))
	}
	pongs = sends(ten...)
	for i := range 9 {
		pongs = pongs.mayWant(pong(fmt.Sprint("payload-", i)))
	}
	pongs = pongs.wants(pong("payload-9"))
	full := strings.Repeat("\xFE", 125)
	return []wireCase{
		{id: "2.1", what: "a ping without payload", steps: []step{sends(ping("")).wants(pong(""))}},
		{id: "2.2", what: "a ping with text", steps: []step{sends(ping("Hello, world!")).wants(pong("Hello, world!"))}},
		{id: "2.3", what: "a ping with bytes", steps: []step{sends(ping("\x00\xff\xfe\xfd\xfc\xfb\x00\xff")).wants(pong("\x00\xff\xfe\xfd\xfc\xfb\x00\xff"))}},
		{id: "2.4", what: "a ping of 125 bytes", steps: []step{sends(ping(full)).wants(pong(full))}},
		{id: "2.5", what: "a ping of 126 bytes", steps: []step{sends(ping(full + "\xFE"))}, fails: 1002},
		{id: "2.6", what: "2.4 byte by byte", chop: 1, steps: []step{sends(ping(full)).wants(pong(full))}},
		{id: "2.7", what: "a pong without payload that nobody asked for", steps: []step{sends(pong(""))}},
		{id: "2.8", what: "a pong with payload that nobody asked for", steps: []step{sends(pong("unsolicited"))}},
		{id: "2.9", what: "such a pong, and a ping", steps: []step{sends(pong("unsolicited"), ping("ping payload")).wants(pong("ping payload"))}},
		{id: "2.10", what: "ten pings at once", steps: []step{pongs}, differs: newest},
		{id: "2.11", what: "2.10 byte by byte", chop: 1, steps: []step{pongs}, differs: newest},
	}
}

func reservedBits() []wireCase {
	const hello = "Hello, world!"
	textFirst := func(id string, bits byte, chop int) wireCase {
		return wireCase{
			id: id, what: fmt.Sprintf("text, text with reserved bits %03b, ping", bits), chop: chop,
			steps: []step{sends(text(hello), reserved(bits, text(hello)), ping("")).wants(text(hello))}, fails: 1002,
		}
	}
	alone := func(id string, bits byte, f frame) wireCase {
		return wireCase{id: id, what: fmt.Sprintf("%s with reserved bits %03b", f, bits), steps: []step{sends(reserved(bits, f))}, fails: 1002}
	}
	return []wireCase{
		textFirst("3.1", 1, 0), textFirst("3.2", 2, 0), textFirst("3.3", 3, perFrame), textFirst("3.4", 4, 1),
		alone("3.5", 5, bin("\x00\xff\xfe\xfd\xfc\xfb\x00\xff")), alone("3.6", 6, ping(hello)), alone("3.7", 7, closeFrame("")),
	}
}

func opcodes() (cases []wireCase) {
	const payload = "reserved opcode payload"
	for group, first := range []byte{3, 11} {
		for i := range byte(5) {
			c := wireCase{id: fmt.Sprintf("4.%d.%d", group+1, i+1), fails: 1002, what: fmt.Sprintf("opcode %d", first+i)}
			bad := op(first+i, "")
			if i == 1 || i > 2 {
				bad = op(first+i, payload)
			}
			c.steps = []step{sends(bad)}
			if i >= 2 {
				c.what = "text, " + c.what + ", ping"
				c.steps = []step{sends(text("Hello, world!"), bad, ping("")).wants(text("Hello, world!"))}
			}
			if i == 4 {
				c.chop = 1
			}
			cases = append(cases, c)
		}
	}
	return cases
}

func fragmentation() (cases []wireCase) {
	const one, two, three, four = "fragment1", "fragment2", "fragment3", "fragment4"
	add := func(id, what string, fails, chop int, steps ...step) {
		cases = append(cases, wireCase{id: id, what: what, fails: fails, chop: chop, steps: steps})
	}
	opened := func(f frame) frame { f.first &^= fin; return f } // the first of several fragments
	add("5.1", "a ping in fragments", 1002, 0, sends(opened(ping(one)), last(two)))
	add("5.2", "a pong in fragments", 1002, 0, sends(opened(pong(one)), last(two)))

	// Each of these three times: in one write, frame by frame, byte by byte.
	chops := []int{0, perFrame, 1}
	for i, chop := range chops {
		add(fmt.Sprint("5.", 3+i), "text in two fragments", 0, chop, sends(begin(one), last(two)).wants(text(one+two)))
	}
	for i, chop := range chops {
		add(fmt.Sprint("5.", 6+i), "a ping between two fragments", 0, chop,
			sends(begin(one), ping("ping payload"), last(two)).wants(pong("ping payload"), text(one+two)))
	}
	for i, chop := range chops {
		add(fmt.Sprint("5.", 9+i), "a last fragment of nothing, then text", 1002, chop, sends(last("non-continuation payload"), text("Hello, world!")))
	}
	for i, chop := range chops {
		add(fmt.Sprint("5.", 12+i), "a fragment of nothing, then text", 1002, chop, sends(more("non-continuation payload"), text("Hello, world!")))
	}
	add("5.15", "text in two fragments, a fragment of nothing, text", 1002, 0,
		sends(begin(one), last(two), more(three), text(four)).wants(text(one+two)))
	add("5.16", "twice: a fragment of nothing, text in two fragments", 1002, 0,
		sends(more(one), begin(two), last(three), more(one), begin(two), last(three)))
	add("5.17", "twice: a last fragment of nothing, text in two fragments", 1002, 0,
		sends(last(one), begin(two), last(three), last(one), begin(two), last(three)))
	add("5.18", "both fragments have the opcode of text", 1002, 0, sends(begin(one), text(two)))
	for i, chop := range chops[:2] {
		add(fmt.Sprint("5.", 19+i), "text in five fragments, a ping answered after the second and one after the fourth", 0, chop,
			sends(begin(one), more(two), ping("pongme 1!")).wants(pong("pongme 1!")),
			sends(more(three), more(four), ping("pongme 2!"), last("fragment5")).wants(pong("pongme 2!"), text(one+two+three+four+"fragment5")))
	}
	return cases
}

func closeHandling() []wireCase {
	const hello = "Hello World!"
	long := strings.Repeat("BAsd7&jh23", 26_215)[:256<<10]
	cases := []wireCase{
		{id: "7.1.1", what: "text, close", steps: []step{sends(text(hello)).wants(text(hello)), sends(closeWith(1000, ""))}, closes: 1000},
		{id: "7.1.2", what: "two close frames", steps: []step{sends(closeWith(1000, ""), closeFrame(""))}, closes: 1000},
		{id: "7.1.3", what: "close, ping", steps: []step{sends(closeWith(1000, ""), ping(""))}, closes: 1000},
		{id: "7.1.4", what: "close, text", steps: []step{sends(closeWith(1000, ""), text(hello))}, closes: 1000},
		{id: "7.1.5", what: "close between two fragments", steps: []step{sends(begin("fragment1"), closeWith(1000, ""), last("fragment2"))}, closes: 1000},
		{
			id: "7.1.6", what: "256 KiB of text, text, close, ping: the suite asks for nothing, what waits may be given up", closes: 1000,
			steps: []step{sends(text(long), text(hello), closeWith(1000, ""), ping("")).wants(text(long)).mayWant(text(hello))},
		},
		{id: "7.3.1", what: "close without payload", steps: []step{sends(closeFrame(""))}, closes: noCode},
		{id: "7.3.2", what: "close with one byte", steps: []step{sends(closeFrame("a"))}, fails: 1002},
		{id: "7.3.3", what: "close with a code", steps: []step{sends(closeWith(1000, ""))}, closes: 1000},
		{id: "7.3.4", what: "close with a code and a reason", steps: []step{sends(closeWith(1000, hello))}, closes: 1000},
		{id: "7.3.5", what: "close with a reason of 123 bytes", steps: []step{sends(closeWith(1000, strings.Repeat("*", 123)))}, closes: 1000},
		{id: "7.3.6", what: "close with a reason of 124 bytes", steps: []step{sends(closeWith(1000, strings.Repeat("*", 124)))}, fails: 1002},
		{id: "7.5.1", what: "close with a reason that is no UTF-8", steps: []step{sends(closeWith(1000, greek+"\xed\xa0\x80edited"))}, fails: 1007},
		{id: "7.13.1", what: "close with code 5000: the suite asks for nothing", steps: []step{sends(closeWith(5000, ""))}, fails: 1002},
		{id: "7.13.2", what: "close with code 65535: the suite asks for nothing", steps: []step{sends(closeWith(65_535, ""))}, fails: 1002},
	}
	for i, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		cases = append(cases, wireCase{
			id: fmt.Sprint("7.7.", i+1), what: fmt.Sprint("close with code ", code),
			steps: []step{sends(closeWith(code, ""))}, closes: code,
		})
	}
	for i, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		cases = append(cases, wireCase{
			id: fmt.Sprint("7.9.", i+1), what: fmt.Sprint("close with code ", code),
			steps: []step{sends(closeWith(code, ""))}, fails: 1002,
		})
	}
	return cases
}
