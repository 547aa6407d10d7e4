package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/directory/directorytest"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/hostport"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/overlay"
)

// book gives host N the addresses .200+N and ::200+N, once it takes them, and .220+N
// in place of one that it lost.
type book struct {
	mu     sync.Mutex
	number int
	taken  map[string]bool
	lost   bool
	alone  error
	domain string
}

func (b *book) HostAddresses(network string) (own, lost []netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.60.0.%d/24", 200+b.number))}
	switch {
	case !b.taken[network]:
		return nil, nil
	case b.lost:
		return nil, all
	}
	return all, nil
}

// lose lets another host have the address.
func (b *book) lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = true
}

func (b *book) TakeHostAddresses(_ context.Context, network string) ([]netip.Prefix, error) {
	b.mu.Lock()
	b.taken[network] = true
	if b.lost {
		b.lost, b.number = false, b.number+20
	}
	b.mu.Unlock()
	own, _ := b.HostAddresses(network)
	return own, nil
}

func (b *book) Shared(string, netip.Prefix) (string, error) { return b.domain, b.alone }

// noPorts reserves nothing.
type noPorts struct{}

func (noPorts) Reserve(hostport.Request) ([]hostport.Mapping, error) { return nil, nil }
func (noPorts) Release(string)                                       {}

// host is weft on one host, on fakes of everything below the seams.
type host struct {
	*testing.T
	*driver.Driver
	name      string
	dir       string
	store     cluster.Store
	journal   *journal.Journal
	kernel    *kernel.Fake
	fw        *firewall.Fake
	book      *book
	cluster   *cluster.Cluster
	directory *directory.Directory
	kind      *overlay.Kind
	underlay  netip.Addr
	mu        sync.Mutex
	weft      *directorytest.Host // the run
}

func newHost(t *testing.T, number int, s cluster.Store) *host {
	t.Helper()
	h := &host{T: t, name: fmt.Sprintf("h%d", number), dir: t.TempDir(), store: s, fw: &firewall.Fake{},
		book: &book{number: number, taken: map[string]bool{}}, underlay: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", number))}
	h.boot()
	h.start()
	return h
}

// boot begins with a kernel that has the host's own device and nothing else.
func (h *host) boot() {
	h.kernel = kernel.NewFake()
	h.kernel.AddDevice(kernel.Link{Name: "eth0", Up: true, MTU: 1500}, netip.PrefixFrom(h.at(), 24))
	h.kernel.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.0.2.254"), "eth0")
}

func (h *host) at() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.underlay
}

// start begins a run of weft on what its journal has.
func (h *host) start() {
	h.Helper()
	h.weft = directorytest.New(h.T, directorytest.Config{
		Name: h.name, Store: h.store, Dir: h.dir, Address: h.at, OnChange: func(uuid string) { h.kind.Changed(uuid) },
	})
	h.cluster, h.directory, h.journal = h.weft.Cluster, h.weft.Directory, h.weft.Journal
	h.kind = overlay.New(overlay.Config{
		Kernel: h.kernel, Firewall: h.fw, Ports: noPorts{}, Later: kernel.NewLater(h.kernel, 0, nil), Directory: h.directory, Addresses: h.book,
		Me: h.cluster.Me, Underlay: h.at, Peers: h.cluster.Addresses, Moved: h.cluster.Wake,
	})
	var err error
	h.Driver, err = driver.New(driver.Config{Journal: h.journal, Kernel: h.kernel, Firewall: h.fw, Kinds: map[string]driver.Kind{"overlay": h.kind}, DefaultMode: "overlay"})
	h.must(err)
	h.must(h.Restore(h.Context()))
	for _, n := range h.Networks() {
		h.kind.Attend(n)
	}
	h.weft.Start(h.kind.Run)
}

func (h *host) stop() { h.weft.Stop() }

