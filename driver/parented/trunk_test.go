package parented_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// vlanMachine is one more machine at the other end of the cable, on one VLAN of it.
func (l *line) vlanMachine(vlan, addr string) string {
	l.Helper()
	ns := kerneltest.Namespace(l)
	l.at(l.machine, "ip", "link", "add", "link", "e1", "name", "v"+vlan, "netns", ns, "type", "vlan", "id", vlan)
	l.at(ns, "ip", "addr", "add", addr, "dev", "v"+vlan)
	l.at(ns, "ip", "link", "set", "v"+vlan, "up")
	return ns
}

// TestTrunk: two VLANs on one line, each with its own machine and its own way to be named,
// and a third one with the subnet of the first. Nothing passes from one to another.
func TestTrunk(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan")
	bothWays(t, func(l *line) {
		before := l.host("ip", "-o", "link")
		m100, m200 := l.vlanMachine("100", "10.0.0.1/24"), l.vlanMachine("200", "192.168.3.1/24")
		l.create(network("a", "10.0.0.0/24", "mode", "macvlan", "parent", "e0.100", "attach", "direct"),
			network("b", "192.168.3.0/24", "mode", "macvlan", "parent", "e0", "vlan", "200", "attach", "direct"),
			network("c", "10.0.0.0/24", "mode", "macvlan", "parent", "e0.300", "attach", "direct"))
		frames := l.frames("e0")
		a1, a2 := l.container("1", "a", "10.0.0.2/24"), l.container("2", "a", "10.0.0.3/24")
		b, c := l.container("3", "b", "192.168.3.2/24"), l.container("4", "c", "10.0.0.9/24")
		l.talks(a1, "10.0.0.1")
		l.talks(a1, "10.0.0.3")
		l.talks(a2, "10.0.0.1")
		l.talks(m100, "10.0.0.2")
		l.talks(b, "192.168.3.1")
		l.talks(m200, "192.168.3.2")
		for from, addresses := range map[string][]string{a1: {"10.0.0.9", "192.168.3.1", "192.168.3.2"}, b: {"10.0.0.1", "10.0.0.2"}, c: {"10.0.0.1", "10.0.0.2"}} {
			for _, to := range addresses {
				l.silent(from, to)
			}
		}
		want := []string{"100 10.0.0.1", "100 10.0.0.2", "100 10.0.0.3", "200 192.168.3.1", "200 192.168.3.2", "300 10.0.0.9"}
		if d := cmp.Diff(want, frames()); d != "" {
			t.Errorf("VLANs and senders of the frames on the line (-want +got):\n%s", d)
		}
		for letter, net := range map[string]string{"1": "a", "2": "a", "3": "b", "4": "c"} {
			l.end(letter, net)
		}
		l.remove("a", "b", "c")
		l.as(before)
	})
}

// frames begins to capture what passes a card, both ways. The result ends that, and is
// the VLAN, 0 for none, and the sender's address of each frame with IPv4 or ARP.
func (l *line) frames(name string) func() []string {
	l.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
	l.must(err)
	card, err := l.kernel.LinkByName(name)
	l.must(err)
	const room = 8 << 20 // nobody reads before the end
	l.must(errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: card.Index})))
	return func() (seen []string) {
		l.Helper()
		defer unix.Close(fd)
		frame, control := make([]byte, 2048), make([]byte, 128)
		for {
			n, cn, _, _, err := unix.Recvmsg(fd, frame, control, 0)
			if errors.Is(err, unix.EAGAIN) {
				stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
				l.must(err)
				if stats.Drops > 0 {
					l.Errorf("%d of %d frames were lost", stats.Drops, stats.Packets)
				}
				slices.Sort(seen)
				return slices.Compact(seen)
			}
			l.must(err)
			if from := sender(frame[:n]); from.IsValid() {
				seen = append(seen, fmt.Sprint(tagOf(l, control[:cn]), from))
			}
		}
	}
}

// sender is whose address a frame with IPv4 or ARP bears.
func sender(frame []byte) netip.Addr {
	const header, inIP, inARP = 14, 12, 14
	if len(frame) < header+20 {
		return netip.Addr{}
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		return netip.AddrFrom4([4]byte(frame[header+inIP:]))
	case unix.ETH_P_ARP:
		return netip.AddrFrom4([4]byte(frame[header+inARP:]))
	}
	return netip.Addr{}
}

