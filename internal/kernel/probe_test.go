package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// segment is a host with a card e0, and a machine with e1 at the other end of the cable.
type segment struct {
	testing.TB
	*kernel.Host
	machine string
}

func newSegment(t *testing.T) *segment {
	t.Helper()
	s := &segment{TB: t, Host: kerneltest.Host(t), machine: kerneltest.Namespace(t)}
	s.run("", "ip", "link", "add", "e0", "address", "02:00:00:00:00:0a", "type", "veth", "peer", "name", "e1", "address", "02:00:00:00:00:0b", "netns", s.machine)
	s.run("", "ip", "link", "set", "e0", "up")
	s.run(s.machine, "ip", "link", "set", "e1", "up")
	s.run(s.machine, "ip", "addr", "add", "10.9.0.1/24", "dev", "e1")
	s.run(s.machine, "ip", "addr", "add", "fd09::1/64", "dev", "e1", "nodad")
	return s
}

func (s *segment) run(ns string, args ...string) {
	s.Helper()
	kerneltest.Run(s, ns, args...)
}

// asks probes on e0 and compares who is there: MAC addresses, and by which device it is the
// host itself.
func (s *segment) asks(want map[string]string, addrs ...string) {
	s.Helper()
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, addr(a))
	}
	found, err := s.Probe(s.Context(), "e0", "mine", list)
	if err != nil {
		s.Fatal(err)
	}
	got := map[string]string{}
	for a, who := range found {
		got[a.String()] = who.MAC.String()
		if who.Own != "" {
			got[a.String()] += " on " + who.Own
		}
	}
	if !maps.Equal(got, want) {
		s.Errorf("asked for %v: %v, want %v", addrs, got, want)
	}
}

// TestProbe: who is on the line is heard, whatever takes the frames on this host.
func TestProbe(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	for name, prepare := range map[string]func(s *segment){
		"alone": func(*segment) {},
		"beside a macvlan device": func(s *segment) {
			ns := kerneltest.Namespace(t)
			s.run("", "ip", "link", "add", "c0", "link", "e0", "netns", ns, "type", "macvlan", "mode", "bridge")
			s.run(ns, "ip", "link", "set", "c0", "up")
		},
		"below a passthru device": func(s *segment) {
			ns := kerneltest.Namespace(t)
			s.run("", "ip", "link", "add", "c0", "link", "e0", "netns", ns, "type", "macvlan", "mode", "passthru")
			s.run(ns, "ip", "link", "set", "c0", "up")
		},
		"beside an ipvlan device": func(s *segment) {
			kerneltest.Needs(s, "ipvlan")
			ns := kerneltest.Namespace(t)
			s.run("", "ip", "link", "add", "c0", "link", "e0", "netns", ns, "type", "ipvlan", "mode", "l2")
			s.run(ns, "ip", "link", "set", "c0", "up")
		},
		"without IPv6": func(s *segment) {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/e0/disable_ipv6", []byte("1"), 0); err != nil {
				s.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSegment(t)
			s.run("", "ip", "addr", "add", "192.0.2.9/24", "dev", "e0")
			prepare(s)
			const theirs, ours = "02:00:00:00:00:0b", "02:00:00:00:00:0a on e0"
			s.asks(map[string]string{"10.9.0.1": theirs, "fd09::1": theirs, "192.0.2.9": ours}, "10.9.0.1", "10.9.0.2", "fd09::1", "fd09::2", "192.0.2.9")
			for try, early := 0, false; !early; try++ { // a machine without time makes it late
				begin := time.Now()
				s.asks(map[string]string{"10.9.0.1": theirs, "fd09::1": theirs}, "10.9.0.1", "fd09::1")
				early = time.Since(begin) < 240*time.Millisecond
				if try == 20 {
					t.Fatal("it takes its time though everybody has answered")
				}
			}
		})
	}
}

