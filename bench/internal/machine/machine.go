//go:build linux

// Package machine says what a machine is, and how busy it is with other things than what is measured.
package machine

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesher/mesherstream/bench/internal/clock"
	"github.com/mesher/mesherstream/bench/internal/report"
)

// Conditions say how busy the machine was with other things during a run, as shares of all processors' time. They are shares of
// the time between the start of the run's processes and the end of what is measured.
type Conditions struct {
	LoadBefore, LoadAfter float64 // the load average of a minute, which includes this run and those before it
	Others                float64 // used by processes other than the run's, and by the kernel for itself
	Stolen                float64 // by other machines of the same host
	Unknown               bool    `json:",omitempty"` // several runs were made at the same time, so there are no shares
}

// machineTime is what /proc/stat says of all processors since the machine was started.
type machineTime struct {
	busy, stolen, total time.Duration
}

// Observation is a run whose conditions are not known yet.
type Observation struct {
	before machineTime
	own    time.Duration // of this process
	load   float64
}

// Observe begins to watch.
func Observe() Observation { return Observation{machineTimes(), ownTime(), loadAverage()} }

// End returns the conditions since Observe, of a run of these processes: they were started after that, and have not ended.
func (o *Observation) End(pids ...int) Conditions {
	after := machineTimes()
	c := Conditions{LoadBefore: o.load, LoadAfter: loadAverage()}
	total := after.total - o.before.total
	if total <= 0 {
		c.Unknown = true
		return c
	}
	used := ownTime() - o.own
	for _, pid := range pids {
		used += processTime(pid)
	}
	// The two sums are read one after the other, and in units of 10 ms.
	c.Others = max(0, float64(after.busy-o.before.busy-used)/float64(total))
	c.Stolen = float64(after.stolen-o.before.stolen) / float64(total)
	return c
}

// tick is the unit of the times in /proc, USER_HZ, which is the same on all of Go's systems.
const tick = 10 * time.Millisecond

func machineTimes() machineTime {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machineTime{}
	}
	line, _, _ := bytes.Cut(content, []byte("\n"))
	return parseMachineTime(string(line))
}

// parseMachineTime takes the line of all processors: user, nice, system, idle, iowait, irq, softirq, steal, and the times of
// guests, which are in the first two already.
func parseMachineTime(line string) (t machineTime) {
	fields := strings.Fields(line)
	for i, field := range fields[min(1, len(fields)):min(9, len(fields))] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return machineTime{}
		}
		d := time.Duration(n) * tick
		t.total += d
		switch i {
		case 3, 4:
		case 7:
			t.stolen = d
		default:
			t.busy += d
		}
	}
	return t
}

// processTime is the user and system time that a process has used.
func processTime(pid int) time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name is in parentheses and may contain anything. utime and stime are the 12th and 13th field after it.
	fields := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * tick
}

func ownTime() time.Duration {
	user, system := clock.CPU()
	return user + system
}

func loadAverage() float64 {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(content), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// Describe says under which conditions the runs of a table were made.
func Describe(all []Conditions) string {
	var loads, others, stolen []float64
	for _, c := range all {
		loads = append(loads, c.LoadBefore, c.LoadAfter)
		if !c.Unknown {
			others, stolen = append(others, 100*c.Others), append(stolen, 100*c.Stolen)
		}
	}
	if len(loads) == 0 {
		return ""
	}
	out := fmt.Sprintf("Load average of the machine: %.1f – %.1f.", slices.Min(loads), slices.Max(loads))
	if len(others) > 0 {
		percent := func(values []float64) string {
			return fmt.Sprintf("%.0f %% (%.0f %% – %.0f %%)", report.Median(values), slices.Min(values), slices.Max(values))
		}
		out += fmt.Sprintf(" Of the processors' time, %s was used by neither server nor clients, and %s was stolen.", percent(others), percent(stolen))
	}
	return out
}

// Model describes processor, cores and kernel.
func Model() string {
	model := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var name unix.Utsname
	_ = unix.Uname(&name) // an unknown kernel is an empty word below
	release := strings.SplitN(unix.ByteSliceToString(name.Release[:]), ".", 3)
	return fmt.Sprintf("%s, %d cores, Linux %s", model, runtime.NumCPU(), strings.Join(release[:min(2, len(release))], "."))
}
