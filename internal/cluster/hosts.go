package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// Errors of the removal of a host.
var (
	// ErrUnknownHost says that no host has this name or id.
	ErrUnknownHost = errors.New("unknown host")
	// ErrAmbiguousHost says that a name is that of several hosts.
	ErrAmbiguousHost = errors.New("ambiguous host")
	// ErrConnected says that a host cannot be removed because it lives.
	ErrConnected = errors.New("the host is connected")
)

// A HostView is one host as the others see it.
type HostView struct {
	ID      ownership.Host `json:"id"`
	Name    string         `json:"name"`
	Address netip.Addr     `json:"address,omitzero"`
	// Port is the UDP port of its tunnels, 0 if that is not known.
	Port uint16 `json:"port,omitempty"`
	// Routes are the subnets that it reaches directly.
	Routes []netip.Prefix `json:"routes,omitempty"`
	// Connected says that its lease lives, or with Stale, as long as the store does not
	// answer, that it lived when the store was last seen.
	Connected bool `json:"connected"`
	Stale     bool `json:"stale,omitempty"`
	// Removed says that an operator removed it.
	Removed bool `json:"removed,omitempty"`
	// Me marks this host.
	Me bool `json:"me,omitempty"`
	// Note is what else is to be known: that its record cannot be read, or what its removal
	// left as it was.
	Note string `json:"note,omitempty"`
}

// Addresses are those by which the other hosts are reached, as far as they are known;
// removed hosts have none.
func (c *Cluster) Addresses() []netip.Addr {
	var out []netip.Addr
	for _, h := range c.Hosts() {
		if !h.Me && !h.Removed && h.Address.IsValid() {
			out = append(out, h.Address)
		}
	}
	return out
}

// Hosts returns all hosts that the store knew when it was last seen, those that the journal
// knows, and this one, by name.
func (c *Cluster) Hosts() []HostView {
	stale := !c.Up()
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []HostView
	for key, kv := range c.selves {
		id := hostOf(key, prefixSelf)
		if id == "" {
			continue
		}
		self, err := c.selvesRead.read(key, kv)
		note := ""
		if err != nil {
			self, note = Self{}, "its record cannot be read here: "+err.Error()
		}
		h, err := c.hostsRead.read(string(id), c.hosts[prefixHosts+string(id)])
		if err != nil {
			h = Host{}
		}
		_, alive := c.alive[prefixAlive+string(id)]
		out = append(out, HostView{ID: id, Name: cmp.Or(h.Name, self.Name, c.id.Names[id]), Address: h.Address, Port: h.Port, Routes: slices.Clone(h.Routes),
			Connected: alive, Stale: stale, Removed: self.Removed, Me: id == c.id.ID, Note: note})
	}
	out = append(out, c.forgotten(stale)...)
	slices.SortFunc(out, func(a, b HostView) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out
}

// forgotten are the hosts that the journal knows, this one among them, or a recovery waits
// for, and of which the store has no record: it was wiped, is of before they came, or was not
// seen yet. The caller holds mu.
func (c *Cluster) forgotten(stale bool) []HostView {
	rec, err := decode[Record](c.sightSeen.Cluster)
	if err != nil {
		rec = Record{}
	}
	ids := slices.Concat(c.id.Known, rec.Waits, []ownership.Host{c.id.ID})
	slices.Sort(ids)
	var out []HostView
	for _, id := range slices.Compact(ids) {
		if _, known := c.selves[prefixSelf+string(id)]; known || slices.Contains(c.id.Removed, id) {
			continue
		}
		_, alive := c.alive[prefixAlive+string(id)]
		out = append(out, HostView{ID: id, Name: c.named(string(id)), Connected: alive, Stale: stale, Me: id == c.id.ID})
	}
	return out
}

// Name returns a host's name for people, with the beginning of its id if another host
// has the same name: a host that came back as a new one, or two that were named alike.
func (c *Cluster) Name(id ownership.Host) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := c.named(string(id))
	if name == "" {
		return string(id)
	}
	for key := range c.selves {
		if other := strings.TrimPrefix(key, prefixSelf); other != string(id) && c.named(other) == name {
			return fmt.Sprintf("%s (%.8s)", name, id)
		}
	}
	return name
}

// named is a host's own name for itself, or the one this host remembers. The caller
// holds mu.
func (c *Cluster) named(id string) string {
	if ownership.Host(id) == c.id.ID {
		return c.cfg.Name
	}
	self, err := c.selvesRead.read(prefixSelf+id, c.selves[prefixSelf+id])
	if err != nil {
		self = Self{}
	}
	return cmp.Or(self.Name, c.id.Names[ownership.Host(id)])
}

