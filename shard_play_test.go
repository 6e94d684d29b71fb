package mesherstream

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// player plays steps on a shard without a goroutine and on the model, and compares the two after each turn.
type player struct {
	*testing.T
	script  []byte
	m       *Manager
	s       *shard
	model   *modelShard
	clients []*playedClient
	base    modelAmount // the position with which clients begin
	lastID  int
	keyed   map[int]bool // the numbers of messages that have a key, and may arrive earlier than others
	closed  bool
	flushed bool // the shutdown flushes the clients
	log     []string
}

// rules are the options that a script chooses for its manager.
type rules struct {
	maxBuffer, maxBytes int
	overflow            Overflow
	keepLevels          []string
	window              int
	freshness           time.Duration
	coalescing          time.Duration
	ping, idle          time.Duration
	wraps               bool // positions and times of the shard pass their largest value
}

// The default times. No other time coincides with that of an idle client.
const (
	playedFreshness = time.Second
	playedPing      = 25 * time.Second
	playedIdle      = 60*time.Second + 700*time.Nanosecond
)

// playedClient is a client of the shard, its twin in the model, and the calls of its hooks.
type playedClient struct {
	*client
	twin    *modelClient
	link    scriptedLink
	checked int // bytes of the wire that have been compared

	connects, slows, disconnects int
	told                         uint64 // drops
	offered                      int    // at the last turn
	code                         int

	manner
	read    int      // bytes of the wire that the client has read
	n       int      // messages of any kind in them
	pings   [][]byte // the payloads of pings in them
	answers []answer
}

// A manner is how a client answers by itself.
type manner struct {
	mute    bool
	after   time.Duration
	newest  bool // it answers only the newest of several probes
	byCount int  // it acknowledges after so many messages, and not because of hello and marks
}

// An answer is a pong or a count that the client sends at a moment.
type answer struct {
	at   time.Time
	op   byte
	data []byte
	n    int
}

// play plays the steps on both.
func (p *player) play(r rules, steps func()) {
	defer func() {
		for _, c := range p.clients {
			c.link.Close() // a bubble waits for everything in it
		}
		if p.Failed() {
			p.Logf("steps:\n%s", strings.Join(p.log, "\n"))
		}
	}()
	p.start(r)
	steps()
	p.finish()
}

func (p *player) start(r rules) {
	opts := []Option{
		WithLogger(slog.New(slog.DiscardHandler)), WithMaxBuffer(r.maxBuffer), WithMaxBufferBytes(r.maxBytes),
		WithOverflow(r.overflow), WithKeepLevels(r.keepLevels...), WithFreshness(r.freshness),
		WithPingInterval(r.ping), WithIdleTimeout(r.idle), WithHistory(0), WithCoalescing(r.coalescing),
		WithHooks(Hooks{
			Connect: func(c Client) { p.of(c).connects++ },
			Slow:    func(c Client) { p.of(c).slows++ },
			Drop:    func(c Client, n uint64) { p.of(c).told += n },
			Disconnect: func(c Client, code int, _ string) {
				p.of(c).disconnects++
				p.of(c).code = code
			},
		}),
	}
	if r.window != modelDefault {
		opts = append(opts, WithWindow(r.window))
	}
	m, err := NewManager(opts...)
	if err != nil {
		p.Fatal(err)
	}
	m.shards, m.cfg.shards = m.shards[:1], 1
	p.m, p.s = m, m.shards[0]
	p.s.start(newHookQueue(m.cfg.hooks, m.cfg.logger, m.hookPanicked), nil)
	p.keyed = make(map[int]bool)
	if r.wraps {
		p.s.madeAt = p.s.madeAt.Add(20*time.Second - math.MaxUint32*time.Millisecond)
		p.base = modelAmount{-10, -1000} // positions wrap around
	}
	p.model = &modelShard{
		maxBuffer: r.maxBuffer, maxBytes: r.maxBytes, overflow: r.overflow, keepLevels: r.keepLevels, window: r.window,
		interval: m.cfg.drainInterval, ping: m.cfg.pingInterval, idle: m.cfg.idleTimeout,
		coalescing: r.coalescing, groups: make(map[string]*modelGroup),
		freshness: r.freshness, madeAt: p.s.madeAt, reached: make(map[string]int), from: make(map[string]int), ages: make(map[time.Duration]int),
	}
}

func (p *player) of(c Client) *playedClient { return p.clients[c.ID-1] }

func (p *player) logf(format string, args ...any) {
	p.log = append(p.log, fmt.Sprintf(format, args...))
}

// The kinds of links that a client may have.
const (
	linkDirect = iota
	linkHeld
	linkLocal // direct, and room in it shows that the other end reads
	linkKinds
)

func (p *player) connect(kind int, agrees bool, m manner, project string, filter Filter) {
	holds := kind == linkHeld
	pl, err := p.m.reserve("192.0.2.1")
	if err != nil {
		p.Fatal(err)
	}
	now := time.Now()
	c := &client{
		id: ClientID(len(p.clients) + 1), shard: p.s, place: pl, connectedAt: now,
		terms: grantedAll(Subscription{Project: project, Filter: filter}),
	}
	if agrees {
		c.agree()
	}
	base := p.base
	if agrees {
		base.messages = 0 // or the client could not count
	}
	c.written, c.weight = uint64(uint32(base.messages)), uint32(base.bytes+messageWeight*base.messages)
	c.stop = c.weight
	c.markSeen(now)
	played := &playedClient{client: c, manner: m}
	var stay func()
	if holds {
		l := newHeldLink(c, synctest.Wait)
		played.link, stay = l, l.Serve
	} else {
		played.link = &directLink{client: c, local: kind == linkLocal}
	}
	c.link = played.link
	if err := p.s.register(c); (err != nil) != p.closed {
		p.Errorf("register: got %v, closed: %v", err, p.closed)
	}
	if p.closed {
		pl.release()
		return
	}
	p.logf("client %d of %s with %v, link %d, protocol: %v, manner %+v", c.id, project, filter, kind, agrees, m)
	if stay != nil {
		go stay()
	}
	played.twin = &modelClient{
		s: p.model, holds: holds, local: kind == linkLocal, project: project, filter: filter, member: true, newest: p.lastID,
		seen: now, took: now, askedAt: now, pingBy: now.Add(p.model.ping), credit: time.Second, creditAt: now,
		stream: c.v1.name(), win: modelWindow{pings: make(map[string]modelProbe)}, base: base, sign: c.sign,
	}
	p.model.events = append(p.model.events, func() { played.twin.join(c.id) })
	p.clients = append(p.clients, played)
	p.model.clients = append(p.model.clients, played.twin)
}

// data makes the data of the next message, which begins with its number if there is space for that.
func (p *player) data(size int) []byte {
	p.lastID++
	data := fmt.Appendf(nil, "%07d", p.lastID)
	if size > len(data) {
		data = append(data, bytes.Repeat([]byte{byte('a' + p.lastID%26)}, size-len(data))...)
	}
	return data[:size]
}

// broadcast publishes a message with the data that was made last.
func (p *player) broadcast(msg Message) {
	m := p.modelMessage(msg.Project, msg)
	m.keep = slices.Contains(p.model.keepLevels, msg.Level)
	p.keyed[m.id] = msg.Key != ""
	followed := func(c *modelClient) bool { return c.member && (msg.Project == "" || c.project == msg.Project) }
	p.logf("broadcast %d of %d bytes to %q, %q, %q with key %q", m.id, len(msg.Data), msg.Project, msg.Level, msg.Environment, msg.Key)
	err := p.m.Broadcast(msg)
	if p.refuses(err, msg.Data) || !slices.ContainsFunc(p.model.clients, followed) {
		return
	}
	if err != nil {
		p.Errorf("Broadcast: %v", err)
	}
	p.model.casts = append(p.model.casts, modelCast{message: m, sub: func(c *modelClient) bool {
		return followed(c) && lets(c.filter.Levels, msg.Level) && lets(c.filter.Environments, msg.Environment)
	}})
}

