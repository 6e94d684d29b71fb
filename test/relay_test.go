package test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestABroadcastReachesTheClientsOfAllNodesOnceAndInOrder(t *testing.T) {
	streamtest.OverNodes(t, 3, func(_ *streamtest.Exchange, nodes []*streamtest.World) {
		const each = 50
		var viewers []*streamtest.Viewer
		for _, node := range nodes {
			viewers = append(viewers, node.Connect("shop").Collect(), node.Connect("shop?level=error").Collect())
		}
		for i := range each {
			for n, node := range nodes {
				node.Publish(fmt.Sprintf("%d of %d", i, n))
			}
		}
		for _, v := range viewers {
			v.W.Eventually("everything has come", func() bool { return len(v.Collected()) >= each*len(nodes) })
		}
		for _, v := range viewers {
			next := make([]int, len(nodes))
			for _, text := range v.Collected() {
				var i, n int
				if _, err := fmt.Sscanf(text, "%d of %d", &i, &n); err != nil || i != next[n] {
					v.W.Fatalf("a viewer got %q, want number %d of that node", text, next[n])
				}
				next[n]++
			}
		}
		for _, node := range nodes {
			node.Eventually("all is counted", func() bool { return node.M.Stats().RelayReceived == each*2 })
			s := node.M.Stats()
			if s.RelayPublished != each || s.RelayDropped+s.RelayRefused+s.RelayUnwanted+s.RelayMissed != 0 {
				node.Errorf("Stats(): got %+v, want %d published and nothing lost", s.RelayStats, each)
			}
			if s.Broadcasts != each {
				node.Errorf("Broadcasts: got %d, want %d: what comes from other nodes is no call of Broadcast", s.Broadcasts, each)
			}
		}
	})
}

func TestLocalClientsDoNotWaitForTheRelay(t *testing.T) {
	streamtest.OverNodes(t, 2, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		here, there := nodes[0].Connect("shop"), nodes[1].Connect("shop")
		held := make(chan struct{})
		x.Set(func() { x.Publishing = func() error { <-held; return nil } })
		nodes[0].Publish("now")
		if got := here.Next(); got != "now" {
			nodes[0].Errorf("local client: got %q, want now", got)
		}
		if s := nodes[1].M.Stats(); s.Offered != 0 {
			nodes[1].Errorf("Stats() of the other node: got %+v, want nothing offered: the relay is held", s)
		}
		close(held)
		if got := there.Next(); got != "now" {
			nodes[1].Errorf("remote client: got %q, want now", got)
		}
	})
}

func TestABroadcastWithoutAProjectReachesAllProjectsOfAllNodes(t *testing.T) {
	streamtest.OverNodes(t, 2, func(_ *streamtest.Exchange, nodes []*streamtest.World) {
		viewers := []*streamtest.Viewer{nodes[0].Connect("shop"), nodes[1].Connect("blog"), nodes[1].Connect("wiki?level=error")}
		if err := nodes[0].M.Broadcast(mesherstream.Message{Data: []byte("for all")}); err != nil {
			t.Fatal(err)
		}
		if err := nodes[0].M.Broadcast(mesherstream.Message{Level: "debug", Data: []byte("for some")}); err != nil {
			t.Fatal(err)
		}
		if err := nodes[0].M.Broadcast(mesherstream.Message{Level: "error", Data: []byte("for all again")}); err != nil {
			t.Fatal(err)
		}
		for i, want := range [][]string{{"for all", "for some", "for all again"}, {"for all", "for some", "for all again"}, {"for all", "for all again"}} {
			for _, text := range want {
				if got := viewers[i].Next(); got != text {
					t.Errorf("viewer %d: got %q, want %q", i, got, text)
				}
			}
		}
	})
}

func TestANodeGetsOnlyWhatItsClientsFollow(t *testing.T) {
	streamtest.OverNodes(t, 2, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		nodes[0].Connect("shop")
		nodes[1].Connect("blog")
		if got := x.Subscribed("shop") + x.Subscribed("blog"); got != 2 {
			t.Errorf("subscriptions: got %d, want one for each project", got)
		}
		if got := x.Subscribed(""); got != 2 {
			t.Errorf("subscriptions to all projects: got %d, want one for each node", got)
		}
		nodes[0].Publish("for nobody else")
		nodes[0].Eventually("published", func() bool { return nodes[0].M.Stats().RelayPublished == 1 })
		if s := nodes[1].M.Stats(); s.RelayReceived+s.RelayUnwanted != 0 {
			t.Errorf("Stats() of the other node: got %+v, want nothing received", s.RelayStats)
		}
	})
}

