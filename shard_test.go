package mesherstream

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// sink is a link that accepts everything immediately.
type sink struct{}

func (sink) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	return len(p) + len(then), 0, nil
}

func (sink) Begin() {}

func (sink) Progressed() bool { return false }

func (sink) Unread() bool     { return false }
func (sink) Unanswered() bool { return false }

func (sink) Ready() {}

func (sink) Retry() {}

func (sink) Resume() {}

func (sink) Close() {}

// wall is a link that accepts nothing.
type wall struct{ sink }

func (wall) Write([]byte, []int, []byte) (sent, held int, err error) { return 0, 0, nil }

// newTestShard returns a shard without a goroutine, whose turns the caller takes, with n clients. They are not pinged,
// and so have no window.
func newTestShard(tb testing.TB, n int, l link.Link) *shard {
	tb.Helper()
	m, err := NewManager(WithLogger(slog.New(slog.DiscardHandler)), WithPingInterval(0), WithIdleTimeout(0))
	if err != nil {
		tb.Fatal(err)
	}
	s := m.shards[0]
	s.start(newHookQueue(Hooks{}, m.cfg.logger, func(ClientID) {}), nil)
	for i := range n {
		c := &client{id: ClientID(i * len(m.shards)), shard: s, link: l, terms: grantedAll(Subscription{Project: "shop"})}
		if err := s.register(c); err != nil {
			tb.Fatal(err)
		}
	}
	if n > 0 {
		s.take()
		s.takeTurn()
	}
	return s
}

// admit lets a client of each filter join.
func admit(tb testing.TB, s *shard, filters []Filter, project func(i int) string) []*client {
	tb.Helper()
	clients := make([]*client, len(filters))
	for i, f := range filters {
		f, err := f.normalize()
		if err != nil {
			tb.Fatal(err)
		}
		clients[i] = &client{id: ClientID(s.totals.Connects) + ClientID(i), shard: s, link: sink{}, terms: grantedAll(Subscription{Project: project(i), Filter: f})}
		if err := s.register(clients[i]); err != nil {
			tb.Fatal(err)
		}
	}
	s.take()
	s.takeTurn()
	return clients
}

// grantedAll returns the terms of a client that is granted everything.
func grantedAll(sub Subscription) terms { return termsOf(sub, Filter{}) }

// replies reports whether a reply waits to be sent to a client.
func replies(c *client) bool { return c.out != nil && c.out.reply != nil }

// agree makes a client one with the protocol after it has joined, as if it had received and acknowledged hello.
func agree(c *client) {
	c.agree()
	c.acks = acksProbes
	c.resetWindow()
}

// startManager starts a manager that has no sockets and ends with the test.
func startManager(tb testing.TB, opts ...Option) *Manager {
	tb.Helper()
	m, err := NewManager(append([]Option{WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	if err := m.start(true); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond) // no client here answers a close frame
		defer cancel()
		_ = m.Shutdown(ctx)
	})
	return m
}

// connect does for a client what Manager.serve does, without a connection.
func connect(tb testing.TB, m *Manager, sub Subscription, open func(*client) link.Link) *client {
	tb.Helper()
	p, err := m.reserve("")
	if err != nil {
		tb.Fatal(err)
	}
	registered := func() {}
	if m.relaying != nil {
		registered = m.relaying.follow(sub.Project)
	}
	id := ClientID(m.lastID.Add(1))
	c := &client{id: id, shard: m.shardOf(id), place: p, connectedAt: time.Now(), terms: grantedAll(sub)}
	c.markSeen(c.connectedAt)
	c.link = open(c)
	if err := c.shard.register(c); err != nil {
		tb.Fatal(err)
	}
	registered()
	return c
}

// leave removes a client, and returns when the client is gone.
func leave(c *client) { c.shard.ask(func() { c.remove(nil) }) }

func openSink(*client) link.Link { return sink{} }

// waitFor waits for a condition. In a bubble, it waits on the fake clock.
func waitFor(tb testing.TB, m *Manager, what string, cond func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			tb.Fatalf("still not: %s; %+v", what, m.Stats())
		}
		time.Sleep(time.Millisecond)
	}
}

// publishTurn publishes m times and takes one turn.
func publishTurn(tb testing.TB, s *shard, m *message, times int) {
	for range times {
		if err := s.publish(m); err != nil {
			tb.Fatal(err)
		}
	}
	s.take()
	s.takeTurn()
}

// inboxes runs a scenario with a shard that has clients of the projects a and b and of the one without a name. The
// scenario takes the shard's turns.
func inboxes(t *testing.T, opts []Option, scenario func(t *testing.T, s *shard)) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewManager(opts...)
		if err != nil {
			t.Fatal(err)
		}
		s := m.shards[0]
		s.start(newHookQueue(Hooks{}, m.cfg.logger, func(ClientID) {}), nil)
		for i, project := range []string{"a", "b", ""} {
			c := &client{id: ClientID(i * len(m.shards)), shard: s, link: sink{}, terms: grantedAll(Subscription{Project: project})}
			if err := s.register(c); err != nil {
				t.Fatal(err)
			}
		}
		s.take()
		s.takeTurn()
		scenario(t, s)
	})
}

// waits reports whether publishing to a project has to wait for the next turn. It then takes that turn.
func waits(t *testing.T, s *shard, project string, size int) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.publish(newMessage(&Message{Project: project, Data: make([]byte, size)})); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	select {
	case <-done:
		return false
	default:
	}
	s.take()
	s.takeTurn()
	<-done
	return true
}

func TestPublishingWaitsForATurnOnceTheClientsOfAProjectGetAWholeBuffer(t *testing.T) {
	const most = 10
	for name, c := range map[string]struct {
		before func(i int) string // the project of each message
		count  int
		then   string
		waits  bool
	}{
		"the same project":          {func(int) string { return "a" }, most, "a", true},
		"one less of it":            {func(int) string { return "a" }, most - 1, "a", false},
		"another project":           {func(int) string { return "a" }, most, "b", false},
		"messages for all":          {func(int) string { return "" }, most, "b", true},
		"some for all":              {func(i int) string { return []string{"", "a"}[i%2] }, most, "a", true},
		"one for all behind others": {func(i int) string { return []string{"a", "b"}[i%2] }, most, "", true},
		"nobody's":                  {func(int) string { return "nobody's" }, 10 * most, "a", false},
	} {
		t.Run(name, func(t *testing.T) {
			inboxes(t, []Option{WithMaxBuffer(most)}, func(t *testing.T, s *shard) {
				for range 2 { // the second time, after a turn
					for i := range c.count {
						if waits(t, s, c.before(i), 1) {
							t.Fatalf("message %d waits", i)
						}
					}
					if got := waits(t, s, c.then, 1); got != c.waits {
						t.Errorf("the next one waits: got %v, want %v", got, c.waits)
					}
					s.take()
					s.takeTurn()
				}
				if st := s.stats(); st.Dropped > 0 {
					t.Errorf("%d messages were dropped", st.Dropped)
				}
			})
		})
	}
}