// modelMessage makes the model's message, and makes room for it in the inbox of the clients of a project.
func (p *player) modelMessage(project string, msg Message) *modelMessage {
	op := byte(wsframe.OpText)
	if msg.Binary {
		op = wsframe.OpBinary
	}
	m := &modelMessage{
		id: p.lastID, at: time.Now(), frame: wsframe.Append(nil, op, msg.Data),
		project: msg.Project, level: msg.Level, environment: msg.Environment, key: msg.Key,
	}
	if len(msg.Data) <= p.model.maxBytes {
		p.makeRoom(project, m.size())
	}
	return m
}

// refuses checks whether a call refuses the size of a message, and reports whether the call must have no effect.
func (p *player) refuses(err error, data []byte) bool {
	tooLarge := len(data) > p.model.maxBytes
	if errors.Is(err, ErrTooLarge) != tooLarge {
		p.Errorf("a message of %d bytes, of at most %d: got %v", len(data), p.model.maxBytes, err)
	}
	return tooLarge || p.closed
}

// makeRoom takes a turn if the next cast would wait for one.
func (p *player) makeRoom(project string, size int) {
	if !p.s.hasRoom(project, size) {
		p.turn()
	}
}

func (p *player) bufferMessage(c *playedClient, data []byte) {
	m := p.modelMessage(c.sub.Project, Message{Data: data})
	p.logf("buffer %d of %d bytes for %d", m.id, len(data), c.id)
	err := p.m.BufferMessage(c.id, data)
	if p.refuses(err, data) || !p.names(c, err) {
		return
	}
	p.model.casts = append(p.model.casts, modelCast{do: func() {
		if c.twin.stream != "" {
			m.frame = append(c.twin.encode(`{"type":"direct",}`), m.frame...)
		}
		c.twin.buffer(m)
	}})
}

// names checks the error of a call that names a client.
func (p *player) names(c *playedClient, err error) bool {
	if c.twin.member != (err == nil) {
		p.Errorf("a call for client %d: got %v, a member: %v", c.id, err, c.twin.member)
	}
	return c.twin.member
}

func (p *player) setFilter(c *playedClient, filter Filter) {
	p.makeRoom(c.sub.Project, 0)
	p.logf("filter %v for %d", filter, c.id)
	if err := p.m.SetFilter(c.id, filter); !p.closed && p.names(c, err) {
		p.model.casts = append(p.model.casts, modelCast{do: func() { c.twin.setFilter(filter); c.twin.setPlace() }})
	}
}

func (p *player) disconnect(c *playedClient, code int) {
	p.makeRoom(c.sub.Project, 0)
	p.logf("disconnect %d", c.id)
	if err := p.m.Disconnect(c.id, code, "out"); !p.closed && p.names(c, err) {
		p.model.casts = append(p.model.casts, modelCast{do: func() { c.twin.shut(code, "out") }})
	}
}

func (p *player) arrive(c *playedClient, op byte, data []byte) {
	p.logf("client %d sends %#x %q", c.id, op, data)
	c.link.arrive(op, data)
	c.twin.incoming = append(c.twin.incoming, arrival{op, data})
}

func (p *player) grant(c *playedClient, room int) {
	p.logf("room %d for %d", room, c.id)
	c.link.grant(room)
	c.twin.room += room
}

func (p *player) fail(c *playedClient) {
	p.logf("writes to %d fail", c.id)
	c.link.fail(errScripted)
	c.twin.failing = true
}

func (p *player) drain() {
	p.logf("drain")
	p.s.tick(true, false)
	p.model.drain = true
}

// beat lets the wheels of the shard and of the model make a complete turn.
func (p *player) beat() {
	p.logf("beat")
	p.s.tell(func() { p.s.beatAll(time.Now()) })
	p.model.casts = append(p.model.casts, modelCast{do: p.model.beat})
}

func (p *player) sleep(d time.Duration) {
	p.logf("sleep %v", d)
	time.Sleep(d)
	synctest.Wait()
	for _, c := range p.model.clients {
		c.pass()
	}
}

func (p *player) shutdown(flush bool) {
	p.logf("shutdown, flush: %v", flush)
	p.s.close(flush)
	p.flushed = flush && (p.flushed || !p.closed)
	p.closed = true
	p.model.casts = append(p.model.casts, modelCast{do: func() { p.model.shutAll(flush) }})
}

// turn makes the shard take a turn, and runs the hooks after it.
func (p *player) turn() {
	p.s.mu.Lock()
	nothing := p.s.inbox.isEmpty() && len(p.s.again) == 0
	p.s.mu.Unlock()
	if nothing {
		return
	}
	p.logf("turn")
	p.s.take()
	p.s.takeTurn()
	for _, call := range take(&p.s.hooks.queue) {
		call()
	}
	p.model.turn()
	p.settle()
	p.compare()
}

// settle lets everything outside the shard happen.
func (p *player) settle() {
	for _, c := range p.clients {
		c.link.flow()
		c.twin.fly()
		c.twin.read()
		p.listen(c)
		p.reply(c)
	}
}

// listen lets the client read whole frames, and decide how to answer them.
func (p *player) listen(c *playedClient) {
	for {
		frame, payload := firstFrame(c.link.wire()[c.read:])
		if frame == nil {
			return
		}
		c.read += len(frame)
		a := answer{at: time.Now().Add(c.after)}
		switch frame[0] & 0x0F {
		case wsframe.OpPing:
			if len(payload) == 0 {
				continue
			}
			c.pings = append(c.pings, payload)
			a.op, a.data = wsframe.OpPong, payload
		case wsframe.OpText, wsframe.OpBinary:
			c.n++
			a.n = c.n
			isProbe := bytes.HasPrefix(payload, []byte(`{"type":"hello"`)) || bytes.HasPrefix(payload, []byte(`{"type":"mark"`))
			if c.twin.stream == "" || c.byCount == 0 && !isProbe || c.byCount > 0 && c.n%c.byCount != 0 {
				continue
			}
			a.op, a.data = wsframe.OpText, fmt.Append(nil, modelAck, c.n, "}")
		default:
			continue
		}
		if !c.mute {
			c.answers = append(c.answers, a)
		}
	}
}

// reply sends the answers that are due.
func (p *player) reply(c *playedClient) {
	due := 0
	for due < len(c.answers) && !c.answers[due].at.After(time.Now()) {
		due++
	}
	for i, a := range c.answers[:due] {
		switch {
		case c.newest && i < due-1:
		case a.n > 0 && a.n <= c.twin.win.acked.messages: // the script has acknowledged it already
		default:
			p.arrive(c, a.op, a.data)
		}
	}
	c.answers = c.answers[due:]
}

// progress lets the other end of a direct link read what its kernel holds, but not all of it if there is a rest.
func (p *player) progress(c *playedClient, rest bool) {
	if l, ok := c.link.(*directLink); ok {
		p.logf("client %d reads, with a rest: %v", c.id, rest)
		l.progressed, c.twin.progressed = true, true
		l.unread, c.twin.unread = rest, rest
	}
}

