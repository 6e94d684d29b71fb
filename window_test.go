package mesherstream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// A pace is a simulated client behind a way that accepts everything: how long bytes take in each direction, and how
// fast the client handles what has arrived.
type pace struct {
	delay      time.Duration // one way
	perMessage time.Duration
	bytes      int // a second; 0 is any number
	frozen     func(at time.Duration) bool
	deaf       func(at time.Duration) bool // its pongs get lost
}

// A sight is a client at its pace, and what it has seen.
type sight struct {
	sink
	*testing.T
	pace
	s       *shard
	c       *client
	began   time.Time
	way     []travelling  // frames on their way to the client, or in front of it
	back    []travelling  // answers
	free    time.Duration // when the client has handled what it has taken
	n       int           // messages of any kind, for a client of the protocol
	acked   int
	ackedAt time.Duration
	window  int
	last    time.Duration   // when the last message was handled
	handled []time.Duration // the age of each message, when it was handled
	numbers []int
	at      []time.Duration // when each was handled
	gap     int             // told since the last message
	told    int
	writes  int
	probes  int
	newest  time.Duration   // when the last message was published, if no mark has followed it; otherwise 0
	shown   []time.Duration // the ages that its acknowledgements of marks after messages show, when they arrive
	stated  []time.Duration // the ages in marks
}

type travelling struct {
	at   time.Duration
	op   byte
	data []byte
}

func (v *sight) now() time.Duration { return time.Since(v.began) }

func (v *sight) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	v.writes++
	for _, part := range [][]byte{p, then} {
		for len(part) > 0 {
			frame, payload := firstFrame(part)
			v.way = append(v.way, travelling{at: v.now() + v.delay, op: frame[0] & 0xF, data: bytes.Clone(payload)})
			part = part[len(frame):]
		}
	}
	return len(p) + len(then), 0, nil
}

// newSight connects a client to a shard whose turns the test takes.
func newSight(t *testing.T, agrees bool, p pace, opts ...Option) *sight {
	s, c := newQuietShard(t, opts...)
	c.remove(nil)
	v := &sight{T: t, pace: p, s: s, began: time.Now()}
	pl, err := c.place.m.reserve("192.0.2.2")
	if err != nil {
		t.Fatal(err)
	}
	v.c = &client{id: 2, shard: s, place: pl, connectedAt: time.Now(), terms: grantedAll(Subscription{Project: "shop"}), link: v}
	if agrees {
		v.c.agree()
	}
	v.c.markSeen(time.Now())
	if err := s.register(v.c); err != nil {
		t.Fatal(err)
	}
	return v
}

// run plays some time, in which publish is called each millisecond.
func (v *sight) run(d time.Duration, publish func(at time.Duration)) {
	for end := v.now() + d; v.now() < end; time.Sleep(time.Millisecond) {
		v.handle()
		publish(v.now())
		if v.now()%(250*time.Millisecond) == 0 {
			v.s.tick(true, false)
		}
		if beat := v.s.cfg.beatInterval().Round(time.Millisecond); beat > 0 && v.now()%beat == 0 {
			v.s.tick(false, true)
		}
		for len(v.back) > 0 && v.back[0].at <= v.now() {
			v.c.Seen(time.Now(), false)
			v.c.Post(link.Event{Kind: link.Received, Op: v.back[0].op, Payload: v.back[0].data})
			v.back = v.back[1:]
		}
		v.s.mu.Lock()
		nothing := v.s.inbox.isEmpty()
		v.s.mu.Unlock()
		if !nothing {
			v.s.take()
			v.s.takeTurn()
		}
	}
}

