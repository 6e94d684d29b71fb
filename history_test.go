package mesherstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream/internal/link"
)

// hearing is a link to a client that keeps every short message. The test reads it on the shard's goroutine.
type hearing struct {
	sink
	heard []string
}

func (h *hearing) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	for rest := p; len(rest) > 0; {
		n := 2 + int(rest[1])
		h.heard = append(h.heard, string(rest[2:n]))
		rest = rest[n:]
	}
	return len(p) + len(then), 0, nil
}

// of returns what was heard of one publisher or project: the messages that begin with that.
func (h *hearing) of(c *client, prefix string) (heard []string) {
	c.shard.ask(func() { heard = slices.Clone(h.heard) })
	return slices.DeleteFunc(heard, func(text string) bool { return !strings.HasPrefix(text, prefix) })
}

// withShards runs a test as on a machine with that many CPUs, so that a manager has as many shards.
func withShards(t *testing.T, n int) {
	before := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// within fails if fn hangs.
func within(t *testing.T, d time.Duration, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(d):
		buf := make([]byte, 1<<20)
		t.Fatalf("hangs after %v\n%s", d, buf[:runtime.Stack(buf, true)])
	}
}

func TestAllClientsReceiveTheMessagesOfAProjectInOneOrder(t *testing.T) {
	withShards(t, 4)
	const publishers, each = 6, 300
	x := newBus()
	m := startManager(t, WithMaxBuffer(50), WithRelay(x))
	var links []*hearing
	var clients []*client
	join := func() {
		h := &hearing{}
		links, clients = append(links, h), append(clients, connect(t, m, Subscription{Project: "p"}, func(*client) link.Link { return h }))
	}
	for range 8 {
		join()
	}
	var all sync.WaitGroup
	for n := range publishers {
		all.Go(func() {
			for i := range each {
				// From this node and from another one, to the project and to all projects.
				msg := Message{Project: "p", Data: fmt.Appendf(nil, "p %d/%d", n, i)}
				if n%3 == 1 {
					msg = Message{Data: fmt.Appendf(nil, "all %d/%d", n, i)}
				}
				if n%3 == 2 {
					x.deliver(RelayMessage{Node: fmt.Sprint("node ", n), Seq: uint64(i + 1), Message: msg})
				} else if err := m.Broadcast(msg); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 40 { // newcomers hear the rest of the same order
		join()
	}
	all.Wait()
	for _, prefix := range []string{"p", "all"} {
		want := links[0].of(clients[0], prefix)
		if len(want) != publishers*each*map[string]int{"p": 2, "all": 1}[prefix]/3 {
			t.Fatalf("%s: the first client has heard %d messages", prefix, len(want))
		}
		for i, h := range links[1:] {
			got := h.of(clients[i+1], prefix)
			if i+1 < 8 && len(got) != len(want) {
				t.Fatalf("%s: client %d has heard %d messages, want %d", prefix, i+1, len(got), len(want))
			}
			if first := len(want) - len(got); !slices.Equal(got, want[max(first, 0):]) {
				t.Fatalf("%s: client %d, which has heard %d messages, has heard them in another order than the first one", prefix, i+1, len(got))
			}
		}
	}
}

// The messages to all projects have one place among those of each project, for every client and in the history.
func TestAMessageToAllProjectsHasOnePlaceInTheOrderOfEach(t *testing.T) {
	isPublished := regexp.MustCompile(`^[pq]? \d+/\d+$`)
	withShards(t, 4)
	const publishers, each = 6, 300
	m := startManager(t, WithMaxBuffer(5000), WithHistory(5000))
	projects := []string{"p", "q", ""}
	hear := make(map[string][]*hearing)
	clients := make(map[*hearing]*client)
	for i := range 12 {
		h := &hearing{}
		project := projects[i/4]
		hear[project] = append(hear[project], h)
		clients[h] = connect(t, m, Subscription{Project: project}, func(*client) link.Link { return h })
	}
	var all sync.WaitGroup
	for n := range publishers {
		all.Go(func() {
			for i := range each {
				project := projects[n%3]
				if err := m.Broadcast(Message{Project: project, Data: fmt.Appendf(nil, "%s %d/%d", project, n, i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, project := range projects {
		var want []string
		for msg := range m.History(project, Filter{}, 5000) {
			want = append(want, string(msg.Data))
		}
		if project != "" && len(want) != 2*publishers*each/3 {
			t.Fatalf("%q: %d messages are kept", project, len(want))
		}
		for i, h := range hear[project] {
			got := slices.DeleteFunc(h.of(clients[h], ""), func(text string) bool { return !isPublished.MatchString(text) }) // and not the ping
			if !slices.Equal(got, want) {
				t.Fatalf("%q: client %d has heard %d messages in another order than that of the history, which has %d", project, i, len(got), len(want))
			}
		}
	}
}

// A registration has its place in the order, too: no message is numbered, or cast, while it goes on.
func TestAClientIsRegisteredInTheOrderOfItsMessages(t *testing.T) {
	for _, project := range []string{"p", ""} {
		m := startManager(t)
		s := m.shards[0]
		locked := func(project string) bool {
			order := interface{ TryLock() bool }(&m.history.allOrder)
			unlock := m.history.allOrder.Unlock
			if project != "" {
				f := m.history.lookUp(project)
				if f == nil {
					return false
				}
				order, unlock = &f.order, f.order.Unlock
			}
			if !order.TryLock() {
				return true
			}
			unlock()
			return false
		}
		s.mu.Lock() // the registration has got as far as the shard
		p, _ := m.reserve("")
		c := &client{id: ClientID(len(m.shards)), shard: s, place: p, link: sink{}, terms: grantedAll(Subscription{Project: project})}
		done := make(chan error)
		go func() { done <- s.register(c) }()
		deadline := time.Now().Add(10 * time.Second)
		for !locked(project) || !locked("") {
			if time.Now().After(deadline) {
				s.mu.Unlock()
				t.Fatalf("%q: a client is registered without the lock on the order of the project and of all projects", project)
			}
			runtime.Gosched()
		}
		s.mu.Unlock()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if locked(project) || locked("") {
			t.Errorf("%q: the order is still locked after the registration", project)
		}
	}
}

// feeds returns how many feeds there are.
func (h *history) feeds() (n int) {
	for i := range h.parts {
		p := &h.parts[i]
		p.mu.Lock()
		n += len(p.feeds)
		p.mu.Unlock()
	}
	return n
}

func TestAClientThatIsRefusedFollowsNothing(t *testing.T) {
	m := startManager(t)
	c := connect(t, m, Subscription{Project: "p"}, openSink)
	leave(c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_ = m.Shutdown(ctx)
	if err := c.shard.register(c); !errors.Is(err, ErrClosed) {
		t.Fatalf("register after the shutdown: got %v, want ErrClosed", err)
	}
	for _, project := range []string{"p", ""} {
		if f := m.history.lookUp(project); f == nil || f.clients != 0 || !f.order.TryLock() {
			t.Errorf("%q: got %+v, want a feed without clients, whose order isn't locked", project, f)
		}
	}
}

// lookUp returns the feed of a project, or nil.
func (h *history) lookUp(project string) *feed {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.feeds[project]
}

// Everything that may publish does so at once, with inboxes that are full all the time: publishers hold the order locks
// while they wait for the shards, and no shard may ever wait for them.
func TestNothingThatPublishesWaitsForItself(t *testing.T) {
	withShards(t, 3)
	x := newBus()
	var nodes [2]*Manager
	var published atomic.Int64
	publish := func(n int, project, text string) {
		_ = nodes[n].Broadcast(Message{Project: project, Level: text, Data: []byte(text)}) // ErrClosed between two runs
		published.Add(1)
	}
	for n := range nodes {
		say := func(text string) func(c Client) {
			return func(c Client) {
				publish(n, c.Project, text)
				publish(n, "", text)
				_ = nodes[n].SetFilter(c.ID, Filter{Levels: []string{text}})
			}
		}
		m, err := NewManager(WithLogger(slog.New(slog.DiscardHandler)), WithRelay(x), WithMaxBuffer(1), WithDrainInterval(time.Millisecond), WithHooks(Hooks{
			Connect: say("connect"), Slow: say("slow"),
			Drop:       func(c Client, _ uint64) { publish(n, c.Project, "drop"); _ = nodes[n].Disconnect(c.ID, 1000, "") },
			Disconnect: func(c Client, _ int, _ string) { publish(n, c.Project, "disconnect") },
		}))
		if err != nil {
			t.Fatal(err)
		}
		nodes[n] = m
	}
	within(t, 5*time.Minute, func() {
		for round := range 20 {
			for _, m := range nodes {
				if err := m.start(true); err != nil {
					t.Fatal(err)
				}
			}
			var all sync.WaitGroup
			for n, m := range nodes {
				for i := range 3 {
					all.Go(func() {
						for j := range 100 {
							publish(n, []string{"a", "b", ""}[(i+j)%3], "message")
						}
					})
					all.Go(func() {
						random := rand.New(rand.NewPCG(uint64(round), uint64(i)))
						for range 10 {
							p, err := m.reserve("")
							if err != nil {
								return // the shutdown has begun
							}
							id := ClientID(m.lastID.Add(1))
							c := &client{id: id, shard: m.shardOf(id), place: p, connectedAt: time.Now(), terms: grantedAll(Subscription{Project: []string{"a", "b", ""}[random.IntN(3)]})}
							c.link = []link.Link{sink{}, wall{}}[random.IntN(2)]
							registered := m.relaying.follow(c.sub.Project)
							err = c.shard.register(c)
							registered()
							if err != nil {
								p.release()
								return
							}
							_ = m.BufferMessage(id, []byte("for one"))
							publish(n, c.grant.Project, "joined")
						}
					})
				}
			}
			if round%2 == 0 {
				all.Wait()
			}
			for _, m := range nodes {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond) // no client here answers a close frame
				_ = m.Shutdown(ctx)
				cancel()
			}
			all.Wait()
		}
	})
	if published.Load() < 20*2*300 {
		t.Errorf("got %d calls of Broadcast, want more", published.Load())
	}
}

// pastModel is a naive history: a list of all messages that are kept, in the order of publication.
type pastModel struct {
	*testing.T
	h         *history
	random    *rand.Rand
	projects  []string
	kept      []*message
	at        map[*message]time.Time // when each message was published
	ever      map[string]int         // how many messages of each project were published
	numbers   map[string]uint64      // the newest number of each project
	following map[string]int
	lived     map[string]bool // clients have followed the project since its newest number
	broken    map[string]int  // how often an unknown number of messages was missed
	marks     []pastMark
}

// A pastMark is a point that a client might have kept, and the truth about it.
type pastMark struct {
	point
	project  string
	ever     int
	broken   int
	followed bool      // the project had clients then
	left     time.Time // when the last of them left, or zero
}

// expire forgets what is too old.
func (p *pastModel) expire() {
	now := time.Now()
	p.kept = slices.DeleteFunc(p.kept, func(m *message) bool { return now.Sub(p.at[m]) >= time.Duration(p.h.age) })
}

func (p *pastModel) bytes() (sum int64) {
	projects := map[string]bool{}
	for _, m := range p.kept {
		projects[m.project] = true
		sum += int64(m.size() + historyMessageBytes)
	}
	return sum + int64(len(projects))*historyFeedBytes
}

func (p *pastModel) publish() {
	project := p.projects[p.random.IntN(len(p.projects))]
	size := p.random.IntN(200)
	if p.random.IntN(50) == 0 {
		size = p.random.IntN(20_000)
	}
	m := newMessage(&Message{Project: project, Level: []string{"", "debug", "info", "error"}[p.random.IntN(4)], Data: make([]byte, size)})
	f := p.h.lock(project)
	if f == nil {
		if p.h.isOn() || p.following[project] > 0 {
			p.Fatalf("%q has no feed", project)
		}
		p.ever[project]++
		return
	}
	if clients := p.h.append(f, m); clients != p.following[project] {
		p.Fatalf("%q: got %d clients, want %d", project, clients, p.following[project])
	}
	p.h.unlock(f)

	p.ever[project]++
	p.expire()
	last, ok := p.numbers[project]
	switch held := slices.ContainsFunc(p.kept, func(m *message) bool { return m.project == project }); {
	case m.number <= last:
		p.Fatalf("%q: number %d after %d", project, m.number, last)
	case ok && m.number != last+1 && (held || p.lived[project] || project == ""):
		p.Fatalf("%q: number %d after %d although the feed lives", project, m.number, last)
	}
	p.numbers[project], p.lived[project] = m.number, p.following[project] > 0
	p.at[m] = time.Now()
	of := func(m *message) bool { return m.project == project }
	switch n := 0; {
	case !p.h.isOn():
	case int64(m.size()+historyMessageBytes+historyFeedBytes) > p.h.bytes:
		p.kept = slices.DeleteFunc(p.kept, of)
	default:
		p.kept = append(p.kept, m)
		for _, m := range p.kept {
			if of(m) {
				n++
			}
		}
		if n > p.h.messages {
			p.kept = slices.Delete(p.kept, slices.IndexFunc(p.kept, of), slices.IndexFunc(p.kept, of)+1)
		}
		for p.bytes() > p.h.bytes {
			p.kept = p.kept[1:]
		}
	}
	if p.random.IntN(4) == 0 {
		p.mark(project, point{m.number, m.stamp})
	}
}

func (p *pastModel) mark(project string, at point) {
	p.marks = append(p.marks, pastMark{at, project, p.ever[project], p.broken[project], p.following[project] > 0, time.Time{}})
	if len(p.marks) > 40 {
		p.marks = slices.Delete(p.marks, 0, 10)
	}
}

// checkMarks asks for every point how many messages were missed since.
func (p *pastModel) checkMarks() {
	for _, k := range p.marks {
		missed, all := p.h.missed(k.project, k.point)
		truth := p.ever[k.project] - k.ever
		sure := k.project == "" || k.followed && (k.left.IsZero() || time.Since(k.left) < time.Duration(p.h.age))
		switch unknown := p.broken[k.project] > k.broken; {
		case all && unknown:
			p.Fatalf("%q after %+v: got %d and no more, but there may have been others", k.project, k.point, missed)
		case all && missed != uint64(truth):
			p.Fatalf("%q after %+v: got exactly %d, want %d", k.project, k.point, missed, truth)
		case !all && sure && !unknown:
			p.Fatalf("%q after %+v: got an unknown number of messages although the feed has lived since", k.project, k.point)
		case missed > uint64(truth):
			p.Fatalf("%q after %+v: got %d, want at most %d", k.project, k.point, missed, truth)
		}
	}
}

func (p *pastModel) follow() {
	project := p.projects[p.random.IntN(len(p.projects))]
	p.h.follow(project)()
	p.following[""]++
	if project != "" {
		p.following[project]++
	}
	p.mark(project, p.h.reached(project))
}

func (p *pastModel) leave() {
	project := p.projects[p.random.IntN(len(p.projects))]
	if project == "" || p.following[project] == 0 {
		return
	}
	p.h.leave(project)
	p.following[""]--
	if p.following[project]--; p.following[project] == 0 {
		p.lived[project] = false
		for i := range p.marks {
			if k := &p.marks[i]; k.project == project && k.left.IsZero() {
				k.left = time.Now()
			}
		}
	}
}

// check compares the messages that can be read with those of the model.
func (p *pastModel) check() {
	p.expire()
	project := p.projects[p.random.IntN(len(p.projects))]
	f := Filter{Levels: [][]string{nil, {"error"}, {"debug", "info"}, {"none"}}[p.random.IntN(4)]}
	var want []*message
	for _, m := range p.kept {
		if (m.project == project || m.project == "") && f.matches(m) {
			want = append(want, m)
		}
	}
	last := 1 + p.random.IntN(60)
	if p.random.IntN(3) == 0 {
		last = 2000
	}
	end := p.h.end(project)
	at, missing, more := p.h.lookBack(project, &f, end, last)
	for more {
		at, missing, more = p.h.lookBack(project, &f, at, missing)
	}
	if want := max(0, last-len(want)); missing != want {
		p.Fatalf("lookBack(%q, %v, %d): got %d missing, want %d", project, f, last, missing, want)
	}
	want = want[max(0, len(want)-last):]
	if p.random.IntN(3) == 0 { // from the beginning of everything
		at, want = cursor{}, nil
		for _, m := range p.kept {
			if (m.project == project || m.project == "") && f.matches(m) {
				want = append(want, m)
			}
		}
	}
	var got []*message
	for r := (reading{at: at, more: true}); r.more; {
		n, limit := 1+p.random.IntN(600), 1+p.random.IntN([]int{5000, 200_000}[p.random.IntN(2)])
		before := r.at
		r = p.h.read(project, &f, r.at, end, nil, n, limit)
		size := 0
		for _, m := range r.messages {
			size += len(m.frame)
		}
		if len(r.messages) > n || size > limit && len(r.messages) > 1 {
			p.Fatalf("read: got %d messages and %d bytes, want at most %d and %d", len(r.messages), size, n, limit)
		}
		if r.more && r.at == before {
			p.Fatalf("read(%q): no progress from %+v to %+v", project, before, end)
		}
		got = append(got, r.messages...)
		if !r.more && r.at != end && p.h.lookUp(project) != nil && project != "" {
			p.Fatalf("read(%q): ended at %+v, want %+v", project, r.at, end)
		}
	}
	if !slices.Equal(got, want) {
		p.Fatalf("read(%q, %v): got %d messages, want %d", project, f, len(got), len(want))
	}
}

// settled checks the totals: nothing is counted that is not there.
func (p *pastModel) settled() {
	p.expire()
	kept, filled, lingering := 0, 0, 0
	for i := range p.h.parts {
		part := &p.h.parts[i]
		part.mu.Lock()
		kept += part.kept
		filled += len(part.filled)
		lingering += len(part.idle)
		for _, f := range part.feeds {
			if f.clients == 0 && f.inHeap < 0 && !f.lingers && f != p.h.all {
				p.Errorf("%q: nothing keeps the feed, and it has not been forgotten", f.project)
			}
			if n := len(f.slots); n > 2 && int(f.next-f.first) < n/4 || n > 2*p.h.messages {
				p.Errorf("%q: %d slots for %d messages", f.project, n, f.next-f.first)
			}
		}
		part.mu.Unlock()
	}
	if kept != len(p.kept) || p.h.keptBytes.Load() != p.bytes() || p.h.keptBytes.Load() > p.h.bytes || p.h.lingering.Load() != int64(lingering) {
		p.Fatalf("got %d messages with %d bytes, %d linger, want %d with %d, at most %d, and %d", kept, p.h.keptBytes.Load(), p.h.lingering.Load(), len(p.kept), p.bytes(), p.h.bytes, lingering)
	}
}

// Random scripts, and after each step the naive model agrees.
func TestAHistoryHoldsWhatItsBoundsAllow(t *testing.T) {
	scripts := 200
	if isLong() {
		scripts = 5000
	}
	begin := rand.Uint64()
	for i := range scripts {
		t.Run("", func(t *testing.T) { // names only those that fail
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(begin, uint64(i)))
				defer func() {
					if t.Failed() {
						t.Logf("seed %d, script %d", begin, i)
					}
				}()
				cfg := defaultConfig()
				cfg.history = []int{0, 1, 2, 7, 64, 1000}[random.IntN(6)]
				cfg.historyBytes = []int{1 << 10, 4 << 10, 64 << 10, 16 << 20}[random.IntN(4)]
				cfg.historyAge = []time.Duration{time.Second, time.Minute}[random.IntN(2)]
				p := &pastModel{
					T: t, h: newHistory(&cfg), random: random, projects: []string{"", "a", "b", "c", "d"}[:2+random.IntN(4)],
					at: map[*message]time.Time{}, ever: map[string]int{}, numbers: map[string]uint64{},
					following: map[string]int{}, lived: map[string]bool{}, broken: map[string]int{},
				}
				for range 60 {
					switch random.IntN(10) {
					case 0, 1, 2, 3:
						for range 1 << random.IntN(8) {
							p.publish()
						}
					case 4:
						time.Sleep(time.Duration(random.Int64N(int64(cfg.historyAge))))
					case 5:
						time.Sleep(2*cfg.historyAge + 2*time.Second)
						p.settled()
					case 6:
						p.follow()
					case 7:
						p.leave()
					case 8:
						project := p.projects[random.IntN(len(p.projects))]
						p.h.breakOff(project)
						p.broken[project]++
					case 9:
						project := p.projects[random.IntN(len(p.projects))]
						p.mark(project, p.h.reached(project))
					}
					p.check()
					p.checkMarks()
				}
				for _, project := range p.projects {
					for range p.following[project] {
						if project != "" {
							p.h.leave(project)
						}
					}
				}
				time.Sleep(3*cfg.historyAge + 3*time.Second)
				p.settled()
				if feeds := p.h.feeds(); feeds != 1 || p.h.sweeping.Load() {
					t.Fatalf("three ages after everything: got %d feeds, a sweep %v, want the one of all projects, and none", feeds, p.h.sweeping.Load())
				}
			})
		})
	}
}

// Publishers, readers and clients that come and go, at once, over bounds that are always exceeded.
func TestAHistoryIsReadInOrderWhileItIsWritten(t *testing.T) {
	cfg := defaultConfig()
	cfg.history, cfg.historyBytes = 300, 64<<10
	h := newHistory(&cfg)
	projects := []string{"", "a", "b", "c"}
	var writers, readers sync.WaitGroup
	var done atomic.Bool
	for n := range 4 {
		writers.Go(func() {
			for i := range 5000 {
				project := projects[(n+i)%len(projects)]
				m := newMessage(&Message{Project: project, Data: make([]byte, i%300)})
				f := h.lock(project)
				h.append(f, m)
				h.unlock(f)
			}
		})
		readers.Go(func() {
			project := projects[n]
			for at := (cursor{}); !done.Load(); {
				end := h.end(project)
				r := h.read(project, &Filter{}, at, end, nil, 50, 5000)
				last := point{}
				for _, m := range r.messages {
					if m.stamp <= last.asOf || m.project == project && m.number <= at.project || m.project == "" && m.number <= at.all {
						t.Errorf("%q: got message %d with stamp %d after %+v and %+v", project, m.number, m.stamp, at, last)
					}
					last.asOf = m.stamp
				}
				if r.at.project < at.project || r.at.all < at.all || r.at.project > end.project || r.at.all > end.all {
					t.Errorf("%q: came from %+v to %+v, and was to read up to %+v", project, at, r.at, end)
				}
				at = r.at
				runtime.Gosched()
				if from, _, _ := h.lookBack(project, &Filter{}, end, 20); from.project > end.project || from.all > end.all {
					t.Errorf("%q: looked back from %+v to %+v", project, end, from)
				}
			}
		})
		readers.Go(func() {
			for i := range 2000 {
				h.follow(projects[i%4])()
				h.leave(projects[i%4])
				h.sweepSome(&h.parts[i%historyParts], h.now())
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
	if messages, bytes := h.stats(); messages == 0 || bytes > int64(cfg.historyBytes) {
		t.Errorf("got %d messages with %d bytes, want some, and at most %d bytes", messages, bytes, cfg.historyBytes)
	}
}

// heapNow returns the bytes of the heap that are in use.
func heapNow() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func TestAMillionProjectsCostWhatTheBoundAllowsAndNothingAfterTheAge(t *testing.T) {
	projects := 100_000
	if isLong() {
		projects = 1_000_000
	}
	for name, publish := range map[string]func(h *history, project string){
		"published to": func(h *history, project string) {
			m := newMessage(&Message{Project: project, Data: []byte("hello")})
			f := h.lock(project)
			h.append(f, m)
			h.unlock(f)
		},
		"published to, and nothing fits": func(h *history, project string) {
			m := newMessage(&Message{Project: project, Data: make([]byte, 1<<10)})
			f := h.lock(project)
			h.append(f, m)
			h.unlock(f)
		},
		"followed": func(h *history, project string) {
			h.follow(project)()
			h.leave(project)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := defaultConfig()
				if strings.HasSuffix(name, "fits") {
					cfg.historyBytes = 1 << 10
				}
				h := newHistory(&cfg)
				before := heapNow()
				for i := range projects {
					publish(h, fmt.Sprint("project ", i))
				}
				if got := heapNow() - before; got > 3*16<<20/2 {
					t.Errorf("right after: got %d bytes of heap, want about %d at most", got, 16<<20)
				}
				time.Sleep(2*cfg.historyAge + 2*time.Second)
				synctest.Wait()
				if got := heapNow() - before; got > 256<<10 {
					t.Errorf("after the age: got %d bytes of heap, want nearly none", got)
				}
				if feeds := h.feeds(); feeds != 1 || h.sweeping.Load() {
					t.Errorf("got %d feeds, a sweep %v, want the one of all projects, and none", feeds, h.sweeping.Load())
				}
				runtime.KeepAlive(h)
			})
		})
	}
}

// The bound in bytes is one of memory, whatever the size of the messages is and however many projects there are.
func TestTheBytesOfAHistoryAreThoseOfTheHeap(t *testing.T) {
	for _, c := range []struct{ size, projects int }{{0, 1}, {0, 1 << 20}, {100, 1}, {100, 1 << 20}, {512, 100}, {4 << 10, 10}} {
		cfg := defaultConfig()
		cfg.history, cfg.historyBytes = 1_000_000, 4<<20
		h := newHistory(&cfg)
		before := heapNow()
		for i := range 60_000 {
			m := newMessage(&Message{Project: fmt.Sprint("project ", i%c.projects), Data: make([]byte, c.size)})
			f := h.lock(m.project)
			h.append(f, m)
			h.unlock(f)
		}
		got := heapNow() - before
		if counted := h.keptBytes.Load(); got > counted*5/4 || counted > int64(cfg.historyBytes) || counted < int64(cfg.historyBytes)*9/10 {
			t.Errorf("%+v: got %d bytes of heap and %d counted, want about %d of both", c, got, counted, cfg.historyBytes)
		}
		runtime.KeepAlive(h)
	}
}

// Publishers hold no lock of a part while they wait, so a history is read even while every order lock is held.
func TestAHistoryIsReadWhileItsOrderIsLocked(t *testing.T) {
	m := startManager(t)
	for _, project := range []string{"", "p"} {
		if err := m.Broadcast(Message{Project: project, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	defer m.history.follow("p")() // holds both orders
	within(t, time.Minute, func() {
		n := 0
		for range m.History("p", Filter{}, 10) {
			n++
		}
		if s := m.Stats(); n != 2 || s.HistoryMessages != 2 || s.HistoryBytes == 0 {
			t.Errorf("got %d messages, %+v, want 2", n, s)
		}
	})
}

// A project that this node no longer follows on the other nodes may have had any number of messages.
func TestWhatIsMissedOfOtherNodesIsNeverTakenForNothing(t *testing.T) {
	for _, history := range []int{0, 1, 1000} {
		t.Run(fmt.Sprint("history of ", history), func(t *testing.T) { testMissed(t, history) })
	}
}

func testMissed(t *testing.T, history int) {
	x := newBus()
	m := startManager(t, WithRelay(x), WithHistory(history))
	c := connect(t, m, Subscription{Project: "p", Filter: Filter{Levels: []string{"error"}}}, openSink)
	for i := range 3 {
		x.deliver(RelayMessage{Node: "other", Seq: uint64(i + 1), Message: Message{Project: "p", Data: []byte("x")}})
	}
	at := m.history.reached("p")
	x.deliver(RelayMessage{Node: "other", Seq: 4, Message: Message{Project: "p", Level: "debug", Data: []byte("x")}})
	if missed, all := m.history.missed("p", at); missed != 1 || !all {
		t.Errorf("while the project is followed: got %d, %v, want exactly 1", missed, all)
	}
	at = m.history.reached("p")
	if missed, all := m.history.missed("p", at); missed != 0 || !all {
		t.Errorf("at the newest message: got %d, %v, want exactly 0", missed, all)
	}
	leave(c)
	in := m.relaying.run.Load().interests
	waitFor(t, m, "the first attempt to subscribe has ended", func() bool {
		in.mu.Lock()
		defer in.mu.Unlock()
		return in.byProject["p"].joining == 0
	})
	in.tend()
	in.age(relayLinger)
	in.tend()
	if _, all := m.history.missed("p", at); all {
		t.Error("the project is no longer followed on other nodes, and nothing is known to be missed")
	}
	c = connect(t, m, Subscription{Project: "p"}, openSink)
	if _, all := m.history.missed("p", at); all {
		t.Error("the project is followed again, and what was missed is forgotten")
	}
	if missed, all := m.history.missed("p", m.history.reached("p")); missed != 0 || !all {
		t.Errorf("from now on: got %d, %v, want exactly 0", missed, all)
	}
	leave(c)
}

// A bite may end before messages of the other feed that were published later.
func TestABiteThatEndsEarlyChangesNoOrder(t *testing.T) {
	for _, swap := range []bool{false, true} {
		cfg := defaultConfig()
		h := newHistory(&cfg)
		var want, got []*message
		for i := range 3 * historyBite {
			project := "p"
			if (i%50 == 0) != swap {
				project = ""
			}
			m := newMessage(&Message{Project: project})
			f := h.lock(project)
			h.append(f, m)
			h.unlock(f)
			want = append(want, m)
		}
		for r := (reading{more: true}); r.more; got = append(got, r.messages...) {
			r = h.read("p", &Filter{}, r.at, h.end("p"), nil, 1000, 1<<20)
		}
		if !slices.Equal(got, want) {
			t.Errorf("swapped %v: got %d messages, not in the order of publication, want %d", swap, len(got), len(want))
		}
	}
}