func TestPublishingWaitsForATurnOnceTheClientsOfAProjectGetTheBytesOfABuffer(t *testing.T) {
	inboxes(t, []Option{WithMaxBufferBytes(1000)}, func(t *testing.T, s *shard) {
		for _, c := range []struct {
			project string
			size    int
			waits   bool
		}{{"a", 1000, false}, {"b", 500, false}, {"b", 400, false}, {"b", 100, true}, {"b", 900, true}} {
			if got := waits(t, s, c.project, c.size); got != c.waits {
				t.Errorf("%d bytes to %s: got %v, want %v", c.size, c.project, got, c.waits)
			}
		}
	})
}

func TestAnInboxIsBoundedWhateverTheProjects(t *testing.T) {
	inboxes(t, []Option{WithMaxBuffer(inboxMessages / 2)}, func(t *testing.T, s *shard) {
		for i := range inboxMessages {
			if waits(t, s, []string{"a", "b"}[i%2], 1) {
				t.Fatalf("message %d waits", i)
			}
		}
		s.mu.Lock()
		for project := range map[string]bool{"a": true, "b": true, "": true} {
			if s.hasRoom(project, 0) {
				t.Errorf("there is room for %q behind %d messages", project, inboxMessages)
			}
		}
		s.mu.Unlock()
	})
	inboxes(t, nil, func(t *testing.T, s *shard) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.inbox.all = load{1, inboxBytes}
		if s.hasRoom("a", 1) {
			t.Errorf("there is room for a byte behind %d bytes", inboxBytes)
		}
	})
}

// gate is a link to a kernel that accepts whole frames while it is open, and never reports when that is.
type gate struct {
	sink
	client *client
	open   bool
	tries  int
	got    bytes.Buffer
}

func (g *gate) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	g.tries++
	if g.open {
		g.got.Write(p)
		sent = len(p) + len(then)
	}
	return sent, 0, nil
}

func (g *gate) Retry() { g.client.Handle(link.Event{Kind: link.Writable}) }

func TestNothingIsDroppedWhileTheKernelHasRoom(t *testing.T) {
	s := newTestShard(t, 1, &gate{})
	c := s.everyone()[0]
	g := c.link.(*gate)
	g.client = c
	var want bytes.Buffer
	turn := func(first, end int) {
		for i := first; i < end; i++ {
			m := newMessage(&Message{Project: "shop", Data: fmt.Append(nil, i)})
			want.Write(m.frame)
			publishTurn(t, s, m, 1)
		}
	}

	turn(0, 100) // refused once, and then they wait
	if g.tries != 1 || c.queued() != 100 {
		t.Fatalf("behind a closed gate: got %d tries and %d messages waiting, want 1 and 100", g.tries, c.queued())
	}
	g.open = true // without a report
	turn(100, 150)
	if c.snapshot().Dropped != 0 || c.sent != 150 || !bytes.Equal(g.got.Bytes(), want.Bytes()) {
		t.Errorf("after the gate has opened: got %d sent and %d dropped, want 150 and 0, in order", c.sent, c.snapshot().Dropped)
	}

	g.open, g.tries = false, 0
	turn(150, 1000)
	if g.tries != 2 || c.snapshot().Dropped != 750 {
		t.Errorf("to a client that is slow: got %d tries and %d dropped, want 2 and 750", g.tries, c.snapshot().Dropped)
	}
}

// recorder is a link that notes what each write brings.
type recorder struct {
	sink
	writes [][]byte
}

func (r *recorder) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p) + len(then), 0, nil
}

// How many writes and wake-ups a hundred messages a second take.
func TestAPauseHasOneWriteAndOneWakeUp(t *testing.T) {
	for _, d := range []time.Duration{20 * time.Millisecond, 100 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			m := startManager(t, WithCoalescing(d), WithPingInterval(0), WithIdleTimeout(0), WithDrainInterval(time.Hour))
			r := new(recorder)
			s := connect(t, m, Subscription{Project: "shop"}, func(*client) link.Link { return r }).shard
			var want bytes.Buffer
			const messages = 1000
			var before uint64
			s.ask(func() { before = s.turns })
			for i := range messages {
				msg := Message{Project: "shop", Data: fmt.Append(nil, i)}
				want.Write(newMessage(&msg).frame)
				if err := m.Broadcast(msg); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				time.Sleep(10*time.Millisecond + 1)
			}
			time.Sleep(time.Second)
			var after uint64
			s.ask(func() { after = s.turns })
			pauses := messages * 10 * time.Millisecond / d
			if got := len(r.writes); got < int(pauses)-1 || got > int(pauses)+1 || !bytes.Equal(bytes.Join(r.writes, nil), want.Bytes()) {
				t.Errorf("with %v: got %d writes, want %d, and all messages in order", d, got, pauses)
			}
			if first := newMessage(&Message{Data: []byte("0")}).frame; !bytes.Equal(r.writes[0], first) {
				t.Errorf("the first write: got %q, want %q", r.writes[0], first)
			}
			if got := int(after - before); got > int(pauses)+5 {
				t.Errorf("with %v: got %d turns, want one for each of %d pauses", d, got, pauses)
			}
		})
	}
}

// onlooker is a link that notes for each write whether its shard is one of those that write little.
type onlooker struct {
	sink
	client *client
	counts []bool
}

func (w *onlooker) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	w.counts = append(w.counts, len(w.client.shard.writing) > 0)
	return len(p) + len(then), 0, nil
}

func TestAShardThatHasLittleToWriteCountsAsOne(t *testing.T) {
	size := func(n int) []*message {
		return []*message{newMessage(&Message{Project: "shop", Data: bytes.Repeat([]byte("x"), n)})}
	}
	for name, c := range map[string]struct {
		clients  int // of one of two shards
		pause    time.Duration
		messages []*message
		want     bool
	}{
		"one message":               {1, 0, size(512), true},
		"so many clients":           {littleWrites / 2, 0, size(512), true},
		"more clients":              {littleWrites/2 + 1, 0, size(512), false},
		"messages of so many bytes": {1, 0, slices.Concat(size(littleBytes/2-100), size(littleBytes/2-100)), true},
		"messages of more bytes":    {1, 0, slices.Concat(size(littleBytes/2), size(littleBytes/2)), false},
		"after a pause":             {1, time.Second, size(512), true},
		"much after a pause":        {1, time.Second, slices.Concat(size(littleBytes/2), size(littleBytes/2)), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestShard(t, c.clients, sink{})
				s.cfg.shards, s.cfg.coalescing = 2, c.pause
				defer s.forgetPauses()
				w := &onlooker{client: s.everyone()[0]}
				w.client.link = w
				want := []bool{c.want}
				if c.pause > 0 {
					publishTurn(t, s, size(1)[0], 1)
					want = []bool{true, c.want}
				}
				for _, m := range c.messages {
					if err := s.publish(m); err != nil {
						t.Fatal(err)
					}
				}
				s.take()
				s.takeTurn()
				if c.pause > 0 {
					time.Sleep(c.pause)
					synctest.Wait() // for the alarm
					s.take()
					s.takeTurn()
				}
				if !slices.Equal(w.counts, want) {
					t.Errorf("got %v, want %v", w.counts, want)
				}
			})
		})
	}
}

