package parented

import (
	"context"
	"errors"
	"maps"
	"net"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// Bounds of the announcement of an endpoint whose device the engine moves.
const (
	lookEvery = 100 * time.Millisecond
	// lookOften is for containers that know the host only after a look.
	lookOften = 10 * time.Millisecond
	// giveUpAfter is for how long the device may wait on the host.
	giveUpAfter = 30 * time.Second
)

// moving is an endpoint whose device the engine is about to move and to set up.
type moving struct {
	n     driver.Network
	ep    driver.Endpoint
	tell  []kernel.Neighbor
	moved bool
	until time.Time
}

// joined notes that an endpoint is in a sandbox, or about to be. Engines before 28 tell
// nobody on the line of an interface that they moved, so weft does: switches learn where
// the MAC address is, and neighbours who has the address now.
func (k *Kind) joined(n driver.Network, ep driver.Endpoint, mac net.HardwareAddr) {
	k.publish(n, ep)
	k.sit(ep, "")
	k.mu.Lock()
	delete(k.lost, ep.ID)
	delete(k.apart, ep.ID)
	k.off[ep.ID] = ep.Off && ep.Attach == driver.AttachDirect
	if ep.Attach == driver.AttachDocker && !k.sort.Routed(n) && !ep.Off {
		m := moving{n: n, ep: ep, until: time.Now().Add(giveUpAfter)}
		for _, p := range ep.Addrs() {
			tell := kernel.Neighbor{Link: n.Device, IP: p.Addr()}
			copy(tell.MAC[:], mac)
			m.tell = append(m.tell, tell)
		}
		k.moving[ep.ID] = m
	}
	k.mu.Unlock()
	k.poke()
}

// poke wakes Run.
func (k *Kind) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// left forgets what was known of an endpoint.
func (k *Kind) left(n driver.Network, ep driver.Endpoint) {
	k.withdraw(n, ep)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.off, ep.ID)
	delete(k.lost, ep.ID)
	delete(k.apart, ep.ID)
	delete(k.moving, ep.ID)
	delete(k.seats, ep.ID)
}

// Run announces what the engine has moved, and deletes what has left its sandbox, until
// ctx ends.
func (k *Kind) Run(ctx context.Context) error {
	for {
		k.deleteRetired()
		var soon <-chan time.Time
		if again := k.announce(); again > 0 {
			soon = time.After(again)
		}
		select {
		case <-ctx.Done():
			k.mu.Lock()
			k.ended = true
			k.mu.Unlock()
			k.deleteRetired()
			return nil
		case <-k.wake:
		case <-soon:
		}
	}
}

// deleteRetired deletes the devices for which no Leave had to wait. All are gone then.
func (k *Kind) deleteRetired() {
	k.retiring.Lock()
	defer k.retiring.Unlock()
	k.mu.Lock()
	list := k.finish
	k.finish = nil
	k.mu.Unlock()
	for _, finish := range list {
		if err := finish(); err != nil {
			k.log.Warn("delete a device that has left its container", "err", err)
		}
	}
}

// announce tells the line of the devices that are not on the host any more, and containers
// whose devices are up of the host. It returns when to look again, 0 for not before more
// endpoints join.
func (k *Kind) announce() (again time.Duration) {
	k.mu.Lock()
	list := maps.Clone(k.moving)
	k.mu.Unlock()
	for id, m := range list {
		late := time.Now().After(m.until)
		_, err := k.cfg.Kernel.LinkByName(m.ep.PeerLink)
		first := !m.moved && (err != nil || late)
		m.moved = m.moved || first
		wait := !m.moved
		if m.moved {
			err := k.tellHosts(m.n, m.ep)
			if wait = errors.Is(err, kernel.ErrNotFound) && !late; err != nil && !wait {
				k.log.Warn("tell a container who the host is", "endpoint", short(id), "err", err)
			}
		}
		k.mu.Lock()
		now, still := k.moving[id]
		still = still && now.until.Equal(m.until) // it may have left, and joined again
		if still && wait {
			k.moving[id] = m
		} else if still {
			delete(k.moving, id)
		}
		k.mu.Unlock()
		if !still {
			continue
		}
		if first {
			if err := k.cfg.Kernel.Announce(parentMACs(k.cfg.Kernel, k.sort, m.tell)); err != nil {
				k.log.Warn("announce the addresses of a container", "endpoint", short(id), "err", err)
			}
		}
		switch {
		case wait && m.n.Access != nil:
			again = lookOften
		case wait && again == 0:
			again = lookEvery
		}
	}
	return again
}

// parentMACs puts the parent's MAC address where containers have that.
func parentMACs(k Kernel, s Sort, list []kernel.Neighbor) []kernel.Neighbor {
	for i := range list {
		if l, err := k.LinkByName(list[i].Link); err == nil && !s.OwnMAC {
			list[i].MAC = l.MAC
		}
	}
	return list
}
