package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestAnEventPostedToOneNodeArrivesAtTheOther(t *testing.T) {
	ports := []string{streamtest.FreePort(t), streamtest.FreePort(t)}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, ports, "") }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: got %v, want nil", err)
		}
	}()

	var sockets []*websocket.Conn
	for _, port := range ports {
		ws := dial(t, port)
		defer ws.Close()
		if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","filters":{"level":"error"}}`)); err != nil {
			t.Fatal(err)
		}
		waitFor(t, ws, "filters_updated")
		sockets = append(sockets, ws)
	}
	for i, port := range ports {
		for _, level := range []string{"info", "error"} {
			resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%s/events/%s", port, level), "text/plain", strings.NewReader("it broke"))
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("post to %s: %v, %v", port, resp, err)
			}
			_ = resp.Body.Close()
		}
		for _, ws := range sockets {
			if got, want := waitFor(t, ws, "it broke"), "node "+port+", error: it broke"; got != want {
				t.Errorf("posted to node %d: got %q, want %q", i, got, want)
			}
		}
	}
	resp, err := http.Get("http://127.0.0.1:" + ports[0] + "/")
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		t.Errorf("the page: got %v, %v, want 200 and HTML", resp, err)
	}
	_ = resp.Body.Close()
}

// dial tries until the node listens.
func dial(t *testing.T, port string) *websocket.Conn {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ws, _, err := websocket.DefaultDialer.Dial("ws://127.0.0.1:"+port+"/stream/projects/demo", nil)
		if err == nil {
			return ws
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// waitFor reads until a message has text in it.
func waitFor(t *testing.T, ws *websocket.Conn, text string) string {
	t.Helper()
	_ = ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		_, data, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("no %q: %v", text, err)
		}
		if strings.Contains(string(data), text) {
			return string(data)
		}
	}
}
