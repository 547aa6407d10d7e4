package parented_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
	"github.com/weft-net/weft/ipvlan"
	"github.com/weft-net/weft/macvlan"
)

// line is a host on a real kernel with a card e0, and a machine at the other end of its
// cable that is no container.
type line struct {
	testing.TB
	*driver.Driver
	kernel  *kernel.Host
	machine string
	direct  bool
	book    *book
	own     string // the host's namespace
	path    string // of the journal
	journal *journal.Journal
	macvlan *macvlan.Kind
	stop    func()
	lent    map[string]guest // by endpoint
}

// guest is a device of the host's that the engine moved into a sandbox.
type guest struct{ sandbox, name, srcName string }

func newLine(t *testing.T) *line {
	t.Helper()
	l := &line{TB: t, kernel: kerneltest.Host(t), machine: kerneltest.Namespace(t), book: newBook(), lent: map[string]guest{}}
	l.own = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()) // of a thread that is the test's until its end
	l.plug()
	l.path = filepath.Join(t.TempDir(), "journal.db")
	l.start()
	t.Cleanup(func() { l.stop() })
	return l
}

// plug makes the host's card and the cable to the machine.
func (l *line) plug() {
	l.Helper()
	l.host("ip", "link", "add", "e0", "type", "veth", "peer", "name", "e1", "netns", l.machine)
	l.host("ip", "link", "set", "e0", "up")
	l.at(l.machine, "ip", "link", "set", "e1", "up")
}

// boot cuts the host's power and starts it with a card like the one before, and with what
// begins before weft. All that was on the old one, in sandboxes as well, is gone with it.
func (l *line) boot(begin func()) {
	l.Helper()
	l.stop()
	l.host("ip", "link", "del", "e0")
	clear(l.lent)
	l.plug()
	begin()
	l.start()
	_, err := l.Reconcile(l.Context(), driver.Full)
	l.must(err)
}

// start makes the driver from the journal, as weft does when it starts.
func (l *line) start() {
	l.Helper()
	j, err := journal.Open(l.path)
	l.must(err)
	later, parents := kernel.NewLater(l.kernel, 0, nil), parented.NewParents(l.kernel, nil)
	cfg := parented.Config{Kernel: l.kernel, Later: later, Parents: parents, Addresses: l.book, Seed: "seed",
		DirectSafe: func() (bool, string) { return l.direct, "the test says so" }}
	mac, ipv := macvlan.New(cfg), ipvlan.New(cfg)
	l.journal, l.macvlan = j, mac
	l.Driver, err = driver.New(driver.Config{Journal: j, Kernel: l.kernel, Firewall: &firewall.Fake{},
		Kinds: map[string]driver.Kind{"macvlan": mac, "ipvlan": ipv}, DefaultMode: "macvlan"})
	l.must(err)
	l.must(l.Restore(l.Context()))
	for _, n := range l.Networks() {
		parents.Attend(n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 3)
	for _, run := range []func(context.Context) error{later.Run, mac.Run, ipv.Run} {
		go func() { // announcements leave by the namespace of their thread
			done <- kerneltest.Within(l.own, func() error { return run(ctx) })
		}()
	}
	l.stop = sync.OnceFunc(func() {
		cancel()
		for range cap(done) {
			l.must(<-done)
		}
		l.must(j.Close())
	})
}

func (l *line) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *line) host(args ...string) string { l.Helper(); return kerneltest.Run(l, "", args...) }

func (l *line) at(ns string, args ...string) string {
	l.Helper()
	return kerneltest.Run(l, ns, args...)
}

// create makes networks.
func (l *line) create(networks ...driver.Network) {
	l.Helper()
	for _, n := range networks {
		l.must(l.CreateNetwork(l.Context(), n))
	}
}

// remove removes networks.
func (l *line) remove(letters ...string) {
	l.Helper()
	for _, letter := range letters {
		l.must(l.DeleteNetwork(l.Context(), id(letter)))
	}
}

// container is one on a network: its sandbox.
func (l *line) container(letter, net string, addrs ...string) string {
	l.Helper()
	ns := kerneltest.Namespace(l)
	ep := driver.Endpoint{ID: id(letter), Network: id(net)}
	for _, a := range addrs {
		if p := netip.MustParsePrefix(a); p.Addr().Is4() {
			ep.IPv4 = p
		} else {
			ep.IPv6 = p
		}
	}
	l.joins(ns, ep)
	return ns
}

