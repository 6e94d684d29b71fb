package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/follower"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// A page is a follower with a connection. In a bubble, a handshake takes no time.
type page struct {
	follower.Follower
	*streamtest.World
	path string
	v    *streamtest.Viewer
}

func newPage(w *streamtest.World, path string) *page {
	p := &page{World: w, path: path}
	p.open()
	return p
}

// open connects, and reads hello.
func (p *page) open() {
	p.Helper()
	target, query := p.path, p.Follower.Dial()
	if query != "" {
		target += "?&"[strings.Count(target, "?"):][:1] + query
	}
	p.v = p.Connect(target, mesherstream.Protocol)
	p.read()
	if p.Hello.Type != "hello" {
		p.Fatal("no hello")
	}
}

// read reads one message of any kind.
func (p *page) read() {
	p.Helper()
	_ = p.v.WS.SetReadDeadline(time.Now().Add(20 * time.Second))
	kind, data, err := p.v.WS.ReadMessage()
	if err != nil {
		p.Fatalf("read: %v; shown so far: %s", err, p.all())
	}
	if answer := p.Receive(byte(kind), data); answer != "" {
		p.send(answer)
	}
}

func (p *page) send(text string) {
	p.Helper()
	if err := p.v.WS.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		p.Fatal(err)
	}
}

// await reads until that has happened. It doesn't wait as long as something comes: marks come for ever.
func (p *page) await(what string, happened func() bool) {
	p.Helper()
	for began := time.Now(); !happened(); p.read() {
		if time.Since(began) > time.Minute {
			p.Fatalf("still not: %s; shown so far: %s", what, p.all())
		}
	}
}

// until reads until so many messages and gaps have been shown, over all connections.
func (p *page) until(n int) {
	p.Helper()
	p.await(fmt.Sprint(n, " are shown"), func() bool { return len(p.Shown) >= n })
}

// leave ends the connection, and waits until the server knows.
func (p *page) leave() {
	p.Helper()
	_ = p.v.WS.Close()
	p.Eventually("the page has left", func() bool { return p.M.Stats().Clients == 0 })
	time.Sleep(time.Second)
}

// all returns what was shown: texts, and gaps as the reason and what is known of them.
func (p *page) all() (list []string) {
	for _, s := range p.Shown {
		text := s.Text
		if g := s.Gap; g != nil {
			text = "gap " + g.Reason
			if g.Dropped > 0 {
				text += fmt.Sprint(" ", g.Dropped)
			}
			if g.AtMost != nil {
				text += fmt.Sprint(" <=", *g.AtMost)
			}
			text += fmt.Sprint(" held ", g.Held)
		}
		list = append(list, text)
	}
	return list
}

