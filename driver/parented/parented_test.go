package parented_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// TestLife is a network on a VLAN and a container from the first call to the last.
func TestLife(t *testing.T) {
	for _, direct := range []bool{false, true} {
		h := newHouse(t)
		h.direct = direct
		empty := h.kernel.Dump()
		h.create(network("a", "10.0.0.0/24", "mode", "macvlan", "parent", "eth0.100", "attach", "direct"))
		h.has("eth0.100 kind=vlan mtu=1500 up=true on=eth0", true)
		ep, answer := h.join("b", "a", "10.0.0.2/24")
		if answer.Gateway4 != netip.MustParseAddr("10.0.0.1") || !answer.NoGatewayService || !strings.HasPrefix(ep.MAC, "02:") {
			t.Errorf("Join: %+v, MAC address %s", answer, ep.MAC)
		}
		if direct {
			h.has(sandboxPath+":weft0 kind=macvlan mode=bridge on=eth0.100 up=true [10.0.0.2/24]", true)
		} else {
			if answer.SrcName != "wp-bbbbbbbbbbbb" || answer.DstPrefix != "eth" {
				t.Errorf("Join: %+v", answer)
			}
			h.has("wp-bbbbbbbbbbbb kind=macvlan mtu=1500 up=false on=eth0.100", true)
			h.must(h.kernel.Move("wp-bbbbbbbbbbbb", sandboxPath, "eth0"))
		}
		if repaired := h.reconciled(driver.Full); len(repaired) > 0 {
			t.Errorf("repaired %q", repaired)
		}
		h.end("b", "a")
		h.kernel.DetachChild(sandboxPath, "weft endpoint "+id("b")) // the sandbox ends
		h.must(h.DeleteNetwork(t.Context(), id("a")))
		h.settle()
		if got := h.kernel.Dump(); got != empty {
			t.Errorf("devices stay behind:\n%s", got)
		}
	}
}

// TestSubInterfaces go with their last network if weft made them, over restarts too.
func TestSubInterfaces(t *testing.T) {
	h := newHouse(t)
	_, err := h.kernel.EnsureVLAN(kernel.VLAN{Name: "lan7", Parent: "eth0", ID: 7})
	h.must(err)
	h.kernel.AddDevice(kernel.Link{Name: "eth0.8", Kind: "vlan", Parent: 2, VLAN: 8, Up: true})
	h.create(network("a", "10.0.0.0/24", "mode", "macvlan", "parent", "eth0.100"))
	h.create(network("b", "10.0.1.0/24", "mode", "macvlan", "parent", "eth0", "vlan", "100"))
	h.create(network("c", "10.0.2.0/24", "mode", "ipvlan", "parent", "eth1", "vlan", "100"))
	h.create(network("d", "10.0.3.0/24", "mode", "macvlan", "parent", "eth0.8"))
	h.must(h.DeleteNetwork(t.Context(), id("a")))
	h.has("eth0.100 ", true)
	h.start()
	h.must(h.DeleteNetwork(t.Context(), id("b")))
	h.has("eth0.100 ", false)
	h.has("eth1.100 ", true)
	h.must(h.DeleteNetwork(t.Context(), id("c")))
	h.has("eth1.100 ", false)
	h.must(h.DeleteNetwork(t.Context(), id("d")))
	h.has("eth0.8 ", true)
}

// TestHeldSubInterface: one on which somebody has a device in a namespace that does not show
// stays until that is gone.
func TestHeldSubInterface(t *testing.T) {
	for _, stranger := range []kernel.Child{{Kind: kernel.Macvlan, Mode: "bridge"}, {Kind: kernel.IPvlan, Mode: "l2"}} {
		t.Run(string(stranger.Kind), func(t *testing.T) {
			h := newHouse(t)
			h.create(network("a", "10.0.0.0/24", "mode", string(stranger.Kind), "parent", "eth0.5"))
			h.kernel.AddSandbox("/run/netns/other")
			stranger.Name, stranger.Alias, stranger.Parent = "eth0", "a stranger", "eth0.5"
			_, err := h.kernel.AttachChild(kernel.ChildAttachment{Sandbox: "/run/netns/other", Child: stranger})
			h.must(err)
			h.must(h.DeleteNetwork(t.Context(), id("a")))
			h.has("eth0.5", true)
			if repaired := h.reconciled(driver.Full); len(repaired) > 0 {
				t.Errorf("repaired %q", repaired)
			}
			h.has("eth0.5", true)
			h.must(h.kernel.DetachChild("/run/netns/other", "a stranger"))
			h.reconciled(driver.Changes)
			h.has("eth0.5", false)
		})
	}
}