// startAlone begins a run of a host that has no store any more.
func (h *host) startAlone() {
	h.Helper()
	j, err := journal.Open(filepath.Join(h.dir, "journal.db"))
	h.must(err)
	h.Cleanup(func() { j.Close() })
	h.kind = overlay.New(overlay.Config{Kernel: h.kernel, Firewall: h.fw, Ports: noPorts{}, Later: kernel.NewLater(h.kernel, 0, nil),
		Addresses: h.book, Underlay: func() netip.Addr { return netip.Addr{} }})
	h.Driver, err = driver.New(driver.Config{Journal: j, Kernel: h.kernel, Firewall: h.fw, Kinds: map[string]driver.Kind{"overlay": h.kind}, DefaultMode: "overlay"})
	h.must(err)
	h.must(h.Restore(h.Context()))
}

func (h *host) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// until waits for a condition.
func (h *host) until(what string, ok func() bool) {
	h.Helper()
	h.weft.Until(what, ok, h.kernel.Dump)
}

func (h *host) ready() {
	h.Helper()
	h.until("ready", h.weft.Ready)
}

func id(letter string) string { return strings.Repeat(letter, 64) }

func network(letter string, options ...string) driver.Network {
	p := netip.MustParsePrefix("10.60.0.0/24")
	n := driver.Network{ID: id(letter), Options: map[string]string{"net": "demo"}, IPv4: []driver.Subnet{{Pool: p, Gateway: p.Addr().Next()}}}
	for i := 0; i < len(options); i += 2 {
		n.Options[options[i]] = options[i+1]
	}
	if g := n.Options["gateway"]; g != "" {
		delete(n.Options, "gateway")
		n.IPv4[0].Gateway = netip.MustParseAddr(g)
	}
	return n
}

// container starts one with an address.
func (h *host) container(letter, net, addr string) driver.Endpoint {
	h.Helper()
	ep, err := h.CreateEndpoint(h.Context(), driver.Endpoint{ID: id(letter), Network: id(net), IPv4: netip.MustParsePrefix(addr)})
	h.must(err)
	h.join(ep)
	return ep
}

// join does all that an engine does.
func (h *host) join(ep driver.Endpoint) {
	h.Helper()
	h.joinDown(ep)
	h.comesUp(ep)
}

// joinDown stops where the engine has yet to move the link.
func (h *host) joinDown(ep driver.Endpoint) {
	h.Helper()
	h.kernel.AddSandbox("/sandbox")
	_, err := h.Join(h.Context(), ep.Network, ep.ID, "/sandbox", nil)
	h.must(err)
}

// comesUp is the container's end of the link coming up.
func (h *host) comesUp(ep driver.Endpoint) {
	h.kernel.Carry(ep2link(ep), true)
	h.kind.LinksChanged()
}

// programs reports whether the kernel has an entry with these words.
func (h *host) programs(words ...string) func() bool {
	return func() bool {
		for line := range strings.Lines(h.kernel.Dump()) {
			found := true
			for _, w := range words {
				found = found && strings.Contains(line, w)
			}
			if found {
				return true
			}
		}
		return false
	}
}

// cuts reports whether the firewall has a short cut with these words.
func (h *host) cuts(words string) func() bool {
	return func() bool {
		for line := range strings.Lines(h.fw.Dump()) {
			if strings.HasPrefix(line, "netdev ") && strings.Contains(line, words) {
				return true
			}
		}
		return false
	}
}

func not(ok func() bool) func() bool { return func() bool { return !ok() } }

func two(t *testing.T) (fake *store.Fake, a, b *host) {
	t.Helper()
	fake = store.NewFake()
	a, b = newHost(t, 1, fake.Peer()), newHost(t, 2, fake.Peer())
	a.ready()
	b.ready()
	a.must(a.CreateNetwork(t.Context(), network("a")))
	b.until("the name", func() bool { _, ok := b.directory.Named("demo"); return ok })
	b.must(b.CreateNetwork(t.Context(), network("b")))
	return fake, a, b
}

