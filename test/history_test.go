package test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// texts returns the data of the messages.
func texts(m *mesherstream.Manager, project string, f mesherstream.Filter, last int) (list []string) {
	for msg := range m.History(project, f, last) {
		list = append(list, string(msg.Data))
	}
	return list
}

func TestHistoryYieldsWhatAClientWouldHaveReceived(t *testing.T) {
	m, err := mesherstream.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []mesherstream.Message{
		{Project: "shop", Level: "error", Data: []byte("a")},
		{Project: "shop", Level: "debug", Environment: "staging", Data: []byte("b")},
		{Project: "other", Level: "error", Data: []byte("c")},
		{Level: "error", Data: []byte("d")},
		{Project: "shop", Data: []byte("e")},
		{Project: "shop", Level: "error", Key: "k", Data: []byte("f")},
		{Project: "shop", Level: "error", Key: "k", Data: []byte("g")}, // nothing is conflated
	} {
		if err := m.Broadcast(msg); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		project string
		filter  mesherstream.Filter
		last    int
		want    string
	}{
		{"shop", mesherstream.Filter{}, 100, "a b d e f g"},
		{"shop", mesherstream.Filter{}, 6, "a b d e f g"},
		{"shop", mesherstream.Filter{}, 4, "d e f g"},
		{"shop", mesherstream.Filter{}, 1, "g"},
		{"shop", mesherstream.Filter{}, 0, ""},
		{"shop", mesherstream.Filter{}, -1, ""},
		{"shop", mesherstream.Filter{Levels: []string{"error"}}, 4, "d e f g"},
		{"shop", mesherstream.Filter{Levels: []string{"error"}}, 100, "a d e f g"},
		{"shop", mesherstream.Filter{Levels: []string{"debug", ""}, Environments: []string{"staging"}}, 100, "b e"},
		{"shop", mesherstream.Filter{Levels: []string{strings.Repeat("x", 65)}}, 100, ""},
		{"shop", mesherstream.Filter{Levels: make([]string, 17)}, 100, ""},
		{"other", mesherstream.Filter{}, 100, "c d"},
		{"other", mesherstream.Filter{}, 1, "d"},
		{"nobody's", mesherstream.Filter{}, 100, "d"},
		{"", mesherstream.Filter{}, 100, "d"},
		{strings.Repeat("x", 10_000), mesherstream.Filter{}, 100, "d"},
	} {
		if got := strings.Join(texts(m, c.project, c.filter, c.last), " "); got != c.want {
			t.Errorf("History(%.20q, %.40v, %d): got %q, want %q", c.project, c.filter, c.last, got, c.want)
		}
	}
}

func TestAMessageOfTheHistoryIsTheCallers(t *testing.T) {
	m, err := mesherstream.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	want := mesherstream.Message{Project: "shop", Level: "error", Environment: "production", Key: "k", Data: []byte("\x00\xff"), Binary: true}
	if err := m.Broadcast(want); err != nil {
		t.Fatal(err)
	}
	filter := mesherstream.Filter{Levels: []string{"error"}}
	history := m.History("shop", filter, 1)
	filter.Levels[0] = "debug"
	for range 2 { // each loop reads anew
		n := 0
		for got := range history {
			n++
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			_ = append(got.Data, "more"...)
			copy(got.Data, "xx")
		}
		if n != 1 {
			t.Errorf("got %d messages, want 1", n)
		}
	}
	// A loop may end early, and may publish to the same project. It ends nevertheless.
	for i := range 5000 {
		if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for range m.History("shop", mesherstream.Filter{}, 10_000) {
		if n++; n == 3 {
			break
		}
	}
	for range m.History("shop", mesherstream.Filter{}, 500) {
		n++
		if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("more")}); err != nil {
			t.Fatal(err)
		}
	}
	if n != 503 {
		t.Errorf("got %d messages, want 3 and 500", n)
	}
}

