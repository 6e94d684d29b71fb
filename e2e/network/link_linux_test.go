package network

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// overBothWays runs a test with links of each kind that this kernel can make.
func overBothWays(t *testing.T, test func(t *testing.T, link func(n *Network, h *Host, q Quality) *Link)) {
	t.Parallel()
	New(t)
	t.Run("netem", func(t *testing.T) {
		if netemErr != nil {
			t.Skipf("needs netem, a module of the kernel: %v", netemErr)
		}
		test(t, (*Network).netemLink)
	})
	t.Run("tun", func(t *testing.T) {
		if tunErr != nil {
			t.Skipf("needs TUN devices: %v", tunErr)
		}
		test(t, (*Network).tunLink)
	})
}

// called returns the connection that a host opens to its link's other end, and that echoes.
func called(t *testing.T, h *Host, l *Link) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(l.Server.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	addr := ln.Addr().String()
	if _, err := h.Conn.Write(append([]byte{byte(len(addr))}, addr...)); err != nil {
		t.Fatal(err)
	}
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// roundTrip sends data and waits until the same has come back.
func roundTrip(t *testing.T, conn net.Conn, data []byte) time.Duration {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	begin := time.Now()
	go func() { _, _ = conn.Write(data) }()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatalf("echo of %d bytes: %v", len(data), err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("echo of %d bytes: got others", len(data))
	}
	return time.Since(begin)
}

func TestALinkIsAsSlowAsItsQuality(t *testing.T) {
	overBothWays(t, func(t *testing.T, link func(*Network, *Host, Quality) *Link) {
		t.Parallel()
		n := New(t)
		h := n.Host("echo")
		l := link(n, h, Quality{Rate: 1_000_000, Delay: 50 * time.Millisecond})
		conn := called(t, h, l)
		rtt := roundTrip(t, conn, []byte("x"))
		bulk := roundTrip(t, conn, make([]byte, 100_000))
		t.Logf("a byte and back took %v, 100,000 bytes %v", rtt, bulk)
		// A link is never faster than it should be. How much slower it is depends on the machine.
		if rtt < 100*time.Millisecond {
			t.Errorf("round trip over a link with 50 ms each way: got %v, want at least 100ms", rtt)
		}
		if bulk < 800*time.Millisecond {
			t.Errorf("100,000 bytes at 1 Mbit/s: got %v, want at least 800ms", bulk)
		}
	})
}

func TestTCPDeliversAllOverALinkThatLosesPackets(t *testing.T) {
	overBothWays(t, func(t *testing.T, link func(*Network, *Host, Quality) *Link) {
		t.Parallel()
		n := New(t)
		h := n.Host("echo")
		conn := called(t, h, link(n, h, Quality{Delay: time.Millisecond, Loss: 0.05}))
		data := make([]byte, 300_000)
		_, _ = rand.Read(data)
		t.Logf("300,000 bytes and back took %v", roundTrip(t, conn, data))
	})
}

func TestACutCableLetsNothingThroughAndBreaksNothing(t *testing.T) {
	overBothWays(t, func(t *testing.T, link func(*Network, *Host, Quality) *Link) {
		t.Parallel()
		n := New(t)
		h := n.Host("echo")
		l := link(n, h, Quality{})
		conn := called(t, h, l)
		roundTrip(t, conn, []byte("before"))

		l.Set(Quality{Cut: true})
		if _, err := conn.Write([]byte("during")); err != nil {
			t.Fatalf("Write into a cut cable: %v", err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := conn.Read(make([]byte, 6)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Read from a cut cable: got %d bytes, %v, want a timeout", n, err)
		}

		l.Set(Quality{})
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		got := make([]byte, 6)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "during" {
			t.Fatalf("Read after the cable was mended: got %q, %v", got, err)
		}
	})
}

func TestAWireCarriesAndAHostDiesWhenItIsKilled(t *testing.T) {
	t.Parallel()
	n := New(t)
	h := n.Host("echo")
	conn := called(t, h, n.Wire(h))
	roundTrip(t, conn, []byte("hello"))
	h.Stop()
	h.Kill() // a host that is stopped too
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read from a host that was killed: got %v, want the end of the connection", err)
	}
}

func TestAQualityInTheWordsOfTC(t *testing.T) {
	for _, c := range []struct {
		quality Quality
		want    string
	}{
		{Quality{}, "netem limit 16384 delay 0us loss 0%"},
		{
			Quality{Rate: 64_000, QueueBytes: 15_000, Delay: 300 * time.Millisecond, Loss: 0.05},
			"netem limit 11 delay 300000us rate 64000bit loss 5%",
		},
		{Quality{Delay: 50 * time.Millisecond, Cut: true}, "netem limit 16384 delay 50000us loss 100%"},
	} {
		if got := strings.Join(c.quality.netem(), " "); got != c.want {
			t.Errorf("netem() of %+v: got %q, want %q", c.quality, got, c.want)
		}
	}
}
