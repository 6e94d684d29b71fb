// Package report writes what was measured: as figures, as tables, and into documents.
package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Median returns NaN of no values.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	values = slices.Sorted(slices.Values(values))
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

// Spread writes the median of sorted values, and the least and the greatest of them if they are not the same. Of no values, it
// returns a dash.
func Spread(values []float64, format func(float64) string) string {
	if len(values) == 0 {
		return "–"
	}
	cell := format(Median(values))
	if least, greatest := format(values[0]), format(values[len(values)-1]); least != greatest {
		cell += fmt.Sprintf(" (%s – %s)", least, greatest)
	}
	return cell
}

// Mebibytes writes bytes.
func Mebibytes(v float64) string { return fmt.Sprintf("%.1f MiB", v/(1<<20)) }

// Duration writes nanoseconds with three digits.
func Duration(v float64) string {
	for _, unit := range []struct {
		name  string
		nanos float64
	}{{"s", 1e9}, {"ms", 1e6}, {"µs", 1e3}} {
		if scaled := v / unit.nanos; scaled >= 1 {
			return fmt.Sprintf("%.*f %s", max(0, 2-int(math.Log10(scaled))), scaled, unit.name)
		}
	}
	return fmt.Sprintf("%.0f ns", v)
}

// Count writes a whole number with thousands apart.
func Count(v float64) string {
	digits := fmt.Sprintf("%.0f", math.Abs(v))
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if v < 0 {
		return "-" + digits
	}
	return digits
}

// Table is figures as text. The first of its rows is the header, and the first of its columns names the rows.
type Table struct {
	Title string
	Rows  [][]string
	Foot  string
}

// Text is for a terminal.
func (t *Table) Text() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s\n\n", t.Title)
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, row := range t.Rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	if t.Foot != "" {
		fmt.Fprintf(&out, "\n%s\n", t.Foot)
	}
	return out.String()
}

// Markdown is for a document. The last column is notes.
func (t *Table) Markdown() string {
	out := "### " + t.Title + "\n\n" + t.Body()
	if t.Foot != "" {
		out += "\n" + t.Foot + "\n"
	}
	return out + "\n"
}

// Body is the rows of Markdown.
func (t *Table) Body() string {
	var out strings.Builder
	for i, row := range t.Rows {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(&out, "|---|%s---|\n", strings.Repeat("---:|", len(row)-2))
		}
	}
	return out.String()
}
