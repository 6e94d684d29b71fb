package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

// maxIssues bounds what strangers can make the tracker remember.
const maxIssues = 1000

// actions are what can happen to an issue, and the state that it is in afterwards.
var actions = map[string]string{"assign": "open", "ignore": "ignored", "reopen": "open", "resolve": "resolved"}

// actionNames are the actions, for those who take another one.
const actionNames = "assign, ignore, reopen, resolve"

// issue is what many events of one kind have in common.
type issue struct {
	Project  string `json:"project"`
	Issue    string `json:"issue"`
	Title    string `json:"title,omitempty"` // the message of its latest event
	Level    string `json:"level,omitempty"` // of its latest event
	State    string `json:"state"`
	Count    uint64 `json:"count"` // its events
	Assignee string `json:"assignee,omitempty"`

	// Revision goes up with each change, over all issues: a page that has a newer one leaves an older one aside.
	Revision uint64 `json:"revision"`
}

// notice tells all pages of a project that an issue has changed. It has no level and no environment, so that no filter
// holds it back, and it has the whole issue, so that one that is lost is made good by the next.
type notice struct {
	stamp
	Action string `json:"action"` // one of actions, or "count"
	By     string `json:"by,omitempty"`
	issue
}

// issueTracker knows the issues that changed last. Its zero value is ready for use.
type issueTracker struct {
	mu       sync.Mutex
	issues   map[[2]string]*issue // by project and issue
	revision uint64
}

// update changes an issue, which may be a new one, and returns it as it is then.
func (t *issueTracker) update(project, id string, change func(*issue)) issue {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := [2]string{project, id}
	i := t.issues[key]
	if i == nil {
		if len(t.issues) == maxIssues {
			t.forgetOldestLocked()
		}
		if t.issues == nil {
			t.issues = make(map[[2]string]*issue)
		}
		i = &issue{Project: project, Issue: id, State: "open"}
		t.issues[key] = i
	}
	change(i)
	t.revision++
	i.Revision = t.revision
	return *i
}

func (t *issueTracker) forgetOldestLocked() {
	var oldest *issue
	for _, i := range t.issues {
		if oldest == nil || i.Revision < oldest.Revision {
			oldest = i
		}
	}
	delete(t.issues, [2]string{oldest.Project, oldest.Issue})
}

// list returns the issues of a project, the one that changed last first.
func (t *issueTracker) list(project string) []issue {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []issue{}
	for _, i := range t.issues {
		if i.Project == project {
			list = append(list, *i)
		}
	}
	slices.SortFunc(list, func(a, b issue) int { return cmp.Compare(b.Revision, a.Revision) })
	return list
}

// publishCount tells that an issue has one more event.
func (f *feed) publishCount(e *event) error {
	i := f.issues.update(e.Project, e.Issue, func(i *issue) {
		i.Count++
		i.Title, i.Level = e.Message, e.Level
	})
	// A count that waits for a slow page gives way to a newer one of the same issue.
	msg := mesherstream.Message{Project: i.Project, Key: "count " + i.Issue}
	return f.send(msg, &notice{stamp: f.stamp("notice"), Action: "count", issue: i})
}

// publishAction does something to an issue and tells it.
func (f *feed) publishAction(project, id, action, by, to string) (notice, error) {
	i := f.issues.update(project, id, func(i *issue) {
		i.State = actions[action]
		if action == "assign" {
			i.Assignee = to
		}
	})
	n := notice{stamp: f.stamp("notice"), Action: action, By: by, issue: i}
	return n, f.send(mesherstream.Message{Project: project}, &n)
}

// postIssue takes an action on an issue and tells the pages. The body may be empty, or say
// {"project":"shop","by":"ann","to":"bob"}.
func (f *feed) postIssue(c *fiber.Ctx) error {
	// Fiber uses the memory behind the parameters again, and the tracker keeps them.
	id, action := strings.Clone(c.Params("id")), strings.Clone(c.Params("action"))
	if actions[action] == "" {
		return fiber.NewError(fiber.StatusNotFound, "action must be one of "+actionNames)
	}
	if !isName(id) {
		return fiber.NewError(fiber.StatusBadRequest, "issue must be "+nameRule)
	}
	in := struct{ Project, By, To string }{Project: defaultProject}
	if body := c.BodyRaw(); len(body) > 0 {
		if err := json.Unmarshal(body, &in); err != nil {
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("bad JSON: %v", err))
		}
	}
	switch {
	case !isName(in.Project):
		return fiber.NewError(fiber.StatusBadRequest, "project must be "+nameRule)
	case len(in.By) > 64 || len(in.To) > 64:
		return fiber.NewError(fiber.StatusBadRequest, "by and to have at most 64 bytes")
	case action == "assign" && in.To == "":
		return fiber.NewError(fiber.StatusBadRequest, `assign needs "to"`)
	}
	n, err := f.publishAction(in.Project, id, action, in.By, in.To)
	if err != nil {
		return err
	}
	return c.Status(fiber.StatusAccepted).JSON(fiber.Map{"id": n.ID})
}

// getIssues returns the state that a page begins with, before it applies the notices of its stream.
func (f *feed) getIssues(c *fiber.Ctx) error {
	return c.JSON(f.issues.list(c.Query("project", defaultProject)))
}