// A shard that writes a backlog, which may be much, makes no other one wait.
func TestABacklogIsNotLittleToWrite(t *testing.T) {
	s := newTestShard(t, 1, sink{})
	s.cfg.shards = 2
	c := s.everyone()[0]
	w := &onlooker{client: c}
	c.link = w
	c.buffer(newMessage(&Message{Data: []byte("1")}))
	m := newMessage(&Message{Project: "shop", Data: []byte("2")})
	publishTurn(t, s, m, 1)
	publishTurn(t, s, m, 1)
	if want := []bool{false, true}; !slices.Equal(w.counts, want) || c.sent != 3 {
		t.Errorf("with a backlog, and without one: got %v and %d messages sent, want %v and 3", w.counts, c.sent, want)
	}
}

// A group that holds nothing costs no turn, and no timer runs for it.
func TestAPauseInWhichNothingIsPublishedWakesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startManager(t, WithCoalescing(time.Second), WithPingInterval(0), WithIdleTimeout(0), WithDrainInterval(time.Hour))
		s := connect(t, m, Subscription{Project: "shop"}, openSink).shard
		if err := m.Broadcast(Message{Project: "shop", Data: []byte("1")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var before, after uint64
		s.ask(func() { before = s.turns })
		time.Sleep(30 * time.Minute)
		s.ask(func() { after = s.turns })
		if after != before+1 { // that of the question
			t.Errorf("got %d turns in half an hour, want none", after-before-1)
		}
	})
}

// A message that waits for an alarm is taken before everything else. One that is published after a join must not wait, even
// if the shard has not woken up yet.
func TestNothingWaitsForAnAlarmBehindAJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestShard(t, 1, sink{})
		s.cfg.coalescing = time.Second
		defer s.forgetPauses()
		publish := func(text string) {
			if err := s.publish(newMessage(&Message{Project: "shop", Data: []byte(text)})); err != nil {
				t.Fatal(err)
			}
		}
		for _, text := range []string{"1", "2"} {
			publish(text)
			s.take()
			s.takeTurn()
		}
		s.sleeps = true // as take leaves it
		if publish("3"); s.inbox.waited != 1 {
			t.Fatalf("got %d messages waiting for the alarm, want 1", s.inbox.waited)
		}
		c := &client{id: 100, shard: s, link: sink{}, terms: grantedAll(Subscription{Project: "shop"})}
		if err := s.register(c); err != nil {
			t.Fatal(err)
		}
		if publish("4"); s.inbox.waited != 1 {
			t.Errorf("got %d messages waiting for the alarm, want the 1 that is older than the join", s.inbox.waited)
		}
		s.take()
		s.takeTurn()
		if n, _ := c.pendingLoad(); n != 1 {
			t.Errorf("got %d messages for the client that has joined, want 1", n)
		}
	})
}

// pauseViewer is a client of a play with pauses, and its link.
type pauseViewer struct {
	sink
	client *client
	level  string
	want   []int // the messages that it is to receive
	left   bool

	mu  sync.Mutex
	got []int
	at  []time.Time // when
}

func (v *pauseViewer) Write(p []byte, lengths []int, then []byte) (sent, held int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if lengths == nil {
		lengths = []int{len(p)}
	}
	rest := p
	for _, n := range lengths {
		m := message{frame: rest[:n]}
		rest = rest[n:]
		if number, _, ok := strings.Cut(string(m.payload()), " "); ok {
			i, _ := strconv.Atoi(number)
			v.got, v.at = append(v.got, i), append(v.at, time.Now())
		}
	}
	return len(p) + len(then), 0, nil
}

// pausePlay plays chance with the goroutines of a manager, in a bubble: viewers come, leave, change their filters and have
// messages of their own; the manager is asked, shut down and started again; the last viewer of a project leaves, and another
// one comes. Whoever stays receives every message for it, in order, and no later than a pause after its publication.
type pausePlay struct {
	*testing.T
	rnd     *rand.Rand
	m       *Manager
	d       time.Duration
	viewers []*pauseViewer
	sentAt  []time.Time // the messages; zero for those of BufferMessage, which wait for a drain
	waited  int         // how often a message waited in an inbox
}

var pauseLevels = []string{"", "x", "y"}

func (p *pausePlay) join() {
	v := &pauseViewer{level: pauseLevels[p.rnd.IntN(3)]}
	sub := Subscription{Project: []string{"a", "b"}[p.rnd.IntN(2)]}
	if v.level != "" {
		sub.Levels = []string{v.level}
	}
	synctest.Wait() // a message of the same instant may be for it or not
	v.client = connect(p.T, p.m, sub, func(*client) link.Link { return v })
	p.viewers = append(p.viewers, v)
}

// present lists the viewers that have not left.
func (p *pausePlay) present() []*pauseViewer {
	return slices.DeleteFunc(slices.Clone(p.viewers), func(v *pauseViewer) bool { return v.left })
}

func (p *pausePlay) publish() {
	msg := Message{Project: []string{"a", "a", "b", ""}[p.rnd.IntN(4)], Level: pauseLevels[p.rnd.IntN(3)]}
	msg.Data = fmt.Appendf(nil, "%d %s", len(p.sentAt), strings.Repeat("x", p.rnd.IntN(40)/39*p.rnd.IntN(40_000)))
	for _, v := range p.present() {
		if (msg.Project == "" || msg.Project == v.client.grant.Project) && (msg.Level == "" || v.level == "" || v.level == msg.Level) {
			v.want = append(v.want, len(p.sentAt))
		}
	}
	p.sentAt = append(p.sentAt, time.Now())
	if err := p.m.Broadcast(msg); err != nil {
		p.Fatal(err)
	}
}

// leave lets a viewer's connection break.
func (p *pausePlay) leave(v *pauseViewer) {
	v.left = true
	v.client.Post(link.Event{Kind: link.Failed, Err: io.EOF})
}

