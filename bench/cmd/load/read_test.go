//go:build linux

package main

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/wsframe"
)

const testSize = 100

// newTestLoad returns a load with one open client that counts from message 1 on, and no sockets.
func newTestLoad() (*load, *client) {
	plan := feed.Plan{Projects: 1}
	l := &load{config: config{plan: plan, size: testSize}, first: 1, clients: make([]client, 1)}
	c := &l.clients[0]
	c.stage = open
	c.account.audience = plan.Audience(0)
	c.account.begin(1)
	return l, c
}

func messages(first, last uint64, between string) (joined []byte) {
	author := feed.NewAuthor(feed.Plan{Projects: 1}, testSize)
	for n := first; n <= last; n++ {
		e := author.Event(n, 0)
		joined = append(append(joined, e.Data...), between...)
	}
	return joined
}

// feedInPieces gives the client a stream as a socket would that returns at most step bytes at a time.
func feedInPieces(l *load, c *client, stream []byte, step int) {
	for piece := range slices.Chunk(stream, step) {
		data := append(slices.Clone(c.rest), piece...)
		rest, _ := l.frames(c, data)
		c.rest = keep(c.rest, rest)
	}
}

func TestMessagesAreCountedWhereverReadsAndFramesEnd(t *testing.T) {
	single := func() (s []byte) {
		for n := uint64(1); n <= 6; n++ {
			s = wsframe.AppendServer(s, wsframe.Text, messages(n, n, ""))
		}
		return s
	}()
	joined := wsframe.AppendServer(nil, wsframe.Text, messages(1, 6, "\n"))
	// One message of several lines, cut into frames of 33 bytes: stamps are cut too.
	var fragmented []byte
	opcode := byte(wsframe.Text)
	for piece := range slices.Chunk(messages(1, 6, "\n"), 33) {
		frame := wsframe.AppendServer(nil, opcode, piece)
		frame[0] &^= 0x80
		fragmented = append(fragmented, frame...)
		opcode = wsframe.Continuation
	}
	fragmented = wsframe.AppendServer(fragmented, wsframe.Continuation, nil)

	for name, stream := range map[string][]byte{"one a frame": single, "joined": joined, "fragmented": fragmented} {
		t.Run(name, func(t *testing.T) {
			for _, step := range []int{1, 2, 7, 33, 64, 107, 1000} {
				l, c := newTestLoad()
				feedInPieces(l, c, stream, step)
				if want := (tally{received: 6}); l.tally != want {
					t.Errorf("reads of %d bytes: got %+v, want %+v", step, l.tally, want)
				}
				if l.latency.Count() != 6 {
					t.Errorf("reads of %d bytes: %d latencies, want 6", step, l.latency.Count())
				}
			}
		})
	}
}

// One event may tell of the last message and of the end behind it, and there is no second one.
func TestTheEndBehindTheLastMessageIsSeen(t *testing.T) {
	l, c := newTestLoad()
	l.buffer = make([]byte, 1<<10)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.fd = fds[0]
	if _, err := unix.Write(fds[1], wsframe.AppendServer(nil, wsframe.Text, messages(1, 1, ""))); err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[1])
	if err := l.serve(c, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP); err != nil {
		t.Fatal(err)
	}
	if l.received != 1 || l.closed != 1 || c.stage != absent {
		t.Errorf("received %d, closed %d, stage %d, want the message and the end", l.received, l.closed, c.stage)
	}
}

// A server that forgets those who come again must not look as if it served them: none of their messages counts as lost.
func TestAReconnectCountsWithItsFirstMessage(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	l, c := newTestLoad()
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l.epoll)
	l.server, l.sources, l.churn = netip.MustParseAddrPort(listener.Addr().String()), 1, 200
	*c = client{churns: true, account: account{audience: l.plan.Audience(0)}}
	l.reconnectAt = 1
	l.churnOne(1)
	defer unix.Close(c.fd)
	if c.stage != connecting || l.reconnects != 0 {
		t.Errorf("stage %d, reconnects %d, want a connection under way that counts for nothing yet", c.stage, l.reconnects)
	}
	c.stage = open
	feedInPieces(l, c, wsframe.AppendServer(nil, wsframe.Text, messages(7, 8, "")), 1000)
	if l.reconnects != 1 || l.received != 2 {
		t.Errorf("reconnects %d, received %d, want 1 and 2", l.reconnects, l.received)
	}
}

func TestAGreetingIsNoMessage(t *testing.T) {
	l, c := newTestLoad()
	feedInPieces(l, c, wsframe.AppendServer(nil, wsframe.Text, []byte(`{"connect":{}}`)), 1000)
	if l.other != 1 || l.received != 0 {
		t.Errorf("other %d, received %d, want 1 and 0", l.other, l.received)
	}
}

func TestReadingAllocatesNothing(t *testing.T) {
	l, c := newTestLoad()
	var stream []byte
	for n := uint64(1); n <= 50; n++ {
		stream = wsframe.AppendServer(stream, wsframe.Text, messages(n, n, ""))
	}
	// Beyond the first time they are repeated messages, which cost the same.
	if got := testing.AllocsPerRun(20, func() { l.frames(c, stream) }); got != 0 {
		t.Errorf("got %v allocations for 50 messages, want 0", got)
	}
}

func TestStalledAndChurningClientsAreDealtEvenly(t *testing.T) {
	var chosen []int
	for i := range 20 {
		if spread(i, 4, 20) {
			chosen = append(chosen, i)
		}
	}
	if want := []int{4, 9, 14, 19}; !slices.Equal(chosen, want) {
		t.Errorf("got %v, want %v", chosen, want)
	}
}

func BenchmarkFrames(b *testing.B) {
	l, c := newTestLoad()
	l.size = 512
	author := feed.NewAuthor(l.plan, l.size)
	var stream []byte
	for n := uint64(1); n <= 250; n++ {
		e := author.Event(n, 0)
		stream = wsframe.AppendServer(stream, wsframe.Text, e.Data)
	}
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		c.account.rank = c.account.base
		l.frames(c, stream)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/250, "ns/message")
}
