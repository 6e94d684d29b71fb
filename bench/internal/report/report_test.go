package report

import (
	"math"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 4}, 4}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := Median(test.values); got != test.want {
			t.Errorf("Median(%v) = %v, want %v", test.values, got, test.want)
		}
	}
	if got := Median(nil); !math.IsNaN(got) {
		t.Errorf("Median(nil) = %v, want NaN", got)
	}
}

func TestFiguresAreWrittenWithThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{
		12: "12 ns", 1234: "1.23 µs", 12_345: "12.3 µs", 123_456: "123 µs", 4_567_000: "4.57 ms", 2.5e9: "2.50 s",
	} {
		if got := Duration(v); got != want {
			t.Errorf("Duration(%v) = %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 9_800_000: "9,800,000", -1234: "-1,234"} {
		if got := Count(v); got != want {
			t.Errorf("Count(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestSectionsOfADocumentAreReplaced(t *testing.T) {
	const document = "a\n<!-- compare paced -->\nold\n<!-- end -->\nb\n<!-- compare burst -->\nother\n<!-- end -->\n"
	got, err := Replace([]byte(document), "paced", "new\n")
	const want = "a\n<!-- compare paced -->\n\nnew\n\n<!-- end -->\nb\n<!-- compare burst -->\nother\n<!-- end -->\n"
	if err != nil || string(got) != want {
		t.Errorf("got %v and %q, want %q", err, got, want)
	}
	if again, err := Replace(got, "paced", "new\n"); err != nil || string(again) != want {
		t.Errorf("replaced again: got %v and %q, want %q", err, again, want)
	}
	if section, ok := Section(want, "burst"); !ok || section != "other\n" {
		t.Errorf("got %q, %v, want the section burst", section, ok)
	}
	for _, broken := range []string{"", "<!-- compare paced -->\nno end"} {
		if got, err := Replace([]byte(broken), "paced", "new"); err == nil || string(got) != broken {
			t.Errorf("got %q and no error of %q, which has no marks", got, broken)
		}
		if _, ok := Section(broken, "paced"); ok {
			t.Errorf("%q has a section", broken)
		}
	}
}

func TestASpreadIsLeftOutIfItIsNothing(t *testing.T) {
	for want, values := range map[string][]float64{"–": nil, "1": {1}, "2": {2, 2}, "3 (2 – 4)": {2, 3, 4}} {
		if got := Spread(values, Count); got != want {
			t.Errorf("Spread(%v) = %q, want %q", values, got, want)
		}
	}
}
