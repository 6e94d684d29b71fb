//go:build !race

package mesherstream

import (
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/link"
)

func BenchmarkDeliver(b *testing.B) {
	for _, clients := range []int{1, 100, 1000} {
		for name, l := range map[string]link.Link{"fast": sink{}, "slow": wall{}} {
			for _, together := range []int{1, 100} {
				b.Run(fmt.Sprintf("clients=%d/%s/together=%d", clients, name, together), func(b *testing.B) {
					m := newMessage(&Message{Project: "shop", Level: "error", Data: make([]byte, 512)})
					s := newTestShard(b, clients, l)
					publishTurn(b, s, m, 100)
					b.ReportAllocs()
					for b.Loop() {
						publishTurn(b, s, m, together)
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*together*clients), "ns/delivery")
				})
			}
		}
	}
}

func BenchmarkNewMessage(b *testing.B) {
	for _, size := range []int{64, 512, 16 << 10} {
		b.Run(fmt.Sprint("size=", size), func(b *testing.B) {
			msg := Message{Project: "shop", Level: "error", Environment: "production", Data: make([]byte, size)}
			b.ReportAllocs()
			for b.Loop() {
				newMessage(&msg)
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	f := Filter{Levels: []string{"error", "fatal", "warning"}, Environments: []string{"production", "staging"}}
	m := newMessage(&Message{Project: "shop", Level: "warning", Environment: "staging"})
	for b.Loop() {
		f.matches(m)
	}
}

// BenchmarkBacklog pushes into a full backlog, in each way of making room.
func BenchmarkBacklog(b *testing.B) {
	plain := newMessage(&Message{Level: "debug", Data: make([]byte, 512)})
	keyed := newMessage(&Message{Level: "debug", Key: "issue 17", Data: make([]byte, 512)})
	kept := newMessage(&Message{Level: "fatal", Data: make([]byte, 512)})
	kept.keep = true
	for _, bm := range []struct {
		name     string
		overflow Overflow
		told     bool
		cycle    []*message
	}{
		{"oldest", DropOldest, false, []*message{plain}},
		{"oldest,told", DropOldest, true, []*message{plain}},
		{"newest", DropNewest, false, []*message{plain}},
		{"key", DropOldest, false, []*message{keyed}},
		{"kept=1/2", DropOldest, false, []*message{plain, kept}},
		{"kept=1/2,told", DropOldest, true, []*message{plain, kept}},
		{"kept=9/10", DropOldest, false, []*message{plain, kept, kept, kept, kept, kept, kept, kept, kept, kept}},
	} {
		for _, size := range []int{100, 10_000} {
			b.Run(fmt.Sprintf("%s/max=%d", bm.name, size), func(b *testing.B) {
				var ring backlog
				if bm.told {
					ring.gaps = new(gaps)
				}
				most := limits{size, 1 << 30, bm.overflow, true}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					ring.push(bm.cycle[i%len(bm.cycle)], most)
				}
			})
		}
	}
}

// BenchmarkHandshake counts what a client costs from its request to the end of its connection.
func BenchmarkHandshake(b *testing.B) {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	m, err := NewManager(WithLogger(slog.New(slog.DiscardHandler)), WithMaxClients(1000), WithMaxClientsPerIP(1000),
		WithAuthorize(func(*fiber.Ctx, *Subscription) error { return nil }))
	if err != nil {
		b.Fatal(err)
	}
	app.Use(m.Handler())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- app.Listener(ln) }()
	defer func() {
		_ = app.ShutdownWithTimeout(5 * time.Second)
		<-served
		_ = m.Shutdown(b.Context())
	}()
	request := []byte(handshake("/stream/projects/shop?level=error", "Origin: http://app.test", "Sec-WebSocket-Protocol: mesherstream.v1",
		"User-Agent: Mozilla/5.0", "Cookie: session=x", "Accept-Language: en"))
	answer := make([]byte, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		if n, err := conn.Read(answer); err != nil || string(answer[9:12]) != "101" {
			b.Fatalf("got %q, %v, want 101", answer[:n], err)
		}
		_ = conn.Close()
	}
}
