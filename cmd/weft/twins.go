package main

import (
	"fmt"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/ownership"
)

// twins are those of all networks of the cluster, by the network's id.
func (h *house) twins() map[string][]string {
	found := map[string][]string{}
	if h.cluster == nil {
		return found
	}
	for _, n := range h.driver.Networks() {
		if n.Shared != nil {
			if texts := twinsOn(n, h.directory.Endpoints(n.Shared.UUID), h.cluster.Me(), h.cluster.Name); len(texts) > 0 {
				found[n.ID] = texts
			}
		}
	}
	return found
}

// twinsOn says which containers of this host have the MAC address of one on another host, as
// two with the same --mac-address do. Frames reach one of them at a time. All of an ipvlan
// parent have its address, so there it is no news.
func twinsOn(n driver.Network, eps []directory.Endpoint, me ownership.Host, name func(ownership.Host) string) []string {
	if n.Mode == string(kernel.IPvlan) {
		return nil
	}
	ours := map[string]directory.Endpoint{}
	for _, e := range eps {
		if e.Host == me && e.MAC != "" {
			ours[e.MAC] = e
		}
	}
	var texts []string
	for _, e := range eps {
		if mine, both := ours[e.MAC]; both && e.Host != me {
			texts = append(texts, fmt.Sprintf("%s here and %s on host %s have the same MAC address %s, so that only one of them is reached: "+
				"give one container another --mac-address", at(mine), at(e), name(e.Host), e.MAC))
		}
	}
	return texts
}

// at is where an endpoint is found.
func at(e directory.Endpoint) string {
	if len(e.Addrs) == 0 {
		return fmt.Sprintf("endpoint %.12s", e.ID)
	}
	return e.Addrs[0].String()
}
