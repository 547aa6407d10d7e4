package names

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// A Container is who asks.
type Container struct {
	// Sandbox is the path of its network namespace, and tells containers apart.
	Sandbox string
	// Name is what texts call it, if that is known.
	Name string
	// Networks are the ids of its networks in the engine's order: of two that know a
	// name, the first with an address of the wanted family answers.
	Networks []string
	// Private are names that mean something to this container only, such as the aliases
	// of --link: the engine answers them.
	Private []string
}

// same says whether two descriptions of a container have the same meaning.
func (c Container) same(other Container) bool {
	return c.Name == other.Name && slices.Equal(c.Networks, other.Networks) && slices.Equal(c.Private, other.Private)
}

// called is what texts say of the container.
func (c Container) called() string { return cmp.Or(c.Name, c.Sandbox) }

// A scope is the book as one container sees it.
type scope struct {
	book     *Book
	networks []string
	private  map[string]bool
}

func newScope(b *Book, c Container) *scope {
	s := &scope{book: b, networks: slices.Clone(c.Networks)}
	for _, p := range c.Private {
		if s.private == nil {
			s.private = map[string]bool{}
		}
		s.private[Fold(p)] = true
	}
	return s
}

// Lookup finds what a question of a type wants of a folded name. As with the engine (Sandbox's
// ResolveName in libnetwork), "a.b" is first a name of its own, in the first network in
// which it has such an address, and then "a" in the network "b".
func (s *scope) Lookup(name string, t dnsmessage.Type) *Record {
	s.book.mu.RLock()
	defer s.book.mu.RUnlock()
	for dot := len(name); dot >= 0; dot = strings.LastIndexByte(name[:dot], '.') {
		rest, network := name[:dot], ""
		if dot < len(name) {
			if network = name[dot+1:]; network == "" {
				continue // which would be all
			}
		}
		if s.private[rest] {
			return nil
		}
		if r, known := s.within(rest, network, t); known {
			return r
		}
	}
	return nil
}

// within looks for a name in the networks that are called so, or, with an empty one, in all.
// A known name is one to ask the engine for, if there is no record.
func (s *scope) within(name, network string, t dnsmessage.Type) (_ *Record, known bool) {
	var other *Record // it has no such address, but the name is there
	for _, id := range s.networks {
		z := s.book.networks[id]
		if z == nil || network != "" && z.folded != network {
			continue
		}
		n := z.names[name]
		switch {
		case n == nil:
		case n.record.has(t) && z.engine:
			return nil, true
		case n.record.has(t):
			return n.record, true
		case other != nil: // nor has the engine more to say than that
		case z.engine || !n.record.has(dnsmessage.TypeMX):
			return nil, true // the engine may know more
		default:
			other = n.record
		}
	}
	return other, other != nil
}

// Reverse is the name of an address, "name.network", as the first network of the
// container has it; empty if none does. Whether the endpoint is local comes with it.
func (s *scope) Reverse(a netip.Addr) (name string, local bool) {
	s.book.mu.RLock()
	defer s.book.mu.RUnlock()
	for _, id := range s.networks {
		z := s.book.networks[id]
		if z == nil {
			continue
		}
		for _, k := range z.addresses[a] {
			if z.engine {
				return "", false
			}
			if e := z.endpoints[k]; len(e.Names) > 0 {
				return e.Names[0] + "." + z.name, e.Local
			}
		}
	}
	return "", false
}
