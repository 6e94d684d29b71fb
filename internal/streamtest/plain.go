package streamtest

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/follower"
)

// The headers with which an EventSource and curl ask for a stream.
const (
	AcceptEvents = "Accept: text/event-stream"
	AcceptLines  = "Accept: */*"
)

// Plain is a client of plain HTTP, which reads only when it is told to.
type Plain struct {
	T      testing.TB
	Conn   net.Conn
	Head   *http.Response
	Parser follower.EventReader
	ID     mesherstream.ClientID // 0 if it is not known
	Hello  PlainHello            // of a stream of events
	Gaps   []PlainGap
	Close  *PlainClose // how the server has ended the stream

	in     *bufio.Reader
	events []follower.ServerEvent // parsed and not read
	Done   chan struct{}

	mu       sync.Mutex
	messages []string
	err      error
}

// PlainHello is the first event.
type PlainHello struct {
	Type, Stream, Project, Position string
	ID                              mesherstream.ClientID
	Filters                         struct{ Level, Environment []string }
	MaxBuffer                       int `json:"max_buffer"`
	Window                          int
	MarkMS                          int64 `json:"mark_ms"`
	Returned                        *struct {
		Complete bool
		AtMost   *int `json:"at_most"`
	}
}

// PlainGap is a report of missed messages.
type PlainGap struct {
	Type, Stream, ID, Reason, Position string
	Dropped, Held                      int
	AtMost                             int            `json:"at_most"`
	ByLevel                            map[string]int `json:"by_level"`
	Since, Until                       time.Time
}

// PlainClose is how a server ends a stream.
type PlainClose struct {
	Type, Reason string
	Code         int
}

// PlainRequest returns the bytes of a request without an upgrade. A header may replace the Host.
func PlainRequest(method, target string, header ...string) string {
	if !slices.ContainsFunc(header, func(h string) bool { return strings.HasPrefix(h, "Host:") }) {
		header = append([]string{"Host: app.test"}, header...)
	}
	return method + " " + target + " HTTP/1.1\r\n" + strings.Join(append(header, "", ""), "\r\n")
}

// GetPlain sends a GET and reads the head of the response.
func GetPlain(t testing.TB, dial func(network, addr string) (net.Conn, error), target string, header ...string) *Plain {
	t.Helper()
	return SendPlain(t, dial, PlainRequest("GET", target, header...))
}

// SendPlain sends the bytes of a request, which may be more than one, and reads the head of the first response.
func SendPlain(t testing.TB, dial func(network, addr string) (net.Conn, error), request string) *Plain {
	t.Helper()
	conn, err := dial("tcp", "app.test:80")
	if err != nil {
		t.Fatal(err)
	}
	p := &Plain{T: t, Conn: conn, in: bufio.NewReader(conn)}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatalf("%.80q: %v", request, err)
	}
	method, _, _ := strings.Cut(request, " ")
	p.NextHead(method)
	return p
}

// NextHead reads the head of the next response, to a request of that method.
func (p *Plain) NextHead(method string) *http.Response {
	p.T.Helper()
	_ = p.Conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	var err error
	if p.Head, err = http.ReadResponse(p.in, &http.Request{Method: method}); err != nil {
		p.T.Fatalf("head of the response: %v", err)
	}
	return p.Head
}

// Get sends a GET for a stream that may be refused.
func (s *Site) Get(target string, header ...string) *Plain {
	s.Helper()
	p := GetPlain(s.T, s.Net, target, header...)
	s.Cleanup(func() { _ = p.Conn.Close() })
	return p
}

// Follow opens a stream, and returns its client once the manager knows it.
func (s *Site) Follow(target string, header ...string) *Plain {
	s.Helper()
	before := s.M.Stats().Connects
	p := s.Get(target, header...)
	p.begin(s.M, before)
	return p
}

// Follow opens a stream at a path such as "shop?level=error", and returns its client once the manager knows it.
func (w *World) Follow(path string, header ...string) *Plain {
	w.Helper()
	before := w.M.Stats().Connects
	p := GetPlain(w.T, w.Dial, "/stream/projects/"+path, header...)
	w.plains = append(w.plains, p)
	p.begin(w.M, before)
	return p
}

func (p *Plain) begin(m *mesherstream.Manager, before uint64) {
	p.T.Helper()
	if p.Head.StatusCode != http.StatusOK || p.Head.ContentLength >= 0 {
		p.T.Fatalf("got %+v, want a stream", p.Head)
	}
	Eventually(p.T, m, "connected", func() bool { return m.Stats().Connects > before })
	if p.ID = newest(m); !p.isEvents() {
		return
	}
	hello := p.Event()
	if err := json.Unmarshal([]byte(hello.Data), &p.Hello); err != nil || hello.Name != "hello" || hello.ID != "" && hello.ID != p.Hello.Position || p.Parser.Retry < 1000 {
		p.T.Fatalf("first event: got %+v, want hello: %v", hello, err)
	}
	p.ID = p.Hello.ID
}

func (p *Plain) isEvents() bool { return p.Head.Header.Get("Content-Type") == "text/event-stream" }

// Event returns the next event.
func (p *Plain) Event() follower.ServerEvent {
	p.T.Helper()
	p.wait()
	e, err := p.event()
	if err != nil {
		p.T.Fatalf("next event of client %d: %v", p.ID, err)
	}
	return e
}

func (p *Plain) event() (e follower.ServerEvent, err error) {
	buf := make([]byte, 16<<10)
	for len(p.events) == 0 {
		n, err := p.Head.Body.Read(buf)
		p.events = p.Parser.Read(buf[:n])
		if err != nil && len(p.events) == 0 {
			return e, err
		}
	}
	e, p.events = p.events[0], p.events[1:]
	return e, nil
}

