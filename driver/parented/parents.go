package parented

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// Devices is what [Parents] needs of the kernel.
type Devices interface {
	EnsureVLAN(v kernel.VLAN) (made bool, err error)
	EnsureDummy(name, alias string) (made bool, err error)
	Links() ([]kernel.Link, error)
	Addresses() ([]kernel.Address, error)
	DeleteLink(name string) error
	TryChild(c kernel.Child) error
}

// Parents makes the devices on which networks rest, and counts the networks on each: what
// weft made goes with the last one. All kinds of a host share one. It is safe for
// concurrent use.
type Parents struct {
	k   Devices
	log *slog.Logger

	mu    sync.Mutex                           // held while a device is made or deleted
	users map[string]map[string]driver.Network // by device and id
}

// NewParents makes one that knows of no network; see [Parents.Attend]. log may be nil.
func NewParents(k Devices, log *slog.Logger) *Parents {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Parents{k: k, log: log, users: map[string]map[string]driver.Network{}}
}

// Attend counts a network of an earlier process and makes nothing. It must be called for
// all of them before the first request is answered.
func (p *Parents) Attend(n driver.Network) {
	if OnParent(n) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.count(n)
	}
}

func (p *Parents) count(n driver.Network) {
	if p.users[n.Device] == nil {
		p.users[n.Device] = map[string]driver.Network{}
	}
	p.users[n.Device][n.ID] = n
}

// bear reports whether a network with devices of this kind is on a device.
func (p *Parents) bear(device string, kind kernel.ChildKind) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.users[device] {
		if n.Mode == string(kind) {
			return true
		}
	}
	return false
}

// ensure counts a network and makes its device, unless that is somebody else's. That the
// device below is gone is an error of a new network; that of an older one comes back when
// the device does.
func (p *Parents) ensure(n driver.Network) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, older := p.users[n.Device][n.ID]
	p.count(n)
	switch alias := "weft sub-interface"; {
	case n.Adopted:
		return nil
	case n.VLAN != 0:
		_, err := p.k.EnsureVLAN(kernel.VLAN{Name: n.Device, Alias: alias, Parent: n.Parent, ID: n.VLAN})
		if older && errors.Is(err, kernel.ErrNotFound) {
			return nil // see Kind.Troubles
		}
		if errors.Is(err, kernel.ErrExists) {
			return p.renamed(n, err)
		}
		return err
	default:
		_, err := p.k.EnsureDummy(n.Device, "weft network "+n.ID)
		return err
	}
}

// renamed tells of a sub-interface that exists under another name, or returns the error.
func (p *Parents) renamed(n driver.Network, err error) error {
	now, look := driver.Look(p.k)
	if look != nil {
		return errors.Join(err, look)
	}
	if l, ok := now.Renamed(n); ok {
		why, hint := otherName(l, n)
		return driver.WithHint(fmt.Errorf("%w: %s: %w", driver.ErrConflict, why, err), "%s", hint)
	}
	return err
}

// othersUnder reports whether networks are on a device that was renamed under them.
func (p *Parents) othersUnder(l kernel.Link, now driver.Actual) bool {
	for _, networks := range p.users {
		for _, n := range networks {
			if r, ok := now.Renamed(n); ok && r.Index == l.Index {
				return true
			}
		}
	}
	return false
}

// otherName says that the sub-interface of a network has another name, and what to do.
func otherName(l kernel.Link, n driver.Network) (why, hint string) {
	if driver.Ours(l) {
		return fmt.Sprintf("its sub-interface %s was renamed to %s", n.Device, l.Name), fmt.Sprintf("rename it back: ip link set %s name %s", l.Name, n.Device)
	}
	return fmt.Sprintf("VLAN %d of %s is on %s by now, which weft did not make", n.VLAN, n.Parent, l.Name), fmt.Sprintf("rename that to %s, or create the network anew", n.Device)
}

// leave takes a network off its device, which goes if weft made it and this was the last,
// unless somebody else has something on it: then it stays weft's, and goes later.
func (p *Parents) leave(n driver.Network) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.users[n.Device], n.ID)
	if len(p.users[n.Device]) > 0 {
		return nil
	}
	delete(p.users, n.Device)
	if n.Adopted {
		return nil
	}
	now, err := driver.Look(p.k)
	if err != nil {
		return err
	}
	l, ok := now.Links[n.Device]
	if !ok || !driver.Ours(l) || p.othersUnder(l, now) {
		return nil // it is gone, somebody put another one in its place, or others know it by another name
	}
	why := now.Lent(l)
	if why == "" && driver.Held(p.k, now, l) {
		why = "a device in another network namespace is on it"
	}
	if why != "" {
		p.log.Warn("a device that weft made stays while somebody else uses it", "device", n.Device, "why", why)
		return nil
	}
	if err := p.k.DeleteLink(n.Device); err != nil {
		return fmt.Errorf("remove %s, on which no network is any more: %w", n.Device, err)
	}
	return nil
}
