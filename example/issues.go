package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// actions are what can happen to an issue.
var actions = []string{"assign", "ignore", "reopen", "resolve"}

// notice tells all pages of a project what happened to an issue. It has no level and no environment, so that no filter
// holds it back.
type notice struct {
	stamp
	Project string `json:"project"`
	Issue   string `json:"issue"`
	Action  string `json:"action"`
	By      string `json:"by,omitempty"`
	To      string `json:"to,omitempty"` // whom it is assigned to
}

// postIssue takes an action on an issue and tells the pages. The body may be empty, or say
// {"project":"shop","by":"ann","to":"bob"}.
func (f *feed) postIssue(c *fiber.Ctx) error {
	// Fiber uses the memory behind the parameters again, and a notice is not ours any more once it is published.
	n := notice{Project: defaultProject, Issue: strings.Clone(c.Params("id")), Action: strings.Clone(c.Params("action"))}
	if !slices.Contains(actions, n.Action) {
		return fiber.NewError(fiber.StatusNotFound, "action must be one of "+strings.Join(actions, ", "))
	}
	if !isName(n.Issue) {
		return fiber.NewError(fiber.StatusBadRequest, "issue must be "+nameRule)
	}
	var in struct{ Project, By, To string }
	if body := c.BodyRaw(); len(body) > 0 {
		if err := json.Unmarshal(body, &in); err != nil {
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("bad JSON: %v", err))
		}
	}
	n.By, n.To = in.By, in.To
	if in.Project != "" {
		n.Project = in.Project
	}
	switch {
	case !isName(n.Project):
		return fiber.NewError(fiber.StatusBadRequest, "project must be "+nameRule)
	case len(n.By) > 64 || len(n.To) > 64:
		return fiber.NewError(fiber.StatusBadRequest, "by and to have at most 64 bytes")
	case n.Action == "assign" && n.To == "":
		return fiber.NewError(fiber.StatusBadRequest, `assign needs "to"`)
	}
	if err := f.publishNotice(&n); err != nil {
		return err
	}
	return c.Status(fiber.StatusAccepted).JSON(fiber.Map{"id": n.ID})
}

func (f *feed) publishNotice(n *notice) error {
	return f.publish("notice", n.Project, "", "", &n.stamp, n)
}
