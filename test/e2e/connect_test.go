package e2e_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestConnect tells who reaches whom, and by which names.
func TestConnect(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		s.outsideServer(7000)
		s.nameServer()
		s.step("names, host and outside", (*site).names)
		s.step("isolated until connected", (*site).connecting)
		s.step("internal", (*site).internal)
		s.step("icc off", (*site).withoutICC)
	}, withNameServer)
}

func (s *site) names() {
	s.network("na", "--subnet", "10.61.0.0/24")
	s.server("one", "--network", "na", "--network-alias", "uno", "--hostname", "h-one")
	s.server("two", "--network", "na", "--network-alias", "due", "--network-alias", "zwei")
	one, two := s.inside("one"), s.inside("two")
	s.expect(
		probe{who: "one", from: one, to: "two:80", want: "two from " + s.ip("one", "na")},
		probe{who: "one", from: one, to: "due:80", want: "two from"},
		probe{who: "one", from: one, to: "zwei:80", want: "two from"},
		probe{who: "two", from: two, to: "one:80", want: "one from " + s.ip("two", "na")},
		probe{who: "two", from: two, to: "uno:80", want: "one from"},
		probe{who: "two", from: two, to: s.docker("ps", "-q", "-f", "name=one") + ":80", want: "one from"},
		probe{who: "two", from: two, to: "uno:81", udp: true, want: "one from"},
		probe{who: "the host", from: s.fromHost(), to: s.ip("one", "na") + ":80", want: "one from 10.61.0.1"},
		probe{who: "one to outside", from: one, to: s.out.IPv4.String() + ":7000", want: "outside from " + s.IPv4.String()},
	)
	s.pings(one, "10.61.0.1")
	s.pings(one, s.IPv4.String())
	s.pings(one, s.out.IPv4.String())
	s.pings(s.fromHost(), s.ip("two", "na"))
	s.clear("na")
}

func (s *site) connecting() {
	s.network("left", "--subnet", "10.62.0.0/24")
	s.network("right", "--subnet", "10.63.0.0/24")
	s.server("l1", "--network", "left")
	s.server("r1", "--network", "right")
	l1, r1 := s.inside("l1"), s.inside("r1")
	apart := func(what string) {
		s.Helper()
		s.expect(
			probe{who: "l1 " + what, from: l1, to: s.ip("r1", "right") + ":80"},
			probe{who: "r1 " + what, from: r1, to: s.ip("l1", "left") + ":80"},
			probe{who: "l1 " + what, from: l1, to: s.ip("r1", "right") + ":81", udp: true},
			probe{who: "l1 " + what, from: l1, to: "r1:80"},
			// The other network's gateway is an address of the host.
			probe{who: "the host", from: s.fromHost(), to: s.ip("r1", "right") + ":80", want: "r1"},
		)
		s.noPing(l1, s.ip("r1", "right"))
	}
	apart("before")
	for range 2 {
		s.docker("network", "connect", "--alias", "links", "right", "l1")
		s.expect(
			probe{who: "l1", from: l1, to: "r1:80", want: "r1 from " + s.ip("l1", "right")},
			probe{who: "r1", from: r1, to: "links:80", want: "l1 from " + s.ip("r1", "right")},
			probe{who: "r1", from: r1, to: "l1:80", want: "l1"},
			probe{who: "r1", from: r1, to: s.ip("l1", "left") + ":80"},
			probe{who: "l1 to outside", from: l1, to: s.out.IPv4.String() + ":7000", want: "outside from " + s.IPv4.String()},
		)
		s.docker("network", "disconnect", "right", "l1")
		apart("after disconnect")
	}
	s.docker("network", "connect", "--ip", "10.63.0.77", "right", "l1")
	if ip := s.ip("l1", "right"); ip != "10.63.0.77" {
		s.Errorf("connect --ip gave %s", ip)
	}
	// From its first network too, and back.
	s.docker("network", "disconnect", "left", "l1")
	s.expect(
		probe{who: "l1", from: l1, to: "r1:80", want: "r1 from 10.63.0.77"},
		probe{who: "l1 to outside", from: l1, to: s.out.IPv4.String() + ":7000", want: "outside from " + s.IPv4.String()},
	)
	s.docker("network", "connect", "--link", "r1:linked", "left", "l1")
	s.docker("restart", "-t0", "l1")
	s.expect(probe{who: "l1 restarted", from: s.inside("l1"), to: "r1:80", want: "r1 from 10.63.0.77"})
	s.clear("left", "right")
}

