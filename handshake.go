package mesherstream

import (
	"bytes"
	"encoding/base64"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// This file reads the opening handshake of a WebSocket (RFC 6455, section 4.2.1) as HTTP means it: header lines of one
// name are one list (RFC 9110, section 5.3), and a name is the same in any spelling. Fiber, contrib and fasthttp look at
// the first line of one spelling only.

// An opening is what a request says about an upgrade. Its bytes are those of the request.
type opening struct {
	connection bool // Connection has the option upgrade
	websocket  bool // Upgrade has the protocol websocket
	version    bool // Sec-WebSocket-Version has 13
	v1         bool // Sec-WebSocket-Protocol has Protocol
	key        []byte
	keys       int // lines of the name
	origins    int // lines of the name
}

func readOpening(h *fasthttp.RequestHeader) (o opening) {
	//lint:ignore SA1019 the oldest fasthttp that go.mod allows has no RequestHeader.All
	h.VisitAll(func(name, value []byte) {
		switch {
		case sameASCII(name, fiber.HeaderConnection):
			o.connection = o.connection || lists(value, "upgrade")
		case sameASCII(name, fiber.HeaderUpgrade):
			o.websocket = o.websocket || lists(value, "websocket")
		case sameASCII(name, fiber.HeaderSecWebSocketVersion):
			o.version = o.version || lists(value, "13")
		case sameASCII(name, fiber.HeaderSecWebSocketProtocol):
			for element := range bytes.SplitSeq(value, []byte{','}) {
				o.v1 = o.v1 || string(bytes.Trim(element, " \t")) == Protocol // whose case counts
			}
		case sameASCII(name, fiber.HeaderSecWebSocketKey):
			o.key = bytes.Trim(value, " \t") // fasthttp 1.52 trims spaces only
			o.keys++
		case sameASCII(name, fiber.HeaderOrigin):
			o.origins++
		}
	})
	return o
}

// sameASCII compares without case, by which a character outside of ASCII is never the same as one within.
func sameASCII(b []byte, s string) bool {
	return len(b) == len(s) && strings.EqualFold(string(b), s)
}

// lists says whether a list has that element, without case.
func lists(list []byte, element string) bool {
	for e := range bytes.SplitSeq(list, []byte{','}) {
		if sameASCII(bytes.Trim(e, " \t"), element) {
			return true
		}
	}
	return false
}

// asked says whether the request asks for a WebSocket at all.
func (o *opening) asked() bool { return o.connection && o.websocket }

// check returns what is wrong with a handshake whose request asks for a WebSocket.
func (o *opening) check(c *fiber.Ctx) error {
	h := &c.Request().Header
	// A body would be read as frames if Fiber streams it.
	if !h.IsHTTP11() || len(h.Peek(fiber.HeaderTransferEncoding)) > 0 || h.ContentLength() > 0 {
		return fiber.NewError(fiber.StatusBadRequest, "a handshake has no body and is HTTP/1.1")
	}
	if len(h.Host()) == 0 {
		return fiber.NewError(fiber.StatusBadRequest, "a handshake names its host")
	}
	if !o.version || len(o.key) == 0 && o.keys < 2 {
		return upgradeRequired(c)
	}
	if o.keys > 1 || !isKey(o.key) {
		return fiber.NewError(fiber.StatusBadRequest, "a handshake has one Sec-WebSocket-Key, which is 16 bytes in base64")
	}
	if o.origins > 1 {
		return fiber.NewError(fiber.StatusForbidden, "origin not allowed: there are two")
	}
	return nil
}

func isKey(b []byte) bool {
	var key [18]byte // what 24 characters are at most
	if len(b) != base64.StdEncoding.EncodedLen(16) {
		return false
	}
	n, err := base64.StdEncoding.Decode(key[:], b)
	return err == nil && n == 16
}

// settle writes the handshake into the request as contrib and Fiber look for it: one line of each name, in their
// spelling.
func (o *opening) settle(h *fasthttp.RequestHeader) {
	h.Set(fiber.HeaderConnection, "Upgrade")
	h.Set(fiber.HeaderUpgrade, "websocket")
	h.Set(websocketVersion, "13")
	h.SetBytesV(websocketKey, o.key)
	if o.v1 {
		h.Set(websocketProtocol, Protocol)
	}
	if !o.v1 {
		h.Del(websocketProtocol) // last, since what is deleted is memory for what is set
	}
}

// How fasthttp's upgrader spells the names, which matters with DisableHeaderNormalizing.
const (
	websocketVersion  = "Sec-Websocket-Version"
	websocketKey      = "Sec-Websocket-Key"
	websocketProtocol = "Sec-Websocket-Protocol"
)
