package natsrelay

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

var measure = flag.Duration("measure", 0, "measure what the relay costs, each case for so long; docs/scaling.md is made of what it prints")

// TestMeasure prints CPU time and throughput for each part of a message's way between nodes. NATS runs in its own
// process, over TCP on loopback. The nodes share this process, so the cost of another node is a difference.
func TestMeasure(t *testing.T) {
	if *measure == 0 {
		t.Skip("measures for a minute: go test ./natsrelay -run TestMeasure -v -measure 3s")
	}
	for _, c := range []struct {
		name    string
		nodes   int    // that receive
		clients int    // of each such node
		path    string // of the clients
	}{
		{"no other node wants the project", 0, 0, ""},
		{"one node, no client wants the level", 1, 1, "shop?level=fatal"},
		{"three nodes, no client wants the level", 3, 1, "shop?level=fatal"},
		{"one node, one client", 1, 1, "shop"},
		{"three nodes, one client each", 3, 1, "shop"},
		{"one node, 100 clients", 1, 100, "shop"},
	} {
		t.Run(c.name, func(t *testing.T) { measureRelay(t, c.nodes, c.clients, c.path) })
	}
	for _, clients := range []int{1, 100} {
		t.Run(fmt.Sprintf("local, %d clients", clients), func(t *testing.T) { measureLocal(t, clients) })
	}
}

func measureRelay(t *testing.T, nodes, clients int, path string) {
	p := newProcess(t, streamtest.FreePort(t)).start()
	defer p.kill()
	publisher := newNode(t, New(connect(t, p.url)))
	defer publisher.stop()
	var receivers []*node
	for range nodes {
		n := newNode(t, New(connect(t, p.url)))
		defer n.stop()
		for range clients {
			defer n.discard(path)()
		}
		receivers = append(receivers, n)
	}
	arrived := func() (sum uint64) {
		for _, n := range receivers {
			s := n.m.Stats()
			sum += s.RelayReceived + s.RelayUnwanted
		}
		return sum
	}
	msg := mesherstream.Message{Project: "shop", Level: "error", Environment: "production", Data: make([]byte, 512)}
	for i := range msg.Data {
		msg.Data[i] = 'x'
	}
	published := uint64(0)
	paceable := func() bool { // nothing is lost on the way
		return publisher.m.Stats().RelayQueued < 2000 && published*uint64(nodes) <= arrived()+uint64(nodes)*4000
	}

	self, server, begin := cpu(t, os.Getpid()), cpu(t, p.cmd.Process.Pid), time.Now()
	for time.Since(begin) < *measure {
		for !paceable() {
			time.Sleep(time.Millisecond) // asking costs time too
		}
		for range 500 {
			if err := publisher.m.Broadcast(msg); err != nil {
				t.Fatal(err)
			}
			published++
		}
	}
	publisher.eventually("everything has arrived", func() bool {
		return publisher.m.Stats().RelayPublished == published && arrived() == published*uint64(nodes)
	})
	took := time.Since(begin)
	self, server = cpu(t, os.Getpid())-self, cpu(t, p.cmd.Process.Pid)-server
	per := func(d time.Duration) time.Duration { return (d / time.Duration(published)).Round(10 * time.Nanosecond) }
	t.Logf("| %.0f a second | %v of the nodes' CPU | %v of the server's |", float64(published)/took.Seconds(), per(self), per(server))
}

// measureLocal measures the same without a relay.
func measureLocal(t *testing.T, clients int) {
	n := newNode(t, nil)
	defer n.stop()
	for range clients {
		defer n.discard("shop")()
	}
	data := make([]byte, 512)
	self, begin, published := cpu(t, os.Getpid()), time.Now(), 0
	for time.Since(begin) < *measure {
		for range 500 {
			if err := n.m.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Environment: "production", Data: data}); err != nil {
				t.Fatal(err)
			}
			published++
		}
		n.eventually("all is sent", func() bool { s := n.m.Stats(); return s.Sent+s.Dropped == s.Offered })
	}
	took := time.Since(begin)
	self = cpu(t, os.Getpid()) - self
	t.Logf("| %.0f a second | %v of the node's CPU |", float64(published)/took.Seconds(), (self / time.Duration(published)).Round(10*time.Nanosecond))
}

// discard connects a client that reads as cheaply as possible, and returns a function that ends it.
func (n *node) discard(path string) (end func()) {
	n.Helper()
	before := n.m.Stats().Connects
	ws, _, err := websocket.DefaultDialer.Dial("ws://"+n.addr+"/stream/projects/"+path, nil)
	if err != nil {
		n.Fatal(err)
	}
	n.eventually("the client is known", func() bool { return n.m.Stats().Connects > before })
	go func() {
		for err := error(nil); err == nil; {
			_, _, err = ws.NextReader() // which answers pings
		}
	}()
	return func() { _ = ws.Close() }
}

// cpu returns the CPU time that a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	if pid == os.Getpid() {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
