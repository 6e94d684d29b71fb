package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
)

func TestTheClientsThatAreWorstOffAreListedFirst(t *testing.T) {
	clients := []mesherstream.Client{
		{ID: 1}, {ID: 2, Dropped: 5}, {ID: 3, Buffered: 1}, {ID: 4, Slow: true}, {ID: 5, Slow: true, Buffered: 9}, {ID: 6},
	}
	var got []mesherstream.ClientID
	for _, c := range worst(clients, 5) {
		got = append(got, c.ID)
	}
	if fmt.Sprint(got) != "[5 4 3 2 1]" {
		t.Errorf("got %v", got)
	}
	if got := worst(clients[:2], 5); len(got) != 2 {
		t.Errorf("got %d of 2 clients", len(got))
	}
}

func TestNobodyCanPostToTheClientsView(t *testing.T) {
	for path, body := range map[string]string{
		"/api/v1/events":             `{"project":"` + clientsProject + `","message":"x"}`,
		"/api/v1/issues/X-1/resolve": `{"project":"` + clientsProject + `"}`,
	} {
		if status, answer := call(t, http.MethodPost, path, body); status != http.StatusBadRequest {
			t.Errorf("%s: got %d %s, want 400", path, status, answer)
		}
	}
}

// An operator's page follows the list, sees a client come, and disconnects it.
func TestOperatorsSeeClientsAndDisconnectThem(t *testing.T) {
	url, _ := serve(t)
	dial := func(path string) *websocket.Conn {
		conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http")+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		return conn
	}
	operator := dial("/stream/projects/" + clientsProject)
	watcher := dial("/stream/projects/shop?level=error")

	// until reads lists until one has the client of the project shop, or none.
	until := func(connected bool) mesherstream.Client {
		for {
			_, data, err := operator.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			var list clientList
			if err := json.Unmarshal(data, &list); err != nil || list.Type != "clients" || list.Time.IsZero() {
				t.Fatalf("%s: %v", data, err)
			}
			if list.Stats.Clients < 1 {
				t.Errorf("got %+v, want at least the operator", list.Stats)
			}
			var found mesherstream.Client
			for _, c := range list.Clients {
				if c.Project == "shop" {
					found = c
				}
			}
			if (found.ID != 0) == connected {
				return found
			}
		}
	}
	c := until(true)
	if fmt.Sprint(c.Levels) != "[error]" || c.RemoteAddr != "127.0.0.1" || c.ConnectedAt.IsZero() {
		t.Errorf("got %+v", c)
	}

	post := func(id string) int {
		resp, err := http.Post(url+"/api/v1/clients/"+id+"/disconnect", "", strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if status := post(fmt.Sprint(c.ID)); status != http.StatusNoContent {
		t.Errorf("got %d, want 204", status)
	}
	if _, _, err := watcher.ReadMessage(); !websocket.IsCloseError(err, closedByOperator) {
		t.Errorf("the client got %v, want a close with %d", err, closedByOperator)
	}
	until(false)
	for id, want := range map[string]int{fmt.Sprint(c.ID): http.StatusNotFound, "0": http.StatusNotFound, "x": http.StatusBadRequest, "-1": http.StatusBadRequest} {
		if status := post(id); status != want {
			t.Errorf("client %s: got %d, want %d", id, status, want)
		}
	}
}
