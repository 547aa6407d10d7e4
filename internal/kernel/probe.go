package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A probe asks so often, with pauses, and listens a while after the last time.
const (
	probeTimes  = 3
	probeEvery  = 120 * time.Millisecond
	probeListen = 240 * time.Millisecond
	// probeBuffer holds the answers of a whole network, should they come at once.
	probeBuffer = 1 << 20
)

// ErrLineDown says that a device is down or has no carrier.
var ErrLineDown = errors.New("the line is down")

// A Station is who has an address on a line.
type Station struct {
	MAC net.HardwareAddr
	// Own is the name of the device by which this host has it itself, "" if somebody else
	// does.
	Own string
}

// Probe asks on the line of a device of this namespace who has addresses, three times in
// half a second, by ARP and neighbour discovery and from no address, so that nobody learns
// a wrong one (RFC 5227, RFC 4862). It returns those who answered, said so by themselves, or
// asked like this for one: but nobody who does so with the same mark. The addresses for which
// the host itself answers there are among them, but for those that weft gave it, and
// containers on the device are not: they do not hear what the host says. What another card of
// the host's says that is on the same line is said by the host itself. It ends early when
// everybody has answered.
//
// It is ErrNotFound or [ErrLineDown] if nobody can be asked. Whoever was heard before an
// error is returned with it.
func (h *Host) Probe(ctx context.Context, device, mark string, addrs []netip.Addr) (found map[netip.Addr]Station, retErr error) {
	defer func() {
		if retErr != nil {
			retErr = fmt.Errorf("ask %s who has %d addresses: %w", device, len(addrs), retErr)
		}
	}()
	l, err := h.lineOf(device)
	if err != nil {
		return nil, err
	}
	found, own, err := h.ownAddresses(l, addrs)
	if err != nil {
		return nil, err
	}
	p := prober{link: l, found: found, own: own, open: map[netip.Addr]bool{}, mark: probeMark(mark)}
	if p.cards, err = h.ownMACs(); err != nil {
		return nil, err
	}
	for _, a := range addrs {
		_, own := found[a]
		p.open[a] = !own
	}
	if err := p.listen(); err != nil {
		return found, err
	}
	defer func() { retErr = errors.Join(retErr, p.socket.Close()) }()
	defer context.AfterFunc(ctx, p.stop)()
	for i := range probeTimes {
		wait := probeEvery
		if i == probeTimes-1 {
			wait = probeListen
		}
		if err := p.ask(); err != nil {
			return found, err
		}
		if err := p.hear(ctx, time.Now().Add(wait)); err != nil {
			return found, err
		}
	}
	// Who was asked on a line that went down meanwhile may not have heard it.
	if now, err := h.lineOf(device); err != nil || now.Index != l.Index {
		return found, errors.Join(err, ErrLineDown)
	}
	return found, nil
}

// lineOf returns a device whose line can be spoken on.
func (h *Host) lineOf(device string) (Link, error) {
	l, err := h.LinkByName(device)
	if err == nil && (!l.Up || !l.Carrier) {
		err = ErrLineDown
	}
	return l, err
}

// ownAddresses are those for which the host itself answers on a line, which would not hear
// its own question: what it has by the device, by one that somebody put beside the
// containers', and of IPv4 by any other, unless arp_ignore says otherwise. Devices of weft's
// beside the containers' have addresses that weft gave them. devices are those by which the host
// has the others that weft did not give it there, whether it answers for them or not.
func (h *Host) ownAddresses(line Link, of []netip.Addr) (answers map[netip.Addr]Station, devices map[netip.Addr]string, err error) {
	all, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	own := make(map[netip.Addr][]netlink.Addr) // several devices may have one address
	for _, a := range all {
		addr := netPrefix(a.IPNet).Addr()
		own[addr] = append(own[addr], a)
	}
	told, err := h.toldByARP(line)
	if err != nil {
		return nil, nil, err
	}
	answers, devices = make(map[netip.Addr]Station), make(map[netip.Addr]string)
	for _, a := range of {
		for _, has := range own[a] {
			link, err := h.nl.LinkByIndex(has.LinkIndex)
			if err != nil {
				continue // it is gone by now
			}
			l := toLink(link)
			beside := l.Parent == line.Index && l.VLAN == 0
			ours := l.Group == Group || l.Group == DoomedGroup
			if !beside || !ours {
				devices[a] = l.Name
			}
			switch {
			case l.Index == line.Index, beside && !ours:
				answers[a] = Station{MAC: l.MAC[:], Own: l.Name}
			case !beside && a.Is4() && told(has) && answers[a].Own == "":
				answers[a] = Station{MAC: line.MAC[:], Own: l.Name}
			}
		}
	}
	return answers, devices, nil
}

// ownMACs are those of this host's devices, but for what the protocols of virtual routers use
// (RFC 5798): who waits to take over has that too, and another machine answers by it.
func (h *Host) ownMACs() (map[MAC]bool, error) {
	links, err := h.Links()
	if err != nil {
		return nil, err
	}
	out := make(map[MAC]bool)
	for _, l := range links {
		if !bytes.HasPrefix(l.MAC[:], []byte{0, 0, 0x5e, 0}) {
			out[l.MAC] = true
		}
	}
	return out, nil
}

