package mesherstream

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"time"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// A window bounds how much of what was written to a client it may not have handled yet. Kernels and proxies accept
// megabytes for a client that reads slowly, and all of that is old before it is read.
//
// The client is asked how far it has got by a probe, which follows messages in the stream: a mark, if it has agreed on
// the protocol, and otherwise a ping whose payload is a position. Its answer acknowledges everything before the probe.
// The window is shut while the oldest probe without an answer is older than the shortest round trip and the target of
// [WithFreshness] together. A late answer shows how much the client handles in such a time, and no more than that may
// then be on its way; the limit grows again with answers that come in time.
//
// The time of a shard's turn is the time of everything in it, in milliseconds. Moments and positions wrap around, and
// only their differences mean something.
type window struct {
	acked    amount // the position up to which the client has handled everything
	limit    amount // what may be on its way; the caps for a client that was never late
	probed   amount // the position of the newest probe
	before   amount // what was acknowledged when that probe was written, plus the probe itself if it is a mark
	probedAt moment
	askedAt  moment // when the oldest probe without an answer was written
	rttAt    moment // when the client's shortest round trip was measured
	asked    bool   // there is a probe without an answer
	late     bool   // an answer was late, and the limit is lower since then
	held     bool   // the window has held messages back since the last answer
	repeats  uint8  // how often the newest ping was repeated
}

// An amount is a number of messages of any kind and the bytes of their frames: a position in a stream, or the
// difference between two of them.
type amount struct{ messages, bytes uint32 }

func (a amount) minus(b amount) amount { return amount{a.messages - b.messages, a.bytes - b.bytes} }

func (a amount) plus(b amount) amount { return amount{a.messages + b.messages, a.bytes + b.bytes} }

// share returns the part of the amount that has that many messages, as if all of them had the same size.
func (a amount) share(messages uint32) amount {
	if messages >= a.messages {
		return a
	}
	return amount{messages, uint32(uint64(a.bytes) * uint64(messages) / uint64(a.messages))}
}

// scaled returns the amount times n/d, and at least one of each.
func (a amount) scaled(n, d uint32) amount {
	scale := func(v uint32) uint32 {
		return uint32(min(max(1, uint64(v)*uint64(n)/uint64(d)), math.MaxUint32))
	}
	return amount{scale(a.messages), scale(a.bytes)}
}

func (a amount) least(b amount) amount {
	return amount{min(a.messages, b.messages), min(a.bytes, b.bytes)}
}

func (a amount) most(b amount) amount {
	return amount{max(a.messages, b.messages), max(a.bytes, b.bytes)}
}

// A moment is a time in milliseconds since the shard was made.
type moment uint32

// since returns how long ago another moment was. It is negative if that is still to come.
func (m moment) since(other moment) int32 { return int32(m - other) }

const (
	// defaultWindow and windowBytes are the caps of a window unless WithWindow sets the number of messages.
	defaultWindow = 32_768
	windowBytes   = 8 << 20

	// countedWindow is the window of a client that agreed on the protocol and acknowledges by count only, unless
	// WithWindow sets it. Nothing tells how long such a client takes.
	countedWindow = 1024

	// earlyBytes is how much may be on its way to a client that has not answered its first ping yet, for as long as
	// pongPatience. After that, the client counts as one that answers none.
	earlyBytes   = 64 << 10
	pongPatience = 5 * time.Second

	// probePause is the time between two probes for a client that keeps up, and before a ping is repeated.
	probePause = 1000 // milliseconds
	mostDelays = 5    // how often the pause before a ping is repeated doubles: up to half a minute

	// rttAge is how long the shortest round trip counts for a client that was late. All of its round trips include the
	// time that it takes for the messages before the probe, so every now and then a probe goes by itself.
	rttAge = 10_000 // milliseconds

	// messageWeight is what a message weighs beside its bytes, so that one number bounds both. It is the relation of
	// the caps.
	messageWeight = windowBytes / defaultWindow

	farAhead = 1 << 30 // of a weight or a moment
)

// acks says how a client acknowledges.
type acks uint8

const (
	acksUnknown acks = iota // it has not answered its first probe, which is hello or the ping at join
	acksProbes              // it answers probes
	acksNoProbe             // it acknowledges by count only, or not at all
)

// probeSeed makes the payload of a ping something that only this process can have sent.
var probeSeed = maphash.MakeSeed()

// clock sets the time of a turn.
func (s *shard) clock() {
	s.began = time.Since(s.madeAt)
	s.now = moment(s.began / time.Millisecond)
}

