package parented_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// book offers addresses for the host itself, one each time that it is asked.
type book struct {
	mu    sync.Mutex
	offer map[string][]string // by network: one word for all families of a try
	own   map[string][]netip.Prefix
	lost  map[string][]netip.Prefix
	hold  func(network string) // before it gives
}

func newBook() *book {
	return &book{offer: map[string][]string{}, own: map[string][]netip.Prefix{}, lost: map[string][]netip.Prefix{}}
}

func (b *book) Gives(network string, _ netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.offer[network]) > 0
}

func (b *book) HostAddresses(network string) (own, lost []netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.own[network], b.lost[network]
}

func (b *book) TakeHostAddresses(_ context.Context, network string) ([]netip.Prefix, error) {
	if b.hold != nil {
		b.hold(network)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.offer[network]) == 0 {
		return nil, errors.New("the pool is full")
	}
	var own []netip.Prefix
	for text := range strings.SplitSeq(b.offer[network][0], " ") {
		own = append(own, netip.MustParsePrefix(text))
	}
	b.offer[network] = b.offer[network][1:]
	b.own[network], b.lost[network] = own, nil
	return own, nil
}

func (b *book) ReleaseHostAddresses(_ context.Context, network string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.own, network)
	return nil
}

// lose gives the host's own addresses on a network to another host.
func (b *book) lose(network string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own[network], b.lost[network] = nil, b.own[network]
}

func addrs(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// join6 is join with both families.
func (h *house) join6(letter, net, addr, addr6 string) {
	h.Helper()
	_, err := h.CreateEndpoint(h.Context(), driver.Endpoint{ID: id(letter), Network: id(net), IPv4: netip.MustParsePrefix(addr), IPv6: netip.MustParsePrefix(addr6)})
	h.must(err)
	_, err = h.Join(h.Context(), id(net), id(letter), sandboxPath, nil)
	h.must(err)
}

// quiet makes sure that there is nothing to mend.
func (h *house) quiet() {
	h.Helper()
	for _, depth := range []driver.Depth{driver.Changes, driver.Full} {
		if repaired := h.reconciled(depth); len(repaired) > 0 {
			h.Errorf("repaired %q", repaired)
		}
	}
}

// TestAccess is a host on its own LAN with its containers, from the first call to the last.
func TestAccess(t *testing.T) {
	for _, direct := range []bool{false, true} {
		h := newHouse(t)
		h.direct = direct
		h.kernel.SetAddrs("eth0", addrs("192.0.2.10/24", "2001:db8::10/64", "2001:db8::9/64", "fe80::1/64", "198.18.0.1/24")...)
		empty := h.kernel.Dump()
		h.create(network("a", "192.0.2.0/24 2001:db8::/64", "mode", "macvlan", "parent", "eth0", "attach", "direct", "host_access", "true"))
		h.has("wh-aaaaaaaaaaaa kind=macvlan mtu=1500 up=true on=eth0", true)
		h.join6("b", "a", "192.0.2.50/24", "2001:db8::50/64")
		h.join("c", "a", "192.0.2.51/24")
		if !direct {
			h.must(h.kernel.Move("wp-bbbbbbbbbbbb", sandboxPath, "eth0"))
			h.must(h.kernel.Move("wp-cccccccccccc", sandboxPath, "eth1"))
			h.runs()
		}
		mac := h.Endpoints(id("a"))[0].MAC
		h.has("peer 192.0.2.50 lladdr "+mac+" src 192.0.2.10", true)
		h.has("peer 2001:db8::50 lladdr "+mac+" src 2001:db8::9", true)
		h.has("peer 192.0.2.51 ", true)
		shim, err := h.kernel.LinkByName("wh-aaaaaaaaaaaa")
		h.must(err)
		h.has("hosts=[192.0.2.10 2001:db8::9 2001:db8::10] at "+shim.MAC.String(), true)
		h.has("hosts=[192.0.2.10] at "+shim.MAC.String(), true)
		if got := h.mac.HostAt(id("a")); len(got) != 3 || got[0].String() != "192.0.2.10" {
			t.Errorf("the host is at %v", got)
		}
		h.quiet()

		h.must(h.Leave(t.Context(), id("a"), id("b")))
		h.has("peer 192.0.2.50 ", false)
		h.has("peer 2001:db8::50 ", false)
		h.has("peer 192.0.2.51 ", true)
		h.must(h.DeleteEndpoint(t.Context(), id("a"), id("b")))
		h.must(h.DeleteEndpoint(t.Context(), id("a"), id("c"))) // without a Leave
		h.has("peer", false)
		for _, letter := range []string{"b", "c"} {
			h.kernel.DetachChild(sandboxPath, "weft endpoint "+id(letter)) // the sandbox ends
		}
		h.quiet()
		h.must(h.DeleteNetwork(t.Context(), id("a")))
		h.must(h.DeleteNetwork(t.Context(), id("a")))
		h.settle()
		if got := h.kernel.Dump(); got != empty {
			t.Errorf("something stays behind:\n%s", got)
		}
	}
}

// runs does what the kinds do besides: the engine has moved devices.
func (h *house) runs() {
	h.Helper()
	ctx, cancel := context.WithCancel(h.Context())
	cancel()
	h.must(errors.Join(h.mac.Run(ctx), h.ipv.Run(ctx)))
}

// TestNoAccess: it is off by default, and when it is said to be, in every mode.
func TestNoAccess(t *testing.T) {
	for _, n := range []driver.Network{
		network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0"),
		network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "host_access", "false"),
		network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "host_access", "false", "macvlan_mode", "private"),
		network("a", "192.0.2.0/24", "mode", "ipvlan", "parent", "eth0", "host_access", "0", "ipvlan_flag", "vepa"),
	} {
		h := newHouse(t)
		h.create(n)
		h.join("b", "a", "192.0.2.50/24")
		h.quiet()
		h.has("wh-", false)
		h.has("peer", false)
	}
}

