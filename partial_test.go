package mesherstream

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// Writes that stop at every byte, that fail at every byte, and that take a few bytes at a time. The model checks after
// each turn that frames are whole and in order, with pongs, pings, answers and close frames in between, and that every
// message is in the accounts.

// frameStory is every kind of frame that a client gets, in an order in which each could land inside of another.
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
	func(p *player, c *playedClient) { p.bufferMessage(c, p.data(9)) },
	func(p *player, _ *playedClient) { p.drain() },
	func(p *player, _ *playedClient) {
		p.sleep(p.model.ping)
		p.beat()
	},
	func(p *player, c *playedClient) { p.disconnect(c, 4000) },
}

// storyBytes is what all frames of the story have together.
const storyBytes = 318

// tell plays the story to one client over one kind of link, with a client beside it that takes everything. between is
// called after each step and its turn.
func tell(t *testing.T, holds bool, maxBuffer, room int, between func(p *player, c *playedClient, step int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &player{T: t}
		p.play(rules{maxBuffer: maxBuffer, maxBytes: 1 << 20}, func() {
			p.connect(holds, false, "a", Filter{})
			p.connect(!holds, false, "a", Filter{})
			c, beside := p.clients[0], p.clients[1]
			p.grant(beside, 1<<20)
			p.grant(c, room)
			for step, do := range frameStory {
				do(p, c)
				p.settle()
				p.turn()
				between(p, c, step)
			}
		})
		if n := len(p.clients[0].link.wire()); room == storyBytes && n != storyBytes {
			t.Errorf("the story has %d bytes, want %d", n, storyBytes)
		}
	})
}

func overBothLinks(t *testing.T, test func(t *testing.T, holds bool)) {
	for _, holds := range []bool{false, true} {
		t.Run(fmt.Sprint("holds=", holds), func(t *testing.T) { test(t, holds) })
	}
}

func TestAWriteThatStopsAtAnyByteTearsNothing(t *testing.T) {
	overBothLinks(t, func(t *testing.T, holds bool) {
		for _, maxBuffer := range []int{2, 100} {
			for room := range storyBytes + 1 {
				if tell(t, holds, maxBuffer, room, func(*player, *playedClient, int) {}); t.Failed() {
					t.Fatalf("room for %d bytes, max_buffer %d", room, maxBuffer)
				}
			}
		}
	})
}

func TestAWriteThatFailsAtAnyByteLosesNothingUncounted(t *testing.T) {
	stride := 11 // each step of the story has another remainder
	if *long {
		stride = 1
	}
	overBothLinks(t, func(t *testing.T, holds bool) {
		for failing := range frameStory {
			for room := failing % stride; room < storyBytes; room += stride {
				tell(t, holds, 100, room, func(p *player, c *playedClient, step int) {
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
	overBothLinks(t, func(t *testing.T, holds bool) {
		for _, piece := range []int{1, 2, 3, 5, 7, 11, 64, 125, 126, 127, 128, 131} {
			for _, maxBuffer := range []int{1, 3, 100} {
				tell(t, holds, maxBuffer, 0, func(p *player, c *playedClient, step int) {
					for range 40 / piece { // never enough, so that more and more has to wait
						p.grant(c, piece)
						p.settle()
						p.turn()
					}
					if step < len(frameStory)-1 {
						return
					}
					for n := 0; n < 2*storyBytes; n += piece {
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
