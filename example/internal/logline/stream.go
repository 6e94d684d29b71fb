package logline

import (
	"context"
	"io"
	"strconv"
	"time"
)

// Stream reads lines from r and calls fn for each event that they make, one call after the other, until r ends, fn
// returns an error, or ctx ends. It returns that error, or nil at the end of r.
//
// An event is held for the lines that belong to it: for 150 ms after the last of them, and for 2 seconds in all. What is
// held when r ends is given to fn. When ctx ends, a Read that is under way goes on until it returns.
func Stream(ctx context.Context, r io.Reader, fn func(Event) error) error {
	lines := make(chan string)
	ended := make(chan error, 1)
	go func() {
		ended <- readLines(r, func(line string) error {
			select {
			case lines <- line:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()

	a := newAssembler(fn)
	timer := time.NewTimer(0)
	defer timer.Stop()
	waiting := true // the timer is set
	for {
		select {
		case line := <-lines:
			now := time.Now()
			if err := a.add(line, now); err != nil {
				return err
			}
			if !waiting {
				timer.Reset(quiet)
				waiting = true
			}
		case now := <-timer.C:
			next, err := a.flushDue(now)
			if err != nil {
				return err
			}
			if waiting = !next.IsZero(); waiting {
				timer.Reset(next.Sub(now))
			}
		case err := <-ended:
			if flushErr := a.flushAll(); flushErr != nil {
				return flushErr
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}
