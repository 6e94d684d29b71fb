package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream"
	. "github.com/mesher/mesherstream/internal/streamtest"
)

// How many viewers a machine holds depends on how much each one has while nothing happens. The bounds are a tenth above
// what is measured: bytes that are live after a collection, of viewers that have received a message.
func TestAnIdleViewerTakesLittleMemory(t *testing.T) {
	if RaceDetector {
		t.Skip("the race detector has memory of its own")
	}
	const viewers = 2000
	hooks := mesherstream.Hooks{
		Connect:    func(mesherstream.Client) {},
		Disconnect: func(mesherstream.Client, int, string) {},
		Message:    func(mesherstream.Client, []byte, bool) {},
	}
	app := QuietApp() // one for all, so that nothing of a kind is released while another one is measured
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var sockets []rawViewer
	kinds := []struct {
		name  string
		ask   []string
		hooks mesherstream.Hooks
		bytes int64
	}{
		{"plain", Upgrade, mesherstream.Hooks{}, 505},
		{"hooks", Upgrade, hooks, 505},
		{"protocol", append([]string{"Sec-WebSocket-Protocol: " + mesherstream.Protocol}, Upgrade...), mesherstream.Hooks{}, 575},
		{"events", []string{"Accept: text/event-stream"}, mesherstream.Hooks{}, 520},
	}
	managers := make([]*mesherstream.Manager, len(kinds))
	for i, kind := range kinds {
		// No beat asks a viewer how it is while this lasts.
		managers[i] = NewTestManager(t, mesherstream.WithHooks(kind.hooks), mesherstream.WithPingInterval(time.Hour), mesherstream.WithIdleTimeout(3*time.Hour))
		app.Use("/"+kind.name, managers[i].Handler())
	}
	t.Cleanup(Serve(t, app, ln))
	t.Cleanup(func() {
		for _, v := range sockets {
			_ = unix.Close(int(v))
		}
	})
	for i, kind := range kinds {
		m, connected := managers[i], 0
		connect := func(project string, n int) {
			request := "GET /" + kind.name + "/stream/projects/" + project + " HTTP/1.1\r\nHost: a\r\n" + strings.Join(kind.ask, "\r\n") + "\r\n\r\n"
			for range n {
				v := openRaw(t, ln.Addr().(*net.TCPAddr).Port, request)
				sockets = append(sockets, v)
				v.settle(t)
			}
			connected += n
			Eventually(t, m, "all are connected", func() bool { return m.Stats().Clients == connected })
			if err := m.Broadcast(mesherstream.Message{Project: project, Data: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
			Eventually(t, m, "all have received a message", func() bool { return m.Stats().Sent == uint64(connected) })
		}
		sockets = slices.Grow(sockets, 2*viewers)
		connect("first", viewers/10) // with what the first viewers make for all
		before := live()
		connect("p", viewers)
		got := (live() - before) / viewers
		t.Logf("%s: %d bytes", kind.name, got)
		if got > kind.bytes {
			t.Errorf("%s: got %d bytes for each viewer, want at most %d", kind.name, got, kind.bytes)
		}
	}
}

// live returns how many bytes are live, after the pools have been emptied.
func live() int64 {
	for range 3 {
		runtime.GC()
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return int64(memory.HeapAlloc)
}

// A rawViewer is the socket of a viewer that has no memory in this process.
type rawViewer int

func openRaw(t testing.TB, port int, request string) rawViewer {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	v := rawViewer(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v rawViewer) Write(p []byte) (int, error) { return unix.Write(int(v), p) }

func (v rawViewer) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(v), p)
		switch {
		case err == unix.EINTR:
			continue
		case n == 0 && err == nil:
			return 0, io.EOF
		}
		return max(n, 0), err
	}
}

// settle reads the head of the response, and what begins the stream, and answers that.
func (v rawViewer) settle(t testing.TB) {
	t.Helper()
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one...) {
		if _, err := v.Read(one); err != nil {
			t.Fatalf("%q: %v", head, err)
		}
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		return
	}
	var frame [2]byte
	_, _ = io.ReadFull(v, frame[:])
	size := int(frame[1])
	if size == 126 {
		var long [2]byte
		_, _ = io.ReadFull(v, long[:])
		size = int(binary.BigEndian.Uint16(long[:]))
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(v, payload); err != nil {
		t.Fatal(err)
	}
	answer := []byte(`{"type":"ack","n":1}`)
	op := byte(0x81)
	if frame[0] == 0x89 { // a ping
		answer, op = payload, 0x8A
	}
	if _, err := fmt.Fprintf(v, "%s%s", []byte{op, 0x80 | byte(len(answer)), 0, 0, 0, 0}, answer); err != nil {
		t.Fatal(err)
	}
}
