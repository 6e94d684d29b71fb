package mesherstream

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

var replaySeed = flag.Uint64("replayseed", 0, "play one script of replays")

// A strait is a link that accepts as many bytes as it has room for. It tears frames, or holds whole ones.
type strait struct {
	sink
	client  *client
	holds   bool
	room    int
	held    []byte
	holding int
	taken   []byte
	broke   string
	short   bool
	closed  bool
	during  func() // called in the middle of each write
}

func (l *strait) Close() { l.closed = true }

func (l *strait) Write(p []byte, lengths []int, then []byte) (sent, held int, err error) {
	if l.short {
		l.broke = "written to while it was busy"
	}
	l.during()
	all := slices.Concat(p, then)
	sent = min(l.room, len(all))
	l.room -= sent
	l.taken = append(l.taken, all[:sent]...)
	if l.short = sent < len(all); l.short && l.holds && sent < len(p) {
		l.held = p[sent:] // and not a copy: it must not change
		l.holding = len(l.held)
		return sent, len(l.held), nil
	}
	return sent, 0, nil
}

// grant makes room, of which the owner is told.
func (l *strait) grant(n int) {
	if l.room += n; !l.short || l.closed {
		return
	}
	sent := min(l.room, len(l.held))
	l.room -= sent
	l.taken = append(l.taken, l.held[:sent]...)
	if l.held = l.held[sent:]; len(l.held) > 0 {
		return
	}
	l.short = false
	held := l.holding
	l.holding = 0
	l.client.Handle(link.Event{Kind: link.Writable, N: held})
}

// published is a message that the test has published, for all clients or for one.
type published struct {
	id                  int
	project, level, key string
	to                  *watcher
	at                  time.Time
}

// A watcher is a client of the test.
type watcher struct {
	*client
	link    *strait
	filters []Filter // the first one, and those after each change
	due     int      // the index in the log from which on everything is due
	from    int      // the one from which on something may come; less for a client that doesn't look back
	base    []int    // the messages that it looks back for
	changes []watcherChange
	ponged  int
	acked   int
}

// A watcherChange is a change of the filter.
type watcherChange struct {
	base []int // the messages that it looks back for
	at   int   // index in the log
}

// A seen is one thing that a watcher has received.
type seen struct {
	id    int
	gap   int
	reply bool
}

// replayPlay plays a script on a shard that is turned by hand, and knows what every client should receive.
type replayPlay struct {
	*testing.T
	rand     *rand.Rand
	m        *Manager
	s        *shard
	log      []published
	taken    int // how many of the log the shard has taken
	watchers []*watcher
	history  int
	age      time.Duration
	lossless bool
	keys     bool
	joins    int
	closed   bool
	busy     bool // in the middle of the script
	steps    []string
}

// start makes a manager with one shard, which the test turns.
func (p *replayPlay) start(opts ...Option) {
	m, err := NewManager(append(opts, WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		p.Fatal(err)
	}
	m.shards, m.cfg.shards = m.shards[:1], 1
	p.m, p.s = m, m.shards[0]
	p.s.start(newHookQueue(m.cfg.hooks, m.cfg.logger, m.hookPanicked), nil)
}

func (p *replayPlay) note(format string, args ...any) {
	p.steps = append(p.steps, fmt.Sprintf(format, args...))
}

func (p *replayPlay) turn() {
	p.s.tick(false, false)
	p.s.mu.Lock()
	p.s.wake.Signal()
	busy := !p.s.inbox.isEmpty() || len(p.s.again) > 0 || len(p.s.biting) > 0
	p.s.mu.Unlock()
	taken := len(p.log)
	if busy && p.s.take() {
		p.s.takeTurn()
	}
	p.taken = taken
	for _, w := range p.watchers {
		if got := w.snapshot(); got.Offered != got.Sent+got.Dropped+got.Abandoned+got.Filtered+got.Conflated+uint64(got.Buffered) {
			p.Errorf("client %d: the accounts do not balance: %+v", w.id, got)
		}
	}
}

func (p *replayPlay) pick(list ...string) string { return list[p.rand.IntN(len(list))] }

// makeRoom has the shard take a turn if its inbox is full.
func (p *replayPlay) makeRoom() {
	busy := p.busy
	for p.busy = false; p.waits(); {
		p.turn()
	}
	p.busy = busy
}

// waits reports whether a message would have to wait for a turn.
func (p *replayPlay) waits() bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return slices.ContainsFunc([]string{"a", "b", ""}, func(project string) bool { return !p.s.hasRoom(project, 200) })
}

