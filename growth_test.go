package mesherstream

import (
	"fmt"
	"log/slog"
	"testing"
)

// A client may take a new filter twenty times a second, and a stranger may name any project. What the shards keep of
// that must end with the clients, and may not cost more the more there is of it.
func TestDistinctFiltersAndProjectsLeaveNothingBehind(t *testing.T) {
	w := &world{T: t, transport: transports[0]}
	w.play(func(w *world) {
		w.start()
		filters := 0
		for i := range 100 {
			v := w.connect(fmt.Sprintf("project-%d", i%10))
			for range 50 {
				filters++
				if err := w.m.SetFilter(v.id, Filter{Levels: []string{fmt.Sprint(filters)}}); err != nil {
					w.Fatal(err)
				}
			}
		}
		w.checkGroups(100, 10)
		for i, v := range w.viewers {
			if i%3 > 0 {
				v.close()
			}
		}
		w.eventually("two thirds have left", func() bool { return w.m.Stats().Clients == 34 })
		w.checkGroups(34, 10)
		for i, v := range w.viewers {
			if i%3 == 0 {
				if err := w.m.SetFilter(v.id, Filter{Levels: []string{"all the same"}}); err != nil {
					w.Fatal(err)
				}
			}
		}
		w.checkGroups(10*len(w.m.shards), 10)
		for _, v := range w.viewers {
			v.close()
		}
		w.eventually("all have left", func() bool { return w.m.Stats().Clients == 0 })
		w.checkGroups(0, 0)
	})
}

// checkGroups checks that each shard's index of its clients is whole and holds nothing else.
func (w *world) checkGroups(mostGroups, projects int) {
	w.Helper()
	groups, names := 0, map[string]bool{}
	for _, s := range w.m.shards {
		s.ask(func() {
			groups += len(s.groups)
			listed := 0
			for project, list := range s.projects {
				names[project] = true
				listed += len(list)
				for i, g := range list {
					if g.inProject != i || s.groups[g.key] != g || g.sub.Project != project || len(g.clients) == 0 {
						w.Errorf("group %q is at %d of project %q, with index %d and %d clients", g.key, i, project, g.inProject, len(g.clients))
					}
				}
			}
			if listed != len(s.groups) {
				w.Errorf("the projects list %d groups, want %d", listed, len(s.groups))
			}
		})
		s.mu.Lock()
		if len(s.followers) != len(s.projects) {
			w.Errorf("%d projects have followers, want %d", len(s.followers), len(s.projects))
		}
		s.mu.Unlock()
	}
	if groups > mostGroups || len(names) != projects {
		w.Errorf("got %d groups of %d projects, want at most %d of %d", groups, len(names), mostGroups, projects)
	}
}

// What a hook that hangs keeps waiting is bounded by WithMaxClients, also where no Disconnect hook holds the places.
func TestAHookThatHangsBehindClientsThatComeAndGoHoldsABoundedQueue(t *testing.T) {
	hang := make(chan struct{})
	app := quietApp()
	m := newTestManager(t, WithApp(app), WithMaxClients(5), WithHooks(Hooks{
		Connect: func(Client) {},
		Message: func(Client, []byte, bool) { <-hang },
	}))
	app.Use(m.Handler())
	s := newSite(t, app, m)
	t.Cleanup(func() { close(hang) }) // before the app shuts down, which waits for hooks
	for range m.shards {
		if ws, _ := s.connect("/stream/projects/shop"); ws.WriteMessage(1, []byte("hang")) != nil {
			t.Fatal("no message")
		}
	}
	came := 0
	for ; came < 1000; came++ {
		ws, resp, err := s.dial("/stream/projects/shop")
		if err != nil {
			if resp == nil || resp.StatusCode != 503 {
				t.Fatalf("dial: got %v, %v, want 503 where it is refused", resp, err)
			}
			break
		}
		_ = ws.Close()
		s.eventually("it has left", func() bool { return m.Stats().Disconnects == uint64(came+1) })
	}
	waiting := 0
	for _, q := range m.current.hooks {
		q.mu.Lock()
		waiting += len(q.queue)
		q.mu.Unlock()
	}
	// Two calls for each client, in the queue that a place is given back to early, and for each place that is kept.
	if most := 64*len(m.shards) + 2*5; waiting > most || came == 1000 {
		t.Errorf("behind a hook that hangs: %d calls wait after %d clients that came and went, want at most %d, and a refusal", waiting, came, most)
	}
}

// BenchmarkChangeOfFilterAmongMany is what one client's change of filter costs where each client of the project has a
// filter of its own.
func BenchmarkChangeOfFilterAmongMany(b *testing.B) {
	for _, groups := range []int{1, 1_000, 100_000} {
		b.Run(fmt.Sprint("groups=", groups), func(b *testing.B) {
			cfg := defaultConfig()
			s := newShard(&cfg)
			s.hooks = newHookQueue(Hooks{}, slog.New(slog.DiscardHandler), nil)
			var c *client
			for i := range groups {
				c = &client{shard: s, sub: Subscription{Project: "shop", Filter: Filter{Levels: []string{fmt.Sprint(i)}}}}
				c.enterGroup()
			}
			filters := []Filter{{Levels: []string{"a"}}, {Levels: []string{"b"}}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.setFilter(filters[i&1])
			}
		})
	}
}
