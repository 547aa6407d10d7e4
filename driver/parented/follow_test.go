package parented_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/macvlan"
)

// Words for the cards of a house, whatever they are called.
const (
	cardOne = "mac:02:00:00:00:00:01"
	cardTwo = "mac:02:00:00:00:00:02"
)

// boot starts the host anew, with cards that have these names, told by the last byte of
// their MAC addresses.
func (h *house) boot(cards map[string]byte) {
	h.Helper()
	links, err := h.kernel.Links()
	h.must(err)
	for _, l := range links {
		if _, err := h.kernel.LinkByName(l.Name); err == nil && !l.Loopback {
			h.must(h.kernel.Lose(l.Name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cards)) {
		h.kernel.AddDevice(kernel.Link{Name: name, Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, cards[name]}})
	}
	h.start()
}

// on says on which device a network is by its record.
func (h *house) on(letter, want string) {
	h.Helper()
	if n, _ := h.Network(id(letter)); n.Device != want {
		h.Errorf("network %s is on %s, want %s", letter, n.Device, want)
	}
}

// refused makes sure that no container gets on a network, for that reason, which weft
// tells without one as well.
func (h *house) refused(letter, words string) {
	h.Helper()
	ep := driver.Endpoint{ID: id("9"), Network: id(letter)}
	n, _ := h.Network(id(letter))
	for _, s := range n.IPv4 {
		ep.IPv4 = netip.PrefixFrom(s.Gateway.Next().Next().Next(), s.Pool.Bits())
	}
	if _, err := h.CreateEndpoint(h.Context(), ep); err == nil || !strings.Contains(err.Error(), words) {
		h.Errorf("a container on network %s: %v, want %q", letter, err, words)
	}
	for range 2 {
		h.reconciled(driver.Full)
		if got := h.Troubles()[id(letter)]; len(got) == 0 || !strings.Contains(got[0], words) || strings.Contains(got[0], id(letter)[:12]) {
			h.Errorf("troubles of %s: %q, want %q", letter, got, words)
		}
	}
}

// untroubled makes sure that nothing is wrong with any network.
func (h *house) untroubled() {
	h.Helper()
	if len(h.Troubles()) > 0 {
		h.Errorf("troubles %v", h.Troubles())
	}
}

// TestFollowsAfterBoot: cards that have each other's names do not get each other's
// containers, at the first start of one or before, sub-interfaces of weft's included. A
// name stays a name.
func TestFollowsAfterBoot(t *testing.T) {
	for _, first := range []string{"a container", "reconcile"} {
		t.Run(first, func(t *testing.T) {
			h := newHouse(t)
			h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", cardOne))
			h.create(network("b", "10.2.0.0/24", "mode", "macvlan", "parent", "none,"+cardTwo, "vlan", "7"))
			h.create(network("c", "10.3.0.0/24", "mode", "macvlan", "parent", "eth1.7"))
			h.create(network("d", "10.4.0.0/24", "mode", "macvlan", "parent", "eth0"))
			before, _ := h.join("1", "a", "10.1.0.2/24")
			h.join("2", "b", "10.2.0.2/24")
			h.boot(map[string]byte{"eth0": 2, "eth1": 1})
			if first == "reconcile" {
				if repaired := h.reconciled(driver.Full); !slices.Contains(repaired, "network bbbbbbbbbbbb was on eth1.7 of eth1, and follows its options to eth0.7 of eth0") {
					t.Errorf("repaired %q", repaired)
				}
				h.on("a", "eth1")
			}
			for letter, net := range map[string]string{"1": "a", "2": "b"} {
				h.must(h.DeleteEndpoint(t.Context(), id(net), id(letter)))
			}
			after, _ := h.join("3", "a", "10.1.0.2/24")
			h.join("4", "b", "10.2.0.2/24")
			h.join("5", "c", "10.3.0.2/24")
			h.has("wp-333333333333 kind=macvlan mtu=1500 up=false on=eth1", true)
			h.has("wp-444444444444 kind=macvlan mtu=1500 up=false on=eth0.7", true)
			h.has("wp-555555555555 kind=macvlan mtu=1500 up=false on=eth1.7", true)
			if before.MAC != after.MAC {
				t.Errorf("the address has %s, had %s", after.MAC, before.MAC)
			}
			n, _ := h.Network(id("a"))
			if line := h.mac.Line(n); line != "eth1" {
				t.Errorf("probes ask on %s", line)
			}
			h.start()
			if repaired := h.reconciled(driver.Full); len(repaired) > 0 || len(h.Troubles()) > 0 {
				t.Errorf("later: repaired %q, troubles %v", repaired, h.Troubles())
			}
			for letter, device := range map[string]string{"a": "eth1", "b": "eth0.7", "c": "eth1.7", "d": "eth0"} {
				h.on(letter, device)
			}
			h.must(h.DeleteNetwork(t.Context(), id("b")))
			h.has("eth0.7", false)
			h.has("eth1.7", true)
			h.must(h.DeleteNetwork(t.Context(), id("c")))
			h.has("eth1.7", false)
		})
	}
}

// TestFollowAtOnce: many containers of two networks that go, beside reconciliation.
func TestFollowAtOnce(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", cardOne, "vlan", "7"))
	h.create(network("b", "10.2.0.0/24", "mode", "macvlan", "parent", cardOne, "vlan", "7"))
	h.boot(map[string]byte{"eth0": 2, "eth1": 1})
	var wg sync.WaitGroup
	for i, letter := range []string{"1", "2", "3", "4", "5", "6"} {
		net := []string{"a", "b"}[i%2]
		wg.Go(func() {
			addr := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", i%2+1, i+2))
			_, err := h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id(letter), Network: id(net), IPv4: addr})
			if err == nil {
				_, err = h.Join(t.Context(), id(net), id(letter), sandboxPath, nil)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		if _, err := h.Reconcile(t.Context(), driver.Full); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if dump := h.kernel.Dump(); strings.Count(dump, "on=eth1.7") != 6 {
		t.Errorf("the containers are not all on the card:\n%s", dump)
	}
	h.must(h.DeleteNetwork(t.Context(), id("a")))
	h.has("eth1.7", true)
	h.must(h.DeleteNetwork(t.Context(), id("b")))
	h.has("eth1.7", false)
}

// TestChangePlaces: networks that cannot be on one device go where the other one was.
func TestChangePlaces(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", cardOne))
	h.create(network("b", "10.1.0.0/24", "mode", "ipvlan", "parent", cardTwo))
	h.boot(map[string]byte{"eth0": 2, "eth1": 1})
	h.reconciled(driver.Changes)
	h.on("a", "eth1")
	h.on("b", "eth0")
	h.untroubled()
}

// TestOneAddressTwice: of a virtual card and the real one that is its port, which have one
// address, the network is on the former; a container that gets the address itself gets it.
func TestOneAddressTwice(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", cardOne, "macvlan_mode", "passthru"))
	h.boot(map[string]byte{"eth0": 2, "eth1": 1})
	if ep, _ := h.join("1", "a", "10.1.0.2/24"); ep.MAC != "02:00:00:00:00:01" {
		t.Errorf("the container has %s", ep.MAC)
	}
	h.on("a", "eth1")
	h.boot(map[string]byte{"eth0": 1})
	eth0, err := h.kernel.LinkByName("eth0")
	h.must(err)
	h.kernel.AddDevice(kernel.Link{Name: "eth1", Master: eth0.Index, MAC: eth0.MAC})
	h.reconciled(driver.Changes)
	h.on("a", "eth0")
}

// TestNowhereToGo: what words mean no longer, or what cannot be, keeps containers away and
// is told, and the record stays until it is over.
func TestNowhereToGo(t *testing.T) {
	h := newHouse(t)
	h.kernel.AddRoute(netip.MustParsePrefix("10.77.0.0/16"), netip.Addr{}, "eth1")
	h.kernel.AddDevice(kernel.Link{Name: "office", Kind: "vlan", Parent: 2, VLAN: 9, Up: true, Carrier: true})
	h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", cardOne))
	h.create(network("b", "10.2.0.0/24", "mode", "macvlan", "parent", "route:10.77.7.0/24"))
	h.create(network("c", "10.3.0.0/24", "mode", "macvlan", "parent", cardOne, "vlan", "9"))
	h.create(network("d", "10.4.0.0/24", "mode", "macvlan", "parent", "eth1"))
	h.create(network("e", "10.4.0.0/24", "mode", "macvlan", "parent", cardOne))
	h.on("c", "office")

	h.boot(map[string]byte{"eth0": 3})
	h.kernel.AddRoute(netip.MustParsePrefix("10.0.0.0/8"), netip.Addr{}, "eth0")
	h.refused("a", "-o parent interface was not found on the host: "+cardOne+"; the network was on eth0")
	h.refused("b", "route:10.77.7.0/24: the route to 10.77.0.0/16 is gone; the network was on eth1") // another one comes first at a boot
	h.on("b", "eth1")

	h.boot(map[string]byte{"eth1": 1})
	h.refused("c", "VLAN 9 of eth1 is not there, which weft did not make; the network was on office")
	h.refused("e", "-o parent="+cardOne+" means eth1 by now, and the network was on eth0: conflict: subnet 10.4.0.0/24 overlaps 10.4.0.0/24 of network dddddddddddd")
	h.on("a", "eth1")
	eth1, err := h.kernel.LinkByName("eth1")
	h.must(err)
	h.kernel.AddDevice(kernel.Link{Name: "office", Kind: "vlan", Parent: eth1.Index, VLAN: 9, Up: true, Carrier: true})
	h.reconciled(driver.Changes)
	if n, _ := h.Network(id("c")); n.Device != "office" || n.Parent != "eth1" || !n.Adopted || len(h.Troubles()[id("c")]) > 0 {
		t.Errorf("then %+v, troubles %v", n, h.Troubles())
	}

	h.boot(map[string]byte{"br0": 9})
	br0, err := h.kernel.LinkByName("br0")
	h.must(err)
	h.kernel.AddDevice(kernel.Link{Name: "lan", Master: br0.Index, Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 1}})
	h.refused("a", "means lan by now, and the network was on eth1: invalid option: lan is a port of br0")
	h.kernel.SetWireless("wlan0")
	h.boot(map[string]byte{"wlan0": 1})
	h.refused("a", "means wlan0 by now, and the network was on eth1: invalid option: wlan0 is wireless")
}

// movable is a network whose route may move from one card to the other.
func movable(h *house, subnet string, options ...string) (move func()) {
	h.Helper()
	h.kernel.AddRoute(netip.MustParsePrefix("10.77.0.0/16"), netip.Addr{}, "eth0")
	h.create(network("a", subnet, append([]string{"mode", "macvlan", "parent", "route:10.77.7.0/24"}, options...)...))
	return func() { h.kernel.AddRoute(netip.MustParsePrefix("10.77.7.0/24"), netip.Addr{}, "eth1") }
}

// TestContainersStay: no container gets on another line than the network's others, whoever
// attaches it, until they are gone.
func TestContainersStay(t *testing.T) {
	for name, direct := range map[string]bool{"docker": false, "direct": true} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.direct = direct
			move := movable(h, "10.5.0.0/24", "attach", "direct", "vlan", "5")
			h.join("1", "a", "10.5.0.2/24")
			_, err := h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("2"), Network: id("a"), IPv4: netip.MustParsePrefix("10.5.0.3/24")})
			h.must(err)
			move()
			const words = "its containers on this host (1) are on eth0.5, and -o parent=route:10.77.7.0/24 means eth1.5 by now"
			h.refused("a", words)
			if !direct {
				h.must(h.kernel.Move("wp-111111111111", sandboxPath, "eth0"))
				h.refused("a", words)
			}
			_, err = h.Join(t.Context(), id("a"), id("2"), sandboxPath, nil)
			if hint := (interface{ Hint() string })(nil); !errors.As(err, &hint) || !strings.Contains(err.Error(), words) || !errors.Is(err, driver.ErrConflict) ||
				hint.Hint() != "stop all of the network's containers on this host, then start them again" {
				t.Errorf("Join: %v", err)
			}
			h.on("a", "eth0.5")
			h.must(h.Leave(t.Context(), id("a"), id("1")))
			h.must(h.kernel.DetachChild(sandboxPath, "weft endpoint "+id("1"))) // the engine takes it back
			_, err = h.Join(t.Context(), id("a"), id("2"), sandboxPath, nil)
			h.must(err)
			h.on("a", "eth1.5")
			h.has("on=eth1.5", true)
			h.has("eth0.5", false)
			h.reconciled(driver.Full)
			h.untroubled()
		})
	}
}

