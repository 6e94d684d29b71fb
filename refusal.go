package mesherstream

import (
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"
)

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
	if origin := c.Get(fiber.HeaderOrigin); origin != "" {
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
	if fieldText(c, fiber.HeaderOrigin) != "" {
		return m.checkOrigin(c)
	}
	switch site := c.Get("Sec-Fetch-Site"); site {
	case "", "none", "same-origin":
	default:
		return fiber.NewError(fiber.StatusForbidden, "origin not allowed: the request is "+harmless(site))
	}
	page, err := url.Parse(c.Get(fiber.HeaderReferer))
	if err != nil || page.Host == "" {
		return nil
	}
	header := &c.Request().Header
	header.Set(fiber.HeaderOrigin, page.Scheme+"://"+page.Host)
	defer header.Del(fiber.HeaderOrigin)
	return m.checkOrigin(c)
}
