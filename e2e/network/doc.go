// Package network makes real networks of bad quality for tests: processes in network namespaces of their own, and links
// to them with a rate, a delay, a loss, and a cable that can be cut. The TCP on both ends is the kernel's, so what it does
// about all that is real: it retransmits, backs off, and fills its buffers.
//
//	func TestMain(m *testing.M) { network.Main(m, map[string]network.Program{"viewer": viewer}) }
//
//	func TestFarAway(t *testing.T) {
//		n := network.New(t) // skips where namespaces aren't permitted
//		host := n.Host("viewer")
//		link := n.Link(host, network.Quality{Delay: 50 * time.Millisecond})
//		// listen on link.Server; host.Conn tells the viewer to dial it
//	}
//
// A link is a veth pair with tc's netem on both ends where the kernel has netem, and otherwise a pair of TUN devices
// between which this package carries the packets.
//
// Nothing has a name that could be left behind: a namespace ends with its last process, a device with its namespace or
// its file, and the hosts are killed by the kernel when the test's process ends, however it ends.
//
// It needs Linux, root, the programs ip and nsenter, and tc for netem.
package network