// TestAccessRefusals leave nothing behind.
func TestAccessRefusals(t *testing.T) {
	h := newHouse(t)
	h.kernel.AddDevice(kernel.Link{Name: "eth2", Up: true, Carrier: true})
	h.create(network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "host_access", "true"))
	h.book.offer[id("e")], h.book.offer[id("g")] = []string{"10.5.0.200/24"}, []string{"10.7.0.200/24"}
	h.create(network("g", "10.7.0.0/24", "mode", "macvlan", "parent", "eth2.7", "host_access", "true"))
	_, err := h.kernel.EnsureSysctl(kernel.Sysctl{Key: "net.ipv4.conf.eth1.rp_filter", Value: "1"})
	h.must(err)
	bare := network("f", "10.5.0.0/24", "mode", "macvlan", "parent", "eth2", "host_access", "true")
	bare.IPv4 = nil
	before := h.kernel.Dump()
	for _, c := range []struct {
		n     driver.Network
		words []string
	}{
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth2", "host_access", "maybe"), []string{`host_access="maybe": use true or false`}},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth2", "host_access", "true", "macvlan_mode", "private"), []string{"host_access=true needs macvlan_mode=bridge, and the network has private", "leave host_access out"}},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth2", "host_access", "true", "macvlan_mode", "vepa"), []string{"the network has vepa"}},
		{network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth2", "host_access", "true", "macvlan_mode", "passthru"), []string{"the network has passthru"}},
		{network("e", "10.5.0.0/24", "mode", "ipvlan", "parent", "eth2", "host_access", "true", "ipvlan_flag", "private"), []string{"host_access=true needs ipvlan_flag=bridge, and the network has private"}},
		{network("e", "10.5.0.0/24", "mode", "ipvlan", "parent", "eth2", "host_access", "true", "ipvlan_flag", "vepa"), []string{"the network has vepa"}},
		{bare, []string{"the network has no subnet"}},
		{network("f", "10.5.0.0/24", "mode", "macvlan", "parent", "eth2", "host_access", "true"), []string{"this host has no address in 10.5.0.0/24 on eth2 that its containers could answer", "use --ipam-driver weft:latest"}},
		{network("f", "198.51.100.0/24", "mode", "ipvlan", "parent", "eth1", "host_access", "true"), []string{"no address in 198.51.100.0/24 on eth1", "net.ipv4.conf.eth1.rp_filter is strict"}},
		{network("e", "10.5.0.0/24 10.6.0.0/24", "mode", "macvlan", "parent", "eth2", "host_access", "true"), []string{"no address in 10.5.0.0/24 on eth2", "with one subnet of a family"}},
		{network("e", "10.7.0.0/25", "mode", "macvlan", "parent", "eth2.8", "host_access", "true"), []string{"the host is on the line of network gggggggggggg, which has the same addresses"}},
	} {
		err := h.CreateNetwork(t.Context(), c.n)
		text := ""
		if err != nil {
			text = err.Error()
			var hint interface{ Hint() string }
			if errors.As(err, &hint) {
				text += ": " + hint.Hint()
			}
		}
		for _, words := range c.words {
			if !strings.Contains(text, words) {
				t.Errorf("%v: the error %q lacks %q", c.n.Options, text, words)
			}
		}
		if got := h.kernel.Dump(); got != before {
			t.Fatalf("%v left something behind:\n%s\nbefore:\n%s", c.n.Options, got, before)
		}
	}
}

