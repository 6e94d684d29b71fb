package mesherstream

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/mesher/mesherstream/internal/follower"
	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/seal"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// A simulation plays publishers, a server that restarts, and pages that lose their connections and return. A seed repeats
// it. It keeps a log of everything that was published, which is all that it needs to say what each page should have shown.
type simulation struct {
	*testing.T
	rand    *rand.Rand
	options []Option
	shards  int
	m       *Manager
	log     []*said
	classes map[string][]int // the messages with each text
	taken   []int            // for each shard, how many of the log it has certainly taken
	pages   []*page
	calls   []*call // of Broadcast that wait for a shard
	during  *page   // in the middle of the next write to it, something is published
	age     time.Duration
	steps   []string
	node    *follower.Node // plays the pages of the protocol; nil if only the follower does
	began   time.Time
}

// said is a message that was published: for all clients of a project, of all projects, or for one client.
type said struct {
	id                               int
	project, level, environment, key string
	text                             string
	at                               time.Time
	to                               *page
	conn                             int // that of the page
}

// A call of Broadcast that has begun.
type call struct {
	id   int
	done bool
}

// A page follows a project. It has the rules of a client that returns, or is a client without the protocol.
type page struct {
	follower.Follower
	name      int
	agrees    bool // it is told what it misses
	encoding  encoding
	project   string
	filters   []inForce // the filters, and since when
	chosen    Filter    // the filter with which it returns
	asked     *Filter   // the request that waits for its reply
	begins    past      // what its URL asks for
	looks     int       // how many messages it looks back for when it returns over events
	fast      bool
	stored    follower.Follower
	storedAt  int // how many of its items were there at that time
	storedDue int
	lookBacks int

	// A look-back that breaks goes on with the return: what was published before it may be shown again there.
	looksBack, storedLooksBack int // how long the log was when the present look-back began

	// The connection, if there is one.
	conn     int
	client   *client
	link     *strait
	plain    plainReader
	fed      int      // how many bytes of the stream have been read as frames
	arrived  int      // how many bytes have arrived
	says     []string // what it has sent, and has not arrived
	dialedAt int
	received int    // how many messages it has said it has received since its position
	setIn    uint64 // the turn of the shard before the one that handles the newest SetFilter
	cutAt    int
	since    time.Time

	// What mesherstream.js does, if it plays the page. The follower receives the same, and must show the same.
	isPlayed bool
	last     follower.Report
	changes  bool // it has asked for other filters than its first ones
	reloaded bool // it has been, and has not dialed since

	items    []item
	itemFrom int // the items before belong to another life of the page
	joined   int // everything published from then on is due
	floor    int // nothing published before arrives outside of look-backs
	untaken  int // its shard had not taken what was published from then on when it connected
	due      int // what was published before is settled
	returns  []comeBackNote
}

// inForce is a filter, and how long the log was when it was put into force.
type inForce struct {
	from   int
	filter Filter
}

// An item is what a page shows: a message or a gap.
type item struct {
	id       int // of the message, or -1
	gap      *follower.Notice
	past     bool // it has come as an old value, in the place of an equal message
	lookBack int  // the number of the look-back that it is from, or 0
	returned bool
	conn     int
	logged   int // how long the log was when it arrived
}

// A comeBackNote is what a page was told when it returned.
type comeBackNote struct {
	conn, logged, atMost int
}

func (p *simulation) notef(format string, args ...any) {
	p.steps = append(p.steps, fmt.Sprintf(format, args...))
}

func (p *simulation) chance(n int) bool { return p.rand.IntN(n) == 0 }

func one[T any](p *simulation, list ...T) T { return list[p.rand.IntN(len(list))] }

// start starts the server, which knows nothing.
func (p *simulation) start() {
	m, err := NewManager(append(p.options, WithLogger(slog.New(slog.DiscardHandler)))...)
	if err != nil {
		p.Fatal(err)
	}
	m.shards, m.cfg.shards = m.shards[:p.shards], p.shards
	p.m = m
	for _, s := range m.shards {
		s.start(newHookQueue(m.cfg.hooks, m.cfg.logger, m.hookPanicked), nil)
	}
	p.taken = slices.Repeat([]int{len(p.log)}, p.shards)
}

// turn lets a shard take a turn, and reports whether there was anything to do.
func (p *simulation) turn(i int) bool {
	s := p.m.shards[i]
	s.mu.Lock()
	busy := !s.inbox.isEmpty() && !s.sleeps || len(s.again) > 0 || len(s.biting) > 0
	s.mu.Unlock()
	taken := len(p.log)
	for _, c := range p.calls {
		taken = min(taken, c.id)
	}
	if !busy || !s.take() {
		return false
	}
	synctest.Wait() // the publishers that waited for this go on before the turn, and not beside it
	p.calls = slices.DeleteFunc(p.calls, func(c *call) bool { return c.done })
	s.takeTurn()
	s.mu.Lock()
	s.sleeps = s.inbox.isEmpty() && len(s.again) == 0 && len(s.biting) == 0 // as take leaves it
	s.mu.Unlock()
	p.taken[i] = taken
	for _, v := range p.pages {
		if v.client != nil && v.client.shard == s {
			p.checkAccounts(v)
			if v.fast {
				p.flow(v)
			}
		}
	}
	return true
}

func (p *simulation) checkAccounts(v *page) {
	got := v.client.snapshot()
	if got.Offered != got.Sent+got.Dropped+got.Abandoned+got.Filtered+got.Conflated+uint64(got.Buffered) {
		p.Errorf("page %d: the accounts do not balance: %+v", v.name, got)
	}
}

// rest takes turns until no publisher waits.
func (p *simulation) rest() {
	for len(p.calls) > 0 {
		for i := range p.m.shards {
			p.turn(i)
		}
	}
}

// makeRoom takes turns until the next call of the manager need not wait for one.
func (p *simulation) makeRoom() {
	for p.rest(); p.waits(); {
		for i := range p.m.shards {
			p.turn(i)
		}
	}
}

func (p *simulation) waits() bool {
	return slices.ContainsFunc(p.m.shards, func(s *shard) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc([]string{"a", "b", ""}, func(project string) bool { return !s.hasRoom(project, 1500) })
	})
}

func (p *simulation) someProject() string { return one(p, "a", "a", "a", "a", "b", "") }

// compose makes a message. Some have the text of another one.
func (p *simulation) compose(project string) (Message, *said) {
	e := &said{
		id: len(p.log), project: project, level: one(p, "", "error", "info", "info"),
		environment: one(p, "", "live"), at: time.Now(),
	}
	if p.chance(3) {
		e.key = one(p, "k", "l")
	}
	switch p.rand.IntN(14) {
	case 0, 1, 2, 3:
		e.text = one(p, "same", "again", "", `{"type":"gap","stream":"other","dropped":3}`)
	case 4:
		e.text = fmt.Sprint("m", e.id, strings.Repeat(".", p.rand.IntN(1000)))
	case 5:
		e.text = fmt.Sprint(one(p, "\n", "\r", "\r\n", "m\n\nid: p\r"), "m", e.id, one(p, "", "\r", "\n"))
	case 6:
		e.text = fmt.Sprint(beginsJSON, "m", e.id)
	default:
		e.text = fmt.Sprint("m", e.id)
	}
	msg := Message{Project: e.project, Level: e.level, Environment: e.environment, Key: e.key, Data: e.data(), Binary: p.chance(5)}
	if msg.Binary {
		e.text = "binary:" + e.text
	}
	p.add(e)
	return msg, e
}

func (p *simulation) add(e *said) {
	p.log = append(p.log, e)
	p.classes[e.text] = append(p.classes[e.text], e.id)
}

// data is what is sent: the text, and a number by which the simulation knows the message, and which no page sees.
func (e *said) data() []byte {
	if strings.HasPrefix(e.text, beginsJSON) {
		return fmt.Appendf(nil, "%s #%d%s", e.text, e.id, endsJSON)
	}
	return fmt.Appendf(nil, "%s #%d", e.text, e.id)
}

// Some messages are JSON.
const beginsJSON, endsJSON = `{"m":"`, `"}`

// publish publishes a message, if need be after a turn.
func (p *simulation) publish() {
	p.makeRoom()
	p.publishNow()
}

func (p *simulation) publishNow() {
	msg, e := p.compose(p.someProject())
	if err := p.m.Broadcast(msg); err != nil {
		p.Fatal(err)
	}
	p.notef("publish %d to %q, %q, %q, key %q: %q", e.id, e.project, e.level, e.environment, e.key, e.text)
	time.Sleep(time.Duration(1+p.rand.IntN(2000)) * time.Microsecond)
}

// publishBeside publishes from another goroutine, which may have to wait for a shard. If the order of the project is
// locked then, nothing else can be published to it: a goroutine that waits for a mutex would stop the bubble.
func (p *simulation) publishBeside() {
	project := p.someProject()
	if p.isLocked(project) {
		p.rest()
	}
	msg, e := p.compose(project)
	c := &call{id: e.id}
	m := p.m
	go func() {
		if err := m.Broadcast(msg); err != nil && !errors.Is(err, ErrClosed) {
			p.Error(err)
		}
		c.done = true
	}()
	synctest.Wait()
	p.notef("publish %d to %q, %q, %q, key %q: %q, beside others; done: %v", e.id, e.project, e.level, e.environment, e.key, e.text, c.done)
	if !c.done {
		p.calls = append(p.calls, c)
	}
	time.Sleep(time.Duration(1+p.rand.IntN(2000)) * time.Microsecond)
}

// isLocked reports whether a publisher to a project would have to wait for another one.
func (p *simulation) isLocked(project string) bool {
	h := p.m.history
	if project == "" {
		if !h.allOrder.TryLock() {
			return true
		}
		h.allOrder.Unlock()
		return false
	}
	if !h.allOrder.TryRLock() {
		return true
	}
	defer h.allOrder.RUnlock()
	part := h.part(project)
	part.mu.Lock()
	defer part.mu.Unlock()
	f := part.feeds[project]
	if f == nil || !f.order.TryLock() {
		return f != nil
	}
	f.order.Unlock()
	return false
}

