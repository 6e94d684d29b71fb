package mesherstream

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"hash/maphash"
	mathrand "math/rand/v2"
	"time"
)

// A position says how far a client has got in the messages of its project: everything before it was sent to the client,
// or the client was told of it. The client holds it as a text that only this process can read, and returns with it.
type position struct {
	cursor
	asOf   uint64 // every message after the cursor has a higher stamp
	filter uint64 // a digest of the filter in force
	rate   uint32 // how many messages a second the client handles; 0 if it has never been late
	again  bool   // it is in a look-back, and the client may have some of what follows already
}

// againBit of the rate in the text of a position is set if the client looks back.
const againBit = 1 << 31

// The kinds of sealed texts. The kind is the first character of the text, with which no time and no age begins.
const (
	sealsPosition = 'p'
	sealsGap      = 'g'
)

// maxSealed bounds the sealed texts that a client may send.
const maxSealed = 2 << 10

// A sealed text begins with its kind, and continues with a time, which is legible, some random bits, and the encrypted
// rest.
const (
	sealTime   = 6 // milliseconds
	sealRandom = 6
	sealHead   = sealTime + sealRandom
)

// A seal makes texts that only this process can read or make. Otherwise the numbers in them would tell a client how many
// messages there are that it may not see. With another project than its own, a text is worthless.
type seal struct {
	aead cipher.AEAD
	// Owned by the goroutine that appends.
	label, payload, sealed []byte
}

func newSeal() seal {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key would have a wrong length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return seal{aead: aead}
}

// append appends a text of that kind to dst.
func (s *seal) append(dst []byte, kind byte, project string, at time.Time, payload []byte) []byte {
	s.label = append(append(s.label[:0], kind), project...)
	head := binary.BigEndian.AppendUint64(s.sealed[:0], uint64(at.UnixMilli())<<16)
	head = binary.BigEndian.AppendUint64(head[:sealTime], mathrand.Uint64())[:sealHead]
	s.sealed = s.aead.Seal(head, head, payload, s.label)
	return base64.RawURLEncoding.AppendEncode(append(dst, kind), s.sealed)
}

// open returns what a text of that kind was made from, if this process has made it for that project. at is its time, also
// if it was made by another process.
func (s *seal) open(kind byte, project, text string) (payload []byte, at time.Time, ok bool) {
	sealed, ok := unseal(kind, text)
	if !ok {
		return nil, at, false
	}
	var ms [8]byte
	copy(ms[8-sealTime:], sealed)
	at = time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
	payload, err := s.aead.Open(nil, sealed[:sealHead], sealed[sealHead:], append([]byte{kind}, project...))
	return payload, at, err == nil
}

// unseal decodes what may be a text of that kind, made by any process.
func unseal(kind byte, text string) (sealed []byte, ok bool) {
	if text == "" || text[0] != kind || len(text) > maxSealed {
		return nil, false
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text[1:])
	return sealed, err == nil && len(sealed) >= sealHead
}

// appendPosition appends the text of a position. What comes after it was published at that time or later.
func (s *seal) appendPosition(dst []byte, project string, at time.Time, p position) []byte {
	b := s.payload[:0]
	for _, v := range [...]uint64{p.project, p.all, p.asOf, p.filter} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	rate := min(p.rate, againBit-1)
	if p.again {
		rate |= againBit
	}
	s.payload = binary.BigEndian.AppendUint32(b, rate)
	return s.append(dst, sealsPosition, project, at, s.payload)
}

