package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"regexp"
	"time"
)

const maxDemoRate = 5000

// streamDemo publishes believable events, rate of them a second, until ctx ends.
func streamDemo(ctx context.Context, f *feed, project string, rate float64) {
	d := demo{project: project, rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	start, made := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for ; float64(made) < rate*time.Since(start).Seconds(); made++ {
			var err error
			if known := f.issues.list(project); len(known) > 0 && d.rand.Float64() < 1/(rate*15) { // one every 15 s or so
				err = d.act(f, known)
			} else {
				_, err = f.publishEvent(d.event())
			}
			if err != nil {
				return // the manager is closed
			}
		}
	}
}

// demo invents what a small shop might log.
type demo struct {
	project string
	rand    *rand.Rand
}

// scene is something that happens in the shop, weight times as often as a scene of weight 1.
type scene struct {
	weight         int
	level, service string
	message        func(r *rand.Rand) string
}

func (d *demo) event() fields {
	s := choose(d.rand, scenes, func(s scene) int { return s.weight })
	e := fields{
		Project:     d.project,
		Level:       s.level,
		Environment: choose(d.rand, environments, func(e place) int { return e.weight }).name,
		Service:     s.service,
		Message:     s.message(d.rand),
		Tags: map[string]string{
			"release": fmt.Sprintf("2026.%d.%d", 3+d.rand.IntN(2), d.rand.IntN(4)),
			"region":  pick(d.rand, "eu-central", "eu-west", "us-east"),
		},
	}
	data := map[string]any{
		"trace_id": fmt.Sprintf("%016x%016x", d.rand.Uint64(), d.rand.Uint64()),
		"host":     fmt.Sprintf("%s-%x-%d", s.service, 0x5c0+d.rand.IntN(3), d.rand.IntN(6)),
		"user":     map[string]any{"id": 1000 + d.rand.IntN(9000), "country": pick(d.rand, "DE", "FR", "NL", "SE", "US")},
		"request": map[string]any{
			"method":      pick(d.rand, "GET", "GET", "GET", "POST", "PUT"),
			"path":        pick(d.rand, "/cart", "/checkout", "/api/v2/orders", "/api/v2/products", "/login", "/search"),
			"duration_ms": d.millis(),
			"headers": map[string]string{
				"user-agent": pick(d.rand, "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
					"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
					"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0.0.0 Safari/537.36"),
				"accept-language": pick(d.rand, "de-DE,de;q=0.9,en;q=0.8", "en-US,en;q=0.9", "fr-FR,fr;q=0.9"),
				"x-request-id":    fmt.Sprintf("%08x-%04x-4%03x", d.rand.Uint32(), d.rand.Uint32()&0xffff, d.rand.Uint32()&0xfff),
				"x-forwarded-for": fmt.Sprintf("203.0.113.%d", d.rand.IntN(256)),
			},
		},
	}
	if s.level == "error" || s.level == "fatal" {
		e.Issue = issueOf(e.Service, e.Message)
		data["stack"] = []string{
			fmt.Sprintf("shop/%s.(*Handler).serve /src/%s/handler.go:%d", s.service, s.service, 40+d.rand.IntN(200)),
			fmt.Sprintf("shop/%s.(*Store).do /src/%s/store.go:%d", s.service, s.service, 20+d.rand.IntN(300)),
			fmt.Sprintf("shop/kit/retry.Do /src/kit/retry/retry.go:%d", 31+d.rand.IntN(9)),
			"net/http.HandlerFunc.ServeHTTP /go/src/net/http/server.go:2294",
			"net/http.(*conn).serve /go/src/net/http/server.go:2102",
		}
	}
	e.Data, _ = json.Marshal(data) // strings and numbers always encode
	return e
}

// act does something to one of the issues that are known.
func (d *demo) act(f *feed, known []issue) error {
	action := pick(d.rand, "resolve", "resolve", "reopen", "assign", "ignore")
	people := []string{"ann", "ben", "cleo", "dev"}
	i := known[d.rand.IntN(len(known))]
	_, err := f.publishAction(d.project, i.Issue, action, pick(d.rand, people...), pick(d.rand, people...))
	return err
}

var digits = regexp.MustCompile(`\d+`)

// issueOf names the issue of an event, which is the same for messages that differ in their numbers only.
func issueOf(service, message string) string {
	h := fnv.New32a()
	h.Write([]byte(service + digits.ReplaceAllString(message, "0")))
	return fmt.Sprintf("SHOP-%d", 100+h.Sum32()%900)
}