// TestOthersStay: a network does not follow to where another one is that cannot be beside it,
// though that one's words mean another device by now: its containers keep it there.
func TestOthersStay(t *testing.T) {
	h := newHouse(t)
	move := movable(h, "10.5.0.0/24")
	h.kernel.AddRoute(netip.MustParsePrefix("10.78.0.0/16"), netip.Addr{}, "eth1")
	h.create(network("b", "10.5.0.0/24", "mode", "macvlan", "parent", "route:10.78.7.0/24"))
	h.join("1", "b", "10.5.0.2/24")
	move()
	h.kernel.AddRoute(netip.MustParsePrefix("10.78.7.0/24"), netip.Addr{}, "eth0")
	h.refused("a", "means eth1 by now, and the network was on eth0: conflict: subnet 10.5.0.0/24 overlaps 10.5.0.0/24 of network bbbbbbbbbbbb")
	h.on("a", "eth0")
	h.must(h.Leave(t.Context(), id("b"), id("1")))
	h.reconciled(driver.Full)
	h.on("a", "eth1")
	h.on("b", "eth0")
	h.untroubled()
}

// TestOthersDoNotLeave: nobody gets to where a network is by its record because its words
// lead elsewhere: it may not follow them.
func TestOthersDoNotLeave(t *testing.T) {
	router := netip.MustParseAddr("192.0.2.1")
	for name, test := range map[string]struct {
		prepare func(h *house)
		trouble string // of the one that does not leave
	}{
		"its route is late": {func(h *house) {
			h.boot(map[string]byte{"eth0": 1, "eth1": 2})
			h.kernel.AddRoute(netip.MustParsePrefix("10.0.0.0/8"), router, "eth0")
		}, "the route to 10.78.0.0/16 is gone"},
		"it is refused there": {func(h *house) {
			h.kernel.AddRoute(netip.MustParsePrefix("10.5.0.0/25"), netip.Addr{}, "eth1")
			h.kernel.AddRoute(netip.MustParsePrefix("10.78.7.0/24"), router, "eth0")
		}, "means eth0 by now, and the network was on eth1: conflict"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.kernel.AddRoute(netip.MustParsePrefix("10.78.0.0/16"), router, "eth1")
			h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "route:10.77.7.0/24"))
			h.create(network("b", "10.5.0.0/24", "mode", "macvlan", "parent", "route:10.78.7.0/24"))
			test.prepare(h)
			h.kernel.AddRoute(netip.MustParsePrefix("10.77.7.0/24"), router, "eth1")
			h.refused("a", "means eth1 by now, and the network was on eth0: conflict: subnet 10.5.0.0/24 overlaps 10.5.0.0/24 of network bbbbbbbbbbbb")
			h.refused("b", test.trouble)
			h.on("a", "eth0")
			h.on("b", "eth1")
		})
	}
}

