//go:build bench

package overlay_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/bench/board"
	"github.com/weft-net/weft/test/lab"
)

// TestOverlay measures weft's overlay against the Swarm's.
func TestOverlay(t *testing.T) {
	p, b := newPair(t), &board.Board{}
	defer b.Print(t)
	for _, part := range []struct {
		name string
		run  func(*pair, *board.Board)
	}{{"share", (*pair).share}, {"first packet", (*pair).firstPacket}, {"first answer", (*pair).firstAnswer}, {"flows", (*pair).flows}} {
		t.Run(part.name, func(t *testing.T) { part.run(p.on(t), b) })
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

// share is what a network adds to `docker run --rm`, the whole life of a container:
// the median time less the median of --network none.
func (p *pair) share(b *board.Board) {
	h := p.hosts[0]
	const again, weftAgain = builtin + " again", weft + " again"
	network := map[string]string{again: builtin, weftAgain: weft}
	ways := []string{"none", builtin, again, alone, weft, weftAgain, direct}
	took := map[string][]time.Duration{}
	for round := range rounds(p.T, 25) + 1 {
		for _, i := range rand.Perm(len(ways)) {
			name := ways[i]
			if network[name] != "" {
				name = network[name]
			}
			begin := time.Now()
			h.MustDocker(p, "run", "--rm", "--network", name, lab.Image, "true")
			if round > 0 { // the first round warms the caches
				took[ways[i]] = append(took[ways[i]], time.Since(begin))
			}
		}
	}
	none := board.Median(took["none"])
	share := func(way string) time.Duration { return board.Median(took[way]) - none }
	ratio := func(way, base string) float64 { return float64(share(way)) / float64(share(base)) }
	b.Note(fmt.Sprintf("`docker run --rm`, --network none, median of %d", len(took["none"])), "%s", ms(none))
	b.Note("network share, built-in overlay", "%s", ms(share(builtin)))
	b.Note("  control: the same again", "%.2f×", ratio(again, builtin))
	b.Note("  first and last container of the network on the host", "%s", ms(share(alone)))
	const most = 0.20
	for _, way := range []string{weft, direct} {
		r := ratio(way, builtin)
		b.Add(r > most, "network share, "+way, fmt.Sprintf("≤ %.2f×", most), "%s, %.2f×", ms(share(way)), r)
	}
	b.Note("  control: weft again", "%.2f×", ratio(weftAgain, weft))
}

// firstPacket starts containers that ping one of the other host first of all.
func (p *pair) firstPacket(b *board.Board) {
	h, other := p.hosts[0], p.hosts[1]
	networks := []string{builtin, weft, direct}
	to := map[string]string{}
	for _, network := range networks {
		to[network] = p.ip(other, stays(network), network)
	}
	took := map[string][]time.Duration{}
	for range rounds(p.T, 30) {
		for _, i := range rand.Perm(len(networks)) {
			network := networks[i]
			line := h.MustDocker(p, "run", "--rm", "--network", network, "-v", netload+":"+netload+":ro", lab.Image, netload, "ping", to[network], long.String())
			begin, answered, err := times(line)
			p.must(err)
			took[network] = append(took[network], answered.Sub(begin))
		}
	}
	for _, network := range networks {
		all := took[network]
		what := "first packet to the other host until its answer, " + network
		got := fmt.Sprintf("%s, p90 %s, slowest %s (%d)", ms(board.Median(all)), ms(board.Quantile(all, 0.9)), ms(board.Quantile(all, 1)), len(all))
		if network == builtin {
			b.Note(what, "%s", got)
			continue
		}
		const most = 5 * time.Millisecond
		b.Add(board.Median(all) > most, what, "≤ 5 ms", "%s", got)
	}
}

// firstAnswer pings, every millisecond and from before its start, a container that is
// about to start, from the other host and from a container there, and compares the time
// of the first answer with when the engine says that the container started.
func (p *pair) firstAnswer(b *board.Board) {
	const trials = 60
	took := map[string][]time.Duration{}
	for trial := range trials {
		for _, network := range []string{builtin, weft, direct} {
			if network == builtin && trial%4 != 0 { // it takes long, and has no target
				continue
			}
			for who, d := range p.answered(network, trial) {
				took[network+", "+who] = append(took[network+", "+who], d)
			}
		}
	}
	for _, who := range []string{builtin + ", container", weft + ", container", weft + ", host", direct + ", container", direct + ", host"} {
		all := took[who]
		what := "first answer of a new container after its start: " + who
		got := fmt.Sprintf("p50 %s, p99 %s (%d)", ms(board.Median(all)), ms(board.Quantile(all, 0.99)), len(all))
		const most = 50 * time.Millisecond
		if strings.HasPrefix(who, builtin) {
			b.Note(what, "%s", got)
		} else {
			b.Add(board.Quantile(all, 0.99) > most, what, "p99 ≤ 50 ms", "%s", got)
		}
	}
}

// answered is one trial.
func (p *pair) answered(network string, trial int) map[string]time.Duration {
	h, other := p.hosts[0], p.hosts[1]
	third := map[string]string{builtin: "10.71", weft: "10.60", direct: "10.61"}[network]
	addr := fmt.Sprintf("%s.200.%d", third, 1+trial)
	probers := map[string][]string{"container": p.in(other, stays(network), netload, "ping", addr, long.String())}
	if network != builtin { // its hosts do not reach containers
		probers["host"] = []string{netload, "ping", addr, long.String()}
	}
	running := map[string]*lab.Process{}
	for who, args := range probers {
		process, err := other.Background(args...)
		p.must(err)
		defer process.Stop()
		running[who] = process
	}
	h.MustDocker(p, "run", "-d", "--name", "new", "--network", network, "--ip", addr, lab.Image, "sleep", "infinity")
	defer h.MustDocker(p, "rm", "-f", "new")
	started, err := time.Parse(time.RFC3339Nano, h.MustDocker(p, "inspect", "-f", "{{.State.StartedAt}}", "new"))
	p.must(err)
	out := map[string]time.Duration{}
	for who, process := range running {
		if err := process.Wait(p.Context()); err != nil {
			p.Fatalf("%s, %s: %v %s", network, who, err, process.Output())
		}
		begin, at, err := times(process.Output())
		p.must(err)
		if !begin.Before(started) {
			p.Fatalf("%s, %s: the pings began after the container", network, who)
		}
		out[who] = at.Sub(started)
	}
	return out
}

// flows measures TCP between two hosts. Both ends and all that the kernel does for them
// share one processor, so that a rate is the inverse of the whole cost.
func (p *pair) flows(b *board.Board) {
	h, other := p.hosts[0], p.hosts[1]
	const hosts, again, port = "hosts", weft + " again", ":7001"
	pinned := []string{"taskset", "-c", "1", netload}
	client, to := map[string][]string{hosts: pinned}, map[string]string{hosts: other.IPv4.String() + port}
	for _, network := range []string{hosts, builtin, weft, direct} {
		server := append(pinned[:len(pinned):len(pinned)], "serve", port)
		if network != hosts {
			to[network] = p.ip(other, stays(network), network) + port
			client[network] = p.in(h, stays(network), pinned...)
			server = p.in(other, stays(network), server...)
		}
		process, err := other.Background(server...)
		p.must(err)
		defer process.Stop()
	}
	client[again], to[again] = client[weft], to[weft]
	ways := []string{hosts, builtin, weft, again, direct}
	p.must(lab.Until(p.Context(), "the servers", func(ctx context.Context) error {
		for _, way := range ways {
			if _, err := h.Run(ctx, append(client[way][:len(client[way]):len(client[way])], "rr", to[way], "10ms")...); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, what := range []string{"rr", "stream"} {
		rates := map[string][]float64{}
		for round := range rounds(p.T, 15) + 1 {
			for _, i := range rand.Perm(len(ways)) {
				way := ways[i]
				line := h.MustRun(p, append(client[way][:len(client[way]):len(client[way])], what, to[way], "1s")...)
				rate, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
				p.must(err)
				if round > 0 {
					rates[way] = append(rates[way], rate)
				}
			}
		}
		p.rates(b, what, rates, hosts, again)
	}
}

// rates compares the rounds one by one.
func (p *pair) rates(b *board.Board, what string, rates map[string][]float64, hosts, again string) {
	ratio := func(way, base string) (median, low, high float64) {
		var all []float64
		for i := range rates[way] {
			all = append(all, rates[way][i]/rates[base][i])
		}
		return board.Median(all), board.Quantile(all, 0.25), board.Quantile(all, 0.75)
	}
	name := map[string]string{"rr": "TCP request/response", "stream": "TCP stream"}[what]
	unit := map[string]string{"rr": "/s", "stream": " Mbit/s"}[what]
	b.Note(name+", the hosts themselves, one processor", "%.0f%s", board.Median(rates[hosts]), unit)
	for _, way := range []string{builtin, weft, direct} {
		m, low, high := ratio(way, hosts)
		b.Note("  "+way+" against the hosts", "%.3f× (quartiles %.3f to %.3f)", m, low, high)
	}
	m, low, high := ratio(again, weft)
	b.Note("  control: weft again against weft", "%.3f× (quartiles %.3f to %.3f)", m, low, high)
	for _, way := range []string{weft, direct} {
		m, low, high := ratio(way, builtin)
		b.Add(m < 1, "  "+name+", "+way+" against built-in", "≥ 1.0×", "%.3f× (quartiles %.3f to %.3f)", m, low, high)
	}
}
