package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// A lab is a host with an uplink to an outside machine, two bridges of weft and
// one of somebody else, and containers: a1 and a2 on weft0, b1 on weft1, d1 on
// docker0. Everybody serves TCP and UDP on port 8080.
//
//	out 192.0.2.2 -- up0 host 192.0.2.1
//	weft0 10.1.0.1: a1 .2, a2 .3    weft1 10.1.1.1: b1 .2    docker0 10.9.0.1: d1 .2
type lab struct {
	host namespace
	node map[string]namespace
	fw   *NFT
}

const (
	publicV4, publicV6 = "192.0.2.1", "2001:db8::1"
	outV4, outV6       = "192.0.2.2", "2001:db8::2"
)

func newLab(t *testing.T, brNetfilter bool) *lab {
	t.Helper()
	l := &lab{host: newNamespace(t), node: map[string]namespace{}}
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"} {
		l.host.sysctl(t, key, "1")
	}
	for _, key := range []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"} {
		l.host.sysctl(t, key, map[bool]string{true: "1", false: "0"}[brNetfilter])
	}
	var b strings.Builder
	for i, br := range []string{"weft0", "weft1", "", "", "", "", "", "", "", "docker0"} {
		if br != "" {
			fmt.Fprintf(&b, `ip link add %[1]s type bridge forward_delay 0
				ip link set %[1]s up
				ip addr add 10.1.%[2]d.1/24 dev %[1]s
				ip addr add fd00:1:%[2]d::1/64 dev %[1]s nodad
				`, br, i)
		}
	}
	l.host.sh(t, strings.ReplaceAll(b.String(), "10.1.9.1/24", "10.9.0.1/24"))
	l.join(t, "out", "", outV4+"/24", outV6+"/64", publicV4, publicV6)
	l.join(t, "a1", "weft0", "10.1.0.2/24", "fd00:1:0::2/64", "10.1.0.1", "fd00:1:0::1")
	l.join(t, "a2", "weft0", "10.1.0.3/24", "fd00:1:0::3/64", "10.1.0.1", "fd00:1:0::1")
	l.join(t, "b1", "weft1", "10.1.1.2/24", "fd00:1:1::2/64", "10.1.1.1", "fd00:1:1::1")
	l.join(t, "d1", "docker0", "10.9.0.2/24", "fd00:1:9::2/64", "10.9.0.1", "fd00:1:9::1")
	l.host.serve(t, "tcp", mustAddr("127.0.0.1:9090"))
	l.fw = newNFT(t, l.host)
	if err := l.fw.SetUplinks(testContext(t), []string{"up0"}); err != nil {
		t.Fatal(err)
	}
	return l
}

// join makes a node with one interface, on a bridge or on the uplink.
func (l *lab) join(t *testing.T, name, bridge, v4, v6, via4, via6 string) {
	t.Helper()
	ns := newNamespace(t)
	l.node[name] = ns
	link, setup := "v"+name, "ip link set v"+name+" master "+bridge+"; bridge link set dev v"+name+" hairpin on"
	if bridge == "" {
		link = "up0"
		setup = fmt.Sprintf("ip addr add %s/24 dev up0; ip addr add %s/64 dev up0 nodad", publicV4, publicV6)
	}
	l.host.sh(t, fmt.Sprintf(`ip link add %s type veth peer name eth0 netns %s
		%s
		ip link set %s up`, link, ns.path(), setup, link))
	ns.sh(t, fmt.Sprintf(`ip addr add %s dev eth0; ip addr add %s dev eth0 nodad; ip link set eth0 up
		ip route add default via %s; ip -6 route add default via %s`, v4, v6, via4, via6))
	for _, a := range []string{v4, v6} {
		at := netip.AddrPortFrom(netip.MustParsePrefix(a).Addr(), 8080)
		ns.serve(t, "tcp", at)
		ns.serve(t, "udp", at)
	}
}

// A call is one attempt to reach somebody, and what comes of it: the address
// that the server sees, or nothing.
type call struct {
	from, network, to, seen string
}

