package ownership

import (
	"hash/fnv"
	"net/netip"
)

// How far Fetch looks for chunks: windows of so many chunks, one after the other.
const (
	window  = 1024
	windows = 64
)

// Batch returns how many addresses a host fetches at once: a part of what nobody
// owns, so that a full pool is shared out in small pieces.
func (p *Pool) Batch(rng netip.Prefix, hosts int) int {
	return int(min(max(p.Unowned(rng)/uint64(4*max(hosts, 1)), 1), Size))
}

// Unowned returns how many addresses of rng nobody living has, at most 1<<62.
func (p *Pool) Unowned(rng netip.Prefix) uint64 {
	size := uint64(1) << min(rng.Addr().BitLen()-rng.Bits(), 62)
	for _, a := range p.cfg.Reserved {
		if rng.Contains(a) {
			size--
		}
	}
	for _, c := range p.order {
		size -= uint64((c.rec.living() & c.valid & within(c.first, rng)).Count())
	}
	return size
}

// Fetch wishes for up to n addresses of rng that nobody owns, in one chunk. It
// returns how many; 0 when all have owners. Those of dead hosts come last.
//
// Hosts look in different places first, or they would all want the same record;
// a host that is alone begins at the beginning.
func (p *Pool) Fetch(rng netip.Prefix, n, hosts int) int {
	if !p.synced || p.mode != Normal || p.closing {
		return 0
	}
	start := uint64(0)
	if hosts > 1 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(p.cfg.Me))
		start = h.Sum64()
	}
	total := chunksOf(rng)
	for _, dead := range []bool{false, true} {
		for w := uint64(0); w < windows && w*window < total; w++ {
			if got := p.fetchIn(rng, w*window, min(total-w*window, window), start, n, dead); got > 0 {
				return got
			}
		}
	}
	return 0
}

// fetchIn looks through one window.
func (p *Pool) fetchIn(rng netip.Prefix, base, count, start uint64, n int, dead bool) int {
	var best *chunk
	var bits Mask
	for i := range count {
		first := firstOf(rng.Addr(), base+(start+i)%count)
		if p.bad[first] != nil {
			continue
		}
		c := p.chunks[first]
		if c != nil && c.take != 0 {
			continue // it is being fetched already
		}
		if c == nil {
			c = p.chunk(first)
		}
		free := c.valid & within(first, rng) &^ c.rec.living() &^ (c.Own | c.Leaving) &^ c.shared()
		if !dead {
			free &^= c.rec.dead()
		}
		if free.Count() > bits.Count() {
			best, bits = c, free
		}
		if bits.Count() >= n {
			break
		}
	}
	if best == nil {
		return 0
	}
	best.take |= bits.lowest(n)
	p.touch(best)
	return best.take.Count()
}

// Fetching reports whether a fetch is under way: wished for, or this host's by now
// but not in the journal yet.
func (p *Pool) Fetching() bool {
	for _, c := range p.order {
		if p.bad[c.first] == nil && (c.take != 0 || c.rec.Owned[p.cfg.Me]&^(c.Own|c.Leaving) != 0) {
			return true
		}
	}
	return false
}

// Keep takes back the wish to give addresses of rng away, as far as that can be. It
// reports whether there was one.
func (p *Pool) Keep(rng netip.Prefix) bool {
	any := false
	for _, c := range p.order {
		if back := c.drop & within(c.first, rng); back != 0 && !p.closing {
			c.drop &^= back
			p.touch(c)
			any = true
		}
	}
	return any
}

// Want wishes for one address. It reports whether nobody living has it, so that
// the wish may come true without an [Ask].
func (p *Pool) Want(a netip.Addr) bool {
	c := p.chunk(First(a))
	bit := Bit(a)
	if p.bad[c.first] != nil || c.valid&bit == 0 || c.rec.living()&bit&^c.rec.Owned[p.cfg.Me] != 0 {
		return false
	}
	if c.rec.Owned[p.cfg.Me]&bit == 0 {
		c.take |= bit
	}
	c.drop &^= bit
	p.touch(c)
	return true
}

// Trim gives away what is free of rng beyond keep. Those that spare rejects, lately
// used ones, stay as long as others will do.
func (p *Pool) Trim(rng netip.Prefix, keep int, spare func(netip.Addr) bool) {
	extra := p.Free(rng) - keep
	for _, lately := range []bool{false, true} {
		for i := len(p.order) - 1; i >= 0 && extra > 0; i-- {
			c := p.order[i]
			var m Mask
			for _, a := range Addrs(c.first, c.avail()&within(c.first, rng)) {
				if lately || spare(a) {
					m |= Bit(a)
				}
			}
			m = m.highest(min(extra, m.Count()))
			extra -= m.Count()
			if m != 0 {
				c.drop |= m
				p.touch(c)
			}
		}
	}
}

// Owner returns the living host that the store says owns the address; shared says
// that all hosts share it.
func (p *Pool) Owner(a netip.Addr) (owner Host, shared bool) {
	c := p.chunks[First(a)]
	if c == nil {
		return "", false
	}
	for h, m := range c.rec.Owned {
		if m&Bit(a) != 0 {
			return h, false
		}
	}
	_, shared = c.rec.Shared[Bit(a)]
	return "", shared
}

// Taken reports whether the store gives the address to another host, which is owner,
// or lets all hosts share it.
func (p *Pool) Taken(a netip.Addr) (owner Host, taken bool) {
	owner, shared := p.Owner(a)
	return owner, shared || owner != "" && owner != p.cfg.Me
}

// Owners returns how many addresses of rng each host owns.
func (p *Pool) Owners(rng netip.Prefix) map[Host]int {
	return p.countBy(rng, func(r Record) map[Host]Mask { return r.Owned })
}

// DeadOwners returns how many addresses of rng removed hosts had that nobody took
// since.
func (p *Pool) DeadOwners(rng netip.Prefix) map[Host]int {
	return p.countBy(rng, func(r Record) map[Host]Mask { return r.Dead })
}

func (p *Pool) countBy(rng netip.Prefix, of func(Record) map[Host]Mask) map[Host]int {
	out := make(map[Host]int)
	for _, c := range p.order {
		for h, m := range of(c.rec) {
			if n := (m & within(c.first, rng)).Count(); n > 0 {
				out[h] += n
			}
		}
	}
	return out
}

// AllShared returns the addresses that the hosts share, ascending.
func (p *Pool) AllShared() []netip.Addr {
	var out []netip.Addr
	for _, c := range p.order {
		var m Mask
		for bit := range c.rec.Shared {
			m |= bit
		}
		out = append(out, Addrs(c.first, m)...)
	}
	return out
}