// tagOf is the VLAN that the kernel took out of a frame.
func tagOf(tb testing.TB, control []byte) int {
	tb.Helper()
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		tb.Fatal(err)
	}
	const tagValid, status, tci = 1 << 4, 0, 16 // TP_STATUS_VLAN_VALID, and places in struct tpacket_auxdata
	for _, m := range messages {
		if m.Header.Type == unix.PACKET_AUXDATA && binary.NativeEndian.Uint32(m.Data[status:])&tagValid != 0 {
			return int(binary.NativeEndian.Uint16(m.Data[tci:]) & 0xfff)
		}
	}
	return 0
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// TestSubInterfacesOnTheLine: they are made for the first network, of whatever kind, and
// go with the last, over a restart of weft; what was there before stays.
func TestSubInterfacesOnTheLine(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan", "ipvlan")
	bothWays(t, func(l *line) {
		l.host("ip", "link", "add", "link", "e0", "name", "e0.8", "up", "type", "vlan", "id", "8")
		l.host("ip", "link", "add", "link", "e0", "name", "office", "up", "type", "vlan", "id", "9")
		before := l.host("ip", "-o", "link")
		l.vlanMachine("100", "10.2.0.1/24")
		l.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "e0.100"),
			network("b", "10.2.0.0/24", "mode", "macvlan", "parent", "e0", "vlan", "100", "attach", "direct"),
			network("c", "10.3.0.0/24", "mode", "ipvlan", "parent", "e0.101"),
			network("d", "10.4.0.0/24", "mode", "ipvlan", "parent", "e0", "vlan", "101"),
			network("e", "10.5.0.0/24", "mode", "macvlan", "parent", "e0.8"),
			network("f", "10.6.0.0/24", "mode", "ipvlan", "parent", "e0", "vlan", "9"))
		there := func(want ...string) {
			t.Helper()
			if got := strings.Fields(l.host("sh", "-c", "ip -o link show type vlan | while read -r _ name _; do echo ${name%@*}; done")); !slices.Equal(got, want) {
				t.Errorf("sub-interfaces %q, want %q", got, want)
			}
		}
		there("e0.8", "office", "e0.100", "e0.101")
		if d := l.host("ip", "-d", "link", "show", "e0.100"); !strings.Contains(d, "vlan protocol 802.1Q id 100") || !strings.Contains(d, ",UP") {
			t.Errorf("e0.100:\n%s", d)
		}
		ns := l.container("1", "b", "10.2.0.2/24")
		l.remove("a", "c")
		there("e0.8", "office", "e0.100", "e0.101")

		l.stop()
		l.talks(ns, "10.2.0.1")
		l.start()
		report, err := l.Reconcile(l.Context(), driver.Full)
		l.must(err)
		if len(report.Repaired) > 0 || len(l.Troubles()) > 0 {
			t.Errorf("after a restart: repaired %q, troubles %v", report.Repaired, l.Troubles())
		}
		l.talks(ns, "10.2.0.1")
		l.end("1", "b")
		l.remove("b")
		there("e0.8", "office", "e0.101")
		l.remove("d")
		there("e0.8", "office")
		l.restart()
		l.remove("e", "f")
		l.as(before)
	})
}

// TestHeldOnTheLine: a sub-interface stays while a device in another namespace is on it.
func TestHeldOnTheLine(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan", "ipvlan")
	for _, kind := range []string{"macvlan", "ipvlan"} {
		t.Run(kind, func(t *testing.T) {
			l := newLine(t)
			before := l.host("ip", "-o", "link")
			l.create(network("a", "10.5.0.0/24", "mode", kind, "parent", "e0.5"))
			ns := kerneltest.Namespace(t)
			l.host("ip", "link", "add", "builtin", "link", "e0.5", "netns", ns, "type", kind)
			l.remove("a")
			_, err := l.Reconcile(t.Context(), driver.Full)
			l.must(err)
			l.at(ns, "ip", "link", "del", "builtin")
			_, err = l.Reconcile(t.Context(), driver.Full)
			l.must(err)
			l.as(before)
		})
	}
}

// TestForeignIPvlanOnTheLine: containers of somebody else's keep their mode.
func TestForeignIPvlanOnTheLine(t *testing.T) {
	kerneltest.Needs(t, "macvlan", "ipvlan")
	l := newLine(t)
	ns := kerneltest.Namespace(t)
	l.host("ip", "link", "add", "builtin", "link", "e0", "netns", ns, "type", "ipvlan", "mode", "l2", "private")
	err := l.CreateNetwork(t.Context(), network("a", "10.5.0.0/24", "mode", "ipvlan", "ipvlan_mode", "l3", "parent", "e0"))
	if !errors.Is(err, driver.ErrConflict) || !strings.Contains(err.Error(), "not weft's") {
		t.Errorf("beside somebody else's ipvlan device: %v", err)
	}
	if got := l.at(ns, "ip", "-d", "link", "show", "builtin"); !strings.Contains(got, "mode l2 private") {
		t.Errorf("their device is\n%s", got)
	}
	l.at(ns, "ip", "link", "del", "builtin")
	l.create(network("a", "10.5.0.0/24", "mode", "ipvlan", "ipvlan_mode", "l3", "parent", "e0"))
}

// restart ends weft and starts it again.
func (l *line) restart() {
	l.Helper()
	l.stop()
	l.start()
}

