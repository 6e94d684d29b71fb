// Package tcpproxy is a TCP proxy of which a test says how badly it forwards. A test gives each connection its fate when
// it is accepted, or later:
//
//	p := tcpproxy.New(t, server)
//	p.OnAccept(func(c *tcpproxy.Conn) { c.Down.CutAfter(1000, tcpproxy.Reset) })
//	// dial p.Addr()
//	p.Refuse(tcpproxy.Reset) // cuts all connections, and each new one, as a proxy does that restarts
//	p.Accept()
//
// It forwards bytes unchanged and in order, and knows nothing about them. Up is the direction from the client to the
// server, and Down the other one. All methods are safe for concurrent use, and none blocks.
package tcpproxy
