package streamtest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// Viewer is a client that reads only when it is told to. While it reads, it answers pings and marks.
type Viewer struct {
	W    *World
	WS   *websocket.Conn
	ID   mesherstream.ClientID
	Done chan struct{} // closed when collect has ended

	stream  string         // the word in its marks, if it has agreed on the protocol
	counts  bool           // it acknowledges when it is told to, and answers no mark
	answers sync.WaitGroup // that are being sent

	sending sync.Mutex // held while a message is sent
	acked   uint64

	mu       sync.Mutex
	received uint64 // messages of any kind
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
	v := newViewer(w, ws)
	w.viewers = append(w.viewers, v)
	w.Eventually("connected", func() bool { return w.M.Stats().Connects > before })
	v.ID = newest(w.M)
	if end, ok := ws.NetConn().(*pipeEnd); ok && !w.Mute {
		v.answerFirst(end)
	}
	return v
}

func newViewer(w *World, ws *websocket.Conn) *Viewer {
	v := &Viewer{W: w, WS: ws}
	if w.Mute {
		ws.SetPingHandler(func(string) error { return nil })
		return v
	}
	// The answer doesn't keep the viewer from reading. A pipe holds nothing, so two ends that only write would wait for
	// each other.
	ws.SetPingHandler(func(payload string) error {
		v.answers.Go(func() { _ = ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(20*time.Second)) })
		return nil
	})
	return v
}

// answerFirst answers the ping with which the stream of a client without the protocol begins. A pipe would otherwise
// hold it until the viewer reads, and nothing could follow.
func (v *Viewer) answerFirst(end *pipeEnd) {
	v.W.Helper()
	first := end.look()
	if first == nil || first[0] != wsframe.FinBit|wsframe.OpPing {
		return // no pings, or the protocol
	}
	frame, payload := NextFrame(first)
	end.ahead = end.ahead[len(frame):]
	if err := v.WS.WriteControl(websocket.PongMessage, payload, time.Now().Add(20*time.Second)); err != nil {
		v.W.Fatalf("pong of viewer %d: %v", v.ID, err)
	}
	time.Sleep(time.Nanosecond) // in a bubble: until everybody has done what that leads to
}

// Dial connects without waiting until the manager knows the client.
func Dial(w *World, path string) (*Viewer, error) {
	d := websocket.Dialer{NetDial: w.Dial, HandshakeTimeout: 20 * time.Second}
	ws, _, err := d.Dial("ws://app.test/stream/projects/"+path, nil)
	if err != nil {
		return nil, err
	}
	return newViewer(w, ws), nil
}

// newest returns the ID of the client that connected last.
func newest(m *mesherstream.Manager) (id mesherstream.ClientID) {
	for c := range m.Clients() {
		id = max(id, c.ID)
	}
	return id
}

// WithoutPosition returns a message of the protocol without the position in it, which no test can predict.
func WithoutPosition(text string) string { return position.ReplaceAllString(text, "") }

var position = regexp.MustCompile(`,"position":"p[\w-]*"`)

// Next returns the next message.
func (v *Viewer) Next() string {
	v.W.Helper()
	_ = v.WS.SetReadDeadline(time.Now().Add(20 * time.Second))
	text, err := v.read()
	if err != nil {
		v.W.Fatalf("read of viewer %d: %v", v.ID, err)
	}
	return text
}

// read returns the next message. It answers the marks before it.
func (v *Viewer) read() (text string, err error) {
	for {
		_, data, err := v.WS.ReadMessage()
		if err != nil {
			return "", err
		}
		v.mu.Lock()
		v.received++
		v.mu.Unlock()
		text = string(data)
		if v.stream == "" || !strings.HasPrefix(text, `{"type":"mark","stream":"`+v.stream+`",`) {
			return text, nil
		}
		if !v.counts {
			v.answers.Go(func() { _ = v.ackTo(v.Received()) })
		}
	}
}

// Received is the number of messages of any kind that the viewer has read.
func (v *Viewer) Received() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.received
}

