package e2e_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// TestMacvlan: hosts of all engines on one segment with a machine that is no container;
// containers are machines there too, and no address is given twice.
func TestMacvlan(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterConfig{engines: engines(), members: 1})
	c.connected()
	before := map[string]string{}
	for _, s := range c.sites {
		before[s.Host.Name] = s.hostState()
	}
	c.sites[0].outsideServer(7000)
	_, err := c.sites[0].out.Run(t.Context(), "ip", "addr", "add", "10.78.0.200/24", "dev", "eth0")
	c.must(err)
	// The second one attaches directly where the engine bears it.
	c.lan("lan", "--subnet", "10.77.0.0/24", "--ip-range", "10.77.0.64/26", "--gateway", "10.77.0.1", "-o", "parent=ens1,eth0")
	c.lan("fast", "--subnet", "10.78.0.0/24", "-o", "parent=route:10.77.0.0/24", "-o", "attach=direct", "-o", "macvlan_mode=bridge")
	c.all(func(s *site) error {
		s.server("lan-"+s.Host.Name, "--network", "lan")
		s.server("fast-"+s.Host.Name, "--network", "fast")
		return nil
	})
	c.step("everybody on the segment", (*cluster).onSegment)
	c.step("one MAC address on two hosts", (*cluster).macvlanTwins)
	c.steps("ports", (*site).macvlanPorts)
	c.steps("stop, start, connect, disconnect", (*site).macvlanAgain)
	c.steps("the other modes", (*site).macvlanModes)
	c.steps("the parent loses its cable", (*site).macvlanCable)
	c.steps("addresses of the host itself", (*site).macvlanOwn)
	c.step("cards swap their names", func(c *cluster) { c.sites[len(c.sites)-1].macvlanCards() })
	for i, s := range c.sites { // one after the other: a pool whose network is not there yet has its subnet alone
		c.step("equal subnets on "+s.Host.Name, func(c *cluster) { c.macvlanEqual(c.sites[i]) })
	}
	c.steps("refusals", (*site).macvlanRefusals)
	c.step("nothing is left", func(c *cluster) {
		c.all(func(s *site) error {
			s.docker("rm", "-f", "lan-"+s.Host.Name, "fast-"+s.Host.Name)
			return nil
		})
		for _, name := range []string{"lan", "fast"} {
			c.sites[0].sh("weft network rm " + name)
			c.has(name, false, c.sites...)
		}
		for _, s := range c.sites {
			s.eventually(s.Host.Name+" as before", func() error { return same(before[s.Host.Name], s.hostState()) })
		}
	})
	// Two hosts suffice for that many containers. They end with their hosts.
	c.sites = slices.Compact([]*site{c.sites[0], c.sites[len(c.sites)-1]})
	c.step("a crowd among other machines", (*cluster).macvlanCrowd)
}

// lan makes a macvlan network on the first host and waits until all have it.
func (c *cluster) lan(name string, args ...string) {
	c.Helper()
	c.sites[0].docker(append(append([]string{"network", "create", "-d", plugin, "--ipam-driver", plugin, "-o", "mode=macvlan"}, args...), name)...)
	c.has(name, true, c.sites...)
}

