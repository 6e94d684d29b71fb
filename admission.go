package mesherstream

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"
)

// This file decides which clients are admitted. Only admitted clients hold a place. If a handshake that waits for
// WithAuthorize held one, it could keep out clients that WithAuthorize would admit.

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
	network = ip
	if m.cfg.maxClientsPerIP > 0 {
		network = networkOf(ip)
	}
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
	return m.cfg.authorize(c, sub)
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

// A place is the unit that the caps count. A client holds it from its 101 until nothing of the client is left.
type place struct {
	m       *Manager
	ip      string
	network string // its key in Manager.perIP
	free    sync.Once
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

// reserve reserves a place for a client of that address.
func (m *Manager) reserve(ip string) (*place, error) {
	network := ip
	if m.cfg.maxClientsPerIP > 0 {
		network = networkOf(ip)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.roomLocked(network); err != nil {
		return nil, err
	}
	m.clients++
	if m.cfg.maxClientsPerIP > 0 {
		m.perIP[network]++
	}
	return &place{m: m, ip: ip, network: network}, nil
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

// release gives the place back. Further calls do nothing.
func (p *place) release() {
	p.free.Do(func() {
		p.m.mu.Lock()
		defer p.m.mu.Unlock()
		p.m.clients--
		if p.m.cfg.maxClientsPerIP == 0 {
			return
		}
		if p.m.perIP[p.network]--; p.m.perIP[p.network] == 0 {
			delete(p.m.perIP, p.network)
		}
	})
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
	if origin := originOf(c); origin != "" {
		return m.checkOrigin(c, origin)
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
