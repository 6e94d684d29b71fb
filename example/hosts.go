package main

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// hosts are the names that this server answers to, in lower case and without a port.
//
// The pages ask for no login, so whoever reaches them may read everything and post. A page of a stranger can't, because
// it is of another origin, unless the name of its own server begins to stand for this address (DNS rebinding): then the
// browser takes the two for one origin, and only the name that it asks for tells them apart.
type hosts []string

// localhost are the names of this machine that nobody else can be given.
var localhost = hosts{"localhost", "127.0.0.1", "::1"}

var (
	isHostName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`).MatchString
	isPort     = regexp.MustCompile(`^[0-9]{1,5}$`).MatchString
)

// Set adds the names of one -host, between commas. A port doesn't matter and is left out.
func (h *hosts) Set(list string) error {
	for name := range strings.SplitSeq(list, ",") {
		host, ok := parseHost(strings.TrimSpace(name))
		if !ok {
			return fmt.Errorf("%q isn't a host name or an IP address, such as dash.example.com or 192.0.2.7", name)
		}
		*h = append(*h, host)
	}
	return nil
}

func (h *hosts) String() string { return strings.Join(*h, ",") }

// parseHost returns the name in a Host header, without its port, in the one way that it is compared in.
func parseHost(s string) (host string, ok bool) {
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && ip.Zone() == "" {
		return ip.Unmap().String(), !strings.ContainsAny(s, "[]") || ip.Is6() && s[0] == '[' && strings.Count(s, "]") == 1 && s[len(s)-1] == ']'
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		if !isPort(s[i+1:]) || strings.Contains(s[:i], ":") && !strings.HasSuffix(s[:i], "]") {
			return "", false
		}
		if ip, err := netip.ParseAddr(strings.Trim(s[:i], "[]")); err == nil && ip.Zone() == "" && (ip.Is4() || s[0] == '[') {
			return ip.Unmap().String(), true
		}
		s = s[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(s, "."))
	return host, len(host) <= 253 && isHostName(host)
}

// check refuses requests that ask for another host. It stands before everything else, the stream too.
func (h hosts) check(c *fiber.Ctx) error {
	asked := string(c.Request().Header.Host())
	host, ok := parseHost(asked)
	if ok && slices.Contains(h, host) {
		return c.Next()
	}
	if !ok {
		return fiber.NewError(fiber.StatusMisdirectedRequest, "the Host header isn't a valid host name, so this server doesn't answer")
	}
	return fiber.NewError(fiber.StatusMisdirectedRequest,
		fmt.Sprintf("this server doesn't answer requests for the host %s; to allow them, start it with -host %s", host, host))
}

// hostsFor returns the names for an address to listen on: those of localhost, the given ones, and the one in the address
// if there is one. The first is the best for a link. The advice is for an address that others can reach by no name.
func hostsFor(addr string, given hosts) (all hosts, link, advice string, err error) {
	name, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, "", "", fmt.Errorf("-addr must be a host and a port, such as 127.0.0.1:3000, but is %q", addr)
	}
	all = slices.Concat(given, localhost)
	ip, _ := netip.ParseAddr(name)
	everywhere := name == "" || ip.IsUnspecified()
	if host, ok := parseHost(name); ok && !everywhere {
		all = append(all, host)
		return all, host, "", nil
	}
	if len(given) > 0 {
		return all, given[0], "", nil
	}
	return all, "localhost", "requests from other machines will be refused, because this server answers only for localhost; " +
		"add the name or address that they use, such as -host dash.example.com or -host 192.0.2.7", nil
}
