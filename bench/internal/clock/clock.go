//go:build linux

// Package clock reads the one clock that two processes on a machine share, and the time that this one has used.
package clock

import (
	"math"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Go's own monotonic clock is CLOCK_MONOTONIC, read without a system call, but it is only handed out as a difference
// between two times. One pair of readings at start turns it into absolute nanoseconds that another process understands.
var startTime, startNanos = pair(readNanos)

// pair reads both clocks at the same time. A process that is starting is easily interrupted between two readings, and what
// it measured against another process would then be wrong by as much for all its life. So the closest of many pairs counts.
func pair(nanos func() int64) (at time.Time, atNanos int64) {
	apart := int64(math.MaxInt64)
	for range 100 {
		before, now, after := nanos(), time.Now(), nanos()
		if after-before < apart {
			at, atNanos, apart = now, before+(after-before)/2, after-before
		}
	}
	return at, atNanos
}

func readNanos() int64 {
	var ts unix.Timespec
	// CLOCK_MONOTONIC exists on every kernel that Go runs on, so there is no error to handle.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// Now returns CLOCK_MONOTONIC in nanoseconds. It makes no system call and allocates nothing.
func Now() int64 { return startNanos + int64(time.Since(startTime)) }

// A Timer lets one goroutine at a time sleep until an instant of the clock.
//
// A timer of Go would be up to a millisecond late: when a process is idle, its timers wait in epoll_wait, whose timeout counts whole
// milliseconds. And clock_nanosleep is never late, but looks to Go like a goroutine that is about to leave a system call: the
// scheduler's own thread then wakes up some fifty times to see whether it has, and a server that publishes every 10 ms seems to need
// half a millisecond of processor time for nothing. A timerfd is watched like a socket.
type Timer struct {
	file *os.File
	conn syscall.RawConn
}

// NewTimer returns a timer, which needs a descriptor until it is closed.
func NewTimer() (*Timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	t := &Timer{file: os.NewFile(uintptr(fd), "timer")}
	if t.conn, err = t.file.SyscallConn(); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Close ends the timer.
func (t *Timer) Close() { _ = t.file.Close() }

// SleepUntil returns when the clock has reached nanos, at once if it already has.
func (t *Timer) SleepUntil(nanos int64) {
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(nanos)}
	var expirations [8]byte
	for Now() < nanos {
		// A timer that is open fails to be set or read only if the instant is none.
		_ = t.conn.Control(func(fd uintptr) { _ = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &at, nil) })
		var failed syscall.Errno
		if err := t.conn.Read(func(fd uintptr) (done bool) {
			// File.Read would announce a system call, after which the scheduler's thread stays awake as well.
			_, _, failed = unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&expirations)), uintptr(len(expirations)))
			return failed != unix.EAGAIN
		}); err != nil || failed != 0 && failed != unix.EINTR {
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
