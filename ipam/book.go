package ipam

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/ownership"
)

// keepFreed is how many freed addresses a book remembers. Forgetting the oldest
// keeps the order: it turns into one that was not used lately.
const keepFreed = 1024

// Kind says what an address in use is for.
type Kind string

// The kinds of addresses in use.
const (
	// KindGateway is the gateway of a network. It lives as long as its pool.
	KindGateway Kind = "gateway"
	// KindAux is an --aux-address. It lives as long as its pool.
	KindAux Kind = "aux"
	// KindEndpoint is the address of a container.
	KindEndpoint Kind = "endpoint"
	// kindLimbo is an address without a holder whose record is being deleted.
	kindLimbo Kind = "limbo"
)

// holding is an address in use. All of tokens hold it; there are several only
// for what networks on one book share.
type holding struct {
	kind   Kind
	name   string
	tokens []token
	since  time.Time
	// busy is not nil while a change of the record is being written; it is closed
	// when that has ended.
	busy chan struct{}
}

func (h *holding) heldBy(t token) bool { return slices.Contains(h.tokens, t) }

// freed is an address that was in use. Higher seq means freed later.
type freed struct {
	addr netip.Addr
	name string
	seq  uint64
}

// book is the pure allocator: which addresses of a subnet are in use and which
// were. It does no I/O and reads no clock, and its size follows the number of
// addresses used, not the subnet's.
type book struct {
	subnet netip.Prefix
	held   map[netip.Addr]*holding
	freed  []freed // oldest first
	// touched is held, freed and reserved addresses together.
	touched intervals
	seq     uint64
	// own is what this host may hand out of a subnet that hosts share; nil for a
	// subnet that is this host's alone.
	own   *ownership.Pool
	share *share
	// lines are those on which the addresses are machines, by device; foreigners are the
	// addresses that other machines have there.
	lines      map[string]*line
	foreigners map[netip.Addr]bool
}

func newBook(subnet netip.Prefix) *book {
	b := &book{subnet: subnet, held: make(map[netip.Addr]*holding)}
	for _, a := range reservedOf(subnet) {
		b.touched.add(a)
	}
	return b
}

// reservedOf returns the addresses that no host may have: network and broadcast
// address (not in a /31 or /32, RFC 3021), or the subnet-router anycast address
// (not in a /127 or /128, RFC 6164).
func reservedOf(p netip.Prefix) []netip.Addr {
	switch host := p.Addr().BitLen() - p.Bits(); {
	case host <= 1:
		return nil
	case p.Addr().Is4():
		return []netip.Addr{p.Addr(), lastOf(p)}
	default:
		return []netip.Addr{p.Addr()}
	}
}

// check says whether a host could have the address at all.
func (b *book) check(a netip.Addr) error {
	if !b.subnet.Contains(a) {
		return refuse(ErrOutside, "choose an address of "+b.subnet.String(), "%s is not in %s", a, b.subnet)
	}
	if !slices.Contains(reservedOf(b.subnet), a) {
		return nil
	}
	role := "the broadcast address"
	if a == b.subnet.Addr() {
		role = "the network address"
	}
	if a.Is6() {
		role = "the subnet-router anycast address"
	}
	return refuse(ErrReserved, "choose another address of the subnet", "%s is %s of %s", a, role, b.subnet)
}

// pick chooses an address of rng: the one that name had last if it is free, else
// the lowest that was not used lately, else the one freed longest ago.
func (b *book) pick(rng netip.Prefix, name string) (netip.Addr, bool) {
	if name != "" {
		for _, f := range slices.Backward(b.freed) {
			if f.name == name && rng.Contains(f.addr) && b.mine(f.addr) {
				return f.addr, true
			}
		}
	}
	if a, ok := b.untouched(rng); ok {
		return a, true
	}
	for _, f := range b.freed {
		if rng.Contains(f.addr) && b.mine(f.addr) {
			return f.addr, true
		}
	}
	return netip.Addr{}, false
}

// named reports whether a free address is the one that name had last.
func (b *book) named(a netip.Addr, name string) bool {
	return name != "" && slices.ContainsFunc(b.freed, func(f freed) bool { return f.addr == a && f.name == name })
}

// mine reports whether this host may hand out a free address.
func (b *book) mine(a netip.Addr) bool {
	return !b.foreigners[a] && (b.own == nil || b.own.Avail(a))
}

// untouched chooses the lowest address that was not used lately.
func (b *book) untouched(rng netip.Prefix) (netip.Addr, bool) {
	if b.own != nil {
		return b.own.Lowest(rng, b.touched.has)
	}
	return b.gap(rng.Addr(), lastOf(rng))
}

// use tells own what is in use; gateways and aux addresses are not this host's.
func (b *book) use(a netip.Addr, h *holding, used bool) {
	if b.own == nil {
		return
	}
	b.own.Use(a, used || b.foreigners[a])
	if h != nil && (h.kind == KindGateway || h.kind == KindAux) {
		b.own.Share(a, string(h.kind), used)
	}
}

// lowest chooses the lowest free address of the subnet.
func (b *book) lowest() (netip.Addr, bool) {
	a, ok := b.touched.gap(b.subnet.Addr(), lastOf(b.subnet))
	for _, f := range b.freed {
		if !ok || f.addr.Less(a) {
			a, ok = f.addr, true
		}
	}
	return a, ok
}

// hold marks a free address as in use. It returns what was remembered of it.
func (b *book) hold(a netip.Addr, h *holding) (was freed, remembered bool) {
	b.held[a] = h
	b.use(a, h, true)
	b.touched.add(a)
	i := slices.IndexFunc(b.freed, func(f freed) bool { return f.addr == a })
	if i < 0 {
		return freed{}, false
	}
	was = b.freed[i]
	b.freed = slices.Delete(b.freed, i, i+1)
	return was, true
}

// nextFreed returns the mark that a gets when it is freed now.
func (b *book) nextFreed(a netip.Addr, name string) freed {
	b.seq++
	return freed{addr: a, name: name, seq: b.seq}
}

// remember marks an address as free since f.seq.
func (b *book) remember(f freed) {
	b.use(f.addr, b.held[f.addr], false)
	delete(b.held, f.addr)
	b.touched.add(f.addr)
	b.seq = max(b.seq, f.seq)
	i, _ := slices.BinarySearchFunc(b.freed, f, func(x, y freed) int { return cmp.Compare(x.seq, y.seq) })
	b.freed = slices.Insert(b.freed, i, f)
}

// forget marks an address as free and not used lately.
func (b *book) forget(a netip.Addr) {
	b.use(a, b.held[a], false)
	delete(b.held, a)
	if !slices.Contains(reservedOf(b.subnet), a) {
		b.touched.remove(a)
	}
}

// overflow returns the oldest freed addresses, as many as would be too many with
// one more.
func (b *book) overflow() []freed {
	return slices.Clone(b.freed[:max(0, len(b.freed)+1-keepFreed)])
}

// count returns how many addresses of rng a host could have and how many are in
// use.
func (b *book) count(rng netip.Prefix) (size, used uint64) {
	size = sizeOf(rng)
	for _, a := range reservedOf(b.subnet) {
		if rng.Contains(a) {
			size--
		}
	}
	for a := range b.held {
		if rng.Contains(a) {
			used++
		}
	}
	return size, used
}
