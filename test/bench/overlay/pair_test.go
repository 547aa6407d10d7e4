//go:build bench

package overlay_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/weft-net/weft/test/bench/load"
	"github.com/weft-net/weft/test/lab"
)

const (
	plugin = "weft:latest"
	// netload is where the hosts have it, and containers by a bind mount.
	netload = load.Path
	// long bounds what only a broken network makes last.
	long = 30 * time.Second
)

// The networks that are compared, by their names on both hosts.
const (
	builtin = "builtin"     // the Swarm's
	alone   = "alone"       // the same, but no container stays on it
	weft    = "weft"        // attach=docker, publish=docker
	direct  = "weft-direct" // attach=direct, publish=native
	least   = "least"       // only on the third host; see command least
)

// pair is two hosts with engines in a Swarm and in a cluster of weft. The store has a
// host of its own, with an engine for what the two are compared with besides.
type pair struct {
	*testing.T
	hosts [2]*lab.Host
	third *lab.Host
}

func newPair(t *testing.T) *pair {
	t.Helper()
	const engine = "28.5.2"
	l := lab.New(t, lab.Config{Hosts: []lab.HostConfig{{Name: "h1", Engine: engine}, {Name: "h2", Engine: engine}, {Name: "s1", Engine: engine}}})
	p := &pair{T: t, hosts: [2]*lab.Host{l.Hosts[0], l.Hosts[1]}, third: l.Hosts[2]}
	store, err := lab.StartStore(t.Context(), lab.StoreConfig{Members: l.Hosts[2:]})
	p.must(err)
	var settings []string
	for name, value := range maps.All(store.Settings()) {
		settings = append(settings, name+"="+value)
	}
	dir, err := filepath.Abs("../../../build/plugin")
	p.must(err)
	binary := load.Build(t, "netload")
	for _, h := range p.hosts {
		p.must(h.InstallPlugin(t.Context(), dir, settings...))
		p.must(h.CopyIn(t.Context(), binary, netload))
	}
	t.Cleanup(func() {
		for _, h := range p.hosts {
			if t.Failed() {
				log, _ := h.PluginLog(context.Background())
				t.Logf("%s: log of the plugin:\n%s", h.Name, log[max(0, len(log)-2000):])
			}
		}
	})
	p.swarm()
	p.overlay(weft, "10.60.0.0/16")
	p.overlay(direct, "10.61.0.0/16", "-o", "attach=direct", "-o", "publish=native")
	// A network with a container is what hosts have most of the time: the built-in
	// driver takes all of it down with the last container.
	for _, h := range p.hosts {
		for _, network := range []string{builtin, weft, direct} {
			h.MustDocker(t, "run", "-d", "--name", stays(network), "--network", network, lab.Image, "sleep", "infinity")
		}
	}
	p.meshed()
	return p
}

// startLeast runs the least driver on the third host, and makes its network there.
func (p *pair) startLeast() {
	p.Helper()
	const path, sockets, gateway = "/usr/local/bin/least", "/run/docker/plugins", "10.73.0.1"
	p.must(p.third.CopyIn(p.Context(), load.Build(p.T, "least"), path))
	p.third.MustRun(p, "mkdir", "-p", sockets)
	process, err := p.third.Background(path, sockets+"/least.sock", gateway)
	p.must(err)
	p.Cleanup(func() {
		if said := process.Stop(); said != "" {
			p.Log("least: ", said)
		}
	})
	p.must(lab.Until(p.Context(), "the least driver", func(ctx context.Context) error {
		_, err := p.third.Docker(ctx, "network", "create", "-d", "least", "--subnet", "10.73.0.0/16", "--gateway", gateway, least)
		return err
	}))
}

func (p *pair) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// on is the same pair for a part of the benchmark.
func (p *pair) on(t *testing.T) *pair { return &pair{T: t, hosts: p.hosts, third: p.third} }

// swarm joins the hosts to a Swarm with the built-in overlays.
func (p *pair) swarm() {
	p.Helper()
	h1, h2 := p.hosts[0], p.hosts[1]
	h1.MustDocker(p, "swarm", "init", "--advertise-addr", h1.IPv4.String())
	token := h1.MustDocker(p, "swarm", "join-token", "-q", "worker")
	h2.MustDocker(p, "swarm", "join", "--token", token, h1.IPv4.String()+":2377")
	for i, name := range []string{builtin, alone} {
		h1.MustDocker(p, "network", "create", "-d", "overlay", "--attachable", "--subnet", fmt.Sprintf("10.7%d.0.0/16", 1+i), name)
	}
}

// overlay makes one of weft's, which the other host gets by itself.
func (p *pair) overlay(name, subnet string, options ...string) {
	p.Helper()
	args := append([]string{"network", "create", "-d", plugin, "--ipam-driver", plugin, "--subnet", subnet, "-o", "mode=overlay"}, options...)
	p.hosts[0].MustDocker(p, append(args, name)...)
	p.must(lab.Until(p.Context(), "network "+name+" on the other host", func(ctx context.Context) error {
		_, err := p.hosts[1].Docker(ctx, "network", "inspect", name)
		return err
	}))
}

// stays is the container that stays on a network.
func stays(network string) string { return "stays-" + network }

// meshed waits until what stays reaches the other host on all networks.
func (p *pair) meshed() {
	p.Helper()
	for _, network := range []string{builtin, weft, direct} {
		for i, h := range p.hosts {
			_, err := h.Run(p.Context(), p.in(h, stays(network), netload, "ping", p.ip(p.hosts[1-i], stays(network), network), long.String())...)
			p.must(err)
		}
	}
}

func (p *pair) ip(h *lab.Host, container, network string) string {
	p.Helper()
	return h.MustDocker(p, "inspect", "-f", fmt.Sprintf(`{{(index .NetworkSettings.Networks %q).IPAddress}}`, network), container)
}

// in is a command in the network of a container, at less than what `docker exec` costs.
func (p *pair) in(h *lab.Host, container string, args ...string) []string {
	p.Helper()
	return append([]string{"nsenter", "-t", h.MustDocker(p, "inspect", "-f", "{{.State.Pid}}", container), "-n", "--"}, args...)
}

// rounds is how often what is interleaved is repeated.
func rounds(t *testing.T, usual int) int {
	t.Helper()
	v := os.Getenv("WEFT_BENCH_ROUNDS")
	if v == "" {
		return usual
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