func TestThereIsNoHistoryOfNothing(t *testing.T) {
	var none *mesherstream.Manager
	off, err := mesherstream.NewManager(mesherstream.WithHistory(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := off.Broadcast(mesherstream.Message{Project: "shop"}); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*mesherstream.Manager{"nil": none, "zero": {}, "off": off} {
		for range m.History("shop", mesherstream.Filter{}, 10) {
			t.Errorf("%s: got a message, want none", name)
		}
	}
	if s := off.Stats(); s.HistoryMessages != 0 || s.HistoryBytes != 0 {
		t.Errorf("off: got %+v", s)
	}
}

func TestWithoutAHistoryClientsReceiveTheSame(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithHistory(0))
		w.Publish("before")
		for range 2 { // the project is followed, then by nobody, and again
			v := w.Connect("shop?level=error")
			w.PublishAll(mesherstream.Message{Level: "debug", Data: []byte("a")}, mesherstream.Message{Level: "error", Data: []byte("b")})
			if err := w.M.Broadcast(mesherstream.Message{Data: []byte("c")}); err != nil {
				w.Fatal(err)
			}
			for _, want := range []string{"b", "c"} {
				if got := v.Next(); got != want {
					w.Errorf("got %q, want %q", got, want)
				}
			}
			v.Close()
			w.Eventually("the client has left", func() bool { return w.M.Stats().Clients == 0 })
			w.Publish("between")
		}
	})
}

func TestTheHistoryOutlivesARestartAndNotItsAge(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithHistoryAge(time.Minute), mesherstream.WithHistory(3))
		v := w.Connect("shop")
		v.Collect()
		published := time.Now()
		for _, text := range []string{"a", "b", "c", "d"} {
			w.Publish(text)
		}
		if err := w.M.BufferMessage(v.ID, []byte("for one")); err != nil {
			t.Fatal(err)
		}
		w.Stop()
		if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("refused")}); err == nil {
			t.Error("Broadcast after the shutdown: got nil, want ErrClosed")
		}
		if got, want := texts(w.M, "shop", mesherstream.Filter{}, 10), []string{"b", "c", "d"}; !slices.Equal(got, want) {
			t.Errorf("after the shutdown: got %q, want %q", got, want)
		}
		w.Listen()
		time.Sleep(30 * time.Second)
		w.Publish("e")
		if got, want := texts(w.M, "shop", mesherstream.Filter{}, 10), []string{"c", "d", "e"}; !slices.Equal(got, want) {
			t.Errorf("after the restart: got %q, want %q", got, want)
		}
		time.Sleep(time.Minute - time.Since(published) - 1)
		if got, want := texts(w.M, "shop", mesherstream.Filter{}, 10), []string{"c", "d", "e"}; !slices.Equal(got, want) {
			t.Errorf("a nanosecond before the age: got %q, want %q", got, want)
		}
		time.Sleep(10 * time.Nanosecond) // the stamps of messages at one instant differ by a nanosecond
		if got, want := texts(w.M, "shop", mesherstream.Filter{}, 10), []string{"e"}; !slices.Equal(got, want) {
			t.Errorf("at the age: got %q, want %q", got, want)
		}
		time.Sleep(32 * time.Second)
		if s := w.M.Stats(); s.HistoryMessages != 0 || s.HistoryBytes != 0 {
			t.Errorf("two seconds after the age of the last: got %d messages, %d bytes, want none", s.HistoryMessages, s.HistoryBytes)
		}
	})
}