func (p *pausePlay) step() {
	present := p.present()
	some := func(do func(*pauseViewer)) {
		if len(present) > 0 {
			do(present[p.rnd.IntN(len(present))])
		}
	}
	switch k := p.rnd.IntN(40); k {
	default:
		p.publish()
	case 20, 21:
		p.join()
	case 22:
		some(p.leave)
	case 23:
		some(func(v *pauseViewer) {
			f := Filter{Levels: []string{pauseLevels[p.rnd.IntN(3)]}}
			switch err := p.m.SetFilter(v.client.id, f); {
			case err == nil:
				if v.level = f.Levels[0]; v.level == "" && v.client.grant.Levels != nil {
					v.level = v.client.grant.Levels[0]
				}
			case !errors.Is(err, ErrNotGranted):
				p.Fatal(err)
			}
		})
	case 24:
		p.m.Stats()
	case 25:
		p.m.DrainBuffers()
	case 26:
		some(func(v *pauseViewer) {
			v.want = append(v.want, len(p.sentAt))
			if err := p.m.BufferMessage(v.client.id, fmt.Appendf(nil, "%d ", len(p.sentAt))); err != nil {
				p.Fatal(err)
			}
			p.sentAt = append(p.sentAt, time.Time{})
		})
	case 27:
		synctest.Wait()
	case 28:
		if p.rnd.IntN(4) == 0 {
			for _, v := range present {
				p.leave(v)
			}
			if p.rnd.IntN(2) == 0 {
				if err := p.m.Shutdown(p.Context()); err != nil {
					p.Fatal(err)
				}
				if err := p.m.start(true); err != nil {
					p.Fatal(err)
				}
			}
			p.join()
		}
	case 30, 31, 32, 33, 34, 35, 36, 37, 38, 39:
		time.Sleep(time.Duration(p.rnd.Int64N(int64(p.d)) / []int64{20, 4, 1}[k%3]))
	}
	for _, s := range p.m.shards {
		s.mu.Lock()
		p.waited += s.inbox.waited
		s.mu.Unlock()
	}
}

// check compares what each viewer has received with what it was to receive.
func (p *pausePlay) check() {
	whole := p.m.Stats().Dropped == 0 // a small buffer may drop messages of BufferMessage
	for i, v := range p.viewers {
		v.mu.Lock()
		if want := v.want[:min(len(v.want), len(v.got))]; whole && (!slices.Equal(v.got, want) || !v.left && len(v.got) < len(v.want)) {
			p.Errorf("viewer %d: got %v, want %v", i, v.got, v.want)
		}
		for k, number := range v.got {
			if sent := p.sentAt[number]; !sent.IsZero() && v.at[k].Sub(sent) > p.d {
				p.Errorf("viewer %d: got message %d after %v, want it after at most %v", i, number, v.at[k].Sub(sent), p.d)
			}
		}
		v.mu.Unlock()
	}
	for _, s := range p.m.shards {
		s.ask(func() {
			pausing := func(groups []*group) (n int) {
				for _, g := range groups {
					if g.pauses {
						n++
					}
				}
				return n
			}
			if n := pausing(s.everyGroup.groups); n != s.everyGroup.pausing {
				p.Errorf("%d groups pause, and %d are counted", n, s.everyGroup.pausing)
			}
			for project, a := range s.projects {
				if n := pausing(a.groups); n != a.pausing {
					p.Errorf("%d groups of %q pause, and %d are counted", n, project, a.pausing)
				}
			}
		})
	}
}

func TestWhateverHappensInPausesEveryMessageArrivesInTime(t *testing.T) {
	waited := 0
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			p := &pausePlay{T: t, rnd: rnd, d: []time.Duration{time.Millisecond, 20 * time.Millisecond, time.Second}[seed%3]}
			p.m = startManager(t, WithCoalescing(p.d), WithPingInterval(0), WithIdleTimeout(0), WithMaxBuffer([]int{1000, 5, 2}[rnd.IntN(3)]),
				WithDrainInterval([]time.Duration{time.Hour, 50 * time.Millisecond}[rnd.IntN(2)]))
			for range 3 {
				p.join()
			}
			for range 300 {
				p.step()
			}
			time.Sleep(2 * p.d)
			p.m.DrainBuffers()
			synctest.Wait()
			p.check()
			waited += p.waited
		})
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
	if waited == 0 {
		t.Error("no message has waited in an inbox")
	}
}

// burst returns messages to the project shop.
func burst(first, end int) (list []*message) {
	for i := first; i < end; i++ {
		list = append(list, newMessage(&Message{Project: "shop", Data: fmt.Append(nil, i)}))
	}
	return list
}

// A turn offers a client no more than its buffer holds, also if its group holds messages before that. So a client whose
// link accepts nothing for the length of a turn loses nothing.
func TestAGroupHoldsNoMoreThanABuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestShard(t, 1, &gate{open: true})
		s.cfg.coalescing = time.Second
		c := s.everyone()[0]
		g := c.link.(*gate)
		g.client = c
		var want bytes.Buffer
		turn := func(messages []*message, sent int) {
			t.Helper()
			for _, m := range messages {
				want.Write(m.frame)
				if err := s.publish(m); err != nil {
					t.Fatal(err)
				}
			}
			g.open = false
			s.tick(false, true) // a turn, whatever is published
			s.take()
			s.takeTurn()
			g.open = true
			g.Retry()
			if int(c.sent) != sent || c.snapshot().Dropped > 0 {
				t.Fatalf("got %d sent, %d dropped and %d pending, want %d and none dropped", c.sent, c.snapshot().Dropped, len(c.pending()), sent)
			}
		}
		turn(burst(0, 1), 1)       // after silence
		turn(burst(1, 61), 1)      // held
		turn(burst(61, 101), 1)    // as many as a buffer holds
		turn(burst(101, 201), 101) // the held ones leave
		time.Sleep(time.Second - 1)
		turn(nil, 101)
		time.Sleep(time.Nanosecond)
		turn(nil, 201) // with the end of the pause that the first one has begun
		turn(burst(201, 301), 201)
		time.Sleep(time.Second)
		turn(burst(301, 401), 301) // the pause is over, and the others are fresh
		time.Sleep(time.Second - 1)
		turn(nil, 301)
		time.Sleep(time.Nanosecond)
		turn(nil, 401)
		if !bytes.Equal(g.got.Bytes(), want.Bytes()) {
			t.Error("what was sent is not what was published")
		}
	})
}

// A late gate is one that opens by itself after some tries.
type lateGate struct {
	gate
	closed int // how many tries it refuses
}

func (g *lateGate) Write(p []byte, lengths []int, then []byte) (sent, held int, err error) {
	g.open = g.tries >= g.closed
	return g.gate.Write(p, lengths, then)
}