func (s *site) internal() {
	s.network("inner", "--internal", "--subnet", "10.64.0.0/24")
	s.network("outer", "--subnet", "10.65.0.0/24")
	s.server("i1", "--network", "inner")
	s.server("i2", "--network", "inner", "-p", "8090:80")
	s.server("o1", "--network", "outer")
	i1 := s.inside("i1")
	s.expect(
		probe{who: "i1", from: i1, to: "i2:80", want: "i2 from " + s.ip("i1", "inner")},
		probe{who: "the host", from: s.fromHost(), to: s.ip("i1", "inner") + ":80", want: "i1"},
		probe{who: "i1", from: i1, to: s.out.IPv4.String() + ":7000"},
		probe{who: "i1", from: i1, to: s.ip("o1", "outer") + ":80"},
		probe{who: "o1", from: s.inside("o1"), to: s.ip("i1", "inner") + ":80"},
		probe{who: "outside", from: s.fromOutside(), to: s.IPv4.String() + ":8090"},
	)
	// Its own default route does not help it.
	if _, err := s.Docker(s.Context(), "run", "--rm", "--network", "inner", "--cap-add", "NET_ADMIN", "weft/test:latest", "sh", "-c",
		"ip route add default via 10.64.0.1 && ping -c1 -W1 "+s.out.IPv4.String()); err == nil {
		s.Error("a container of an internal network has found a way out")
	}
	if out, err := i1("ip", "-o", "link"); err != nil || strings.Contains(out, "eth1") {
		s.Errorf("i1 has another interface (%v):\n%s", err, out)
	}
	s.clear("inner", "outer")
}

func (s *site) withoutICC() {
	s.network("noicc", "-o", "com.docker.network.bridge.enable_icc=false")
	s.server("n1", "--network", "noicc")
	s.server("n2", "--network", "noicc")
	n1 := s.inside("n1")
	s.expect(
		probe{who: "n1", from: n1, to: s.ip("n2", "noicc") + ":80"},
		probe{who: "n1", from: n1, to: s.ip("n2", "noicc") + ":81", udp: true},
		probe{who: "n1 to outside", from: n1, to: s.out.IPv4.String() + ":7000", want: "outside from"},
		probe{who: "the host", from: s.fromHost(), to: s.ip("n2", "noicc") + ":80", want: "n2"},
	)
	s.noPing(n1, s.ip("n2", "noicc"))
	s.clear("noicc")

	// What is published is for the neighbours as well. (With br_netfilter the
	// kernel translates inside the bridge, where isolated ports never meet.)
	if err := s.Sysctl(s.Context(), "net.bridge.bridge-nf-call-iptables", "0"); err != nil {
		s.Fatal(err)
	}
	s.network("noicc", "-o", "com.docker.network.bridge.enable_icc=false", "-o", "publish=native")
	s.server("n1", "--network", "noicc")
	s.server("n2", "--network", "noicc", "-p", "8091:80")
	s.expect(
		probe{who: "n1", from: s.inside("n1"), to: s.IPv4.String() + ":8091", want: "n2"},
		probe{who: "n1", from: s.inside("n1"), to: s.ip("n2", "noicc") + ":80"},
		probe{who: "outside", from: s.fromOutside(), to: s.IPv4.String() + ":8091", want: "n2"},
	)
	s.clear("noicc")
}

// TestBridgeOptions gives addresses, names and options, good and bad.
func TestBridgeOptions(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		before := s.hostState()
		s.step("addresses", (*site).fixedAddresses)
		s.step("other router", (*site).otherRouter)
		s.step("link settings", (*site).linkSettings)
		s.step("adopted bridge", (*site).adoptedBridge)
		s.step("refused", (*site).refusals)
		s.eventually("the host as before", func() error { return same(before, s.hostState()) })
	})
}

