// Package pace has viewers of a stream that handle its messages at a pace of their own: pages, which are Node with the
// official client, and plain clients, which know nothing of the protocol. It tells how old the messages were that they
// handled, and whether they were told of the ones they missed.
package pace
