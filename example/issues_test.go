package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
)

func TestAnEventOfAnIssueIsFollowedByItsCount(t *testing.T) {
	out := &recorder{}
	f := newFeed(out)
	for count := range uint64(3) {
		message := fmt.Sprintf("failed %d times", count+1)
		_, err := f.publishEvent(fields{Project: "shop", Level: "error", Environment: "e", Message: message, Issue: "SHOP-1"})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.messages) != 2 {
			t.Fatalf("got %d messages, want the event and a notice", len(out.messages))
		}
		out.messages = out.messages[1:]
		var n notice
		m := out.take(t, &n)
		if m.Project != "shop" || m.Level != "" || m.Environment != "" {
			t.Errorf("got a notice for %q %q %q, want one that passes every filter of shop", m.Project, m.Level, m.Environment)
		}
		want := issue{Project: "shop", Issue: "SHOP-1", Title: message, Level: "error", State: "open", Count: count + 1, Revision: count + 1}
		if n.Type != "notice" || n.Action != "count" || n.issue != want {
			t.Errorf("got %+v, want a count of %+v", n, want)
		}
	}
}

func TestActionsChangeAnIssueAndAreTold(t *testing.T) {
	out := &recorder{}
	f := newFeed(out)
	for _, test := range []struct{ action, by, to, state, assignee string }{
		{"assign", "ann", "bob", "open", "bob"},
		{"resolve", "bob", "", "resolved", "bob"},
		{"reopen", "", "", "open", "bob"},
		{"ignore", "", "", "ignored", "bob"},
		{"assign", "", "cleo", "open", "cleo"},
	} {
		returned, err := f.publishAction("shop", "SHOP-1", test.action, test.by, test.to)
		if err != nil {
			t.Fatal(err)
		}
		var n notice
		out.take(t, &n)
		if n.ID != returned.ID || n.Action != test.action || n.By != test.by || n.State != test.state || n.Assignee != test.assignee {
			t.Errorf("%s: got %+v, want state %s, assignee %s", test.action, n, test.state, test.assignee)
		}
	}
}

func TestIssuesOfOneProjectAreListedTheLatestFirst(t *testing.T) {
	f := newFeed(&recorder{})
	for _, of := range [][2]string{{"a", "1"}, {"b", "2"}, {"a", "3"}, {"a", "1"}} {
		if _, err := f.publishAction(of[0], of[1], "resolve", "", ""); err != nil {
			t.Fatal(err)
		}
	}
	got := f.issues.list("a")
	if len(got) != 2 || got[0].Issue != "1" || got[1].Issue != "3" || got[0].Revision <= got[1].Revision {
		t.Errorf("got %+v, want 1 and 3", got)
	}
}

func TestTheTrackerForgetsTheIssueThatChangedLongestAgo(t *testing.T) {
	var tracker issueTracker
	touch := func(id int) { tracker.update("a", strconv.Itoa(id), func(i *issue) { i.Count++ }) }
	for id := range maxIssues {
		touch(id)
	}
	touch(0)
	touch(maxIssues)
	list := tracker.list("a")
	known := map[string]bool{}
	for _, i := range list {
		known[i.Issue] = true
	}
	if len(list) != maxIssues || !known["0"] || known["1"] || !known["2"] || !known[strconv.Itoa(maxIssues)] {
		t.Errorf("got %d issues, 0 %v, 1 %v, 2 %v, the new one %v; want all but 1",
			len(list), known["0"], known["1"], known["2"], known[strconv.Itoa(maxIssues)])
	}
}

func TestEveryChangeOfAnIssueHasARevisionOfItsOwn(t *testing.T) {
	var tracker issueTracker
	var wg sync.WaitGroup
	revisions := make(chan uint64, 8*200)
	for range 8 {
		wg.Go(func() {
			for range 200 {
				revisions <- tracker.update("a", "1", func(i *issue) { i.Count++ }).Revision
			}
		})
	}
	wg.Wait()
	close(revisions)
	seen := map[uint64]bool{}
	for r := range revisions {
		seen[r] = true
	}
	if len(seen) != 1600 || tracker.list("a")[0].Count != 1600 {
		t.Errorf("got %d revisions and a count of %d, want 1600 of each", len(seen), tracker.list("a")[0].Count)
	}
}

func TestIssuesAreServed(t *testing.T) {
	status, body := call(t, http.MethodGet, "/api/v1/issues?project=shop", "")
	var list []issue
	if err := json.Unmarshal([]byte(body), &list); status != http.StatusOK || err != nil || list == nil {
		t.Errorf("got %d %s (%v), want an empty list", status, body, err)
	}
}
