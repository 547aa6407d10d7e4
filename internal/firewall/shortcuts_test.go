package firewall

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
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
}
