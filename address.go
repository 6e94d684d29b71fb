package mesherstream

import (
	"net/netip"
	"strings"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
)

// This file says which address a client has.

// addressOf returns the address of the client that asks: the connection's own, or the one that the app's ProxyHeader
// tells, if Fiber trusts whoever sent that. Not c.IP(), which takes the whole header for an address, or with
// EnableIPValidation the proxy's own address if the client's has a port.
func addressOf(c *fiber.Ctx) string {
	peer, _ := netip.AddrFromSlice(c.Context().RemoteIP())
	config := c.App().Config()
	if config.ProxyHeader == "" || !c.IsProxyTrusted() {
		return peer.Unmap().String()
	}
	return clientAddress(fieldText(c, config.ProxyHeader), peer, config)
}

// addressOfConn does the same for a connection that was upgraded on a route of the application. Which proxies are trusted,
// only the app of WithApp can tell; without it, all are.
func (m *Manager) addressOfConn(conn *websocket.Conn) string {
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

// clientAddress returns the address that a list of a proxy's header names. Each proxy appends the address that it got the
// request from, so it is read from its end, and ends at the first address that isn't a trusted proxy's: what is before
// that one is the client's to choose. An app that doesn't check its proxies trusts all of them, and gets the first. What
// is no address ends the list too; if nothing else is in it, the connection's own address counts.
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

// trusts says whether Fiber takes an address for a trusted proxy's.
func trusts(config fiber.Config, addr netip.Addr) bool {
	if !config.EnableTrustedProxyCheck {
		return true
	}
	addr = addr.WithZone("")
	for _, proxy := range config.TrustedProxies {
		if network, err := netip.ParsePrefix(proxy); err == nil && network.Contains(addr) || proxy == addr.String() {
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