func (p *page) expect(want ...string) {
	p.Helper()
	p.until(len(want))
	if got := p.all(); !slices.Equal(got, want) {
		p.Fatalf("got  %s\nwant %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

// fetch asks for the messages of a gap, and returns them.
func (p *page) fetch(gap *follower.Notice) []string {
	p.Helper()
	before := p.FetchesDone
	p.send(fmt.Sprintf(`{"type":"fetch","gap":%q}`, gap.ID))
	p.await("the fetch is done", func() bool { return p.FetchesDone > before })
	return p.Fetched(gap.ID.(string))
}

func numbers(prefix string, first, end int) (list []string) {
	for i := first; i < end; i++ {
		list = append(list, fmt.Sprint(prefix, i))
	}
	return list
}

func publish(w *streamtest.World, texts ...string) {
	for _, text := range texts {
		w.PublishAll(mesherstream.Message{Project: "shop", Level: "error", Data: []byte(text)})
	}
}

func TestAReturningClientReceivesWhatItHasMissed(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		p := newPage(w, "shop")
		publish(w, numbers("a", 0, 5)...)
		p.until(5)
		p.leave()
		publish(w, numbers("b", 0, 7)...)
		p.open()
		if r := p.Hello.Returned; r == nil || !r.Complete || r.AtMost == nil || *r.AtMost < 7 {
			t.Errorf("hello says %+v, want a complete return after at least 7 messages", r)
		}
		publish(w, "c0")
		p.expect(slices.Concat(numbers("a", 0, 5), numbers("b", 0, 7), []string{"c0"})...)
	})
}

// Whatever a client has received since its position, what it is shown and what it is told add up to what was published.
func TestAReturningClientIsToldOfWhatHasLeftTheHistory(t *testing.T) {
	for _, c := range []struct {
		name string
		opts []mesherstream.Option
		path string
		want []string
	}{
		{"some", []mesherstream.Option{mesherstream.WithHistory(5)}, "shop", append([]string{"gap away 5 held 0"}, numbers("b", 5, 10)...)},
		{"all", []mesherstream.Option{mesherstream.WithHistory(0)}, "shop", []string{"gap away 10 held 0"}},
		{"some, of a filter", []mesherstream.Option{mesherstream.WithHistory(5)}, "shop?level=error", append([]string{"gap away <=5 held 0"}, numbers("b", 5, 10)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			streamtest.InBubble(t, func(w *streamtest.World) {
				w.Start(c.opts...)
				p := newPage(w, c.path)
				publish(w, numbers("a", 0, 5)...)
				p.until(5)
				p.leave()
				publish(w, numbers("b", 0, 10)...)
				p.open()
				if r := p.Hello.Returned; r == nil || r.Complete {
					t.Errorf("hello says %+v, want an incomplete return", r)
				}
				p.until(5 + len(c.want)) // c0 would drive another one out of the history
				publish(w, "c0")
				p.expect(slices.Concat(numbers("a", 0, 5), c.want, []string{"c0"})...)
				for _, s := range p.Shown {
					if s.Gap != nil && s.Gap.ID != nil {
						t.Errorf("got %+v, want no ID, since nothing can be fetched", s.Gap)
					}
				}
			})
		})
	}
}

func TestARestartOfTheServerIsAGapOfUnknownSize(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		p := newPage(w, "shop")
		publish(w, numbers("a", 0, 5)...)
		p.until(5)
		p.leave()
		publish(w, numbers("b", 0, 5)...)
		w.Stop()
		w.Start()
		publish(w, numbers("c", 0, 5)...)
		p.open()
		if r := p.Hello.Returned; r == nil || r.Complete || r.AtMost != nil {
			t.Errorf("hello says %+v, want an incomplete return of unknown size", r)
		}
		publish(w, "d0")
		p.expect(slices.Concat(numbers("a", 0, 5), []string{"gap away held 0"}, numbers("c", 0, 5), []string{"d0"})...)
	})
}

// The messages of a gap may be messages to all projects, or none of them.
func TestAClientReturnsFromBeforeAGap(t *testing.T) {
	for _, dropped := range []string{"shop", ""} {
		t.Run("of "+dropped, func(t *testing.T) {
			streamtest.InBubble(t, func(w *streamtest.World) {
				w.Start(mesherstream.WithMaxBuffer(2), mesherstream.WithKeepLevels("error"))
				p := newPage(w, "shop")
				publish(w, "first")
				p.until(1)
				p.read()        // a mark
				synctest.Wait() // the server knows that the link has taken it
				buffered := func(n int) {
					w.Eventually("it is buffered", func() bool { return w.M.Stats().Buffered == n })
				}
				publish(w, "a0") // it is on its way until the page reads
				buffered(1)
				publish(w, "a1")
				if err := w.M.Broadcast(mesherstream.Message{Project: dropped, Level: "debug", Data: []byte("b0")}); err != nil {
					t.Fatal(err)
				}
				buffered(3)
				publish(w, "a2")
				w.Eventually("one is dropped", func() bool { return w.M.Stats().Dropped == 1 })
				time.Sleep(2 * time.Second) // another mark is due
				p.until(3)
				before := p.Position
				p.read()
				if p.Position == before || len(p.Shown) != 3 {
					t.Fatalf("no mark before the gap: %s", p.all())
				}
				p.leave()
				p.open()
				publish(w, "c0")
				p.expect("first", "a0", "a1", "b0", "a2", "c0")
			})
		})
	}
}

