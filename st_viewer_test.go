package mesherstream

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
)

// viewer is a client, which reads only when it is told to.
type viewer struct {
	w    *world
	ws   *websocket.Conn
	id   ClientID
	done chan struct{} // closed when collect has ended

	mu       sync.Mutex
	messages []string
	err      error
}

// connect adds a viewer at a path such as "shop?level=error", which may offer subprotocols.
func (w *world) connect(path string, subprotocols ...string) *viewer {
	w.Helper()
	before := w.m.Stats().Connects
	d := websocket.Dialer{NetDial: w.dial, HandshakeTimeout: 10 * time.Second, ReadBufferSize: 1 << 10, Subprotocols: subprotocols}
	ws, resp, err := d.Dial("ws://app.test/stream/projects/"+path, nil)
	if err != nil {
		w.Fatalf("connect(%q): %v, response %v", path, err, resp)
	}
	v := &viewer{w: w, ws: ws}
	w.viewers = append(w.viewers, v)
	w.eventually("connected", func() bool { return w.m.Stats().Connects > before })
	v.id = newest(w.m)
	return v
}

// dial connects without waiting until the manager knows the client.
func dial(w *world, path string) (*viewer, error) {
	d := websocket.Dialer{NetDial: w.dial, HandshakeTimeout: 20 * time.Second}
	ws, _, err := d.Dial("ws://app.test/stream/projects/"+path, nil)
	return &viewer{w: w, ws: ws}, err
}

// newest returns the ID of the client that came last.
func newest(m *Manager) (id ClientID) {
	for c := range m.Clients() {
		id = max(id, c.ID)
	}
	return id
}

// next returns the next message.
func (v *viewer) next() string {
	v.w.Helper()
	_ = v.ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, data, err := v.ws.ReadMessage()
	if err != nil {
		v.w.Fatalf("read of viewer %d: %v", v.id, err)
	}
	return string(data)
}

// wsframe.CloseError reads until the connection ends and returns what ended it, after the messages it still got.
func (v *viewer) closeError() (messages []string, err error) {
	_ = v.ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		_, data, err := v.ws.ReadMessage()
		if err != nil {
			return messages, err
		}
		messages = append(messages, string(data))
	}
}

// collect reads from now on, on a goroutine of its own.
func (v *viewer) collect() *viewer {
	v.done = make(chan struct{})
	_ = v.ws.SetReadDeadline(time.Time{})
	go func() {
		defer close(v.done)
		for {
			_, data, err := v.ws.ReadMessage()
			v.mu.Lock()
			if err != nil {
				v.err = err
				v.mu.Unlock()
				return
			}
			v.messages = append(v.messages, string(data))
			v.mu.Unlock()
		}
	}()
	return v
}

func (v *viewer) collected() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.messages
}

// numbers returns the numbers that the collected messages begin with.
func (v *viewer) numbers() []int {
	v.w.Helper()
	var list []int
	for _, m := range v.collected() {
		var n int
		if _, err := fmt.Sscan(m, &n); err != nil {
			v.w.Fatalf("viewer %d got %.40q, want a number", v.id, m)
		}
		list = append(list, n)
	}
	return list
}

func (v *viewer) send(text string) {
	v.w.Helper()
	if err := v.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		v.w.Fatalf("send of viewer %d: %v", v.id, err)
	}
}

func (v *viewer) close() {
	_ = v.ws.Close()
	if v.done != nil {
		<-v.done
	}
}

// A Gap is what a client with the protocol is told of messages that it has missed.
type Gap struct {
	Type, Stream string
	Dropped      int
	ByLevel      map[string]int `json:"by_level"`
	Since, Until time.Time
}

// A pactViewer is a viewer that has agreed on the protocol.
type pactViewer struct {
	*viewer
	hello struct {
		Type, Stream string
		ID           ClientID
		Project      string
		Filters      struct{ Level, Environment []string }
		MaxBuffer    int `json:"max_buffer"`
		Window       int
	}
	received uint64 // messages of any kind
	gaps     []Gap
}

func (w *world) connectV1(path string) *pactViewer {
	w.Helper()
	v := &pactViewer{viewer: w.connect(path, "some.other", Protocol)}
	if got := v.ws.Subprotocol(); got != Protocol {
		w.Fatalf("subprotocol: got %q, want %q", got, Protocol)
	}
	text := v.viewer.next()
	v.received++
	if err := json.Unmarshal([]byte(text), &v.hello); err != nil || v.hello.Type != "hello" || len(v.hello.Stream) < 12 {
		w.Fatalf("first message: got %s, want hello: %v", text, err)
	}
	return v
}

// next returns the next message of the application, and keeps the gaps in front of it.
func (v *pactViewer) next() (text string) {
	v.w.Helper()
	for {
		text = v.viewer.next()
		v.received++
		if !strings.Contains(text, v.hello.Stream) {
			return text
		}
		var g Gap
		if err := json.Unmarshal([]byte(text), &g); err != nil || g.Type != "gap" {
			v.w.Fatalf("got %s, want a gap: %v", text, err)
		}
		v.gaps = append(v.gaps, g)
	}
}

func (v *pactViewer) ack() { v.send(fmt.Sprintf(`{"type":"ack","n":%d}`, v.received)) }

func (v *pactViewer) expect(want ...string) {
	v.w.Helper()
	for _, text := range want {
		if got := v.next(); got != text {
			v.w.Fatalf("got %q, want %q", got, text)
		}
	}
}

// stall fills a client's window, so that what is published from now on waits.
func (w *world) stall(v *pactViewer, window int) {
	w.Helper()
	for _, m := range texts("filling", 0, window-1) {
		w.publishAll(m)
		v.next() // one by one: a pipe holds nothing
		w.eventually("everybody has it", func() bool { return w.m.Stats().Buffered == 0 })
	}
	w.eventually("the window is full", func() bool { return w.client(v.viewer).Unacknowledged == window })
}