// A client that is closed because it would miss a message receives nothing of what its group holds after that message, also
// if its link accepts something again just then. And the others receive what they would receive without it.
func TestAClientThatIsTooSlowReceivesNothingAfterWhatItMisses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestShard(t, 3, new(recorder))
		s.cfg.coalescing, s.limits.overflow = time.Second, Disconnect
		clients := slices.Clone(s.groups[(&Subscription{Project: "shop"}).key()].clients)
		slow, g := clients[1], &lateGate{closed: 2} // the first write, and the one that is to make room
		g.client, slow.link = slow, g
		fast := []*recorder{new(recorder), new(recorder)}
		clients[0].link, clients[2].link = fast[0], fast[1]
		turn := func(messages []*message) {
			for _, m := range messages {
				if err := s.publish(m); err != nil {
					t.Fatal(err)
				}
			}
			s.take()
			s.takeTurn()
		}
		all := burst(0, 201)
		turn(all[:100])    // the buffer of the slow one is full
		turn(all[100:160]) // held
		turn(all[160:])    // more than a buffer holds, so the held ones leave, and these are held
		time.Sleep(time.Second)
		s.tick(true, false)
		turn(nil)
		var want bytes.Buffer
		for _, m := range all {
			want.Write(m.frame)
		}
		if bytes.Contains(g.got.Bytes(), all[160].frame) {
			t.Error("the slow client received a message after those that it misses")
		}
		for i, r := range fast {
			if !bytes.Equal(bytes.Join(r.writes, nil), want.Bytes()) {
				t.Errorf("fast client %d: what it received is not what was published", i)
			}
		}
		if st := s.stats(); st.Offered != 3*201 || st.Offered != st.Sent+st.Abandoned || st.Buffered != 0 || slow.phase < phaseClosing {
			t.Errorf("stats: got %+v, want %d offered, and each of them sent or abandoned", st, 3*201)
		}
	})
}

// What was pending for a client counted as offered, also if its link fails while it makes room for that.
func TestAClientLeavesWithAllThatItWasOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newQuietShard(t, WithCoalescing(time.Second), WithMaxBuffer(4))
		defer s.forgetPauses()
		var left Client
		s.hooks.fns.Disconnect = func(c Client, _ int, _ string) { left = c }
		m := newMessage(&Message{Project: "shop", Data: []byte("1")})
		publishTurn(t, s, m, 1)
		l := c.link.(*directLink)
		l.room = 0
		publishTurn(t, s, m, 4)
		time.Sleep(time.Second)
		publishTurn(t, s, m, 1) // and the four before fill the buffer
		publishTurn(t, s, m, 3)
		before := c.snapshot()
		l.err = errors.New("broken")
		time.Sleep(time.Second)
		publishTurn(t, s, m, 1)
		for _, call := range s.hooks.queue {
			call()
		}
		if c.phase != phaseGone || before.Offered != 8 && before.Offered != 9 {
			t.Fatalf("got %+v in phase %v, want a client that was offered 8 or 9 messages, and has left", before, c.phase)
		}
		if left.Offered < before.Offered || left.Offered != left.Sent+left.Abandoned+left.Dropped {
			t.Errorf("left with %+v, want no less than %+v", left, before)
		}
	})
}

func TestWhatOneWriteNoLongerDrainsIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestShard(t, 1, sink{})
		s.cfg.coalescing = time.Second
		c := s.everyone()[0]
		small, large := newMessage(&Message{Project: "shop", Data: make([]byte, 100)}), newMessage(&Message{Project: "shop", Data: make([]byte, joinBytes)})
		publishTurn(t, s, small, 1)
		publishTurn(t, s, small, 2)
		if c.sent != 1 || len(c.pending()) != 2 {
			t.Fatalf("in a pause: got %d sent and %d pending, want 1 and 2", c.sent, len(c.pending()))
		}
		publishTurn(t, s, large, 1)
		if c.sent != 4 || len(c.pending()) != 0 {
			t.Errorf("with a large one: got %d sent and %d pending, want all", c.sent, len(c.pending()))
		}
		publishTurn(t, s, small, 1)
		if c.sent != 4 {
			t.Error("the pause has ended with the early write")
		}
	})
}

func TestDeliveriesThatAreHeldAreTimedWhenTheyAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestShard(t, 1, &slowSink{})
		s.cfg.coalescing = time.Second
		m := newMessage(&Message{Project: "shop"})
		for range 2 * deliveriesTimed {
			publishTurn(t, s, m, 1)
			publishTurn(t, s, m, 1)
			time.Sleep(time.Second)
		}
		total := uint64(0)
		for _, n := range s.totals.Deliveries.Counts {
			total += n
		}
		if total == 0 || s.totals.Deliveries.Sum != time.Duration(total)*slowWrite {
			t.Errorf("got %d deliveries of %v together, want each to be one of %v", total, s.totals.Deliveries.Sum, slowWrite)
		}
	})
}

func TestADeliveryIsNotTimedWhileItWaitsForAnotherShard(t *testing.T) {
	s := newTestShard(t, 1, sink{})
	m := newMessage(&Message{Project: "shop"})
	for s.batches%deliveriesTimed != deliveriesTimed-1 {
		publishTurn(t, s, m, 1)
	}
	for range cap(s.writing) {
		s.writing <- struct{}{}
	}
	begin := time.Now()
	time.AfterFunc(200*time.Millisecond, func() { <-s.writing })
	publishTurn(t, s, m, 1)
	waited := time.Since(begin)
	if d := s.totals.Deliveries; waited < 200*time.Millisecond || d.Sum > waited-200*time.Millisecond || d.Sum == 0 {
		t.Errorf("got a delivery of %v in %v, want one without the 200 ms for which it waited", d.Sum, waited)
	}
}

// slowSink is a sink whose writes take a while.
type slowSink struct{ sink }

const slowWrite = 20 * time.Millisecond

func (slowSink) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	time.Sleep(slowWrite)
	return len(p) + len(then), 0, nil
}

