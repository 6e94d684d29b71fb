package seal

import (
	"strings"
	"testing"
	"time"
)

func TestATextIsOpenedByItsSealAlone(t *testing.T) {
	s, at := New(), time.UnixMilli(1_800_000_000_123)
	other := s // a copy has the same key
	text := string(s.Append([]byte("before "), 'p', "shop", at, []byte("payload")))
	text, found := strings.CutPrefix(text, "before p")
	if !found {
		t.Fatalf("got %q", text)
	}
	text = "p" + text
	for range 2 { // the buffers of Append are reused
		if payload, when, ok := other.Open('p', "shop", text); !ok || string(payload) != "payload" || !when.Equal(at) {
			t.Fatalf("got %q, %v, %v", payload, when, ok)
		}
		_ = s.Append(nil, 'g', "another label", at, []byte("something else"))
	}
	stranger := New()
	for name, open := range map[string]func() bool{
		"another seal":  func() bool { _, _, ok := stranger.Open('p', "shop", text); return ok },
		"another label": func() bool { _, _, ok := s.Open('p', "shops", text); return ok },
		"no label":      func() bool { _, _, ok := s.Open('p', "", text); return ok },
		"another kind":  func() bool { _, _, ok := s.Open('g', "shop", "g"+text[1:]); return ok },
		"nothing":       func() bool { _, _, ok := s.Open('p', "shop", ""); return ok },
		"its kind":      func() bool { _, _, ok := s.Open('p', "shop", "p"); return ok },
		"too long":      func() bool { _, _, ok := s.Open('p', "shop", text+strings.Repeat("A", MaxText)); return ok },
	} {
		if open() {
			t.Errorf("%s: the text is opened", name)
		}
	}
	if _, when, ok := stranger.Open('p', "shop", text); ok || !when.Equal(at) {
		t.Errorf("a stranger reads the time %v, want %v", when, at)
	}
}

// No byte of a text can be changed, left out or added.
func TestAChangedTextIsNotOpened(t *testing.T) {
	s := New()
	text := string(s.Append(nil, 'p', "shop", time.Now(), []byte("payload")))
	for i := range text {
		for _, c := range "pAz9-_=+/ \x00é" {
			changed := text[:i] + string(c) + text[i+1:]
			if changed == text {
				continue
			}
			// The last character has bits that mean nothing.
			if payload, _, ok := s.Open('p', "shop", changed); ok && (i < len(text)-1 || string(payload) != "payload") {
				t.Fatalf("%q is opened", changed)
			}
		}
		if _, _, ok := s.Open('p', "shop", text[:i]+text[i+1:]); ok {
			t.Fatalf("without its byte %d, the text is opened", i)
		}
	}
}

func TestTwoTextsOfThePayloadDiffer(t *testing.T) {
	s, at := New(), time.Now()
	if a, b := s.Append(nil, 'p', "shop", at, []byte("x")), s.Append(nil, 'p', "shop", at, []byte("x")); string(a) == string(b) {
		t.Errorf("%s twice", a)
	}
}

func TestWhatFitsIsOpened(t *testing.T) {
	s, n := New(), 0
	for Fits(n + 1) {
		n++
	}
	text := s.Append(nil, 'p', "shop", time.Now(), make([]byte, n))
	if _, _, ok := s.Open('p', "shop", string(text)); !ok || len(text) > MaxText || n < 1400 {
		t.Errorf("a payload of %d bytes: %d bytes of text, opened: %v", n, len(text), ok)
	}
	if text = s.Append(nil, 'p', "shop", time.Now(), make([]byte, n+1)); len(text) <= MaxText || IsText('p', string(text)) {
		t.Errorf("a payload of %d bytes: %d bytes of text", n+1, len(text))
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	s, payload, dst := New(), make([]byte, 40), make([]byte, 0, 256)
	at := time.Now()
	if got := testing.AllocsPerRun(100, func() { dst = s.Append(dst[:0], 'p', "shop", at, payload) }); got > 0 {
		t.Errorf("got %v allocations", got)
	}
}

// Whether a text looks like one says nothing about whether base64 can have its length: a damaged one is still one.
func TestATextIsToldByItsLettersAlone(t *testing.T) {
	s := New()
	long := "p" + strings.Repeat("Az09-_", MaxText)
	for text, want := range map[string]bool{
		"p": true, "pA": true, "position": true, "pAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA": true, long[:MaxText]: true, long[:MaxText-1]: true,
		"": false, "P": false, "gAAAA": false, " pAAAA": false, "pAAA=": false, "pAA/A": false, "pAA+A": false, "pAA A": false,
		"pAA\nA": false, "pAA\rA": false, "pAA\x00A": false, "pAA\x7fA": false, "pAA@A": false, "pAA[A": false, "pAA`A": false,
		"pAA{A": false, "pAAéA": false, "pAA\xffA": false, long[:MaxText+1]: false,
	} {
		if got := IsText('p', text); got != want {
			t.Errorf("%.40q: got %v, want %v", text, got, want)
		}
		if _, _, ok := s.Open('p', "shop", text); ok {
			t.Errorf("%.40q is opened", text)
		}
	}
}
