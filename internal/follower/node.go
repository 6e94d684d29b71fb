package follower

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// A Node is a process of Node in which mesherstream.js plays pages in lock-step: it does nothing between two calls, and
// its clock is the caller's.
type Node struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Event is what happens to a page. tests/played.js of the client has the list.
type Event struct {
	Page    int                 `json:"page"`
	At      float64             `json:"at"` // milliseconds, since when does not matter
	What    string              `json:"what"`
	URL     string              `json:"url,omitempty"`
	Filters map[string][]string `json:"filters,omitempty"`
	Last    int                 `json:"last,omitempty"`
	Tail    int                 `json:"tail,omitempty"` // how many messages it remembers; 0 for as many as usual
	Chance  uint32              `json:"chance,omitempty"`
	Text    *string             `json:"text,omitempty"`
	Binary  []byte              `json:"binary,omitempty"`
	Code    int                 `json:"code,omitempty"`
	Reason  string              `json:"reason,omitempty"`
}

// Report is what a page has done, up to an event and because of it.
type Report struct {
	Sent   []string // on its connection
	Shown  []PageShown
	IsLeft bool      // it has left its connection
	Dials  *string   // the query of a handshake that waits for its reply
	Wait   *float64  // how many milliseconds until a timer fires; nil if there is none
	Stored *struct { // how far it has got, if it has stored that since the last report
		Position string    // empty if it has got nowhere
		Tail     *[]string // nil if it has lost count
	}

	Waiting  int      // its calls that have no result yet
	Failures []string // those of calls, or of the page itself
	State    string
}

// PageShown is a message of the application, or a gap.
type PageShown struct {
	Text   *string
	Binary []byte
	Gap    *struct {
		Reason       string
		Dropped      int
		AtMost       *int
		Held         int
		Since, Until time.Time
	}
	Replay string
}

// StartNode starts a process that runs a script.
func StartNode(script string) (*Node, error) {
	n := &Node{cmd: exec.Command("node", script)}
	n.cmd.Stderr = os.Stderr
	in, err := n.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	n.in, n.out = in, bufio.NewReaderSize(out, 1<<16)
	return n, n.cmd.Start()
}

// Tell tells a page of an event.
func (n *Node) Tell(e *Event) (r Report, err error) {
	line, err := json.Marshal(e)
	if err != nil {
		return r, err
	}
	if _, err := n.in.Write(append(line, '\n')); err != nil {
		return r, fmt.Errorf("node does not listen: %w", err)
	}
	if line, err = n.out.ReadBytes('\n'); err != nil {
		return r, fmt.Errorf("node does not answer: %w", err)
	}
	return r, json.Unmarshal(line, &r)
}

// Stop ends the process.
func (n *Node) Stop() error {
	_ = n.in.Close() // the process ends with its input
	return n.cmd.Wait()
}
