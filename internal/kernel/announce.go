package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Announce tells the containers on a bridge who has these addresses: one that asked
// before the address was known would ask again after a second only. Ports that suppress
// neighbours, tunnels among them, do not carry it on. It goes on after errors and
// returns all of them; a bridge that is down is none.
func (h *Host) Announce(list []Neighbor) error {
	var errs []error
	for _, n := range list {
		index, err := h.indexOf(n.Link)
		if err == nil {
			err = announce(index, n.MAC[:], []netip.Prefix{netip.PrefixFrom(n.IP, n.IP.BitLen())})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// announce tells the neighbours of a new interface who has its addresses: a
// gratuitous ARP request (RFC 5227) for IPv4 and an unsolicited neighbour
// advertisement (RFC 9131) for IPv6, one frame each, from the calling thread's
// namespace. The engine does the same for the interfaces that it moves.
func announce(index int, mac net.HardwareAddr, addrs []netip.Prefix) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("announce: open packet socket: %w", err)
	}
	// Closing a packet socket waits for an RCU grace period, some 15 ms.
	defer func() { go unix.Close(fd) }()
	for _, p := range addrs {
		frame := arpAnnouncement(mac, p.Addr())
		if p.Addr().Is6() {
			frame = neighborAdvertisement(mac, p.Addr())
		}
		err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6})
		if err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("announce %s: %w", p.Addr(), err)
		}
	}
	return nil
}

// arpAnnouncement is an ARP request in which sender and target are the address.
func arpAnnouncement(mac net.HardwareAddr, ip netip.Addr) []byte {
	f := make([]byte, 0, 42)
	f = append(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f = append(f, mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, request
	f = append(f, mac...)
	f = append(f, ip.AsSlice()...)
	f = append(f, 0, 0, 0, 0, 0, 0)
	return append(f, ip.AsSlice()...)
}

// neighborAdvertisement goes to all nodes with the override flag and the
// target's link-layer address (RFC 4861 §4.4).
func neighborAdvertisement(mac net.HardwareAddr, ip netip.Addr) []byte {
	allNodes := netip.MustParseAddr("ff02::1").As16()
	src := ip.As16()
	icmp := []byte{136, 0, 0, 0, 0x20, 0, 0, 0}
	icmp = append(icmp, src[:]...)
	icmp = append(icmp, 2, 1)
	icmp = append(icmp, mac...)
	return neighborFrame(mac, []byte{0x33, 0x33, 0, 0, 0, 1}, src, allNodes, icmp)
}

// neighborFrame is a frame of neighbour discovery; it puts the checksum into icmp.
func neighborFrame(mac, toMAC net.HardwareAddr, from, to [16]byte, icmp []byte) []byte {
	pseudo := append(append([]byte{}, from[:]...), to[:]...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(icmp)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(icmp[2:], checksum(append(pseudo, icmp...)))

	f := append([]byte{}, toMAC...)
	f = append(f, mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(icmp)))
	f = append(f, unix.IPPROTO_ICMPV6, 255)
	f = append(f, from[:]...)
	f = append(f, to[:]...)
	return append(f, icmp...)
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
