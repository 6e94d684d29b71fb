package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

const (
	defaultProject = "demo"

	maxBodyBytes    = 32 << 10
	maxMessageBytes = 2000
	maxServiceBytes = 64
	maxTags         = 20
	maxTagBytes     = 256

	nameRule = "1 to 64 letters, digits, dots, dashes or underscores"
)

// levels are the levels of events, the least important first.
var levels = []string{"debug", "info", "warning", "error", "fatal"}

var isName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`).MatchString

// event is what the pages get for each event.
type event struct {
	stamp
	Received *time.Time `json:"received,omitempty"` // if the time of the event is that of a log
	fields
}

// fields are what the sender of an event says about it.
type fields struct {
	Project     string            `json:"project"`
	Level       string            `json:"level"`
	Environment string            `json:"environment"`
	Service     string            `json:"service,omitempty"`
	Message     string            `json:"message"`
	Issue       string            `json:"issue,omitempty"` // the issue that the event is an occurrence of
	Tags        map[string]string `json:"tags,omitempty"`
	Data        json.RawMessage   `json:"data,omitempty"`
}

// postEvent takes one event and broadcasts it.
func (f *feed) postEvent(c *fiber.Ctx) error {
	in, err := parseEvent(c.BodyRaw())
	if err != nil {
		return fiber.NewError(fiber.StatusBadRequest, err.Error())
	}
	id, err := f.publishEvent(in)
	if err != nil {
		return err
	}
	return c.Status(fiber.StatusAccepted).JSON(fiber.Map{"id": id})
}

func (f *feed) publishEvent(in fields) (id string, err error) {
	return f.publishEventAt(in, time.Time{})
}

// publishEventAt publishes an event that a log has a time for. A zero time is now.
func (f *feed) publishEventAt(in fields, at time.Time) (id string, err error) {
	e := event{stamp: f.stamp("event"), fields: in}
	if !at.IsZero() {
		received := e.Time
		e.Time, e.Received = at.UTC(), &received
	}
	msg := mesherstream.Message{Project: e.Project, Level: e.Level, Environment: e.Environment}
	if err := f.send(msg, &e); err != nil {
		return "", err
	}
	if e.Issue != "" {
		err = f.publishCount(&e)
	}
	return e.ID, err
}

// parseEvent reads an event strictly: a name that is misspelt would otherwise be lost silently. It keeps nothing of body.
func parseEvent(body []byte) (fields, error) {
	e := fields{Project: defaultProject, Level: "info", Environment: "production"}
	if !utf8.Valid(body) {
		return e, errors.New("the body is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return e, fmt.Errorf("bad JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return e, errors.New("bad JSON: more than one value")
	}
	return e, e.validate()
}

func (e *fields) validate() error {
	switch {
	case !isName(e.Project):
		return errors.New("project must be " + nameRule)
	case !slices.Contains(levels, e.Level):
		return fmt.Errorf("level must be one of %s", strings.Join(levels, ", "))
	case !isName(e.Environment):
		return errors.New("environment must be " + nameRule)
	case strings.TrimSpace(e.Message) == "":
		return errors.New("message is missing")
	case len(e.Message) > maxMessageBytes:
		return fmt.Errorf("message has more than %d bytes", maxMessageBytes)
	case len(e.Service) > maxServiceBytes:
		return fmt.Errorf("service has more than %d bytes", maxServiceBytes)
	case e.Issue != "" && !isName(e.Issue):
		return errors.New("issue must be " + nameRule)
	case len(e.Tags) > maxTags:
		return fmt.Errorf("there are more than %d tags", maxTags)
	}
	for k, v := range e.Tags {
		if len(k) > maxTagBytes || len(v) > maxTagBytes {
			return fmt.Errorf("a tag has more than %d bytes", maxTagBytes)
		}
	}
	return nil
}
