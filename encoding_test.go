package mesherstream

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream/internal/follower"
	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/request"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// This file has what the simulation of position_test.go does with pages that follow a stream over plain HTTP.

// A plainReader reads one connection.
type plainReader struct {
	events follower.EventReader
	lines  follower.LineReader
}

// readPlain lets the page read what has arrived, which may end anywhere.
func (p *simulation) readPlain(v *page) {
	arrived := v.link.taken[v.fed:v.arrived]
	v.fed = v.arrived
	if v.encoding == lines {
		for _, line := range v.plain.lines.Read(arrived) {
			p.receiveLine(v, line)
		}
		return
	}
	for _, e := range v.plain.events.Read(arrived) {
		p.receiveEvent(v, e)
	}
}

// receiveEvent hands an event to the page, without the number that the page doesn't see.
func (p *simulation) receiveEvent(v *page, e follower.ServerEvent) {
	id := -1
	cut := func(data string) string {
		text, number := cutNumber([]byte(data))
		if id = number; id < 0 {
			p.Errorf("page %d received %q", v.name, e.Data)
		}
		return string(text)
	}
	switch e.Name {
	case "":
		e.Data = cut(e.Data)
	case "binary":
		data, err := base64.StdEncoding.DecodeString(e.Data)
		if err != nil {
			p.Fatal(err)
		}
		e.Data = base64.StdEncoding.EncodeToString([]byte(cut(string(data))))
	case typePast:
		var data []byte
		data, id = withoutNumber(p, []byte(e.Data))
		e.Data = string(data)
	}
	shown, position := len(v.Shown), v.Position
	n, err := v.ReceiveEvent(e)
	if err != nil {
		p.Fatalf("page %d received %+v: %v", v.name, e, err)
	}
	if e.Own && !(n != nil && n.Type == typeHello) {
		if _, _, ok := openPosition(&p.m.history.seal, v.project, e.ID); !ok {
			p.Errorf("page %d can't return with the ID of %+v", v.name, e)
		}
	}
	p.notef("page %d receives the event %q, ID %v, %.300q, %d", v.name, e.Name, e.Own, anyText.ReplaceAllString(e.Data, "…"), id)
	if n != nil {
		p.heedNotice(v, n)
	}
	p.keep(v, id, shown, position)
}

// receiveLine hands a line to the page, without the number.
func (p *simulation) receiveLine(v *page, line string) {
	text, n, err := follower.OfLine(line)
	if err != nil {
		p.Fatalf("page %d received %q: %v", v.name, line, err)
	}
	id := -1
	if n == nil {
		cut, number := cutNumber([]byte(text))
		if data, err := base64.StdEncoding.DecodeString(text); number < 0 && err == nil {
			if cut, number = cutNumber(data); number >= 0 {
				cut = append([]byte("binary:"), cut...)
			}
		}
		if text, id = string(cut), number; id < 0 {
			p.Errorf("page %d received %q", v.name, line)
		}
	}
	shown, position := len(v.Shown), v.Position
	v.ReceiveLine(text, n)
	p.notef("page %d receives the line %.300q, %d", v.name, anyText.ReplaceAllString(line, "…"), id)
	p.keep(v, id, shown, position)
}

// rollBack takes what the page has received since its position away: it doesn't tell the server of that, and is sent all
// of it again.
func (p *simulation) rollBack(v *page) {
	p.notef("page %d goes back to its position, over %d items", v.name, len(v.items)-v.storedAt)
	v.items = v.items[:v.storedAt]
	v.due, v.looksBack = v.storedDue, v.storedLooksBack
}

// checkPlain checks a page to which everything has arrived.
func (p *simulation) checkPlain(v *page) {
	if !v.plain.events.IsWhole() || !v.plain.lines.IsWhole() {
		p.Errorf("page %d has received a part of something", v.name)
	}
	if v.encoding == lines {
		return
	}
	for _, it := range v.items[max(v.storedAt, v.itemFrom):] {
		if v.Tailless && (it.gap != nil || p.log[it.id].to == nil) {
			p.Errorf("page %d has received %+v, and no ID with it or after it", v.name, it)
		}
	}
}

