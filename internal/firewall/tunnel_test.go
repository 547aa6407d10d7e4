package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// An overlayLab is two hosts with a tunnel between them, made by weft's own seam
// to the kernel, and a container on each. Both hosts have the gateway.
//
//	u0 192.0.2.1 -- 192.0.2.2 u0
//	wf-1 10.5.0.101, .1: c .11    wf-1 10.5.0.102, .1: c .12
type overlayLab struct {
	hosts, containers [2]namespace
	kernels           [2]*kernel.Host
	firewalls         [2]*NFT
}

const gateway4, gateway6 = "10.5.0.1", "fd05::1"

func overlayNetwork() Network {
	n := network("n0", "wf-1", "10.5.0.0/24", "fd05::/64")
	n.Tunnel = "wx-1"
	n.Gateways = []netip.Addr{netip.MustParseAddr(gateway4), netip.MustParseAddr(gateway6)}
	return n
}

func newOverlayLab(t testing.TB, brNetfilter bool) *overlayLab {
	t.Helper()
	l := &overlayLab{}
	for i := range l.hosts {
		l.hosts[i], l.containers[i] = newNamespace(t), newNamespace(t)
	}
	l.hosts[0].sh(t, "ip link add u0 type veth peer name u0 netns "+l.hosts[1].path())
	for i, h := range l.hosts {
		for _, key := range []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"} {
			h.sysctl(t, key, map[bool]string{true: "1", false: "0"}[brNetfilter])
		}
		h.sysctl(t, "ipv4/ip_forward", "1")
		h.sysctl(t, "ipv6/conf/all/forwarding", "1")
		h.sh(t, fmt.Sprintf("ip addr add 192.0.2.%d/24 dev u0; ip link set u0 up", i+1))
		err := h.do(func() (err error) {
			if l.kernels[i], err = kernel.Open(kernel.Config{}); err == nil {
				err = l.join(i)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.kernels[i].Close() })
		c := l.containers[i]
		h.sh(t, fmt.Sprintf("ip link add wv-1 type veth peer name eth0 netns %s; ip link set wv-1 master wf-1 up", c.path()))
		c.sh(t, fmt.Sprintf(`ip addr add 10.5.0.1%[1]d/24 dev eth0; ip addr add fd05::1%[1]d/64 dev eth0 nodad; ip link set eth0 up
			ip route add default via %[2]s; ip -6 route add default via %[3]s`, i+1, gateway4, gateway6))
		l.firewalls[i] = newNFT(t, h)
	}
	for i, c := range l.containers {
		// The kernel takes IPv6 packets some milliseconds after the first port is up.
		for _, to := range []string{gateway4, gateway6, fmt.Sprintf("fd05::1%d", 2-i)} {
			l.until(t, to, func() (ok bool) {
				_ = c.do(func() (err error) {
					ok, err = l.kernels[i].Answers(netip.MustParseAddr(to), 100*time.Millisecond)
					return err
				})
				return ok
			})
		}
	}
	return l
}

// join makes a host take part in the network. It knows no endpoint of the other
// one, so that everybody has to ask.
func (l *overlayLab) join(i int) error {
	_, err := l.kernels[i].EnsureBridge(kernel.Bridge{
		Name: "wf-1", IPv6: true, NoSnooping: true, MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}, MTU: 1400,
		Addrs:    []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.5.0.10%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd05::10%d/64", i+1))},
		Gateways: overlayNetwork().Gateways,
	})
	if err != nil {
		return err
	}
	_, err = l.kernels[i].EnsureVXLAN(kernel.VXLAN{
		Name: "wx-1", VNI: 5000, Port: 4790, Local: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i+1)), MTU: 1400, Bridge: "wf-1",
	})
	if err != nil {
		return err
	}
	return l.kernels[i].ApplyForwarding(kernel.ForwardingChanges{Add: kernel.Forwarding{
		FDB: []kernel.FDBEntry{{Link: "wx-1", Dst: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 2-i))}},
	}})
}

func (l *overlayLab) until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// A frame is what is said in ARP or neighbour discovery.
type frame struct {
	mac  string // of the sender
	says []netip.Addr
}

func (f frame) about(addrs ...string) bool {
	return slices.ContainsFunc(addrs, func(a string) bool { return slices.Contains(f.says, netip.MustParseAddr(a)) })
}

// parse returns what a frame says; ok is false if it is neither ARP nor ND.
func parse(b []byte) (f frame, ok bool) {
	if len(b) < 14 {
		return f, false
	}
	f.mac = net.HardwareAddr(b[6:12]).String()
	kind, b := binary.BigEndian.Uint16(b[12:]), b[14:]
	for kind == unix.ETH_P_8021Q && len(b) >= 4 {
		kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	switch {
	case kind == unix.ETH_P_ARP && len(b) >= 28:
		f.says = []netip.Addr{netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))}
		return f, true
	case kind == unix.ETH_P_IPV6 && len(b) >= 40:
		f.says = []netip.Addr{netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))}
		next, b := b[6], b[40:]
		if next == unix.IPPROTO_DSTOPTS && len(b) >= 8 {
			next, b = b[0], b[8:]
		}
		if next == unix.IPPROTO_ICMPV6 && len(b) >= 24 && (b[0] == 135 || b[0] == 136) {
			f.says = append(f.says, netip.AddrFrom16([16]byte(b[8:24])))
			return f, true
		}
	}
	return f, false
}

