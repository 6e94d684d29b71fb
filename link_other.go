//go:build !linux

package mesherstream

import "github.com/gofiber/contrib/websocket"

// poller is for the links of other systems.
type poller struct{}

func (*poller) close() {}

// connect gives the client its link, and returns what its handler has to do: to stay as long as the client does.
func (c *client) connect(conn *websocket.Conn) (stay func()) { return c.connectPortably(conn) }
