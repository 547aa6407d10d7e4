package ownership

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/weft-net/weft/internal/store"
)

// Config describes a pool to its machine.
type Config struct {
	// Me is this host.
	Me Host
	// Prefix is where the pool's records are; the first address of a chunk follows.
	Prefix string
	// Subnet is masked. Reserved are addresses of it that nobody may have.
	Subnet   netip.Prefix
	Reserved []netip.Addr
}

// An Entry is what the journal keeps about one chunk.
type Entry struct {
	// Own may be handed out. Leaving was promised to be given up and may not, but
	// the store may still say that it is this host's.
	Own, Leaving Mask
}

// Mode is how much a pool may do.
type Mode int

// The modes.
const (
	// Normal: everything.
	Normal Mode = iota
	// Frozen: nothing changes its owner; own addresses are handed out.
	Frozen
	// Recovering: the store is told what the journal owns.
	Recovering
)

// A Task is what has to be done next about one chunk: write Entry to the journal,
// or commit Txn. There is never more than one for a chunk; say [Pool.Wrote] or
// [Pool.Committed] when it is done.
type Task struct {
	First netip.Addr
	// Entry replaces the chunk's entry; an empty one deletes it.
	Entry *Entry
	Txn   *store.Txn

	next   Record // what Txn puts
	ask    *Ask   // what Txn answers
	life   int    // of the pool when it was made
	pledge Mask   // what Entry takes from Own
}

// To is the host to which Txn gives an address, "" if to none. That must be a member
// of the pool when it happens: the driver of the machine adds what says so.
func (t Task) To() Host {
	if t.ask == nil {
		return ""
	}
	return t.ask.From
}

// grant is an address on its way to another host.
type grant struct {
	bit Mask
	ask Ask
}

// chunk is what is known and wanted of 64 addresses.
type chunk struct {
	first netip.Addr
	valid Mask // addresses that a host could have

	// The store, as last seen.
	rec Record
	rev int64
	// unsure says that a transaction may still happen.
	unsure bool

	// The journal, and what of Own is in use.
	Entry
	used Mask

	// Wishes. Shares are what this host's networks have, by kind.
	take, drop Mask
	grants     []grant
	shares     map[Mask]string
	firsts     Mask // of shares: only while the hosts have no other of the kind

	dirty   bool // something changed: it has to be planned
	busy    bool // a Task is out
	blocked bool // the last one failed: wait for Kick
	pledge  Mask // of Own, on its way to Leaving
}

// A Pool is one host's view of the ownership in one subnet. It is not safe for
// concurrent use.
type Pool struct {
	cfg    Config
	mode   Mode
	synced bool
	// rev is the revision of the last whole state.
	rev     int64
	chunks  map[netip.Addr]*chunk
	order   []*chunk // by address
	closing bool
	// life counts the calls of Forget.
	life int
	bad  map[netip.Addr]error
	// acked are hosts whose addresses a recovery must not touch.
	acked map[Host]bool
}

// NewPool returns a pool that owns what the journal's entries, by first address,
// say. It does nothing before the first [Pool.Reset].
func NewPool(cfg Config, entries map[netip.Addr]Entry) *Pool {
	p := &Pool{cfg: cfg, chunks: make(map[netip.Addr]*chunk), bad: make(map[netip.Addr]error)}
	for first, e := range entries {
		c := p.chunk(first)
		c.Entry = e
		// What was in flight at the end of the last process may still happen.
		c.unsure = e.Leaving != 0
	}
	return p
}

// chunk returns the chunk that begins with first.
func (p *Pool) chunk(first netip.Addr) *chunk {
	c := p.chunks[first]
	if c != nil {
		return c
	}
	c = &chunk{first: first, valid: within(first, p.cfg.Subnet)}
	for _, a := range p.cfg.Reserved {
		if First(a) == first {
			c.valid &^= Bit(a)
		}
	}
	p.chunks[first] = c
	i, _ := slices.BinarySearchFunc(p.order, first, func(c *chunk, a netip.Addr) int { return c.first.Compare(a) })
	p.order = slices.Insert(p.order, i, c)
	return c
}

func (p *Pool) touch(c *chunk) { c.dirty = true }

func (p *Pool) touchAll() {
	for _, c := range p.order {
		p.touch(c)
	}
}

// avail is what may be handed out.
func (c *chunk) avail() Mask {
	m := c.Own & c.valid &^ (c.used | c.pledge | c.drop)
	for _, g := range c.grants {
		m &^= g.bit
	}
	for bit := range c.shares {
		m &^= bit
	}
	return m
}

// Owns reports whether the journal says that the address is this host's and it is
// not on its way to somebody else. It may be in use.
func (p *Pool) Owns(a netip.Addr) bool {
	c := p.chunks[First(a)]
	if c == nil {
		return false
	}
	return (c.Own&^c.pledge)&Bit(a) != 0
}

// Strays returns the addresses that are in use here and that the journal does not own,
// ascending. Those that this host shares are among them.
func (p *Pool) Strays() []netip.Addr {
	var out []netip.Addr
	for _, c := range p.order {
		if stray := c.used &^ (c.Own &^ c.pledge); stray != 0 {
			out = append(out, Addrs(c.first, stray)...)
		}
	}
	return out
}

