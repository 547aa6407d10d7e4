package namesync

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/names"
)

// Network is a network of the cluster on this host.
type Network struct {
	// ID is the engine's, UUID the cluster's. Name is how the cluster calls it, empty as
	// long as that is not known.
	ID, UUID, Name string
	// Own are this host's addresses on it, with the subnet's length.
	Own []netip.Prefix
	// Places are the endpoints that sandboxes of this host have on it.
	Places []Place
}

// Place is an endpoint in its sandbox.
type Place struct {
	// Endpoint is the engine's id, Sandbox the path of the namespace as Join got it.
	Endpoint, Sandbox string
}

// facts are what a plan follows from.
type facts struct {
	host       string                      // this host's id
	containers map[string]engine.Container // those that run, by id
	networks   map[string]engine.Network   // by id
	shared     []Network
	remote     map[string][]directory.Endpoint // of other hosts, by UUID
}

// plan is how everything should be.
type plan struct {
	called map[string][]string // for the directory: names by endpoint
	book   []names.Network
	attend []names.Container
	fronts []names.Front
	// troubles say which names of containers are left out.
	troubles []string
}

// defaultBridge is the one network whose containers the engine knows no names of.
const defaultBridge = "bridge"

// dnsPort is where servers of DNS answer.
const dnsPort = 53

func (f facts) plan() plan {
	p := plan{called: map[string][]string{}}
	local := map[string][]names.Endpoint{} // by the engine's id of the network
	holder := map[string]engine.Container{}
	shared, gone := f.left()
	for _, id := range slices.Sorted(maps.Keys(f.containers)) {
		c := f.containers[id]
		for _, at := range c.Attachments {
			called, rest := namesOf(c, at)
			if len(rest) > 0 && shared[at.Network] {
				p.troubles = append(p.troubles, leftOut(c, at, rest))
			}
			p.called[at.Endpoint] = called
			holder[at.Endpoint] = c
			if gone(at) {
				continue
			}
			local[at.Network] = append(local[at.Network], names.Endpoint{Host: f.host, ID: at.Endpoint, Local: true, Names: called, Addrs: at.Addrs})
		}
	}
	written := map[string]bool{}
	for _, n := range f.shared {
		zone := names.Network{ID: n.ID, Name: cmp.Or(n.Name, f.networks[n.ID].Name), Endpoints: slices.Grow(local[n.ID], len(f.remote[n.UUID]))}
		for _, e := range f.remote[n.UUID] {
			if len(e.Names) > 0 {
				zone.Endpoints = append(zone.Endpoints, names.Endpoint{Host: string(e.Host), ID: e.ID, Names: e.Names, Addrs: e.Addrs})
			}
		}
		p.book, written[n.ID] = append(p.book, zone), true
		for _, own := range n.Own {
			p.fronts = append(p.fronts, names.Front{At: netip.AddrPortFrom(own.Addr(), dnsPort), Network: n.ID, From: own.Masked()})
		}
	}
	p.attend = f.attended(holder)
	for _, c := range p.attend {
		for _, id := range c.Networks {
			if !written[id] {
				p.book, written[id] = append(p.book, names.Network{ID: id, Name: f.networks[id].Name, Engine: true, Endpoints: local[id]}), true
			}
		}
	}
	return p
}

// left says which networks are the cluster's, by id, and which endpoints on them are in no
// sandbox any more. The driver knows it before the engine tells; such a name is the engine's to
// answer.
func (f facts) left() (shared map[string]bool, gone func(engine.Attachment) bool) {
	shared = map[string]bool{}
	placed := map[string]bool{}
	for _, n := range f.shared {
		shared[n.ID] = true
		for _, place := range n.Places {
			placed[place.Endpoint] = true
		}
	}
	return shared, func(at engine.Attachment) bool { return shared[at.Network] && !placed[at.Endpoint] }
}

// attended are the sandboxes that have an endpoint on a network of the cluster, by path.
// Of one whose container was not looked at yet, nothing but those networks is known.
func (f facts) attended(holder map[string]engine.Container) []names.Container {
	all := map[string]*names.Container{}
	for _, n := range f.shared {
		for _, place := range n.Places {
			c := all[place.Sandbox]
			if c == nil {
				c = &names.Container{Sandbox: place.Sandbox}
				all[place.Sandbox] = c
			}
			if known, ok := holder[place.Endpoint]; ok && known.Sandbox == place.Sandbox {
				c.Name, c.Networks, c.Private = who(known), f.inOrder(known), privateOf(known)
			}
		}
	}
	for _, n := range f.shared {
		for _, place := range n.Places {
			if c := all[place.Sandbox]; !slices.Contains(c.Networks, n.ID) {
				c.Networks = append(c.Networks, n.ID)
			}
		}
	}
	var out []names.Container
	for _, path := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[path])
	}
	return out
}

// inOrder are the networks of a container on which the engine answers names, and weft may,
// in the engine's order: by --gw-priority, internal ones last, those with gateways of both
// families first, then by name (libnetwork, Endpoint.Less).
func (f facts) inOrder(c engine.Container) []string {
	var known []engine.Attachment
	for _, at := range c.Attachments {
		n, ok := f.networks[at.Network]
		if ok && !n.OfSwarm() && n.Name != defaultBridge {
			known = append(known, at)
		}
	}
	internal := func(a engine.Attachment) int {
		if f.networks[a.Network].Internal {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(known, func(a, b engine.Attachment) int {
		return cmp.Or(cmp.Compare(b.GatewayPriority, a.GatewayPriority), internal(a)-internal(b),
			cmp.Compare(b.Gateways, a.Gateways), cmp.Compare(a.NetworkName, b.NetworkName))
	})
	var out []string
	for _, at := range known {
		out = append(out, at.Network)
	}
	return out
}

// privateOf are the names that --link gave others for this container only.
func privateOf(c engine.Container) []string {
	var out []string
	for _, at := range c.Attachments {
		for _, link := range at.Links {
			name, alias, ok := strings.Cut(link, ":")
			if !ok {
				alias = name
			}
			out = append(out, alias[strings.LastIndexByte(alias, '/')+1:])
		}
	}
	return out
}

// changed are the endpoints that make of one description of a network another: those to be
// set, in this order, and those that are gone. As in the book, of two with one Host and ID the
// last counts.
func changed(was, now []names.Endpoint) (set, gone []names.Endpoint) {
	if slices.EqualFunc(was, now, sameEndpoint) {
		return nil, nil
	}
	type key struct{ host, id string }
	before := make(map[key]int, len(was))
	for i, e := range was {
		before[key{e.Host, e.ID}] = i
	}
	for _, e := range now {
		k := key{e.Host, e.ID}
		if i, there := before[k]; !there || !sameEndpoint(was[i], e) {
			set = append(set, e)
		}
		delete(before, k)
	}
	for _, i := range before {
		gone = append(gone, was[i])
	}
	return set, gone
}

// sameEndpoint says whether two descriptions of an endpoint mean the same.
func sameEndpoint(a, b names.Endpoint) bool {
	return a.Host == b.Host && a.ID == b.ID && a.Local == b.Local && slices.Equal(a.Names, b.Names) && slices.EqualFunc(a.Addrs, b.Addrs, func(a, b netip.Addr) bool { return a == b })
}