// three is two, and a third host that has the network as well.
func three(t *testing.T) (a, b, c *host) {
	t.Helper()
	fake, a, b := two(t)
	c = newHost(t, 3, fake.Peer())
	c.ready()
	c.must(c.CreateNetwork(t.Context(), network("e")))
	return a, b, c
}

func TestLife(t *testing.T) {
	fake, a, b := two(t)
	if x, y := a.Networks()[0].Shared, b.Networks()[0].Shared; x.UUID != y.UUID || x.VNI != y.VNI || x.MTU != 1450 || y.MTU != 1450 {
		t.Fatalf("%+v and %+v are not one network", x, y)
	}
	if strings.Contains(a.kernel.Dump(), "wf-") {
		t.Fatalf("a host without an endpoint takes part:\n%s", a.kernel.Dump())
	}
	if want := fmt.Sprintf("gw4 %q . 10.60.0.1\n", "wx-"+id("a")[:12]); !strings.Contains(a.fw.Dump(), want) {
		t.Errorf("the firewall is not told %q:\n%s", want, a.fw.Dump())
	}
	ep := a.container("c", "a", "10.60.0.5/24")
	b.container("d", "b", "10.60.0.6/24")
	b.until("a's container", b.programs("neigh 10.60.0.5", ep.MAC))
	b.until("a's tunnel end", b.programs("fdb "+ep.MAC, "dst 192.0.2.1"))
	b.until("a's own address", b.programs("neigh 10.60.0.201"))
	b.until("who waits for a's container is told", func() bool {
		return slices.ContainsFunc(b.kernel.Announced(), func(n kernel.Neighbor) bool { return n.IP.String() == "10.60.0.5" && n.MAC.String() == ep.MAC })
	})
	a.until("b's container", a.programs("neigh 10.60.0.6"))
	if slices.ContainsFunc(a.kernel.Announced(), func(n kernel.Neighbor) bool { return n.IP.String() == "10.60.0.5" }) {
		t.Fatal("a's container heard of its own address")
	}
	a.until("its own container is not asked for through the tunnel", a.programs("neigh 10.60.0.5"))
	a.must(a.Leave(t.Context(), id("a"), id("c")))
	b.until("it left", not(b.programs("neigh 10.60.0.5")))
	for _, h := range []*host{a, b} {
		for _, n := range h.Networks() {
			h.must(h.DeleteNetwork(t.Context(), n.ID))
		}
		for _, left := range []string{"wf-", "wx-", "fdb", "neigh"} {
			if strings.Contains(h.kernel.Dump(), left) {
				t.Errorf("%s is left:\n%s", left, h.kernel.Dump())
			}
		}
	}
	a.until("no key is left", func() bool {
		all, err := fake.Read(t.Context(), "")
		a.must(err)
		for _, kv := range all.KVs {
			for _, prefix := range []string{"net/", "name/", "vni/", "ep/"} {
				if strings.HasPrefix(kv.Key, prefix) {
					return false
				}
			}
		}
		return true
	})
}