// publishDuring is called in the middle of each write to a page.
func (p *simulation) publishDuring(v *page, c *client) {
	if p.during != v || v.client != c {
		return
	}
	p.during = nil
	if len(p.calls) == 0 && !p.waits() {
		p.publishNow()
	}
}

func (p *simulation) someFilter() Filter {
	switch p.rand.IntN(5) {
	case 0:
		return Filter{Levels: []string{"error"}}
	case 1:
		return Filter{Levels: []string{"info"}}
	case 2:
		return Filter{Environments: []string{"live"}}
	default:
		return Filter{}
	}
}

func (p *simulation) open() *page {
	v := &page{
		name: len(p.pages), agrees: !p.chance(5), project: one(p, "a", "a", "a", "b", ""), chosen: p.someFilter(), fast: p.chance(3),
		Follower: follower.Follower{MaxTail: one(p, 0, 0, 0, 5, 40)},
	}
	if p.chance(3) {
		v.begins.last = 1 + p.rand.IntN(30)
	}
	if v.encoding = one(p, frames, frames, frames, events, events, lines); v.encoding != frames {
		v.agrees = true
		v.Tailless = v.encoding == lines || p.chance(2)
		v.FirstOnly = v.encoding == lines && p.chance(2)
	}
	v.stored = v.Stored()
	p.pages = append(p.pages, v)
	if p.node != nil && v.agrees && v.encoding == frames {
		p.openPlayed(v)
	}
	p.dial(v)
	return v
}

// dial connects a page.
func (p *simulation) dial(v *page) {
	p.rest()
	query, ok := p.query(v)
	if !ok {
		return
	}
	pl, err := p.m.reserve("192.0.2.1")
	if err != nil {
		p.Fatal(err)
	}
	id := ClientID(p.m.lastID.Add(1))
	filter, asked := parseQuery(p.T, query)
	if v.isPlayed {
		v.chosen = filter
	} else if asked.back == nil {
		if asked = v.begins; p.chance(4) {
			asked.since = time.Now().Add(-time.Duration(p.rand.IntN(3000)) * time.Millisecond)
		}
	}
	v.untaken = p.taken[uint64(id)%uint64(p.shards)]
	if asked.back != nil {
		if asked.last = v.looks; v.Tailless {
			p.rollBack(v)
		}
		v.setFilter(v.cutAt, v.chosen)
	} else {
		v.itemFrom, v.joined = len(v.items), len(p.log)
		v.due, v.floor = v.joined, v.untaken
		v.filters = nil
		if asked != (past{}) {
			v.floor = 0 // nothing tells a client without the protocol where that ends, and a return goes on with it
		}
		v.setFilter(0, v.chosen)
	}
	v.received = 0
	if asked.back != nil {
		v.received = asked.back.received
	}
	v.since = time.Time{}
	if p.chance(12) {
		v.since = time.Now().Add(-time.Duration(p.rand.IntN(3000)) * time.Millisecond)
	}
	c := &client{
		id: id, shard: p.m.shardOf(id), place: pl, connectedAt: time.Now(),
		terms: grantedAll(Subscription{Project: v.project, Filter: v.chosen, Since: v.since}), encoding: v.encoding,
	}
	if v.agrees {
		c.agree()
	}
	c.link = &strait{client: c, holds: p.chance(2), room: p.rand.IntN(600), during: func() { p.publishDuring(v, c) }}
	c.recall(asked)
	c.markSeen(time.Now())
	if err := c.shard.register(c); err != nil {
		p.Fatal(err)
	}
	v.conn++
	v.client, v.link = c, c.link.(*strait)
	v.looks = 0
	v.plain, v.fed, v.arrived, v.says, v.asked, v.dialedAt = plainReader{}, 0, 0, nil, nil, len(p.log)
	if v.isPlayed {
		p.tell(v, follower.Event{What: "accept"})
	}
	p.notef("page %d of %q connects for the time %d with %v, encoding %d, told %v, tail %v, fast %v, holds %v, since %v: last %d, %v, %s", v.name, v.project, v.conn,
		v.chosen, v.encoding, v.agrees, !v.Tailless, v.fast, v.link.holds, v.since, asked.last, asked.since, sealed.ReplaceAllString(query, "…"))
}

// What is random on the wire.
var (
	sealed  = regexp.MustCompile(`[pg][\w-]{40,}`)
	anyText = regexp.MustCompile(`[pg][\w-]{40,}|[A-Z2-7]{12}`)
)

func (v *page) setFilter(from int, f Filter) { v.filters = append(v.filters, inForce{from, f}) }

// flow lets everything that the server has written arrive, and makes room for more.
func (p *simulation) flow(v *page) {
	for range 3 {
		if v.client == nil {
			return
		}
		v.link.grant(1 << 16)
		p.read(v, len(v.link.taken))
		p.answer(v, len(v.says))
	}
}

// read lets more bytes arrive at the page.
func (p *simulation) read(v *page, n int) {
	v.arrived = min(v.arrived+n, len(v.link.taken))
	if p.look(v); v.encoding != frames {
		p.readPlain(v)
	}
	for v.client != nil && v.encoding == frames {
		frame, payload := firstFrame(v.link.taken[v.fed:v.arrived])
		if frame == nil {
			break
		}
		v.fed += len(frame)
		switch op := frame[0] & 0x0F; op {
		case wsframe.OpPing:
			v.client.Post(link.Event{Kind: link.Received, Op: wsframe.OpPong, Payload: payload})
		case wsframe.OpPong:
		case wsframe.OpClose:
			p.notef("page %d is closed: %q", v.name, payload[2:])
			p.end(v, int(binary.BigEndian.Uint16(payload)), string(payload[2:]))
			return
		default:
			p.receive(v, op, payload)
		}
	}
	if v.client != nil && v.link.closed && v.arrived == len(v.link.taken) {
		p.notef("page %d loses its connection", v.name)
		p.end(v, websocket.CloseAbnormalClosure, "")
	}
}

// receive hands a message to the page, without the number that the page doesn't see.
func (p *simulation) receive(v *page, op byte, payload []byte) {
	id := -1
	if text, number := cutNumber(payload); number >= 0 {
		payload, id = text, number
	} else if bytes.HasPrefix(payload, []byte(`{"type":"past"`)) {
		payload, id = withoutNumber(p, payload)
	}
	shown, position := len(v.Shown), v.Position
	ack := v.Receive(op, payload)
	if isNotice := bytes.HasPrefix(payload, []byte(`{"type":"`)); id < 0 && !isNotice {
		p.Errorf("page %d received %q", v.name, payload)
	}
	if v.isPlayed {
		ack = "" // the module says what it sends
		p.play(v, op, payload, v.Shown[shown:])
	}
	if ack != "" && v.agrees {
		v.says = append(v.says, ack)
	}
	p.notef("page %d receives %.300q, %d", v.name, anyText.ReplaceAll(payload, []byte("…")), id)
	p.heed(v, payload)
	p.keep(v, id, shown, position)
}

// keep keeps what the page shows of something that it has received, if it shows anything, and how far it has got.
func (p *simulation) keep(v *page, id, shown int, position string) {
	if len(v.Shown) > shown && (id >= 0 || v.Shown[shown].Gap != nil) {
		s := v.Shown[shown]
		it := item{id: id, gap: s.Gap, past: s.Past, returned: s.Replay == ofReturn, conn: v.conn, logged: len(p.log)}
		if s.Replay == ofJoin || s.Replay == ofSubscribe || s.Replay == ofReturn && id < v.looksBack {
			it.lookBack = v.lookBacks
		}
		p.checkFirst(v, &it)
		v.items = append(v.items, it)
	}
	stored := v.Position != position
	if v.isPlayed {
		stored = p.hasStored(v)
	}
	if stored {
		v.store()
	}
	p.leave(v)
}

// store stores how far the page has got.
func (v *page) store() {
	v.stored, v.storedAt, v.storedLooksBack, v.storedDue = v.Stored(), len(v.items), v.looksBack, v.due
}

// heed notes what a message of the protocol means for the page.
func (p *simulation) heed(v *page, payload []byte) {
	var n follower.Notice
	if !v.agrees || json.Unmarshal(payload, &n) != nil || n.Stream != v.Hello.Stream {
		if !v.agrees && v.asked != nil && json.Unmarshal(payload, &n) == nil && n.Type == typeFiltersUpdated {
			v.chosen, v.asked = *v.asked, nil
		}
		return
	}
	p.heedNotice(v, &n)
}

func (p *simulation) heedNotice(v *page, n *follower.Notice) {
	switch n.Type {
	case typeHello:
		if n.Returned != nil && n.Returned.AtMost != nil {
			v.returns = append(v.returns, comeBackNote{v.conn, v.dialedAt, *n.Returned.AtMost})
		}
	case typeReplay:
		if v.lookBacks++; n.Of != ofReturn {
			v.looksBack = len(p.log)
		}
	case typeReplayed:
		v.looksBack = 0
	case typeFiltersUpdated:
		if v.asked != nil {
			v.chosen, v.asked = *v.asked, nil
		}
	case typeError:
		v.asked = nil
	}
}

// checkFirst checks the promise of a return: if the replay isn't complete, a gap comes before the first message, and
// otherwise there is none of that kind.
func (p *simulation) checkFirst(v *page, it *item) {
	if g := it.gap; g != nil && (g.Dropped > 0 && g.Held > g.Dropped || g.AtMost != nil && g.Held > *g.AtMost) {
		p.Errorf("page %d was told that it can fetch more than it is missing: %+v", v.name, g)
	}
	if v.Hello.Returned == nil {
		return
	}
	complete := v.Hello.Returned.Complete
	isFirst := len(v.items) == v.itemFrom || v.items[len(v.items)-1].conn != v.conn
	isAway := it.gap != nil && it.gap.Reason == reasonAway
	// A page that is too slow skips what it can fetch. If the application changes its filter meanwhile, the page is told a
	// bound of what it has received.
	if complete && isAway && it.gap.Held == 0 && it.gap.AtMost == nil {
		p.Errorf("page %d was told that nothing was lost, and then of a gap", v.name)
	}
	if !complete && isFirst && !isAway && v.received == 0 { // or only its tail has left the history
		p.Errorf("page %d was told that something was lost, and then received %v before the gap", v.name, it)
	}
}

