package mesherstream

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/net/idna"
)

// This file decides which pages may connect: cors and csrf don't look at WebSockets.

// originOf returns the origin of the page that asks, or "" for no page.
func originOf(c *fiber.Ctx) string { return strings.TrimSpace(fieldText(c, fiber.HeaderOrigin)) }

// checkOrigin returns nil if the page that asks may connect: one of the same origin, one that WithOrigins names, or no
// page at all. Otherwise it returns the answer, and tells the operator what was compared.
func (m *Manager) checkOrigin(c *fiber.Ctx, origin string) error {
	if origin == "" {
		return nil
	}
	normal, ok := normalOrigin(origin)
	for _, allowed := range m.cfg.origins {
		if allowed == "*" || ok && allowed == normal {
			return nil
		}
	}
	if ok && sameOrigin(c, normal) {
		return nil
	}
	origin = harmless(origin)
	m.cfg.logger.Debug("mesherstream: a page of another origin was refused; if it may connect, name its origin in WithOrigins, or have the proxy pass the browser's Host and scheme",
		"origin", origin, "host", harmless(hostOf(c)), "https", isSecure(c))
	return fiber.NewError(fiber.StatusForbidden, "origin "+origin+" not allowed")
}

// sameOrigin says whether the request was sent to the origin of the page. Behind a proxy that ends TLS and doesn't say
// so, only the origin knows the scheme, so it speaks for both sides.
func sameOrigin(c *fiber.Ctx, origin string) bool {
	scheme, _, _ := strings.Cut(origin, "://")
	switch {
	case scheme != "http" && scheme != "https", scheme == "http" && isSecure(c):
		return false
	}
	asked, ok := normalOrigin(scheme + "://" + hostOf(c))
	return ok && asked == origin
}

// harmless returns what a stranger sent as it may stand in a log and in an answer: of bounded length, and without
// anything that a terminal or a browser would take for more than text.
func harmless(s string) string {
	const most = 128
	var b strings.Builder
	for i := range len(s) {
		if b.Len() >= most {
			b.WriteString("...")
			break
		}
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~:/[]@*", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// allowedOrigin returns an origin of WithOrigins as a browser writes it, or an error that says what it must be. What no
// browser ever sends as an origin is refused: it would never match, and nobody would know why.
func allowedOrigin(s string) (string, error) {
	if s == "*" {
		return s, nil
	}
	if normal, ok := normalOrigin(asciiHost(s)); ok {
		return normal, nil
	}
	must := `"*", "null", or a scheme and a host and nothing else, such as "https://app.example.com:8443" or "file://"`
	if u, err := url.Parse(s); err == nil {
		if normal, ok := normalOrigin(asciiHost(u.Scheme + "://" + u.Host)); ok {
			must += fmt.Sprintf("; perhaps %q", normal)
		}
	}
	return "", errors.New(must)
}

// hostNames turns host names into the letters that browsers send: those of Unicode by UTS 46, as browsers do.
var hostNames = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(),
	idna.StrictDomainName(false), idna.CheckHyphens(false), idna.VerifyDNSLength(true))

// asciiHost returns s with its host as browsers send it, and "" if that host can be none.
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

// normalOrigin returns an origin as browsers write it: in lower case, without the port that the scheme implies, and with
// an IPv6 address in its short form. It returns false for what is no origin. What comes with a request is in ASCII, or no
// browser has sent it.
func normalOrigin(s string) (normal string, ok bool) {
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
	// The origin of a page has its own scheme, and not that of its sockets.
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
		// Of an application or an extension: a name of its own making, or none.
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

// normalHost returns a host in lower case, and an IPv6 address in its short form. It returns false for what can be no host
// of a page.
func normalHost(host string) (normal string, ok bool) {
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		inner, closed := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		if !closed || err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", false
		}
		return "[" + addr.String() + "]", true
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".") // a final dot is part of a name, and makes it another one
	for _, label := range labels {
		if label == "" || len(label) > 63 || !isName(label) {
			return "", false
		}
	}
	// Browsers take a host whose last label is a number for an IPv4 address, and write that with four decimal numbers.
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

// isName says whether s has only characters of host names, in lower case.
func isName(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}
