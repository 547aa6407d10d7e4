package parented

import (
	"errors"
	"fmt"
	"net"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// seat is a joined endpoint with a MAC address of its own.
type seat struct {
	ep  driver.Endpoint
	mac kernel.MAC
	// joining is the device of its network while it is being joined, and may not be there
	// yet; "" from then on, when the kernel tells on what it is.
	joining string
}

// macOf is an endpoint's MAC address, the zero one if it has none of its own.
func macOf(ep driver.Endpoint) (out kernel.MAC) {
	if mac, err := net.ParseMAC(ep.MAC); err == nil {
		copy(out[:], mac)
	}
	return out
}

// sit notes who has a MAC address, and returns whoever else has it. joining is that of seat.
func (k *Kind) sit(ep driver.Endpoint, joining string) (others []seat) {
	if !k.sort.OwnMAC {
		return nil
	}
	own := seat{ep: ep, mac: macOf(ep), joining: joining}
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, s := range k.seats {
		if id != ep.ID && s.mac == own.mac {
			others = append(others, s)
		}
	}
	k.seats[ep.ID] = own
	return others
}

// rise forgets that an endpoint is joined.
func (k *Kind) rise(ep driver.Endpoint) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.seats, ep.ID)
}

// checkMAC refuses a MAC address that a device on the same parent has, or the parent. The kernel
// refuses it only when the device is set up, which the engine may do, and does not say who has it.
// A passthru device has the parent's, and is alone there.
func (k *Kind) checkMAC(n driver.Network, ep driver.Endpoint) error {
	others := k.sit(ep, n.Device)
	if !k.sort.OwnMAC || ep.MAC == "" || k.sort.Alone(n) {
		return nil
	}
	parent, err := k.cfg.Kernel.LinkByName(n.Device)
	if errors.Is(err, kernel.ErrNotFound) {
		return nil // which whoever makes the device tells
	}
	if err != nil {
		return err
	}
	if parent.MAC == macOf(ep) {
		return macTaken(n, ep, "the parent itself has it")
	}
	for _, s := range others {
		here, err := k.sitsOn(s, n.Device, parent.Index)
		if err != nil {
			return err
		}
		if here {
			return macTaken(n, ep, fmt.Sprintf("the container of endpoint %.12s (%s) on network %.12s has it", s.ep.ID, addresses(s.ep), s.ep.Network))
		}
	}
	return k.checkHostsMAC(n, ep, parent.Index)
}

// sitsOn reports whether an endpoint is on a device. One whose sandbox went without a Leave, as
// by a boot, is on none.
func (k *Kind) sitsOn(s seat, device string, index int) (bool, error) {
	if s.joining != "" {
		return s.joining == device, nil
	}
	if l, err := k.cfg.Kernel.LinkByName(s.ep.PeerLink); err == nil { // the engine has not moved it yet
		return l.Parent == index, nil
	}
	on, err := k.cfg.Kernel.ParentOf(s.ep.Sandbox, alias(s.ep))
	if errors.Is(err, kernel.ErrNotFound) {
		return false, nil
	}
	return on == index, err
}

// checkHostsMAC is checkMAC for what the host has on a parent beside the containers, such as the
// device of host_access. No address that weft made itself is one of those.
func (k *Kind) checkHostsMAC(n driver.Network, ep driver.Endpoint, parent int) error {
	if derived := driver.EndpointMAC(k.seed(n), ep); kernel.MAC(derived) == macOf(ep) {
		return nil
	}
	links, err := k.cfg.Kernel.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Kind == string(k.sort.Kind) && l.Parent == parent && l.Up && l.MAC == macOf(ep) {
			return macTaken(n, ep, fmt.Sprintf("the host's device %s has it", l.Name))
		}
	}
	return nil
}

func macTaken(n driver.Network, ep driver.Endpoint, who string) error {
	return driver.WithHint(fmt.Errorf("%w: MAC address %s is taken on %s: %s", driver.ErrConflict, ep.MAC, n.Device, who),
		"choose another --mac-address, or leave it out")
}
