package pace

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

//go:embed page.mjs
var pageProgram string

// Page is Node with a module of the client.
type Page struct {
	Record
	t   testing.TB
	cmd *exec.Cmd
}

// Handling is how a page handles messages.
type Handling struct {
	Each time.Duration // how long it takes for a message
	Loop bool          // by a loop that awaits this time, instead of by a handler that blocks for it
}

// OpenPage opens a page. url is that of the stream and begins with ws, and module is the URL or the path of the module
// that follows it. The page leaves with the test.
func OpenPage(t testing.TB, url, module string, h Handling) *Page {
	t.Helper()
	NeedNode(t)
	program := filepath.Join(t.TempDir(), "page.mjs")
	if err := os.WriteFile(program, []byte(pageProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	args, err := json.Marshal(map[string]any{"url": url, "module": module, "loop": h.Loop, "each": h.Each.Milliseconds()})
	if err != nil {
		t.Fatal(err)
	}
	// Node has a WebSocket of its own since 22, and since 20.10 behind a flag that later ones accept too.
	p := &Page{t: t, cmd: exec.Command("node", "--experimental-websocket", "--no-warnings", program, string(args))}
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also if it is stopped
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { read <- p.read(bufio.NewReader(stdout)) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if err := <-read; err != nil {
			t.Error(err)
		}
		_, _ = stdin.Close(), p.cmd.Wait() // which says that it was killed
	})
	return p
}

// NeedNode skips a test if there is no Node that can be a page.
func NeedNode(t testing.TB) {
	t.Helper()
	const needs = "needs Node 20.10 or later: apt-get install nodejs"
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip(needs)
	}
	if err := exec.Command("node", "--experimental-websocket", "--eval", "").Run(); err != nil {
		t.Skip(needs)
	}
}

// Freeze stops the page as a laptop's lid does. Its kernel lives on, and accepts what still fits.
func (p *Page) Freeze() { p.signal(syscall.SIGSTOP) }

// Wake ends Freeze.
func (p *Page) Wake() { p.signal(syscall.SIGCONT) }

func (p *Page) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%v to a page: %v", s, err)
	}
}

// read takes over what the page prints, until it has ended. It may be killed in the middle of a line.
func (p *Page) read(lines *bufio.Reader) error {
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil
		}
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(fields) < 2 {
			return fmt.Errorf("a page printed %q", line)
		}
		at, err := strconv.ParseInt(fields[0], 10, 64)
		s := Sight{Kind: Kind(fields[1]), At: time.Duration(at)}
		rest := strings.Join(fields[2:], "")
		switch s.Kind {
		case Open, Gap:
			s.Number, err = strconv.Atoi(rest)
		case Message:
			_, err = fmt.Sscan(rest, &s.Number, (*int64)(&s.Published))
		case End:
			s.Text = strings.TrimSpace(rest)
		default:
			err = strconv.ErrSyntax
		}
		if err != nil {
			return fmt.Errorf("a page printed %q: %w", line, err)
		}
		p.Add(s)
	}
}
