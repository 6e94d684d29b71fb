// Package natsrelay carries the broadcasts of mesherstream between nodes over NATS: a message published on one node
// reaches the matching clients of all nodes.
//
//	conn, err := nats.Connect("nats://nats:4222", nats.NoEcho(), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true))
//	if err != nil {
//		log.Fatal(err)
//	}
//	app := fiber.New()
//	app.Use(mesherstream.New(mesherstream.WithApp(app), mesherstream.WithRelay(natsrelay.New(conn))))
//
// # Subjects
//
// A project has the subject mesherstream.project.NAME. NAME is the project's name, in which every byte except letters,
// digits, - and _ is percent-encoded. So it is one token, whatever the name is. If the encoded name would be longer
// than 384 bytes, a + and the SHA-256 of the name replace it. Messages without a project use the subject
// mesherstream.all. [WithPrefix] replaces mesherstream.
//
// The data of a NATS message is the data of a [mesherstream.Message]. Its other fields are headers: Level, Environment,
// Key and Binary. The headers Node and Seq name the origin. All headers are optional, so any program can publish. A
// program that sets Node must count Seq up:
//
//	nats pub mesherstream.project.shop '{"sold":1}' -H Level:info
//
// A program that may publish to these subjects may publish to every client: give NATS accounts or permissions. A node
// needs the permission to publish and to subscribe to both subjects.
//
// # The connection
//
// The connection remains the caller's. The caller decides how it reconnects, and closes it after the manager's
// shutdown. Other managers and other code may share it.
//
// The connection needs MaxReconnects(-1). Otherwise the NATS client gives up permanently after two minutes. Without
// NoEcho, the server also returns a node's own messages for the projects it follows, and the node discards them. Two
// managers that share a connection must not set NoEcho, or neither receives the other's messages. The server must be
// NATS 2.2 or later.
//
// # When NATS refuses something
//
// NATS reports a refusal only to the connection's error handler. So the relay installs its own handler before the
// application's, which is still called. An application may also set its handler after [New]. In that case, refusals
// within the next second may go unnoticed.
//
// NATS may refuse a node a subscription to a project, from the start or later, or the account may allow no more
// subscriptions. Then RelayAway and RelayUnfollowed in the manager's Stats report this, and the log gives the reason.
// The subscription is retried until it is active: by the manager every second if it never was, or by the relay after
// 250 ms to 5 s if NATS refused it later.
//
// A message that NATS refuses because of its subject counts as dropped rather than published, for exactly the manager
// that published it. A message that is in flight when a connection breaks counts as dropped, although it may have
// arrived.
//
// Publish returns an error for a message longer than max_payload. It can't do so if the server's limit has been lowered
// meanwhile, or if the connection has moved to a server with a lower limit. The message then makes the server end the
// connection, and the NATS client closes it permanently. The longest message in flight is taken for the one that was
// too long. It and all later messages count as dropped.
//
// The client also closes a connection permanently if its user has been refused twice, unless it has
// nats.IgnoreAuthErrorAbort. From then on RelayAway is true, and the log says that the connection is closed
// permanently. Either have nats.ClosedHandler end the process, or create a new connection and a new manager.
//
// A server that finds a node too slow ends its connection without giving a reason. Like every other break, this counts
// in RelayBreaks, and is logged even if the connection is restored immediately.
//
// # When NATS is unavailable
//
// Local streaming continues. The manager logs the outage once, and reports it in its Stats. Messages published
// meanwhile wait in the connection's reconnect buffer (8 MiB unless its options say otherwise) and are sent late.
// Messages that exceed the buffer count as dropped. Until the connection has been established for the first time, all
// messages count as dropped. Messages that other nodes publish meanwhile are missed. The connection subscribes again by
// itself.
//
// A stopped server or a cut cable is detected when the connection misses its pongs. By default the client sends a ping
// every two minutes. nats.PingInterval and nats.FlusherTimeout shorten the detection.
package natsrelay