// TestInternalOnTheLine: an internal network keeps its parent, and has no way out.
func TestInternalOnTheLine(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan", "ipvlan")
	for mode, routed := range map[string]bool{"macvlan": false, "ipvlan": false, "ipvlan l3": true} {
		t.Run(mode, func(t *testing.T) {
			bothWays(t, func(l *line) {
				before := l.host("ip", "-o", "link")
				l.vlanMachine("50", "10.9.0.1/24")
				n := network("a", "10.9.0.0/24", "mode", strings.Fields(mode)[0], "parent", "e0.50", "attach", "direct")
				if routed {
					n.Options["ipvlan_mode"] = "l3"
				}
				n.Internal = true
				l.create(n)
				one := l.container("1", "a", "10.9.0.2/24")
				l.container("2", "a", "10.9.0.3/24")
				l.talks(one, "10.9.0.3")
				if !routed { // the line knows no way to containers whose host routes
					l.talks(one, "10.9.0.1")
				}
				if out := l.at(one, "ip", "route"); strings.Contains(out, "default") {
					t.Errorf("its ways out:\n%s", out)
				}
				l.end("1", "a")
				l.end("2", "a")
				l.remove("a")
				l.as(before)
			})
		})
	}
}

// TestRefusedOnTheLine leaves nothing behind.
func TestRefusedOnTheLine(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan", "ipvlan")
	l := newLine(t)
	l.host("ip", "link", "add", "link", "e0", "name", "e0.7", "up", "type", "vlan", "id", "7")
	l.create(network("a", "10.1.0.0/24", "mode", "macvlan", "parent", "e0"),
		network("b", "10.2.0.0/24", "mode", "macvlan", "parent", "e0.9", "macvlan_mode", "passthru"),
		network("c", "10.3.0.0/24", "mode", "ipvlan", "parent", "e0.10", "ipvlan_mode", "l3"))
	for words, options := range map[string][][]string{
		"vlan id must be between 1-4094, received: 0":               {{"parent", "e0", "vlan", "0"}, {"parent", "e0.0"}},
		"vlan id must be between 1-4094, received: 4095":            {{"parent", "e0", "vlan", "4095"}, {"parent", "e0.4095"}},
		"vlan id must be between 1-4094, received: 99999":           {{"parent", "e0", "vlan", "99999"}, {"parent", "e0.99999"}},
		"invalid subinterface vlan name e0.x":                       {{"parent", "e0.x"}},
		"invalid subinterface vlan name e0.,":                       {{"parent", "e0."}},
		"e0.7 is a sub-interface, and weft makes none":              {{"parent", "e0.7", "vlan", "5"}, {"parent", "e0.7.5"}},
		"cannot use mode passthru, macvlan network":                 {{"parent", "e0", "macvlan_mode", "passthru"}, {"parent", "e0.9"}, {"parent", "e0", "vlan", "9", "macvlan_mode", "passthru"}},
		"is already using parent interface e0, and the kernel puts": {{"parent", "e0", "mode", "ipvlan"}},
		"is already using parent interface e0.9, and the kernel":    {{"parent", "e0.9", "mode", "ipvlan"}},
		"is already using parent interface e0.10, and the kernel":   {{"parent", "e0", "vlan", "10"}},
		"is already using parent interface e0.10 with ipvlan_mode":  {{"parent", "e0.10", "mode", "ipvlan"}, {"parent", "e0.10", "mode", "ipvlan", "ipvlan_mode", "l3", "ipvlan_flag", "vepa"}},
		"-o parent interface was not found on the host: e9.5":       {{"parent", "e9.5"}},
		"loopback interface is not a valid macvlan parent link":     {{"parent", "lo"}, {"parent", "lo.5"}},
	} {
		for _, o := range options {
			before := l.host("ip", "-o", "link")
			err := l.CreateNetwork(t.Context(), network("e", "10.5.0.0/24", append([]string{"mode", "macvlan"}, o...)...))
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%v: the error %v lacks %q", o, err, words)
			}
			l.as(before)
		}
	}
}

// TestProviderTag: a VLAN of the number that a device of 802.1ad has is made beside it, and
// a device of the name that it would have is not taken for it.
func TestProviderTag(t *testing.T) {
	kerneltest.Needs(t, "vlan", "macvlan")
	l := newLine(t)
	l.host("ip", "link", "add", "link", "e0", "name", "q", "type", "vlan", "proto", "802.1ad", "id", "5")
	l.host("ip", "link", "add", "link", "e0", "name", "e0.6", "type", "vlan", "proto", "802.1ad", "id", "6")
	l.create(network("a", "10.5.0.0/24", "mode", "macvlan", "parent", "e0", "vlan", "5"))
	if n, _ := l.Network(id("a")); n.Device != "e0.5" || n.Adopted {
		t.Errorf("VLAN 5 is %s, adopted %t", n.Device, n.Adopted)
	}
	if err := l.CreateNetwork(t.Context(), network("b", "10.6.0.0/24", "mode", "macvlan", "parent", "e0", "vlan", "6")); !errors.Is(err, driver.ErrConflict) {
		t.Errorf("VLAN 6 is 802.1ad's: %v", err)
	}
	if made, err := l.kernel.EnsureVLAN(kernel.VLAN{Name: "e0.6", Parent: "e0", ID: 6}); !errors.Is(err, kernel.ErrExists) || made {
		t.Errorf("to make it: %t, %v", made, err)
	}
}