// Avail reports whether this host may hand the address out now.
func (p *Pool) Avail(a netip.Addr) bool {
	c := p.chunks[First(a)]
	return c != nil && c.avail()&Bit(a) != 0
}

// Lowest returns the lowest address of rng that may be handed out and that skip
// does not reject.
func (p *Pool) Lowest(rng netip.Prefix, skip func(netip.Addr) bool) (netip.Addr, bool) {
	for _, c := range p.order {
		m := c.avail()
		if m == 0 {
			continue
		}
		for _, a := range Addrs(c.first, m&within(c.first, rng)) {
			if !skip(a) {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// Free returns how many addresses of rng may be handed out.
func (p *Pool) Free(rng netip.Prefix) int {
	n := 0
	for _, c := range p.order {
		if m := c.avail(); m != 0 {
			n += (m & within(c.first, rng)).Count()
		}
	}
	return n
}

// Use says that an address is in use here, or no longer.
func (p *Pool) Use(a netip.Addr, used bool) {
	c := p.chunk(First(a))
	if used {
		c.used |= Bit(a)
	} else {
		c.used &^= Bit(a)
	}
	p.touch(c)
}

// ShareFirst is Share for an address that was chosen because the hosts share none of
// its kind yet: the store is told only while they do not. Who is too late learns the
// other one from [Pool.SharedKind]. Two hosts that choose from different chunks, which
// takes one of them to know 64 addresses that the other does not, are not kept apart.
func (p *Pool) ShareFirst(a netip.Addr, kind string) {
	p.Share(a, kind, true)
	p.chunk(First(a)).firsts |= Bit(a)
}

// late reports whether a wish of [Pool.ShareFirst] must not come true any more.
func (p *Pool) late(c *chunk, bit Mask, kind string) bool {
	a, ok := p.SharedKind(kind)
	return c.firsts&bit != 0 && ok && a != Addrs(c.first, bit)[0]
}

// Share says that a network of this host has a shared address, or no longer. It must
// not be the address of a container here.
func (p *Pool) Share(a netip.Addr, kind string, has bool) {
	c := p.chunk(First(a))
	c.firsts &^= Bit(a)
	if !has {
		delete(c.shares, Bit(a))
	} else {
		if c.shares == nil {
			c.shares = make(map[Mask]string)
		}
		c.shares[Bit(a)] = kind
	}
	p.touch(c)
}

// Shares reports whether the store says that this host shares the address, with no
// change under way that could end that.
func (p *Pool) Shares(a netip.Addr) bool {
	c := p.chunks[First(a)]
	return c != nil && !c.unsure && !c.busy && c.rec.sharedBy(p.cfg.Me)&Bit(a) != 0
}

// SharedKind returns the lowest address that the hosts share as kind.
func (p *Pool) SharedKind(kind string) (netip.Addr, bool) {
	for _, c := range p.order {
		var m Mask
		for bit, s := range c.rec.Shared {
			if s.Kind == kind {
				m |= bit & c.valid
			}
		}
		if m != 0 {
			return Addrs(c.first, m)[0], true
		}
	}
	return netip.Addr{}, false
}

// SetMode changes what the pool may do. In Recovering, acked are the hosts that
// have told the store already.
func (p *Pool) SetMode(m Mode, acked []Host) {
	if p.mode == m && m != Recovering {
		return
	}
	p.mode = m
	p.acked = make(map[Host]bool)
	for _, h := range acked {
		p.acked[h] = true
	}
	p.touchAll()
}

// Close gives everything away that is not in use, and shares nothing any more;
// open takes that back.
func (p *Pool) Close(closing bool) {
	if p.closing == closing {
		return
	}
	p.closing = closing
	for _, c := range p.order {
		if !closing {
			c.drop = 0
		}
		p.touch(c)
	}
}

// Empty reports whether this host owns and shares nothing and nothing is under
// way.
func (p *Pool) Empty() bool {
	for _, c := range p.order {
		if c.Own|c.Leaving|c.rec.Owned[p.cfg.Me]|c.rec.sharedBy(p.cfg.Me) != 0 || c.busy || c.unsure || len(c.shares) > 0 {
			return false
		}
	}
	return p.synced
}

// Owned reports whether the journal owns anything.
func (p *Pool) Owned() bool {
	return slices.ContainsFunc(p.order, func(c *chunk) bool { return c.Own != 0 })
}

// Lost returns addresses that the journal owns and the store does not give to
// this host: the store was restored or wiped, or this host was removed.
func (p *Pool) Lost() []netip.Addr {
	var out []netip.Addr
	if !p.synced || p.mode == Recovering {
		return nil
	}
	for _, c := range p.order {
		if c.Own != 0 && !c.unsure && !c.busy {
			out = append(out, Addrs(c.first, c.Own&^c.rec.Owned[p.cfg.Me])...)
		}
	}
	return out
}

// Settled reports whether the store says of this host what the journal says, with
// nothing under way. A shared address that another host owns stays as it is.
func (p *Pool) Settled() bool {
	for _, c := range p.order {
		if c.busy || c.unsure || c.Leaving != 0 || c.rec.Owned[p.cfg.Me] != c.Own || c.rec.sharedBy(p.cfg.Me) != p.tellable(c) {
			return false
		}
	}
	return p.synced
}

// Tells reports whether the journal has anything to tell a recovering store. A host
// that has nothing must not bring the pool back: it may be one that ended long ago. But
// if the store has [Pool.Named] it, that is of before the backup, and has to go: other
// hosts would take it for told.
func (p *Pool) Tells() bool {
	for _, c := range p.order {
		if c.busy || c.Own|c.Leaving|c.shared()&c.used != 0 {
			return true
		}
	}
	return false
}

// Named reports whether the store gives this host an address, or lets it share one.
func (p *Pool) Named() bool {
	return slices.ContainsFunc(p.order, func(c *chunk) bool { return c.rec.Owned[p.cfg.Me]|c.rec.sharedBy(p.cfg.Me) != 0 })
}

// tellable are the shared addresses that the store should know this host shares. In
// a recovery that is what is in use: a new wish could meet an owner who did not tell
// the store yet.
func (p *Pool) tellable(c *chunk) Mask {
	m := c.shared() &^ p.others(c)
	if p.mode == Recovering {
		m &= c.used
	}
	return m
}

// others are the addresses that other hosts own; in a recovery of those that have
// told the store.
func (p *Pool) others(c *chunk) Mask {
	var m Mask
	for h, o := range c.rec.Owned {
		if h != p.cfg.Me && (p.mode != Recovering || p.acked[h]) {
			m |= o
		}
	}
	return m
}

// shared are the addresses that this host's networks share.
func (c *chunk) shared() Mask {
	var m Mask
	for bit := range c.shares {
		m |= bit
	}
	return m
}

// Entries returns what the journal has of the pool, by first address.
func (p *Pool) Entries() map[netip.Addr]Entry {
	out := make(map[netip.Addr]Entry)
	for _, c := range p.order {
		if c.Entry != (Entry{}) {
			out[c.first] = c.Entry
		}
	}
	return out
}

// Synced reports whether the store's state was seen.
func (p *Pool) Synced() bool { return p.synced }

// Open reports whether wishes can come true: the store's state was seen, and the mode
// is Normal.
func (p *Pool) Open() bool { return p.synced && p.mode == Normal }

// Reset says what all records of the pool are at a revision. A record that cannot
// be read is left alone, and so is its chunk; see [Pool.Bad].
func (p *Pool) Reset(kvs []store.KV, rev int64) {
	if rev < p.rev {
		return
	}
	p.rev, p.synced = rev, true
	seen := make(map[netip.Addr]bool)
	for _, kv := range kvs {
		if first, ok := p.parseKey(kv.Key); ok {
			seen[first] = true
			p.Observe(kv)
		}
	}
	for _, c := range p.order {
		if !seen[c.first] && c.rev < rev {
			c.rec, c.rev = Record{}, 0
		}
		p.touch(c)
	}
}

// Observe says what one record is now. News that is older than what is known
// changes nothing.
func (p *Pool) Observe(kv store.KV) {
	first, ok := p.parseKey(kv.Key)
	if !ok {
		return
	}
	c := p.chunk(first)
	if kv.Rev <= c.rev {
		return
	}
	rec, err := Decode(kv.Value)
	if err != nil {
		p.bad[first] = err
		c.take = 0 // from elsewhere, if at all
		return
	}
	delete(p.bad, first)
	c.rec, c.rev = rec, kv.Rev
	c.take &^= rec.living() // others were faster, or it is this host's by now
	p.touch(c)
}

// Forget drops everything that the store said, before a [Pool.Reset] by a store
// that was restored: its revisions may be lower. Tasks that are out count for
// nothing but their entries.
func (p *Pool) Forget() {
	p.rev, p.synced = 0, false
	p.life++
	for _, c := range p.order {
		c.rec, c.rev, c.take, c.grants = Record{}, 0, 0, nil
		c.unsure = c.Leaving != 0
		p.touch(c)
	}
	clear(p.bad)
}

// Bad returns records that cannot be read, by the first address of their chunk.
func (p *Pool) Bad() map[netip.Addr]error { return maps.Clone(p.bad) }

func (p *Pool) key(first netip.Addr) string { return p.cfg.Prefix + first.String() }

// Key returns the key of the record that covers an address.
func (p *Pool) Key(a netip.Addr) string { return p.key(First(a)) }

func (p *Pool) parseKey(key string) (netip.Addr, bool) {
	if len(key) <= len(p.cfg.Prefix) || key[:len(p.cfg.Prefix)] != p.cfg.Prefix {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(key[len(p.cfg.Prefix):])
	return a, err == nil && First(a) == a && within(a, p.cfg.Subnet) != 0
}

// Kick lets chunks whose last transaction failed try again.
func (p *Pool) Kick() {
	for _, c := range p.order {
		if c.blocked {
			c.blocked = false
			p.touch(c)
		}
	}
}