func (p *replayPlay) publish() {
	p.makeRoom()
	p.publishNow()
}

// publishDuring publishes while the shard is in the middle of a turn.
func (p *replayPlay) publishDuring() {
	if p.rand.IntN(6) == 0 && !p.waits() && p.busy {
		p.publishNow()
	}
}

func (p *replayPlay) publishNow() {
	e := published{id: len(p.log), project: p.pick("a", "a", "a", "b", ""), level: p.pick("", "error", "info"), at: time.Now()}
	if p.keys {
		e.key = p.pick("", "", "k", "l")
	}
	data := fmt.Sprintf("m %d %s", e.id, strings.Repeat(".", p.rand.IntN(100)*p.rand.IntN(2)*p.rand.IntN(2)))
	if err := p.m.Broadcast(Message{Project: e.project, Level: e.level, Key: e.key, Data: []byte(data)}); err != nil {
		p.Fatal(err)
	}
	p.note("publish %d to %q, level %q, key %q, %d bytes", e.id, e.project, e.level, e.key, len(data))
	p.log = append(p.log, e)
	synctest.Wait()
	time.Sleep(time.Duration(p.rand.IntN(3)) * time.Microsecond)
}

func (w *watcher) wants(e published, f Filter) bool {
	if e.to != nil {
		return e.to == w
	}
	return (e.project == "" || e.project == w.sub.Project) && lets(f.Levels, e.level)
}

// held returns which messages of the log the history holds now.
func (p *replayPlay) held(project string, until int) (ids []int) {
	count := map[string]int{}
	for i := len(p.log) - 1; i >= 0; i-- {
		e := p.log[i]
		if e.to != nil || e.project != "" && e.project != project {
			continue
		}
		if count[e.project]++; count[e.project] <= p.history && time.Since(e.at) < p.age && i < until {
			ids = append(ids, i)
		}
	}
	slices.Reverse(ids)
	return ids
}

// recent returns the last messages of those that are held and match.
func (p *replayPlay) recent(w *watcher, f Filter, last, until int, since time.Time) []int {
	ids := slices.DeleteFunc(p.held(w.sub.Project, until), func(i int) bool { return !w.wants(p.log[i], f) })
	if last > 0 {
		ids = ids[max(0, len(ids)-last):]
	}
	return slices.DeleteFunc(ids, func(i int) bool { return p.log[i].at.Before(since) })
}

func (p *replayPlay) someFilter() Filter {
	switch p.rand.IntN(4) {
	case 0:
		return Filter{Levels: []string{"error"}}
	case 1:
		return Filter{Levels: []string{"info"}}
	default:
		return Filter{}
	}
}

