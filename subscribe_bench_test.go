//go:build !race

package mesherstream

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// BenchmarkSubscribe is the price of a request: from its bytes to the answer's, with the change of the client's group.
func BenchmarkSubscribe(b *testing.B) {
	largest := func(first int) []byte {
		list := func(first int) string {
			var values []string
			for i := range 16 {
				values = append(values, fmt.Sprintf("%q", fmt.Sprintf("%02d%s", (first+7*i)%99, strings.Repeat("v", 62))))
			}
			return strings.Join(values, ",")
		}
		return fmt.Appendf(nil, `{"type":"subscribe","filters":{"level":[%s],"environment":[%s]}}`, list(first), list(first+50))
	}
	for name, requests := range map[string][2][]byte{
		"values=1":     {[]byte(`{"type":"subscribe","filters":{"level":"error"}}`), []byte(`{"type":"subscribe","filters":{"level":"fatal"}}`)},
		"values=16+16": {largest(1), largest(2)},
		"refused":      {[]byte(`{"type":"subscribe","filter":{}}`), []byte(strings.Repeat("[", 4000))},
	} {
		b.Run(name, func(b *testing.B) {
			s := newTestShard(b, 1, sink{})
			var c *client
			for _, member := range s.members {
				c = member
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				atPace(c)
				c.received(wsframe.OpText, requests[i%2])
			}
			if c.phase != phaseOpen {
				b.Fatal("the client was closed")
			}
		})
	}
}

// atPace lets the client ask again at once.
func atPace(c *client) { c.paid = 0 }
