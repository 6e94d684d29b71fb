package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

// clientsProject is the project whose stream tells the operators' pages who is connected. No event can be posted to it:
// isName allows no @.
//
// The list is streamed rather than polled, because then a hundred operators cost one snapshot a second, and because what
// the list is about holds for the list itself: on a slow line, the newest list takes the place of the one that waits. It costs nothing while
// nobody looks.
//
// In this example, the view and the button that disconnects a client are open to everybody on 127.0.0.1. A real
// application lets operators in only: in [mesherstream.WithAuthorize] for this project, and on /clients and on the POST
// by the same session.
const clientsProject = "@clients"

// maxListed bounds the list, and with it the message. The clients that are worst off come first.
const maxListed = 200

// closedByOperator is the close code of a client that an operator disconnects. It is one of those that are left to
// applications (RFC 6455, 7.4.2).
const closedByOperator = 4000

// clientList is what the operators' pages get.
type clientList struct {
	Type    string                `json:"type"`
	Time    time.Time             `json:"time"`
	Stats   mesherstream.Stats    `json:"stats"`
	Clients []mesherstream.Client `json:"clients"`
}

// streamClients publishes the list of clients once every interval, while somebody follows it, until ctx ends.
func streamClients(ctx context.Context, m *mesherstream.Manager, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		clients := slices.Collect(m.Clients())
		isOperator := func(c mesherstream.Client) bool { return c.Project == clientsProject }
		if !slices.ContainsFunc(clients, isOperator) {
			continue
		}
		list := clientList{Type: "clients", Time: time.Now().UTC(), Stats: m.Stats(), Clients: worst(clients, maxListed)}
		data, err := json.Marshal(list)
		if err == nil {
			err = m.Broadcast(mesherstream.Message{Project: clientsProject, Key: "clients", Data: data})
		}
		if errors.Is(err, mesherstream.ErrClosed) {
			return
		}
	}
}

// worst returns the n clients that are worst off: the slow ones, then those with the most to wait for, then those that
// lost the most. It sorts in place.
func worst(clients []mesherstream.Client, n int) []mesherstream.Client {
	slices.SortFunc(clients, func(a, b mesherstream.Client) int {
		return cmp.Or(
			compareBool(b.Slow, a.Slow),
			cmp.Compare(b.Buffered, a.Buffered),
			cmp.Compare(b.Dropped, a.Dropped),
			cmp.Compare(a.ID, b.ID),
		)
	})
	return clients[:min(n, len(clients))]
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// postDisconnect closes one client. Its page says so and connects again when its reader wants it.
func postDisconnect(c *fiber.Ctx) error {
	id, err := strconv.ParseUint(c.Params("id"), 10, 64)
	if err != nil {
		return fiber.NewError(fiber.StatusBadRequest, "a client's ID is a number")
	}
	err = mesherstream.From(c).Disconnect(mesherstream.ClientID(id), closedByOperator, "disconnected by an operator")
	if err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}
