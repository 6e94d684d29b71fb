package mesherstream

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// compare holds every client against its twin.
func (p *player) compare() {
	p.Helper()
	var want Stats
	for _, c := range p.clients {
		t := c.twin
		wire := c.link.wire()
		if !bytes.Equal(wire[c.checked:], t.wire[c.checked:]) {
			p.Fatalf("client %d got\n%.300q\nand should have\n%.300q\nbehind %d bytes that are right", c.id, wire[c.checked:], t.wire[c.checked:], c.checked)
		}
		c.checked = len(wire)
		for _, fault := range c.link.faults() {
			p.Errorf("the link of client %d was %s", c.id, fault)
		}
		got := c.snapshot()
		buffered, bufferedBytes := t.messages()+len(t.flying), t.messageBytes()
		if len(t.flying) > 0 {
			bufferedBytes += t.flightBytes
		}
		if int(got.Offered) != t.offered || int(got.Sent) != t.sent || int(got.Dropped) != t.dropped || int(got.Abandoned) != t.abandoned || int(got.Filtered) != t.filtered || int(got.Conflated) != t.conflated ||
			got.Buffered != buffered || got.BufferedBytes != bufferedBytes || got.Slow != t.slow || c.phase != t.phase || t.phase != phaseGone && got.Unacknowledged != t.unacknowledged() {
			p.Fatalf("client %d: got %+v in phase %d, want %d offered, %d sent, %d dropped, %d abandoned, %d filtered, %d conflated, %d buffered of %d bytes, slow: %v, phase %d, %d unacknowledged",
				c.id, got, c.phase, t.offered, t.sent, t.dropped, t.abandoned, t.filtered, t.conflated, buffered, bufferedBytes, t.slow, t.phase, t.unacknowledged())
		}
		if t.offered != t.sent+t.dropped+t.abandoned+t.filtered+t.conflated+buffered {
			p.Errorf("the accounts of client %d: got %+v", c.id, got)
		}
		t.slowQueued = false
		if c.connects != 1 || int(c.told) != t.dropped || c.slows != t.slowCalls || c.disconnects != t.disconnects || c.disconnects > 0 && c.code != t.code {
			p.Errorf("hooks of client %d: got %d connects, %d slow, %d dropped, %d disconnects with %d, want 1, %d, %d, %d with %d",
				c.id, c.connects, c.slows, c.told, c.disconnects, c.code, t.slowCalls, t.dropped, t.disconnects, t.code)
		}
		want.add(Stats{
			Offered: uint64(t.offered), Sent: uint64(t.sent), Dropped: uint64(t.dropped), Abandoned: uint64(t.abandoned), Filtered: uint64(t.filtered), Conflated: uint64(t.conflated),
			Buffered: buffered, BufferedBytes: int64(bufferedBytes), Connects: 1, Disconnects: uint64(t.disconnects),
		})
		if t.member {
			want.Clients++
		}
		if t.slow {
			want.Slow++
		}
	}
	got := p.s.stats()
	want.FilterSets, want.Deliveries, want.Drains = got.FilterSets, got.Deliveries, got.Drains
	if got != want {
		p.Errorf("Stats: got %+v, want %+v", got, want)
	}
}

// finish gives every client all the room it wants, shuts the shard down, and waits until nobody is left. Then nothing of
// them may be left either, and each must have got what was promised.
func (p *player) finish() {
	const room = 1 << 30 // on top of what it has, as an int of 32 bits
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
	if n := len(p.s.groups) + len(p.s.projects) + len(p.s.followers) + len(p.s.waiting) + len(p.s.pinged) + p.m.clients; n > 0 {
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

// checkPromise reads what a client got as a client does, and without a look at the model's bytes: whole frames, messages
// that were offered, in order, none twice, as many missing as the accounts say, and as many told as missed.
func (p *player) checkPromise(c *playedClient) {
	offered := c.twin.offeredIDs
	keyed := make(map[int]bool)
	sent, told, torn, closes := 0, 0, false, 0
	for wire := c.link.wire(); len(wire) > 0; {
		frame, payload := nextFrame(wire)
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
			if p.keyed[id] { // it may have come in the place of an older one
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
	// A link that was cut while it held messages may have sent some that were given up.
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

// gapIn is how many messages a message of the protocol tells as dropped.
func gapIn(payload []byte) int {
	var notice gapNotice
	if json.Unmarshal(payload, &notice) != nil || notice.Type != typeGap {
		return 0
	}
	return notice.Dropped
}