// newQuietShard returns a shard without a goroutine, and one client whose link takes everything.
func newQuietShard(t *testing.T, opts ...Option) (*shard, *client) {
	t.Helper()
	m, err := NewManager(append(opts, WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		t.Fatal(err)
	}
	m.cfg.shards = 1
	s := m.shards[0]
	s.start(newHookQueue(Hooks{}, m.cfg.logger, m.hookPanicked), nil)
	p, err := m.reserve("192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	c := &client{id: 1, shard: s, place: p, connectedAt: time.Now(), terms: grantedAll(Subscription{Project: "shop"})}
	c.link = &directLink{client: c, room: 1 << 30}
	c.markSeen(c.connectedAt)
	if err := s.register(c); err != nil {
		t.Fatal(err)
	}
	s.take()
	s.takeTurn()
	return s, c
}

// beatAll lets the wheel make a complete turn.
func (s *shard) beatAll(now time.Time) {
	for range wheelSlots {
		s.beat(now)
	}
}

// stepped returns a moment as it appears after the wall clock was set. Only the wall clock's part changes: its seconds
// begin at bit 30 of the first word.
func stepped(t *testing.T, now time.Time, by time.Duration) time.Time {
	t.Helper()
	after := now
	*(*uint64)(unsafe.Pointer(&after)) += uint64(by/time.Second) << 30
	if after.Sub(now) != 0 || after.Unix()-now.Unix() != int64(by/time.Second) {
		t.Fatalf("the clock is stepped by %v in another way: %v is %v", by, now, after)
	}
	return after
}

func TestAWallClockThatIsSetRemovesNobodyAndSparesNobody(t *testing.T) {
	s, c := newQuietShard(t)
	s.beatAll(stepped(t, time.Now(), 24*time.Hour))
	if c.phase != phaseOpen {
		t.Error("the clock was set to tomorrow, and a client is gone that has just connected")
	}
	for wait := time.Second; wait <= s.cfg.idleTimeout; wait += time.Second {
		s.beatAll(stepped(t, c.connectedAt.Add(wait), -24*time.Hour))
	}
	if s.beatAll(stepped(t, time.Now().Add(s.cfg.idleTimeout+time.Second), -24*time.Hour)); c.phase < phaseClosing {
		t.Error("the clock was set to yesterday, and a client stays that is silent")
	}
}

func TestAMachineThatSleptBlamesNoClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newQuietShard(t)
		s.beatAll(time.Now())
		far := c.link.(*directLink)
		far.taken = nil
		time.Sleep(8 * time.Hour) // neither the ticker nor the client can do anything
		s.beatAll(time.Now())
		if c.phase != phaseOpen {
			t.Fatal("the machine slept, and the client is gone")
		}
		if got := string(far.taken); !strings.HasPrefix(got, "\x89\x1c") || len(got) != wsframe.HeaderLen(pingPayload)+pingPayload {
			t.Errorf("after the sleep: got %q, want one ping", got)
		}
		for awake := time.Duration(0); awake < s.cfg.idleTimeout; awake += time.Second {
			if c.phase != phaseOpen {
				t.Fatalf("removed %v after the sleep, want %v", awake, s.cfg.idleTimeout)
			}
			time.Sleep(time.Second)
			s.beatAll(time.Now())
		}
		if c.phase < phaseClosing {
			t.Error("a client that gave no sign of life after the sleep either is still there")
		}
	})
}

