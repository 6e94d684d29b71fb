package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mesher/mesherstream"
)

// broadcaster is the part of a [mesherstream.Manager] that the feed needs.
type broadcaster interface {
	Broadcast(mesherstream.Message) error
}

// feed publishes events, and what happens to the issues that they belong to.
type feed struct {
	out    broadcaster
	run    string // tells the IDs of this process from those of an earlier one
	lastID atomic.Uint64
	issues issueTracker
}

// stamp is what the feed adds to each event and each notice.
type stamp struct {
	Type string    `json:"type"`
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
}

func newFeed(out broadcaster) *feed {
	return &feed{out: out, run: strings.ToLower(rand.Text()[:6])}
}

func (f *feed) stamp(kind string) stamp {
	return stamp{Type: kind, ID: fmt.Sprintf("%s-%d", f.run, f.lastID.Add(1)), Time: time.Now().UTC()}
}

// send broadcasts msg with v as its data.
func (f *feed) send(msg mesherstream.Message, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	msg.Data = data
	return f.out.Broadcast(msg)
}
