package forwarded

import (
	"net/netip"
	"testing"
)

func TestTheFirstElementOfAListCounts(t *testing.T) {
	for list, want := range map[string]string{
		"":                         "",
		" , ,":                     "",
		"front.test":               "front.test",
		" front.test , app.test":   "front.test",
		`, "" , "front.test:8080"`: "front.test:8080",
		"\thttps\t":                "https",
		`" front.test "`:           "front.test",
	} {
		if got := First(list); got != want {
			t.Errorf("First(%q): got %q, want %q", list, got, want)
		}
	}
}

func TestAParameterIsFoundByItsName(t *testing.T) {
	for element, want := range map[string]string{
		"":                                     "",
		"proto":                                "",
		"proto=https":                          "https",
		`for="[::1]:80" ; Proto = "HTTPS";x=y`: "HTTPS",
		"protocol=https":                       "",
		"proto=http;proto=https":               "http",
		"proto=a=b":                            "a=b",
	} {
		if got := Param(element, "proto"); got != want {
			t.Errorf("Param(%q, proto): got %q, want %q", element, got, want)
		}
	}
}

func TestTheClientIsTheLastAddressThatNoProxyHas(t *testing.T) {
	peer := netip.MustParseAddr("::ffff:192.0.2.1")
	proxies := netip.MustParsePrefix("10.0.0.0/8")
	all := func(netip.Addr) bool { return true }
	some := func(addr netip.Addr) bool { return proxies.Contains(addr) }
	for _, tt := range []struct{ list, all, some string }{
		{"", "192.0.2.1", "192.0.2.1"},
		{" , ", "192.0.2.1", "192.0.2.1"},
		{"203.0.113.7", "203.0.113.7", "203.0.113.7"},
		{"203.0.113.7:80", "203.0.113.7", "203.0.113.7"},
		{`"203.0.113.7:_hidden"`, "203.0.113.7", "203.0.113.7"},
		{"2001:DB8:0::1", "2001:db8::1", "2001:db8::1"},
		{"[2001:db8::1]", "2001:db8::1", "2001:db8::1"},
		{`"[2001:db8::1]:443"`, "2001:db8::1", "2001:db8::1"},
		{"[fe80::1%eth1]:80", "fe80::1", "fe80::1"},
		{"::ffff:10.0.0.1", "10.0.0.1", "10.0.0.1"},
		{`by=10.0.0.1; For="203.0.113.7:80"`, "203.0.113.7", "203.0.113.7"},

		{"198.51.100.1, 203.0.113.7 , 10.0.0.1", "198.51.100.1", "203.0.113.7"},
		{"198.51.100.1, 203.0.113.7,, [::ffff:10.0.0.1]:80,", "198.51.100.1", "203.0.113.7"},
		{"for=198.51.100.1, for=203.0.113.7, for=10.0.0.1", "198.51.100.1", "203.0.113.7"},
		{"10.0.0.2, 10.0.0.1", "10.0.0.2", "10.0.0.2"},
		{"198.51.100.1, unknown, 10.0.0.1", "10.0.0.1", "10.0.0.1"},
		{"198.51.100.1, unknown", "192.0.2.1", "192.0.2.1"},
		{"203.0.113.7:1:2", "192.0.2.1", "192.0.2.1"},
		{"203.0.113.007", "192.0.2.1", "192.0.2.1"},
		{":443", "192.0.2.1", "192.0.2.1"},
		{"[]", "192.0.2.1", "192.0.2.1"},
		{"[203.0.113.7:80]", "192.0.2.1", "192.0.2.1"},
		{"for=_hidden", "192.0.2.1", "192.0.2.1"},
	} {
		if got := Client(tt.list, peer, all); got != tt.all {
			t.Errorf("Client(%q) if all are trusted: got %s, want %s", tt.list, got, tt.all)
		}
		if got := Client(tt.list, peer, some); got != tt.some {
			t.Errorf("Client(%q) if 10.0.0.0/8 is trusted: got %s, want %s", tt.list, got, tt.some)
		}
	}
	if got, want := Client("", netip.MustParseAddr("fe80::1%eth0"), some), "fe80::1"; got != want {
		t.Errorf("a peer with a zone: got %s, want %s", got, want)
	}
}
