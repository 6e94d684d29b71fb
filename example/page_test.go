package main

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// request sends a request with headers to a new app.
func request(t *testing.T, method, path string, headers map[string]string) *http.Response {
	t.Helper()
	app, _, _, err := newApp(hosts{"example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { app.ShutdownWithTimeout(time.Second) })
	r := httptest.NewRequest(method, path, nil)
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	resp, err := app.Test(r, -1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestPagesAndAssetsAreServed(t *testing.T) {
	types := map[string]string{"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "javascript; charset=utf-8", "svg": "image/svg+xml; charset=utf-8"}
	paths := map[string]string{"/": "html", "/?project=shop": "html", "/clients": "html"}
	entries, err := fs.ReadDir(web, "web")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ext, _ := strings.Cut(e.Name(), "."); ext != "html" {
			paths["/assets/"+e.Name()] = ext
		}
	}
	for path, ext := range paths {
		resp := request(t, http.MethodGet, path, nil)
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || !strings.HasSuffix(got, types[ext]) {
			t.Errorf("%s: got %d %q, want 200 %q", path, resp.StatusCode, got, types[ext])
		}
		policy := resp.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: got the policy %q", path, policy)
		}
	}
	for _, path := range []string{"/assets/nothing.js", "/assets/..%2fmain.go", "/assets/%2e%2e", "/assets/"} {
		if resp := request(t, http.MethodGet, path, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404", path, resp.StatusCode)
		}
	}
}

// The policy makes a browser refuse what these find; here they are found without one.
func TestPagesHaveNothingInlineAndNothingFromOutside(t *testing.T) {
	used := map[string]bool{}
	reference := regexp.MustCompile(`(?:src|href)="([^"]*)"|from '([^']*)'`)
	forbidden := regexp.MustCompile(`<script>|<style|\sstyle=|\son[a-z]+="|javascript:|@import|innerHTML|insertAdjacentHTML|\beval\(|https?://(?:[^w]|w[^w])`)
	entries, err := fs.ReadDir(web, "web")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := fs.ReadFile(web, "web/"+e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if found := forbidden.FindAll(text, -1); found != nil {
			t.Errorf("%s has %q", e.Name(), found)
		}
		for _, m := range reference.FindAllStringSubmatch(string(text), -1) {
			target := m[1] + m[2]
			if name, ok := strings.CutPrefix(target, "./"); ok {
				target = "/assets/" + name
			}
			used[target] = true
		}
	}
	for _, e := range entries {
		if path := "/assets/" + e.Name(); !strings.HasSuffix(path, ".html") && !used[path] {
			t.Errorf("%s is used by nobody", path)
		}
		delete(used, "/assets/"+e.Name())
	}
	for target := range used {
		if !slices.Contains([]string{"/", "/clients", "/stream/projects/mesherstream.js"}, target) {
			t.Errorf("%s is used and is not there", target)
		}
	}
}

func TestPostsOfOtherOriginsAreRefused(t *testing.T) {
	for _, test := range []struct {
		name    string
		headers map[string]string
		allowed bool
	}{
		{"no browser", nil, true},
		{"the page itself", map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "http://example.com"}, true},
		{"typed in", map[string]string{"Sec-Fetch-Site": "none"}, true},
		{"another site", map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, false},
		{"another origin of the same site", map[string]string{"Sec-Fetch-Site": "same-site", "Origin": "http://other.example.com"}, false},
		{"an old browser, the page itself", map[string]string{"Origin": "http://example.com"}, true},
		{"an old browser, another origin", map[string]string{"Origin": "http://evil.example"}, false},
		{"an old browser, another port", map[string]string{"Origin": "http://example.com:8080"}, false},
		{"a sandboxed page", map[string]string{"Origin": "null"}, false},
		{"nonsense", map[string]string{"Origin": "http://%zz"}, false},
	} {
		for path, allowed := range map[string]int{"/api/v1/issues/SHOP-1/resolve": http.StatusAccepted, "/api/v1/clients/1/disconnect": http.StatusNotFound, "/api/v1/events": http.StatusBadRequest} {
			want := http.StatusForbidden
			if test.allowed {
				want = allowed
			}
			if resp := request(t, http.MethodPost, path, test.headers); resp.StatusCode != want {
				t.Errorf("%s, %s: got %d, want %d", test.name, path, resp.StatusCode, want)
			}
		}
	}
}