// An EventSource loses its connection before it has received a message. It says on its return from where to go on, or what
// was published meanwhile would be missing without a word.
func TestAnEventSourceIsPlacedByHello(t *testing.T) {
	for _, history := range []int{100, 0} {
		synctest.Test(t, func(t *testing.T) {
			s := newScriptOf(t, &page{agrees: true, encoding: events, project: "a", Follower: follower.Follower{Tailless: true}}, WithHistory(history))
			s.cut(s.v)
			s.turns()
			s.say("", "1", "2")
			s.returns()
			if history > 0 {
				s.want("1", "2")
			} else {
				s.want("away: 2")
			}
		})
	}
}

// A turnstile is a link that counts messages and not bytes, so that clients of different encodings are equally slow.
type turnstile struct {
	sink
	client *client
	shut   bool
	room   int  // how many messages it lets pass when it is shut
	tears  bool // it accepts the beginning of the next one, too
	holds  bool // it keeps the others
	short  bool
	held   []byte
	kept   int
	taken  []byte
}

func (l *turnstile) Write(p []byte, lengths []int, then []byte) (sent, held int, err error) {
	if l.short {
		panic("written to while it was busy")
	}
	if !l.shut {
		l.taken = append(append(l.taken, p...), then...)
		return len(p) + len(then), 0, nil
	}
	if lengths == nil {
		lengths = []int{len(p)}
	}
	n := min(l.room, len(lengths))
	l.room -= n
	for _, length := range lengths[:n] {
		sent += length
	}
	if l.short = n < len(lengths); !l.short { // only a client of the protocol has a probe
		l.taken = append(append(l.taken, p...), then...)
		return len(p) + len(then), 0, nil
	}
	if l.tears {
		sent += min(1, lengths[n])
	}
	l.taken = append(l.taken, p[:sent]...)
	if l.holds {
		l.held = p[sent:] // and not a copy: it must not change
		l.kept = len(l.held)
		return sent, len(l.held), nil
	}
	return sent, 0, nil
}

func (l *turnstile) open() {
	if l.shut = false; l.short {
		l.taken = append(l.taken, l.held...)
		n := l.kept
		l.short, l.held, l.kept = false, nil, 0
		l.client.Handle(link.Event{Kind: link.Writable, N: n})
	}
}

// trio is three clients of one project and one filter, each in another encoding, that are equally slow.
type trio struct {
	*testing.T
	rand   *rand.Rand
	m      *Manager
	s      *shard
	links  [encodings]*turnstile
	filter Filter
	serial int
	steps  []string

	position string // in which the clients were once
	received int    // messages since then
	at       time.Time
}

func (p *trio) notef(format string, args ...any) {
	p.steps = append(p.steps, fmt.Sprintf(format, args...))
}

func (p *trio) turns() {
	for {
		p.s.mu.Lock()
		busy := !p.s.inbox.isEmpty() || len(p.s.again) > 0 || len(p.s.biting) > 0
		p.s.mu.Unlock()
		if !busy || !p.s.take() {
			return
		}
		p.s.takeTurn()
	}
}

// connect connects the three, with what they ask for.
func (p *trio) connect(asked past) {
	p.position = ""
	for e := range encodings {
		p.serial++
		pl, err := p.m.reserve("192.0.2.1")
		if err != nil {
			p.Fatal(err)
		}
		c := &client{
			id: ClientID(p.serial), shard: p.s, place: pl, connectedAt: time.Now(), encoding: e,
			terms: grantedAll(Subscription{Project: "a", Filter: p.filter}),
		}
		p.links[e] = &turnstile{client: c}
		c.link = p.links[e]
		c.agree()
		its := asked
		if its.back != nil {
			back := *its.back
			its.back = &back
		}
		c.recall(its)
		if err := p.s.register(c); err != nil {
			p.Fatal(err)
		}
	}
	p.turns()
}

