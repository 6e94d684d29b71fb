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
// Whoever may publish to these subjects may publish to every client: give NATS accounts or permissions.
//
// # The connection
//
// It stays the caller's, who sets how it reconnects and closes it after the manager's shutdown, and may share it with
// other managers and other uses. It needs MaxReconnects(-1), or NATS is given up for ever after two minutes. Without
// NoEcho the server sends a node also what it has published itself, to projects that it follows, and the node discards
// that; two managers that share a connection need it that way, or they would not hear each other. NATS 2.2 or later.
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
