//go:build linux

package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The chart's measures, in pixels.
const (
	chartWidth = 760
	labelWidth = 130
	valueWidth = 60
	barHeight  = 18
	barStep    = 25
	panelHead  = 54
	chartFoot  = 16
)

// chartStyle is readable on a light and on a dark page: the colours follow the reader's scheme, and there is no background.
const chartStyle = `
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 15px }
.note { fill: #57606a; font-size: 12px }
.value { font-variant-numeric: tabular-nums }
.bar { fill: #8c959f }
.limit { fill: #c9d1d9 }
.ours { fill: #1a7f5a }
.one { stroke: #57606a; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .bar { fill: #6e7681 }
  .limit { fill: #3d444d }
  .ours { fill: #3fb98a }
  .one { stroke: #9198a1 }
}
`

type bar struct {
	name  string
	value float64
}

// charted are the scenarios that the chart shows. The others cost what paced costs, are not about CPU time, or fill the machine.
var charted = []string{"paced", "burst"}

// chart draws one panel for each of these that has been run, and is nil where none has.
func (b *book) chart() ([]byte, error) {
	var body strings.Builder
	y := 0
	for _, sc := range b.finished() {
		bars := b.bars(&sc)
		if len(bars) == 0 || !slices.Contains(charted, sc.name) {
			continue
		}
		y = panel(&body, y, sc.name, sc.about, bars)
	}
	if y == 0 {
		return nil, nil
	}
	height := y + chartFoot
	return fmt.Appendf(nil,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" aria-label=\"CPU time per delivered message, relative to bare system calls\">\n<style>%s</style>\n%s</svg>\n",
		chartWidth, height, chartWidth, height, chartStyle, body.String()), nil
}

// bars returns a scenario's servers, the cheapest first.
func (b *book) bars(sc *scenario) (bars []bar) {
	at := slices.IndexFunc(sc.columns, func(c column) bool { return c.title == "× syscalls" })
	if at < 0 {
		return nil
	}
	for _, server := range sc.servers {
		if v := b.median(sc, &sc.columns[at], server); !math.IsNaN(v) {
			bars = append(bars, bar{server, v})
		}
	}
	slices.SortStableFunc(bars, func(a, b bar) int { return cmp.Compare(a.value, b.value) })
	return bars
}

// panel draws one scenario below y and returns where it ends.
func panel(out *strings.Builder, y int, name, about string, bars []bar) int {
	longest := 1.0
	for _, b := range bars {
		longest = max(longest, b.value)
	}
	scale := float64(chartWidth-labelWidth-valueWidth) / longest
	fmt.Fprintf(out, "<text class=\"title\" x=\"0\" y=\"%d\">%s: CPU per delivery × bare system calls</text>\n", y+18, html.EscapeString(name))
	fmt.Fprintf(out, "<text class=\"note\" x=\"0\" y=\"%d\">%s; shorter is better</text>\n", y+36, html.EscapeString(about))
	y += panelHead
	one := float64(labelWidth) + scale
	fmt.Fprintf(out, "<line class=\"one\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", one, one, y-6, y+len(bars)*barStep-2)
	for _, b := range bars {
		class := "bar"
		switch b.name {
		case "mesherstream":
			class = "ours"
		case "syscalls", "joined":
			class = "limit"
		}
		width := max(b.value*scale, 1)
		fmt.Fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", labelWidth-10, y+13, html.EscapeString(b.name))
		fmt.Fprintf(out, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>", class, labelWidth, y, width, barHeight)
		fmt.Fprintf(out, "<text class=\"value\" x=\"%.1f\" y=\"%d\">%.2f</text>\n", float64(labelWidth)+width+6, y+13, b.value)
		y += barStep
	}
	return y + 14
}
