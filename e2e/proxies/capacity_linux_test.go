package proxies

import (
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestAStreamTakesAThreadOfApacheUntilItEnds(t *testing.T) {
	t.Parallel()
	const threads = 2
	apache := *byName(t, "Apache")
	apache.need(t)
	apache.around = "ServerLimit 1\nStartServers 1\nMinSpareThreads 1\nMaxSpareThreads 2\nThreadLimit 2\nThreadsPerChild 2\nMaxRequestWorkers 2\n" + apache.around
	s := behind(t, &apache, asPrinted)
	var streams []*websocket.Conn
	for range threads {
		streams = append(streams, s.open())
	}
	opened := make(chan error, 1)
	go func() {
		ws, _, err := s.ask("", http.Header{"Origin": {s.proxy.origin()}})
		if err == nil {
			defer ws.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("with all threads taken, a stream opened: %v", err)
	case <-time.After(500 * time.Millisecond): // it can't be told from one that is about to open, and so this can only pass too easily
	}
	_ = streams[0].Close()
	if err := <-opened; err != nil {
		t.Errorf("after one has left: %v\n%s", err, s.proxy.output)
	}
}

func TestAStreamTakesTwoConnectionsOfAnNginxWorker(t *testing.T) {
	t.Parallel()
	nginx := *byName(t, "nginx")
	nginx.need(t)
	// One is taken by each listening socket, and one by the channel to the master.
	nginx.around = replaceOnce(t, nginx.around, "events {}", "worker_processes 1; events { worker_connections 8; }")
	s := behind(t, &nginx, asPrinted)
	opened := 0
	for range 8 {
		ws, _, err := s.ask("", http.Header{"Origin": {s.proxy.origin()}})
		if err != nil {
			break
		}
		defer ws.Close()
		opened++
	}
	if opened != 3 {
		t.Errorf("%d streams opened with 8 connections, of which 2 are nginx' own, want 3", opened)
	}
}