func (p *replayPlay) join() {
	pl, err := p.m.reserve("192.0.2.1")
	if err != nil {
		p.Fatal(err)
	}
	var asked past
	if p.rand.IntN(5) > 0 {
		asked.last = 1 + p.rand.IntN(60)*p.rand.IntN(2) + p.rand.IntN(5)
	}
	if p.rand.IntN(4) == 0 {
		asked.since = time.Now().Add(-time.Duration(p.rand.IntN(100)) * time.Microsecond)
	}
	p.joins++
	w := &watcher{filters: []Filter{p.someFilter()}}
	w.client = &client{
		id: ClientID(p.joins), shard: p.s, place: pl, connectedAt: time.Now(),
		terms: grantedAll(Subscription{Project: p.pick("a", "a", "b", ""), Filter: w.filters[0]}),
	}
	if p.rand.IntN(8) == 0 {
		w.sub.Since = time.Now().Add(-time.Duration(p.rand.IntN(40)) * time.Microsecond)
	}
	if p.rand.IntN(2) == 0 {
		w.agree()
	}
	w.link = &strait{client: w.client, holds: p.rand.IntN(2) == 0, room: p.rand.IntN(400), during: p.publishDuring}
	w.client.link = w.link
	w.recall(asked)
	w.markSeen(time.Now())
	if err := p.s.register(w.client); err != nil {
		p.Fatal(err)
	}
	w.from, w.due = len(p.log), len(p.log)
	if asked != (past{}) {
		w.base = p.recent(w, w.filters[0], asked.last, len(p.log), later(asked.since, w.sub.Since))
	} else {
		w.from = p.taken
	}
	p.note("client %d of %q with %v joins, asks %v, since %v, protocol %v, holds %v; at %d", w.id, w.sub.Project, w.filters[0], asked, w.sub.Since, w.v1 != nil, w.link.holds, len(p.log))
	p.watchers = append(p.watchers, w)
}

func (p *replayPlay) some() *watcher {
	if len(p.watchers) == 0 {
		p.join()
		p.turn()
	}
	return p.watchers[p.rand.IntN(len(p.watchers))]
}

// change changes a filter at once.
func (p *replayPlay) change(w *watcher) {
	if w.group == nil || replies(w.client) {
		return
	}
	f, last := p.someFilter(), 0
	request := map[string]any{"type": "subscribe", "filters": map[string]any{"level": f.Levels, "environment": []string{}}}
	if p.rand.IntN(2) == 0 {
		last = 1 + p.rand.IntN(40)
		request["last"] = last
	}
	if f.Levels == nil {
		request["filters"] = map[string]any{"level": "", "environment": ""}
	}
	ch := watcherChange{at: len(p.log)}
	if last > 0 {
		ch.base = p.recent(w, f, last, p.taken, w.sub.Since)
	}
	p.note("client %d asks for %v and the last %d; taken %d", w.id, f, last, p.taken)
	text, _ := json.Marshal(request)
	w.outbox().paid = 0
	w.client.Handle(link.Event{Kind: link.Received, Op: wsframe.OpText, Payload: text})
	w.changes, w.filters = append(w.changes, ch), append(w.filters, f)
}

// leave ends a client at once, while messages that it should have received wait in the inbox.
func (p *replayPlay) leave(w *watcher) {
	if w.group == nil {
		return
	}
	p.note("client %d leaves", w.id)
	w.client.Handle(link.Event{Kind: link.Failed, Err: errors.New("gone")})
	p.watchers = slices.DeleteFunc(p.watchers, func(o *watcher) bool { return o == w })
}

func (p *replayPlay) buffer(w *watcher) {
	p.makeRoom()
	e := published{id: len(p.log), to: w, at: time.Now()}
	if err := p.m.BufferMessage(w.id, fmt.Appendf(nil, "m %d", e.id)); err != nil {
		p.Fatal(err)
	}
	p.note("buffer %d for %d", e.id, w.id)
	p.log = append(p.log, e)
}

