package main

import (
	"embed"
	"net/url"
	"path"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// web has the pages, their stylesheet and their scripts, as they are written.
//
//go:embed web
var web embed.FS

// contentSecurityPolicy lets a page load what this server has, and nothing else: no inline script, no inline style, no
// text that becomes markup.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// serveFile serves one file of web.
func serveFile(name string) fiber.Handler {
	return func(c *fiber.Ctx) error { return sendFile(c, name) }
}

// serveAsset serves the file of web that the path names.
func serveAsset(c *fiber.Ctx) error {
	return sendFile(c, c.Params("file"))
}

func sendFile(c *fiber.Ctx, name string) error {
	content, err := web.ReadFile("web/" + name)
	if err != nil {
		return fiber.ErrNotFound
	}
	c.Type(path.Ext(name), "utf-8")
	c.Set(fiber.HeaderContentSecurityPolicy, contentSecurityPolicy)
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	c.Set(fiber.HeaderReferrerPolicy, "no-referrer")
	c.Set(fiber.HeaderCacheControl, "no-cache")
	return c.Send(content)
}

// sameOrigin refuses what a page of another origin asks a browser to post. A client that sends neither header is no
// browser, and is let in.
func sameOrigin(c *fiber.Ctx) error {
	site, origin := c.Get("Sec-Fetch-Site"), c.Get(fiber.HeaderOrigin)
	u, err := url.Parse(origin)
	ours := origin == "" || err == nil && strings.EqualFold(u.Host, string(c.Request().Header.Host()))
	if site != "" { // what a browser says itself is better than what can be made of the names
		ours = site == "same-origin" || site == "none"
	}
	if !ours {
		return fiber.NewError(fiber.StatusForbidden, "cross-origin request")
	}
	return c.Next()
}
