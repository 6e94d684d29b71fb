package streamtest

import (
	"net"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
)

// A Reporter receives the faults that Serve reports. A *testing.T is one.
type Reporter interface {
	Helper()
	Errorf(format string, args ...any)
}

// Serve makes app listen on ln, and returns once it listens. stop shuts the app down and returns after app.Listener has
// returned. Further calls of stop do nothing.
func Serve(tb Reporter, app *fiber.App, ln net.Listener) (stop func()) {
	tb.Helper()
	listening := make(chan struct{})
	told := sync.OnceFunc(func() { close(listening) })
	app.Hooks().OnListen(func(fiber.ListenData) error { told(); return nil })
	served := make(chan error, 1)
	go func() { served <- app.Listener(ln) }()
	<-listening // an app that is shut down earlier would start its manager afterwards
	return sync.OnceFunc(func() {
		tb.Helper()
		if err := app.ShutdownWithTimeout(10 * time.Second); err != nil {
			tb.Errorf("app.Shutdown: %v", err)
		}
		_ = ln.Close() // fasthttp forgets a shutdown that happens before it has the listener
		if err := <-served; err != nil {
			tb.Errorf("app.Listener: %v", err)
		}
	})
}
