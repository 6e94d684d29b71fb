package mesherstream

import (
	"testing"
)

func TestTheCapPerAddressCountsAnIPv6NetworkOnce(t *testing.T) {
	for _, tt := range []struct {
		first, second string
		same          bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
		{"2001:db8:1:2::1", "2001:DB8:0001:2:0::1", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"fe80::1%eth0", "fe80::1%eth1", true},
		{"unknown", "unknown", true}, // values that a proxy may send
		{"unknown", "", false},
		{"192.0.2.1, 192.0.2.2", "192.0.2.1", false},
	} {
		m, err := NewManager(WithMaxClientsPerIP(1))
		if err != nil {
			t.Fatal(err)
		}
		first, err := m.reserve(tt.first)
		if err != nil {
			t.Fatalf("reserve(%q): %v", tt.first, err)
		}
		second, err := m.reserve(tt.second)
		if (err != nil) != tt.same {
			t.Errorf("a client of %q beside one of %q: got %v, want them to count as one: %v", tt.second, tt.first, err, tt.same)
		}
		first.release()
		if err == nil {
			second.release()
		}
		if len(m.perIP) != 0 || m.clients != 0 {
			t.Errorf("after both have left: got %v and %d clients, want none", m.perIP, m.clients)
		}
	}
}