// compare compares every client with its twin.
func (p *player) compare() {
	p.Helper()
	var want Stats
	for _, c := range p.clients {
		t := c.twin
		wire := c.link.wire()
		if !bytes.Equal(withoutPositions(wire, c.checked), t.wire[c.checked:]) {
			p.Fatalf("client %d got\n%.300q\nand should have\n%.300q\nbehind %d bytes that are right", c.id, wire[c.checked:], t.wire[c.checked:], c.checked)
		}
		c.checked = len(wire)
		for _, fault := range c.link.faults() {
			p.Errorf("the link of client %d was %s", c.id, fault)
		}
		got := c.snapshot()
		buffered, bufferedBytes := t.messages()+len(t.flying), t.messageBytes()
		for _, m := range t.held {
			bufferedBytes += m.size()
		}
		buffered, offered := buffered+len(t.held), t.offered+len(t.held)
		if len(t.flying) > 0 {
			bufferedBytes += t.flightBytes
		}
		if int(got.Offered) != offered || int(got.Sent) != t.sent || int(got.Dropped) != t.dropped || int(got.Abandoned) != t.abandoned || int(got.Filtered) != t.filtered || int(got.Conflated) != t.conflated ||
			got.Buffered != buffered || got.BufferedBytes != bufferedBytes || got.Slow != t.slow || c.phase != t.phase || t.phase != phaseGone && got.Unacknowledged != t.unacknowledged() || got.Age != t.win.age {
			p.Fatalf("client %d: got %+v in phase %d, want %d offered, %d sent, %d dropped, %d abandoned, %d filtered, %d conflated, %d buffered of %d bytes, slow: %v, phase %d, %d unacknowledged, age %v",
				c.id, got, c.phase, offered, t.sent, t.dropped, t.abandoned, t.filtered, t.conflated, buffered, bufferedBytes, t.slow, t.phase, t.unacknowledged(), t.win.age)
		}
		if offered < c.offered {
			p.Errorf("client %d: got %d offered, and there were %d before", c.id, offered, c.offered)
		}
		c.offered = offered
		if offered != t.sent+t.dropped+t.abandoned+t.filtered+t.conflated+buffered {
			p.Errorf("the accounts of client %d: got %+v", c.id, got)
		}
		t.slowQueued = false
		if c.connects != 1 || int(c.told) != t.dropped || c.slows != t.slowCalls || c.disconnects != t.disconnects || c.disconnects > 0 && c.code != t.code {
			p.Errorf("hooks of client %d: got %d connects, %d slow, %d dropped, %d disconnects with %d, want 1, %d, %d, %d with %d",
				c.id, c.connects, c.slows, c.told, c.disconnects, c.code, t.slowCalls, t.dropped, t.disconnects, t.code)
		}
		want.add(Stats{
			Offered: uint64(offered), Sent: uint64(t.sent), Dropped: uint64(t.dropped), Abandoned: uint64(t.abandoned), Filtered: uint64(t.filtered), Conflated: uint64(t.conflated),
			Buffered: buffered, BufferedBytes: int64(bufferedBytes), Connects: 1, Disconnects: uint64(t.disconnects),
		})
		if t.member {
			want.Clients++
		}
		if t.slow {
			want.Slow++
		}
	}
	for age, n := range p.model.ages {
		for range n {
			want.Ages.observe(age)
		}
	}
	got := p.s.stats()
	want.FilterSets, want.Deliveries, want.Drains = got.FilterSets, got.Deliveries, got.Drains
	if got != want {
		p.Errorf("Stats: got %+v, want %+v", got, want)
	}
}

// finish gives every client all the room it wants, shuts the shard down, and waits until no client is left. Then
// nothing of the clients may be left either, and each must have received what was promised.
func (p *player) finish() {
	const room = 1 << 30 // in addition to what it has, as an int of 32 bits
	for _, c := range p.clients {
		c.link.grant(room)
		c.twin.room += room
	}
	p.settle()
	p.shutdown(true)
	for range 8 {
		for range 2000 {
			p.turn()
		}
		p.sleep(closeGrace)
		p.settle()
	}
	if len(p.s.members)+len(p.s.leaving) > 0 {
		p.Fatalf("%d members and %d that leave are still there", len(p.s.members), len(p.s.leaving))
	}
	if p.s.take() {
		p.Error("the shard goes on")
	}
	if n := len(p.s.groups) + len(p.s.projects) + len(p.s.followers) + len(p.s.waiting) + len(p.s.pinged) + len(p.s.pauses) + p.s.holding + p.m.clients; n > 0 {
		p.Errorf("%d things are left of clients that are gone", n)
	}
	for _, slot := range p.s.wheel.slots {
		if len(slot) > 0 {
			p.Error("the wheel holds clients that are gone")
		}
	}
	for _, c := range p.clients {
		p.checkPromise(c)
	}
}

// withoutPositions returns what comes after the first bytes of a wire, with the model's position for every other one.
func withoutPositions(wire []byte, first int) []byte {
	before := max(0, first-len(modelPosition)) // a position may have begun there
	return anyPosition.ReplaceAllFunc(wire[before:], func(text []byte) []byte { return modelPosition[:len(text)] })[first-before:]
}

var (
	anyPosition   = regexp.MustCompile(`"position":"p[\w-]*"?`)
	modelPosition = []byte(`"position":"p` + strings.Repeat("-", 86) + `"`)
)

// checkPromise reads the bytes that a client received as a client does, without a look at the model's bytes. It expects
// whole frames, offered messages, in order, none twice, as many missing as the accounts say, and as many reported as
// missed.
func (p *player) checkPromise(c *playedClient) {
	offered := c.twin.offeredIDs
	keyed := make(map[int]bool)
	sent, told, torn, closes := 0, 0, false, 0
	for wire := c.link.wire(); len(wire) > 0; {
		frame, payload := firstFrame(wire)
		if frame == nil {
			torn = true
			break
		}
		wire = wire[len(frame):]
		switch op := frame[0] & 0x0F; {
		case frame[0]&0xF0 != wsframe.FinBit || closes > 0:
			p.Fatalf("client %d got a frame that begins with %#x, after %d close frames", c.id, frame[0], closes)
		case op == wsframe.OpClose:
			closes++
		case op == wsframe.OpPing, op == wsframe.OpPong:
		case op == wsframe.OpText && bytes.HasPrefix(payload, []byte("{")):
			told += gapIn(payload)
		case op == wsframe.OpText, op == wsframe.OpBinary:
			sent++
			if len(payload) < 7 {
				continue // it has no number
			}
			id, err := strconv.Atoi(string(payload[:7]))
			if p.keyed[id] { // it may have replaced an older one
				if keyed[id] || !slices.Contains(c.twin.offeredIDs, id) {
					p.Fatalf("client %d got message %d, which has a key and was not offered, or came before", c.id, id)
				}
				keyed[id] = true
				continue
			}
			for len(offered) > 0 && offered[0] != id {
				offered = offered[1:]
			}
			if err != nil || len(offered) == 0 {
				p.Fatalf("client %d got message %d, %v, which was not offered, or came before", c.id, id, err)
			}
			offered = offered[1:]
		default:
			p.Fatalf("client %d got a frame of opcode %#x", c.id, op)
		}
	}
	// A link that was cut while it held messages may have sent some of those that were counted as abandoned.
	if t := c.twin; sent < t.sent || sent > t.offered-t.dropped || sent > t.sent && !t.holds {
		p.Errorf("client %d got %d messages, and %d were sent, %d dropped, %d abandoned, of %d", c.id, sent, t.sent, t.dropped, t.abandoned, t.offered)
	}
	if all := p.flushed && c.code == wsframe.CodeGoingAway && !torn && c.twin.abandoned == 0; told > c.twin.dropped || all && told != c.twin.dropped && c.v1 != nil {
		p.Errorf("client %d was told of %d that it missed, and %d were dropped", c.id, told, c.twin.dropped)
	}
	if torn && c.disconnects == 0 {
		p.Errorf("the last frame of client %d is torn", c.id)
	}
}

