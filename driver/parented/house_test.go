package parented_test

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weft-net/weft/bridge"
	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/hostport"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/ipvlan"
	"github.com/weft-net/weft/macvlan"
)

// ports hands out none.
type ports struct{}

func (ports) Reserve(hostport.Request) ([]hostport.Mapping, error) { return nil, nil }
func (ports) Release(string)                                       {}

// house is a driver with all local kinds on fakes.
type house struct {
	testing.TB
	*driver.Driver
	path   string
	kernel *kernel.Fake
	later  *kernel.Later
	direct bool
	j      *journal.Journal
	mac    *macvlan.Kind
	ipv    *ipvlan.Kind
	book   *book
	// looked is what reconcile told last of the kernel.
	looked driver.Actual
	// before is done once, when a container is about to be told of the host.
	before atomic.Pointer[func()]
	// during, if there is one, is told of calls of the kernel before they are made.
	during func(call string)
}

// teller is the kernel of a house.
type teller struct {
	*kernel.Fake
	house *house
}

func (k teller) tell(call string) {
	if k.house.during != nil {
		k.house.during(call)
	}
}

func (k teller) TryChild(c kernel.Child) error {
	k.tell("TryChild")
	return k.Fake.TryChild(c)
}

func (k teller) AddChild(c kernel.Child) error {
	k.tell("AddChild")
	return k.Fake.AddChild(c)
}

func (k teller) EnsureVLAN(v kernel.VLAN) (made bool, err error) {
	k.tell("EnsureVLAN")
	return k.Fake.EnsureVLAN(v)
}

func (k teller) EnsureHosts(sandbox, alias string, hosts kernel.Hosts) error {
	if before := k.house.before.Swap(nil); before != nil {
		(*before)()
	}
	return k.Fake.EnsureHosts(sandbox, alias, hosts)
}

// sandboxPath is where the containers' namespace is.
const sandboxPath = "/run/netns/x"

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{TB: t, path: filepath.Join(t.TempDir(), "journal.db"), kernel: kernel.NewFake(), book: newBook()}
	h.kernel.AddDevice(kernel.Link{Name: "eth0", Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 1}}, netip.MustParsePrefix("192.0.2.10/24"))
	h.kernel.AddDevice(kernel.Link{Name: "eth1", Up: true, Carrier: true, MAC: kernel.MAC{2, 0, 0, 0, 0, 2}}, netip.MustParsePrefix("198.51.100.10/24"))
	h.kernel.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.0.2.1"), "eth0")
	h.kernel.AddRoute(netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr("192.0.2.1"), "eth0")
	h.kernel.AddSandbox(sandboxPath)
	h.later = kernel.NewLater(h.kernel, 0, nil)
	h.start()
	t.Cleanup(func() {
		if err := h.j.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// start makes the driver from the journal, as after a restart of weft.
func (h *house) start() {
	h.Helper()
	var err error
	if h.j != nil {
		h.must(h.j.Close())
	}
	h.j, err = journal.Open(h.path)
	h.must(err)
	safe := func() (bool, string) { return h.direct, "the test says so" }
	parents := parented.NewParents(teller{h.kernel, h}, nil)
	cfg := parented.Config{Kernel: teller{h.kernel, h}, Later: h.later, Parents: parents, Addresses: h.book, Seed: "seed", DirectSafe: safe}
	fw := &firewall.Fake{}
	h.mac, h.ipv = macvlan.New(cfg), ipvlan.New(cfg)
	h.Driver, err = driver.New(driver.Config{Journal: h.j, Kernel: h.kernel, Firewall: fw, OnLook: func(a driver.Actual) { h.looked = a }, Kinds: map[string]driver.Kind{
		"macvlan": h.mac, "ipvlan": h.ipv,
		"bridge": bridge.New(bridge.Config{Kernel: h.kernel, Firewall: fw, Ports: ports{}, Later: h.later, Seed: "seed", DirectSafe: safe}),
	}})
	h.must(err)
	h.must(h.Restore(h.Context()))
	for _, n := range h.Networks() {
		parents.Attend(n)
	}
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// id makes an engine's id from a letter.
func id(letter string) string { return strings.Repeat(letter, 64) }

// network is one with a gateway, the first address of its subnet.
func network(letter, subnet string, options ...string) driver.Network {
	n := driver.Network{ID: id(letter), Options: map[string]string{}}
	for i := 0; i < len(options); i += 2 {
		n.Options[options[i]] = options[i+1]
	}
	for text := range strings.SplitSeq(subnet, " ") {
		s := driver.Subnet{Pool: netip.MustParsePrefix(text)}
		s.Gateway = s.Pool.Addr().Next()
		if s.Pool.Addr().Is4() {
			n.IPv4 = append(n.IPv4, s)
		} else {
			n.IPv6 = append(n.IPv6, s)
		}
	}
	return n
}

// create makes a network.
func (h *house) create(n driver.Network) {
	h.Helper()
	h.must(h.CreateNetwork(h.Context(), n))
}

// join makes an endpoint of a network and joins it.
func (h *house) join(letter, net, addr string, wanted ...driver.Binding) (driver.Endpoint, driver.JoinAnswer) {
	h.Helper()
	_, err := h.CreateEndpoint(h.Context(), driver.Endpoint{ID: id(letter), Network: id(net), IPv4: netip.MustParsePrefix(addr)})
	h.must(err)
	answer, err := h.Join(h.Context(), id(net), id(letter), sandboxPath, wanted)
	h.must(err)
	eps := h.Endpoints(id(net))
	return eps[slices.IndexFunc(eps, func(e driver.Endpoint) bool { return e.ID == id(letter) })], answer
}

// end takes an endpoint off its network.
func (h *house) end(letter, net string) {
	h.Helper()
	h.must(h.Leave(h.Context(), id(net), id(letter)))
	h.must(h.DeleteEndpoint(h.Context(), id(net), id(letter)))
}

// settle does what nobody waits for.
func (h *house) settle() {
	h.Helper()
	ctx, cancel := context.WithCancel(h.Context())
	cancel()
	h.must(h.later.Run(ctx))
}

// reconciled are the repairs of one reconciliation.
func (h *house) reconciled(depth driver.Depth) []string {
	h.Helper()
	report, err := h.Reconcile(h.Context(), depth)
	h.must(err)
	return report.Repaired
}

// has looks for words in what the kernel has.
func (h *house) has(words string, want bool) {
	h.Helper()
	if d := h.kernel.Dump(); strings.Contains(d, words) != want {
		h.Errorf("%q in the kernel: %t, want %t:\n%s", words, !want, want, d)
	}
}