// TestOthersAreJoining: nobody gets to where a container is being attached, which may wait
// for an address of the host's, though its network's words lead elsewhere by now.
func TestOthersAreJoining(t *testing.T) {
	h := newHouse(t)
	router := netip.MustParseAddr("192.0.2.1")
	h.book.offer[id("b")] = []string{"10.5.0.200/24"}
	h.kernel.AddRoute(netip.MustParsePrefix("10.77.0.0/16"), router, "eth0")
	h.kernel.AddRoute(netip.MustParsePrefix("10.78.0.0/16"), router, "eth1")
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "route:10.77.7.0/24"))
	h.create(network("b", "10.5.0.0/24", "mode", "macvlan", "parent", "route:10.78.7.0/24", "host_access", "true"))
	h.book.hold = func(string) {
		h.book.hold = nil
		h.kernel.AddRoute(netip.MustParsePrefix("10.77.7.0/24"), router, "eth1")
		h.kernel.AddRoute(netip.MustParsePrefix("10.78.7.0/24"), router, "eth0")
		h.Settle(t.Context(), id("a"))
		h.on("a", "eth0")
	}
	h.join("1", "b", "10.5.0.2/24")
	h.refused("a", "means eth1 by now, and the network was on eth0: conflict: subnet 10.5.0.0/24 overlaps")
	h.end("1", "b")
	h.settle()
	h.reconciled(driver.Full)
	h.on("a", "eth1")
	h.on("b", "eth0")
}

