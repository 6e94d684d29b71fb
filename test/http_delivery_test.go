package test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// Streams over plain HTTP: what arrives, in which order, and from where a client that returns goes on. See docs/http.md.

// overPlainHTTP runs a scenario over every transport, with a client of each form.
func overPlainHTTP(t *testing.T, scenario func(w *streamtest.World, accept string)) {
	for form, accept := range map[string]string{"events": streamtest.AcceptEvents, "lines": streamtest.AcceptLines} {
		t.Run(form, func(t *testing.T) {
			streamtest.OverTransports(t, func(w *streamtest.World) { scenario(w, accept) })
		})
	}
}

// oddData are messages that could be taken for a part of what surrounds them.
var oddData = []string{
	"", " ", "x", " x", "  x ", "\tx", "\n", "\r", "\r\n", "\n\n", "\r\r", "\n\r", "\r\n\r\n", "\r\n\n", "x\n", "x\r", "x\r\n", "\nx", "\rx", "\r\nx", "a\nb", "a\rb", "a\r\nb", "a\n\nb",
	"a\r\rb", "a\n\rb", "a\r\n\r\nb", "\n \n", "a\n b", "data: x", "data:x", "a\ndata: b", "id: 7", "a\nid: 7", "id: 7\n\n", "event: gap", "a\nevent: gap\ndata: {}\n\n", "retry: 1", "a\nretry: 1", ":", ": x", "a\n: x",
	"\uFEFF", "\uFEFFx", "a\n\uFEFFdata: b", "\u2028", "a\u2028b", "a\u2029b", "a\u0085b", "a\vb", "a\fb", "\x00", "a\x00b", "a\x1bb", "ä\n漢\n😀", `{"n":1}`, `{"n":1} `, ` {"n":1}`, "{\"n\":\n1}", "{\"n\":\r1}", "{\"n\":1}\n",
	`"quoted"`, `[1,2,{"a":"b"}]`, "null", "true", "1e5", "-0", `{"n":1`, `{"n":1}{"n":2}`, "NaN", `{"a":"\u2028"}`, "{\"a\":\"\u2028\"}", "<b>&amp;</b>", `{"a":"<b>"}`, `\`, `"`, `a"b\c`,
	`{"mesherstream":{"type":"gap","reason":"slow","dropped":3}}`, ` { "mesherstream" : 1 }`, `{"\u006desherstream":{"type":"close","code":1001}}`, `{"mesherstream":1,"mesherstream":{"type":"gap"}}`,
	`{"a":{"mesherstream":1}}`, `{"a":1,"mesherstream":1}`, `{"Mesherstream":1}`, `{}`, `["mesherstream"]`, `{"mesherstream`,
}

// asText is what an EventSource receives of the data of a message: its lines, joined by LF.
func asText(data string) string {
	return strings.ReplaceAll(strings.ReplaceAll(data, "\r\n", "\n"), "\r", "\n")
}

func TestAnyDataArrivesAsEvents(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		p := w.Follow("shop", streamtest.AcceptEvents)
		for _, data := range oddData {
			w.Publish(data)
			if e := p.Event(); e.Name != "" || e.Data != asText(data) || !e.Own {
				w.Errorf("message %q: got %+v, want an event with its lines and an ID", data, e)
			}
			if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Binary: true, Data: []byte(data + "\xff")}); err != nil {
				w.Fatal(err)
			}
			if e := p.Event(); e.Name != "binary" || e.Data != base64.StdEncoding.EncodeToString([]byte(data+"\xff")) {
				w.Errorf("binary message %q: got %+v, want base64", data+"\xff", e)
			}
		}
		if p.Parser.Retry < 1000 || p.Parser.Retry > 3000 || !p.Parser.IsWhole() {
			w.Errorf("retry: got %d ms, want 1000 to 3000", p.Parser.Retry)
		}
	})
}

