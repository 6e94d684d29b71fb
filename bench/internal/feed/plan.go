package feed

import "strconv"

var (
	levels       = [...]string{"debug", "info", "warning", "error"}
	environments = [...]string{"production", "staging", "development"}
)

// blocksPerCycle is how many blocks it takes to have every level with every environment once.
const blocksPerCycle = uint64(len(levels) * len(environments))

// Plan fixes which message goes where. Messages are numbered from 1. Number n goes to project n mod Projects; n / Projects is its block,
// and all messages of a block share level and environment. So every project gets every combination equally often, and how many of the
// first n messages a client must have seen is a short calculation instead of a list.
type Plan struct {
	Projects int  // at least 1
	Filtered bool // whether clients narrow by level and environment
}

// Audience is one client's part of a plan. Negative levels and environments accept all.
type Audience struct {
	plan               Plan
	project            uint64
	level, environment int
	perCycle           uint64                     // blocks of a cycle that match
	before             [blocksPerCycle + 1]uint16 // before[i]: how many of a cycle's first i blocks match
}

// Audience returns what client i wants. Clients are dealt over the projects; where filters are on, of every ten clients of a project
// three want everything, four want one level each and three one environment each: five of the ten want any one message.
func (p Plan) Audience(i int) Audience {
	a := Audience{plan: p, project: uint64(i % p.Projects), level: -1, environment: -1}
	if p.Filtered {
		switch j := i / p.Projects % 10; {
		case j >= 7:
			a.environment = j - 7
		case j >= 3:
			a.level = j - 3
		}
	}
	for b := range blocksPerCycle {
		a.before[b+1] = a.before[b]
		if a.wantsBlock(b) {
			a.before[b+1]++
		}
	}
	a.perCycle = uint64(a.before[blocksPerCycle])
	return a
}

// Subscription returns the audience in the words of the wire.
func (a *Audience) Subscription() Subscription {
	s := Subscription{Project: projectName(a.project)}
	if a.level >= 0 {
		s.Level = levels[a.level]
	}
	if a.environment >= 0 {
		s.Environment = environments[a.environment]
	}
	return s
}

// Wants reports whether message n is for this client.
func (a *Audience) Wants(n uint64) bool {
	projects := uint64(a.plan.Projects)
	return n%projects == a.project && a.wantsBlock(n/projects%blocksPerCycle)
}

// Rank returns how many of the messages up to and including n are for this client. Two messages that follow each other in its stream
// have ranks one apart.
func (a *Audience) Rank(n uint64) uint64 {
	projects := uint64(a.plan.Projects)
	if n < a.project {
		return 0
	}
	blocks := (n-a.project)/projects + 1
	return blocks/blocksPerCycle*a.perCycle + uint64(a.before[blocks%blocksPerCycle])
}

func (a *Audience) wantsBlock(b uint64) bool {
	level, environment := blockKeys(b)
	return (a.level < 0 || a.level == level) && (a.environment < 0 || a.environment == environment)
}

func blockKeys(b uint64) (level, environment int) {
	return int(b % uint64(len(levels))), int(b / uint64(len(levels)) % uint64(len(environments)))
}

func projectName(i uint64) string { return "p" + strconv.FormatUint(i, 10) }

// Author makes the events of a plan, without allocating for each.
type Author struct {
	plan     Plan
	projects []string
	data     []byte
}

// NewAuthor returns the author of a plan's messages, each of size bytes (at least [MinSize]).
func NewAuthor(p Plan, size int) *Author {
	a := &Author{plan: p, data: newMessage(size)}
	for i := range p.Projects {
		a.projects = append(a.projects, projectName(uint64(i)))
	}
	return a
}

// Event returns message n, stamped with nanos. Its data is valid until the next call.
func (a *Author) Event(n uint64, nanos int64) Event {
	putStamp(a.data, n, nanos)
	projects := uint64(a.plan.Projects)
	level, environment := blockKeys(n / projects % blocksPerCycle)
	return Event{Project: a.projects[n%projects], Level: levels[level], Environment: environments[environment], Data: a.data}
}
