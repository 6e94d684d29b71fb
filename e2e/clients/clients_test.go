package clients

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// Every client gets 2,000 messages of seven sizes, text and binary, or 10,000 with -long. The publisher waits when much
// is buffered, so that nothing is dropped.
func TestEveryMessageArrivesOnceInOrderByteForByte(t *testing.T) {
	all := 2_000
	if *long {
		all = 10_000
	}
	overTransports(t, func(t *testing.T, tr transport) {
		w := start(t, tr, mesherstream.WithMaxBuffer(2*all), mesherstream.WithMaxBufferBytes(256<<20))
		var present []*driver
		for _, d := range drivers {
			if d.missing == nil || d.missing() == "" {
				present = append(present, d)
			}
		}
		ctx := withPatience(t)
		reports := make(map[*driver]chan report)
		for _, d := range present {
			p := w.plan("stream?level=error,debug") // which the message changes
			p.Send = `{"type":"subscribe","filters":{"level":["error","fatal"]}}`
			if !d.noPing {
				p.Ping = "are you there?"
			}
			ch := make(chan report, 1)
			reports[d] = ch
			go func() { ch <- d.run(ctx, p) }()
		}
		w.eventually(t, "all have set their filter", func() bool { return int(w.m.Stats().FilterSets) == len(present) })
		w.checkLink(t)

		want := w.publish(t, workload(all))
		w.eventually(t, "all is sent", func() bool { return w.m.Stats().Buffered == 0 })
		goodbye := closing{Code: 1000, Reason: "that was all"}
		for c := range w.m.Clients() {
			if c.Sent != uint64(all) || c.Dropped != 0 {
				t.Errorf("client %d: sent %d and dropped %d, want %d and 0", c.ID, c.Sent, c.Dropped, all)
			}
			if err := w.m.Disconnect(c.ID, goodbye.Code, goodbye.Reason); err != nil {
				t.Error(err)
			}
		}
		for _, d := range drivers {
			t.Run(d.name, func(t *testing.T) {
				d.skipIfMissing(t)
				r := <-reports[d]
				if r.Error != "" {
					t.Fatal(r.Error)
				}
				if !maps.Equal(r.Counts, want.counts) {
					t.Errorf("counts: got %v, want %v", r.Counts, want.counts)
				}
				if r.Digest != want.hex() {
					t.Errorf("digest: got %s, want %s", r.Digest, want.hex())
				}
				if answer := `{"type":"filters_updated","filters":{"level":["error","fatal"],"environment":""},"filtered":0}`; r.Answer != answer {
					t.Errorf("answer to subscribe: got %s, want %s", r.Answer, answer)
				}
				if !d.noPing && r.Pong != "are you there?" {
					t.Errorf("pong: got %q, want the payload of the ping", r.Pong)
				}
				if got := (closing{r.Code, r.Reason}); got != goodbye {
					t.Errorf("close: got %+v, want %+v", got, goodbye)
				}
			})
		}
		t.Logf("%d clients, %d messages and %d bytes each: %v", len(present), want.messages, bytesOf(want), want.counts)
	})
}

// publish sends the messages, with some between them that the filters hold back, and returns what should arrive.
func (w *world) publish(t *testing.T, messages []payload) (want transcript) {
	t.Helper()
	for i, p := range messages {
		data := p.bytes(i)
		want.add(p.binary, data)
		send := func(level string, data []byte, binary bool) {
			if err := w.m.Broadcast(mesherstream.Message{Project: "stream", Level: level, Data: data, Binary: binary}); err != nil {
				t.Fatal(err)
			}
		}
		send([]string{"error", "fatal", ""}[i%3], data, p.binary)
		if i%10 == 0 {
			send("debug", []byte("not for you"), false)
		}
		if i%50 == 0 {
			w.eventually(t, "the slowest has taken most", func() bool { return w.m.Stats().BufferedBytes < 64<<20 })
		}
	}
	for size := range want.counts {
		if least := len(messages) / 1000; want.counts[size] < least {
			t.Errorf("%d messages of %s, want at least %d", want.counts[size], size, least)
		}
	}
	return want
}

func bytesOf(t transcript) (sum int) {
	for key, n := range t.counts {
		var kind string
		var size int
		if _, err := fmt.Sscan(key, &kind, &size); err != nil {
			panic(err)
		}
		sum += n * size
	}
	return sum
}

var longestReason = strings.Repeat("é", 61) + "!" // of 123 bytes

func TestEachClientReportsTheCloseThatTheServerMeant(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		w := start(t, tr)
		withEach(t, func(t *testing.T, d *driver) {
			for _, c := range []closing{
				{1000, "done"},
				{1001, "the server moves"},
				{1008, "not allowed ✋"},
				{3000, ""},
				{3000, longestReason},
				{4999, "the last code"},
			} {
				name := fmt.Sprintf("%s-%d-%d", d.name, c.Code, len(c.Reason))
				done := make(chan report, 1)
				go func() { done <- d.run(withPatience(t), w.plan(name)) }()
				if err := w.m.Disconnect(w.joined(t, name), c.Code, c.Reason); err != nil {
					t.Fatal(err)
				}
				r := <-done
				if got := (closing{r.Code, r.Reason}); got != c || r.Error != "" {
					t.Errorf("the client reports %+v and error %q, want %+v", got, r.Error, c)
				}
				w.leaves(t, name, c)
			}
		})
	})
}