// TestFollowsWhileCreated: of a network that goes to a line and one that is created there at
// that moment, with equal subnets, one gets there, whenever it is that the other one comes.
func TestFollowsWhileCreated(t *testing.T) {
	for call, want := range map[string]struct{ refused, trouble string }{
		"TryChild":   {refused: "network aaaaaaaaaaaa went to eth1.5 while this one was created"},
		"EnsureVLAN": {trouble: "subnet 10.5.0.0/24 overlaps 10.5.0.0/24 of network bbbbbbbbbbbb"},
	} {
		t.Run(call, func(t *testing.T) {
			h := newHouse(t)
			h.kernel.AddDevice(kernel.Link{Name: "eth1.5", Kind: "vlan", Parent: 3, VLAN: 5, Group: kernel.Group, Up: true, Carrier: true})
			move := movable(h, "10.5.0.0/24", "vlan", "5")
			h.during = func(now string) {
				if now == call {
					h.during = nil
					move()
					h.reconciled(driver.Changes)
				}
			}
			err := h.CreateNetwork(t.Context(), network("b", "10.5.0.0/24", "mode", "macvlan", "parent", "eth1", "vlan", "5"))
			if want.refused != "" && (err == nil || !strings.Contains(err.Error(), want.refused)) || want.refused == "" && err != nil {
				t.Errorf("%v, want %q", err, want.refused)
			}
			if got := fmt.Sprint(h.Troubles()[id("a")]); !strings.Contains(got, want.trouble) {
				t.Errorf("troubles %s, want %q", got, want.trouble)
			}
			if want.refused != "" {
				h.on("a", "eth1.5")
				h.has("eth1.5 kind=vlan", true)
				h.untroubled()
			} else {
				h.on("a", "eth0.5")
				h.on("b", "eth1.5")
			}
		})
	}
}

