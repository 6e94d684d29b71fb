//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
)

// runName names one run of one server.
type runName struct {
	pass, server string
	round        int
}

// play makes all runs, or those before ctx ends. A round is one of all scenarios, and in each of them all servers follow each other,
// so that the runs of a ratio are as close to each other as they can be.
func (s *settings) play(ctx context.Context, binaries *binaries, book *book) error {
	made := make(map[runName]bool)
	rounds := 0
	for _, sc := range s.scenarios {
		rounds = max(rounds, sc.rounds)
	}
	for round := range rounds {
		for _, sc := range s.scenarios {
			if round >= sc.rounds {
				continue
			}
			for i := range sc.servers {
				// Every round begins with another server, so that none always runs after the same one.
				server := sc.servers[(i+round)%len(sc.servers)]
				for _, p := range sc.passes {
					name := runName{p.name, server, round}
					if p.rests || made[name] {
						continue
					}
					made[name] = true
					r := s.runner(binaries, server, p)
					result := r.run(ctx)
					if err := ctx.Err(); err != nil {
						return err // and the run was cut short
					}
					result.Round = round
					book.add(result)
					progress(result)
				}
			}
		}
		if err := book.write(s); err != nil { // so that a long comparison leaves what it has
			return err
		}
	}
	return s.rest(ctx, binaries, book)
}

func (s *settings) runner(binaries *binaries, server string, p pass) runner {
	return runner{binaries: binaries, server: server, pass: p, warmUp: s.warmUp, cpus: s.cpus, nice: s.nice, profile: s.profile}
}

// rest makes the runs that mostly rest, several at the same time: one connects or is weighed while the others do nothing but
// answer pings. What they weigh, they do not share.
func (s *settings) rest(ctx context.Context, binaries *binaries, book *book) error {
	var (
		turn  sync.Mutex
		group sync.WaitGroup
		free  = make(chan struct{}, s.together)
	)
	defer group.Wait()
	for _, sc := range s.scenarios {
		at := slices.IndexFunc(sc.passes, func(p pass) bool { return p.rests })
		if at < 0 {
			continue
		}
		for round := range sc.rounds {
			for _, server := range sc.servers {
				select {
				case free <- struct{}{}:
				case <-ctx.Done():
					return ctx.Err()
				}
				group.Go(func() {
					defer func() { <-free }()
					r := s.runner(binaries, server, sc.passes[at])
					r.turn = &turn
					result := r.run(ctx)
					result.Round, result.Conditions.Unknown = round, true
					turn.Lock()
					defer turn.Unlock()
					if ctx.Err() == nil {
						book.add(result)
						progress(result)
					}
				})
			}
		}
	}
	group.Wait()
	return ctx.Err()
}

func progress(r result) {
	state := "ok"
	switch {
	case r.Froze:
		state = "froze"
	case r.Error != "":
		state = r.Error
	case r.Behind:
		state = "fell behind"
	}
	slog.Info("run", "pass", r.Pass, "server", r.Server, "round", r.Round+1, "state", state,
		"others", fmt.Sprintf("%.0f %%", 100*r.Conditions.Others), "stolen", fmt.Sprintf("%.0f %%", 100*r.Conditions.Stolen))
}

// paces are the messages a second that findPaces tries, each a fifth slower than the one before it.
var paces = []int{100, 80, 64, 50, 40, 32, 25, 20, 16, 13, 10, 8, 6, 5, 4, 3, 2, 1}

// handshakePaces are the same of handshakes.
var handshakePaces = []int{5000, 4000, 3200, 2500, 2000, 1600, 1250, 1000, 800, 640, 500, 400, 320, 250, 200}

// crowds are the clients of coalesced that findPaces tries.
var crowds = []int{1000, 800, 640, 500, 400, 320, 250, 200, 160, 130, 100, 80, 64, 50, 40, 32, 25, 20, 16, 13, 10}

// isPaced reports whether a pass has the pace of the flags.
func isPaced(p pass) bool { return p.interval > 0 && !p.collects }

// findPaces finds the paces that the flags or a checked document don't give, and the clients of coalesced, whose pace is fixed. The
// scenarios then have them.
func (s *settings) findPaces(ctx context.Context, binaries *binaries) error {
	z := &s.size
	for _, f := range []struct {
		value *int
		tries []int
		has   func(pass) bool
		make  func(string, size) pass
	}{
		{&z.rate, paces, isPaced, pacedPass},
		{&z.handshakes, handshakePaces, func(p pass) bool { return p.pace > 0 }, connectPass},
		{&z.collected, crowds, func(p pass) bool { return p.collects }, coalescedPass},
	} {
		if *f.value > 0 {
			continue
		}
		found, err := s.findPace(ctx, binaries, f.tries, f.has, func(n int) pass {
			*f.value = n
			return f.make("pace", *z)
		})
		if err != nil {
			return fmt.Errorf("find a pace: %w", err)
		}
		*f.value = found
	}
	return s.choose(*z)
}

// findPace returns a pace for the passes that are paced: one step below the fastest that every one of their servers keeps up with on
// this machine and in this hour, so that a run in which the machine is a little slower still keeps up. A server that fell behind has a
// second try, since a hiccup of the machine would slow down the whole comparison.
func (s *settings) findPace(ctx context.Context, binaries *binaries, paces []int, paced func(pass) bool, try func(int) pass) (int, error) {
	var servers []string
	for _, sc := range s.scenarios {
		if !slices.ContainsFunc(sc.passes, paced) {
			continue
		}
		for _, server := range sc.servers {
			if !slices.Contains(servers, server) {
				servers = append(servers, server)
			}
		}
	}
	if servers == nil {
		return 1, nil // nothing has that pace
	}
	at := 0
	for _, server := range servers {
		for failed := 0; at < len(paces); {
			r := s.runner(binaries, server, try(paces[at]))
			result := r.run(ctx)
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			if result.Error != "" && !result.Froze {
				return 0, fmt.Errorf("%s: %s", server, result.Error)
			}
			slog.Info("pace", "tried", paces[at], "server", server, "keeps up", !result.Behind && !result.Froze)
			if !result.Behind && !result.Froze {
				break
			}
			if failed++; failed == 2 || result.Froze {
				at, failed = at+1, 0
			}
		}
	}
	if at == len(paces) {
		slog.Warn("no pace is slow enough for every server; what falls behind is marked", "tried", paces[at-1])
	}
	return paces[min(at+1, len(paces)-1)], nil
}