// answer acknowledges what has arrived, or answers the newest ping.
func (p *replayPlay) answer(w *watcher) {
	if w.group == nil && w.phase == phaseOpen {
		return // its join has not been handled
	}
	messages, pings := 0, [][]byte{}
	for _, f := range w.frames() {
		switch f[0] & 15 {
		case wsframe.OpPing:
			pings = append(pings, f)
		case wsframe.OpPong, wsframe.OpClose:
		default:
			messages++
		}
	}
	if w.v1 != nil && messages > w.acked {
		w.acked = messages
		p.note("client %d acknowledges %d", w.id, messages)
		w.client.Handle(link.Event{Kind: link.Received, Op: wsframe.OpText, Payload: fmt.Appendf(nil, `{"type":"ack","n":%d}`, messages)})
	}
	if len(pings) > w.ponged {
		w.ponged = len(pings)
		p.note("client %d answers ping %d", w.id, w.ponged)
		w.client.Handle(link.Event{Kind: link.Received, Op: wsframe.OpPong, Payload: pings[len(pings)-1][2:]})
	}
}

// frames returns the whole frames that the client has received.
func (w *watcher) frames() (list [][]byte) {
	for rest := w.link.taken; len(rest) >= 2; {
		n, at := int(rest[1]), 2
		if n == 126 {
			if len(rest) < 4 {
				break
			}
			n, at = int(binary.BigEndian.Uint16(rest[2:])), 4
		}
		if len(rest) < at+n {
			break
		}
		list = append(list, rest[:at+n])
		rest = rest[at+n:]
	}
	return list
}

var isNotice = regexp.MustCompile(`^\{"type":"(hello|mark|replay|replayed|direct)",`)

// received reads what a client has received.
func (p *replayPlay) received(w *watcher) (list []seen) {
	for _, f := range w.frames() {
		at := 2
		if f[1] == 126 {
			at = 4
		}
		text := string(f[at:])
		switch {
		case f[0]&15 >= 8:
		case strings.HasPrefix(text, "m "):
			s := seen{}
			_, _ = fmt.Sscanf(text, "m %d", &s.id)
			list = append(list, s)
		case strings.Contains(text, typeFiltersUpdated):
			list = append(list, seen{id: -1, reply: true})
		case strings.Contains(text, `"type":"gap"`):
			var n gapNotice
			if err := json.Unmarshal([]byte(text), &n); err != nil || n.Reason == "" || (n.Dropped == 0) == (n.AtMost == 0) || n.Until.Before(n.Since) {
				p.Errorf("client %d got the gap %s", w.id, text)
			}
			list = append(list, seen{id: -1, gap: n.Dropped + int(n.AtMost)})
		case isNotice.MatchString(text):
		default:
			p.Errorf("client %d got %q", w.id, text)
		}
	}
	return list
}

// settle lets everything arrive.
func (p *replayPlay) settle() {
	for range 20_000 {
		p.turn()
		done := true
		for _, w := range p.watchers {
			w.link.grant(1 << 20)
			p.answer(w)
			if w.phase == phaseOpen && (w.replay != nil || !w.idle() || len(w.pending()) > 0 || replies(w.client)) {
				done = false
			}
			if w.closeSent && !w.closeReceived {
				w.client.Handle(link.Event{Kind: link.Received, Op: wsframe.OpClose, Payload: []byte{3, 232}})
			}
			done = done && w.phase != phaseFlushing
		}
		p.s.mu.Lock() // a timer may post at this time
		done = done && p.s.inbox.isEmpty()
		p.s.mu.Unlock()
		if done && p.s.stopping == p.closed && len(p.s.biting) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
		p.s.tick(true, false)
	}
	for _, w := range p.watchers {
		if w.replay != nil || !w.idle() {
			p.Errorf("client %d does not come to rest: replay %+v, busy %v, window %+v", w.id, w.replay, w.busy, w.window)
		}
	}
}

func (p *replayPlay) isSuperseded(id int, by map[int]bool, strict bool) bool {
	e := p.log[id]
	if e.key == "" {
		return false
	}
	for i := id + 1; i < len(p.log); i++ {
		if o := p.log[i]; o.key == e.key && (by[i] || !strict) { // the newer value may be lost in turn, or not match a newer filter
			return true
		}
	}
	return false
}