// TestFirstWordWins: of a list the first word that is found counts whenever weft looks: a
// network whose route comes late waits on its next word, and goes when the route is there, or
// when its containers are gone.
func TestFirstWordWins(t *testing.T) {
	h := newHouse(t)
	cards := map[string]byte{"eth0": 1, "eth1": 2}
	lan, other := netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("172.16.0.0/12")
	h.boot(cards)
	h.kernel.AddRoute(lan, netip.Addr{}, "eth1")
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "route:10.77.0.0/16,eth0"))
	h.create(network("b", "10.6.0.0/24", "mode", "macvlan", "parent", "route:10.77.7.0/24,route:172.16.0.0/12"))
	on := func(a, b string) {
		t.Helper()
		h.reconciled(driver.Changes)
		h.on("a", a)
		h.on("b", b)
	}
	on("eth1", "eth1")
	for _, stays := range []bool{false, true} {
		h.boot(cards)
		h.kernel.AddRoute(other, netip.Addr{}, "eth0")
		on("eth0", "eth0")
		h.untroubled()
		if stays {
			h.join("1", "a", "10.5.0.2/24")
		}
		h.kernel.AddRoute(lan, netip.Addr{}, "eth1")
		if stays {
			h.refused("a", "its containers on this host (1) are on eth0, and -o parent=route:10.77.0.0/16,eth0 means eth1 by now")
			on("eth0", "eth1")
			h.end("1", "a")
			h.settle()
		}
		on("eth1", "eth1")
		h.untroubled()
	}
}

