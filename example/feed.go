package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mesher/mesherstream"
)

// maxSeries bounds what strangers can make the feed remember.
const maxSeries = 10_000

var errTooManySeries = errors.New("too many projects and environments")

// broadcaster is the part of a [mesherstream.Manager] that the feed needs.
type broadcaster interface {
	Broadcast(mesherstream.Message) error
}

// feed numbers what it broadcasts, so that a page knows what it missed. A filter makes holes in a project's numbers
// that are no misses; so each series, which is what one project says at one level from one environment, has numbers of
// its own: a page gets either all of a series or, by its filter, nothing of it.
type feed struct {
	out broadcaster
	run string // tells the numbers of this process from those of an earlier one

	mu       sync.Mutex
	lastID   uint64
	series   int
	projects map[string]*projectCounts
}

type projectCounts struct {
	counts  map[string]map[string]uint64 // the last number, by level and environment
	changed bool                         // since the last totals
}

// stamp is what the feed adds to each event and each notice.
type stamp struct {
	Type string    `json:"type"`
	ID   string    `json:"id"`
	Run  string    `json:"run"`
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
}

// totals tells the pages how far each series is, so that they miss nothing silently: not what was dropped right after
// they connected, and not the last event of a series that falls silent.
type totals struct {
	Type   string                       `json:"type"`
	Run    string                       `json:"run"`
	Counts map[string]map[string]uint64 `json:"counts"`
}

func newFeed(out broadcaster) *feed {
	return &feed{out: out, run: strings.ToLower(rand.Text()[:6]), projects: make(map[string]*projectCounts)}
}

// publish stamps v, whose stamp is s, and broadcasts it. An empty level and an empty environment pass every filter.
func (f *feed) publish(kind, project, level, environment string, s *stamp, v any) error {
	// Broadcast is called with the lock held, since numbers that overtake each other would look like misses. It never
	// waits for a client.
	f.mu.Lock()
	defer f.mu.Unlock()
	seq, err := f.nextLocked(project, level, environment)
	if err != nil {
		return err
	}
	*s = stamp{Type: kind, ID: fmt.Sprintf("%s-%d", f.run, f.lastID+1), Run: f.run, Seq: seq, Time: time.Now().UTC()}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	err = f.out.Broadcast(mesherstream.Message{Project: project, Level: level, Environment: environment, Data: data})
	if err != nil {
		return err
	}
	f.lastID++
	p := f.projects[project]
	p.counts[level][environment] = seq
	p.changed = true
	return nil
}

// nextLocked returns the next number of a series, which may be a new one.
func (f *feed) nextLocked(project, level, environment string) (uint64, error) {
	p := f.projects[project]
	if p != nil {
		if last := p.counts[level][environment]; last > 0 {
			return last + 1, nil
		}
	}
	if f.series == maxSeries {
		return 0, errTooManySeries
	}
	f.series++
	if p == nil {
		p = &projectCounts{counts: make(map[string]map[string]uint64)}
		f.projects[project] = p
	}
	if p.counts[level] == nil {
		p.counts[level] = make(map[string]uint64)
	}
	p.counts[level][environment] = 0
	return 1, nil
}

// totalsLoop broadcasts the totals of each project that changed, once every interval, until ctx ends.
func (f *feed) totalsLoop(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f.publishTotals()
		}
	}
}

func (f *feed) publishTotals() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, p := range f.projects {
		if !p.changed {
			continue
		}
		data, err := json.Marshal(totals{Type: "totals", Run: f.run, Counts: p.counts})
		if err == nil {
			err = f.out.Broadcast(mesherstream.Message{Project: name, Data: data})
		}
		p.changed = err != nil
	}
}
