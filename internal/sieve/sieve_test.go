package sieve

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

type filter = [Lists][]string

func passes(f *filter, values [Lists]string) bool {
	for list, v := range values {
		if v != "" && len(f[list]) > 0 && !slices.Contains(f[list], v) {
			return false
		}
	}
	return true
}

// found returns the filters that the sieve finds.
func found(s *Sieve, n int, values [Lists]string) (list []int) {
	q := Ask(values)
	for i := s.Next(&q, 0); i < n; i = s.Next(&q, i+1) {
		list = append(list, i)
	}
	return list
}

// listed is a sieve, with the filters that it is about.
type listed struct {
	sieve   Sieve
	filters []filter
}

func (l *listed) add(f filter) {
	l.sieve.Put(len(l.filters), Sign(f))
	l.filters = append(l.filters, f)
}

func (l *listed) remove(i int) {
	last := len(l.filters) - 1
	l.filters[i] = l.filters[last]
	l.filters = l.filters[:last]
	l.sieve.Move(last, i)
	l.sieve.Truncate(last)
}

// check checks that the sieve finds every filter that the values pass. It returns how many others it finds.
func (l *listed) check(t *testing.T, values [Lists]string) (others int) {
	t.Helper()
	got := found(&l.sieve, len(l.filters), values)
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Fatalf("%q among %d filters: got %v, want each once, in order", values, len(l.filters), got)
	}
	for i := range l.filters {
		_, isFound := slices.BinarySearch(got, i)
		switch passes := passes(&l.filters[i], values); {
		case passes && !isFound:
			t.Fatalf("%q among %d filters: %d is not found, which is %q", values, len(l.filters), i, l.filters[i])
		case isFound && !passes:
			others++
		}
	}
	return others
}

// vocabulary makes values that often meet: some differ only in case, are part of another, or are no UTF-8.
func vocabulary(r *rand.Rand) string {
	words := []string{"", "a", "A", "aa", "error", "Error", "errors", " error", "é", "\xff", "\x00", "*", "%"}
	if r.IntN(3) > 0 {
		return words[r.IntN(len(words))]
	}
	return fmt.Sprint("v", r.IntN(60))
}

func FuzzASieveFindsEveryFilterThatAMessagePasses(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		var l listed
		grows := true
		for range 600 {
			switch n := len(l.filters); {
			case n == 0:
				grows = true
			case r.IntN(150) == 0 || n > 300:
				grows = !grows
			}
			if r.IntN(10) < 3 != grows {
				var filter filter
				for list := range filter {
					for range r.IntN(17) * r.IntN(2) {
						if v := vocabulary(r); v != "" {
							filter[list] = append(filter[list], v)
						}
					}
				}
				l.add(filter)
			} else if len(l.filters) > 0 {
				l.remove(r.IntN(len(l.filters)))
			}
			l.check(t, [Lists]string{vocabulary(r), vocabulary(r)})
		}
	})
}

func TestFewFiltersAreFoundThatAMessageDoesNotPass(t *testing.T) {
	var l listed
	list := func(i int, kind string) (values []string) {
		for k := range 16 {
			values = append(values, fmt.Sprint(kind, 16*i+k))
		}
		return values
	}
	const filters, messages = 1000, 200
	for i := range 3 * filters { // some take the columns of others, which must leave nothing in them
		if len(l.filters) == filters {
			l.remove(i % filters)
		}
		l.add(filter{list(i, "level"), list(i, "environment")})
	}
	neither, one := 0, 0
	for i := range messages {
		neither += l.check(t, [Lists]string{fmt.Sprint("a", i), fmt.Sprint("b", i)})
		one += l.check(t, [Lists]string{fmt.Sprint("a", i), ""})
	}
	if share := float64(neither) / (filters * messages); share > 0.02 {
		t.Errorf("of the filters that pass neither value, %.2f%% are found, want about 0.1", 100*share)
	}
	if share := float64(one) / (filters * messages); share > 0.08 {
		t.Errorf("of the filters that don't pass the one value, %.2f%% are found, want about 3", 100*share)
	}
}

func TestASieveDoesNotKeepTheTablesOfFiltersThatAreGone(t *testing.T) {
	var l listed
	for i := range 100 * width {
		l.add(filter{{fmt.Sprint(i)}, nil})
	}
	for n := len(l.filters); n > 0; n-- {
		l.remove(n / 2)
		if got, want := len(l.sieve.tables), (n-1+width-1)/width+1; got > want {
			t.Fatalf("%d filters: got %d tables, want at most %d", n-1, got, want)
		}
	}
}

func TestASieveAllocatesOnlyForItsTables(t *testing.T) {
	var l listed
	for i := range 3*width - 1 {
		l.add(filter{{fmt.Sprint(i)}, {"b"}})
	}
	f := filter{{"a", "x"}, {"b"}}
	if got := testing.AllocsPerRun(100, func() {
		l.sieve.Put(3*width-1, Sign(f))
		for q, i := Ask([Lists]string{"x", "b"}), 0; i < 3*width; i++ {
			i = l.sieve.Next(&q, i)
		}
		l.sieve.Move(3*width-1, 7)
		l.sieve.Truncate(3*width - 1)
	}); got != 0 {
		t.Errorf("a filter that comes and goes, and a question: got %v allocations, want 0", got)
	}
}

func BenchmarkNext(b *testing.B) {
	for _, n := range []int{17, 64, 1000, 10_000} {
		b.Run(fmt.Sprint("filters=", n), func(b *testing.B) {
			var l listed
			for i := range n {
				l.add(filter{{fmt.Sprint("a", i)}, {fmt.Sprint("b", i)}})
			}
			for b.Loop() {
				for q, i := Ask([Lists]string{"x", "y"}), 0; i < n; i++ {
					i = l.sieve.Next(&q, i)
				}
			}
		})
	}
}

func BenchmarkPut(b *testing.B) {
	var s Sieve
	f := filter{}
	for i := range 16 {
		f[0], f[1] = append(f[0], fmt.Sprint("level", i)), append(f[1], fmt.Sprint("environment", i))
	}
	b.ReportAllocs()
	for b.Loop() {
		s.Put(0, Sign(f))
	}
}
