package mesherstream

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"golang.org/x/net/idna"
)

// This file says where a request comes from. It decides which pages may connect, since the cors and csrf middlewares don't
// look at WebSockets. It also reads what a proxy says about a request: its scheme, its host and the client's address. Fiber
// decides whether the proxy is trusted.

// originOf returns the origin of the page that asks, or "" for no page.
func originOf(c *fiber.Ctx) string { return strings.TrimSpace(fieldText(c, fiber.HeaderOrigin)) }

// checkOrigin returns nil if the page that asks may connect: one of the same origin, one that WithOrigins names, or no
// page at all. Otherwise it returns the response, and logs what was compared.
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
	m.cfg.logger.Debug("mesherstream: a page of another origin was refused; to allow it, name its origin in WithOrigins, or have the proxy pass on the browser's Host and scheme",
		"origin", origin, "host", harmless(hostOf(c)), "https", isSecure(c))
	return fiber.NewError(fiber.StatusForbidden, "origin "+origin+" not allowed")
}

// sameOrigin reports whether the request was sent to the origin of the page. Behind a proxy that terminates TLS and
// doesn't say so, only the origin tells the scheme, so its scheme is assumed for both sides.
func sameOrigin(c *fiber.Ctx, origin string) bool {
	scheme, _, _ := strings.Cut(origin, "://")
	switch {
	case scheme != "http" && scheme != "https", scheme == "http" && isSecure(c):
		return false
	}
	asked, ok := normalOrigin(scheme + "://" + hostOf(c))
	return ok && asked == origin
}

// harmless makes a stranger's text safe for a log and a response: of bounded length, and without anything that a
// terminal or a browser would treat as more than text.
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

// allowedOrigin returns an origin of WithOrigins as a browser writes it, or an error that says what it must be. A value
// that no browser ever sends as an origin is refused: it would never match, and the operator would not learn why.
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

// normalOrigin returns an origin as browsers write it: in lower case, without the default port of the scheme, and with
// an IPv6 address in its short form. It returns false for anything that is not an origin. An origin in a request is
// ASCII, or no browser has sent it.
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

// fieldText returns a request header as one list: lines of one name are one list (RFC 9110, section 5.3), and names match
// in any spelling, also in an app with DisableHeaderNormalizing. The result is valid as long as the request is.
func fieldText(c *fiber.Ctx, name string) string {
	if !c.App().Config().DisableHeaderNormalizing {
		lines := c.Request().Header.PeekAll(name)
		if len(lines) == 0 {
			return ""
		}
		texts := make([]string, len(lines))
		for i, line := range lines {
			texts[i] = string(line)
		}
		return strings.Join(texts, ",")
	}
	var texts []string
	headers := c.GetReqHeaders()
	for _, key := range slices.Sorted(maps.Keys(headers)) {
		if strings.EqualFold(key, name) {
			texts = append(texts, headers[key]...)
		}
	}
	return strings.Join(texts, ",")
}