// handle lets the client handle what has arrived.
func (v *sight) handle() {
	for len(v.way) > 0 && v.way[0].at <= v.now() && v.free <= v.now() {
		if v.frozen != nil && v.frozen(v.now()) {
			return
		}
		f := v.way[0]
		v.way = v.way[1:]
		if v.bytes > 0 {
			v.free = max(v.free, v.now()-time.Millisecond) + time.Second*time.Duration(len(f.data)+2)/time.Duration(v.bytes)
		}
		switch {
		case f.op == wsframe.OpPing:
			v.probes++
			if v.deaf == nil || !v.deaf(v.now()) {
				v.answer(wsframe.OpPong, f.data)
			}
			continue
		case f.op != wsframe.OpText:
			continue
		}
		v.n++
		var m struct {
			Type    string
			Window  int
			Dropped int
			AgeMS   *int64 `json:"age_ms"`
		}
		if err := json.Unmarshal(f.data, &m); err != nil {
			v.Fatalf("got %q", f.data)
		}
		first := v.now()-v.ackedAt >= time.Second
		switch m.Type {
		case "hello":
			v.window = m.Window
			v.acknowledge()
		case "mark":
			v.window = m.Window
			v.probes++
			v.acknowledge()
			if v.newest > 0 {
				v.shown = append(v.shown, max(v.free, v.now())+v.delay-v.newest)
				v.newest = 0
			}
			if m.AgeMS != nil {
				v.stated = append(v.stated, time.Duration(*m.AgeMS)*time.Millisecond)
			}
		case "gap":
			v.gap += m.Dropped
		default:
			v.free = max(v.free, v.now()) + v.perMessage
			sent, number, _ := strings.Cut(strings.Trim(m.Type, "m"), " ")
			var at, n int
			fmt.Sscan(sent, &at)
			fmt.Sscan(number, &n)
			v.newest = time.Duration(at) * time.Millisecond
			age := max(v.free, v.now()) - v.newest
			v.handled = append(v.handled, age)
			v.numbers = append(v.numbers, n)
			v.told, v.gap = v.told+v.gap, 0
			v.at = append(v.at, v.now())
			if v.c.v1 != nil && (first || 2*(v.n-v.acked) >= v.window) {
				v.acknowledge()
			}
		}
		v.last = max(v.free, v.now())
	}
}

func (v *sight) acknowledge() {
	if v.acked < v.n {
		v.acked, v.ackedAt = v.n, v.now()
		v.answer(wsframe.OpText, fmt.Append(nil, modelAck, v.n, "}"))
	}
}

func (v *sight) answer(op byte, data []byte) {
	v.back = append(v.back, travelling{at: max(v.free, v.now()) + v.delay, op: op, data: data})
}

// every returns a publisher of messages of a size at a steady rate a second.
func (v *sight) every(rate float64, size int) func(at time.Duration) {
	begin, n := v.now(), 0
	return func(at time.Duration) {
		for float64(n) < rate*(at-begin).Seconds() {
			v.publish(n, size)
			n++
		}
	}
}

func (v *sight) publish(n, size int) {
	text := fmt.Sprintf(`{"type":"m%d %d"`, v.now()/time.Millisecond, n)
	text += `,"x":"` + strings.Repeat("x", max(0, size-len(text)-8)) + `"}`
	if !v.s.hasRoom("shop", size) {
		v.s.take()
		v.s.takeTurn()
	}
	if err := v.s.publish(newMessage(&Message{Project: "shop", Data: []byte(text)})); err != nil {
		v.Fatal(err)
	}
}

// ages returns the age of the messages handled since then, of which a share is at most that old.
func (v *sight) ages(since time.Duration, share float64) time.Duration {
	var list []time.Duration
	for i, age := range v.handled {
		if v.at[i] >= since {
			list = append(list, age)
		}
	}
	if len(list) == 0 {
		return -1
	}
	slices.Sort(list)
	return list[int(share*float64(len(list)-1))]
}

// steadily is a client with a pace, with and without the protocol, for which messages are published at a steady rate.
type steadily struct {
	pace
	rate float64
	size int
}

// sees plays the first seconds of a client, once with the protocol and once without.
func (c steadily) sees(t *testing.T, seconds time.Duration, check func(t *testing.T, v *sight)) {
	for _, agrees := range []bool{true, false} {
		t.Run(map[bool]string{true: "protocol", false: "pings"}[agrees], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newSight(t, agrees, c.pace)
				v.run(2*time.Second, func(time.Duration) {}) // the first probe is answered by then
				v.run((seconds-2)*time.Second, v.every(c.rate, c.size))
				v.check()
				check(t, v)
			})
		})
	}
}

