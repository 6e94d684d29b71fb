package logline

import (
	"testing"
	"unicode/utf8"
)

func TestEverySequenceOfATerminalIsGone(t *testing.T) {
	for in, want := range map[string]string{
		"plain ä €\ttext":                                  "plain ä €\ttext",
		"\x1b[31mred\x1b[0m":                               "red",
		"\x1b[1;38;5;196mred\x1b[m":                        "red",
		"\x1b[38:2::255:0:0mred\x1b[m":                     "red",
		"\x1b[?25lhidden\x1b[?25h":                         "hidden",
		"\x1b[2K\x1b[1Gline":                               "line",
		"\x1b[!p\x1b[>4;1m\x1b[=0c\x1b[0 qx":               "x",
		"\x1b(Bx\x1b)0y\x1b#8z\x1b%Gw":                     "xyzw",
		"\x1b=\x1b>\x1b7\x1b8\x1bc\x1bMx":                  "x",
		"\x1b]0;a title\x07x":                              "x",
		"\x1b]2;a title\x1b\\x":                            "x",
		"\x1b]8;;https://a.test/\x1b\\link\x1b]8;;\x1b\\":  "link",
		"\x1b]8;id=1;https://a.test/\x07link\x1b]8;;\x07":  "link",
		"\x1b]1337;File=x:AAAA\x07x":                       "x",
		"\x1b]P1ff0000x\x1b]Ry":                            "xy",
		"\x1bPq#0;2;0;0;0\x1b\\x":                          "x",
		"\x1bPtmux;\x1b\x1b]0;t\x07\x1b\\x":                "x",
		"\x1b_G payload\x1b\\x\x1b^pm\x1b\\y\x1bXs\x1b\\z": "xyz",
		"\x1bktitle\x1b\\x":                                "x",
		"\x1b[[Ax\x1bOAy":                                  "xy",
		"\x9b31mx\x9b0m":                                   "x", // C1, as bytes
		"\x9d0;title\x9cx":                                 "x",
		"\x90q\x9cx":                                       "x",
		"\u009b31mx\u009d0;t\u009cy":                       "xy", // C1, in UTF-8
		"\u0085x":                                          "x",
		"x\x1b":                                            "x", // cut at the end
		"x\x1b[":                                           "x",
		"x\x1b[31":                                         "x",
		"x\x1b]0;title":                                    "x",
		"x\x1b]8;;https://a.test/\x1b":                     "x",
		"x\x1bP":                                           "x",
		"x\x1b(":                                           "x",
		"x\x9b3":                                           "x",
		"\x1b\x1b[31mx":                                    "x",
		"\x1b[3\x1b[31mx":                                  "x",
		"a\x00b\x07c\x7fd\x0ee\x0f":                        "abcde",
		"N\bNA\bAM\bME\bE _\bx":                            "NAME x",
		"|\b/\b-\bdone":                                    "done",
		"ä\bö\b \b!":                                       "!",
		"\b\bx":                                            "x",
		"a\xff\xfeb":                                       "a\ufffd\ufffdb",
		"\x9e\x9f of a code page":                          "\ufffd\ufffd of a code page",
		"Š \u0161 \u009c":                                  "Š š ",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q): got %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b]8;;x\x1b\\l\x9b31m\b")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !utf8.ValidString(got) || !isClean(got) || clean(got) != got {
			t.Errorf("clean(%q): got %q", s, got)
		}
	})
}