// TestProbeOwn: what the host answers for on the line is a machine's, but not what weft gave
// it there: with IPv4 that is what it has anywhere, unless arp_ignore keeps devices to their own.
func TestProbeOwn(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	s := newSegment(t)
	for _, c := range []struct{ name, mac, group, addr string }{
		{"c0", "02:00:00:00:00:0c", "0", "10.9.0.5/32"},
		{"wh-0", "02:00:00:00:00:0d", fmt.Sprint(kernel.Group), "10.9.0.6/32"},
	} {
		s.run("", "ip", "link", "add", "link", "e0", "name", c.name, "address", c.mac, "group", c.group, "type", "macvlan", "mode", "bridge")
		s.run("", "ip", "addr", "add", c.addr, "dev", c.name)
		s.run("", "ip", "link", "set", c.name, "up")
	}
	s.run("", "ip", "link", "add", "f0", "type", "veth", "peer", "name", "f1")
	s.run("", "ip", "addr", "add", "10.9.0.7/32", "dev", "f0")
	s.run("", "ip", "addr", "add", "10.9.0.5/32", "dev", "f0") // it has that one twice
	s.run("", "ip", "addr", "add", "10.9.0.8/32", "dev", "lo")
	s.run("", "ip", "link", "set", "lo", "up")
	s.run("", "ip", "link", "add", "link", "f0", "name", "wh-1", "group", fmt.Sprint(kernel.Group), "type", "macvlan", "mode", "bridge")
	s.run("", "ip", "addr", "add", "10.9.0.9/32", "dev", "wh-1") // weft gave it, on another line
	s.run("", "ip", "addr", "add", "fd09::7/128", "dev", "f0", "nodad")
	list := []string{"10.9.0.5", "10.9.0.6", "10.9.0.7", "10.9.0.8", "10.9.0.9", "fd09::7"}
	beside, parent := map[string]string{"10.9.0.5": "02:00:00:00:00:0c on c0"}, "02:00:00:00:00:0a on "
	all := maps.Clone(beside)
	all["10.9.0.7"], all["10.9.0.8"], all["10.9.0.9"] = parent+"f0", parent+"lo", parent+"wh-1"
	s.asks(all, list...)
	s.heard("10.9.0.7", "10.9.0.8", "10.9.0.9")
	for _, names := range [][]string{{"e0", "c0", "wh-0"}, {"all"}} {
		s.ignoreARP("1", names...)
		s.asks(beside, list...)
		s.heard()
		s.ignoreARP("0", names...)
	}
}

// TestProbeIgnore: the host's addresses on other devices are its own on a line exactly while
// the kernel answers there for them.
func TestProbeIgnore(t *testing.T) {
	s := newSegment(t)
	s.run("", "ip", "link", "set", "lo", "up")
	s.run("", "ip", "addr", "add", "10.9.0.7/32", "dev", "lo")
	s.run("", "ip", "addr", "add", "10.9.0.8/32", "dev", "lo", "scope", "host")
	const own = "02:00:00:00:00:0a on lo"
	for value, scopes := range map[string]int{"0": 2, "1": 0, "2": 0, "3": 1, "4": 2, "8": 0} {
		s.ignoreARP(value, "e0")
		want, list := map[string]string{}, []string{"10.9.0.7", "10.9.0.8"}
		for _, a := range list[:scopes] {
			want[a] = own
		}
		s.asks(want, list...)
		s.heard(list[:scopes]...)
	}
	s.ignoreARP("8", "e0")
	s.ignoreARP("3", "all") // the larger one counts
	s.asks(map[string]string{}, "10.9.0.7")
	s.heard()
}