func (p *trio) leave() {
	for _, l := range p.links {
		if l.client.phase != phaseGone {
			l.client.Handle(link.Event{Kind: link.Failed, Err: errors.New("gone")})
		}
	}
}

func (p *trio) publish() {
	p.serial++
	project := []string{"a", "a", "a", "b", ""}[p.rand.IntN(5)]
	text := []string{"", "two\nlines", `{"json":1}`, `"quoted"`}[p.rand.IntN(4)] + fmt.Sprint(p.serial)
	msg := Message{
		Project: project, Level: []string{"", "info", "error"}[p.rand.IntN(3)], Key: []string{"", "", "k", "l"}[p.rand.IntN(4)],
		Data: []byte(text), Binary: p.rand.IntN(4) == 0,
	}
	p.notef("publish %q to %q, %q, key %q", msg.Data, project, msg.Level, msg.Key)
	p.s.mu.Lock()
	full := !p.s.hasRoom(project, 200)
	p.s.mu.Unlock()
	if full {
		p.turns()
	}
	if err := p.m.Broadcast(msg); err != nil {
		p.Fatal(err)
	}
	time.Sleep(time.Duration(p.rand.IntN(1500)) * time.Microsecond)
}

// step plays one step. What it does to the clients, it does to all of them at the same time.
func (p *trio) step() {
	if p.areClosed() {
		p.notef("connect")
		p.leave()
		p.connect(past{})
	}
	switch p.rand.IntN(16) {
	case 0, 1:
		p.notef("open")
		for _, l := range p.links {
			l.open()
		}
		p.turns()
		p.compare()
	case 2, 3:
		room, tears, holds := p.rand.IntN(4), p.rand.IntN(2) == 0, p.rand.IntN(2) == 0
		for _, l := range p.links {
			if !l.shut {
				l.shut, l.room, l.tears, l.holds = true, room, tears, holds
			}
		}
		p.notef("shut after %d messages, tears %v, holds %v", room, tears, holds)
	case 4:
		if l := p.links[frames]; l.shut && !l.short { // a mark would take a place that lines have for a message
			return
		}
		p.filter = []Filter{{}, {}, {Levels: []string{"error"}}, {Levels: []string{"info"}}}[p.rand.IntN(4)]
		p.notef("filter %v", p.filter)
		for _, l := range p.links {
			if err := p.m.SetFilter(l.client.id, p.filter); err != nil {
				p.Fatal(err)
			}
			p.turns()
		}
		p.position = ""
	case 5:
		p.serial++
		p.notef("buffer %d", p.serial)
		p.turns()
		for _, l := range p.links {
			if err := p.m.BufferMessage(l.client.id, fmt.Append(nil, p.serial)); err != nil {
				p.Fatal(err)
			}
			p.turns()
		}
	case 6:
		p.notef("drain")
		p.s.tick(true, false)
		p.turns()
	case 7:
		p.comeBack()
	case 8:
		switch p.rand.IntN(8) {
		case 0, 1:
			time.Sleep(time.Minute)
			p.notef("a minute")
		case 2:
			runtime.GC() // of the forms that nobody holds, nothing remains
		}
	default:
		for range 1 + p.rand.IntN(4) {
			p.publish()
		}
		p.turns()
	}
}

// areClosed reports whether the clients are closed, as those that are too slow are with [Disconnect].
func (p *trio) areClosed() bool {
	closed := p.links[frames].client.phase != phaseOpen
	for e, l := range p.links {
		if (l.client.phase != phaseOpen) != closed {
			p.Errorf("encoding %d: phase %d, and others are closed or not: %v", e, l.client.phase, closed)
		}
	}
	return closed
}