func TestAnyDataArrivesAsLines(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		p := w.Follow("shop", streamtest.AcceptLines)
		for _, data := range oddData {
			w.Publish(data)
			line := p.Line()
			checkLine(w.T, data, line)
			if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Binary: true, Data: []byte(data + "\xff")}); err != nil {
				w.Fatal(err)
			}
			if got, want := p.Line(), `"`+base64.StdEncoding.EncodeToString([]byte(data+"\xff"))+`"`; got != want {
				w.Errorf("binary message %q: got %s, want %s", data+"\xff", got, want)
			}
		}
	})
}

// checkLine checks the line of a text message: JSON as it is, unless it could be taken for a gap, and other text as a string.
func checkLine(t *testing.T, data, line string) {
	t.Helper()
	if !utf8.ValidString(line) || strings.ContainsAny(line, "\r\n") {
		t.Errorf("message %q: got %q, want one line", data, line)
	}
	isJSON := json.Valid([]byte(data)) && !strings.ContainsAny(data, "\r\n")
	var members map[string]json.RawMessage
	_ = json.Unmarshal([]byte(data), &members)
	_, named := members["mesherstream"]
	switch {
	case isJSON && !named:
		if line != data {
			t.Errorf("message %q: got %s, want it as it is", data, line)
		}
	default:
		var text string
		if err := json.Unmarshal([]byte(line), &text); err != nil || text != data {
			t.Errorf("message %q: got %s, want it as a JSON string, %v", data, line, err)
		}
		if strings.Contains(data, "<b>") && !strings.Contains(line, "<b>") {
			t.Errorf("message %q: got %s, want it as readable as it can be", data, line)
		}
	}
}

// Messages arrive in order, and those of the client's filter only, whatever their size.
func TestMessagesArriveInOrderAndByTheFilter(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		w.Start(mesherstream.WithMaxBufferBytes(64<<20), mesherstream.WithMaxBuffer(1000), mesherstream.WithUnsentLimit(4<<10))
		all := w.Follow("shop", accept).Collect()
		some := w.Follow("shop?level=error&level=fatal", accept).Collect()
		other := w.Follow("other", accept).Collect()
		sizes := []int{0, 1, 100, 1000, 4000, 16 << 10, 63 << 10, 64<<10 - 10, 64 << 10, 65 << 10, 130 << 10, 200 << 10}
		var wantAll, wantSome []string
		for i := range 24 {
			level := []string{"error", "info", "fatal"}[i%3]
			text := fmt.Sprint(i, " ", strings.Repeat("y", sizes[i%len(sizes)]))
			wantAll = append(wantAll, text)
			if level != "info" {
				wantSome = append(wantSome, text)
			}
			w.PublishAll(mesherstream.Message{Level: level, Data: []byte(text)})
		}
		w.Eventually("all has arrived", func() bool {
			return len(all.Collected()) == len(wantAll) && len(some.Collected()) == len(wantSome)
		})
		if !slices.Equal(all.Collected(), wantAll) || !slices.Equal(some.Collected(), wantSome) || len(other.Collected()) > 0 {
			w.Error("the messages are not those that were published, in their order")
		}
	})
}

// A recorded stream is what one client has received, with the ID that an EventSource had after each message.
type recorded struct {
	messages []string
	ids      []string // of those events that had one, also of notices
	after    []int    // how many messages were before that ID
}

// record reads the stream up to a message.
func record(p *streamtest.Plain, last string) (r recorded) {
	p.T.Helper()
	note := func(id string) {
		if id != "" {
			r.ids, r.after = append(r.ids, id), append(r.after, len(r.messages))
		}
	}
	note(p.Hello.Position)
	for {
		e := p.Event()
		if e.Name == "" || e.Name == "binary" {
			r.messages = append(r.messages, e.Data)
		}
		if e.Own {
			note(e.ID)
		}
		if e.Data == last {
			return r
		}
	}
}

