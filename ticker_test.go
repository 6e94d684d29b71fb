package mesherstream_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestPingsComeAtTheirIntervalAndNotAllAtOnce(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithPingInterval(25 * time.Second))
		pings := make([][]time.Duration, 20)
		for i := range pings {
			v := w.Connect("shop")
			v.WS.SetPingHandler(func(string) error {
				pings[i] = append(pings[i], time.Since(w.Started))
				return v.WS.WriteControl(10, nil, time.Now().Add(time.Second))
			})
			v.Collect()
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()

		var firsts []time.Duration
		for i, at := range pings {
			if len(at) < 11 {
				w.Fatalf("client %d: got %d pings in 5 minutes, want 11 or 12", i, len(at))
			}
			for j := range at[1:] {
				if got := at[j+1] - at[j]; got != 25*time.Second {
					w.Errorf("client %d: got %v between two pings, want 25s", i, got)
				}
			}
			firsts = append(firsts, at[0])
		}
		slices.Sort(firsts)
		for i, first := range firsts {
			if at := slices.Index(firsts, first); i-at >= runtime.GOMAXPROCS(0) {
				w.Errorf("more than one client of a shard was pinged at %v", first)
			}
		}
		if got := w.M.Stats().Clients; got != 20 {
			w.Errorf("clients that answer: got %d, want all 20", got)
		}
	})
}

func TestAClientThatAnswersNoPingIsRemoved(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		streamtest.InBubble(t, func(w *streamtest.World) {
			w.Mute = true
			const clients = 40 // so that there is one at every moment of the wheel
			gone := make(chan string, clients)
			w.Start(mesherstream.WithHooks(mesherstream.Hooks{Disconnect: func(_ mesherstream.Client, code int, reason string) { gone <- reason }}))
			for range clients {
				w.Connect("shop") // never reads again
			}
			if buffered {
				w.Broadcast(0, 10)
			}
			begin := time.Now()
			for left := clients; left > 0 && time.Since(begin) < 2*time.Minute; {
				time.Sleep(time.Second)
				took := time.Since(begin)
				for ; len(gone) > 0; left-- {
					if took < 59*time.Second || took > 68*time.Second {
						w.Errorf("buffered %v: removed after %v, want 60s to 60s + 25s/4", buffered, took)
					}
					if got := <-gone; got != "the client gave no sign of life" {
						w.Errorf("Disconnect hook: got reason %q, want that it gave no sign of life", got)
					}
				}
			}
			if left := w.M.Stats().Clients; left > 0 {
				w.Errorf("buffered %v: %d are still clients", buffered, left)
			}
		})
	}
}

func TestASlowClientThatMakesProgressStays(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		w.Mute = true
		v := w.Connect("shop")
		w.Broadcast(0, 30)
		for range 20 {
			time.Sleep(30 * time.Second)
			v.Next()
			if !w.M.IsStreamClient(v.ID) {
				w.Fatal("a client that takes a message every 30 s was removed")
			}
		}
	})
}

func TestPingsOfAClientAreAnswered(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("shop")
		pong := make(chan string, 1)
		v.WS.SetPongHandler(func(data string) error { pong <- data; return nil })
		v.Collect()
		if err := v.WS.WriteControl(9, []byte("are you there"), time.Now().Add(time.Second)); err != nil {
			w.Fatal(err)
		}
		if got := <-pong; got != "are you there" {
			w.Errorf("pong: got %q, want the ping's text", got)
		}
	})
}

func TestASilentClientStaysWithoutATimeout(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(0))
		v := w.Connect("shop")
		time.Sleep(8 * time.Hour)
		if !w.M.IsStreamClient(v.ID) {
			w.Error("it was removed")
		}
	})
}