// check compares what the client has seen with the accounts. Messages that are missing between those that it has seen
// are dropped, and told.
func (v *sight) check() {
	v.Helper()
	missing, next := 0, 0
	for _, n := range v.numbers {
		if n < next {
			v.Fatalf("got message %d after %d", n, next-1)
		}
		missing += n - next
		next = n + 1
	}
	if v.c.v1 != nil && v.told != missing {
		v.Errorf("missing between what it has handled: %d, told %d", missing, v.told)
	}
	if c := v.c.snapshot(); uint64(missing) > c.Dropped || c.Offered != c.Sent+c.Dropped+c.Abandoned+uint64(c.Buffered) {
		v.Errorf("got %d missing; accounts: %+v", missing, c)
	}
}

func TestWhatASlowClientReadsIsNew(t *testing.T) {
	const near, far = time.Millisecond, 100 * time.Millisecond
	for name, tt := range map[string]struct {
		steadily
		most time.Duration
	}{
		"10 ms a message":             {steadily{pace{delay: near, perMessage: 10 * time.Millisecond}, 1000, 350}, 4 * time.Second},
		"60 ms a message":             {steadily{pace{delay: near, perMessage: 60 * time.Millisecond}, 50, 350}, 4 * time.Second},
		"150 ms a message":            {steadily{pace{delay: near, perMessage: 150 * time.Millisecond}, 50, 350}, 5 * time.Second},
		"150 ms a message, far away":  {steadily{pace{delay: far, perMessage: 150 * time.Millisecond}, 50, 350}, 5 * time.Second},
		"500 ms a message":            {steadily{pace{delay: near, perMessage: 500 * time.Millisecond}, 50, 350}, 6 * time.Second},
		"1 s a message":               {steadily{pace{delay: near, perMessage: time.Second}, 50, 350}, 8 * time.Second},
		"2 s a message":               {steadily{pace{delay: near, perMessage: 2 * time.Second}, 50, 350}, 10 * time.Second},
		"10 KB/s of 74":               {steadily{pace{delay: near, bytes: 10_000}, 211, 350}, 4 * time.Second},
		"10 KB/s of 74, far away":     {steadily{pace{delay: far, bytes: 10_000}, 211, 350}, 5 * time.Second},
		"10 KB/s, large messages":     {steadily{pace{delay: near, bytes: 10_000}, 10, 8_000}, 17 * time.Second}, // a buffer of 100 is ten seconds
		"nearly fast enough":          {steadily{pace{delay: near, bytes: 73_000}, 211, 350}, 2 * time.Second},
		"nearly fast enough, by 0.2%": {steadily{pace{delay: near, bytes: 74_100}, 211, 350}, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			tt.sees(t, 45, func(t *testing.T, v *sight) {
				got := v.ages(25*time.Second, 0.99)
				t.Logf("handled %d, dropped %d; age %v p50, %v p99, %v at most; %d writes, %d probes", len(v.handled), v.c.snapshot().Dropped,
					v.ages(25*time.Second, 0.5), got, v.ages(25*time.Second, 1), v.writes, v.probes)
				if v.c.phase != phaseOpen {
					t.Fatalf("it was closed with %d %s", v.c.out.closeCode, v.c.out.closeReason)
				}
				if got < 0 || got > tt.most {
					t.Errorf("age of what it handled after its first 25 s, p99: got %v, want at most %v", got, tt.most)
				}
			})
		})
	}
}