// Each ID is a place from which nothing is missing, and nothing is repeated that was before it, whether it is sent as
// Last-Event-ID or as since.
func TestEachIDIsAPlaceInTheStream(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithHistory(1000), mesherstream.WithPingInterval(200*time.Millisecond))
		for i := range 10 {
			w.Publish(fmt.Sprint("old ", i))
		}
		for _, path := range []string{"shop", "shop?level=error", "shop?last=5", "shop?level=error&last=3", "shop?since=1h"} {
			end := "the end of " + path
			p := w.Follow(path, streamtest.AcceptEvents)
			for i := range 40 {
				w.PublishAll(mesherstream.Message{Level: []string{"error", "info"}[i%2], Data: fmt.Append(nil, path, " ", i)})
				switch i % 10 {
				case 3, 7: // to all projects
					if err := w.M.Broadcast(mesherstream.Message{Level: "error", Data: fmt.Append(nil, "all ", i)}); err != nil {
						w.Fatal(err)
					}
				case 9: // a mark is due
					time.Sleep(100 * time.Millisecond)
				}
			}
			w.PublishAll(mesherstream.Message{Level: "error", Data: []byte(end)})
			r := record(p, end)
			p.Leave()
			if len(r.ids) < 3 {
				w.Fatalf("%s: got %d IDs in %d messages, want more", path, len(r.ids), len(r.messages))
			}
			query, _, _ := strings.Cut(path, "last=")
			query, _, _ = strings.Cut(query, "since=")
			for i, id := range r.ids {
				for way, again := range map[string]*streamtest.Plain{
					"Last-Event-ID": w.Follow(path, streamtest.AcceptEvents, "Last-Event-ID: "+id),
					"since":         w.Follow(query+map[bool]string{true: "&", false: "?"}[strings.Contains(query, "?")]+"since="+id, streamtest.AcceptEvents),
				} {
					if r.after[i] == len(r.messages) { // there is nothing to come
						w.Publish(end)
					}
					got := record(again, end)
					want := r.messages[r.after[i]:]
					if r.after[i] == len(r.messages) {
						want = []string{end}
					}
					if !slices.Equal(got.messages, want) || len(again.Gaps) > 0 {
						w.Errorf("%s by %s of ID %d, after %d messages: got %d: %q, gaps %+v; want %q", path, way, i, r.after[i], len(got.messages), got.messages, again.Gaps, want)
					}
					again.Leave()
				}
			}
			if w.Failed() {
				return
			}
		}
	})
}

// A slow client is told of what it misses, in its place, and the IDs around a gap are places too.
func TestAGapIsToldInItsPlace(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		w.Start(mesherstream.WithMaxBuffer(10), mesherstream.WithHistory(0), mesherstream.WithDrainInterval(5*time.Millisecond), mesherstream.WithUnsentLimit(4<<10))
		p := w.Follow("shop", accept)
		n := 0
		for w.ClientOf(p).Dropped < 30 {
			w.Broadcast(n, n+1)
			n++
		}
		w.Publish("the end")
		dropped, next := 0, 0
		for {
			before := len(p.Gaps)
			text := p.Next()
			for _, g := range p.Gaps[before:] {
				if g.Reason != "slow" || g.Stream != "" || g.Position == "" {
					w.Errorf("got the gap %+v, want a slow one with a position", g)
				}
				dropped += g.Dropped
				next += g.Dropped
			}
			if text == "the end" {
				break
			}
			var i int
			if _, err := fmt.Sscan(text, &i); err != nil || i != next {
				w.Fatalf("got message %.20q, want %d: the gaps before it say so", text, next)
			}
			next++
		}
		w.Eventually("all is sent", func() bool { return w.ClientOf(p).Buffered == 0 })
		if got := w.ClientOf(p); int(got.Dropped) != dropped || next != n || got.Sent+got.Dropped != got.Offered {
			w.Errorf("got gaps of %d messages and %d in all, want %d of %d: %+v", dropped, next, got.Dropped, n, got)
		}
	})
}

