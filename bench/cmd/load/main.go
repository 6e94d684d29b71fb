//go:build linux

// Command load is the clients of a run: thousands of connections in one thread, cheaper per message than any server, so that
// what is measured is the server. It is started by compare, which talks to it over standard input and output (package control).
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/feed"
)

// config is what the flags say.
type config struct {
	server   netip.AddrPort
	wire     string
	clients  int
	stalled  int
	churn    int // reconnects a second
	churners int // how many of the clients take turns in reconnecting
	pace     int // handshakes begun a second; 0: as many as may be under way
	plan     feed.Plan
	size     int
	sources  int
	pong     bool
	quiet    time.Duration // silence that ends the wait for messages which don't come
	patience time.Duration // for everything else
}

func main() {
	runtime.LockOSThread()
	runtime.GOMAXPROCS(1)

	var c config
	address := flag.String("addr", "", "`address` of the server, an IP address and a port")
	flag.StringVar(&c.wire, "wire", control.WebSocket, "what clients ask for: `websocket`, protocol, events or lines")
	flag.IntVar(&c.clients, "clients", 1000, "connections")
	flag.IntVar(&c.stalled, "stalled", 0, "how many of them never read")
	flag.IntVar(&c.churn, "churn", 0, "connections closed and made again, a second")
	flag.IntVar(&c.pace, "pace", 0, "handshakes a second, on an absolute schedule; 0 connects as fast as the server allows")
	flag.IntVar(&c.plan.Projects, "projects", 1, "projects that the clients are dealt over")
	flag.BoolVar(&c.plan.Filtered, "filtered", false, "clients narrow by level or environment")
	flag.IntVar(&c.size, "size", 512, "bytes of a message")
	flag.IntVar(&c.sources, "sources", 16, "source addresses, from 127.0.0.2 on; 1 to 250")
	flag.BoolVar(&c.pong, "pong", true, "answer pings")
	flag.DurationVar(&c.quiet, "quiet", 2*time.Second, "silence after which what is missing is lost")
	flag.DurationVar(&c.patience, "patience", time.Minute, "longest wait for all connections, and for all messages")
	flag.Parse()
	// A churner lives about a second, and four fifths of the clients stay.
	c.churners = min(c.churn, (c.clients-c.stalled)/5)

	if err := c.parse(*address); err != nil {
		slog.Error("bad flags", "error", err)
		os.Exit(2)
	}
	l, err := newLoad(c, os.Stdin, os.Stdout)
	if err == nil {
		err = l.run()
	}
	if err != nil {
		slog.Error("load failed", "error", err)
		os.Exit(1)
	}
}

func (c *config) parse(address string) (err error) {
	if c.server, err = netip.ParseAddrPort(address); err != nil {
		return err
	}
	switch {
	case !slices.Contains([]string{control.WebSocket, control.Protocol, control.Events, control.Lines}, c.wire):
		return fmt.Errorf("unknown wire %q", c.wire)
	case !c.server.Addr().Is4() || !c.server.Addr().IsLoopback():
		return fmt.Errorf("server %v is not on IPv4 loopback", c.server)
	case c.clients < 1 || c.stalled < 0 || c.stalled > c.clients:
		return fmt.Errorf("%d clients of which %d stall", c.clients, c.stalled)
	case c.plan.Projects < 1 || c.sources < 1 || c.sources > 250 || c.churn < 0 || c.pace < 0:
		return fmt.Errorf("%d projects, %d sources, %d reconnects and %d handshakes a second", c.plan.Projects, c.sources, c.churn, c.pace)
	}
	return nil
}
