package mesherstream

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// This file reads a request's URL: where the handler is mounted, and which project and filter the URL names. It logs
// mounts at which no stream can be.

// projectParam is the parameter that holds the project, on a route of the application's own.
const projectParam = "project_id"

// managerKey is the key of a request's passage among its locals.
type managerKey struct{}

// A passage records that a request has passed the handler of a manager, and where.
type passage struct {
	m     *Manager
	mount string   // the part of the path that the handler is mounted at
	outer *passage // the one before
}

// pass records, for From, that a request passes the handler. If a manager can't be reached, since one before it serves
// on the same path, From does not return it: its clients are those of the manager before it.
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

// covers reports whether p's manager takes every stream that m could serve at mount.
func (p *passage) covers(c *fiber.Ctx, m *Manager, mount string) bool {
	first, second := p.mount+p.m.cfg.path+"/", mount+m.cfg.path+"/"
	return len(first) <= len(second) && m.samePath(c, first, second[:len(first)])
}

func (m *Manager) warnOfShadow(path string, p *passage) {
	if m.shadowed.Swap(true) {
		return
	}
	m.cfg.logger.Warn("mesherstream: two managers are mounted on one path, and the second never receives a client: publish with the first, which From returns, or mount New once",
		"path", strings.Clone(path), "first", strings.Clone(p.mount)+p.m.cfg.path)
}

// splitMount splits the path of a request into the part at which the handler is mounted, and the rest below it. A mount
// with parameters has as many segments as its pattern.
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

// checkRoute logs, once for each route, a route on which there can be no stream: one of app.Get, or of a similar
// method, whose pattern names no project. A handler that is mounted with app.Use rightly passes such requests on.
func (m *Manager) checkRoute(c *fiber.Ctx) {
	route := c.Route()
	if len(route.Handlers) == 0 {
		return
	}
	if _, asked := m.askedRoutes.LoadOrStore(&route.Handlers[0], true); asked || strings.ContainsAny(route.Path, "*+") || !isOwnRoute(c, route) {
		return
	}
	m.cfg.logger.Warn("mesherstream: a route has no parameter :"+projectParam+", and so no stream: rename its parameter to that, or mount the handler with app.Use",
		"method", route.Method, "route", route.Path)
}

// isOwnRoute reports whether a route was not registered with app.Use. Fiber tells this only of copies of the routes. A
// route's handlers are the same in all copies.
func isOwnRoute(c *fiber.Ctx, route *fiber.Route) bool {
	const withoutUse = true
	for _, r := range c.App().GetRoutes(withoutUse) {
		if len(r.Handlers) > 0 && &r.Handlers[0] == &route.Handlers[0] {
			return true
		}
	}
	return false
}

// watchMount logs if the app of WithApp is mounted in another one, now or later.
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
		m.cfg.logger.Warn("mesherstream: the app of WithApp is mounted in another one, and Fiber does not run its hooks: pass the app that listens to WithApp, or its shutdown flushes and closes nothing",
			"mounted_at", app.MountPath())
	}
}

// checkApp logs if the app of WithApp hasn't listened when a client connects. Then it isn't the app whose shutdown ends
// the streams, or it has a server of its own. A child of Prefork runs no such hook.
func (m *Manager) checkApp(serving *fiber.App) {
	stray := serving != m.cfg.app
	if m.cfg.app == nil || m.listened.Load() || fiber.IsChild() && !stray || m.strayApp.Swap(true) {
		return
	}
	if stray {
		m.cfg.logger.Warn("mesherstream: an app other than that of WithApp serves the streams: pass the app that listens to WithApp, or its shutdown flushes and closes nothing")
	} else {
		m.cfg.logger.Info("mesherstream: the app of WithApp serves without having listened: shut it down by its own Shutdown, or nothing flushes and closes the streams")
	}
}

// A queryName is a name that the query of a stream may have, together with common mistakes for it.
type queryName struct {
	name    string
	aliases []string // other words for it, without an s at their end
	typos   int      // how many letters may be wrong without making it another word
}

var queryNames = []queryName{
	{"level", []string{"lvl", "loglevel", "minlevel", "severity", "severitie"}, 1},
	{"environment", []string{"env", "environ"}, 2},
}

// checkQuery returns an error if the name of a query parameter is nearly one that means something here: the stream
// would carry everything, and the mistake would go unnoticed. Other parameters belong to the application.
func checkQuery(c *fiber.Ctx) error {
	for key := range c.Queries() {
		for _, known := range queryNames {
			if key != known.name && known.meantBy(key) {
				return fmt.Errorf("query parameter %s is unknown: use %s", harmless(key), known.name)
			}
		}
	}
	return nil
}

