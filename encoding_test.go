package mesherstream

import (
	"encoding/base64"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream/internal/follower"
	"github.com/mesher/mesherstream/internal/link"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// This file has what the simulation of position_test.go does with pages that follow a stream over plain HTTP.

// A plainReader reads one connection.
type plainReader struct {
	events follower.EventReader
	lines  follower.LineReader
}

// readPlain lets the page read what has arrived, which may end anywhere.
func (p *simulation) readPlain(v *page) {
	arrived := v.link.taken[v.fed:v.arrived]
	v.fed = v.arrived
	if v.encoding == lines {
		for _, line := range v.plain.lines.Read(arrived) {
			p.receiveLine(v, line)
		}
		return
	}
	for _, e := range v.plain.events.Read(arrived) {
		p.receiveEvent(v, e)
	}
}

// receiveEvent hands an event to the page, without the number that the page doesn't see.
func (p *simulation) receiveEvent(v *page, e follower.ServerEvent) {
	id := -1
	cut := func(data string) string {
		text, number := cutNumber([]byte(data))
		if id = number; id < 0 {
			p.Errorf("page %d received %q", v.name, e.Data)
		}
		return string(text)
	}
	switch e.Name {
	case "":
		e.Data = cut(e.Data)
	case "binary":
		data, err := base64.StdEncoding.DecodeString(e.Data)
		if err != nil {
			p.Fatal(err)
		}
		e.Data = base64.StdEncoding.EncodeToString([]byte(cut(string(data))))
	case typePast:
		e.Data = string(withoutNumber(p, []byte(e.Data)))
	}
	shown, position := len(v.Shown), v.Position
	n, err := v.ReceiveEvent(e)
	if err != nil {
		p.Fatalf("page %d received %+v: %v", v.name, e, err)
	}
	if e.Own && !(n != nil && n.Type == typeHello) {
		if _, _, ok := openPosition(&p.m.history.seal, v.project, e.ID); !ok {
			p.Errorf("page %d can't return with the ID of %+v", v.name, e)
		}
	}
	p.notef("page %d receives the event %q, ID %v, %.300q, %d", v.name, e.Name, e.Own, anyText.ReplaceAllString(e.Data, "…"), id)
	if n != nil {
		p.heedNotice(v, n)
	}
	p.keep(v, id, shown, position)
}

// receiveLine hands a line to the page, without the number.
func (p *simulation) receiveLine(v *page, line string) {
	text, n, err := follower.OfLine(line)
	if err != nil {
		p.Fatalf("page %d received %q: %v", v.name, line, err)
	}
	id := -1
	if n == nil {
		cut, number := cutNumber([]byte(text))
		if data, err := base64.StdEncoding.DecodeString(text); number < 0 && err == nil {
			if cut, number = cutNumber(data); number >= 0 {
				cut = append([]byte("binary:"), cut...)
			}
		}
		if text, id = string(cut), number; id < 0 {
			p.Errorf("page %d received %q", v.name, line)
		}
	}
	shown, position := len(v.Shown), v.Position
	v.ReceiveLine(text, n)
	p.notef("page %d receives the line %.300q, %d", v.name, anyText.ReplaceAllString(line, "…"), id)
	p.keep(v, id, shown, position)
}

// rollBack takes what the page has received since its position away: it doesn't tell the server of that, and is sent all
// of it again.
func (p *simulation) rollBack(v *page) {
	p.notef("page %d goes back to its position, over %d items", v.name, len(v.items)-v.storedAt)
	v.items = v.items[:v.storedAt]
	v.due, v.looksBack = v.storedDue, v.storedLooksBack
}

// checkPlain checks a page to which everything has arrived.
func (p *simulation) checkPlain(v *page) {
	if !v.plain.events.IsWhole() || !v.plain.lines.IsWhole() {
		p.Errorf("page %d has received a part of something", v.name)
	}
	if v.encoding == lines {
		return
	}
	for _, it := range v.items[max(v.storedAt, v.itemFrom):] {
		if v.Tailless && (it.gap != nil || p.log[it.id].to == nil) {
			p.Errorf("page %d has received %+v, and no ID with it or after it", v.name, it)
		}
	}
}

// Without a history, a page that returns is told what it has missed by two or three notices. While the first ones are on
// their way, the application changes its filter, or a client does so that doesn't wait for the end of the replay, and a mark
// is due. No place is named before the gap is told.
func TestNoPlaceIsNamedBeforeAReturnIsTold(t *testing.T) {
	for name, v := range map[string]page{
		"protocol":    {},
		"impatient":   {},
		"events":      {encoding: events},
		"EventSource": {encoding: events, Follower: follower.Follower{Tailless: true}},
	} {
		t.Run(name, func(t *testing.T) {
			for n := 0; n < 1200 && !t.Failed(); n += 20 {
				synctest.Test(t, func(t *testing.T) {
					v := v
					v.agrees, v.project = true, "a"
					s := newScriptOf(t, &v, WithHistory(0))
					s.say("", "1")
					s.arrive()
					s.cut(s.v)
					s.turns()
					s.say("", "info/2", "info/3", "info/4")
					s.dial(s.v)
					s.v.link.room = n
					s.turns()
					s.read(s.v, n)
					f := Filter{Levels: []string{"info"}}
					if name == "impatient" {
						text := []byte(`{"type":"subscribe","filters":{"level":"info","environment":""}}`)
						s.v.client.Post(link.Event{Kind: link.Received, Op: wsframe.OpText, Payload: text})
						s.v.asked = &f
					} else if err := s.m.SetFilter(s.v.client.id, f); err != nil {
						t.Fatal(err)
					}
					s.v.setFilter(len(s.log), f)
					s.turns()
					time.Sleep(30 * time.Second)
					s.beat()
					for range 8 {
						s.v.link.grant(100)
						s.turns()
						s.read(s.v, 60)
					}
					s.notef("%d bytes first", n)
					s.returns()
					s.settle()
					s.notef("%q", s.told())
				})
			}
		})
	}
}
