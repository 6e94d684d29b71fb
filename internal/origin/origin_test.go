package origin

import (
	"strings"
	"testing"
)

func TestAnOriginHasOneForm(t *testing.T) {
	for in, want := range map[string]string{
		"null":                              "null",
		"NULL":                              "null",
		"https://app.test":                  "https://app.test",
		"HTTPS://App.Test":                  "https://app.test",
		"https://app.test:443":              "https://app.test",
		"http://app.test:80":                "http://app.test",
		"http://app.test:":                  "http://app.test",
		"https://app.test:80":               "https://app.test:80",
		"http://app.test:443":               "http://app.test:443",
		"http://app.test:08080":             "http://app.test:8080",
		"http://app.test:65535":             "http://app.test:65535",
		"wss://app.test:443":                "https://app.test",
		"ws://app.test:8080":                "http://app.test:8080",
		"http://app.test.":                  "http://app.test.",
		"http://a_b-c.test":                 "http://a_b-c.test",
		"http://[::1]:3000":                 "http://[::1]:3000",
		"http://[2001:DB8:0:0::1]":          "http://[2001:db8::1]",
		"http://127.0.0.1":                  "http://127.0.0.1",
		"http://0x7f.test":                  "http://0x7f.test",
		"http://127.0.0.1.nip.io":           "http://127.0.0.1.nip.io",
		"capacitor://localhost":             "capacitor://localhost",
		"chrome-extension://abcdef":         "chrome-extension://abcdef",
		"file://":                           "file://",
		"app://":                            "app://",
		"app://x:80":                        "app://x:80",
		"http://" + strings.Repeat("a", 63): "http://" + strings.Repeat("a", 63),
	} {
		if got, ok := Normal(in); got != want || !ok {
			t.Errorf("Normal(%q): got %q, %v, want %q", in, got, ok, want)
		}
	}
}

func TestAnythingElseIsNoOrigin(t *testing.T) {
	for _, in := range []string{
		"", "app.test", "//app.test", "://app.test", "1a://app.test", "a b://app.test", "http:app.test", "http://", "http://:80", "http://app.test/",
		"http://u@app.test", "http://app.test?x", "http://app.test#x", "http://*.app.test", "http://a..test", "http://.test", "http://app.test..",
		"http://app.test:0", "http://app.test:65536", "http://app.test:80a", "http://app.test:-1", "http://app.test:80:80", "http://app test",
		"http://[::1", "http://::1]", "http://[127.0.0.1]", "http://[fe80::1%25eth0]", "http://[::1]x", "http://[]",
		"http://127.1", "http://127.0.0.1.", "http://127.0.0.01", "http://0x7f000001", "http://x.0x1f", "http://app.0x", "http://app.1",
		"about://blank", "blob://app.test", "data://x", "javascript://x", "file://host", "file://:80", "app://:80", "app://x/y",
		"http://b\u00fccher.test", "http://\u212a.test", "http://" + strings.Repeat("a", 64),
	} {
		if got, ok := Normal(in); got != "" || ok {
			t.Errorf("Normal(%q): got %q, %v, want none", in, got, ok)
		}
	}
}

func TestAnAllowedOriginMayBeWrittenAsPeopleWriteIt(t *testing.T) {
	for in, want := range map[string]string{
		"*":                           "*",
		"null":                        "null",
		"https://App.test:443":        "https://app.test",
		"https://B\u00fccher.test:80": "https://xn--bcher-kva.test:80",
		"HTTP://fa\u00df.test":        "http://xn--fa-hia.test",
		"http://\u212a.test":          "http://k.test",
		"http://[::1]:3000":           "http://[::1]:3000",
		"capacitor://localhost":       "capacitor://localhost",
	} {
		if got, err := Allowed(in); got != want || err != nil {
			t.Errorf("Allowed(%q): got %q, %v, want %q", in, got, err, want)
		}
	}
	for in, hint := range map[string]string{
		"":                               "",
		"app.test":                       "",
		"**":                             "",
		"https://*.app.test":             "",
		"app://b\u00fccher":              "",
		"http://\ufffd.test":             "",
		"https://app.test/":              "https://app.test",
		"https://u:p@App.test:443/x?y#z": "https://app.test",
		"https://b\u00fccher.test/":      "https://xn--bcher-kva.test",
	} {
		_, err := Allowed(in)
		if err == nil {
			t.Errorf("Allowed(%q): got no error", in)
			continue
		}
		must, perhaps, _ := strings.Cut(err.Error(), "; perhaps ")
		if !strings.HasPrefix(must, `"*", "null", or a scheme and a host`) || strings.Trim(perhaps, `"`) != hint {
			t.Errorf("Allowed(%q): got %q, want a hint at %q", in, err, hint)
		}
	}
}
