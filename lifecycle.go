package mesherstream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// A run is the time from a start of the manager to its shutdown.
type run struct {
	stop    chan struct{}  // closed when the ticker has to end
	ended   chan struct{}  // closed when the run is over
	closing bool           // guarded by Manager.mu
	actors  sync.WaitGroup // shards
	rest    sync.WaitGroup // ticker, relay, hook queues, pollers, calls of Serve
	hooks   []*hookQueue
	relay   *relayRun // nil without a relay
}

// Shutdown stops accepting messages and clients, sends each client its buffered messages, closes it with code 1001, and
// ends every goroutine. All clients are flushed and closed at the same time. If ctx has no deadline,
// [WithShutdownTimeout] sets one. [WithApp] calls Shutdown when the app shuts down.
//
// When three quarters of the time have passed, clients that still have buffered messages are closed without them. At
// the end of the time, clients that haven't answered are cut off, and hooks that still run are abandoned. Shutdown then
// returns the error of the context.
//
// After Shutdown has begun, calls return [ErrClosed] and new clients receive 503, until the app listens again. Shutdown
// may be called before the manager has started, more than once, and concurrently: all calls wait for the same end. A
// hook must not call it.
func (m *Manager) Shutdown(ctx context.Context) error {
	if !m.isMade() {
		return ErrNotMounted
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.cfg.shutdownTimeout)
		defer cancel()
	}
	m.mu.Lock()
	m.closed.Store(true)
	r := m.current
	first := r != nil && !r.closing
	switch {
	case first:
		r.closing = true
	case r == nil:
		// So that messages published from now on are refused. Under the lock, or a start could happen in between.
		for _, s := range m.shards {
			s.close(false)
		}
	}
	m.mu.Unlock()

	switch {
	case r == nil:
		return nil
	case first:
		return m.end(ctx, r)
	}
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("mesherstream: wait for shutdown: %w", ctx.Err())
	}
}

// end is called once for each run.
func (m *Manager) end(ctx context.Context, r *run) error {
	for _, s := range m.shards {
		s.close(true)
	}
	if r.relay != nil {
		r.relay.close(ctx)
	}
	gone := closedAfter(&r.actors)

	deadline, _ := ctx.Deadline()
	flush := time.NewTimer(time.Until(deadline) / 4 * 3)
	defer flush.Stop()
	var cutOff error
	select {
	case <-gone:
	case <-ctx.Done():
	case <-flush.C:
		for _, s := range m.shards {
			s.close(false)
		}
		select {
		case <-gone:
		case <-ctx.Done():
		}
	}
	if cutOff = ctx.Err(); cutOff != nil {
		for _, s := range m.shards {
			s.cut()
		}
	}
	<-gone // a shard without clients ends by itself

	close(r.stop)
	for _, q := range r.hooks {
		q.close()
	}
	// A hook may never return. The run then ends without it.
	rest := closedAfter(&r.rest)
	select {
	case <-rest:
	default:
		select {
		case <-rest:
		case <-ctx.Done():
			cutOff = ctx.Err()
		}
	}
	m.mu.Lock()
	m.current = nil
	m.mu.Unlock()
	close(r.ended)
	if cutOff != nil {
		return fmt.Errorf("mesherstream: shutdown: %w", cutOff)
	}
	return nil
}

func closedAfter(wg *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	return done
}

// attach registers the hooks of the app. It must be called at set-up: while a shutdown holds the app's lock,
// registering a hook from within a request would block forever.
func (m *Manager) attach(app *fiber.App) {
	app.Hooks().OnListen(func(fiber.ListenData) error {
		m.listened.Store(true)
		m.start(true)
		return nil
	})
	app.Hooks().OnShutdown(func() error {
		return m.Shutdown(context.Background())
	})
	m.warnOfPrefork(app)
	m.watchMount(app)
}

func (m *Manager) warnOfPrefork(app *fiber.App) {
	// Not a sync.Once: concurrent callers would wait for it, and so for the log.
	if app.Config().Prefork && m.relaying == nil && !m.prefork.Swap(true) {
		m.cfg.logger.Warn("mesherstream: Prefork is on, and a broadcast reaches only the clients of its own process; see WithRelay")
	}
}

// start begins a run, unless one is in progress. The first client calls it too, since not every app listens by itself:
// a Prefork child doesn't run its OnListen hooks, and under an adaptor nothing listens at all. But only listening
// reopens the manager after Shutdown.
func (m *Manager) start(listening bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for listening && m.current != nil && m.current.closing {
		ended := m.current.ended
		m.mu.Unlock()
		<-ended
		m.mu.Lock()
	}
	if listening {
		m.closed.Store(false)
	}
	switch {
	case m.closed.Load():
		return ErrClosed
	case m.current != nil:
		return nil
	}
	r := &run{stop: make(chan struct{}), ended: make(chan struct{})}
	for _, s := range m.shards {
		q := newHookQueue(m.cfg.hooks, m.cfg.logger, m.hookPanicked)
		r.hooks = append(r.hooks, q)
		r.rest.Go(q.loop)
		s.start(q, r.rest.Go)
		r.actors.Go(s.loop)
	}
	if m.relaying != nil {
		r.relay = m.relaying.start(r.hooks[0].push, r.rest.Go)
		r.rest.Go(r.relay.loop)
	}
	r.rest.Go(func() { m.runTicker(r.stop) })
	// On a goroutine of its own, since the caller may be the app's Listen or the first client, and must not wait for a
	// log.
	r.rest.Go(func() { m.cfg.logger.Info("mesherstream: drain ticker started", "interval", m.cfg.drainInterval) })
	m.current = r
	return nil
}

// enter makes the run wait for a handler. The handler calls leave before it returns.
func (m *Manager) enter() (leave func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed.Load() || m.current == nil || m.current.closing {
		return nil, ErrClosed
	}
	m.current.rest.Add(1)
	return m.current.rest.Done, nil
}

// hookPanicked closes the client whose hook has panicked. The client may have left already.
func (m *Manager) hookPanicked(id ClientID) {
	m.hookPanics.Add(1)
	_ = m.Disconnect(id, wsframe.CodeInternalError, "")
}
