//go:build linux

package main

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/centrifugal/centrifuge"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// centrifugeSSE is the node of centrifugeServer with centrifuge's own handler of Server-Sent Events.
type centrifugeSSE struct {
	*centrifugeServer
}

func newCentrifugeSSE(c harness.Config) (harness.Server, error) {
	s, err := newCentrifuge(c)
	if err != nil {
		return nil, err
	}
	return &centrifugeSSE{s.(*centrifugeServer)}, nil
}

func (s *centrifugeSSE) Serve(listener net.Listener) error {
	handler := centrifuge.NewSSEHandler(s.node, centrifuge.SSEConfig{
		// No client of this benchmark answers pings by requests of their own.
		PingPongConfig: centrifuge.PingPongConfig{PingInterval: 25 * time.Second, PongTimeout: -1},
	})
	connect := url.Values{"cf_connect": {`{"id":1,"connect":{}}`}}.Encode()
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(context.WithValue(r.Context(), centrifugeKey{}, feed.SubscriptionOf(r.RequestURI)))
		r.URL.RawQuery = connect
		handler.ServeHTTP(w, r)
	}))
}
