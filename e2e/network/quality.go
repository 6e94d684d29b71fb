package network

import (
	"fmt"
	"time"
)

// mtu is what the devices are given: the packets of a link are as long as those on an Ethernet.
const mtu = 1500

// Quality is how well a link works, the same in each direction. The zero Quality is as good as the machine.
type Quality struct {
	Rate       int           // bits a second; 0 is no bound
	QueueBytes int           // how much may wait for the rate, beyond which packets are dropped; 0 is 64 KiB
	Delay      time.Duration // on top of what the rate and the queue make
	Loss       float64       // the share of the packets that vanish, from 0 to 1
	Cut        bool          // nothing passes; both ends still think that they are connected
}

func (q Quality) queueBytes() int {
	if q.QueueBytes == 0 {
		return 64 << 10
	}
	return q.QueueBytes
}

// transmission is how long n bytes occupy the link.
func (q Quality) transmission(n int) time.Duration {
	if q.Rate == 0 {
		return 0
	}
	return time.Duration(n) * 8 * time.Second / time.Duration(q.Rate)
}

// netem is the quality in the words of tc. Its limit counts what waits for the rate and what is on its way together.
func (q Quality) netem() []string {
	limit := 1 << 14
	if q.Rate > 0 {
		limit = (q.queueBytes() + int(q.Delay.Seconds()*float64(q.Rate)/8)) / mtu
	}
	args := []string{"netem", "limit", fmt.Sprint(max(limit, 1)), "delay", fmt.Sprintf("%dus", q.Delay.Microseconds())}
	if q.Rate > 0 {
		args = append(args, "rate", fmt.Sprintf("%dbit", q.Rate))
	}
	loss := q.Loss
	if q.Cut {
		loss = 1
	}
	return append(args, "loss", fmt.Sprintf("%g%%", 100*loss))
}
