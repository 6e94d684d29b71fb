package mesherstream

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestABroadcastReachesTheClientsOfAllNodesOnceAndInOrder(t *testing.T) {
	overNodes(t, 3, func(_ *exchange, nodes []*world) {
		const each = 50
		var viewers []*viewer
		for _, node := range nodes {
			viewers = append(viewers, node.connect("shop").collect(), node.connect("shop?level=error").collect())
		}
		for i := range each {
			for n, node := range nodes {
				node.publish(fmt.Sprintf("%d of %d", i, n))
			}
		}
		for _, v := range viewers {
			v.w.eventually("everything has come", func() bool { return len(v.collected()) >= each*len(nodes) })
		}
		for _, v := range viewers {
			next := make([]int, len(nodes))
			for _, text := range v.collected() {
				var i, n int
				if _, err := fmt.Sscanf(text, "%d of %d", &i, &n); err != nil || i != next[n] {
					v.w.Fatalf("a viewer got %q, want number %d of that node", text, next[n])
				}
				next[n]++
			}
		}
		for _, node := range nodes {
			node.eventually("all is counted", func() bool { return node.m.Stats().RelayReceived == each*2 })
			s := node.m.Stats()
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
	overNodes(t, 2, func(x *exchange, nodes []*world) {
		here, there := nodes[0].connect("shop"), nodes[1].connect("shop")
		held := make(chan struct{})
		x.set(func() { x.publishing = func() error { <-held; return nil } })
		nodes[0].publish("now")
		if got := here.next(); got != "now" {
			nodes[0].Errorf("local client: got %q, want now", got)
		}
		if s := nodes[1].m.Stats(); s.Offered != 0 {
			nodes[1].Errorf("Stats() of the other node: got %+v, want nothing offered: the relay is held", s)
		}
		close(held)
		if got := there.next(); got != "now" {
			nodes[1].Errorf("remote client: got %q, want now", got)
		}
	})
}

func TestABroadcastWithoutAProjectReachesAllProjectsOfAllNodes(t *testing.T) {
	overNodes(t, 2, func(_ *exchange, nodes []*world) {
		viewers := []*viewer{nodes[0].connect("shop"), nodes[1].connect("blog"), nodes[1].connect("wiki?level=error")}
		if err := nodes[0].m.Broadcast(Message{Data: []byte("for all")}); err != nil {
			t.Fatal(err)
		}
		if err := nodes[0].m.Broadcast(Message{Level: "debug", Data: []byte("for some")}); err != nil {
			t.Fatal(err)
		}
		if err := nodes[0].m.Broadcast(Message{Level: "error", Data: []byte("for all again")}); err != nil {
			t.Fatal(err)
		}
		for i, want := range [][]string{{"for all", "for some", "for all again"}, {"for all", "for some", "for all again"}, {"for all", "for all again"}} {
			for _, text := range want {
				if got := viewers[i].next(); got != text {
					t.Errorf("viewer %d: got %q, want %q", i, got, text)
				}
			}
		}
	})
}

func TestANodeGetsOnlyWhatItsClientsFollow(t *testing.T) {
	overNodes(t, 2, func(x *exchange, nodes []*world) {
		nodes[0].connect("shop")
		nodes[1].connect("blog")
		if got := x.subscribed("shop") + x.subscribed("blog"); got != 2 {
			t.Errorf("subscriptions: got %d, want one for each project", got)
		}
		if got := x.subscribed(""); got != 2 {
			t.Errorf("subscriptions to all projects: got %d, want one for each node", got)
		}
		nodes[0].publish("for nobody else")
		nodes[0].eventually("published", func() bool { return nodes[0].m.Stats().RelayPublished == 1 })
		if s := nodes[1].m.Stats(); s.RelayReceived+s.RelayUnwanted != 0 {
			t.Errorf("Stats() of the other node: got %+v, want nothing received", s.RelayStats)
		}
	})
}

func TestMessagesOfTheRelayAreNotRelayedAgain(t *testing.T) {
	overNodes(t, 3, func(x *exchange, nodes []*world) {
		for _, node := range nodes {
			node.connect("shop").collect()
		}
		nodes[0].publish("once")
		for _, node := range nodes {
			node.eventually("delivered", func() bool { return node.m.Stats().Sent == 1 })
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if len(x.published) != 1 {
			t.Errorf("the relay was given %d messages, want 1", len(x.published))
		}
	})
}

func TestARelayMayDeliverTwiceAndOutOfOrder(t *testing.T) {
	overNodes(t, 2, func(x *exchange, nodes []*world) {
		x.set(func() { x.copies = 2 })
		v := nodes[1].connect("shop")
		for i := range 5 {
			nodes[0].publish(fmt.Sprint(i))
		}
		nodes[0].eventually("published", func() bool { return nodes[0].m.Stats().RelayPublished == 5 })
		x.mu.Lock()
		late := x.published[2]
		x.mu.Unlock()
		x.deliver(late)
		nodes[0].publish("end")
		for _, want := range []string{"0", "1", "2", "3", "4", "end"} {
			if got := v.next(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		nodes[1].eventually("six copies and a late one are refused", func() bool { return nodes[1].m.Stats().RelayRefused == 7 })
	})
}

func TestWhatAMessageSaysOfItsProjectWidensNothing(t *testing.T) {
	overNodes(t, 1, func(x *exchange, nodes []*world) {
		shop, blog := nodes[0].connect("shop"), nodes[0].connect("blog")
		x.mu.Lock()
		sub := x.subs["shop"][0]
		x.mu.Unlock()
		for i, project := range []string{"blog", ""} {
			sub.receive(RelayMessage{Node: "stranger", Seq: uint64(i + 1), Message: Message{Project: project, Data: []byte("for shop")}})
			if got := shop.next(); got != "for shop" {
				t.Errorf("shop: got %q, want what its subscription brought", got)
			}
		}
		if got := nodes[0].client(blog).Offered; got != 0 {
			t.Errorf("blog: got %d messages, want none", got)
		}
	})
}

func TestAMessageOfAnotherNodeIsHeldToThisNodesBounds(t *testing.T) {
	overNodes(t, 1, func(x *exchange, nodes []*world) {
		v := nodes[0].connect("shop")
		for _, data := range [][]byte{make([]byte, 1<<20+1), {0xFF}, []byte("good")} {
			x.deliver(RelayMessage{Message: Message{Project: "shop", Data: data}}) // of no node, as a program in another language may send it
		}
		if got := v.next(); got != "good" {
			t.Errorf("got %.10q, want good", got)
		}
		if s := nodes[0].m.Stats(); s.RelayRefused != 2 || s.RelayReceived != 1 { // deliver has returned
			t.Errorf("Stats(): got %+v, want 2 refused and 1 received", s.RelayStats)
		}
	})
}

func TestWhatOverflowsTheRelaysQueueIsCountedAndToldOnce(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		node := nodes[0]
		held := make(chan struct{})
		x.set(func() { x.publishing = func() error { <-held; return nil } })
		const more = 1000
		begin := time.Now()
		node.publish("first")
		synctest.Wait() // the relay holds it
		for i := range relayQueueMessages + more {
			node.publish(fmt.Sprint(i))
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("Broadcast has waited %v for the relay", waited)
		}
		synctest.Wait()
		s := node.m.Stats()
		if s.RelayDropped != more || s.RelayQueued != relayQueueMessages {
			t.Errorf("Stats(): got %+v, want %d dropped and %d queued", s.RelayStats, more, relayQueueMessages)
		}
		const told, over = "other nodes miss messages of this one", "other nodes get all messages of this one again"
		if got := node.logs.count(told); got != 1 {
			t.Errorf("the log tells it %d times, want once", got)
		}
		close(held)
		time.Sleep(3 * relayTick)
		if got := node.logs.count(over); got != 1 {
			t.Errorf("the log tells the end %d times, want once", got)
		}
		want := []string{"first"}
		for i := range relayQueueMessages {
			want = append(want, fmt.Sprint(more+i)) // the newest, in order
		}
		var got []string
		for _, m := range x.published {
			got = append(got, string(m.Data))
		}
		if !slices.Equal(got, want) {
			t.Errorf("the relay got %d messages, want %d: the first one and the newest, in order", len(got), len(want))
		}

		x.set(func() { x.publishing = func() error { return errors.New("no") } })
		node.publish("lost")
		node.publish("lost too")
		synctest.Wait()
		if got := node.m.Stats().RelayDropped; got != more+2 {
			t.Errorf("RelayDropped: got %d, want %d", got, more+2)
		}
		if got := node.logs.count(told); got != 2 {
			t.Errorf("the log tells it %d times, want once more for a new episode", got)
		}
	})
}

func TestTheRelaysQueueIsBoundedInBytes(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		held := make(chan struct{})
		x.set(func() { x.publishing = func() error { <-held; return nil } })
		nodes[0].publish("first")
		synctest.Wait()
		data := make([]byte, 1<<20)
		for range 20 {
			if err := nodes[0].m.Broadcast(Message{Project: "shop", Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		if s := nodes[0].m.Stats(); s.RelayQueued != 15 || s.RelayDropped != 5 {
			t.Errorf("Stats(): got %+v, want 15 queued, which is the bound of 16 MiB with their headers, and 5 dropped", s.RelayStats)
		}
		close(held)
	})
}

func TestANodeDiscardsWhatNobodyThereWants(t *testing.T) {
	overNodes(t, 2, func(_ *exchange, nodes []*world) {
		v := nodes[1].connect("shop?level=fatal,error&environment=staging")
		say := func(level, environment, text string) {
			if err := nodes[0].m.Broadcast(Message{Project: "shop", Level: level, Environment: environment, Data: []byte(text)}); err != nil {
				t.Fatal(err)
			}
		}
		say("debug", "staging", "a")
		say("error", "production", "b")
		say("error", "staging", "c")
		say("", "", "d")
		for _, want := range []string{"c", "d"} {
			if got := v.next(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		nodes[1].eventually("2 are received and 2 unwanted", func() bool {
			s := nodes[1].m.Stats()
			return s.RelayUnwanted == 2 && s.RelayReceived == 2 && s.Offered == 2
		})
		v.send(`{"type":"subscribe","filters":{"level":"debug"}}`)
		if got := v.next(); !strings.Contains(got, "filters_updated") {
			t.Fatalf("got %q, want filters_updated", got)
		}
		say("debug", "production", "e")
		if got := v.next(); got != "e" {
			t.Errorf("after the change: got %q, want e", got)
		}
		if err := nodes[1].m.SetFilter(v.id, Filter{Levels: []string{"info"}}); err != nil {
			t.Fatal(err)
		}
		say("info", "production", "f")
		if got := v.next(); got != "f" {
			t.Errorf("after SetFilter: got %q, want f", got)
		}
	})
}

func TestASilentRelaySaysSoOnceAndLocalStreamingGoesOn(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		v := nodes[0].connect("shop")
		for episode := 1; episode <= 2; episode++ {
			x.set(func() { x.status.Away = true })
			time.Sleep(5 * relayTick)
			if !nodes[0].m.Stats().RelayAway {
				t.Error("RelayAway: got false, want true")
			}
			nodes[0].publish("here")
			if got := v.next(); got != "here" {
				t.Errorf("got %q, want here", got)
			}
			if got := nodes[0].logs.count("the relay is away"); got != episode {
				t.Errorf("episode %d: the log tells it %d times", episode, got)
			}
			x.set(func() { x.status.Away = false })
			time.Sleep(5 * relayTick)
			if got := nodes[0].logs.count("the relay is back"); got != episode {
				t.Errorf("episode %d: the log tells the end %d times", episode, got)
			}
		}
	})
}

func TestAManagerThatOnlyPublishesIsStartedByItsFirstBroadcast(t *testing.T) {
	x := newExchange()
	m, err := NewManager(WithRelay(x), WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Broadcast(Message{Project: "shop", Data: []byte("a")}); err != nil {
		t.Fatalf("Broadcast: %v", err)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatalf("Shutdown: %v", err)
	}
	if len(x.published) != 1 || x.made != 0 {
		t.Errorf("got %d published and %d subscriptions, want 1 and none", len(x.published), x.made)
	}
	if err := m.Broadcast(Message{Project: "shop"}); !errors.Is(err, ErrClosed) {
		t.Errorf("Broadcast after Shutdown: got %v, want ErrClosed", err)
	}
}