// cutNumber cuts the number off a message, and returns -1 if there is none.
func cutNumber(data []byte) (text []byte, number int) {
	i := bytes.LastIndex(data, []byte(" #"))
	if i < 0 {
		return data, -1
	}
	digits := string(data[i+2:])
	if bytes.HasPrefix(data, []byte(beginsJSON)) {
		digits = strings.TrimSuffix(digits, endsJSON)
	}
	number, err := strconv.Atoi(digits)
	if err != nil {
		return data, -1
	}
	return data[:i], number
}

// withoutNumber cuts the number off the message in a notice.
func withoutNumber(p *simulation, notice []byte) (text []byte, number int) {
	var n pastMessage
	if err := json.Unmarshal(notice, &n); err != nil {
		p.Fatal(err)
	}
	if n.Data != nil {
		text, number = cutNumber([]byte(*n.Data))
		*n.Data = string(text)
	} else {
		n.Binary, number = cutNumber(n.Binary)
	}
	text, _ = json.Marshal(n)
	return text, number
}

// answer lets some of what the page has sent arrive.
func (p *simulation) answer(v *page, n int) {
	for turned := false; n > 0 && v.client != nil && len(v.says) > 0; n-- {
		text := v.says[0]
		if strings.Contains(text, `"subscribe"`) {
			if s := v.client.shard; v.setIn == s.turns && !turned { // or the shard would handle this first
				turned = true
				n++
				p.turn(slices.Index(p.m.shards, s))
				continue
			}
			p.subscribed(v, text)
		}
		v.says = v.says[1:]
		v.client.Post(link.Event{Kind: link.Received, Op: wsframe.OpText, Payload: []byte(text)})
	}
}

// subscribed notes that a request for other filters of a page that is played arrives.
func (p *simulation) subscribed(v *page, text string) {
	var request struct {
		Filters struct{ Level, Environment []string }
	}
	if err := json.Unmarshal([]byte(text), &request); err != nil {
		p.Fatal(err)
	}
	f := Filter{Levels: request.Filters.Level, Environments: request.Filters.Environment}
	p.notef("page %d asks for %s", v.name, text)
	v.client.outbox().paid = 0
	v.asked = &f
	v.setFilter(len(p.log), f)
}

// cut ends the connection. The server notices that, perhaps later.
func (p *simulation) cut(v *page) {
	p.end(v, websocket.CloseAbnormalClosure, "")
}

// end ends the connection with a code, as the page sees it.
func (p *simulation) end(v *page, code int, reason string) {
	c := v.client
	v.client, v.cutAt = nil, len(p.log)
	if v.isPlayed {
		p.tell(v, follower.Event{What: "end", Code: code, Reason: reason})
	}
	notice := func() { c.Post(link.Event{Kind: link.Failed, Err: errors.New("gone")}) }
	if p.chance(3) {
		time.AfterFunc(time.Duration(p.rand.IntN(5000))*time.Millisecond, notice)
	} else {
		notice()
	}
}

// mayChoose reports whether the page may return with another filter. Over events, one that counts does so when nothing has
// arrived after its position.
func (v *page) mayChoose() bool {
	n, counted := v.Tail()
	return !v.isPlayed && (v.encoding == frames || n == 0 && counted)
}

// subscribe asks for another filter, as the page does.
func (p *simulation) subscribe(v *page) {
	if v.isPlayed {
		p.changeFilters(v)
		return
	}
	if v.encoding != frames { // it changes its filter by a new request
		if v.client != nil {
			p.cut(v)
		}
		if v.mayChoose() {
			if v.chosen = p.someFilter(); !v.Tailless && p.chance(2) {
				v.looks = 1 + p.rand.IntN(40)
			}
		}
		p.dial(v)
		return
	}
	if v.client == nil || v.asked != nil || v.IsReturning() || v.Arrived == 0 || v.client.phase != phaseOpen {
		return
	}
	if s := v.client.shard; v.setIn == s.turns { // or the shard would handle this first
		if p.turn(slices.Index(p.m.shards, s)); v.client == nil || v.IsReturning() {
			return
		}
	}
	f, last := p.someFilter(), 0
	if v.agrees && p.chance(2) {
		last = 1 + p.rand.IntN(40)
	}
	text := fmt.Sprintf(`{"type":"subscribe","filters":{"level":%q,"environment":%q}`, strings.Join(f.Levels, ""), strings.Join(f.Environments, ""))
	if last > 0 {
		text += fmt.Sprintf(`,"last":%d`, last)
	}
	text += "}"
	p.notef("page %d asks for %s", v.name, text)
	v.client.outbox().paid = 0
	v.client.Post(link.Event{Kind: link.Received, Op: wsframe.OpText, Payload: []byte(text)})
	v.asked = &f
	v.setFilter(len(p.log), f)
}

// tell tells a page that mesherstream.js plays of an event, and the time.
func (p *simulation) tell(v *page, e follower.Event) {
	e.Page, e.At = v.name, float64(time.Since(p.began).Microseconds())/1000
	r, err := p.node.Tell(&e)
	if err != nil {
		p.Fatal(err)
	}
	for _, failure := range r.Failures {
		p.Errorf("page %d: %s: %s", v.name, e.What, failure)
	}
	if r.State == "closed" {
		p.Errorf("page %d has ended its stream after %+v", v.name, e)
	}
	if len(r.Shown) > 0 && e.What != "receive" {
		p.Errorf("page %d has shown %+v after %s", v.name, r.Shown, e.What)
	}
	v.says = append(v.says, r.Sent...)
	v.last = r
}

// look lets the timers of a page fire that are due by now.
func (p *simulation) look(v *page) {
	if v.isPlayed {
		p.tell(v, follower.Event{What: "look"})
		p.leave(v)
	}
}

// leave ends the connection that the page has left.
func (p *simulation) leave(v *page) {
	if v.last.IsLeft && v.client != nil {
		p.notef("page %d leaves its connection", v.name)
		p.cut(v)
	}
}

// openPlayed loads a page whose filters are in its URL, or an option.
func (p *simulation) openPlayed(v *page) {
	query, filters := make(url.Values), map[string][]string{"level": v.chosen.Levels, "environment": v.chosen.Environments}
	if v.begins.last > 0 {
		query.Set("last", strconv.Itoa(v.begins.last))
	}
	if p.chance(4) {
		query.Set("since", fmt.Sprintf("%dms", p.rand.IntN(3000)))
	}
	if p.chance(2) {
		for name, values := range filters {
			if len(values) > 0 {
				query.Set(name, values[0])
			}
		}
		filters = nil
	}
	v.isPlayed = true
	p.tell(v, follower.Event{
		What: "open", URL: "ws://host/stream/projects/shop?" + query.Encode(), Filters: filters, Tail: v.MaxTail, Chance: p.rand.Uint32(),
	})
}

// query returns the query with which the page dials.
func (p *simulation) query(v *page) (query string, ok bool) {
	if !v.isPlayed {
		return v.Dial(), true
	}
	if query, ok = p.awaitDial(v); ok {
		p.checkDial(v, query)
	}
	return query, ok
}

// awaitDial returns the query with which the page dials: when it does so by itself, or when the network is back.
func (p *simulation) awaitDial(v *page) (query string, ok bool) {
	for p.tell(v, follower.Event{What: "look"}); v.last.Dials == nil; {
		switch {
		case p.Failed():
			return "", false
		case p.chance(2):
			p.tell(v, follower.Event{What: "online"})
		case v.last.Wait == nil:
			p.Errorf("page %d waits for nothing", v.name)
		default:
			time.Sleep(time.Duration(*v.last.Wait*1000+1) * time.Microsecond)
			p.tell(v, follower.Event{What: "look"})
		}
	}
	return *v.last.Dials, true
}

// checkDial checks that the follower would dial with the same query, if not at the same time.
func (p *simulation) checkDial(v *page, query string) {
	got, err := url.ParseQuery(query)
	if err != nil {
		p.Fatal(err)
	}
	if v.reloaded && v.changes && got.Get("received") == "unknown" {
		v.LoseCount() // it has begun with other filters than those before
	}
	v.reloaded = false
	want, _ := url.ParseQuery(v.Dial())
	if v.Position == "" {
		if strings.HasPrefix(got.Get("since"), "p") {
			p.Errorf("page %d dials with %q, and has no position", v.name, query)
		}
		return
	}
	ago, _ := strconv.Atoi(got.Get("ago"))
	if most, _ := strconv.Atoi(want.Get("ago")); ago < 0 || ago > most+1 || got.Has("last") {
		p.Errorf("page %d dials with %q, want %q", v.name, query, want.Encode())
	}
	for _, name := range []string{"since", "received"} {
		if !slices.Equal(got[name], want[name]) {
			p.Errorf("page %d dials with %q, want %q", v.name, query, want.Encode())
		}
	}
}

// play hands a message to mesherstream.js, which must show what the follower shows.
func (p *simulation) play(v *page, op byte, payload []byte, shown []follower.Shown) {
	e := follower.Event{What: "receive"}
	if text := string(payload); op == wsframe.OpBinary {
		e.Binary = payload
	} else {
		e.Text = &text
	}
	p.tell(v, e)
	if len(v.last.Shown) != len(shown) {
		p.Errorf("page %d has shown %+v of %q, want %+v", v.name, v.last.Shown, payload, shown)
		return
	}
	for i, got := range v.last.Shown {
		want := shown[i]
		text := ""
		switch {
		case got.Text != nil:
			text = *got.Text
		case got.Gap == nil:
			text = "binary:" + string(got.Binary)
		}
		same := text == want.Text && got.Replay == want.Replay && (got.Gap == nil) == (want.Gap == nil)
		if g, w := got.Gap, want.Gap; same && g != nil {
			same = g.Reason == w.Reason && g.Dropped == w.Dropped && g.Held == w.Held && g.Since.Equal(w.Since) && g.Until.Equal(w.Until) &&
				(g.AtMost == nil) == (w.AtMost == nil) && (g.AtMost == nil || *g.AtMost == *w.AtMost)
		}
		if !same {
			p.Errorf("page %d has shown %+v of %q, want %+v", v.name, got, payload, want)
		}
	}
}