// openPosition reads the text of a position.
func (s *seal) openPosition(project, text string) (p position, at time.Time, ok bool) {
	b, at, ok := s.open(sealsPosition, project, text)
	if !ok {
		return position{}, at, false
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	rate := binary.BigEndian.Uint32(b[4*8:])
	return position{cursor{field(0), field(1)}, field(2), field(3), rate &^ againBit, rate&againBit != 0}, at, true
}

// A hole is what the ID of a gap says: between which places the messages are that were not sent, and the filter that they
// match.
type hole struct {
	after, until cursor
	filter       Filter
}

// appendHole appends the text of a hole, or nothing if it would be too long.
func (s *seal) appendHole(dst []byte, project string, h *hole) []byte {
	size := 4*8 + 2
	for _, list := range [...][]string{h.filter.Levels, h.filter.Environments} {
		for _, v := range list {
			size += 1 + len(v)
		}
	}
	if 1+base64.RawURLEncoding.EncodedLen(sealHead+size+s.aead.Overhead()) > maxSealed {
		return dst
	}
	b := make([]byte, 0, size)
	for _, v := range [...]uint64{h.after.project, h.after.all, h.until.project, h.until.all} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	for _, list := range [...][]string{h.filter.Levels, h.filter.Environments} {
		b = append(b, byte(len(list)))
		for _, v := range list {
			b = append(append(b, byte(len(v))), v...)
		}
	}
	return s.append(dst, sealsGap, project, time.Now(), b)
}

// openHole reads the text of a hole.
func (s *seal) openHole(project, text string) (h hole, ok bool) {
	b, _, ok := s.open(sealsGap, project, text)
	if !ok {
		return hole{}, false
	}
	// Nobody but appendHole has written what follows.
	number := func() (v uint64) {
		v, b = binary.BigEndian.Uint64(b), b[8:]
		return v
	}
	list := func() (values []string) {
		n := int(b[0])
		b = b[1:]
		for range n {
			values = append(values, string(b[1:1+b[0]]))
			b = b[1+b[0]:]
		}
		return values
	}
	h.after = cursor{number(), number()}
	h.until = cursor{number(), number()}
	h.filter = Filter{Levels: list(), Environments: list()}
	return h, true
}

// reached returns the position of a client at which the oldest messages of its backlog, that many, are sent, and the
// oldest of its gaps, that many, are told. rest are messages that are to follow, and not in the backlog yet. There is no
// position if a newer message with the same key has taken the place of an older one, and others still wait or are missing:
// what the client has received and what it is due are then no two pieces of the order.
func (c *client) reached(sent, told int, rest []*message) (p position, ok bool) {
	r := c.replay
	switch {
	case c.group == nil: // it is being flushed
		return p, false
	case r != nil:
		return c.within(r.then, r.asOf), !r.searching && !c.backlog.gaps.any() && (told > 0 || !r.loss.any())
	}
	return c.reachedLive(sent, told, rest)
}

func (c *client) reachedLive(sent, told int, rest []*message) (p position, ok bool) {
	s, b := c.shard, &c.backlog
	p.filter, p.rate = c.group.digest, c.handles()
	p.cursor, p.asOf = c.taken(), max(c.group.taken.stamp, s.takenOfAll.stamp)
	newest := p.cursor
	for number := b.first; number < b.next; number++ {
		switch m := *b.slot(number); {
		case m == nil:
		case sent > 0:
			sent--
		case b.reordered:
			return p, false
		default:
			p.precede(m)
		}
	}
	for _, m := range rest {
		p.precede(m)
	}
	for _, g := range b.gaps.untold(told) {
		if b.reordered {
			return p, false
		}
		if g.first > 0 {
			p.asOf = min(p.asOf, g.first-1)
			p.cursor = p.cursor.least(g.after)
		}
	}
	if p.cursor == newest {
		p.asOf = max(p.asOf, s.history.quietSince(c.sub.Project, newest))
	}
	return p, true
}

// precede moves the position before a message.
func (p *position) precede(m *message) {
	switch {
	case m.own:
		return
	case m.project != "":
		p.project = min(p.project, m.number-1)
	default:
		p.all = min(p.all, m.number-1)
	}
	p.asOf = min(p.asOf, m.stamp-1)
}

// setPlace tells a client of the protocol its position, after the application has changed its filter. What it receives
// from now on is another part of the stream than what it has received since its last position.
func (c *client) setPlace() {
	if c.v1 != nil {
		c.v1.moved = true
	}
	c.drainControl()
}

// before returns the position before messages of a replay that are read and not sent, or where it is if there are none,
// which may be its end.
func (c *client) before(next []*message, ends bool) (p position, ok bool) {
	r := c.replay
	switch {
	case c.group == nil || c.backlog.gaps.any():
		return p, false
	case len(next) > 0:
		return c.within(r.at, next[0].stamp-1), true
	case ends:
		return c.reachedLive(0, 0, nil)
	}
	return c.within(r.at, r.asOf), true
}

// within returns a position in the client's replay.
func (c *client) within(at cursor, asOf uint64) position {
	r := c.replay
	return position{at, asOf, c.group.digest, c.handles(), r.vague || !at.reaches(r.first)}
}

// appendPosition appends the text of a position.
func (c *client) appendPosition(dst []byte, p position) []byte {
	return c.shard.seal.appendPosition(dst, c.sub.Project, c.shard.history.timeOf(p.asOf), p)
}

// positionText returns the text of a position, or "" if there is none.
func (c *client) positionText(p position, ok bool) string {
	if !ok {
		return ""
	}
	return string(c.appendPosition(nil, p))
}

// holeText returns the text of a hole, or "" if it would be too long.
func (c *client) holeText(h *hole) string {
	return string(c.shard.seal.appendHole(nil, c.sub.Project, h))
}

// held returns how many messages of a hole can be fetched. dropped is how many it has, or 0 if that isn't known.
func (c *client) held(of *hole, dropped int) int {
	h := c.shard.history
	if dropped > 0 && h.holds(c.sub.Project, of) {
		return dropped
	}
	return h.count(c.sub.Project, of)
}

// digest is the same for equal filters of a project, and differs for nearly all others.
func (h *history) digest(sub *Subscription) uint64 { return maphash.String(h.seed, sub.key()) }
