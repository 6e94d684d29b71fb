package mesherstream

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// This file decides which messages a node receives from the others. A node subscribes to a project with the project's
// first client, and unsubscribes some time after the last one has left. The messages that it receives therefore grow
// with the projects that its clients watch, and not with the cluster.

const (
	// relayPatience bounds how long the first client of a project waits for a subscription. If the relay is away or
	// slow, local streaming matters more.
	relayPatience = 2 * time.Second

	// relayLinger is how long a project without clients is still followed. It covers a page reload.
	relayLinger = 10 * time.Second

	// relayMemory is how long, at least, the number of a node's last message is remembered.
	relayMemory = 10 * time.Minute

	// relayNodes is how many nodes are remembered at most, plus as many from the time before: any publisher could make
	// up names.
	relayNodes = 4 << 10
)

// interests are the projects that a run follows through its relay.
type interests struct {
	// Read-only after construction.
	n      *relaying
	open   context.Context // done when the run ends
	report func(func())    // logs something that may take its time
	spawn  func(func())    // starts a goroutine of the run

	// Guarded by mu.
	mu        sync.Mutex
	byProject map[string]*interest
	ended     bool
	failing   bool // it has been logged that a project can't be followed, and no subscription has succeeded since
}

// interest is one followed project.
type interest struct {
	// Read-only after construction.
	project string
	tried   chan struct{} // closed when the first attempt to subscribe has ended

	over atomic.Bool // it has ended, and messages that still arrive are not delivered

	// Guarded by interests.mu.
	joining     int       // clients about to be registered, and the first attempt to subscribe
	idleSince   time.Time // when it was first found without clients, or zero
	subscribed  bool
	refused     bool // the last attempt to subscribe has failed
	unsubscribe func()

	// Guarded by mu.
	mu           sync.Mutex
	heard, older map[string]uint64 // the last message of each node; older is the previous heard
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

// follow arranges for messages that other nodes publish to the project, and to all projects, to be delivered here. It
// returns once the relay has subscribed, or after relayPatience. A client is registered after that, so that a message
// which tells it that its stream has begun is true for all nodes. The caller calls registered when it has registered
// the client or failed to. Until then the project isn't unsubscribed from.
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
		case <-timeout.C: // the channel yields only once
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

// follow calls interests.follow of the current run.
func (n *relaying) follow(project string) (registered func()) {
	return n.run.Load().interests.follow(project)
}

// join returns the project's interest. The first caller creates it, and a goroutine subscribes to it. If the relay is
// slow, the first client therefore waits no longer than later ones.
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

// subscribe makes one attempt. No other attempt for the same interest runs at the same time: the goroutine of the run
// leaves an interest alone until the first attempt has ended.
func (in *interests) subscribe(i *interest) {
	ctx, cancel := context.WithTimeout(in.open, relayPatience)
	defer cancel()
	unsubscribe, err := in.n.relay.Subscribe(ctx, i.project, func(m RelayMessage) {
		if in.open.Err() == nil { // the subscription may outlive the run, and the next run has its own
			in.n.receive(i, m)
		}
	})

	in.mu.Lock()
	if in.ended { // in the meantime
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
			in.n.m.cfg.logger.Error("mesherstream: a project can't be followed on other nodes; the subscription is tried again",
				"node", in.n.node, "project", i.project, "error", err)
		})
	}
}

// tend ends projects whose last client left a while ago, and retries subscriptions that have failed.
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
			// A client that arrives from now on creates a new interest, with a subscription of its own. For a moment
			// both may receive the same message, and only the new one delivers it.
			i.over.Store(true)
			in.n.m.history.breakOff(project)
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
			break // the others would wait as long, and the relay's queue comes first
		}
	}
}

func (in *interests) isFailing() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.failing
}

// endAll ends every subscription. If one is still being made, it ends as soon as it has been.
func (in *interests) endAll() {
	in.mu.Lock()
	in.ended = true
	all := in.byProject
	in.byProject = nil
	in.mu.Unlock()
	for _, i := range all {
		i.over.Store(true)
		in.n.m.history.breakOff(i.project)
		i.end()
	}
}

func (i *interest) end() {
	if i.subscribed {
		i.unsubscribe()
	}
}

// receive delivers a message of another node to the clients of this node. It does not relay the message again.
func (n *relaying) receive(i *interest, msg RelayMessage) {
	switch {
	case msg.Node == n.node || i.over.Load():
	case checkField("Node", msg.Node, maxNodeBytes) != nil || msg.checkFields() != nil:
		n.rejected.Add(1) // even if no filter here could match it
	case !i.advance(msg.Node, msg.Seq) || n.m.check(msg.Data, msg.Binary) != nil:
		n.rejected.Add(1)
	default:
		msg.Project = i.project // the subscription decides which clients receive the message, not the message itself
		switch wanted, err := n.m.publishRelayed(&msg.Message); {
		case !wanted:
			n.unwanted.Add(1)
		case err == nil:
			n.received.Add(1)
		}
	}
}

// hasViewers reports whether any client follows the project.
func (m *Manager) hasViewers(project string) bool {
	for _, s := range m.shards {
		if s.hasViewers(project) {
			return true
		}
	}
	return false
}

// wants reports whether a message of that project, level and environment may be for a client of this manager.
func (m *Manager) wants(project, level, environment string) bool {
	msg := message{project: project, level: level, environment: environment}
	for _, s := range m.shards {
		if s.wants(&msg) {
			return true
		}
	}
	return false
}

// advance returns false if that message of that node, or a newer one, arrived before. A relay may deliver twice. And if
// a node changes the server that it is connected to, messages sent over the old connection may arrive late. A node
// named "" doesn't number its messages.
func (i *interest) advance(node string, seq uint64) bool {
	if node == "" {
		return true
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	last, ok := i.heard[node]
	if !ok {
		last = i.older[node]
		// A name that has been silent long enough is forgotten. Otherwise the names of all processes that ever existed
		// would be kept.
		if now := time.Now(); i.heard == nil || now.Sub(i.rotated) >= relayMemory || len(i.heard) >= relayNodes {
			i.older, i.heard, i.rotated = i.heard, make(map[string]uint64), now
		}
	}
	if seq <= last {
		return false
	}
	i.heard[strings.Clone(node)] = seq // the relay may reuse the string's bytes
	return true
}