// TestAccessFromThePool: a host without an address on the line takes one of the network's
// when it has the first container, and another one when that is lost.
func TestAccessFromThePool(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.book.offer[id("a")] = []string{"10.5.0.200/24 fd05::200/64", "10.5.0.201/24 fd05::201/64"}
	h.create(network("a", "10.5.0.0/24 fd05::/64", "mode", "macvlan", "parent", "eth0.5", "attach", "direct", "host_access", "true"))
	h.has("wh-aaaaaaaaaaaa kind=macvlan mtu=1500 up=true on=eth0.5", true)
	h.has("10.5.0.200", false)
	h.quiet()
	h.join6("b", "a", "10.5.0.2/24", "fd05::2/64")
	h.has("wh-aaaaaaaaaaaa kind=macvlan mtu=1500 up=true 10.5.0.200/32 fd05::200/128 on=eth0.5", true)
	h.has("src 10.5.0.200", true)
	h.has("src fd05::200", true)
	h.has("hosts=[10.5.0.200 fd05::200]", true)
	h.quiet()
	// Its routes say nothing about where the subnet is.
	h.create(network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "eth1.5"))
	h.must(h.DeleteNetwork(t.Context(), id("e")))
	// The journal and the book have all of it after a reboot.
	h.must(h.kernel.Lose("eth0.5"))
	h.start()
	h.join("c", "a", "10.5.0.3/24")
	h.has("peer 10.5.0.3 ", true)
	h.reconciled(driver.Full)
	h.has("peer 10.5.0.2 ", true)
	h.quiet()

	h.book.lose(id("a"))
	if repaired := h.reconciled(driver.Changes); len(repaired) != 1 || !strings.Contains(repaired[0], "device wh-aaaaaaaaaaaa by which the host reaches the containers of network aaaaaaaaaaaa") {
		t.Errorf("repaired %q", repaired)
	}
	h.has("10.5.0.200", false)
	h.has("src 10.5.0.201", true)
	h.has("hosts=[10.5.0.201]", true)
	h.quiet()
	h.must(h.DeleteNetwork(t.Context(), id("a")))
	h.has("wh-", false)
	h.has("eth0.5", false)

}

// TestAccessWithoutAddress: what the pool cannot give keeps no container from starting, and
// is a trouble until it can. Nobody asks again for each container.
func TestAccessWithoutAddress(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.book.offer[id("d")] = []string{""}
	h.create(network("d", "10.6.0.0/24", "mode", "macvlan", "parent", "eth0.6", "attach", "direct", "host_access", "true"))
	h.book.offer[id("d")] = nil
	asked := 0
	h.book.hold = func(string) { asked++ }
	h.join("e", "d", "10.6.0.2/24")
	h.join("f", "d", "10.6.0.3/24")
	h.has("peer", false)
	if asked != 1 {
		t.Errorf("asked %d times for an address", asked)
	}
	if _, err := h.Reconcile(t.Context(), driver.Full); err == nil || !strings.Contains(err.Error(), "host_access of network dddddddddddd: the pool is full") {
		t.Errorf("reconcile: %v", err)
	}
	if got := h.Troubles()[id("d")]; len(got) != 1 || !strings.Contains(got[0], "it needs an address of the network's, and is trying again: the pool is full") {
		t.Errorf("troubles %q", got)
	}
	h.book.offer[id("d")] = []string{"10.6.0.200/24"}
	h.reconciled(driver.Full)
	h.has("peer 10.6.0.2 ", true)
	h.has("peer 10.6.0.3 ", true)
	if h.quiet(); len(h.Troubles()[id("d")]) > 0 {
		t.Errorf("troubles %q", h.Troubles()[id("d")])
	}
	// The next first container does not wait for reconcile.
	h.must(h.Leave(t.Context(), id("d"), id("e")))
	h.must(h.Leave(t.Context(), id("d"), id("f")))
	h.book.lose(id("d"))
	_, err := h.Join(t.Context(), id("d"), id("e"), sandboxPath, nil)
	h.must(err)
	h.has("peer", false)
	h.must(h.Leave(t.Context(), id("d"), id("e")))
	h.book.offer[id("d")] = []string{"10.6.0.201/24"}
	_, err = h.Join(t.Context(), id("d"), id("e"), sandboxPath, nil)
	h.must(err)
	h.has("src 10.6.0.201", true)
}