// roundTrip is the time since a probe that is answered now, in milliseconds and at least one.
func (s *shard) roundTrip(asked moment) uint32 { return max(1, uint32(s.now-asked)) }

// position is how much has been written to the client.
func (c *client) position() amount {
	n := uint32(c.written)
	return amount{n, c.weight - messageWeight*n}
}

// count moves the position.
func (c *client) count(messages, bytes int) {
	c.written += uint64(messages)
	c.weight += uint32(bytes + messageWeight*messages)
}

// unacknowledged is how much has been written and not been acknowledged, as far as the client tells.
func (c *client) unacknowledged() amount {
	if c.window == nil || c.v1 == nil && c.acks != acksProbes {
		return amount{}
	}
	return c.position().minus(c.window.acked)
}

// greet begins the stream with the first probe, which no message precedes.
func (c *client) greet() (err error) {
	s := c.shard
	switch {
	case c.encoding != frames:
		c.acks = acksNoProbe
		c.review()
		if c.encoding == events {
			err = c.writeControl(append(appendRetry(nil, retry()), c.v1.hello(c)...))
		}
	case c.v1 != nil:
		c.resetWindow()
		err = c.writeControl(c.v1.hello(c))
		c.window.probed, c.window.probedAt = c.position(), s.now
		c.review()
	case !s.cfg.asksByPings():
		c.acks = acksNoProbe
	default:
		c.lookAt = s.now + moment(pongPatience/time.Millisecond)
		err = c.writeControl(c.appendPing(nil, c.position()))
	}
	return err
}

// keepalive sends the ping that is due, or a mark in its place. It asks a client without the protocol how far it has got.
func (c *client) keepalive() error {
	switch {
	case c.encoding != frames:
		return c.writeControl(c.heartbeat())
	case c.takesMark():
		err := c.sendProbe()
		c.v1.quiet = true
		return err
	case c.v1 != nil || c.shard.cfg.window == 0:
		return c.writeControl(wsframe.Ping)
	default:
		return c.sendProbe()
	}
}

// takesMark reports whether a mark keeps the client alive. It takes the place of a ping: the page itself hears it and
// answers it, and not only a browser that goes on without its page.
func (c *client) takesMark() bool { return c.answersMarks() && !c.window.asked && c.phase == phaseOpen }

func (c *client) answersMarks() bool { return c.v1 != nil && c.acks == acksProbes }

// openWindow makes the client's window, with the first message.
func (c *client) openWindow() *window {
	if c.window == nil {
		c.window = new(window)
		c.resetWindow()
	}
	return c.window
}

func (c *client) resetWindow() {
	now := c.shard.now
	*c.window = window{acked: c.position(), limit: c.shard.cfg.windowCap(), probedAt: now - probePause, rttAt: now}
}

// windowCap is the window of a client that was never late.
func (c *config) windowCap() amount {
	if c.window == 0 {
		return amount{math.MaxUint32, math.MaxUint32}
	}
	return amount{uint32(c.window), windowBytes}
}

// asksByPings reports whether a client without the protocol is asked how far it has got.
func (c *config) asksByPings() bool { return c.pingInterval > 0 && c.window > 0 }

// helloWindow is the window of a client that acknowledges by count only.
func (c *config) helloWindow() int {
	if !c.windowSet {
		return countedWindow
	}
	return c.window
}

// passes reports whether so much may be written without a look at the window. It is all that a fast client costs.
func (c *client) passes(messages, bytes int) bool {
	return int(int32(c.stop-c.weight)) >= bytes+messageWeight*messages && c.lookAt.since(c.shard.now) > 0
}

// bound returns what may be on its way to the client, apart from the time. ok is false if the client has no window.
func (c *client) bound() (limit amount, ok bool) {
	cfg := c.shard.cfg
	switch {
	case cfg.window == 0:
		return amount{}, false
	case c.acks == acksProbes:
		return c.window.limit, true
	case c.v1 != nil:
		return amount{uint32(cfg.helloWindow()), math.MaxUint32}, true
	case c.acks == acksUnknown && c.lookAt.since(c.shard.now) > 0:
		return amount{uint32(cfg.window), earlyBytes}, true
	}
	c.acks = acksNoProbe
	return amount{}, false
}

