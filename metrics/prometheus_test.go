package metrics_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// need skips a test whose program is missing. Both come with Debian's package prometheus.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("needs %s: apt-get install prometheus", program)
	}
}

func TestTheAlertsFireWhenTheyShould(t *testing.T) {
	need(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func TestPromtoolFindsNothingWrongWithTheMetrics(t *testing.T) {
	need(t, "promtool")
	_, addr := startApp(t)
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape(t, addr))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// A dashboard with a query for a missing metric shows nothing, without an error.
func TestEveryQueryOfTheDashboardHasAnAnswer(t *testing.T) {
	need(t, "prometheus")
	raw, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct{ List []struct{ Definition string } }
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil || len(dashboard.Panels) < 10 {
		t.Fatalf("dashboard.json: %d panels, %v", len(dashboard.Panels), err)
	}

	m, addr := startApp(t, mesherstream.WithRelay(away{}), mesherstream.WithMaxBuffer(10), mesherstream.WithDrainInterval(10*time.Millisecond))
	watch(t, m, addr, true)
	watch(t, m, addr, false) // it reads nothing, so that there are drops and drains
	read, acknowledge := watchWithProtocol(t, addr)
	go func() {
		for n := 2; read() == nil && acknowledge(n) == nil; n++ { // until the end of the test
		}
	}()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for data := make([]byte, 16<<10); ; time.Sleep(time.Millisecond) {
			select {
			case <-stop:
				return
			default:
				clear(data)
				_ = m.Broadcast(mesherstream.Message{Project: "shop", Data: data})
			}
		}
	}()
	base := startPrometheus(t, addr)

	replace := strings.NewReplacer("$job", ".*", "$instance", ".+", "$__rate_interval", "5s")
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			expr := replace.Replace(target.Expr)
			var last string
			eventually(t, fmt.Sprintf("an answer for %q: %s: %s", panel.Title, expr, last), func() bool {
				var n int
				n, last = query(t, base, expr)
				return n > 0
			})
			if n, text := query(t, base, expr); strings.Contains(text, `"NaN"`) {
				t.Errorf("%q: %s: got %d series with NaN: %s", panel.Title, expr, n, text)
			}
		}
	}
	for _, v := range dashboard.Templating.List {
		if v.Definition != "" && !strings.HasPrefix(v.Definition, "label_values(mesherstream_clients") {
			t.Errorf("variable %q: want one over a metric that is there", v.Definition)
		}
	}
	eventually(t, "the alert that the relay is away is pending", func() bool {
		n, _ := query(t, base, `ALERTS{alertname="MesherstreamRelayAway"}`)
		return n == 1
	})
}

// startPrometheus runs a Prometheus with the alerts, which scrapes addr each second, and returns its URL.
func startPrometheus(t *testing.T, addr string) string {
	t.Helper()
	rules, err := filepath.Abs("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs: [{job_name: app, static_configs: [{targets: [%q]}]}]
`, rules, addr)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	listen := "127.0.0.1:" + streamtest.FreePort(t)
	logs, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prometheus", "--config.file", filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", listen)
	cmd.Stdout, cmd.Stderr = logs, logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = logs.Close()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("prometheus:\n%s", text)
		}
	})
	eventually(t, "Prometheus is ready", func() bool {
		resp, err := http.Get("http://" + listen + "/-/ready")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return "http://" + listen
}

// query returns the number of series in the answer, and the answer.
func query(t *testing.T, base, expr string) (series int, text string) {
	t.Helper()
	resp, err := http.Get(base + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("query %s: %v, %v\n%s", expr, resp.Status, err, raw)
	}
	var answer struct {
		Data struct{ Result []json.RawMessage }
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatal(err)
	}
	return len(answer.Data.Result), string(raw)
}