// Connected reports whether a host's lease lived when the store was last seen.
func (c *Cluster) Connected(id ownership.Host) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.alive[prefixAlive+string(id)]
	return ok
}

// find returns the host of this name or id: the one that lives, or if none does the
// one that was removed, so that a removal can be repeated. A name that fits several is
// an error; so is one of a living host and of a removed one that is not all gone.
func (c *Cluster) find(name string) (HostView, error) {
	var living, removed []HostView
	var names []string
	for _, h := range c.Hosts() {
		if !h.Removed {
			names = append(names, cmp.Or(h.Name, string(h.ID)))
		}
		switch {
		case string(h.ID) == name:
			return h, nil
		case h.Name == name && !h.Removed:
			living = append(living, h)
		case h.Name == name && len(c.PoolsOf(h.ID)) > 0:
			removed = append(removed, h)
		}
	}
	found := append(living, removed...)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return HostView{}, fmt.Errorf("%w: %q; there are %s (removed ones have to be named by their id)", ErrUnknownHost, name, strings.Join(names, ", "))
	default:
		var ids []string
		for _, h := range found {
			ids = append(ids, string(h.ID))
		}
		return HostView{}, fmt.Errorf("%w: %q fits several: name one by its id, which is %s", ErrAmbiguousHost, name, strings.Join(ids, " or "))
	}
}

// A Removal is an operator's wish to remove a host.
type Removal struct {
	// Name is the host's name or id.
	Name string
	// PoweredOff is the operator's word that the host is off.
	PoweredOff bool
}

// RemoveHost leaves a tombstone for a host and frees its addresses: they are used
// last. It is refused for a host that is connected or that answers any connected
// host; if it is said to be powered off, only for one that is both. It may be
// repeated, and takes up to three seconds.
func (c *Cluster) RemoveHost(ctx context.Context, r Removal) (HostView, error) {
	// First, because a host that is not known here may be one that the store has not told of.
	if err := c.refuse(Member, Recovering, Waiting); err != nil {
		return HostView{}, err
	}
	h, err := c.find(r.Name)
	if err != nil {
		return h, err
	}
	if h.Me {
		return h, fmt.Errorf("%w: %s is this host: remove it from another one", ErrConnected, h.Name)
	}
	if !h.Removed {
		if err := c.gone(ctx, h, r); err != nil {
			return h, err
		}
	}
	h.Note, err = c.bury(ctx, h.ID)
	if err != nil {
		return h, fmt.Errorf("remove host %s (repeat it): %w", cmp.Or(h.Name, string(h.ID)), err)
	}
	return h, nil
}

// gone is nil for a host that may be removed.
func (c *Cluster) gone(ctx context.Context, h HostView, r Removal) error {
	kv, _, err := c.cfg.Store.Get(ctx, prefixAlive+string(h.ID))
	if err != nil {
		return err
	}
	connected := kv.Rev != 0
	if connected && !r.PoweredOff {
		return fmt.Errorf("%w: %s: stop it first", ErrConnected, h.Name)
	}
	switch {
	case !connected && r.PoweredOff:
		return nil // the operator knows better
	case !h.Address.IsValid() && connected:
		return fmt.Errorf("%w: %s: if it is off, that ends within %v: say it again then", ErrConnected, h.Name, aliveTTL)
	case !h.Address.IsValid():
		return fmt.Errorf("%w, as far as is known: nobody knows an address of %s, and whether it answers: say --powered-off if it is off", ErrConnected, cmp.Or(h.Name, string(h.ID)))
	}
	by, silent, err := c.reachedBy(ctx, h)
	switch {
	case err != nil:
		return err
	case len(by) > 0 && connected:
		return fmt.Errorf("%w and answers at %s (asked by %s): %s is not powered off", ErrConnected, h.Address, strings.Join(by, ", "), h.Name)
	case len(by) > 0, len(silent) > 0 && !r.PoweredOff:
		return errReached(h, by, silent)
	}
	return nil
}