// TestShortcuts: containers of two hosts have the short way from when both are known
// until one leaves, on a link of whatever index, and the bridge knows where they are.
func TestShortcuts(t *testing.T) {
	_, a, b := two(t)
	ep := a.container("c", "a", "10.60.0.5/24")
	a.until("the bridge keeps its place", a.programs("fdb "+ep.MAC, "dev "+ep2link(ep), "master"))
	if a.cuts("")() {
		t.Errorf("short cuts to nobody:\n%s", a.fw.Dump())
	}
	other := b.container("d", "b", "10.60.0.6/24")
	for h, macs := range map[*host][2]string{a: {ep.MAC, other.MAC}, b: {other.MAC, ep.MAC}} {
		h.until("one here", h.cuts("here "+macs[0]))
		h.until("one there", h.cuts("there "+macs[1]))
	}
	index := func() string {
		l, err := a.kernel.LinkByName(ep2link(ep))
		a.must(err)
		return fmt.Sprint(l.Index)
	}
	before := index()
	a.must(a.Leave(t.Context(), ep.Network, ep.ID))
	b.until("nobody there", not(b.cuts("")))
	a.until("nobody here", not(a.cuts("")))
	a.must(a.DeleteEndpoint(t.Context(), ep.Network, ep.ID))
	a.must(a.kernel.DeleteLink(ep2link(ep))) // nobody runs what does it later
	a.container("c", "a", "10.60.0.5/24")
	a.until("the same again", a.cuts("here "+ep.MAC+" : "+index()))
	if index() == before {
		t.Error("the new link is the old one")
	}
	b.until("there again", b.cuts("there "+ep.MAC))
	for _, n := range a.Networks() { // whoever deletes the tunnel: the new one is another
		a.must(a.kernel.DeleteLink(n.Tunnel))
	}
	_, err := a.Reconcile(t.Context(), driver.Full)
	a.must(err)
	a.until("on the new tunnel", func() bool { return a.cuts("here "+ep.MAC)() && a.programs("dst 192.0.2.2")() })
	for _, h := range []*host{a, b} {
		for _, n := range h.Networks() {
			h.must(h.DeleteNetwork(t.Context(), n.ID))
		}
		if h.cuts("")() {
			t.Errorf("%s: left:\n%s", h.name, h.fw.Dump())
		}
	}
}

func ep2link(ep driver.Endpoint) string { return driver.PrefixHost + ep.ID[:12] }

// TestShortcutsWait: a container gets no frame past its port of the bridge before that
// forwards. It would ask for who sent it, and the bridge would drop that: the kernel asks
// again a second later.
func TestShortcutsWait(t *testing.T) {
	_, a, b := two(t)
	other := b.container("d", "b", "10.60.0.6/24")
	a.container("e", "a", "10.60.0.7/24")
	a.until("short cuts of the first", a.cuts("there "+other.MAC))
	ep, err := a.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("c"), Network: id("a"), IPv4: netip.MustParsePrefix("10.60.0.5/24")})
	a.must(err)
	a.joinDown(ep)
	b.until("the other host's side is ready", b.cuts("there "+ep.MAC))
	third := b.container("f", "b", "10.60.0.8/24")
	a.until("the next look at the network", a.cuts("there "+third.MAC))
	if !a.programs("fdb "+ep.MAC)() || a.cuts("here "+ep.MAC)() {
		t.Errorf("a link that is not running:\n%s\n%s", a.kernel.Dump(), a.fw.Dump())
	}
	a.comesUp(ep)
	a.until("it runs", a.cuts("here "+ep.MAC))
	a.kernel.Carry(ep2link(ep), false)
	b.container("1", "b", "10.60.0.9/24")
	a.until("it does not", not(a.cuts("here "+ep.MAC)))
}

// TestShortcutsFail: what the firewall does not take is tried again.
func TestShortcutsFail(t *testing.T) {
	_, a, b := two(t)
	ep := a.container("c", "a", "10.60.0.5/24")
	a.until("a's own", a.programs("fdb "+ep.MAC))
	a.fw.Fail(errors.New("boom"))
	other := b.container("d", "b", "10.60.0.6/24")
	a.until("entries without short cuts", a.programs("fdb "+other.MAC))
	a.fw.Fail(nil)
	a.until("short cuts", a.cuts("there "+other.MAC))
}

// TestMove: an address that starts on another host is there at once, whatever becomes
// of the record of where it was.
func TestMove(t *testing.T) {
	a, b, c := three(t)
	c.container("f", "e", "10.60.0.9/24")
	ep := a.container("c", "a", "10.60.0.5/24")
	c.until("it is on a", c.programs("fdb "+ep.MAC, "dst 192.0.2.1"))
	a.store.(*store.Fake).SetDown(true) // a's withdrawal does not arrive
	a.must(a.Leave(t.Context(), id("a"), id("c")))
	moved := b.container("d", "b", "10.60.0.5/24")
	if moved.MAC != ep.MAC {
		t.Fatalf("%s became %s", ep.MAC, moved.MAC)
	}
	c.until("it is on b", c.programs("fdb "+ep.MAC, "dst 192.0.2.2"))
	a.store.(*store.Fake).SetDown(false)
	a.until("a knows it too", a.programs("fdb "+ep.MAC, "dst 192.0.2.2"))
	if c.programs("fdb "+ep.MAC, "dst 192.0.2.1")() {
		t.Fatal("a stale entry came back")
	}
}

