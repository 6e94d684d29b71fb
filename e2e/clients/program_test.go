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
	pythonProgram = &program{args: []string{"python3", "client.py"}, dir: "testdata"} // missing finds which python3
)

var node = &driver{name: "node-ws", run: nodeProgram.run, missing: func() string {
	if _, err := exec.LookPath("node"); err != nil {
		return "needs Node: apt-get install nodejs npm"
	}
	if _, err := os.Stat("testdata/node/node_modules/ws"); err != nil {
		return "needs the package ws: npm ci --prefix e2e/clients/testdata/node"
	}
	return ""
}}

// python is the first python3 in PATH that has websockets. Debian's belongs to the system's own Python, and another one
// may come before that.
var python = &driver{name: "python-websockets", run: pythonProgram.run, noEmptyClose: true, missing: sync.OnceValue(func() string {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "python3")
		if exec.Command(path, "-c", "import websockets").Run() == nil {
			pythonProgram.args[0] = path
			return ""
		}
	}
	return "needs Python with websockets: apt-get install python3-websockets"
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