// firstOf returns the first element of a list that isn't empty, without quotes. Each proxy appends to a list, so the
// first element comes from the proxy that the browser talked to. A page can't set any of these headers.
func firstOf(list string) string {
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

// forwardedParam returns a parameter of an element of a Forwarded header (RFC 7239), or "".
func forwardedParam(element, name string) string {
	for pair := range strings.SplitSeq(element, ";") {
		if key, value, _ := strings.Cut(pair, "="); strings.EqualFold(strings.TrimSpace(key), name) {
			return unquoted(value)
		}
	}
	return ""
}

// schemeHeaders are the headers in which proxies say that the browser's connection is encrypted: those that Fiber's
// c.Protocol() knows, and those of IIS, of nginx in its usual set-ups, and of CloudFront.
var schemeHeaders = []string{
	fiber.HeaderXForwardedProto, fiber.HeaderXForwardedProtocol, fiber.HeaderXForwardedSsl, fiber.HeaderXUrlScheme, "Front-End-Https",
	"X-Forwarded-Scheme", "X-Scheme", "CloudFront-Forwarded-Proto",
}

// isSecure reports whether the browser's connection is encrypted, according to the connection or a trusted proxy. It
// doesn't use c.Protocol(), which compares letter by letter: to it, neither "HTTPS" nor "wss" nor "https " is "https".
// One header that says so is enough. A value that is neither "http" nor another way to say no counts as yes, since a
// wrong yes refuses a page and a wrong no lets one in.
func isSecure(c *fiber.Ctx) bool {
	if c.Context().IsTLS() {
		return true
	}
	if !c.IsProxyTrusted() {
		return false
	}
	saysSo := func(value string) bool {
		switch strings.ToLower(value) {
		case "", "http", "ws", "off", "no", "false", "0":
			return false
		}
		return true
	}
	for _, name := range schemeHeaders {
		if saysSo(firstOf(fieldText(c, name))) {
			return true
		}
	}
	first, _, _ := strings.Cut(fieldText(c, fiber.HeaderForwarded), ",")
	return saysSo(forwardedParam(first, "proto"))
}

// hostOf returns the host that the request was sent to, according to a trusted proxy or the Host header. It doesn't
// simply use c.Hostname(), which takes the host from a request target that begins with two slashes and contains "://":
// the page chooses that target, and would choose its own host.
func hostOf(c *fiber.Ctx) string {
	if c.IsProxyTrusted() {
		if host := firstOf(fieldText(c, fiber.HeaderXForwardedHost)); host != "" {
			return host
		}
	}
	return string(c.Request().Header.Host())
}

// addressOf returns the address of the client that asks: the connection's own, or the one in the app's ProxyHeader, if
// Fiber trusts the sender of that header. It doesn't use c.IP(), which takes the whole header for an address, or, with
// EnableIPValidation, the proxy's own address if the client's has a port.
func addressOf(c *fiber.Ctx) string {
	peer, _ := netip.AddrFromSlice(c.Context().RemoteIP())
	config := c.App().Config()
	if config.ProxyHeader == "" || !c.IsProxyTrusted() {
		return peer.Unmap().String()
	}
	return clientAddress(fieldText(c, config.ProxyHeader), peer, config)
}

// addressKey is the key of addressOf's result among a request's locals. It is a string, since other keys don't survive
// an upgrade.
const addressKey = "mesherstream.address"

// tellAddress leaves the address of a client for addressOfConn, if the client may be upgraded on a route of the
// application.
func tellAddress(c *fiber.Ctx) {
	if c.App().Config().ProxyHeader != "" && fieldText(c, fiber.HeaderUpgrade) != "" {
		c.Locals(addressKey, addressOf(c))
	}
}

// addressOfConn does the same for a connection that was upgraded on a route of the application. It uses the address
// that a handler has left which the request has passed, or else the one line of each name that contrib has kept. In the
// latter case, only the app of WithApp can tell which proxies are trusted; without it, all are.
func (m *Manager) addressOfConn(conn *websocket.Conn) string {
	if told, ok := conn.Locals(addressKey).(string); ok {
		return told
	}
	addr, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	peer := addr.Addr()
	if err != nil {
		peer = netip.IPv4Unspecified() // as Fiber says of a socket that has no address
	}
	if m.cfg.app == nil {
		return clientAddress(conn.IP(), peer, fiber.Config{})
	}
	config := m.cfg.app.Config()
	if config.ProxyHeader == "" || !trusts(config, peer.Unmap()) {
		return peer.Unmap().WithZone("").String()
	}
	if told := conn.Headers(config.ProxyHeader); told != "" {
		return clientAddress(told, peer, config)
	}
	return clientAddress(conn.IP(), peer, config) // the header's name is spelled differently
}

// clientAddress returns the client's address from a list in a proxy's header. Each proxy appends the address from which
// it received the request. The list is therefore read from its end, up to the first address that isn't a trusted
// proxy's: the client can choose everything before that one. An app that doesn't check its proxies trusts all of them,
// and receives the first address. A value that is not an address ends the list too. If the list then holds no address,
// the connection's own address counts.
func clientAddress(list string, peer netip.Addr, config fiber.Config) string {
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
		if !trusts(config, addr) {
			break
		}
	}
	return client.WithZone("").String()
}

// trusts reports whether Fiber takes an address for a trusted proxy's.
func trusts(config fiber.Config, addr netip.Addr) bool {
	if !config.EnableTrustedProxyCheck {
		return true
	}
	addr = addr.WithZone("")
	for _, proxy := range config.TrustedProxies {
		if network, err := netip.ParsePrefix(proxy); err == nil && network.Contains(addr) {
			return true
		}
		if one, err := netip.ParseAddr(proxy); err == nil && one.Unmap() == addr {
			return true
		}
	}
	return false
}

// parseAddress reads an address as proxies write it: bare, with a port, in brackets, in quotes, or as the parameter "for"
// of a Forwarded header.
func parseAddress(s string) (addr netip.Addr, ok bool) {
	if named := forwardedParam(s, "for"); named != "" {
		s = named
	}
	s = unquoted(s)
	for _, s := range []string{s, withoutPort(s)} {
		if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
			return addr.Unmap().WithZone(""), true
		}
	}
	return netip.Addr{}, false
}

func withoutPort(s string) string {
	host, _ := splitPort(s)
	return host
}
