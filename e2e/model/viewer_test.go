package model

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"pgregory.net/rapid"
)

// A viewer is a client on a real socket, which reads or doesn't, and what the model knows of it.
type viewer struct {
	id         mesherstream.ClientID
	ws         *websocket.Conn
	project    string
	filter     mesherstream.Filter
	offered    []int // the numbers of the messages that it was offered
	filteredAt int   // how many were offered before the last change of the filter
	asked      int   // requests that it has sent
	open       bool
	done       chan struct{} // closed when its reader has ended
	agreed     bool          // on the protocol

	writing sync.Mutex // held while a message is sent

	mu       sync.Mutex
	changed  sync.Cond
	stalled  bool
	messages []int
	answers  []string
	received int // messages of any kind
	told     int // messages that were dropped, as the gaps say
	err      error
}

// read collects what comes until the end, except while the viewer is stalled.
func (v *viewer) read() {
	defer close(v.done)
	for {
		v.mu.Lock()
		for v.stalled {
			v.changed.Wait()
		}
		v.mu.Unlock()
		_, data, err := v.ws.ReadMessage()
		v.mu.Lock()
		v.received++
		var number int
		switch {
		case err != nil:
			v.err = err
		case v.agreed && v.ofTheProtocol(data):
		case strings.HasPrefix(string(data), "{"):
			v.answers = append(v.answers, string(data))
		default:
			if _, err = fmt.Sscan(string(data), &number); err != nil {
				v.err = fmt.Errorf("a message that nobody has sent: %.100q", data)
			}
			v.messages = append(v.messages, number)
		}
		v.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// ofTheProtocol handles what only a client that has agreed on the protocol is sent. It acknowledges hello and marks. An
// application of the model sends no JSON.
func (v *viewer) ofTheProtocol(data []byte) bool {
	var m struct {
		Type    string
		Dropped int
	}
	if json.Unmarshal(data, &m) != nil {
		return false
	}
	switch m.Type {
	case "hello", "mark":
		v.writing.Lock()
		defer v.writing.Unlock()
		_ = v.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"ack","n":%d}`, v.received)) // if it fails, so does the next read
	case "gap":
		v.told += m.Dropped
	case "direct": // and the message follows
	default:
		return false
	}
	return true
}

// ask sends a request.
func (v *viewer) ask(text string) error {
	v.writing.Lock()
	defer v.writing.Unlock()
	return v.ws.WriteMessage(websocket.TextMessage, []byte(text))
}

func (v *viewer) stall(on bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stalled = on
	v.changed.Broadcast()
}

// got returns what has come so far.
func (v *viewer) got() (messages []int, answers int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.messages, len(v.answers), v.err
}

// leave ends the viewer and waits for its reader.
func (v *viewer) leave() {
	v.stall(false)
	_ = v.ws.Close()
	<-v.done
}

// check holds what came against what was offered: in order, none twice, none that was not offered.
func (v *viewer) check(t *rapid.T) {
	left := v.offered
	messages, _, _ := v.got()
	for _, n := range messages {
		for len(left) > 0 && left[0] != n {
			left = left[1:]
		}
		if len(left) == 0 {
			t.Fatalf("client %d got %d, which was not offered, or came before: got %v of %v", v.id, n, messages, v.offered)
		}
		left = left[1:]
	}
}

// newest checks that the newest messages came without a gap, however many were dropped before. A change of the filter
// takes out what waited then and no longer passes, so only what was offered since counts.
func (v *viewer) newest(t *rapid.T, maxBuffer int) {
	messages, _, _ := v.got()
	for i := 1; i <= min(maxBuffer, len(v.offered)-v.filteredAt); i++ {
		if len(messages) < i || messages[len(messages)-i] != v.offered[len(v.offered)-i] {
			t.Fatalf("client %d got %v, want the newest %d of %v without a gap", v.id, messages, maxBuffer, v.offered)
		}
	}
}

func eventually(t *rapid.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}
