package test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

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