// stranger puts somebody else's container on a device.
func (h *house) stranger(kind kernel.ChildKind, mode, parent string) {
	h.Helper()
	h.kernel.AddSandbox("/run/netns/other")
	_, err := h.kernel.AttachChild(kernel.ChildAttachment{Sandbox: "/run/netns/other", Child: kernel.Child{Kind: kind, Mode: mode, Name: "eth0", Alias: "a stranger", Parent: parent}})
	h.must(err)
}

// refuses makes sure that a network cannot be made, for reasons in these words.
func (h *house) refuses(n driver.Network, class error, words ...string) {
	h.Helper()
	err := h.CreateNetwork(h.Context(), n)
	if !errors.Is(err, class) {
		h.Errorf("%v, want %v", err, class)
	}
	for _, w := range words {
		if !strings.Contains(fmt.Sprint(err), w) {
			h.Errorf("%q lacks %q", err, w)
		}
	}
}

// TestHeldBesideLeftovers: what weft itself still has on a sub-interface hides nobody.
func TestHeldBesideLeftovers(t *testing.T) {
	for name, c := range map[string]struct {
		options []string
		end     func(h *house)
	}{
		"a device that left": {nil, func(h *house) {
			h.end("1", "a")
			h.must(h.DeleteNetwork(h.Context(), id("a")))
		}},
		"an endpoint": {nil, func(h *house) { h.must(h.DeleteNetwork(h.Context(), id("a"))) }},
		"a reset":     {nil, func(h *house) { h.must(h.Reset(h.Context())) }},
		"the host":    {[]string{"host_access", "true"}, func(h *house) { h.must(h.DeleteNetwork(h.Context(), id("a"))) }},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.book.offer[id("a")] = []string{"10.0.0.200/24"}
			h.create(network("a", "10.0.0.0/24", append(c.options, "mode", "macvlan", "parent", "eth0.5")...))
			h.stranger(kernel.Macvlan, "bridge", "eth0.5")
			h.join("1", "a", "10.0.0.2/24")
			c.end(h)
			h.has("/run/netns/other:eth0", true)
			h.must(h.kernel.DetachChild("/run/netns/other", "a stranger"))
			h.reconciled(driver.Full)
			h.has("eth0.5", false)
		})
	}
}

// TestHeldWhereItWas: a network that follows its route elsewhere leaves its host's device and
// no sub-interface that others are on.
func TestHeldWhereItWas(t *testing.T) {
	h := newHouse(t)
	h.book.offer[id("a")] = []string{"10.5.0.200/24", "10.5.0.201/24"}
	h.kernel.AddRoute(netip.MustParsePrefix("10.77.0.0/16"), netip.Addr{}, "eth0")
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "route:10.77.7.0/24", "vlan", "5", "host_access", "true"))
	h.stranger(kernel.Macvlan, "bridge", "eth0.5")
	h.kernel.AddRoute(netip.MustParsePrefix("10.77.7.0/24"), netip.Addr{}, "eth1")
	h.reconciled(driver.Full)
	h.on("a", "eth1.5")
	h.has("/run/netns/other:eth0", true)
}

// TestForeignIPvlan: mode and flag are the parent's, so that one more device would give its
// own to those that somebody else has there.
func TestForeignIPvlan(t *testing.T) {
	h := newHouse(t)
	h.stranger(kernel.IPvlan, "l2", "eth0")
	h.refuses(network("a", "10.0.0.0/24", "mode", "ipvlan", "ipvlan_mode", "l3", "parent", "eth0"), driver.ErrConflict, "eth0 cannot be the parent of ipvlan devices", "not weft's")
	h.must(h.kernel.DetachChild("/run/netns/other", "a stranger"))
	h.create(network("a", "10.0.0.0/24", "mode", "ipvlan", "parent", "eth0"))
	h.join("1", "a", "10.0.0.2/24")
	h.create(network("b", "10.0.1.0/24", "mode", "ipvlan", "parent", "eth0")) // weft's own are none
}