func TestAFastClientIsSentEverythingAtOnce(t *testing.T) {
	for name, c := range map[string]steadily{
		"near":                   {pace{delay: time.Millisecond}, 200, 350},
		"over 100 ms":            {pace{delay: 50 * time.Millisecond}, 200, 350},
		"over 100 ms, in a flow": {pace{delay: 50 * time.Millisecond}, 5_000, 350},
		"over 240 ms":            {pace{delay: 120 * time.Millisecond}, 200, 350},
	} {
		t.Run(name, func(t *testing.T) {
			c.sees(t, 10, func(t *testing.T, v *sight) {
				if v.c.snapshot().Dropped > 0 || v.ages(0, 1) > c.delay+time.Millisecond {
					t.Errorf("got %d dropped, and age %v at most", v.c.snapshot().Dropped, v.ages(0, 1))
				}
				if v.probes > 15 || v.writes > len(v.handled)+len(v.way)+12 {
					t.Errorf("got %d probes and %d writes in 10 s for %d messages, want about one a second, and no write for them", v.probes, v.writes, len(v.handled))
				}
			})
		})
	}
}

// A client that keeps up may be sent a burst, however much its round trip varies.
func TestABurstPasses(t *testing.T) {
	for name, rate := range map[string]float64{"after silence": 0.01, "after one in eleven seconds": 1. / 11, "after ten a second": 10} {
		for _, agrees := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, protocol: %v", name, agrees), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					v := newSight(t, agrees, pace{delay: 20 * time.Millisecond})
					flow := v.every(rate, 512)
					v.run(115*time.Second, func(at time.Duration) {
						v.delay = 20*time.Millisecond + at/1000%(8*time.Millisecond) // a little later each time
						flow(at)
					})
					for i := range 1000 {
						v.publish(10_000+i, 512)
					}
					v.run(time.Second, func(time.Duration) {})
					if got := len(v.handled); got < 1000 || v.c.snapshot().Dropped > 0 {
						t.Errorf("got %d messages, %d dropped, want at least 1,000 and none", got, v.c.snapshot().Dropped)
					}
				})
			})
		}
	}
}

func TestAPageThatWasFrozenSeesTheNewestAtOnce(t *testing.T) {
	const freeze, wakes = 30 * time.Second, 75 * time.Second
	c := steadily{pace{delay: time.Millisecond, frozen: func(at time.Duration) bool { return at > freeze && at < wakes }}, 200, 350}
	c.sees(t, 80, func(t *testing.T, v *sight) {
		old := 0
		for i, at := range v.at {
			if at < wakes {
				continue
			}
			if age := v.handled[i]; age < 100*time.Millisecond {
				if at > wakes+300*time.Millisecond {
					t.Errorf("the newest came after %v", at-wakes)
				}
				break
			}
			old++
		}
		// A probe is written once a second, and a second later the window is shut. Then comes the buffer.
		if most := 2*200 + v.s.cfg.maxBuffer + 10; old > most {
			t.Errorf("got %d old messages first, want at most %d", old, most)
		}
	})
}

func TestAClientThatBecomesSlowIsFreshAgainSoon(t *testing.T) {
	for _, agrees := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			v := newSight(t, agrees, pace{delay: time.Millisecond})
			flow := v.every(211, 350)
			v.run(8*time.Second, flow)
			v.bytes = 10_000
			v.run(60*time.Second, flow)
			if got := v.ages(30*time.Second, 1); got < 0 || got > 5*time.Second {
				t.Errorf("protocol %v: 22 s later: got age %v", agrees, got)
			}
			v.bytes = 0
			v.run(20*time.Second, flow)
			if got := v.ages(78*time.Second, 1); got < 0 || got > 20*time.Millisecond || v.c.window.limit != v.s.cfg.windowCap() {
				t.Errorf("protocol %v: 10 s after it is fast again: got age %v and limit %+v", agrees, got, v.c.window.limit)
			}
			v.check()
		})
	}
}

// Some libraries lose a pong when they can't write it at once.
func TestAPongThatIsLostStopsNothing(t *testing.T) {
	for name, deaf := range map[string]func(at time.Duration) bool{
		"now and then":   func(at time.Duration) bool { return at%(5*time.Second) < time.Second },
		"for 20 seconds": func(at time.Duration) bool { return at > 20*time.Second && at < 40*time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newSight(t, false, pace{delay: time.Millisecond, deaf: deaf})
				v.run(100*time.Second, v.every(50, 350))
				v.check()
				if v.c.phase != phaseOpen || len(v.handled) < 3000 {
					t.Errorf("got phase %d and %d of 5,000 messages", v.c.phase, len(v.handled))
				}
				if got := v.ages(80*time.Second, 0.5); got > 2*time.Millisecond {
					t.Errorf("at the end: got age %v, want a millisecond", got)
				}
			})
		})
	}
}

func TestAClientWithoutPongsHasNoWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newSight(t, false, pace{delay: time.Millisecond, bytes: 1000, deaf: func(time.Duration) bool { return true }})
		v.run(4*time.Second, v.every(100, 1000))
		if got := v.c.position().bytes; got > earlyBytes || got < earlyBytes-2000 {
			t.Errorf("before it counts as one without pongs: got %d bytes written, want nearly %d", got, earlyBytes)
		}
		v.run(10*time.Second, v.every(100, 1000))
		if got := v.c.position().bytes; got < 800_000 {
			t.Errorf("after that: got %d bytes written, want all that was published since", got)
		}
		if c := v.c.snapshot(); c.Buffered > 0 || c.Unacknowledged != 0 {
			t.Errorf("got %+v, want nothing buffered", c)
		}
	})
}

func TestAClientHasNoWindowIfItIsTurnedOff(t *testing.T) {
	for name, opts := range map[string][]Option{
		"no window": {WithWindow(0)},
		"no pings":  {WithPingInterval(0), WithIdleTimeout(0)},
	} {
		synctest.Test(t, func(t *testing.T) {
			v := newSight(t, false, pace{frozen: func(time.Duration) bool { return true }}, opts...)
			v.run(10*time.Second, v.every(1000, 10_000))
			if c := v.c.snapshot(); c.Sent < 9_900 || c.Unacknowledged != 0 || v.probes > 0 {
				t.Errorf("%s: got %+v and %d pings, want everything sent", name, c, v.probes)
			}
		})
	}
}

func TestWithWindowIsAHardBound(t *testing.T) {
	for _, agrees := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			v := newSight(t, agrees, pace{delay: 500 * time.Millisecond}, WithWindow(100), WithFreshness(time.Minute))
			v.run(20*time.Second, func(at time.Duration) {
				if got := v.c.unacknowledged().messages; got > 101 { // and a mark
					t.Fatalf("protocol %v: got %d messages outstanding, want at most 100", agrees, got)
				}
				v.publish(int(at/time.Millisecond), 100)
			})
			if len(v.handled) < 1000 {
				t.Errorf("protocol %v: got %d messages in 20 s, want a hundred a second", agrees, len(v.handled))
			}
		})
	}
}

// What takes nothing holds no place, whatever it sends.
func TestAClientThatTakesNothingIsToldAndRemoved(t *testing.T) {
	ping := wsframe.Append(nil, wsframe.OpPong, nil)
	for name, send := range map[string]func(v *sight){
		"silent":           func(*sight) {},
		"empty pongs":      func(v *sight) { v.c.Post(link.Event{Kind: link.Received, Op: wsframe.OpPong}) },
		"bytes of a frame": func(v *sight) { v.c.Seen(time.Now(), false) },
		"pings":            func(v *sight) { v.c.Post(link.Event{Kind: link.Received, Op: wsframe.OpPing, Payload: ping}) },
	} {
		for _, agrees := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, protocol: %v", name, agrees), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					v := newSight(t, agrees, pace{delay: time.Millisecond, frozen: func(at time.Duration) bool { return at > 10*time.Second }})
					flow := v.every(50, 350)
					v.run(100*time.Second, func(at time.Duration) {
						flow(at)
						if at%(2*time.Second) == 0 && v.c.phase == phaseOpen {
							send(v)
						}
					})
					last := v.way[len(v.way)-1]
					if code, reason := wsframe.ParseClose(last.data); v.c.phase != phaseGone || last.op != wsframe.OpClose || code != wsframe.CodeTryAgainLater || reason != reasonSilent {
						t.Fatalf("after 90 s without taking anything: got phase %d, and %#x %q last", v.c.phase, last.op, last.data)
					}
					if at := last.at; at < 70*time.Second || at > 85*time.Second {
						t.Errorf("it was told after %v, want an idle timeout after it froze at 10 s, noticed within a turn or two of the wheel", at)
					}
				})
			})
		}
	}
}