// inner returns the frame inside of one of the underlay; nothing if it is no VXLAN.
func inner(b []byte) []byte {
	const headers = 14 + 20 + 8 + 8
	if len(b) < headers || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_IP || b[23] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(b[36:]) != 4790 {
		return nil
	}
	return b[headers:]
}

// tap opens a socket that hears and sends on an interface.
func (ns namespace) tap(t *testing.T, link string) int {
	t.Helper()
	return kerneltest.Tap(t, ns.path(), link, unix.ETH_P_ALL)
}

// hear returns everything said on a tap up to a word about each of these addresses.
func hear(t *testing.T, tap int, unwrap func([]byte) []byte, last ...string) []frame {
	t.Helper()
	var all []frame
	b := make([]byte, 2048)
	for len(last) > 0 {
		n, _, err := unix.Recvfrom(tap, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("nothing is heard about %s: %v", last, err)
		}
		if f, ok := parse(unwrap(b[:n])); ok {
			all = append(all, f)
			last = slices.DeleteFunc(last, func(a string) bool { return f.about(a) })
		}
	}
	return all
}

func plain(b []byte) []byte { return b }

// ethernet returns a broadcast frame whose sender is named by a number, with an
// 802.1p tag if wanted.
func ethernet(n byte, tag bool, kind uint16, payload []byte) []byte {
	b := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0xf0, n}
	if tag {
		b = append(b, 0x81, 0, 0, 0)
	}
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

func arp(n byte, tag bool, op byte, sender, target string) []byte {
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, 2, 0, 0, 0, 0xf0, n)
	b = append(b, netip.MustParseAddr(sender).AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return ethernet(n, tag, unix.ETH_P_ARP, append(b, netip.MustParseAddr(target).AsSlice()...))
}

// nd returns a solicitation (135) or an advertisement (136), behind an empty
// header of options if wanted. Its checksum is wrong, which no bridge looks at.
func nd(n byte, options bool, kind byte, from, to, target string) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 32, unix.IPPROTO_ICMPV6, 255}
	if options {
		b[5], b[6] = 40, unix.IPPROTO_DSTOPTS
	}
	b = append(b, netip.MustParseAddr(from).AsSlice()...)
	b = append(b, netip.MustParseAddr(to).AsSlice()...)
	if options {
		b = append(b, unix.IPPROTO_ICMPV6, 0, 1, 4, 0, 0, 0, 0)
	}
	b = append(b, kind, 0, 0, 0, 0x60, 0, 0, 0) // solicited, override
	b = append(b, netip.MustParseAddr(target).AsSlice()...)
	return ethernet(n, false, unix.ETH_P_IPV6, append(b, 2, 1, 2, 0, 0, 0, 0xf0, n))
}

// unsolicited clears this flag of an advertisement without options.
func unsolicited(b []byte) []byte {
	b[14+40+4] = 0x20
	return b
}

// forgeries are what a container may say about the gateway, by the number of the
// sender. Those marked so are kept at home by the bridge alone.
func forgeries() map[byte]struct {
	name  string
	frame []byte
	kept  bool
} {
	type forgery = struct {
		name  string
		frame []byte
		kept  bool
	}
	const other4, other6, all = "10.5.0.77", "fd05::77", "ff02::1"
	return map[byte]forgery{
		1:  {"gratuitous ARP request", arp(1, false, 1, gateway4, gateway4), true},
		2:  {"gratuitous ARP answer", arp(2, false, 2, gateway4, gateway4), true},
		3:  {"ARP answer by the gateway", arp(3, false, 2, gateway4, other4), false},
		4:  {"ARP request by the gateway", arp(4, false, 1, gateway4, other4), false},
		5:  {"ARP request for the gateway", arp(5, false, 1, other4, gateway4), true},
		6:  {"ARP answer to the gateway", arp(6, false, 2, other4, gateway4), false},
		7:  {"ARP probe", arp(7, false, 1, "0.0.0.0", gateway4), true},
		8:  {"ARP answer with 802.1p", arp(8, true, 2, gateway4, other4), false},
		9:  {"advertisement of the gateway", nd(9, false, 136, gateway6, all, gateway6), false},
		10: {"advertisement by another", nd(10, false, 136, other6, all, gateway6), false},
		11: {"advertisement by the gateway", nd(11, false, 136, gateway6, all, other6), false},
		12: {"advertisement to the gateway", nd(12, false, 136, other6, gateway6, other6), false},
		13: {"solicitation by the gateway", nd(13, false, 135, gateway6, "ff02::1:ff00:77", other6), false},
		14: {"solicitation for the gateway", nd(14, false, 135, other6, "ff02::1:ff00:1", gateway6), true},
		15: {"advertisement behind options", nd(15, true, 136, gateway6, all, gateway6), false},
		16: {"unsolicited advertisement", unsolicited(nd(16, false, 136, gateway6, all, gateway6)), true},
	}
}