// toldByARP says for which IPv4 addresses of other devices the host answers on one: all, but
// for what arp_ignore says, of which the larger one of two settings counts.
func (h *Host) toldByARP(l Link) (told func(netlink.Addr) bool, err error) {
	ignore := 0
	for _, name := range []string{"all", l.Name} {
		key := "net/ipv4/conf/" + name + "/arp_ignore"
		text, err := h.Sysctl(key)
		if err != nil {
			return nil, err
		}
		value, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("sysctl %s: %w", key, err)
		}
		ignore = max(ignore, value)
	}
	return func(a netlink.Addr) bool {
		switch ignore {
		case 1, 2, 8: // the device's own ones, these if the subnet is the asker's, none
			return false
		case 3:
			return a.Scope != unix.RT_SCOPE_HOST
		default: // 4 and more are as good as 0
			return true
		}
	}, nil
}

// prober is one probe.
type prober struct {
	link  Link
	mark  [6]byte
	found map[netip.Addr]Station
	open  map[netip.Addr]bool // whether nobody answered yet
	// cards are the MAC addresses of the host's own devices, own those by which it has
	// addresses that weft did not give it.
	cards map[MAC]bool
	own   map[netip.Addr]string
	// socket's descriptor is fd.
	socket *os.File
	fd     int
}

// probeMark is what tells the probes of those who use the same mark.
func probeMark(mark string) (out [6]byte) {
	sum := sha256.Sum256([]byte("weft probe " + mark))
	copy(out[:], sum[:])
	return out
}

// listen opens the socket. It sees everything that comes to the device, before macvlan and
// ipvlan devices take it for themselves; a filter in the kernel keeps away what is no answer.
func (p *prober) listen() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	p.fd, p.socket = fd, os.NewFile(uintptr(fd), "probe")
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)   // kernels before 4.20 pay a copy
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, probeBuffer) // else it is what the host allows
	filter := probeFilter()
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: p.link.Index})
	}
	// Answers to a question from no address go to all nodes, and other machines ask the
	// address's group: the card has to take both in, whether the host speaks IPv6 or not.
	groups := map[MAC]bool{}
	for a := range p.open {
		if a.Is6() {
			groups[MAC{0x33, 0x33, 0, 0, 0, 1}], groups[groupMAC(a)] = true, true
		}
	}
	for mac := range groups {
		m := unix.PacketMreq{Ifindex: int32(p.link.Index), Type: unix.PACKET_MR_MULTICAST, Alen: 6}
		copy(m.Address[:], mac[:])
		err = errors.Join(err, unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), p.socket.Close())
	}
	return nil
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

// probeFilter lets in ARP and neighbour discovery that came from outside, without the tag
// of a VLAN: that would be another line.
func probeFilter() []unix.SockFilter {
	const (
		word, half, octet = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		equal, and, ret   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, unix.BPF_RET | unix.BPF_K
		// What is not in the frame (linux/filter.h).
		packetType, vlanTag, vlanTagged = 0xfffff000 + 4, 0xfffff000 + 44, 0xfffff000 + 48
	)
	return []unix.SockFilter{
		{Code: word, K: packetType},
		{Code: equal, K: unix.PACKET_OUTGOING, Jt: 13},
		{Code: word, K: vlanTagged}, // some kernels leave the tag there that was taken off
		{Code: equal, K: 0, Jt: 3},
		{Code: word, K: vlanTag},
		{Code: and, K: 0xfff},
		{Code: equal, K: 0, Jf: 8},
		{Code: half, K: 12},
		{Code: equal, K: unix.ETH_P_ARP, Jt: 7},
		{Code: equal, K: unix.ETH_P_IPV6, Jf: 5},
		{Code: octet, K: 20},
		{Code: equal, K: unix.IPPROTO_ICMPV6, Jf: 3},
		{Code: octet, K: 54},
		{Code: equal, K: typeSolicitation, Jt: 2},
		{Code: equal, K: typeAdvertisement, Jt: 1},
		{Code: ret, K: 0},
		{Code: ret, K: 1 << 16},
	}
}

// ask sends one question for each address that is open.
func (p *prober) ask() error {
	for a, open := range p.open {
		if !open {
			continue
		}
		frame, protocol := arpProbe(p.link.MAC, p.mark, a), uint16(unix.ETH_P_ARP)
		if a.Is6() {
			frame, protocol = solicitation(p.link.MAC, p.mark, a), unix.ETH_P_IPV6
		}
		to := &unix.SockaddrLinklayer{Ifindex: p.link.Index, Halen: 6, Protocol: bigEndian(protocol)}
		if err := unix.Sendto(p.fd, frame, 0, to); err != nil {
			return fmt.Errorf("send a probe: %w", err)
		}
	}
	return nil
}

// stop ends hear.
func (p *prober) stop() { _ = p.socket.SetReadDeadline(time.Unix(1, 0)) }

