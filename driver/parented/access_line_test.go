package parented_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// self is the path of the host's own namespace.
func (l *line) self() string {
	return fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
}

// strict switches strict reverse paths on.
func (l *line) strict() {
	l.Helper()
	_, err := l.kernel.EnsureSysctl(kernel.Sysctl{Key: "net.ipv4.conf.all.rp_filter", Value: "1"})
	l.must(err)
}

// ready waits until the host's addresses are nobody else's, and then mends what hung on it.
func (l *line) ready() {
	l.Helper()
	for end := time.Now().Add(10 * time.Second); l.host("ip", "addr", "show", "dev", "e0", "tentative") != ""; <-time.After(100 * time.Millisecond) {
		if time.Now().After(end) {
			l.Fatal("an address of the host's does not get ready")
		}
	}
	_, err := l.Reconcile(l.Context(), driver.Changes)
	l.must(err)
}

// both makes sure that host and container reach each other at these addresses.
func (l *line) both(ns, container, host string) {
	l.Helper()
	l.talks(l.self(), container)
	l.talks(ns, host)
}

// TestAccessOnTheLine: host and containers of macvlan networks, from an address of the
// host's on the line and from one of the network's, and not by default.
func TestAccessOnTheLine(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	bothWays(t, func(l *line) {
		l.strict()
		l.host("ip", "link", "set", "lo", "up")
		before := l.host("ip", "-o", "link")
		for _, a := range []string{"10.9.0.10/24", "10.10.0.10/24", "fd09::10/64"} {
			l.host("ip", "addr", "add", a, "dev", "e0")
		}
		for _, a := range []string{"10.9.0.1/24", "10.11.0.1/24", "fd09::1/64"} {
			l.at(l.machine, "ip", "addr", "add", a, "dev", "e1")
		}
		l.book.offer[id("c")] = []string{"10.11.0.200/24 fd11::200/64"}
		l.must(l.CreateNetwork(l.Context(), network("a", "10.9.0.0/24 fd09::/64", "mode", "macvlan", "parent", "e0", "attach", "direct", "host_access", "true")))
		l.must(l.CreateNetwork(l.Context(), network("b", "10.10.0.0/24", "mode", "macvlan", "parent", "e0", "attach", "direct")))
		l.must(l.CreateNetwork(l.Context(), network("c", "10.11.0.0/24 fd11::/64", "mode", "macvlan", "parent", "e0", "attach", "direct", "host_access", "true")))
		one, off, three := l.container("1", "a", "10.9.0.2/24", "fd09::2/64"), l.container("2", "b", "10.10.0.2/24"), l.container("3", "c", "10.11.0.2/24", "fd11::2/64")
		l.both(one, "10.9.0.2", "10.9.0.10")
		l.ready() // an address that was so new that the network had to trust in it
		l.both(one, "fd09::2", "fd09::10")
		l.both(three, "10.11.0.2", "10.11.0.200")
		l.both(three, "fd11::2", "fd11::200")
		l.silent(l.self(), "10.10.0.2")
		l.silent(off, "10.10.0.10")
		// The line is as it was.
		for _, ns := range []string{one, l.self()} {
			l.talks(ns, "10.9.0.1")
			l.talks(ns, "fd09::1")
		}
		l.talks(l.machine, "10.9.0.10")
		l.talks(l.machine, "fd09::10")
		l.talks(l.machine, "10.9.0.2")

		// The host gets another address.
		l.host("ip", "addr", "del", "10.9.0.10/24", "dev", "e0")
		l.host("ip", "addr", "add", "10.9.0.11/24", "dev", "e0")
		_, err := l.Reconcile(l.Context(), driver.Changes)
		l.must(err)
		l.both(one, "10.9.0.2", "10.9.0.11")
		l.silent(one, "10.9.0.10")

		// Its card goes down, with which its IPv6 addresses go, and comes up again.
		l.host("ip", "link", "set", "e0", "down")
		_, err = l.Reconcile(l.Context(), driver.Changes)
		l.must(err)
		l.host("ip", "link", "set", "e0", "up")
		l.host("ip", "addr", "add", "fd09::10/64", "dev", "e0", "nodad")
		_, err = l.Reconcile(l.Context(), driver.Changes)
		l.must(err)
		l.both(one, "10.9.0.2", "10.9.0.11")
		l.both(one, "fd09::2", "fd09::10")
		l.both(three, "10.11.0.2", "10.11.0.200")
		l.both(three, "fd11::2", "fd11::200")
		if out := l.host("ip", "-6", "route", "get", "ff05::7"); !strings.Contains(out, "dev e0") {
			t.Errorf("multicast leaves by %s", out)
		}

		for letter, net := range map[string]string{"1": "a", "2": "b", "3": "c"} {
			l.end(letter, net)
		}
		if out := l.host("ip", "route") + l.host("ip", "-6", "route"); strings.Contains(out, "wh-") {
			t.Errorf("routes stay:\n%s", out)
		}
		for _, net := range []string{"a", "b", "c"} {
			l.must(l.DeleteNetwork(l.Context(), id(net)))
		}
		l.as(before)
	})
}