func TestAPageThatHandlesOneMessageInTenSecondsStays(t *testing.T) {
	steadily{pace{delay: time.Millisecond, perMessage: 10 * time.Second}, 50, 350}.sees(t, 100, func(t *testing.T, v *sight) {
		if v.c.phase != phaseOpen || len(v.handled) < 9 {
			t.Errorf("got phase %d and %d messages handled", v.c.phase, len(v.handled))
		}
	})
}

// A visit of the wheel may be late on a busy machine, and the promise of hello holds all the same.
func TestAMarkInSilenceIsInTimeAlthoughTheVisitIsLate(t *testing.T) {
	for late := range 5 {
		synctest.Test(t, func(t *testing.T) {
			v := newSight(t, true, pace{delay: time.Millisecond})
			v.run(10*time.Millisecond, func(time.Duration) {})
			turn, interval, last := v.s.cfg.turnInterval(), v.s.cfg.pingInterval, v.last
			for visit := range 40 {
				at := time.Duration(visit) * turn
				if visit%5 == late {
					at += turn - 100*time.Millisecond
				}
				time.Sleep(at - v.now())
				v.s.tell(func() { v.s.beatAll(time.Now()) })
				v.run(10*time.Millisecond, func(time.Duration) {})
				if v.last-last > interval {
					t.Fatalf("visit %d, if each fifth from number %d on is late: got %v of silence, promised %v", visit, late, v.last-last, interval)
				}
				last = v.last
			}
			if v.now()-last > interval {
				t.Errorf("got nothing for %v", v.now()-last)
			}
		})
	}
}

// A browser answers pings for a page that hangs.
func TestAPageThatDoesNotAnswerInSilenceIsRemoved(t *testing.T) {
	const dies = 40 * time.Second
	for name, tt := range map[string]struct {
		pongs       bool // its browser lives
		least, most time.Duration
	}{
		"a dead path": {false, 58 * time.Second, 60*time.Second + 25*time.Second/4},
		"a dead page": {true, 75 * time.Second, 60*time.Second + 25*time.Second + 25*time.Second/4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newSight(t, true, pace{delay: time.Millisecond, frozen: func(at time.Duration) bool { return at > dies }})
				v.run(2*time.Second, v.every(10, 350))
				gone := time.Duration(0)
				heard := v.last
				v.run(4*time.Minute, func(at time.Duration) {
					if at <= dies {
						heard = v.last
					}
					if tt.pongs && at%(5*time.Second) == 0 && v.c.phase == phaseOpen {
						v.c.Seen(time.Now(), false)
						v.c.Post(link.Event{Kind: link.Received, Op: wsframe.OpPong})
					}
					if v.c.phase > phaseOpen && gone == 0 {
						gone = at
					}
				})
				if after := gone - heard; gone == 0 || after < tt.least || after > tt.most {
					t.Errorf("removed %v after its last answer, want %v to %v", after, tt.least, tt.most)
				}
				last := v.way[len(v.way)-1]
				if code, reason := wsframe.ParseClose(last.data); last.op != wsframe.OpClose || code != wsframe.CodeTryAgainLater || reason != reasonSilent {
					t.Errorf("got %#x %q last, want a close frame that says why", last.op, last.data)
				}
				pings := 0
				for _, f := range v.way {
					if f.op == wsframe.OpPing {
						pings++
					}
				}
				if pings == 0 {
					t.Error("got no ping while the mark was not answered, want those that proxies wait for")
				}
			})
		})
	}
}

