//go:build linux

package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge"
	"github.com/gorilla/websocket"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// centrifugeServer is a node whose clients are unidirectional: subscribed by the server when they connect, to one channel, or
// where clients have filters to one channel for every combination of project, level and environment that they want.
type centrifugeServer struct {
	node     *centrifuge.Node
	filtered bool
	upgrader websocket.Upgrader
}

const centrifugeChannel = "events"

// centrifugeKey finds a client's subscription in the context that it connects with.
type centrifugeKey struct{}

func newCentrifuge(c harness.Config) (harness.Server, error) {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return nil, err
	}
	s := &centrifugeServer{node: node, filtered: c.Filtered}
	node.OnConnecting(func(ctx context.Context, _ centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		subscriptions := make(map[string]centrifuge.SubscribeOptions)
		for _, channel := range s.channels(ctx.Value(centrifugeKey{}).(feed.Subscription)) {
			subscriptions[channel] = centrifuge.SubscribeOptions{}
		}
		return centrifuge.ConnectReply{
			Credentials:   &centrifuge.Credentials{UserID: ""},
			Subscriptions: subscriptions,
		}, nil
	})
	return s, node.Run()
}

// channels returns what a client subscribes to.
func (s *centrifugeServer) channels(sub feed.Subscription) []string {
	if !s.filtered {
		return []string{centrifugeChannel}
	}
	var channels []string
	for level := range strings.SplitSeq("debug info warning error", " ") {
		for environment := range strings.SplitSeq("production staging development", " ") {
			e := feed.Event{Project: sub.Project, Level: level, Environment: environment}
			if sub.Wants(&e) {
				channels = append(channels, channelOf(&e))
			}
		}
	}
	return channels
}

func channelOf(e *feed.Event) string { return e.Project + ":" + e.Level + ":" + e.Environment }

func (s *centrifugeServer) Broadcast(e feed.Event) {
	channel := centrifugeChannel
	if s.filtered {
		channel = channelOf(&e)
	}
	_, _ = s.node.Publish(channel, bytes.Clone(e.Data))
}

// Clients counts those whose subscriptions are in place.
func (s *centrifugeServer) Clients() int {
	if !s.filtered {
		return s.node.Hub().NumSubscribers(centrifugeChannel)
	}
	return s.node.Hub().NumClients()
}

func (s *centrifugeServer) Serve(listener net.Listener) error {
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := s.upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		go s.read(conn, feed.SubscriptionOf(r.RequestURI))
	}))
}

func (s *centrifugeServer) read(conn *websocket.Conn, sub feed.Subscription) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), centrifugeKey{}, sub))
	defer cancel()
	client, closeClient, err := centrifuge.NewClient(ctx, s.node, &centrifugeTransport{conn: conn})
	if err != nil {
		return
	}
	defer func() { _ = closeClient() }()
	client.Connect(centrifuge.ConnectRequest{})
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			return
		}
	}
}

// centrifugeTransport carries centrifuge's JSON protocol to one client. Write and WriteMany are called by one goroutine at a time.
type centrifugeTransport struct {
	conn    *websocket.Conn
	scratch []byte
}

func (t *centrifugeTransport) Name() string                      { return "websocket" }
func (t *centrifugeTransport) AcceptProtocol() string            { return "" }
func (t *centrifugeTransport) Protocol() centrifuge.ProtocolType { return centrifuge.ProtocolTypeJSON }

func (t *centrifugeTransport) ProtocolVersion() centrifuge.ProtocolVersion {
	return centrifuge.ProtocolVersion2
}
func (t *centrifugeTransport) Unidirectional() bool      { return true }
func (t *centrifugeTransport) Emulation() bool           { return false }
func (t *centrifugeTransport) DisabledPushFlags() uint64 { return centrifuge.PushFlagDisconnect }
func (t *centrifugeTransport) PingPongConfig() centrifuge.PingPongConfig {
	return centrifuge.PingPongConfig{PingInterval: 25 * time.Second}
}

func (t *centrifugeTransport) Write(message []byte) error {
	_ = t.conn.SetWriteDeadline(time.Now().Add(time.Second)) // the deadline of its own websocket handler
	return t.conn.WriteMessage(websocket.TextMessage, message)
}

// WriteMany joins messages as the protocol's JSON encoder does, a line each.
func (t *centrifugeTransport) WriteMany(messages ...[]byte) error {
	t.scratch = t.scratch[:0]
	for i, message := range messages {
		if i > 0 {
			t.scratch = append(t.scratch, '\n')
		}
		t.scratch = append(t.scratch, message...)
	}
	return t.Write(t.scratch)
}

func (t *centrifugeTransport) Close(d centrifuge.Disconnect) error {
	frame := websocket.FormatCloseMessage(int(d.Code), d.Reason)
	_ = t.conn.WriteControl(websocket.CloseMessage, frame, time.Now().Add(time.Second))
	return t.conn.Close()
}
