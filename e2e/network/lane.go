package network

import (
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// lane carries packets in one direction of a link, and does to them what the link's quality says.
type lane struct {
	from    io.Reader // each Read is one packet
	to      io.Writer // and so is each Write
	quality *atomic.Pointer[Quality]

	done chan struct{} // closed when what is still on the road is of no interest any more

	road chan packet // between the goroutine that takes packets and the one that hands them out
	free time.Time   // when all that waits for the rate has left; belongs to the one that takes
}

type packet struct {
	bytes []byte
	due   time.Time
}

// roadPackets bounds what is on its way: a hundred milliseconds at two gigabits a second.
const roadPackets = 1 << 14

func newLane(from io.Reader, to io.Writer, quality *atomic.Pointer[Quality]) *lane {
	return &lane{
		from: from, to: to, quality: quality,
		done: make(chan struct{}), road: make(chan packet, roadPackets),
	}
}

// take reads packets until there are no more. A change of the quality holds for those that come after it.
func (l *lane) take() {
	defer close(l.road)
	buf := make([]byte, 64<<10)
	for {
		n, err := l.from.Read(buf)
		if err != nil {
			return
		}
		q, now := *l.quality.Load(), time.Now()
		if q.Cut || rand.Float64() < q.Loss {
			continue
		}
		if l.free.Before(now) {
			l.free = now
		}
		if wait := l.free.Sub(now); wait > 0 && wait+q.transmission(n) > q.transmission(q.queueBytes()) {
			continue // the queue is full
		}
		l.free = l.free.Add(q.transmission(n))
		select {
		case l.road <- packet{append([]byte(nil), buf[:n]...), l.free.Add(q.Delay)}:
		default:
		}
	}
}

// hand hands out what take has put on the road, each packet when it is due. What is on a cable when it is cut is lost.
func (l *lane) hand() {
	for p := range l.road {
		select {
		case <-time.After(time.Until(p.due)):
		case <-l.done:
			return
		}
		if l.quality.Load().Cut {
			continue
		}
		// Where it fails, the device at the other end is down or gone: a host that was killed.
		_, _ = l.to.Write(p.bytes)
	}
}