// hasStored reports whether mesherstream.js has stored something, which must be what the follower would store.
func (p *simulation) hasStored(v *page) bool {
	got := v.last.Stored
	if got == nil {
		return false
	}
	n, counted := v.Tail()
	if got.Position != v.Position || (got.Tail != nil) != counted && v.Position != "" || got.Tail != nil && len(*got.Tail) != n {
		p.Errorf("page %d has stored %+v, want %s and %d messages, counted %v", v.name, got, v.Position, n, counted)
	}
	return true
}

// changeFilters asks a page that is played for other filters, whatever its connection is like.
func (p *simulation) changeFilters(v *page) {
	f, last := p.someFilter(), 0
	if p.chance(2) {
		last = 1 + p.rand.IntN(40)
	}
	v.changes = true
	p.notef("page %d changes its filters to %v, last %d", v.name, f, last)
	p.tell(v, follower.Event{What: "setFilters", Filters: map[string][]string{"level": f.Levels, "environment": f.Environments}, Last: last})
	p.leave(v)
}

// save lets the page store how far it has got, as at its end.
func (p *simulation) save(v *page) {
	if v.isPlayed {
		p.tell(v, follower.Event{What: "save"})
		p.hasStored(v)
		p.leave(v)
	}
	v.store()
}

// parseQuery reads the query of a handshake.
func parseQuery(t *testing.T, query string) (Filter, past) {
	app := fiber.New()
	request := new(fasthttp.RequestCtx)
	request.Request.SetRequestURI("/?" + query)
	c := app.AcquireCtx(request)
	f, err := queryFilter(c)
	if err != nil {
		t.Fatal(err)
	}
	asked, err := queryPast(c)
	if err != nil {
		t.Fatal(err)
	}
	return f, asked
}

// buffer sends a message to one page.
func (p *simulation) buffer(v *page) {
	if p.makeRoom(); v.client == nil { // the page has lost its connection in the meantime
		return
	}
	e := &said{id: len(p.log), at: time.Now(), to: v, conn: v.conn, text: one(p, "same", fmt.Sprint("m", len(p.log)))}
	if err := p.m.BufferMessage(v.client.id, e.data()); err != nil {
		return
	}
	p.notef("buffer %d for page %d: %q", e.id, v.name, e.text)
	p.add(e)
	time.Sleep(time.Microsecond)
}

// beat lets a round of pings pass.
func (p *simulation) beat() {
	p.notef("beat")
	for i, s := range p.m.shards {
		s.tell(func() { s.beatAll(time.Now()) })
		p.turn(i)
	}
}

// restart ends the server and starts another one.
func (p *simulation) restart() {
	p.rest()
	polite := p.chance(2)
	p.notef("restart, polite: %v", polite)
	if polite {
		for i, s := range p.m.shards {
			s.close(true)
			for range 1 + p.rand.IntN(20) {
				p.turn(i)
			}
		}
	}
	for _, v := range p.pages {
		if v.client != nil {
			p.read(v, p.rand.IntN(1+len(v.link.taken)-v.arrived))
		}
		if v.client != nil {
			v.client, v.cutAt = nil, len(p.log)
			if v.isPlayed {
				p.tell(v, follower.Event{What: "end", Code: websocket.CloseAbnormalClosure})
			}
		}
	}
	p.start()
}

// reload gives the page what it has stored, and nothing else.
func (p *simulation) reload(v *page) {
	if v.client != nil {
		p.cut(v)
	}
	if v.Tailless { // it doesn't store anything
		v.Position = ""
		return
	}
	if p.chance(2) { // it has stored how far it has got when it ended
		p.save(v)
	}
	p.notef("page %d is reloaded, and has lost %d of %d", v.name, len(v.items)-v.storedAt, len(v.items))
	v.items = v.items[:v.storedAt]
	v.Follower, v.looksBack = v.stored, v.storedLooksBack
	v.stored = v.Stored()
	if v.isPlayed {
		v.reloaded = true
		p.tell(v, follower.Event{What: "reload"})
	}
}