// joins puts an endpoint into a sandbox.
func (l *line) joins(ns string, ep driver.Endpoint) {
	l.Helper()
	_, err := l.CreateEndpoint(l.Context(), ep)
	l.must(err)
	answer, err := l.Join(l.Context(), ep.Network, ep.ID, ns, nil)
	l.must(err)
	l.asEngine(ns, answer, ep)
}

// asEngine does with a Join's answer what the engine does.
func (l *line) asEngine(ns string, a driver.JoinAnswer, ep driver.Endpoint) {
	l.Helper()
	name, commands := "weft0", []string(nil)
	if a.SrcName != "" {
		name = "eth0"
		l.host("ip", "link", "set", a.SrcName, "netns", ns, "name", name)
		if ep.MAC != "" {
			commands = append(commands, "link set "+name+" address "+ep.MAC)
		}
		l.lent[ep.ID] = guest{ns, name, a.SrcName}
		for _, p := range ep.Addrs() {
			command := "addr add " + p.String() + " dev " + name
			if p.Addr().Is6() {
				command += " nodad"
			}
			commands = append(commands, command)
		}
		commands = append(commands, "link set "+name+" up")
		for _, r := range a.Routes {
			commands = append(commands, "route add "+r.Destination.String()+" dev "+name)
		}
	}
	for _, gw := range []netip.Addr{a.Gateway4, a.Gateway6} {
		if gw.IsValid() {
			commands = append(commands, "route add default via "+gw.String()+" dev "+name)
		}
	}
	if len(commands) > 0 { // in one go: in the machine of package vm the start of ip is most of it
		file := filepath.Join(l.TempDir(), "commands")
		l.must(os.WriteFile(file, []byte(strings.Join(commands, "\n")+"\n"), 0o600))
		l.at(ns, "ip", "-batch", file)
	}
}

// end takes a container off its network.
func (l *line) end(letter, net string) {
	l.Helper()
	l.must(l.Leave(l.Context(), id(net), id(letter)))
	if g, ok := l.lent[id(letter)]; ok { // the engine gives it back
		l.at(g.sandbox, "ip", "link", "set", g.name, "down")
		l.at(g.sandbox, "ip", "link", "set", g.name, "netns", l.own, "name", g.srcName)
		delete(l.lent, id(letter))
	}
	l.must(l.DeleteEndpoint(l.Context(), id(net), id(letter)))
}

// talks waits until an address answers from a namespace.
func (l *line) talks(ns, address string) {
	l.Helper()
	const patience = 10
	for range patience {
		if kerneltest.Answers(l, ns, address, time.Second) {
			return
		}
	}
	l.Errorf("%s does not answer:\n%s", address, l.at(ns, "sh", "-c", "ip -d addr; ip route; ip neigh"))
}

// silent makes sure that an address does not answer.
func (l *line) silent(ns, address string) {
	l.Helper()
	if kerneltest.Answers(l, ns, address, 500*time.Millisecond) {
		l.Errorf("%s answers", address)
	}
}

// bothWays tells a story with both ways to attach.
func bothWays(t *testing.T, story func(l *line)) {
	t.Helper()
	for name, direct := range map[string]bool{"docker": false, "direct": true} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			l.direct = direct
			story(l)
		})
	}
}

// directly tells it with attach=direct alone.
func directly(t *testing.T, story func(l *line)) {
	t.Helper()
	l := newLine(t)
	l.direct = true
	story(l)
}