// A proxy's timeout runs from the last byte. However the interval divides, and whenever a client connects, each of its
// pings is sent within the interval.
func TestEveryPingComesWithinTheInterval(t *testing.T) {
	for _, interval := range []time.Duration{
		10 * time.Millisecond, 33_333_333 * time.Nanosecond, 25 * time.Second, 24 * time.Hour,
	} {
		streamtest.InBubble(t, func(w *streamtest.World) {
			w.Start(mesherstream.WithPingInterval(interval), mesherstream.WithIdleTimeout(0), mesherstream.WithDrainInterval(time.Hour))
			type pinged struct {
				since         time.Time
				first, latest time.Duration
				count         int
			}
			pings := make([]*pinged, 40)
			for i := range pings {
				v, p := w.Connect("shop"), new(pinged)
				pings[i], p.since = p, time.Now()
				if c := w.Client(v); c.ConnectedAt.Before(p.since) {
					p.since = c.ConnectedAt
				}
				v.WS.SetPingHandler(func(string) error {
					gap := time.Since(p.since)
					if p.since = time.Now(); p.count == 0 {
						p.first = gap
					}
					p.latest = max(p.latest, gap)
					p.count++
					return nil
				})
				v.Collect()
				time.Sleep(interval / 97)
			}
			time.Sleep(10 * interval)
			synctest.Wait()
			spread := make(map[time.Duration]int)
			for i, p := range pings {
				if p.latest > interval || p.latest < interval*7/10 || p.count < 10 || p.count > 15 {
					t.Errorf("%v, client %d: got %d pings, the first after %v, and %v between two of them at most", interval, i, p.count, p.first, p.latest)
				}
				spread[p.first]++
			}
			if len(spread) < 10 {
				t.Errorf("%v: the first pings came after only %d different times, want clients to take turns", interval, len(spread))
			}
		})
	}
}

// A page that has heard nothing for the time that hello promises takes its connection for dead.
func TestAClientThatAnswersMarksHearsOneWithinTheInterval(t *testing.T) {
	for _, interval := range []time.Duration{
		10 * time.Millisecond, 33_333_333 * time.Nanosecond, 25 * time.Second, 24 * time.Hour,
	} {
		for name, opts := range map[string][]mesherstream.Option{"": nil, "no window": {mesherstream.WithWindow(0)}} {
			streamtest.InBubble(t, func(w *streamtest.World) {
				idle := 3 * interval / 2
				if idle > 24*time.Hour {
					idle = 0
				}
				w.Start(append(opts, mesherstream.WithPingInterval(interval), mesherstream.WithIdleTimeout(idle), mesherstream.WithDrainInterval(time.Hour))...)
				type heard struct {
					most         time.Duration
					began        time.Time
					marks, pings int
				}
				viewers := make([]*heard, 40)
				for i := range viewers {
					v, h := w.ConnectWithProtocol("shop"), new(heard)
					if got, want := v.Hello.MarkMS, interval.Milliseconds(); got != want {
						t.Errorf("%v: hello promises a mark within %d ms, want %d", interval, got, want)
					}
					viewers[i] = h
					v.WS.SetPingHandler(func(string) error { h.pings++; return nil })
					last := w.Client(v.Viewer).ConnectedAt
					h.began = last
					_ = v.WS.SetReadDeadline(time.Time{})
					go func() {
						for {
							_, text, err := v.WS.ReadMessage()
							if err != nil {
								return
							}
							if strings.HasPrefix(string(text), `{"type":"mark",`) {
								h.marks++
							}
							h.most = max(h.most, time.Since(last))
							last = time.Now()
							v.AckTo(uint64(1 + h.marks))
						}
					}()
					time.Sleep(interval / 97)
				}
				time.Sleep(10 * interval)
				synctest.Wait()
				for i, h := range viewers {
					intervals := float64(time.Since(h.began)) / float64(interval)
					if h.most > interval || h.marks < 10 || float64(h.marks) > intervals/0.7+1 || h.pings > 0 {
						t.Errorf("%v %s, client %d: got %d marks and %d pings in %.2f intervals, and %v without a mark at most", interval, name, i, h.marks, h.pings, intervals, h.most)
					}
				}
				if got := w.M.Stats().Clients; got != len(viewers) {
					t.Errorf("%v %s: got %d clients that stay, want all %d", interval, name, got, len(viewers))
				}
			})
		}
	}
}

// Such a client may be one of an earlier version, which counts marks and does not answer them.
func TestAClientThatDoesNotAcknowledgeHelloIsPinged(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		v, pings := w.ConnectCounting("shop"), 0
		v.WS.SetPingHandler(func(string) error {
			pings++
			return v.WS.WriteControl(10, nil, time.Now().Add(time.Second))
		})
		v.Collect()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := v.Collected(); pings < 11 || len(got) > 0 {
			w.Errorf("in 5 minutes: got %d pings and %q, want 11 or 12 and no message", pings, got)
		}
		if !w.M.IsStreamClient(v.ID) {
			w.Error("it was removed")
		}
	})
}