func TestMessagesOfTheRelayAreNotRelayedAgain(t *testing.T) {
	streamtest.OverNodes(t, 3, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		for _, node := range nodes {
			node.Connect("shop").Collect()
		}
		nodes[0].Publish("once")
		for _, node := range nodes {
			node.Eventually("delivered", func() bool { return node.M.Stats().Sent == 1 })
		}
		x.Mu.Lock()
		defer x.Mu.Unlock()
		if len(x.Published) != 1 {
			t.Errorf("the relay was given %d messages, want 1", len(x.Published))
		}
	})
}

func TestARelayMayDeliverTwiceAndOutOfOrder(t *testing.T) {
	streamtest.OverNodes(t, 2, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		x.Set(func() { x.Copies = 2 })
		v := nodes[1].Connect("shop")
		for i := range 5 {
			nodes[0].Publish(fmt.Sprint(i))
		}
		nodes[0].Eventually("published", func() bool { return nodes[0].M.Stats().RelayPublished == 5 })
		x.Mu.Lock()
		late := x.Published[2]
		x.Mu.Unlock()
		x.Deliver(late)
		nodes[0].Publish("end")
		for _, want := range []string{"0", "1", "2", "3", "4", "end"} {
			if got := v.Next(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		nodes[1].Eventually("six copies and a late one are refused", func() bool { return nodes[1].M.Stats().RelayRefused == 7 })
	})
}

func TestWhatAMessageSaysOfItsProjectWidensNothing(t *testing.T) {
	streamtest.OverNodes(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		shop, blog := nodes[0].Connect("shop"), nodes[0].Connect("blog")
		x.Mu.Lock()
		sub := x.Subs["shop"][0]
		x.Mu.Unlock()
		for i, project := range []string{"blog", ""} {
			sub.Receive(mesherstream.RelayMessage{Node: "stranger", Seq: uint64(i + 1), Message: mesherstream.Message{Project: project, Data: []byte("for shop")}})
			if got := shop.Next(); got != "for shop" {
				t.Errorf("shop: got %q, want what its subscription brought", got)
			}
		}
		if got := nodes[0].Client(blog).Offered; got != 0 {
			t.Errorf("blog: got %d messages, want none", got)
		}
	})
}

func TestAMessageOfAnotherNodeIsHeldToThisNodesBounds(t *testing.T) {
	streamtest.OverNodes(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		v := nodes[0].Connect("shop")
		for _, data := range [][]byte{make([]byte, 1<<20+1), {0xFF}, []byte("good")} {
			x.Deliver(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop", Data: data}}) // of no node, as a program in another language may send it
		}
		if got := v.Next(); got != "good" {
			t.Errorf("got %.10q, want good", got)
		}
		if s := nodes[0].M.Stats(); s.RelayRefused != 2 || s.RelayReceived != 1 { // Deliver has returned
			t.Errorf("Stats(): got %+v, want 2 refused and 1 received", s.RelayStats)
		}
	})
}

func TestWhatOverflowsTheRelaysQueueIsCountedAndToldOnce(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		node := nodes[0]
		held := make(chan struct{})
		x.Set(func() { x.Publishing = func() error { <-held; return nil } })
		const more = 1000
		begin := time.Now()
		node.Publish("first")
		synctest.Wait() // the relay blocks it
		for i := range relayQueueMessages + more {
			node.Publish(fmt.Sprint(i))
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("Broadcast has waited %v for the relay", waited)
		}
		synctest.Wait()
		s := node.M.Stats()
		if s.RelayDropped != more || s.RelayQueued != relayQueueMessages {
			t.Errorf("Stats(): got %+v, want %d dropped and %d queued", s.RelayStats, more, relayQueueMessages)
		}
		const told, over = "other nodes miss messages of this one", "other nodes receive all messages of this one again"
		if got := node.Logs.Count(told); got != 1 {
			t.Errorf("the log tells it %d times, want once", got)
		}
		close(held)
		time.Sleep(3 * relayTick)
		if got := node.Logs.Count(over); got != 1 {
			t.Errorf("the log tells the end %d times, want once", got)
		}
		want := []string{"first"}
		for i := range relayQueueMessages {
			want = append(want, fmt.Sprint(more+i)) // the newest, in order
		}
		var got []string
		for _, m := range x.Published {
			got = append(got, string(m.Data))
		}
		if !slices.Equal(got, want) {
			t.Errorf("the relay got %d messages, want %d: the first one and the newest, in order", len(got), len(want))
		}

		x.Set(func() { x.Publishing = func() error { return errors.New("no") } })
		node.Publish("lost")
		node.Publish("lost too")
		synctest.Wait()
		if got := node.M.Stats().RelayDropped; got != more+2 {
			t.Errorf("RelayDropped: got %d, want %d", got, more+2)
		}
		if got := node.Logs.Count(told); got != 2 {
			t.Errorf("the log tells it %d times, want once more for a new episode", got)
		}
	})
}