// A page that sleeps answers the mark when it wakes. Nothing was held back for it, and its way is no longer than before.
func TestAPageThatSleepsInSilenceIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asleep := false
		v := newSight(t, true, pace{delay: time.Millisecond, frozen: func(time.Duration) bool { return asleep }})
		v.bytes = 10_000
		v.run(20*time.Second, v.every(211, 350)) // it was late once, and its window is small since then
		v.bytes = 0
		v.run(3*time.Second, func(time.Duration) {})
		if v.c.queued() > 0 || !v.c.window.late {
			t.Fatalf("got %d messages that wait, late: %v", v.c.queued(), v.c.window.late)
		}
		limit, rtt := v.c.window.limit, v.c.rtt
		for range 4 {
			for !v.c.window.asked {
				v.run(time.Millisecond, func(time.Duration) {})
			}
			asleep = true
			v.run(40*time.Second, func(time.Duration) {})
			asleep = false
			v.run(10*time.Millisecond, func(time.Duration) {})
			if v.c.window.asked || v.c.phase != phaseOpen {
				t.Fatalf("after it woke: got phase %d and %+v", v.c.phase, *v.c.window)
			}
			if v.c.window.limit != limit || v.c.rtt != rtt {
				t.Errorf("after it woke: got limit %+v and a round trip of %d ms, want %+v and %d as before", v.c.window.limit, v.c.rtt, limit, rtt)
			}
		}
		v.publish(100_000, 350)
		v.run(10*time.Millisecond, func(time.Duration) {})
		if age := v.handled[len(v.handled)-1]; v.numbers[len(v.numbers)-1] != 100_000 || age > 2*time.Millisecond {
			t.Errorf("the next message: got number %d, %v old", v.numbers[len(v.numbers)-1], age)
		}
	})
}

// What is published while a page sleeps waits in the buffer, in which the newest displace the oldest.
func TestNothingIsSentAheadToAPageThatOwesAMarkInSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asleep := false
		v := newSight(t, true, pace{delay: time.Millisecond, frozen: func(time.Duration) bool { return asleep }})
		v.run(2*time.Second, v.every(10, 350))
		for !v.c.window.asked {
			v.run(time.Millisecond, func(time.Duration) {})
		}
		asleep = true
		v.run(5*time.Second, func(time.Duration) {})
		n := len(v.handled)
		v.run(5*time.Second, v.every(50, 350))
		if got, want := v.c.queued(), v.s.cfg.maxBuffer; got != want {
			t.Errorf("got %d messages that wait, want %d", got, want)
		}
		asleep = false
		v.run(100*time.Millisecond, func(time.Duration) {})
		if got := len(v.handled) - n; got != v.s.cfg.maxBuffer {
			t.Errorf("after it woke: got %d messages, want the %d that waited", got, v.s.cfg.maxBuffer)
		}
	})
}

// near reports whether two times are the same for a client that looks at its socket once a millisecond.
func near(a, b time.Duration) bool { return (a - b).Abs() <= 2*time.Millisecond }

func TestAgeIsThatOfTheNewestMessageBeforeAMark(t *testing.T) {
	for name, tt := range map[string]struct {
		steadily
		opts []Option
	}{
		"fast":                {steadily{pace{delay: 50 * time.Millisecond}, 200, 350}, nil},
		"fast, no window":     {steadily{pace{delay: 50 * time.Millisecond}, 200, 350}, []Option{WithWindow(0)}},
		"now and then":        {steadily{pace{delay: 20 * time.Millisecond}, 0.3, 350}, nil},
		"a long way":          {steadily{pace{delay: 900 * time.Millisecond}, 50, 350}, nil},
		"10 ms a message":     {steadily{pace{delay: time.Millisecond, perMessage: 10 * time.Millisecond}, 1000, 350}, nil},
		"10 KB/s of 74":       {steadily{pace{delay: time.Millisecond, bytes: 10_000}, 211, 350}, nil},
		"slow, and no window": {steadily{pace{delay: time.Millisecond, bytes: 10_000}, 40, 350}, []Option{WithWindow(0)}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newSight(t, true, tt.pace, tt.opts...)
				v.run(2*time.Second, func(time.Duration) {})
				if got := v.c.snapshot().Age; got != 0 {
					t.Fatalf("before the first mark: got age %v, want 0", got)
				}
				flow, seen := v.every(tt.rate, tt.size), []time.Duration(nil)
				v.run(30*time.Second, func(at time.Duration) {
					flow(at)
					if age := v.c.snapshot().Age; age > 0 && (len(seen) == 0 || age != seen[len(seen)-1]) {
						seen = append(seen, age)
					}
				})
				if len(v.shown) < 6 || len(v.stated) < 5 {
					t.Fatalf("got %d marks after messages, and %d that state an age", len(v.shown), len(v.stated))
				}
				between := time.Duration(float64(time.Second) / tt.rate)
				for _, age := range seen { // each is one that the client has shown; a mark that goes by itself is younger than the message
					if !slices.ContainsFunc(v.shown, func(shown time.Duration) bool { return near(age, shown) || age < shown && age > shown-between }) {
						t.Errorf("got age %v, want one of %v", age, v.shown)
					}
				}
				if n := v.s.stats().Ages; n.Sum < seen[0] || len(v.stated) > 0 && !slices.ContainsFunc(seen, func(age time.Duration) bool { return near(age, v.stated[len(v.stated)-1]) }) {
					t.Errorf("got ages %v, %+v in Stats, and marks state %v", seen, n, v.stated)
				}
			})
		})
	}
}