func TestHelloPromisesNothingWithoutPings(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(0))
		v := w.ConnectWithProtocol("shop")
		v.Collect()
		time.Sleep(24 * time.Hour)
		if got := v.Received(); v.Hello.MarkMS != 0 || got != 1 {
			w.Errorf("got a promise of %d ms and %d messages, want only hello, and no promise in it", v.Hello.MarkMS, got)
		}
	})
}

// after lets so much time pass, and everything that happens in it.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestAMessageAfterSilenceGoesAtOnceAndTheNextOnesTogether(t *testing.T) {
	const d = 100 * time.Millisecond
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithCoalescing(d))
		v := w.Connect("shop").Collect()
		want := 0
		for _, silence := range []time.Duration{0, time.Hour, d + d/2} {
			after(silence)
			w.Publish("first")
			if synctest.Wait(); len(v.Collected()) != want+1 {
				w.Fatalf("a message after %v of silence: got %q, want it at once", silence, v.Collected())
			}
			want++
			for pause, n := range []int{9, 1} {
				for range n {
					after(d / 10)
					w.Publish("later")
				}
				if after(d - time.Duration(n)*d/10 - 1); len(v.Collected()) != want {
					w.Fatalf("before the end of pause %d: got %q, want %d messages", pause, v.Collected(), want)
				}
				if want += n; len(v.Collected()) == want {
					w.Fatalf("before the end of pause %d: got all %d messages", pause, want)
				}
				if after(1); len(v.Collected()) != want {
					w.Fatalf("at the end of pause %d: got %q, want %d messages", pause, v.Collected(), want)
				}
			}
			after(d) // nothing was published in that pause
		}
	})
}

func TestTheFirstMessageOfAFilterDoesNotWaitForThoseOfOthers(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithCoalescing(time.Second))
		all, other := w.Connect("shop").Collect(), w.Connect("bakery").Collect()
		urgent := connectBeside(w, all, "shop?level=error")
		say := func(project, level, text string) {
			if err := w.M.Broadcast(mesherstream.Message{Project: project, Level: level, Data: []byte(text)}); err != nil {
				w.Fatal(err)
			}
			after(100 * time.Millisecond)
		}
		check := func(v *streamtest.Viewer, want ...string) {
			w.Helper()
			if got := v.Collected(); !slices.Equal(got, want) {
				w.Errorf("viewer %d: got %q, want %q", v.ID, got, want)
			}
		}
		say("shop", "info", "1")
		say("shop", "info", "2")
		say("shop", "error", "3")
		say("", "", "4")
		check(all, "1")
		check(urgent, "3")
		check(other, "4")
		after(600 * time.Millisecond) // a second after 1
		check(all, "1", "2", "3", "4")
		check(urgent, "3")
		after(200 * time.Millisecond) // a second after 3
		check(urgent, "3", "4")
		check(other, "4")
	})
}

// Messages that wait for the end of a pause wake no shard, unless the next one would make its publisher wait.
func TestAPublisherDoesNotWaitForTheEndOfAPause(t *testing.T) {
	for name, bound := range map[string]mesherstream.Option{
		"messages": mesherstream.WithMaxBuffer(4), "bytes": mesherstream.WithMaxBufferBytes(1 << 10),
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.InBubble(t, func(w *streamtest.World) {
				w.Start(mesherstream.WithCoalescing(time.Second), mesherstream.WithDrainInterval(time.Hour), bound)
				v := w.Connect("shop").Collect()
				text := strings.Repeat("x", 400)
				publishApart(w, text, text)
				begin := time.Now()
				for range 20 {
					w.Publish(text)
				}
				if waited := time.Since(begin); waited > 0 {
					w.Errorf("20 messages took %v", waited)
				}
				// The link of this test takes a moment for each message, so some are dropped.
				if after(time.Second); w.Client(v).Sent+w.Client(v).Dropped != 22 || w.Client(v).Sent < 6 {
					w.Errorf("got %+v, want 22 messages sent or dropped", w.Client(v))
				}
			})
		})
	}
}