// TestRestart: what is programmed stays while weft is away, and while the store is.
func TestRestart(t *testing.T) {
	_, a, b := two(t)
	ep := a.container("c", "a", "10.60.0.5/24")
	other := b.container("d", "b", "10.60.0.6/24")
	a.until("b's", a.programs("neigh 10.60.0.6"))
	a.stop()
	before := a.kernel.Dump()
	a.store.(*store.Fake).SetDown(true)
	b.must(b.Leave(t.Context(), id("b"), other.ID))
	a.start()
	_, err := a.Reconcile(t.Context(), driver.Full)
	a.must(err)
	if after := a.kernel.Dump(); after != before {
		t.Fatalf("changed from\n%s\nto\n%s", before, after)
	}
	a.store.(*store.Fake).SetDown(false)
	a.until("b's container is gone", not(a.programs("neigh 10.60.0.6")))
	b.until("a's container is not", b.programs("neigh 10.60.0.5", ep.MAC))
}

// TestRepair: what somebody deletes or adds is put right by the next full look.
func TestRepair(t *testing.T) {
	_, a, b := two(t)
	a.container("c", "a", "10.60.0.5/24")
	b.container("d", "b", "10.60.0.6/24")
	a.until("b's", a.programs("neigh 10.60.0.6"))
	before := a.kernel.Dump()
	for _, n := range a.Networks() {
		for _, device := range []string{n.Tunnel, n.Device} {
			a.must(a.kernel.DeleteLink(device))
			if _, err := a.Reconcile(t.Context(), driver.Full); err != nil {
				t.Fatal(err)
			}
			a.until("as before without "+device, func() bool { return a.programs("neigh 10.60.0.6")() && a.programs("dst 192.0.2.2")() })
		}
		have, err := a.kernel.FDB(n.Tunnel)
		a.must(err)
		a.must(a.kernel.ApplyForwarding(kernel.ForwardingChanges{Delete: kernel.Forwarding{FDB: have}}))
	}
	_, err := a.Reconcile(t.Context(), driver.Full)
	a.must(err)
	a.until("entries are back", a.programs("dst 192.0.2.2"))
	if len(before) == 0 {
		t.Fatal("there was nothing")
	}
}

// TestUnderlayMoves: a host with a new address is reached there.
func TestUnderlayMoves(t *testing.T) {
	_, a, b := two(t)
	ep := a.container("c", "a", "10.60.0.5/24")
	b.container("d", "b", "10.60.0.6/24")
	b.until("a's", b.programs("fdb "+ep.MAC, "dst 192.0.2.1"))
	a.moveTo("192.0.2.77")
	b.until("a's new address", b.programs("fdb "+ep.MAC, "dst 192.0.2.77"))
	a.until("a's own device", a.programs("wx-", "192.0.2.77"))
}