// TestCreatedBesideThoseWhoStayed: containers are where their card is, whatever it is called
// by now, and so nobody gets there who cannot be beside them.
func TestCreatedBesideThoseWhoStayed(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0"))
	h.join("1", "a", "10.5.0.2/24")
	h.must(h.kernel.Move("wp-111111111111", sandboxPath, "eth0"))
	h.must(h.kernel.Rename("eth0", "lan0"))
	for words, n := range map[string]driver.Network{
		"subnet 10.5.0.0/24 overlaps 10.5.0.0/24 of network aaaaaaaaaaaa": network("b", "10.5.0.0/24", "mode", "macvlan", "parent", "lan0"),
		"macvlan network aaaaaaaaaaaa is already using parent interface":  network("b", "10.6.0.0/24", "mode", "ipvlan", "parent", "lan0"),
	} {
		if err := h.CreateNetwork(t.Context(), n); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
	h.must(h.Leave(t.Context(), id("a"), id("1")))
	h.must(h.kernel.DetachChild(sandboxPath, "weft endpoint "+id("1")))
	h.create(network("b", "10.5.0.0/24", "mode", "ipvlan", "parent", "lan0"))
}

// TestCreatedBesideRenamed: a network whose device has another name by now, and its old one as
// an alternative or not at all, is on that, containers or not.
func TestCreatedBesideRenamed(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0"))
	h.create(network("b", "10.6.0.0/24", "mode", "macvlan", "parent", "eth1.6"))
	h.boot(map[string]byte{"eth1": 2})
	h.kernel.AddDevice(kernel.Link{Name: "lan0", AltNames: []string{"eth0"}, Up: true, Carrier: true})
	h.reconciled(driver.Full)
	h.must(h.kernel.Rename("eth1.6", "lan6"))
	for words, n := range map[string]driver.Network{
		"subnet 10.5.0.0/24 overlaps 10.5.0.0/24 of network aaaaaaaaaaaa": network("c", "10.5.0.0/24", "mode", "macvlan", "parent", "lan0"),
		"macvlan network aaaaaaaaaaaa is already using parent interface":  network("c", "10.7.0.0/24", "mode", "ipvlan", "parent", "lan0"),
		"subnet 10.6.0.0/24 overlaps 10.6.0.0/24 of network bbbbbbbbbbbb": network("c", "10.6.0.0/24", "mode", "macvlan", "parent", "eth1.6"),
	} {
		if err := h.CreateNetwork(t.Context(), n); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
}

// TestFollowsAlternativeName: a parent that is given by an alternative name is the card that
// has it, as with mac:; one that was renamed and keeps its name as an alternative is told.
func TestFollowsAlternativeName(t *testing.T) {
	h := newHouse(t)
	called := func(one, two []string) {
		t.Helper()
		h.boot(nil)
		h.kernel.AddDevice(kernel.Link{Name: "eth0", AltNames: one, Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 1}})
		h.kernel.AddDevice(kernel.Link{Name: "eth1", AltNames: two, Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}})
		h.start()
		h.reconciled(driver.Full)
	}
	called([]string{"uplink"}, nil)
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "uplink"))
	h.create(network("b", "10.6.0.0/24", "mode", "macvlan", "parent", "uplink.6"))
	before, _ := h.join("1", "a", "10.5.0.2/24")
	h.end("1", "a")
	called(nil, []string{"uplink"})
	h.on("a", "eth1")
	h.on("b", "eth1.6")
	h.untroubled()
	if after, _ := h.join("1", "a", "10.5.0.2/24"); after.MAC != before.MAC {
		t.Errorf("the container's MAC address was %s, and is %s on the other card", before.MAC, after.MAC)
	}
	h.end("1", "a")
	called(nil, nil)
	h.refused("a", "uplink; the network was on eth1")

	h.create(network("c", "10.7.0.0/24", "mode", "macvlan", "parent", "eth0"))
	h.must(h.kernel.Rename("eth0", "lan0"))
	h.kernel.Also("lan0", "eth0")
	h.reconciled(driver.Full)
	if got := h.Troubles()[id("c")]; len(got) == 0 || !strings.Contains(got[0], "eth0 was renamed to lan0") {
		t.Errorf("troubles %q of a network whose card was renamed", got)
	}
}