// The first message for viewers that have just come doesn't wait for those for others who have left.
func TestAPauseEndsWithTheLastViewer(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithCoalescing(time.Second), mesherstream.WithDrainInterval(time.Hour))
		leaves := w.Connect("shop").Collect()
		stays := connectBeside(w, leaves, "bakery")
		say := func(m mesherstream.Message) {
			w.Helper()
			if err := w.M.Broadcast(m); err != nil {
				w.Fatal(err)
			}
			synctest.Wait()
		}
		for _, project := range []string{"shop", "bakery", "bakery"} { // of which the last one sets an alarm
			say(mesherstream.Message{Project: project, Data: []byte("1")})
		}
		comes := connectBeside(w, leaves, "shop?level=error")
		leaves.Close()
		synctest.Wait()
		if say(mesherstream.Message{Project: "shop", Level: "error", Data: []byte("2")}); !slices.Equal(comes.Collected(), []string{"2"}) || len(stays.Collected()) != 1 {
			w.Errorf("got %q and %q, want 2 at once, and one message for the bakery", comes.Collected(), stays.Collected())
		}
	})
}

func TestMuchDoesNotWaitForTheEndOfAPause(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithCoalescing(time.Second), mesherstream.WithDrainInterval(time.Hour))
		v := w.Connect("shop").Collect()
		publishApart(w, "1", "2")
		text := strings.Repeat("x", 10<<10)
		publishApart(w, text, text, text, text, text, text)
		if got := len(v.Collected()); got != 1 {
			w.Fatalf("got %d messages, want 1 while 60 KiB wait", got)
		}
		if publishApart(w, text); len(v.Collected()) != 9 {
			w.Errorf("got %d messages, want 9 when 70 KiB wait", len(v.Collected()))
		}
	})
}

// What has waited in the inbox until the end of a pause doesn't wait for the end of the next one, even if a buffer could not
// hold it together with what the group has held.
func TestNothingWaitsForTwoPauses(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithCoalescing(time.Second), mesherstream.WithDrainInterval(time.Hour), mesherstream.WithMaxBuffer(4), mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(0))
		v := w.Connect("shop").Collect()
		publishApart(w, "1", "2", "3")
		w.M.Stats() // the group holds 2 and 3
		publishApart(w, "4", "5", "6")
		if got := v.Collected(); !slices.Equal(got, []string{"1"}) {
			w.Fatalf("in the pause: got %q, want 1", got)
		}
		after(time.Second)
		if got, want := v.Collected(), []string{"1", "2", "3", "4", "5", "6"}; !slices.Equal(got, want) {
			w.Errorf("at the end of the pause: got %q, want %q", got, want)
		}
	})
}

// publishApart publishes messages that don't share a turn of a shard.
func publishApart(w *streamtest.World, texts ...string) {
	for _, text := range texts {
		w.Publish(text)
		synctest.Wait()
	}
}

// connectBeside adds a viewer of the same shard as another one.
func connectBeside(w *streamtest.World, v *streamtest.Viewer, path string) *streamtest.Viewer {
	shards := mesherstream.ClientID(runtime.GOMAXPROCS(0))
	for {
		other := w.Connect(path)
		if other.ID%shards == v.ID%shards {
			return other.Collect()
		}
		other.Close()
	}
}