// TestParentInVRF: a port of a VRF keeps its frames.
func TestParentInVRF(t *testing.T) {
	h := newHouse(t)
	h.kernel.AddDevice(kernel.Link{Name: "vrf0", Kind: "vrf", Up: true})
	vrf, err := h.kernel.LinkByName("vrf0")
	h.must(err)
	h.kernel.AddDevice(kernel.Link{Name: "eth2", Up: true, Carrier: true, Master: vrf.Index, MAC: kernel.MAC{2, 0, 0, 0, 0, 9}})
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "eth2"))
	h.join("1", "a", "10.5.0.2/24")
	h.reconciled(driver.Full)
	h.untroubled()
	h.refuses(network("b", "10.6.0.0/24", "mode", "macvlan", "parent", "vrf0"), driver.ErrOption, "vrf0 is a VRF")
}

// TestLeaveFails: the device of a container that could not be taken away is taken away with
// its endpoint, whose address is free then.
func TestLeaveFails(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.create(network("a", "10.0.0.0/24", "mode", "macvlan", "parent", "eth0", "attach", "direct"))
	h.join("1", "a", "10.0.0.2/24")
	h.has("10.0.0.2", true)
	h.kernel.Fail(errors.New("too many open files"))
	h.must(h.Leave(t.Context(), id("a"), id("1")))
	h.kernel.Fail(nil)
	h.must(h.DeleteEndpoint(t.Context(), id("a"), id("1")))
	h.settle()
	h.has("10.0.0.2", false)
}

// TestRenamedSubInterface: one that a user renames stays, with the containers on it, is told
// and asked back, and is of use to networks that are created then.
func TestRenamedSubInterface(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.0.0.0/24", "mode", "macvlan", "parent", "eth0.5"))
	h.join("1", "a", "10.0.0.2/24")
	h.must(h.kernel.Rename("eth0.5", "lan5"))
	h.create(network("b", "10.0.1.0/24", "mode", "macvlan", "parent", "eth0.5"))
	h.on("b", "lan5")
	h.must(h.DeleteNetwork(t.Context(), id("b")))
	const why, hint = "its sub-interface eth0.5 was renamed to lan5", "rename it back: ip link set lan5 name eth0.5"
	if repaired := h.reconciled(driver.Changes); len(repaired) > 0 {
		t.Errorf("repaired %q", repaired)
	}
	if got := h.Troubles()[id("a")]; !slices.Equal(got, []string{why + ": " + hint}) {
		t.Errorf("troubles %q", got)
	}
	h.has("wp-111111111111 kind=macvlan mtu=1500 up=false on=lan5", true)
	_, full := h.Reconcile(t.Context(), driver.Full)
	_, err := h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("2"), Network: id("a"), IPv4: netip.MustParsePrefix("10.0.0.3/24")})
	h.must(err)
	_, join := h.Join(t.Context(), id("a"), id("2"), sandboxPath, nil)
	for what, err := range map[string]error{"reconcile": full, "Join": join} {
		if h := (interface{ Hint() string })(nil); !errors.As(err, &h) || !strings.Contains(err.Error(), why) || h.Hint() != hint {
			t.Errorf("%s: %v", what, err)
		}
	}
	h.must(h.kernel.Rename("lan5", "eth0.5"))
	_, err = h.Join(t.Context(), id("a"), id("2"), sandboxPath, nil)
	h.must(err)
	h.reconciled(driver.Full)
	h.untroubled()
	h.must(h.DeleteNetwork(t.Context(), id("a")))
	h.has("eth0.5", false)
}

// TestBoot: a container may start before anything else has made the sub-interface again.
func TestBoot(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.0.0.0/24", "mode", "macvlan", "parent", "eth0.100"))
	h.must(h.kernel.Lose("eth0.100"))
	h.start()
	h.join("b", "a", "10.0.0.2/24")
	h.has("wp-bbbbbbbbbbbb kind=macvlan mtu=1500 up=false on=eth0.100", true)
	h.must(h.DeleteEndpoint(t.Context(), id("a"), id("b")))
	h.must(h.kernel.Lose("eth0"))
	_, err := h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("c"), Network: id("a"), IPv4: netip.MustParsePrefix("10.0.0.2/24")})
	h.must(err)
	if _, err := h.Join(t.Context(), id("a"), id("c"), sandboxPath, nil); err == nil || !strings.Contains(err.Error(), "its parent eth0.100 may be gone") {
		t.Errorf("without its parent: %v", err)
	}
}

