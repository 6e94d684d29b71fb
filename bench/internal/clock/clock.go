//go:build linux

// Package clock reads the one clock that two processes on a machine share, and the time that this one has used.
package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Go's own monotonic clock is CLOCK_MONOTONIC, read without a system call, but it is only handed out as a difference
// between two times. One pair of readings at start turns it into absolute nanoseconds that another process understands.
var (
	startTime  = time.Now()
	startNanos = readNanos()
)

func readNanos() int64 {
	var ts unix.Timespec
	// CLOCK_MONOTONIC exists on every kernel that Go runs on, so there is no error to handle.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// Now returns CLOCK_MONOTONIC in nanoseconds. It makes no system call and allocates nothing.
func Now() int64 { return startNanos + int64(time.Since(startTime)) }

// SleepUntil returns when the clock has reached nanos, at once if it already has.
//
// It blocks a thread instead of using a timer: when a Go process is idle its timers wait in epoll_wait, whose timeout counts whole
// milliseconds, and every server's latency would carry up to a millisecond that is none of its doing.
func SleepUntil(nanos int64) {
	ts := unix.NsecToTimespec(nanos)
	for Now() < nanos {
		if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}

// CPU returns the user and system time that the process has used.
func CPU() (user, system time.Duration) {
	var usage unix.Rusage
	// RUSAGE_SELF with a valid pointer can't fail.
	_ = unix.Getrusage(unix.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano()), time.Duration(usage.Stime.Nano())
}
