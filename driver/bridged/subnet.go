package bridged

import (
	"fmt"
	"net/netip"

	"github.com/weft-net/weft/driver"
)

// OverlapNetworks refuses a subnet that another network of this host has: [driver.ErrConflict].
func OverlapNetworks(n driver.Network, others []driver.Network) error {
	for _, o := range others {
		for _, a := range n.Subnets() {
			for _, b := range o.Subnets() {
				if a.Pool.Overlaps(b.Pool) {
					return driver.WithHint(fmt.Errorf("%w: networks have overlapping %s: %s overlaps %s of network %.12s", driver.ErrConflict,
						family(a.Pool), a.Pool, b.Pool, o.ID), "choose another --subnet, or remove that network")
				}
			}
		}
	}
	return nil
}

// Gateways are the gateways' addresses that the bridge of a network has: none if it is
// internal.
func Gateways(n driver.Network) []netip.Addr {
	var out []netip.Addr
	for _, s := range n.Subnets() {
		if s.Gateway.IsValid() && !n.Internal {
			out = append(out, s.Gateway)
		}
	}
	return out
}

func family(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// OverlapRoutes refuses a subnet that the host reaches by another way. The
// default route and the routes of an adopted bridge do not count.
func (e *Endpoints) OverlapRoutes(n driver.Network) error {
	if err := e.overlap(n); err != nil {
		return driver.WithHint(err, "choose another --subnet")
	}
	return nil
}

// OverlapSince is [Endpoints.OverlapRoutes] of a network whose bridge is made only now:
// until then the host had no route to its subnet, so that others may have taken it.
func (e *Endpoints) OverlapSince(n driver.Network) error {
	if err := e.overlap(n); err != nil {
		return driver.WithHint(fmt.Errorf("network %.12s was created before, and nothing was on it here: %w", n.ID, err),
			"remove what has that route, or remove the network from all hosts and create it with another --subnet")
	}
	return nil
}

func (e *Endpoints) overlap(n driver.Network) error {
	routes, err := e.cfg.Kernel.Routes()
	if err != nil {
		return err
	}
	links, err := e.cfg.Kernel.Links()
	if err != nil {
		return err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	for _, r := range routes {
		if !r.Takes() || names[r.Link] == n.Device {
			continue
		}
		for _, s := range n.Subnets() {
			if s.Pool.Overlaps(r.Dst) {
				return fmt.Errorf("%w: subnet %s overlaps the host's route to %s by %s", driver.ErrConflict, s.Pool, r.Dst, names[r.Link])
			}
		}
	}
	return nil
}