// TestRefusals leave nothing behind, and say what users know from the built-in drivers.
func TestRefusals(t *testing.T) {
	h := newHouse(t)
	h.kernel.AddDevice(kernel.Link{Name: "br0", Kind: "bridge", Up: true})
	h.kernel.AddDevice(kernel.Link{Name: "eth2", Master: 4, Up: true})
	h.kernel.AddDevice(kernel.Link{Name: "wlan0", Up: true})
	h.kernel.SetWireless("wlan0")
	h.kernel.AddDevice(kernel.Link{Name: "tun0", Up: true, Bare: true})
	h.must(h.kernel.AddChild(kernel.Child{Kind: kernel.IPvlan, Name: "foreign", Parent: "br0", Mode: "l2"}))
	h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0"))
	h.create(network("b", "10.2.0.0/24", "mode", "ipvlan", "parent", "eth1"))
	h.create(network("c", "172.30.0.0/24", "mode", "bridge"))
	h.create(network("d", "10.4.0.0/24", "mode", "macvlan", "parent", "eth0.9", "macvlan_mode", "passthru"))
	before := h.kernel.Dump()
	for _, c := range []struct {
		n   driver.Network
		err string
	}{
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth9"), "-o parent interface was not found on the host: eth9"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "lo"), "loopback interface is not a valid macvlan parent link"},
		{network("e", "10.5.0.0/24", "mode", "ipvlan", "parent", "lo"), "loopback interface is not a valid ipvlan parent link"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "lo.5"), "loopback interface is not a valid macvlan parent link"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth2"), "eth2 is a port of br0"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "wlan0"), "wlan0 is wireless"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "wlan0.5"), "wlan0 is wireless"},
		{network("e", "10.5.0.0/24", "mode", "ipvlan", "parent", "tun0"), "tun0 is no Ethernet device"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0", "vlan", "0"), "vlan id must be between 1-4094, received: 0"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0", "vlan", "+7"), "vlan id must be between 1-4094, received: +7"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0", "vlan", "007"), "vlan id must be between 1-4094, received: 007"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0.4095"), "vlan id must be between 1-4094, received: 4095"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0", "vlan", "99999"), "vlan id must be between 1-4094, received: 99999"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0.x"), "invalid subinterface vlan name eth0.x, example formatting is eth0.10"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "vlan", "5"), "it is a VLAN of no device"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0", "macvlan_mode", "switch"), "requested macvlan mode 'switch' is not valid, 'bridge' mode is the macvlan driver default"},
		{network("e", "10.5.0.0/24", "mode", "ipvlan", "parent", "eth1", "ipvlan_mode", "l4"), "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver default"},
		{network("e", "10.5.0.0/24", "mode", "ipvlan", "parent", "eth1", "ipvlan_flag", "x"), "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver default"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0", "macvlan_mode", "passthru"), "cannot use mode passthru, macvlan network aaaaaaaaaaaa is already using parent interface eth0"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0.9"), "cannot use mode passthru, macvlan network dddddddddddd is already using parent interface eth0.9"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth1"), "ipvlan network bbbbbbbbbbbb is already using parent interface eth1"},
		{network("e", "10.5.0.0/24", "mode", "ipvlan", "parent", "eth1", "ipvlan_mode", "l3"), "network bbbbbbbbbbbb is already using parent interface eth1 with ipvlan_mode=l2"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "br0"), "it is held by foreign (ipvlan)"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "wf-cccccccccccc"), "is a device of another network of weft's"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0", "com.docker.network.driver.mtu", "9000"), "the parent eth0 has an MTU of 1500"},
		{network("e", "198.51.100.0/24", "mode", "macvlan", "parent", "eth0"), "overlaps the host's route to 198.51.100.0/24 by eth1, and the parent is eth0"},
		{network("e", "10.1.0.0/25", "mode", "macvlan", "parent", "eth0"), "subnet 10.1.0.0/25 overlaps 10.1.0.0/24 of network aaaaaaaaaaaa"},
		{network("e", "172.30.0.0/24", "mode", "macvlan", "parent", "eth0"), "subnet 172.30.0.0/24 overlaps 172.30.0.0/24 of network cccccccccccc"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0", "net", "lan"), "the network cannot be one of the cluster: this host shares no store"},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "paernt", "eth0"), `did you mean "parent"?`},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "paernt", "eth0"), "a macvlan network has no option"},
		{network("e", "10.5.0.0/24", "mode", "ipvlan", "paernt", "eth1"), "an ipvlan network has no option"},
	} {
		err := h.CreateNetwork(t.Context(), c.n)
		text := ""
		if err != nil {
			text = err.Error()
			if hint, ok := err.(interface{ Hint() string }); ok {
				text += ": " + hint.Hint()
			}
		}
		if !strings.Contains(text, c.err) {
			t.Errorf("%v: the error %q lacks %q", c.n.Options, text, c.err)
		}
		if got := h.kernel.Dump(); got != before {
			t.Errorf("%v left something behind:\n%s\nbefore:\n%s", c.n.Options, got, before)
			before = got
		}
		if err == nil {
			h.must(h.DeleteNetwork(t.Context(), c.n.ID))
		}
	}
}

