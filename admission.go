package mesherstream

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/forwarded"
	"github.com/mesher/mesherstream/internal/origin"
)

// This file decides which clients are admitted. Only admitted clients hold a place. If a handshake that waits for
// WithAuthorize held one, it could keep out clients that WithAuthorize would admit.
//
// It also decides which pages may connect, since the cors and csrf middlewares don't look at WebSockets. For that, and for
// the cap per address, it reads what a proxy says about a request: its scheme, its host and the client's address. Fiber
// decides whether the proxy is trusted.

// An admission is the result of an accepted handshake.
type admission struct {
	sub   Subscription
	grant Filter
	past  past
	ip    string

	encoding encoding
	v1       bool // it has agreed on the protocol, or streams over plain HTTP
}

// admit calls WithAuthorize, and checks before and after the call whether there is room. The place itself is reserved
// when the 101 is about to be sent.
func (m *Manager) admit(c *fiber.Ctx, a *admission, asked Filter) error {
	network, err := m.knock(a.ip)
	if err != nil {
		return admissionError(err)
	}
	defer m.answered(network)
	if a.sub, a.grant, err = m.grant(c, a.sub, asked); err != nil {
		return err
	}
	m.mu.Lock()
	err = m.roomLocked(network)
	m.mu.Unlock()
	if err != nil {
		return admissionError(err)
	}
	return nil
}

// knock begins a call of WithAuthorize for a client of that address; answered ends it. With WithMaxClientsPerIP, an
// address may have as many calls in progress as it may have clients. There is no bound for all addresses together,
// since strangers could exhaust that one too. Fiber's Concurrency bounds the requests.
func (m *Manager) knock(ip string) (network string, err error) {
	network = m.network(ip)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.roomLocked(network); err != nil {
		return "", err
	}
	if m.cfg.maxClientsPerIP == 0 || m.cfg.authorize == nil {
		return network, nil
	}
	if m.asking[network] >= m.cfg.maxClientsPerIP {
		return "", capError{perIP: true}
	}
	m.asking[network]++
	return network, nil
}

func (m *Manager) answered(network string) {
	if m.cfg.maxClientsPerIP == 0 || m.cfg.authorize == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asking[network]--; m.asking[network] == 0 {
		delete(m.asking, network)
	}
}

// grant asks WithAuthorize what to grant the client, and narrows that to the filter that the client asks for.
func (m *Manager) grant(c *fiber.Ctx, sub Subscription, asked Filter) (_ Subscription, grant Filter, err error) {
	if m.cfg.authorize != nil {
		if err := m.callAuthorize(c, &sub); err != nil {
			return sub, grant, err
		}
	}
	sub.Project = strings.Clone(sub.Project)
	if grant, err = sub.normalize(); err != nil {
		m.cfg.logger.Error("mesherstream: WithAuthorize left an invalid subscription", "error", err)
		return sub, grant, fiber.ErrInternalServerError
	}
	if sub.Filter, err = asked.within(grant); err != nil {
		return sub, grant, fiber.NewError(fiber.StatusForbidden, "filter not granted")
	}
	return sub, grant, nil
}

func (m *Manager) callAuthorize(c *fiber.Ctx, sub *Subscription) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.cfg.logger.Error("mesherstream: WithAuthorize panicked", panicked(p)...)
			err = fiber.ErrInternalServerError
		}
	}()
	before := c.Response().StatusCode()
	if err := m.cfg.authorize(c, sub); err != nil {
		return err
	}
	// c.SendStatus(401) and c.Redirect return nil, and whoever calls them doesn't mean to let the client in.
	if status := c.Response().StatusCode(); status != before {
		return fiber.NewError(status)
	}
	return nil
}

// admissionError returns the response to a client for which there is no place.
func admissionError(err error) error {
	var full capError
	switch {
	case errors.As(err, &full) && full.perIP:
		return fiber.NewError(fiber.StatusTooManyRequests, "too many streams from this address")
	case errors.As(err, &full):
		return fiber.NewError(fiber.StatusServiceUnavailable, "too many streams")
	default:
		return fiber.NewError(fiber.StatusServiceUnavailable, reasonShutdown)
	}
}

// A place is the unit that the caps count: one client of an address. The client holds it from its 101 until nothing of the
// client is left.
type place struct {
	m  *Manager
	ip string
}

// networkOf returns the part of an address that WithMaxClientsPerIP counts as one. A host with one IPv6 address has a
// network of 2^64 of them. A value that is not an address, which an app without EnableIPValidation may accept from its
// proxy, stands for itself.
func networkOf(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	if addr = addr.Unmap().WithZone(""); addr.Is4() {
		return addr.String()
	}
	network, _ := addr.Prefix(64) // no IPv6 address is too short for that
	return network.String()
}

// network returns the part of an address that counts as one, if that is counted.
func (m *Manager) network(ip string) string {
	if m.cfg.maxClientsPerIP > 0 {
		return networkOf(ip)
	}
	return ip
}

// reserve reserves a place for a client of that address.
func (m *Manager) reserve(ip string) (place, error) {
	network := m.network(ip)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.roomLocked(network); err != nil {
		return place{}, err
	}
	m.clients++
	if m.cfg.maxClientsPerIP > 0 {
		m.perIP[network]++
	}
	return place{m, ip}, nil
}

// roomLocked reports whether there is a place for a client of that network.
func (m *Manager) roomLocked(network string) error {
	switch {
	case m.closed.Load():
		return ErrClosed
	case m.cfg.maxClients > 0 && m.clients >= m.cfg.maxClients:
		return capError{}
	case m.cfg.maxClientsPerIP > 0 && m.perIP[network] >= m.cfg.maxClientsPerIP:
		return capError{perIP: true}
	}
	return nil
}