// TestClash: nothing is sent to a peer that is said to be where this host is, the others
// go on, and all is well when the peer has an address of its own, or this host has not.
func TestClash(t *testing.T) {
	a, b, c := three(t)
	a.container("c", "a", "10.60.0.5/24")
	theirs := b.container("d", "b", "10.60.0.6/24")
	c.container("f", "e", "10.60.0.9/24")
	a.until("b's", a.programs("fdb "+theirs.MAC, "dst 192.0.2.2"))
	b.moveTo("192.0.2.1")
	a.until("b is where a is", not(a.programs("fdb "+theirs.MAC)))
	if a.programs("fdb", "dst 192.0.2.1")() {
		t.Fatalf("a sends to itself:\n%s", a.kernel.Dump())
	}
	a.until("c's goes on", a.programs("fdb", "dst 192.0.2.3"))
	c.until("and c sends there", c.programs("fdb "+theirs.MAC, "dst 192.0.2.1"))
	b.moveTo("192.0.2.22")
	a.until("b's is back", a.programs("fdb "+theirs.MAC, "dst 192.0.2.22"))
	a.kernel.AddDevice(kernel.Link{Name: "eth1", Up: true, MTU: 1500}, netip.MustParsePrefix("192.0.2.22/32"))
	a.until("a got that address too", not(a.programs("fdb", "dst 192.0.2.22")))
	a.must(a.kernel.DeleteLink("eth1"))
	a.until("and lost it", a.programs("fdb "+theirs.MAC, "dst 192.0.2.22"))
}

// moveTo gives the host another underlay address.
func (h *host) moveTo(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underlay = netip.MustParseAddr(addr)
}

func TestRefusals(t *testing.T) {
	_, a, _ := two(t)
	for name, c := range map[string]struct {
		network driver.Network
		do      func()
		err     error
		words   string
	}{
		"encrypted":       {network("c", "encrypted", ""), nil, driver.ErrOption, "WireGuard"},
		"VNI 0":           {network("c", "com.docker.network.driver.overlay.vxlanid_list", "0"), nil, driver.ErrOption, "1 to 16777215"},
		"VNI too large":   {network("c", "com.docker.network.driver.overlay.vxlanid_list", "16777216"), nil, driver.ErrOption, "1 to 16777215"},
		"MTU too large":   {network("c", "com.docker.network.driver.mtu", "1451"), nil, driver.ErrOption, "leaves 1450 bytes"},
		"same subnet":     {network("c", "net", "other"), nil, driver.ErrConflict, "overlapping"},
		"a name":          {network("c", "net", "a\tb"), nil, driver.ErrOption, "control characters"},
		"another gateway": {network("c", "net", "demo", "gateway", "10.60.0.254"), nil, driver.ErrConflict, "gateway of 10.60.0.0/24:10.60.0.254"},
		"another IPAM":    {network("c"), func() { a.book.alone = errors.New("another IPAM driver") }, driver.ErrOption, "another IPAM driver"},
		"store is down":   {network("c", "net", "third"), func() { a.store.(*store.Fake).SetDown(true) }, directory.ErrNoStore, "known to all hosts"},
		"other options":   {network("c", "com.docker.network.driver.mtu", "1400"), nil, driver.ErrConflict, "options map["},
		"another domain":  {network("c"), func() { a.book.domain = "lab" }, driver.ErrConflict, "domain:lab"},
		"nothing at hand": {driver.Network{ID: id("c"), Options: map[string]string{}}, nil, driver.ErrOption, "needs a subnet"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.words != "overlapping" { // the others are refused for what they are
				a.must(a.DeleteNetwork(t.Context(), id("a")))
			}
			if c.do != nil {
				c.do()
			}
			err := a.CreateNetwork(t.Context(), c.network)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v", err)
			}
			if strings.Contains(a.kernel.Dump(), "wf-") {
				t.Errorf("something is left:\n%s", a.kernel.Dump())
			}
			a.book.alone, a.book.domain = nil, ""
			a.store.(*store.Fake).SetDown(false)
			a.ready()
			if len(a.Networks()) == 0 {
				a.must(a.CreateNetwork(t.Context(), network("a")))
			}
		})
	}
}

// late is a directory whose watch has not brought any name yet.
type late struct{ *directory.Directory }

func (late) Named(string) (directory.Network, bool) { return directory.Network{}, false }