// TestAllowed: what the built-in drivers refuse without need, or at all.
func TestAllowed(t *testing.T) {
	h := newHouse(t)
	for i, n := range []driver.Network{
		network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0"),                              // the parent's own LAN
		network("b", "10.1.0.0/24 10.2.0.0/24 fd00::/64", "mode", "macvlan", "parent", "eth0"),         // subnets; the host knows a way to them by a router
		network("c", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0.5"),                             // an equal subnet on another VLAN
		network("d", "10.1.0.0/16", "mode", "ipvlan", "parent", "eth0.6"),                              // and one of another size
		network("e", "10.9.0.0/24", "mode", "ipvlan", "parent", "eth0.6"),                              // a second one of one kind
		network("f", "10.8.0.0/24", "mode", "ipvlan", "parent", "eth1", "ipvlan_mode", "l3s"),          //
		network("g", "10.7.0.0/24", "mode", "macvlan", "parent", "eth1.7", "macvlan_mode", "passthru"), // alone on its sub-interface
	} {
		if err := h.CreateNetwork(t.Context(), n); err != nil {
			t.Errorf("network %d: %v", i, err)
		}
	}
}

// TestWaysOut: who routes for a container.
func TestWaysOut(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	port := driver.Binding{Proto: 6, Port: 80, HostPort: 8080}
	inner := network("b", "10.2.0.0/24", "mode", "macvlan", "parent", "eth0")
	inner.Internal = true
	bare := network("c", "10.3.0.0/24", "mode", "macvlan", "parent", "eth0")
	bare.IPv4[0].Gateway = netip.Addr{}
	h.create(network("a", "10.1.0.0/24 10.9.0.0/24", "mode", "macvlan", "parent", "eth0"))
	h.create(inner)
	h.create(bare)
	h.create(network("d", "10.4.0.0/24", "mode", "ipvlan", "parent", "eth1", "ipvlan_mode", "l3"))
	for _, c := range []struct {
		net, addr string
		wanted    []driver.Binding
		gateway   string
		onLink    bool
		byEngine  bool
	}{
		{"a", "10.1.0.2/24", nil, "10.1.0.1", false, false},
		{"a", "10.9.0.2/24", nil, "10.9.0.1", false, false},
		{"a", "10.1.0.3/24", []driver.Binding{port}, "10.1.0.1", false, false},
		{"b", "10.2.0.2/24", nil, "", false, false},
		{"c", "10.3.0.2/24", nil, "", false, false},
		{"c", "10.3.0.3/24", []driver.Binding{port}, "", false, true},
		{"d", "10.4.0.2/24", nil, "", true, false},
		{"d", "10.4.0.3/24", []driver.Binding{port}, "", true, false},
	} {
		_, err := h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("x"), Network: id(c.net), IPv4: netip.MustParsePrefix(c.addr)})
		h.must(err)
		a, err := h.Join(t.Context(), id(c.net), id("x"), sandboxPath, c.wanted)
		h.must(err)
		if got := a.Gateway4; got.IsValid() != (c.gateway != "") || got.IsValid() && got.String() != c.gateway {
			t.Errorf("%s: gateway %s, want %s", c.addr, got, c.gateway)
		}
		if (len(a.Routes) > 0) != c.onLink || a.NoGatewayService == c.byEngine {
			t.Errorf("%s: %+v", c.addr, a)
		}
		if err := h.Publish(t.Context(), id(c.net), id("x"), c.wanted); (err != nil) != (len(c.wanted) > 0) {
			t.Errorf("%s publishes: %v", c.addr, err)
		} else if sort := map[bool]string{true: "an ipvlan", false: "a macvlan"}[c.net == "d"]; err != nil && !strings.Contains(err.Error(), "port 80/tcp cannot be published on "+sort+" network") {
			t.Errorf("%s publishes: %v", c.addr, err)
		}
		h.must(h.DeleteEndpoint(t.Context(), id(c.net), id("x")))
	}
}

