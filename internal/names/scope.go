package names

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// A Container is who asks.
type Container struct {
	// Sandbox is the path of its network namespace, and tells containers apart.
	Sandbox string
	// Name is what texts call it, if that is known.
	Name string
	// Networks are the ids of its networks in the engine's order: of two that know a
	// name, the first answers.
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
		s.private[fold(p)] = true
	}
	return s
}

// Lookup finds a folded name. As with the engine, "a.b" is first a name of its own, in
// the first network that has it, and then "a" in the network "b".
func (s *scope) Lookup(name string) *Record {
	s.book.mu.RLock()
	defer s.book.mu.RUnlock()
	for dot := len(name); dot >= 0; dot = strings.LastIndexByte(name[:dot], '.') {
		rest, network := name[:dot], ""
		if dot < len(name) {
			network = name[dot+1:]
		}
		if s.private[rest] {
			return nil
		}
		for _, id := range s.networks {
			z := s.book.networks[id]
			if z == nil || dot < len(name) && z.folded != network {
				continue
			}
			if n := z.names[rest]; n != nil {
				if z.engine || len(n.record.IPv4)+len(n.record.IPv6) == 0 {
					return nil // the engine may know more
				}
				return n.record
			}
		}
	}
	return nil
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
