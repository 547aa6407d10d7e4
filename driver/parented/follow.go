package parented

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

var _ driver.Follower = (*Kind)(nil)

// described says whether a network's words tell by what a device is to be known, so that it
// may be another one tomorrow: cards swap their names, routes move, and an alternative name
// goes to another card. A name is a name.
func described(n driver.Network) bool {
	words := n.Options[OptParent]
	switch {
	case words == "":
		return false
	case strings.Contains(words, byMAC) || strings.Contains(words, byRoute):
		return true
	}
	for word := range strings.SplitSeq(words, ",") {
		if word == n.Device || word == n.Parent || word == n.Parent+"."+strconv.Itoa(n.VLAN) {
			return false
		}
	}
	return true
}

// Locate asks the kernel anew what the words of -o parent mean, if they are no names.
func (k *Kind) Locate(n driver.Network) (now driver.Network, moved bool, err error) {
	words := n.Options[OptParent]
	if !described(n) {
		return n, false, nil
	}
	s := parse(n.Options)
	if k.still(n, s) {
		return n, false, nil
	}
	links, routes, err := k.around(words)
	if err != nil {
		return n, false, err
	}
	p, err := Find(words, s.vlan, links, routes)
	switch {
	case errors.Is(err, errMissing):
		return n, false, nowhere(n, "")
	case err != nil:
		return n, false, meansNow(n, p.Device, err)
	case p.Device == n.Device && p.Parent == n.Parent:
		return n, false, nil
	case wider(p, n.ParentRoute):
		return n, false, nowhere(n, fmt.Sprintf(": the route to %s is gone", n.ParentRoute))
	case n.VLAN != 0 && n.Adopted && !p.Exists && p.Parent == n.Parent:
		return n, false, nil // see Troubles
	case n.VLAN != 0 && n.Adopted && !p.Exists: // weft does not begin to make what somebody else made
		return n, false, nowhere(n, fmt.Sprintf(": VLAN %d of %s is not there, which weft did not make", n.VLAN, p.Parent))
	}
	if now, err = k.place(n, s, links, routes); err != nil {
		return n, false, meansNow(n, p.Device, err)
	}
	return now, true, nil
}

// wider reports whether a place was found by a route to more than was the one by which the
// same word was found before. That of another word says nothing of this one.
func wider(p Place, before netip.Prefix) bool {
	same := before.IsValid() && before.Bits() <= p.Wanted.Bits() && before.Contains(p.Wanted.Addr())
	return same && p.Route.IsValid() && p.Route.Bits() < before.Bits()
}

// still reports whether the words of a network certainly mean what they meant, by a look at
// the network's own devices: containers wait for it, and the lists of all devices and routes
// are long on some hosts. Of several devices with one MAC address it is that where the
// network is.
func (k *Kind) still(n driver.Network, s settings) bool {
	card, err := k.cfg.Kernel.LinkByName(n.Parent)
	meant := card
	if err == nil && n.Device != n.Parent {
		var sub kernel.Link
		if sub, err = k.cfg.Kernel.LinkByName(n.Device); sub.Parent != card.Index || sub.VLAN != n.VLAN {
			return false
		}
		if s.vlan == 0 {
			meant = sub
		}
	}
	if err != nil {
		return false
	}
	for word := range strings.SplitSeq(s.parent, ",") {
		if means, missing := k.means(word, meant); !missing {
			return means
		}
	}
	return false
}

// means reports whether a word certainly means a device, or that it certainly means none.
func (k *Kind) means(word string, l kernel.Link) (means, missing bool) {
	if p, ok := subnetOf(word); ok {
		within := p.Addr()
		if next := within.Next(); p.Contains(next) {
			within = next // the first address may be one for broadcasts
		}
		r, err := k.cfg.Kernel.RouteMatch(within)
		covers := err == nil && r.Dst.Bits() > 0 && r.Dst.Bits() <= p.Bits() && r.Dst.Contains(p.Addr())
		return covers && !r.Ours && r.Link == l.Index, false
	}
	if text, ok := strings.CutPrefix(word, byMAC); ok {
		mac, err := net.ParseMAC(text)
		_, bears := finder{links: []kernel.Link{l}}.bearing(mac)
		return err == nil && bears && l.Master == 0, false
	}
	named, err := k.cfg.Kernel.LinkByName(word)
	if errors.Is(err, kernel.ErrNotFound) && !strings.Contains(word, ".") {
		return false, true
	}
	return err == nil && named.Index == l.Index && l.Master == 0, false
}

// around is what Find needs of the kernel for some words.
func (k *Kind) around(words string) (links []kernel.Link, routes []kernel.Route, err error) {
	if links, err = k.cfg.Kernel.Links(); err == nil && strings.Contains(words, byRoute) {
		routes, err = k.cfg.Kernel.Routes()
	}
	return links, routes, err
}