// onSegment: containers of both hosts and the machine outside reach each other, at
// addresses and MAC addresses that nobody else has.
func (c *cluster) onSegment() {
	c.Helper()
	owner := map[string]string{}
	for _, s := range c.sites {
		for _, network := range []string{"lan", "fast"} {
			name := network + "-" + s.Host.Name
			how, why := "docker", ""
			if network == "fast" && s.atLeast(28) {
				how = "direct"
			}
			s.attached(name, network, how, why)
			address := s.ip(name, network)
			mac := s.inspect(name, fmt.Sprintf(`{{(index .NetworkSettings.Networks %q).MacAddress}}`, network))
			for _, what := range []string{address, mac} {
				if who, twice := owner[what]; twice {
					c.Errorf("%s and %s both have %s", who, name, what)
				}
				owner[what] = name
			}
			if network == "lan" && !netip.MustParsePrefix("10.77.0.64/26").Contains(netip.MustParseAddr(address)) {
				c.Errorf("%s has %s", name, address)
			}
			s.answers(s.fromOutside(), address+":80", name)
			for _, from := range c.sites {
				from.answers(from.from(network+"-"+from.Host.Name), address+":80", name)
				from.eventually(name+" by its name", func() error {
					_, err := from.from(network+"-"+from.Host.Name)("getent", "hosts", name+"."+network)
					return err
				})
			}
		}
		lan := s.from("lan-" + s.Host.Name)
		s.sees("lan-"+s.Host.Name, lan, s.out.IPv4.String()+":7000", netip.MustParseAddr(s.ip("lan-"+s.Host.Name, "lan")))
		s.pings(lan, "10.77.0.1")
		s.answers(s.from("fast-"+s.Host.Name), "10.78.0.200:7000", "outside from "+s.ip("fast-"+s.Host.Name, "fast"))
		if out, err := lan("ip", "route"); err != nil || !strings.Contains(out, "default via 10.77.0.1") {
			c.Errorf("the way out of lan-%s (%v): %s", s.Host.Name, err, out)
		}
	}
}

// macvlanTwins: whoever gives the same --mac-address to containers on two hosts is told so on
// both, until one of them goes.
func (c *cluster) macvlanTwins() {
	c.Helper()
	two := []*site{c.sites[0], c.sites[len(c.sites)-1]}
	if two[0] == two[1] {
		return // somebody chose one engine
	}
	told := func(want bool) {
		c.Helper()
		for _, s := range two {
			s.eventually(fmt.Sprintf("the status to say that a MAC address is there twice: %t", want), func() error {
				got := strings.Join(weftJSON[admin.Status](s, "status").Troubles, "; ")
				if strings.Contains(got, "have the same MAC address 02:00:5e:10:00:07") != want {
					return fmt.Errorf("weft status has troubles %q", got)
				}
				return nil
			})
		}
	}
	for _, s := range two {
		s.server("twin", "--network", "lan", "--mac-address", "02:00:5e:10:00:07")
	}
	told(true)
	two[0].docker("rm", "-f", "twin")
	told(false)
	two[1].docker("rm", "-f", "twin")
}

// macvlanPorts: who is asked to publish says no, unless another network does it.
func (s *site) macvlanPorts() {
	s.Helper()
	s.refuse([]string{"port 80/tcp cannot be published on a macvlan network", "leave -p out"},
		"run", "--rm", "--name", "pub", "--network", "lan", "-p", "8080:80", lab.Image, "true")
	s.docker("rm", "-f", "pub")
	s.docker("network", "create", "-d", plugin, "a-bridge")
	s.server("pub", "--network", "a-bridge", "-p", "8080:80")
	s.docker("network", "connect", "lan", "pub")
	// Whoever is on the segment himself gets his answers there, past the port.
	s.answers(s.fromHost(), "127.0.0.1:8080", "pub")
	s.answers(s.fromOutside(), s.ip("pub", "lan")+":80", "pub")
	s.docker("rm", "-f", "pub")
	s.docker("network", "rm", "a-bridge")
	// Of two networks the engine makes that the way out whose name comes first. What it
	// could not use it leaves in the container.
	s.docker("network", "create", "z-bridge")
	s.server("pub", "--network", "z-bridge", "-p", "8080:80")
	s.refuse([]string{"port 80/tcp cannot be published", "gw-priority"}, "network", "connect", "lan", "pub")
	if links := s.docker("exec", "pub", "ip", "-o", "link"); strings.Count(links, "\n") != 1 {
		s.Errorf("a container that was refused a network has\n%s", links)
	}
	s.docker("rm", "-f", "pub")
	s.docker("network", "rm", "z-bridge")
}