func TestMessagesOfOtherNodesAreInTheHistory(t *testing.T) {
	streamtest.OverNodes(t, 2, func(_ *streamtest.Exchange, nodes []*streamtest.World) {
		v := nodes[1].Connect("shop?level=error")
		say := func(node int, level, text string) {
			if err := nodes[node].M.Broadcast(mesherstream.Message{Project: "shop", Level: level, Data: []byte(text)}); err != nil {
				t.Fatal(err)
			}
		}
		say(0, "error", "a")
		say(0, "debug", "b") // wanted by nobody now
		say(0, "error", "c")
		for _, want := range []string{"a", "c"} {
			if got := v.Next(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		say(1, "error", "d")
		for node, want := range []string{"a b c", "a b c d"} { // nobody follows the project at node 0
			if got := strings.Join(texts(nodes[node].M, "shop", mesherstream.Filter{}, 10), " "); got != want {
				t.Errorf("node %d: got %q, want %q", node, got, want)
			}
		}
		if s := nodes[1].M.Stats(); s.RelayUnwanted != 1 || s.RelayReceived != 2 {
			t.Errorf("got %+v, want 1 unwanted and 2 received", s.RelayStats)
		}
	})
}

var isNotice = regexp.MustCompile(`^\{"type":"(hello|mark|replay|replayed|direct)",`)

func TestAClientLooksBackAndThenReceivesWhatIsPublished(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithMaxBuffer(10)) // a replay doesn't pass through the buffer
		for i := range 300 {
			w.PublishAll(mesherstream.Message{Project: "shop", Level: []string{"error", "debug"}[i%2], Data: fmt.Append(nil, i)})
		}
		for _, c := range []struct {
			path         string
			first, step  int
			subprotocols []string
		}{
			{"shop?last=200", 100, 1, nil},
			{"shop?last=200", 100, 1, []string{mesherstream.Protocol}},
			{"shop?last=3&level=debug", 295, 2, nil},
			{"shop?last=1000000", 0, 1, nil},
			{"shop?since=1h", 0, 1, nil},
			{"shop?since=1999-01-02T15:04:05%2B07:00", 0, 1, nil},
			{"shop?since=1999-01-02T15:04:05.999+07:00", 0, 1, nil}, // a plus that should have been escaped
			{"shop?since=0001-01-01T00:00:00Z", 0, 1, nil},          // the zero time is one, too
			{"shop?since=0000-01-01T00:00:00Z", 0, 1, nil},
			{"shop?since=1h&last=2", 298, 1, nil},
			{"shop?last=7&since=2999-01-01T00:00:00Z", 300, 1, nil},
			{"shop", 300, 1, nil},
		} {
			v := w.Connect(c.path, c.subprotocols...)
			w.PublishAll(mesherstream.Message{Project: "shop", Data: []byte("live")})
			next := func() (text string) {
				for text = v.Next(); isNotice.MatchString(text); text = v.Next() {
				}
				return text
			}
			for want := c.first; want < 300; want += c.step {
				if got := next(); got != fmt.Sprint(want) {
					t.Fatalf("%s: got %s, want %d", c.path, got, want)
				}
			}
			for got := next(); got != "live"; got = next() {
				t.Fatalf("%s: got %s, want live", c.path, got)
			}
			v.Close()
			w.Eventually("the client has left", func() bool { return w.M.Stats().Clients == 0 })
			w.Stop() // and the history ends with what the next client should find
			w.M = nil
			w.Start(mesherstream.WithMaxBuffer(10))
			for i := range 300 {
				w.PublishAll(mesherstream.Message{Project: "shop", Level: []string{"error", "debug"}[i%2], Data: fmt.Append(nil, i)})
			}
		}
	})
}

func TestAWrongLookBackIsRefused(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t).Handler())
	for _, query := range []string{
		"last=", "last=0", "last=-1", "last=1.5", "last=1e3", "last=x", "last=1000001", "last=99999999999999999999", "last=1&last=1", "last=0x10",
		"since=", "since=x", "since=-10m", "since=10", "since=10m&since=10m", "since=2026-01-02", "since=2026-01-02T15:04:05", "since=2026-13-02T15:04:05Z", "since=NaNs",
	} {
		for name, header := range map[string][]string{"upgrade": streamtest.Upgrade, "refusal": {"Accept: application/vnd.mesherstream.v1"}} {
			if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop?"+query, header...); got != 400 || !strings.Contains(body, query[:4]) {
				t.Errorf("%s with ?%s: got %d %q, want 400", name, query, got, body)
			}
		}
	}
	for _, query := range []string{"last=1", "last=1000000", "last=007", "since=0s", "since=90s", "since=1h30m", "since=2026-01-02T15:04:05Z", "since=2026-01-02T15:04:05.123456%2B02:00"} {
		if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop?"+query, streamtest.Upgrade...); got != 101 {
			t.Errorf("?%s: got %d %q, want 101", query, got, body)
		}
	}
}