// TestAccessWaitsAlone: a network that waits for an address holds no other up.
func TestAccessWaitsAlone(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	for letter, offer := range map[string]string{"a": "10.5.0.200/24", "d": "10.6.0.200/24"} {
		h.book.offer[id(letter)] = []string{offer}
	}
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0.5", "host_access", "true"))
	h.create(network("d", "10.6.0.0/24", "mode", "macvlan", "parent", "eth0.6", "host_access", "true"))
	asked, answer, done := make(chan bool), make(chan bool), make(chan bool)
	h.book.hold = func(network string) {
		if network == id("a") {
			close(asked)
			<-answer
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { h.join("b", "a", "10.5.0.2/24") })
	<-asked
	wg.Go(func() {
		h.join("e", "d", "10.6.0.2/24")
		close(done)
	})
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("it waits for the other network's address")
	}
	close(answer)
	wg.Wait()
	h.has("src 10.5.0.200", true)
	h.has("src 10.6.0.200", true)
}

// TestAccessLostUnused: nobody needs another address on a network without containers.
func TestAccessLostUnused(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.book.offer[id("a")] = []string{"10.5.0.200/24", "10.5.0.201/24"}
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0.5", "attach", "direct", "host_access", "true"))
	h.join("b", "a", "10.5.0.2/24")
	h.must(h.Leave(t.Context(), id("a"), id("b")))
	h.book.lose(id("a"))
	h.reconciled(driver.Changes)
	h.has("10.5.0.200", false)
	h.quiet()
	_, err := h.Join(t.Context(), id("a"), id("b"), sandboxPath, nil)
	h.must(err)
	h.has("src 10.5.0.201", true)
	h.quiet()
}

// TestAccessOneBad: a container that the host cannot reach is no other's affair.
func TestAccessOneBad(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.create(network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "attach", "direct", "host_access", "true"))
	h.join("b", "a", "192.0.2.50/24")
	h.must(h.kernel.Lose("wh-aaaaaaaaaaaa"))
	h.kernel.AddRoute(netip.MustParsePrefix("192.0.2.50/32"), netip.MustParseAddr("192.0.2.1"), "eth0")
	h.start()
	h.join("c", "a", "192.0.2.51/24")
	h.has("peer 192.0.2.51 ", true)
	h.must(h.Leave(t.Context(), id("a"), id("b")))
	if _, err := h.Join(t.Context(), id("a"), id("b"), sandboxPath, nil); !errors.Is(err, kernel.ErrExists) || !strings.Contains(err.Error(), "a route to 192.0.2.50") {
		t.Errorf("the bad one joins: %v", err)
	}
	h.join("d", "a", "192.0.2.52/24")
	h.has("peer 192.0.2.52 ", true)
	h.quiet()
}

// TestAccessJoinHidesNothing: a container that comes does not keep those that are there
// from hearing that the host's address is another one.
func TestAccessJoinHidesNothing(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.create(network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "attach", "direct", "host_access", "true"))
	h.kernel.SetAddrs("eth0") // before DHCP
	h.join("b", "a", "192.0.2.50/24")
	h.quiet()
	h.kernel.SetAddrs("eth0", addrs("192.0.2.11/24")...)
	h.join("c", "a", "192.0.2.51/24")
	if repaired := h.reconciled(driver.Changes); len(repaired) == 0 {
		t.Error("nothing to mend")
	}
	if got := strings.Count(h.kernel.Dump(), "hosts=[192.0.2.11]"); got != 2 {
		t.Errorf("%d containers know the host:\n%s", got, h.kernel.Dump())
	}
	h.quiet()
	h.kernel.SetAddrs("eth0", addrs("192.0.2.11/24", "192.0.2.12/24")...) // no route changes with it
	h.join("d", "a", "192.0.2.52/24")
	h.reconciled(driver.Changes)
	if got := strings.Count(h.kernel.Dump(), "hosts=[192.0.2.11 192.0.2.12]"); got != 3 {
		t.Errorf("%d containers know the host's second address:\n%s", got, h.kernel.Dump())
	}
	h.quiet()
}