// ackTo acknowledges the first n messages, unless it has acknowledged them before.
func (v *Viewer) ackTo(n uint64) error {
	v.sending.Lock()
	defer v.sending.Unlock()
	if n <= v.acked {
		return nil
	}
	v.acked = n
	return v.WS.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"type":"ack","n":%d}`, n))
}

// CloseError reads until the connection ends. It returns the messages that it still received, and the error that ended
// it.
func (v *Viewer) CloseError() (messages []string, err error) {
	_ = v.WS.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		text, err := v.read()
		if err != nil {
			return messages, err
		}
		messages = append(messages, text)
	}
}

// Collect starts reading, on a goroutine of its own.
func (v *Viewer) Collect() *Viewer {
	v.Done = make(chan struct{})
	_ = v.WS.SetReadDeadline(time.Time{})
	go func() {
		defer close(v.Done)
		for {
			text, err := v.read()
			v.mu.Lock()
			if err != nil {
				v.Err = err
				v.mu.Unlock()
				return
			}
			v.Messages = append(v.Messages, text)
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
	v.sending.Lock()
	defer v.sending.Unlock()
	if err := v.WS.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		v.W.Fatalf("send of viewer %d: %v", v.ID, err)
	}
}

func (v *Viewer) Close() {
	_ = v.WS.Close()
	if v.Done != nil {
		<-v.Done
	}
	v.answers.Wait()
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
		MarkMS       int64 `json:"mark_ms"`
	}
	Gaps []Gap
}

// ConnectWithProtocol adds a viewer that acknowledges as mesherstream.js does: hello at once, and from then on marks.
func (w *World) ConnectWithProtocol(path string) *pactViewer {
	w.Helper()
	v := w.ConnectCounting(path)
	v.counts = false
	v.Ack()
	return v
}

// ConnectCounting adds a viewer that acknowledges only when it is told to, as one that knows no marks.
func (w *World) ConnectCounting(path string) *pactViewer {
	w.Helper()
	v := &pactViewer{Viewer: w.Connect(path, "some.other", mesherstream.Protocol)}
	if got := v.WS.Subprotocol(); got != mesherstream.Protocol {
		w.Fatalf("subprotocol: got %q, want %q", got, mesherstream.Protocol)
	}
	text := v.Viewer.Next()
	if err := json.Unmarshal([]byte(text), &v.Hello); err != nil || v.Hello.Type != "hello" || len(v.Hello.Stream) < 12 {
		w.Fatalf("first message: got %s, want hello: %v", text, err)
	}
	v.counts, v.stream = true, v.Hello.Stream
	return v
}

// Next returns the next message of the application, and keeps the gaps before it. It skips what says where a replay begins
// or ends, and which messages are in none.
func (v *pactViewer) Next() (text string) {
	v.W.Helper()
	for {
		text = v.Viewer.Next()
		if !strings.Contains(text, v.Hello.Stream) {
			return text
		}
		var g Gap
		err := json.Unmarshal([]byte(text), &g)
		switch g.Type {
		case "gap":
			v.Gaps = append(v.Gaps, g)
		case "replay", "replayed", "direct":
		default:
			v.W.Fatalf("got %s, want a gap: %v", text, err)
		}
	}
}

// Ack acknowledges all that the viewer has read.
func (v *pactViewer) Ack() {
	v.W.Helper()
	v.AckTo(v.Received())
}

// AckTo acknowledges the first n messages.
func (v *pactViewer) AckTo(n uint64) {
	v.W.Helper()
	if err := v.ackTo(n); err != nil {
		v.W.Fatalf("acknowledgement of viewer %d: %v", v.ID, err)
	}
}

func (v *pactViewer) Expect(want ...string) {
	v.W.Helper()
	for _, text := range want {
		if got := v.Next(); got != text {
			v.W.Fatalf("got %q, want %q", got, text)
		}
	}
}

// Stall fills the window of a viewer that counts, so that messages published from now on are buffered. Nothing that the
// viewer has not read is on its way to it.
func (w *World) Stall(v *pactViewer, window int) {
	w.Helper()
	for i := 0; w.Client(v.Viewer).Unacknowledged < window; i++ { // a mark may be among them
		w.PublishAll(Texts("filling", i, i+1)...)
		v.Next() // one by one: a pipe holds nothing
		w.Eventually("everybody has it", func() bool { return w.M.Stats().Buffered == 0 })
	}
}

// Texts returns messages of a level whose data are the level and a number.
func Texts(level string, first, end int) (list []mesherstream.Message) {
	for i := first; i < end; i++ {
		list = append(list, mesherstream.Message{Level: level, Data: fmt.Append(nil, level, " ", i)})
	}
	return list
}