// Since moves on while the client is away, and its position and what it has received are before and after it.
func TestAReturningClientReceivesNothingTwiceThatIsBeyondSince(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
			sub.Since = time.Now().Add(-2 * time.Second)
			return nil
		}))
		p := newPage(w, "shop")
		publish(w, "first")
		p.until(1)
		p.read() // a mark
		publish(w, "a0")
		p.until(2)
		time.Sleep(500 * time.Millisecond)
		publish(w, "a1")
		p.until(3)
		_ = p.v.WS.Close()
		p.Eventually("the page has left", func() bool { return p.M.Stats().Clients == 0 })
		time.Sleep(1750 * time.Millisecond)
		publish(w, "b0")
		p.open()
		publish(w, "c0")
		p.expect("first", "a0", "a1", "gap away <=2 held 2", "b0", "c0")
	})
}

// What a replay has repeated of a client's tail is before the messages that the client skips, and not among them.
func TestASkippedGapCountsWhatIsMissing(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithWindow(4))
		p := newPage(w, "shop")
		publish(w, "first")
		p.until(1)
		p.read() // a mark
		publish(w, "a0")
		p.until(2)
		publish(w, numbers("b", 0, 20)...) // at the same time as a0, so the client may have received them too
		p.leave()
		publish(w, numbers("b", 20, 300)...)
		p.open()
		time.Sleep(20 * time.Second)
		publish(w, "c0")
		told := 0
		p.await("c0 is shown", func() bool { return slices.Contains(p.all(), "c0") })
		for _, s := range p.Shown {
			if s.Gap != nil {
				told += s.Gap.Dropped
			}
		}
		if got := len(slices.DeleteFunc(slices.Clone(p.Shown), func(s follower.Shown) bool { return s.Gap != nil })) + told; got != 303 || told == 0 {
			t.Errorf("got %d shown and told, %d of them told, want 303: %s", got, told, p.all())
		}
	})
}

// To another node, a position only says when it was made. A message of the same moment has reached that node a little later.
func TestAReturnToAnotherNodeRepeatsNothingOfTheMoment(t *testing.T) {
	streamtest.NodesInBubble(t, 2, func(_ *streamtest.Exchange, nodes []*streamtest.World) {
		nodes[1].Connect("shop").Collect()
		p := newPage(nodes[0], "shop")
		publish(nodes[0], "a0")
		p.until(1)
		p.read() // a mark
		nodes[1].Eventually("the other node has it", func() bool { return nodes[1].M.Stats().Sent == 1 })
		p.leave()
		publish(nodes[0], "b0")
		nodes[1].Eventually("the other node has it", func() bool { return nodes[1].M.Stats().Sent == 2 })
		p.World = nodes[1]
		p.open()
		publish(nodes[1], "c0")
		p.expect("a0", "gap away held 0", "b0", "c0")
	})
}

func TestAPositionOfAnotherProjectIsWorthless(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		p := newPage(w, "shop")
		publish(w, numbers("a", 0, 3)...)
		p.until(3)
		p.leave()
		publish(w, numbers("b", 0, 3)...)
		p.path = "other"
		p.open()
		if err := w.M.Broadcast(mesherstream.Message{Project: "other", Data: []byte("c0")}); err != nil {
			t.Fatal(err)
		}
		p.expect(append(numbers("a", 0, 3), "gap away held 0", "c0")...)
	})
}

