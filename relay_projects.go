package mesherstream

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// This file is what a node wants from the others. It subscribes to a project with the project's first client, and lets
// go of it a while after the last: what a node gets grows with what its clients watch, and not with the cluster.

const (
	// relayPatience is how long a client's first turn waits for a subscription at most. Where the relay is away or slow,
	// local streaming matters more.
	relayPatience = 2 * time.Second

	// relayLinger is how long a project without clients is still followed. It covers a page that is loaded again.
	relayLinger = 10 * time.Second

	// relayMemory is how long it is remembered at least which message of a node came last.
	relayMemory = 10 * time.Minute

	// relayNodes is how many nodes are remembered at most, and as many of before: whoever may publish could make up names.
	relayNodes = 4 << 10
)

// interests are the projects that a run follows through its relay.
type interests struct {
	// Read-only after construction.
	n      *relaying
	open   context.Context // done when the run ends
	report func(func())    // has something logged where that may take its time
	spawn  func(func())    // starts a goroutine of the run

	// Guarded by mu.
	mu        sync.Mutex
	byProject map[string]*interest
	ended     bool
	failing   bool // that a project can't be followed has been logged, and none has been since
}

// interest is one project that is followed.
type interest struct {
	// Read-only after construction.
	project string
	tried   chan struct{} // closed when the first attempt to subscribe has ended

	over atomic.Bool // it has been let go, and what still comes is not delivered

	// Guarded by interests.mu.
	joining     int       // clients that are about to be registered, and the first attempt to subscribe
	idleSince   time.Time // when it was first seen without clients, or zero
	subscribed  bool
	refused     bool // as the last attempt to subscribe has failed
	unsubscribe func()

	// Guarded by mu.
	mu           sync.Mutex
	heard, older map[string]uint64 // the last message of each node; older is what heard was before
	rotated      time.Time
}

func newInterests(n *relaying, open context.Context, report, spawn func(func())) *interests {
	return &interests{n: n, open: open, report: report, spawn: spawn, byProject: make(map[string]*interest)}
}

// count returns how many projects are followed, and how many of them the relay has refused.
func (in *interests) count() (projects, unfollowed int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, i := range in.byProject {
		if i.refused {
			unfollowed++
		}
	}
	return len(in.byProject), unfollowed
}

// follow has what other nodes publish to the project, and to all projects, delivered here. It returns when the relay has
// subscribed, or has been given relayPatience to. A client is registered after that, so that whatever tells it that its
// stream has begun is true for all nodes. The caller calls registered when it has registered the client, or failed to:
// until then the project isn't let go.
func (in *interests) follow(project string) (registered func()) {
	all := []*interest{in.join("")}
	if project != "" {
		all = append(all, in.join(project))
	}
	timeout := time.NewTimer(relayPatience)
	defer timeout.Stop()
	for _, i := range all {
		select {
		case <-i.tried:
			continue
		case <-timeout.C: // which tells it once
		case <-in.open.Done():
		}
		break
	}
	return func() { in.joined(all...) }
}

func (in *interests) joined(all ...*interest) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, i := range all {
		i.joining--
	}
}

// follow is interests.follow of the run that is on.
func (n *relaying) follow(project string) (registered func()) {
	return n.run.Load().interests.follow(project)
}

// join returns the project's interest. The first one to ask makes it, and has it subscribed, by a goroutine: where the
// relay takes its time, the client that asks first waits no longer than those behind it.
func (in *interests) join(project string) *interest {
	in.mu.Lock()
	i := in.byProject[project]
	if i != nil {
		i.joining++
		in.mu.Unlock()
		return i
	}
	i = &interest{project: project, tried: make(chan struct{}), joining: 2, rotated: time.Now()}
	if in.ended {
		in.mu.Unlock()
		close(i.tried)
		return i
	}
	in.byProject[project] = i
	in.mu.Unlock()
	in.spawn(func() {
		defer in.joined(i)
		defer close(i.tried)
		in.subscribe(i)
	})
	return i
}

