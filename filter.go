package mesherstream

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesher/mesherstream/internal/request"
	"github.com/mesher/mesherstream/internal/sieve"
)

// maxFilterValues bounds a list of a filter.
const maxFilterValues = request.MaxValues

// Filter narrows the messages that a client receives to some levels and some environments. A list that is empty, or
// holds only "", accepts all messages. A [Message] whose field is empty passes every list. Values are compared byte by
// byte. A list has at most 16 values, and a value is UTF-8 of at most 64 bytes.
type Filter struct {
	Levels       []string `json:"levels,omitempty"`
	Environments []string `json:"environments,omitempty"`
}

// Subscription selects the messages that one client receives: those of one project that pass the filter. The project of
// a message must be the same, or empty; with an empty Project, a client receives only the messages that have none.
// Project is UTF-8 of at most 128 bytes.
type Subscription struct {
	Project string `json:"project"`
	Filter

	// Since is how far back the client may look into the history, see [WithHistory]: a look-back begins with the messages
	// that were published at that time or later. The zero value is no limit: whoever is let in may read what is held from
	// before. A time in the future means none from before. Messages that are published while the client is connected are
	// not affected.
	Since time.Time `json:"since,omitzero"`
}

// normalize returns a copy of the filter in the form that [Filter.normalize] describes. It fails if that fails or if
// the project is out of its bounds. It shadows the method of the embedded filter, so that no subscription is accepted
// with one half unchecked.
func (s *Subscription) normalize() (Filter, error) {
	if err := checkField("project", s.Project, maxProjectBytes); err != nil {
		return Filter{}, fmt.Errorf("%w: %w", ErrInvalidFilter, err)
	}
	return s.Filter.normalize()
}

// matches reports whether m passes f.
func (f *Filter) matches(m *message) bool {
	return accepts(f.Levels, m.level) && accepts(f.Environments, m.environment)
}

func accepts(values []string, v string) bool {
	return len(values) == 0 || v == "" || slices.Contains(values, v)
}

// normalize returns a deep copy of f, including the bytes of its strings, in the one form that equal filters share:
// sorted, without repetitions and without "".
func (f Filter) normalize() (Filter, error) {
	var err error
	if f.Levels, err = normalizeValues("level", f.Levels); err != nil {
		return Filter{}, err
	}
	if f.Environments, err = normalizeValues("environment", f.Environments); err != nil {
		return Filter{}, err
	}
	return f, nil
}

func normalizeValues(field string, values []string) ([]string, error) {
	if len(values) > maxFilterValues {
		return nil, fmt.Errorf("%w: %s has more than %d values", ErrInvalidFilter, field, maxFilterValues)
	}
	if len(values) == 0 {
		return nil, nil
	}
	size := 0
	for _, v := range values {
		size += len(v)
		if err := checkField("a value of "+field, v, maxFilterValueBytes); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalidFilter, err)
		}
	}
	var all strings.Builder // the values are parts of it: one allocation for all of them
	all.Grow(size)
	own := make([]string, 0, len(values))
	for _, v := range values {
		if v != "" {
			all.WriteString(v)
			own = append(own, all.String()[all.Len()-len(v):])
		}
	}
	if len(own) == 0 {
		return nil, nil
	}
	slices.Sort(own)
	return slices.Compact(own), nil
}

// within narrows a normalized f to what grant accepts. It fails if nothing that f asks for is granted: a list that lets
// nothing through can't be expressed, since the empty list lets everything through.
func (f Filter) within(grant Filter) (Filter, error) {
	levels, ok := intersect(f.Levels, grant.Levels)
	environments, ok2 := intersect(f.Environments, grant.Environments)
	if !ok || !ok2 {
		return Filter{}, ErrNotGranted
	}
	return Filter{Levels: levels, Environments: environments}, nil
}

func intersect(asked, granted []string) (both []string, ok bool) {
	switch {
	case len(asked) == 0:
		return granted, true
	case len(granted) == 0:
		return asked, true
	}
	for _, v := range asked {
		if slices.Contains(granted, v) {
			both = append(both, v)
		}
	}
	return both, len(both) > 0
}

// key is the same for equal subscriptions, and differs for all others: each value is preceded by its length.
func (s *Subscription) key() string {
	size := len(s.Project) + 6
	for _, list := range [...][]string{s.Levels, s.Environments} {
		for _, v := range list {
			size += len(v) + 3
		}
	}
	var key strings.Builder
	key.Grow(size)
	appendKeyed(&key, s.Project)
	for _, list := range [...][]string{s.Levels, s.Environments} {
		key.WriteByte('|')
		for _, v := range list {
			appendKeyed(&key, v)
		}
	}
	return key.String()
}

func appendKeyed(key *strings.Builder, v string) {
	key.WriteString(strconv.Itoa(len(v)))
	key.WriteByte(':')
	key.WriteString(v)
}