// A position that this server can't open says nothing, whatever is wrong with it: what was missed is not known, and nothing
// is sent that the page may have.
func TestADamagedPositionIsAGapOfUnknownSize(t *testing.T) {
	for name, damage := range map[string]func(position string) string{
		"its letter":         func(string) string { return "p" },
		"no length of any":   func(string) string { return "pA" },
		"too short":          func(string) string { return "pANxq" },
		"a byte is missing":  func(position string) string { return position[:len(position)-1] },
		"of another time":    func(position string) string { return "p________" + position[9:] },
		"of the last second": func(position string) string { return "p" + strings.Repeat("_", len(position)-1) },
		"a gap's":            func(position string) string { return "p" + strings.Repeat("-", 60) },
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.InBubble(t, func(w *streamtest.World) {
				w.Start()
				p := newPage(w, "shop")
				publish(w, numbers("a", 0, 3)...)
				p.until(3)
				time.Sleep(time.Second)
				p.leave()
				p.Position = damage(p.Position)
				p.open()
				if r := p.Hello.Returned; r == nil || r.Complete || r.AtMost != nil || p.Hello.Position != p.Position {
					t.Errorf("hello says %+v of %q, want an incomplete return of unknown size from %q", r, p.Hello.Position, p.Position)
				}
				publish(w, "b0")
				p.expect(append(numbers("a", 0, 3), "gap away held 0", "b0")...)
				if g := p.Shown[3].Gap; g.Since.Year() < 2000 || g.Since.After(g.Until) {
					t.Errorf("the gap is from %v to %v", g.Since, g.Until)
				}
			})
		})
	}
}

// The value that a page shows last is the newest, however often it has been there before.
func TestAnOldValueOfAKeyIsNeitherShownNorTakenForTheNewest(t *testing.T) {
	for _, c := range []struct{ before, missed, want string }{
		{"5 7", "5", "5 7 5"},
		{"5 7 5", "7 5", "5 7 5 5"},
		{"5", "7 5 7", "5 7"},
		{"5 5", "5", "5 5 5"},
		{"1 2 3", "", "1 2 3"},
	} {
		t.Run(c.before+", then "+c.missed, func(t *testing.T) {
			streamtest.InBubble(t, func(w *streamtest.World) {
				w.Start()
				p := newPage(w, "shop")
				publish(w, "first") // with a mark
				p.until(1)
				say := func(values string) {
					for v := range strings.FieldsSeq(values) {
						w.PublishAll(mesherstream.Message{Project: "shop", Key: "gauge", Data: []byte(v)})
					}
				}
				for i, v := range strings.Fields(c.before) {
					say(v)
					p.until(2 + i)
				}
				p.leave()
				say(c.missed)
				p.open()
				publish(w, "last")
				p.await("the last one is shown", func() bool { return p.all()[len(p.Shown)-1] == "last" })
				p.expect(strings.Fields("first " + c.want + " last")...)
			})
		})
	}
}

// A message of BufferMessage is in no replay, and doesn't stand for a broadcast with the same bytes.
func TestAMessageForOneClientIsNotTakenForABroadcast(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		p := newPage(w, "shop")
		for c := range w.M.Clients() {
			if err := w.M.BufferMessage(c.ID, []byte("same")); err != nil {
				t.Fatal(err)
			}
		}
		p.until(1)
		p.leave()
		publish(w, "same", "other")
		p.open()
		p.expect("same", "same", "other")
	})
}

// stall makes a page miss messages because it is slow: its window is four messages, and its buffer two.
func stall(w *streamtest.World, opts ...mesherstream.Option) *page {
	w.Start(append([]mesherstream.Option{mesherstream.WithWindow(4), mesherstream.WithMaxBuffer(2)}, opts...)...)
	p := newPage(w, "shop")
	publish(w, numbers("a", 0, 20)...)
	for len(p.Shown) == 0 || p.Shown[len(p.Shown)-1].Text != "a19" {
		p.read()
	}
	return p
}