// TestMacvlanOnTheLine: containers and a machine that is none, each of the modes, both
// families.
func TestMacvlanOnTheLine(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	bothWays(t, func(l *line) {
		before := l.host("ip", "-o", "link")
		l.at(l.machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "e1")
		l.at(l.machine, "ip", "addr", "add", "fd09::1/64", "dev", "e1", "nodad")
		l.at(l.machine, "ip", "addr", "add", "203.0.113.1/32", "dev", "lo") // behind the router
		l.must(l.CreateNetwork(l.Context(), network("a", "10.9.0.0/24 fd09::/64", "mode", "macvlan", "parent", "e0", "attach", "direct")))
		l.must(l.CreateNetwork(l.Context(), network("b", "10.10.0.0/24", "mode", "macvlan", "parent", "e0", "attach", "direct", "macvlan_mode", "private")))
		l.must(l.CreateNetwork(l.Context(), network("c", "10.11.0.0/24", "mode", "macvlan", "parent", "e0", "attach", "direct", "macvlan_mode", "vepa")))
		one, two := l.container("1", "a", "10.9.0.2/24", "fd09::2/64"), l.container("2", "a", "10.9.0.3/24", "fd09::3/64")
		for _, to := range []string{"10.9.0.1", "fd09::1", "10.9.0.3", "fd09::3", "203.0.113.1"} {
			l.talks(one, to)
		}
		l.talks(l.machine, "10.9.0.2")
		l.talks(two, "10.9.0.2")
		for net, subnet := range map[string]string{"b": "10.10.0.", "c": "10.11.0."} {
			l.at(l.machine, "ip", "addr", "add", subnet+"1/24", "dev", "e1")
			alone, other := l.container("3"+net, net, subnet+"2/24"), l.container("4"+net, net, subnet+"3/24")
			l.talks(alone, subnet+"1")
			l.talks(other, subnet+"1")
			l.silent(alone, subnet+"3") // the machine is no switch that sends frames back
			l.end("3"+net, net)
			l.end("4"+net, net)
		}
		l.end("1", "a")
		l.end("2", "a")
		for _, net := range []string{"a", "b", "c"} {
			l.must(l.DeleteNetwork(l.Context(), id(net)))
		}
		l.as(before)
	})
}

// as waits until the host has the same devices as before. What the engine moved it takes
// back before it says that an endpoint is deleted; here it goes with its sandbox.
func (l *line) as(before string) {
	l.Helper()
	// The carrier of a device shows a moment after it does.
	carrier := regexp.MustCompile(`NO-CARRIER,|,LOWER_UP|,M-DOWN| state \w+`)
	before = carrier.ReplaceAllString(before, "")
	var after string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		if after = carrier.ReplaceAllString(l.host("ip", "-o", "link"), ""); after == before {
			return
		}
	}
	l.Errorf("the host has other devices (-before +after):\n%s", cmp.Diff(strings.Split(before, "\n"), strings.Split(after, "\n")))
}

// TestPassthru gives the parent to one container.
func TestPassthru(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	bothWays(t, func(l *line) {
		before := l.host("ip", "-o", "link")
		l.at(l.machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "e1")
		l.must(l.CreateNetwork(l.Context(), network("a", "10.9.0.0/24", "mode", "macvlan", "parent", "e0", "attach", "direct", "macvlan_mode", "passthru")))
		l.talks(l.container("1", "a", "10.9.0.2/24"), "10.9.0.1")
		if mac := l.Endpoints(id("a"))[0].MAC; !strings.Contains(l.host("ip", "-o", "link", "show", "e0"), mac) {
			t.Errorf("the container has %s, and the parent another one", mac)
		}
		// With an address of its own it gives that to the parent, which gets its own back.
		own := l.Endpoints(id("a"))[0].MAC
		l.end("1", "a")
		l.as(before)
		ns := kerneltest.Namespace(t)
		l.joins(ns, driver.Endpoint{ID: id("1"), Network: id("a"), IPv4: netip.MustParsePrefix("10.9.0.2/24"), MAC: "02:00:00:00:99:01"})
		l.talks(ns, "10.9.0.1")
		for where, links := range map[string]string{"the container": l.at(ns, "ip", "-o", "link"), "the parent": l.host("ip", "-o", "link", "show", "e0")} {
			if !strings.Contains(links, "02:00:00:00:99:01") {
				t.Errorf("%s has not got the MAC address:\n%s", where, links)
			}
		}
		l.end("1", "a")
		l.as(before)
		if links := l.host("ip", "-o", "link", "show", "e0"); !strings.Contains(links, own) {
			t.Errorf("the parent has not got its MAC address %s back:\n%s", own, links)
		}
		l.container("1", "a", "10.9.0.2/24")
		_, err := l.CreateEndpoint(l.Context(), driver.Endpoint{ID: id("2"), Network: id("a"), IPv4: netip.MustParsePrefix("10.9.0.3/24")})
		l.must(err)
		if _, err := l.Join(l.Context(), id("a"), id("2"), kerneltest.Namespace(t), nil); err == nil || !strings.Contains(err.Error(), "bears one container in this mode") {
			t.Errorf("a second container: %v", err)
		}
		if err := l.CreateNetwork(l.Context(), network("b", "10.8.0.0/24", "mode", "macvlan", "parent", "e0")); err == nil || !strings.Contains(err.Error(), "cannot use mode passthru") {
			t.Errorf("a second network: %v", err)
		}
		l.end("1", "a")
		l.must(l.DeleteEndpoint(l.Context(), id("a"), id("2")))
		l.remove("a")
		l.as(before)
	})
}

