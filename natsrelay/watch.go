package natsrelay

import (
	"errors"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/nats-io/nats.go"
)

// This file observes the refusals of NATS, which it reports only to the error handler of a connection. All relays of a
// connection share one watch. It also calls the handler that the application has set, before or since.

// watches maps a connection to its watch, and keeps neither in memory.
var watches struct {
	mu     sync.Mutex
	byConn map[weak.Pointer[nats.Conn]]weak.Pointer[watch]
}

type watch struct {
	installing sync.Mutex  // held while the connection's handler is read or set
	handling   atomic.Bool // a link is handling an error and passing it on

	// Guarded by mu.
	mu        sync.Mutex
	relays    []*Relay
	last      error // the newest refusal that has been heard
	listeners map[*listener]struct{}
}

// link is a handler in the chain of a connection's handlers.
type link struct {
	w    *watch
	next nats.ErrHandler // nil if there was none
}

// listener collects the refusals that are heard while it listens.
type listener struct {
	before error
	heard  []error
	more   chan struct{} // holds a token when another one has been heard
}

// watchOf returns the watch of conn, and registers r with it.
func watchOf(conn *nats.Conn, r *Relay) *watch {
	watches.mu.Lock()
	defer watches.mu.Unlock()
	key := weak.Make(conn)
	w := watches.byConn[key].Value()
	if w == nil {
		w = &watch{listeners: make(map[*listener]struct{})}
		if watches.byConn == nil {
			watches.byConn = make(map[weak.Pointer[nats.Conn]]weak.Pointer[watch])
		}
		watches.byConn[key] = weak.Make(w)
		runtime.AddCleanup(w, forget, key)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.relays = append(w.relays, r)
	return w
}

func forget(key weak.Pointer[nats.Conn]) {
	watches.mu.Lock()
	defer watches.mu.Unlock()
	if watches.byConn[key].Value() == nil {
		delete(watches.byConn, key)
	}
}

// install replaces the connection's handler by a link that calls it, unless the handler already is a link. An
// application that sets its handler after New removes the link. The next install adds a new one, which calls that
// handler.
func (w *watch) install(conn *nats.Conn) {
	w.installing.Lock()
	defer w.installing.Unlock()
	next := conn.ErrorHandler()
	// Functions can't be compared, but all of our handlers have the same code.
	if next == nil || reflect.ValueOf(next).Pointer() != reflect.ValueOf(new(link).handle).Pointer() {
		conn.SetErrorHandler((&link{w, next}).handle)
	}
}

// handle runs on the goroutine for the connection's callbacks. The application may have set a handler that calls an
// older link. An error that reaches that link has been heard already.
func (l *link) handle(conn *nats.Conn, sub *nats.Subscription, err error) {
	if l.w.handling.CompareAndSwap(false, true) {
		defer l.w.handling.Store(false)
		l.w.hear(err)
	}
	if l.next != nil {
		l.next(conn, sub, err)
	}
}

func (w *watch) hear(err error) {
	if !isRefusal(err) {
		return
	}
	w.mu.Lock()
	relays := slices.Clone(w.relays)
	w.mu.Unlock()
	if subject, ok := refusedSubject(err, "Publish to "); ok {
		// One message is refused. It belongs to one relay, or to the application if no relay has published to the
		// subject.
		_ = slices.ContainsFunc(relays, func(r *Relay) bool { return r.pending.refuse(subject, err) })
	} else if subject, ok := refusedSubject(err, "Subscription to "); ok || errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
		for _, r := range relays {
			r.refuse(subject, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = err
	for l := range w.listeners {
		l.heard = append(l.heard, err)
		select {
		case l.more <- struct{}{}:
		default:
		}
	}
}

// isRefusal reports whether err is a refusal, which leaves the connection open. Refusals are pointers, so they can be
// compared, and each permissions violation is a different pointer.
func isRefusal(err error) bool {
	return errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, nats.ErrMaxSubscriptionsExceeded)
}

// refusedSubject returns the subject after what in a violation such as: Permissions Violation for Publish to "shop".
// Our subjects contain no character that would be escaped.
func refusedSubject(err error, what string) (subject string, ok bool) {
	_, rest, ok := strings.Cut(err.Error(), what+`"`)
	if !ok {
		return "", false
	}
	subject, _, ok = strings.Cut(rest, `"`)
	return subject, ok
}

func (w *watch) listen() *listener {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &listener{before: w.last, more: make(chan struct{}, 1)}
	w.listeners[l] = struct{}{}
	return l
}

func (w *watch) ignore(l *listener) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.listeners, l)
}

// knows reports whether err has been heard: since l began to listen if again is set, or at any time otherwise.
func (w *watch) knows(l *listener, err error, again bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(l.heard, err) || !again && err == l.before
}