// TestAccessToldLast: who is slow to tell a container of the host does not tell it what
// reconcile has replaced since.
func TestAccessToldLast(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "host_access", "true"))
	h.join("b", "a", "192.0.2.50/24")
	h.must(h.kernel.Move("wp-bbbbbbbbbbbb", sandboxPath, "eth0"))
	h.kernel.SetAddrs("eth0", addrs("192.0.2.11/24")...)
	var wg sync.WaitGroup
	overtake := func() {
		done := make(chan bool)
		wg.Go(func() {
			h.reconciled(driver.Changes)
			close(done)
		})
		select {
		case <-done:
		case <-time.After(200 * time.Millisecond): // it waits, as it should
		}
	}
	h.before.Store(&overtake)
	h.runs()
	wg.Wait()
	h.has("hosts=[192.0.2.11]", true)
}

// TestAccessStates: not every address that the host has is one from which it comes.
func TestAccessStates(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	all := addrs("192.0.2.10/24", "2001:db8::1/64", "2001:db8::2/64", "2001:db8::3/64", "2001:db8::4/64", "2001:db8::5/64")
	h.kernel.SetAddrs("eth0", all...)
	for text, flags := range map[string]kernel.Address{
		"2001:db8::1": {Temporary: true}, "2001:db8::2": {Deprecated: true}, "2001:db8::3": {Refused: true}, "2001:db8::4": {Tentative: true},
	} {
		h.kernel.SetFlags(netip.MustParseAddr(text), flags)
	}
	h.create(network("a", "192.0.2.0/24 2001:db8::/64", "mode", "macvlan", "parent", "eth0", "attach", "direct", "host_access", "true"))
	h.join6("b", "a", "192.0.2.50/24", "2001:db8::50/64")
	h.has("src 2001:db8::5\n", true)
	h.has("hosts=[192.0.2.10 2001:db8::5 2001:db8::1 2001:db8::2]", true)
	h.quiet()
	if got := h.mac.HostAt(id("a")); len(got) != 3 || got[1].String() != "2001:db8::5" || got[2].String() != "2001:db8::1" {
		t.Errorf("the host is at %v", got)
	}
	// The source is one to come from no more, and containers may still be in touch with it.
	h.kernel.SetFlags(netip.MustParseAddr("2001:db8::5"), kernel.Address{Deprecated: true})
	h.reconciled(driver.Changes)
	h.has("src 2001:db8::1\n", true)
	h.has("hosts=[192.0.2.10 2001:db8::1 2001:db8::2 2001:db8::5]", true)
	h.quiet()

	// Plans count on an address that is being proven, and on no other.
	for _, c := range []struct {
		flags kernel.Address
		ok    bool
	}{{kernel.Address{Tentative: true}, true}, {kernel.Address{Refused: true}, false}, {kernel.Address{Deprecated: true}, false}} {
		h.kernel.SetAddrs("eth1", addrs("fd09::1/64")...)
		h.kernel.SetFlags(netip.MustParseAddr("fd09::1"), c.flags)
		err := h.CreateNetwork(t.Context(), network("c", "fd09::/64", "mode", "macvlan", "parent", "eth1", "host_access", "true"))
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.flags, err)
		}
		h.must(h.DeleteNetwork(t.Context(), id("c")))
	}
}

// TestAccessForwards: the host routes for those whose router it is, and for no other.
func TestAccessForwards(t *testing.T) {
	h := newHouse(t)
	_, err := h.kernel.EnsureSysctl(kernel.Sysctl{Key: "net/ipv4/conf/all/forwarding", Value: "1"})
	h.must(err)
	forwards := func(device, want string) {
		t.Helper()
		if got, err := h.kernel.Sysctl("net/ipv4/conf/" + device + "/forwarding"); got != want || err != nil {
			t.Errorf("%s forwards: %s, %v", device, got, err)
		}
	}
	h.create(network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "host_access", "true"))
	forwards("wh-aaaaaaaaaaaa", "0")
	h.kernel.SetAddrs("eth0", addrs("192.0.2.10/24", "192.0.2.1/24")...)
	h.reconciled(driver.Changes)
	forwards("wh-aaaaaaaaaaaa", "1")
	h.create(network("c", "10.5.0.0/24", "mode", "ipvlan", "parent", "eth1", "ipvlan_mode", "l3", "host_access", "true"))
	forwards("wh-cccccccccccc", "1")
}

