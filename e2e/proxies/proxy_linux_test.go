package proxies

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mesher/mesherstream/internal/streamtest"
)

// A proxy is one of the programs, and how it is run here: in the foreground, by whoever runs the test, on a port of the
// loopback interface, with all its files in a folder of the test.
type proxy struct {
	name    string
	program string
	debian  string // the package
	config  string // the file in testdata, which docs/scaling.md shows

	// adapt has what stands in the configuration, each exactly once, and what stands there in the test. Values are
	// expanded by place.expand.
	adapt []string
	// bound is the line, or the part of one, that bounds what waits in the proxy; "" where it has none.
	bound string
	// timeout is what says 60 seconds, and brief what says 2.
	timeout, brief string
	// compression is like adapt, and makes the proxy compress all that it may, as docs/scaling.md says.
	compression []string
	// around goes around the configuration, which takes the place of CONFIG: what a distribution has in its own files.
	around string
	// command starts it.
	command func(p place) []string
	// reload makes it read its configuration again.
	reload     func(t *testing.T, r *running)
	reloaded   int   // the code by which a reload ends the streams that are open; 0 where they stay open
	terminated []int // the codes by which SIGTERM may
}

// place is where one run of a proxy happens.
type place struct {
	dir  string
	port string // which it listens on
	app  string // the address of the app
}

func (p place) file(name string) string { return filepath.Join(p.dir, name) }

func (p place) expand(s string) string {
	return strings.NewReplacer("DIR", p.dir, "PORT", p.port, "APP", p.app).Replace(s)
}

var proxies = []*proxy{
	{
		name: "nginx", program: "nginx", debian: "nginx", config: "nginx.conf",
		adapt: []string{
			"listen 443", "listen 127.0.0.1:PORT",
			"127.0.0.1:3000", "APP",
			"/etc/ssl/app.crt", "DIR/app.crt",
			"/etc/ssl/app.key", "DIR/app.key",
		},
		bound:   " sndbuf=32k",
		timeout: "proxy_read_timeout 60s", brief: "proxy_read_timeout 2s",
		compression: []string{"location / {", "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 0; location / {"},
		around: nginxUser() + `
daemon off;
pid DIR/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
CONFIG
}
`,
		command: func(p place) []string { return []string{"-e", "stderr", "-p", p.dir, "-c", p.file("config")} },
		reload:  func(t *testing.T, r *running) { r.signal(t, syscall.SIGHUP) }, terminated: []int{1006},
	},
	{
		name: "HAProxy", program: "haproxy", debian: "haproxy", config: "haproxy.cfg",
		adapt: []string{
			"bind :443", "bind 127.0.0.1:PORT",
			"127.0.0.1:3000", "APP",
			"/etc/ssl/app.pem", "DIR/app.pem",
		},
		bound:   "\ttune.sndbuf.client 32768\n",
		timeout: "timeout tunnel  60s", brief: "timeout tunnel 2s",
		compression: []string{"balance leastconn", "balance leastconn\n\tcompression algo gzip\n\tcompression type text/event-stream application/x-ndjson"},
		around:      "CONFIG",
		command:     func(p place) []string { return []string{"-W", "-db", "-f", p.file("config")} },
		reload:      func(t *testing.T, r *running) { r.signal(t, syscall.SIGUSR2) }, terminated: []int{1006},
	},
	{
		name: "Caddy", program: "caddy", debian: "caddy", config: "Caddyfile",
		adapt: []string{
			"app.example.com {", "https://app.example.com:PORT {",
			"127.0.0.1:3000", "APP",
			"/etc/ssl/app.crt", "DIR/app.crt",
			"/etc/ssl/app.key", "DIR/app.key",
		},
		compression: []string{"reverse_proxy", "@others not path /stream/*\n\tencode @others gzip\n\treverse_proxy"},
		around: `{
	admin unix/DIR/admin
	storage file_system DIR/storage
	default_bind 127.0.0.1
	auto_https disable_redirects
}
CONFIG`,
		command: func(p place) []string { return []string{"run", "--adapter", "caddyfile", "--config", p.file("config")} },
		reload: func(t *testing.T, r *running) {
			cmd := exec.Command("caddy", "reload", "--force", "--adapter", "caddyfile", "--config", r.file("config"), "--address", "unix/"+r.file("admin"))
			cmd.Env = r.cmd.Env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("caddy reload: %v\n%s", err, out)
			}
		}, reloaded: 1001, terminated: []int{1001, 1006},
	},
	{
		name: "Apache", program: "apache2", debian: "apache2-bin", config: "apache.conf",
		adapt: []string{
			"*:443", "127.0.0.1:PORT",
			"127.0.0.1:3000", "APP",
			"/etc/ssl/app.crt", "DIR/app.crt",
			"/etc/ssl/app.key", "DIR/app.key",
		},
		bound:   "SendBufferSize 32768\n",
		timeout: "Timeout 60", brief: "Timeout 2",
		compression: []string{"SSLEngine on", "SSLEngine on\n\tSetOutputFilter DEFLATE"},
		around: apacheUser() + `
ServerRoot DIR
DefaultRuntimeDir DIR
PidFile DIR/pid
ErrorLog /dev/stderr
Listen 127.0.0.1:PORT
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule deflate_module /usr/lib/apache2/modules/mod_deflate.so
LoadModule filter_module /usr/lib/apache2/modules/mod_filter.so
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule reqtimeout_module /usr/lib/apache2/modules/mod_reqtimeout.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
ServerName app.example.com
CONFIG`,
		command: func(p place) []string { return []string{"-DFOREGROUND", "-f", p.file("config")} },
		reload:  func(t *testing.T, r *running) { r.signal(t, syscall.SIGUSR1) }, terminated: []int{1006},
	},
}

