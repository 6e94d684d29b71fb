package network

import (
	"fmt"
	"net/netip"
	"strconv"
	"sync/atomic"
)

// Link connects the test's process with one host.
type Link struct {
	Server netip.Addr // of the test's end
	Client netip.Addr // of the host's end

	n    *Network
	host *Host
	ends [2]string // the names of the devices
	set  func(Quality) error
}

// links counts the links of the process. Each has a number of its own, which is in the names of its devices and in its
// addresses.
var links atomic.Uint32

// Wire gives the host a link that is as good as the machine, and stays so: a veth pair.
func (n *Network) Wire(h *Host) *Link {
	n.t.Helper()
	l := n.newLink(h)
	l.must(l.layVeth())
	l.must(l.address())
	return l
}

// Link gives the host a link of that quality.
func (n *Network) Link(h *Host, q Quality) *Link {
	n.t.Helper()
	if netemErr != nil {
		return n.tunLink(h, q)
	}
	return n.netemLink(h, q)
}

// Set changes the quality of a link that [Network.Link] made. What is on its way keeps its pace, unless the cable is cut.
func (l *Link) Set(q Quality) {
	l.n.t.Helper()
	l.must(l.set(q))
}

func (n *Network) newLink(h *Host) *Link {
	number := links.Add(1)
	name := strconv.FormatUint(uint64(number), 10)
	address := func(host uint32) netip.Addr {
		a := 10<<24 | number<<2 | host
		return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
	}
	return &Link{n: n, host: h, Server: address(1), Client: address(2), ends: [2]string{"server" + name, "client" + name}}
}

// must ends the test where a link can't be made.
func (l *Link) must(err error) {
	if err != nil {
		l.n.t.Helper()
		l.n.t.Fatalf("link %s: %v", l.Client, err)
	}
}

// layVeth makes the devices, with the second one in the host's namespace. They end with the host.
func (l *Link) layVeth() error {
	return run("ip", "link", "add", l.ends[0], "type", "veth", "peer", "name", l.ends[1], "netns", l.host.path())
}

// address gives both ends their addresses and brings them up.
func (l *Link) address() error {
	for end, addrs := range [2][2]netip.Addr{{l.Server, l.Client}, {l.Client, l.Server}} {
		for _, args := range [][]string{
			{"ip", "link", "set", l.ends[end], "mtu", fmt.Sprint(mtu)},
			{"ip", "addr", "add", addrs[0].String(), "peer", addrs[1].String(), "dev", l.ends[end]},
			{"ip", "link", "set", l.ends[end], "up"},
		} {
			if err := l.run(end, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// run runs a program in the namespace of an end.
func (l *Link) run(end int, args ...string) error {
	if end == 1 {
		args = append([]string{"nsenter", "--net=" + l.host.path()}, args...)
	}
	return run(args...)
}
