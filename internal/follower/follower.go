// Package follower plays a client that returns by the rules of the protocol, for the tests of this module.
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

// A Follower plays a client that returns: what it remembers of its stream, and what it shows. It is a client of the
// protocol, or one that follows events and counts; or one that only knows its position, as an EventSource does, or a client
// of lines. It is told what arrives and has no connection of its own.
type Follower struct {
	Hello     Notice
	Position  string
	Shown     []Shown // over all connections
	Arrived   int     // messages of any kind on this connection
	MaxTail   int     // how many messages it remembers; 0 for all
	Tailless  bool    // it remembers its position, and nothing of what it has received since
	FirstOnly bool    // it follows lines, and doesn't return

	tail      []string // what it has received since its position
	uncounted bool
	misplaced bool      // what follows is of another filter than the position, and can't be counted
	newestAt  time.Time // when the newest of them arrived
	expected  []string  // what a replay is to repeat
	repeated  []string  // what it has repeated
	replaying string    // what replay this is
	returned  bool      // that of a return is over
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
	Past   bool   // it is an old value, and stands for an equal message
}

// A Notice is a message of the protocol.
type Notice struct {
	Type, Stream string
	Position     string
	NoPlace      bool `json:"-"` // its position is null
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
	Binary string
	Code   any // a text for an error, a number for the end of the stream
}

// UnmarshalJSON tells a position that is null from none.
func (n *Notice) UnmarshalJSON(text []byte) error {
	type plain Notice
	var position struct{ Position json.RawMessage }
	if err := json.Unmarshal(text, &position); err != nil {
		return err
	}
	n.NoPlace = string(position.Position) == "null"
	return json.Unmarshal(text, (*plain)(n))
}

// Dial forgets the connection, and returns the query with which the follower connects.
func (f *Follower) Dial() (query string) {
	f.Hello, f.Arrived, f.expected, f.repeated, f.replaying, f.direct, f.fetching = Notice{}, 0, nil, nil, "", false, ""
	f.returned, f.misplaced = false, false
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
	f.heed(&n)
	switch n.Type {
	case "hello":
		return `{"type":"ack","n":1}`
	case "mark":
		return fmt.Sprintf(`{"type":"ack","n":%d}`, f.Arrived)
	}
	return ""
}

// heed does what a message of the protocol asks for.
func (f *Follower) heed(n *Notice) {
	switch n.Type {
	case "hello":
		f.Hello = *n
		switch {
		case f.Tailless:
			f.reach(n.Position, false)
		case n.Position == "":
			f.Position, f.tail, f.uncounted = "", nil, false
		case n.Returned == nil:
			f.reach(n.Position, false)
		case n.Returned.Complete:
			f.Position, f.expected = n.Position, slices.Clone(f.tail)
		default: // the tail ends with the gap, of which it has to be told again if the connection breaks before that
		}
	case "mark":
		f.misplaced = f.misplaced || n.NoPlace
		f.reach(n.Position, true) // it may come before the replay of a return
	case "gap":
		f.Shown = append(f.Shown, Shown{Gap: n, Replay: f.replaying})
		if n.Position == "" {
			f.lose() // nobody knows how much of the tail the gap counts
		} else {
			f.reach(n.Position, false)
		}
	case "filters_updated":
		if f.expected, f.repeated = nil, nil; n.Position == "" {
			f.lose()
		} else {
			f.reach(n.Position, false)
		}
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
			f.expected, f.repeated, f.returned = nil, nil, true
		}
		f.replaying = ""
		f.reach(n.Position, false)
	case "error":
		f.Refused, _ = n.Code.(string)
	case "direct":
		f.direct = true
	case "past":
		data, _ := base64.StdEncoding.DecodeString(n.Binary)
		text := "binary:" + string(data)
		if n.Data != nil {
			text = *n.Data
		}
		switch {
		case f.forget(&f.expected, text):
		case f.forget(&f.repeated, text):
			f.show(text) // it stands for the equal message that was taken for it
			f.Shown[len(f.Shown)-1].Past = true
		case f.IsReturning():
			f.remember(text) // or a further replay would take an equal message for it
		}
	}
}

// reach takes a new position. Within the replay of a return, what is still expected stays: it is after that place.
func (f *Follower) reach(position string, returning bool) {
	if position == "" {
		return
	}
	f.Position, f.tail, f.uncounted, f.misplaced = position, nil, false, false
	if returning {
		f.tail = slices.Clone(f.expected)
	} else {
		f.expected, f.repeated = nil, nil
	}
}

// lose loses count of the tail, until the next position.
func (f *Follower) lose() { f.uncounted, f.newestAt = !f.Tailless, time.Now() }

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
		f.repeated = append(f.repeated, text)
		return
	default:
		f.remember(text)
	}
	f.Shown = append(f.Shown, Shown{Text: text, Replay: f.replaying})
}

// remember puts a message into the tail.
func (f *Follower) remember(text string) {
	if f.Tailless {
		return
	}
	f.newestAt = time.Now()
	f.uncounted = f.uncounted || f.misplaced
	if f.tail = append(f.tail, text); f.MaxTail > 0 && len(f.tail) > f.MaxTail {
		f.tail = nil
		f.lose()
	}
}

// forget takes one message out of a list.
func (f *Follower) forget(list *[]string, text string) bool {
	i := slices.Index(*list, text)
	if i >= 0 {
		*list = slices.Delete(slices.Clone(*list), i, i+1)
	}
	return i >= 0
}

// Tail returns how many messages the follower has received since its position, and whether it has counted them.
func (f *Follower) Tail() (n int, counted bool) { return len(f.tail), !f.uncounted }

// LoseCount makes the follower forget how much it has received since its position.
func (f *Follower) LoseCount() { f.uncounted = true }

// Stored returns what a reload of the page leaves of the follower: how far it has got.
func (f *Follower) Stored() Follower {
	return Follower{
		Position: f.Position, MaxTail: f.MaxTail, Tailless: f.Tailless, FirstOnly: f.FirstOnly, tail: slices.Clone(f.tail), uncounted: f.uncounted, newestAt: f.newestAt,
	}
}

// IsReturning reports whether the replay of a return is not over, or has not begun.
func (f *Follower) IsReturning() bool {
	return f.Hello.Returned != nil && !f.returned
}

// Fetched returns what has arrived of a gap.
func (f *Follower) Fetched(id string) []string { return f.fetched[id] }