func (s *site) fixedAddresses() {
	s.network("fix", "--subnet", "10.71.0.0/24", "--gateway", "10.71.0.254", "--ip-range", "10.71.0.128/26")
	s.run("f1", "--network", "fix", "--ip", "10.71.0.9", "--mac-address", "02:11:22:33:44:55")
	s.run("f2", "--network", "fix")
	if ip := s.ip("f1", "fix"); ip != "10.71.0.9" {
		s.Errorf("--ip gave %s", ip)
	}
	if a := netip.MustParseAddr(s.ip("f2", "fix")); !netip.MustParsePrefix("10.71.0.128/26").Contains(a) {
		s.Errorf("%s is outside of the --ip-range", a)
	}
	out, err := s.in("f1", "sh", "-c", "ip -o addr show eth0; cat /sys/class/net/eth0/address; ip route")
	for _, words := range []string{"inet 10.71.0.9/24", "02:11:22:33:44:55", "default via 10.71.0.254"} {
		if err != nil || !strings.Contains(out, words) {
			s.Errorf("f1 lacks %q (%v):\n%s", words, err, out)
		}
	}
	if mac := s.inspect("f1", `{{.NetworkSettings.Networks.fix.MacAddress}}`); mac != "02:11:22:33:44:55" {
		s.Errorf("docker inspect shows MAC %s", mac)
	}
	mac := s.inspect("f2", `{{.NetworkSettings.Networks.fix.MacAddress}}`)
	if real, err := s.in("f2", "cat", "/sys/class/net/eth0/address"); err != nil || real != mac {
		s.Errorf("docker inspect shows MAC %q, the container has %q (%v)", mac, real, err)
	}
	s.pings(s.from("f1"), "f2")
	taken := []string{"run", "--rm", "--network", "fix", "--ip", "10.71.0.9", "weft/test:latest", "true"}
	s.refuse([]string{"ddress already in use"}, taken...)
	s.docker("rm", "-f", "f1")
	s.docker(taken...)
	s.clear("fix")
}

// otherRouter gives containers another way out than the bridge's address.
func (s *site) otherRouter() {
	s.network("router", "--subnet", "10.72.0.0/24", "--gateway", "10.72.0.1", "--aux-address", "DefaultGatewayIPv4=10.72.0.9")
	s.run("g1", "--network", "router")
	if out, err := s.in("g1", "ip", "route", "show", "default"); err != nil || !strings.Contains(out, "via 10.72.0.9") {
		s.Errorf("default route (%v): %s", err, out)
	}
	s.pings(s.from("g1"), "10.72.0.1")
	s.clear("router")
}

func (s *site) linkSettings() {
	s.network("mtu", "-o", "com.docker.network.driver.mtu=1400", "-o", "com.docker.network.container_iface_prefix=lan",
		"-o", "com.docker.network.bridge.name=br-mtu")
	s.run("m1", "--network", "mtu")
	s.run("m2", "--network", "mtu")
	out, err := s.in("m1", "ip", "-o", "link")
	if err != nil || !strings.Contains(out, "lan0@") || !strings.Contains(out, "mtu 1400") {
		s.Errorf("interface of the container (%v):\n%s", err, out)
	}
	if out := s.sh("ip -o link show br-mtu"); !strings.Contains(out, "mtu 1400") {
		s.Errorf("bridge: %s", out)
	}
	s.pings(s.from("m1"), "m2")
	s.clear("mtu")

	s.network("inhibit", "--subnet", "10.73.0.0/24", "-o", "com.docker.network.bridge.inhibit_ipv4=true", "-o", "com.docker.network.bridge.name=br-inhibit")
	s.server("q1", "--network", "inhibit")
	s.run("q2", "--network", "inhibit")
	if out := s.sh("ip -4 -o addr show br-inhibit"); out != "" {
		s.Errorf("the bridge has an address: %s", out)
	}
	s.answers(s.from("q2"), "q1:80", "q1 from 10.73.0.")
	s.clear("inhibit")
}