func (p *replayPlay) check(w *watcher) {
	list := p.received(w)
	if w.link.broke != "" {
		p.Errorf("client %d: its link was %s", w.id, w.link.broke)
	}
	filters := w.filters
	all := map[int]bool{}
	segments := [][]seen{nil}
	told := 0
	for _, s := range list {
		if s.reply {
			segments = append(segments, nil)
			continue
		}
		last := len(segments) - 1
		segments[last] = append(segments[last], s)
		if told += s.gap; s.id >= 0 {
			all[s.id] = true
		}
	}
	if len(segments) != len(filters) {
		p.Errorf("client %d got %d replies, want %d", w.id, len(segments)-1, len(filters)-1)
		return
	}
	for k, segment := range segments {
		last := -1
		in := map[int]bool{}
		for i, s := range segment {
			if s.id < 0 {
				continue
			}
			if slices.ContainsFunc(segment[:i], func(before seen) bool { return before.id == s.id }) {
				p.Errorf("client %d got %d twice in part %d", w.id, s.id, k)
			}
			e := p.log[s.id]
			inOrder := e.key == "" && (e.to == nil || k == 0) // a later look-back may begin before a message that has waited
			if in[s.id] = true; s.id <= last && inOrder {
				p.Errorf("client %d got %d after %d, part %d", w.id, s.id, last, k)
			}
			if inOrder {
				last = s.id
			}
			if !w.wants(p.log[s.id], filters[k]) {
				p.Errorf("client %d got %d, which its filter %v does not let pass", w.id, s.id, filters[k])
			}
			if p.lossless && k == 0 && s.id < w.from && !slices.Contains(w.base, s.id) {
				p.Errorf("client %d got %d from before its join at %d, and should look back for %v", w.id, s.id, w.from, w.base)
			}
		}
		base := w.base
		if k > 0 {
			base = w.changes[k-1].base
		}
		if k == len(segments)-1 && p.lossless {
			for _, id := range base {
				if !in[id] && !p.isSuperseded(id, in, true) {
					p.Errorf("client %d did not get %d when it looked back in part %d for %v", w.id, id, k, base)
				}
			}
		}
	}
	missing, lost := 0, []int(nil)
	for i, e := range p.log {
		due := i >= w.due || p.lossless && len(segments) == 1 && slices.Contains(w.base, i)
		for k, f := range filters {
			if k == len(filters)-1 || w.changes[k].at > i {
				due = due && w.wants(e, f)
			}
		}
		if due && !all[i] && !p.isSuperseded(i, all, p.lossless && len(filters) == 1) {
			missing++
			lost = append(lost, i)
			if p.lossless {
				p.Errorf("client %d did not get %d, which was published at %d or later", w.id, i, w.from)
			}
		}
	}
	if w.v1 != nil && missing > told {
		p.Errorf("client %d did not get %d messages, and was told of %d: it got %v, and not %v", w.id, missing, told, list, lost)
	}
	if got := w.snapshot(); got.Offered != got.Sent+got.Dropped+got.Abandoned+got.Filtered+got.Conflated+uint64(got.Buffered) || got.Buffered != 0 {
		p.Errorf("client %d: the accounts do not balance: %+v", w.id, got)
	}
	count := 0
	for _, s := range list {
		if s.id >= 0 {
			count++
		}
	}
	if got := int(w.sent + w.snapshot().Replayed); got != count {
		p.Errorf("client %d: %d messages sent and %d replayed, and it got %d", w.id, w.sent, w.snapshot().Replayed, count)
	}
	if w.v1 != nil && len(filters) == 1 {
		p.checkPlaces(w, list, all)
	}
}