// TestPortsElsewhere: a container whose ports a bridge publishes leaves by the bridge.
func TestPortsElsewhere(t *testing.T) {
	h := newHouse(t)
	port := driver.Binding{Proto: 6, Port: 80, HostPort: 8080}
	h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0"))
	h.create(network("b", "172.30.0.0/24", "mode", "bridge"))
	h.join("c", "b", "172.30.0.2/24", port)
	if _, a := h.join("d", "a", "10.1.0.2/24", port); a.Gateway4.IsValid() || a.NoGatewayService {
		t.Errorf("beside a bridge: %+v", a)
	}
	h.must(h.DeleteEndpoint(t.Context(), id("b"), id("c")))
	if _, a := h.join("e", "a", "10.1.0.3/24", port); !a.Gateway4.IsValid() {
		t.Errorf("alone: %+v", a)
	}
}

// TestMAC: who has which address on the line.
func TestMAC(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0.5"))
	h.create(network("b", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0.6"))
	h.create(network("c", "10.3.0.0/24", "mode", "ipvlan", "parent", "eth1"))
	h.create(network("d", "10.4.0.0/24", "mode", "macvlan", "parent", "eth1.9", "macvlan_mode", "passthru"))
	first, _ := h.join("e", "a", "10.1.0.2/24")
	h.must(h.DeleteEndpoint(t.Context(), id("a"), id("e")))
	again, _ := h.join("f", "a", "10.1.0.2/24")
	other, _ := h.join("g", "b", "10.1.0.2/24")
	if first.MAC != again.MAC || first.MAC == other.MAC {
		t.Errorf("%s, again %s, on another VLAN %s", first.MAC, again.MAC, other.MAC)
	}
	if ep, _ := h.join("1", "c", "10.3.0.2/24"); ep.MAC != "" {
		t.Errorf("an ipvlan endpoint has %s", ep.MAC)
	}
	if ep, _ := h.join("2", "d", "10.4.0.2/24"); ep.MAC != "02:00:00:00:00:02" {
		t.Errorf("a passthru endpoint has %s", ep.MAC)
	}
	_, err := h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("3"), Network: id("c"), IPv4: netip.MustParsePrefix("10.3.0.3/24"), MAC: "02:00:00:00:00:09"})
	if err == nil || !strings.Contains(err.Error(), "have that of the parent") {
		t.Errorf("a MAC address on ipvlan: %v", err)
	}
	_, err = h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("4"), Network: id("d"), IPv4: netip.MustParsePrefix("10.4.0.3/24")})
	h.must(err)
	if _, err = h.Join(t.Context(), id("d"), id("4"), sandboxPath, nil); err == nil || !strings.Contains(err.Error(), "bears one container in this mode") {
		t.Errorf("a second container on passthru: %v", err)
	}
}

