package kernel_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// shimWorld is what the conformance test of shims drives.
type shimWorld interface {
	childWorld
	EnsureShim(s kernel.Shim) error
	AddPeers(s kernel.Shim) error
	CheckShim(s kernel.Shim) (string, error)
	RemovePeers(shim string, addrs []netip.Addr) error
	EnsureHosts(sandbox, alias string, hosts kernel.Hosts) error
	Addresses() ([]kernel.Address, error)
	Routes() ([]kernel.Route, error)
}

func addresses(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

// shim is one of e0 for a host with 10.9.0.10 and fd09::10.
func shim(kind kernel.ChildKind, mode string, peers ...string) kernel.Shim {
	s := kernel.Shim{Child: kernel.Child{Kind: kind, Name: "wh-1", Alias: "weft host access", Parent: "e0", Mode: mode}, IPv6: true}
	if kind == kernel.Macvlan {
		s.MAC = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	}
	for _, a := range addresses(peers...) {
		p := kernel.Peer{Addr: a, Source: netip.MustParseAddr("10.9.0.10")}
		if a.Is6() {
			p.Source = netip.MustParseAddr("fd09::10")
		}
		if kind == kernel.Macvlan {
			p.MAC = kernel.MAC{2, 0, 0, 0, 0, a.AsSlice()[a.BitLen()/8-1]}
		}
		s.Peers = append(s.Peers, p)
	}
	return s
}

// TestShimConformance drives the real kernel and the fake with the same steps.
func TestShimConformance(t *testing.T) {
	for _, kind := range []kernel.ChildKind{kernel.Macvlan, kernel.IPvlan} {
		t.Run(string(kind), func(t *testing.T) {
			kerneltest.Needs(t, string(kind))
			host := kerneltest.Host(t)
			line(t)
			ip(t, "addr", "add", "10.9.0.10/24", "dev", "e0")
			ip(t, "addr", "add", "fd09::10/64", "dev", "e0", "nodad")
			fake := kernel.NewFake()
			fake.AddDevice(kernel.Link{Name: "e0", Kind: "veth", Up: true, Carrier: true}, prefixes("10.9.0.10/24", "fd09::10/64")...)
			mode, other := "bridge", "private"
			if kind == kernel.IPvlan {
				mode, other = "l2", "l2"
			}
			two := shim(kind, mode, "10.9.0.2", "fd09::2")
			three := shim(kind, mode, "10.9.0.2", "fd09::2", "10.9.0.3")
			three.Addrs = addresses("10.9.0.77", "fd09::77")
			moved := three
			moved.Peers = slices.Clone(three.Peers)
			moved.Peers[0].Source, moved.Peers[1].Source = three.Addrs[0], three.Addrs[1]
			lost := two
			lost.Parent = "none"
			check := func(s kernel.Shim) func(shimWorld) (string, error) {
				return func(w shimWorld) (string, error) {
					difference, err := w.CheckShim(s)
					return difference + places(t, w), err
				}
			}
			ensure := func(s kernel.Shim) func(shimWorld) (string, error) {
				return func(w shimWorld) (string, error) {
					err := w.EnsureShim(s)
					return places(t, w), err
				}
			}
			add := func(s kernel.Shim) func(shimWorld) (string, error) {
				return func(w shimWorld) (string, error) {
					err := w.AddPeers(s)
					return places(t, w), err
				}
			}
			elsewhere := shim(kind, mode, "10.9.0.3")
			elsewhere.Addrs = addresses("10.9.0.77")
			elsewhere.Peers[0].Source = elsewhere.Addrs[0]
			foreign := func(w shimWorld) (string, error) {
				for _, p := range prefixes("10.9.0.9/32", "fd09::9/128") {
					if fake, ok := w.(*kernel.Fake); ok {
						fake.AddRoute(p, netip.Addr{}, "e0")
					} else {
						ip(t, "route", "add", p.String(), "dev", "e0")
					}
				}
				return byParent(t, w), nil
			}
			var steps []childStep
			for _, s := range []struct {
				name string
				do   func(shimWorld) (string, error)
			}{
				{"none", check(two)},
				{"without a parent", ensure(lost)},
				{"make", ensure(two)},
				{"it is so", check(two)},
				{"it is not so", check(three)},
				{"more", ensure(three)},
				{"again", ensure(three)},
				{"from other addresses", ensure(moved)},
				{"they are so", check(moved)},
				{"peers go", func(w shimWorld) (string, error) {
					err := w.RemovePeers("wh-1", addresses("10.9.0.2", "fd09::2", "10.9.0.4"))
					return places(t, w), err
				}},
				{"gone", check(moved)},
				{"peers of none", func(w shimWorld) (string, error) { return "", w.RemovePeers("wh-2", addresses("10.9.0.2")) }},
				{"less", ensure(two)},
				{"one is added", add(shim(kind, mode, "10.9.0.3"))},
				{"one is from elsewhere", add(elsewhere)},
				{"less again", ensure(two)},
				{"foreign routes", foreign},
				{"one has a foreign route", add(shim(kind, mode, "10.9.0.8", "10.9.0.9"))},
				{"so has another", add(shim(kind, mode, "fd09::8", "fd09::9"))},
				{"two have", ensure(shim(kind, mode, "10.9.0.8", "10.9.0.9", "fd09::8", "fd09::9"))},
				{"they go", func(w shimWorld) (string, error) {
					err := w.RemovePeers("wh-1", addresses("10.9.0.8", "10.9.0.9", "fd09::8", "fd09::9"))
					return places(t, w) + byParent(t, w), err
				}},
				{"another mode", ensure(shim(kind, other, "10.9.0.2"))},
				{"added to no device", func(w shimWorld) (string, error) {
					if err := w.DeleteLink("wh-1"); err != nil {
						return "", err
					}
					err := w.AddPeers(two)
					return places(t, w), err
				}},
				{"delete", func(w shimWorld) (string, error) { return "", w.DeleteLink("wh-1") }},
				{"somebody takes the name", func(w shimWorld) (string, error) {
					if fake, ok := w.(*kernel.Fake); ok {
						fake.AddDevice(kernel.Link{Name: "wh-1", Kind: "veth"})
					} else {
						ip(t, "link", "add", "wh-1", "type", "veth", "peer", "name", "x1")
					}
					return "", nil
				}},
				{"it is not taken", ensure(two)},
			} {
				steps = append(steps, childStep{s.name, func(w childWorld) (string, error) { return s.do(w.(shimWorld)) }})
			}
			conform(t, host, fake, steps)
		})
	}
}

// byParent are the routes to single addresses that are not weft's.
func byParent(t *testing.T, w shimWorld) string {
	t.Helper()
	routes, err := w.Routes()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range routes {
		if r.Dst.IsSingleIP() && !r.Ours {
			out = append(out, "foreign "+r.Dst.String())
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// places are the addresses of a shim and the routes that are weft's.
func places(t *testing.T, w shimWorld) string {
	t.Helper()
	links, err := w.Links()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(links, func(l kernel.Link) bool { return l.Name == "wh-1" })
	if at < 0 {
		return ""
	}
	addrs, err := w.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := w.Routes()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range addrs {
		if a.Link == links[at].Index {
			out = append(out, "addr "+a.Prefix.String())
		}
	}
	for _, r := range routes {
		if r.Ours {
			out = append(out, fmt.Sprintf("route %s by the shim: %t", r.Dst, r.Link == links[at].Index))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// TestForeignRoute: a way to a container that somebody else made is not taken over.
func TestForeignRoute(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	host := kerneltest.Host(t)
	line(t)
	ip(t, "addr", "add", "10.9.0.10/24", "dev", "e0")
	ip(t, "addr", "add", "fd09::10/64", "dev", "e0", "nodad")
	for _, c := range []struct{ foreign, bits, other string }{{"10.9.0.2", "/32", "10.9.0.3"}, {"fd09::2", "/128", "fd09::3"}} {
		ip(t, "route", "add", c.foreign, "dev", "e0")
		s := shim(kernel.Macvlan, "bridge", c.foreign, c.other)
		for range 2 {
			err := host.EnsureShim(s)
			if !errors.Is(err, kernel.ErrExists) || !strings.Contains(err.Error(), "a route to "+c.foreign+c.bits+" that is not weft's") {
				t.Errorf("%s: %v", c.foreign, err)
			}
		}
		out := ip(t, "route") + ip(t, "-6", "route")
		if !strings.Contains(out, c.foreign+" dev e0") || !strings.Contains(out, c.other+" dev wh-1") {
			t.Errorf("routes:\n%s", out)
		}
		if err := host.RemovePeers(s.Name, addresses(c.foreign, c.other)); err != nil {
			t.Error(err)
		}
		if out := ip(t, "route") + ip(t, "-6", "route"); !strings.Contains(out, c.foreign+" dev e0") || strings.Contains(out, "dev wh-1 proto 119") {
			t.Errorf("routes after the peers:\n%s", out)
		}
	}
}

// TestShimForwards: the shim makes the host no router, unless it shall be one.
func TestShimForwards(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	host := kerneltest.Host(t)
	machine := kerneltest.Namespace(t)
	line(t)
	ip(t, "addr", "add", "10.9.0.10/24", "dev", "e0")
	ip(t, "link", "add", "e2", "type", "veth", "peer", "name", "e3", "netns", machine)
	ip(t, "link", "set", "e2", "up")
	ip(t, "addr", "add", "10.66.0.10/24", "dev", "e2")
	kerneltest.Run(t, machine, "ip", "addr", "add", "10.66.0.1/24", "dev", "e3")
	kerneltest.Run(t, machine, "ip", "link", "set", "e3", "up")
	kerneltest.Run(t, machine, "ip", "route", "add", "default", "via", "10.66.0.10")
	if _, err := host.EnsureSysctl(kernel.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"}); err != nil {
		t.Fatal(err)
	}
	s := shim(kernel.Macvlan, "bridge", "10.9.0.2")
	ns := kerneltest.Sandbox(t)
	if _, err := host.AttachChild(kernel.ChildAttachment{
		Child:   kernel.Child{Kind: kernel.Macvlan, Alias: "weft endpoint 1", Parent: "e0", Mode: "bridge", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}},
		Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24"), Hosts: kernel.Hosts{MAC: kernel.MAC(s.MAC), Addrs: addresses("10.9.0.10")},
	}); err != nil {
		t.Fatal(err)
	}
	inSandbox(t, ns, "route", "add", "default", "via", "10.9.0.10")
	for _, forwards := range []bool{true, false, true} {
		s.Forwards = forwards
		if err := host.EnsureShim(s); err != nil {
			t.Fatal(err)
		}
		if !kerneltest.Answers(t, ns, "10.9.0.10", 3*time.Second) {
			t.Errorf("forwards: %t: the host does not answer", forwards)
		}
		if kerneltest.Answers(t, ns, "10.66.0.1", time.Second) != forwards {
			t.Errorf("another line answers, and the host forwards: %t", forwards)
		}
	}
}

// TestShim: host and container reach each other from every address of the host's, and
// nothing of the shim is ever on the line: another machine goes on knowing the host's
// addresses by the parent's MAC address alone. All of it with strict reverse paths.
func TestShim(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	host := kerneltest.Host(t)
	machine := kerneltest.Namespace(t)
	ip(t, "link", "set", "lo", "up")
	for _, key := range []string{"net.ipv4.conf.all.rp_filter", "net.ipv6.conf.default.forwarding"} {
		if _, err := host.EnsureSysctl(kernel.Sysctl{Key: key, Value: "1"}); err != nil {
			t.Fatal(err)
		}
	}
	ip(t, "link", "add", "e0", "type", "veth", "peer", "name", "e1", "netns", machine)
	ip(t, "link", "set", "e0", "up")
	ip(t, "addr", "add", "10.9.0.10/24", "dev", "e0")
	ip(t, "addr", "add", "fd09::10/64", "dev", "e0", "nodad")
	kerneltest.Run(t, machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "e1")
	kerneltest.Run(t, machine, "ip", "addr", "add", "fd09::1/64", "dev", "e1", "nodad")
	kerneltest.Run(t, machine, "ip", "link", "set", "e1", "up")
	heard := capture(t, "e0")

	s := shim(kernel.Macvlan, "bridge", "10.9.0.2", "fd09::2")
	s.Addrs = addresses("10.9.0.77", "fd09::77")
	if err := host.EnsureShim(s); err != nil {
		t.Fatal(err)
	}
	// What switches forwarding on does so for every device.
	for _, v := range []string{"0", "1"} {
		if _, err := host.EnsureSysctl(kernel.Sysctl{Key: "net.ipv6.conf.all.forwarding", Value: v}); err != nil {
			t.Fatal(err)
		}
	}
	ns := kerneltest.Sandbox(t)
	hosts := kernel.Hosts{MAC: kernel.MAC(s.MAC), Addrs: append(addresses("10.9.0.10", "fd09::10"), s.Addrs...)}
	if _, err := host.AttachChild(kernel.ChildAttachment{
		Child:   kernel.Child{Kind: kernel.Macvlan, Alias: "weft endpoint 1", Parent: "e0", Mode: "bridge", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}},
		Sandbox: ns, Prefix: "weft", Addrs: prefixes("10.9.0.2/24", "fd09::2/64"), Hosts: hosts,
	}); err != nil {
		t.Fatal(err)
	}
	reaches := func(ns, to string, want bool) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); kerneltest.Answers(t, ns, to, 300*time.Millisecond) != want; {
			if time.Now().After(end) {
				t.Errorf("%s from %s answers: %t", to, ns, !want)
				return
			}
		}
	}
	for _, to := range []string{"10.9.0.2", "fd09::2"} {
		if ok, err := host.Answers(netip.MustParseAddr(to), 2*time.Second); !ok || err != nil {
			t.Errorf("host to %s: %t, %v\n%s", to, ok, err, ip(t, "route")+ip(t, "-6", "route")+ip(t, "neigh")+ip(t, "-d", "addr"))
		}
		reaches(machine, to, true)
	}
	for _, a := range hosts.Addrs {
		reaches(ns, a.String(), true)
	}
	reaches(machine, "10.9.0.10", true)
	reaches(machine, "fd09::10", true)
	// The kernel answers on the parent for any IPv4 address of the host's, unless told not to.
	for _, v := range []string{"1", "0"} {
		if _, err := host.EnsureSysctl(kernel.Sysctl{Key: "net.ipv4.conf.e0.arp_ignore", Value: v}); err != nil {
			t.Fatal(err)
		}
		reaches(machine, "10.9.0.77", v == "0")
	}
	reaches(machine, "fd09::77", false)
	reaches(ns, "10.9.0.1", true)
	if frames := heard(); frames[s.MAC.String()] > 0 || frames["02:00:00:00:00:02"] == 0 {
		t.Errorf("frames on the line by sender: %v", frames)
	}
	if out := kerneltest.Run(t, machine, "ip", "neigh"); strings.Contains(out, s.MAC.String()) {
		t.Errorf("the machine on the line knows the shim:\n%s", out)
	}

	if difference, err := host.CheckShim(s); err != nil || difference != "" {
		t.Errorf("%q, %v", difference, err)
	}

	// Its multicast goes on leaving by the card, also when that was down.
	for _, device := range []string{"e0", "wh-1"} {
		ip(t, "link", "set", device, "down")
		ip(t, "link", "set", device, "up")
		for end := time.Now().Add(5 * time.Second); !strings.Contains(ip(t, "-6", "route", "show", "table", "local"), "ff00::/8 dev "+device); <-time.After(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s does not come up", device)
			}
		}
		if difference, err := host.CheckShim(s); err != nil || device == "wh-1" && difference != "multicast leaves by it" {
			t.Errorf("after %s came up: %q, %v", device, difference, err)
		}
		ip(t, "addr", "replace", "fd09::10/64", "dev", "e0", "nodad")
		if err := host.EnsureShim(s); err != nil {
			t.Fatal(err)
		}
		if difference, err := host.CheckShim(s); err != nil || difference != "" {
			t.Errorf("after %s was mended: %q, %v", device, difference, err)
		}
		if out := ip(t, "-6", "route", "get", "ff05::7"); !strings.Contains(out, "dev e0") {
			t.Errorf("multicast leaves by %s", out)
		}
	}

	// The host's address changes.
	hosts.Addrs = addresses("10.9.0.11", "fd09::10", "10.9.0.77")
	ip(t, "addr", "del", "10.9.0.10/24", "dev", "e0")
	ip(t, "addr", "add", "10.9.0.11/24", "dev", "e0")
	if difference, err := host.CheckShim(s); err != nil || !strings.HasPrefix(difference, "with peer 10.9.0.2 lladdr 02:00:00:00:00:02 src invalid IP") {
		t.Errorf("its routes went with the address: %q, %v", difference, err)
	}
	s.Peers[0].Source = hosts.Addrs[0]
	if err := errors.Join(host.EnsureShim(s), host.EnsureHosts(ns, "weft endpoint 1", hosts), host.EnsureHosts(ns, "weft endpoint 1", hosts)); err != nil {
		t.Fatal(err)
	}
	for _, a := range hosts.Addrs {
		reaches(ns, a.String(), true)
	}
	if out := inSandbox(t, ns, "neigh"); strings.Contains(out, "10.9.0.10 ") || !strings.Contains(out, "10.9.0.11 ") {
		t.Errorf("the container knows\n%s", out)
	}
	for _, where := range []string{ns + "x", ns} {
		if err := host.EnsureHosts(where, "another", hosts); !errors.Is(err, kernel.ErrNotFound) {
			t.Error(err)
		}
	}
	kerneltest.Run(t, ns, "ip", "link", "set", "weft0", "down")
	if err := host.EnsureHosts(ns, "weft endpoint 1", hosts); !errors.Is(err, kernel.ErrNotFound) {
		t.Errorf("a device that is down: %v", err)
	}
}

// capture counts the frames that leave by a device, by their sender, until the result is
// called.
func capture(t *testing.T, device string) func() map[string]int {
	t.Helper()
	fd := kerneltest.Tap(t, "", device, unix.ETH_P_ALL)
	return func() map[string]int {
		out, frame := map[string]int{}, make([]byte, 2048)
		for {
			n, from, err := unix.Recvfrom(fd, frame, unix.MSG_DONTWAIT)
			if err != nil {
				return out
			}
			if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING && n >= 14 {
				out[net.HardwareAddr(frame[6:12]).String()]++
			}
		}
	}
}