// macvlanAgain: containers that come and go keep the segment.
func (s *site) macvlanAgain() {
	s.Helper()
	name := "lan-" + s.Host.Name
	for range 2 {
		s.docker("stop", "-t0", name)
		s.docker("start", name)
		s.answers(s.fromOutside(), s.ip(name, "lan")+":80", name)
	}
	for _, network := range []string{"fast", "lan"} {
		for range 2 {
			other := map[string]string{"fast": "lan-", "lan": "fast-"}[network] + s.Host.Name
			s.docker("network", "connect", network, other)
			s.answers(s.fromOutside(), s.ip(other, network)+":80", other)
			s.docker("network", "disconnect", network, other)
		}
	}
}

// macvlanModes: what is not of mode bridge keeps containers apart, or is one container's
// alone. All reach the line, which is a second one of this host's.
func (s *site) macvlanModes() {
	s.Helper()
	s.sh("ip netns add far && ip link add line up type veth peer name far netns far && ip -n far addr add 10.83.0.1/24 dev far && ip -n far link set far up")
	one, two := "lan-"+s.Host.Name, "fast-"+s.Host.Name
	for _, mode := range []string{"private", "vepa", "passthru"} {
		s.network(mode, "--ipam-driver", plugin, "--ipam-opt", "domain=host", "--subnet", "10.83.0.0/24", "--ip-range", "10.83.0.128/25",
			"-o", "mode=macvlan", "-o", "parent=line", "-o", "macvlan_mode="+mode)
		s.docker("network", "connect", mode, one)
		s.pings(s.from(one), "10.83.0.1")
		if mode == "passthru" {
			s.refuse([]string{"bears one container in this mode"}, "network", "connect", mode, two)
		} else {
			s.docker("network", "connect", mode, two)
			s.pings(s.from(two), "10.83.0.1")
			s.noPing(s.from(one), s.ip(two, mode))
			s.docker("network", "disconnect", mode, two)
		}
		s.docker("network", "disconnect", mode, one)
		s.docker("network", "rm", mode)
	}
	s.sh("ip link delete line && ip netns delete far")
}

// macvlanCable: the status says what is wrong, and what was.
func (s *site) macvlanCable() {
	s.Helper()
	troubles := func(want string) {
		s.Helper()
		s.eventually("the status to say "+want, func() error {
			st := weftJSON[admin.Status](s, "status")
			if got := strings.Join(st.Troubles, "; "); want == "" && got != "" || !strings.Contains(got, want) {
				return fmt.Errorf("troubles: %q", got)
			}
			return nil
		})
	}
	s.must(s.CutLink(s.Context()))
	id := s.docker("network", "inspect", "-f", "{{.Id}}", "lan")
	troubles("network lan (" + id[:12] + "): its parent eth0 has no carrier")
	s.must(s.HealLink(s.Context()))
	troubles("")
	s.answers(s.fromOutside(), s.ip("lan-"+s.Host.Name, "lan")+":80", "lan")
	s.eventually("the store, which is behind that cable", s.storeServes)
}

// macvlanOwn: what the host itself has is no container's, and the status says so when it
// takes a container's.
func (s *site) macvlanOwn() {
	s.Helper()
	own := s.IPv4.String()
	s.refuse([]string{"this host itself has " + own + " of 10.77.0.0/24, on eth0", "take it off eth0"},
		"run", "--name", "own", "--network", "lan", "--ip", own, lab.Image, "true")
	s.docker("rm", "-f", "own")
	if text := s.weft("ipam"); !strings.Contains(text, own+" (THIS HOST: eth0)") {
		s.Errorf("weft ipam:\n%s", text)
	}
	if text := s.weft("status"); !strings.Contains(text, "(this host itself has 1)") {
		s.Errorf("weft status:\n%s", text)
	}
	held := s.ip("lan-"+s.Host.Name, "lan")
	twice := func(want bool) {
		s.Helper()
		s.eventually(fmt.Sprintf("the status to say that %s is taken twice: %t", held, want), func() error {
			text := s.weft("status")
			if strings.Contains(text, "a container here has "+held+", and this host itself has it on eth0: take it off eth0") != want {
				return fmt.Errorf("weft status:\n%s", text)
			}
			return nil
		})
	}
	s.sh("ip addr add " + held + "/32 dev eth0")
	twice(true)
	s.sh("ip addr del " + held + "/32 dev eth0")
	twice(false)
}

