package mesherstream

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"
)

// This file decides who is let in. Only clients that are in hold a place: a handshake that waits for WithAuthorize could
// keep out those whom it would let in, for as long as its answer takes.

// An admission is what a client gets whose handshake is accepted.
type admission struct {
	sub   Subscription
	grant Filter
	ip    string
}

// admit asks WithAuthorize, and before and after it whether there is room. The place itself is taken when the 101 is
// about to be sent.
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

// knock begins a question about a client of that address, which ends with answered. With WithMaxClientsPerIP, an address
// has as many questions under way as it may have clients. There is no bound for all addresses together: strangers could
// reach that one, too, and Fiber's Concurrency bounds the requests.
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

// grant asks WithAuthorize what the client may get, and narrows that to what it asks for.
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

// admissionError returns what a client is answered that there is no place for.
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

// A place is what the caps count: a client's, from its 101 until nothing is left of it.
type place struct {
	m       *Manager
	ip      string
	network string // what it counts for in Manager.perIP
	free    sync.Once
}

// networkOf returns what WithMaxClientsPerIP counts as one address. Whoever has one IPv6 address has a network of 2^64
// of them. What is no address, which an app without EnableIPValidation may take from its proxy, stands for itself.
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

// reserve takes a place for a client of that address.
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

// roomLocked says whether there is a place for a client of that network.
func (m *Manager) roomLocked(network string) error {
	switch {
	case m.closed:
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

// refusalType is what a page accepts that asks why its handshake was refused. A WebSocket doesn't tell it, and a header
// of our own would cost a page of another origin a preflight.
const refusalType = "application/vnd.mesherstream.v1"

// asksForRefusal says whether a request without an upgrade is that question. Others, of health checks, crawlers and image
// tags, aren't worth asking WithAuthorize.
func asksForRefusal(c *fiber.Ctx) bool {
	return strings.Contains(fieldText(c, fiber.HeaderAccept), refusalType)
}

// answerRefusal answers as the handshake would be answered, and with 426 if that would be let in. It takes no place.
func (m *Manager) answerRefusal(c *fiber.Ctx, segment string) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Context().SetConnectionClose() // as after every refusal: a proxy may take for an upgrade what we don't
	if err := m.checkAskingOrigin(c); err != nil {
		return err
	}
	if origin := originOf(c); origin != "" {
		// It may follow the stream, so it may know why not.
		c.Set(fiber.HeaderAccessControlAllowOrigin, origin)
		c.Set(fiber.HeaderAccessControlAllowCredentials, "true")
		c.Vary(fiber.HeaderOrigin)
	}
	project, err := decodeProject(c, segment)
	if err != nil {
		return err
	}
	asked, err := queryFilter(c)
	if err != nil {
		return fiber.NewError(fiber.StatusBadRequest, err.Error())
	}
	if err := m.admit(c, &admission{sub: Subscription{Project: project}, ip: addressOf(c)}, asked); err != nil {
		return err
	}
	return upgradeRequired(c)
}

// checkAskingOrigin is checkOrigin for a request that need not have an Origin: browsers tell it with every handshake,
// but not with a GET of the same origin, and not with one that can't read the answer. The module sends a Referer then.
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