// room returns how many messages may be written now, and how many bytes of them after the first. next is the size of
// the first one.
func (c *client) room(next int) (messages, bytes int) {
	if c.encoding != frames {
		return math.MaxInt, math.MaxInt
	}
	w := c.openWindow()
	limit, ok := c.bound()
	if !ok || c.phase == phaseFlushing { // no message follows a flush for which the rest should be held back
		return math.MaxInt, math.MaxInt
	}
	switch {
	case c.acks != acksProbes:
	case c.mustMeasure():
		return 0, 0
	case c.isLate():
		limit = amount{messages: 1}
	}
	out := c.position().minus(w.acked)
	if out.messages >= limit.messages || out.messages > 0 && int64(out.bytes)+int64(next) > int64(limit.bytes) {
		return 0, 0
	}
	return int(limit.messages - out.messages), int(min(max(0, int64(limit.bytes)-int64(out.bytes)), math.MaxInt32))
}

// target is how long a client may take beside its round trip, in milliseconds. It is at most a quarter of the idle timeout:
// with a freshness of a minute, a slow client would be taken for dead before its first answer.
func (c *config) target() uint32 {
	target := c.freshness
	if c.idleTimeout > 0 {
		target = min(target, c.idleTimeout/4)
	}
	return uint32(target / time.Millisecond)
}

// patience is how long an answer may take, in milliseconds. A client that has not proven anything yet may take a tenth of
// the target: it may be one that needs a second for each message, and then everything that it is sent until that is
// known will be old.
func (c *client) patience() uint32 {
	target := c.shard.cfg.target()
	if !c.proven {
		target /= 10
	}
	return c.rtt + target
}

// tolerance is after how long without an answer the window is shut. The first round trip of a client doesn't mean much
// yet: a page that loads acknowledges hello when it has time.
func (c *client) tolerance() uint32 {
	if !c.proven {
		return min(c.patience(), c.shard.cfg.target()/3)
	}
	return c.patience()
}

// handles returns how many messages a second a client handles that was late, and 0 for any other one.
func (c *client) handles() uint32 {
	if w := c.window; w != nil && w.late {
		return max(1, uint32(uint64(w.limit.messages)*1000/uint64(max(1, c.patience()))))
	}
	return 0
}

// isLate reports whether an answer takes too long.
func (c *client) isLate() bool {
	w := c.window
	return w.asked && c.shard.now.since(w.askedAt) > int32(c.tolerance())
}

// mustMeasure reports whether it is time to measure the round trip of a client that was late. Nothing more is written
// until it has handled everything, and then a probe goes by itself.
func (c *client) mustMeasure() bool {
	return c.window.late && (c.queued() > 0 || c.replay != nil) && c.shard.now.since(c.window.rttAt) >= rttAge
}

// isDue reports whether a probe is due after some more messages. A client that keeps up is asked once a second, and one
// with a full window as soon as it has answered.
func (c *client) isDue(more amount) bool {
	s, w := c.shard, c.window
	if w == nil || w.asked || c.phase != phaseOpen || c.v1 == nil && c.acks != acksProbes {
		return false
	}
	out := c.position().plus(more).minus(w.acked)
	switch {
	case c.acks == acksProbes && c.mustMeasure():
		return true
	case out.messages == 0:
		return false
	case s.now.since(w.probedAt) >= probePause:
		return true
	case c.acks != acksProbes || s.cfg.window == 0:
		return false
	}
	// After a quarter of the window, so that the answer comes before the window is full.
	return out.messages > w.limit.messages/4 || out.bytes > w.limit.bytes/4
}

// probe returns the probe that follows some more messages, or nil if none is due. It is valid until the next call. As to
// the other parameters, see reached.
func (c *client) probe(more amount, sent, told int, rest []*message) []byte {
	if !c.isDue(more) {
		return nil
	}
	s := c.shard
	s.probe = c.appendProbe(s.probe[:0], c.position().plus(more), sent, told, rest)
	return s.probe
}

// appendProbe appends a probe at that position: a mark, or a ping.
func (c *client) appendProbe(dst []byte, at amount, sent, told int, rest []*message) []byte {
	if c.v1 == nil {
		return c.appendPing(dst, at)
	}
	return c.appendMark(dst, sent, told, rest)
}

// probed notes that a probe was the last thing written. mark is what it adds to the position.
func (c *client) probed(mark amount) {
	s, w := c.shard, c.window
	if w == nil {
		return
	}
	w.probed, w.before, w.probedAt = c.position(), w.acked.plus(mark), s.now
	if !w.asked {
		w.asked, w.askedAt, w.repeats = true, s.now, 0
	}
	if c.v1 != nil {
		c.v1.quiet = false
		c.marked()
	}
}