// gapIn is how many dropped messages a message of the protocol reports.
func gapIn(payload []byte) int {
	var notice gapNotice
	if json.Unmarshal(payload, &notice) != nil || notice.Type != typeGap {
		return 0
	}
	return notice.Dropped
}

// The two write paths of a link, with a kernel that accepts exactly as many bytes as a test says. Both exist without
// Linux and without a socket, so that the effect of a shard on them can be predicted byte by byte.

// A scriptedLink gives a test control of a link: the test plays the kernel and the client on the other end.
type scriptedLink interface {
	link.Link
	grant(room int)              // the kernel accepts that many more bytes
	fail(err error)              // from now on, writing fails with err
	arrive(op byte, data []byte) // the client has sent this; op frameBroken and frameEnd stand for input that is no frame
	flow()                       // everything outside the shard happens now
	wire() []byte                // the bytes that the kernel has accepted
	faults() []string            // violations of the link's contract by the shard
}

// The opcodes of arrive besides those of RFC 6455.
const (
	frameBroken = 0x10 // a frame that violates the protocol
	frameEnd    = 0x11 // the end of the stream
)

var errScripted = errors.New("scripted failure")

// directLink has the semantics of the polled link: a write accepts as much as the kernel has room for, which may tear a
// frame, and a hint follows when there is room again.
type directLink struct {
	client  *client
	room    int
	taken   []byte
	err     error
	blocked bool // the last write came short, so there will be a hint
	local   bool // room is a sign of life

	progressed bool // the other end has read since the last call of Progressed
	unread     bool // its kernel holds bytes that it has not read

	incoming []arrival
	waits    bool // for Resume
	refused  bool
	closed   bool
	broke    []string
}

type arrival struct {
	op   byte
	data []byte
}

func (l *directLink) blame(what string) { l.broke = append(l.broke, what) }

func (l *directLink) Begin() {}

func (l *directLink) Progressed() (yes bool) {
	yes, l.progressed = l.progressed, false
	return yes
}

func (l *directLink) Unread() bool     { return l.unread }
func (l *directLink) Unanswered() bool { return false }

func (l *directLink) Close() { l.closed = true }

func (l *directLink) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	switch {
	case l.closed:
		l.blame("written to after its end")
	case l.blocked:
		l.blame("written to before it was writable")
	case len(p) == 0:
		l.blame("given nothing to write")
	}
	if l.err != nil {
		return 0, 0, l.err
	}
	all := slices.Concat(p, then)
	sent = min(l.room, len(all))
	l.room -= sent
	l.taken = append(l.taken, all[:sent]...)
	l.blocked = sent < len(all)
	return sent, 0, nil
}

// Ready is the hint that there is room. It acts on it as the polled link does.
func (l *directLink) Ready() {
	if l.closed {
		return
	}
	if l.blocked && l.local {
		l.client.Seen(time.Now(), true)
	}
	l.blocked = false
	l.client.Handle(link.Event{Kind: link.Writable})
}

func (l *directLink) Retry() {
	l.blocked = false
	l.client.Handle(link.Event{Kind: link.Writable})
}

func (l *directLink) Resume() {
	if !l.waits {
		l.blame("resumed without a message")
	}
	l.waits = false
}

func (l *directLink) grant(room int) { l.room += room }

func (l *directLink) fail(err error) { l.err = err }

func (l *directLink) arrive(op byte, data []byte) {
	l.incoming = append(l.incoming, arrival{op, data})
}

func (l *directLink) flow() {
	if !l.closed && l.blocked && (l.room > 0 || l.err != nil) {
		l.client.Post(link.Event{Kind: link.Ready})
	}
	for !l.closed && !l.waits && len(l.incoming) > 0 {
		next := l.incoming[0]
		l.incoming = l.incoming[1:]
		switch {
		case next.op == frameEnd:
			l.client.Post(link.Event{Kind: link.Ended, Err: io.EOF})
			l.incoming = nil
		case l.refused:
		case next.op == frameBroken:
			l.refused = true
			l.client.markSeen(time.Now())
			l.client.Post(link.Event{Kind: link.Refused, Err: &wsframe.CloseError{Code: wsframe.CodeProtocolError, Reason: "scripted"}})
		default:
			l.waits = true
			l.client.markSeen(time.Now())
			l.client.Post(link.Event{Kind: link.Received, Op: next.op, Payload: bytes.Clone(next.data)})
		}
	}
}

func (l *directLink) wire() []byte { return l.taken }

func (l *directLink) faults() []string { return l.broke }

// heldLink is the real portable link over a scripted connection. It works in a synctest bubble, in which it is known
// when its two goroutines have done everything they can. flow first lets the writer continue, and then the reader.
type heldLink struct {
	*link.Portable
	conn *scriptedConn
	idle func() // synctest.Wait
}

func newHeldLink(c *client, idle func()) *heldLink {
	conn := &scriptedConn{}
	conn.changed.L = &conn.mu
	cfg := c.shard.cfg
	return &heldLink{conn: conn, idle: idle, Portable: link.NewPortable(conn, conn, c, link.Options{
		Reader:      func(bool) link.Reader { return pieces{} },
		IdleTimeout: cfg.idleTimeout,
	})}
}

// pieces is a reader for which each piece that arrives is a message: its opcode, and the rest.
type pieces struct{}

func (pieces) AtRest() bool { return true }

func (pieces) Feed(p []byte, emit func(op byte, payload []byte) error) (n int, err error) {
	if p[0] == frameBroken {
		return 1, &wsframe.CloseError{Code: wsframe.CodeProtocolError, Reason: "scripted"}
	}
	return len(p), emit(p[0], bytes.Clone(p[1:]))
}

func (l *heldLink) grant(room int) { l.conn.update(func() { l.conn.room += room }) }

func (l *heldLink) fail(err error) { l.conn.update(func() { l.conn.err = err }) }

func (l *heldLink) arrive(op byte, data []byte) {
	var frame []byte
	switch op {
	case frameEnd:
	case frameBroken:
		frame = []byte{frameBroken}
	default:
		frame = append([]byte{op}, data...)
	}
	l.conn.update(func() { l.conn.incoming = append(l.conn.incoming, frame) })
}

func (l *heldLink) flow() {
	l.conn.update(func() { l.conn.mayWrite = true })
	l.idle()
	l.conn.update(func() { l.conn.mayRead = true })
	l.idle()
	l.conn.update(func() { l.conn.mayWrite, l.conn.mayRead = false, false })
}

func (l *heldLink) wire() []byte {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	return l.conn.taken
}

func (l *heldLink) faults() []string { return nil }

// scriptedConn is a connection of which each Read returns one of the pieces that have arrived. An empty piece is the
// end.
type scriptedConn struct {
	net.Conn // only the methods below are called

	mu                sync.Mutex
	changed           sync.Cond
	room              int
	taken             []byte
	err               error
	incoming          [][]byte
	mayWrite, mayRead bool
	writeBy           time.Time // the deadline of the write, if any
	ended             bool      // the deadlines of both directions are over
	alarm             *time.Timer
}

func (c *scriptedConn) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.changed.Broadcast()
}

func (c *scriptedConn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.mayWrite && !c.expired() {
			taken := min(c.room, len(p)-n)
			if c.err != nil {
				return n, c.err
			}
			c.taken = append(c.taken, p[n:n+taken]...)
			c.room -= taken
			if n += taken; n == len(p) {
				return n, nil
			}
		}
		if c.expired() {
			return n, os.ErrDeadlineExceeded
		}
		c.changed.Wait()
	}
}

func (c *scriptedConn) expired() bool {
	return c.ended || !c.writeBy.IsZero() && !time.Now().Before(c.writeBy)
}

