package parented_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// twin is the MAC address that several containers want.
const twin = "02:00:00:00:00:99"

// plans makes an endpoint with a MAC address and does not join it.
func (l *line) plans(letter, net, addr, mac string) driver.Endpoint {
	l.Helper()
	ep, err := l.CreateEndpoint(l.Context(), driver.Endpoint{ID: id(letter), Network: id(net), IPv4: netip.MustParsePrefix(addr), MAC: mac})
	l.must(err)
	return ep
}

// sits joins an endpoint, and its device comes up.
func (l *line) sits(ep driver.Endpoint) {
	l.Helper()
	ns := kerneltest.Namespace(l)
	answer, err := l.Join(l.Context(), ep.Network, ep.ID, ns, nil)
	l.must(err)
	l.asEngine(ns, answer, ep)
}

// stands makes sure that an endpoint cannot join, with words that say who is in its way, and that
// nothing stays of it.
func (l *line) stands(ep driver.Endpoint, words string) {
	l.Helper()
	ns := kerneltest.Namespace(l)
	_, err := l.Join(l.Context(), ep.Network, ep.ID, ns, nil)
	var hint interface{ Hint() string }
	if !errors.Is(err, driver.ErrConflict) || !strings.Contains(err.Error(), ep.MAC) || !strings.Contains(err.Error(), words) ||
		!errors.As(err, &hint) || !strings.Contains(hint.Hint(), "choose another --mac-address") {
		l.Errorf("a MAC address that is taken (%s): %v", words, err)
	}
	if _, err := l.kernel.LinkByName(ep.PeerLink); !errors.Is(err, kernel.ErrNotFound) {
		l.Errorf("its device is on the host: %v", err)
	}
	if links := l.at(ns, "ip", "-o", "link"); strings.Contains(links, ep.MAC) {
		l.Errorf("its device is in the sandbox:\n%s", links)
	}
}

// TestTwins: no two devices on one parent have one MAC address, nor the parent's. Who may not
// have it is told by name who has it.
func TestTwins(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	bothWays(t, func(l *line) {
		l.host("ip", "addr", "add", "10.9.0.10/24", "dev", "e0")
		l.host("ip", "link", "add", "f0", "address", "02:00:00:00:00:0f", "type", "veth", "peer", "name", "f1")
		l.host("ip", "link", "set", "f0", "up")
		l.create(network("a", "10.9.0.0/24", "mode", "macvlan", "parent", "e0", "attach", "direct", "host_access", "true"),
			network("b", "10.10.0.0/24", "mode", "macvlan", "parent", "e0", "attach", "direct", "macvlan_mode", "private"),
			network("c", "10.11.0.0/24", "mode", "macvlan", "parent", "f0", "attach", "direct", "macvlan_mode", "vepa"))
		first, second := l.plans("1", "a", "10.9.0.2/24", twin), l.plans("2", "a", "10.9.0.3/24", twin)
		third, elsewhere := l.plans("3", "b", "10.10.0.2/24", twin), l.plans("4", "c", "10.11.0.2/24", twin)
		l.sits(first)
		l.sits(elsewhere)
		has := "the container of endpoint 111111111111 (10.9.0.2) on network aaaaaaaaaaaa has it"
		l.stands(second, has)
		l.stands(third, has)
		l.stop()
		l.start()
		l.stands(third, has)
		l.end("1", "a")
		l.sits(third)
		l.stands(second, "the container of endpoint 333333333333 (10.10.0.2)")

		parent, err := l.kernel.LinkByName("e0")
		l.must(err)
		l.stands(l.plans("5", "b", "10.10.0.3/24", strings.ToUpper(parent.MAC.String())), "the parent itself")
		l.end("3", "b")
		access := l.Networks()[0].Access.Link
		host, err := l.kernel.LinkByName(access)
		l.must(err)
		l.stands(l.plans("6", "b", "10.10.0.4/24", host.MAC.String()), "the host's device "+access)
		l.sits(second)
		l.boot(func() { l.host("ip", "addr", "add", "10.9.0.10/24", "dev", "e0") })
		l.sits(l.plans("7", "b", "10.10.0.5/24", twin)) // what was on the card went with it
	})
}

// TestTwinsAtOnce: of two that are on their way one is refused, though neither is up yet.
func TestTwinsAtOnce(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "eth0"))
	h.create(network("b", "10.2.0.0/24", "mode", "macvlan", "parent", "eth0"))
	h.create(network("c", "10.3.0.0/24", "mode", "macvlan", "parent", "eth0.3"))
	join := func(letter, net string) error {
		_, err := h.Join(t.Context(), id(net), id(letter), sandboxPath, nil)
		return err
	}
	for letter, net := range map[string]string{"1": "a", "2": "b", "3": "c"} {
		subnet := map[string]string{"a": "10.1.0.", "b": "10.2.0.", "c": "10.3.0."}[net]
		_, err := h.CreateEndpoint(t.Context(), driver.Endpoint{ID: id(letter), Network: id(net), IPv4: netip.MustParsePrefix(subnet + "2/24"), MAC: twin})
		h.must(err)
	}
	var inside error
	h.during = func(call string) {
		if call == "AddChild" {
			h.during = nil
			inside = join("2", "b")
			h.must(join("3", "c")) // a VLAN is a line of its own
		}
	}
	h.must(join("1", "a"))
	if !errors.Is(inside, driver.ErrConflict) {
		t.Errorf("the second one, while the first has no device yet: %v", inside)
	}
	if err := join("2", "b"); !errors.Is(err, driver.ErrConflict) {
		t.Errorf("the second one, while the engine has not moved the first one's device: %v", err)
	}
	h.must(join("1", "a")) // who joins again is nobody else
	h.must(h.kernel.Move("wp-111111111111", sandboxPath, "eth0"))
	if err := join("2", "b"); !errors.Is(err, driver.ErrConflict) {
		t.Errorf("the second one: %v", err)
	}
	h.end("1", "a")
	h.must(join("2", "b"))
}