// millis returns a duration that is mostly short and sometimes long.
func (d *demo) millis() int { return int(20 + d.rand.ExpFloat64()*120) }

type place struct {
	weight int
	name   string
}

var environments = []place{{70, "production"}, {20, "staging"}, {10, "development"}}

var scenes = []scene{
	{160, "debug", "api", func(r *rand.Rand) string {
		return fmt.Sprintf("cache %s product:%d in %d µs", pick(r, "hit", "hit", "hit", "miss"), 1000+r.IntN(9000), 40+r.IntN(300))
	}},
	{90, "debug", "db", func(r *rand.Rand) string {
		return fmt.Sprintf("SELECT … FROM %s took %d ms, %d rows", pick(r, "orders", "products", "users"), 1+r.IntN(30), r.IntN(200))
	}},
	{50, "debug", "auth", func(r *rand.Rand) string { return fmt.Sprintf("session of user %d refreshed", 1000+r.IntN(9000)) }},
	{250, "info", "api", func(r *rand.Rand) string {
		return fmt.Sprintf("%s %s 200 in %d ms", pick(r, "GET", "GET", "POST"), pick(r, "/cart", "/search", "/api/v2/products", "/api/v2/orders"), 8+r.IntN(180))
	}},
	{110, "info", "checkout", func(r *rand.Rand) string {
		return fmt.Sprintf("order %d placed: %d items, %d.%02d €", 500000+r.IntN(99999), 1+r.IntN(7), 9+r.IntN(240), r.IntN(100))
	}},
	{60, "info", "worker", func(r *rand.Rand) string {
		return fmt.Sprintf("job %s done in %d ms", pick(r, "send-invoice", "resize-image", "sync-stock", "index-product"), 30+r.IntN(2000))
	}},
	{50, "info", "auth", func(r *rand.Rand) string {
		return fmt.Sprintf("user %d signed in with %s", 1000+r.IntN(9000), pick(r, "password", "passkey", "a magic link"))
	}},
	{20, "info", "deploy", func(r *rand.Rand) string { return fmt.Sprintf("instance %d of 6 healthy", 1+r.IntN(6)) }},
	{60, "warning", "api", func(r *rand.Rand) string {
		return fmt.Sprintf("slow request: GET /search took %d ms", 900+r.IntN(3000))
	}},
	{35, "warning", "payments", func(r *rand.Rand) string {
		return fmt.Sprintf("provider answered 429, retry %d of 5 in %d ms", 1+r.IntN(4), 200+r.IntN(1800))
	}},
	{25, "warning", "db", func(r *rand.Rand) string { return fmt.Sprintf("connection pool at %d of 40", 33+r.IntN(7)) }},
	{15, "warning", "auth", func(r *rand.Rand) string {
		return fmt.Sprintf("%d failed sign-ins from 203.0.113.%d", 5+r.IntN(20), r.IntN(256))
	}},
	{25, "error", "payments", func(r *rand.Rand) string {
		return fmt.Sprintf("capture of order %d failed: card declined (%s)", 500000+r.IntN(99999), pick(r, "insufficient_funds", "expired_card", "do_not_honor"))
	}},
	{20, "error", "api", func(r *rand.Rand) string {
		return fmt.Sprintf("nil pointer dereference in %s", pick(r, "cart.Total", "search.rank", "orders.ship"))
	}},
	{15, "error", "worker", func(r *rand.Rand) string {
		return fmt.Sprintf("job sync-stock failed after 5 tries: read tcp 10.0.3.%d:443: i/o timeout", r.IntN(256))
	}},
	{10, "error", "db", func(r *rand.Rand) string {
		return fmt.Sprintf("deadlock detected on %s, transaction rolled back", pick(r, "orders", "stock"))
	}},
	{3, "fatal", "worker", func(r *rand.Rand) string { return fmt.Sprintf("out of memory, killed at %d MiB", 500+r.IntN(12)) }},
	{2, "fatal", "db", func(*rand.Rand) string { return "primary lost, no replica can be promoted" }},
}

// pick returns one of values, each as likely as it is often in them.
func pick(r *rand.Rand, values ...string) string { return values[r.IntN(len(values))] }

// choose returns one of values, each as likely as its weight.
func choose[T any](r *rand.Rand, values []T, weight func(T) int) T {
	sum := 0
	for _, v := range values {
		sum += weight(v)
	}
	n := r.IntN(sum)
	for _, v := range values {
		if n -= weight(v); n < 0 {
			return v
		}
	}
	panic("unreachable")
}