// A client may set a new filter twenty times a second, and a stranger may name any project. The state that the shards
// keep for that must end with the clients, and its cost must not grow with its amount.
func TestDistinctFiltersAndProjectsLeaveNothingBehind(t *testing.T) {
	m := startManager(t)
	var clients []*client
	filters := 0
	for i := range 100 {
		c := connect(t, m, Subscription{Project: fmt.Sprintf("project-%d", i%10)}, openSink)
		clients = append(clients, c)
		for range 50 {
			filters++
			if err := m.SetFilter(c.id, Filter{Levels: []string{fmt.Sprint(filters)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	checkGroups(t, m, 100, 10)
	for i, c := range clients {
		if i%3 > 0 {
			leave(c)
		}
	}
	checkGroups(t, m, 34, 10)
	for i, c := range clients {
		if i%3 == 0 {
			if err := m.SetFilter(c.id, Filter{Levels: []string{"all the same"}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	checkGroups(t, m, 10*len(m.shards), 10)
	for i, c := range clients {
		if i%3 == 0 {
			leave(c)
		}
	}
	checkGroups(t, m, 0, 0)
}

// checkGroups checks that each shard's index of its clients is complete and contains nothing else.
func checkGroups(t *testing.T, m *Manager, mostGroups, projects int) {
	t.Helper()
	groups, names := 0, map[string]bool{}
	for _, s := range m.shards {
		s.ask(func() {
			groups += len(s.groups)
			listed := 0
			for project, a := range s.projects {
				names[project] = true
				listed += len(a.groups)
				for i, g := range a.groups {
					if g.inProject != i || s.everyGroup.groups[g.inAll] != g || s.groups[g.key] != g || g.sub.Project != project || len(g.clients) == 0 {
						t.Errorf("group %q is at %d of project %q, with index %d, and %d of all, and %d clients", g.key, i, project, g.inProject, g.inAll, len(g.clients))
					}
				}
			}
			if listed != len(s.groups) || len(s.everyGroup.groups) != listed {
				t.Errorf("the projects list %d groups, and all of them are %d, want %d", listed, len(s.everyGroup.groups), len(s.groups))
			}
		})
		s.mu.Lock()
		if len(s.followers) != len(s.projects) {
			t.Errorf("%d projects have followers, want %d", len(s.followers), len(s.projects))
		}
		s.mu.Unlock()
	}
	if groups > mostGroups || len(names) != projects {
		t.Errorf("got %d groups of %d projects, want at most %d of %d", groups, len(names), mostGroups, projects)
	}
}

// Which groups a message is offered to is found by a sieve if there are many. Each client must be offered exactly the
// messages that pass its own filter, and wants must agree, while groups come and go.
func TestAMessageIsOfferedToTheClientsWhoseFiltersItPasses(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 16))
		values := func(kind string) (list []string) {
			for range r.IntN(maxFilterValues+1) * r.IntN(2) {
				list = append(list, fmt.Sprint(kind, r.IntN(40)))
			}
			return list
		}
		randomFilter := func() Filter { return Filter{Levels: values("v"), Environments: values("v")} }
		projects := []string{"a", "b", ""}
		project := func(int) string { return projects[max(0, r.IntN(5)-2)] } // most groups are of one
		s := newTestShard(t, 0, sink{})
		var clients []*client
		for step := range 120 {
			switch {
			case step%40 < 20:
				filters := make([]Filter, 1+r.IntN(12))
				for i := range filters {
					filters[i] = randomFilter()
				}
				clients = append(clients, admit(t, s, filters, project)...)
			default:
				for range min(len(clients), 1+r.IntN(14)) {
					i := r.IntN(len(clients))
					clients[i].withdraw()
					clients = slices.Delete(clients, i, i+1)
				}
			}
			for range min(len(clients), 10) {
				f, err := randomFilter().normalize()
				if err != nil {
					t.Fatal(err)
				}
				clients[r.IntN(len(clients))].setFilter(f)
			}
			for range 4 {
				m := newMessage(&Message{Project: projects[r.IntN(3)], Level: fmt.Sprint("v", r.IntN(44)), Environment: fmt.Sprint("v", r.IntN(44))})
				switch r.IntN(4) {
				case 0:
					m.level = ""
				case 1:
					m.environment = ""
				}
				before := make([]uint64, len(clients))
				wanted := false
				for i, c := range clients {
					before[i] = c.offered
					if (m.project == "" || m.project == c.sub.Project) && c.sub.matches(m) {
						before[i]++
						wanted = true
					}
				}
				if got := s.wants(m); got != wanted {
					t.Fatalf("seed %d: level %q, environment %q of project %q: wants is %v among %d groups, want %v", seed, m.level, m.environment, m.project, got, len(s.groups), wanted)
				}
				s.batch = append(s.batch, m)
				s.deliverBatch()
				for i, c := range clients {
					if c.offered != before[i] {
						t.Fatalf("seed %d: level %q, environment %q of project %q: a client of %+v was offered %d messages among %d groups, want %d",
							seed, m.level, m.environment, m.project, c.sub, c.offered, len(s.groups), before[i])
					}
				}
			}
		}
	}
}

// WithMaxClients bounds the calls that wait for a hook that hangs, even if no Disconnect hook holds the places.
func TestAHookThatHangsBehindClientsThatComeAndGoHoldsABoundedQueue(t *testing.T) {
	hang := make(chan struct{})
	m := startManager(t, WithMaxClients(5), WithHooks(Hooks{
		Connect: func(Client) {},
		Message: func(Client, []byte, bool) { <-hang },
	}))
	t.Cleanup(func() { close(hang) }) // before the shutdown, which waits for hooks
	for range m.shards {
		c := connect(t, m, Subscription{Project: "shop"}, openSink)
		c.Post(link.Event{Kind: link.Received, Op: wsframe.OpText, Payload: []byte("hang")})
		leave(c)
	}
	came := 0
	for ; came < 1000; came++ {
		p, err := m.reserve("")
		if err != nil {
			break // refused: the earlier ones are still with the hook
		}
		p.release()
		leave(connect(t, m, Subscription{Project: "shop"}, openSink))
	}
	waiting := 0
	for _, q := range m.current.hooks {
		q.mu.Lock()
		waiting += len(q.queue)
		q.mu.Unlock()
	}
	// Two calls for each client, in the queue up to the length at which places are given back early, and for each place
	// that is kept.
	if most := 64*len(m.shards) + 2*5; waiting > most || came == 1000 {
		t.Errorf("behind a hook that hangs: %d calls wait after %d clients that came and went, want at most %d, and a refusal", waiting, came, most)
	}
}

// BenchmarkChangeOfFilterAmongMany measures a filter change of one client if each client of the project has a filter of
// its own.
func BenchmarkChangeOfFilterAmongMany(b *testing.B) {
	for _, groups := range []int{1, 1_000, 100_000} {
		b.Run(fmt.Sprint("groups=", groups), func(b *testing.B) {
			cfg := defaultConfig()
			s := newShard(&cfg, newHistory(&cfg), make(chan struct{}, 1))
			s.hooks = newHookQueue(Hooks{}, slog.New(slog.DiscardHandler), nil)
			var c *client
			for i := range groups {
				c = &client{shard: s, joined: new(joining), terms: grantedAll(Subscription{Project: "shop", Filter: Filter{Levels: []string{fmt.Sprint(i)}}})}
				c.enterGroup()
			}
			filters := []Filter{{Levels: []string{"a"}}, {Levels: []string{"b"}}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.setFilter(filters[i&1])
			}
		})
	}
}

// A busy machine makes a shard's turns long. A client that would answer must not pay for that: it is pinged before it
// is removed, however late. A client that doesn't answer is removed even then.
func TestAClientIsNotRemovedBecauseItsShardIsBusy(t *testing.T) {
	for name, turn := range map[string]time.Duration{"turns of two seconds": 2 * time.Second, "turns longer than the timeout": 90 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startManager(t)
				answers := connect(t, m, Subscription{Project: "shop"}, func(c *client) link.Link { return &answering{client: c} })
				silent := connect(t, m, Subscription{Project: "shop"}, func(c *client) link.Link {
					l := newHeldLink(c, nil) // whose other end accepts nothing
					go l.Serve()
					return l
				})
				var stalls sync.WaitGroup
				end := time.Now().Add(10 * time.Minute)
				for _, s := range m.shards {
					stalls.Go(func() {
						for time.Now().Before(end) {
							s.ask(func() { time.Sleep(turn) })
							time.Sleep(time.Millisecond) // events that arrived in the meantime are handled in a turn
						}
					})
				}
				stalls.Wait()
				if !m.IsStreamClient(answers.id) {
					t.Error("a client that answers every ping was removed")
				}
				if m.IsStreamClient(silent.id) {
					t.Error("a client that answers no ping is still there after 10 minutes")
				}
			})
		})
	}
}

// answering is a link to a client that answers each ping immediately.
type answering struct {
	sink
	client *client
}

func (a *answering) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	if p[0] == wsframe.FinBit|wsframe.OpPing {
		go func() {
			a.client.Seen(time.Now(), false)
			a.client.Post(link.Event{Kind: link.Received, Op: wsframe.OpPong})
		}()
	}
	return len(p) + len(then), 0, nil
}

// Tests of event orders that have failed once.

func TestClientDoesNotHangWhereNothingRuns(t *testing.T) {
	m, err := NewManager()
	if err != nil {
		t.Fatal(err)
	}
	s := m.shards[0]
	c := &client{id: ClientID(len(m.shards)), shard: s, terms: grantedAll(Subscription{})}
	s.members[c.id] = c // as at the end of a run while Client asks
	done := make(chan struct{})
	go func() { m.Client(c.id); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("Client hangs with the shard's lock held")
	}
}

func TestAShutdownAndAStartAtOnceLeaveOneOfTheTwo(t *testing.T) {
	for round := range 2000 {
		m, err := NewManager(WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { _ = m.Shutdown(t.Context()) })
		both.Go(func() { _ = m.start(true) })
		both.Wait()
		m.mu.Lock()
		running := !m.closed.Load() && m.current != nil && !m.current.closing
		m.mu.Unlock()
		for _, s := range m.shards {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if running && closed {
				t.Fatalf("round %d: the manager runs and a shard is closed", round)
			}
		}
		if err := m.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// brokenLink fails at the first write.
type brokenLink struct{}

func (brokenLink) Write([]byte, []int, []byte) (sent, held int, err error) {
	return 0, 0, io.ErrClosedPipe
}

func (brokenLink) Begin() {}

func (brokenLink) Retry() {}

func (brokenLink) Progressed() bool { return false }

func (brokenLink) Unread() bool { return false }

func (brokenLink) Unanswered() bool { return false }

func (brokenLink) Ready() {}

func (brokenLink) Resume() {}

func (brokenLink) Close() {}

func TestNothingIsOfferedToAClientWhoseLinkFailsWhileRoomIsMade(t *testing.T) {
	cfg := defaultConfig()
	cfg.shards, cfg.maxBuffer = 1, 2
	s := newShard(&cfg, newHistory(&cfg), make(chan struct{}, 1))
	s.hooks = newHookQueue(Hooks{}, slog.New(slog.DiscardHandler), func(ClientID) {})
	m := &Manager{cfg: cfg}
	c := &client{id: 1, shard: s, link: brokenLink{}, place: place{m: m}, joined: new(joining), terms: grantedAll(Subscription{Project: "p"})}
	s.members[1] = c
	s.followers["p"] = &following{clients: 1}
	s.history.follow("p")()
	c.add()
	for i := range 2 {
		c.buffer(newMessage(&Message{Data: fmt.Append(nil, i)}))
	}
	for i := range 3 {
		s.batch = append(s.batch, newMessage(&Message{Data: fmt.Append(nil, i)}))
	}
	s.deliverBatch()
	st := s.stats()
	if st.Offered != 2 || st.Abandoned != 2 || st.Slow != 0 || c.queued() != 0 {
		t.Errorf("stats: got %+v, %d in the backlog of the client that is gone, want 2 offered and abandoned", st, c.queued())
	}
}

// What counts as offered and buffered while it is held goes on to count when the client's link fails, whenever that is.
func TestWhatIsOfferedNeverBecomesLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, buffered := range []int{0, 1, 100} {
			s := newTestShard(t, 1, sink{})
			s.cfg.coalescing = time.Second
			c := s.everyone()[0]
			c.place = place{m: &Manager{}}
			publishTurn(t, s, newMessage(&Message{Project: "shop"}), 1)
			for range buffered {
				c.buffer(newMessage(&Message{}))
			}
			publishTurn(t, s, newMessage(&Message{Project: "shop"}), 10)
			before := s.stats()
			if before.Offered != uint64(11+buffered) || before.Buffered != 10+buffered {
				t.Fatalf("%d buffered and 10 held: got %+v", buffered, before)
			}
			c.link = brokenLink{}
			time.Sleep(time.Second)
			s.tick(false, true)
			s.take()
			s.takeTurn()
			if after := s.stats(); after.Clients != 0 || after.Offered != before.Offered || after.Abandoned != uint64(before.Buffered) {
				t.Errorf("%d buffered and 10 held, when the link has failed: got %+v, want %d offered and the others abandoned", buffered, after, before.Offered)
			}
		}
	})
}