// checkPlaces checks that what is missing between two messages is told between them.
func (p *replayPlay) checkPlaces(w *watcher, list []seen, all map[int]bool) {
	at, told := -1, 0
	step := func(to int) {
		missing := 0
		for i := at + 1; i < to; i++ {
			if due := (i >= w.due || p.lossless && slices.Contains(w.base, i)) && p.log[i].key == "" && p.log[i].to == nil; due && w.wants(p.log[i], w.filters[0]) && !all[i] {
				missing++
			}
		}
		if missing > told {
			p.Errorf("client %d did not get %d messages between %d and %d, and was told of %d there; it got %v", w.id, missing, at, to, told, list)
		}
		at, told = to, told-missing // messages to all projects may be told of too early, as those of a project may
	}
	for _, s := range list {
		switch {
		case s.id >= 0 && p.log[s.id].key == "" && p.log[s.id].to == nil:
			step(s.id)
		case s.id < 0:
			told += s.gap
		}
	}
	step(len(p.log))
}

// playReplays plays a script.
func playReplays(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 14))
	p := &replayPlay{T: t, rand: random, history: 1000, age: time.Hour}
	buffer, window := 2000, 5000
	switch seed % 4 {
	case 0:
		p.lossless = true
	case 1:
		p.lossless, p.keys, window = true, true, 3+random.IntN(20)
	case 2:
		p.history, buffer = 1+random.IntN(20), 1+random.IntN(30)
	case 3:
		p.history, buffer, window, p.keys = 1+random.IntN(40), 1+random.IntN(10), 1+random.IntN(10), random.IntN(2) == 0
	}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d, history %d, buffer %d, window %d:\n%s", seed, p.history, buffer, window, strings.Join(p.steps, "\n"))
		}
	}()
	p.start(WithHistory(p.history), WithHistoryAge(p.age), WithMaxBuffer(buffer), WithWindow(window),
		WithCoalescing([]time.Duration{0, 2 * time.Millisecond, 100 * time.Millisecond}[seed/4%3]))
	steps := 50 + random.IntN(400)
	changing := random.IntN(2) == 0
	p.busy = true
	for range steps {
		switch p.rand.IntN(20) {
		case 0:
			if len(p.watchers) < 6 {
				p.join()
			}
		case 1, 2, 3:
			p.note("turn")
			p.turn()
		case 4, 5:
			w, n := p.some(), p.rand.IntN(300)
			p.note("room for %d bytes to %d", n, w.id)
			if w.group != nil {
				w.link.grant(n)
			}
		case 6, 7:
			p.answer(p.some())
		case 8:
			if changing {
				p.change(p.some())
			}
		case 9:
			p.buffer(p.some())
		case 10:
			p.note("drain")
			time.Sleep(time.Duration(p.rand.IntN(400)) * time.Millisecond)
			p.s.tick(true, false)
		case 11:
			switch p.rand.IntN(10) {
			case 0:
				p.settle()
			case 1, 2, 3:
				p.leave(p.some())
			case 4, 5, 6: // a project loses its last client and gets another one, while its messages wait in the inbox
				project := p.some().sub.Project
				p.publish()
				for _, w := range slices.Clone(p.watchers) {
					if w.sub.Project == project || project == "" {
						p.leave(w)
					}
				}
				p.publish()
				p.join()
			}
		default:
			p.publish()
		}
	}
	p.busy = false
	if p.rand.IntN(3) == 0 {
		p.turn()
		p.note("shutdown")
		p.s.close(true)
		p.closed = true
		p.s.take()
		p.s.takeTurn()
	}
	p.settle()
	for _, w := range p.watchers {
		p.check(w)
	}
	if !p.closed {
		p.s.close(false)
		p.closed = true
		p.s.take()
		p.s.takeTurn()
		p.settle()
	}
}

func TestAReplayBringsEverythingOnceAndInOrder(t *testing.T) {
	seeds := 400
	if testing.Short() {
		seeds = 50
	}
	first := uint64(0)
	if *replaySeed > 0 {
		first, seeds = *replaySeed, 1
	}
	for i := range seeds {
		seed := first + uint64(i)
		synctest.Test(t, func(t *testing.T) { playReplays(t, seed) })
		if t.Failed() {
			return
		}
	}
}