// comeBack has the clients leave, and connect again, perhaps with the position that they had.
func (p *trio) comeBack() {
	asked := past{}
	if p.position != "" && p.rand.IntN(3) > 0 {
		asked.back = &comeback{position: p.position}
		if p.rand.IntN(2) == 0 {
			asked.back.received, asked.back.ago = p.received, time.Since(p.at)
		}
	} else if p.rand.IntN(2) == 0 {
		asked.last = 1 + p.rand.IntN(20)
	}
	p.leave()
	p.turns()
	for range p.rand.IntN(10) {
		p.publish()
	}
	p.notef("come back, last %d, return %v", asked.last, asked.back)
	p.connect(asked)
	p.compare()
}

// compare compares what the clients have received up to now, if all of it has arrived.
func (p *trio) compare() {
	framed, placed, lined := p.links[frames], p.links[events], p.links[lines]
	if framed.short || placed.short || lined.short {
		if !framed.short || !placed.short || !lined.short {
			p.Errorf("not all are busy: %v, %v, %v", framed.short, placed.short, lined.short)
		}
		return
	}
	want, received := p.ofFrames(framed.taken)
	got, id := p.ofEvents(placed.taken)
	if !slices.Equal(got, want) {
		p.Errorf("over events, the client was told\n%q\nand over a WebSocket\n%q", got, want)
	}
	told := slices.DeleteFunc(want, func(s string) bool { return !strings.HasPrefix(s, "data ") && !strings.HasPrefix(s, "gap ") })
	if got := p.ofLines(lined.taken); !slices.Equal(got, told) {
		p.Errorf("over lines, the client was told\n%q\nand over a WebSocket\n%q", got, told)
	}
	at, ok := framed.client.reached(0, 0, nil)
	if framed.client.phase != phaseOpen || !ok {
		return
	}
	last, _, ok := openPosition(&p.m.history.seal, "a", id)
	between := p.m.history.read("a", &framed.client.sub.Filter, last.cursor, at.cursor, nil, 1, 1)
	if len(got) > 0 && (!ok || !at.reaches(last.cursor) || len(between.messages) > 0 || last.digest() != at.digest()) {
		p.Errorf("the last ID is %+v, %v, and the position is %+v", last, ok, at)
	}
	if p.position == "" || p.rand.IntN(3) == 0 {
		p.position, p.received = framed.client.positionText(at, true), -received
	}
	p.received, p.at = received+p.received, time.Now()
}

// digest is what a position says beside its place.
func (p position) digest() [2]uint64 {
	again := uint64(0)
	if p.again {
		again = 1
	}
	return [2]uint64{p.filter, again}
}

// told describes a notice. Where the words of an encoding differ, it has none.
func (p *trio) told(n *gapNotice, replay *replayNotice, kind string) string {
	switch kind {
	case typeGap:
		pos, _, ok := openPosition(&p.m.history.seal, "a", n.Position)
		of, _ := openHole(&p.m.history.seal, "a", n.ID)
		return fmt.Sprint("gap ", n.Reason, n.Dropped, n.AtMost, n.Held, n.ByLevel, n.Since, n.Until, pos, ok, of)
	case typeReplay, typeReplayed:
		pos, _, ok := openPosition(&p.m.history.seal, "a", replay.Position)
		return fmt.Sprint(kind, " ", replay.Of, pos, ok)
	}
	return kind
}

func (p *trio) notice(kind string, data []byte) string {
	var gap gapNotice
	var replay replayNotice
	if err := errors.Join(json.Unmarshal(data, &gap), json.Unmarshal(data, &replay)); err != nil {
		p.Fatalf("%q: %v", data, err)
	}
	if kind == typePast {
		var past pastMessage
		_ = json.Unmarshal(data, &past)
		if past.Data == nil {
			return fmt.Sprintf("past %x", past.Binary)
		}
		return "past " + *past.Data
	}
	return p.told(&gap, &replay, kind)
}