func (c *scriptedConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended {
		if c.mayRead && len(c.incoming) > 0 {
			piece := c.incoming[0]
			c.incoming = c.incoming[1:]
			if len(piece) == 0 {
				return 0, io.EOF
			}
			return copy(p, piece), nil
		}
		c.changed.Wait()
	}
	return 0, os.ErrDeadlineExceeded
}

func (c *scriptedConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alarm != nil {
		c.alarm.Stop()
	}
	if c.writeBy = t; !t.IsZero() {
		c.alarm = time.AfterFunc(time.Until(t), func() { c.update(func() {}) })
	}
	return nil
}

func (c *scriptedConn) SetDeadline(t time.Time) error {
	c.update(func() { c.ended = !t.After(time.Now()) })
	return nil
}

// Writes that stop at every byte, that fail at every byte, and that accept a few bytes at a time. The model checks
// after each turn that frames are whole and in order, with pongs, pings, replies and close frames in between, and that
// every message is in the accounts.

// frameStory is every kind of frame that a client receives, in an order in which each could land inside another.
var frameStory = []func(p *player, c *playedClient){
	func(p *player, _ *playedClient) { p.broadcast(Message{Project: "a", Data: p.data(0)}) },
	func(p *player, _ *playedClient) {
		p.broadcast(Message{Project: "a", Data: p.data(20)})
		p.broadcast(Message{Project: "a", Data: p.data(126), Binary: true})
		p.broadcast(Message{Project: "a", Data: p.data(7)})
	},
	func(p *player, c *playedClient) { p.arrive(c, wsframe.OpPing, []byte("are you there")) },
	func(p *player, c *playedClient) { p.arrive(c, wsframe.OpText, []byte(modelRequests[0].text)) },
	func(p *player, _ *playedClient) { p.broadcast(Message{Project: "a", Level: "error", Data: p.data(30)}) },
	func(p *player, c *playedClient) { p.arrive(c, wsframe.OpPing, nil) },
	func(p *player, _ *playedClient) { // a client of the protocol is sent a mark
		p.sleep(3 * time.Second / 2)
		p.drain()
	},
	func(p *player, c *playedClient) { p.bufferMessage(c, p.data(9)) },
	func(p *player, _ *playedClient) { p.drain() },
	func(p *player, _ *playedClient) {
		p.sleep(p.model.ping)
		p.beat()
	},
	func(p *player, c *playedClient) { p.disconnect(c, 4000) },
}

// tell plays the story to one client over one kind of link, beside a client that accepts everything. Both answer
// immediately, if they can. between is called after each step and its turn. It returns how many bytes the client got.
func tell(t *testing.T, kind int, agrees bool, maxBuffer, room int, between func(p *player, c *playedClient, step int)) (got int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &player{T: t}
		p.play(rules{maxBuffer: maxBuffer, maxBytes: 1 << 20, window: modelDefault, freshness: playedFreshness, ping: playedPing, idle: playedIdle}, func() {
			p.connect(kind, agrees, manner{}, "a", Filter{})
			p.connect(linkHeld-kind, !agrees, manner{}, "a", Filter{})
			c, beside := p.clients[0], p.clients[1]
			p.grant(beside, 1<<20)
			p.grant(c, room)
			for step, do := range frameStory {
				do(p, c)
				for range 2 { // the second time for its answer
					p.settle()
					p.turn()
				}
				between(p, c, step)
			}
		})
		got = len(p.clients[0].link.wire())
	})
	return got
}

// storyBytes is how many bytes the story has for a client.
func storyBytes(t *testing.T, kind int, agrees bool) int {
	return tell(t, kind, agrees, 100, 1<<20, func(*player, *playedClient, int) {})
}

// overBothLinks runs a test over both kinds of links, each without and with the protocol.
func overBothLinks(t *testing.T, test func(t *testing.T, kind int, agrees bool)) {
	for _, kind := range []int{linkDirect, linkHeld} {
		for _, agrees := range []bool{false, true} {
			t.Run(fmt.Sprintf("holds=%v,protocol=%v", kind == linkHeld, agrees), func(t *testing.T) { test(t, kind, agrees) })
		}
	}
}

func TestAWriteThatStopsAtAnyByteTearsNothing(t *testing.T) {
	overBothLinks(t, func(t *testing.T, kind int, agrees bool) {
		all := storyBytes(t, kind, agrees)
		for i, maxBuffer := range []int{2, 100} {
			stride := 5 // the combinations begin at different bytes
			if isLong() {
				stride = 1
			}
			if agrees {
				i += 2
			}
			for room := (i + kind) % stride; room <= all; room += stride {
				if tell(t, kind, agrees, maxBuffer, room, func(*player, *playedClient, int) {}); t.Failed() {
					t.Fatalf("room for %d bytes, max_buffer %d", room, maxBuffer)
				}
			}
		}
	})
}

func TestAWriteThatFailsAtAnyByteLosesNothingUncounted(t *testing.T) {
	stride := 29 // each step of the story has another remainder
	if isLong() {
		stride = 1
	}
	overBothLinks(t, func(t *testing.T, kind int, agrees bool) {
		all := storyBytes(t, kind, agrees)
		for failing := range frameStory {
			for room := failing % stride; room < all; room += stride {
				tell(t, kind, agrees, 100, room, func(p *player, c *playedClient, step int) {
					if step == failing {
						p.fail(c)
						p.settle()
						p.turn()
					}
				})
				if t.Failed() {
					t.Fatalf("room for %d bytes, failing at step %d", room, failing)
				}
			}
		}
	})
}

func TestAFewBytesAtATimeTearNothing(t *testing.T) {
	overBothLinks(t, func(t *testing.T, kind int, agrees bool) {
		all := storyBytes(t, kind, agrees)
		for _, piece := range []int{1, 2, 3, 5, 7, 11, 64, 125, 126, 127, 128, 131} {
			for _, maxBuffer := range []int{1, 3, 100} {
				tell(t, kind, agrees, maxBuffer, 0, func(p *player, c *playedClient, step int) {
					for range 40 / piece { // never enough, so that more and more has to be buffered
						p.grant(c, piece)
						p.settle()
						p.turn()
					}
					if step < len(frameStory)-1 {
						return
					}
					for n := 0; n < 2*all; n += piece {
						p.grant(c, piece)
						if n%5 == 0 {
							p.arrive(c, wsframe.OpPing, []byte(strings.Repeat("p", n%100)))
						}
						p.settle()
						p.turn()
					}
				})
				if t.Failed() {
					t.Fatalf("%d bytes at a time, max_buffer %d", piece, maxBuffer)
				}
			}
		}
	})
}

// FuzzShard plays a script, which is data, on a shard and on the model. After every turn, it compares the bytes that
// every client received, and every account. It ends with a shutdown, after which nothing may be left.
func FuzzShard(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(randomScript(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) { playScript(t, data) })
	})
}

// TestAShardDoesWhatTheModelSays plays random scripts. A script that fails is kept among the seeds of FuzzShard.
func TestAShardDoesWhatTheModelSays(t *testing.T) {
	scripts := uint64(300)
	if isLong() {
		scripts = 20_000
	}
	reached := make(map[string]int)
	for seed := range scripts {
		script := randomScript(seed)
		if ok := t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for what, n := range playScript(t, script) {
					reached[what] += min(n, 1)
				}
			})
		}); !ok {
			file := filepath.Join("testdata", "fuzz", "FuzzShard", fmt.Sprint("seed-", seed))
			content := fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", script)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, content, 0o644)); err != nil {
				t.Error(err)
			}
			t.Fatalf("kept as %s", file)
		}
	}
	for _, what := range toReach {
		if n := reached[what]; n < 3 {
			t.Errorf("%d scripts have reached: %s", n, what)
		}
	}
	t.Log(reached)
}