// TestProbeTwoCards: what another card of the host's says on the same line is the host's word: of
// what weft gave the host it says nothing, and a machine that has that too is heard. The MAC
// address of a virtual router is no card's.
func TestProbeTwoCards(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	s := newSegment(t)
	router := kerneltest.Namespace(t)
	s.run("", "ip", "link", "add", "f0", "address", "02:00:00:00:00:0f", "type", "veth", "peer", "name", "f1", "netns", s.machine)
	s.run(router, "ip", "link", "add", "r0", "address", "00:00:5e:00:01:07", "type", "veth", "peer", "name", "r1", "netns", s.machine)
	s.run("", "ip", "link", "add", "vrrp", "address", "00:00:5e:00:01:07", "type", "bridge")
	s.run(s.machine, "ip", "link", "add", "switch", "address", "02:00:00:00:00:0e", "type", "bridge")
	for _, port := range []string{"e1", "f1", "r1"} {
		s.run(s.machine, "ip", "link", "set", port, "up", "master", "switch")
	}
	s.run(s.machine, "ip", "link", "set", "switch", "up")
	s.run(router, "ip", "link", "set", "r0", "up")
	s.run("", "ip", "link", "set", "f0", "up")
	s.run("", "ip", "link", "add", "link", "e0", "name", "wh-0", "group", fmt.Sprint(kernel.Group), "type", "macvlan", "mode", "bridge")
	for _, has := range []struct{ ns, device, addr string }{
		{"", "f0", "10.9.0.7/24"}, {"", "f0", "fd09::7/64"}, {"", "wh-0", "10.9.0.6/32"}, {"", "wh-0", "10.9.0.5/32"},
		{s.machine, "switch", "10.9.0.5/24"}, {router, "r0", "10.9.0.8/24"},
	} {
		command := []string{"ip", "addr", "add", has.addr, "dev", has.device}
		if strings.Contains(has.addr, ":") {
			command = append(command, "nodad")
		}
		s.run(has.ns, command...)
	}
	s.run("", "ip", "link", "set", "wh-0", "up")
	list := []string{"10.9.0.5", "10.9.0.6", "10.9.0.7", "10.9.0.8", "10.9.0.9", "fd09::7"}
	const card = "02:00:00:00:00:0f on f0"
	want := map[string]string{"10.9.0.5": "02:00:00:00:00:0e", "10.9.0.7": "02:00:00:00:00:0a on f0", "10.9.0.8": "00:00:5e:00:01:07", "fd09::7": card}
	s.asks(want, list...)
	want["10.9.0.7"] = card // the parent does not answer for it any more, and the card itself does
	s.ignoreARP("1", "e0")
	s.asks(want, list...)
}

// ignoreARP says of which addresses the host's devices tell, as the kernel counts them.
func (s *segment) ignoreARP(value string, devices ...string) {
	s.Helper()
	for _, name := range devices {
		if _, err := s.EnsureSysctl(kernel.Sysctl{Key: "net/ipv4/conf/" + name + "/arp_ignore", Value: value}); err != nil {
			s.Fatal(err)
		}
	}
}

// heard compares for which addresses that the host has elsewhere it answers the machine.
func (s *segment) heard(want ...string) {
	s.Helper()
	var got []string
	err := kerneltest.Within(s.machine, func() error {
		k, err := kernel.Open(kernel.Config{})
		if err != nil {
			return err
		}
		defer k.Close()
		list := []netip.Addr{addr("10.9.0.7"), addr("10.9.0.8"), addr("10.9.0.9"), addr("fd09::7")}
		found, err := k.Probe(s.Context(), "e1", "machine", list)
		for _, a := range list {
			if found[a].MAC != nil {
				got = append(got, a.String())
			}
		}
		return err
	})
	if err != nil || !slices.Equal(got, want) {
		s.Errorf("the machine hears of %v, %v, want %v", got, err, want)
	}
}

// TestProbeContainers: the host's own containers do not hear it, other hosts' are machines.
func TestProbeContainers(t *testing.T) {
	kerneltest.Needs(t, "macvlan")
	s := newSegment(t)
	for _, c := range []struct{ in, parent, mac, addr string }{{"", "e0", "02:00:00:00:00:0c", "10.9.0.5/24"}, {s.machine, "e1", "02:00:00:00:00:0d", "10.9.0.6/24"}} {
		ns := kerneltest.Namespace(t)
		s.run(c.in, "ip", "link", "add", "c0", "link", c.parent, "address", c.mac, "netns", ns, "type", "macvlan", "mode", "bridge")
		s.run(ns, "ip", "addr", "add", c.addr, "dev", "c0")
		s.run(ns, "ip", "link", "set", "c0", "up")
	}
	s.asks(map[string]string{"10.9.0.6": "02:00:00:00:00:0d"}, "10.9.0.5", "10.9.0.6")
}