// TestIPvlanAccess: each mode, from an address of the host's on the line and from one of
// the network's.
func TestIPvlanAccess(t *testing.T) {
	kerneltest.Needs(t, "ipvlan")
	for _, mode := range []string{"l2", "l3", "l3s"} {
		t.Run(mode, func(t *testing.T) {
			bothWays(t, func(l *line) {
				l.host("ip", "link", "set", "lo", "up")
				before := l.host("ip", "-o", "link")
				if mode != "l2" {
					l.strict() // see README
				}
				l.host("ip", "addr", "add", "10.9.0.10/24", "dev", "e0")
				l.host("ip", "addr", "add", "fd09::10/64", "dev", "e0", "nodad")
				l.at(l.machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "e1")
				l.at(l.machine, "ip", "addr", "add", "fd09::1/64", "dev", "e1", "nodad")
				l.book.offer[id("c")] = []string{"10.11.0.200/24 fd11::200/64"}
				inner := network("c", "10.11.0.0/24 fd11::/64", "mode", "ipvlan", "parent", "e0", "attach", "direct", "ipvlan_mode", mode, "host_access", "true")
				inner.Internal = true // else any address of the host's would do in l3
				l.must(l.CreateNetwork(l.Context(), network("a", "10.9.0.0/24 fd09::/64", "mode", "ipvlan", "parent", "e0", "attach", "direct", "ipvlan_mode", mode, "host_access", "true")))
				l.must(l.CreateNetwork(l.Context(), inner))
				l.must(l.CreateNetwork(l.Context(), network("b", "10.10.0.0/24", "mode", "ipvlan", "parent", "e0", "attach", "direct", "ipvlan_mode", mode)))
				one, off, three := l.container("1", "a", "10.9.0.2/24", "fd09::2/64"), l.container("2", "b", "10.10.0.2/24"), l.container("3", "c", "10.11.0.2/24", "fd11::2/64")
				l.both(one, "10.9.0.2", "10.9.0.10")
				l.both(one, "fd09::2", "fd09::10")
				l.strict() // from here on what comes by the parent has to
				l.both(three, "10.11.0.2", "10.11.0.200")
				l.both(three, "fd11::2", "fd11::200")
				l.silent(l.self(), "10.10.0.2")
				if mode == "l2" {
					l.silent(off, "10.9.0.10")
				}
				for _, ns := range []string{l.self(), l.machine} {
					l.talks(ns, map[bool]string{true: "10.9.0.10", false: "10.9.0.1"}[ns == l.machine])
					l.talks(ns, map[bool]string{true: "fd09::10", false: "fd09::1"}[ns == l.machine])
				}
				for letter, net := range map[string]string{"1": "a", "2": "b", "3": "c"} {
					l.end(letter, net)
				}
				for _, net := range []string{"a", "b", "c"} {
					l.must(l.DeleteNetwork(l.Context(), id(net)))
				}
				if out := l.host("ip", "route") + l.host("ip", "-6", "route"); strings.Contains(out, "wh-") {
					t.Errorf("routes stay:\n%s", out)
				}
				l.as(before)
			})
		})
	}
}

// TestAccessAfterBoot: host and containers reach each other as before when the host boots, on
// its card and on a sub-interface of weft's.
func TestAccessAfterBoot(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan", "ipvlan")
	for _, kind := range []string{"macvlan", "ipvlan"} {
		t.Run(kind, func(t *testing.T) {
			l := newLine(t)
			var before string
			begin := func() {
				before = l.host("ip", "-o", "link")
				l.host("ip", "addr", "add", "10.9.0.10/24", "dev", "e0")
				l.host("ip", "addr", "add", "fd09::10/64", "dev", "e0", "nodad")
			}
			begin()
			l.host("ip", "link", "set", "lo", "up")
			l.book.offer[id("b")] = []string{"10.0.0.200/24"}
			l.create(network("a", "10.9.0.0/24 fd09::/64", "mode", kind, "parent", "e0", "host_access", "true"),
				network("b", "10.0.0.0/24", "mode", kind, "parent", "e0.100", "host_access", "true"))
			containers := func() {
				t.Helper()
				one, two := l.container("1", "a", "10.9.0.2/24", "fd09::2/64"), l.container("2", "b", "10.0.0.2/24")
				l.both(one, "10.9.0.2", "10.9.0.10")
				l.both(one, "fd09::2", "fd09::10")
				l.both(two, "10.0.0.2", "10.0.0.200")
			}
			containers()
			l.boot(begin)
			l.end("1", "a") // the engine at its start
			l.end("2", "b")
			containers()
			l.end("1", "a")
			l.end("2", "b")
			l.remove("a", "b")
			if out := l.host("ip", "route") + l.host("ip", "-6", "route"); strings.Contains(out, "wh-") {
				t.Errorf("routes stay:\n%s", out)
			}
			l.as(before)
		})
	}
}

// TestAccessOnVLAN: a sub-interface that weft makes, on which the host is nobody.
func TestAccessOnVLAN(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan")
	bothWays(t, func(l *line) {
		before := l.host("ip", "-o", "link")
		l.strict()
		l.at(l.machine, "ip", "link", "add", "link", "e1", "name", "v100", "type", "vlan", "id", "100")
		l.at(l.machine, "ip", "addr", "add", "10.0.0.1/24", "dev", "v100")
		l.at(l.machine, "ip", "link", "set", "v100", "up")
		l.book.offer[id("a")] = []string{"10.0.0.200/24"}
		l.must(l.CreateNetwork(l.Context(), network("a", "10.0.0.0/24", "mode", "macvlan", "parent", "e0.100", "attach", "direct", "host_access", "true")))
		one := l.container("1", "a", "10.0.0.2/24")
		l.both(one, "10.0.0.2", "10.0.0.200")
		l.talks(one, "10.0.0.1")
		l.end("1", "a")
		l.must(l.DeleteNetwork(l.Context(), id("a")))
		l.as(before)
	})
}