func (s *site) adoptedBridge() {
	s.sh("ip link add mine address 02:00:00:00:74:01 type bridge; ip link set mine up; ip addr add 10.74.0.254/24 dev mine; ip addr add 10.74.9.1/24 dev mine")
	state := func() string {
		return s.sh(`ip -o link show mine | sed 's/^[0-9]*: //; s/ state .* mode/ mode/; s/<[^>]*>//'; ip -o -4 addr show mine | awk '{print $4}' | sort; sysctl -n net.ipv6.conf.mine.disable_ipv6`)
	}
	before := state()
	for _, gateway := range []string{"10.74.0.254", "10.74.0.1"} {
		s.network("adopted", "--subnet", "10.74.0.0/24", "--gateway", gateway, "-o", "com.docker.network.bridge.name=mine")
		if n := weftJSON[[]struct {
			Device  string
			Adopted bool
		}](s, "networks"); len(n) != 1 || n[0].Device != "mine" || !n[0].Adopted {
			s.Errorf("weft networks: %+v", n)
		}
		s.server("a1", "--network", "adopted")
		s.run("a2", "--network", "adopted")
		s.answers(s.from("a2"), "a1:80", "a1 from 10.74.0.")
		s.answers(s.fromHost(), s.ip("a1", "adopted")+":80", "a1 from")
		s.pings(s.from("a1"), s.out.IPv4.String())
		s.clear("adopted")
		s.eventually("the adopted bridge as before", func() error { return same(before, state()) })
	}
	s.sh("ip link del mine")
}

// refusals are bad input: each leaves nothing.
func (s *site) refusals() {
	create := func(words []string, args ...string) {
		s.Helper()
		s.refuse(words, append(append([]string{"network", "create", "-d", plugin}, args...), "bad")...)
	}
	name, mtu := "com.docker.network.bridge.name=", "com.docker.network.driver.mtu="
	s.network("good", "--subnet", "10.75.0.0/24", "-o", name+"goodbr")
	s.sh("ip route add 10.76.0.0/16 via 10.77.0.1")
	create([]string{"gateway"}, "--subnet", "10.78.0.0/24", "--gateway", "10.79.0.1")
	create([]string{"invalid MTU number", "70000"}, "-o", mtu+"70000")
	create([]string{"invalid MTU number", "-1"}, "-o", mtu+"-1")
	create([]string{"mtu", "abc"}, "-o", mtu+"abc")
	create([]string{"bridge.name", "17 bytes", "15"}, "-o", name+"seventeen-letters")
	create([]string{"goodbr", "same bridge name"}, "-o", name+"goodbr")
	create([]string{"eth0", "exists"}, "-o", name+"eth0")
	create([]string{"docker0", "the engine's own bridges"}, "-o", name+"docker0")
	create([]string{`"publsh"`, `"publish"`}, "-o", "publsh=native")
	create([]string{`"mtu"`, "com.docker.network.driver.mtu"}, "-o", "mtu=1400")
	create([]string{"publish", "docker, native"}, "-o", "publish=nativ")
	create([]string{"mode", "bridge"}, "-o", "mode=brigde")
	create([]string{"enable_icc", "true or false"}, "-o", "com.docker.network.bridge.enable_icc=maybe")
	create([]string{"gateway_mode_ipv4", "routed"}, "-o", "com.docker.network.bridge.gateway_mode_ipv4=magic")
	create([]string{"isolated", "internal"}, "-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated")
	create([]string{"publish=native"}, "-o", "com.docker.network.bridge.gateway_mode_ipv4=routed", "-o", "publish=docker")
	create([]string{"host_ipv4"}, "-o", "com.docker.network.host_ipv4=fd00::1")
	create([]string{"multiple subnets"}, "--subnet", "10.78.0.0/24", "--subnet", "10.79.0.0/24")
	create([]string{"verlap"}, "--subnet", "10.75.0.128/25")
	create([]string{"overlaps the host's route", "10.76.0.0/16", "eth0"}, "--subnet", "10.76.1.0/24")
	create([]string{"overlaps the host's route", "10.77.0.0/24"}, "--subnet", "10.77.0.128/25")
	s.docker("network", "create", "-d", plugin, "-o", "com.docker.network.unheard.of=1", "unheard")
	s.docker("network", "rm", "unheard")

	s.sh("ip route del 10.76.0.0/16")
	if n := weftJSON[[]struct{ Device string }](s, "networks"); len(n) != 1 || n[0].Device != "goodbr" {
		s.Errorf("weft networks: %+v", n)
	}
	run := func(words []string, args ...string) {
		s.Helper()
		s.refuse(words, append(append([]string{"run", "--rm", "--network", "good"}, args...), "weft/test:latest", "true")...)
	}
	run([]string{"10.99.0.9"}, "--ip", "10.99.0.9")
	run([]string{"ddress already in use"}, "--ip", "10.75.0.1")
	s.docker("network", "rm", "good")
	if out := s.docker("network", "ls", "-q", "-f", "name=bad"); out != "" {
		s.Errorf("a refused network remains: %s", out)
	}
}