// macvlanCards: containers go where the card is that was meant, whatever it is called, and
// nowhere if others of the network are elsewhere.
func (s *site) macvlanCards() {
	s.Helper()
	const address = "02:00:00:00:79:01"
	s.sh("ip link add one address " + address + " type veth peer name far1 && ip link add two type veth peer name far2 && " +
		"for d in one far1 two far2; do ip link set $d up; done")
	s.docker("network", "create", "-d", plugin, "--ipam-driver", plugin, "--ipam-opt", "domain=host", "-o", "mode=macvlan", "-o", "parent=mac:"+address,
		"--subnet", "10.79.0.0/24", "card")
	s.server("first", "--network", "card")
	s.sh("ip link set one down && ip link set two down && ip link set one name tmp && ip link set two name one && ip link set tmp name two && " +
		"ip link set one up && ip link set two up")
	s.server("second", "--network", "card")
	s.answers(s.from("second"), s.ip("first", "card")+":80", "first")

	s.sh("ip link set two down && ip link set two address 02:00:00:00:79:02 && ip link set two up && ip link set one address " + address)
	const trouble = "its containers on this host (2) are on two, and -o parent=mac:" + address + " means one by now"
	const do = "stop all of the network's containers on this host, then start them again"
	s.refuse([]string{trouble, do}, "run", "--name", "third", "--network", "card", lab.Image, "true")
	s.eventually("the status to say so", func() error {
		if got := strings.Join(weftJSON[admin.Status](s, "status").Troubles, "; "); !strings.Contains(got, trouble+": "+do) {
			return fmt.Errorf("troubles: %q", got)
		}
		return nil
	})
	s.docker("stop", "-t0", "first", "second")
	s.docker("start", "first", "second")
	s.answers(s.from("second"), s.ip("first", "card")+":80", "first")
	s.sh("ip link delete two") // nobody is on it any more
	s.answers(s.from("second"), s.ip("first", "card")+":80", "first")
	s.docker("rm", "-f", "first", "second", "third")
	s.docker("network", "rm", "card")
	s.sh("ip link delete one")
}

// macvlanEqual: one subnet on two lines, in one book of addresses or in two. The host has
// such a line, which the others lack, and they say so.
func (c *cluster) macvlanEqual(s *site) {
	c.Helper()
	second, twin, apart := "second-"+s.Host.Name, "twin-"+s.Host.Name, "apart-"+s.Host.Name
	s.sh("ip link add " + second + " type veth peer name far && ip link set " + second + " up && ip link set far up")
	used := s.ip("fast-"+s.Host.Name, "fast")
	create := func(name string, args ...string) {
		s.Helper()
		s.network(name, append([]string{"--ipam-driver", plugin, "-o", "mode=macvlan", "-o", "parent=" + second, "--subnet", "10.78.0.0/24"}, args...)...)
	}
	create(twin)
	s.refuse([]string{used, "in use"}, "run", "-d", "--name", "twin", "--network", twin, "--ip", used, lab.Image, "true")
	s.docker("rm", "-f", "twin")
	s.run("twin", "--network", twin)
	if got := s.ip("twin", twin); got == used || !strings.HasPrefix(got, "10.78.0.") {
		s.Errorf("twin has %s, and another container %s", got, used)
	}
	for _, other := range c.sites {
		if other.Host == s.Host {
			continue
		}
		c.comesTrue(other.Host.Name+" to say what it lacks", func() error {
			if out := other.sh("weft network ls"); !strings.Contains(out, "-o parent interface was not found on the host: "+second) {
				return fmt.Errorf("weft network ls:\n%s", out)
			}
			return nil
		})
	}
	s.macvlanEnd("twin", twin)
	create(apart, "--ipam-opt", "domain="+second)
	s.run("apart", "--network", apart, "--ip", used)
	// The gateway is a router of the line's, which engines from 28 on need not reserve.
	const router = "10.78.0.1"
	switch {
	case used == router: // on a cluster of such engines alone; apart has it
	case s.atLeast(28):
		s.run("router", "--network", apart, "--ip", router)
		s.docker("rm", "-f", "router")
	default:
		s.refuse([]string{router, "in use"}, "run", "--name", "router", "--network", apart, "--ip", router, lab.Image, "true")
		s.docker("rm", "-f", "router")
	}
	s.macvlanEnd("apart", apart)
	s.sh("ip link delete " + second)
}

