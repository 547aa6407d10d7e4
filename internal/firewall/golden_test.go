package firewall

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files from what the kernel shows")

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs; run with -update if that is meant (-want +got):\n%s", file, diff)
	}
}

// filled returns the sets of a listing that have elements, one a line.
func filled(listing string) string {
	var b strings.Builder
	name, elements := "", ""
	for line := range strings.Lines(listing) {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && (words[0] == "set" || words[0] == "map"):
			name = words[1]
		case elements == "" && !strings.Contains(line, "elements = {"):
		default:
			elements += strings.Join(words, " ") + " "
			if strings.Contains(line, "}") {
				fmt.Fprintf(&b, "%s: %s\n", name, strings.TrimSpace(strings.TrimPrefix(elements, "elements =")))
				elements = ""
			}
		}
	}
	return b.String()
}

// rules returns the chains of a listing.
func rules(listing string) string {
	i := strings.Index(listing, "\tchain raw")
	return listing[max(i, 0):]
}

// options are the bits of a combination.
type options struct {
	mode4, mode6                       Mode
	internal, icc, masq, snat, trusted bool
}

func (o options) String() string {
	name := func(m Mode) string { return []string{"nat", "nat-unprotected", "routed", "isolated"}[m] }
	s := fmt.Sprintf("ipv4=%s ipv6=%s", name(o.mode4), name(o.mode6))
	for _, b := range []struct {
		name string
		on   bool
	}{{"internal", o.internal}, {"icc", o.icc}, {"masquerade", o.masq}, {"snat", o.snat}, {"trusted", o.trusted}} {
		if b.on {
			s += " " + b.name
		}
	}
	return s
}

func (o options) network() Network {
	n := network("n0", "weft0", "10.1.0.0/24", "fd00:1::/64")
	n.IPv4[0].Mode, n.IPv6[0].Mode = o.mode4, o.mode6
	n.Internal, n.ICC, n.Masquerade = o.internal, o.icc, o.masq
	if o.snat {
		n.IPv4[0].SNAT, n.IPv6[0].SNAT = netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")
	}
	if o.trusted {
		n.Trusted = []string{"eth1", "eth0"}
	}
	return n
}

// combinations are all options for each mode, and all modes of both families.
func combinations() []options {
	var all []options
	for m := ModeNAT; m <= ModeIsolated; m++ {
		for bits := range 1 << 5 {
			on := func(i int) bool { return bits>>i&1 == 1 }
			all = append(all, options{m, m, on(0), on(1), on(2), on(3), on(4)})
		}
		for m6 := ModeNAT; m6 <= ModeIsolated; m6++ {
			if m6 != m {
				all = append(all, options{mode4: m, mode6: m6, icc: true, masq: true})
			}
		}
	}
	return all
}

// TestCombinations shows what the kernel holds for each combination of options.
// The rules are the same for all of them.
func TestCombinations(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ctx := testContext(t)
	var b strings.Builder
	static := ""
	for _, o := range combinations() {
		fw := newNFT(t, ns)
		if err := fw.AddNetwork(ctx, o.network()); err != nil {
			t.Fatal(err)
		}
		listing := ns.sh(t, "nft list table inet weft")
		if static == "" {
			static = rules(listing)
		}
		if got := rules(listing); got != static {
			t.Errorf("%s: the rules differ: %s", o, cmp.Diff(static, got))
		}
		fmt.Fprintf(&b, "# %s\n%s\n", o, filled(listing))
		if err := fw.RemoveNetwork(ctx, "n0"); err != nil {
			t.Fatal(err)
		}
		if left := ns.sh(t, "nft list ruleset"); left != "" {
			t.Fatalf("%s: left behind: %s", o, left)
		}
	}
	checkGolden(t, "rules", static)
	checkGolden(t, "combinations", b.String())
}

// TestPortsGolden shows a host with ports of every kind.
func TestPortsGolden(t *testing.T) {
	ns := newNamespace(t)
	ctx := testContext(t)
	fw := newNFT(t, ns)
	if err := fw.AddNetwork(ctx, network("n0", "weft0", "10.1.0.0/24", "fd00:1::/64")); err != nil {
		t.Fatal(err)
	}
	if err := fw.AddPorts(ctx, everyPort(), everyOpen()); err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "ports", filled(ns.sh(t, "nft list table inet weft")))
}

// TestTunnelsGolden shows the tunnels' table of a host with two overlays, which
// the rules for ports know nothing of.
func TestTunnelsGolden(t *testing.T) {
	ns := newNamespace(t)
	ctx := testContext(t)
	fw := newNFT(t, ns)
	if err := fw.AddNetwork(ctx, network("n0", "weft0", "10.1.0.0/24", "fd00:1::/64")); err != nil {
		t.Fatal(err)
	}
	alone := ns.sh(t, "nft list ruleset")
	if strings.Contains(alone, "table bridge") {
		t.Errorf("without a tunnel there is a table for bridges:\n%s", alone)
	}
	for _, n := range []Network{network("n1", "weft1", "10.2.0.0/24", "fd00:2::/64"), network("n2", "weft2", "10.3.0.0/24", "")} {
		if err := fw.AddNetwork(ctx, tunnelled(n)); err != nil {
			t.Fatal(err)
		}
	}
	checkGolden(t, "tunnels", ns.sh(t, "nft list table bridge weft"))
	for _, id := range []string{"n1", "n2"} {
		if err := fw.RemoveNetwork(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if after := ns.sh(t, "nft list ruleset"); after != alone {
		t.Errorf("the tunnels left:\n%s\nwas:\n%s", after, alone)
	}
}

// everyPort returns a port of each protocol, family and kind of host address.
func everyPort() []Port {
	var ps []Port
	for _, p := range []Proto{TCP, UDP, SCTP} {
		for _, hosts := range [][3]string{
			{"0.0.0.0:80", "127.0.0.1:81", "10.1.0.2:8080"},
			{"192.0.2.1:82", "192.0.2.1:83", "10.1.0.3:8080"},
			{"[::]:80", "[2001:db8::1]:81", "[fd00:1::2]:8080"},
		} {
			for _, h := range hosts[:2] {
				ps = append(ps, Port{"e-" + hosts[2], "weft0", p, mustAddr(h), mustAddr(hosts[2])})
			}
		}
	}
	return ps
}

func everyOpen() []Open {
	var os []Open
	for _, p := range []Proto{TCP, UDP, SCTP} {
		os = append(os, Open{"e-10.1.0.2:8080", mustAddr("10.1.0.2:8080"), p}, Open{"e-[fd00:1::2]:8080", mustAddr("[fd00:1::2]:8080"), p})
	}
	return os
}
