package clients

import (
	"fmt"
	"strings"
)

const (
	greek    = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"
	umlauts  = "Hello-µ@ßöäüàá-UTF-8!!"
	tooHigh  = "\xf4\x90\x80\x80" // a code point beyond the last one: wrong from its second byte on
	nonsense = greek + "\xed\xa0\x80" + "edited"
)

// utf8Fragments has the cases of text that is cut into pieces in all the wrong places.
func utf8Fragments() []wireCase {
	wrong := greek + tooHigh + "edited"
	at := len(greek) + 1 // the first byte from which on nothing could mend it
	piece := text(wrong).bytes()
	head := len(piece) - len(wrong)
	chunks := func(first, second int) []step { // of one frame
		return []step{
			{raw: piece[:head+first]},
			{raw: piece[head+first : head+second]},
		}
	}
	return []wireCase{
		echo("6.1.1", "empty text", 0, text(""), text("")),
		echo("6.1.2", "empty text in three fragments", 0, text(""), begin(""), more(""), last("")),
		echo("6.1.3", "text in three fragments, of which the outer ones are empty", 0, text("middle"), begin(""), more("middle"), last("")),
		echo("6.2.1", "UTF-8 in one frame", 0, text(umlauts), text(umlauts)),
		echo("6.2.2", "UTF-8 cut between two letters", 0, text(umlauts), begin(umlauts[:12]), last(umlauts[12:])),
		echo("6.2.3", "UTF-8 in fragments of one byte", 0, text(umlauts), fragments(opText, umlauts, 1)...),
		echo("6.2.4", "UTF-8 in fragments of one byte", 0, text(greek), fragments(opText, greek, 1)...),
		{id: "6.3.1", what: "no UTF-8, in one frame", steps: []step{sends(text(nonsense))}, fails: 1007},
		{id: "6.3.2", what: "no UTF-8, in fragments of one byte", steps: []step{sends(fragments(opText, nonsense, 1)...)}, fails: 1007},

		// Here the message is never finished: it must be refused as soon as it can't become UTF-8 any more.
		{id: "6.4.1", what: "no UTF-8 from the second fragment on", steps: []step{sends(begin(greek)), sends(more(tooHigh))}, fails: 1007},
		{id: "6.4.2", what: "no UTF-8 from the only byte of the second fragment on", steps: []step{sends(begin(wrong[:at])), sends(more(wrong[at : at+1]))}, fails: 1007},
		{id: "6.4.3", what: "6.4.1 in pieces of one frame", steps: chunks(len(greek), len(greek+tooHigh)), fails: 1007},
		{id: "6.4.4", what: "6.4.2 in pieces of one frame", steps: chunks(at, at+1), fails: 1007},
	}
}

// utf8Sequences has each sequence of Markus Kuhn's UTF-8 decoder stress test that the suite sends, as one text.
func utf8Sequences() (cases []wireCase) {
	cut := []string{
		"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xf8\x80\x80\x80", "\xfc\x80\x80\x80\x80",
		"\xdf", "\xef\xbf", "\xf7\xbf\xbf", "\xfb\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf",
	}
	for i, group := range []struct {
		what  string
		texts []sequence
	}{
		{"some UTF-8", valid("hello$world", "hello\u00a2world", "hello\u20acworld", "hello\U00024b62world", greek)},
		{"every beginning of some UTF-8", prefixes()},
		{"the first of each length", valid("\x00", "\xc2\x80", "\xe0\xa0\x80", "\xf0\x90\x80\x80")},
		{"the first of 5 and 6 bytes", invalid("\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80")},
		{"the last of each length", valid("\x7f", "\xdf\xbf", "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf")},
		{"the last of 4, 5 and 6 bytes", invalid("\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf")},
		{"other bounds", append(valid("\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbd", "\xf4\x8f\xbf\xbf"), invalid(tooHigh)...)},
		{"continuation bytes that continue nothing", invalid(
			"\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80", "\x80\xbf\x80\xbf", "\x80\xbf\x80\xbf\x80", "\x80\xbf\x80\xbf\x80\xbf", everyByte(0x80, 0xbf, ""),
		)},
		{"lonely first bytes", invalid(
			everyByte(0xc0, 0xdf, " "), everyByte(0xe0, 0xef, " "), everyByte(0xf0, 0xf7, " "), everyByte(0xf8, 0xfb, " "), everyByte(0xfc, 0xfd, " "),
		)},
		{"the last byte is missing", invalid(cut...)},
		{"all of those in a row", invalid(strings.Join(cut, ""))},
		{"bytes that never occur", invalid("\xfe", "\xff", "\xfe\xfe\xff\xff")},
		{"an overlong slash", invalid("\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xfc\x80\x80\x80\x80\xaf")},
		{"the highest that is overlong", invalid("\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf8\x87\xbf\xbf\xbf", "\xfc\x83\xbf\xbf\xbf\xbf")},
		{"an overlong NUL", invalid("\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xf8\x80\x80\x80\x80", "\xfc\x80\x80\x80\x80\x80")},
		{"single surrogates", invalid(
			"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbe\x80", "\xed\xbf\xbf",
		)},
		{"pairs of surrogates", invalid(
			"\xed\xa0\x80\xed\xb0\x80", "\xed\xa0\x80\xed\xbf\xbf", "\xed\xad\xbf\xed\xb0\x80", "\xed\xad\xbf\xed\xbf\xbf",
			"\xed\xae\x80\xed\xb0\x80", "\xed\xae\x80\xed\xbf\xbf", "\xed\xaf\xbf\xed\xb0\x80", "\xed\xaf\xbf\xed\xbf\xbf",
		)},
		{"no characters, but UTF-8", nonCharacters()},
		{"specials", valid("\ufff9", "\ufffa", "\ufffb", "\ufffc", "\ufffd", "\ufffe", "\uffff")},
	} {
		for j, t := range group.texts {
			c := wireCase{id: fmt.Sprintf("6.%d.%d", i+5, j+1), what: group.what}
			if t.valid {
				c.steps = []step{sends(text(t.bytes)).wants(text(t.bytes))}
			} else {
				c.steps, c.fails = []step{sends(text(t.bytes))}, 1007
			}
			cases = append(cases, c)
		}
	}
	return cases
}

type sequence struct {
	bytes string
	valid bool
}

func valid(texts ...string) (list []sequence) {
	for _, t := range texts {
		list = append(list, sequence{t, true})
	}
	return list
}

func invalid(texts ...string) (list []sequence) {
	for _, t := range texts {
		list = append(list, sequence{t, false})
	}
	return list
}

// prefixes has every beginning of a text. It is UTF-8 where no continuation byte follows.
func prefixes() (list []sequence) {
	for i := 1; i <= len(greek); i++ {
		list = append(list, sequence{greek[:i], i == len(greek) || greek[i]&0xC0 != 0x80})
	}
	return list
}

// everyByte has the bytes from first up to the one before end, each with what follows.
func everyByte(first, end int, follows string) string {
	var b strings.Builder
	for c := first; c < end; c++ {
		b.WriteByte(byte(c))
		b.WriteString(follows)
	}
	return b.String()
}

// nonCharacters has the last two code points of each plane.
func nonCharacters() (list []sequence) {
	for plane := range 17 {
		list = append(list, valid(string(rune(plane<<16|0xFFFE)), string(rune(plane<<16|0xFFFF)))...)
	}
	return list
}