func TestAgeInSilenceIsTheRoundTrip(t *testing.T) {
	for _, opts := range [][]Option{nil, {WithWindow(0)}} {
		synctest.Test(t, func(t *testing.T) {
			v := newSight(t, true, pace{delay: 30 * time.Millisecond}, opts...)
			v.run(2*time.Second, func(time.Duration) {})
			v.publish(0, 350)
			v.delay = 5 * time.Second // the message is old when it is handled
			v.run(12*time.Second, func(time.Duration) {})
			if got := v.c.age(); !near(got, 10*time.Second) {
				t.Fatalf("after the message: got age %v, want 10s", got)
			}
			v.delay = 30 * time.Millisecond
			v.run(40*time.Second, func(time.Duration) {})
			if got := v.c.age(); !near(got, 60*time.Millisecond) {
				t.Errorf("in silence: got age %v, want 60ms", got)
			}
		})
	}
}

func TestPongsThatAnswerNothingMeanNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newSight(t, false, pace{delay: time.Millisecond, frozen: func(at time.Duration) bool { return at > 5*time.Second }})
		v.run(10*time.Second, v.every(100, 350))
		acked, limit := v.c.window.acked, v.c.window.limit
		var ping []byte
		for _, f := range v.way {
			if f.op == wsframe.OpPing {
				ping = f.data
			}
		}
		other := &client{id: v.c.id + 1, shard: v.s}
		foreign := other.appendPing(nil, v.c.position())[2:]
		for name, payload := range map[string][]byte{
			"empty": nil, "short": ping[:len(ping)-1], "long": append(bytes.Clone(ping), 0), "foreign": foreign,
			"changed": append([]byte{ping[0] ^ 1}, ping[1:]...), "unsigned": make([]byte, pingPayload), "as long as may be": make([]byte, 125),
		} {
			if v.c.ponged(payload); v.c.window.acked != acked || v.c.window.limit != limit {
				t.Errorf("%s: it was taken for an answer", name)
			}
		}
		if v.c.ponged(ping); v.c.window.acked == acked {
			t.Error("the true answer was taken for none")
		}
		before := *v.c.window
		if v.c.ponged(ping); v.c.window.acked != before.acked || v.c.window.limit != before.limit {
			t.Error("the same answer was counted twice")
		}
	})
}

func TestAWindowIsSmallAndMadeWithTheFirstMessage(t *testing.T) {
	if got := unsafe.Sizeof(window{}); got > 48 {
		t.Errorf("got %d bytes, want at most 48", got)
	}
	s, c := newQuietShard(t)
	if c.window != nil {
		t.Error("an idle client has a window")
	}
	if publishTurn(t, s, newMessage(&Message{Project: "shop"}), 1); c.window == nil {
		t.Error("a client with a message has none")
	}
}
