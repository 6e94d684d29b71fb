package main

import (
	_ "embed"

	"github.com/gofiber/fiber/v2"
)

//go:embed index.html
var page []byte

// servePage serves the whole dashboard: one file, whose script runs its WebSocket in a worker made from a blob.
func servePage(c *fiber.Ctx) error {
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "+
		"worker-src blob:; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	c.Set(fiber.HeaderCacheControl, "no-cache")
	c.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
	return c.Send(page)
}
