package link

import (
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkSend measures how long single sends keep the processor: the median, the 99.9th percentile and the longest. It
// is the CPU time of the thread, since a busy machine may stop any thread at any time.
func BenchmarkSend(b *testing.B) {
	for name, size := range map[string]int{"512B": 512, "64KiB": 64 << 10, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			fd := sinkSocket(b)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			frame := make([]byte, size)
			var took []time.Duration
			for b.Loop() {
				begin := threadTime(b)
				_, err := send(fd, frame)
				used := threadTime(b) - begin
				switch err {
				case nil:
					took = append(took, used)
				case unix.EAGAIN:
					time.Sleep(time.Millisecond) // for the reader
				default:
					b.Fatal(err)
				}
			}
			slices.Sort(took)
			last := len(took) - 1
			b.ReportMetric(0, "ns/op") // which includes the waits
			b.ReportMetric(float64(took[last/2].Nanoseconds()), "median-ns")
			b.ReportMetric(float64(took[last*999/1000].Nanoseconds()), "p99.9-ns")
			b.ReportMetric(float64(took[last].Nanoseconds()), "max-ns")
		})
	}
}

// sinkSocket returns the descriptor of a TCP connection whose other end reads everything.
func sinkSocket(b *testing.B) (fd int) {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	conn, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = conn.Close(), far.Close() })
	go func() { _, _ = io.Copy(io.Discard, far) }()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	if err := raw.Control(func(original uintptr) { fd = int(original) }); err != nil {
		b.Fatal(err)
	}
	return fd
}

// threadTime returns the CPU time of this thread.
func threadTime(b *testing.B) time.Duration {
	b.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		b.Fatal(err)
	}
	return time.Duration(now.Nano())
}
