package mesherstream

import "time"

// What a client may ask of its shard: so many requests at once, and so many more for each second since it connected, of
// which it saves those of a minute at most. Over that, it is closed with code 1008.
//
// A count of what comes within a second would not do. The network, or this process, may stand still, and then what a
// client has sent at its pace for half a minute is read at once. The savings are what such a client has not used
// meanwhile. They don't add to what a client costs in the long run, and since a turn of the shard reads one request of
// each client, nobody waits for more than one of them.
const (
	maxRequestsPerSecond = 20
	maxRequestsSaved     = 60 * maxRequestsPerSecond

	requestPrice = time.Second / maxRequestsPerSecond
	mostSaved    = maxRequestsSaved * requestPrice
	savedAtFirst = time.Second
)

// pay charges the client for a request, and returns false if it can't pay. Time is the money: each client earns what
// passes, and a request costs a twentieth of a second.
func (c *client) pay(now time.Time) bool {
	earned := now.Sub(c.connectedAt) // on the monotonic clock
	paid := max(c.paid, earned-(mostSaved-savedAtFirst))
	if paid-earned > savedAtFirst-requestPrice {
		return false
	}
	c.paid = paid + requestPrice
	return true
}
