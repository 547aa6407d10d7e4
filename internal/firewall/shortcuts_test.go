package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// somewhere is an address that no device has.
func somewhere(n int) MAC { return MAC{2, 0, 0, 1, byte(n >> 8), byte(n)} }

// device makes a link of a namespace and returns it.
func (ns namespace) device(t testing.TB, name string) Device {
	t.Helper()
	ns.sh(t, fmt.Sprintf("ip link del %[1]s 2>/dev/null || true; ip link add %[1]s type bridge; ip link set %[1]s up", name))
	return ns.lookup(t, name)
}

func (ns namespace) lookup(t testing.TB, name string) Device {
	t.Helper()
	var d Device
	err := ns.do(func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			d = Device{name, i.Index}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// shortcutSteps call for short cuts in every way, on a host that has the devices.
func shortcutSteps(t *testing.T, ns namespace) []struct {
	name string
	call func(firewaller) error
	want error
} {
	t.Helper()
	ctx := testContext(t)
	n0, n1 := tunnelled(network("n0", "weft0", "10.1.0.0/24", "")), tunnelled(network("n1", "weft1", "10.2.0.0/24", ""))
	vx0, vx1 := ns.device(t, n0.Tunnel), ns.device(t, n1.Tunnel)
	a, b := ns.device(t, "wv-a"), ns.device(t, "wv-b")
	full := Shortcuts{Network: "n0", Tunnel: vx0, Here: []Station{{somewhere(1), a}, {somewhere(2), b}}, There: []MAC{somewhere(4), somewhere(3)}}
	with := func(change func(*Shortcuts)) Shortcuts {
		s := full
		s.Here, s.There = append([]Station{}, full.Here...), append([]MAC{}, full.There...)
		change(&s)
		return s
	}
	set := func(s Shortcuts) func(firewaller) error {
		return func(f firewaller) error { return f.SetShortcuts(ctx, s) }
	}
	network := func(n Network) func(firewaller) error {
		return func(f firewaller) error { return f.AddNetwork(ctx, n) }
	}
	type step = struct {
		name string
		call func(firewaller) error
		want error
	}
	many := with(func(s *Shortcuts) {
		for i := range 2000 {
			s.There = append(s.There, somewhere(100+i))
		}
	})
	return []step{
		{"none, without a network", set(Shortcuts{Network: "n0"}), nil},
		{"without a network", set(full), ErrInvalid},
		{"network", network(n0), nil},
		{"short cuts", set(full), nil},
		{"again", set(full), nil},
		{"one container leaves", set(with(func(s *Shortcuts) { s.Here = s.Here[:1] })), nil},
		{"and another address comes there", set(with(func(s *Shortcuts) { s.There = append(s.There, somewhere(5)) })), nil},
		{"another address here", set(with(func(s *Shortcuts) { s.Here[0].MAC = somewhere(9) })), nil},
		{"they change places", set(with(func(s *Shortcuts) { s.Here[0].Link, s.Here[1].Link = b, a })), nil},
		{"many", set(many), nil},
		{"of another tunnel", set(with(func(s *Shortcuts) { s.Tunnel = vx1 })), ErrInvalid},
		{"an address in both places", set(with(func(s *Shortcuts) { s.There[0] = somewhere(1) })), ErrInvalid},
		{"an address twice here", set(with(func(s *Shortcuts) { s.Here[0].MAC = somewhere(2) })), ErrInvalid},
		{"an address twice there", set(with(func(s *Shortcuts) { s.There[0] = somewhere(3) })), ErrInvalid},
		{"a link twice", set(with(func(s *Shortcuts) { s.Here[0].Link = b })), ErrInvalid},
		{"a link without index", set(with(func(s *Shortcuts) { s.Here[0].Link.Index = 0 })), ErrInvalid},
		{"a link with a bad name", set(with(func(s *Shortcuts) { s.Here[0].Link.Name = "a;b" })), ErrInvalid},
		{"a link that is the tunnel", set(with(func(s *Shortcuts) { s.Here[0].Link = vx0 })), ErrInvalid},
		{"network again", network(n0), nil},
		{"second network", network(n1), nil},
		{"its short cuts", set(Shortcuts{Network: "n1", Tunnel: vx1, Here: []Station{{somewhere(3), a}}, There: []MAC{somewhere(1)}}), nil},
		{"facts without short cuts", func(f firewaller) error {
			_, err := f.Repair(ctx, Facts{Networks: []Network{n0, n1}})
			return err
		}, nil},
		{"nobody there", set(with(func(s *Shortcuts) { s.There = nil })), nil},
		{"somebody again", set(full), nil},
		{"nobody here", set(with(func(s *Shortcuts) { s.Here = nil })), nil},
		{"first network goes", func(f firewaller) error { return f.RemoveNetwork(ctx, "n0") }, nil},
		{"repaired without the other", func(f firewaller) error {
			_, err := f.Repair(ctx, Facts{Networks: []Network{n0}})
			return err
		}, nil},
		{"short cuts of the one that is back", set(full), nil},
		{"reset", func(f firewaller) error { return f.Reset(ctx) }, nil},
	}
}

// TestShortcutsConform makes the same calls to the real firewall and to the fake, and
// compares errors and what is in force after each. Nothing needs mending after any.
func TestShortcutsConform(t *testing.T) {
	ns := newNamespace(t)
	fw, fake := newNFT(t, ns), &Fake{}
	for _, step := range shortcutSteps(t, ns) {
		for _, f := range []firewaller{fw, fake} {
			if err := step.call(f); !errors.Is(err, step.want) {
				t.Errorf("%s: %T returns %v, want %v", step.name, f, err, step.want)
			}
		}
		if real, faked := kernelDump(t, fw), fake.Dump(); real != faked {
			t.Fatalf("%s: the kernel holds\n%s\nthe fake\n%s", step.name, real, faked)
		}
		if real, faked := fw.Status(t.Context()).Shortcuts, fake.Status(t.Context()).Shortcuts; real != faked {
			t.Errorf("%s: Status %q, of the fake %q", step.name, real, faked)
		}
		if repaired, err := fw.Mend(t.Context()); err != nil || len(repaired) > 0 {
			t.Errorf("%s: repaired %q, %v", step.name, repaired, err)
		}
	}
	if left := ns.sh(t, "nft list ruleset"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestShortcutsGolden shows the short cuts of two containers. Those that were changed
// one by one are the same as those that were loaded at once.
func TestShortcutsGolden(t *testing.T) {
	ns := newNamespace(t)
	ctx := testContext(t)
	n := tunnelled(network("n0", "weft0", "10.1.0.0/24", ""))
	s := Shortcuts{Network: "n0", Tunnel: ns.device(t, n.Tunnel), There: []MAC{somewhere(3), somewhere(4)}}
	for i, name := range []string{"wv-a", "wv-b"} {
		s.Here = append(s.Here, Station{somewhere(i + 1), ns.device(t, name)})
	}
	list := func() string { return ns.sh(t, "nft list ruleset netdev") }
	fw := newNFT(t, ns)
	if err := errors.Join(fw.AddNetwork(ctx, n), fw.SetShortcuts(ctx, s)); err != nil {
		t.Fatal(err)
	}
	atOnce := list()
	checkGolden(t, "shortcuts", atOnce)
	less := s
	less.Here, less.There = s.Here[:1], s.There[:1]
	if err := errors.Join(fw.SetShortcuts(ctx, less), fw.SetShortcuts(ctx, s)); err != nil {
		t.Fatal(err)
	}
	if got := list(); got != atOnce {
		t.Errorf("changed one by one:\n%s\nat once:\n%s", got, atOnce)
	}
	// A later process leaves them alone, whatever it repairs, until it has its own.
	later := newNFT(t, ns)
	if _, err := later.Repair(ctx, Facts{Networks: []Network{n}}); err != nil {
		t.Fatal(err)
	}
	if got := list(); got != atOnce {
		t.Errorf("of a later process:\n%s\nwas:\n%s", got, atOnce)
	}
	if err := later.SetShortcuts(ctx, Shortcuts{Network: "n0"}); err != nil || strings.Contains(list(), "table") {
		t.Errorf("%v, left:\n%s", err, list())
	}
	// One that has no facts at all takes them away when it is told to.
	if err := errors.Join(later.SetShortcuts(ctx, s), newNFT(t, ns).Reset(ctx)); err != nil || ns.sh(t, "nft list ruleset") != "" {
		t.Errorf("%v, left:\n%s", err, ns.sh(t, "nft list ruleset"))
	}
}

// station is the container of a host of the lab, as its host sees it.
func (l *overlayLab) station(t *testing.T, i int) Station {
	t.Helper()
	return Station{l.mac(t, l.containers[i], "eth0"), l.hosts[i].lookup(t, "wv-1")}
}

func (l *overlayLab) mac(t *testing.T, ns namespace, link string) (m MAC) {
	t.Helper()
	text := strings.TrimSpace(ns.sh(t, fmt.Sprintf("ip -o link show %s | grep -o 'ether [^ ]*' | cut -c7-", link)))
	hw, err := net.ParseMAC(text)
	if err != nil {
		t.Fatal(err)
	}
	copy(m[:], hw)
	return m
}

// shorten sets the short cuts of both hosts.
func (l *overlayLab) shorten(t *testing.T) {
	t.Helper()
	for i, fw := range l.firewalls {
		s := Shortcuts{Network: "n0", Tunnel: l.hosts[i].lookup(t, "wx-1"), Here: []Station{l.station(t, i)}, There: []MAC{l.station(t, 1-i).MAC}}
		if err := fw.SetShortcuts(testContext(t), s); err != nil {
			t.Fatal(err)
		}
	}
}

// noTransit drops what is neither ARP nor ICMPv6 and crosses the bridge from port to port.
const noTransit = `nft 'table bridge foreign { chain c { type filter hook forward priority -10; meta l4proto != icmpv6 drop; }; }'`

// TestShortWay: what two containers say to each other does not pass the bridge, and all
// else does: ARP, ICMPv6, the hosts' frames, those with another source.
func TestShortWay(t *testing.T) {
	for _, brNetfilter := range []bool{false, true} {
		t.Run(fmt.Sprintf("br_netfilter=%t", brNetfilter), func(t *testing.T) {
			t.Parallel()
			l := newOverlayLab(t, brNetfilter)
			for i, c := range l.containers {
				if err := l.firewalls[i].AddNetwork(testContext(t), overlayNetwork()); err != nil {
					t.Fatal(err)
				}
				l.hosts[i].sh(t, "ip link set wv-1 mtu 1400; "+noTransit)
				for _, addr := range []string{"10.5.0.1%d:80", "[fd05::1%d]:80"} {
					at := mustAddr(fmt.Sprintf(addr, i+1))
					c.serve(t, "tcp", at)
					c.serve(t, "udp", at)
				}
			}
			// reaches says by which protocols and families container 0 and its host reach
			// container 1.
			reaches := func() string {
				var out []string
				for name, ns := range map[string]namespace{"container": l.containers[0], "host": l.hosts[0]} {
					for _, network := range []string{"tcp", "udp"} {
						for _, to := range []string{"10.5.0.12:80", "[fd05::12]:80"} {
							if ns.reach(network, to, dropTimeout) != "" {
								out = append(out, fmt.Sprintf("%s %s %s", name, network, to))
							}
						}
					}
				}
				slices.Sort(out)
				return strings.Join(out, "\n")
			}
			check := func(when, want string) {
				t.Helper()
				if got := reaches(); got != want {
					t.Errorf("%s: past the bridge goes\n%s\nwant\n%s", when, got, want)
				}
			}
			const all = "container tcp 10.5.0.12:80\ncontainer tcp [fd05::12]:80\ncontainer udp 10.5.0.12:80\ncontainer udp [fd05::12]:80"
			check("without short cuts", "")
			l.shorten(t)
			check("with short cuts", all)
			for i, c := range l.containers {
				c.sh(t, "ip neigh flush dev eth0")
				l.hosts[i].sh(t, "ip neigh flush dev wf-1")
				c.ping(t, fmt.Sprintf("10.5.0.1%d", 2-i)) // ARP passes the bridge
				c.ping(t, fmt.Sprintf("fd05::1%d", 2-i))  // so does this
			}
			if err := l.firewalls[1].SetShortcuts(testContext(t), Shortcuts{Network: "n0"}); err != nil {
				t.Fatal(err)
			}
			check("with short cuts on one side", "")
			l.shorten(t)
			own := l.mac(t, l.containers[0], "eth0")
			l.containers[0].sh(t, "ip link set eth0 address 02:00:00:00:77:77")
			check("from an address that is not the container's", "")
			l.containers[0].sh(t, "ip link set eth0 address "+own.String())
			l.containers[0].sh(t, "ip route replace default via 10.5.0.1; ip -6 route replace default via fd05::1")
			check("from its own again", all)
			l.tooLarge(t)
			for _, h := range l.hosts {
				h.sh(t, "nft flush ruleset")
			}
			if got := reaches(); !strings.Contains(got, all) {
				t.Errorf("without any rules there is reached\n%s", got)
			}
		})
	}
}

// tooLarge: a container that gives itself a larger MTU gets no more through than before.
func (l *overlayLab) tooLarge(t *testing.T) {
	t.Helper()
	c := l.containers[0]
	c.sh(t, "ip link set eth0 mtu 9000")
	defer c.sh(t, "ip link set eth0 mtu 1400")
	wire := l.hosts[0].tap(t, "u0")
	for _, size := range []int{3000, 1400 - 28} { // the second is the last to be heard
		c.sh(t, fmt.Sprintf("head -c %d /dev/zero > /dev/udp/10.5.0.12/4444", size))
	}
	b := make([]byte, 16384)
	for {
		n, _, err := unix.Recvfrom(wire, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("the last packet is not heard: %v", err)
		}
		in := inner(b[:n])
		if len(in) < 38 || binary.BigEndian.Uint16(in[36:]) != 4444 {
			if n > 1500 {
				t.Errorf("%d bytes in the tunnel", n)
			}
			continue
		}
		if len(in) > 14+1400 {
			t.Errorf("a frame of %d bytes in a tunnel of 1400", len(in))
			continue
		}
		return
	}
}

// unordered leaves out in which order chains were made.
func unordered(listing string) string {
	return strings.Join(slices.Sorted(strings.Lines(listing)), "")
}

// TestShortcutsOfGoneLinks: a container's chain goes with its link, by itself on old
// kernels. A link that comes again under the same name is another one.
func TestShortcutsOfGoneLinks(t *testing.T) {
	for name, gone := range map[string]string{"new kernel": "ip link del wv-a", "old kernel": "ip link del wv-a; nft delete chain netdev weft-vx-weft0 wv-a || true"} {
		t.Run(name, func(t *testing.T) {
			ns := newNamespace(t)
			ctx := testContext(t)
			fw := newNFT(t, ns)
			n := tunnelled(network("n0", "weft0", "10.1.0.0/24", ""))
			s := Shortcuts{Network: "n0", Tunnel: ns.device(t, n.Tunnel), There: []MAC{somewhere(3)}}
			for i, name := range []string{"wv-a", "wv-b"} {
				s.Here = append(s.Here, Station{somewhere(i + 1), ns.device(t, name)})
			}
			set := func(s Shortcuts) {
				t.Helper()
				if err := fw.SetShortcuts(ctx, s); err != nil {
					t.Fatal(err)
				}
				if repaired, err := fw.Mend(ctx); err != nil || len(repaired) > 0 || len(fw.refused) > 0 {
					t.Errorf("repaired %q, %v, refused %v", repaired, err, fw.refused)
				}
			}
			if err := fw.AddNetwork(ctx, n); err != nil {
				t.Fatal(err)
			}
			set(s)
			before := ns.sh(t, "nft list ruleset netdev")
			ns.sh(t, gone)
			less := s
			less.Here = s.Here[1:]
			set(less)
			if got := ns.sh(t, "nft list ruleset netdev"); strings.Contains(got, "wv-a") {
				t.Errorf("left of a link that went:\n%s", got)
			}
			s.Here = []Station{{somewhere(1), ns.device(t, "wv-a")}, s.Here[1]}
			set(s)
			// Made anew between two calls.
			ns.sh(t, gone)
			s.Here = []Station{{somewhere(1), ns.device(t, "wv-a")}, s.Here[1]}
			set(s)
			if got := ns.sh(t, "nft list ruleset netdev"); unordered(got) != unordered(before) {
				t.Errorf("with new links:\n%s\nbefore:\n%s", got, before)
			}
			s.Tunnel = ns.device(t, n.Tunnel)
			set(s)
			if got := ns.sh(t, "nft list ruleset netdev"); unordered(got) != unordered(before) {
				t.Errorf("with a new tunnel:\n%s\nbefore:\n%s", got, before)
			}
		})
	}
}

// TestKernelWithoutShortcuts has an nft that refuses them: everything else works, and
// weft says so, once for each network.
func TestKernelWithoutShortcuts(t *testing.T) {
	ns := newNamespace(t)
	ctx := testContext(t)
	var log strings.Builder
	nft := filepath.Join(t.TempDir(), "nft")
	refusing := "#!/bin/sh\ntext=$(cat)\ncase $text in *'table netdev'*) echo 'Error: Operation not supported' >&2; exit 1; esac\necho \"$text\" | exec nft -f -\n"
	if err := os.WriteFile(nft, []byte(refusing), 0o755); err != nil {
		t.Fatal(err)
	}
	fw := newNFT(t, ns)
	fw.config.NftPath, fw.log = nft, slog.New(slog.NewTextHandler(&log, nil))
	n := tunnelled(network("n0", "weft0", "10.1.0.0/24", ""))
	s := Shortcuts{Network: "n0", Tunnel: ns.device(t, n.Tunnel), Here: []Station{{somewhere(1), ns.device(t, "wv-a")}}, There: []MAC{somewhere(3)}}
	more := s
	more.There = append(more.There, somewhere(4))
	for _, call := range []func() error{
		func() error { return fw.AddNetwork(ctx, n) },
		func() error { return fw.SetShortcuts(ctx, s) },
		func() error { return fw.SetShortcuts(ctx, more) },
		func() error { return fw.AddNetwork(ctx, tunnelled(weft1())) },
		func() error { _, err := fw.Mend(ctx); return err },
	} {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	if got := fw.Status(ctx).Shortcuts; !strings.Contains(got, "Operation not supported") {
		t.Errorf("Status says %q", got)
	}
	if n := strings.Count(log.String(), "does not take the short way"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, log.String())
	}
	fw.config.NftPath = "" // a module that comes late
	if _, err := fw.Mend(ctx); err != nil {
		t.Fatal(err)
	}
	if got := fw.Status(ctx).Shortcuts; !strings.Contains(got, "do not pass the bridge") {
		t.Errorf("Status says %q", got)
	}
	if got := kernelShortcuts(t, fw); len(got) != 4 {
		t.Errorf("in force: %q", got)
	}
	// It refuses again: what is no longer true does not stay.
	fw.config.NftPath = nft
	more.Tunnel = ns.device(t, n.Tunnel)
	if err := fw.SetShortcuts(ctx, more); err != nil {
		t.Fatal(err)
	}
	if got := kernelShortcuts(t, fw); len(got) != 0 {
		t.Errorf("in force: %q", got)
	}
}
