package mesherstream

import (
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// This file decides which pages may connect: cors and csrf don't look at WebSockets.

// originAllowed says whether the page that asks may: one of the same origin, one that WithOrigins names, or no page at
// all.
func (m *Manager) originAllowed(c *fiber.Ctx) bool {
	origin := c.Get(fiber.HeaderOrigin)
	if origin == "" {
		return true
	}
	for _, allowed := range m.cfg.origins {
		if allowed == "*" || strings.EqualFold(allowed, origin) {
			return true
		}
	}
	if !isOrigin(origin) {
		return false
	}
	scheme, host, _ := strings.Cut(origin, "://")
	if secure := strings.EqualFold(scheme, "https"); !secure && (c.Protocol() == "https" || !strings.EqualFold(scheme, "http")) {
		return false
	}
	return strings.EqualFold(withPort(host, scheme), withPort(hostOf(c), scheme))
}

// hostOf returns the host that the request was sent to, as a trusted proxy or the Host header tells it. Not simply
// c.Hostname(), which takes it out of a request target that begins with two slashes and has "://" somewhere: the page
// chooses that one, and would choose its own host.
func hostOf(c *fiber.Ctx) string {
	if c.IsProxyTrusted() && c.Get(fiber.HeaderXForwardedHost) != "" {
		return c.Hostname()
	}
	return string(c.Request().Header.Host())
}

// withPort names the port of a host also where the scheme implies it. Behind a proxy that ends TLS, only the origin
// knows the scheme, so it speaks for both sides.
func withPort(host, scheme string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host
	}
	if strings.EqualFold(scheme, "https") {
		return host + ":443"
	}
	return host + ":80"
}

// isOrigin says whether s is an origin, written as a browser writes it, and nothing more.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && !strings.Contains(s, "*") && u.Scheme != "" && u.Hostname() != "" && strings.EqualFold(u.Scheme+"://"+u.Host, s)
}