// settle lets everything arrive, and checks the pages that are connected.
func (p *simulation) settle() {
	p.notef("settle")
	p.rest()
	rested := 0
	for i := 0; rested < 2; i++ {
		if i == 3000 {
			for _, v := range p.pages {
				if v.client != nil && !p.hasRest(v) {
					p.Errorf("page %d does not come to rest: phase %d, replay %+v, busy %v, asked %v, window %+v", v.name, v.client.phase, v.client.replay, v.client.busy, v.asked, v.client.window)
				}
			}
			return
		}
		for i, s := range p.m.shards {
			s.tick(true, false)
			p.turn(i)
		}
		rested++
		for _, v := range p.pages {
			p.flow(v)
			if v.client != nil && !p.hasRest(v) {
				rested = 0
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, v := range p.pages {
		if v.client != nil {
			p.check(v)
			if v.due = len(p.log); v.encoding != frames {
				p.checkPlain(v)
			}
			if !v.Tailless {
				p.save(v)
			}
		}
	}
}

func (p *simulation) hasRest(v *page) bool {
	c := v.client
	c.shard.mu.Lock() // a timer may post at this time
	defer c.shard.mu.Unlock()
	return c.group != nil && c.phase == phaseOpen && c.replay == nil && c.idle() && len(c.pending()) == 0 && !replies(c) && v.asked == nil && v.arrived == len(v.link.taken) &&
		!v.IsReturning() && c.shard.inbox.isEmpty() && len(v.says) == 0 && (!v.isPlayed || v.last.Waiting == 0)
}

// isPossible reports whether a message may be for the page: whether it matches a filter that was in force when it was
// published or later, until the log had that length.
func (v *page) isPossible(e *said, logged int) bool {
	if e.to != nil {
		return e.to == v
	}
	return v.follows(e) && slices.ContainsFunc(v.inForceSince(e.id), func(f inForce) bool { return f.from <= logged && f.lets(e) })
}

// isDue reports whether a message must be shown or told: it matches each filter that was in force when it was published
// or later. A message to the page alone goes with its connection.
func (v *page) isDue(e *said) bool {
	if e.to != nil {
		return e.to == v && e.conn == v.conn && e.id >= v.due
	}
	return v.follows(e) && e.id >= v.due && !slices.ContainsFunc(v.inForceSince(e.id), func(f inForce) bool { return !f.lets(e) })
}

func (v *page) follows(e *said) bool { return e.project == "" || e.project == v.project }

func (f inForce) lets(e *said) bool {
	return lets(f.filter.Levels, e.level) && lets(f.filter.Environments, e.environment)
}

// inForceSince returns the filters in force since a message was published.
func (v *page) inForceSince(id int) []inForce {
	first := 0
	for first+1 < len(v.filters) && v.filters[first+1].from <= id {
		first++
	}
	return v.filters[first:]
}

// check checks what a page has shown against the log.
func (p *simulation) check(v *page) {
	items := v.items[v.itemFrom:]
	shown := make(map[int]bool) // and where
	main := make(map[int]bool)
	inLook := make(map[[2]int]bool)
	last, lastLook := -1, make(map[int]int)
	newest := make([]int, len(items)) // the newest unique message up to an item
	fresh := make(map[int]int)        // how many messages a return has brought
	var stands []item                 // those that stand for one that is equal
	for i, it := range items {
		if newest[i] = last; it.gap != nil {
			continue
		}
		e := p.log[it.id]
		inOrder := e.key == "" && e.to == nil && len(p.classes[e.text]) == 1
		switch {
		case !v.isPossible(e, it.logged):
			p.Errorf("page %d has shown %d, which no filter of its lets pass", v.name, e.id)
		case it.lookBack > 0:
			if inLook[[2]int{it.lookBack, e.id}] {
				p.Errorf("page %d has shown %d twice in one look-back", v.name, e.id)
			}
			// What its shard takes after it has connected is new to it, and may wait for it when it looks back.
			if e.to == nil && e.id < v.untaken && e.at.Before(v.since) && it.conn == v.conn {
				p.Errorf("page %d has shown %d of %v, and may look back to %v", v.name, e.id, e.at, v.since)
			}
			if inOrder && e.id <= lastLook[it.lookBack]-1 {
				p.Errorf("page %d has shown %d after %d in a look-back", v.name, e.id, lastLook[it.lookBack]-1)
			}
			if inLook[[2]int{it.lookBack, e.id}] = true; inOrder {
				lastLook[it.lookBack] = e.id + 1
			}
		default:
			if e.id < v.floor {
				p.Errorf("page %d has shown %d from before its join at %d", v.name, e.id, v.floor)
			}
			id := e.id
			if shown[id] && !it.past {
				if id = p.twin(v, e, it.logged, shown); id < 0 || v.Tailless {
					p.Errorf("page %d has shown %d twice", v.name, e.id)
					continue
				}
			}
			if it.returned && e.to == nil {
				fresh[it.conn]++
			}
			if it.past {
				stands = append(stands, it)
				continue
			}
			if inOrder && id <= last {
				p.Errorf("page %d has shown %d after %d", v.name, id, last)
			}
			if main[id] = true; inOrder {
				last = id
				newest[i] = last
			}
			shown[id] = true
			continue
		}
		shown[e.id] = true
	}
	extra, taken := make(map[string]int), maps.Clone(shown)
	for _, it := range stands {
		e := p.log[it.id]
		id := p.twin(v, e, it.logged, taken)
		if id < 0 {
			p.Errorf("page %d has shown the old value %d, and as many equal ones as there are", v.name, it.id)
		}
		taken[id] = true
		extra[e.text]++
	}
	for _, r := range v.returns {
		if fresh[r.conn] > r.atMost+p.publishedSince(r, items) {
			p.Errorf("page %d returned for the time %d, was told of at most %d messages, and received %d", v.name, r.conn, r.atMost, fresh[r.conn])
		}
	}
	if !v.agrees {
		return // nothing tells it of what it misses
	}
	var missing, untold []*said
	for _, e := range p.log[min(v.due, len(p.log)):] {
		if v.isDue(e) && !shown[e.id] && !p.isReplaced(v, e) {
			missing = append(missing, e)
		}
	}
	var gaps []toldGap
	for i, it := range items {
		if it.gap != nil {
			gaps = append(gaps, toldGap{it, newest[i]})
		}
	}
	untold = cover(missing, len(gaps), func(g int) int { return gaps[g].most() }, func(e *said, g int) bool {
		return gaps[g].covers(e, true) || slices.ContainsFunc(p.classes[e.text], func(id int) bool {
			return main[id] && gaps[g].covers(p.log[id], true) // the page can't tell which of the two is missing
		})
	})
	for _, e := range untold {
		if extra[e.text]--; extra[e.text] >= 0 {
			continue
		}
		p.Errorf("page %d has not shown %d of %v, and was not told of it: gaps %v", v.name, e.id, e.at.UTC().Format(time.StampMicro), gaps)
	}
	// What a gap counts exactly must be missing.
	var claims []int // the gaps, once for each message that they count
	for g := range gaps {
		for range gaps[g].gap.Dropped {
			claims = append(claims, g)
		}
	}
	var lost []*said
	for _, e := range p.log {
		if !main[e.id] && e.id >= v.floor && v.isPossible(e, len(p.log)) {
			lost = append(lost, e)
		}
	}
	for _, g := range cover(claims, len(lost), func(int) int { return 1 }, func(g, i int) bool { return gaps[g].covers(lost[i], false) }) {
		p.Errorf("page %d was told that it has missed more than it has: %v", v.name, gaps[g])
		break
	}
}

// publishedSince returns how many messages of the replay of a return were published after the return had begun.
func (p *simulation) publishedSince(r comeBackNote, items []item) (n int) {
	for _, it := range items {
		if it.conn == r.conn && it.returned && it.id >= r.logged {
			n++
		}
	}
	return n
}

// twin returns another message with the text of one that is shown a second time, for which it can stand: the page can't
// tell them apart. It is the newest one before that message that is not shown, or else the next one; and an old value of a
// key only if there is no other, since nobody misses it.
func (p *simulation) twin(v *page, e *said, logged int, shown map[int]bool) int {
	best, bestIsOld := -1, false
	for _, id := range p.classes[e.text] {
		if shown[id] || id >= logged || !v.isPossible(p.log[id], logged) {
			continue
		}
		isOld := p.isReplaced(v, p.log[id])
		if best < 0 || bestIsOld && !isOld || id < e.id && isOld == bestIsOld {
			best, bestIsOld = id, isOld
		}
	}
	return best
}

// isReplaced reports whether there is a newer value of the key for the page. In a backlog, the messages to the project and
// those to all projects have their keys in common.
func (p *simulation) isReplaced(v *page, e *said) bool {
	return e.key != "" && slices.ContainsFunc(p.log[e.id+1:], func(o *said) bool {
		return o.to == nil && o.key == e.key && v.isPossible(o, len(p.log))
	})
}

// A toldGap is a gap and the newest message that was shown before it.
type toldGap struct {
	item
	newest int
}

func (g toldGap) String() string {
	n := g.gap
	atMost := -1
	if n.AtMost != nil {
		atMost = *n.AtMost
	}
	return fmt.Sprintf("{%s: %d dropped, at most %d, %v to %v, after %d}", n.Reason, n.Dropped, atMost, n.Since.Format(time.StampMicro), n.Until.Format(time.StampMicro), g.newest)
}

// most is how many messages the gap may stand for.
func (g toldGap) most() int {
	switch {
	case g.gap.Dropped > 0:
		return g.gap.Dropped
	case g.gap.AtMost != nil:
		return *g.gap.AtMost
	}
	return 1 << 30
}

// covers reports whether a message may be one of the gap: the gap has come after it, and its range has it. If inPlace, no
// newer message has been shown before the gap. That does not say that no older one is shown after it: a gap may come
// early, and then its range says how far it reaches. A key's value may have an older place, and one for the page alone has
// none in the order.
func (g toldGap) covers(e *said, inPlace bool) bool {
	at := e.at.Truncate(time.Millisecond)
	return g.logged > e.id && !at.Before(g.gap.Since) && !at.After(g.gap.Until) && (!inPlace || e.key != "" || e.to != nil || g.newest < e.id)
}

// cover assigns each thing to one of n places, each of which takes some, and returns those for which there is none.
func cover[T any](things []T, n int, takes func(int) int, fits func(T, int) bool) (left []T) {
	in := make([][]int, n)
	var seen []bool
	var put func(t int) bool
	put = func(t int) bool {
		for place := range n {
			if seen[place] || !fits(things[t], place) {
				continue
			}
			seen[place] = true
			if len(in[place]) < takes(place) {
				in[place] = append(in[place], t)
				return true
			}
			for i, other := range in[place] {
				if put(other) {
					in[place][i] = t
					return true
				}
			}
		}
		return false
	}
	for t := range things {
		if seen = make([]bool, n); !put(t) {
			left = append(left, things[t])
		}
	}
	return left
}

// simulate plays the run of a seed, and returns what has happened.
func simulate(t *testing.T, seed uint64, node *follower.Node) (steps []string) {
	random := rand.New(rand.NewPCG(seed, 21))
	p := &simulation{T: t, rand: random, classes: make(map[string][]int), shards: 1 + random.IntN(2), node: node, began: time.Now()}
	history := one(p, 0, 1+p.rand.IntN(20), 5+p.rand.IntN(60), 1000, 1000)
	p.age = one(p, time.Second, 10*time.Second, 2*time.Minute)
	overflow := one(p, DropOldest, DropOldest, DropOldest, DropNewest, DropNewest, Disconnect)
	buffer, window := one(p, 1+p.rand.IntN(10), 1+p.rand.IntN(40), 100, 2000), one(p, 0, 1+p.rand.IntN(20), 100, 32_768)
	p.options = []Option{
		WithHistory(history), WithHistoryAge(p.age), WithMaxBuffer(buffer), WithWindow(window),
		WithOverflow(overflow), WithCoalescing([]time.Duration{0, 0, 5 * time.Millisecond, 100 * time.Millisecond}[seed%4]),
	}
	if overflow != Disconnect && p.chance(4) {
		p.options = append(p.options, WithKeepLevels("error"))
	}
	if p.chance(6) {
		p.options = append(p.options, WithHistoryBytes(2048+p.rand.IntN(20_000)))
	}
	p.notef("seed %d: history %d, age %v, buffer %d, window %d", seed, history, p.age, buffer, window)
	defer func() {
		if t.Failed() {
			t.Log(strings.Join(p.steps, "\n"))
		}
	}()
	p.start()
	for range 30 + p.rand.IntN(250) {
		if p.step(); t.Failed() {
			return p.steps
		}
	}
	for range 3 { // those that are closed meanwhile return
		p.rest()
		for _, v := range p.pages {
			if v.client == nil {
				p.dial(v)
			}
		}
		p.settle()
	}
	for _, v := range p.pages {
		if v.client == nil || v.due < len(p.log) {
			p.Errorf("page %d is not connected at the end", v.name)
		}
		if _, _, ok := openPosition(&p.m.history.seal, v.project+"x", v.Position); ok {
			p.Errorf("the position of page %d says something to another project", v.name)
		}
	}
	for i, s := range p.m.shards {
		s.close(false)
		p.turn(i)
	}
	return p.steps
}

func (p *simulation) step() {
	if len(p.pages) == 0 {
		p.open()
	}
	v := p.pages[p.rand.IntN(len(p.pages))]
	switch p.rand.IntN(30) {
	case 0:
		if len(p.pages) < 5 {
			p.open()
		}
	case 1, 2, 3:
		p.turn(p.rand.IntN(p.shards))
	case 4, 5, 6:
		if v.client != nil {
			n := p.rand.IntN(800)
			p.notef("%d bytes for page %d", n, v.name)
			v.link.grant(n)
			p.read(v, p.rand.IntN(1000))
		}
	case 7, 8:
		p.answer(v, 1+p.rand.IntN(3))
	case 9, 10, 11:
		if v.client == nil {
			if p.chance(4) && v.mayChoose() {
				v.chosen = p.someFilter()
			}
			p.dial(v)
		}
	case 12, 13:
		if v.client != nil {
			p.read(v, p.rand.IntN(1000))
		}
		if v.client != nil {
			p.notef("page %d is cut off after %d bytes of %d", v.name, v.arrived, len(v.link.taken))
			p.cut(v)
		}
	case 14:
		p.subscribe(v)
	case 15:
		if v.client != nil && v.client.phase == phaseOpen {
			if p.makeRoom(); v.client == nil { // the page has lost its connection in the meantime
				return
			}
			f := p.someFilter()
			if p.m.SetFilter(v.client.id, f) == nil {
				p.notef("the server gives page %d the filter %v", v.name, f)
				v.setFilter(len(p.log), f)
				v.setIn = v.client.shard.turns
			}
		}
	case 16:
		if v.client != nil {
			p.buffer(v)
		}
	case 17:
		p.notef("drain")
		time.Sleep(time.Duration(p.rand.IntN(400)) * time.Millisecond)
		for _, s := range p.m.shards {
			s.tick(true, false)
		}
	case 18:
		switch p.rand.IntN(8) {
		case 0:
			p.notef("an hour")
			p.rest()
			time.Sleep(time.Hour)
			p.beat()
		case 1, 2:
			p.notef("half a minute")
			p.rest()
			time.Sleep(30 * time.Second)
			p.beat()
		case 3:
			p.restart()
		case 4:
			p.settle()
		case 5, 6:
			p.reload(v)
		case 7: // a flood
			for range 50 + p.rand.IntN(150) {
				p.publish()
			}
		}
	case 19:
		time.Sleep(time.Duration(p.rand.IntN(3000)) * time.Millisecond)
		p.notef("some time passes")
	case 20:
		// Only with one client it is certain which write is the first one.
		s := p.m.shards[p.rand.IntN(p.shards)]
		if len(s.members)+len(s.leaving) == 1 && v.client != nil && v.client.shard == s {
			p.notef("in the middle of the next write to page %d:", v.name)
			p.during = v
			for i := range p.m.shards {
				p.turn(i)
			}
			p.during = nil
		}
	case 21, 22, 23:
		for range 1 + p.rand.IntN(4) {
			p.publishBeside()
		}
	default:
		for range 1 + p.rand.IntN(4) {
			p.publish()
		}
	}
}

// Each message that is for a page is shown once, or the page is told that it is missing, however often it loses its
// connection and returns. -seed repeats the run of a seed.
func TestWhatAPageDoesNotShowItIsToldOf(t *testing.T) {
	first, runs := uint64(0), 300
	if isLong() {
		runs = 20_000
	}
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "seed" {
			first, runs = *seed, 1
		}
	})
	for i := range runs {
		seed := first + uint64(i)
		synctest.Test(t, func(t *testing.T) { simulate(t, seed, nil) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// The same, of every tenth run, with mesherstream.js itself. -seed repeats a run.
func TestWhatThePageOfTheModuleDoesNotShowItIsToldOf(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("needs Node 20 or later: apt-get install nodejs")
	}
	node, err := follower.StartNode("client/tests/played.js")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := node.Stop(); err != nil {
			t.Error(err)
		}
	}()
	first, runs := uint64(0), 30
	if isLong() {
		runs = 2000
	}
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "seed" {
			first, runs = *seed, 1
		}
	})
	var steps [2][]string
	for i := range runs {
		seed := first + uint64(10*i)
		synctest.Test(t, func(t *testing.T) { steps[min(i, 1)] = simulate(t, seed, node) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	synctest.Test(t, func(t *testing.T) { steps[1] = simulate(t, first, node) })
	if !slices.Equal(steps[0], steps[1]) {
		t.Errorf("seed %d plays two different runs", first)
	}
}

func TestAPositionIsReadAsItWasMade(t *testing.T) {
	s := seal.New()
	want := position{cursor{7, 1 << 60}, 9, 1 << 63, 20_000, true}
	at := time.UnixMilli(1_700_000_000_123)
	text := string(s.Append(nil, sealsPosition, "shop", at, want.append(nil)))
	if got, gotAt, ok := openPosition(&s, "shop", text); !ok || got != want || !gotAt.Equal(at) {
		t.Errorf("got %+v of %v, %v, want %+v of %v", got, gotAt, ok, want, at)
	}
	if _, _, ok := openPosition(&s, "shop2", text); ok {
		t.Error("another project can open it")
	}
	if !sealed.MatchString(text) || len(text) > 150 {
		t.Errorf("the text is %q", text)
	}
}

func TestTheIDOfAGapIsReadAsItWasMade(t *testing.T) {
	s := seal.New()
	long := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf("%064d", i))
		}
		return list
	}
	for _, f := range []Filter{{}, {Levels: []string{"error"}}, {Levels: long(2), Environments: []string{"live", "ä"}}, {Environments: long(maxFilterValues)}} {
		want := hole{cursor{1, 2}, cursor{3, 1 << 40}, f, len(f.Levels) == 1}
		text := string(s.Append(nil, sealsGap, "shop", time.Now(), want.append(nil)))
		got, ok := openHole(&s, "shop", text)
		if !ok || got.after != want.after || got.until != want.until || got.latest != want.latest || !slices.Equal(got.filter.Levels, f.Levels) || !slices.Equal(got.filter.Environments, f.Environments) {
			t.Errorf("got %+v, %v, want %+v", got, ok, want)
		}
		if _, ok := openHole(&s, "shop2", text); ok {
			t.Error("another project can open it")
		}
		if _, _, ok := openPosition(&s, "shop", "p"+text[1:]); ok {
			t.Error("it opens as a position")
		}
	}
	c := &client{shard: &shard{seal: s}, terms: grantedAll(Subscription{})}
	if text := c.holeText(&hole{filter: Filter{Levels: long(maxFilterValues), Environments: long(maxFilterValues)}}); text != "" {
		t.Errorf("an ID of %d bytes, and the bound is %d", len(text), seal.MaxText)
	}
}

// A request over the read limit ends a client's stream for good. Over plain HTTP, the ID is in the query.
func TestAGapWhoseFetchIsOverTheReadLimitHasNoID(t *testing.T) {
	const limit = 160
	h := hole{filter: Filter{Levels: []string{"error"}}}
	for range maxFilterValues - 1 {
		c := &client{encoding: frames, shard: &shard{seal: seal.New(), cfg: &config{readLimit: limit}}, terms: grantedAll(Subscription{})}
		text := c.holeText(&h)
		c.encoding, c.shard.cfg.readLimit = events, 128
		whole := c.holeText(&h)
		request := fmt.Sprintf(`{"type":"fetch","gap":%q}`, whole)
		if fits := len(request) <= limit; whole == "" || fits != (text != "") {
			t.Errorf("the request has %d bytes, and the bound is %d; got %q", len(request), limit, text)
		}
		h.filter.Levels = append(h.filter.Levels, "fatal")
	}
}

func TestASeedRepeatsARun(t *testing.T) {
	for seed := range uint64(8) {
		var runs [2][]string
		for i := range runs {
			synctest.Test(t, func(t *testing.T) { runs[i] = simulate(t, seed, nil) })
		}
		if !slices.Equal(runs[0], runs[1]) {
			t.Fatalf("seed %d plays two different runs", seed)
		}
	}
}

// script is a simulation that a test plays by hand: with one shard and one page, and without chance.
type script struct {
	simulation
	v *page
}

// never is a source of chance with which nothing that may happen does.
type never struct{}

func (never) Uint64() uint64 { return math.MaxUint64 }

func newScript(t *testing.T, f Filter, options ...Option) *script {
	return newScriptOf(t, &page{agrees: true, project: "a", chosen: f}, options...)
}

func newScriptOf(t *testing.T, v *page, options ...Option) *script {
	s := &script{v: v, simulation: simulation{T: t, rand: rand.New(never{}), classes: make(map[string][]int), shards: 1, began: time.Now()}}
	s.options = append([]Option{WithMaxBuffer(100), WithWindow(0)}, options...)
	s.pages = []*page{s.v}
	s.start()
	s.dial(s.v)
	s.arrive()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Join(s.steps, "\n"))
		}
	})
	return s
}

