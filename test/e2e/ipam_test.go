package e2e_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// TestIPAM uses weft's address book as users do.
func TestIPAM(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		s.step("dynamic subnets", (*site).dynamicSubnets)
		s.step("all that --subnet takes", (*site).allOfSubnet)
		s.step("dual stack", (*site).bookedDualStack)
		s.step("exhausted", (*site).exhausted)
		s.step("overlap", (*site).overlap)
		s.step("the books are kept", (*site).booksKept)
		s.step("all is given back", func(s *site) { s.forgotten() })
		s.step("settings", (*site).settings)
	})
}

// booked creates a network with weft's address book.
func (s *site) booked(name string, args ...string) {
	s.Helper()
	s.network(name, append([]string{"--ipam-driver", plugin}, args...)...)
}

// pool is the subnet of a network, and its second if it has one.
func (s *site) pools(network string) []netip.Prefix {
	s.Helper()
	var out []netip.Prefix
	for text := range strings.FieldsSeq(s.docker("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", network)) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			s.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func (s *site) dynamicSubnets() {
	// What the host reaches is left alone, docker0 among it.
	s.sh(`ip link add lan0 type bridge && ip link set lan0 up
for n in 18 20; do ip addr add 172.$n.0.1/16 dev lan0; done`)
	var taken []netip.Prefix
	for line := range strings.Lines(s.sh("ip route")) {
		if p, err := netip.ParsePrefix(strings.Fields(line)[0]); err == nil {
			taken = append(taken, p)
		}
	}
	for _, name := range []string{"dyn1", "dyn2", "dyn3"} {
		s.booked(name)
		pools := s.pools(name)
		if len(pools) != 1 {
			s.Fatalf("network %s has the subnets %v", name, pools)
		}
		for _, other := range taken {
			if other.Overlaps(pools[0]) {
				s.Errorf("network %s got %v, which overlaps %v", name, pools[0], other)
			}
		}
		taken = append(taken, pools[0])
	}
	s.run("dyn", "--network", "dyn1")
	s.pings(s.inside("dyn"), s.out.IPv4.String())
	s.clear("dyn1", "dyn2", "dyn3")
	s.sh("ip link del lan0")
}

func (s *site) allOfSubnet() {
	s.booked("full", "--subnet", "10.60.0.0/24", "--gateway", "10.60.0.254", "--ip-range", "10.60.0.128/29",
		"--aux-address", "router=10.60.0.130", "--aux-address", "far=10.60.0.5")
	seen := map[string]bool{}
	for i := range 6 {
		name := fmt.Sprintf("ranged%d", i)
		s.run(name, "--network", "full")
		a := netip.MustParseAddr(s.ip(name, "full"))
		if !netip.MustParsePrefix("10.60.0.128/29").Contains(a) || a.String() == "10.60.0.130" || seen[a.String()] {
			s.Errorf("container %d has the address %v", i, a)
		}
		seen[a.String()] = true
	}
	if out, err := s.inside("ranged0")("ip", "route"); err != nil || !strings.Contains(out, "default via 10.60.0.254") {
		s.Errorf("routes of a container: %s %v", out, err)
	}
	// --ip may lie outside the range, but nobody gets an address twice.
	s.run("chosen", "--network", "full", "--ip", "10.60.0.77")
	if a := s.ip("chosen", "full"); a != "10.60.0.77" {
		s.Errorf("--ip 10.60.0.77 gave %s", a)
	}
	for _, taken := range []string{"10.60.0.77", "10.60.0.130", "10.60.0.5", "10.60.0.254"} {
		s.docker("create", "--name", "refused", "--network", "full", "--ip", taken, lab.Image, "true")
		s.refuse([]string{taken, "in use", "choose another address"}, "start", "refused")
		s.docker("rm", "refused")
	}
	s.docker("rm", "-f", "chosen")
	s.run("chosen", "--network", "full", "--ip", "10.60.0.77")
	s.pings(s.inside("chosen"), s.ip("ranged0", "full"))
	// A network whose subnet nobody chose takes no --ip: the engine's own rule.
	s.booked("auto")
	first := s.pools("auto")[0].Addr()
	for range 9 {
		first = first.Next()
	}
	s.refuse([]string{"user"}, "run", "--network", "auto", "--ip", first.String(), lab.Image, "true")
	s.clear("full", "auto")
}

func (s *site) bookedDualStack() {
	s.booked("dual", "--ipv6", "--subnet", "10.61.0.0/24", "--subnet", "fd61::/64", "--gateway", "10.61.0.1", "--gateway", "fd61::1")
	s.booked("dualauto", "--ipv6")
	if s.atLeast(28) { // older engines keep no IPv6 rules
		s.noRouter("ip6tables")
	}
	if pools := s.pools("dualauto"); len(pools) != 2 || pools[0].Addr().Is4() == pools[1].Addr().Is4() {
		s.Errorf("the subnets of a dynamic dual-stack network: %v", pools)
	}
	for _, network := range []string{"dual", "dualauto"} {
		s.server(network+"server", "--network", network)
		s.run(network+"client", "--network", network)
		for _, a := range []string{s.ip(network+"server", network), s.ip6(network+"server", network)} {
			s.answers(s.inside(network+"client"), hostPort(a, 80), network+"server")
		}
	}
	s.run("chosen6", "--network", "dual", "--ip", "10.61.0.66", "--ip6", "fd61::66")
	if a, a6 := s.ip("chosen6", "dual"), s.ip6("chosen6", "dual"); a != "10.61.0.66" || a6 != "fd61::66" {
		s.Errorf("--ip and --ip6 gave %s and %s", a, a6)
	}
	s.docker("create", "--name", "refused", "--network", "dual", "--ip6", "fd61::66", lab.Image, "true")
	s.refuse([]string{"fd61::66", "in use"}, "start", "refused")
	s.clear("dual", "dualauto")
}

func (s *site) exhausted() {
	s.booked("small", "--subnet", "10.62.0.0/29")
	for i := range 5 {
		s.run(fmt.Sprintf("small%d", i), "--network", "small")
	}
	s.docker("create", "--name", "small5", "--network", "small", lab.Image, "sleep", "infinity")
	s.refuse([]string{"10.62.0.0/29", "remove containers", "larger --subnet", "weft ipam"}, "start", "small5")
	free := s.ip("small2", "small")
	s.docker("rm", "-f", "small2")
	s.docker("start", "small5")
	if a := s.ip("small5", "small"); a != free {
		s.Errorf("the address %s was free, and %s was given", free, a)
	}
	s.clear("small")
}

func (s *site) overlap() {
	s.booked("first", "--subnet", "10.63.0.0/24")
	for _, subnet := range []string{"10.63.0.0/24", "10.63.0.0/16", "10.63.0.128/25"} {
		s.refuse([]string{"Pool overlaps with other one on this address space", "10.63.0.0/24"},
			"network", "create", "-d", plugin, "--ipam-driver", plugin, "--subnet", subnet, "second")
	}
	s.clear("first")
	s.booked("second", "--subnet", "10.63.0.0/16")
	s.clear("second")
}

// booksKept restarts everything that could forget.
func (s *site) booksKept() {
	s.booked("kept", "--subnet", "10.64.0.0/29")
	s.run("kept1", "--network", "kept", "--restart", "always", "--stop-signal", "KILL")
	s.run("kept2", "--network", "kept", "--ip", "10.64.0.6", "--stop-signal", "KILL")
	before := asText(weftJSON[[]admin.Pool](s, "ipam"))
	s.must(s.KillPlugin(s.Context()))
	s.eventually("the plugin to serve again", func() error {
		_, err := s.Run(s.Context(), "weft", "status")
		return err
	})
	if err := same(before, asText(weftJSON[[]admin.Pool](s, "ipam"))); err != nil {
		s.Errorf("the plugin forgot: %v", err)
	}
	s.must(s.KillEngine(s.Context()))
	took, err := s.StartEngine(s.Context())
	s.backInTime("start after a kill", took, err)
	s.docker("start", "kept2")
	s.comesBack("the container to run again", func() error {
		if a := s.ip("kept1", "kept"); a == "" {
			return fmt.Errorf("it is %s", s.inspect("kept1", "{{.State.Status}}"))
		}
		return nil
	})
	if pools := weftJSON[[]admin.Pool](s, "ipam"); len(pools) != 1 || pools[0].Used != 3 {
		s.Errorf("the books after a restart of the engine: %s", asText(pools))
	}
	// Gateway, kept1 and kept2 have theirs: three are left, and no more.
	seen := map[string]bool{"10.64.0.1": true, s.ip("kept1", "kept"): true, "10.64.0.6": true}
	for i := range 3 {
		name := fmt.Sprintf("keptnew%d", i)
		s.run(name, "--network", "kept")
		a := s.ip(name, "kept")
		if seen[a] {
			s.Errorf("the address %s was given twice", a)
		}
		seen[a] = true
	}
	s.docker("create", "--name", "toomany", "--network", "kept", lab.Image, "true")
	s.refuse([]string{"10.64.0.0/29"}, "start", "toomany")
	s.clear("kept")
}

// settings are those that a plugin takes before it is enabled.
func (s *site) settings() {
	set := func(setting string) {
		s.Helper()
		s.must(s.SetPlugin(s.Context(), setting))
	}
	s.must(s.DisablePlugin(s.Context(), true))
	bad := []string{"WEFT_POOLS=10.0.0.0/8"}
	if s.engine == lab.DefaultEngine {
		bad = append(bad, "WEFT_LOG=loud")
	}
	for _, setting := range bad {
		name, value, _ := strings.Cut(setting, "=")
		set(setting)
		if err := s.EnablePlugin(s.Context()); err == nil {
			s.Errorf("the plugin started with %s", setting)
			s.must(s.DisablePlugin(s.Context(), true))
		}
		s.eventually("the reason in the engine's log", func() error {
			log, err := s.PluginLog(s.Context())
			if err == nil && (!strings.Contains(log, name) || !strings.Contains(log, value)) {
				err = fmt.Errorf("it lacks %s: %s", setting, tail(log, 5))
			}
			return err
		})
		set(name + "=")
	}
	set("WEFT_POOLS=10.123.0.0/23/24,fd12:3::/48/64")
	s.must(s.EnablePlugin(s.Context()))
	s.booked("p1")
	s.booked("p2", "--ipv6")
	if p1, p2 := s.pools("p1"), s.pools("p2"); fmt.Sprint(p1) != "[10.123.0.0/24]" || !strings.Contains(fmt.Sprint(p2), "10.123.1.0/24") || !strings.Contains(fmt.Sprint(p2), "fd12:3:") {
		s.Errorf("WEFT_POOLS gave %v and %v", p1, p2)
	}
	s.refuse([]string{"10.123.0.0/23/24", "WEFT_POOLS", "--subnet"}, "network", "create", "-d", plugin, "--ipam-driver", plugin, "p3")
	s.clear("p1", "p2")
	s.forgotten()
}