// clone returns a copy that the caller may keep and change.
func (s Subscription) clone() Subscription {
	s.Levels = slices.Clone(s.Levels)
	s.Environments = slices.Clone(s.Environments)
	return s
}

// A group holds the clients of one project with one filter and one encoding. A message is matched with the group, not with
// each client.
type group struct {
	key       string
	sub       Subscription
	encoding  encoding
	inAll     int // index in shard.everyGroup
	inProject int // index in its audience of shard.projects
	clients   []*client
	batch     []*message // the messages that match the group and are yet to be delivered
	fresh     int        // how many of them are of the batch that the shard is taking
	pauses    bool       // it is in shard.pauses
	holds     bool       // it holds messages until the end of its pause
	early     uint64     // the turn in which it was last written to before the end of a pause, as shard.turns
	ofProject *audience  // the groups of its project
	digest    uint64     // of the filter
	looksBack bool       // its clients read the history, and no message is offered to them
	apart     bool       // its only client is not offered messages that were published before its join
	from      cursor     // the place of the join
}

// An audience is the groups that a message is matched with: those of its project, or all of the shard.
type audience struct {
	groups  []*group
	sieve   *sieve.Sieve // of their filters; nil until there are more than fewGroups
	taken   taken        // of the messages to this project, or to all projects
	pausing int          // how many of the groups pause
}

// fewGroups is how many groups are matched one by one. A sieve for fewer would save little time, and it takes 2 KiB.
const fewGroups = 16

// add adds a group with its signature, and returns its index.
func (a *audience) add(g *group, of sieve.Signature) (i int) {
	i = len(a.groups)
	a.groups = append(a.groups, g)
	switch {
	case a.sieve != nil:
		a.sieve.Put(i, of)
	case i == fewGroups:
		a.sieve = new(sieve.Sieve)
		for i, g := range a.groups {
			a.sieve.Put(i, g.signature())
		}
	}
	return i
}

// remove removes the group at i. The last group takes its place, and is passed to moved.
func (a *audience) remove(i int, moved func(*group)) {
	a.groups = swapOut(a.groups, i, moved)
	if a.sieve != nil {
		a.sieve.Move(len(a.groups), i)
		a.sieve.Truncate(len(a.groups))
	}
}

func (g *group) signature() sieve.Signature {
	return sieve.Sign([sieve.Lists][]string{g.sub.Levels, g.sub.Environments})
}

// question returns the message in the form in which a sieve is asked about it.
func (m *message) question() sieve.Question {
	return sieve.Ask([sieve.Lists]string{m.level, m.environment})
}

// matches reports whether a message passes the filter of any group.
func (a *audience) matches(m *message) bool {
	if a.sieve == nil {
		return slices.ContainsFunc(a.groups, func(g *group) bool { return g.sub.matches(m) })
	}
	q := m.question()
	for i := a.sieve.Next(&q, 0); i < len(a.groups); i = a.sieve.Next(&q, i+1) {
		if a.groups[i].sub.matches(m) {
			return true
		}
	}
	return false
}

// taken is the number and the stamp of the newest message of a feed that a shard has offered to its clients, or of the
// newest one before the first of its present clients joined.
type taken struct{ number, stamp uint64 }

// take takes the next message. It returns false if that is older than the last one: the join of the first client overtakes
// messages that were meant for others, who have left. No client of today is due such a message, and one that looks back
// reads it from the history.
func (t *taken) take(m *message) (ok bool) {
	if m.number > 0 && m.number <= t.number { // it has no number if it is none of a feed
		return false
	}
	t.number, t.stamp = max(t.number, m.number), max(t.stamp, m.stamp)
	return true
}

// taken returns how far the client's shard has offered the messages that the client receives.
func (c *client) taken() cursor {
	if c.group == nil { // it is being flushed
		return c.replay.end
	}
	return cursor{c.group.ofProject.taken.number, c.shard.everyGroup.taken.number}
}

// takenStamp is the newest stamp of the messages that the client receives and its shard has offered so far.
func (c *client) takenStamp() uint64 {
	return max(c.group.ofProject.taken.stamp, c.shard.everyGroup.taken.stamp)
}

// terms are a client's subscription and grant. Most clients of a project have the same ones, so both are shared, and
// never changed in place.
type terms struct {
	sub   *Subscription // its Filter is the one in force, within the grant; owned by the shard's goroutine
	grant *Subscription // its Filter is the grant of WithAuthorize, or of the caller of Serve; read-only
}

func termsOf(sub Subscription, grant Filter) terms {
	granted := Subscription{sub.Project, grant, sub.Since}
	return terms{&sub, &granted}
}

// is reports whether two subscriptions are the same in every way.
func (s *Subscription) is(o *Subscription) bool {
	return s.Project == o.Project && s.Since == o.Since && slices.Equal(s.Levels, o.Levels) && slices.Equal(s.Environments, o.Environments)
}

