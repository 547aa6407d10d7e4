package parented_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/directory/directorytest"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/macvlan"
)

// member is a host of a cluster whose card has a name of its own.
type member struct {
	*testing.T
	*driver.Driver
	weft   *directorytest.Host
	kernel *kernel.Fake
	kind   *macvlan.Kind
}

// errOwn says that the hosts do not share the addresses of a subnet.
var errOwn = errors.New("its addresses are this host's alone")

func newMember(t *testing.T, name, card string, s cluster.Store) *member {
	t.Helper()
	m := &member{T: t, kernel: kernel.NewFake(), weft: directorytest.New(t, directorytest.Config{Name: name, Store: s, Dir: t.TempDir()})}
	m.kernel.AddDevice(kernel.Link{Name: card, Up: true, Carrier: true}, netip.MustParsePrefix("10.0.0.9/24"))
	m.kernel.AddSandbox(sandboxPath)
	shared := func(_ string, p netip.Prefix) (string, error) {
		if p.String() == "10.5.0.0/24" {
			return "", errOwn
		}
		return "vlan7", nil
	}
	m.kind = macvlan.New(parented.Config{Kernel: m.kernel, Later: kernel.NewLater(m.kernel, 0, nil), Parents: parented.NewParents(m.kernel, nil),
		Seed: name, Directory: m.weft.Directory, Shared: shared})
	var err error
	m.Driver, err = driver.New(driver.Config{Journal: m.weft.Journal, Kernel: m.kernel, Firewall: &firewall.Fake{},
		Kinds: map[string]driver.Kind{"macvlan": m.kind}, DefaultMode: "macvlan"})
	m.must(err)
	m.weft.Start(m.kind.Run)
	m.weft.Until("a member", m.weft.Ready)
	return m
}

func (m *member) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// record waits for the cluster's record of a network that this host has.
func (m *member) record(id string) (r directory.Network) {
	m.Helper()
	n, ok := m.Network(id)
	if !ok || n.Shared == nil {
		m.Fatalf("network %.12s is no one's but this host's", id)
	}
	m.weft.Until("the record", func() (ok bool) {
		r, ok = m.weft.Network(n.Shared.UUID)
		return ok && r.Has(m.weft.Cluster.Me())
	})
	return r
}

// mac is the address of an endpoint with an address.
func (m *member) mac(letter, net, addr string) string {
	m.Helper()
	ep, err := m.CreateEndpoint(m.Context(), driver.Endpoint{ID: id(letter), Network: id(net), IPv4: netip.MustParsePrefix(addr)})
	m.must(err)
	_, err = m.Join(m.Context(), id(net), id(letter), sandboxPath, nil)
	m.must(err)
	return ep.MAC
}

// TestCluster: one network on two hosts, each with a parent of its own.
func TestCluster(t *testing.T) {
	s := store.NewFake()
	one, two := newMember(t, "h1", "eth0", s.Peer()), newMember(t, "h2", "enp3s0", s.Peer())
	const parents = "eth0,enp3s0"
	one.must(one.CreateNetwork(t.Context(), network("a", "10.0.0.0/24", "net", "lan", "parent", parents)))
	first := one.record(id("a"))
	if first.Mode != "macvlan" || first.VNI != 0 || first.Options["domain"] != "vlan7" || first.Options["parent"] != parents {
		t.Errorf("the record is %+v", first)
	}
	// Whether a host itself is on the line is its own affair.
	two.must(two.CreateNetwork(t.Context(), network("b", "10.0.0.0/24", "net", "lan", "parent", "enp3s0", "host_access", "true")))
	if second := two.record(id("b")); second.UUID != first.UUID {
		t.Errorf("two networks: %+v, %+v", first, second)
	}
	if n, _ := two.Network(id("b")); n.Device != "enp3s0" {
		t.Errorf("on h2 it is on %s", n.Device)
	}
	// One address has one MAC address on whatever host.
	if a, b := one.mac("c", "a", "10.0.0.2/24"), two.mac("d", "b", "10.0.0.2/24"); a != b {
		t.Errorf("MAC addresses %s and %s", a, b)
	}
	one.weft.Until("the endpoints of both", func() bool { return len(one.weft.Endpoints(first.UUID)) == 2 })
	for words, n := range map[string]driver.Network{
		"the cluster has a network lan of mode macvlan": network("e", "10.0.1.0/24", "net", "lan", "parent", "enp3s0"),
		errOwn.Error(): network("e", "10.5.0.0/24", "net", "other", "parent", "enp3s0"),
	} {
		if err := two.CreateNetwork(t.Context(), n); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v: %v, want %q", n.Options, err, words)
		}
	}
	two.must(two.CreateNetwork(t.Context(), network("f", "10.5.0.0/24", "parent", "enp3s0")))
	if n, _ := two.Network(id("f")); n.Shared != nil {
		t.Error("a network whose addresses are its host's own belongs to the cluster")
	}
	two.must(two.DeleteNetwork(t.Context(), id("b")))
	one.weft.Until("h2 to be gone", func() bool {
		r, _ := one.weft.Network(first.UUID)
		return len(r.Hosts) == 1 && len(one.weft.Endpoints(first.UUID)) == 1
	})
}

// TestAdopted: a network that becomes another one of the cluster keeps its containers.
func TestAdopted(t *testing.T) {
	s := store.NewFake()
	one, two := newMember(t, "h1", "eth0", s.Peer()), newMember(t, "h2", "eth0", s.Peer())
	one.must(one.CreateNetwork(t.Context(), network("a", "10.0.0.0/24", "parent", "eth0")))
	two.must(two.CreateNetwork(t.Context(), network("b", "10.0.0.0/24", "parent", "eth0")))
	winner, loser := one.record(id("a")), two.record(id("b"))
	if !winner.Agrees(loser) {
		t.Fatalf("%+v and %+v do not agree", winner, loser)
	}
	before := two.mac("c", "b", "10.0.0.2/24")
	_, err := two.weft.Join(t.Context(), winner.UUID)
	two.must(err)
	two.must(two.Rebind(t.Context(), id("b"), driver.Shared{UUID: winner.UUID, Domain: "vlan7"}))
	if r := two.record(id("b")); r.UUID != winner.UUID {
		t.Errorf("it is %s", r.UUID)
	}
	one.weft.Until("the endpoint", func() bool { return len(one.weft.Endpoints(winner.UUID)) == 1 })
	one.weft.Until("the end of the other one", func() bool { _, ok := one.weft.Network(loser.UUID); return !ok })
	two.must(two.DeleteEndpoint(t.Context(), id("b"), id("c")))
	if after := two.mac("c", "b", "10.0.0.2/24"); after != before {
		t.Errorf("the MAC address was %s and is %s", before, after)
	}
}