// byName returns a proxy.
func byName(t *testing.T, name string) *proxy {
	t.Helper()
	for _, p := range proxies {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("no proxy is called %s", name)
	return nil
}

// nginxUser keeps nginx' workers able to read the folder of a test that root runs.
func nginxUser() string {
	if os.Geteuid() == 0 {
		return "user root;"
	}
	return ""
}

// apacheUser is whom Apache, which refuses to serve as root, becomes where root runs the test.
func apacheUser() string {
	if os.Geteuid() == 0 {
		return "User www-data\nGroup www-data"
	}
	return ""
}

// variant says which edits of a configuration a test is about, beyond those of where it runs.
type variant int

const (
	asPrinted   variant = iota
	unbounded           // without what bounds the proxy's buffer
	brief               // with a timeout of 2 s
	briefStream         // with a timeout of 2 s for a response that streams
	compressing         // with compression of all that it can compress
	fussy               // unbounded, with the settings that look as if they bounded it: nginx only
)

// configuration is the file as docs/scaling.md has it, adapted.
func (p *proxy) configuration(t *testing.T, at place, v variant) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", p.config))
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	edit := func(old, new string) {
		t.Helper()
		config = replaceOnce(t, config, old, new)
	}
	if p.bound != "" && (v == unbounded || v == fussy) {
		edit(p.bound, "")
	}
	if v == fussy {
		edit("proxy_read_timeout 60s;", "proxy_read_timeout 60s; proxy_buffering off; proxy_buffer_size 1k; proxy_buffers 2 1k; proxy_busy_buffers_size 1k;")
	}
	if p.timeout != "" && v == brief {
		edit(p.timeout, p.brief)
	}
	edits := p.adapt
	if v == compressing {
		edits = slices.Concat(p.compression, edits)
	}
	for i := 0; i < len(edits); i += 2 {
		edit(edits[i], at.expand(edits[i+1]))
	}
	return strings.Replace(at.expand(p.around), "CONFIG", config, 1)
}

// replaceOnce replaces what is there exactly once.
func replaceOnce(t *testing.T, s, old, new string) string {
	t.Helper()
	if n := strings.Count(s, old); n != 1 {
		t.Fatalf("%q is there %d times, want once:\n%s", old, n, s)
	}
	return strings.Replace(s, old, new, 1)
}

// need skips a test whose program isn't there.
func (p *proxy) need(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(p.path()); err != nil {
		t.Skipf("needs %s: apt-get install %s", p.name, p.debian)
	}
}

// path is the program, also if PATH is that of a user: Debian keeps most proxies in a folder for administrators. A PATH
// without the folder for users has nothing but what it names, as that of .ci/bare.
func (p *proxy) path() string {
	if _, err := exec.LookPath(p.program); err != nil && slices.Contains(filepath.SplitList(os.Getenv("PATH")), "/usr/bin") {
		return "/usr/sbin/" + p.program
	}
	return p.program
}

// running is a proxy that runs.
type running struct {
	place
	*proxy
	cmd    *exec.Cmd
	output *output
	ended  chan struct{}
}

// start returns when the proxy listens. It ends with the test.
func (p *proxy) start(t *testing.T, app string, v variant) *running {
	t.Helper()
	p.need(t)
	for attempt := 1; ; attempt++ {
		r, err := p.try(t, app, v)
		if err == nil {
			return r
		}
		if attempt == 3 { // somebody else may have taken the port
			t.Fatalf("%s doesn't start: %v\n%s", p.name, err, r.output)
		}
	}
}

func (p *proxy) try(t *testing.T, app string, v variant) (*running, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "proxy-") // shorter than t.TempDir, since the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := place{dir: dir, port: streamtest.FreePort(t), app: app}
	writeCertificate(t, at)
	if err := os.WriteFile(at.file("config"), []byte(p.configuration(t, at, v)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &running{place: at, proxy: p, output: new(output), ended: make(chan struct{})}
	r.cmd = exec.Command(p.path(), p.command(at)...)
	r.cmd.Env = append(os.Environ(), "HOME="+at.dir, "XDG_DATA_HOME="+at.dir, "XDG_CONFIG_HOME="+at.dir)
	r.cmd.Stdout, r.cmd.Stderr = r.output, r.output
	// A group of its own, so that what it starts can be ended with it; and should the test's process be killed, the proxy
	// is told to end.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := r.cmd.Start(); err != nil {
		return r, err
	}
	go func() {
		_ = r.cmd.Wait()
		close(r.ended)
	}()
	t.Cleanup(r.stop)
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		if conn, err := net.Dial("tcp", r.addr()); err == nil {
			_ = conn.Close()
			return r, nil
		}
		select {
		case <-r.ended:
			return r, fmt.Errorf("it has ended: %v", r.cmd.ProcessState)
		case <-time.After(10 * time.Millisecond):
		}
	}
	r.stop()
	return r, fmt.Errorf("nothing listens on %s", r.addr())
}

func (r *running) addr() string { return "127.0.0.1:" + r.port }

// origin is that of a page that comes through the proxy.
func (r *running) origin() string { return "https://app.example.com:" + r.port }

func (r *running) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		t.Fatalf("%v to %s: %v", s, r.name, err)
	}
}

// stop ends the proxy and all that it has started.
func (r *running) stop() {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(3 * time.Second): // streams that are open keep some from ending
	}
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) // the group outlives its leader while it has members
	<-r.ended
}

// output collects what a proxy says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