// ofFrames returns what a client of the protocol has received, and how many of that are messages that it counts.
func (p *trio) ofFrames(taken []byte) (list []string, counted int) {
	direct := false
	for {
		frame, payload := firstFrame(taken)
		if frame == nil {
			break
		}
		taken = taken[len(frame):]
		kind, err := request.Type(payload)
		var named struct{ Stream string }
		isNotice := err == nil && json.Unmarshal(payload, &named) == nil && named.Stream != ""
		switch op := frame[0] & 0x0F; {
		case op >= 8 || isNotice && (kind == typeHello || kind == typeMark):
		case isNotice:
			list = append(list, p.notice(kind, payload))
		case op == wsframe.OpBinary:
			list = append(list, "data "+base64.StdEncoding.EncodeToString(payload))
		default:
			list = append(list, "data "+string(payload))
		}
		if !isNotice && !direct {
			counted++
		}
		direct = isNotice && kind == typeDirect
	}
	if len(taken) > 0 {
		p.Errorf("a part of a frame: %q", taken)
	}
	return list, counted
}

func (p *trio) ofEvents(taken []byte) (list []string, id string) {
	var r follower.EventReader
	for _, e := range r.Read(taken) {
		id = e.ID
		switch e.Name {
		case typeHello, typeMark:
		case "", "binary":
			list = append(list, "data "+e.Data)
		default:
			list = append(list, p.notice(e.Name, []byte(e.Data)))
			var n struct{ Position string }
			_ = json.Unmarshal([]byte(e.Data), &n)
			if e.Name != typePast && e.Name != typeDirect && e.Own != (n.Position != "") || e.Own && n.Position != "" && e.ID != n.Position {
				p.Errorf("the ID of %+v is not its position", e)
			}
		}
	}
	if !r.IsWhole() {
		p.Errorf("a part of an event: %q", taken)
	}
	return list, id
}

func (p *trio) ofLines(taken []byte) (list []string) {
	var r follower.LineReader
	for _, line := range r.Read(taken) {
		text, n, err := follower.OfLine(line)
		switch {
		case err != nil:
			p.Errorf("%q: %v", line, err)
		case n == nil:
			list = append(list, "data "+text)
		default:
			var all map[string]json.RawMessage
			_ = json.Unmarshal([]byte(line), &all)
			list = append(list, p.notice(n.Type, all["mesherstream"]))
		}
	}
	return list
}

// Three clients of one filter that are equally slow are told the same, each in its encoding, and the last ID is where the
// client of the protocol is, too. -replayseed repeats a script.
func TestClientsOfAllEncodingsAreToldTheSame(t *testing.T) {
	first, scripts := uint64(0), 100
	if isLong() {
		scripts = 10_000
	}
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "replayseed" {
			first, scripts = *replaySeed, 1
		}
	})
	for i := range scripts {
		seed := first + uint64(i)
		synctest.Test(t, func(t *testing.T) {
			p := &trio{T: t, rand: rand.New(rand.NewPCG(seed, 7))}
			opts := []Option{
				WithHistory([]int{0, 1 + p.rand.IntN(10), 1000}[p.rand.IntN(3)]), WithHistoryAge(30 * time.Second), WithWindow(0),
				WithMaxBuffer([]int{1 + p.rand.IntN(6), 100}[p.rand.IntN(2)]), WithOverflow([]Overflow{DropOldest, DropOldest, DropNewest, Disconnect}[p.rand.IntN(4)]),
				WithCoalescing([]time.Duration{0, 3 * time.Millisecond, 100 * time.Millisecond}[seed%3]),
				WithLogger(slog.New(slog.DiscardHandler)),
			}
			if p.rand.IntN(4) == 0 {
				opts = append(opts, WithOverflow(DropOldest), WithKeepLevels("error"))
			}
			m, err := NewManager(opts...)
			if err != nil {
				t.Fatal(err)
			}
			m.shards, m.cfg.shards = m.shards[:1], 1
			p.m, p.s = m, m.shards[0]
			p.s.start(newHookQueue(m.cfg.hooks, m.cfg.logger, m.hookPanicked), nil)
			p.connect(past{})
			for range 150 {
				if p.step(); t.Failed() {
					break
				}
			}
			if t.Failed() {
				t.Log(strings.Join(p.steps, "\n"))
			}
			p.leave()
			p.turns()
		})
		if t.Failed() {
			t.Fatalf("script %d", seed)
		}
	}
}

