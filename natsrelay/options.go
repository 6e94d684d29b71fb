package natsrelay

import (
	"fmt"
	"regexp"
)

// Option configures a [Relay]. A later option wins over an earlier one of the same name, and a nil Option is skipped.
type Option func(*config)

type config struct {
	prefix  string
	pending int
}

func defaultConfig() config {
	return config{prefix: "mesherstream", pending: 8 << 10}
}

// WithPrefix sets the prefix of the subjects, overriding the default "mesherstream". Nodes with different prefixes
// don't receive each other's messages, unless one prefix is the other followed by ".project". A prefix consists of one
// or more tokens of letters, digits, - and _, separated by dots, and has at most 128 bytes.
func WithPrefix(prefix string) Option {
	return func(c *config) { c.prefix = prefix }
}

// WithPending sets the maximum number of messages of other nodes that wait for this node's CPU, over all projects,
// overriding the default of 8,192. Beyond it, the NATS client drops the newest messages, and they count as missed. From
// 1 to 1,000,000.
func WithPending(messages int) Option {
	return func(c *config) { c.pending = messages }
}

var prefixPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

func (c *config) validate() error {
	if len(c.prefix) > 128 || !prefixPattern.MatchString(c.prefix) {
		return fmt.Errorf("natsrelay: WithPrefix(%q): must be tokens of letters, digits, - and _, separated by dots, of at most 128 bytes", c.prefix)
	}
	if c.pending < 1 || c.pending > 1_000_000 {
		return fmt.Errorf("natsrelay: WithPending(%d): must be from 1 to 1000000", c.pending)
	}
	return nil
}