func TestTheIDsAroundAGapArePlaces(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithMaxBuffer(10), mesherstream.WithHistory(10_000), mesherstream.WithHistoryBytes(64<<20), mesherstream.WithDrainInterval(5*time.Millisecond), mesherstream.WithUnsentLimit(4<<10))
		const end = "the end"
		p := w.Follow("shop", streamtest.AcceptEvents)
		var all []string
		for w.ClientOf(p).Dropped < 30 {
			w.Broadcast(len(all), len(all)+1)
			all = append(all, fmt.Sprintf("%d %s", len(all), streamtest.Filler))
		}
		w.Publish(end)
		all = append(all, end)
		r := record(p, end)
		p.Leave()
		told := 0
		for i, id := range r.ids {
			if r.after[i] == len(r.messages) {
				continue
			}
			next := slices.Index(all, r.messages[r.after[i]])
			again := w.Follow("shop", streamtest.AcceptEvents, "Last-Event-ID: "+id)
			got := record(again, end).messages
			again.Leave()
			// What the client was told of as missing before this ID is not sent again.
			switch {
			case len(again.Gaps) > 0 || len(got) == 0 || !slices.Equal(got, all[len(all)-len(got):]):
				w.Fatalf("ID %d of %d: got %d messages, gaps %+v, want everything up to the end", i, len(r.ids), len(got), again.Gaps)
			case len(all)-len(got) > next:
				w.Errorf("ID %d of %d: the first message is %d, want at most %d", i, len(r.ids), len(all)-len(got), next)
			case len(all)-len(got) < next:
				if told++; i+1 < len(r.after) && r.after[i+1] == r.after[i] && len(all)-len(got) >= r.after[i] {
					continue // before the gap: what is missing comes now
				}
				w.Errorf("ID %d of %d: the first message is %d, want %d", i, len(r.ids), len(all)-len(got), next)
			}
		}
	})
}

func TestASlowClientIsDisconnectedIfTheManagerSaysSo(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		w.Start(mesherstream.WithMaxBuffer(10), mesherstream.WithOverflow(mesherstream.Disconnect), mesherstream.WithUnsentLimit(4<<10))
		p := w.Follow("shop", accept)
		for i := 0; w.M.Stats().Clients > 0; i++ {
			w.Broadcast(i, i+1)
		}
		messages, err := p.Rest()
		if err != nil || p.Close == nil || p.Close.Code != 1013 || !strings.HasPrefix(p.Close.Reason, "too slow") || len(messages) == 0 || len(p.Gaps) > 0 {
			w.Errorf("got %d messages, %v, %+v, want some, then the close event", len(messages), err, p.Close)
		}
		w.Eventually("its end is complete", func() bool { return w.M.Stats().Disconnects == 1 })
	})
}

