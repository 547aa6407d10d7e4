package ipam

import (
	"net/netip"
	"slices"
	"sort"
)

// intervals is a set of addresses of one family: disjoint intervals that do not
// touch, in ascending order. Its size follows the number of intervals, not of
// addresses.
type intervals []interval

type interval struct{ lo, hi netip.Addr }

// at returns the index of the first interval that does not end before a.
func (s intervals) at(a netip.Addr) int {
	return sort.Search(len(s), func(i int) bool { return !s[i].hi.Less(a) })
}

func (s intervals) has(a netip.Addr) bool {
	i := s.at(a)
	return i < len(s) && !a.Less(s[i].lo)
}

// gap returns the lowest address from lo to hi that is not in the set.
func (s intervals) gap(lo, hi netip.Addr) (netip.Addr, bool) {
	if s.has(lo) {
		lo = s[s.at(lo)].hi.Next()
	}
	return lo, lo.IsValid() && !hi.Less(lo)
}

// add puts a into the set.
func (s *intervals) add(a netip.Addr) {
	if s.has(a) {
		return
	}
	i := s.at(a)
	joinsLeft := i > 0 && (*s)[i-1].hi.Next() == a
	joinsRight := i < len(*s) && a.Next() == (*s)[i].lo
	switch {
	case joinsLeft && joinsRight:
		(*s)[i-1].hi = (*s)[i].hi
		*s = slices.Delete(*s, i, i+1)
	case joinsLeft:
		(*s)[i-1].hi = a
	case joinsRight:
		(*s)[i].lo = a
	default:
		*s = slices.Insert(*s, i, interval{a, a})
	}
}

// remove takes a out of the set.
func (s *intervals) remove(a netip.Addr) {
	if !s.has(a) {
		return
	}
	i := s.at(a)
	switch in := &(*s)[i]; {
	case in.lo == in.hi:
		*s = slices.Delete(*s, i, i+1)
	case in.lo == a:
		in.lo = a.Next()
	case in.hi == a:
		in.hi = a.Prev()
	default:
		hi := in.hi
		in.hi = a.Prev()
		*s = slices.Insert(*s, i+1, interval{a.Next(), hi})
	}
}

// lastOf returns the highest address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// sizeOf returns how many addresses a prefix has, at most the largest uint64.
func sizeOf(p netip.Prefix) uint64 {
	host := p.Addr().BitLen() - p.Bits()
	if host >= 64 {
		return ^uint64(0)
	}
	return 1 << host
}
