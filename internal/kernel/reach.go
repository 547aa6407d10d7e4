package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Source returns the address from which this host would send to another one.
func (h *Host) Source(to netip.Addr) (netip.Addr, error) {
	routes, err := h.nl.RouteGet(net.IP(to.AsSlice()))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("route to %s: %w", to, vocabulary(err))
	}
	for _, r := range routes {
		if a, ok := netip.AddrFromSlice(r.Src); ok {
			return a.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("route to %s: %w: it has no source address", to, ErrNotFound)
}

// echoID marks the echo requests of [Host.Answers].
const echoID = 0x7766

// Answers reports whether an address answers an ICMP echo within a time; each
// third of it sends one. It needs CAP_NET_RAW.
func (h *Host) Answers(to netip.Addr, within time.Duration) (answers bool, retErr error) {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	conn, err := net.ListenPacket(network, "") //nolint:noctx // nothing is resolved or dialled
	if err != nil {
		return false, fmt.Errorf("ICMP socket: %w", err)
	}
	defer func() { retErr = errors.Join(retErr, conn.Close()) }()
	end := time.Now().Add(within)
	buf := make([]byte, 512)
	for seq := uint16(1); time.Now().Before(end); seq++ {
		msg := []byte{request, 0, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(msg[4:], echoID)
		binary.BigEndian.PutUint16(msg[6:], seq)
		if to.Is4() {
			binary.BigEndian.PutUint16(msg[2:], ^(uint16(request)<<8 + echoID + seq))
		}
		if _, err := conn.WriteTo(msg, &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}); err != nil {
			return false, nil // no route
		}
		if err := conn.SetReadDeadline(time.Now().Add(within / 3)); err != nil {
			return false, err
		}
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			if n >= 8 && buf[0] == reply && binary.BigEndian.Uint16(buf[4:]) == echoID && from.String() == to.String() {
				return true, nil
			}
		}
	}
	return false, nil
}