// TestForeignHolder: what somebody else has on the parent is told, and nothing stays.
func TestForeignHolder(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	l := newLine(t)
	l.host("ip", "link", "add", "theirs", "link", "e0", "type", "macvlan", "mode", "passthru")
	before := l.host("ip", "-o", "link")
	err := l.CreateNetwork(t.Context(), network("a", "10.9.0.0/24", "mode", "macvlan", "parent", "e0"))
	if err == nil || !strings.Contains(err.Error(), "it is held by theirs (macvlan)") {
		t.Errorf("the parent of a passthru device: %v", err)
	}
	l.as(before)
}

// TestMixed: macvlan and ipvlan share no parent, whoever has the other one.
func TestMixed(t *testing.T) {
	kerneltest.Needs(t, "macvlan", "ipvlan", "vlan")
	l := newLine(t)
	l.must(l.CreateNetwork(t.Context(), network("a", "10.9.0.0/24", "mode", "macvlan", "parent", "e0")))
	l.must(l.CreateNetwork(t.Context(), network("c", "10.7.0.0/24", "mode", "ipvlan", "parent", "e0", "vlan", "7")))
	before := l.host("ip", "-o", "link")
	ns := l.container("1", "a", "10.9.0.2/24")
	if err := l.CreateNetwork(t.Context(), network("b", "10.8.0.0/24", "mode", "ipvlan", "parent", "e0")); err == nil ||
		!strings.Contains(err.Error(), "macvlan network aaaaaaaaaaaa is already using parent interface e0") {
		t.Errorf("beside a network of weft's: %v", err)
	}
	l.end("1", "a")
	l.as(before)
	l.must(l.DeleteNetwork(t.Context(), id("a")))
	// In a container of somebody else's, where nobody on the host sees it.
	l.host("ip", "link", "add", "theirs", "link", "e0", "netns", ns, "type", "ipvlan")
	before = l.host("ip", "-o", "link")
	if err := l.CreateNetwork(t.Context(), network("d", "10.6.0.0/24", "mode", "macvlan", "parent", "e0")); err == nil ||
		!strings.Contains(err.Error(), "it is held by something that is not weft's") {
		t.Errorf("beside a device in a container: %v", err)
	}
	l.as(before)
}

// TestLostParent: what comes back with a parent, and what does not, is told.
func TestLostParent(t *testing.T) {
	kerneltest.Needs(t, "macvlan", "vlan")
	l := newLine(t)
	l.must(l.CreateNetwork(t.Context(), network("a", "10.9.0.0/24", "mode", "macvlan", "parent", "e0.5")))
	l.container("1", "a", "10.9.0.2/24")
	reconciled := func(want string) {
		t.Helper()
		_, err := l.Reconcile(t.Context(), driver.Full)
		l.must(err)
		if got := strings.Join(l.Troubles()[id("a")], "; "); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("troubles %q, want %q", got, want)
		}
	}
	reconciled("")
	l.host("ip", "link", "set", "e0", "down")
	reconciled("its parent e0 is down")
	l.host("ip", "link", "set", "e0", "up")
	reconciled("")
	l.host("ip", "link", "delete", "e0.5")
	reconciled("the container of endpoint 111111111111 (10.9.0.2) lost its interface with the parent: restart it")
	l.host("ip", "link", "show", "e0.5")
}