// Without a history, a page that returns is told what it has missed by two or three notices. While the first ones are on
// their way, the application changes its filter, or a client does so that doesn't wait for the end of the replay, and a mark
// is due. No place is named before the gap is told.
func TestNoPlaceIsNamedBeforeAReturnIsTold(t *testing.T) {
	for name, v := range map[string]page{
		"protocol":    {},
		"impatient":   {},
		"events":      {encoding: events},
		"EventSource": {encoding: events, Follower: follower.Follower{Tailless: true}},
	} {
		t.Run(name, func(t *testing.T) {
			for n := 0; n < 1200 && !t.Failed(); n += 20 {
				synctest.Test(t, func(t *testing.T) {
					v := v
					v.agrees, v.project = true, "a"
					s := newScriptOf(t, &v, WithHistory(0))
					s.say("", "1")
					s.arrive()
					s.cut(s.v)
					s.turns()
					s.say("", "info/2", "info/3", "info/4")
					s.dial(s.v)
					s.v.link.room = n
					s.turns()
					s.read(s.v, n)
					f := Filter{Levels: []string{"info"}}
					if name == "impatient" {
						text := []byte(`{"type":"subscribe","filters":{"level":"info","environment":""}}`)
						s.v.client.Post(link.Event{Kind: link.Received, Op: wsframe.OpText, Payload: text})
						s.v.asked = &f
					} else if err := s.m.SetFilter(s.v.client.id, f); err != nil {
						t.Fatal(err)
					}
					s.v.setFilter(len(s.log), f)
					s.turns()
					time.Sleep(30 * time.Second)
					s.beat()
					for range 8 {
						s.v.link.grant(100)
						s.turns()
						s.read(s.v, 60)
					}
					s.notef("%d bytes first", n)
					s.returns()
					s.settle()
					s.notef("%q", s.told())
				})
			}
		})
	}
}

// A form is there as long as something holds it, and is made anew when it is needed again. The history holds none.
func TestAFormIsHeldByThoseForWhomItWaits(t *testing.T) {
	m := newMessage(&Message{Project: "a", Key: "k", Data: []byte("two\nlines")})
	m.number, m.stamp = 7, 9
	held := m.in(events)
	_ = m.in(lines)
	runtime.GC()
	f := m.forms.Load()
	if got := f.plain[events].Value(); got != held || m.in(events) != held || f.plain[lines].Value() != nil {
		t.Errorf("the form that is held is %p, want %p, and that of lines %p, want none", got, held, f.plain[lines].Value())
	}
	if held.asFrame() != m || m.asFrame() != m || held.number != 7 || held.stamp != 9 || held.key != "k" {
		t.Errorf("the form is %+v", held)
	}
	runtime.KeepAlive(held)
	held = nil
	runtime.GC()
	if f.plain[events].Value() != nil {
		t.Error("nothing holds the form of events, and it is still there")
	}
	for e, want := range map[encoding]string{events: "data: two\ndata: lines\n\n", lines: "\"two\\nlines\"\n"} {
		if got := string(m.in(e).frame); got != want {
			t.Errorf("encoding %d: got %q, want %q", e, got, want)
		}
	}
}

// Two shards need a form at the same time, and one of them makes it. Meanwhile others come and go.
func TestShardsShareTheFormThatTheyNeedAtTheSameTime(t *testing.T) {
	for range 50 {
		m := newMessage(&Message{Project: "a", Data: []byte("x")})
		var made [8]*message
		var all sync.WaitGroup
		for i := range made {
			all.Go(func() {
				if made[i] = m.in(events); i == 0 {
					runtime.GC()
				}
				_ = m.in(lines).frame
			})
		}
		all.Wait()
		for _, got := range made {
			if got != made[0] {
				t.Fatalf("two shards hold %p and %p", got, made[0])
			}
		}
	}
}