// Everything that may happen to a client while messages are held for it: it receives each of them once and in order, and
// nothing that was published before it joined.
func TestWhatIsHeldForAClientComesBeforeWhatIsPublishedLater(t *testing.T) {
	const d = time.Second
	for name, scenario := range map[string]func(w *streamtest.World, v, other *streamtest.Viewer) (got, others []string){
		"its filter is changed by the application": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			if err := w.M.SetFilter(v.ID, mesherstream.Filter{Levels: []string{"info"}}); err != nil {
				w.Fatal(err)
			}
			w.Publish("error")
			w.PublishAll(mesherstream.Message{Level: "info", Data: []byte("info")})
			synctest.Wait()
			return []string{"1", "2", "3", "info"}, []string{"1"} // it is in a group without a pause
		},
		"it changes its filter": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			v.Send(`{"type":"subscribe","filters":{"level":"info"}}`)
			synctest.Wait()
			return []string{"1", "2", "3", `{"type":"filters_updated","filters":{"level":"info","environment":""},"filtered":0}`}, []string{"1"}
		},
		"it changes its filter to the same one": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			v.Send(`{"type":"subscribe","filters":{}}`)
			synctest.Wait()
			w.Publish("4")
			after(d)
			reply := `{"type":"filters_updated","filters":{"level":"","environment":""},"filtered":0}`
			return []string{"1", "2", "3", reply, "4"}, []string{"1", "2", "3", "4"}
		},
		"it changes to a filter whose messages are held, too": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			if err := w.M.SetFilter(other.ID, mesherstream.Filter{Levels: []string{"error"}}); err != nil {
				w.Fatal(err)
			}
			w.Publish("4")
			synctest.Wait()
			w.Publish("5")
			if err := w.M.SetFilter(v.ID, mesherstream.Filter{Levels: []string{"error"}}); err != nil {
				w.Fatal(err)
			}
			w.Publish("6")
			after(d)
			return []string{"1", "2", "3", "4", "5", "6"}, []string{"1", "2", "3", "4", "5", "6"}
		},
		"it makes a wrong request": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			v.Send(`hello`)
			synctest.Wait()
			return []string{"1", "2", "3", `{"type":"error","code":"malformed","message":"not a JSON object with a type"}`}, []string{"1"}
		},
		"a message is for it alone": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			if err := w.M.BufferMessage(v.ID, []byte("own")); err != nil {
				w.Fatal(err)
			}
			w.Publish("4")
			w.M.DrainBuffers()
			synctest.Wait()
			if got := v.Collected(); !slices.Equal(got, []string{"1", "2", "3", "own"}) {
				w.Errorf("after the drain: got %q, want all but the last one", got)
			}
			after(d)
			return []string{"1", "2", "3", "own", "4"}, []string{"1", "2", "3", "4"}
		},
		"a message for it alone still waits": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			after(d - 1)
			if err := w.M.BufferMessage(v.ID, []byte("own")); err != nil {
				w.Fatal(err)
			}
			w.Publish("4")
			after(1)
			return []string{"1", "2", "3", "own", "4"}, []string{"1", "2", "3", "4"}
		},
		"it is drained": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			w.M.DrainBuffers() // nothing is in its buffer
			synctest.Wait()
			return []string{"1"}, []string{"1"}
		},
		"it is disconnected": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			if err := w.M.Disconnect(v.ID, 4000, "out"); err != nil {
				w.Fatal(err)
			}
			synctest.Wait()
			if v.Err == nil {
				w.Error("it was not disconnected")
			}
			return []string{"1", "2", "3"}, []string{"1"}
		},
		"another one leaves": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			_ = other.WS.Close()
			after(d)
			return []string{"1", "2", "3"}, []string{"1"}
		},
		"another one joins": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			late := connectBeside(w, v, "shop")
			w.Publish("4")
			after(d)
			if got := late.Collected(); !slices.Equal(got, []string{"4"}) {
				w.Errorf("the one that has joined: got %q, want 4", got)
			}
			return []string{"1", "2", "3", "4"}, []string{"1", "2", "3", "4"}
		},
		"another one joins and looks back": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			late := connectBeside(w, v, "shop?last=2")
			if synctest.Wait(); !slices.Equal(late.Collected(), []string{"2", "3"}) {
				w.Errorf("the one that looks back: got %q, want 2 and 3 at once", late.Collected())
			}
			w.Publish("4")
			after(d)
			if got := late.Collected(); !slices.Equal(got, []string{"2", "3", "4"}) {
				w.Errorf("the one that has looked back: got %q, want 2, 3 and 4", got)
			}
			return []string{"1", "2", "3", "4"}, []string{"1", "2", "3", "4"}
		},
		"it looks back": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			v.Send(`{"type":"subscribe","filters":{},"last":1}`)
			synctest.Wait()
			w.Publish("4")
			after(d)
			reply := `{"type":"filters_updated","filters":{"level":"","environment":""},"filtered":0}`
			return []string{"1", "2", "3", reply, "3", "4"}, []string{"1", "2", "3", "4"}
		},
		"the server shuts down": func(w *streamtest.World, v, other *streamtest.Viewer) ([]string, []string) {
			w.Stop()
			return []string{"1", "2", "3"}, []string{"1", "2", "3"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.InBubble(t, func(w *streamtest.World) {
				w.Start(mesherstream.WithCoalescing(d), mesherstream.WithDrainInterval(time.Hour))
				v := w.Connect("shop").Collect()
				other := connectBeside(w, v, "shop")
				publishApart(w, "1", "2", "3")
				want, others := scenario(w, v, other)
				if got := v.Collected(); !slices.Equal(got, want) {
					w.Errorf("got %q, want %q", got, want)
				}
				if got := other.Collected(); !slices.Equal(got, others) {
					w.Errorf("the other one got %q, want %q", got, others)
				}
			})
		})
	}
}

