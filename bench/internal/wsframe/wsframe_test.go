package wsframe

import (
	"bytes"
	"testing"
)

func TestFramesComeOutWholeWhereverTheReadEnds(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 70000} {
		payload := bytes.Repeat([]byte{'p'}, size)
		stream := AppendServer(nil, Text, payload)
		header := len(stream) - size
		stream = append(stream, 0x89, 0) // a ping behind it
		for _, cut := range []int{0, 1, 2, header - 1, header, len(stream) - 3} {
			if cut < 0 || cut >= header+size {
				continue
			}
			if _, rest, ok := Next(stream[:cut]); ok || len(rest) != cut {
				t.Errorf("size %d, %d bytes there: got ok %v with %d left, want false with all left", size, cut, ok, len(rest))
			}
		}
		f, rest, ok := Next(stream)
		if !ok || !f.Final || f.Opcode != Text || !bytes.Equal(f.Payload, payload) {
			t.Errorf("size %d: got ok %v, final %v, opcode %d, %d bytes", size, ok, f.Final, f.Opcode, len(f.Payload))
		}
		if f, rest, ok = Next(rest); !ok || f.Opcode != Ping || len(rest) != 0 {
			t.Errorf("size %d: behind it got ok %v, opcode %d, %d left, want a ping and nothing", size, ok, f.Opcode, len(rest))
		}
	}
}

func TestAFragmentIsNotFinal(t *testing.T) {
	f, _, ok := Next([]byte{Text, 1, 'a'})
	if !ok || f.Final || f.Opcode != Text {
		t.Errorf("got %+v, %v, want an unfinished text frame", f, ok)
	}
}

func TestParsingAllocatesNothing(t *testing.T) {
	stream := AppendServer(nil, Text, bytes.Repeat([]byte{'p'}, 512))
	if got := testing.AllocsPerRun(100, func() { Next(stream) }); got != 0 {
		t.Errorf("got %v allocations per frame, want 0", got)
	}
}

func TestAControlFrameIsMaskedAndShort(t *testing.T) {
	f := AppendControl(nil, Pong, bytes.Repeat([]byte{'p'}, 200))
	if len(f) != 2+4+125 || f[0] != 0x8a || f[1] != 0x80|125 {
		t.Errorf("got %d bytes, header %x, want 131 and 8afd", len(f), f[:2])
	}
}
