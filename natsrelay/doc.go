// Package natsrelay carries the broadcasts of mesherstream between nodes, over NATS: what is published on one node
// reaches the matching clients of all.
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
// A project has the subject mesherstream.project.NAME, in which every byte of the name but letters, digits, - and _ is
// percent-encoded: one token, whatever the name is. A name that would be longer than 384 bytes then is replaced by + and its
// SHA-256. What has no project goes to mesherstream.all. [WithPrefix] replaces mesherstream.
//
// A message is the data of a [mesherstream.Message], with its other fields in headers: Level, Environment, Key, Binary,
// and Node and Seq, which tell where it comes from. All may be missing, so any program can publish; with a Node, it must
// count Seq up:
//
//	nats pub mesherstream.project.shop '{"sold":1}' -H Level:info
//
// Whoever may publish to these subjects may publish to every client: give NATS accounts or permissions. A node needs the
// permission to publish and to subscribe to both subjects.
//
// # The connection
//
// It stays the caller's, who sets how it reconnects and closes it after the manager's shutdown, and may share it with
// other managers and other uses. It needs MaxReconnects(-1), or NATS is given up for ever after two minutes. Without
// NoEcho the server sends a node also what it has published itself, to projects that it follows, and the node discards
// that; two managers that share a connection need it that way, or they would not hear each other. NATS 2.2 or later.
//
// # When NATS refuses something
//
// NATS tells only the connection's error handler what it refuses. So the relay puts a handler of its own before the
// application's, which is called as before. An application that sets its handler after [New] keeps it too, but what is
// refused within the second after that may not be noticed.
//
// If a node may not subscribe to a project, now or no longer, or an account allows no more subscriptions, the manager's
// Stats say so by RelayAway and RelayUnfollowed, and the log says why. The subscription is tried again until it is in
// force: every second by the manager if it never was, and after 250 ms to 5 s by the relay if NATS has refused it later.
//
// A message that NATS refuses because of its subject counts as dropped and not as published, exactly, for the manager that
// published it. A message that is on its way when a connection breaks counts as dropped although it may have arrived.
// A message that is longer than max_payload is an error of Publish. If the server's limit has been lowered meanwhile, or
// the connection has gone to a server with a lower one, the message makes the server end the connection, and the NATS
// client then closes it for good. The longest message on its way counts as the one that was too long, and all that
// followed it are dropped. The client also closes a connection whose user has been refused twice, unless it has
// nats.IgnoreAuthErrorAbort. RelayAway is true from then on, and the log says that the connection doesn't come back:
// have nats.ClosedHandler end the process, or make a new connection and a new manager.
//
// A server that finds a node too slow ends its connection without saying so. That and every other break counts in
// RelayBreaks, and the log tells it even if the connection is back at once.
//
// # When NATS is away
//
// Local streaming goes on; the manager logs it once and tells it in its Stats. What is published meanwhile waits in the
// connection's reconnect buffer (8 MiB unless its options say otherwise), goes out late, or is counted as dropped beyond
// that; before the connection has been made for the first time, all of it is dropped. What others publish meanwhile is
// missed. The connection subscribes again by itself.
//
// A server that is stopped, or behind a cut cable, is noticed when the connection misses its pongs, which by default are
// asked for every two minutes; nats.PingInterval and nats.FlusherTimeout make it sooner.
package natsrelay
