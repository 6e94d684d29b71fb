package browser

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// firefox is the one Firefox of all tests. It shows testdata/frames.html, which asks for the pages to open.
var firefox struct {
	start    sync.Once
	path     string
	commands chan frameCommand
	ended    chan struct{}
	err      error
	stop     func()
	output   bytes.Buffer
	lastID   int
	mu       sync.Mutex // guards lastID
}

// A frameCommand opens a page in a frame, or closes the frame if there is no URL.
type frameCommand struct {
	ID  string `json:"id"`
	URL string `json:"url"`
}

// firefoxSettings keep it from whatever it does by itself.
const firefoxSettings = `
user_pref("app.normandy.enabled", false);
user_pref("app.update.disabledForTesting", true);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("browser.safebrowsing.update.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.startup.homepage_override.mstone", "ignore");
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("dom.allow_scripts_to_close_windows", true);
user_pref("dom.security.https_first", false);
user_pref("extensions.update.enabled", false);
user_pref("media.gmp-manager.updateEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.proxy.type", 0);
user_pref("network.trr.mode", 5);
user_pref("services.settings.server", "data:,");
user_pref("toolkit.telemetry.enabled", false);
`

func startFirefox() {
	for _, name := range []string{"firefox-esr", "firefox"} {
		if firefox.path, firefox.err = exec.LookPath(name); firefox.err == nil {
			break
		}
	}
	if firefox.err != nil {
		return
	}
	firefox.err = func() error {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		firefox.commands, firefox.ended = make(chan frameCommand), make(chan struct{})
		mux := http.NewServeMux()
		mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/frames.html") })
		mux.HandleFunc("GET /next", func(w http.ResponseWriter, r *http.Request) {
			var command frameCommand // none, after a while
			select {
			case command = <-firefox.commands:
			case <-time.After(5 * time.Second):
			case <-r.Context().Done():
			}
			_ = json.NewEncoder(w).Encode(command)
		})
		server := &http.Server{Handler: mux}
		go func() { _ = server.Serve(ln) }()
		profile, err := os.MkdirTemp("", "firefox-")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(firefoxSettings), 0o600); err != nil {
			return err
		}
		cmd := exec.Command(firefox.path, "--headless", "--no-remote", "--profile", profile, "http://"+ln.Addr().String()+"/")
		cmd.Env = append(os.Environ(), "HOME="+profile, "MOZ_CRASHREPORTER_DISABLE=1", "DBUS_SESSION_BUS_ADDRESS=")
		cmd.Stdout, cmd.Stderr = &firefox.output, &firefox.output
		kill := groupOf(cmd)
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() {
			_ = cmd.Wait()
			close(firefox.ended)
		}()
		firefox.stop = func() {
			kill()
			<-firefox.ended
			_ = server.Close()
			_ = os.RemoveAll(profile)
		}
		return nil
	}()
}

func needFirefox(t *testing.T) {
	t.Helper()
	firefox.start.Do(startFirefox)
	if firefox.path == "" {
		t.Skip("needs Firefox: apt-get install firefox-esr")
	}
	if firefox.err != nil {
		t.Fatalf("Firefox doesn't start: %v", firefox.err)
	}
}

// openInFirefox opens a page, which is closed when the test ends.
func openInFirefox(t *testing.T, url string) {
	t.Helper()
	needFirefox(t)
	firefox.mu.Lock()
	firefox.lastID++
	id := fmt.Sprintf("page%d", firefox.lastID)
	firefox.mu.Unlock()
	send := func(command frameCommand) {
		t.Helper()
		select {
		case firefox.commands <- command:
		case <-firefox.ended:
			t.Fatalf("Firefox has ended: %s", &firefox.output)
		case <-time.After(patience):
			t.Fatal("Firefox asks for no page")
		}
	}
	send(frameCommand{id, url})
	t.Cleanup(func() { send(frameCommand{ID: id}) })
}
