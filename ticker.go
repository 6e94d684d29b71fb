package mesherstream

import "time"

// runTicker is the manager's only clock, and its goroutine: it lives from start to stop. It never waits for a shard, so
// a shard that is busy skips ticks and nobody else does.
func (m *Manager) runTicker(stop <-chan struct{}) {
	drain := time.NewTicker(m.cfg.drainInterval)
	defer drain.Stop()

	var beats <-chan time.Time // nil, and silent, where there is nothing to keep alive
	if interval := m.cfg.beatInterval(); interval > 0 {
		beat := time.NewTicker(interval)
		defer beat.Stop()
		beats = beat.C
	}

	for {
		select {
		case <-stop:
			return
		case <-drain.C:
			m.DrainBuffers()
		case <-beats:
			for _, s := range m.shards {
				s.tick(false, true)
			}
		}
	}
}

// DrainBuffers sends each client what is buffered for it, in order, as far as its connection takes it. The ticker calls
// it at every [WithDrainInterval]; call it to have what [Manager.BufferMessage] queued go out earlier. It returns at
// once, is safe for concurrent use, and does nothing where nothing runs.
func (m *Manager) DrainBuffers() {
	for _, s := range m.shards {
		s.tick(true, false)
	}
}
