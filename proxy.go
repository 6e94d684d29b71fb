package mesherstream

import (
	"maps"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// This file reads what a proxy says about a request: its scheme and its host. Fiber decides whether the proxy is trusted.

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

// firstOf returns the first element of a list that isn't empty, without quotes. Each proxy appends to a list, so the first
// element is the word of the one that the browser talked to. A page can't set any of these headers.
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

// schemeHeaders are those by which proxies say that the browser's connection is encrypted: those that Fiber's c.Protocol()
// knows, and one of IIS.
var schemeHeaders = []string{
	fiber.HeaderXForwardedProto, fiber.HeaderXForwardedProtocol, fiber.HeaderXForwardedSsl, fiber.HeaderXUrlScheme, "Front-End-Https",
}

// isSecure says whether the browser's connection is encrypted, as the connection or a trusted proxy tells it. Not
// c.Protocol(), which compares letter by letter: neither "HTTPS" nor "wss" nor "https " is "https" to it. If one header
// says so, that is enough; and what is neither "http" nor another way to say no counts as yes, since a wrong yes refuses
// a page and a wrong no lets one in.
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

// hostOf returns the host that the request was sent to, as a trusted proxy or the Host header tells it. Not simply
// c.Hostname(), which takes it out of a request target that begins with two slashes and has "://" somewhere: the page
// chooses that one, and would choose its own host.
func hostOf(c *fiber.Ctx) string {
	if c.IsProxyTrusted() {
		if host := firstOf(fieldText(c, fiber.HeaderXForwardedHost)); host != "" {
			return host
		}
	}
	return string(c.Request().Header.Host())
}