func TestWhatIsHeldIsBufferedAndNoSignOfASlowClient(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithCoalescing(time.Second), mesherstream.WithDrainInterval(time.Millisecond))
		v, leaves := w.Connect("shop").Collect(), w.Connect("shop").Collect()
		publishApart(w, "1", "22", "333")
		after(500 * time.Millisecond)
		c, s := w.Client(v), w.M.Stats()
		const size = len("error") + len("production") + len("shop") + 2 // of the fields and the header of a frame
		if c.Offered != 3 || c.Sent != 1 || c.Buffered != 2 || c.BufferedBytes != 5+2*size || c.Slow {
			w.Errorf("Client: got %+v, want 3 offered, 2 buffered of %d bytes, and not slow", c, 5+2*size)
		}
		if s.Offered != 6 || s.Sent != 2 || s.Buffered != 4 || s.BufferedBytes != 2*(5+2*int64(size)) || s.Slow != 0 {
			w.Errorf("Stats: got %+v, want 6 offered and 4 buffered", s)
		}
		_ = leaves.WS.Close()
		synctest.Wait()
		if s = w.M.Stats(); s.Offered != 6 || s.Abandoned != 2 || s.Buffered != 2 {
			w.Errorf("Stats when one has left: got %+v, want 6 offered, 2 abandoned and 2 buffered", s)
		}
		after(500 * time.Millisecond)
		if s = w.M.Stats(); s.Offered != 6 || s.Sent != 4 || s.Buffered != 0 || s.Slow != 0 {
			w.Errorf("Stats at the end of the pause: got %+v, want 4 sent", s)
		}
	})
}

// The one ID is that of the last event, and says that the client has all of them.
func TestEventsThatWereHeldHaveOneID(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithCoalescing(time.Second))
		p := w.Follow("shop", "Accept: text/event-stream")
		publishApart(w, "1", "2", "3", "4")
		ids := make(map[string]string)
		for range 4 {
			e := p.Event()
			ids[e.Data] = e.ID
		}
		if ids["1"] == "" || ids["2"] != ids["1"] || ids["3"] != ids["1"] || ids["4"] == ids["1"] { // an event without one has that of the one before
			w.Fatalf("got the IDs %q, want one for 1, and one for the last of the others", ids)
		}
		w.Publish("5")
		synctest.Wait()
		back := w.Follow("shop", "Accept: text/event-stream", "Last-Event-ID: "+ids["1"])
		back.Expect("2", "3", "4", "5")
		back = w.Follow("shop", "Accept: text/event-stream", "Last-Event-ID: "+ids["4"])
		back.Expect("5")
	})
}

func TestMessagesOfAnotherNodeAreHeldOnce(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		x := streamtest.NewExchange()
		w.Start(mesherstream.WithCoalescing(time.Second), mesherstream.WithRelay(x))
		(&streamtest.World{T: t, Transport: w.Transport}).Play(func(other *streamtest.World) {
			other.Start(mesherstream.WithCoalescing(time.Second), mesherstream.WithRelay(x))
			v, there := w.Connect("shop").Collect(), other.Connect("shop").Collect()
			for _, text := range []string{"1", "2", "3"} {
				w.Publish(text)
				after(100 * time.Millisecond)
			}
			for _, v := range []*streamtest.Viewer{v, there} {
				if got := v.Collected(); !slices.Equal(got, []string{"1"}) {
					w.Errorf("in the pause: got %q, want 1", got)
				}
			}
			after(700 * time.Millisecond)
			for _, v := range []*streamtest.Viewer{v, there} {
				if got := v.Collected(); !slices.Equal(got, []string{"1", "2", "3"}) {
					w.Errorf("at the end of the pause: got %q, want all three", got)
				}
			}
		})
	})
}

func TestValuesOfAKeyThatAreHeldAllReachAClientThatKeepsUp(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithCoalescing(time.Second))
		v := w.Connect("shop").Collect()
		for i := range 4 {
			w.PublishAll(mesherstream.Message{Key: "k", Data: fmt.Append(nil, i)})
			synctest.Wait()
		}
		if after(time.Second); !slices.Equal(v.Collected(), []string{"0", "1", "2", "3"}) || w.Client(v).Conflated != 0 {
			w.Errorf("got %q and %+v, want every value", v.Collected(), w.Client(v))
		}
	})
}
