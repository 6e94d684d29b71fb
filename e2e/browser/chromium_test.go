package browser

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
)

// patience is how long a test waits for what must come. It is long, since other programs may need the machine.
const patience = 3 * time.Minute

// chromium is the one browser of all tests.
var chromium struct {
	start sync.Once
	ctx   context.Context
	stop  func()
	err   error
}

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "6") // those that run in parallel wait more than they work
	code := m.Run()
	if chromium.stop != nil {
		chromium.stop()
	}
	if firefox.stop != nil {
		firefox.stop()
	}
	if exampleBuilt != "" {
		_ = os.RemoveAll(exampleBuilt)
	}
	os.Exit(code)
}

func startChromium() {
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, chromium.err = exec.LookPath(name); chromium.err == nil {
			break
		}
	}
	if chromium.err != nil {
		return
	}
	// The default options are headless, with an empty profile that is removed, and without background networking.
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // which root can't have
	)
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(allocator)
	chromium.ctx = ctx
	chromium.stop = func() {
		_ = chromedp.Cancel(ctx)
		stop()
		stopAllocator()
	}
	chromium.err = chromedp.Do(ctx)
}

// tab is one page in the browser.
type tab struct {
	*testing.T
	ctx context.Context
}

// needChromium skips a test that can't have a browser, before it starts anything that would have to end.
func needChromium(t *testing.T) {
	t.Helper()
	chromium.start.Do(startChromium)
	if chromium.ctx == nil {
		t.Skip("needs Chromium: apt-get install chromium")
	}
	if chromium.err != nil {
		t.Fatalf("Chromium doesn't start: %v", chromium.err)
	}
}

// open opens url in a tab of its own, which ends with the test.
func open(t *testing.T, url string) *tab {
	t.Helper()
	needChromium(t)
	tb := newTab(t, chromium.ctx)
	tb.run(chromedp.Navigate(url))
	return tb
}

func newTab(t *testing.T, parent context.Context, opts ...chromedp.ContextOption) *tab {
	t.Helper()
	ctx, stop := chromedp.NewContext(parent, opts...)
	t.Cleanup(stop)
	// A tab lives as long as the first context that it is used with, so that is one without a deadline.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("no tab: %v", err)
	}
	return &tab{T: t, ctx: ctx}
}

func (tb *tab) run(action chromedp.Action[chromedp.Void]) {
	tb.Helper()
	value(tb, action)
}

func value[T any](tb *tab, action chromedp.Action[T]) T {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.ctx, patience)
	defer stop()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		tb.Fatalf("in the tab: %v", err)
	}
	return v
}

// eval runs a program of the page and returns its value, waiting for it if it is a promise.
func eval[T any](tb *tab, program string) T {
	tb.Helper()
	return value(tb, chromedp.Evaluate[T](program, chromedp.EvalAwaitPromise))
}

// do runs statements of the page.
func (tb *tab) do(program string) {
	tb.Helper()
	eval[chromedp.Void](tb, "(async () => {"+program+"})()")
}

// call sends a command of the DevTools protocol.
func call[P, R any](tb *tab, command cdp.Command[P, R], params P) {
	tb.Helper()
	if _, err := chromedp.Call(tb.ctx, command, params); err != nil {
		tb.Fatalf("%s: %v", command.Method, err)
	}
}
