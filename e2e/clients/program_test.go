package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// A program runs plans in another process: JSON lines to its standard input, JSON lines from its standard output.
type program struct {
	args  []string
	dir   string
	start sync.Once
	stdin io.WriteCloser
	mu    sync.Mutex // one line at a time
	mail  mailbox
}

var (
	nodeProgram   = &program{args: []string{"node", "client.mjs"}, dir: "testdata/node"}
	pythonProgram = &program{args: []string{"/usr/bin/python3", "client.py"}, dir: "testdata"}
)

var node = &driver{name: "node-ws", run: nodeProgram.run, missing: func() string {
	if _, err := exec.LookPath("node"); err != nil {
		return "node is not installed"
	}
	if _, err := os.Stat("testdata/node/node_modules/ws"); err != nil {
		return "the package ws is not installed: npm ci --prefix e2e/clients/testdata/node"
	}
	return ""
}}

// python is Debian's python3-websockets, which belongs to the system's own Python.
var python = &driver{name: "python-websockets", run: pythonProgram.run, noOneCode: true, missing: sync.OnceValue(func() string {
	if err := exec.Command("/usr/bin/python3", "-c", "import websockets").Run(); err != nil {
		return "Debian's python3-websockets is not installed: /usr/bin/python3 can't import websockets"
	}
	return ""
})}

func (p *program) run(ctx context.Context, pl plan) report {
	p.start.Do(p.launch)
	id, arrives := p.mail.expect()
	pl.ID = id
	line, err := json.Marshal(pl)
	if err != nil {
		return report{Error: err.Error()}
	}
	p.mu.Lock()
	_, err = p.stdin.Write(append(line, '\n'))
	p.mu.Unlock()
	if err != nil {
		return report{Error: err.Error()}
	}
	select {
	case r := <-arrives:
		return r
	case <-ctx.Done():
		return report{Error: fmt.Sprint(filepath.Base(p.args[0]), ": no report: ", ctx.Err())}
	}
}

// launch starts the process. Closing its standard input, which the end of the tests does, ends it.
func (p *program) launch() {
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Dir, cmd.Stderr = p.dir, os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		panic(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	p.stdin = stdin
	if err := cmd.Start(); err != nil {
		p.mail.shut(err)
		return
	}
	atEnd(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var r report
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				p.mail.shut(fmt.Errorf("%v: %q", err, lines.Text()))
				return
			}
			p.mail.deliver(r)
		}
		p.mail.shut(lines.Err())
	}()
}
