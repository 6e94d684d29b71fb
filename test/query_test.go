package test

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/mesher/mesherstream/internal/streamtest"
)

// A name that is nearly right would be no filter, and the stream would carry everything.
func TestANearMissOfAQueryNameIsRefusedAndTheRightNameTold(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use(streamtest.NewTestManager(t).Handler())
	for name, keys := range map[string][]string{
		"level": {
			"levels", "Level", "LEVEL", "LeVeLs", "level[]", "levels[]", "level[0]", "level.0", " level", "level ", "lvl", "lvls", "levl", "lvel",
			"leevl", "levle", "leve", "llevel", "level2", "loglevel", "log_level", "log-level", "logLevel", "minlevel", "severity", "severities",
			"filter[level]", "filters[level][]", "filters.level", "level_filter", "levelFilter", "amp;level", "%6Cevels", "level%00",
			"minimum_level", "minimumLevel", "maxlevel", "maximum-level", "level.eq", "level_in", "level-name", "levelName", "levels_in", "level__gte", "at_least_level", "filter_min_level",
		},
		"environment": {
			"environments", "Environment", "ENVIRONMENT", "environment[]", "env", "envs", "ENV", "env[]", "env_filter", "filter[env]",
			"enviroment", "enviroments", "enviornment", "envirnoment", "environnement", "environement", "envronment", "filter.environment", "amp;environment",
			"environment_name", "env_name", "environmentName", "app_env", "node-env", "deploy.environment",
		},
		"level and environment": {"filter", "filters", "Filter", "FILTERS", "filter[]", "filters[0]"},
	} {
		for _, key := range keys {
			key = strings.ReplaceAll(key, " ", "+")
			got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop?token=x&"+key+"=error", streamtest.Upgrade...)
			if got != 400 || !strings.HasSuffix(body, "use "+name) || !strings.Contains(body, shown(unescaped(t, key))) {
				t.Errorf("?%s=error: got %d %q, want 400 that names %s", key, got, body, name)
			}
		}
	}
	for _, query := range []string{
		"level=error", "environment=production", "level=error&environment=production&level=fatal", "level=levels", "%6Cevel=error",
		"", "token=x", "access_token=x", "t=1", "v=2", "id=x", "_=1700000000", "key=x", "user=x", "session=x", "project=x", "page=2", "lang=en",
		"lat=1&lng=2", "list=x", "fast=1", "zoom_level=3", "access_level=3", "development=1", "entertainment=x", "event=x", "events=x", "ev=x", "en=x",
		"user_level=1", "levitate=x", "envelope=x", "sealevel=1", "s=x", "=x", "x", "&&", strings.Repeat("level", 600) + "=x",
	} {
		if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/shop?"+query, streamtest.Upgrade...); got != 101 {
			t.Errorf("?%.60s: got %d %q, want 101", query, got, body)
		}
	}
}

func unescaped(t *testing.T, key string) string {
	t.Helper()
	plain, err := url.QueryUnescape(key)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// shown returns a stranger's text as an answer quotes it.
func shown(s string) string {
	return regexp.MustCompile(`[^a-zA-Z0-9._~:/\[\]@*-]`).ReplaceAllStringFunc(s, func(c string) string { return fmt.Sprintf("%%%02X", c) })
}
