package clients

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"
)

// A wireCase is what a raw client sends to a server that echoes, and what it must get.
type wireCase struct {
	id    string // in the Autobahn test suite, or a name of our own
	what  string
	steps []step // each is sent when what the ones before ask for has come
	chop  int    // how many bytes a write has; 0: a step is one write; perFrame: a frame is

	// How it ends; where both are 0, the client closes with 1000 at last, and is answered.
	closes int // the code of the server's answer to a close frame among the steps
	fails  int // the code with which the server fails the connection

	// differs says where the server does something else than the suite asks for, and why.
	differs string
}

const perFrame = -1

type step struct {
	send []frame
	raw  []byte // instead of frames
	want []wanted
}

// A wanted frame is one that the server must send, or may.
type wanted struct {
	frame
	maybe bool
}

func sends(frames ...frame) step { return step{send: frames} }

func (s step) wants(frames ...frame) step {
	for _, f := range frames {
		s.want = append(s.want, wanted{frame: f})
	}
	return s
}

func (s step) mayWant(frames ...frame) step {
	for _, f := range frames {
		s.want = append(s.want, wanted{frame: f, maybe: true})
	}
	return s
}

// play runs the case as a client of its own.
func (c *wireCase) play(t *testing.T, w *world) {
	client := dialRaw(t, w, c.id)
	var open []wanted // what is still to come
	for _, s := range c.steps {
		if err := client.send(s, c.chop); err != nil {
			t.Fatalf("send: %v", err)
		}
		open = append(open, s.want...)
		for required(open) {
			got, err := client.next()
			if err != nil {
				t.Fatalf("read: %v, want %v", err, open)
			}
			if open, err = match(open, got); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c.closes == 0 && c.fails == 0 {
		if err := client.send(sends(closeWith(1000, "")), c.chop); err != nil {
			t.Fatalf("send of the close frame: %v", err)
		}
	}
	w.leaves(t, c.id, c.closed(t, client, open))
	if got, err := client.next(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the close frame: got %v, %v, want the end of the connection", got, err)
	}
}

// closed reads up to the server's close frame, ends the connection where that is the client's part, and returns what the
// frame said.
func (c *wireCase) closed(t *testing.T, client *rawClient, open []wanted) closing {
	t.Helper()
	want := cmp.Or(c.fails, c.closes, 1000)
	for {
		got, err := client.next()
		if err != nil {
			t.Fatalf("read: %v, want close %d", err, want)
		}
		if got.first != fin|opClose {
			if open, err = match(open, got); err != nil {
				t.Fatal(err)
			}
			continue
		}
		said := closing{Code: noCode}
		if len(got.payload) >= 2 {
			said = closing{int(binary.BigEndian.Uint16(got.payload)), string(got.payload[2:])}
		}
		if said.Code != want {
			t.Fatalf("close: got %+v, want %d", said, want)
		}
		if c.fails > 0 {
			// The server reads no frames any more, and waits a moment for the end of the connection.
			_ = client.send(sends(closeWith(c.fails, "")), 0)
			client.endWriting()
		}
		return said
	}
}

func (c *rawClient) send(s step, chop int) error {
	all := bytes.Clone(s.raw)
	for _, f := range s.send {
		p := f.bytes()
		if chop == perFrame {
			if _, err := c.conn.Write(p); err != nil {
				return err
			}
			continue
		}
		all = append(all, p...)
	}
	for len(all) > 0 {
		n := len(all)
		if chop > 0 {
			n = min(n, chop)
		}
		if _, err := c.conn.Write(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

func required(list []wanted) bool {
	for _, w := range list {
		if !w.maybe {
			return true
		}
	}
	return false
}

// match takes what came off the list of what is to come.
func match(list []wanted, got frame) ([]wanted, error) {
	for i, w := range list {
		if w.first == got.first && string(w.payload) == string(got.payload) {
			return list[i+1:], nil
		}
		if !w.maybe {
			break
		}
	}
	return list, fmt.Errorf("got %s, want %v", got, list)
}

func (f frame) String() string {
	return fmt.Sprintf("[%#x %.60q of %d bytes]", f.first, f.payload, len(f.payload))
}