// TestParentInBridge: a parent that somebody put into a bridge meanwhile bears no container,
// and the network says why, while it is so.
func TestParentInBridge(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	l := newLine(t)
	l.create(network("a", "10.9.0.0/24", "mode", "macvlan", "parent", "e0"))
	l.host("ip", "link", "add", "br0", "type", "bridge")
	l.host("ip", "link", "set", "e0", "master", "br0")
	_, err := l.CreateEndpoint(t.Context(), driver.Endpoint{ID: id("1"), Network: id("a"), IPv4: netip.MustParsePrefix("10.9.0.2/24")})
	l.must(err)
	if _, err := l.Join(t.Context(), id("a"), id("1"), kerneltest.Namespace(t), nil); err == nil || !strings.Contains(err.Error(), "the parent e0 is held by something") {
		t.Errorf("a container starts: %v", err)
	}
	for _, want := range []string{"its parent e0 is a port of br0, so no container starts on it: ip link set e0 nomaster, or create the network anew with -o parent=br0", ""} {
		_, err := l.Reconcile(t.Context(), driver.Changes)
		l.must(err)
		if got := strings.Join(l.Troubles()[id("a")], "; "); got != want {
			t.Errorf("troubles %q, want %q", got, want)
		}
		l.host("ip", "link", "set", "e0", "nomaster")
	}
	l.container("2", "a", "10.9.0.3/24")
}

// TestOffTheLine: a container that shall be off hears and says nothing, and comes back
// with its way out.
func TestOffTheLine(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	bothWays(t, func(l *line) {
		l.at(l.machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "e1")
		l.at(l.machine, "ip", "addr", "add", "203.0.113.1/32", "dev", "lo")
		l.must(l.CreateNetwork(l.Context(), network("a", "10.9.0.0/24", "mode", "macvlan", "parent", "e0", "attach", "direct")))
		ns := l.container("1", "a", "10.9.0.2/24")
		l.talks(ns, "203.0.113.1")
		l.SetConflicts([]driver.Conflict{{Network: id("a"), Address: netip.MustParseAddr("10.9.0.2")}})
		_, err := l.Reconcile(l.Context(), driver.Changes)
		l.must(err)
		l.silent(l.machine, "10.9.0.2")
		l.SetConflicts(nil)
		_, err = l.Reconcile(l.Context(), driver.Changes)
		l.must(err)
		l.talks(ns, "203.0.113.1")
	})
}

// TestAnnounced: after the engine moved a container's interface the line hears of it.
func TestAnnounced(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	bothWays(t, func(l *line) {
		// An older entry for the address is mended by what is announced.
		l.at(l.machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "e1")
		l.at(l.machine, "ip", "addr", "add", "fd09::1/64", "dev", "e1", "nodad")
		for _, a := range []string{"10.9.0.2", "fd09::2"} {
			l.at(l.machine, "ip", "neigh", "add", a, "lladdr", "02:00:00:00:00:99", "dev", "e1", "nud", "stale")
		}
		l.create(network("a", "10.9.0.0/24 fd09::/64", "mode", "macvlan", "parent", "e0", "attach", "direct"))
		l.container("1", "a", "10.9.0.2/24", "fd09::2/64")
		want := l.Endpoints(id("a"))[0].MAC
		var got string
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
			if got = l.at(l.machine, "ip", "neigh", "show", "dev", "e1"); strings.Contains(got, "10.9.0.2 lladdr "+want) && strings.Contains(got, "fd09::2 lladdr "+want) {
				return
			}
		}
		l.Errorf("the machine has %q, want %s", got, want)
	})
}

// TestNoParent: a network on no line joins its containers alone.
func TestNoParent(t *testing.T) {
	kerneltest.Needs(t, "dummy", "macvlan")
	bothWays(t, func(l *line) {
		before := l.host("ip", "-o", "link")
		l.must(l.CreateNetwork(l.Context(), network("a", "10.9.0.0/24", "mode", "macvlan", "attach", "direct")))
		one := l.container("1", "a", "10.9.0.2/24")
		l.container("2", "a", "10.9.0.3/24")
		l.talks(one, "10.9.0.3")
		l.end("1", "a")
		l.end("2", "a")
		l.must(l.DeleteNetwork(l.Context(), id("a")))
		l.as(before)
	})
}

// TestRoutesOfNobody: routes to no device, or to a router, take no subnet away.
func TestRoutesOfNobody(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	l := newLine(t)
	l.host("ip", "link", "add", "f0", "type", "veth", "peer", "name", "f1")
	l.host("ip", "link", "set", "f0", "up")
	l.host("ip", "route", "add", "blackhole", "10.0.0.0/8")
	l.host("ip", "route", "add", "10.9.0.0/16", "via", "inet6", "fe80::1", "dev", "f0")
	l.host("ip", "-6", "route", "add", "unreachable", "fd00::/8")
	l.create(network("a", "10.9.0.0/24 fd09::/64", "mode", "macvlan", "parent", "e0"))
}
