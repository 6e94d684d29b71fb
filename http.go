package mesherstream

import (
	"errors"
	"iter"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/seal"
	"github.com/valyala/fasthttp"
)

// This file answers requests for a stream over plain HTTP. Like the 101 of a handshake, the head of the response is written
// when every handler has returned, and the connection is then the client's: fasthttp's own way to stream takes two
// goroutines and a pipe for each client, and doesn't notice when a client leaves.

// The types of the streams over plain HTTP.
const (
	typeEvents = "text/event-stream"
	typeLines  = "application/x-ndjson"
)

// plainEncoding returns the encoding in which a request accepts a stream over plain HTTP. ok is false if it accepts none: a
// browser that navigates to the URL or shows it as an image accepts anything, but among other things.
func plainEncoding(c *fiber.Ctx, o *opening) (e encoding, ok bool) {
	if o.stripped {
		return e, false
	}
	ranges := 0
	var ofEvents, ofLines, ofAnything float64
	for name, q := range mediaRanges(fieldText(c, fiber.HeaderAccept)) {
		switch ranges++; name {
		case typeEvents:
			ofEvents = max(ofEvents, q)
		case typeLines:
			ofLines = max(ofLines, q)
		case "*/*":
			ofAnything = q
		}
	}
	switch {
	case ofEvents > 0 && ofEvents >= ofLines:
		return events, true
	case ofLines > 0 || ranges == 1 && ofAnything > 0:
		return lines, true
	default:
		return e, false
	}
}

// mediaRanges yields the media ranges of an Accept header, in lower case, and how much each one is wanted: 0 for not at
// all, up to 1. What is no number counts as 0.
func mediaRanges(accept string) iter.Seq2[string, float64] {
	return func(yield func(string, float64) bool) {
		for element := range splitUnquoted(accept, ',') {
			weight, name := 1.0, ""
			for part := range splitUnquoted(element, ';') {
				key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
				switch {
				case name == "":
					name = strings.ToLower(strings.TrimSpace(part))
				case strings.EqualFold(key, "q"):
					weight, _ = strconv.ParseFloat(value, 64)
				}
			}
			if !(weight > 0 && weight <= 1) { // a NaN is neither
				weight = 0
			}
			if name != "" && !yield(name, weight) {
				return
			}
		}
	}
}

// splitUnquoted yields the parts of s between separators that are outside of quoted strings (RFC 9110, section 5.6.4).
func splitUnquoted(s string, separator byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		begin, quoted := 0, false
		for i := 0; i < len(s); i++ {
			switch c := s[i]; {
			case c == '"':
				quoted = !quoted
			case c == '\\' && quoted:
				i++ // the next character is itself
			case c == separator && !quoted:
				if !yield(s[begin:i]) {
					return
				}
				begin = i + 1
			}
		}
		yield(s[begin:])
	}
}

// readLastEventID reads the header with which an EventSource returns. It says the position, and nothing about the events
// that the client has received after that, so these are repeated. The ID of something else than a stream of this package
// says nothing: the client is a new one.
func readLastEventID(c *fiber.Ctx, p *past) {
	if id := fieldText(c, "Last-Event-ID"); seal.IsText(sealsPosition, id) {
		*p = past{back: &comeback{position: id}}
	}
}

// queryGap reads ?gap=, the ID of a gap, whose messages are then all that the client receives.
func (m *Manager) queryGap(c *fiber.Ctx, a *admission) error {
	id := c.Query("gap")
	if id == "" {
		return nil
	}
	h, ok := openHole(&m.history.seal, a.sub.Project, id)
	if !ok || !m.history.isOn() {
		return fiber.NewError(fiber.StatusGone, notAGap)
	}
	filter, err := h.filter.within(a.grant)
	if err != nil {
		return fiber.NewError(fiber.StatusForbidden, err.Error())
	}
	a.sub.Filter, a.past = filter, past{gap: &fetched{strings.Clone(id), h}}
	return nil
}

// stand is the body of the response that the handlers see, which is never sent to the client of a stream. A cache in front
// of the handler takes it for the response, and answers other requests with it.
const stand = ": There is no stream here. What has answered is a cache in front of it, or a test without a connection.\nretry: 5000\n\n"

// stream arranges for a stream over plain HTTP to begin when every handler has returned.
func (m *Manager) stream(c *fiber.Ctx, a admission) error {
	c.Status(fiber.StatusOK)
	c.Set(fiber.HeaderContentType, a.encoding.contentType())
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set("X-Accel-Buffering", "no") // otherwise nginx would keep events until it has many
	c.Vary(fiber.HeaderAccept)
	c.Context().SetConnectionClose()
	if c.Method() == fiber.MethodHead {
		return nil
	}
	m.warnOfPrefork(c.App())
	c.Response().SetBodyString(stand)
	c.Request().Header.Del(fiber.HeaderIfNoneMatch) // the etag of this body says nothing about the stream
	if isAppTest(c.Context()) {
		return nil
	}
	r := reply{m: m, app: c.App(), ctx: c.Context(), asks: asksForRefusal(c)}
	c.Context().HijackSetNoResponse(true)
	c.Context().Hijack(func(conn net.Conn) {
		defer func() { _ = conn.Close() }() // as in serve
		defer func() { m.recovered(recover(), conn, a.encoding) }()
		if p, ok := r.send(conn, &a); ok {
			_ = m.serve(conn, a, p) // the client has been told
		}
	})
	return nil
}