// With WithOverflow(Disconnect), a client receives everything or is closed, also while it looks back.
func TestAClientThatLooksBackTooSlowlyIsClosedIfNothingMayBeDropped(t *testing.T) {
	for _, overflow := range []Overflow{DropOldest, Disconnect} {
		synctest.Test(t, func(t *testing.T) {
			p := &replayPlay{T: t, rand: rand.New(rand.NewPCG(1, 1)), history: 5, age: time.Hour}
			p.start(WithHistory(5), WithOverflow(overflow))
			say := func(n int) {
				for range n {
					if err := p.m.Broadcast(Message{Project: "a", Data: make([]byte, 100)}); err != nil {
						t.Fatal(err)
					}
					p.turn()
				}
			}
			say(20) // those that have left before are no loss
			pl, err := p.m.reserve("192.0.2.1")
			if err != nil {
				t.Fatal(err)
			}
			c := &client{id: 1, shard: p.s, place: pl, connectedAt: time.Now(), terms: grantedAll(Subscription{Project: "a"})}
			l := &strait{client: c, room: 200, during: func() {}}
			c.link = l
			c.recall(past{last: 10})
			c.markSeen(time.Now())
			if err := p.s.register(c); err != nil {
				t.Fatal(err)
			}
			p.turn()
			say(6)
			l.grant(1 << 20)
			p.turn()
			if got, want := c.phase == phaseClosing, overflow == Disconnect; got != want {
				t.Errorf("overflow %v: closed: %v, want %v", overflow, got, want)
			}
			if c.phase == phaseClosing && (c.out.closeCode != wsframe.CodeTryAgainLater || c.out.closeReason != reasonTooSlow) {
				t.Errorf("closed with %d %q, want %d %q", c.out.closeCode, c.out.closeReason, wsframe.CodeTryAgainLater, reasonTooSlow)
			}
			c.remove(nil)
		})
	}
}

