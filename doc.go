// Package mesherstream streams events to browsers over WebSocket from a Fiber v2 app, and stays correct when some of
// those browsers are slow. A slow browser never delays another one, never blocks the publisher and never grows memory
// without bound, and it is told what it missed.
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
// A browser connects to /stream/projects/shop. It may narrow the messages that it receives: in the query, with
// ?level=error,fatal, and at any time over the wire, with {"type":"subscribe","filters":{"level":"error"}}. A
// JavaScript module that does all of this, and reconnects, is served at /stream/projects/mesherstream.js.
//
// # Delivery
//
// [Manager.Broadcast] delivers a message to every client whose subscription it matches. If the client's connection
// accepts the message, it is sent immediately; otherwise it is put into that client's buffer. [WithCoalescing] trades
// some of that speed for fewer system calls. [Manager.BufferMessage] puts a message into one client's buffer, and the
// next drain sends it. Nothing is delivered twice, except that an EventSource that returns may receive the events after
// its last ID again. A message that the kernel has accepted may still be lost with the connection: a client of [Protocol]
// that returns then receives it from the history, or is told that it is missing. For any other client over a WebSocket,
// and for what BufferMessage sends, it is lost.
//
// A WebSocket is open a moment before the client is known here. A page that loads a state and then applies the stream
// to it should first wait for the hello message of [Protocol] or, without the protocol, for the reply to a subscribe.
// Either means that the stream has begun.
//
// # Ordering
//
// Each client receives the messages that one goroutine publishes in the order of its calls, whether they were buffered
// or not. All clients of a manager receive the messages of one project in one order, whoever publishes them, other nodes
// included. Messages to all projects have their place in it. Every message after the reply to a filter change matches
// the new filter.
//
// # Slow clients
//
// Messages that a client does not accept are kept in its buffer, which is bounded by [WithMaxBuffer] and
// [WithMaxBufferBytes]. When the buffer is full, the oldest messages are dropped and counted, so a client that catches
// up receives the newest ones. [WithOverflow], [WithKeepLevels] and the Key of a [Message] change which messages are
// dropped.
//
// Messages already in flight arrive first. [WithUnsentLimit] bounds how many bytes of them the server's kernel holds;
// with [Protocol], [WithWindow] bounds them all. A client that has agreed on the protocol, or streams over plain HTTP, is
// also told of each gap, at its place in the stream. A client that makes no progress and sends nothing for
// [WithIdleTimeout] is removed.
//
// # Concurrency
//
// All methods of a [Manager] are safe for concurrent use. Clients are spread over GOMAXPROCS shards. A shard is a
// goroutine that owns its clients and never waits for one. [Hooks] run on goroutines of their own.
//
// # Many nodes
//
// Without a relay, a broadcast reaches the matching clients of its own process. With [WithRelay], it reaches those of
// all nodes. Package natsrelay has a [Relay] over NATS. Local clients receive a broadcast directly, all others through
// the relay: at most once, and in order for each publishing node and project. A node receives only the projects that
// its own clients follow. While the relay is unavailable, local streaming continues.
//
// # Shutdown
//
// With [WithApp], shutting down the app flushes the buffers, closes every client with code 1001 and ends every
// goroutine, within [WithShutdownTimeout]. Fiber itself neither waits for WebSockets nor closes them. Without WithApp,
// call [Manager.Shutdown].
//
// # Observability
//
// [Manager.Stats] and [Manager.Client] return numbers that agree:
//
//	Offered == Sent + Dropped + Abandoned + Filtered + Conflated + Buffered
//
// Age of a [Client] and Ages of the [Stats] say how old messages were when clients of [Protocol] had handled them.
package mesherstream
