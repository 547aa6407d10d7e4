package parented

import (
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

// Starts of the words in -o parent that are not names of devices.
const (
	byRoute = "route:"
	byMAC   = "mac:"
)

// A Place is where the links of a network go on a host.
type Place struct {
	// Device is on what they are.
	Device string
	// Parent is the device of the host's below it, or Device itself; VLAN is the tag if
	// it is a sub-interface.
	Parent string
	VLAN   int
	// Exists says that Device is there, Adopted that it is not weft's.
	Exists, Adopted bool
	// Route is the destination of the route by which it was found, if it was by one, and
	// Wanted the subnet that the word names.
	Route, Wanted netip.Prefix
}

// errMissing says that no device fits: another word of the list may.
var errMissing = errors.New("-o parent interface was not found on the host")

// CheckParent refuses a malformed -o parent. An empty one is none.
func CheckParent(v string) error {
	if v == "" {
		return nil
	}
	for word := range strings.SplitSeq(v, ",") {
		if err := checkWord(word); err != nil {
			return err
		}
	}
	return nil
}

func checkWord(word string) error {
	if text, ok := strings.CutPrefix(word, byRoute); ok {
		if _, err := netip.ParsePrefix(text); err != nil {
			return fmt.Errorf("%q: use %s10.0.0.0/24", word, byRoute)
		}
		return nil
	}
	if text, ok := strings.CutPrefix(word, byMAC); ok {
		if mac, err := net.ParseMAC(text); err != nil || len(mac) != 6 {
			return fmt.Errorf("%q: use %s02:00:00:00:00:01", word, byMAC)
		}
		return nil
	}
	for _, start := range []string{byRoute, byMAC} {
		if len(word) >= len(start) && strings.EqualFold(word[:len(start)], start) {
			return fmt.Errorf("%q: write %s in small letters", word, start)
		}
	}
	// A sub-interface may not exist yet, and what is wrong with its name is told better then.
	if name, _, sub := strings.Cut(word, "."); sub && len(name) > 0 {
		word = name
	}
	return driver.AnyInterfaceName(word)
}

// CheckVLAN refuses what is no tag of a VLAN.
func CheckVLAN(v string) error {
	id, ok := number(v)
	if !ok || id < 1 || id > kernel.MaxVLAN {
		return fmt.Errorf("vlan id must be between 1-%d, received: %s", kernel.MaxVLAN, v)
	}
	return nil
}

// number reads one that is written as everybody writes it, so that one VLAN has one name.
func number(text string) (n int, ok bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && strconv.Itoa(n) == text
}

// Find says where links go on a host with these devices and routes. parent is -o parent,
// a list of which the first that fits counts: a name, eth0.100 for a VLAN of eth0,
// route:SUBNET for the device by which the host reaches it, mac:ADDRESS for the device
// that has it. vlan is -o vlan, 0 for none. It changes nothing.
func Find(parent string, vlan int, links []kernel.Link, routes []kernel.Route) (Place, error) {
	f := finder{links: links, routes: routes}
	for word := range strings.SplitSeq(parent, ",") {
		p, err := f.word(word, vlan)
		if err == nil || !errors.Is(err, errMissing) {
			return p, err
		}
	}
	return Place{}, driver.WithHint(fmt.Errorf("%w: %w: %s", driver.ErrOption, errMissing, parent), "%s", lookAt(parent))
}

// lookAt says where a user sees which words would fit this host.
func lookAt(parent string) string {
	var hints []string
	words := strings.Split(parent, ",")
	route := func(word string) bool { return strings.HasPrefix(word, byRoute) }
	if slices.ContainsFunc(words, func(word string) bool { return !route(word) }) {
		hints = append(hints, "see `ip link` for those that this host has")
	}
	if slices.ContainsFunc(words, route) {
		hints = append(hints, "see `ip route` and `ip -6 route` for the subnets that it reaches; the default route is none")
	}
	return strings.Join(hints, "; ")
}

type finder struct {
	links  []kernel.Link
	routes []kernel.Route
}

// word is the place of one word of the list.
func (f finder) word(word string, vlan int) (p Place, err error) {
	l, by, ok := f.device(word)
	switch {
	case ok && vlan != 0:
		p, err = f.sub(l, vlan)
	case ok:
		p = f.existing(l)
	case strings.Contains(word, ".") && !strings.Contains(word, ":"):
		return f.dotted(word, vlan)
	default:
		return Place{}, errMissing
	}
	p.Route = by
	p.Wanted, _ = subnetOf(word)
	return p, err
}

// device is what a word stands for, if that exists, and by which route if by one.
func (f finder) device(word string) (l kernel.Link, by netip.Prefix, ok bool) {
	if p, route := subnetOf(word); route {
		return f.towards(p)
	}
	if text, address := strings.CutPrefix(word, byMAC); address {
		mac, err := net.ParseMAC(text)
		if err != nil {
			return l, by, false
		}
		l, ok = f.bearing(mac)
		return l, by, ok
	}
	l, ok = f.named(word)
	return l, by, ok
}

// subnetOf is the subnet of a word that names one.
func subnetOf(word string) (p netip.Prefix, ok bool) {
	text, ok := strings.CutPrefix(word, byRoute)
	if !ok {
		return p, false
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err == nil
}

func (f finder) named(name string) (kernel.Link, bool) {
	for _, l := range f.links {
		if l.Name == name {
			return l, true
		}
	}
	for _, l := range f.links {
		if slices.Contains(l.AltNames, name) {
			return l, true
		}
	}
	return kernel.Link{}, false
}

func (f finder) indexed(index int) kernel.Link {
	for _, l := range f.links {
		if l.Index == index {
			return l
		}
	}
	return kernel.Link{}
}

// towards is the device of the closest route that covers a subnet, and that route.
func (f finder) towards(p netip.Prefix) (link kernel.Link, by netip.Prefix, ok bool) {
	r, ok := closest(f.routes, p, func(link int) bool { return f.indexed(link).Name != "" })
	return f.indexed(r.Link), r.Dst, ok
}

// closest is the most special route by certain devices that covers a subnet, the first of
// equal ones. The default route counts only if it is what was asked for, and those to the
// host's own containers never.
func closest(routes []kernel.Route, p netip.Prefix, by func(link int) bool) (best kernel.Route, ok bool) {
	for _, r := range routes {
		covers := r.Dst.Bits() <= p.Bits() && r.Dst.Contains(p.Addr()) && (r.Dst.Bits() > 0 || p.Bits() == 0)
		if covers && !r.Ours && (!ok || r.Dst.Bits() > best.Dst.Bits()) && by(r.Link) {
			best, ok = r, true
		}
	}
	return best, ok
}

// bearing is the device with a MAC address, or the one that was made with it: below a
// container in mode passthru a card has the container's. What rests on a device has often the
// same one, and is none; of a device and its port, which may be the first after another boot,
// it is the former.
func (f finder) bearing(mac net.HardwareAddr) (link kernel.Link, ok bool) {
	for _, of := range []func(kernel.Link) kernel.MAC{
		func(l kernel.Link) kernel.MAC { return l.MAC },
		func(l kernel.Link) kernel.MAC { return l.PermMAC },
	} {
		for _, l := range f.links {
			onTop := l.VLAN != 0 || l.Kind == string(kernel.Macvlan) || l.Kind == string(kernel.IPvlan) || l.Kind == "bridge" || l.Kind == "bond"
			if has := of(l); string(has[:]) == string(mac) && !onTop && (!ok || link.Master != 0 && l.Master == 0) {
				link, ok = l, true
			}
		}
		if ok {
			break
		}
	}
	return link, ok
}

// existing is the place of a device that is there.
func (f finder) existing(l kernel.Link) Place {
	p := Place{Device: l.Name, Parent: l.Name, Exists: true, Adopted: !driver.Ours(l)}
	if l.VLAN != 0 {
		p.VLAN = l.VLAN
		if below := f.indexed(l.Parent); below.Name != "" {
			p.Parent = below.Name
		}
	}
	return p
}

// dotted is the place of a sub-interface that does not exist under this name.
func (f finder) dotted(word string, vlan int) (Place, error) {
	parts := strings.Split(word, ".")
	if len(parts) > 2 && f.isSub(strings.Join(parts[:len(parts)-1], ".")) {
		return Place{}, subOfSub(strings.Join(parts[:len(parts)-1], "."))
	}
	if len(parts) != 2 {
		return Place{}, fmt.Errorf("%w: required interface name format is: name.vlan_id, ex. eth0.100 for vlan 100, instead received %s", driver.ErrOption, word)
	}
	id, ok := number(parts[1])
	if !ok || parts[0] == "" {
		return Place{}, fmt.Errorf("%w: invalid subinterface vlan name %s, example formatting is eth0.10", driver.ErrOption, word)
	}
	if err := CheckVLAN(parts[1]); err != nil {
		return Place{}, fmt.Errorf("%w: parent=%q: %w", driver.ErrOption, word, err)
	}
	if vlan != 0 {
		return Place{}, subOfSub(word)
	}
	below, ok := f.named(parts[0])
	if !ok {
		return Place{}, errMissing
	}
	return f.sub(below, id)
}

func (f finder) isSub(name string) bool {
	l, ok := f.named(name)
	return ok && l.VLAN != 0 || !ok && strings.Contains(name, ".")
}

func subOfSub(name string) error {
	return driver.WithHint(fmt.Errorf("%w: %s is a sub-interface, and weft makes none of a sub-interface", driver.ErrOption, name),
		"use the device below it as the parent, or make the sub-interface yourself and name it")
}

// sub is the sub-interface of a device with that tag, whatever it is called, or the one
// to be made.
func (f finder) sub(below kernel.Link, id int) (Place, error) {
	if below.VLAN != 0 {
		return Place{}, subOfSub(below.Name)
	}
	for _, l := range f.links {
		if l.VLAN == id && !l.Provider && l.Parent == below.Index {
			return f.existing(l), nil
		}
	}
	name := below.Name + "." + strconv.Itoa(id)
	if err := driver.InterfaceName(name); err != nil {
		return Place{}, driver.WithHint(fmt.Errorf("%w: sub-interface %s: %w", driver.ErrOption, name, err),
			"make one with a shorter name and give that as the parent: ip link add link %s name lan%d type vlan id %d", below.Name, id, id)
	}
	if have, ok := f.named(name); ok {
		return Place{}, fmt.Errorf("%w: the device %s exists and is not VLAN %d of %s", driver.ErrConflict, have.Name, id, below.Name)
	}
	return Place{Device: name, Parent: below.Name, VLAN: id}, nil
}
