package names

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// An Endpoint is a container's attachment to a network, by its names.
type Endpoint struct {
	// Host and ID tell endpoints of one network apart; so a host that is recovered or
	// copied cannot speak for another one.
	Host, ID string
	// Local says that it is on this host, where the engine knows its names as well.
	Local bool
	// Names are what it answers to, without the network's name, in any case. The first
	// is the one that its addresses are known by.
	Names []string
	Addrs []netip.Addr
}

// A Network is what is known about the names of one network.
type Network struct {
	// ID is how containers refer to it; Name is what the engine calls it, so that
	// "redis.mynet" can be asked for.
	ID, Name string
	// Engine says that the engine alone answers its names: they are known only so that those
	// of later networks do not come before them.
	Engine    bool
	Endpoints []Endpoint
}

// A Record is all that a name stands for within a network. It never changes: a change of
// the book makes another one.
type Record struct {
	IPv4, IPv6 []netip.Addr
	// Local says that all of its endpoints are on this host.
	Local bool
}

// A Book knows the names of all networks of the host's containers. It is made of values
// that its owner gives, does no I/O, and is safe for concurrent use. A change costs as
// much as the endpoints that share a name with the changed one.
type Book struct {
	mu       sync.RWMutex
	networks map[string]*zone
}

// NewBook returns an empty book.
func NewBook() *Book { return &Book{networks: map[string]*zone{}} }

// SetNetwork replaces everything that is known about a network. Of two endpoints with
// the same Host and ID the last counts.
func (b *Book) SetNetwork(n Network) {
	z := newZone(n.Name)
	z.engine = n.Engine
	touched := map[string]bool{}
	for _, e := range n.Endpoints {
		z.put(e, touched)
	}
	z.rebuild(touched)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.networks[n.ID] = z
}

// RemoveNetwork forgets a network. The unknown one is a success.
func (b *Book) RemoveNetwork(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.networks, id)
}

// SetEndpoints adds endpoints, or their new descriptions, all at once. It reports false, and
// does nothing, if the network is not known.
func (b *Book) SetEndpoints(network string, list ...Endpoint) bool {
	return b.change(network, func(z *zone, touched map[string]bool) {
		for _, e := range list {
			z.put(e, touched)
		}
	})
}

// RemoveEndpoints forgets the endpoints that have these hosts and ids, all at once. It reports
// false if the network is not known; an unknown endpoint is a success.
func (b *Book) RemoveEndpoints(network string, list ...Endpoint) bool {
	return b.change(network, func(z *zone, touched map[string]bool) {
		for _, e := range list {
			z.remove(key{e.Host, e.ID}, touched)
		}
	})
}

func (b *Book) change(network string, f func(*zone, map[string]bool)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	z := b.networks[network]
	if z == nil {
		return false
	}
	touched := map[string]bool{}
	f(z, touched)
	z.rebuild(touched)
	return true
}

// Networks returns what the book knows, sorted by id, host and endpoint.
func (b *Book) Networks() []Network {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var out []Network
	for id, z := range b.networks {
		n := Network{ID: id, Name: z.name, Engine: z.engine}
		for _, e := range z.endpoints {
			n.Endpoints = append(n.Endpoints, e)
		}
		slices.SortFunc(n.Endpoints, func(a, b Endpoint) int {
			return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.ID, b.ID))
		})
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Network) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// key tells endpoints of a zone apart.
type key struct{ host, id string }

// A zone is one network. It is not safe for concurrent use.
type zone struct {
	name      string // as the engine has it
	folded    string
	engine    bool // it alone answers
	endpoints map[key]Endpoint
	// names has who answers to a name, and addresses who has an address, sorted by key.
	names     map[string]*entry
	addresses map[netip.Addr][]key
}

// entry is a name: its record, made of its owners.
type entry struct {
	owners []key
	record *Record
}

func newZone(name string) *zone {
	return &zone{
		name: name, folded: Fold(name),
		endpoints: map[key]Endpoint{}, names: map[string]*entry{}, addresses: map[netip.Addr][]key{},
	}
}

// put adds or replaces an endpoint; the records of the touched names are to be rebuilt.
func (z *zone) put(e Endpoint, touched map[string]bool) {
	k := key{e.Host, e.ID}
	z.remove(k, touched)
	e.Names, e.Addrs = slices.Clone(e.Names), slices.Clone(e.Addrs)
	for i, a := range e.Addrs {
		e.Addrs[i] = a.Unmap()
	}
	z.endpoints[k] = e
	for _, name := range e.folded() {
		n := z.names[name]
		if n == nil {
			n = &entry{}
			z.names[name] = n
		}
		n.owners = insert(n.owners, k)
		touched[name] = true
	}
	for _, a := range e.Addrs {
		z.addresses[a] = insert(z.addresses[a], k)
	}
}

func (z *zone) remove(k key, touched map[string]bool) {
	e, known := z.endpoints[k]
	if !known {
		return
	}
	delete(z.endpoints, k)
	for _, name := range e.folded() {
		n := z.names[name]
		if n.owners = without(n.owners, k); len(n.owners) == 0 {
			delete(z.names, name)
		}
		touched[name] = true
	}
	for _, a := range e.Addrs {
		if left := without(z.addresses[a], k); len(left) > 0 {
			z.addresses[a] = left
		} else {
			delete(z.addresses, a)
		}
	}
}

// rebuild makes the records of the names anew.
func (z *zone) rebuild(names map[string]bool) {
	for name := range names {
		n := z.names[name]
		if n == nil {
			continue
		}
		r := &Record{Local: true}
		for _, k := range n.owners {
			e := z.endpoints[k]
			r.Local = r.Local && e.Local
			for _, a := range e.Addrs {
				to := &r.IPv6
				if a.Is4() {
					to = &r.IPv4
				}
				if !slices.Contains(*to, a) {
					*to = append(*to, a)
				}
			}
		}
		n.record = r
	}
}

// folded are the endpoint's names as they are compared, each once.
func (e Endpoint) folded() []string {
	out := make([]string, 0, len(e.Names))
	for _, n := range e.Names {
		if n = Fold(n); n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(k.host, other.host), cmp.Compare(k.id, other.id))
}

// insert and without keep a sorted set.
func insert(set []key, k key) []key {
	i, there := slices.BinarySearchFunc(set, k, key.compare)
	if there {
		return set
	}
	return slices.Insert(set, i, k)
}

func without(set []key, k key) []key {
	i, there := slices.BinarySearchFunc(set, k, key.compare)
	if !there {
		return set
	}
	return slices.Delete(set, i, i+1)
}

// Fold is a name as it is compared: without a final dot, and in lower case as far as DNS
// knows any, which is ASCII.
func Fold(name string) string {
	name = strings.TrimSuffix(name, ".")
	for i := range len(name) {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			b := []byte(name)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return name
}
