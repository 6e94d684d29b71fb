package mesherstream

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
)

// This file reads what a proxy says about a request: its scheme, its host and the client's address. Fiber decides whether
// the proxy is trusted.

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
// c.Protocol() knows, and one of IIS.
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

// addressKey is the key among a request's locals of what addressOf says. It is a string, since others don't survive an
// upgrade.
const addressKey = "mesherstream.address"

// tellAddress leaves the address of a client for addressOfConn, if it may be upgraded on a route of the application.
func tellAddress(c *fiber.Ctx) {
	if c.App().Config().ProxyHeader != "" && fieldText(c, fiber.HeaderUpgrade) != "" {
		c.Locals(addressKey, addressOf(c))
	}
}

// addressOfConn does the same for a connection that was upgraded on a route of the application: by what a handler has
// left that the request has passed, or else by the one line of each name that contrib has kept. Which proxies are trusted,
// only the app of WithApp can tell then; without it, all are.
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
