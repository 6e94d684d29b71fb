//go:build linux

package machine

import "testing"

func TestMachineTimesAreAddedUp(t *testing.T) {
	got := parseMachineTime("cpu  100 20 30 1000 50 6 7 8 90 9")
	want := machineTime{busy: 163 * tick, stolen: 8 * tick, total: 1221 * tick}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := parseMachineTime("cpu x"); got != (machineTime{}) {
		t.Errorf("got %+v of no numbers, want nothing", got)
	}
}

func TestConditionsSaySomethingOfEveryRun(t *testing.T) {
	got := Describe([]Conditions{{LoadBefore: 1, LoadAfter: 2, Others: 0.1, Stolen: 0.01}, {LoadBefore: 3, LoadAfter: 2, Others: 0.3, Stolen: 0.02}, {LoadAfter: 9, Unknown: true}})
	want := "Load average of the machine: 0.0 – 9.0. Of the processors' time, 20 % (10 % – 30 %) was used by neither server nor clients, and 2 % (1 % – 2 %) was stolen."
	if got != want {
		t.Errorf("got %q,\nwant %q", got, want)
	}
}