// subscribe makes one attempt, which nobody else makes at the same time: the goroutine of the run leaves an interest alone
// until the first attempt has ended.
func (in *interests) subscribe(i *interest) {
	ctx, cancel := context.WithTimeout(in.open, relayPatience)
	defer cancel()
	unsubscribe, err := in.n.relay.Subscribe(ctx, i.project, func(m RelayMessage) {
		if in.open.Err() == nil { // or the subscription may outlive the run, and the next one has its own
			in.n.receive(i, m)
		}
	})

	in.mu.Lock()
	if in.ended { // meanwhile
		in.mu.Unlock()
		if err == nil {
			unsubscribe()
		}
		return
	}
	i.subscribed, i.refused, i.unsubscribe = err == nil, err != nil, unsubscribe
	report := err != nil && !in.failing
	in.failing = err != nil
	in.mu.Unlock()
	if report {
		in.report(func() {
			in.n.m.cfg.logger.Error("mesherstream: a project can't be followed on other nodes, and is tried again",
				"node", in.n.node, "project", i.project, "error", err)
		})
	}
}

// tend lets go of the projects whose last client has left a while ago, and tries again where a subscription has failed.
func (in *interests) tend() {
	now := time.Now()
	var again, gone []*interest
	in.mu.Lock()
	for project, i := range in.byProject {
		switch {
		case i.joining > 0:
			i.idleSince = time.Time{}
		case in.n.m.hasViewers(project):
			i.idleSince = time.Time{}
			if !i.subscribed {
				again = append(again, i)
			}
		case i.idleSince.IsZero():
			i.idleSince = now
		case now.Sub(i.idleSince) >= relayLinger:
			// A client that comes from now on makes a new interest, with a subscription of its own. For a moment both may
			// get the same message, and only the new one delivers it.
			i.over.Store(true)
			delete(in.byProject, project)
			gone = append(gone, i)
		}
	}
	in.mu.Unlock()
	for _, i := range gone {
		i.end()
	}
	for _, i := range again {
		in.subscribe(i)
		if in.isFailing() {
			break // the others wait as well, and the queue for the relay first
		}
	}
}

func (in *interests) isFailing() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.failing
}

// endAll ends every subscription, now or, where one is being made, as soon as it is.
func (in *interests) endAll() {
	in.mu.Lock()
	in.ended = true
	all := in.byProject
	in.byProject = nil
	in.mu.Unlock()
	for _, i := range all {
		i.over.Store(true)
		i.end()
	}
}

func (i *interest) end() {
	if i.subscribed {
		i.unsubscribe()
	}
}

// receive delivers a message of another node to the clients of this one, and to nobody else: it is not relayed again.
func (n *relaying) receive(i *interest, msg RelayMessage) {
	switch {
	case msg.Node == n.node || i.over.Load():
	case checkField("Node", msg.Node, maxNodeBytes) != nil || msg.checkFields() != nil:
		n.rejected.Add(1) // also if no filter here could want it
	case !n.m.wants(i.project, msg.Level, msg.Environment):
		n.unwanted.Add(1)
	case !i.advance(msg.Node, msg.Seq) || n.m.check(msg.Data, msg.Binary) != nil:
		n.rejected.Add(1)
	default:
		msg.Project = i.project // what was subscribed to decides who gets it, not what the message says
		if _, err := n.m.deliver(&msg.Message); err == nil {
			n.received.Add(1)
		}
	}
}

// follows says whether any client follows the project.
func (m *Manager) hasViewers(project string) bool {
	for _, s := range m.shards {
		if s.hasViewers(project) {
			return true
		}
	}
	return false
}

// wants says whether a message of that project, level and environment may be for a client of this manager.
func (m *Manager) wants(project, level, environment string) bool {
	msg := message{project: project, level: level, environment: environment}
	for _, s := range m.shards {
		if s.wants(&msg) {
			return true
		}
	}
	return false
}

// advance returns false if a message of that node came before that is the same or newer: a relay may deliver twice, and
// where a node changes the server it talks to, what it sent over the old one may come late. A node that names itself
// "" doesn't number its messages.
func (i *interest) advance(node string, seq uint64) bool {
	if node == "" {
		return true
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	last, ok := i.heard[node]
	if !ok {
		last = i.older[node]
		// A name is forgotten when it has been silent long enough, or those of all processes that ever were would stay.
		if now := time.Now(); i.heard == nil || now.Sub(i.rotated) >= relayMemory || len(i.heard) >= relayNodes {
			i.older, i.heard, i.rotated = i.heard, make(map[string]uint64), now
		}
	}
	if seq <= last {
		return false
	}
	i.heard[strings.Clone(node)] = seq // which the relay may use again
	return true
}