// say publishes messages to the page's project, one a millisecond, and lets the shard take them. Each text may begin with
// a level and a slash.
func (s *script) say(key string, texts ...string) { s.sayTo("a", key, texts...) }

// sayTo publishes to that project.
func (s *script) sayTo(project, key string, texts ...string) {
	for _, text := range texts {
		level, text, ok := strings.Cut(text, "/")
		if !ok {
			level, text = "", level
		}
		e := &said{id: len(s.log), project: project, level: level, key: key, text: text, at: time.Now()}
		s.add(e)
		if err := s.m.Broadcast(Message{Project: project, Level: level, Key: key, Data: e.data()}); err != nil {
			s.Fatal(err)
		}
		s.notef("publish %d to %q, %q, key %q", e.id, project, text, key)
		s.turns()
		time.Sleep(time.Millisecond)
	}
}

func (s *script) turns() {
	for s.turn(0) {
	}
}

// arrive lets everything that is sent arrive, and its acknowledgements.
func (s *script) arrive() {
	for range 20 {
		s.flow(s.v)
		s.m.shards[0].tick(true, false)
		s.turns()
	}
}

// block lets no more leave the server.
func (s *script) block() { s.v.link.room = 0 }

// returns connects the page anew.
func (s *script) returns() {
	if s.v.client != nil {
		s.cut(s.v)
		s.turns()
	}
	s.dial(s.v)
	s.arrive()
}

// told returns what the page has shown, and the gaps.
func (s *script) told() (all []string) {
	for _, it := range s.v.items {
		switch g := it.gap; {
		case g == nil:
			all = append(all, s.log[it.id].text)
		case g.AtMost != nil:
			all = append(all, fmt.Sprintf("%s: at most %d", g.Reason, *g.AtMost))
		case g.Dropped > 0:
			all = append(all, fmt.Sprintf("%s: %d", g.Reason, g.Dropped))
		default:
			all = append(all, g.Reason+": unknown")
		}
	}
	return all
}

func (s *script) want(want ...string) {
	s.Helper()
	if got := s.told(); !slices.Equal(got, want) {
		s.Errorf("got %q, want %q", got, want)
	}
}

// A page returns after its project was forgotten. That no message is missing can't be said then, also if the project has
// been published to again.
func TestAReturnToAForgottenProjectIsToldThatNobodyKnows(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for _, again := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, Filter{}, WithHistoryAge(time.Minute))
				s.say("", "1", "2", "3")
				s.arrive()
				time.Sleep(30 * time.Second)
				s.beat()
				s.arrive()
				s.cut(s.v)
				s.turns()
				last := s.m.history.reached("a")
				if lost {
					s.say("", "4", "5")
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if s.m.history.part("a").feeds["a"] != nil {
					t.Fatal("the project is not forgotten")
				}
				if _, all := s.m.history.missed("a", last); all == lost {
					t.Errorf("all that was missed is known: %v", all)
				}
				want := []string{"1", "2", "3"}
				if lost {
					want = append(want, "away: unknown")
				}
				if again {
					s.say("", "6")
					want = append(want, "6")
				}
				if s.returns(); again && !lost {
					return // whether it is known that nothing was lost does not matter
				}
				s.want(want...)
			})
		}
	}
}