// TestAccessQuietLine: on a device of weft's own nobody hears of the addresses that the host
// has from the network. Others are not weft's to change.
func TestAccessQuietLine(t *testing.T) {
	h := newHouse(t)
	h.book.offer[id("a")], h.book.offer[id("c")] = []string{"10.5.0.200/24"}, []string{"10.6.0.200/24"}
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0.5", "host_access", "true"))
	h.create(network("c", "10.6.0.0/24", "mode", "macvlan", "parent", "eth1", "host_access", "true"))
	for device, want := range map[string]string{"eth0.5": "1", "eth1": "0"} {
		if got, err := h.kernel.Sysctl("net/ipv4/conf/" + device + "/arp_ignore"); got != want || err != nil {
			t.Errorf("arp_ignore of %s is %s, %v", device, got, err)
		}
	}
}

// TestAccessForeignDevice: what somebody else made under the name of weft's is not touched.
func TestAccessForeignDevice(t *testing.T) {
	h := newHouse(t)
	h.create(network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "host_access", "true"))
	h.must(h.kernel.Lose("wh-aaaaaaaaaaaa"))
	h.kernel.AddDevice(kernel.Link{Name: "wh-aaaaaaaaaaaa", Kind: "dummy"})
	if _, err := h.Reconcile(t.Context(), driver.Full); !errors.Is(err, kernel.ErrExists) {
		t.Errorf("reconcile: %v", err)
	}
	h.must(h.DeleteNetwork(t.Context(), id("a")))
	h.has("wh-aaaaaaaaaaaa kind=dummy", true)
}

// TestAccessFollows: addresses of the host's that come and go.
func TestAccessFollows(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.create(network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "attach", "direct", "host_access", "true"))
	h.join("b", "a", "192.0.2.50/24")
	troubles := func(want string) {
		t.Helper()
		h.reconciled(driver.Changes)
		if got := strings.Join(h.Troubles()[id("a")], "; "); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("troubles %q, want %q", got, want)
		}
	}
	troubles("")
	h.kernel.SetAddrs("eth0", addrs("192.0.2.10/24", "192.0.2.11/24")...) // one more
	if repaired := h.reconciled(driver.Changes); len(repaired) != 1 || !strings.Contains(repaired[0], "the host has other addresses there") {
		t.Errorf("repaired %q", repaired)
	}
	h.has("src 192.0.2.10", true)
	h.has("hosts=[192.0.2.10 192.0.2.11]", true)
	h.kernel.SetAddrs("eth0", addrs("192.0.2.11/24")...) // the old one goes, and its routes with it
	h.has("peer", false)
	troubles("")
	h.has("src 192.0.2.11", true)
	h.has("hosts=[192.0.2.11]", true)
	h.kernel.SetAddrs("eth0")
	troubles("it has no address in 192.0.2.0/24 on eth0: give it one")
	h.has("peer", false)
	h.has("hosts=", false)
	h.quiet()
	h.kernel.SetAddrs("eth0", addrs("192.0.2.12/24")...)
	troubles("")
	h.has("src 192.0.2.12", true)
	h.quiet()

	// What somebody did to the device, or to the routes by it, is mended.
	h.must(h.kernel.Lose("wh-aaaaaaaaaaaa"))
	if repaired := h.reconciled(driver.Changes); len(repaired) != 1 || !strings.Contains(repaired[0], "it is missing") {
		t.Errorf("repaired %q", repaired)
	}
	h.must(h.kernel.RemovePeers("wh-aaaaaaaaaaaa", []netip.Addr{netip.MustParseAddr("192.0.2.50")}))
	h.reconciled(driver.Changes)
	h.has("peer 192.0.2.50", true)
	// So it is with what an earlier process left.
	h.start()
	h.must(h.Leave(t.Context(), id("a"), id("b")))
	h.has("peer", false)
	h.join("c", "a", "192.0.2.51/24")
	h.start()
	h.must(h.kernel.EnsureShim(kernel.Shim{Child: kernel.Child{Kind: kernel.Macvlan, Name: "wh-bbbbbbbbbbbb", Parent: "eth0", Mode: "bridge"}}))
	h.reconciled(driver.Full)
	h.settle()
	h.must(h.kernel.DeleteDoomed())
	h.has("wh-bbbbbbbbbbbb", false)
	h.has("peer 192.0.2.51", true)
	h.quiet()
	h.must(h.Reset(t.Context()))
	h.has("wh-", false)
}

