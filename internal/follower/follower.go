// Package follower plays the rules of a client that returns, for the tests of this module.
package follower

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// A Follower plays the rules of a client of the protocol that returns: what it remembers of its stream, and what it shows.
// It is told what arrives and has no connection of its own.
type Follower struct {
	Hello    Notice
	Position string
	Shown    []Shown // over all connections
	Arrived  int     // messages of any kind on this connection

	tail      []string // what it has received since its position
	uncounted bool
	newestAt  time.Time // when the newest of them arrived
	expected  []string  // what a replay is to repeat
	replaying string    // what replay this is
	direct    bool      // the next message is in no replay
	fetched   map[string][]string
	fetching  string // the gap whose messages arrive now

	FetchesDone int    // how many have ended
	Refused     string // the code of the last refusal
}

// Shown is a message of the application, or a gap.
type Shown struct {
	Text   string // a binary message begins with "binary:"
	Gap    *Notice
	Replay string // the kind of replay that it is from
}

// A Notice is a message of the protocol.
type Notice struct {
	Type, Stream string
	Position     string
	Of           string
	Gap          string
	Messages     int
	More         bool
	ID           any // a text for a gap, a number for hello
	Reason       string
	Dropped      int
	AtMost       *int `json:"at_most"`
	Held         int
	Since, Until time.Time
	Returned     *struct {
		Complete bool
		AtMost   *int `json:"at_most"`
	}
	Data   *string
	Binary *string
	Code   string
}

// Dial forgets the connection, and returns the query with which the follower connects.
func (f *Follower) Dial() (query string) {
	f.Hello, f.Arrived, f.expected, f.replaying, f.direct, f.fetching = Notice{}, 0, nil, "", false, ""
	if f.Position == "" {
		return ""
	}
	query = "since=" + f.Position
	switch {
	case f.uncounted:
		query += fmt.Sprintf("&received=unknown&ago=%d", time.Since(f.newestAt).Milliseconds())
	case len(f.tail) > 0:
		query += fmt.Sprintf("&received=%d&ago=%d", len(f.tail), time.Since(f.newestAt).Milliseconds())
	}
	return query
}

// Receive handles a message. It returns what the follower sends.
func (f *Follower) Receive(op byte, payload []byte) (answer string) {
	f.Arrived++
	text := string(payload)
	if op == wsframe.OpBinary {
		text = "binary:" + text
	}
	var n Notice
	if op != wsframe.OpText || !strings.HasPrefix(text, `{"type":"`) || json.Unmarshal(payload, &n) != nil ||
		f.Hello.Stream != "" && n.Stream != f.Hello.Stream || n.Stream == "" {
		f.show(text)
		return ""
	}
	switch n.Type {
	case "hello":
		f.Hello = n
		if n.Returned != nil && n.Returned.Complete {
			f.expected = slices.Clone(f.tail)
		} else if n.Returned != nil || n.Position != "" {
			f.tail, f.uncounted = nil, false
		}
		if n.Position != "" {
			f.Position = n.Position
		}
		return `{"type":"ack","n":1}`
	case "mark":
		f.reach(n.Position, f.replaying == "return")
		return fmt.Sprintf(`{"type":"ack","n":%d}`, f.Arrived)
	case "gap":
		f.Shown = append(f.Shown, Shown{Gap: &n, Replay: f.replaying})
		if n.Position == "" {
			f.uncounted = true
		} else {
			f.reach(n.Position, false)
		}
	case "filters_updated":
		f.reach(n.Position, false)
	case "replay":
		if n.Of == "gap" {
			f.fetching = n.Gap
			break
		}
		f.replaying = n.Of
		f.reach(n.Position, true)
	case "replayed":
		if n.Of == "gap" {
			f.fetching = ""
			if !n.More {
				f.FetchesDone++
			}
			break
		}
		if f.replaying == "return" {
			for _, text := range f.expected {
				f.forget(&f.tail, text)
			}
			f.expected = nil
		}
		f.replaying = ""
		f.reach(n.Position, false)
	case "error":
		f.Refused = n.Code
	case "direct":
		f.direct = true
	case "past":
		text := ""
		if n.Data != nil {
			text = *n.Data
		} else if n.Binary != nil {
			data, _ := base64.StdEncoding.DecodeString(*n.Binary)
			text = "binary:" + string(data)
		}
		f.forget(&f.expected, text)
	}
	return ""
}

// reach takes a new position. Within the replay of a return, what is still expected stays: it is behind that place.
func (f *Follower) reach(position string, returning bool) {
	if position == "" {
		return
	}
	f.Position, f.tail, f.uncounted = position, nil, false
	if returning {
		f.tail = slices.Clone(f.expected)
	} else {
		f.expected = nil
	}
}

func (f *Follower) show(text string) {
	switch {
	case f.fetching != "":
		if f.fetched == nil {
			f.fetched = make(map[string][]string)
		}
		f.fetched[f.fetching] = append(f.fetched[f.fetching], text)
		return
	case f.direct:
		f.direct = false
	case f.forget(&f.expected, text):
		return
	default:
		f.tail = append(f.tail, text)
		f.newestAt = time.Now()
	}
	f.Shown = append(f.Shown, Shown{Text: text, Replay: f.replaying})
}

// forget takes one message out of a list.
func (f *Follower) forget(list *[]string, text string) bool {
	i := slices.Index(*list, text)
	if i >= 0 {
		*list = slices.Delete(slices.Clone(*list), i, i+1)
	}
	return i >= 0
}

// Fetched returns what has arrived of a gap.
func (f *Follower) Fetched(id string) []string { return f.fetched[id] }