func TestWhatTheApplicationDoesWithOneClient(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		type end struct {
			c      mesherstream.Client
			code   int
			reason string
		}
		connected, ended := make(chan mesherstream.Client, 1), make(chan end, 1)
		w.Start(mesherstream.WithHooks(mesherstream.Hooks{
			Connect:    func(c mesherstream.Client) { connected <- c },
			Disconnect: func(c mesherstream.Client, code int, reason string) { ended <- end{c, code, reason} },
		}))
		p := w.Follow("shop?level=error", accept)
		c := <-connected
		if c.ID != p.ID || c.Project != "shop" || !slices.Equal(c.Levels, []string{"error"}) || c.RemoteAddr == "" || c.Age != 0 || c.Unacknowledged != 0 {
			w.Errorf("Connect: got %+v", c)
		}
		isEvents := accept == streamtest.AcceptEvents

		if err := w.M.BufferMessage(p.ID, []byte("for you")); err != nil {
			w.Fatal(err)
		}
		if isEvents {
			if e := p.Event(); e.Name != "direct" || e.Data != `{"type":"direct"}` {
				w.Errorf("before a message of BufferMessage: got %+v, want direct", e)
			}
		}
		p.Expect("for you")

		if err := w.M.SetFilter(p.ID, mesherstream.Filter{Levels: []string{"info"}}); err != nil {
			w.Fatal(err)
		}
		if isEvents {
			if e := p.Event(); e.Name != "mark" || !e.Own || e.ID == p.Hello.Position {
				w.Errorf("after SetFilter: got %+v, want a mark with the position", e)
			}
		}
		w.PublishAll(mesherstream.Message{Level: "error", Data: []byte("1")}, mesherstream.Message{Level: "info", Data: []byte("2")})
		p.Expect("2")
		w.Eventually("sent", func() bool { return w.ClientOf(p).Buffered == 0 })
		if got := w.ClientOf(p); got.Offered != 2 || got.Sent != 2 || got.Age != 0 || got.Unacknowledged != 0 || got.Buffered != 0 || !slices.Equal(got.Levels, []string{"info"}) {
			w.Errorf("Client: got %+v", got)
		}

		if err := w.M.Disconnect(p.ID, 4321, "a reason\nwith \"quotes\""); err != nil {
			w.Fatal(err)
		}
		if rest, err := p.Rest(); err != nil || len(rest) > 0 || p.Close == nil || p.Close.Code != 4321 || p.Close.Reason != "a reason\nwith \"quotes\"" {
			w.Errorf("after Disconnect: got %q, %v, %+v, want the close event and the end", rest, err, p.Close)
		}
		if e := <-ended; e.c.ID != p.ID || e.code != 4321 || e.reason != "a reason\nwith \"quotes\"" {
			w.Errorf("Disconnect: got %+v", e)
		}

		// One that leaves has told no code.
		p = w.Follow("shop", accept)
		<-connected
		p.Leave()
		if e := <-ended; e.c.ID != p.ID || e.code != 1006 {
			w.Errorf("Disconnect of one that has left: got %+v, want 1006", e)
		}
	})
}

// Of several values of a key that wait, the newest one is sent, in both forms.
func TestOldValuesOfAKeyAreReplaced(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		w.Start(mesherstream.WithUnsentLimit(4<<10), mesherstream.WithMaxBuffer(1000), mesherstream.WithMaxBufferBytes(64<<20))
		p := w.Follow("shop", accept)
		for i := 0; w.ClientOf(p).Buffered < 3; i++ {
			w.Broadcast(i, i+1)
		}
		for i := range 10 {
			w.PublishAll(mesherstream.Message{Level: "error", Key: "a", Data: fmt.Append(nil, "a", i)}, mesherstream.Message{Key: "b", Data: fmt.Append(nil, "b", i)})
		}
		w.Publish("the end")
		w.Eventually("replaced", func() bool { return w.ClientOf(p).Conflated == 18 })
		var keyed []string
		for text := ""; text != "the end"; {
			if text = p.Next(); text[0] == 'a' || text[0] == 'b' {
				keyed = append(keyed, text)
			}
		}
		if !slices.Equal(keyed, []string{"a9", "b9"}) || len(p.Gaps) > 0 {
			w.Errorf("got %q, gaps %+v, want the newest value of each key", keyed, p.Gaps)
		}
	})
}

func TestAClientLooksBackOverPlainHTTP(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		w.Start()
		for i := range 10 {
			w.PublishAll(mesherstream.Message{Level: []string{"error", "info"}[i%2], Data: fmt.Append(nil, i)})
		}
		for path, want := range map[string][]string{
			"shop?last=3": {"7", "8", "9"}, "shop?last=2&level=error": {"6", "8"}, "shop?since=1h&level=info": {"1", "3", "5", "7", "9"}, "shop?since=1h&last=1": {"9"}, "shop": nil,
		} {
			p := w.Follow(path, accept)
			p.Expect(want...)
			direct := fmt.Sprint("nothing more for ", path)
			if err := w.M.BufferMessage(p.ID, []byte(direct)); err != nil {
				w.Fatal(err)
			}
			p.Expect(direct)
			p.Leave()
		}
	})
}

