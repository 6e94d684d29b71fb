package mesherstream

import "time"

// runTicker is the manager's only clock, and its goroutine: it lives from start to stop. It never waits for a shard, so
// a shard that is busy skips ticks and nobody else does.
func (m *Manager) runTicker(stop <-chan struct{}) {
	drain := time.NewTicker(m.cfg.drainInterval)
	defer drain.Stop()

	var ticks <-chan time.Time // nil, and silent, where there is nothing to keep alive
	wheel := beats{begin: time.Now(), interval: m.cfg.beatInterval()}
	if wheel.interval > 0 {
		beat := time.NewTicker(wheel.interval)
		defer beat.Stop()
		ticks = beat.C
	}

	for {
		select {
		case <-stop:
			return
		case <-drain.C:
			m.DrainBuffers()
		case <-ticks:
			for range wheel.due(time.Now()) {
				for _, s := range m.shards {
					s.tick(false, true)
				}
			}
		}
	}
}

// beats counts what the wheels of the shards have to do. A ticker's channel holds one tick, and a machine that is busy
// loses some: a wheel that turned later for it would have pings come late.
type beats struct {
	begin    time.Time
	interval time.Duration
	done     time.Duration // how many, those that were lost included
}

// due is how many beats are due that were not before: a turn of the wheel at most.
func (b *beats) due(now time.Time) int {
	all := now.Sub(b.begin) / b.interval
	due := min(all-b.done, wheelSlots)
	b.done = all
	return int(due)
}

// DrainBuffers sends each client what is buffered for it, in order, as far as its connection takes it. The ticker calls
// it at every [WithDrainInterval]; call it to have what [Manager.BufferMessage] queued go out earlier. It returns at
// once, is safe for concurrent use, and does nothing where nothing runs.
func (m *Manager) DrainBuffers() {
	for _, s := range m.shards {
		s.tick(true, false)
	}
}