// toReach is everything that scripts have to reach, or they would compare too little.
var toReach = []string{
	"a probe in the same write", "no room for a probe", "a probe by itself", "a torn probe", "a failure inside a probe",
	"a probe that was left out", "a repeated ping", "periodic ping", "a batch that the window splits",
	"shut by time", "shut by amount", "shut by a cap", "shut by count", "shut by bytes", "shut before the first pong",
	"shut for a measurement", "served without pongs",
	"a message of a mute client", "a late answer", "a limit that shrinks", "a limit that grows", "a longer round trip",
	"a pong before the first message", "a first pong after five seconds", "a forged pong", "an old pong",
	"a pong for several pings", "a pong for an earlier ping",
	"hello acknowledged", "hello acknowledged after a mark", "a mark counted", "acknowledged without a mark",
	"acknowledged before the mark", "acknowledged beyond the mark",
	"a lull in which nothing was sent", "a lull in which the client is asked anyway",
	"a mark in silence", "a late answer to a mark in silence", "an answer that shows no age",
	"a client that owes and reads", "removed because it takes nothing", "removed because it is silent", "told that it was silent",
	"no position under the filter that is set",
	"a group that holds messages", "several messages in one write", "a group that may not hold more messages", "a group that may not hold more bytes",
	"a pause that ends after a write in its turn", "a client that takes what is held", "a client that is ahead of its group",
}

func randomScript(seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 1))
	script := make([]byte, 20+random.IntN(600))
	for i := range script {
		script[i] = byte(random.Uint32())
	}
	return script
}

// maxSteps bounds a script, and so how long the fuzzer runs one.
const maxSteps = 400

// playScript returns how often what was reached.
func playScript(t *testing.T, script []byte) (reached map[string]int) {
	p := &player{T: t, script: script}
	r := rules{
		maxBuffer:  pick(p, 1, 2, 3, 8, 100),
		maxBytes:   pick(p, 64, 200, 1000, 40_000, 1<<20),
		overflow:   pick(p, DropOldest, DropOldest, DropNewest, Disconnect),
		keepLevels: pick(p, nil, nil, []string{"error"}, []string{"error", "info"}),
		window:     pick(p, modelDefault, 0, 1, 2, 3, 6, modelDefault, 50),
		freshness:  pick(p, playedFreshness, playedFreshness, 50*time.Millisecond, 300*time.Millisecond, time.Minute),
		ping:       pick(p, playedPing, playedPing, playedPing, 0, 2*time.Second),
		idle:       playedIdle,
	}
	b := p.byte()
	r.wraps, r.coalescing = b%4 == 0, []time.Duration{0, 0, 0, 0, 20 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond, time.Second}[b/4%8]
	if r.ping == 0 && p.byte()%2 == 0 {
		r.idle = 0
	}
	if r.overflow == Disconnect {
		r.keepLevels = nil // which is all that it allows
	}
	p.play(r, func() {
		for range maxSteps {
			if len(p.script) == 0 || t.Failed() {
				break
			}
			p.step()
			p.settle()
		}
	})
	return p.model.reached
}

// byte takes the next byte of the script, and 0 when it is over.
func (p *player) byte() (b byte) {
	if len(p.script) > 0 {
		b, p.script = p.script[0], p.script[1:]
	}
	return b
}

func pick[T any](p *player, list ...T) T { return list[int(p.byte())%len(list)] }

// step does the next step of the script.
func (p *player) step() {
	op := p.byte() % 42
	if op < 3 || len(p.clients) == 0 {
		kind, agrees, project := pick(p, linkHeld, linkDirect, linkHeld, linkLocal), p.byte()%2 == 0, pick(p, "a", "b")
		m := pick(p, manner{mute: true}, manner{}, manner{}, manner{after: 40 * time.Millisecond}, manner{after: 700 * time.Millisecond},
			manner{after: 1100 * time.Millisecond}, manner{after: 4 * time.Second}, manner{after: 6 * time.Second},
			manner{after: 1500 * time.Millisecond, newest: true}, manner{after: 6 * time.Second, newest: true}, manner{byCount: 1}, manner{byCount: 3}, manner{byCount: 25, after: 40 * time.Millisecond})
		if filter := pick(p, Filter{}, Filter{}, Filter{Levels: []string{"error"}}); len(p.clients) < 12 {
			p.connect(kind, agrees, m, project, filter)
		}
		return
	}
	if op < 9 {
		msg := Message{Project: pick(p, "a", "a", "b", ""), Level: pick(p, "", "error", "info"), Environment: pick(p, "", "live", "test")}
		for range pick(p, 1, 1, 2, 3, 10) {
			msg.Data, msg.Binary = p.data(p.size()), p.byte()%4 == 0
			msg.Key = pick(p, "", "", "", "k", "l")
			p.broadcast(msg)
		}
		return
	}
	c := p.clients[int(p.byte())%len(p.clients)]
	switch op {
	case 9:
		n, acked := c.twin.win.written.messages, c.twin.win.acked.messages
		p.arrive(c, wsframe.OpText, fmt.Append(nil, modelAck, pick(p, n, n, n, max(n-1, 0), n/2, n+1, acked, acked+1, acked+2, c.n, 1), "}"))
	case 10, 11:
		p.bufferMessage(c, p.data(p.size()))
	case 12, 13, 14, 15:
		p.grant(c, pick(p, 1, 2, 3, 7, 60, 125, 500, 5000, 20_000, 1<<20))
	case 16, 17:
		request := pick(p, modelRequests...)
		for range pick(p, 1, 1, 1, 22, 30) { // more than 20 at once are too many for a client that has saved up none
			p.arrive(c, wsframe.OpText, []byte(request.text))
		}
	case 18:
		p.arrive(c, wsframe.OpPing, []byte(pick(p, "", "a", "bb", strings.Repeat("c", wsframe.MaxControlPayload))))
	case 19, 39:
		p.pong(c)
	case 20:
		p.arrive(c, wsframe.OpClose, pick(p, nil, []byte("\x03\xE8"), []byte("\x0F\xA1bye")))
	case 21:
		p.arrive(c, pick[byte](p, wsframe.OpBinary, frameBroken, frameEnd, frameEnd), nil)
	case 22:
		p.setFilter(c, pick(p, Filter{}, Filter{Levels: []string{"info"}}, Filter{Environments: []string{"live"}}))
	case 23:
		p.disconnect(c, pick(p, 1000, 1011, 4000))
	case 24:
		p.fail(c)
	case 25, 26:
		p.drain()
	case 27:
		p.beat()
		for range pick(p, 0, 0, 3, 6) { // long enough for a client to be idle
			p.sleep(12 * time.Second)
			p.settle()
			p.beat()
			p.turn()
		}
	case 28:
		p.sleep(pick(p, 5*time.Millisecond, 30*time.Millisecond, 300*time.Millisecond, time.Second, 3*time.Second, 90*time.Second, 950*time.Millisecond, 1100*time.Millisecond, 5*time.Second, 11*time.Second))
	case 29:
		if b := p.byte(); b%8 == 0 { // otherwise most scripts would end early
			p.shutdown(b%16 == 0)
		}
	case 30, 31, 32:
		p.live(c)
	case 33:
		p.progress(c, p.byte()%2 == 0)
	case 34:
		c.manner.mute = !c.manner.mute
	case 35, 36, 37:
		p.edge(c)
	case 38:
		p.answerSeveral(c)
	default:
		for range pick(p, 1, 1, 1, 1, 1, 30) {
			p.turn()
		}
	}
}