// gaps returns the gaps that a page was told of, and checks that the messages which it was not shown are theirs.
func (p *page) gaps() (gaps []*follower.Notice, missing []string) {
	p.Helper()
	told := 0
	for _, s := range p.Shown {
		if s.Gap != nil {
			gaps = append(gaps, s.Gap)
			told += s.Gap.Dropped
		}
	}
	for _, text := range numbers("a", 0, 20) {
		if !slices.Contains(p.all(), text) {
			missing = append(missing, text)
		}
	}
	if told == 0 || told != len(missing) {
		p.Fatalf("told of %d, and %d are missing: %s", told, len(missing), p.all())
	}
	return gaps, missing
}

func (p *page) fetchAll(gaps []*follower.Notice) (got []string) {
	p.Helper()
	for _, gap := range gaps {
		id := gap.ID.(string)
		before := len(p.Fetched(id))
		got = append(got, p.fetch(gap)[before:]...)
	}
	return got
}

func TestTheMessagesOfAGapCanBeFetched(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		p := stall(w)
		gaps, missing := p.gaps()
		for _, gap := range gaps {
			if gap.Reason != "slow" || gap.Held != gap.Dropped {
				t.Errorf("got %+v, want a gap of a slow client whose messages are all held", gap)
			}
		}
		if got := p.fetchAll(gaps); !slices.Equal(got, missing) {
			t.Errorf("got %s, want %s", got, missing)
		}
		// On a later connection, too, and what is published meanwhile is shown as ever.
		shown := len(p.Shown)
		p.leave()
		p.open()
		publish(w, "b0")
		if got := p.fetchAll(gaps); !slices.Equal(got, missing) {
			t.Errorf("got %s, want %s", got, missing)
		}
		p.until(shown + 1)
		if got := p.all()[shown:]; len(got) != 1 || got[0] != "b0" {
			t.Errorf("got %s, want b0", got)
		}
	})
}

// The messages of a gap can be had by a plain request, too, which ends after them.
func TestTheMessagesOfAGapCanBeFetchedOverPlainHTTP(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		p := stall(w)
		gaps, missing := p.gaps()
		get := func(query string) (status, body string) {
			conn, err := w.Dial("tcp", "app.test:80")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, _ = fmt.Fprintf(conn, "GET /stream/projects/%s HTTP/1.1\r\nHost: app.test\r\nAccept: */*\r\n\r\n", query)
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			response, err := io.ReadAll(conn)
			if err != nil {
				t.Fatalf("%s: %v after %q", query, err, response)
			}
			head, body, _ := strings.Cut(string(response), "\r\n\r\n")
			return strings.Fields(head)[1], body
		}
		const end = `{"mesherstream":{"type":"close","code":1000,"reason":"that is the gap"}}`
		var got []string
		for _, gap := range gaps {
			status, body := get("shop?gap=" + gap.ID.(string))
			lines := strings.Split(strings.TrimSpace(body), "\n")
			if n := len(lines) - 1; status != "200" || lines[n] != end || n != gap.Dropped {
				t.Fatalf("got %s %q, want %d messages and the end", status, body, gap.Dropped)
			}
			for _, line := range lines[:len(lines)-1] {
				var text string
				if err := json.Unmarshal([]byte(line), &text); err != nil {
					t.Fatal(err)
				}
				got = append(got, text)
			}
		}
		if !slices.Equal(got, missing) {
			t.Errorf("got %s, want %s", got, missing)
		}
		id := gaps[0].ID.(string)
		for query, want := range map[string]string{
			"other?gap=" + id: "410", "shop?gap=g": "410", "shop?gap=" + id[1:]: "410", "shop?gap=" + p.Position: "410",
		} {
			if status, body := get(query); status != want {
				t.Errorf("%s: got %s %q, want %s", query, status, body, want)
			}
		}
		w.Eventually("only the page is left", func() bool { return w.M.Stats().Clients == 1 })
	})
}