// forge says everything about the gateway, and then a word about an address of
// its own that everybody may hear.
func forge(t *testing.T, tap int, own string) {
	t.Helper()
	all := forgeries()
	var frames [][]byte
	for _, n := range slices.Sorted(maps.Keys(all)) {
		frames = append(frames, all[n].frame)
	}
	for _, f := range append(frames, arp(99, false, 2, own, "10.5.0.99")) {
		if _, err := unix.Write(tap, f); err != nil {
			t.Fatal(err)
		}
	}
}

// chat makes everybody look for everybody: containers, hosts, gateways, and
// addresses that nobody has, from the gateway's address too.
func (l *overlayLab) chat(t *testing.T) {
	t.Helper()
	for i, c := range l.containers {
		for _, to := range []string{gateway4, gateway6, fmt.Sprintf("10.5.0.1%d", 2-i), fmt.Sprintf("fd05::1%d", 2-i), fmt.Sprintf("10.5.0.10%d", 2-i), "192.0.2.1"} {
			if to == "192.0.2.1" && i == 1 {
				continue // the way back of what is not masqueraded
			}
			c.ping(t, to)
		}
		for _, to := range []string{"10.5.0.11", "fd05::12", fmt.Sprintf("10.5.0.10%d", 2-i)} {
			l.hosts[i].ping(t, to)
		}
		say := func(ns namespace, from, to string) {
			err := ns.do(func() error {
				c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0)), net.UDPAddrFromAddrPort(mustAddr(to)))
				if err != nil {
					return err
				}
				_, err = c.Write([]byte("x"))
				return errors.Join(err, c.Close())
			})
			if err != nil {
				t.Error(err)
			}
		}
		say(c, fmt.Sprintf("10.5.0.1%d", i+1), "10.5.0.66:9")
		say(c, fmt.Sprintf("fd05::1%d", i+1), "[fd05::66]:9")
		say(l.hosts[i], gateway4, "10.5.0.67:9")
		say(l.hosts[i], gateway6, "[fd05::67]:9")
	}
}

// leaks returns who says something about the gateway.
func leaks(frames []frame) string {
	seen := map[string]bool{}
	for _, f := range frames {
		if !f.about(gateway4, gateway6) {
			continue
		}
		who := "host or container " + f.mac
		for n, c := range forgeries() {
			if f.mac == fmt.Sprintf("02:00:00:00:f0:%02x", n) {
				who = c.name
			}
		}
		seen[who] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), "\n")
}

// TestGatewaysStayAtHome looks into the tunnel while everybody talks and containers
// lie: nothing in it is about the gateway. Without the rules, it is.
func TestGatewaysStayAtHome(t *testing.T) {
	for _, brNetfilter := range []bool{false, true} {
		t.Run(fmt.Sprintf("br_netfilter=%t", brNetfilter), func(t *testing.T) {
			t.Parallel()
			l := newOverlayLab(t, brNetfilter)
			ctx := testContext(t)
			liars := [2]int{l.containers[0].tap(t, "eth0"), l.containers[1].tap(t, "eth0")}
			listen := func() string {
				t.Helper()
				for i := range l.hosts { // nobody knows anybody
					l.hosts[i].sh(t, "ip neigh flush dev wf-1")
					l.containers[i].sh(t, "ip neigh flush dev eth0")
				}
				wire := l.hosts[0].tap(t, "u0")
				l.chat(t)
				forge(t, liars[0], "10.5.0.91")
				forge(t, liars[1], "10.5.0.92")
				return leaks(hear(t, wire, inner, "10.5.0.91", "10.5.0.92"))
			}
			for _, fw := range l.firewalls {
				if err := fw.AddNetwork(ctx, overlayNetwork()); err != nil {
					t.Fatal(err)
				}
			}
			if got := listen(); got != "" {
				t.Errorf("the tunnel carries\n%s", got)
			}
			// A host without rules: the other one lets nothing in, neither to its
			// container nor to itself.
			if err := l.firewalls[0].Reset(ctx); err != nil {
				t.Fatal(err)
			}
			taps := [2]int{l.containers[1].tap(t, "eth0"), l.hosts[1].tap(t, "wf-1")}
			forge(t, liars[0], "10.5.0.93")
			for _, tap := range taps {
				if got := leaks(hear(t, tap, plain, "10.5.0.93")); got != "" {
					t.Errorf("there comes in\n%s", got)
				}
			}
			// Without rules on either host the lies are believed: this is the last word.
			if err := l.firewalls[1].Reset(ctx); err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, f := range forgeries() {
				if !f.kept {
					want = append(want, f.name)
				}
			}
			for i := range l.hosts {
				want = append(want, fmt.Sprintf("host or container 02:00:00:00:00:%02x", i+1))
			}
			slices.Sort(want)
			if got := listen(); got != strings.Join(want, "\n") {
				t.Errorf("without rules the tunnel carries\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
}
