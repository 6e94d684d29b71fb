//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/mesher/mesherstream/bench/internal/control"
	"github.com/mesher/mesherstream/bench/internal/machine"
)

const (
	briefly  = 30 * time.Second // for what takes no time unless something is wrong
	freezing = 5 * time.Second  // how late a publisher may be before it counts as frozen
	patience = 90 * time.Second // for the last message; longer than the load client's own
)

// result is one run of one server.
type result struct {
	Pass, Server string
	Round        int
	Froze        bool   `json:",omitempty"` // the publisher was stuck in a Broadcast
	Behind       bool   `json:",omitempty"` // it did not keep up with the pace, so its figures are not compared
	Error        string `json:",omitempty"` // why there are no figures

	Conditions machine.Conditions

	Empty   control.MemoryReport // before the first client
	Rested  control.MemoryReport // of an idle pass: after the rest, garbage included
	Before  control.MemoryReport // with all clients, before the window, where the pass asks for it
	After   control.MemoryReport // after the window
	Measure control.MeasureReport
	Load    control.ReceivedReport
	Connect control.ReceivedReport // the times of the handshakes, if they had a pace

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
	nice     int
	profile  string // a folder, or ""

	// turn is held by whoever does not rest, if several runs are made at the same time.
	turn sync.Locker
}

func (r *runner) run(ctx context.Context) result {
	out := result{Pass: r.pass.name, Server: r.server}
	if r.turn != nil {
		r.turn.Lock()
		defer r.turn.Unlock()
	}
	if err := r.try(ctx, &out); err != nil {
		out.Error = err.Error()
	}
	out.Behind = !out.Froze && out.Error == "" && r.pass.behind(&out)
	return out
}

// behind reports whether a run did not keep up with the pace of its pass: if more than one in twenty deliveries arrived when the
// client's next message was due already, or if the publisher returned that late from its last Broadcast. A server that is further
// behind joins messages, or lets them wait, so its figures are those of another pace. One in twenty is what a hiccup of the machine
// costs, and joined messages of this number change the CPU time of a delivery by less than 5 %. A message may be as much later as the
// server collects messages. Handshakes are behind if more than
// one in twenty took longer than patientHandshake.
func (p *pass) behind(r *result) bool {
	if p.pace > 0 && r.Connect.P95 > patientHandshake {
		return true
	}
	if p.interval == 0 {
		return false
	}
	lastDue := (p.traffic.For - 1) / p.traffic.Every * p.traffic.Every
	return r.Load.P95 > p.interval+collecting[r.Server] || r.Measure.Publish.Elapsed > lastDue+p.interval
}

// patientHandshake is how long a handshake takes on a machine that is busy but not full.
const patientHandshake = 50 * time.Millisecond

// try starts both processes and ends both, whatever happens in between.
func (r *runner) try(ctx context.Context, out *result) (err error) {
	args := []string{"-server", r.server, "-cpus", strconv.Itoa(r.cpus), "-filtered=" + strconv.FormatBool(r.pass.plan.Projects > 1)}
	if r.profile != "" {
		args = append(args, "-cpuprofile", filepath.Join(r.profile, r.pass.name+"-"+r.server+".pprof"))
	}
	seen := machine.Observe()
	server, err := start(r.server, r.binaries.server, r.nice, args...)
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
	if r.pass.pace > 0 {
		if _, err := server.ask(control.Command{Do: control.Open}, control.Begun, briefly); err != nil {
			return err
		}
	}

	load, err := start("load", r.binaries.load, 0,
		"-addr", listening.Address, "-wire", wireOf(r.server),
		"-clients", strconv.Itoa(r.pass.clients), "-stalled", strconv.Itoa(r.pass.stalled), "-churn", strconv.Itoa(r.pass.churn),
		"-projects", strconv.Itoa(r.pass.plan.Projects), "-filtered="+strconv.FormatBool(r.pass.plan.Filtered),
		"-size", strconv.Itoa(r.pass.traffic.Size), "-pace", strconv.Itoa(r.pass.pace))
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

	// Before either ends.
	defer func() { out.Conditions = seen.End(server.command.Process.Pid, load.command.Process.Pid) }()
	ready, err := load.wait(control.Ready, patience)
	if err != nil {
		return err
	}
	if err := r.awaitClients(server); err != nil {
		return err
	}
	switch {
	case r.pass.pace > 0:
		out.Connect = *ready.Receive
		measured, err := server.ask(control.Command{Do: control.Measure}, control.Measured, briefly)
		if err != nil {
			return err
		}
		out.Measure = *measured.Measure
		return nil
	case r.pass.idle:
		return r.idle(ctx, server, load, out)
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
func (r *runner) idle(ctx context.Context, server, load *process, out *result) error {
	if r.turn != nil {
		r.turn.Unlock()
	}
	select {
	case <-time.After(r.pass.settle):
	case <-ctx.Done():
	}
	if r.turn != nil {
		r.turn.Lock()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
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
	if r.pass.weigh {
		before, err := server.ask(control.Command{Do: control.Memory}, control.Remembered, briefly)
		if err != nil {
			return err
		}
		out.Before = *before.Memory
	}
	warm := r.pass.traffic
	warm.For = max(r.warmUp, r.pass.warmUp)
	switch {
	case warm.Every == 0 || warm.Batch == burstSize:
		warm.Every, warm.Batch = 20*time.Millisecond, 1 // the backlog of a flood or a burst would reach into the window
	case r.pass.fill > 0:
		warm.For, warm.Size = r.pass.fillFor, r.pass.fill
	}
	published, err := server.ask(control.Command{Do: control.Publish, Traffic: &warm, First: 1}, control.Published, warm.For+freezing)
	if errors.Is(err, errLate) {
		out.Froze = true
		// The control channel answers even when Broadcast does not.
		stuck, err := server.ask(control.Command{Do: control.Measure}, control.Measured, briefly)
		if err == nil {
			out.Measure = *stuck.Measure
		}
		return err
	}
	if err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond) // for what the warm-up has queued

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