// TestGoesNowhereItCouldNotBeCreated: what forbids a network's creation on a device keeps it
// from going there.
func TestGoesNowhereItCouldNotBeCreated(t *testing.T) {
	h := newHouse(t)
	move := movable(h, "10.5.0.0/24")
	h.kernel.AddRoute(netip.MustParsePrefix("10.5.0.0/25"), netip.Addr{}, "eth0")
	move()
	h.refused("a", "means eth1 by now, and the network was on eth0: conflict: subnet 10.5.0.0/24 overlaps the host's route to 10.5.0.0/25 by eth0")
	h.boot(map[string]byte{"eth0": 1, "eth1": 2})
	h.kernel.AddRoute(netip.MustParsePrefix("10.77.7.0/24"), netip.Addr{}, "eth1")
	h.kernel.AddSandbox("/run/netns/other")
	_, err := h.kernel.AttachChild(kernel.ChildAttachment{Sandbox: "/run/netns/other", Child: kernel.Child{Kind: kernel.IPvlan, Name: "eth0", Alias: "a stranger", Parent: "eth1", Mode: "l2"}})
	h.must(err)
	h.reconciled(driver.Changes)
	if got := fmt.Sprint(h.Troubles()[id("a")]); !strings.Contains(got, "eth1 cannot be the parent of macvlan devices in this mode: it is held by something that is not weft's") {
		t.Errorf("troubles %s", got)
	}
	h.on("a", "eth0")
	h.must(h.kernel.DetachChild("/run/netns/other", "a stranger"))
	h.reconciled(driver.Changes)
	h.on("a", "eth1")
	h.untroubled()
}

// TestHostFollows: the host's own device among its containers goes with the network.
func TestHostFollows(t *testing.T) {
	h := newHouse(t)
	move := movable(h, "192.0.2.0/24", "host_access", "true")
	h.has("wh-aaaaaaaaaaaa kind=macvlan mtu=1500 up=true on=eth0", true)
	h.kernel.SetAddrs("eth0")
	h.kernel.SetAddrs("eth1", netip.MustParsePrefix("192.0.2.77/24"))
	move()
	h.join("1", "a", "192.0.2.2/24")
	h.has("wh-aaaaaaaaaaaa kind=macvlan mtu=1500 up=true on=eth1", true)
	h.has("peer 192.0.2.2 ", true)
	h.has("src 192.0.2.77", true)
	h.has("on=eth0", false)
	if repaired := h.reconciled(driver.Changes); len(repaired) > 0 {
		t.Errorf("repaired %q", repaired)
	}
}

