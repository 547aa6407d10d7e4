package parented_test

import (
	"context"
	"flag"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
	"github.com/weft-net/weft/ipam"
)

// TestTutorial is what Docker's users read about macvlan: a network on each of two VLANs of
// one trunk, with its range of addresses. The machine on each VLAN is no container; on the
// first it has an address within the range, which nobody reserved.
func TestTutorial(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan")
	l := newLine(t)
	l.host("sh", "-ec", "ip link set e0 down; ip link set e0 name eth0; ip link set eth0 up")
	before := l.host("ip", "-o", "link")
	m100, m200 := l.vlanMachine("100", "10.0.0.1/24"), l.vlanMachine("200", "192.168.3.1/24")
	l.at(m100, "ip", "addr", "add", "10.0.0.2/24", "dev", "v100")
	frames := l.frames("eth0")
	d := newDocker(l)

	d.networkCreate("--subnet=10.0.0.0/24", "--ip-range=10.0.0.0/25", "--gateway=10.0.0.1", "-o=parent=eth0.100", "macvlan100")
	d.networkCreate("--subnet=192.168.3.0/24", "--ip-range=192.168.3.64/26", "--gateway=192.168.3.1", "-o=parent=eth0.200", "macvlan200")
	c1, a1 := d.run("mactainer1", "macvlan100")
	c2, a2 := d.run("mactainer2", "macvlan100")
	c3, a3 := d.run("mactainer3", "macvlan200")
	c4, a4 := d.run("mactainer4", "macvlan200")
	for a, within := range map[netip.Addr]string{a1: "10.0.0.0/25", a2: "10.0.0.0/25", a3: "192.168.3.64/26", a4: "192.168.3.64/26"} {
		if !netip.MustParsePrefix(within).Contains(a) || a.String() == "10.0.0.2" {
			t.Errorf("a container has %s, and others than 10.0.0.2 in %s are for containers", a, within)
		}
	}
	for from, to := range map[string][]string{c1: {"10.0.0.1", "10.0.0.2", a2.String()}, c2: {"10.0.0.1"}, c3: {"192.168.3.1", a4.String()},
		c4: {"192.168.3.1"}, m100: {a1.String(), a2.String()}, m200: {a3.String(), a4.String()}} {
		for _, address := range to {
			l.talks(from, address)
		}
	}
	for from, to := range map[string][]string{c1: {"192.168.3.1", a3.String()}, c3: {"10.0.0.1", a1.String()}, m100: {a3.String()}, m200: {a1.String()}} {
		for _, address := range to {
			l.silent(from, address)
		}
	}
	want := []string{"100 10.0.0.1", "100 10.0.0.2", "100 " + a1.String(), "100 " + a2.String(), "200 192.168.3.1", "200 " + a3.String(), "200 " + a4.String(),
		"100 0.0.0.0", "200 0.0.0.0"} // weft's own questions
	slices.Sort(want)
	if got := frames(); !slices.Equal(got, want) {
		t.Errorf("VLANs and senders of the frames on the trunk are %q, want %q", got, want)
	}

	d.rm("mactainer1", "mactainer2")
	d.networkRm("macvlan100")
	if have := l.host("ip", "-o", "link", "show", "type", "vlan"); strings.Contains(have, "eth0.100") || !strings.Contains(have, "eth0.200@eth0") {
		t.Errorf("sub-interfaces without macvlan100:\n%s", have)
	}
	l.talks(c3, "192.168.3.1")
	d.rm("mactainer3", "mactainer4")
	d.networkRm("macvlan200")
	l.as(before)
	if pools := d.ipam.View(); len(pools) > 0 {
		t.Errorf("pools stay: %+v", pools)
	}
}

// docker says to weft what the engine says for each of its commands. The addresses are from
// weft's own book, which asks on the line.
type docker struct {
	*line
	ipam       *ipam.IPAM
	networks   map[string]pool
	containers map[string]container
}

// pool is a network's.
type pool struct {
	id, pool string
	gateway  netip.Addr
}

type container struct {
	id, network string
	address     netip.Addr
}

func newDocker(l *line) *docker {
	l.Helper()
	d := &docker{line: l, networks: map[string]pool{}, containers: map[string]container{}}
	var err error
	d.ipam, err = ipam.New(ipam.Config{Journal: l.journal, Seed: "seed", Prober: d, Line: func(network string) string {
		n, _ := l.Network(network) // the zero network is on no line
		return l.macvlan.Line(n)
	}})
	l.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.ipam.Run(ctx) }()
	l.TB.(*testing.T).Cleanup(func() {
		cancel()
		l.must(<-done)
	})
	return d
}

// Probe asks from the host's namespace.
func (d *docker) Probe(ctx context.Context, device, mark string, addrs []netip.Addr) (map[netip.Addr]ipam.Machine, error) {
	out := map[netip.Addr]ipam.Machine{}
	err := kerneltest.Within(d.own, func() error {
		found, err := d.kernel.Probe(ctx, device, mark, addrs)
		for addr, who := range found {
			out[addr] = ipam.Machine(who)
		}
		return err
	})
	return out, err
}

// networkCreate is `docker network create -d weft --ipam-driver weft -o mode=macvlan …`.
func (d *docker) networkCreate(args ...string) {
	d.Helper()
	flags, options := flag.NewFlagSet("docker network create", flag.ContinueOnError), map[string]string{"mode": "macvlan"}
	subnet, within, gateway := flags.String("subnet", "", ""), flags.String("ip-range", "", ""), flags.String("gateway", "", "")
	flags.Func("o", "", func(text string) error {
		key, value, _ := strings.Cut(text, "=")
		options[key] = value
		return nil
	})
	d.must(flags.Parse(args))
	p, err := d.ipam.RequestPool(d.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: netip.MustParsePrefix(*subnet), Range: netip.MustParsePrefix(*within)})
	d.must(err)
	router, err := d.ipam.RequestAddress(d.Context(), ipam.AddressRequest{PoolID: p.ID, Address: netip.MustParseAddr(*gateway), Gateway: true})
	d.must(err)
	n := driver.Network{ID: id(string('a' + rune(len(d.networks)))), Options: options, IPv4: []driver.Subnet{{Pool: p.Subnet, Gateway: router.Addr()}}}
	d.create(n)
	d.must(d.ipam.Bind(d.Context(), n.ID, p.Subnet))
	d.networks[flags.Arg(0)] = pool{n.ID, p.ID, router.Addr()}
}

// run is `docker run -d --name NAME --network NETWORK`: the sandbox and the address.
func (d *docker) run(name, network string) (sandbox string, address netip.Addr) {
	d.Helper()
	n := d.networks[network]
	a, err := d.ipam.RequestAddress(d.Context(), ipam.AddressRequest{PoolID: n.pool, Name: name})
	d.must(err)
	letter := name[len(name)-1:]
	d.containers[name] = container{letter, network, a.Addr()}
	return d.container(letter, n.id[:1], a.String()), a.Addr()
}

// rm is `docker rm -f`.
func (d *docker) rm(names ...string) {
	d.Helper()
	for _, name := range names {
		c := d.containers[name]
		d.end(c.id, d.networks[c.network].id[:1])
		d.must(d.ipam.ReleaseAddress(d.Context(), d.networks[c.network].pool, c.address))
	}
}

// networkRm is `docker network rm`.
func (d *docker) networkRm(name string) {
	d.Helper()
	n := d.networks[name]
	d.remove(n.id[:1])
	d.must(d.ipam.ReleaseAddress(d.Context(), n.pool, n.gateway))
	d.must(d.ipam.ReleasePool(d.Context(), n.pool))
}