// An ID of another server, of another project, or of something else is no reason to end an EventSource for good.
func TestALastEventIDThatIsNone(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		w.Publish("old")
		time.Sleep(time.Second)
		other := w.Follow("other", streamtest.AcceptEvents)
		for _, id := range []string{"42", "x", "p.", "p AAAA", strings.Repeat("p", 3000), "ä", `"`, "g" + other.Hello.Position[1:], other.Hello.Position + "=", "1, 2"} {
			p := w.Follow("shop?last=1", streamtest.AcceptEvents, "Last-Event-ID: "+id)
			p.Expect("old") // the URL counts, as for a client that has none
			if len(p.Gaps) > 0 || p.Hello.Returned != nil {
				w.Errorf("Last-Event-ID %.20q: got %+v and gaps %+v, want a new client", id, p.Hello, p.Gaps)
			}
			p.Leave()
		}
		p := w.Follow("shop?last=1", streamtest.AcceptEvents, "Last-Event-ID: "+other.Hello.Position)
		w.Publish("new")
		if p.Expect("new"); len(p.Gaps) != 1 || p.Gaps[0].Reason != "away" || p.Gaps[0].Since.Year() != 2000 {
			w.Errorf("Last-Event-ID of another project: got gaps %+v, want one of unknown size", p.Gaps)
		}
		// An empty one is none.
		p = w.Follow("shop?last=1", streamtest.AcceptEvents, "Last-Event-ID:")
		p.Expect("new")
	})
}

// Without a history, a client that returns is told of what it has missed.
func TestWithoutAHistoryAReturnOverPlainHTTPIsAGap(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		w.Start(mesherstream.WithHistory(0))
		w.Follow("shop", accept).Collect() // somebody stays
		p := w.Follow("shop", streamtest.AcceptEvents)
		w.Publish("1")
		id := p.Event().ID
		p.Leave()
		for i := range 3 {
			w.Publish(fmt.Sprint("missed ", i))
		}
		header := []string{accept, "Last-Event-ID: " + id}
		path := "shop"
		if accept == streamtest.AcceptLines { // curl has no last event, and knows a position from elsewhere
			path, header = "shop?since="+id, header[:1]
		}
		p = w.Follow(path, header...)
		w.Publish("2")
		if p.Expect("2"); len(p.Gaps) != 1 || p.Gaps[0].Reason != "away" || p.Gaps[0].Dropped != 3 || p.Gaps[0].Position == "" {
			w.Errorf("got gaps %+v, want one of the 3 messages", p.Gaps)
		}
	})
}

// The position of a gap is the place after it, also for a client that sees no IDs.
func TestThePositionOfAGapIsThePlaceAfterIt(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		w.Start(mesherstream.WithMaxBuffer(10), mesherstream.WithHistoryBytes(64<<20), mesherstream.WithDrainInterval(5*time.Millisecond), mesherstream.WithUnsentLimit(4<<10))
		p := w.Follow("shop", accept)
		var all []string
		for w.ClientOf(p).Dropped < 30 {
			w.Broadcast(len(all), len(all)+1)
			all = append(all, fmt.Sprintf("%d %s", len(all), streamtest.Filler))
		}
		w.Publish("the end")
		all = append(all, "the end")
		next := 0
		places := map[string]int{} // by position
		for text := ""; text != "the end"; next++ {
			gaps := len(p.Gaps)
			text = p.Next()
			for _, g := range p.Gaps[gaps:] {
				next += g.Dropped
				places[g.Position] = next
				if g.Held != g.Dropped || g.ID == "" {
					w.Errorf("got the gap %+v, want all of it held", g)
				}
			}
			if text != all[next] {
				w.Fatalf("got %.20q, want message %d", text, next)
			}
		}
		p.Leave()
		if len(places) == 0 {
			w.Fatal("there was no gap")
		}
		for position, at := range places {
			again := w.Follow("shop?since="+position, accept)
			if again.Expect(all[at:]...); len(again.Gaps) > 0 {
				w.Errorf("from the position after a gap: got gaps %+v", again.Gaps)
			}
			again.Leave()
		}
	})
}