func TestEachClientReportsWhyItWasRefused(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		w := start(t, tr, mesherstream.WithReadLimit(1000))
		withEach(t, func(t *testing.T, d *driver) {
			p := w.plan(d.name)
			p.Send = strings.Repeat("x", 1001)
			want := closing{1009, "message is over 1000 bytes"}
			r := d.run(withPatience(t), p)
			if got := (closing{r.Code, r.Reason}); got != want || r.Error != "" {
				t.Errorf("the client reports %+v and error %q, want %+v", got, r.Error, want)
			}
			w.leaves(t, d.name, want)
		})
	})
}

func TestTheHookIsToldTheCloseThatEachClientMeant(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		w := start(t, tr)
		withEach(t, func(t *testing.T, d *driver) {
			for _, c := range []closing{
				{1000, "done"},
				{1000, ""},
				{1001, "the page is left"},
				{noCode, ""},
				{3000, longestReason},
				{4999, "the last code ☂"},
			} {
				if c.Code == noCode && d.noEmptyClose || d.refuses != nil && d.refuses(c.Code) {
					continue
				}
				name := fmt.Sprintf("%s-%d-%d", d.name, c.Code, len(c.Reason))
				p := w.plan(name)
				p.After, p.Close = 3, &c
				done := make(chan report, 1)
				go func() { done <- d.run(withPatience(t), p) }()
				w.joined(t, name)
				for i := range 3 {
					if err := w.m.Broadcast(mesherstream.Message{Project: name, Data: fmt.Append(nil, i)}); err != nil {
						t.Fatal(err)
					}
				}
				r := <-done
				if got := (closing{r.Code, r.Reason}); !d.noAnswer && got != c || r.Error != "" {
					t.Errorf("the client reports %+v and error %q, want the answer to be %+v", got, r.Error, c)
				}
				w.leaves(t, name, c)
			}
		})
	})
}

// The same while the server has much to send: the answer comes behind what is on its way.
func TestAClientMayCloseInTheMiddleOfAFlood(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		w := start(t, tr)
		flood := noise[:16<<10]
		withEach(t, func(t *testing.T, d *driver) {
			for i := range 5 {
				c := closing{4000 + i, "enough"}
				name := fmt.Sprintf("%s-flood-%d", d.name, i)
				p := w.plan(name)
				p.After, p.Close = 50, &c
				done := make(chan report, 1)
				go func() { done <- d.run(withPatience(t), p) }()
				id := w.joined(t, name)
				for {
					client, open := w.m.Client(id)
					if !open {
						break
					}
					if client.Buffered > 20 {
						time.Sleep(time.Millisecond) // there is more than it takes, which is enough
						continue
					}
					if err := w.m.Broadcast(mesherstream.Message{Project: name, Data: flood, Binary: true}); err != nil {
						t.Fatal(err)
					}
				}
				r := <-done
				if got := (closing{r.Code, r.Reason}); !d.noAnswer && got != c || r.Error != "" {
					t.Errorf("the client reports %+v and error %q, want the answer to be %+v", got, r.Error, c)
				}
				w.leaves(t, name, c)
			}
		})
	})
}

func TestAClientThatVanishesShows1006(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		w := start(t, tr)
		withEach(t, func(t *testing.T, d *driver) {
			if d.noVanish {
				t.Skip("it can't: TestABrowserThatIsKilledShows1006 kills it")
			}
			p := w.plan(d.name)
			p.After, p.Vanish = 1, true
			done := make(chan report, 1)
			go func() { done <- d.run(withPatience(t), p) }()
			w.joined(t, d.name)
			if err := w.m.Broadcast(mesherstream.Message{Project: d.name, Data: []byte("go")}); err != nil {
				t.Fatal(err)
			}
			if r := <-done; r.Error != "" {
				t.Error(r.Error)
			}
			w.leaves(t, d.name, closing{Code: 1006})
		})
	})
}

// A client that says nothing but pongs stays beyond the idle timeout; the shutdown then closes it with 1001.
func TestPongsKeepEachClientAndAShutdownSays1001(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		t.Parallel()
		w := start(t, tr, mesherstream.WithPingInterval(200*time.Millisecond), mesherstream.WithIdleTimeout(6*time.Second))
		reports := make(map[*driver]chan report)
		for _, d := range drivers {
			if d.missing != nil && d.missing() != "" {
				continue
			}
			ch := make(chan report, 1)
			reports[d] = ch
			go func() { ch <- d.run(withPatience(t), w.plan(d.name)) }()
			w.joined(t, d.name)
		}
		// The last one to come answers no ping. When its time is up, that of the others would be up too.
		dialRaw(t, w, "mute")
		w.joined(t, "mute")
		w.leaves(t, "mute", closing{Code: 1006})
		for d := range reports {
			if !w.m.IsStreamClient(w.joined(t, d.name)) {
				t.Errorf("%s is gone, though it answers pings", d.name)
			}
		}
		w.stop()
		for _, d := range drivers {
			t.Run(d.name, func(t *testing.T) {
				d.skipIfMissing(t)
				r := <-reports[d]
				if want := (closing{1001, "the server is shutting down"}); (closing{r.Code, r.Reason}) != want || r.Error != "" {
					t.Errorf("the client reports %+v, want %+v", r, want)
				}
			})
		}
	})
}
