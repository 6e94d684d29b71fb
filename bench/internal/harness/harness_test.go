//go:build linux

package harness

import (
	"encoding/json"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/feed"
)

// fake is a server without clients, whose Broadcast can be made to hang.
type fake struct {
	hang chan struct{} // nil: Broadcast returns at once
	left atomic.Int32  // of its seven clients
}

func (f *fake) Serve(l net.Listener) error { select {} }
func (f *fake) Clients() int               { return 7 - int(f.left.Load()) }
func (f *fake) Broadcast(feed.Event) {
	if f.hang != nil {
		<-f.hang
	}
}

// conversation is the other end of a server's standard input and output.
type conversation struct {
	t        *testing.T
	commands *json.Encoder
	answers  *json.Decoder
}

// converse runs a server's process within this one.
func converse(t *testing.T, server Server) *conversation {
	t.Helper()
	commands, in := io.Pipe()
	out, answers := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(func(Config) (Server, error) { return server, nil }, Config{}, "127.0.0.1:0", commands, answers)
	}()
	t.Cleanup(func() {
		_ = in.Close()
		if err := <-ended; err != nil {
			t.Errorf("run ended with %v, want nil", err)
		}
	})
	return &conversation{t: t, commands: json.NewEncoder(in), answers: json.NewDecoder(out)}
}

func (c *conversation) tell(command control.Command) {
	c.t.Helper()
	if err := c.commands.Encode(command); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conversation) hear(say string) (a control.Answer) {
	c.t.Helper()
	if err := c.answers.Decode(&a); err != nil {
		c.t.Fatal(err)
	}
	if a.Say != say {
		c.t.Fatalf("the server said %s, want %s", a.Say, say)
	}
	return a
}

func traffic(every, length time.Duration, batch int) *control.Traffic {
	return &control.Traffic{Plan: feed.Plan{Projects: 1}, Size: 100, Every: every, Batch: batch, For: length}
}

func TestTheScheduleIsKept(t *testing.T) {
	c := converse(t, &fake{})
	if got := c.hear(control.Listening).Address; got == "" {
		t.Fatal("the server has no address")
	}
	c.tell(control.Command{Do: control.Count})
	if got := c.hear(control.Counted).Clients; got != 7 {
		t.Errorf("got %d clients, want 7", got)
	}
	c.tell(control.Command{Do: control.Publish, First: 11, Traffic: traffic(20*time.Millisecond, 100*time.Millisecond, 3)})
	published := c.hear(control.Published).Publish
	if published.Last != 25 || published.Broadcasts != 15 || published.Running {
		t.Fatalf("got %+v, want 5 × 3 messages from 11 on, done", published)
	}
	if published.Elapsed < 80*time.Millisecond {
		t.Errorf("took %v, want at least the 80 ms between the first and the fifth instant", published.Elapsed)
	}
	c.tell(control.Command{Do: control.Measure})
	measured := c.hear(control.Measured).Measure
	if measured.Publish.Last != 25 || measured.Wall < published.Elapsed || measured.PeakResidentBytes == 0 {
		t.Errorf("got %+v, want a window around the publishing", measured)
	}
}

func TestAClientThatLeavesIsNoticedAfterwards(t *testing.T) {
	server := &fake{}
	c := converse(t, server)
	c.hear(control.Listening)
	c.tell(control.Command{Do: control.Watch, Clients: 7})
	c.tell(control.Command{Do: control.Glance}) // the conversation goes on meanwhile
	if glance := c.hear(control.Remembered).Memory; glance.ResidentBytes == 0 || glance.HeapBytes == 0 {
		t.Errorf("got %+v, want what is in use", glance)
	}
	left := clock.Now()
	server.left.Store(1)
	if noticed := c.hear(control.Noticed).Nanos; noticed < left {
		t.Errorf("noticed at %d what happened at %d", noticed, left)
	}
}

func TestAServerThatHangsInBroadcastIsStillMeasured(t *testing.T) {
	server := &fake{hang: make(chan struct{})}
	c := converse(t, server)
	c.hear(control.Listening)
	c.tell(control.Command{Do: control.Publish, First: 1, Traffic: traffic(time.Second, time.Millisecond, 1)})
	// Asked until the publisher is seen to be in its Broadcast, which has no other sign.
	var stuck control.PublishReport
	for stuck.LongestBroadcast < 20*time.Millisecond {
		c.tell(control.Command{Do: control.Measure})
		stuck = c.hear(control.Measured).Measure.Publish
	}
	if !stuck.Running || stuck.Last != 0 || stuck.Broadcasts != 0 {
		t.Errorf("got %+v, want a publisher at work on message 1", stuck)
	}
	close(server.hang)
	if done := c.hear(control.Published).Publish; done.Running || done.Last != 1 || done.LongestBroadcast < stuck.LongestBroadcast {
		t.Errorf("got %+v, want message 1 after a Broadcast at least as long as %v", done, stuck.LongestBroadcast)
	}
}
