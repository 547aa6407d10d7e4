package parented

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// prefixDummy begins the names of the devices of networks without a parent, as the
// built-in drivers' do.
const prefixDummy = "dm-"

func short(id string) string { return id[:min(12, len(id))] }

// PlanNetwork finds the network's place and checks it against the host, the other
// networks and, of a network of the cluster, the other hosts.
func (k *Kind) PlanNetwork(ctx context.Context, n driver.Network, others []driver.Network) (driver.Network, error) {
	s := parse(n.Options)
	links, err := k.cfg.Kernel.Links()
	if err != nil {
		return n, err
	}
	routes, err := k.cfg.Kernel.Routes()
	if err != nil {
		return n, err
	}
	if s.parent == "" {
		if s.vlan != 0 {
			return n, driver.WithHint(fmt.Errorf("%w: %s=%d: it is a VLAN of no device", driver.ErrOption, OptVLAN, s.vlan), "name the device with -o %s", OptParent)
		}
		n.Device = prefixDummy + short(n.ID)
	} else if n, err = k.place(n, s, links, routes); err != nil {
		return n, err
	}
	if err := k.overlaps(n, others); err != nil {
		return n, err
	}
	if err := k.share(n, others); err != nil {
		return n, err
	}
	if err := foreignRoute(n, links, routes); err != nil {
		return n, err
	}
	if err := driver.CheckMTU(n, s.mtu); err != nil {
		return n, err
	}
	if err := k.try(n, links); err != nil {
		return n, err
	}
	if s.access {
		if n.Access, err = k.planAccess(n, others); err != nil {
			return n, err
		}
	}
	return k.agree(ctx, n)
}

// place finds the devices on which the network rests, and refuses those that cannot
// bear it.
func (k *Kind) place(n driver.Network, s settings, links []kernel.Link, routes []kernel.Route) (driver.Network, error) {
	p, err := Find(s.parent, s.vlan, links, routes)
	if err != nil {
		return n, err
	}
	n.Device, n.Parent, n.VLAN, n.Adopted, n.ParentRoute = p.Device, p.Parent, p.VLAN, p.Adopted, p.Route
	f := finder{links: links}
	parent, _ := f.named(p.Parent)
	n.ParentMAC = parent.MAC.String()
	if parent.Loopback {
		return n, fmt.Errorf("%w: loopback interface is not a valid %s parent link", driver.ErrOption, k.sort.Kind)
	}
	if parent.Bare {
		return n, driver.WithHint(fmt.Errorf("%w: %s is no Ethernet device", driver.ErrOption, p.Parent), "use one as the parent, or -o mode=bridge")
	}
	below := parent // a sub-interface that weft makes gets the parent's MTU
	if l, ok := f.named(p.Device); ok {
		if err := bears(l, f); err != nil {
			return n, err
		}
		below = l
	}
	if k.sort.OwnMAC {
		wireless, err := k.cfg.Kernel.Wireless(p.Parent)
		if err != nil {
			return n, err
		}
		if wireless {
			return n, driver.WithHint(fmt.Errorf("%w: %s is wireless: access points drop frames from MAC addresses other than its own", driver.ErrOption, p.Parent),
				"use -o mode=%s, whose containers have the parent's MAC address", kernel.IPvlan)
		}
	}
	if below.MTU > 0 && s.mtu > below.MTU {
		return n, driver.WithHint(fmt.Errorf("%w: %s=%d: the parent %s has an MTU of %d", driver.ErrOption, driver.OptMTU, s.mtu, below.Name, below.MTU),
			"use at most %d, or leave it out", below.MTU)
	}
	return n, nil
}

// kindVRF is a device that leaves its ports their frames.
const kindVRF = "vrf"

// bears refuses devices that cannot be parents.
func bears(l kernel.Link, f finder) error {
	if l.Kind == kindVRF {
		return driver.WithHint(fmt.Errorf("%w: %s is a VRF, which takes no frames", driver.ErrOption, l.Name), "use a device in it as the parent")
	}
	if master := f.indexed(l.Master); l.Master != 0 && master.Kind != kindVRF {
		return driver.WithHint(fmt.Errorf("%w: %s is a port of %s", driver.ErrOption, l.Name, master.Name), "use %s as the parent", master.Name)
	}
	if driver.Ours(l) && l.VLAN == 0 {
		return driver.WithHint(fmt.Errorf("%w: %s is a device of another network of weft's", driver.ErrOption, l.Name), "use a device of the host's as the parent")
	}
	return nil
}