// The oldest message that a page has received has left the history, and the newest has not.
func TestOfATailThatIsPartlyHeldNothingIsShownTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, Filter{}, WithHistory(4))
		s.say("", "1", "2", "3") // a mark follows the first one
		s.flow(s.v)
		s.cut(s.v)
		s.turns()
		time.Sleep(time.Second)
		s.say("", "4", "5", "6")
		s.returns()
		s.want("1", "2", "3", "away: at most 2", "4", "5", "6")
	})
}

// cutAnywhere plays a scene again and again, and cuts the connection of the page after each so many bytes of what follows.
// When the page has returned, it must have shown everything, or have been told of it.
func cutAnywhere(t *testing.T, f Filter, options []Option, scene func(s *script)) {
	t.Helper()
	cutPageAnywhere(t, page{agrees: true, project: "a", chosen: f}, options, scene)
}

// cutPageAnywhere does so with another kind of page.
func cutPageAnywhere(t *testing.T, v page, options []Option, scene func(s *script)) {
	t.Helper()
	for n := 0; n < 2500 && !t.Failed(); n += 50 {
		synctest.Test(t, func(t *testing.T) {
			v := v
			s := newScriptOf(t, &v, options...)
			scene(s)
			for range n / 50 {
				s.v.link.grant(50)
				s.turns()
				s.read(s.v, 1<<20)
			}
			s.notef("%d bytes later", n)
			s.returns()
			s.settle()
			s.notef("%q", s.told())
		})
	}
}

// A position that the page receives before it is told of a gap is before that gap, and says that it is from before it.
func TestAPositionIsBeforeAGapThatIsNotTold(t *testing.T) {
	for _, history := range []int{100, 2} {
		cutAnywhere(t, Filter{}, []Option{WithMaxBuffer(2), WithHistory(history)}, func(s *script) {
			s.say("", "1")
			s.arrive()
			s.block()
			s.say("", "2", "3", "4", "5", "6")
			time.Sleep(30 * time.Second)
			s.beat()
		})
	}
}

// A position of a look-back is not past a gap from before it that is not told. The gap waits for the place of a message to
// the page alone.
func TestALookBackNamesNoPlaceBeforeItsGapIsTold(t *testing.T) {
	for last := range 8 {
		cutAnywhere(t, Filter{}, []Option{WithMaxBuffer(3)}, func(s *script) {
			s.say("", "1")
			s.arrive()
			s.block()
			s.say("", "2", "3", "4", "5")
			s.buffer(s.v)
			s.turns()
			s.say("", "7", "8")
			s.v.says = append(s.v.says, fmt.Sprintf(`{"type":"subscribe","filters":{"level":[],"environment":[]},"last":%d}`, last+1))
			s.answer(s.v, len(s.v.says))
			s.turns()
		})
	}
}

// A gap that has no position, since keys have changed the order, counts what a page may have in its tail, too.
func TestAGapWithoutAPositionEndsTheCount(t *testing.T) {
	cutAnywhere(t, Filter{}, []Option{WithMaxBuffer(3)}, func(s *script) {
		s.say("", "1")
		s.arrive()
		s.block()
		s.say("", "2")
		s.say("k", "k1")
		s.say("", "3", "4")
		s.say("k", "k2")
		s.say("", "5", "6")
	})
}

// The application narrows the filter of a page that returns, before the replay: what is in the tail, and no longer
// matches, is not repeated, and must not be expected.
func TestAFilterThatIsSetBeforeAReplaySwallowsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, Filter{})
		s.say("", "info/a", "info/x") // a mark follows the first one
		s.flow(s.v)
		s.cut(s.v)
		s.turns()
		time.Sleep(time.Second)
		s.say("", "error/x")
		s.dial(s.v)
		s.block() // the replay has not begun
		s.turns()
		if err := s.m.SetFilter(s.v.client.id, Filter{Levels: []string{"error"}}); err != nil {
			t.Fatal(err)
		}
		s.arrive()
		s.want("a", "x", "away: at most 1", "x")
	})
}

// A place within a replay is one moment for the messages to the project and those to all projects: with another filter,
// the page is not sent one of the latter that is older than what it has shown.
func TestAPlaceWithinAReplayIsOneMomentOfBothFeeds(t *testing.T) {
	for _, feeds := range [][2]string{{"a", ""}, {"", "a"}} {
		for n := 0; n < 500 && !t.Failed(); n += 50 {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, Filter{Levels: []string{"error"}}, WithWindow(5))
				s.sayTo(feeds[0], "", "error/1")
				s.arrive()
				s.cut(s.v)
				s.turns()
				for i := range 4 {
					s.sayTo(feeds[1], "", fmt.Sprint("info/x", i))
					s.sayTo(feeds[0], "", fmt.Sprint("error/", i+2))
				}
				s.dial(s.v)
				s.block()
				for s.turns(); s.v.Arrived == 0; s.turns() { // the replay begins after hello is acknowledged
					s.v.link.grant(1)
					s.read(s.v, 1<<20)
					s.answer(s.v, 1)
				}
				s.v.link.grant(1 << 16)
				s.turns()
				s.read(s.v, n)
				s.notef("%d bytes later", n)
				s.v.chosen = Filter{}
				s.returns()
				s.settle()
				s.notef("%q", s.told())
			})
		}
	}
}

// A page returns with another filter, and loses its connection again before it has a position of that replay. What it has
// received in between is counted under that filter: when it returns with the one before, nothing is swallowed or out of
// order.
func TestAPageThatReturnsWithAnotherFilterCountsUnderThat(t *testing.T) {
	cutAnywhere(t, Filter{}, nil, func(s *script) {
		s.say("", "1")
		s.arrive()
		s.cut(s.v)
		s.turns()
		s.say("", "error/2", "info/3", "error/4", "info/5", "error/6", "info/7")
		s.v.chosen = Filter{Levels: []string{"error"}}
		s.dial(s.v)
		s.block()
		s.turns()
		s.v.chosen = Filter{}
	})
}

// The application changes the filter of a page while keys have changed the order of what waits for it, so that the mark that
// says so names no place. What the page receives then is not counted under the filter of its position: it is another part
// of the stream.
func TestWhatFollowsAFilterWithoutAPlaceIsNotCounted(t *testing.T) {
	for _, encoding := range []encoding{frames, events} {
		cutPageAnywhere(t, page{agrees: true, encoding: encoding, project: "a"}, nil, func(s *script) {
			s.say("", "1")
			s.arrive()
			s.block()
			s.say("", "error/2")
			s.say("k", "error/k1")
			s.say("", "error/3", "info/4")
			s.say("k", "error/k2")
			f := Filter{Levels: []string{"error"}}
			if err := s.m.SetFilter(s.v.client.id, f); err != nil {
				s.Fatal(err)
			}
			s.v.setFilter(len(s.log), f)
			s.turns()
			s.say("", "info/5", "error/6", "info/7", "error/8", "info/9", "error/10")
		})
	}
}

// A page has received a value of a key before an older message that is equal, since keys have changed the order, and not that
// message. In the replay of its return, the message comes first, and the page takes it for the one that it has. When the
// value comes, which is an old one by then, the page finds out that it has shown one too few. That is so too if it loses
// its connection between the two.
func TestAnEqualValueOfAKeyStandsForNoMessageThatIsDue(t *testing.T) {
	type kind struct {
		encoding
		window int
	}
	for _, of := range []kind{{frames, 0}, {frames, 3}, {frames, 4}, {events, 0}} {
		for first := 0; first < 300 && !t.Failed(); first += 25 {
			for second := 0; second < 1500 && !t.Failed(); second += 50 {
				synctest.Test(t, func(t *testing.T) {
					s := newScriptOf(t, &page{agrees: true, encoding: of.encoding, project: "a"}, WithWindow(of.window))
					s.say("", "1")
					s.arrive()
					s.block()
					s.say("", "2")
					s.say("k", "v1")
					s.say("", "3", "again")
					s.say("k", "again")
					s.say("", "4", "5")
					s.read(s.v, 1<<20)
					s.v.link.grant(first)
					s.turns()
					s.read(s.v, 1<<20)
					s.cut(s.v)
					s.turns()
					s.say("k", "v9")
					time.Sleep(2 * time.Second)
					s.dial(s.v)
					s.block()
					s.turns()
					for range second / 50 {
						s.v.link.grant(50)
						s.turns()
						s.read(s.v, 1<<20)
						s.answer(s.v, len(s.v.says))
					}
					s.notef("%d and %d bytes later", first, second)
					s.returns()
					s.settle()
					s.notef("%q", s.told())
				})
			}
		}
	}
}

// An old value that the page has not had comes in the replay of its return, and then a message that is equal. If the replay
// breaks, the next one brings both again, and the page knows both.
func TestAnOldValueThatComesAgainIsTakenForNoMessage(t *testing.T) {
	for shown := 2; shown < 5; shown++ {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, Filter{})
			s.say("", "1")
			s.arrive()
			s.block()
			s.say("", "2")
			s.say("k", "again")
			s.say("", "3", "again")
			for len(s.v.items) < 2 {
				s.v.link.grant(1)
				s.turns()
				s.read(s.v, 1)
			}
			s.cut(s.v)
			s.turns()
			s.say("k", "v9")
			s.dial(s.v)
			s.block()
			for len(s.v.items) < shown {
				s.v.link.grant(1)
				s.turns()
				s.read(s.v, 1)
			}
			s.returns()
			s.settle()
			s.want("1", "2", "3", "again", "v9")
		})
	}
}