// TestIPv6 tells of dual-stack networks and, from engine 28 on, of those with
// IPv6 alone.
func TestIPv6(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		s.outsideServer(7000)
		s.step("dual stack", (*site).dualStack)
		s.step("IPv6 only", (*site).onlyIPv6)
	})
}

func (s *site) dualStack() {
	s.network("dual", "--ipv6", "--subnet", "10.81.0.0/24", "--subnet", "fd81::/64")
	s.network("dual2", "--ipv6", "--subnet", "10.82.0.0/24", "--subnet", "fd82::/64")
	s.server("d1", "--network", "dual", "--ip", "10.81.0.10", "--ip6", "fd81::10")
	s.server("d2", "--network", "dual")
	s.server("e1", "--network", "dual2")
	d1, d2, e1 := s.inside("d1"), s.inside("d2"), s.inside("e1")
	s.expect(
		probe{who: "d2", from: d2, to: "10.81.0.10:80", want: "d1"},
		probe{who: "d2", from: d2, to: "[fd81::10]:80", want: "d1"},
		probe{who: "d2", from: d2, to: "[fd81::10]:81", udp: true, want: "d1"},
		probe{who: "the host", from: s.fromHost(), to: "[fd81::10]:80", want: "d1"},
		probe{who: "e1", from: e1, to: "10.81.0.10:80"},
		probe{who: "e1", from: e1, to: "[fd81::10]:80"},
		probe{who: "d1", from: d1, to: hostPort(s.ip6("e1", "dual2"), 80)},
	)
	s.sees("d1", d1, s.out.IPv4.String()+":7000", s.IPv4)
	s.sees("d1", d1, hostPort(s.out.IPv6.String(), 7000), s.IPv6)
	s.pings(d1, "fd81::1")
	s.pings(d1, s.out.IPv6.String())
	// Names of both families.
	if out, err := d2("getent", "ahosts", "d1"); err != nil || !strings.Contains(out, "fd81::10") || !strings.Contains(out, "10.81.0.10") {
		s.Errorf("getent ahosts d1: %v %s", err, out)
	}
	s.docker("network", "connect", "dual", "e1")
	s.expect(probe{who: "e1 connected", from: e1, to: "[fd81::10]:80", want: "d1"})
	s.docker("network", "disconnect", "dual", "e1")
	s.expect(probe{who: "e1 disconnected", from: e1, to: "[fd81::10]:80"})
	s.refuse([]string{"MTU", "1280"}, "network", "create", "-d", plugin, "--ipv6", "--subnet", "10.83.0.0/24", "--subnet", "fd83::/64",
		"-o", "com.docker.network.driver.mtu=1000", "bad")
	s.clear("dual", "dual2")
}

func (s *site) onlyIPv6() {
	if !s.atLeast(28) {
		s.refuse([]string{"ipv4"}, "network", "create", "-d", plugin, "--ipv4=false", "--ipv6", "--subnet", "fd84::/64", "six")
		return
	}
	s.network("six", "--ipv4=false", "--ipv6", "--subnet", "fd84::/64")
	s.server("s1", "--network", "six")
	s.server("s2", "--network", "six")
	s1 := s.inside("s1")
	s.sees("s1", s1, "s2:80", netip.MustParseAddr(s.ip6("s1", "six")))
	s.sees("s1", s1, hostPort(s.out.IPv6.String(), 7000), s.IPv6)
	if out, err := s1("ip", "-4", "-o", "addr", "show", "scope", "global"); err != nil || out != "" {
		s.Errorf("an IPv6-only container has IPv4 addresses (%v): %s", err, out)
	}
	s.refuse([]string{"publish=native"}, "run", "--rm", "--network", "six", "-p", "8184:80", "weft/test:latest", "true")
	s.clear("six")

	s.network("sixnative", "--ipv4=false", "--ipv6", "--subnet", "fd84::/64", "-o", "publish=native")
	s.server("s3", "--network", "sixnative", "-p", "8184:80")
	s.sees("outside", s.fromOutside(), hostPort(s.IPv6.String(), 8184), s.out.IPv6)
	s.clear("sixnative")
}

