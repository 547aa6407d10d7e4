package ipam

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// optNet is the --ipam-opt that names a network of the cluster, whose subnet is meant.
const optNet = "net"

// waitName is how long the subnets of a network may be asked for.
const waitName = 2 * time.Second

// NetworkPools are those of a network of the cluster.
type NetworkPools struct {
	Subnets []netip.Prefix
	// Domain is theirs, "" for [DomainCluster].
	Domain string
}

// withSubnet puts the subnet of the network that --ipam-opt net names into a request that
// says none, and its domain, if the request says none of those either. A network that nobody knows is about to be the first of its name, which may
// have any subnet. A request with a subnet, or a size, stays as it is: whether it fits the
// network is seen when that is created.
func (m *IPAM) withSubnet(ctx context.Context, req PoolRequest) (PoolRequest, error) {
	const longest = 128 // the engine's bound
	name, ok := req.Options[optNet]
	switch {
	case !ok:
		return req, nil
	case !validName(name, longest):
		return req, refuse(ErrOption, "use the name of a network: letters, digits, dots, dashes and underscores", "%.200q names no network", name)
	case m.cfg.Network == nil:
		return req, refuse(ErrOption, "set WEFT_STORE on every host, or leave it out", "net=%s is a network of a cluster, and this host is on its own", name)
	case req.Subnet.IsValid():
		return req, nil
	}
	ctx, cancel := context.WithTimeout(ctx, waitName)
	defer cancel()
	pools, known, err := m.cfg.Network(ctx, name)
	if err != nil {
		return req, refuse(ErrStore, "look at `weft store status`, or give the network's --subnet", "the subnets of network %s are not known: %v", name, err)
	}
	if !known {
		return req, nil
	}
	i := slices.IndexFunc(pools.Subnets, func(p netip.Prefix) bool { return p.Addr().Is6() == req.IPv6 })
	if i < 0 {
		return req, noFamily(name, pools.Subnets, req.IPv6)
	}
	req.Subnet = pools.Subnets[i]
	if _, said := req.Options[optDomain]; !said && pools.Domain != "" {
		req.Options = maps.Clone(req.Options)
		req.Options[optDomain] = pools.Domain
	}
	return req, nil
}

func noFamily(name string, subnets []netip.Prefix, ipv6 bool) error {
	family, do := "IPv4", "say --ipv6 --ipv4=false"
	if ipv6 {
		family, do = "IPv6", "leave --ipv6 out"
	}
	return refuse(ErrOption, fmt.Sprintf("%s, or create the network anew on all hosts", do), "network %s of the cluster has no %s subnet, only %v", name, family, subnets)
}