// check makes all calls at once.
func (l *lab) check(t *testing.T, calls []call) {
	t.Helper()
	var wg sync.WaitGroup
	for _, c := range calls {
		ns, ok := l.node[c.from]
		if !ok {
			ns = l.host
		}
		timeout := reachTimeout
		if c.seen == "" {
			timeout = dropTimeout
		}
		wg.Go(func() {
			if got := ns.reach(c.network, c.to, timeout); got != c.seen {
				t.Errorf("%s to %s %s: the server saw %q, want %q", c.from, c.network, c.to, got, c.seen)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.Log(l.host.snapshot(t))
	}
}

// publish adds networks with ports: 80 to a1, 81 to b1, 82 to a1 on 127.0.0.1
// and 83 to a1 on the public addresses.
func (l *lab) publish(t *testing.T, networks ...Network) {
	t.Helper()
	ctx := testContext(t)
	for _, n := range networks {
		if err := l.fw.AddNetwork(ctx, n); err != nil {
			t.Fatal(err)
		}
		l.host.sysctl(t, "ipv4/conf/"+n.Bridge+"/route_localnet", "1")
	}
	var ports []Port
	var open []Open
	for _, p := range []Proto{TCP, UDP} {
		for _, v := range []struct{ any, public, a1, b1 string }{
			{"0.0.0.0", publicV4, "10.1.0.2", "10.1.1.2"},
			{"[::]", "[" + publicV6 + "]", "[fd00:1:0::2]", "[fd00:1:1::2]"},
		} {
			ports = append(ports,
				Port{"a1", "weft0", p, mustAddr(v.any + ":80"), mustAddr(v.a1 + ":8080")},
				Port{"a1", "weft0", p, mustAddr(v.public + ":83"), mustAddr(v.a1 + ":8080")},
				Port{"b1", "weft1", p, mustAddr(v.any + ":81"), mustAddr(v.b1 + ":8080")})
			open = append(open, Open{"a1", mustAddr(v.a1 + ":8080"), p}, Open{"b1", mustAddr(v.b1 + ":8080"), p})
		}
		ports = append(ports, Port{"a1", "weft0", p, mustAddr("127.0.0.1:82"), mustAddr("10.1.0.2:8080")})
	}
	if err := l.fw.AddPorts(ctx, ports, open); err != nil {
		t.Fatal(err)
	}
}

func weft0() Network { return network("n0", "weft0", "10.1.0.0/24", "fd00:1:0::/64") }
func weft1() Network { return network("n1", "weft1", "10.1.1.0/24", "fd00:1:1::/64") }

// TestNAT checks the default mode with every kind of neighbour: no engine, and
// engines with either flavour of iptables, with and without br_netfilter.
func TestNAT(t *testing.T) {
	for _, flavour := range []Flavour{"", FlavourNFT, FlavourLegacy} {
		for _, brNetfilter := range []bool{false, true} {
			t.Run(fmt.Sprintf("engine=%s,br_netfilter=%t", flavour, brNetfilter), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, brNetfilter)
				if flavour != "" {
					l.host.engine(t, flavour)
				}
				l.publish(t, weft0(), weft1())
				l.check(t, natCalls())
			})
		}
	}
}

// natCalls is who reaches whom in the default mode.
func natCalls() []call {
	return []call{
		// The way out is masqueraded.
		{"a1", "tcp", outV4 + ":8080", publicV4},
		{"a1", "udp", outV4 + ":8080", publicV4},
		{"a1", "tcp", "[" + outV6 + "]:8080", publicV6},
		// The engine's own bridges are closed, also when no engine guards them.
		{"a1", "tcp", "10.9.0.2:8080", ""},
		{"a1", "udp", "[fd00:1:9::2]:8080", ""},
		// Neighbours reach each other.
		{"a1", "tcp", "10.1.0.3:8080", "10.1.0.2"},
		{"a1", "tcp", "[fd00:1:0::3]:8080", "fd00:1::2"},
		// Nobody else reaches a container.
		{"b1", "tcp", "10.1.0.2:8080", ""},
		{"b1", "tcp", "[fd00:1:0::2]:8080", ""},
		{"d1", "tcp", "10.1.0.2:8080", ""},
		{"d1", "udp", "[fd00:1:0::2]:8080", ""},
		{"out", "tcp", "10.1.0.2:8080", ""},
		{"out", "tcp", "[fd00:1:0::2]:8080", ""},
		// Published ports are reached from everywhere, and see the client.
		{"out", "tcp", publicV4 + ":80", outV4},
		{"out", "udp", publicV4 + ":80", outV4},
		{"out", "tcp", "[" + publicV6 + "]:80", outV6},
		{"out", "tcp", publicV4 + ":83", outV4},
		{"out", "udp", "[" + publicV6 + "]:83", outV6},
		{"b1", "tcp", publicV4 + ":80", "10.1.1.2"},
		{"b1", "tcp", "10.1.1.1:80", "10.1.1.2"},
		{"b1", "udp", "[" + publicV6 + "]:80", "fd00:1:1::2"},
		{"d1", "tcp", publicV4 + ":80", "10.9.0.2"},
		{"a1", "tcp", publicV4 + ":81", "10.1.0.2"},
		// A neighbour and the container itself come back by the bridge.
		{"a2", "tcp", publicV4 + ":80", "10.1.0.1"},
		{"a2", "tcp", "[" + publicV6 + "]:80", "fd00:1::1"},
		{"a1", "tcp", publicV4 + ":80", "10.1.0.1"},
		{"a1", "udp", "10.1.0.1:80", "10.1.0.1"},
		{"a1", "tcp", "[" + publicV6 + "]:83", "fd00:1::1"},
		// The host itself, and its loopback.
		{"host", "tcp", publicV4 + ":80", publicV4},
		{"host", "tcp", "[" + publicV6 + "]:80", publicV6},
		{"host", "tcp", "127.0.0.1:80", "10.1.0.1"},
		{"host", "tcp", "127.0.0.1:82", "10.1.0.1"},
		{"host", "udp", "127.0.0.1:82", "10.1.0.1"},
		{"host", "tcp", publicV4 + ":82", ""},
		{"out", "tcp", publicV4 + ":82", ""},
		{"out", "tcp", publicV4 + ":84", ""},
		{"host", "tcp", "10.1.0.2:8080", "10.1.0.1"},
	}
}

// TestLoopbackIsOutOfReach sends to 127.0.0.1 by the wire, with route_localnet on.
func TestLoopbackIsOutOfReach(t *testing.T) {
	t.Parallel()
	l := newLab(t, false)
	l.publish(t, weft0(), weft1())
	for _, from := range []string{"a1", "out"} {
		ns := l.node[from]
		ns.sysctl(t, "ipv4/conf/all/route_localnet", "1")
		ns.sh(t, `ip addr del 127.0.0.1/8 dev lo
			ip route add 127.0.0.1/32 via $(ip route show default | cut -d" " -f3) src $(ip -4 -o addr show eth0 | sed 's/.*inet \([^/]*\).*/\1/')`)
	}
	open := l.host
	open.sysctl(t, "ipv4/conf/up0/route_localnet", "1")
	l.check(t, []call{
		{"a1", "tcp", "127.0.0.1:9090", ""},
		{"a1", "tcp", "127.0.0.1:80", ""},
		{"a1", "tcp", "127.0.0.1:82", ""},
		{"out", "tcp", "127.0.0.1:82", ""},
		{"out", "tcp", "127.0.0.1:80", ""},
	})
	// The test sends what it means to: without the rule the host answers.
	open.sh(t, "nft flush chain inet weft raw")
	l.check(t, []call{{"a1", "tcp", "127.0.0.1:9090", "10.1.0.2"}})
}

func TestICCOff(t *testing.T) {
	for _, brNetfilter := range []bool{false, true} {
		t.Run(fmt.Sprintf("br_netfilter=%t", brNetfilter), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, brNetfilter)
			l.host.engine(t, FlavourNFT)
			n := weft0()
			n.ICC = false
			l.publish(t, n, weft1())
			// Bridged packets are seen with br_netfilter only; without it, the
			// bridge driver isolates the ports.
			seen4, seen6 := "10.1.0.2", "fd00:1::2"
			if brNetfilter {
				seen4, seen6 = "", ""
			}
			l.check(t, []call{
				{"a1", "tcp", "10.1.0.3:8080", seen4},
				{"a1", "udp", "[fd00:1:0::3]:8080", seen6},
				{"a2", "tcp", publicV4 + ":80", "10.1.0.1"},
				{"a2", "tcp", "[" + publicV6 + "]:80", "fd00:1::1"},
				{"a1", "tcp", outV4 + ":8080", publicV4},
				{"out", "tcp", "[" + publicV6 + "]:80", outV6},
			})
		})
	}
}

