package plugin_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/plugin"
)

// TestReplay sends every recorded request of every engine through a socket and
// checks that the decoded request encodes to what was sent.
func TestReplay(t *testing.T) {
	s := serve(t, plugin.Config{})
	seen := map[string]int{}
	for i, r := range recordings(t) {
		seen[r.Path]++
		s.stub.take()
		got := s.do(t, http.MethodPost, r.Path, r.body())
		if got.status != http.StatusOK || got.err != "" {
			t.Errorf("%s #%d %s: status %d: %s", r.file, i, r.Path, got.status, got.body)
			continue
		}
		if r.body() == nil {
			continue
		}
		back, err := json.Marshal(s.stub.take())
		if err != nil {
			t.Fatal(err)
		}
		want := normal(t, r.Path, r.body())
		if diff := cmp.Diff(want, normal(t, r.Path, back)); diff != "" {
			t.Errorf("%s #%d %s: decoding lost something (-sent +kept):\n%s", r.file, i, r.Path, diff)
		}
	}
	for _, must := range []string{"/Plugin.Activate", "/NetworkDriver.AllocateNetwork", "/NetworkDriver.Join", "/IpamDriver.RequestAddress", "/NetworkDriver.DiscoverNew"} {
		if seen[must] == 0 {
			t.Errorf("no recording holds %s", must)
		}
	}
}

// normal brings a body to a form in which equal meanings compare equal: what is
// absent, null, empty or false is left out, and the default of enable_ipv4 is
// filled in.
func normal(t *testing.T, path string, body []byte) any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	if options, ok := v["Options"].(map[string]any); ok && strings.HasSuffix(path, ".CreateNetwork") {
		if _, ok := options[plugin.OptEnableIPv4]; !ok {
			options[plugin.OptEnableIPv4] = true
		}
	}
	return prune(v)
}

func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			if kept := prune(value); kept != nil {
				out[key] = kept
			}
		}
		if len(out) > 0 {
			return out
		}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = prune(v[i])
		}
		if len(out) > 0 {
			return out
		}
	case string:
		if v != "" {
			return v
		}
	case bool:
		if v {
			return v
		}
	case float64:
		return v
	}
	return nil
}