// review decides up to which weight, and until when, messages pass without a look at the window.
func (c *client) review() {
	s, w := c.shard, c.window
	switch {
	case c.encoding != frames: // it has no window
		c.stop, c.lookAt = c.weight+farAhead, s.now+farAhead
		return
	case w == nil:
		return
	}
	free := int64(farAhead)
	if limit, ok := c.bound(); ok {
		out := c.position().minus(w.acked)
		if c.acks == acksProbes {
			switch {
			case limit != s.cfg.windowCap():
				limit = amount{} // the window of a slow client is looked at for each of its messages
			case !w.asked:
				limit = amount{limit.messages / 4, limit.bytes / 4} // beyond that, a probe is due
			}
		}
		free = min(int64(limit.bytes)-int64(out.bytes), messageWeight*(int64(limit.messages)-int64(out.messages)), farAhead)
	}
	c.stop = c.weight + uint32(max(0, free))
	switch {
	case c.v1 == nil && c.acks == acksUnknown: // until it counts as one that answers none
	case c.v1 == nil && c.acks == acksNoProbe:
		c.lookAt = s.now + farAhead
	case !w.asked:
		c.lookAt = w.probedAt + probePause
	case c.acks == acksProbes:
		c.lookAt = w.askedAt + moment(c.tolerance()) + 1
	default:
		c.lookAt = s.now + farAhead
	}
}

// isQuiet reports whether the newest probe is a mark in silence. A page that sleeps may answer it hours late, and that is
// not its round trip.
func (c *client) isQuiet() bool { return c.v1 != nil && c.v1.quiet }

// learn takes the answer to a probe into account: the client has handled that amount in a round trip of rtt milliseconds.
func (c *client) learn(rtt uint32, handled amount) {
	s, w := c.shard, c.window
	if c.rtt == 0 || rtt <= c.rtt || handled.messages == 0 && w.late && s.now.since(w.rttAt) >= rttAge && !c.isQuiet() {
		c.rtt, w.rttAt = rtt, s.now
	}
	late := rtt > c.patience()
	c.proven = c.proven || handled.messages > 0
	most, patience := s.cfg.windowCap(), c.patience()
	switch {
	case handled.messages == 0: // the probe has only measured the round trip
	case late && w.held:
		if !w.late {
			w.late, w.rttAt = true, s.now-rttAge // perhaps it is only farther away than before: measure soon
		}
		w.limit = w.limit.least(handled.scaled(patience, rtt))
	case late || w.limit == most:
	case rtt-c.rtt <= patience/8: // it was hardly busy, and can do more
		w.limit = w.limit.plus(w.limit).least(most)
	default:
		w.limit = w.limit.most(handled.scaled(patience, rtt)).least(w.limit.plus(w.limit)).least(most)
	}
	w.late = w.late && w.limit != most
	w.held = false
}

// handled moves the client's acknowledged position and releases the messages that the window has held back.
func (c *client) handled(to amount, held bool) {
	c.window.acked = to
	c.review()
	switch {
	case c.busy:
	case held:
		c.drain()
	default:
		c.settle(c.ask())
	}
}

// ask sends a probe by itself, if one is due.
func (c *client) ask() error {
	if c.busy || !c.isDue(amount{}) {
		return nil
	}
	return c.sendProbe()
}

// sendProbe sends a probe by itself.
func (c *client) sendProbe() (err error) {
	before := c.position()
	err = c.writeControl(c.appendProbe(nil, before, 0, 0, nil))
	c.probed(c.position().minus(before))
	c.review()
	return err
}

// owes reports whether there is something that the client has to take: messages that its link can't get rid of, messages
// with a probe after them that it has not answered, or, if it answers none, what its kernel holds and what its window
// holds back. Until it takes some of that, nothing else is a sign of life, but for one: a client that answers no pings may
// send messages of its own, as long as it reads.
func (c *client) owes() bool {
	switch w := c.window; {
	case c.encoding != frames:
		return c.busy || c.queued() > 0 || c.link.Unread() || c.link.Unanswered()
	case w == nil:
		return false
	case c.busy && (c.queued() > 0 || c.out.flight.messages > 0):
		return true
	case c.acks == acksProbes:
		return w.asked && c.position() != w.acked
	case c.v1 != nil:
		return c.queued() > 0 || c.replay != nil || c.link.Unread()
	default:
		return c.isMute() || c.link.Unread()
	}
}

// owesMark reports whether an answer is all that the client owes: to a mark that nothing precedes or follows.
func (c *client) owesMark() bool {
	w := c.window
	return c.answersMarks() && w.asked && !c.busy && w.probed == w.before && w.probed == c.position()
}

// isMute reports whether a client is pinged and counts as one that answers no pings.
func (c *client) isMute() bool {
	if c.v1 != nil || c.acks == acksProbes || !c.shard.cfg.asksByPings() {
		return false
	}
	_, waits := c.bound()
	return !waits
}

