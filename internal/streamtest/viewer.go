package streamtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
)

// Viewer is a client that reads only when it is told to.
type Viewer struct {
	W    *World
	WS   *websocket.Conn
	ID   mesherstream.ClientID
	Done chan struct{} // closed when collect has ended

	mu       sync.Mutex
	Messages []string
	Err      error
}

// Connect adds a viewer at a path such as "shop?level=error", which may offer subprotocols.
func (w *World) Connect(path string, subprotocols ...string) *Viewer {
	w.Helper()
	before := w.M.Stats().Connects
	d := websocket.Dialer{NetDial: w.Dial, HandshakeTimeout: 10 * time.Second, ReadBufferSize: 1 << 10, Subprotocols: subprotocols}
	ws, resp, err := d.Dial("ws://app.test/stream/projects/"+path, nil)
	if err != nil {
		w.Fatalf("connect(%q): %v, response %v", path, err, resp)
	}
	v := &Viewer{W: w, WS: ws}
	w.viewers = append(w.viewers, v)
	w.Eventually("connected", func() bool { return w.M.Stats().Connects > before })
	v.ID = newest(w.M)
	return v
}

// Dial connects without waiting until the manager knows the client.
func Dial(w *World, path string) (*Viewer, error) {
	d := websocket.Dialer{NetDial: w.Dial, HandshakeTimeout: 20 * time.Second}
	ws, _, err := d.Dial("ws://app.test/stream/projects/"+path, nil)
	return &Viewer{W: w, WS: ws}, err
}

// newest returns the ID of the client that connected last.
func newest(m *mesherstream.Manager) (id mesherstream.ClientID) {
	for c := range m.Clients() {
		id = max(id, c.ID)
	}
	return id
}

// Next returns the next message.
func (v *Viewer) Next() string {
	v.W.Helper()
	_ = v.WS.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, data, err := v.WS.ReadMessage()
	if err != nil {
		v.W.Fatalf("read of viewer %d: %v", v.ID, err)
	}
	return string(data)
}

// CloseError reads until the connection ends. It returns the messages that it still received, and the error that ended
// it.
func (v *Viewer) CloseError() (messages []string, err error) {
	_ = v.WS.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		_, data, err := v.WS.ReadMessage()
		if err != nil {
			return messages, err
		}
		messages = append(messages, string(data))
	}
}

// Collect starts reading, on a goroutine of its own.
func (v *Viewer) Collect() *Viewer {
	v.Done = make(chan struct{})
	_ = v.WS.SetReadDeadline(time.Time{})
	go func() {
		defer close(v.Done)
		for {
			_, data, err := v.WS.ReadMessage()
			v.mu.Lock()
			if err != nil {
				v.Err = err
				v.mu.Unlock()
				return
			}
			v.Messages = append(v.Messages, string(data))
			v.mu.Unlock()
		}
	}()
	return v
}

func (v *Viewer) Collected() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.Messages
}

// Numbers returns the numbers at the beginning of the collected messages.
func (v *Viewer) Numbers() []int {
	v.W.Helper()
	var list []int
	for _, m := range v.Collected() {
		var n int
		if _, err := fmt.Sscan(m, &n); err != nil {
			v.W.Fatalf("viewer %d got %.40q, want a number", v.ID, m)
		}
		list = append(list, n)
	}
	return list
}

func (v *Viewer) Send(text string) {
	v.W.Helper()
	if err := v.WS.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		v.W.Fatalf("send of viewer %d: %v", v.ID, err)
	}
}

func (v *Viewer) Close() {
	_ = v.WS.Close()
	if v.Done != nil {
		<-v.Done
	}
}

// A Gap is the report of missed messages to a client with the protocol.
type Gap struct {
	Type, Stream string
	Dropped      int
	ByLevel      map[string]int `json:"by_level"`
	Since, Until time.Time
}

// A pactViewer is a viewer that has agreed on the protocol.
type pactViewer struct {
	*Viewer
	Hello struct {
		Type, Stream string
		ID           mesherstream.ClientID
		Project      string
		Filters      struct{ Level, Environment []string }
		MaxBuffer    int `json:"max_buffer"`
		Window       int
	}
	Received uint64 // messages of any kind
	Gaps     []Gap
}

func (w *World) ConnectWithProtocol(path string) *pactViewer {
	w.Helper()
	v := &pactViewer{Viewer: w.Connect(path, "some.other", mesherstream.Protocol)}
	if got := v.WS.Subprotocol(); got != mesherstream.Protocol {
		w.Fatalf("subprotocol: got %q, want %q", got, mesherstream.Protocol)
	}
	text := v.Viewer.Next()
	v.Received++
	if err := json.Unmarshal([]byte(text), &v.Hello); err != nil || v.Hello.Type != "hello" || len(v.Hello.Stream) < 12 {
		w.Fatalf("first message: got %s, want hello: %v", text, err)
	}
	return v
}

// Next returns the next message of the application, and keeps the gaps before it.
func (v *pactViewer) Next() (text string) {
	v.W.Helper()
	for {
		text = v.Viewer.Next()
		v.Received++
		if !strings.Contains(text, v.Hello.Stream) {
			return text
		}
		var g Gap
		if err := json.Unmarshal([]byte(text), &g); err != nil || g.Type != "gap" {
			v.W.Fatalf("got %s, want a gap: %v", text, err)
		}
		v.Gaps = append(v.Gaps, g)
	}
}

func (v *pactViewer) Ack() { v.Send(fmt.Sprintf(`{"type":"ack","n":%d}`, v.Received)) }

func (v *pactViewer) Expect(want ...string) {
	v.W.Helper()
	for _, text := range want {
		if got := v.Next(); got != text {
			v.W.Fatalf("got %q, want %q", got, text)
		}
	}
}

// Stall fills a client's window, so that messages published from now on are buffered.
func (w *World) Stall(v *pactViewer, window int) {
	w.Helper()
	for _, m := range Texts("filling", 0, window-1) {
		w.PublishAll(m)
		v.Next() // one by one: a pipe holds nothing
		w.Eventually("everybody has it", func() bool { return w.M.Stats().Buffered == 0 })
	}
	w.Eventually("the window is full", func() bool { return w.Client(v.Viewer).Unacknowledged == window })
}

// Texts returns messages of a level whose data are the level and a number.
func Texts(level string, first, end int) (list []mesherstream.Message) {
	for i := first; i < end; i++ {
		list = append(list, mesherstream.Message{Level: level, Data: fmt.Append(nil, level, " ", i)})
	}
	return list
}
