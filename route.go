package mesherstream

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/queryname"
	"github.com/mesher/mesherstream/internal/request"
	"github.com/mesher/mesherstream/internal/seal"
	"github.com/valyala/fasthttp"
)

// This file reads a request's URL: where the handler is mounted, and which project and filter the URL names. It logs
// mounts at which no stream can be.

// projectParam is the parameter that holds the project, on a route of the application's own.
const projectParam = "project_id"

// managerKey is the key of a request's passage among its locals.
type managerKey struct{}

// A passage is a manager that serves the streams of a handler which a request has passed.
type passage struct {
	m     *Manager
	path  string   // below which the handler's streams are
	outer *passage // the one before
}

// pass records, for From, that a request passes the handler. If a manager can't be reached, since one before it serves
// on the same path, From does not return it: its clients are those of the manager before it. A request that passes both
// handlers shows this; otherwise the routes of the app do.
func (m *Manager) pass(c *fiber.Ctx, mount string) {
	outer, _ := c.Locals(managerKey{}).(*passage)
	here := &passage{m, mount + m.cfg.path, outer}
	if s, ok := m.shadowsIn(c.App())[mounting{c.Route().Path, m}]; ok {
		here.m = s
	}
	for p := outer; p != nil && here.m == m; p = p.outer {
		if p.m != m && p.covers(c, here) {
			m.warnOfShadow(here.path, p.path)
			here.m = p.m
		}
	}
	c.Locals(managerKey{}, here)
}

// covers reports whether p takes every stream that another handler could serve.
func (p *passage) covers(c *fiber.Ctx, other *passage) bool {
	first, second := p.path+"/", other.path+"/"
	return len(first) <= len(second) && samePath(c, first, second[:len(first)])
}

func (m *Manager) warnOfShadow(path, first string) {
	if m.shadowed.Swap(true) {
		return
	}
	m.cfg.logger.Warn("mesherstream: two managers are mounted on one path, and the second never receives a client: publish with the first, which From returns, or mount New once",
		"path", strings.Clone(path), "first", strings.Clone(first))
}

// A mounting is a manager's handler on a route. Fiber has a copy of the route for each method, and may put the handlers
// of several routes into one.
type mounting struct {
	route string
	m     *Manager
}

// shadowsIn returns which handlers of an app can't be reached by any stream, and whose streams are in their place. It
// reads the routes once for each app, and tells the log then.
func (m *Manager) shadowsIn(app *fiber.App) map[mounting]*Manager {
	if found, ok := m.shadows.Load(app); ok {
		return found.(map[mounting]*Manager)
	}
	shadows := make(map[mounting]*Manager)
	all := streamRoutes(app)
	for i, second := range all {
		for _, first := range all[:i] {
			if !first.covers(second, app.Config().CaseSensitive) {
				continue
			}
			if first.m != second.m {
				shadows[second.mounting] = first.m
				second.m.warnOfShadow(second.pattern(), first.pattern())
			}
			break
		}
	}
	m.shadows.Store(app, shadows)
	return shadows
}

// A streamRoute is where a mounting has its streams.
type streamRoute struct {
	mounting
	segments []string // of the pattern of their paths
	below    bool     // it takes what is below that, too
}

func (r *streamRoute) pattern() string { return "/" + strings.Join(r.segments, "/") }

// streamRoutes returns the routes of an app that can have streams, in the order in which Fiber asks them.
func streamRoutes(app *fiber.App) []*streamRoute {
	handle := reflect.ValueOf((*Manager)(nil).handle).Pointer()
	own := make(map[*fiber.Handler]bool)
	for _, route := range app.GetRoutes(true) { // without app.Use
		if len(route.Handlers) > 0 {
			own[&route.Handlers[0]] = true
		}
	}
	var list []*streamRoute
	for _, route := range app.GetRoutes() {
		if route.Method != fiber.MethodGet {
			continue
		}
		for _, h := range route.Handlers {
			if reflect.ValueOf(h).Pointer() != handle {
				continue
			}
			var of handlerOf
			if !errors.As(h(nil), &of) {
				continue
			}
			r := &streamRoute{mounting: mounting{route.Path, of.m}}
			pattern, wildcard := route.Path, wildcardIn(route.Path)
			switch {
			case slices.Contains(route.Params, projectParam):
			case wildcard >= 0:
				pattern = pattern[:wildcard]
				r.below = true
			default:
				r.below = !own[&route.Handlers[0]]
				if !r.below { // of which checkRoute tells
					continue
				}
			}
			if r.below {
				pattern += "/" + of.m.cfg.path + "/:" + projectParam
			}
			r.segments = strings.FieldsFunc(pattern, func(r rune) bool { return r == '/' })
			list = append(list, r)
		}
	}
	return list
}

// covers reports whether r takes every stream that other could serve.
func (r *streamRoute) covers(other *streamRoute, caseSensitive bool) bool {
	segments := r.segments
	if r.below {
		segments = segments[:len(segments)-1]
	}
	if len(other.segments) < len(r.segments) || !r.below && len(other.segments) > len(r.segments) {
		return false
	}
	for i, segment := range segments {
		theirs := other.segments[i]
		if strings.ContainsAny(segment+theirs, "?") || !takesAll(segment) && segment != theirs && (caseSensitive || !strings.EqualFold(segment, theirs)) {
			return false
		}
	}
	return true
}