func nowhere(n driver.Network, why string) error {
	return driver.WithHint(fmt.Errorf("%w: %s%s; the network was on %s", errMissing, n.Options[OptParent], why, n.Device), "bring it back, or create the network anew")
}

func meansNow(n driver.Network, device string, err error) error {
	return fmt.Errorf("-o %s=%s means %s by now, and the network was on %s: %w", OptParent, n.Options[OptParent], cmp.Or(device, "another device"), n.Device, err)
}

// Movable refuses to part a network's containers: those that are on another device than
// the new one have to go first. Those of a card that was renamed under them are on it.
func (k *Kind) Movable(n, now driver.Network, joined []driver.Endpoint, others []driver.Network) error {
	links, routes, err := k.around(byRoute)
	if err != nil {
		return err
	}
	f := finder{links: links}
	to, exists := f.named(now.Device)
	on, err := k.below(joined, f)
	if err != nil {
		return err
	}
	var stay []string
	for _, index := range on {
		if !exists || index != to.Index {
			stay = append(stay, cmp.Or(f.indexed(index).Name, "another device"))
		}
	}
	if count := len(stay); count > 0 {
		slices.Sort(stay)
		return driver.WithHint(fmt.Errorf("%w: its containers on this host (%d) are on %s, and -o %s=%s means %s by now", driver.ErrConflict,
			count, strings.Join(slices.Compact(stay), ", "), OptParent, n.Options[OptParent], now.Device),
			"stop all of the network's containers on this host, then start them again")
	}
	err = cmp.Or(k.overlaps(now, others), k.share(now, others), foreignRoute(now, links, routes))
	if err == nil && len(on) == 0 { // else it bears the network's own
		err = k.try(now, links)
	}
	if err != nil {
		return meansNow(n, now.Device, err)
	}
	return nil
}

// Spread looks in the sandboxes where containers are.
func (k *Kind) Spread(list []driver.Network, joined func(network string) []driver.Endpoint) ([]driver.Network, error) {
	if !slices.ContainsFunc(list, OnParent) {
		return list, nil
	}
	links, routes, err := k.around(byRoute)
	if err != nil {
		return nil, err
	}
	var out []driver.Network
	for _, n := range list {
		devices, err := k.devices(n, joined(n.ID), finder{links: links}, routes)
		if err != nil {
			return nil, err
		}
		for _, n.Device = range devices {
			out = append(out, n)
		}
	}
	return out, nil
}

// devices are those on which a network may be: where its containers are, where it is by its
// record, for not all go that should, and where it goes by its words if no container keeps it.
func (k *Kind) devices(n driver.Network, eps []driver.Endpoint, f finder, routes []kernel.Route) ([]string, error) {
	out := []string{n.Device}
	if !OnParent(n) {
		return out, nil
	}
	if l, ok := f.resting(n); ok {
		out = append(out, l.Name)
	}
	by := len(out)
	on, err := k.below(eps, f)
	if err != nil {
		return nil, err
	}
	for _, index := range on {
		if name := f.indexed(index).Name; name != "" {
			out = append(out, name)
		}
	}
	if described(n) {
		p, err := Find(n.Options[OptParent], parse(n.Options).vlan, f.links, routes)
		kept := slices.ContainsFunc(out[by:], func(name string) bool { return name != p.Device })
		if err == nil && !kept {
			out = append(out, p.Device)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// resting is the device of a network's record, which may have been renamed: the old name of a
// card may be an alternative one by now, and a sub-interface is known by its tag.
func (f finder) resting(n driver.Network) (kernel.Link, bool) {
	if l, ok := f.named(n.Device); ok || n.VLAN == 0 {
		return l, ok
	}
	below, ok := f.named(n.Parent)
	if !ok {
		return below, false
	}
	p, err := f.sub(below, n.VLAN)
	if err != nil || !p.Exists {
		return below, false
	}
	return f.named(p.Device)
}

// below are the indexes of the devices on which endpoints' are. One that has none is left
// out: its sandbox is of before a boot, or the parent took it along.
func (k *Kind) below(eps []driver.Endpoint, f finder) (on []int, err error) {
	for _, ep := range eps {
		if !ep.Joined { // it comes to where the record says
			continue
		}
		if l, ok := f.named(ep.PeerLink); ok { // the engine has not moved it yet
			on = append(on, l.Parent)
			continue
		}
		index, err := k.cfg.Kernel.ParentOf(ep.Sandbox, alias(ep))
		switch {
		case err == nil:
			on = append(on, index)
		case !errors.Is(err, kernel.ErrNotFound):
			return nil, err
		}
	}
	return on, nil
}

// Vacate takes the network off the device on which it was. On the new line somebody else may
// have what the host took from the pool for itself.
func (k *Kind) Vacate(ctx context.Context, old, now driver.Network) error {
	if old.Device == now.Device { // only the one below has another name
		return nil
	}
	return errors.Join(k.deleteLeft(), k.giveOwn(ctx, now), k.stepOff(old), k.cfg.Parents.leave(old))
}
