//go:build bench

package bench_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/lab"
)

// A way is one way to run a container.
type way struct {
	name string
	args []string
}

// portFlags publishes n ports from first on.
func portFlags(first, n int) []string {
	var out []string
	for i := range n {
		out = append(out, "-p", fmt.Sprintf("%d:%d", first+i, 80+i))
	}
	return out
}

// TestNetworkShare measures what a network adds to `docker run`: the median
// time less the median of --network none.
func TestNetworkShare(t *testing.T) {
	rounds := 25
	if v := os.Getenv("WEFT_BENCH_ROUNDS"); v != "" {
		var err error
		if rounds, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	l := lab.New(t, lab.Config{Hosts: []lab.HostConfig{{Name: "h1", Engine: "28.5.2"}}})
	h := l.Hosts[0]
	dir, err := filepath.Abs("../../build/plugin")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.InstallPlugin(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	h.MustDocker(t, "network", "create", "builtin")
	for name, opts := range map[string][]string{
		"weft": nil, "weft-direct": {"-o", "attach=direct", "-o", "publish=native"}, "weft-native": {"-o", "publish=native"},
	} {
		h.MustDocker(t, append(append([]string{"network", "create", "-d", "weft:latest"}, opts...), name)...)
	}
	ways := []way{
		{"none", []string{"--network", "none"}},
		{"builtin", []string{"--network", "builtin"}},
		{"builtin again (A/A)", []string{"--network", "builtin"}},
		{"weft attach=docker", []string{"--network", "weft"}},
		{"weft attach=direct", []string{"--network", "weft-direct"}},
		{"builtin, 10 ports", append([]string{"--network", "builtin"}, portFlags(20000, 10)...)},
		{"weft native, 10 ports", append([]string{"--network", "weft-native"}, portFlags(21000, 10)...)},
		{"weft native direct, 10 ports", append([]string{"--network", "weft-direct"}, portFlags(22000, 10)...)},
	}
	took := map[string][]time.Duration{}
	for round := range rounds + 1 {
		for _, i := range rand.Perm(len(ways)) {
			d := measure(t, h, ways[i])
			if round > 0 { // the first round warms the caches
				took[ways[i].name] = append(took[ways[i].name], d)
			}
		}
	}
	report(t, ways, took)
}

// measure takes the whole life of a container: `docker run --rm` returns when
// the container is gone again.
func measure(t *testing.T, h *lab.Host, w way) time.Duration {
	t.Helper()
	start := time.Now()
	h.MustDocker(t, append(append([]string{"run", "--rm"}, w.args...), lab.Image, "true")...)
	return time.Since(start)
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func report(t *testing.T, ways []way, took map[string][]time.Duration) {
	t.Helper()
	none := median(took["none"])
	share := func(name string) float64 { return float64(median(took[name])-none) / float64(time.Millisecond) }
	for _, w := range ways {
		base := share("builtin")
		if strings.Contains(w.name, "ports") {
			base = share("builtin, 10 ports")
		}
		t.Logf("%-30s median %7.1f ms  network share %7.1f ms  ratio %.2f", w.name, float64(median(took[w.name]))/float64(time.Millisecond), share(w.name), share(w.name)/base)
	}
	for name, most := range map[string]float64{"weft attach=docker": 0.55, "weft attach=direct": 0.35} {
		if r := share(name) / share("builtin"); r > most {
			t.Errorf("%s: ratio %.2f, must be at most %.2f", name, r, most)
		}
	}
	if r := share("weft native, 10 ports") / share("builtin, 10 ports"); r > 0.10 {
		t.Errorf("10 native ports: ratio %.2f, must be at most 0.10", r)
	}
}
