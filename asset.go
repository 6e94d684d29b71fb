package mesherstream

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"

	"github.com/gofiber/fiber/v2"
)

// browserClient is the module for pages, which the handler serves beside the streams, so that the two are always of one
// version. It is minified, by npm run build in client/, and its first line says of what.
//
//go:embed client/mesherstream.min.js
var browserClient []byte

// browserClientName stands where a stream has its project. A project of that name can be followed all the same, since a
// stream begins with an upgrade, and a script doesn't.
const browserClientName = "mesherstream.js"

var browserClientTag = func() string {
	sum := sha256.Sum256(browserClient)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:9]) + `"`
}()

// serveBrowserClient answers with the module, or with 304 where the page has this version.
func serveBrowserClient(c *fiber.Ctx) error {
	c.Set(fiber.HeaderETag, browserClientTag)
	c.Set(fiber.HeaderCacheControl, "no-cache") // kept, but asked for each time: the next release may speak another protocol
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	if c.Fresh() {
		return c.SendStatus(fiber.StatusNotModified)
	}
	c.Set(fiber.HeaderContentType, "text/javascript; charset=utf-8")
	return c.Send(browserClient)
}
