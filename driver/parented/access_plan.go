package parented

import (
	"errors"
	"fmt"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// planAccess decides how the host gets on the network's line: from its own addresses
// there, or from one of the network's.
func (k *Kind) planAccess(n driver.Network, others []driver.Network) (*driver.Access, error) {
	if err := k.sort.Access(n); err != nil {
		return nil, err
	}
	if len(n.Subnets()) == 0 {
		return nil, driver.WithHint(fmt.Errorf("%w: %s=true: the network has no subnet, so nobody knows its containers' addresses", driver.ErrOption, OptAccess), "give it a --subnet")
	}
	for _, o := range others {
		if o.Access == nil {
			continue
		}
		if _, _, ok := overlap(n, o); ok {
			return nil, driver.WithHint(fmt.Errorf("%w: %s=true: the host is on the line of network %.12s, which has the same addresses: it could not tell the containers apart", driver.ErrConflict, OptAccess, o.ID),
				"choose another --subnet, or leave %s out", OptAccess)
		}
	}
	h, err := k.look(n, true)
	if err != nil && !errors.Is(err, kernel.ErrNotFound) { // a sub-interface that is made later has no address
		return nil, err
	}
	access := &driver.Access{Link: driver.PrefixAccess + short(n.ID)}
	var lacks []driver.Subnet
	for _, s := range n.Subnets() {
		if !h.source(n, k.sort.Routed(n), s.Pool.Addr()).IsValid() {
			lacks = append(lacks, s)
		}
	}
	for _, s := range lacks {
		if len(n.IPv4) > 1 && s.Pool.Addr().Is4() || len(n.IPv6) > 1 && s.Pool.Addr().Is6() || !k.cfg.Addresses.Gives(n.ID, s.Pool) {
			return nil, k.noAddress(n, s)
		}
		access.Pooled = true
	}
	return access, nil
}

// noAddress says why the host cannot be on a network's line.
func (k *Kind) noAddress(n driver.Network, s driver.Subnet) error {
	what := fmt.Sprintf("this host has no address in %s on %s that its containers could answer", s.Pool, n.Device)
	if s.Pool.Addr().Is4() && k.strict(n) {
		what += fmt.Sprintf(" (%s is strict, and what ipvlan containers send to the host comes in by %s)", rpFilter(n.Device), n.Device)
	}
	return driver.WithHint(fmt.Errorf("%w: %s=true: %s", driver.ErrOption, OptAccess, what),
		"give %s one, or use --ipam-driver weft:latest with one subnet of a family: the host takes one of the network's then", n.Device)
}

func rpFilter(device string) string { return "net.ipv4.conf." + device + ".rp_filter" }

// strict says whether the host drops what containers send to its own addresses on the
// parent. That of ipvlan's containers comes in by the parent, and the way back to them is
// another one.
func (k *Kind) strict(n driver.Network) bool {
	if k.sort.OwnMAC || k.sort.Routed(n) {
		return false
	}
	all, _ := k.cfg.Kernel.Sysctl(rpFilter("all")) // the larger one counts; what is missing is 0
	one, _ := k.cfg.Kernel.Sysctl(rpFilter(n.Device))
	return max(all, one) == "1"
}