// edge publishes a message for which a direct link has just enough room, or a few bytes more, which may be the beginning
// of a probe.
func (p *player) edge(c *playedClient) {
	for range pick(p, 1, 2) {
		p.sleep(1100 * time.Millisecond)
		p.drain()
		p.settle()
		p.turn()
	}
	for _, other := range p.clients {
		if t := other.twin; !t.holds && t.phase == phaseOpen && t.idle() && t.win.answers && len(t.win.asked) == 0 {
			c = other
		}
	}
	data := p.data(30)
	p.broadcast(Message{Project: c.twin.project, Data: data})
	if more := 2 + len(data) + pick(p, 0, 0, 1, 3, 29, 60) - c.twin.room; !c.twin.holds {
		p.grant(c, more)
	}
	p.turn()
	if p.byte()%3 == 0 {
		p.fail(c)
	}
}

// answerSeveral lets a client answer the newest of the pings that it has received in the meantime.
func (p *player) answerSeveral(c *playedClient) {
	was := c.mute
	c.mute = true
	for range pick(p, 2, 3) {
		p.broadcast(Message{Project: c.twin.project, Data: p.data(7)})
		p.settle()
		p.turn()
		p.sleep(p.model.ping)
		p.beat()
		p.settle()
		p.turn()
	}
	p.settle()
	if n := len(c.pings); n > 0 {
		p.arrive(c, wsframe.OpPong, c.pings[n-1])
	}
	c.mute = was
}

// live lets some time pass in which messages are published at a rate, and a client has room for some of them.
func (p *player) live(c *playedClient) {
	steps, pause := pick(p, 5, 20, 40), pick(p, 10*time.Millisecond, 50*time.Millisecond, 250*time.Millisecond, time.Second)
	msg, count, size := Message{Project: pick(p, "a", "b")}, pick(p, 0, 1, 1, 3, 20), pick(p, p.size(), 12_000)
	room := pick(p, 0, 100, 1000, 10_000, 1<<20, 1<<20)
	for i := range steps {
		p.sleep(pause)
		for range count {
			msg.Data = p.data(size)
			p.broadcast(msg)
		}
		p.grant(c, room)
		if i%4 == 3 {
			p.drain()
		}
		if i%8 == 7 {
			p.beat()
			p.progress(c, i%16 == 15)
		}
		p.settle()
		p.turn()
	}
}

// pong sends a pong of the script's choice.
func (p *player) pong(c *playedClient) {
	kind := p.byte() % 8
	if len(c.pings) == 0 || kind == 0 {
		p.arrive(c, wsframe.OpPong, nil)
		return
	}
	newest := c.pings[len(c.pings)-1]
	switch kind {
	case 1, 2:
		p.arrive(c, wsframe.OpPong, newest)
	case 3:
		p.arrive(c, wsframe.OpPong, c.pings[int(p.byte())%len(c.pings)])
	case 4: // of a foreign client, if there is one
		if other := p.clients[int(p.byte())%len(p.clients)]; len(other.pings) > 0 {
			p.arrive(c, wsframe.OpPong, other.pings[len(other.pings)-1])
		}
	case 5:
		p.arrive(c, wsframe.OpPong, newest[:int(p.byte())%len(newest)])
	case 6:
		forged := bytes.Clone(newest)
		forged[int(p.byte())%len(forged)] ^= 1 << (p.byte() % 8)
		p.arrive(c, wsframe.OpPong, forged)
	case 7:
		for _, payload := range c.pings[max(0, len(c.pings)-3):] {
			p.arrive(c, wsframe.OpPong, payload)
		}
	}
}

// size returns one of the sizes at which something changes.
func (p *player) size() int {
	return pick(p, 0, 1, 2, 7, 30, 30, 60, 60, 100, 121, 125, 126, 300, 900, 16<<10-4, 70_000)
}

// firstFrame returns the first frame of p and its payload, or nil if the frame isn't complete. It reads frames in its
// own way: a codec that tests itself proves nothing.
func firstFrame(p []byte) (frame, payload []byte) {
	header, n := 2, uint64(0)
	if len(p) < 2 {
		return nil, nil
	}
	switch n = uint64(p[1]); n {
	case 126:
		header = 4
	case 127:
		header = 10
	}
	if len(p) < header {
		return nil, nil
	}
	switch header {
	case 4:
		n = uint64(binary.BigEndian.Uint16(p[2:]))
	case 10:
		n = binary.BigEndian.Uint64(p[2:])
	}
	if uint64(len(p)-header) < n {
		return nil, nil
	}
	return p[:header+int(n)], p[header:][:n]
}