// TestParents that go, come back, or lose their cable.
func TestParents(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0.5"))
	h.create(network("b", "10.2.0.0/24", "mode", "macvlan", "parent", "eth1"))
	h.join("c", "b", "10.2.0.2/24")
	h.must(h.kernel.Move("wp-cccccccccccc", sandboxPath, "eth0"))
	trouble := func(net, words string) {
		t.Helper()
		h.reconciled(driver.Full)
		if got := strings.Join(h.Troubles()[id(net)], "; "); words == "" && got != "" || !strings.Contains(got, words) {
			t.Errorf("troubles of %s: %q, want %q", net, got, words)
		}
	}
	trouble("a", "")
	if got := h.looked.Addresses["eth1"]; len(got) != 1 || got[0].Prefix.Addr() != netip.MustParseAddr("198.51.100.10") {
		t.Errorf("reconcile tells that eth1 has %v", got)
	}
	h.must(h.kernel.Lose("eth0.5"))
	if repaired := h.reconciled(driver.Changes); !slices.Contains(repaired, "device eth0.5 of network aaaaaaaaaaaa was missing") {
		t.Errorf("repaired %q", repaired)
	}
	h.has("eth0.5 kind=vlan", true)

	h.must(h.kernel.Lose("eth1"))
	trouble("b", "its parent eth1 is gone: bring it back")
	trouble("b", "the container of endpoint cccccccccccc (10.2.0.2) lost its interface with the parent: restart it")
	h.kernel.AddDevice(kernel.Link{Name: "lan1", Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}})
	trouble("b", "its parent eth1 is gone, and lan1 has its MAC address")
	h.kernel.AddDevice(kernel.Link{Name: "eth1", MAC: kernel.MAC{2, 0, 0, 0, 0, 2}})
	trouble("b", "its parent eth1 is down: ip link set eth1 up")
	h.kernel.AddDevice(kernel.Link{Name: "eth1", Up: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}})
	trouble("b", "its parent eth1 has no carrier")
	h.kernel.AddDevice(kernel.Link{Name: "eth1", Kind: "bridge", Up: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}})
	trouble("b", "its parent eth1 is a bridge in which no device is up")
	h.kernel.AddDevice(kernel.Link{Name: "eth1", Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}})
	h.must(h.Leave(t.Context(), id("b"), id("c")))
	trouble("b", "")
	for kind, words := range map[string]string{"vrf": "", "bridge": "its parent eth1 is a port of br0, so no container starts on it: ip link set eth1 nomaster"} {
		h.kernel.AddDevice(kernel.Link{Name: "br0", Kind: kind, Up: true})
		master, err := h.kernel.LinkByName("br0")
		h.must(err)
		h.kernel.AddDevice(kernel.Link{Name: "eth1", Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}, Master: master.Index})
		trouble("b", words)
		h.kernel.AddDevice(kernel.Link{Name: "eth1", Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}})
		trouble("b", "")
	}
	h.must(h.kernel.Lose("eth0"))
	trouble("a", "its parent eth0 is gone")
}

// TestOff: a container whose address is another host's is off the line until it is not.
func TestOff(t *testing.T) {
	for _, direct := range []bool{false, true} {
		h := newHouse(t)
		h.direct = direct
		h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0", "attach", "direct"))
		h.join("b", "a", "10.1.0.2/24")
		if !direct {
			h.must(h.kernel.Move("wp-bbbbbbbbbbbb", sandboxPath, "eth0"))
		}
		lost := []driver.Conflict{{Network: id("a"), Address: netip.MustParseAddr("10.1.0.2")}}
		h.SetConflicts(lost)
		h.reconciled(driver.Changes)
		h.has("on=eth0 up=false", true)
		if repaired := h.reconciled(driver.Changes); len(repaired) > 0 {
			t.Errorf("repaired again: %q", repaired)
		}
		h.SetConflicts(nil)
		h.reconciled(driver.Changes)
		h.has("on=eth0 up=true", true)
		h.SetConflicts(lost)
		h.reconciled(driver.Changes)
		h.start() // and the other host gave it back meanwhile
		h.reconciled(driver.Full)
		h.has("on=eth0 up=true", true)
		h.SetConflicts(lost)
		h.must(h.Leave(t.Context(), id("a"), id("b")))
		h.must(h.kernel.DetachChild(sandboxPath, "weft endpoint "+id("b")))
		_, err := h.Join(t.Context(), id("a"), id("b"), sandboxPath, nil)
		h.must(err)
		if !direct {
			h.must(h.kernel.Move("wp-bbbbbbbbbbbb", sandboxPath, "eth0"))
		}
		h.reconciled(driver.Changes)
		h.has("on=eth0 up=false", true)
	}
}

// TestMissingModules are told when the network is created.
func TestMissingModules(t *testing.T) {
	h := newHouse(t)
	for _, kind := range []string{"vlan", "dummy", "ipvlan"} {
		h.kernel.SetMissing(kind)
	}
	for words, n := range map[string]driver.Network{
		"the kernel's module 8021q is not there":                                 network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0.5"),
		"the network has no -o parent, and needs the kernel's module dummy then": network("b", "10.1.0.0/24", "mode", "macvlan", "parent", ""),
		"the kernel's module ipvlan is not there":                                network("c", "10.1.0.0/24", "mode", "ipvlan", "parent", "eth0.5"),
	} {
		if err := h.CreateNetwork(t.Context(), n); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v: %v, want %q", n.Options, err, words)
		}
	}
}

