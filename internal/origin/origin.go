// Package origin brings web origins into the one form in which they can be compared: a scheme, a host and perhaps a port,
// as browsers write them.
package origin

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// Normal returns an origin as browsers write it: in lower case, without the default port of the scheme, and with
// an IPv6 address in its short form. It returns false for anything that is not an origin. An origin in a request is
// ASCII, or no browser has sent it.
func Normal(s string) (normal string, ok bool) {
	if strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "", false // before it is in lower case, where U+212A is a k
	}
	if s = strings.ToLower(s); s == "null" {
		return s, true
	}
	scheme, authority, ok := strings.Cut(s, "://")
	if !ok || !isScheme(scheme) {
		return "", false
	}
	// The origin of a page has the scheme of the page, not that of its sockets.
	switch scheme {
	case "ws":
		scheme = "http"
	case "wss":
		scheme = "https"
	case "about", "blob", "data", "javascript": // the origin of such a page is null
		return "", false
	}
	host, port := splitPort(authority)
	if isWebScheme(scheme) {
		host, ok = normalHost(host)
	} else {
		// The origin of an application or an extension: the host is a name of its own choice, or empty.
		ok = isName(host) && (host != "" || port == "") && (scheme != "file" || authority == "")
	}
	if !ok {
		return "", false
	}
	if port, ok = normalPort(port, scheme); !ok {
		return "", false
	}
	return scheme + "://" + host + port, true
}

// Allowed returns an origin of an operator's list as browsers write it, or an error that says what it must be. A value
// that no browser ever sends as an origin is refused: it would never match, and the operator would not learn why.
func Allowed(s string) (string, error) {
	if s == "*" {
		return s, nil
	}
	if normal, ok := Normal(asciiHost(s)); ok {
		return normal, nil
	}
	must := `"*", "null", or a scheme and a host and nothing else, such as "https://app.example.com:8443" or "file://"`
	if u, err := url.Parse(s); err == nil {
		if normal, ok := Normal(asciiHost(u.Scheme + "://" + u.Host)); ok {
			must += fmt.Sprintf("; perhaps %q", normal)
		}
	}
	return "", errors.New(must)
}

// hostNames converts host names to the form that browsers send: Unicode names by UTS 46, as browsers do.
var hostNames = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(),
	idna.StrictDomainName(false), idna.CheckHyphens(false), idna.VerifyDNSLength(true))

// asciiHost returns s with its host as browsers send it, and "" if the host can't be one.
func asciiHost(s string) string {
	scheme, authority, ok := strings.Cut(s, "://")
	if !ok || !isWebScheme(strings.ToLower(scheme)) {
		return s
	}
	host, port := splitPort(authority)
	if strings.HasPrefix(host, "[") {
		return s
	}
	ascii, err := hostNames.ToASCII(host)
	if err != nil {
		return ""
	}
	return scheme + "://" + ascii + port
}

// splitPort cuts a port off, with its colon.
func splitPort(authority string) (host, port string) {
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		return authority[:i], authority[i:]
	}
	return authority, ""
}

// normalPort returns a port with its colon, or "" if the scheme implies it.
func normalPort(port, scheme string) (normal string, ok bool) {
	port = strings.TrimPrefix(port, ":")
	if port == "" {
		return "", true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil, n == 0:
		return "", false
	case scheme == "http" && n == 80, scheme == "https" && n == 443:
		return "", true
	}
	return ":" + strconv.FormatUint(n, 10), true
}

// normalHost returns a host in lower case, and an IPv6 address in its short form. It returns false for a host that no
// page can have.
func normalHost(host string) (normal string, ok bool) {
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		inner, closed := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		if !closed || err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", false
		}
		return "[" + addr.String() + "]", true
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".") // a final dot is part of a name, and makes it a different one
	for _, label := range labels {
		if label == "" || len(label) > 63 || !isName(label) {
			return "", false
		}
	}
	// Browsers interpret a host whose last label is a number as an IPv4 address, and write it as four decimal numbers.
	last, hex := strings.CutPrefix(labels[len(labels)-1], "0x")
	if strings.Trim(last, "0123456789") == "" || hex && strings.Trim(last, "0123456789abcdef") == "" {
		addr, err := netip.ParseAddr(host)
		return host, err == nil && addr.Is4()
	}
	return host, true
}

func isWebScheme(scheme string) bool {
	return scheme == "http" || scheme == "https" || scheme == "ws" || scheme == "wss"
}

func isScheme(s string) bool {
	return s != "" && s[0] >= 'a' && s[0] <= 'z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+.-") == ""
}

// isName reports whether s contains only characters of host names, in lower case.
func isName(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}
