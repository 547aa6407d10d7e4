//go:build bench

package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/bench/board"
	"github.com/weft-net/weft/test/bench/load"
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
// the median time less the median of --network none on the same host.
func (p *pair) share(b *board.Board) {
	p.startLeast()
	const builtinAgain, thirdNone = builtin + " again", "none, third host"
	network := map[string]string{builtinAgain: builtin, again: weft, thirdNone: "none"}
	at := map[string]*lab.Host{least: p.third, thirdNone: p.third}
	ways := []string{"none", thirdNone, builtin, builtinAgain, alone, weft, again, direct, least}
	took := map[string][]time.Duration{}
	for round := range rounds(p.T, 25) + 1 {
		for _, i := range rand.Perm(len(ways)) {
			name := ways[i]
			if network[name] != "" {
				name = network[name]
			}
			h := at[ways[i]]
			if h == nil {
				h = p.hosts[0]
			}
			begin := time.Now()
			h.MustDocker(p, "run", "--rm", "--network", name, lab.Image, "true")
			if round > 0 { // the first round warms the caches
				took[ways[i]] = append(took[ways[i]], time.Since(begin))
			}
		}
	}
	none := board.Median(took["none"])
	share := func(way string) time.Duration {
		if at[way] == p.third {
			return board.Median(took[way]) - board.Median(took[thirdNone])
		}
		return board.Median(took[way]) - none
	}
	ratio := func(way, base string) float64 { return float64(share(way)) / float64(share(base)) }
	b.Note(fmt.Sprintf("`docker run --rm`, --network none, median of %d", len(took["none"])), "%s", ms(none))
	b.Note("network share, built-in overlay", "%s", ms(share(builtin)))
	b.Note("  control: the same again", "%.2f×", ratio(builtinAgain, builtin))
	b.Note("  first and last container of the network on the host", "%s", ms(share(alone)))
	const most = 0.20
	for _, way := range []string{weft, direct} {
		r := ratio(way, builtin)
		b.Add(r > most, "network share, "+way, fmt.Sprintf("≤ %.2f×", most), "%s, %.2f×", ms(share(way)), r)
	}
	b.Note("  control: weft again", "%.2f×", ratio(again, weft))
	b.Note("  a driver that does nothing but make the link", "%s, %.2f×", ms(share(least)), ratio(least, builtin))
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
			begin, answered, err := load.Times(line)
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

// firstAnswer starts containers whose first process tells when it began, and compares
// that with the first answer to pings. Those who ping, every millisecond, are the other
// host and a container there, both from before the start, and another container there
// that asks for the address only once the new container runs.
//
// The StartedAt of engine 28 is no such time: it is taken before the engine makes the
// namespaces and asks for the network.
func (p *pair) firstAnswer(b *board.Board) {
	networks := []string{builtin, weft, direct}
	for _, network := range networks {
		p.hosts[1].MustDocker(p, "run", "-d", "--name", asks(network), "--network", network, lab.Image, "sleep", "infinity")
	}
	took := map[string][]time.Duration{}
	for trial := range rounds(p.T, 60) {
		for _, network := range networks {
			const seldom = 4
			if network == builtin && trial%seldom != 0 { // it takes long, and has no target
				continue
			}
			for who, d := range p.answered(network, trial) {
				took[network+": "+who] = append(took[network+": "+who], d)
			}
		}
	}
	for _, who := range []string{fromHost, fromContainer, asksLater} {
		for _, network := range networks {
			all, what := took[network+": "+who], "new container, "+network+": "+who
			if len(all) == 0 {
				continue
			}
			got := fmt.Sprintf("p50 %s, p99 %s (%d)", ms(board.Median(all)), ms(board.Quantile(all, 0.99)), len(all))
			const most = 50 * time.Millisecond
			if network == builtin {
				b.Note(what, "%s", got)
			} else {
				b.Add(board.Quantile(all, 0.99) > most, what, "p99 ≤ 50 ms", "%s", got)
			}
		}
	}
}

// Who pings a new container.
const (
	fromHost      = "first answer to the other host after its start"
	fromContainer = "first answer to a container that waits for it"
	asksLater     = "first answer to a container that asks afterwards"
)

// asks is a container that has not asked for an address before.
func asks(network string) string { return "asks-" + network }

// answered is one trial.
func (p *pair) answered(network string, trial int) map[string]time.Duration {
	h, other := p.hosts[0], p.hosts[1]
	third := map[string]string{builtin: "10.71", weft: "10.60", direct: "10.61"}[network]
	addr := fmt.Sprintf("%s.200.%d", third, 1+trial)
	ping := []string{netload, "ping", addr, long.String()}
	probers := map[string][]string{fromContainer: p.in(other, stays(network), ping...)}
	if network != builtin { // its hosts do not reach containers
		probers[fromHost] = ping
	}
	running := map[string]*lab.Process{}
	for who, args := range probers {
		process, err := other.Background(args...)
		p.must(err)
		defer process.Stop()
		running[who] = process
	}
	h.MustDocker(p, "run", "-d", "--name", "new", "--network", network, "--ip", addr, "-v", netload+":"+netload+":ro", lab.Image, netload, "stay")
	defer h.MustDocker(p, "rm", "-f", "new")
	out := map[string]time.Duration{}
	begin, at, err := load.Times(other.MustRun(p, p.in(other, asks(network), ping...)...))
	p.must(err)
	out[asksLater] = at.Sub(begin)
	var started time.Time
	p.must(lab.Until(p.Context(), "the container's first words", func(ctx context.Context) error {
		log, err := h.Docker(ctx, "logs", "new")
		if err == nil {
			started, _, err = load.Times(log)
		}
		return err
	}))
	for who, process := range running {
		if err := process.Wait(p.Context()); err != nil {
			p.Fatalf("%s: %s: %v %s", network, who, err, process.Output())
		}
		begin, at, err := load.Times(process.Output())
		p.must(err)
		if !begin.Before(started) {
			p.Fatalf("%s: %s: the pings began after the container", network, who)
		}
		out[who] = at.Sub(started)
	}
	return out
}

// flows measures TCP between two hosts. Both ends and all that the kernel does for them
// share one processor, so that a rate is the inverse of the whole cost. Whether bridged
// frames pass the host's firewall rules is the kernel's default, yes, and then no, as on
// hosts without br_netfilter; the built-in overlay has its bridge in a namespace without
// rules.
func (p *pair) flows(b *board.Board) {
	h, other := p.hosts[0], p.hosts[1]
	const port = ":7001"
	// Rounds are short and come before other work, which would blur them.
	pinned := []string{"nice", "-n", "-20", "taskset", "-c", "1", netload}
	client, to := map[string][]string{bare: pinned}, map[string]string{bare: other.IPv4.String() + port}
	for _, network := range []string{bare, builtin, weft, direct} {
		server := append(slices.Clone(pinned), "serve", port)
		if network != bare {
			to[network] = p.ip(other, stays(network), network) + port
			client[network] = p.in(h, stays(network), pinned...)
			server = p.in(other, stays(network), server...)
		}
		process, err := other.Background(server...)
		p.must(err)
		defer process.Stop()
	}
	client[again], to[again] = client[weft], to[weft]
	run := func(ctx context.Context, way, what, length string) (string, error) {
		return h.Run(ctx, append(slices.Clone(client[way]), what, to[way], length)...)
	}
	ways := []string{bare, builtin, weft, again, direct}
	p.must(lab.Until(p.Context(), "the servers", func(ctx context.Context) (err error) {
		for _, way := range ways {
			_, e := run(ctx, way, "rr", "10ms")
			err = errors.Join(err, e)
		}
		return err
	}))
	for _, filter := range []string{"1", "0"} {
		for _, h := range p.hosts {
			p.must(h.Sysctl(p.Context(), "net.bridge.bridge-nf-call-iptables", filter))
		}
		for _, what := range []string{"rr", "stream"} {
			rates := map[string][]float64{}
			for round := range rounds(p.T, 40) + 1 {
				for _, i := range rand.Perm(len(ways)) {
					line, err := run(p.Context(), ways[i], what, "250ms")
					p.must(err)
					rate, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
					p.must(err)
					if round > 0 {
						rates[ways[i]] = append(rates[ways[i]], rate)
					}
				}
			}
			p.rates(b, what, filter, rates)
		}
	}
}

// What flows compares besides the networks.
const (
	bare  = "hosts"
	again = weft + " again"
)

// rates compares the rounds one by one.
func (p *pair) rates(b *board.Board, what, filter string, rates map[string][]float64) {
	ratio := func(way, base string) (median float64, text string) {
		var all []float64
		for i := range rates[way] {
			all = append(all, rates[way][i]/rates[base][i])
		}
		median = board.Median(all)
		return median, fmt.Sprintf("%.2f× (quartiles %.2f to %.2f)", median, board.Quantile(all, 0.25), board.Quantile(all, 0.75))
	}
	name := map[string]string{"rr": "TCP request/response", "stream": "TCP stream"}[what] + ", bridge-nf-call-iptables=" + filter
	unit := map[string]string{"rr": "/s", "stream": " Mbit/s"}[what]
	b.Note(name+": the hosts themselves", "%.0f%s", board.Median(rates[bare]), unit)
	for _, way := range []string{builtin, weft, direct} {
		_, text := ratio(way, bare)
		b.Note("  "+way+" against the hosts", "%s", text)
	}
	_, text := ratio(again, weft)
	b.Note("  control: weft again against weft", "%s", text)
	for _, way := range []string{weft, direct} {
		m, text := ratio(way, builtin)
		b.Add(m < 1, "  "+way+" against "+builtin, "≥ 1.0×", "%s", text)
	}
}