// An EventSource that is cut before its first message has only the ID of hello to return with.
func TestAnEventStreamThatIsCutBeforeItsFirstMessageReturns(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		open := func(header string) (conn net.Conn, lines *bufio.Scanner) {
			conn, err := w.Dial("tcp", "app.test:80")
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			_, _ = fmt.Fprintf(conn, "GET /stream/projects/shop HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n%s\r\n", header)
			return conn, bufio.NewScanner(conn)
		}
		find := func(lines *bufio.Scanner, prefix string) string {
			for lines.Scan() {
				if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
					return rest
				}
			}
			t.Fatalf("no line begins with %q: %v", prefix, lines.Err())
			return ""
		}
		conn, lines := open("")
		find(lines, "event: hello")
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), "id: p") {
			t.Fatalf("hello goes on with %q, want an ID", lines.Text())
		}
		id := lines.Text()
		_ = conn.Close()
		w.Eventually("it has left", func() bool { return w.M.Stats().Clients == 0 })
		if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("missed")}); err != nil {
			t.Fatal(err)
		}

		conn, lines = open("Last-Event-" + strings.Replace(id, "id", "ID", 1) + "\r\n")
		defer func() { _ = conn.Close() }()
		find(lines, "event: hello")
		find(lines, "data: missed")
	})
}

// A client that was slow before it left skips what it can't take. What it has received since its position is no part of the
// gap, nor of what a fetch of it brings.
func TestAFetchOfWhatAReturnSkipsBringsNothingTwice(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		p := newPage(w, "shop")
		for i := range 5 { // it acknowledges each mark late
			publish(w, fmt.Sprint("a", i))
			time.Sleep(3 * time.Second)
			p.until(i + 1)
		}
		publish(w, numbers("b", 0, 3)...)
		p.until(8)
		p.leave()
		publish(w, numbers("c", 0, 600)...)
		p.open()
		p.until(9)
		gap := p.Shown[8].Gap
		if gap == nil || gap.Reason != "away" || gap.Dropped == 0 || gap.Held != gap.Dropped {
			t.Fatalf("got %s, want a gap whose messages are all held", p.all())
		}
		missing := numbers("c", 0, gap.Dropped)
		if got := p.fetchAll([]*follower.Notice{gap}); !slices.Equal(got, missing) {
			t.Errorf("fetched %d messages from %s to %s, want %d from %s to %s", len(got), got[0], got[len(got)-1], len(missing), missing[0], missing[len(missing)-1])
		}
		p.until(9 + 600 - gap.Dropped)
		if got, want := p.all()[9:], numbers("c", gap.Dropped, 600); !slices.Equal(got, want) {
			t.Errorf("shown %s, want %s", got, want)
		}
	})
}

func TestARequestForAGapThatIsNoneIsRefused(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		p := stall(w)
		gaps, _ := p.gaps()
		gap := gaps[0]
		other := newPage(w, "other")
		for name, c := range map[string]struct {
			p             *page
			request, code string
		}{
			"of another project": {other, fmt.Sprintf(`{"type":"fetch","gap":%q}`, gap.ID), "invalid_gap"},
			"forged":             {p, `{"type":"fetch","gap":"gAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`, "invalid_gap"},
			"empty":              {p, `{"type":"fetch","gap":""}`, "invalid_gap"},
			"a position":         {p, fmt.Sprintf(`{"type":"fetch","gap":%q}`, p.Position), "invalid_gap"},
			"no gap":             {p, `{"type":"fetch"}`, "malformed"},
			"a number":           {p, `{"type":"fetch","gap":1}`, "malformed"},
			"a list":             {p, `{"type":"fetch","gap":["x"]}`, "malformed"},
			"another member":     {p, fmt.Sprintf(`{"type":"fetch","gap":%q,"last":1}`, gap.ID), "malformed"},
		} {
			c.p.send(c.request)
			c.p.await("it is refused", func() bool { return c.p.Refused != "" })
			if c.p.Refused != c.code {
				t.Errorf("%s: got %q, want %q", name, c.p.Refused, c.code)
			}
			c.p.Refused = ""
		}
	})
}