// TestNameOfAMomentAgo: a name that another host just took is its network's, and nobody
// is told that it is taken.
// TestFirstContainer: what is in the way of a network shows when the first container comes,
// and then nothing is half made.
func TestFirstContainer(t *testing.T) {
	_, a, _ := two(t)
	ep, err := a.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("1"), Network: id("a"), IPv4: netip.MustParsePrefix("10.60.0.9/24")})
	a.must(err)
	refused := func(err error, words string) {
		t.Helper()
		a.kernel.AddSandbox("/sandbox")
		_, got := a.Join(t.Context(), ep.Network, ep.ID, "/sandbox", nil)
		if !errors.Is(got, err) || !strings.Contains(got.Error(), words) {
			t.Errorf("%v", got)
		}
		if dump := a.kernel.Dump(); strings.Contains(dump, "wf-") {
			t.Errorf("left over:\n%s", dump)
		}
	}
	a.kernel.AddDevice(kernel.Link{Name: "br-other", Up: true, MTU: 1500}, netip.MustParsePrefix("10.60.0.1/16"))
	refused(driver.ErrConflict, "10.60.0.0/24 overlaps the host's route to 10.60.0.0/16 by br-other")
	a.must(a.kernel.DeleteLink("br-other"))
	a.kernel.HoldUDPPort(overlay.DefaultPort, true)
	refused(kernel.ErrPortInUse, "is taken")
	a.kernel.HoldUDPPort(overlay.DefaultPort, false)
	a.join(ep)
}

func TestNameOfAMomentAgo(t *testing.T) {
	_, a, b := two(t)
	kind := overlay.New(overlay.Config{Kernel: b.kernel, Firewall: b.fw, Ports: noPorts{}, Directory: late{b.directory}, Addresses: b.book, Me: b.cluster.Me, Underlay: b.at})
	n := network("c")
	n.Mode = "overlay"
	got, err := kind.PlanNetwork(t.Context(), n, nil)
	b.must(err)
	if want := a.Networks()[0].Shared; got.Shared.UUID != want.UUID || got.Shared.VNI != want.VNI {
		t.Fatalf("%+v is not %+v", got.Shared, want)
	}
}

// TestStoreIsTakenAway: WEFT_STORE is not set any more. What runs stays as it is, new
// endpoints are refused with what to do, and everything can be removed.
func TestStoreIsTakenAway(t *testing.T) {
	_, a, b := two(t)
	a.container("c", "a", "10.60.0.5/24")
	b.container("d", "b", "10.60.0.6/24")
	a.until("b's container", a.programs("neigh 10.60.0.6"))
	a.stop()
	before := a.kernel.Dump()
	a.startAlone()
	if _, err := a.Reconcile(t.Context(), driver.Full); err != nil || a.kernel.Dump() != before {
		t.Errorf("%v; the kernel has\n%s, not\n%s", err, a.kernel.Dump(), before)
	}
	ep, err := a.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("e"), Network: id("a"), IPv4: netip.MustParsePrefix("10.60.0.7/24")})
	a.must(err)
	if _, err = a.Join(t.Context(), ep.Network, ep.ID, "/sandbox", nil); !errors.Is(err, overlay.ErrAlone) {
		t.Errorf("a container starts: %v", err)
	}
	a.must(a.Leave(t.Context(), id("a"), id("c")))
	for _, ep := range []string{"c", "e"} {
		a.must(a.DeleteEndpoint(t.Context(), id("a"), id(ep)))
	}
	a.must(a.DeleteNetwork(t.Context(), id("a")))
	if left := a.kernel.Dump(); strings.Contains(left, "wf-") || strings.Contains(left, "wx-") {
		t.Errorf("left:\n%s", left)
	}
}

// TestAlone: without a store the error says what to set.
func TestAlone(t *testing.T) {
	kind := overlay.New(overlay.Config{Kernel: kernel.NewFake(), Firewall: &firewall.Fake{}})
	_, err := kind.PlanNetwork(t.Context(), network("a"), nil)
	hint, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if !errors.Is(err, overlay.ErrAlone) || !ok || !strings.Contains(hint.Hint(), "WEFT_STORE") {
		t.Fatal(err)
	}
}