// isReplaced reports whether the response is another one with the status 200, as an ErrorHandler may answer an error.
func (r *reply) isReplaced(e encoding) bool {
	return !e.isType(&r.ctx.Response.Header) && string(r.ctx.Response.Body()) != stand
}

// isType reports whether a response has the type of a stream in this encoding, whatever its parameters.
func (e encoding) isType(h *fasthttp.ResponseHeader) bool {
	name, _, _ := strings.Cut(string(h.ContentType()), ";")
	return strings.EqualFold(strings.TrimSpace(name), e.contentType())
}

// contentType returns the type of a stream over plain HTTP.
func (e encoding) contentType() string {
	if e == events {
		return typeEvents
	}
	return typeLines
}

// openStream prepares the head of a stream from the headers as the handlers have left them. Its body ends with the connection,
// and no handler has changed its bytes.
func openStream(h *fasthttp.ResponseHeader, e encoding) {
	h.SetContentLength(-1)
	if !e.isType(h) { // a handler has labelled every response alike
		h.SetContentType(e.contentType())
	}
	deleteFields(h, fiber.HeaderTransferEncoding, fiber.HeaderContentLength, fiber.HeaderContentEncoding, fiber.HeaderETag)
	deleteFields(h, fiber.HeaderConnection, fiber.HeaderKeepAlive, fiber.HeaderUpgrade) // of a connection that can be reused
	h.SetConnectionClose()
}

// deleteFields deletes header fields in any spelling, also in an app with DisableHeaderNormalizing.
func deleteFields(h *fasthttp.ResponseHeader, names ...string) {
	var keys []string
	//lint:ignore SA1019 the oldest fasthttp that go.mod allows has no ResponseHeader.All
	h.VisitAll(func(key, _ []byte) {
		for _, name := range names {
			if sameASCII(key, name) {
				keys = append(keys, string(key))
			}
		}
	})
	for _, key := range append(keys, names...) {
		h.Del(key)
	}
}

// refuseStream answers a request for a stream over plain HTTP that is refused. An EventSource receives what the handlers
// make of the error, softened when all of them have returned: a middleware may know better than the ErrorHandler which
// status an error of WithAuthorize has.
func (m *Manager) refuseStream(c *fiber.Ctx, e encoding, err error) error {
	ctx := c.Context()
	if e != events || asksForRefusal(c) {
		return err
	}
	if isAppTest(ctx) || ctx.ConnRequestNum() == 0 { // nobody calls the function
		if c.App().ErrorHandler(c, err) != nil {
			_ = c.SendStatus(fiber.StatusInternalServerError)
		}
		softenRefusal(ctx, reasonOf(err))
		ctx.SetConnectionClose() // as after every refusal
		return nil
	}
	r, reason := reply{m: m, app: c.App(), ctx: ctx}, reasonOf(err)
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(conn net.Conn) {
		defer func() { _ = conn.Close() }() // as in serve
		defer func() { m.recovered(recover(), conn, e) }()
		softenRefusal(ctx, reason)
		r.refuse(conn)
	})
	return err
}

// reasonOf returns what an error may tell a client in one line, as far as it is meant for clients. Its bytes are its own,
// since the message may be made of the request's.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*fiber.Error](err); ok && !strings.ContainsAny(e.Message, "\r\n") {
		return strings.Clone(e.Message)
	}
	return ""
}

// willPass reports whether a refusal with this status is about now, and not about the request: a timeout, a request that is
// too early, a limit, or trouble of the server.
func willPass(status int) bool {
	switch status {
	case fiber.StatusRequestTimeout, fiber.StatusTooEarly, fiber.StatusTooManyRequests:
		return true
	case fiber.StatusNotImplemented:
		return false
	}
	return status >= 500
}

// softenRefusal replaces the status of a refusal that will pass: after any status but 200, an EventSource gives up for good.
func softenRefusal(ctx *fasthttp.RequestCtx, reason string) {
	status := ctx.Response.StatusCode()
	if !willPass(status) {
		return
	}
	if reason == "" {
		reason = http.StatusText(status)
	}
	h := &ctx.Response.Header
	deleteFields(h, fiber.HeaderContentEncoding, fiber.HeaderETag) // of the body that is replaced
	wait := 5 * retry()
	if seconds, err := strconv.ParseUint(string(h.Peek(fiber.HeaderRetryAfter)), 10, 16); err == nil {
		wait = int(seconds)*1000 + retry() - 1000
	}
	ctx.SetStatusCode(fiber.StatusOK)
	ctx.Response.SetBody(append(appendRetry([]byte(": "+reason+"\n"), wait), '\n'))
	h.SetContentType(typeEvents)
	h.Set(fiber.HeaderCacheControl, "no-store")
}