// A fetch brings only what is granted at its time.
func TestAFetchBringsNothingThatIsNoLongerGranted(t *testing.T) {
	var granted mesherstream.Subscription
	authorize := mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		sub.Filter, sub.Since = granted.Filter, granted.Since
		return nil
	})
	for name, grant := range map[string]mesherstream.Subscription{
		"a level":      {Filter: mesherstream.Filter{Levels: []string{"debug"}}},
		"until lately": {Since: time.Now().Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			granted = mesherstream.Subscription{}
			streamtest.InBubble(t, func(w *streamtest.World) {
				p := stall(w, authorize)
				gaps, _ := p.gaps()
				p.leave()
				granted = grant
				p.open()
				if got := p.fetchAll(gaps); len(got) != 0 {
					t.Errorf("got %s, want nothing", got)
				}
			})
		})
	}
}

func TestAQueryOfAReturnThatIsMalformedIsRefused(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		p := newPage(w, "shop")
		for query, want := range map[string]int{
			"since=" + p.Position:                                 101,
			"since=" + p.Position + "&received=3&ago=100":         101,
			"since=" + p.Position + "&received=unknown":           101,
			"since=" + p.Position[:len(p.Position)-4]:             101, // forged, and worthless
			"since=" + p.Position + "&received=-1":                400,
			"since=" + p.Position + "&received=many":              400,
			"since=" + p.Position + "&received=1&received=2":      400,
			"since=" + p.Position + "&ago=-1":                     400,
			"since=" + p.Position + "&ago=soon":                   400,
			"since=p":                                             101, // damaged, likewise
			"since=pA":                                            101,
			"since=position":                                      101,
			"since=" + p.Position[:len(p.Position)-1]:             101,
			"since=" + p.Position + "A":                           101,
			"since=" + p.Position + "AA":                          101,
			"since=p" + strings.Repeat("A", 2047):                 101,
			"since=p" + strings.Repeat("A", 2048):                 400, // not even that
			"since=":                                              400,
			"since=gAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA": 400,
			"since=" + p.Position + "%20":                         400,
			"since=" + p.Position + "%00":                         400,
			"since=" + p.Position + "%0A":                         400,
			"since=" + p.Position + "=":                           400,
			"since=" + p.Position + "%3D%3D":                      400,
			"since=" + p.Position + "%2B":                         400,
			"since=" + p.Position + "/":                           400,
			"since=" + p.Position + "é":                           400,
			"since=" + p.Position + "&since=" + p.Position:        400,
			"since=" + strings.Replace(p.Position, "p", "P", 1):   400,
			"since=" + strings.ReplaceAll(p.Position, "p", "%70"): 101,
		} {
			if got, text := streamtest.AskRaw(w.App, streamtest.Handshake("/stream/projects/shop?"+query)); got != want {
				t.Errorf("%.60s: got %d %s, want %d", query, got, text, want)
			}
		}
	})
}

// A gap is fetched when a reader asks for it, and its messages say nothing about how fresh the stream is.
func TestAFetchMakesNoClientOld(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		p := stall(w)
		gaps, missing := p.gaps()
		time.Sleep(10 * time.Second) // not long enough for a mark in silence
		before := w.M.Stats().Ages
		if got := p.fetchAll(gaps); !slices.Equal(got, missing) {
			t.Errorf("got %s, want %s", got, missing)
		}
		w.Eventually("the fetch is acknowledged", func() bool { return w.M.Stats().Ages != before })
		after := w.M.Stats().Ages
		if age := after.Sum - before.Sum; age > 15*time.Second { // the mark that the page reads first is ten seconds old
			t.Errorf("got %v of ages more after a fetch, want no bite of ten seconds: %+v", age, after)
		}
	})
}