// A client that returns has lost what left the history while it was away, however fast it is. If that goes on until it is
// sent the first message, it is not too slow: it would be closed at each of its returns.
func TestAReturnIsNotTooSlowForWhatLeftTheHistoryBeforeItsGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &replayPlay{T: t, rand: rand.New(rand.NewPCG(1, 1)), history: 5, age: time.Hour}
		p.start(WithHistory(5), WithOverflow(Disconnect))
		publish := func(n int) {
			for range n {
				if err := p.m.Broadcast(Message{Project: "a", Data: make([]byte, 100)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		text := string(p.s.seal.Append(nil, sealsPosition, "a", time.Now(), position{}.append(nil)))
		publish(20)
		p.turn()
		pl, err := p.m.reserve("192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		c := &client{id: 1, shard: p.s, place: pl, connectedAt: time.Now(), terms: grantedAll(Subscription{Project: "a"})}
		c.agree()
		l := &strait{client: c, room: 1000, during: func() {}}
		c.link = l
		c.recall(past{back: &comeback{position: text}})
		c.markSeen(time.Now())
		if err := p.s.register(c); err != nil {
			t.Fatal(err)
		}
		publish(1) // before the shard has turned
		p.turn()
		if got := string(l.taken); c.phase != phaseOpen || !strings.Contains(got, `"reason":"away","dropped":16,`) {
			t.Errorf("in phase %d (%d %q), got %q, want a gap of 16", c.phase, c.out.closeCode, c.out.closeReason, got)
		}
		publish(6) // before it has received the five that followed its gap
		l.grant(1 << 20)
		p.turn()
		p.turn()
		if c.phase != phaseClosing || c.out.closeReason != reasonTooSlow {
			t.Errorf("after its gap: in phase %d (%q), want it closed as too slow", c.phase, c.out.closeReason)
		}
		c.remove(nil)
	})
}

// Among publishers, and on several shards, what a client looks back for and what follows are one piece of the one order.
func TestAReplayIsOnePieceOfTheOrder(t *testing.T) {
	withShards(t, 4)
	const publishers, each = 4, 400
	m := startManager(t, WithMaxBuffer(1000), WithHistory(3000))
	var links []*hearing
	var clients []*client
	join := func(last int) {
		h := &hearing{}
		p, err := m.reserve("")
		if err != nil {
			t.Fatal(err)
		}
		id := ClientID(m.lastID.Add(1))
		c := &client{id: id, shard: m.shardOf(id), place: p, connectedAt: time.Now(), link: h, terms: grantedAll(Subscription{Project: "p"})}
		c.recall(past{last: last})
		c.markSeen(c.connectedAt)
		if err := c.shard.register(c); err != nil {
			t.Fatal(err)
		}
		links, clients = append(links, h), append(clients, c)
	}
	join(0)
	var all sync.WaitGroup
	for n := range publishers {
		all.Go(func() {
			for i := range each {
				if err := m.Broadcast(Message{Project: "p", Data: fmt.Appendf(nil, "p %d/%d", n, i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range 60 {
		join(1 + 10*n)
	}
	all.Wait()
	want := links[0].of(clients[0], "p")
	if len(want) != publishers*each {
		t.Fatalf("the first client has heard %d messages", len(want))
	}
	for i, h := range links {
		var ended bool
		waitFor(t, m, "the replay has ended", func() bool {
			clients[i].shard.ask(func() { ended = clients[i].replay == nil })
			return ended
		})
		if got := h.of(clients[i], "p"); len(got) > len(want) || !slices.Equal(got, want[len(want)-len(got):]) {
			t.Fatalf("client %d has heard %d messages, and they are not the last ones of the order", i, len(got))
		}
	}
}

// A tap notes where the bytes are that it is given.
type tap struct {
	sink
	given []*byte
	bytes []byte
}

func (l *tap) Write(p []byte, _ []int, then []byte) (int, int, error) {
	l.given = append(l.given, &p[0])
	l.bytes = append(l.bytes, p...)
	return len(p) + len(then), 0, nil
}

// Clients that return together are sent the same bytes, which are read and joined once.
func TestReplaysAtOnePlaceShareTheirBytes(t *testing.T) {
	p := &replayPlay{T: t, rand: rand.New(rand.NewPCG(1, 1)), history: 1000, age: time.Hour}
	p.start(WithHistory(1000), WithWindow(0))
	for i := range 600 {
		msg := Message{Project: "a", Data: fmt.Appendf(nil, "%0500d", i)}
		if err := p.m.Broadcast(msg); err != nil {
			t.Fatal(err)
		}
	}
	taps := make([]*tap, 3)
	clients := make([]*client, len(taps))
	for i := range taps {
		pl, err := p.m.reserve("")
		if err != nil {
			t.Fatal(err)
		}
		c := &client{id: ClientID(i * len(p.m.shards)), shard: p.s, place: pl, connectedAt: time.Now(), terms: grantedAll(Subscription{Project: "a"})}
		if i == 2 {
			c.sub.Filter = Filter{Levels: []string{"error"}} // the same messages, which have no level
		}
		taps[i], clients[i] = &tap{}, c
		c.link = taps[i]
		c.recall(past{last: 600})
		c.markSeen(c.connectedAt)
		if err := p.s.register(c); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		p.turn()
	}
	shares := 0
	for _, at := range taps[0].given {
		if slices.Contains(taps[1].given, at) {
			shares++
		}
		if slices.Contains(taps[2].given, at) {
			t.Error("a client with another filter shares what was read")
		}
	}
	if shares < 4 {
		t.Errorf("two clients share %d of %d writes", shares, len(taps[0].given))
	}
	for i, tap := range taps[1:] {
		if want := taps[0].bytes; !bytes.Equal(tap.bytes[len(tap.bytes)-300_000:], want[len(want)-300_000:]) {
			t.Errorf("client %d has received something else than client 0", i+1)
		}
	}
}
