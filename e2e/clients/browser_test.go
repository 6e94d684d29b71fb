package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// A browser is a Chromium that shows testdata/page.html, which fetches plans and posts reports.
type browser struct {
	origin string // of the page
	plans  chan plan
	mail   mailbox
	stop   func()
}

var chromium = &driver{
	name:     "chromium",
	noPing:   true,
	noVanish: true, // not by itself: see TestABrowserThatIsKilledShows1006
	refuses:  func(code int) bool { return code != 1000 && code != noCode && code < 3000 },
	missing: func() string {
		if _, err := exec.LookPath("chromium"); err != nil {
			return "needs Chromium: apt-get install chromium"
		}
		return ""
	},
	run: func(ctx context.Context, p plan) report {
		b, err := sharedBrowser()
		if err != nil {
			return report{Error: err.Error()}
		}
		return b.run(ctx, p)
	},
}

var sharedBrowser = sync.OnceValues(func() (*browser, error) {
	b, err := launchBrowser()
	if err == nil {
		atEnd(b.stop)
	}
	return b, err
})

func launchBrowser() (*browser, error) {
	b := &browser{plans: make(chan plan)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/page.html") })
	mux.HandleFunc("GET /plan", b.servePlan)
	mux.HandleFunc("POST /report", b.serveReport)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(ln) }()
	b.origin = "http://" + ln.Addr().String()

	profile, err := os.MkdirTemp("", "clients-chromium-")
	if err != nil {
		return nil, err
	}
	var output bytes.Buffer
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--user-data-dir="+profile, "--no-first-run", "--no-default-browser-check", "--disable-background-networking",
		"--disable-component-update", "--disable-default-apps", "--disable-sync", "--disable-extensions",
		"--no-proxy-server", "--ignore-certificate-errors", "--remote-debugging-pipe", b.origin+"/")
	cmd.Stdout, cmd.Stderr = &output, &output
	// The pipe for commands is never used. But a browser that has one ends when it is closed, so that none outlives tests
	// that were cut short.
	commands, toBrowser, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	fromBrowser, answers, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{commands, answers} // its descriptors 3 and 4
	kill := groupOf(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_, _ = commands.Close(), answers.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
		b.mail.shut(&browserError{output.String()})
	}()
	b.stop = sync.OnceFunc(func() {
		kill()
		<-ended
		_, _, _ = server.Close(), toBrowser.Close(), fromBrowser.Close()
		_ = os.RemoveAll(profile)
	})
	return b, nil
}

type browserError struct{ output string }

func (e *browserError) Error() string { return "chromium has ended: " + e.output }

// servePlan gives the page the next plan, or tells it after a while to ask again.
func (b *browser) servePlan(w http.ResponseWriter, r *http.Request) {
	select {
	case p := <-b.plans:
		_ = json.NewEncoder(w).Encode(p)
	case <-time.After(10 * time.Second):
		w.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
	}
}

func (b *browser) serveReport(w http.ResponseWriter, r *http.Request) {
	var seen report
	if err := json.NewDecoder(r.Body).Decode(&seen); err != nil {
		b.mail.shut(err)
	}
	b.mail.deliver(seen)
}

func (b *browser) run(ctx context.Context, p plan) report {
	id, arrives := b.mail.expect()
	p.ID = id
	select {
	case b.plans <- p:
	case r := <-arrives: // the browser has ended
		return r
	case <-ctx.Done():
		return report{Error: "chromium asks for no plan: " + ctx.Err().Error()}
	}
	select {
	case r := <-arrives:
		return r
	case <-ctx.Done():
		return report{Error: "chromium: no report: " + ctx.Err().Error()}
	}
}

// overBoth opens a stream over each transport in a browser of its own.
func overBoth(t *testing.T, vanish bool) (b *browser, worlds []*world) {
	t.Helper()
	chromium.skipIfMissing(t)
	b, err := launchBrowser()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.stop)
	for _, tr := range transports {
		w := start(t, tr)
		p := w.plan("page")
		p.After, p.Vanish = 1, vanish
		go b.run(t.Context(), p)
		w.joined(t, "page")
		worlds = append(worlds, w)
	}
	return b, worlds
}

func TestAPageThatIsLeftShows1001(t *testing.T) {
	_, worlds := overBoth(t, true)
	if err := worlds[0].m.Broadcast(mesherstream.Message{Project: "page", Data: []byte("go")}); err != nil {
		t.Fatal(err)
	}
	for _, w := range worlds {
		w.leaves(t, "page", closing{Code: 1001})
	}
}

func TestABrowserThatIsKilledShows1006(t *testing.T) {
	b, worlds := overBoth(t, false)
	b.stop()
	for _, w := range worlds {
		w.leaves(t, "page", closing{Code: 1006})
	}
}
