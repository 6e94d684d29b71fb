// Package mesherstream streams events to browsers over WebSocket from a Fiber v2 app, and stays correct when some of
// those browsers are slow: a slow one never delays another, never blocks the publisher, never grows memory without
// bound, and is told what it missed.
//
//	app := fiber.New()
//	app.Use(mesherstream.New(mesherstream.WithApp(app), mesherstream.WithMaxBuffer(100)))
//	app.Post("/api/v1/events", func(c *fiber.Ctx) error {
//		return mesherstream.From(c).Broadcast(mesherstream.Message{
//			Project: "shop", Level: "error", Environment: "production", Data: c.Body(),
//		})
//	})
//	log.Fatal(app.Listen(":3000"))
//
// A browser connects to /stream/projects/shop, and may narrow what it gets: by the query, ?level=error,fatal, and at any
// time over the wire, by {"type":"subscribe","filters":{"level":"error"}}. A module that does all of it, and connects
// again, is served at /stream/projects/mesherstream.js.
//
// # Delivery
//
// [Manager.Broadcast] hands a message to every client whose subscription it matches: at once where the connection takes
// it, and otherwise into that client's buffer. [Manager.BufferMessage] puts one into one client's buffer, from where it
// goes out with the next drain. Delivery is at most once: a message that the kernel has taken may still be lost with the
// connection.
//
// A WebSocket is open a moment before the client is known here. A page that fetches a state and then applies the stream to
// it waits for the hello of [Protocol], or sends a subscribe first: its answer says that the stream has begun.
//
// # Ordering
//
// Each client gets the messages that one goroutine publishes in the order of its calls, whether they were buffered or
// not. Every message behind the answer to a change of its filter passes the new one. Messages that different goroutines
// publish at the same time may reach two clients in different orders.
//
// # Slow clients
//
// What a client does not take waits in its buffer, which [WithMaxBuffer] and [WithMaxBufferBytes] bound. Beyond that the
// oldest messages are dropped and counted, so a client that comes back gets the newest; [WithOverflow],
// [WithKeepLevels] and the Key of a [Message] choose others. What is on its way already arrives before that:
// [WithUnsentLimit] bounds this end's share of it, and for a client that has agreed on [Protocol], [WithWindow] bounds all
// of it. Such a client is also told of each gap, in its place. A client that makes no progress and sends nothing for
// [WithIdleTimeout] is removed.
//
// # Concurrency
//
// All methods of a [Manager] are safe for concurrent use. Clients are dealt among as many shards as GOMAXPROCS says; each
// is one goroutine that owns its clients and never waits for any of them. [Hooks] run beside the shards.
//
// # Many nodes
//
// With [WithRelay], a broadcast on one node reaches the matching clients of all nodes; without, those of its own process.
// Package natsrelay has a [Relay] over NATS. Local clients get it at once, the others through the relay: each at most once,
// and what one node publishes to one project in order. A node gets only the projects that its own clients follow. Where
// the relay is away, local streaming goes on.
//
// # Shutdown
//
// With [WithApp], shutting down the app flushes the buffers, closes every client with code 1001 and ends every goroutine,
// within [WithShutdownTimeout]. Fiber itself neither waits for WebSockets nor closes them. Without it, call
// [Manager.Shutdown].
//
// # Observability
//
// [Manager.Stats] and [Manager.Client] return numbers that agree:
//
//	Offered == Sent + Dropped + Abandoned + Filtered + Conflated + Buffered
package mesherstream