// said notes that a client has sent a message.
func (c *client) said() {
	if c.isMute() && !c.link.Unread() {
		c.Seen(time.Now(), true)
	}
}

// askAgain repeats a ping that has waited for its pong while the window is shut. Some libraries lose a pong if they
// can't write it at once. A client that never answered its first one is served without a window.
func (c *client) askAgain() {
	s, w := c.shard, c.window
	if w == nil || c.v1 != nil || c.busy || c.phase != phaseOpen {
		return
	}
	if w.held && c.isMute() {
		w.held = false
		c.drain()
		return
	}
	if !w.asked || c.acks != acksProbes {
		return
	}
	if messages, _ := c.room(c.oldest()); messages > 0 || s.now.since(w.probedAt) < probePause<<w.repeats {
		return
	}
	w.repeats = min(w.repeats+1, mostDelays)
	c.settle(c.sendProbe())
}

// The payload of a ping is the position before it, what was acknowledged at that time, the time, and a signature of all
// that and the client.
const pingPayload = 5*4 + 8

func (c *client) appendPing(dst []byte, at amount) []byte {
	var acked amount
	if c.window != nil {
		acked = c.window.acked
	}
	payload := make([]byte, 0, pingPayload)
	for _, v := range [...]uint32{at.messages, at.bytes, acked.messages, acked.bytes, uint32(c.shard.now)} {
		payload = binary.BigEndian.AppendUint32(payload, v)
	}
	payload = binary.BigEndian.AppendUint64(payload, c.sign(payload))
	return wsframe.Append(dst, wsframe.OpPing, payload)
}

func (c *client) sign(payload []byte) uint64 {
	var signed [pingPayload]byte
	binary.BigEndian.PutUint64(signed[copy(signed[:], payload):], uint64(c.id))
	return maphash.Bytes(probeSeed, signed[:])
}

// ponged handles a pong. One that does not answer a ping of this client means nothing, nor does one that answers a ping
// again. One may answer for earlier pings too (RFC 6455, section 5.5.3).
func (c *client) ponged(payload []byte) {
	if len(payload) != pingPayload || c.v1 != nil {
		return
	}
	if fields := payload[:pingPayload-8]; binary.BigEndian.Uint64(payload[len(fields):]) != c.sign(fields) {
		return
	}
	field := func(i int) uint32 { return binary.BigEndian.Uint32(payload[4*i:]) }
	to, before, at := amount{field(0), field(1)}, amount{field(2), field(3)}, moment(field(4))
	rtt, first := c.shard.roundTrip(at), c.acks != acksProbes
	c.acks = acksProbes
	w := c.window
	switch {
	case w != nil && w.asked && at.since(w.askedAt) >= 0:
		held := w.held
		if to != w.acked {
			c.Seen(time.Now(), true)
		}
		if to != w.acked || to == before {
			c.learn(rtt, to.minus(before))
		}
		if w.asked = to != w.probed || at != w.probedAt; w.asked {
			w.askedAt = w.probedAt
		}
		w.repeats = 0
		c.handled(to, held)
	case first || w == nil: // no message precedes the ping at join
		if c.rtt == 0 || rtt < c.rtt {
			c.rtt = rtt
		}
		if w != nil {
			c.handled(w.acked, w.held)
		}
	}
}

// acknowledgedTo handles the count of the messages that a client of the protocol has handled. It returns false if that
// is no news.
func (c *client) acknowledgedTo(n uint64) (ok bool) {
	s, w := c.shard, c.window
	out := c.position().minus(w.acked)
	acked := c.written - uint64(out.messages)
	if n > c.written || n <= acked {
		return false
	}
	if c.acks == acksUnknown {
		if c.acks = acksNoProbe; n == 1 {
			c.acks = acksProbes
			if w.probed.messages == 1 { // no mark has followed hello
				c.rtt = s.roundTrip(w.probedAt)
				w.probedAt -= probePause // a mark is to follow the first message
			}
		}
	}
	forward, toMark := uint32(n-acked), w.probed.minus(w.acked)
	held, now := w.held, time.Now()
	var to amount
	switch {
	case !w.asked:
		to = w.acked.plus(out.share(forward))
	case forward < toMark.messages:
		to = w.acked.plus(toMark.share(forward))
	default:
		if c.acks == acksProbes {
			c.learn(s.roundTrip(w.askedAt), w.probed.minus(w.before))
			c.aged(now)
		}
		w.asked = false
		c.beginLull()
		to = w.probed.plus(out.minus(toMark).share(forward - toMark.messages))
	}
	c.Seen(now, true)
	c.handled(to, held)
	return true
}