func TestTheRelaysQueueIsBoundedInBytes(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		held := make(chan struct{})
		x.Set(func() { x.Publishing = func() error { <-held; return nil } })
		nodes[0].Publish("first")
		synctest.Wait()
		data := make([]byte, 1<<20)
		for range 20 {
			if err := nodes[0].M.Broadcast(mesherstream.Message{Project: "shop", Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		if s := nodes[0].M.Stats(); s.RelayQueued != 15 || s.RelayDropped != 5 {
			t.Errorf("Stats(): got %+v, want 15 queued, which is the bound of 16 MiB with their headers, and 5 dropped", s.RelayStats)
		}
		close(held)
	})
}

func TestANodeDiscardsWhatNobodyThereWants(t *testing.T) {
	streamtest.OverNodes(t, 2, func(_ *streamtest.Exchange, nodes []*streamtest.World) {
		v := nodes[1].Connect("shop?level=fatal,error&environment=staging")
		say := func(level, environment, text string) {
			if err := nodes[0].M.Broadcast(mesherstream.Message{Project: "shop", Level: level, Environment: environment, Data: []byte(text)}); err != nil {
				t.Fatal(err)
			}
		}
		say("debug", "staging", "a")
		say("error", "production", "b")
		say("error", "staging", "c")
		say("", "", "d")
		for _, want := range []string{"c", "d"} {
			if got := v.Next(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		nodes[1].Eventually("2 are received and 2 unwanted", func() bool {
			s := nodes[1].M.Stats()
			return s.RelayUnwanted == 2 && s.RelayReceived == 2 && s.Offered == 2
		})
		v.Send(`{"type":"subscribe","filters":{"level":"debug"}}`)
		if got := v.Next(); !strings.Contains(got, "filters_updated") {
			t.Fatalf("got %q, want filters_updated", got)
		}
		say("debug", "production", "e")
		if got := v.Next(); got != "e" {
			t.Errorf("after the change: got %q, want e", got)
		}
		if err := nodes[1].M.SetFilter(v.ID, mesherstream.Filter{Levels: []string{"info"}}); err != nil {
			t.Fatal(err)
		}
		say("info", "production", "f")
		if got := v.Next(); got != "f" {
			t.Errorf("after SetFilter: got %q, want f", got)
		}
	})
}

func TestASilentRelaySaysSoOnceAndLocalStreamingGoesOn(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		v := nodes[0].Connect("shop")
		for episode := 1; episode <= 2; episode++ {
			x.Set(func() { x.State.Away = true })
			time.Sleep(5 * relayTick)
			if !nodes[0].M.Stats().RelayAway {
				t.Error("RelayAway: got false, want true")
			}
			nodes[0].Publish("here")
			if got := v.Next(); got != "here" {
				t.Errorf("got %q, want here", got)
			}
			if got := nodes[0].Logs.Count("the relay is away"); got != episode {
				t.Errorf("episode %d: the log tells it %d times", episode, got)
			}
			x.Set(func() { x.State.Away = false })
			time.Sleep(5 * relayTick)
			if got := nodes[0].Logs.Count("the relay is back"); got != episode {
				t.Errorf("episode %d: the log tells the end %d times", episode, got)
			}
		}
	})
}

func TestAManagerThatOnlyPublishesIsStartedByItsFirstBroadcast(t *testing.T) {
	x := streamtest.NewExchange()
	m, err := mesherstream.NewManager(mesherstream.WithRelay(x), mesherstream.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("a")}); err != nil {
		t.Fatalf("Broadcast: %v", err)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatalf("Shutdown: %v", err)
	}
	if len(x.Published) != 1 || x.Made != 0 {
		t.Errorf("got %d published and %d subscriptions, want 1 and none", len(x.Published), x.Made)
	}
	if err := m.Broadcast(mesherstream.Message{Project: "shop"}); !errors.Is(err, mesherstream.ErrClosed) {
		t.Errorf("Broadcast after Shutdown: got %v, want ErrClosed", err)
	}
}
