package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/ipam"
)

// line is the device on whose line a network's containers are machines among others, ""
// if they are on none.
func (h *house) line(network string) string {
	n, ok := h.driver.Network(network)
	if !ok {
		return ""
	}
	return cmp.Or(h.macvlan.Line(n), h.ipvlan.Line(n))
}

// follow lets a network follow its options to another line, if there is one.
func (h *house) follow(ctx context.Context, network string) { h.driver.Settle(ctx, network) }

// tellLines tells the IPAM which addresses this host itself has, and which lines are up.
func (h *house) tellLines(actual driver.Actual) {
	up := make(map[string]int)
	for name, l := range actual.Links {
		if l.Up && l.Carrier {
			up[name] = l.Index
		}
	}
	h.ipam.LinesUp(up)
	var all []netip.Addr
	for _, list := range actual.Addresses {
		for _, a := range list {
			all = append(all, a.Prefix.Addr())
		}
	}
	h.ipam.HostHas(all)
}

// asker asks for the IPAM who is on a line.
type asker struct {
	probe func(ctx context.Context, device, mark string, addrs []netip.Addr) (map[netip.Addr]kernel.Station, error)
	// endpoints are this host's.
	endpoints func(network string) []driver.Endpoint
}

// Probe leaves out this host's own containers: what they say may come back from the line
// (mode vepa). The host itself is none of them, though one may have the MAC address of its
// device (passthru).
func (a asker) Probe(ctx context.Context, device, mark string, addrs []netip.Addr) (map[netip.Addr]ipam.Machine, error) {
	found, err := a.probe(ctx, device, mark, addrs)
	if errors.Is(err, kernel.ErrLineDown) || errors.Is(err, kernel.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ipam.ErrNoLine, err)
	}
	if len(found) == 0 {
		return nil, err
	}
	ours := map[string]bool{}
	for _, ep := range a.endpoints("") {
		if mac, err := net.ParseMAC(ep.MAC); err == nil {
			ours[mac.String()] = true
		}
	}
	out := map[netip.Addr]ipam.Machine{}
	for addr, m := range found {
		if m.Own != "" || !ours[m.MAC.String()] {
			out[addr] = ipam.Machine(m)
		}
	}
	return out, err
}
