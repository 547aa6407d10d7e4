package overlay

import (
	"maps"
	"net/netip"
	"time"
)

// reaches reports whether a tunnel from here to a host's address leads there: it must be
// of the underlay's family, and none of this host's own, or the frames would come back.
func (p place) reaches(vtep netip.Addr) bool {
	return vtep.IsValid() && vtep.Is4() == p.local.Is4() && vtep != p.local && !p.own[vtep]
}

// ownAddresses are those of this host's links, not more than a second old; the caller
// must not change them. When they change, all networks are programmed anew.
func (k *Kind) ownAddresses() (map[netip.Addr]bool, error) {
	k.mu.Lock()
	own, fresh := k.own, time.Since(k.ownSeen) < again
	k.mu.Unlock()
	if own != nil && fresh {
		return own, nil
	}
	all, err := k.cfg.Kernel.Addresses()
	if err != nil {
		return nil, err
	}
	now := make(map[netip.Addr]bool)
	for _, a := range all {
		if addr := a.Prefix.Addr(); !addr.IsLinkLocalUnicast() { // no host is reached by one
			now[addr] = true
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.own != nil && !maps.Equal(now, k.own) {
		for uuid := range k.tunnels {
			k.dirty[uuid] = true
		}
	}
	k.own, k.ownSeen = now, time.Now()
	return now, nil
}

// followAddresses notices addresses that came to this host or left it.
func (k *Kind) followAddresses() {
	k.mu.Lock()
	idle := len(k.tunnels) == 0
	k.mu.Unlock()
	if idle {
		return
	}
	if _, err := k.ownAddresses(); err != nil {
		k.log.Debug("addresses of this host", "err", err)
	}
}