func (c *client) enterGroup() {
	s := c.shard
	key, looksBack := c.sub.key(), c.replay != nil && s.history.isOn()
	if c.encoding != frames {
		key += "=" + strconv.Itoa(int(c.encoding))
	}
	switch {
	case looksBack:
		key += "<"
	case c.apart:
		key += "@" + strconv.FormatUint(uint64(c.id), 10)
		s.apart = append(s.apart, c)
	}
	g := s.groups[key]
	if g == nil {
		g = &group{key: key, sub: *c.sub, encoding: c.encoding, looksBack: looksBack, digest: s.history.digest(c.sub)}
		if c.apart {
			g.apart, g.from = true, c.joined.cursor
		}
		if len(s.groups) == 0 {
			s.everyGroup.taken = taken{c.joined.all, c.joined.stamp}
		}
		ofProject := s.projects[c.sub.Project]
		if ofProject == nil {
			ofProject = &audience{taken: taken{c.joined.project, c.joined.stamp}}
			if s.everyGroup.taken.number < c.joined.all { // older messages to all projects are still in the inbox
				ofProject.taken.stamp = s.everyGroup.taken.stamp
			}
		}
		g.ofProject = ofProject
		of := g.signature()
		s.mu.Lock()
		s.groups[key] = g
		s.projects[c.sub.Project] = ofProject
		g.inAll, g.inProject = s.everyGroup.add(g, of), ofProject.add(g, of)
		s.mu.Unlock()
	}
	c.group, c.inGroup, c.ahead = g, int32(len(g.clients)), int32(len(g.batch))
	g.clients = append(g.clients, c)
	if c.sub.is(&g.sub) { // a client that may look back less far has its own
		c.sub = &g.sub
	}
	if c.out != nil {
		c.out.gaps.filter = &g.sub.Filter
	}
}

// rejoin moves the clients that are apart to the groups of the others, when the shard has taken what was published before
// they joined.
func (s *shard) rejoin() {
	s.apart = slices.DeleteFunc(s.apart, func(c *client) bool {
		if c.group == nil || !c.apart {
			return true
		}
		if !c.taken().reaches(c.joined.cursor) {
			return false
		}
		if c.takePending(); c.group != nil {
			c.apart = false
			c.changeGroup()
			c.joined = nil
		}
		return true
	})
}

// leaveGroup takes the client out of its group, so that no more messages are offered to it.
func (c *client) leaveGroup() {
	if c.group != nil {
		n := len(c.pending())
		if c.shard.cfg.coalescing > 0 { // what it makes room for may have counted as buffered
			n += len(c.shard.coming)
		}
		c.countOffered(n)
		c.countAbandoned(n)
		c.shard.takeOut(c.group, int(c.inGroup))
		c.group = nil
	}
}

// changeGroup moves the client, for which nothing is pending, to the group in which it belongs by now. The client enters
// that group before it leaves the other one: with the last group of a project, its shard forgets how far it has taken the
// project's messages.
func (c *client) changeGroup() {
	s := c.shard
	s.regrouping.Add(1)
	g, i := c.group, c.inGroup
	c.enterGroup()
	s.takeOut(g, int(i))
	s.regrouping.Add(-1)
}

// takeOut removes a client from a group.
func (s *shard) takeOut(g *group, i int) {
	g.clients = swapOut(g.clients, i, func(moved *client) {
		if moved.group == g { // and not the client itself, which is in another group by now
			moved.inGroup = int32(i)
		}
	})
	if len(g.clients) > 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unpause(g)
	delete(s.groups, g.key)
	s.everyGroup.remove(g.inAll, func(moved *group) { moved.inAll = g.inAll })
	g.ofProject.remove(g.inProject, func(moved *group) { moved.inProject = g.inProject })
	if len(g.ofProject.groups) == 0 {
		delete(s.projects, g.sub.Project)
	}
}

// swapOut removes the element at i from list, moves the last element to its place and passes that element to moved.
func swapOut[T any](list []*T, i int, moved func(*T)) []*T {
	last := len(list) - 1
	list[i] = list[last]
	moved(list[i])
	list[last] = nil
	return list[:last]
}

// wants reads fields that the shard's goroutine owns. It may do so, because that goroutine changes groups and projects
// under mu. While a client moves between two groups, or to its first one, the groups are incomplete, and wants assumes
// that every client wants the message.
func (s *shard) wants(m *message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasViewersLocked(m.project) {
		return false
	}
	if s.regrouping.Load() > 0 || m.level == "" && m.environment == "" {
		return true
	}
	a := s.audience(m.project)
	return a != nil && a.matches(m)
}

// audience returns the groups that a message to a project is matched with, or nil if there are none.
func (s *shard) audience(project string) *audience {
	if project == "" {
		return &s.everyGroup
	}
	return s.projects[project]
}