// TestTheWindowDoesWhatTheModelSays plays stories of the window that random scripts tell too rarely.
func TestTheWindowDoesWhatTheModelSays(t *testing.T) {
	const day = 24 * time.Hour
	publish := func(p *player, n, size int) {
		for range n {
			p.broadcast(Message{Project: "a", Data: p.data(size)})
		}
	}
	wait := func(p *player, d time.Duration) {
		p.sleep(d)
		for range 2 { // the second time for the answers
			p.settle()
			p.turn()
		}
	}
	for name, story := range map[string]struct {
		rules   rules
		kind    int
		agrees  bool
		manner  manner
		steps   func(p *player, c *playedClient)
		reached []string
	}{
		"what a burst has sent after its mark is followed by a mark in the lull": {
			agrees: true,
			steps: func(p *player, _ *playedClient) {
				wait(p, time.Millisecond)
				publish(p, 1, 10)
				wait(p, time.Millisecond)
				publish(p, 3, 10)
				for range 8 {
					wait(p, 250*time.Millisecond)
					p.drain()
					wait(p, 0)
				}
				wait(p, 5*time.Second)
				p.drain()
				wait(p, 0)
			},
			reached: []string{"a mark after a lull", "a lull in which nothing was sent"},
		},
		"a lull without an acknowledgement has no mark": {
			agrees: true,
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				publish(p, 1, 10)
				wait(p, time.Millisecond)
				wait(p, 1100*time.Millisecond)
				c.mute = true
				publish(p, 1, 10)
				wait(p, time.Millisecond)
				wait(p, 400*time.Millisecond)
				p.drain()
				wait(p, 0)
			},
			reached: []string{"a lull in which the client is asked anyway"},
		},
		"a client with the protocol may have 1,024 messages until it acknowledges": {
			agrees: true, manner: manner{mute: true},
			steps: func(p *player, _ *playedClient) {
				publish(p, 1030, 0)
				wait(p, time.Millisecond)
				p.drain()
				wait(p, time.Millisecond)
			},
			reached: []string{"shut by count"},
		},
		"no client may have more than 32,768 messages": {
			rules: rules{freshness: time.Minute},
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				c.mute = true
				publish(p, modelDefault+200, 0)
				wait(p, time.Millisecond)
			},
			reached: []string{"shut by a cap"},
		},
		"no client may have more than 8 MiB, and a ping is repeated while the next message is too large": {
			rules: rules{freshness: time.Minute},
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				c.mute = true
				publish(p, 9, 1_000_000)
				for range 8 {
					p.drain()
					wait(p, 500*time.Millisecond)
				}
			},
			reached: []string{"shut by bytes", "a repeated ping"},
		},
		"64 KiB are on their way until the first pong or for five seconds": {
			manner: manner{mute: true},
			steps: func(p *player, _ *playedClient) {
				publish(p, 80, 1000)
				for _, d := range []time.Duration{0, 4999 * time.Millisecond, time.Millisecond} {
					p.drain()
					wait(p, d)
				}
			},
			reached: []string{"shut before the first pong", "served without pongs"},
		},
		"64 KiB are on their way until the first pong": {
			manner: manner{after: time.Second},
			steps: func(p *player, _ *playedClient) {
				wait(p, 0)
				publish(p, 80, 1000)
				wait(p, 0)
				p.drain()
				wait(p, 999*time.Millisecond)
				wait(p, time.Millisecond)
			},
			reached: []string{"shut before the first pong"},
		},
		"a ping is repeated after a second, and then twice as long each time, up to 32 s": {
			rules: rules{ping: day / 2, idle: day},
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				c.mute = true
				publish(p, 1, 10)
				for range 400 {
					wait(p, 500*time.Millisecond)
					publish(p, 1, 10)
					p.drain()
				}
			},
			reached: []string{"a repeated ping", "shut by time"},
		},
		"a client that keeps up is asked once a second": {
			steps: func(p *player, _ *playedClient) {
				wait(p, time.Millisecond)
				for range 4 {
					publish(p, 1, 10) // a ping follows
					wait(p, 0)
					wait(p, 999*time.Millisecond)
					publish(p, 1, 10)
					wait(p, 0)
					wait(p, time.Millisecond)
				}
			},
			reached: []string{"a probe in the same write"},
		},
		"an answer may take the shortest round trip and the target": {
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				publish(p, 1, 10)
				wait(p, 0)
				wait(p, time.Second)
				c.mute = true
				for _, d := range []time.Duration{0, 1001 * time.Millisecond, time.Millisecond} {
					p.sleep(d)
					publish(p, 1, 10)
					wait(p, 0)
				}
				if n := c.twin.messages(); n != 1 {
					p.Errorf("%d messages wait, want the last one", n)
				}
			},
		},
		"a client that was late is measured with a single message": {
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				publish(p, 1, 10)
				wait(p, 0)
				c.after = 1500 * time.Millisecond
				for i := range 300 {
					if i == 60 {
						c.after = 990 * time.Millisecond
					}
					publish(p, 3, 10)
					p.drain()
					wait(p, 70*time.Millisecond)
				}
			},
			reached: []string{"a limit that shrinks", "shut for a measurement"},
		},
		"a periodic ping does not hide the one before it": {
			rules: rules{ping: 500 * time.Millisecond},
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				c.after = 5 * time.Second
				for range 200 {
					publish(p, 3, 100)
					p.beat()
					wait(p, 100*time.Millisecond)
				}
			},
			reached: []string{"shut by time", "a pong for an earlier ping"},
		},
		"an answer lets messages go that were held back when the mark was written": {
			rules: rules{window: 3}, agrees: true,
			steps: func(p *player, _ *playedClient) {
				wait(p, time.Millisecond)
				publish(p, 9, 30)
				wait(p, time.Millisecond)
			},
			reached: []string{"a batch that the window splits", "shut by amount"},
		},
		"a late answer that shows nothing makes the window no smaller": {
			rules: rules{ping: 5 * time.Second},
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				publish(p, 1, 10)
				wait(p, time.Millisecond)
				c.mute = true
				p.sleep(p.model.ping)
				p.beat()
				wait(p, 0)
				wait(p, 2*time.Second)
				periodic := c.pings[len(c.pings)-1]
				publish(p, 5, 10)
				wait(p, time.Millisecond)
				p.drain()
				wait(p, time.Millisecond)
				p.arrive(c, wsframe.OpPong, periodic)
				wait(p, time.Millisecond)
				publish(p, 5, 10)
				wait(p, time.Millisecond)
			},
			reached: []string{"shut by time"},
		},
		"a mark comes once a second if there is no window": {
			rules: rules{window: -1}, agrees: true,
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				c.after = 300 * time.Millisecond
				for range 100 {
					publish(p, 2, 100)
					wait(p, 50*time.Millisecond)
				}
			},
		},
		"a first pong that is old makes a client one that answers": {
			manner: manner{mute: true},
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				p.arrive(c, wsframe.OpText, []byte(modelRequests[0].text))
				wait(p, time.Millisecond)
				publish(p, 1, 10)
				wait(p, 6*time.Second)
				publish(p, 1, 10)
				wait(p, time.Millisecond)
				p.arrive(c, wsframe.OpPong, c.pings[0])
				wait(p, time.Millisecond)
				publish(p, 1, 10)
				wait(p, time.Millisecond)
			},
			reached: []string{"a first pong after five seconds"},
		},
		"a client that never catches up over a link that holds is asked all the same": {
			kind: linkHeld, agrees: true,
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				publish(p, 1, 12_000)
				wait(p, time.Millisecond)
				wait(p, 0)
				p.grant(c, -c.twin.room)
				for range 5 {
					publish(p, 3, 12_000)
					wait(p, 600*time.Millisecond)
					p.grant(c, 24_100)
					wait(p, 600*time.Millisecond)
				}
				if c.twin.messages() == 0 {
					p.Error("the client has caught up")
				}
			},
			reached: []string{"a probe that was left out"},
		},
		"no ping is repeated after a close frame": {
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				c.mute = true
				publish(p, 1, 10)
				wait(p, time.Millisecond)
				wait(p, 1100*time.Millisecond)
				p.disconnect(c, 4000)
				wait(p, time.Millisecond)
				p.beat()
				wait(p, time.Millisecond)
			},
		},
		"a client without pongs lives by what it sends": {
			manner: manner{mute: true},
			steps: func(p *player, c *playedClient) {
				publish(p, 1, 10)
				for range 12 {
					wait(p, 12*time.Second)
					p.arrive(c, wsframe.OpText, []byte(modelRequests[0].text))
					p.beat()
					wait(p, 0)
				}
				if c.phase != phaseOpen {
					p.Error("the client is gone")
				}
			},
			reached: []string{"a message of a mute client"},
		},
		"a client without pongs doesn't live by pings of its own": {
			manner: manner{mute: true},
			steps: func(p *player, c *playedClient) {
				publish(p, 1, 10)
				for range 12 {
					wait(p, 12*time.Second)
					p.arrive(c, wsframe.OpPing, nil)
					p.beat()
					wait(p, 0)
				}
				if c.phase == phaseOpen {
					p.Error("the client is still there")
				}
			},
			reached: []string{"removed because it takes nothing"},
		},
		"a pong after a reply shows the round trip": {
			manner: manner{mute: true},
			steps: func(p *player, c *playedClient) {
				p.arrive(c, wsframe.OpText, []byte(modelRequests[0].text))
				wait(p, playedPing)
				p.beat()
				wait(p, time.Millisecond)
				publish(p, 1, 10)
				wait(p, 40*time.Millisecond)
				p.arrive(c, wsframe.OpPong, c.pings[len(c.pings)-1])
				wait(p, time.Millisecond)
				publish(p, 1, 10)
				wait(p, 120*time.Millisecond)
				publish(p, 2, 10)
				wait(p, time.Millisecond)
			},
		},
		"the hook of a silent client whose link fails is told of the silence": {
			manner: manner{mute: true},
			steps: func(p *player, c *playedClient) {
				wait(p, time.Millisecond)
				for range 6 {
					p.sleep(12 * time.Second)
					p.beat()
					if c.twin.seen.Add(59 * time.Second).Before(time.Now()) {
						p.fail(c)
					}
					wait(p, time.Millisecond)
				}
			},
			reached: []string{"removed because it is silent"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, r := &player{T: t}, story.rules
				r.maxBuffer, r.maxBytes = 100, 1<<24
				switch r.window {
				case 0:
					r.window = modelDefault
				case -1:
					r.window = 0
				}
				if r.freshness == 0 {
					r.freshness = playedFreshness
				}
				if r.ping == 0 {
					r.ping = playedPing
				}
				if r.idle == 0 {
					r.idle = playedIdle
				}
				p.play(r, func() {
					p.connect(story.kind, story.agrees, story.manner, "a", Filter{})
					p.grant(p.clients[0], 1<<29)
					p.turn()
					story.steps(p, p.clients[0])
				})
				for _, what := range story.reached {
					if p.model.reached[what] == 0 {
						t.Errorf("not reached: %s", what)
					}
				}
			})
		})
	}
}
