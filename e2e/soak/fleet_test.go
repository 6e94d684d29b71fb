package soak

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// fleet is the viewers of one run of the app.
type fleet struct {
	*server
	quit <-chan struct{} // closed when the run is about to end

	mu    sync.Mutex
	lives []life
}

// A life is what one viewer saw of its connection.
type life struct {
	token    string
	received uint64
	wholly   bool // it read up to the server's close frame
	early    bool // and that came instead of the stream
}

// A kind is how a viewer behaves. Each of its functions may be nil.
type kind struct {
	narrow bool
	begin  func(ws *websocket.Conn, r *rand.Rand) (end func()) // once
	each   func(f *fleet, v *viewer)                           // after each message
}

var kinds = []kind{
	{}, // reads for as long as the app runs
	{begin: leaveSoon},
	{narrow: true, each: stall},
	{narrow: true, each: sleep},
	{each: changeFilter},
	{begin: leaveSoon, each: changeFilter},
}

// leaveSoon ends a connection after a moment: with a close frame, without a word, or with a reset.
func leaveSoon(ws *websocket.Conn, r *rand.Rand) (end func()) {
	how := r.IntN(3)
	timer := time.AfterFunc(time.Duration(20+r.IntN(400))*time.Millisecond, func() {
		switch how {
		case 0:
			bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "bye")
			_ = ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second))
		case 1:
			_ = ws.Close()
		case 2:
			if tcp, ok := ws.NetConn().(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = ws.Close()
		}
	})
	return func() { timer.Stop() }
}

// stall reads nothing for a moment, now and then, so that its buffer overflows.
func stall(f *fleet, v *viewer) {
	if v.received%50 != 0 {
		return
	}
	select {
	case <-f.quit:
	case <-time.After(time.Duration(500+v.random.IntN(2000)) * time.Millisecond):
	}
}

// sleep reads nothing any more until the run ends, or until the manager has enough of it.
func sleep(f *fleet, _ *viewer) { <-f.quit }

// changeFilter asks for another level, which holds from the answer on.
func changeFilter(_ *fleet, v *viewer) {
	if v.asked || time.Now().Before(v.askAt) {
		return
	}
	v.askAt = time.Now().Add(time.Duration(100+v.random.IntN(300)) * time.Millisecond)
	v.asked, v.level = true, levels[v.random.IntN(2)]
	request := fmt.Sprintf(`{"type":"subscribe","filters":{"level":%q,"environment":["production",%q]}}`, v.level, "viewer-"+v.token)
	_ = v.ws.WriteMessage(websocket.TextMessage, []byte(request)) // where it fails, so does the next read
}

// viewer is one connection from the viewer's side.
type viewer struct {
	ws       *websocket.Conn
	token    string
	random   *rand.Rand
	project  string
	last     int
	received uint64

	askAt    time.Time
	level    string // that it asks for
	asked    bool   // and the answer isn't there yet
	answered bool   // once; from then on only that level comes
}

func (f *fleet) over() bool {
	select {
	case <-f.quit:
		return true
	default:
		return false
	}
}

// live is one viewer from its handshake to its end.
func (f *fleet) live(k kind, token string, random *rand.Rand) {
	v := &viewer{token: token, random: random, project: projects[random.IntN(2)], last: -1}
	d := websocket.Dialer{HandshakeTimeout: 20 * time.Second}
	if k.narrow {
		d.NetDialContext = (&net.Dialer{Control: streamtest.Narrow}).DialContext
	}
	ws, resp, err := d.Dial("ws://"+f.addr+"/stream/projects/"+v.project+"?environment=production,viewer-"+token, nil)
	if err != nil {
		if !f.over() {
			f.Errorf("viewer %s: dial: %v, %v", token, err, resp)
		}
		return
	}
	defer ws.Close()
	v.ws = ws
	if k.begin != nil {
		defer k.begin(ws, random)()
	}
	for {
		_ = ws.SetReadDeadline(time.Now().Add(time.Minute)) // a message comes every few milliseconds
		_, data, err := ws.ReadMessage()
		if err != nil {
			f.end(v, err)
			return
		}
		if err := v.take(string(data)); err != nil {
			f.Errorf("viewer %s: %v", token, err)
			return
		}
		if k.each != nil {
			k.each(f, v)
		}
	}
}

// take checks one message of the stream.
func (v *viewer) take(text string) error {
	switch {
	case strings.HasPrefix(text, `{"type":"filters_updated"`):
		if !strings.Contains(text, fmt.Sprintf(`"level":%q`, v.level)) {
			return fmt.Errorf("asked for level %q and got %s", v.level, text)
		}
		v.asked, v.answered = false, true
		return nil
	case text == "for you alone":
		v.received++
		return nil
	}
	v.received++
	var n int
	var project, level string
	if _, err := fmt.Sscan(text, &n, &project, &level); err != nil {
		return fmt.Errorf("got %.60q: %w", text, err)
	}
	if n <= v.last {
		return fmt.Errorf("got message %d after %d", n, v.last)
	}
	v.last = n
	if project != v.project {
		return fmt.Errorf("got a message of project %s, and follows %s", project, v.project)
	}
	if v.answered && !v.asked && level != v.level && level != "notice" {
		return fmt.Errorf("got level %s behind the answer that it is %s", level, v.level)
	}
	return nil
}

// end takes down how a viewer's life ended.
func (f *fleet) end(v *viewer, err error) {
	away := websocket.IsCloseError(err, websocket.CloseGoingAway)
	if websocket.IsCloseError(err, websocket.CloseProtocolError, websocket.CloseInvalidFramePayloadData, websocket.ClosePolicyViolation,
		websocket.CloseMessageTooBig, websocket.CloseInternalServerErr) {
		f.Errorf("viewer %s: %v", v.token, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lives = append(f.lives, life{v.token, v.received, away, away && v.received == 0})
}

// checkLives compares what the viewers have got with what the manager says it has sent them.
func (f *fleet) checkLives() {
	f.Helper()
	f.server.mu.Lock()
	defer f.server.mu.Unlock()
	for _, l := range f.lives {
		c, known := f.left[l.token]
		switch {
		case !known && l.received > 0:
			f.Errorf("viewer %s got %d messages, and no Disconnect hook told of it", l.token, l.received)
		case !known: // it left, or was sent away, before its turn came
		case c.Sent+c.Dropped+c.Abandoned+c.Filtered+c.Conflated != c.Offered || c.Buffered != 0:
			f.Errorf("viewer %s: the account does not balance: %+v", l.token, c)
		case l.wholly && l.received != c.Sent, l.received > c.Sent+c.Abandoned: // what was on its way when it left, it may have got
			f.Errorf("viewer %s read %d messages (up to the close frame: %v), and %d were sent: %+v", l.token, l.received, l.wholly, c.Sent, c)
		}
	}
	clear(f.left)
	f.lives = nil
}