func TestNobodyLooksBackFurtherThanTheGrant(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		var since time.Time
		w.Start(mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
			sub.Since = since
			return nil
		}))
		w.Publish("a")
		time.Sleep(time.Second)
		w.Publish("b")
		time.Sleep(time.Second)
		since = time.Now().Add(-1500 * time.Millisecond)
		for _, query := range []string{"last=10", "since=1h", "last=10&since=1h", "since=1999-01-01T00:00:00Z"} {
			v := w.Connect("shop?" + query)
			if got := v.Next(); got != "b" {
				t.Errorf("?%s: got %q, want b", query, got)
			}
			v.Send(`{"type":"subscribe","filters":{},"last":10}`)
			if got := v.Next(); !strings.Contains(got, "filters_updated") {
				t.Errorf("got %q, want the reply first", got)
			}
			if got := v.Next(); got != "b" {
				t.Errorf("looking back again: got %q, want b", got)
			}
			if got := w.Client(v).Since; !got.Equal(since) {
				t.Errorf("the snapshot says %v, want %v", got, since)
			}
			v.Close()
		}
	})
}

func TestAChangedFilterLooksBack(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithMaxBuffer(10))
		v := w.Connect("shop?level=debug")
		for i := range 100 {
			w.PublishAll(mesherstream.Message{Project: "shop", Level: "error", Data: fmt.Append(nil, i)})
		}
		w.Client(v) // its shard has taken them
		v.Send(`{"type":"subscribe","filters":{"level":"error"},"last":60}`)
		if got, want := v.Next(), `{"type":"filters_updated","filters":{"level":"error","environment":""},"filtered":0}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		w.PublishAll(mesherstream.Message{Project: "shop", Level: "error", Data: []byte("100")})
		for i := 40; i <= 100; i++ {
			if got := v.Next(); got != fmt.Sprint(i) {
				t.Fatalf("got %s, want %d", got, i)
			}
		}
		for _, last := range []string{"0", "-1", "1.5", `"1"`, "1000001", "null", "[]"} {
			v.Send(`{"type":"subscribe","filters":{},"last":` + last + `}`)
			if got := v.Next(); !strings.Contains(got, `"code":"malformed"`) {
				t.Errorf("last %s: got %s, want malformed", last, got)
			}
		}
		if s := w.M.Stats(); s.Replayed < 60 || s.Replayed+s.Sent != 61 {
			t.Errorf("got %d replayed and %d sent, want 61 together, of which at least 60 replayed", s.Replayed, s.Sent)
		}
	})
}

func TestWithoutAHistoryThereIsNothingToLookBackAt(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithHistory(0))
		w.Publish("a")
		v := w.Connect("shop?last=10&since=1h")
		w.Publish("b")
		if got := v.Next(); got != "b" {
			t.Errorf("got %q, want b", got)
		}
		v.Send(`{"type":"subscribe","filters":{},"last":10}`)
		v.Next()
		w.Publish("c")
		if got := v.Next(); got != "c" {
			t.Errorf("got %q, want c", got)
		}
	})
}

func TestAShutdownFinishesAReplay(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		for i := range 1000 {
			w.PublishAll(mesherstream.Message{Project: "shop", Data: append(fmt.Append(nil, i), make([]byte, 1000)...)})
		}
		v := w.Connect("shop?last=1000").Collect()
		w.Stop()
		w.Eventually("everything has arrived", func() bool { return len(v.Collected()) == 1000 })
	})
}

func TestAReplaySendsTheNewestValueOfAKey(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		say := func(project, level, key, text string) {
			if err := w.M.Broadcast(mesherstream.Message{Project: project, Level: level, Key: key, Data: []byte(text)}); err != nil {
				t.Fatal(err)
			}
		}
		say("shop", "error", "k", "k1")
		say("shop", "error", "l", "l1")
		say("shop", "error", "", "a")
		say("", "error", "k", "all k1") // the messages to all projects have keys of their own
		say("shop", "error", "k", "k2")
		say("shop", "info", "l", "l2")
		say("shop", "error", "", "b")
		say("shop", "error", "k", "k3")
		for path, want := range map[string]string{
			"shop?last=100":             "a,all k1,l2,b,k3",
			"shop?last=100&level=error": "l1,a,all k1,b,k3",
			"shop?last=4&level=error":   "all k1,b,k3",
			"shop?last=1":               "k3",
		} {
			v := w.Connect(path).Collect()
			time.Sleep(time.Second) // of the bubble
			if got := strings.Join(v.Collected(), ","); got != want {
				t.Errorf("%s: got %s, want %s", path, got, want)
			}
			v.Close()
		}
	})
}
