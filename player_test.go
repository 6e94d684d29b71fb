package mesherstream

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// player plays steps on a shard without a goroutine and on the model, and holds one against the other after each turn.
type player struct {
	*testing.T
	script  []byte
	m       *Manager
	s       *shard
	model   *modelShard
	clients []*playedClient
	lastID  int
	keyed   map[int]bool // the numbers of messages that have a key, and may come earlier than others
	closed  bool
	flushed bool // the shutdown lets clients have what waits
	log     []string
}

// rules are what a script chooses for its manager.
type rules struct {
	maxBuffer, maxBytes int
	overflow            Overflow
	keepLevels          []string
	window              int
}

// playedClient is a client of the shard, its twin in the model, and what the hooks said of it.
type playedClient struct {
	*client
	twin    *modelClient
	link    scriptedLink
	checked int // bytes of the wire that have been compared

	connects, slows, disconnects int
	told                         uint64 // drops
	code                         int
}

// play has steps played on both.
func (p *player) play(r rules, steps func()) {
	defer func() {
		for _, c := range p.clients {
			c.link.Close() // a bubble waits for what is in it
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
	m, err := NewManager(WithLogger(slog.New(slog.DiscardHandler)), WithMaxBuffer(r.maxBuffer), WithMaxBufferBytes(r.maxBytes),
		WithOverflow(r.overflow), WithKeepLevels(r.keepLevels...), WithWindow(r.window),
		WithIdleTimeout(60*time.Second+700*time.Nanosecond), // no other time falls together with it
		WithHooks(Hooks{
			Connect: func(c Client) { p.of(c).connects++ },
			Slow:    func(c Client) { p.of(c).slows++ },
			Drop:    func(c Client, n uint64) { p.of(c).told += n },
			Disconnect: func(c Client, code int, _ string) {
				p.of(c).disconnects++
				p.of(c).code = code
			},
		}))
	if err != nil {
		p.Fatal(err)
	}
	m.shards, m.cfg.shards = m.shards[:1], 1
	p.m, p.s = m, m.shards[0]
	p.s.start(newHookQueue(m.cfg.hooks, m.cfg.logger, m.hookPanicked), nil)
	p.keyed = make(map[int]bool)
	p.model = &modelShard{
		maxBuffer: r.maxBuffer, maxBytes: r.maxBytes, overflow: r.overflow, keepLevels: r.keepLevels, window: r.window,
		interval: m.cfg.drainInterval, ping: m.cfg.pingInterval, idle: m.cfg.idleTimeout,
	}
}

func (p *player) of(c Client) *playedClient { return p.clients[c.ID-1] }

func (p *player) logf(format string, args ...any) {
	p.log = append(p.log, fmt.Sprintf(format, args...))
}

func (p *player) connect(holds, agrees bool, project string, filter Filter) {
	pl, err := p.m.reserve("192.0.2.1")
	if err != nil {
		p.Fatal(err)
	}
	now := time.Now()
	c := &client{
		id: ClientID(len(p.clients) + 1), shard: p.s, place: pl, connectedAt: now,
		sub: Subscription{Project: project, Filter: filter},
	}
	if agrees {
		c.agree(&p.m.cfg)
	}
	c.markSeen(now)
	played := &playedClient{client: c}
	var stay func()
	if holds {
		l := newHeldLink(c, synctest.Wait)
		played.link, stay = l, l.Serve
	} else {
		played.link = &directLink{client: c}
	}
	c.link = played.link
	if err := p.s.register(c); (err != nil) != p.closed {
		p.Errorf("register: got %v, closed: %v", err, p.closed)
	}
	if p.closed {
		pl.release()
		return
	}
	p.logf("client %d of %s with %v, link holds: %v, protocol: %v", c.id, project, filter, holds, agrees)
	if stay != nil {
		go stay()
	}
	played.twin = &modelClient{
		s: p.model, holds: holds, project: project, filter: filter, member: true, seen: now, askedAt: now, pingBy: now.Add(p.model.ping), credit: time.Second, creditAt: now,
		stream: c.v1.name(),
	}
	if agrees {
		p.model.events = append(p.model.events, func() { played.twin.join(c.id) })
	}
	p.clients = append(p.clients, played)
	p.model.clients = append(p.model.clients, played.twin)
}

// data makes the next message's, which begins with its number, if there is room for that.
func (p *player) data(size int) []byte {
	p.lastID++
	data := fmt.Appendf(nil, "%07d", p.lastID)
	if size > len(data) {
		data = append(data, bytes.Repeat([]byte{byte('a' + p.lastID%26)}, size-len(data))...)
	}
	return data[:size]
}

// broadcast publishes a message whose data was made last.
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

// modelMessage is the model's message, for which it makes room in the inbox of the clients of a project.
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

// refuses checks whether a call minds the size of a message, and says whether nothing may come of it.
func (p *player) refuses(err error, data []byte) bool {
	tooLarge := len(data) > p.model.maxBytes
	if errors.Is(err, ErrTooLarge) != tooLarge {
		p.Errorf("a message of %d bytes, of at most %d: got %v", len(data), p.model.maxBytes, err)
	}
	return tooLarge || p.closed
}

// makeRoom takes a turn where the next cast would wait for one.
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
	p.model.casts = append(p.model.casts, modelCast{do: func() { c.twin.buffer(m) }})
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
		p.model.casts = append(p.model.casts, modelCast{do: func() { c.twin.setFilter(filter); c.twin.settle() }})
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

// beat is a whole turn of the wheel.
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

// turn has the shard take a turn, and the hooks run after it.
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

// settle lets happen what happens beside the shard.
func (p *player) settle() {
	for _, c := range p.clients {
		c.link.flow()
		c.twin.fly()
		c.twin.read()
	}
}
