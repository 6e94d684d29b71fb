package clients

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mesher/mesherstream"
)

// ownCases are what the suite doesn't ask, against a server whose read limit is 1,000 bytes.
func ownCases() (cases []wireCase) {
	add := func(id, what string, fails int, steps ...step) *wireCase {
		cases = append(cases, wireCase{id: id, what: what, steps: steps, fails: fails})
		return &cases[len(cases)-1]
	}
	long := func(bits int, claim uint64, f frame) frame { f.lengthBits, f.claim = bits, claim; return f }
	unmasked := func(f frame) frame { f.unmasked = true; return f }

	add("length-16-of-0", "a length of 0 in 16 bits", 1002, sends(long(16, 0, text(""))))
	add("length-16-of-125", "a length of 125 in 16 bits", 1002, sends(long(16, 0, text(strings.Repeat("x", 125)))))
	add("length-64-of-5", "a length of 5 in 64 bits", 1002, sends(long(64, 0, text("hello"))))
	add("length-64-of-200", "a length of 200 in 64 bits", 1002, sends(long(64, 0, text(strings.Repeat("x", 200)))))
	add("length-64-of-65535", "a length of 65,535 in 64 bits", 1002, sends(long(64, 65_535, text(""))))
	add("length-2^63", "a length with the highest bit", 1002, sends(long(64, 1<<63, text(""))))
	add("length-2^64-1", "a length of all bits", 1002, sends(long(64, 1<<64-1, text(""))))
	add("length-2^63-1", "the longest length there is", 1009, sends(long(64, 1<<63-1, text(""))))
	add("length-2^32+5", "a length whose lower half is small", 1009, sends(long(64, 1<<32+5, text("hello"))))
	add("length-of-limit", "exactly the read limit", 0, sends(text(strings.Repeat("x", 1000))).wants(text(strings.Repeat("x", 1000))))
	add("length-over-limit", "one byte over the read limit: refused from the header", 1009, sends(long(0, 1001, text(""))))
	add("fragments-over-limit", "fragments that are over the read limit together", 1009,
		sends(begin(strings.Repeat("x", 600)), more(strings.Repeat("x", 400)), last("x")))
	add("fragments-overflow", "a fragment whose length overflows the sum", 1009, sends(begin("x"), long(64, 1<<63-1, last(""))))
	add("control-length-16", "a ping with a length of 16 bits", 1002, sends(long(16, 5, ping(""))))
	add("control-length-64", "a ping with a length of 64 bits", 1002, sends(long(64, 1<<20, ping(""))))

	add("unmasked-text", "text without a mask", 1002, sends(unmasked(text("hello"))))
	add("unmasked-ping", "a ping without a mask", 1002, sends(unmasked(ping("hello"))))
	add("unmasked-close", "a close frame without a mask", 1002, sends(unmasked(closeWith(1000, ""))))
	add("unmasked-later", "text without a mask behind one with", 1002, sends(text("hello"), unmasked(text("hello"))).wants(text("hello")))
	add("mask-of-zeros", "a mask that changes nothing is one", 0,
		sends(frame{first: fin | opText, payload: []byte("hello"), zeroMask: true}).wants(text("hello")))

	for bits := byte(1); bits < 8; bits++ {
		add(fmt.Sprint("reserved-fragment-", bits), "reserved bits in a later fragment", 1002, sends(begin("hel"), reserved(bits, last("lo"))))
	}
	for code := byte(3); code < 16; code++ {
		if code == opClose || code == opPing || code == opPong {
			continue
		}
		add(fmt.Sprint("opcode-inside-", code), "a reserved opcode inside of a message", 1002, sends(begin("hel"), op(code, "")))
	}
	add("binary-inside-text", "a binary message inside of a text", 1002, sends(begin("hel"), bin("x")))
	add("no-end", "a message of which only fragments come, and then a close", 0, sends(begin("a"), more("b"), more("c")))
	add("thousand-empty-fragments", "a thousand fragments of nothing", 0,
		sends(slices.Concat([]frame{begin("")}, slices.Repeat([]frame{more("")}, 1000), []frame{last("x")})...).wants(text("x")))
	add("pings-between-fragments", "a ping behind each fragment", 0,
		sends(begin("a"), ping("1")).wants(pong("1")), sends(more("b"), ping("2")).wants(pong("2")), sends(last("c")).wants(text("abc")))
	add("close-in-fragments", "a close frame in fragments", 1002, sends(frame{first: opClose, payload: []byte("\x03\xE8")}, last("bye")))
	add("close-inside", "a close frame inside of a message", 0, sends(begin("hel"), closeWith(3001, "enough"))).closes = 3001
	add("data-after-close", "data, broken frames and another code behind a close frame", 0,
		sends(closeWith(4001, "first"), text("x"), reserved(7, text("x")), closeWith(4002, "second"))).closes = 4001
	add("close-1-byte-of-code", "a close frame with half a code", 1002, sends(closeFrame("\x03")))
	add("close-reason-cut", "a close reason that ends within a letter", 1007, sends(closeWith(1000, "\xe2\x82")))
	for _, code := range []int{999, 1004, 1005, 1006, 1015, 1016, 2999, 5000} {
		add(fmt.Sprint("close-", code), "a code that may not be sent", 1002, sends(closeWith(code, "no")))
	}
	for _, code := range []int{1012, 1013, 1014} {
		add(fmt.Sprint("close-", code), "a code that was registered later", 0, sends(closeWith(code, "yes"))).closes = code
	}
	add("http", "a request instead of frames", 1002, step{raw: []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")})
	add("zeros", "a flood of zeros", 1002, step{raw: make([]byte, 10_000)})
	add("ones", "a flood of ones", 1002, step{raw: []byte(strings.Repeat("\xFF", 10_000))})
	return cases
}

func TestWhatTheSuiteDoesNotAsk(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		w := startEcho(t, tr, mesherstream.WithReadLimit(1000))
		for _, c := range ownCases() {
			t.Run(c.id, func(t *testing.T) { c.play(t, w) })
		}
	})
}

// The bytes may come in any pieces: each place where they can be torn is tried.
func TestTheWireMayBeTornAnywhere(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		w := startEcho(t, tr, mesherstream.WithReadLimit(1000))
		long := strings.Repeat("x", 126)
		data := slices.Concat(begin("hel").bytes(), ping("p").bytes(), last("lo").bytes(), bin(long).bytes())
		bye := closeWith(1000, "bye").bytes()
		for at := 1; at < len(data); at++ {
			inBye := 1 + at%(len(bye)-1)
			c := wireCase{id: fmt.Sprint("torn-at-", at), closes: 1000, steps: []step{
				{raw: data[:at]},
				step{raw: data[at:]}.wants(pong("p"), text("hello"), bin(long)),
				{raw: bye[:inBye]},
				{raw: bye[inBye:]},
			}}
			t.Run(c.id, func(t *testing.T) { c.play(t, w) })
		}
	})
}
