// Package feed says what is published in a run and who must get it, so that the load client can tell a lost message from one that
// was never meant for it without asking the server.
package feed

import (
	"net/url"
	"strings"
)

// PathPrefix is the path that every server under test listens on; the project's name is the one segment behind it.
const PathPrefix = "/stream/projects/"

// Event is one published message. Data belongs to the publisher again when Broadcast returns.
type Event struct {
	Project, Level, Environment string
	Data                        []byte
}

// Subscription is what one client wants. An empty level or environment accepts all.
type Subscription struct {
	Project, Level, Environment string
}

// Wants reports whether a client with this subscription must get the event.
func (s *Subscription) Wants(e *Event) bool {
	return s.Project == e.Project &&
		(s.Level == "" || s.Level == e.Level) &&
		(s.Environment == "" || s.Environment == e.Environment)
}

// URI returns the request target that asks a server for this subscription.
func (s *Subscription) URI() string {
	uri := PathPrefix + s.Project
	query := url.Values{}
	if s.Level != "" {
		query.Set("level", s.Level)
	}
	if s.Environment != "" {
		query.Set("environment", s.Environment)
	}
	if len(query) > 0 {
		uri += "?" + query.Encode()
	}
	return uri
}

// SubscriptionOf is the reverse of [Subscription.URI]. It copies what it keeps.
func SubscriptionOf(uri string) Subscription {
	u, err := url.ParseRequestURI(strings.Clone(uri))
	if err != nil {
		return Subscription{}
	}
	query := u.Query()
	return Subscription{
		Project:     strings.TrimPrefix(u.Path, PathPrefix),
		Level:       query.Get("level"),
		Environment: query.Get("environment"),
	}
}
