package mesherstream

import (
	"testing"
	"testing/synctest"
)

// inboxes plays a scenario with a shard whose turns the scenario takes, and which has clients of the projects a and b and of the one
// without a name.
func inboxes(t *testing.T, opts []Option, scenario func(t *testing.T, s *shard)) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewManager(opts...)
		if err != nil {
			t.Fatal(err)
		}
		s := m.shards[0]
		s.start(newHookQueue(Hooks{}, m.cfg.logger, func(ClientID) {}), nil)
		for i, project := range []string{"a", "b", ""} {
			c := &client{id: ClientID(i * len(m.shards)), shard: s, link: sink{}, sub: Subscription{Project: project}}
			if err := s.register(c); err != nil {
				t.Fatal(err)
			}
		}
		s.take()
		s.takeTurn()
		scenario(t, s)
	})
}

// waits says whether publishing to a project has to wait for the next turn, which it then takes.
func waits(t *testing.T, s *shard, project string, size int) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.publish(newMessage(&Message{Project: project, Data: make([]byte, size)})); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	select {
	case <-done:
		return false
	default:
	}
	s.take()
	s.takeTurn()
	<-done
	return true
}

func TestPublishingWaitsForATurnOnceTheClientsOfAProjectGetAWholeBuffer(t *testing.T) {
	const most = 10
	for name, c := range map[string]struct {
		before func(i int) string // the project of each message
		count  int
		then   string
		waits  bool
	}{
		"the same project":          {func(int) string { return "a" }, most, "a", true},
		"one less of it":            {func(int) string { return "a" }, most - 1, "a", false},
		"another project":           {func(int) string { return "a" }, most, "b", false},
		"messages for all":          {func(int) string { return "" }, most, "b", true},
		"some for all":              {func(i int) string { return []string{"", "a"}[i%2] }, most, "a", true},
		"one for all behind others": {func(i int) string { return []string{"a", "b"}[i%2] }, most, "", true},
		"nobody's":                  {func(int) string { return "nobody's" }, 10 * most, "a", false},
	} {
		t.Run(name, func(t *testing.T) {
			inboxes(t, []Option{WithMaxBuffer(most)}, func(t *testing.T, s *shard) {
				for range 2 { // the second time, after a turn
					for i := range c.count {
						if waits(t, s, c.before(i), 1) {
							t.Fatalf("message %d waits", i)
						}
					}
					if got := waits(t, s, c.then, 1); got != c.waits {
						t.Errorf("the next one waits: got %v, want %v", got, c.waits)
					}
					s.take()
					s.takeTurn()
				}
				if st := s.stats(); st.Dropped > 0 {
					t.Errorf("%d messages were dropped", st.Dropped)
				}
			})
		})
	}
}

func TestPublishingWaitsForATurnOnceTheClientsOfAProjectGetTheBytesOfABuffer(t *testing.T) {
	inboxes(t, []Option{WithMaxBufferBytes(1000)}, func(t *testing.T, s *shard) {
		for _, c := range []struct {
			project string
			size    int
			waits   bool
		}{{"a", 1000, false}, {"b", 500, false}, {"b", 400, false}, {"b", 100, true}, {"b", 900, true}} {
			if got := waits(t, s, c.project, c.size); got != c.waits {
				t.Errorf("%d bytes to %s: got %v, want %v", c.size, c.project, got, c.waits)
			}
		}
	})
}

func TestAnInboxIsBoundedWhateverTheProjects(t *testing.T) {
	inboxes(t, []Option{WithMaxBuffer(inboxMessages / 2)}, func(t *testing.T, s *shard) {
		for i := range inboxMessages {
			if waits(t, s, []string{"a", "b"}[i%2], 1) {
				t.Fatalf("message %d waits", i)
			}
		}
		s.mu.Lock()
		for project := range map[string]bool{"a": true, "b": true, "": true} {
			if s.hasRoom(project, 0) {
				t.Errorf("there is room for %q behind %d messages", project, inboxMessages)
			}
		}
		s.mu.Unlock()
	})
	inboxes(t, nil, func(t *testing.T, s *shard) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.inbox.all = load{1, inboxBytes}
		if s.hasRoom("a", 1) {
			t.Errorf("there is room for a byte behind %d bytes", inboxBytes)
		}
	})
}