// macvlanEnd removes a container, and its network from all hosts.
func (s *site) macvlanEnd(container, network string) {
	s.Helper()
	s.docker("rm", "-f", container)
	id := s.docker("network", "inspect", "-f", "{{.Id}}", network)
	s.eventually("the network "+network+" to go", func() error {
		_, err := s.Run(s.Context(), "weft", "network", "rm", network)
		return err
	})
	s.eventually("the engine and weft to take "+network+" down", func() error { // the engine lists it no more before it asks for that
		n, err := s.listed(network)
		if out := s.weft("networks", "--json"); err == nil && (n != nil || strings.Contains(out, id)) {
			err = fmt.Errorf("the engine has %v, weft networks:\n%s", n, out)
		}
		return err
	})
}

// macvlanRefusals leave nothing behind.
func (s *site) macvlanRefusals() {
	s.Helper()
	before := s.hostState()
	for words, args := range map[string][]string{
		"-o parent interface was not found on the host: eth9":   {"-o", "parent=eth9"},
		"loopback interface is not a valid macvlan parent link": {"-o", "parent=lo"},
		"vlan id must be between 1-4094, received: 4095":        {"-o", "parent=eth0.4095"},
		"invalid subinterface vlan name eth0.x":                 {"-o", "parent=eth0.x"},
		"requested macvlan mode 'switch' is not valid":          {"-o", "parent=eth0", "-o", "macvlan_mode=switch"},
		"cannot use mode passthru, macvlan network":             {"-o", "parent=eth0", "-o", "macvlan_mode=passthru"},
		"the parent eth0 has an MTU of 1500":                    {"-o", "parent=eth0", "-o", "com.docker.network.driver.mtu=9000"},
		"did you mean \"parent\"?":                              {"-o", "parnet=eth0"},
		"Pool overlaps with other one on this address space":    {"-o", "parent=eth0", "--subnet", "10.77.0.0/25"},
		"subnet 10.77.0.0/24 overlaps 10.77.0.0/24 of network":  {"-o", "parent=eth0", "--subnet", "10.77.0.0/24"},
	} {
		if !strings.Contains(strings.Join(args, " "), "--subnet") {
			args = append(args, "--subnet", "10.82.0.0/24")
		}
		s.refuse([]string{words}, append(append([]string{"network", "create", "-d", plugin, "--ipam-driver", plugin, "-o", "mode=macvlan"}, args...), "bad")...)
	}
	for who, mac := range map[string]string{
		"the container of endpoint": s.inspect("lan-"+s.Host.Name, "{{.NetworkSettings.Networks.lan.MacAddress}}"),
		"the parent itself":         strings.TrimSpace(s.sh("cat /sys/class/net/eth0/address")),
	} {
		s.refuse([]string{"MAC address " + mac + " is taken on eth0: " + who, "choose another --mac-address"},
			"run", "-d", "--name", "twin", "--network", "lan", "--mac-address", mac, lab.Image, "true")
		s.docker("rm", "-f", "twin")
	}
	if err := same(before, s.hostState()); err != nil {
		s.Error(err)
	}
}