// meantBy reports whether the author of key probably means q: in another case or number, or with brackets, as in
// filter[level].
func (q queryName) meantBy(key string) bool {
	key = strings.TrimPrefix(strings.ToLower(key), "amp;") // of an address that was escaped for HTML once too often
	letters := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, key)
	for _, of := range []string{"filters", "filter"} {
		letters = strings.TrimSuffix(strings.TrimPrefix(letters, of), of)
	}
	singular := strings.TrimSuffix(letters, "s")
	return slices.Contains(q.aliases, singular) || distance(letters, q.name) <= q.typos || distance(singular, q.name) <= q.typos
}

// distance returns how many letters must be added, removed, replaced or swapped with their neighbours to turn a into b.
func distance(a, b string) int {
	if len(a) > 2*len(b) {
		return len(a) - len(b) // a stranger may send long ones
	}
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			replaced := last[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(replaced, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

// projectOf returns the project's segment of the path as it is written there, and whether the path is a stream's. rest
// is the path below the mount.
func (m *Manager) projectOf(c *fiber.Ctx, rest string) (segment string, ours bool) {
	if rest == "" || rest == "/" {
		for _, param := range c.Route().Params {
			if param == projectParam {
				return c.Params(param), true
			}
		}
	}

	prefix := m.cfg.path
	if len(rest) < len(prefix) || !m.samePath(c, rest[:len(prefix)], prefix) {
		return "", false
	}
	switch rest = rest[len(prefix):]; {
	case rest == "":
		return "", true
	case rest[0] != '/':
		return "", false
	}
	return rest[1:], true
}

// samePath compares as the app's router does.
func (m *Manager) samePath(c *fiber.Ctx, a, b string) bool {
	return a == b || strings.EqualFold(a, b) && !c.App().Config().CaseSensitive
}

// decodeProject returns the project that a segment of the path names. The result has bytes of its own.
func decodeProject(c *fiber.Ctx, segment string) (string, error) {
	var project string
	var err error
	if c.App().Config().UnescapePath {
		project, err = decodedAsPath(c, segment)
	} else {
		project, err = url.PathUnescape(strings.Clone(segment))
	}
	switch {
	case errors.Is(err, errAmbiguous), errors.Is(err, errSlash):
		return "", fiber.NewError(fiber.StatusBadRequest, err.Error())
	case err != nil:
		return "", fiber.NewError(fiber.StatusBadRequest, "project has broken percent-encoding")
	}
	switch {
	case project == "":
		return "", fiber.NewError(fiber.StatusBadRequest, "project is empty")
	case len(project) > maxProjectBytes:
		return "", fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("project is over %d bytes", maxProjectBytes))
	case strings.Contains(project, "/"):
		return "", fiber.NewError(fiber.StatusBadRequest, "project has a slash")
	case !utf8.ValidString(project), strings.ContainsFunc(project, unicode.IsControl):
		return "", fiber.NewError(fiber.StatusBadRequest, "project has control characters or is not UTF-8")
	}
	return project, nil
}

// decodedAsPath returns the meaning of a segment that UnescapePath has decoded. UnescapePath decodes by the rules of
// forms: a plus becomes a space, and broken escapes stay as they are. The segment is found in the original path by its
// place, since both ways of decoding yield the same number of bytes. An encoded slash is refused wherever it is: Fiber
// has treated it as a separator.
func decodedAsPath(c *fiber.Ctx, segment string) (string, error) {
	written := c.Request().URI().PathOriginal()
	plain, err := url.PathUnescape(string(written))
	if err != nil {
		return "", err
	}
	if strings.Count(plain, "/") != bytes.Count(written, []byte{'/'}) {
		return "", errSlash
	}
	path := c.Path()
	if !strings.Contains(segment, " ") {
		return strings.Clone(segment), nil
	}
	if string(fasthttp.AppendUnquotedArg(nil, written)) != path {
		return "", errAmbiguous // a handler has put another path there
	}
	project, found := "", false
	for at := 0; at+len(segment) <= len(path); at++ {
		if path[at:at+len(segment)] != segment {
			continue
		}
		if found && plain[at:at+len(segment)] != project {
			return "", errAmbiguous
		}
		project, found = plain[at:at+len(segment)], true
	}
	if !found {
		return "", errAmbiguous
	}
	return project, nil
}

var (
	errAmbiguous = errors.New("project has a space or a plus, and which one is not known")
	errSlash     = errors.New("project has a slash")
)

// queryFilter reads ?level= and ?environment=, each repeated or with commas.
func queryFilter(c *fiber.Ctx) (Filter, error) {
	if err := checkQuery(c); err != nil {
		return Filter{}, err
	}
	values := func(key string) (list []string) {
		for _, v := range c.Context().QueryArgs().PeekMulti(key) {
			list = append(list, strings.Split(string(v), ",")...)
		}
		return list
	}
	return Filter{Levels: values("level"), Environments: values("environment")}.normalize()
}
