//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/mesher/mesherstream/bench/internal/control"
)

const (
	briefly  = 30 * time.Second // for what takes no time unless something is wrong
	freezing = 15 * time.Second // how late a publisher may be before it counts as frozen
	patience = 90 * time.Second // for the last message; longer than the load client's own
)

// result is one run of one server.
type result struct {
	Scenario, Pass, Server string
	Round                  int
	Froze                  bool   `json:",omitempty"` // the publisher was stuck in a Broadcast
	Error                  string `json:",omitempty"` // why there are no figures

	Empty   control.MemoryReport // before the first client
	Rested  control.MemoryReport // of an idle pass: after the rest, garbage included
	Before  control.MemoryReport // with all clients, before the window, where the pass asks for it
	After   control.MemoryReport // after the window
	Measure control.MeasureReport
	Load    control.ReceivedReport

	Leaving   []time.Duration `json:",omitempty"` // how long the server took to see that a client had left
	Unnoticed bool            `json:",omitempty"` // or it did not see it
}

// runner makes one run.
type runner struct {
	binaries *binaries
	server   string
	pass     pass
	warmUp   time.Duration
	cpus     int
	profile  string // a folder, or ""
}

func (r *runner) run(ctx context.Context) result {
	var out result
	if err := r.try(ctx, &out); err != nil {
		out.Error = err.Error()
	}
	return out
}

// try starts both processes and ends both, whatever happens in between.
func (r *runner) try(ctx context.Context, out *result) (err error) {
	args := []string{"-server", r.server, "-cpus", strconv.Itoa(r.cpus), "-filtered=" + strconv.FormatBool(r.pass.plan.Projects > 1)}
	if r.profile != "" {
		args = append(args, "-cpuprofile", filepath.Join(r.profile, r.pass.name+"-"+r.server+".pprof"))
	}
	server, err := start(r.server, r.binaries.server, serverNice, args...)
	if err != nil {
		return err
	}
	// A frozen server may well have to be killed; what it says then is no news.
	defer func() { _ = server.stop() }()
	listening, err := server.wait(control.Listening, briefly)
	if err != nil {
		return err
	}
	empty, err := server.ask(control.Command{Do: control.Memory}, control.Remembered, briefly)
	if err != nil {
		return err
	}
	out.Empty = *empty.Memory

	load, err := start("load", r.binaries.load, 0,
		"-addr", listening.Address, "-wire", wireOf(r.server),
		"-clients", strconv.Itoa(r.pass.clients), "-stalled", strconv.Itoa(r.pass.stalled), "-churn", strconv.Itoa(r.pass.churn),
		"-projects", strconv.Itoa(r.pass.plan.Projects), "-filtered="+strconv.FormatBool(r.pass.plan.Filtered),
		"-size", strconv.Itoa(r.pass.traffic.Size))
	if err != nil {
		return err
	}
	// The load client's exit code says whether the sum held, so its error is the run's.
	defer func() { err = errors.Join(err, load.stop()) }()
	stopOnCancel := context.AfterFunc(ctx, func() {
		_ = server.command.Process.Kill()
		_ = load.command.Process.Kill()
	})
	defer stopOnCancel()

	if _, err := load.wait(control.Ready, patience); err != nil {
		return err
	}
	if err := r.awaitClients(server); err != nil {
		return err
	}
	if r.pass.idle {
		return r.idle(server, load, out)
	}
	return r.window(server, load, out)
}

// awaitClients waits until the server has registered everybody: the handshake's answer may leave before that.
func (r *runner) awaitClients(server *process) error {
	for deadline := time.Now().Add(briefly); ; time.Sleep(20 * time.Millisecond) {
		counted, err := server.ask(control.Command{Do: control.Count}, control.Counted, briefly)
		switch {
		case err != nil:
			return err
		case counted.Clients == r.pass.clients:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s has registered %d of %d clients", r.server, counted.Clients, r.pass.clients)
		}
	}
}

// idle weighs the connections after a rest, and lets some clients leave.
func (r *runner) idle(server, load *process, out *result) error {
	time.Sleep(r.pass.settle)
	rested, err := server.ask(control.Command{Do: control.Glance}, control.Remembered, briefly)
	if err != nil {
		return err
	}
	out.Rested = *rested.Memory
	after, err := server.ask(control.Command{Do: control.Memory}, control.Remembered, briefly)
	if err != nil {
		return err
	}
	out.After = *after.Memory
	for i := range r.pass.leaves {
		// The server watches from before the client leaves, and answers after it has noticed.
		if err := server.commands.Encode(control.Command{Do: control.Watch, Clients: r.pass.clients - i}); err != nil {
			return fmt.Errorf("ask %s: %w", server.name, err)
		}
		left, err := load.ask(control.Command{Do: control.Leave}, control.Left, briefly)
		if err != nil {
			return err
		}
		noticed, err := server.wait(control.Noticed, briefly)
		if err != nil {
			return err
		}
		if noticed.Nanos == 0 {
			out.Unnoticed = true
			return nil
		}
		out.Leaving = append(out.Leaving, time.Duration(noticed.Nanos-left.Nanos))
	}
	return nil
}

// window warms up, publishes, waits for everything to arrive, and collects both sides' figures.
func (r *runner) window(server, load *process, out *result) error {
	warm := r.pass.traffic
	warm.For = r.warmUp
	if warm.Every == 0 {
		warm.Every, warm.Batch = 10*time.Millisecond, 1 // a flood's backlog would reach into the window
	}
	published, err := server.ask(control.Command{Do: control.Publish, Traffic: &warm, First: 1}, control.Published, warm.For+freezing)
	if err != nil {
		out.Froze = errors.Is(err, errLate)
		return err
	}
	time.Sleep(700 * time.Millisecond) // for what the warm-up has queued
	if r.pass.weigh {
		before, err := server.ask(control.Command{Do: control.Memory}, control.Remembered, briefly)
		if err != nil {
			return err
		}
		out.Before = *before.Memory
	}

	first := published.Publish.Last + 1
	if _, err := load.ask(control.Command{Do: control.Begin, First: first}, control.Begun, briefly); err != nil {
		return err
	}
	publish := control.Command{Do: control.Publish, Traffic: &r.pass.traffic, First: first}
	published, err = server.ask(publish, control.Published, r.pass.traffic.For+freezing)
	var last uint64
	switch {
	case err == nil:
		last = published.Publish.Last
	case errors.Is(err, errLate):
		// The control channel answers even when Broadcast does not.
		out.Froze = true
		stuck, err := server.ask(control.Command{Do: control.Measure}, control.Measured, briefly)
		if err != nil {
			return err
		}
		last = stuck.Measure.Publish.Last + 1 // some clients may have the message that is stuck
	default:
		return err
	}
	received, err := load.ask(control.Command{Do: control.End, Last: last}, control.Received, patience)
	if err != nil {
		return err
	}
	out.Load = *received.Receive
	measured, err := server.ask(control.Command{Do: control.Measure}, control.Measured, briefly)
	if err != nil {
		return err
	}
	out.Measure = *measured.Measure
	if r.pass.weigh && !out.Froze {
		after, err := server.ask(control.Command{Do: control.Memory}, control.Remembered, briefly)
		if err != nil {
			return err
		}
		out.After = *after.Memory
	}
	return nil
}