// The time of a position is that of its place: of the gap of a page that returns from there with another filter, no message
// is older than the gap says.
func TestTheTimeOfAPositionIsThatOfItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, Filter{Levels: []string{"error"}}, WithHistoryAge(time.Second))
		s.m.history.join("a") // another client
		s.say("", "error/1")
		s.arrive()
		s.cut(s.v)
		s.turns()
		s.say("", "error/2", "error/3")
		time.Sleep(900 * time.Millisecond)
		s.say("", "info/4", "info/5")
		time.Sleep(50 * time.Millisecond)
		s.say("", "error/6")
		time.Sleep(100 * time.Millisecond)
		s.dial(s.v)
		for s.turns(); len(s.v.items) < 2; s.turns() {
			s.v.link.grant(1)
			s.read(s.v, 1<<20)
		}
		s.cut(s.v)
		s.turns()
		time.Sleep(2 * time.Second)
		s.v.chosen = Filter{}
		s.returns()
		s.settle()
		s.want("1", "away: at most 2", "away: 1")
	})
}

// A burst ends shortly after a mark, so that most of it has no mark after it. A page that loses its connection two seconds
// later, and returns when all of that has left the history, has missed nothing, and is told so.
func TestAPageThatLosesItsConnectionInALullHasMissedNothing(t *testing.T) {
	for name, test := range map[string]struct {
		options []Option
		beats   bool // the drains are rare
		counts  bool // the page acknowledges all messages before the lull ends
	}{
		"by age":         {options: []Option{WithHistoryAge(time.Minute)}},
		"by number":      {options: []Option{WithHistory(2)}},
		"with a window":  {options: []Option{WithHistoryAge(time.Minute), WithWindow(100)}},
		"without pings":  {options: []Option{WithHistoryAge(time.Minute), WithPingInterval(0), WithIdleTimeout(0)}},
		"with few pings": {options: []Option{WithHistoryAge(time.Minute), WithPingInterval(24 * time.Hour), WithIdleTimeout(0)}},
		"with beats":     {options: []Option{WithHistoryAge(time.Minute)}, beats: true},
		"acknowledged":   {options: []Option{WithHistoryAge(time.Minute)}, counts: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, Filter{}, test.options...)
				s.m.history.join("a") // another client
				s.say("", "1")
				s.arrive()
				s.say("", "2", "3", "4")
				s.flow(s.v)
				if test.counts {
					s.v.says = append(s.v.says, fmt.Sprintf(`{"type":"ack","n":%d}`, s.v.Arrived))
				}
				for range 8 {
					s.flow(s.v)
					s.m.shards[0].tick(!test.beats, test.beats)
					s.turns()
					time.Sleep(250 * time.Millisecond)
				}
				s.cut(s.v)
				s.turns()
				time.Sleep(time.Hour)
				s.returns()
				s.want("1", "2", "3", "4")
				if r := s.v.Hello.Returned; r == nil || !r.Complete || r.AtMost == nil || *r.AtMost != 0 {
					t.Errorf("it is told %+v", r)
				}
			})
		})
	}
}

// A client's buffer is full, and makes room for messages that the shard has taken and that it has not been offered yet. The
// mark that follows what is sent then is before them.
func TestAMarkIsBeforeTheMessagesThatRoomIsMadeFor(t *testing.T) {
	for n := 0; n < 400 && !t.Failed(); n += 10 {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, Filter{}, WithMaxBuffer(1))
			s.say("", "1")
			s.arrive()
			time.Sleep(2 * time.Second)
			s.buffer(s.v)
			s.turns()
			s.say("", "3")
			s.read(s.v, n)
			s.notef("%d bytes later", n)
			s.returns()
			s.settle()
			s.notef("%q", s.told())
		})
	}
}

// A message to the page alone comes while it looks back, and the gap from before waits for its place: the notice that the
// look-back begins, and the marks within it, come before that gap is told, and name no place after it.
func TestALookBackThatIsUnderWayNamesNoPlaceBeforeItsGapIsTold(t *testing.T) {
	for last := range 4 {
		cutAnywhere(t, Filter{}, []Option{WithMaxBuffer(2)}, func(s *script) {
			s.say("", "1")
			s.arrive()
			s.block()
			s.say("", "2", "3", "4", "5")
			s.v.says = append(s.v.says, fmt.Sprintf(`{"type":"subscribe","filters":{"level":[],"environment":[]},"last":%d}`, last+1))
			s.answer(s.v, len(s.v.says))
			s.turns()
			s.buffer(s.v)
			s.turns()
			time.Sleep(2 * time.Second)
		})
	}
}

// Without a history, a page that returns is told of what it has missed by notices alone. The application changes its filter
// while these are on their way: the mark that says so comes between them, and is not past a gap that is yet to be told.
func TestAMarkBeforeTheGapOfAReturnWithoutHistoryNamesNoPlace(t *testing.T) {
	cutAnywhere(t, Filter{}, []Option{WithHistory(0)}, func(s *script) {
		s.say("", "1")
		s.arrive()
		s.cut(s.v)
		s.turns()
		s.say("", "2", "3")
		s.dial(s.v)
		s.block()
		s.turns()
		if err := s.m.SetFilter(s.v.client.id, Filter{}); err != nil {
			s.Fatal(err)
		}
		s.turns()
	})
}

// A window of one message has room for the notice that a replay begins, and not for the gap after it: the mark that follows
// the notice names no place after that gap.
func TestAMarkBeforeTheGapOfAReplayNamesNoPlace(t *testing.T) {
	for n := 0; n < 400 && !t.Failed(); n += 20 {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, Filter{}, WithHistory(1), WithWindow(1))
			s.say("", "1")
			s.arrive()
			s.cut(s.v)
			s.turns()
			s.say("", "2", "3")
			s.dial(s.v)
			s.v.link.grant(1 << 16)
			s.turns()
			s.read(s.v, 1<<20)
			s.answer(s.v, 1) // to hello
			s.turns()
			s.read(s.v, n)
			s.notef("%d bytes later", n)
			s.returns()
			s.settle()
			s.notef("%q", s.told())
		})
	}
}

// A gap of a return ends the tail of the page, whatever else waits: with a message to the page alone that was dropped, and
// when the server shuts down. What comes after the gap, and has the text of a message in the tail, is shown.
func TestAGapOfAReturnEndsTheTail(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(s *script)
		want      []string
	}{
		"at a shutdown":          {func(s *script) { s.m.shards[0].close(true) }, []string{"a", "x", "away: at most 1", "x"}},
		"before one of its own":  {func(s *script) { s.buffer(s.v); s.buffer(s.v) }, []string{"a", "x", "away: at most 1", "x", "slow: 1", "m4"}},
		"when nothing else does": {func(*script) {}, []string{"a", "x", "away: at most 1", "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, Filter{}, WithMaxBuffer(1))
				s.say("", "info/a", "info/x") // a mark follows the first one
				s.flow(s.v)
				s.cut(s.v)
				s.turns()
				time.Sleep(time.Second)
				s.say("", "error/x")
				s.dial(s.v)
				s.block() // the replay has not begun
				s.turns()
				if err := s.m.SetFilter(s.v.client.id, Filter{Levels: []string{"error"}}); err != nil {
					t.Fatal(err)
				}
				s.turns()
				test.meanwhile(s)
				s.turns()
				s.arrive()
				s.want(test.want...)
			})
		})
	}
}

// A page asks for other filters and looks back. If it loses its connection before the notice that this begins, it returns
// from where it was: what it has shown before doesn't come again.
func TestAPageThatWasNotToldOfItsLookBackReceivesNothingTwice(t *testing.T) {
	cutAnywhere(t, Filter{}, nil, func(s *script) {
		s.say("", "1", "2", "3")
		s.arrive()
		time.Sleep(2 * time.Second)
		s.beat()
		s.arrive()
		s.block()
		s.v.says = append(s.v.says, `{"type":"subscribe","filters":{"level":[],"environment":[]},"last":3}`)
		s.answer(s.v, len(s.v.says))
		for before := s.v.Position; s.v.Position == before; { // until exactly the reply has arrived
			s.turns()
			s.v.link.grant(1)
			s.turns()
			s.read(s.v, 1)
		}
		if err := s.m.SetFilter(s.v.client.id, Filter{}); err != nil {
			s.Fatal(err)
		}
		s.turns()
	})
}

// What leaves the history in the course of a look-back, the page may have received before: how much of that is missing is
// not known, and only a bound is told.
func TestAGapOfALookBackIsABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, Filter{}, WithHistory(4))
		s.say("", "1", "2", "3", "4")
		s.arrive()
		s.block()
		s.v.says = append(s.v.says, `{"type":"subscribe","filters":{"level":[],"environment":[]},"last":4}`)
		s.answer(s.v, len(s.v.says))
		for before := s.v.Position; s.v.Position == before; { // until exactly the reply has arrived
			s.turns()
			s.v.link.grant(1)
			s.turns()
			s.read(s.v, 1)
		}
		s.say("", "5", "6", "7")
		s.arrive()
		s.settle()
		s.want("1", "2", "3", "4", "away: at most 3", "4", "5", "6", "7")
	})
}

// The time of a gap of a look-back is not later than any message that it counts: also if messages left the history between
// the page's join and its look-back, an older one to all projects is still there then, and that leaves before it is read.
func TestTheTimeOfAGapOfALookBackIsThatOfItsOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, Filter{}, WithHistory(1))
		s.cut(s.v)
		s.turns()
		s.sayTo("", "", "1")
		time.Sleep(time.Second)
		s.v.Follower, s.v.begins = follower.Follower{}, past{last: 8}
		s.dial(s.v)
		s.block()
		for _, text := range []string{"2", "3", "4"} { // before the page's turn
			e := &said{id: len(s.log), project: "a", text: text, at: time.Now()}
			s.add(e)
			if err := s.m.Broadcast(Message{Project: "a", Data: e.data()}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		for s.turns(); s.v.Arrived == 0; s.turns() { // until exactly hello has arrived
			s.v.link.grant(1)
			s.read(s.v, 1)
		}
		s.sayTo("", "", "5")
		s.say("", "6")
		s.arrive()
		s.settle()
		s.want("slow: 4", "5", "6")
		if g := s.v.items[0].gap; g.Since.After(s.log[0].at) {
			t.Errorf("the gap begins at %v, and its oldest message is of %v", g.Since, s.log[0].at)
		}
	})
}