// OnParent says whether a network is one of those of this package.
func OnParent(n driver.Network) bool {
	return n.Mode == string(kernel.Macvlan) || n.Mode == string(kernel.IPvlan)
}

// overlaps refuses a subnet that another network of this host has, unless both are on
// different lines.
func (k *Kind) overlaps(n driver.Network, others []driver.Network) error {
	for _, o := range others {
		if OnParent(o) && o.Device != n.Device {
			continue
		}
		if a, b, ok := overlap(n, o); ok {
			return driver.WithHint(fmt.Errorf("%w: subnet %s overlaps %s of network %.12s", driver.ErrConflict, a, b, o.ID),
				"choose another --subnet, another -o %s, or remove that network", OptParent)
		}
	}
	return nil
}

// overlap finds two subnets of two networks that overlap.
func overlap(n, other driver.Network) (a, b netip.Prefix, ok bool) {
	for _, a := range n.Subnets() {
		for _, b := range other.Subnets() {
			if a.Pool.Overlaps(b.Pool) {
				return a.Pool, b.Pool, true
			}
		}
	}
	return a, b, false
}

// share refuses a parent that other networks use in another way.
func (k *Kind) share(n driver.Network, others []driver.Network) error {
	for _, o := range others {
		switch {
		case !OnParent(o) || o.Device != n.Device:
		case o.Mode != n.Mode:
			return driver.WithHint(fmt.Errorf("%w: %s network %.12s is already using parent interface %s, and the kernel puts %s and %s on one device never",
				driver.ErrConflict, o.Mode, o.ID, o.Device, o.Mode, n.Mode), "use a sub-interface of it with -o %s, or -o mode=%s", OptVLAN, o.Mode)
		default:
			if err := k.sort.Clash(n, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// foreignRoute refuses a subnet that the host has on another line. The parent's own is
// the normal case, and what lies behind a router may well be the parent's VLAN.
func foreignRoute(n driver.Network, links []kernel.Link, routes []kernel.Route) error {
	f := finder{links: links}
	for _, r := range routes {
		l := f.indexed(r.Link)
		if !r.Takes() || r.Gateway.IsValid() || l.Name == n.Device {
			continue
		}
		for _, s := range n.Subnets() {
			if s.Pool.Overlaps(r.Dst) {
				return driver.WithHint(fmt.Errorf("%w: subnet %s overlaps the host's route to %s by %s, and the parent is %s", driver.ErrConflict, s.Pool, r.Dst, l.Name, n.Device),
					"choose another --subnet, or -o %s=%s", OptParent, l.Name)
			}
		}
	}
	return nil
}

// try finds out whether the kernel takes such devices on the parent, before a container
// needs one.
func (k *Kind) try(n driver.Network, links []kernel.Link) error {
	if _, ok := (finder{links: links}).named(n.Device); !ok {
		kinds := []string{string(k.sort.Kind), "dummy"}
		if n.VLAN != 0 {
			kinds[1] = "vlan"
		}
		for _, kind := range kinds {
			if err := k.cfg.Kernel.Supports(kind); err != nil {
				return unsupported(err, kind)
			}
		}
		return nil
	}
	mode, flag := k.sort.Style(n.Options)
	trial := kernel.Child{Kind: k.sort.Kind, Name: driver.PrefixPeer + short(n.ID), Parent: n.Device, Mode: mode, Flag: flag}
	err := k.evenIfBusy(func() error {
		if err := k.foreign(n, trial); err != nil {
			return err
		}
		return k.cfg.Kernel.TryChild(trial)
	})
	switch {
	case errors.Is(err, kernel.ErrBusy):
		return busy(err, n, links)
	case errors.Is(err, kernel.ErrNotFound) && !n.Adopted:
		return nil // its last network went meanwhile: it is made again
	}
	return unsupported(err, string(k.sort.Kind))
}

// foreign is ErrBusy where somebody else has ipvlan devices on the parent: mode and flag are
// the parent's, and the kernel would give those of one more device to all of them. Beside
// them it makes no macvlan device, which is how they show.
func (k *Kind) foreign(n driver.Network, trial kernel.Child) error {
	if trial.Kind != kernel.IPvlan || k.cfg.Parents.bear(n.Device, trial.Kind) {
		return nil
	}
	trial.Kind, trial.Mode, trial.Flag = kernel.Macvlan, "bridge", ""
	err := k.cfg.Kernel.TryChild(trial)
	if errors.Is(err, kernel.ErrNotSupported) {
		return nil
	}
	return err
}

// evenIfBusy does something again if the parent was busy, without the devices that left their
// containers a moment ago: weft deletes them soon, and the kernel counts them until then.
func (k *Kind) evenIfBusy(do func() error) error {
	err := do()
	if !errors.Is(err, kernel.ErrBusy) {
		return err
	}
	if err := k.deleteLeft(); err != nil {
		return err
	}
	return do()
}

// deleteLeft deletes at once what has left its container and goes soon: until then it holds
// the device below.
func (k *Kind) deleteLeft() error {
	k.deleteRetired()
	return k.cfg.Kernel.DeleteDoomed()
}

// unsupported says which module is missing.
func unsupported(err error, kind string) error {
	if !errors.Is(err, kernel.ErrNotSupported) {
		return err
	}
	module := map[string]string{"vlan": "8021q"}[kind]
	if module == "" {
		module = kind
	}
	if kind == "dummy" {
		return driver.WithHint(fmt.Errorf("%w: the network has no -o %s, and needs the kernel's module dummy then, which is not there: %w", driver.ErrOption, OptParent, err),
			"name a device with -o %s, or load the module with `modprobe dummy`", OptParent)
	}
	return driver.WithHint(fmt.Errorf("%w: the kernel's module %s is not there: %w", driver.ErrOption, module, err), "load it with `modprobe %s`", module)
}

// busy says who holds the parent, as far as that shows on the host: devices inside
// containers do not.
func busy(err error, n driver.Network, links []kernel.Link) error {
	parent, _ := (finder{links: links}).named(n.Device)
	var holders []string
	for _, l := range links {
		if l.Parent == parent.Index && (l.Kind == string(kernel.Macvlan) || l.Kind == string(kernel.IPvlan)) {
			holders = append(holders, fmt.Sprintf("%s (%s)", l.Name, l.Kind))
		}
	}
	who := cmp.Or(strings.Join(holders, ", "), "something that is not weft's: a macvlan or ipvlan device in a container, or a passthru one")
	return driver.WithHint(fmt.Errorf("%w: %s cannot be the parent of %s devices in this mode: it is held by %s: %w", driver.ErrConflict, n.Device, n.Mode, who, err),
		"see `ip -d link` and the networks of the built-in drivers, or use a sub-interface with -o %s", OptVLAN)
}

// EnsureNetwork makes the sub-interface that the network needs, if it is not there, and
// puts the host on the line if the network says so.
func (k *Kind) EnsureNetwork(ctx context.Context, n driver.Network) error {
	k.attend(n)
	if err := k.cfg.Parents.ensure(n); err != nil {
		return fmt.Errorf("network %.12s: %w", n.ID, unsupported(err, "vlan"))
	}
	return k.ensureAccess(ctx, n)
}

// RemoveNetwork takes the host off the line, and the sub-interface away if weft made it
// and nobody else needs it, and tells the cluster.
func (k *Kind) RemoveNetwork(_ context.Context, n driver.Network) error {
	k.forsake(n)
	return errors.Join(k.deleteLeft(), k.leaveAccess(n), k.cfg.Parents.leave(n))
}

// Check compares the network's device with the kernel's. A device that is not weft's, or has
// another name by now, is a matter of [Kind.Troubles].
func (k *Kind) Check(a driver.Actual, n driver.Network, eps []driver.Endpoint) []string {
	var out []string
	if !n.Adopted {
		l, ok := a.Links[n.Device]
		parent, below := a.Links[n.Parent]
		_, renamed := a.Renamed(n)
		switch {
		case n.VLAN != 0 && (!below || renamed):
		case !ok:
			out = append(out, fmt.Sprintf("device %s of network %.12s was missing", n.Device, n.ID))
		case !l.Up && (n.VLAN == 0 || parent.Up):
			out = append(out, fmt.Sprintf("device %s of network %.12s was down", n.Device, n.ID))
		}
	}
	out = append(out, k.checkAccess(n)...)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, ep := range eps {
		switch {
		case ep.Off && !k.off[ep.ID]:
			out = append(out, fmt.Sprintf("endpoint %.12s was on the network, and its address belongs to another host", ep.ID))
		case !ep.Off && k.off[ep.ID]:
			out = append(out, fmt.Sprintf("endpoint %.12s was off the network", ep.ID))
		}
	}
	return out
}

// Troubles says what is wrong with a network's parent, or who else holds it, which containers lost their
// interface with it, and whom the host does not reach.
func (k *Kind) Troubles(a driver.Actual, n driver.Network, eps []driver.Endpoint) []string {
	var out []string
	if l, ok := a.Links[n.Parent]; n.Parent != "" {
		switch {
		case !ok && described(n): // see Locate
		case !ok:
			out = append(out, gone(a, n))
		case !l.Up:
			out = append(out, fmt.Sprintf("its parent %s is down: ip link set %s up", n.Parent, n.Parent))
		case !l.Carrier && l.Kind == "bridge":
			out = append(out, fmt.Sprintf("its parent %s is a bridge in which no device is up with a carrier: see `bridge link`, or put one into it", n.Parent))
		case !l.Carrier:
			out = append(out, fmt.Sprintf("its parent %s has no carrier: look at the cable", n.Parent))
		}
		if l, renamed := a.Renamed(n); renamed {
			why, hint := otherName(l, n)
			out = append(out, why+": "+hint)
		}
		if ok && n.Adopted && n.Device != n.Parent {
			switch sub, there := a.Links[n.Device]; {
			case !there:
				out = append(out, fmt.Sprintf("its parent %s is gone, which weft did not make: make it again, or create the network anew", n.Device))
			case !sub.Up:
				out = append(out, fmt.Sprintf("its parent %s is down: ip link set %s up", n.Device, n.Device))
			}
		}
		if master, in := a.Index[a.Links[n.Device].Master]; in && master.Kind != kindVRF {
			out = append(out, fmt.Sprintf("its parent %s is a port of %s, so no container starts on it: ip link set %s nomaster, or create the network anew with -o %s=%s",
				n.Device, master.Name, n.Device, OptParent, master.Name))
		}
	}
	out = append(out, k.accessTroubles(n, eps)...)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, ep := range eps {
		if on := k.apart[ep.ID]; on != 0 {
			out = append(out, fmt.Sprintf("the container of endpoint %.12s (%s) is on %s, and the network on %s by now: restart it", ep.ID, addresses(ep), cmp.Or(a.Index[on].Name, "another device"), n.Device))
		}
		if k.lost[ep.ID] {
			out = append(out, fmt.Sprintf("the container of endpoint %.12s (%s) lost its interface with the parent: restart it", ep.ID, addresses(ep)))
		}
	}
	return out
}

func addresses(ep driver.Endpoint) string {
	var words []string
	for _, p := range ep.Addrs() {
		words = append(words, p.Addr().String())
	}
	return cmp.Or(strings.Join(words, ", "), "no address")
}

// gone tells of a parent that is not there, and of its new name if it seems to have one.
func gone(a driver.Actual, n driver.Network) string {
	for name, l := range a.Links {
		if slices.Contains(l.AltNames, n.Parent) {
			return fmt.Sprintf("its parent %s was renamed to %s: rename it back, or create the network anew", n.Parent, name)
		}
	}
	for name, l := range a.Links {
		if l.MAC.String() == n.ParentMAC && l.VLAN == 0 && l.MAC != (kernel.MAC{}) && !driver.Ours(l) && l.Kind != "bridge" {
			return fmt.Sprintf("its parent %s is gone, and %s has its MAC address: rename that back, or create the network anew", n.Parent, name)
		}
	}
	return fmt.Sprintf("its parent %s is gone: bring it back, or create the network anew", n.Parent)
}

// gatewayOf is the router for an address.
func gatewayOf(subnets []driver.Subnet, p netip.Prefix) netip.Addr {
	for _, s := range subnets {
		if s.Pool.Contains(p.Addr()) {
			return s.Router()
		}
	}
	return netip.Addr{}
}
