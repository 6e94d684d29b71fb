package network

// netemErr is why links can't be made with netem, or nil.
var netemErr error

func tryNetem() error {
	if err := run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1us"); err != nil {
		return err
	}
	return run("tc", "qdisc", "del", "dev", "lo", "root")
}

// netemLink makes a veth pair whose ends send through netem.
func (n *Network) netemLink(h *Host, q Quality) *Link {
	n.t.Helper()
	l := n.newLink(h)
	l.must(l.layVeth())
	l.set = func(q Quality) error {
		for end, name := range l.ends {
			if err := l.run(end, append([]string{"tc", "qdisc", "replace", "dev", name, "root"}, q.netem()...)...); err != nil {
				return err
			}
		}
		return nil
	}
	l.must(l.set(q))
	// Without this, the kernel cuts the segments behind the device, and netem would lose 64 KiB at a time.
	for end, name := range l.ends {
		l.must(l.run(end, "ip", "link", "set", name, "gso_max_segs", "1"))
	}
	l.must(l.address())
	return l
}
