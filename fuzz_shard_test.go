package mesherstream

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzShard plays what data says on a shard and on the model, and compares what every client got after every step, down
// to the byte, and every account. It goes on to a shutdown, after which nothing may be left.
func FuzzShard(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(randomScript(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) { playScript(t, data) })
	})
}

// TestAShardDoesWhatTheModelSays plays random scripts. One that fails is kept among the seeds of FuzzShard.
func TestAShardDoesWhatTheModelSays(t *testing.T) {
	scripts := uint64(300)
	if *long {
		scripts = 20_000
	}
	for seed := range scripts {
		script := randomScript(seed)
		if ok := t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playScript(t, script) })
		}); !ok {
			file := filepath.Join("testdata", "fuzz", "FuzzShard", fmt.Sprint("seed-", seed))
			content := fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", script)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, content, 0o644)); err != nil {
				t.Error(err)
			}
			t.Fatalf("kept as %s", file)
		}
	}
}

func randomScript(seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 1))
	script := make([]byte, 20+random.IntN(600))
	for i := range script {
		script[i] = byte(random.Uint32())
	}
	return script
}

// maxSteps bounds a script, and with it how long the fuzzer looks at one.
const maxSteps = 400

// player plays a script on both.
type player struct {
	*testing.T
	script  []byte
	m       *Manager
	s       *shard
	model   *modelShard
	clients []*playedClient
	lastID  int
	closed  bool
	log     []string
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

func playScript(t *testing.T, script []byte) {
	p := &player{T: t, script: script}
	defer func() {
		for _, c := range p.clients {
			c.link.close() // a bubble waits for what is in it
		}
		if t.Failed() {
			t.Logf("steps:\n%s", strings.Join(p.log, "\n"))
		}
	}()
	p.start()
	for range maxSteps {
		if len(p.script) == 0 || t.Failed() {
			break
		}
		p.step()
		p.settle()
	}
	p.finish()
}

// byte takes the next byte of the script, and 0 when it is over.
func (p *player) byte() (b byte) {
	if len(p.script) > 0 {
		b, p.script = p.script[0], p.script[1:]
	}
	return b
}

func pick[T any](p *player, list ...T) T { return list[int(p.byte())%len(list)] }

func (p *player) start() {
	maxBuffer := pick(p, 1, 2, 3, 8, 100)
	maxBytes := pick(p, 64, 200, 1000, 40_000, 1<<20)
	m, err := NewManager(WithLogger(slog.New(slog.DiscardHandler)), WithMaxBuffer(maxBuffer), WithMaxBufferBytes(maxBytes),
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
	p.model = &modelShard{
		maxBuffer: maxBuffer, maxBytes: maxBytes,
		interval: m.cfg.drainInterval, ping: m.cfg.pingInterval, idle: m.cfg.idleTimeout,
	}
}

func (p *player) of(c Client) *playedClient { return p.clients[c.ID-1] }

func (p *player) logf(format string, args ...any) {
	p.log = append(p.log, fmt.Sprintf(format, args...))
}

// step does the next thing of the script.
func (p *player) step() {
	op := p.byte() % 32
	if op < 3 || len(p.clients) == 0 {
		p.connect()
		return
	}
	if op < 10 {
		p.broadcast()
		return
	}
	c := p.clients[int(p.byte())%len(p.clients)]
	switch op {
	case 10, 11:
		p.bufferMessage(c)
	case 12, 13, 14, 15:
		room := pick(p, 1, 2, 3, 7, 60, 125, 500, 5000, 20_000, 1<<20)
		p.logf("room %d for %d", room, c.id)
		c.link.grant(room)
		c.twin.room += room
	case 16, 17:
		request := pick(p, modelRequests...)
		for range pick(p, 1, 1, 1, 12) { // the most in a second is 20
			p.arrive(c, opText, []byte(request.text))
		}
	case 18:
		p.arrive(c, opPing, []byte(pick(p, "", "a", "bb", strings.Repeat("c", maxControlPayload))))
	case 19:
		p.arrive(c, opPong, nil)
	case 20:
		p.arrive(c, opClose, pick(p, nil, []byte("\x03\xE8"), []byte("\x0F\xA1bye")))
	case 21:
		p.arrive(c, pick[byte](p, opBinary, frameBroken, frameEnd, frameEnd), nil)
	case 22:
		p.setFilter(c)
	case 23:
		p.disconnect(c)
	case 24:
		p.logf("writes to %d fail", c.id)
		c.link.fail(errScripted)
		c.twin.failing = true
	case 25, 26:
		p.logf("drain")
		p.s.tick(true, false)
		p.model.drain = true
	case 27:
		p.beat()
		for range pick(p, 0, 0, 3, 6) { // long enough for a client to be idle
			p.sleep(12 * time.Second)
			p.beat()
			p.turn()
		}
	case 28:
		p.sleep(pick(p, 5*time.Millisecond, 30*time.Millisecond, 300*time.Millisecond, time.Second, 3*time.Second, 90*time.Second))
	case 29:
		if b := p.byte(); b%8 == 0 { // or most scripts would end early
			p.shutdown(b%16 == 0)
		}
	default:
		p.turn()
	}
}

func (p *player) connect() {
	holds := p.byte()%2 == 0
	project := pick(p, "a", "b")
	filter := pick(p, Filter{}, Filter{}, Filter{Levels: []string{"error"}})
	if len(p.clients) == 12 {
		return
	}
	pl, err := p.m.reserve("192.0.2.1")
	if err != nil {
		p.Fatal(err)
	}
	now := time.Now()
	c := &client{
		id: ClientID(len(p.clients) + 1), shard: p.s, place: pl, connectedAt: now,
		sub: Subscription{Project: project, Filter: filter},
	}
	c.markSeen(now)
	played := &playedClient{client: c}
	var stay func()
	if holds {
		l := newHeldLink(p.m.cfg.idleTimeout, synctest.Wait)
		l.client = c
		played.link, stay = l, l.serve
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
	p.logf("client %d of %s with %v, link holds: %v", c.id, project, filter, holds)
	if stay != nil {
		go stay()
	}
	played.twin = &modelClient{
		s: p.model, holds: holds, project: project, filter: filter, member: true, seen: now, pingAt: now.Add(p.model.ping),
	}
	p.clients = append(p.clients, played)
	p.model.clients = append(p.model.clients, played.twin)
}

// message makes one of some size whose data begins with a number, if there is room for it.
func (p *player) message() (data []byte, binary bool) {
	size := pick(p, 0, 1, 2, 7, 30, 30, 60, 60, 100, 121, 125, 126, 300, 900, 16<<10-4, 70_000)
	p.lastID++
	data = fmt.Appendf(nil, "%07d", p.lastID)
	if size > len(data) {
		data = append(data, bytes.Repeat([]byte{byte('a' + p.lastID%26)}, size-len(data))...)
	}
	return data[:size], p.byte()%4 == 0
}

func (p *player) broadcast() {
	project, level, environment := pick(p, "a", "a", "b", ""), pick(p, "", "error", "info"), pick(p, "", "live", "test")
	for range pick(p, 1, 1, 2, 3, 10) {
		data, binary := p.message()
		m := p.modelMessage(data, binary)
		m.level, m.environment = level, environment
		if len(data) <= p.model.maxBytes {
			p.makeRoom(len(m.frame))
		}
		followed := slices.ContainsFunc(p.model.clients, func(c *modelClient) bool {
			return c.member && (project == "" || c.project == project)
		})
		p.logf("broadcast %d of %d bytes to %q, %q, %q", m.id, len(data), project, level, environment)
		err := p.m.Broadcast(Message{Project: project, Level: level, Environment: environment, Data: data, Binary: binary})
		if p.refuses(err, data) || !followed {
			continue
		}
		if err != nil {
			p.Errorf("Broadcast: %v", err)
		}
		p.model.casts = append(p.model.casts, modelCast{message: m, sub: func(c *modelClient) bool {
			return (project == "" || c.project == project) && lets(c.filter.Levels, level) && lets(c.filter.Environments, environment)
		}})
	}
}

func (p *player) modelMessage(data []byte, binary bool) *modelMessage {
	op := byte(opText)
	if binary {
		op = opBinary
	}
	return &modelMessage{id: p.lastID, frame: appendFrame(nil, op, data)}
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
func (p *player) makeRoom(size int) {
	in := &p.s.inbox
	if in.messages > 0 && (in.messages >= p.model.maxBuffer || in.bytes+size > p.model.maxBytes) {
		p.turn()
	}
}

func (p *player) bufferMessage(c *playedClient) {
	data, _ := p.message()
	m := p.modelMessage(data, false)
	if len(data) <= p.model.maxBytes {
		p.makeRoom(len(m.frame))
	}
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

func (p *player) setFilter(c *playedClient) {
	filter := pick(p, Filter{}, Filter{Levels: []string{"info"}}, Filter{Environments: []string{"live"}})
	p.makeRoom(0)
	p.logf("filter %v for %d", filter, c.id)
	if err := p.m.SetFilter(c.id, filter); !p.closed && p.names(c, err) {
		p.model.casts = append(p.model.casts, modelCast{do: func() { c.twin.setFilter(filter); c.twin.settle() }})
	}
}

func (p *player) disconnect(c *playedClient) {
	code := pick(p, 1000, 1011, 4000)
	p.makeRoom(0)
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
