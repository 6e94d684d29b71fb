package test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

var (
	anyPosition = regexp.MustCompile(`\bpA[\w-]{60,}`)
	anyGap      = regexp.MustCompile(`\bgA[\w-]{60,}`)
)

// TestTheTranscriptOfTheProtocolIsTrue replays the transcript in docs/protocol.md. It does so in a bubble: a mark also
// follows if a second has passed since the last one.
func TestTheTranscriptOfTheProtocolIsTrue(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, transcript, found := strings.Cut(string(text), "## A transcript")
	_, transcript, found2 := strings.Cut(transcript, "```\n")
	if !found || !found2 {
		t.Fatal("docs/protocol.md has no transcript")
	}
	transcript, _, _ = strings.Cut(transcript, "```")
	pattern := strings.NewReplacer(
		regexp.QuoteMeta("$STREAM"), `([A-Z2-7]{12})`,
		regexp.QuoteMeta("$ID"), `\d+`,
		regexp.QuoteMeta("$POSITION"), `p[\w-]{20,800}`,
		regexp.QuoteMeta("$GAP"), `g[\w-]{20,800}`,
		regexp.QuoteMeta("$AGE"), `\d+`,
		regexp.QuoteMeta("$TIME"), `20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z`,
	)

	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithMaxBuffer(2), mesherstream.WithWindow(4))
		var v *streamtest.Viewer
		stream, position, gap := "", "", "" // as the server has named them last
		for line := range strings.Lines(transcript) {
			synctest.Wait() // until the server has handled the line before
			line = strings.TrimSuffix(line, "\n")
			kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch {
			case strings.HasPrefix(rest, "GET /stream/projects/"):
				v = w.Connect(strings.ReplaceAll(strings.TrimPrefix(rest, "GET /stream/projects/"), "$POSITION", position), mesherstream.Protocol)
				stream = ""
			case kind == "→" && rest == "close":
				_ = v.WS.Close()
				time.Sleep(100 * time.Millisecond)
			case kind == "→":
				v.Send(strings.ReplaceAll(rest, "$GAP", gap))
			case kind == "←":
				got := v.Next()
				match := regexp.MustCompile("^" + pattern.Replace(regexp.QuoteMeta(rest)) + "$").FindStringSubmatch(got)
				if match == nil {
					w.Fatalf("got %s, want %s", got, rest)
				}
				if text := anyPosition.FindString(got); text != "" {
					position = text
				}
				if text := anyGap.FindString(got); text != "" {
					gap = text
				}
				if len(match) > 1 && strings.Contains(rest, "$STREAM") {
					if stream == "" {
						stream = match[1]
					}
					if match[1] != stream {
						w.Errorf("%s: got stream %s, want %s", rest, match[1], stream)
					}
				}
			case kind == "publish":
				level, data, _ := strings.Cut(rest, " ")
				w.PublishAll(mesherstream.Message{Level: level, Data: []byte(data)})
				w.M.Stats() // and so it is done
			case kind == "nothing":
				d, err := time.ParseDuration(strings.ReplaceAll(strings.TrimPrefix(rest, "for "), " ", ""))
				if err != nil {
					w.Fatal(err)
				}
				time.Sleep(d)
			default:
				w.Fatalf("docs/protocol.md: no such line: %q", line)
			}
		}
	})
}
