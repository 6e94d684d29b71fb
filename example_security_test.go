package mesherstream_test

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	fws "github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

// An app that strangers can reach, behind a proxy, under the usual limit of 1,024 descriptors.
func Example_strangers() {
	app := fiber.New(fiber.Config{
		DisableStartupMessage:   true,
		ReadTimeout:             10 * time.Second, // ends handshakes that are never finished
		Concurrency:             400,              // connections that are no streams
		EnableTrustedProxyCheck: true,
		TrustedProxies:          []string{"127.0.0.1"},
		ProxyHeader:             "X-Real-Ip", // which the proxy overwrites
	})
	hosts := []string{"app.test"}
	app.Use(mesherstream.New(
		mesherstream.WithApp(app),
		mesherstream.WithMaxClients(400), // and those that are
		mesherstream.WithMaxClientsPerIP(20),
		mesherstream.WithAuthorize(func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
			if !slices.Contains(hosts, string(c.Request().Header.Host())) {
				return fiber.ErrMisdirectedRequest // a name that somebody else has pointed here
			}
			if c.Cookies("session") != "of-"+sub.Project {
				return fiber.ErrUnauthorized
			}
			return nil
		}),
	))
	s := serve(app)
	defer s.stop()

	ask := func(host, cookie string) {
		header := http.Header{"Host": {host}, "Cookie": {"session=" + cookie}, "X-Real-Ip": {"192.0.2.1"}}
		ws, resp, err := fws.DefaultDialer.Dial("ws://"+s.addr+"/stream/projects/shop", header)
		if err == nil {
			s.clients = append(s.clients, ws)
		}
		fmt.Println(resp.Status)
	}
	ask("evil.test", "of-shop")
	ask("app.test", "of-blog")
	ask("app.test", "of-shop")
	// Output:
	// 421 Misdirected Request
	// 401 Unauthorized
	// 101 Switching Protocols
}