func TestInternal(t *testing.T) {
	for _, brNetfilter := range []bool{false, true} {
		t.Run(fmt.Sprintf("br_netfilter=%t", brNetfilter), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, brNetfilter)
			l.host.engine(t, FlavourLegacy)
			n := weft0()
			n.Internal = true
			l.publish(t, n, weft1())
			l.check(t, []call{
				{"a1", "tcp", "10.1.0.3:8080", "10.1.0.2"},
				{"a1", "tcp", "[fd00:1:0::3]:8080", "fd00:1::2"},
				{"a1", "tcp", outV4 + ":8080", ""},
				{"a1", "udp", "[" + outV6 + "]:8080", ""},
				{"a1", "tcp", "10.1.1.2:8080", ""},
				{"a1", "tcp", publicV4 + ":81", ""},
				{"b1", "tcp", "10.1.0.2:8080", ""},
				{"out", "tcp", "10.1.0.2:8080", ""},
				{"out", "tcp", publicV4 + ":80", ""},
				{"host", "tcp", "10.1.0.2:8080", "10.1.0.1"},
			})
		})
	}
}

func TestModes(t *testing.T) {
	for _, c := range []struct {
		name  string
		mode  Mode
		calls []call
	}{
		{"routed", ModeRouted, []call{
			{"out", "tcp", "10.1.0.2:8080", outV4},
			{"out", "udp", "[fd00:1:0::2]:8080", outV6},
			{"b1", "tcp", "10.1.0.2:8080", "10.1.1.2"},
			{"out", "tcp", "10.1.0.3:8080", ""},
			{"out", "tcp", "[fd00:1:0::3]:8080", ""},
			{"a2", "tcp", outV4 + ":8080", "10.1.0.3"},
			{"a2", "tcp", "[" + outV6 + "]:8080", "fd00:1::3"},
		}},
		{"nat-unprotected", ModeNATUnprotected, []call{
			{"out", "tcp", "10.1.0.3:8080", outV4},
			{"d1", "tcp", "[fd00:1:0::3]:8080", "fd00:1:9::2"},
			{"a2", "tcp", outV4 + ":8080", publicV4},
			{"out", "tcp", publicV4 + ":80", outV4},
		}},
		{"isolated", ModeIsolated, []call{
			{"out", "tcp", "10.1.0.3:8080", ""},
			{"a2", "tcp", "10.1.0.2:8080", "10.1.0.3"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, false)
			l.host.engine(t, FlavourLegacy)
			n := weft0()
			n.IPv4[0].Mode, n.IPv6[0].Mode = c.mode, c.mode
			l.publish(t, n, weft1())
			l.check(t, c.calls)
			if c.mode == ModeRouted {
				l.node["out"].ping(t, "10.1.0.3")
				l.node["out"].ping(t, "fd00:1:0::3")
			}
		})
	}
}

func TestSourceAddressAndTrust(t *testing.T) {
	t.Parallel()
	l := newLab(t, false)
	l.host.engine(t, FlavourNFT)
	l.host.sh(t, "ip addr add 192.0.2.99/24 dev up0; ip addr add 2001:db8::99/64 dev up0 nodad")
	n := weft0()
	n.IPv4[0].SNAT, n.IPv6[0].SNAT = netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("2001:db8::99")
	n.Trusted = []string{"up0"}
	unmasked := weft1()
	unmasked.Masquerade = false
	l.publish(t, n, unmasked)
	l.check(t, []call{
		{"a1", "tcp", outV4 + ":8080", "192.0.2.99"},
		{"a1", "tcp", "[" + outV6 + "]:8080", "2001:db8::99"},
		{"b1", "tcp", outV4 + ":8080", "10.1.1.2"},
		{"out", "tcp", "10.1.0.2:8080", outV4},
		{"out", "udp", "[fd00:1:0::2]:8080", outV6},
		{"out", "tcp", "10.1.0.3:8080", ""},
		{"d1", "tcp", "10.1.0.2:8080", ""},
		{"out", "tcp", "10.1.1.2:8080", ""},
	})
}
