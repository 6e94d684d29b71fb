package mesherstream_test

import (
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
