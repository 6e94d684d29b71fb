package metrics

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mesher/mesherstream"
)

// shows maps each field of the Stats to its metric, with the reason if there is one.
var shows = map[string]string{
	"Clients": "clients", "Slow": "slow_clients", "Buffered": "buffered_messages", "BufferedBytes": "buffered_bytes",
	"HistoryMessages": "history_messages", "HistoryBytes": "history_bytes",
	"Broadcasts": "broadcasts_total", "Offered": "messages_offered_total", "Sent": "messages_sent_total",
	"Dropped": "messages_dropped_total buffer_full", "Abandoned": "messages_dropped_total client_left",
	"Filtered": "messages_filtered_total", "Conflated": "messages_conflated_total", "Replayed": "messages_replayed_total",
	"Connects": "connects_total", "Disconnects": "disconnects_total",
	"FilterSets": "filter_changes_total", "HookPanics": "hook_panics_total",
	"RelayAway": "relay_away", "RelayProjects": "relay_projects", "RelayQueued": "relay_queued_messages",
	"RelayPublished": "relay_messages_published_total", "RelayReceived": "relay_messages_received_total",
	"RelayUnfollowed": "relay_unfollowed_projects", "RelayBreaks": "relay_breaks_total",
	"RelayUnwanted": "relay_messages_unwanted_total", "RelayDropped": "relay_messages_dropped_total unpublished",
	"RelayRefused": "relay_messages_dropped_total refused", "RelayMissed": "relay_messages_dropped_total missed",
}

func TestEachNumberOfTheStatsIsShownByItsOwnMetric(t *testing.T) {
	name := regexp.MustCompile(`fqName: "mesherstream_(\w+)"`)
	for _, f := range reflect.VisibleFields(reflect.TypeFor[mesherstream.Stats]()) {
		if f.Anonymous || f.Type.Kind() == reflect.Struct { // histograms are left out
			continue
		}
		var s mesherstream.Stats
		switch v := reflect.ValueOf(&s).Elem().FieldByIndex(f.Index); v.Kind() {
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Uint64:
			v.SetUint(7)
		default:
			v.SetInt(7)
		}
		var got []string
		for _, m := range metrics {
			if m.value(&s) != 0 {
				got = append(got, strings.Join(append([]string{name.FindStringSubmatch(m.desc.String())[1]}, m.reason...), " "))
			}
		}
		if !slices.Equal(got, []string{shows[f.Name]}) {
			t.Errorf("Stats.%s: shown by %q, want %q", f.Name, got, shows[f.Name])
		}
	}
}
