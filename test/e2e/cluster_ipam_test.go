package e2e_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/test/lab"
)

// TestClusterIPAM uses the address book with a store, on all engines.
func TestClusterIPAM(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterConfig{engines: engines()})
	c.steps("every combination", func(s *site) {
		for i, combination := range combinations(slices.IndexFunc(c.sites, func(o *site) bool { return o.Host.Name == s.Host.Name })) {
			s.combined(fmt.Sprintf("net%d", i), combination)
		}
	})
	// What a host without a store does, on one engine: the others differ in nothing
	// that has to do with the store.
	for _, s := range c.sites[len(c.sites)-1:] {
		c.step("as without a store: "+s.engine, func(c *cluster) {
			s := s.on(c.TB)
			s.step("dynamic subnets", (*site).dynamicSubnets)
			s.step("all that --subnet takes", (*site).allOfSubnet)
			s.step("dual stack", (*site).bookedDualStack)
			s.step("exhausted", (*site).exhausted)
			s.step("overlap", (*site).overlap)
			s.step("all is given back", func(s *site) { s.forgotten() })
		})
	}
}

// combination is one way to ask for the addresses of a network.
type combination struct {
	args             []string
	subnet, rng      netip.Prefix // what the container's address lies in
	gateway, aux, ip string       // "" if not asked for
	subnet6, ip6     string
	ipv6             bool
}

// combinations are all that the options of `docker network create` allow: range,
// gateway and aux need a subnet. The subnets of two hosts differ.
func combinations(host int) []combination {
	out := []combination{{}, {args: []string{"--ipv6"}, ipv6: true}}
	for bits := range 16 {
		net := fmt.Sprintf("10.%d.%d", 100+host, bits)
		c := combination{args: []string{"--subnet", net + ".0/24"}, subnet: netip.MustParsePrefix(net + ".0/24"), ip: net + ".200"}
		if bits&1 != 0 {
			c.rng = netip.MustParsePrefix(net + ".64/26")
			c.args = append(c.args, "--ip-range", c.rng.String())
		}
		if bits&2 != 0 {
			c.gateway = net + ".77"
			c.args = append(c.args, "--gateway", c.gateway)
		}
		if bits&4 != 0 {
			// The first that a dynamic choice would take.
			c.aux = net + ".1"
			if c.rng.IsValid() {
				c.aux = net + ".64"
			} else if c.gateway == "" {
				c.aux = net + ".2"
			}
			c.args = append(c.args, "--aux-address", "router="+c.aux)
		}
		if bits&8 != 0 {
			c.ipv6 = true
			c.subnet6 = fmt.Sprintf("fd%02x:%d::/64", 0x10+host, bits)
			c.ip6 = fmt.Sprintf("fd%02x:%d::200", 0x10+host, bits)
			c.args = append(c.args, "--ipv6", "--subnet", c.subnet6)
		}
		out = append(out, c)
	}
	net := fmt.Sprintf("10.%d.16.0/24", 100+host)
	return append(out, combination{args: []string{"--ipv6", "--subnet", net}, subnet: netip.MustParsePrefix(net), ipv6: true})
}

// combined makes a network and looks at what its containers get.
func (s *site) combined(network string, c combination) {
	s.Helper()
	what := strings.Join(append([]string{"network create"}, c.args...), " ")
	s.booked(network, c.args...)
	s.run("dynamic", "--network", network)
	a, a6 := netip.MustParseAddr(s.ip("dynamic", network)), s.ip6("dynamic", network)
	if c.subnet.IsValid() && !c.subnet.Contains(a) || c.rng.IsValid() && !c.rng.Contains(a) || a.String() == c.aux || a.String() == c.gateway {
		s.Errorf("%s: a container has %v", what, a)
	}
	if (a6 != "") != c.ipv6 || c.subnet6 != "" && !netip.MustParsePrefix(c.subnet6).Contains(netip.MustParseAddr(a6)) {
		s.Errorf("%s: a container has the IPv6 address %q", what, a6)
	}
	out, err := s.inside("dynamic")("sh", "-c", "ip -o addr; ip route; ip -6 route")
	for _, words := range []string{a.String() + "/", a6, "default via " + c.gateway} {
		if err != nil || !strings.Contains(out, words) {
			s.Errorf("%s: the container lacks %q (%v):\n%s", what, words, err, out)
		}
	}
	if c.ip != "" { // engines take --ip only on subnets that the user chose
		args := []string{"--network", network, "--ip", c.ip}
		if c.ip6 != "" {
			args = append(args, "--ip6", c.ip6)
		}
		s.run("chosen", args...)
		if got, got6 := s.ip("chosen", network), s.ip6("chosen", network); got != c.ip || c.ip6 != "" && got6 != c.ip6 {
			s.Errorf("%s: --ip %s --ip6 %s gave %s %s", what, c.ip, c.ip6, got, got6)
		}
	}
	s.clear(network)
}

// TestClusterExplicit asks for addresses that another host owns.
func TestClusterExplicit(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterConfig{engines: []string{lab.DefaultEngine, lab.DefaultEngine}, members: 3})
	h1, h2 := c.sites[0], c.sites[1]
	const subnet, moves, stays = "10.81.0.0/24", "10.81.0.50", "10.81.0.60"
	for _, s := range c.sites {
		s.booked("exp", "--subnet", subnet)
	}
	h1.run("mover", "--network", "exp", "--ip", moves)
	h1.run("stayer", "--network", "exp", "--ip", stays)
	// While it is in use there, it is refused, by name.
	h2.docker("create", "--name", "refused", "--network", "exp", "--ip", moves, lab.Image, "sleep", "infinity")
	h2.refuseWithin(creationLimit, []string{moves, "h1"}, "start", "refused")
	h2.docker("rm", "refused")
	h1.docker("rm", "-f", "mover", "stayer")

	h2.run("mover", "--network", "exp", "--ip", moves)
	if a := h2.ip("mover", "exp"); a != moves {
		t.Errorf("--ip %s gave %s", moves, a)
	}
	c.agree("exp", subnet)
	// It belongs to its new host for good.
	h1.docker("create", "--name", "refused", "--network", "exp", "--ip", moves, lab.Image, "sleep", "infinity")
	h1.refuseWithin(creationLimit, []string{moves, "h2"}, "start", "refused")
	h1.docker("rm", "refused")

	c.must(h1.CutLink(c.Context()))
	h2.docker("create", "--name", "refused", "--network", "exp", "--ip", stays, lab.Image, "sleep", "infinity")
	h2.refuseWithin(creationLimit, []string{stays, "h1"}, "start", "refused")
	// Others go on.
	h2.run("dynamic", "--network", "exp")
	h2.quick("restart", "-t0", "mover")
	c.must(h1.HealLink(c.Context()))
	c.comesTrue("the owner to answer again", func() error { _, err := h2.Docker(h2.Context(), "start", "refused"); return err })
	if a := h2.ip("refused", "exp"); a != stays {
		t.Errorf("--ip %s gave %s", stays, a)
	}

	c.storeDown()
	begin := time.Now()
	h2.quick("restart", "-t0", "mover")
	t.Logf("docker restart with the store down took %v", time.Since(begin).Round(time.Millisecond))
	if a := h2.ip("mover", "exp"); a != moves {
		t.Errorf("after a restart with the store down %s is %s", moves, a)
	}
	c.storeUp()
	c.agree("exp", subnet)
}