// TestHostTakesAnotherAddress: what the host took from the pool for itself may be another
// machine's on the line to which its network goes.
func TestHostTakesAnotherAddress(t *testing.T) {
	h := newHouse(t)
	h.book.offer[id("a")] = []string{"10.5.0.9/24", "10.5.0.10/24"}
	move := movable(h, "10.5.0.0/24", "host_access", "true", "vlan", "5")
	h.join("1", "a", "10.5.0.2/24")
	h.has("wh-aaaaaaaaaaaa kind=macvlan mtu=1500 up=true 10.5.0.9/32 on=eth0.5", true)
	h.must(h.DeleteEndpoint(t.Context(), id("a"), id("1")))
	h.settle()
	move()
	h.reconciled(driver.Changes)
	h.has("wh-aaaaaaaaaaaa kind=macvlan mtu=1500 up=true on=eth1.5", true)
	h.join("2", "a", "10.5.0.2/24")
	h.has("wh-aaaaaaaaaaaa kind=macvlan mtu=1500 up=true 10.5.0.10/32 on=eth1.5", true)
	h.has("10.5.0.9", false)
}

// TestFollowsOnDiskFirst: a crash after the record leaves nothing at the old place.
func TestFollowsOnDiskFirst(t *testing.T) {
	h := newHouse(t)
	move := movable(h, "10.5.0.0/24", "vlan", "5")
	move()
	h.kernel.Fail(errors.New("no more"))
	if _, err := h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("1"), Network: id("a"), IPv4: netip.MustParsePrefix("10.5.0.2/24")}); err != nil {
		t.Errorf("an endpoint, for which nothing is made: %v", err)
	}
	h.start()
	h.on("a", "eth1.5")
	h.kernel.Fail(nil)
	h.has("eth0.5", true)
	if repaired := h.reconciled(driver.Changes); !slices.Contains(repaired, "link eth0.5 belonged to nothing and was deleted") {
		t.Errorf("repaired %q", repaired)
	}
	h.has("eth0.5", false)
	h.has("eth1.5 kind=vlan", true)
}

// counted is a kernel that counts what is asked for all of something.
type counted struct {
	*kernel.Fake
	links, routes int
}

func (c *counted) Links() ([]kernel.Link, error)   { c.links++; return c.Fake.Links() }
func (c *counted) Routes() ([]kernel.Route, error) { c.routes++; return c.Fake.Routes() }

// TestWhatFollowingCosts: a name costs nothing, and what else fits as it did no list, unless
// a word before it may fit by now.
func TestWhatFollowingCosts(t *testing.T) {
	k := &counted{Fake: kernel.NewFake()}
	k.AddDevice(kernel.Link{Name: "eth0", MAC: kernel.MAC{2, 0, 0, 0, 0, 1}}, netip.MustParsePrefix("192.0.2.10/24"))
	mac := macvlan.New(parented.Config{Kernel: k, Later: kernel.NewLater(k.Fake, 0, nil), Parents: parented.NewParents(k, nil), Seed: "seed"})
	for words, want := range map[string][2]int{"eth0": {}, "eth1,eth0": {}, "": {}, cardOne: {}, "eth7," + cardOne: {},
		"route:192.0.2.0/24": {}, "eth7,route:192.0.2.0/24": {}, cardTwo + ",route:192.0.2.0/24": {1, 1}, "eth7.7," + cardOne: {1, 0}} {
		k.links, k.routes = 0, 0
		n := network("a", "10.1.0.0/24", "mode", "macvlan", "parent", words)
		n.Device, n.Parent = "eth0", "eth0"
		if now, moved, err := mac.Locate(n); err != nil || moved || now.Device != "eth0" {
			t.Errorf("%q: %s, %t, %v", words, now.Device, moved, err)
		}
		if got := [2]int{k.links, k.routes}; got != want {
			t.Errorf("%q: %d lists of links and of routes, want %d", words, got, want)
		}
	}
}
