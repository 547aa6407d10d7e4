package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
)

// firewaller is what a driver asks of a firewall.
type firewaller interface {
	AddNetwork(context.Context, Network) error
	RemoveNetwork(context.Context, string) error
	AddPorts(context.Context, []Port, []Open) error
	RemovePorts(context.Context, string) error
	SetUplinks(context.Context, []string) error
	SetShortcuts(context.Context, Shortcuts) error
	DropByDefault(context.Context, bool) (bool, error)
	Repair(context.Context, Facts) ([]string, error)
	Mend(context.Context) ([]string, error)
	Watch(context.Context) <-chan struct{}
	Status(context.Context) Status
	Reset(context.Context) error
	Close() error
}

var (
	_ firewaller = (*NFT)(nil)
	_ firewaller = (*Fake)(nil)
)

// kernelDump returns what the kernel holds in the words of Fake.Dump.
func kernelDump(t *testing.T, fw *NFT) string {
	t.Helper()
	want := elements(fw.ledger.facts())
	var lines []string
	for _, of := range allTables() {
		ok, err := fw.tables.exists(of.family, of.name)
		if err != nil {
			t.Fatal(err)
		}
		have := map[setName][]raw{}
		if ok {
			if have, err = fw.tables.elements(of); err != nil {
				t.Fatal(err)
			}
		}
		if of.family == nftables.TableFamilyBridge && ok != (fw.ledger.tunnel > 0) {
			t.Errorf("table %s is there: %t, with %d elements", of, ok, fw.ledger.tunnel)
		}
		for _, es := range want {
			for _, e := range es {
				if of.has(e.set) && !slices.ContainsFunc(e.raws(), func(r raw) bool { return !slices.Contains(have[e.set], r) }) {
					lines = append(lines, e.String()+"\n")
				}
			}
		}
		if c := diff(of, have, want); !c.empty() {
			t.Errorf("table %s differs from the facts: %v", of, c)
		}
	}
	lines = append(lines, kernelShortcuts(t, fw)...)
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// kernelShortcuts returns the short cuts that the kernel has, in the same words.
func kernelShortcuts(t *testing.T, fw *NFT) []string {
	t.Helper()
	there, err := fw.tables.shortcuts()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, of := range there {
		have, err := fw.tables.elements(of)
		if err != nil {
			t.Fatal(err)
		}
		for set, raws := range have {
			for _, r := range raws {
				e := member(set, mac(MAC([]byte(r.key))))
				if r.data != "" {
					e = e.to(index(int(binary.NativeEndian.Uint32([]byte(r.data)))))
				}
				lines = append(lines, fmt.Sprintf("%s: %s\n", of, e))
			}
		}
		chains, err := fw.tables.conn.ListChainsOfTableFamily(of.family)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range chains {
			if c.Table.Name == of.name && c.Name != "tunnel" && c.Name != "out" {
				lines = append(lines, fmt.Sprintf("%s: chain %s\n", of, c.Name))
			}
		}
	}
	return lines
}

// TestConformance makes the same calls to the real firewall and to the fake, and
// compares errors and what is in force after each.
func TestConformance(t *testing.T) {
	ctx := testContext(t)
	fw, fake := newNFT(t, newNamespace(t)), &Fake{}
	n0, n1 := network("n0", "weft0", "10.1.0.0/24", "fd00:1::/64"), network("n1", "weft1", "10.2.0.0/24", "")
	changed := n0
	changed.ICC, changed.Internal = false, true
	routed := n1
	routed.IPv4 = []Family{{Subnet: n1.IPv4[0].Subnet, Mode: ModeRouted}}
	twoModes := n0
	twoModes.IPv4 = append(slices.Clone(n0.IPv4), routed.IPv4...)
	stolen := network("n7", "weft0", "10.7.0.0/24", "")
	badName := network("n8", "we ft", "", "")
	circular, badTunnel, farGateway, noGateway := tunnelled(n0), tunnelled(n0), tunnelled(n0), tunnelled(n0)
	circular.Tunnel, badTunnel.Tunnel = n0.Bridge, "v x"
	farGateway.Gateways = []netip.Addr{netip.MustParseAddr("10.9.0.1")}
	noGateway.Gateways = nil
	port := Port{"e1", "weft0", TCP, mustAddr("0.0.0.0:80"), mustAddr("10.1.0.2:80")}
	taken := port
	taken.Endpoint, taken.Container = "e2", mustAddr("10.1.0.3:80")
	foreign := port
	foreign.Bridge = "weft9"
	mixed := port
	mixed.Container = mustAddr("[fd00:1::2]:80")
	same := Open{"e1", port.Container, TCP}
	shared := Open{"e2", port.Container, TCP}
	for _, step := range []struct {
		name string
		call func(firewaller) error
		want error
	}{
		{"remove an unknown network", func(f firewaller) error { return f.RemoveNetwork(ctx, "n9") }, nil},
		{"remove unknown ports", func(f firewaller) error { return f.RemovePorts(ctx, "e9") }, nil},
		{"port without network", func(f firewaller) error { return f.AddPorts(ctx, []Port{port}, nil) }, ErrUnknownBridge},
		{"uplinks first", func(f firewaller) error { return f.SetUplinks(ctx, []string{"eth1", "eth0", "eth1"}) }, nil},
		{"bad uplink", func(f firewaller) error { return f.SetUplinks(ctx, []string{"eth/0"}) }, ErrInvalid},
		{"network", func(f firewaller) error { return f.AddNetwork(ctx, n0) }, nil},
		{"network again", func(f firewaller) error { return f.AddNetwork(ctx, n0) }, nil},
		{"second network", func(f firewaller) error { return f.AddNetwork(ctx, n1) }, nil},
		{"bridge of another", func(f firewaller) error { return f.AddNetwork(ctx, stolen) }, ErrConflict},
		{"overlapping subnet", func(f firewaller) error {
			return f.AddNetwork(ctx, network("n7", "weft7", "10.0.0.0/8", ""))
		}, ErrConflict},
		{"bad bridge name", func(f firewaller) error { return f.AddNetwork(ctx, badName) }, ErrInvalid},
		{"two modes in a family", func(f firewaller) error { return f.AddNetwork(ctx, twoModes) }, ErrInvalid},
		{"tunnel", func(f firewaller) error { return f.AddNetwork(ctx, tunnelled(n1)) }, nil},
		{"second tunnel", func(f firewaller) error { return f.AddNetwork(ctx, tunnelled(n0)) }, nil},
		{"tunnel is the bridge", func(f firewaller) error { return f.AddNetwork(ctx, circular) }, ErrInvalid},
		{"bad tunnel name", func(f firewaller) error { return f.AddNetwork(ctx, badTunnel) }, ErrInvalid},
		{"gateway elsewhere", func(f firewaller) error { return f.AddNetwork(ctx, farGateway) }, ErrInvalid},
		{"first tunnel goes", func(f firewaller) error { return f.AddNetwork(ctx, n1) }, nil},
		{"last tunnel goes", func(f firewaller) error { return f.AddNetwork(ctx, n0) }, nil},
		{"tunnel again", func(f firewaller) error { return f.AddNetwork(ctx, tunnelled(n0)) }, nil},
		{"gateway goes", func(f firewaller) error { return f.AddNetwork(ctx, noGateway) }, nil},
		{"tunnel goes", func(f firewaller) error { return f.AddNetwork(ctx, n0) }, nil},
		{"no ID", func(f firewaller) error { return f.AddNetwork(ctx, Network{Bridge: "weft3"}) }, ErrInvalid},
		{"ports", func(f firewaller) error { return f.AddPorts(ctx, []Port{port, port}, []Open{same, same}) }, nil},
		{"ports again", func(f firewaller) error { return f.AddPorts(ctx, []Port{port}, []Open{same}) }, nil},
		{"port taken, all or none", func(f firewaller) error {
			return f.AddPorts(ctx, append(somePorts("e2", 7000, 1), taken), nil)
		}, ErrConflict},
		{"foreign bridge", func(f firewaller) error { return f.AddPorts(ctx, []Port{foreign}, nil) }, ErrUnknownBridge},
		{"mixed families", func(f firewaller) error { return f.AddPorts(ctx, []Port{mixed}, nil) }, ErrInvalid},
		{"an open port of two", func(f firewaller) error { return f.AddPorts(ctx, nil, []Open{shared}) }, nil},
		{"every port", func(f firewaller) error { return f.AddPorts(ctx, everyPort()[1:], everyOpen()) }, nil},
		{"one leaves", func(f firewaller) error { return f.RemovePorts(ctx, "e1") }, nil},
		{"the last one leaves", func(f firewaller) error { return f.RemovePorts(ctx, "e2") }, nil},
		{"network changes", func(f firewaller) error { return f.AddNetwork(ctx, changed) }, nil},
		{"other network changes", func(f firewaller) error { return f.AddNetwork(ctx, routed) }, nil},
		{"other uplinks", func(f firewaller) error { return f.SetUplinks(ctx, []string{"eth1", "eth2"}) }, nil},
		{"many ports", func(f firewaller) error { return f.AddPorts(ctx, somePorts("big", 10000, 2000), nil) }, nil},
		{"fewer facts", func(f firewaller) error {
			_, err := f.Repair(ctx, Facts{Networks: []Network{n0, n1}, Ports: []Port{port}})
			return err
		}, nil},
		{"false facts", func(f firewaller) error {
			_, err := f.Repair(ctx, Facts{Networks: []Network{n0, stolen}})
			return err
		}, ErrConflict},
		{"network with ports", func(f firewaller) error { return f.RemoveNetwork(ctx, "n0") }, nil},
		{"last network", func(f firewaller) error { return f.RemoveNetwork(ctx, "n1") }, nil},
		{"network after the last", func(f firewaller) error { return f.AddNetwork(ctx, n0) }, nil},
		{"reset", func(f firewaller) error { return f.Reset(ctx) }, nil},
	} {
		for _, f := range []firewaller{fw, fake} {
			if err := step.call(f); !errors.Is(err, step.want) {
				t.Errorf("%s: %T returns %v, want %v", step.name, f, err, step.want)
			}
		}
		if real, faked := kernelDump(t, fw), fake.Dump(); real != faked {
			t.Fatalf("%s: the kernel holds\n%s\nthe fake\n%s", step.name, real, faked)
		}
		real, faked := fw.Status(ctx), fake.Status(ctx)
		if real.Active != faked.Active || real.Networks != faked.Networks || real.Ports != faked.Ports || real.Open != faked.Open || real.Tunnels != faked.Tunnels {
			t.Errorf("%s: Status %+v, of the fake %+v", step.name, real, faked)
		}
	}
}

// TestFakeBreaks checks the controls that only the fake has.
func TestFakeBreaks(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	fake := &Fake{}
	hints := fake.Watch(ctx)
	fake.Break("somebody flushed it")
	select {
	case <-hints:
	case <-time.After(time.Second):
		t.Fatal("no hint")
	}
	if r, err := fake.Mend(ctx); err != nil || len(r) != 1 {
		t.Errorf("Mend: %q, %v", r, err)
	}
	boom := errors.New("boom")
	fake.Fail(boom)
	if err := fake.AddNetwork(ctx, weft0()); !errors.Is(err, boom) {
		t.Errorf("AddNetwork: %v, want %v", err, boom)
	}
	cancel()
	for range hints {
	}
}