// wait sets how long the client waits for what it reads next, whatever else arrives in the meantime.
func (p *Plain) wait() {
	if p.Done == nil {
		_ = p.Conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
}

// Line returns the next line.
func (p *Plain) Line() string {
	p.T.Helper()
	p.wait()
	line, err := p.line()
	if err != nil {
		p.T.Fatalf("next line of client %d: %v", p.ID, err)
	}
	return line
}

func (p *Plain) line() (string, error) {
	line, err := p.in.ReadString('\n') // the body ends with the connection
	if err == io.EOF && line != "" {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimSuffix(line, "\n"), err
}

// Next returns the next message of the application, as text. It keeps the gaps before it, and skips everything else.
func (p *Plain) Next() string {
	p.T.Helper()
	p.wait()
	text, err := p.message()
	if err != nil {
		p.T.Fatalf("next message of client %d: %v", p.ID, err)
	}
	return text
}

// Expect checks the next messages.
func (p *Plain) Expect(want ...string) {
	p.T.Helper()
	for _, text := range want {
		if got := p.Next(); got != text {
			p.T.Fatalf("client %d got %.200q, want %.200q", p.ID, got, text)
		}
	}
}

// Rest returns the messages until the end of the connection, and the error that has ended it: nil if the server has
// closed it after a whole event or line.
func (p *Plain) Rest() (messages []string, err error) {
	p.wait()
	for {
		text, err := p.message()
		if errors.Is(err, io.EOF) && p.Parser.IsWhole() {
			return messages, nil
		}
		if err != nil {
			return messages, err
		}
		messages = append(messages, text)
	}
}

func (p *Plain) message() (string, error) {
	for {
		var text string
		var ok bool
		if p.isEvents() {
			e, err := p.event()
			if err != nil {
				return "", err
			}
			if text, ok, err = p.meaning(e.Name, e.Data); err != nil {
				return "", err
			}
		} else {
			line, err := p.line()
			if err != nil {
				return "", err
			}
			if text, ok, err = p.meaningOfLine(line); err != nil {
				return "", err
			}
		}
		if ok {
			return text, nil
		}
	}
}

// meaning returns the text of a message, or keeps what isn't one.
func (p *Plain) meaning(name, data string) (text string, ok bool, err error) {
	switch name {
	case "":
		return data, true, nil
	case "binary":
		b, err := base64.StdEncoding.DecodeString(data)
		return string(b), true, err
	case "gap":
		var g PlainGap
		err = json.Unmarshal([]byte(data), &g)
		p.Gaps = append(p.Gaps, g)
	case "close":
		p.Close = new(PlainClose)
		err = json.Unmarshal([]byte(data), p.Close)
	case "hello", "mark", "replay", "replayed", "direct", "large", "past":
		if !json.Valid([]byte(data)) {
			err = fmt.Errorf("%s with the data %.80q", name, data)
		}
	default:
		err = fmt.Errorf("an event %s with the data %.80q", name, data)
	}
	return "", false, err
}

func (p *Plain) meaningOfLine(line string) (text string, ok bool, err error) {
	if line == "" {
		return "", false, nil
	}
	if !json.Valid([]byte(line)) {
		return "", false, fmt.Errorf("a line that is not JSON: %.80q", line)
	}
	var ours struct{ Mesherstream json.RawMessage }
	var kind struct{ Type string }
	if json.Unmarshal([]byte(line), &ours) == nil && ours.Mesherstream != nil && json.Unmarshal(ours.Mesherstream, &kind) == nil {
		return p.meaning(kind.Type, string(ours.Mesherstream))
	}
	if line[0] == '"' {
		err = json.Unmarshal([]byte(line), &text)
		return text, true, err
	}
	return line, true, nil
}

// Collect starts reading, on a goroutine of its own.
func (p *Plain) Collect() *Plain {
	_ = p.Conn.SetDeadline(time.Time{})
	p.Done = make(chan struct{})
	go func() {
		defer close(p.Done)
		for {
			text, err := p.message()
			p.mu.Lock()
			if err != nil {
				p.err = err
				p.mu.Unlock()
				return
			}
			p.messages = append(p.messages, text)
			p.mu.Unlock()
		}
	}()
	return p
}

// Collected returns the messages so far.
func (p *Plain) Collected() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.messages)
}

// Leave closes the client's end.
func (p *Plain) Leave() {
	_ = p.Conn.Close()
	if p.Done != nil {
		<-p.Done
	}
}

// ClientOf returns the snapshot of a client of plain HTTP.
func (w *World) ClientOf(p *Plain) mesherstream.Client {
	w.Helper()
	c, ok := w.M.Client(p.ID)
	if !ok {
		w.Fatalf("Client(%d): got none", p.ID)
	}
	return c
}

// Streams checks that a client receives a stream.
func (s *Site) Streams(p *Plain) {
	s.Helper()
	if p.Head.StatusCode != http.StatusOK || p.Head.ContentLength >= 0 || len(p.Head.TransferEncoding) > 0 ||
		p.Head.Header.Get("Content-Encoding")+p.Head.Header.Get("ETag") != "" || p.Head.Header.Get("Cache-Control") != "no-store" {
		s.Fatalf("got %+v, want the head of a stream", p.Head)
	}
	s.Eventually("it is in", func() bool { return s.M.Stats().Clients == 1 })
	s.Publish(mesherstream.Message{Project: "shop", Data: []byte(`{"n":1}`)})
	p.Expect(`{"n":1}`)
}