// bury leaves the tombstone first: from then on the host can change nothing. The note
// says what stays as it is, because this host cannot read it.
func (c *Cluster) bury(ctx context.Context, h ownership.Host) (note string, err error) {
	key := prefixSelf + string(h)
	for {
		self, _, err := c.cfg.Store.Get(ctx, key)
		if err != nil {
			return "", err
		}
		if rec, err := decode[Self](self); err == nil && rec.Removed {
			break
		}
		if _, err := c.put(ctx, Remove(h, self)); err != nil && !errors.Is(err, store.ErrUnknown) {
			return "", err
		}
	}
	// Its addresses first: its membership is what shows that a removal is to be repeated.
	if err := c.buryAllAddresses(ctx, h); err != nil {
		return "", err
	}
	bad, err := c.expel(ctx, h)
	if err != nil {
		return "", err
	}
	// Nobody gives anything to a host that is no member; what was given to it before.
	if _, err = c.buryAddresses(ctx, h); err != nil {
		return "", err
	}
	if bad == nil {
		return "", nil
	}
	c.cfg.Logger.Warn("records of pools that this host cannot read stay as they are: a removed host may be a member there", "host", h, "err", bad)
	return fmt.Sprintf("it may still be a member of pools whose records cannot be read here; remove it again when they can be: %v", bad), nil
}

// expel ends what removed hosts have in the store besides addresses: their memberships
// and what they ask for. bad is of the pools that cannot be read, which stay.
func (c *Cluster) expel(ctx context.Context, removed ...ownership.Host) (bad, err error) {
	seen, err := c.look(ctx)
	if err != nil {
		return nil, err
	}
	all, bad := seen.readable()
	for key, p := range all {
		for _, h := range p.Members {
			if !slices.Contains(removed, h) {
				continue
			}
			_, err := c.again(ctx, []Standing{Member, Recovering, Waiting}, func(seen Pools) (store.Txn, error) { return Leave(h, seen.get(key), seen.Index) })
			if err != nil {
				return nil, err
			}
		}
	}
	return bad, c.dropAsks(ctx, func(a ownership.Ask) bool { return slices.Contains(removed, a.From) })
}

// buryRemoved repeats all removals: a backup of before one gave the host its addresses
// and memberships back, and nobody would name it. It reports whether all is done.
func (c *Cluster) buryRemoved(ctx context.Context, id Identity) (done bool, err error) {
	selves, err := c.cfg.Store.Read(ctx, prefixSelf)
	if err != nil {
		return false, err
	}
	removed := slices.Clone(id.Removed)
	for _, kv := range selves.KVs {
		if self, err := decode[Self](kv); err == nil && self.Removed {
			removed = append(removed, hostOf(kv.Key, prefixSelf))
		}
	}
	if len(removed) == 0 {
		return true, nil
	}
	if left, err := c.buryAddresses(ctx, removed...); left > 0 || err != nil {
		return false, err
	}
	if _, err := c.expel(ctx, removed...); err != nil {
		return false, err
	}
	return true, nil
}

// buryAllAddresses repeats buryAddresses until nobody changed a record meanwhile.
func (c *Cluster) buryAllAddresses(ctx context.Context, h ownership.Host) error {
	for {
		left, err := c.buryAddresses(ctx, h)
		if err != nil || left == 0 {
			return err
		}
	}
}

// buryAddresses marks the addresses of removed hosts as dead. It returns how many
// records others changed meanwhile. A record that cannot be read is left alone, and
// told when the others are done.
func (c *Cluster) buryAddresses(ctx context.Context, removed ...ownership.Host) (left int, err error) {
	pass, err := c.admit(Member, Recovering, Waiting)
	if err != nil {
		return 0, err
	}
	all, err := c.cfg.Store.Read(ctx, prefixOwners)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, kv := range all.KVs {
		rec, err := ownership.Decode(kv.Value)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", kv.Key, err))
			continue
		}
		changed := false
		for _, h := range removed {
			changed = rec.Bury(h) || changed
		}
		if !changed {
			continue
		}
		res, err := c.put(ctx, pass.under(store.Txn{
			If: []store.Cond{store.Unchanged(kv.Key, kv.Rev)}, Then: []store.Op{store.Put(kv.Key, rec.Encode())},
		}))
		if err != nil && !errors.Is(err, store.ErrUnknown) {
			return 0, err
		}
		if err != nil || !res.OK {
			left++
			c.Wake() // the fence may be why
		}
	}
	if left == 0 && len(errs) > 0 {
		c.cfg.Logger.Warn("records of owners that this host cannot read stay as they are", "err", errors.Join(errs...))
	}
	return left, nil
}

// PoolsOf returns the pools of which a host is a member; of all hosts for "".
func (c *Cluster) PoolsOf(h ownership.Host) []Pool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Pool
	for key := range c.pools {
		p, err := c.poolAt(key)
		if err == nil && (h == "" || slices.Contains(p.Members, h)) {
			out = append(out, p)
		}
	}
	return out
}