func TestADurationIsCountedUnderTheFirstBoundThatHoldsIt(t *testing.T) {
	var h Histogram
	last := len(h.Counts) - 1
	for d, want := range map[time.Duration]int{
		0: 0, 1: 0, time.Microsecond: 0, time.Microsecond + 1: 1, 4 * time.Microsecond: 1, 4*time.Microsecond + 1: 2,
		16 * time.Microsecond: 2, time.Millisecond: 5, time.Second: 10, 16 * time.Second: 12, 17 * time.Second: 13, time.Hour: 13,
	} {
		h = Histogram{}
		h.observe(d)
		if h.Counts[want] != 1 || h.Sum != d {
			t.Errorf("observe(%v): got %+v, want it in bucket %d", d, h, want)
		}
		if want < last && d > h.Bound(want) || want > 0 && d <= h.Bound(want-1) {
			t.Errorf("observe(%v): the bounds of bucket %d are %v and %v", d, want, h.Bound(want-1), h.Bound(want))
		}
	}
}

// A waiting message is counted with everything that it keeps in memory, and the bound in bytes bounds that.
func TestWhatIsCountedInBytesCountsTheFields(t *testing.T) {
	const bound = 4 << 10
	m, err := NewManager(WithMaxBufferBytes(bound), WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	s := m.shards[0]
	s.start(newHookQueue(Hooks{}, m.cfg.logger, func(ClientID) {}), nil)
	c := &client{shard: s, link: wall{}, terms: grantedAll(Subscription{Project: strings.Repeat("p", 128)})}
	if err := s.register(c); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		msg := Message{Level: strings.Repeat("l", 64), Environment: strings.Repeat("e", 64), Project: c.sub.Project, Data: []byte("123")}
		publishTurn(t, s, newMessage(&msg), 1)
	}
	each := 2 + 3 + 64 + 64 + 128
	if got, want := c.snapshot().BufferedBytes, c.queued()*each; got != want || got > bound || c.queued() != bound/each {
		t.Errorf("%d messages wait: got %d bytes, want %d, and at most %d", c.queued(), got, want, bound)
	}
	if err := s.publish(newMessage(&Message{Project: c.sub.Project, Key: "key", Data: []byte("123")})); err != nil {
		t.Fatal(err)
	}
	if got, want := s.inbox.all.bytes, 2+3+3+128; got != want {
		t.Errorf("the inbox: got %d bytes, want %d", got, want)
	}
	var queue backlog
	queue.push(newMessage(&Message{Project: "p", Key: strings.Repeat("k", 256)}), limits{messages: 10, bytes: 1000})
	if got, want := queue.bytes, 2+1+256; got != want {
		t.Errorf("a queue for a relay: got %d bytes, want %d", got, want)
	}
}

// isLong reports whether to run the long versions of the tests. The flag is streamtest's, which this package can't
// import.
func isLong() bool {
	f := flag.Lookup("long")
	return f != nil && f.Value.String() == "true"
}

// A late ticker loses ticks. The wheel must not turn later because of that.
func TestAWheelCatchesUpWithTicksThatWereLost(t *testing.T) {
	begin := time.Now()
	b := beats{begin: begin, interval: time.Millisecond}
	for _, tick := range []struct {
		at   time.Duration
		want int
	}{
		{time.Millisecond, 1},
		{1900 * time.Microsecond, 0},
		{2 * time.Millisecond, 1},
		{7 * time.Millisecond, 5},
		{7 * time.Millisecond, 0},
		{time.Hour, wheelSlots}, // a complete turn, which visits every client
		{time.Hour + time.Millisecond, 1},
	} {
		if got := b.due(begin.Add(tick.at)); got != tick.want {
			t.Errorf("at %v: got %d beats, want %d", tick.at, got, tick.want)
		}
	}
}

func TestAStretchKnowsWhichOfItsFramesHaveLanded(t *testing.T) {
	one := stretch{bytes: make([]byte, 7)}
	three := stretch{bytes: make([]byte, 12), lengths: []int{7, 2, 3}}
	for _, tt := range []struct {
		s    stretch
		n    int
		want int
	}{
		{one, 0, 0},
		{one, 6, 0},
		{one, 7, 1},
		{three, 0, 0},
		{three, 6, 0},
		{three, 7, 1},
		{three, 8, 1},
		{three, 9, 2},
		{three, 11, 2},
		{three, 12, 3},
	} {
		if got := tt.s.whole(tt.n); got != tt.want {
			t.Errorf("%d bytes of frames of %v: got %d whole, want %d", tt.n, tt.s.lengths, got, tt.want)
		}
	}
}

// An inbox that a burst has made large would be kept by a shard that has nothing to do.
func TestABeatGivesBackTheMemoryOfABurst(t *testing.T) {
	for _, beats := range []int{0, 1} {
		in := inbox{beats: beats, casts: make([]cast, 0, 4<<10), events: make([]event, 0, 4<<10)}
		in.reset()
		if kept := cap(in.casts) > 0 && cap(in.events) > 0; kept != (beats == 0) {
			t.Errorf("after a turn with %d beats: got space for %d casts and %d events", beats, cap(in.casts), cap(in.events))
		}
	}
}