// TestProbeVLAN: each VLAN is a line of its own, and so is what has no tag.
func TestProbeVLAN(t *testing.T) {
	kerneltest.Needs(t, "vlan")
	s := newSegment(t)
	s.run("", "ip", "link", "add", "link", "e0", "name", "e0.7", "type", "vlan", "id", "7")
	s.run("", "ip", "link", "set", "e0.7", "up")
	s.run(s.machine, "ip", "link", "add", "link", "e1", "name", "e1.7", "type", "vlan", "id", "7")
	s.run(s.machine, "ip", "link", "set", "e1.7", "up")
	s.run(s.machine, "ip", "addr", "add", "10.7.0.1/24", "dev", "e1.7")
	s.run(s.machine, "ip", "addr", "add", "fd07::1/64", "dev", "e1.7", "nodad")
	list := []netip.Addr{addr("10.7.0.1"), addr("fd07::1"), addr("fd09::1"), addr("10.7.0.2")}
	found, err := s.Probe(t.Context(), "e0.7", "mine", list)
	if err != nil || len(found) != 2 || found[list[0]].MAC == nil || found[list[1]].MAC == nil {
		t.Errorf("on the VLAN: %v, %v", found, err)
	}
	// What comes with a tag while the untagged line is asked is not of that line. By ARP a
	// machine answers for all its addresses everywhere.
	list = list[1:]
	done := make(chan struct{})
	defer close(done)
	probing := s.elsewhere("e1.7", "other", []netip.Addr{addr("10.7.0.2")}, done)
	<-probing
	found, err = s.Probe(t.Context(), "e0", "mine", list)
	if err != nil || len(found) != 1 || found[addr("fd09::1")].MAC == nil {
		t.Errorf("without a tag: %v, %v", found, err)
	}
}

// elsewhere probes from the machine, again and again until done; the result is closed when
// that has begun.
func (s *segment) elsewhere(device, mark string, addrs []netip.Addr, done chan struct{}) <-chan struct{} {
	s.Helper()
	began := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in that namespace
		ended <- func() error {
			f, err := os.Open(s.machine)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			k, err := kernel.Open(kernel.Config{})
			if err != nil {
				return err
			}
			defer k.Close()
			close(began)
			for {
				select {
				case <-done:
					return nil
				default:
				}
				if _, err := k.Probe(context.Background(), device, mark, addrs); err != nil {
					return err
				}
			}
		}()
	}()
	s.Cleanup(func() {
		if err := <-ended; err != nil {
			s.Error(err)
		}
	})
	return began
}

// TestProbeMeets: who is about to take an address is heard too, unless it is one of us.
func TestProbeMeets(t *testing.T) {
	s := newSegment(t)
	list := []netip.Addr{addr("10.9.0.7"), addr("fd09::7")}
	for mark, want := range map[string]int{"mine": 0, "other": 2} {
		done := make(chan struct{})
		<-s.elsewhere("e1", mark, list, done)
		found, err := s.Probe(t.Context(), "e0", "mine", list)
		close(done)
		if err != nil || len(found) != want {
			t.Errorf("the other one's mark is %q: %v, %v", mark, found, err)
		}
	}
}

// TestProbeNowhere: where nobody can be asked, nobody is said to be away.
func TestProbeNowhere(t *testing.T) {
	s := newSegment(t)
	refused := func(why, device string, want error) {
		t.Helper()
		if found, err := s.Probe(t.Context(), device, "mine", []netip.Addr{addr("10.9.0.2")}); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v", why, found, err)
		}
	}
	refused("a device that is not there", "e9", kernel.ErrNotFound)
	if _, err := s.Probe(canceled(t), "e0", "mine", []netip.Addr{addr("10.9.0.2")}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	for try := 0; ; try++ { // who answered before an error counts
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		found, err := s.Probe(short, "e0", "mine", []netip.Addr{addr("10.9.0.1"), addr("10.9.0.2")})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || try == 10 {
			t.Fatalf("no time: %v, %v", found, err)
		}
		if len(found) == 1 {
			break
		}
	}
	s.run(s.machine, "ip", "link", "set", "e1", "down")
	refused("no carrier", "e0", kernel.ErrLineDown)
	s.run(s.machine, "ip", "link", "set", "e1", "up")
	s.run("", "ip", "link", "set", "e0", "down")
	refused("down", "e0", kernel.ErrLineDown)
	s.run("", "ip", "link", "set", "e0", "up")
	for end := time.Now().Add(10 * time.Second); ; {
		found, err := s.Probe(t.Context(), "e0", "mine", []netip.Addr{addr("10.9.0.1")})
		if err == nil && len(found) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("up again: %v, %v", found, err)
		}
	}
}