// TestGatewayModes looks at each mode from a machine that has a route to the
// containers.
func TestGatewayModes(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		s.outsideServer(7000)
		for i, mode := range []string{"nat", "nat-unprotected", "routed"} {
			s.step(mode, func(s *site) { s.gatewayMode(i, mode) })
		}
		s.step("isolated", (*site).isolatedMode)
		s.step("host_ipv4", (*site).fixedSource)
		s.step("trusted_host_interfaces", (*site).trustedInterfaces)
		s.step("host_binding_ipv4", (*site).hostBinding)
	})
}

// directRoute gives the outside a route to a subnet of the host's.
func (s *site) directRoute(subnet string, via netip.Addr) {
	s.Helper()
	if out, err := s.out.Run(s.Context(), "ip", "route", "replace", subnet, "via", via.String()); err != nil {
		s.Fatalf("%v %s", err, out)
	}
}

func (s *site) gatewayMode(i int, mode string) {
	prefix4, prefix6 := fmt.Sprintf("10.9%d.0.", i), fmt.Sprintf("fd9%d::", i)
	s.network(mode, "--ipv6", "--subnet", prefix4+"0/24", "--subnet", prefix6+"/64", "-o", "publish=native",
		"-o", "com.docker.network.bridge.gateway_mode_ipv4="+mode, "-o", "com.docker.network.bridge.gateway_mode_ipv6="+mode)
	s.directRoute(prefix4+"0/24", s.IPv4)
	s.directRoute(prefix6+"/64", s.IPv6)
	published, host := strconv.Itoa(8200+i), s.IPv4.String()
	s.server("p-"+mode, "--network", mode, "--ip", prefix4+"10", "--ip6", prefix6+"10", "-p", published+":80")
	s.server("u-"+mode, "--network", mode, "--ip", prefix4+"11", "--ip6", prefix6+"11")
	open := func(modes ...string) string {
		if slices.Contains(modes, mode) {
			return "-" + mode
		}
		return ""
	}
	out, in := s.fromOutside(), s.inside("u-"+mode)
	s.expect(
		probe{who: "outside", from: out, to: host + ":" + published, want: open("nat", "nat-unprotected")},
		probe{who: "outside", from: out, to: hostPort(s.IPv6.String(), 8200+i), want: open("nat", "nat-unprotected")},
		probe{who: "outside", from: out, to: prefix4 + "10:80", want: open("nat-unprotected", "routed")},
		probe{who: "outside", from: out, to: "[" + prefix6 + "10]:80", want: open("nat-unprotected", "routed")},
		probe{who: "outside", from: out, to: prefix4 + "10:81", udp: true, want: open("nat-unprotected")},
		probe{who: "outside", from: out, to: prefix4 + "11:80", want: open("nat-unprotected")},
		probe{who: "outside", from: out, to: "[" + prefix6 + "11]:80", want: open("nat-unprotected")},
		probe{who: "a neighbour", from: in, to: "p-" + mode + ":80", want: "p-" + mode},
		probe{who: "the host", from: s.fromHost(), to: prefix4 + "11:80", want: "u-" + mode},
	)
	client4, client6 := s.IPv4, s.IPv6
	if mode == "routed" {
		client4, client6 = netip.MustParseAddr(prefix4+"11"), netip.MustParseAddr(prefix6+"11")
	}
	s.sees("a container", in, s.out.IPv4.String()+":7000", client4)
	s.sees("a container", in, hostPort(s.out.IPv6.String(), 7000), client6)
	if mode == "nat" {
		s.noPing(out, prefix4+"11")
	} else {
		s.pings(out, prefix4+"11")
		s.pings(out, prefix6+"11")
	}
	s.clear(mode)
}