// takesAll reports whether a segment of a pattern is a parameter alone, without a constraint.
func takesAll(segment string) bool {
	return segment[0] == ':' && !strings.ContainsAny(segment[1:], ":-.<?*+")
}

// handlerOf is what a handler answers that is asked whose it is, by a nil Ctx.
type handlerOf struct{ m *Manager }

func (handlerOf) Error() string { return "mesherstream: a handler was called without a request" }

// splitMount splits the path of a request into the part at which the handler is mounted, and the rest below it. A mount
// with parameters has as many segments as its pattern.
func splitMount(c *fiber.Ctx) (mount, rest string) {
	pattern := c.Route().Path
	if i := wildcardIn(pattern); i >= 0 {
		pattern = pattern[:i]
	}
	path := c.Path()
	rest = path
	for range strings.FieldsFuncSeq(pattern, func(r rune) bool { return r == '/' }) {
		rest = belowFirst(rest)
	}
	return path[:len(path)-len(rest)], rest
}

// wildcardIn returns where the first wildcard of a route's pattern is, or -1. A character that is escaped is none, and
// neither is one of a parameter's constraint.
func wildcardIn(pattern string) int {
	constraints := 0
	for i := range len(pattern) {
		switch c := pattern[i]; {
		case i > 0 && pattern[i-1] == '\\':
		case c == '<':
			constraints++
		case c == '>':
			constraints--
		case (c == '*' || c == '+') && constraints == 0:
			return i
		}
	}
	return -1
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
	if _, asked := m.askedRoutes.LoadOrStore(&route.Handlers[0], true); asked || !isOwnRoute(c, route) {
		return
	}
	streams := "no stream"
	if wildcardIn(route.Path) >= 0 {
		streams = "no stream but at the path of WithPath below its wildcard"
	}
	m.cfg.logger.Warn("mesherstream: a route has no parameter :"+projectParam+", and so "+streams+": rename its parameter to that, or mount the handler with app.Use",
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

// checkQuery returns an error if the name of a query parameter is nearly one that means something here: the stream
// would carry everything, and the mistake would go unnoticed. Other parameters belong to the application.
func checkQuery(c *fiber.Ctx) error {
	for key := range c.Queries() {
		if name := queryname.MeantBy(key); name != "" {
			return fmt.Errorf("query parameter %s is unknown: use %s", harmless(key), name)
		}
	}
	return nil
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
	if len(rest) < len(prefix) || !samePath(c, rest[:len(prefix)], prefix) {
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
func samePath(c *fiber.Ctx, a, b string) bool {
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
	if bytes.IndexByte(written, ' ') >= 0 {
		return "", errAmbiguous // no request has one: a handler has put there what Fiber had decoded
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
			for value := range strings.SplitSeq(string(v), ",") {
				list = append(list, strings.TrimSpace(value))
			}
		}
		return list
	}
	return Filter{Levels: values("level"), Environments: values("environment")}.normalize()
}

// queryPast reads ?last= and ?since=.
func queryPast(c *fiber.Ctx) (p past, err error) {
	value := func(key string) (v string, ok bool, err error) {
		all := c.Context().QueryArgs().PeekMulti(key)
		if len(all) > 1 {
			return "", false, fmt.Errorf("query parameter %s is there twice", key)
		}
		if len(all) == 0 {
			return "", false, nil
		}
		return string(all[0]), true, nil
	}
	last, ok, err := value("last")
	if err != nil {
		return p, err
	}
	if ok {
		n, err := strconv.ParseUint(last, 10, 32)
		if err != nil || n < 1 || n > request.MaxLast {
			return p, fmt.Errorf("query parameter last is not a number from 1 to %d", request.MaxLast)
		}
		p.last = int(n)
	}
	since, ok, err := value("since")
	if err != nil || !ok {
		return p, err
	}
	if seal.IsText(sealsPosition, since) {
		p.back, err = queryReturn(since, value)
		return p, err
	}
	if p.since, ok = parseSince(since, time.Now()); !ok {
		return p, errors.New("query parameter since is neither a time such as 2006-01-02T15:04:05Z, nor an age such as 10m, nor a position")
	}
	return p, nil
}

// queryReturn reads what a client says when it returns with a position: ?received= and ?ago=.
func queryReturn(position string, value func(string) (string, bool, error)) (*comeback, error) {
	b := &comeback{position: position}
	received, ok, err := value("received")
	switch {
	case err != nil:
		return nil, err
	case received == "unknown":
		b.received = uncounted
	case ok:
		n, err := strconv.ParseUint(received, 10, 31)
		if err != nil {
			return nil, errors.New("query parameter received is neither a number of messages nor unknown")
		}
		b.received = int(n)
	}
	ago, ok, err := value("ago")
	switch {
	case err != nil:
		return nil, err
	case ok:
		ms, err := strconv.ParseUint(ago, 10, 40)
		if err != nil {
			return nil, errors.New("query parameter ago is not a number of milliseconds")
		}
		b.ago = time.Duration(ms) * time.Millisecond
	}
	return b, nil
}

// parseSince reads a time, or an age that was reached at now.
func parseSince(s string, now time.Time) (t time.Time, ok bool) {
	if age, err := time.ParseDuration(s); err == nil {
		return now.Add(-age), age >= 0
	}
	// In a query, the plus before an offset is a space unless it is escaped.
	t, err := time.Parse(time.RFC3339, strings.ReplaceAll(s, " ", "+"))
	if t.IsZero() {
		t = t.Add(1) // the zero time would be none
	}
	return t, err == nil
}
