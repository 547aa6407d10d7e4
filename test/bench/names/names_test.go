//go:build bench

package names_test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/bench/board"
	"github.com/weft-net/weft/test/bench/load"
	"github.com/weft-net/weft/test/lab"
)

const (
	plugin  = "weft:latest"
	network = "weft"
	// netload is where the hosts have it, and containers by a bind mount.
	netload = load.Path
	// long bounds what only a broken resolver makes last.
	long = "30s"
	// rounds is how often each is measured.
	rounds = 60
)

// TestNames measures, on each engine, how soon a new container's name is answered on the
// other host, and how soon a new container is answered the name of one that is there.
func TestNames(t *testing.T) {
	b := &board.Board{}
	defer b.Print(t)
	binary := load.Build(t, "netload")
	for _, engine := range lab.Engines() {
		t.Run(engine, func(t *testing.T) {
			h1, h2 := pair(t, engine, binary)
			var after, first []time.Duration
			for i := range rounds {
				after = append(after, heard(t, h1, h2, fmt.Sprintf("new%d", i)))
				line := h1.MustDocker(t, "run", "--rm", "--network", network, "--dns", "127.0.0.1", "-v", netload+":"+netload+":ro", lab.Image, netload, "resolve", "stays-h2", long)
				begin, answered, err := load.Times(line)
				must(t, err)
				first = append(first, answered.Sub(begin))
			}
			report(b, engine+": a new container's name on the other host, after `docker run`", after, 250*time.Millisecond)
			report(b, engine+": a name of the other host, after the start of a container's first process", first, 200*time.Millisecond)
		})
	}
}

func report(b *board.Board, what string, all []time.Duration, most time.Duration) {
	p99 := board.Quantile(all, 0.99)
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	b.Add(p99 > most, what, "p99 ≤ "+most.String(), "p50 %v, p90 %v, p99 %v (%d)", round(board.Median(all)), round(board.Quantile(all, 0.9)), round(p99), len(all))
}

// heard is from the return of `docker run` on h2 to the first answer on h1, in a container
// that asked for the name all the time.
func heard(t *testing.T, h1, h2 *lab.Host, name string) time.Duration {
	t.Helper()
	pid := h1.MustDocker(t, "inspect", "-f", "{{.State.Pid}}", "stays-h1")
	asks, err := h1.Background("nsenter", "-t", pid, "-n", "--", netload, "resolve", name, long)
	must(t, err)
	defer asks.Stop()
	h2.MustDocker(t, "run", "-d", "--name", name, "--network", network, lab.Image, "sleep", "infinity")
	returned := time.Now()
	var line string
	must(t, lab.Until(t.Context(), "an answer for "+name, func(context.Context) error {
		if line = asks.Output(); !strings.HasSuffix(line, "\n") {
			return fmt.Errorf("none yet: %q", line)
		}
		return nil
	}))
	_, answered, err := load.Times(line)
	must(t, err)
	h2.MustDocker(t, "rm", "-f", name)
	return answered.Sub(returned)
}

// pair is two hosts in a cluster, with a container on each that stays.
func pair(t *testing.T, engine, binary string) (h1, h2 *lab.Host) {
	t.Helper()
	l := lab.New(t, lab.Config{Hosts: []lab.HostConfig{{Name: "h1", Engine: engine}, {Name: "h2", Engine: engine}, {Name: "s1", NoEngine: true}}})
	store, err := lab.StartStore(t.Context(), lab.StoreConfig{Members: l.Hosts[2:]})
	must(t, err)
	var settings []string
	for name, value := range maps.All(store.Settings()) {
		settings = append(settings, name+"="+value)
	}
	dir, err := filepath.Abs("../../../build/plugin")
	must(t, err)
	for _, h := range l.Hosts[:2] {
		must(t, h.InstallPlugin(t.Context(), dir, settings...))
		must(t, h.CopyIn(t.Context(), binary, netload))
	}
	h1, h2 = l.Hosts[0], l.Hosts[1]
	h1.MustDocker(t, "network", "create", "-d", plugin, "--ipam-driver", plugin, "-o", "mode=overlay", "--subnet", "10.60.0.0/16", network)
	for _, h := range l.Hosts[:2] {
		must(t, lab.Until(t.Context(), "the network on "+h.Name, func(ctx context.Context) error {
			_, err := h.Docker(ctx, "network", "inspect", network)
			return err
		}))
		h.MustDocker(t, "run", "-d", "--name", "stays-"+h.Name, "--network", network, "--dns", "127.0.0.1", lab.Image, "sleep", "infinity")
	}
	heard(t, h1, h2, "warm")
	return h1, h2
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