func (s *site) isolatedMode() {
	s.network("isolated", "--internal", "--ipv6", "--subnet", "10.94.0.0/24", "--subnet", "fd94::/64",
		"-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated", "-o", "com.docker.network.bridge.gateway_mode_ipv6=isolated",
		"-o", "com.docker.network.bridge.name=br-isolated")
	s.directRoute("10.94.0.0/24", s.IPv4)
	s.server("z1", "--network", "isolated")
	s.server("z2", "--network", "isolated")
	z1 := s.inside("z1")
	if out := s.sh("ip -o addr show dev br-isolated scope global"); out != "" {
		s.Errorf("the bridge has addresses: %s", out)
	}
	s.expect(
		probe{who: "z1", from: z1, to: "z2:80", want: "z2"},
		probe{who: "z1", from: z1, to: hostPort(s.ip6("z2", "isolated"), 80), want: "z2"},
		probe{who: "z1", from: z1, to: s.out.IPv4.String() + ":7000"},
		probe{who: "outside", from: s.fromOutside(), to: s.ip("z1", "isolated") + ":80"},
	)
	s.noPing(s.fromHost(), s.ip("z1", "isolated"))
	s.clear("isolated")
}

func (s *site) fixedSource() {
	s.sh("ip addr add 10.77.0.99/24 dev eth0; ip addr add fd77::99/64 dev eth0 nodad")
	s.network("snat", "--ipv6", "--subnet", "10.95.0.0/24", "--subnet", "fd95::/64",
		"-o", "com.docker.network.host_ipv4=10.77.0.99", "-o", "com.docker.network.host_ipv6=fd77::99")
	s.run("x1", "--network", "snat")
	s.sees("x1", s.inside("x1"), s.out.IPv4.String()+":7000", netip.MustParseAddr("10.77.0.99"))
	s.sees("x1", s.inside("x1"), hostPort(s.out.IPv6.String(), 7000), netip.MustParseAddr("fd77::99"))
	s.clear("snat")

	s.network("plain", "--subnet", "10.95.0.0/24", "-o", "com.docker.network.bridge.enable_ip_masquerade=false")
	s.directRoute("10.95.0.0/24", s.IPv4)
	s.run("x2", "--network", "plain", "--ip", "10.95.0.7")
	s.sees("x2", s.inside("x2"), s.out.IPv4.String()+":7000", netip.MustParseAddr("10.95.0.7"))
	s.clear("plain")
}

func (s *site) trustedInterfaces() {
	s.network("trusted", "--subnet", "10.96.0.0/24", "-o", "com.docker.network.bridge.trusted_host_interfaces=lo:eth0")
	s.directRoute("10.96.0.0/24", s.IPv4)
	s.server("t1", "--network", "trusted", "--ip", "10.96.0.10", "-p", "8296:80")
	s.server("t2", "--network", "trusted", "--ip", "10.96.0.11")
	out := s.fromOutside()
	s.expect(
		probe{who: "outside", from: out, to: s.IPv4.String() + ":8296", want: "t1"},
		probe{who: "outside", from: out, to: "10.96.0.10:80", want: "t1 from " + s.out.IPv4.String()},
		probe{who: "outside", from: out, to: "10.96.0.10:81", udp: true},
		probe{who: "outside", from: out, to: "10.96.0.11:80"},
	)
	s.clear("trusted")
}

// hostBinding publishes at another address than all.
func (s *site) hostBinding() {
	s.network("binding", "--subnet", "10.97.0.0/24", "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1")
	s.server("b1", "--network", "binding", "-p", "8297:80", "-p", s.IPv4.String()+":8298:80")
	s.expect(
		probe{who: "the host", from: s.fromHost(), to: "127.0.0.1:8297", want: "b1"},
		probe{who: "outside", from: s.fromOutside(), to: s.IPv4.String() + ":8298", want: "b1"},
		probe{who: "outside", from: s.fromOutside(), to: s.IPv4.String() + ":8297"},
		probe{who: "outside", from: s.fromOutside(), to: hostPort(s.IPv6.String(), 8297)},
		probe{who: "the host", from: s.fromHost(), to: "127.0.0.1:8298"},
	)
	s.clear("binding")
}