// TestAccessOff: the host does not reach a container whose address is another host's.
func TestAccessOff(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.create(network("a", "192.0.2.0/24", "mode", "macvlan", "parent", "eth0", "attach", "direct", "host_access", "true"))
	h.join("b", "a", "192.0.2.50/24")
	h.SetConflicts([]driver.Conflict{{Network: id("a"), Address: netip.MustParseAddr("192.0.2.50")}})
	h.reconciled(driver.Changes)
	h.has("peer", false)
	h.quiet()
	h.SetConflicts(nil)
	h.reconciled(driver.Changes)
	h.has("peer 192.0.2.50", true)
	h.has("hosts=[192.0.2.10]", true)
	h.quiet()
}

// TestAccessIPvlan: whose MAC address it is, and what needs none.
func TestAccessIPvlan(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.create(network("a", "192.0.2.0/24", "mode", "ipvlan", "parent", "eth0", "attach", "direct", "host_access", "true"))
	h.join("b", "a", "192.0.2.50/24")
	h.has("wh-aaaaaaaaaaaa kind=ipvlan", true)
	h.has("peer 192.0.2.50 lladdr 00:00:00:00:00:00 src 192.0.2.10", true)
	h.has("hosts=[192.0.2.10] at 02:00:00:00:00:01", true)
	h.quiet()
	// Where the host routes, any of its addresses there will do, and nobody asks for it.
	h.create(network("c", "10.5.0.0/24", "mode", "ipvlan", "parent", "eth1", "ipvlan_mode", "l3", "attach", "direct", "host_access", "true"))
	h.join("d", "c", "10.5.0.2/24")
	h.has("peer 10.5.0.2 lladdr 00:00:00:00:00:00 src 198.51.100.10", true)
	h.has("hosts=[198", false)
	h.quiet()
	// But a container without a way out answers only where it is.
	inner := network("e", "10.6.0.0/24", "mode", "ipvlan", "parent", "eth1", "ipvlan_mode", "l3", "attach", "direct", "host_access", "true")
	inner.Internal = true
	h.book.offer[id("e")] = []string{"10.6.0.200/24"}
	h.create(inner)
	h.join("f", "e", "10.6.0.2/24")
	h.has("peer 10.6.0.2 lladdr 00:00:00:00:00:00 src 10.6.0.200", true)
	// Reverse paths become strict: the host has to say no.
	_, err := h.kernel.EnsureSysctl(kernel.Sysctl{Key: "net.ipv4.conf.all.rp_filter", Value: "1"})
	h.must(err)
	h.reconciled(driver.Changes)
	if got := h.Troubles()[id("a")]; len(got) != 1 || !strings.Contains(got[0], "or set net.ipv4.conf.eth0.rp_filter=2, which is strict") {
		t.Errorf("troubles %q", got)
	}
	if got := slices.Concat(h.Troubles()[id("c")], h.Troubles()[id("e")]); len(got) > 0 {
		t.Errorf("troubles of those without need: %q", got)
	}
}

// TestAccessAtOnce: of many first containers one takes the host's address, and the host
// reaches all that stay.
func TestAccessAtOnce(t *testing.T) {
	h := newHouse(t)
	h.direct = true
	h.book.offer[id("a")] = []string{"10.5.0.200/24"}
	h.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "eth0.5", "attach", "direct", "host_access", "true"))
	const many = 16
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			ep := driver.Endpoint{ID: strings.Repeat(string(rune('A'+i)), 64), Network: id("a"), IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, 0, byte(i + 2)}), 24)}
			if _, err := h.CreateEndpoint(t.Context(), ep); err != nil {
				t.Error(err)
			}
			if _, err := h.Join(t.Context(), id("a"), ep.ID, sandboxPath, nil); err != nil {
				t.Error(err)
			}
			if i%2 == 1 {
				if err := h.Leave(t.Context(), id("a"), ep.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := strings.Count(h.kernel.Dump(), "src 10.5.0.200"); got != many/2 {
		t.Errorf("the host reaches %d containers:\n%s", got, h.kernel.Dump())
	}
	h.quiet()
}