// release gives the place back, and is called once.
func (p place) release() {
	network := p.m.network(p.ip)
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.m.clients--
	if p.m.cfg.maxClientsPerIP == 0 {
		return
	}
	if p.m.perIP[network]--; p.m.perIP[network] == 0 {
		delete(p.m.perIP, network)
	}
}

// A capError says which cap is reached.
type capError struct{ perIP bool }

func (e capError) Error() string { return ErrTooManyClients.Error() }

func (e capError) Unwrap() error { return ErrTooManyClients }

// refusalType is the media type that a page accepts when it asks why its handshake was refused. A WebSocket doesn't
// tell the page, and a custom header would require a preflight for a page of another origin.
const refusalType = "application/vnd.mesherstream.v1"

// asksForRefusal reports whether a request without an upgrade is that question. Others, from health checks, crawlers
// and image tags, aren't worth a call of WithAuthorize.
func asksForRefusal(c *fiber.Ctx) bool {
	return strings.Contains(fieldText(c, fiber.HeaderAccept), refusalType)
}

// answerRefusal answers as the handshake would be answered, and with 426 if the handshake would be accepted. It
// reserves no place.
func (m *Manager) answerRefusal(c *fiber.Ctx, segment string) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Context().SetConnectionClose() // as after every refusal: a proxy may see an upgrade where we do not
	if err := m.checkAskingOrigin(c); err != nil {
		return err
	}
	allowReading(c)
	project, err := decodeProject(c, segment)
	if err != nil {
		return err
	}
	asked, err := queryFilter(c)
	if err == nil {
		_, err = queryPast(c)
	}
	if err != nil {
		return fiber.NewError(fiber.StatusBadRequest, err.Error())
	}
	if err := m.admit(c, &admission{sub: Subscription{Project: project}, ip: addressOf(c)}, asked); err != nil {
		return err
	}
	return upgradeRequired(c)
}

// allowReading lets a page of another origin that is allowed read the response. It may follow the stream, so it may also
// know why it was refused.
func allowReading(c *fiber.Ctx) {
	if origin := originOf(c); origin != "" {
		c.Set(fiber.HeaderAccessControlAllowOrigin, origin)
		c.Set(fiber.HeaderAccessControlAllowCredentials, "true")
		c.Vary(fiber.HeaderOrigin)
	}
}

// checkAskingOrigin is checkOrigin for a request that need not have an Origin header. Browsers send it with every
// handshake, but not with a GET of the same origin, nor with one whose response can't be read. In these cases the
// module sends a Referer.
func (m *Manager) checkAskingOrigin(c *fiber.Ctx) error {
	if page := originOf(c); page != "" {
		return m.checkOrigin(c, page)
	}
	switch site := fieldText(c, "Sec-Fetch-Site"); site {
	case "", "none", "same-origin":
	default:
		return fiber.NewError(fiber.StatusForbidden, "origin not allowed: the request is "+harmless(site))
	}
	page, err := url.Parse(fieldText(c, fiber.HeaderReferer))
	if err != nil || page.Host == "" {
		return nil
	}
	return m.checkOrigin(c, page.Scheme+"://"+page.Host)
}

// originOf returns the origin of the page that asks, or "" for no page.
func originOf(c *fiber.Ctx) string { return strings.TrimSpace(fieldText(c, fiber.HeaderOrigin)) }

// checkOrigin returns nil if the page that asks may connect: one of the same origin, one that WithOrigins names, or no
// page at all. Otherwise it returns the response, and logs what was compared.
func (m *Manager) checkOrigin(c *fiber.Ctx, page string) error {
	if page == "" {
		return nil
	}
	normal, ok := origin.Normal(page)
	for _, allowed := range m.cfg.origins {
		if allowed == "*" || ok && allowed == normal {
			return nil
		}
	}
	if ok && sameOrigin(c, normal) {
		return nil
	}
	page = harmless(page)
	m.cfg.logger.Debug("mesherstream: a page of another origin was refused; to allow it, name its origin in WithOrigins, or have the proxy pass on the browser's Host and scheme",
		"origin", page, "host", harmless(hostOf(c)), "https", isSecure(c))
	return fiber.NewError(fiber.StatusForbidden, "origin "+page+" not allowed")
}

// sameOrigin reports whether the request was sent to the origin of the page. Behind a proxy that terminates TLS and
// doesn't say so, only the origin tells the scheme, so its scheme is assumed for both sides.
func sameOrigin(c *fiber.Ctx, page string) bool {
	scheme, _, _ := strings.Cut(page, "://")
	switch {
	case scheme != "http" && scheme != "https", scheme == "http" && isSecure(c):
		return false
	}
	asked, ok := origin.Normal(scheme + "://" + hostOf(c))
	return ok && asked == page
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
		if saysSo(forwarded.First(fieldText(c, name))) {
			return true
		}
	}
	first, _, _ := strings.Cut(fieldText(c, fiber.HeaderForwarded), ",")
	return saysSo(forwarded.Param(first, "proto"))
}

// hostOf returns the host that the request was sent to, according to a trusted proxy or the Host header. It doesn't
// simply use c.Hostname(), which takes the host from a request target that begins with two slashes and contains "://":
// the page chooses that target, and would choose its own host.
func hostOf(c *fiber.Ctx) string {
	if c.IsProxyTrusted() {
		if host := forwarded.First(fieldText(c, fiber.HeaderXForwardedHost)); host != "" {
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

// clientAddress returns the client's address from a list in a proxy's header. An app that doesn't check its proxies
// trusts all of them, and receives the first address.
func clientAddress(list string, peer netip.Addr, config fiber.Config) string {
	return forwarded.Client(list, peer, func(addr netip.Addr) bool { return trusts(config, addr) })
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
