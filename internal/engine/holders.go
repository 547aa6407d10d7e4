package engine

import (
	"context"
	"net/netip"
	"time"
)

// Held is everything that the engine says is in use, in one complete answer.
type Held struct {
	// Networks and Endpoints are ids.
	Networks, Endpoints map[string]bool
	// Addresses are those of containers, whatever their network's driver.
	Addresses map[netip.Addr]bool
	// Subnets are those of all networks.
	Subnets map[netip.Prefix]bool
	// At is when the question was asked.
	At time.Time
}

// Held asks the engine for all its networks and containers.
func (e *Engine) Held(ctx context.Context) (Held, error) {
	h := Held{Networks: map[string]bool{}, Endpoints: map[string]bool{},
		Addresses: map[netip.Addr]bool{}, Subnets: map[netip.Prefix]bool{}, At: time.Now()}
	var networks []struct {
		ID   string `json:"Id"`
		IPAM struct{ Config []struct{ Subnet string } }
	}
	if err := e.get(ctx, "/networks", &networks); err != nil {
		return h, err
	}
	for _, n := range networks {
		h.Networks[n.ID] = true
		for _, c := range n.IPAM.Config {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil {
				h.Subnets[p.Masked()] = true
			}
		}
	}
	var containers []struct {
		NetworkSettings struct {
			Networks map[string]struct{ EndpointID, IPAddress, GlobalIPv6Address string }
		}
	}
	if err := e.get(ctx, "/containers/json?all=1", &containers); err != nil {
		return h, err
	}
	for _, c := range containers {
		for _, n := range c.NetworkSettings.Networks {
			h.Endpoints[n.EndpointID] = true
			for _, text := range []string{n.IPAddress, n.GlobalIPv6Address} {
				if a, err := netip.ParseAddr(text); err == nil {
					h.Addresses[a] = true
				}
			}
		}
	}
	return h, nil
}