// hear takes in answers until a time, or until there is nothing more to ask.
func (p *prober) hear(ctx context.Context, until time.Time) error {
	if err := p.socket.SetReadDeadline(until); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		waits := false
		for _, open := range p.open {
			waits = waits || open
		}
		if !waits || ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := p.next(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ctx.Err()
		case errors.Is(err, unix.ENETDOWN):
			return ErrLineDown
		case err != nil:
			return err
		}
		if bytes.Equal(buf[6:12], p.link.MAC[:]) {
			continue // a mirror
		}
		for _, c := range claims(buf[:n], p.mark) {
			if who, counts := p.who(c); counts && p.open[c.addr] {
				p.open[c.addr], p.found[c.addr] = false, who
			}
		}
	}
}

// who is whoever claims an address. A card of the host's that is on the same line claims for the
// host, which may have no address but those that weft gave it: then somebody else may still
// answer.
func (p *prober) who(c claim) (who Station, counts bool) {
	if !p.cards[MAC(c.mac)] {
		return Station{MAC: c.mac}, true
	}
	device := p.own[c.addr]
	return Station{MAC: c.mac, Own: device}, device != ""
}

// next reads a frame. After the deadline it still returns what came before: this process may
// have been kept from it, on a busy machine for seconds.
func (p *prober) next(buf []byte) (int, error) {
	n, err := p.socket.Read(buf)
	if late := err; errors.Is(late, os.ErrDeadlineExceeded) {
		if n, err = unix.Read(p.fd, buf); errors.Is(err, unix.EAGAIN) {
			return 0, late
		}
	}
	return n, err
}

// Types of ICMPv6.
const (
	typeSolicitation  = 135
	typeAdvertisement = 136
)

// claim is what a frame says about an address.
type claim struct {
	addr netip.Addr
	mac  net.HardwareAddr
}

// claims returns who has an address, or wants to, according to a frame. Probes with the
// mark say nothing.
func claims(f []byte, mark [6]byte) []claim {
	const header, arp, ip6, icmp = 14, 28, 40, 24
	if len(f) < header {
		return nil
	}
	body := f[header:]
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_ARP:
		if len(body) < arp || !bytes.Equal(body[:6], []byte{0, 1, 8, 0, 6, 4}) {
			return nil
		}
		sender, target := netip.AddrFrom4([4]byte(body[14:18])), netip.AddrFrom4([4]byte(body[24:28]))
		mac := net.HardwareAddr(bytes.Clone(body[8:14]))
		switch {
		case !sender.IsUnspecified():
			return []claim{{sender, mac}}
		case body[7] == 1 && !bytes.HasPrefix(body[arp:], mark[:]):
			return []claim{{target, mac}}
		}
	case unix.ETH_P_IPV6:
		if len(body) < ip6+icmp || body[6] != unix.IPPROTO_ICMPV6 || body[7] != 255 || body[ip6+1] != 0 {
			return nil
		}
		source, target := netip.AddrFrom16([16]byte(body[8:24])), netip.AddrFrom16([16]byte(body[ip6+8:ip6+icmp]))
		mac := net.HardwareAddr(bytes.Clone(f[6:12]))
		nonce := append([]byte{optNonce, 1}, mark[:]...)
		switch {
		case body[ip6] == typeAdvertisement:
			return []claim{{target, mac}}
		case body[ip6] == typeSolicitation && !source.IsUnspecified():
			return []claim{{source, mac}}
		case body[ip6] == typeSolicitation && !bytes.HasPrefix(body[ip6+icmp:], nonce):
			return []claim{{target, mac}}
		}
	}
	return nil
}

// arpProbe asks who has an address, from none (RFC 5227). The mark is in what fills the
// frame up, where nobody looks.
func arpProbe(mac MAC, mark [6]byte, ip netip.Addr) []byte {
	f := make([]byte, 0, 60)
	f = append(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f = append(f, mac[:]...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, request
	f = append(f, mac[:]...)
	f = append(f, make([]byte, 4+6)...)
	f = append(f, ip.AsSlice()...)
	f = append(f, mark[:]...)
	return f[:cap(f)]
}

// optNonce is what a machine recognises its own solicitations by (RFC 7527).
const optNonce = 14

// solicitation asks who has an address, from none (RFC 4861 §4.3), with the mark as the
// nonce.
func solicitation(mac MAC, mark [6]byte, ip netip.Addr) []byte {
	target, group := ip.As16(), groupMAC(ip)
	to := [16]byte{0xff, 2, 11: 1, 12: 0xff, 13: target[13], 14: target[14], 15: target[15]}
	icmp := []byte{typeSolicitation, 0, 0, 0, 0, 0, 0, 0}
	icmp = append(icmp, target[:]...)
	icmp = append(icmp, optNonce, 1)
	icmp = append(icmp, mark[:]...)
	return neighborFrame(mac[:], group[:], netip.IPv6Unspecified().As16(), to, icmp)
}

// groupMAC is where machines listen for questions about an address.
func groupMAC(ip netip.Addr) MAC {
	b := ip.As16()
	return MAC{0x33, 0x33, 0xff, b[13], b[14], b[15]}
}
