// Package forwarded reads the lists in which proxies say where a request comes from: X-Forwarded-For and its kind, and
// Forwarded (RFC 7239).
package forwarded

import (
	"net/netip"
	"strings"
)

// First returns the first element of a list that isn't empty, without quotes. Each proxy appends to a list, so the
// first element comes from the proxy that the browser talked to. A page can't set any of the headers of proxies.
func First(list string) string {
	for element := range strings.SplitSeq(list, ",") {
		if element = unquoted(element); element != "" {
			return element
		}
	}
	return ""
}

func unquoted(s string) string {
	return strings.TrimSpace(strings.Trim(strings.TrimSpace(s), `"`))
}

// Param returns a parameter of an element of a Forwarded header, without quotes, or "".
func Param(element, name string) string {
	for pair := range strings.SplitSeq(element, ";") {
		if key, value, _ := strings.Cut(pair, "="); strings.EqualFold(strings.TrimSpace(key), name) {
			return unquoted(value)
		}
	}
	return ""
}

// Client returns the client's address from a list in a proxy's header. Each proxy appends the address from which it
// received the request. The list is therefore read from its end, up to the first address that isn't a trusted proxy's:
// the client can choose everything before that one. A value that is not an address ends the list too. If the list then
// holds no address, peer counts, the connection's own address.
func Client(list string, peer netip.Addr, trusted func(netip.Addr) bool) string {
	client := peer.Unmap()
	for list != "" {
		i := strings.LastIndexByte(list, ',')
		element := strings.TrimSpace(list[i+1:])
		list = list[:max(i, 0)]
		if element == "" {
			continue
		}
		addr, ok := parseAddress(element)
		if !ok {
			break
		}
		client = addr
		if !trusted(addr) {
			break
		}
	}
	return client.WithZone("").String()
}

// parseAddress reads an address as proxies write it: bare, with a port, in brackets, in quotes, or as the parameter "for"
// of a Forwarded header.
func parseAddress(s string) (addr netip.Addr, ok bool) {
	if named := Param(s, "for"); named != "" {
		s = named
	}
	s = unquoted(s)
	bare := s
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		bare = s[:i] // without the port
	}
	for _, s := range []string{s, bare} {
		if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
			return addr.Unmap().WithZone(""), true
		}
	}
	return netip.Addr{}, false
}
