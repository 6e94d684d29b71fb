package test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream"
	. "github.com/mesher/mesherstream/internal/streamtest"
)

// BenchmarkAMessageThatNobodyWants measures the CPU time of the whole process for a message that none of 2,000 clients over TCP
// wants, at 1,000 messages a second. Their filters have 16 levels and 16 environments. What it costs with one filter for all is
// mostly the publisher's timer and the wake-ups of the shards, and to a project without clients, it is the timer alone.
func BenchmarkAMessageThatNobodyWants(b *testing.B) {
	const clients = 2000
	for _, kind := range []struct {
		name    string
		filters int
		project string
	}{
		{"filters=2000", clients, "shop"},
		{"filters=2000/to=all", clients, ""},
		{"filters=5", 5, "shop"},
		{"filters=1", 1, "shop"},
		{"filters=1/to=nobody", 1, "another"},
	} {
		b.Run(kind.name, func(b *testing.B) {
			m := NewTestManager(b, mesherstream.WithPingInterval(time.Hour), mesherstream.WithIdleTimeout(3*time.Hour))
			app := QuietApp()
			app.Use(m.Handler())
			ln, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(Serve(b, app, ln))
			for i := range clients {
				var levels, environments []string
				for k := range 16 {
					levels = append(levels, fmt.Sprintf("level-%d-%d", i%kind.filters, k))
					environments = append(environments, fmt.Sprintf("environment-%d-%d", i%kind.filters, k))
				}
				v := openRaw(b, ln.Addr().(*net.TCPAddr).Port, fmt.Sprintf("GET /stream/projects/shop?level=%s&environment=%s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n",
					strings.Join(levels, ","), strings.Join(environments, ","), strings.Join(Upgrade, "\r\n")))
				b.Cleanup(func() { _ = unix.Close(int(v)) })
				v.settle(b)
			}
			Eventually(b, m, "all are connected", func() bool { return m.Stats().Clients == clients })
			msg := mesherstream.Message{Project: kind.project, Level: "info", Environment: "production", Data: []byte("{}")}
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			before := processTime(b)
			for b.Loop() {
				<-pace.C
				if err := m.Broadcast(msg); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((processTime(b)-before).Microseconds())/float64(b.N), "µs-CPU/op")
			if n := m.Stats().Sent; n > 0 {
				b.Errorf("%d messages were sent", n)
			}
		})
	}
}

// processTime is the CPU time that the process has used.
func processTime(tb testing.TB) time.Duration {
	tb.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