// TestLentSubInterface: a sub-interface of weft's on which a user has something stays, and
// goes when that is over.
func TestLentSubInterface(t *testing.T) {
	for name, c := range map[string]struct {
		lend, end func(h *house, l kernel.Link)
	}{
		"an address": {
			func(h *house, l kernel.Link) { h.kernel.SetAddrs(l.Name, netip.MustParsePrefix("198.51.100.9/32")) },
			func(h *house, l kernel.Link) { h.kernel.SetAddrs(l.Name) },
		},
		"a device": {
			func(h *house, l kernel.Link) {
				h.kernel.AddDevice(kernel.Link{Name: "mine", Kind: "macvlan", Parent: l.Index})
			},
			func(h *house, _ kernel.Link) { h.must(h.kernel.Lose("mine")) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0.5"))
			l, err := h.kernel.LinkByName("eth0.5")
			h.must(err)
			c.lend(h, l)
			h.must(h.DeleteNetwork(t.Context(), id("a")))
			h.reconciled(driver.Full)
			h.has("eth0.5 kind=vlan", true)
			h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0.5"))
			h.must(h.DeleteNetwork(t.Context(), id("a")))
			h.has("eth0.5 kind=vlan", true)
			c.end(h, l)
			h.reconciled(driver.Changes)
			h.has("eth0.5", false)
		})
	}
}

// TestParentsAtOnce: networks of both kinds come and go on one sub-interface; it is there
// while any is, and gone with the last.
func TestParentsAtOnce(t *testing.T) {
	h := newHouse(t)
	const rounds, workers = 20, 4
	var wg sync.WaitGroup
	for w := range workers {
		letter, subnet := string(rune('a'+w)), fmt.Sprintf("10.%d.0.0/24", w+1)
		wg.Go(func() {
			for range rounds {
				if err := h.CreateNetwork(t.Context(), network(letter, subnet, "mode", "macvlan", "parent", "eth0.5")); err != nil {
					t.Error(err)
					return
				}
				if l, err := h.kernel.LinkByName("eth0.5"); err != nil || l.VLAN != 5 {
					t.Errorf("a network has no sub-interface: %+v, %v", l, err)
				}
				if err := h.DeleteNetwork(t.Context(), id(letter)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	h.has("eth0.5", false)
}

// TestBusyForAMoment: a device that left its container and is about to be deleted keeps nobody
// off its parent, neither the next container nor another network.
func TestBusyForAMoment(t *testing.T) {
	for _, direct := range []bool{false, true} {
		h := newHouse(t)
		h.direct = direct
		comes := func(letter string) {
			t.Helper()
			h.create(network(letter, "10.1.0.0/24", "mode", "macvlan", "parent", "eth0", "macvlan_mode", "passthru", "attach", "direct"))
			for _, one := range []string{"1", "2"} {
				h.join(one, letter, "10.1.0.2/24")
				h.must(h.Leave(t.Context(), id(letter), id(one)))
				h.must(h.DeleteEndpoint(t.Context(), id(letter), id(one)))
			}
			h.must(h.DeleteNetwork(t.Context(), id(letter)))
		}
		comes("a")
		comes("b")
	}
}

// TestRefusedLater: of a container whose ports were refused the engine says Leave and leaves the
// device in the sandbox: it goes with the endpoint.
func TestRefusedLater(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		h := newHouse(t)
		h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0"))
		ep, _ := h.join("b", "a", "10.1.0.2/24")
		h.must(h.kernel.Move(ep.PeerLink, sandboxPath, "eth0", ep.IPv4))
		if err := h.Publish(t.Context(), id("a"), id("b"), []driver.Binding{{Proto: 6, Port: 80}}); err == nil || !strings.Contains(err.Error(), "cannot be published") {
			t.Errorf("ports: %v", err)
		}
		h.must(h.Leave(t.Context(), id("a"), id("b")))
		if restarted {
			h.start()
		}
		h.has("10.1.0.2", true)
		h.must(h.DeleteEndpoint(t.Context(), id("a"), id("b")))
		h.settle()
		h.has("10.1.0.2", false)
	}
}
