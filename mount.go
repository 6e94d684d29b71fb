package mesherstream

import (
	"strings"

	"github.com/gofiber/fiber/v2"
)

// This file knows where a handler is mounted, and tells the log of mounts at which no stream can be.

// projectParam is the parameter of an own route that holds the project.
const projectParam = "project_id"

// managerKey is the key of a request's passage among its locals.
type managerKey struct{}

// A passage is a manager whose handler a request has passed, and where.
type passage struct {
	m     *Manager
	mount string   // the part of the path that the handler is mounted at
	outer *passage // the one before
}

// pass notes for From that a request passes the handler. A manager that can't be reached, since one before it serves
// on the same path, is no longer what From returns: its clients are that one's.
func (m *Manager) pass(c *fiber.Ctx, mount string) {
	outer, _ := c.Locals(managerKey{}).(*passage)
	for p := outer; p != nil; p = p.outer {
		if p.m != m && p.covers(c, m, mount) {
			m.warnOfShadow(mount+m.cfg.path, p)
			c.Locals(managerKey{}, &passage{p.m, p.mount, outer})
			return
		}
	}
	c.Locals(managerKey{}, &passage{m, mount, outer})
}

// covers says whether p's manager takes every stream that m could serve at mount.
func (p *passage) covers(c *fiber.Ctx, m *Manager, mount string) bool {
	first, second := p.mount+p.m.cfg.path+"/", mount+m.cfg.path+"/"
	return len(first) <= len(second) && m.samePath(c, first, second[:len(first)])
}

func (m *Manager) warnOfShadow(path string, p *passage) {
	if m.shadowed.Swap(true) {
		return
	}
	m.cfg.logger.Warn("mesherstream: two managers are mounted on one path, and the second never gets a client: publish by the first, which From returns, or mount New once",
		"path", strings.Clone(path), "first", strings.Clone(p.mount)+p.m.cfg.path)
}

// splitMount splits the path of a request into the part at which the handler is mounted, and the rest below it. A mount
// with parameters is as many segments long as its pattern.
func splitMount(c *fiber.Ctx) (mount, rest string) {
	pattern, _, _ := strings.Cut(c.Route().Path, "*")
	path := c.Path()
	rest = path
	for range strings.FieldsFuncSeq(pattern, func(r rune) bool { return r == '/' }) {
		rest = belowFirst(rest)
	}
	return path[:len(path)-len(rest)], rest
}

// belowFirst returns path without its first segment.
func belowFirst(path string) string {
	path = strings.TrimPrefix(path, "/")
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[i:]
	}
	return ""
}

// checkRoute tells the log, once for each route, of one on which there can be no stream: one that app.Get was given, or a
// like method, whose pattern names no project. A handler that is mounted with app.Use passes such requests on by right.
func (m *Manager) checkRoute(c *fiber.Ctx) {
	route := c.Route()
	if len(route.Handlers) == 0 {
		return
	}
	if _, asked := m.askedRoutes.LoadOrStore(&route.Handlers[0], true); asked || strings.ContainsAny(route.Path, "*+") || !isOwnRoute(c, route) {
		return
	}
	m.cfg.logger.Warn("mesherstream: a route has no parameter :"+projectParam+", and so no stream: call its parameter that, or mount the handler with app.Use",
		"method", route.Method, "route", route.Path)
}

// isOwnRoute says whether a route was not registered with app.Use, which Fiber tells of copies only. Its handlers are the
// same in all copies.
func isOwnRoute(c *fiber.Ctx, route *fiber.Route) bool {
	const withoutUse = true
	for _, r := range c.App().GetRoutes(withoutUse) {
		if len(r.Handlers) > 0 && &r.Handlers[0] == &route.Handlers[0] {
			return true
		}
	}
	return false
}

// watchMount tells the log if the app of WithApp is mounted in another one, now or later.
func (m *Manager) watchMount(app *fiber.App) {
	if app.MountPath() != "" {
		m.warnOfMount(app)
	}
	app.Hooks().OnMount(func(*fiber.App) error {
		m.warnOfMount(app)
		return nil
	})
}

func (m *Manager) warnOfMount(app *fiber.App) {
	if !m.strayApp.Swap(true) {
		m.cfg.logger.Warn("mesherstream: the app of WithApp is mounted in another one, and Fiber runs no hooks of it: give WithApp the app that listens, or its shutdown flushes and closes nothing",
			"mounted_at", app.MountPath())
	}
}

// checkApp tells the log if the app of WithApp hasn't listened when a client comes: then it isn't the one whose shutdown ends
// the streams, or it has a server of its own. A child of Prefork runs no such hook.
func (m *Manager) checkApp(serving *fiber.App) {
	stray := serving != m.cfg.app
	if m.cfg.app == nil || m.listened.Load() || fiber.IsChild() && !stray || m.strayApp.Swap(true) {
		return
	}
	if stray {
		m.cfg.logger.Warn("mesherstream: another app than that of WithApp serves the streams: give WithApp the app that listens, or its shutdown flushes and closes nothing")
	} else {
		m.cfg.logger.Info("mesherstream: the app of WithApp serves without having listened: shut it down by its own Shutdown, or nothing flushes and closes the streams")
	}
}
