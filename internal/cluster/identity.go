package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/ownership"
)

// Where the journal keeps the identity, and the highest revision seen.
const (
	bucketHost  = "host"
	keyIdentity = "cluster"
	keySeen     = "seen"
)

// NewID returns a new random id of 32 hexadecimal digits.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// A Fingerprint is what tells a machine from its copies. Parts that cannot be read
// are empty and say nothing.
type Fingerprint struct {
	// Product is the machine's UUID by its firmware, Machine its machine-id.
	Product string `json:"product,omitempty"`
	Machine string `json:"machine,omitempty"`
	// MACs are the permanent addresses of its network cards.
	MACs []string `json:"macs,omitempty"`
	// Uplinks are the addresses that somebody gave its links with a default route.
	Uplinks []string `json:"uplinks,omitempty"`
	// Links are the addresses of all links it has now: an uplink need not be the
	// same at each start.
	Links []string `json:"-"`
}

// Same reports whether a machine, as it is now, can be the one that is known. A card
// may come or go, but not all of them at once. An address that can be changed says
// something only of machines that have nothing better: to be taken for a copy costs a
// host its addresses.
func (f Fingerprint) Same(now Fingerprint) bool {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	lacks := func(known, now []string) bool {
		return len(known) > 0 && !slices.ContainsFunc(known, func(m string) bool { return slices.Contains(now, m) })
	}
	if differ(f.Product, now.Product) || differ(f.Machine, now.Machine) || len(now.MACs) > 0 && lacks(f.MACs, now.MACs) {
		return false
	}
	if f.firm() || now.firm() || len(now.Uplinks) == 0 {
		return true
	}
	return !lacks(f.Uplinks, slices.Concat(now.Uplinks, now.Links))
}

// firm reports whether the machine has a part that nobody changes.
func (f Fingerprint) firm() bool { return f.Product != "" || len(f.MACs) > 0 }

// refreshed is what is known after a look at the same machine: what could not be read
// this time stays.
func (f Fingerprint) refreshed(now Fingerprint) Fingerprint {
	list := func(now, known []string) []string {
		if len(now) > 0 {
			return now
		}
		return known
	}
	return Fingerprint{
		Product: cmp.Or(now.Product, f.Product), Machine: cmp.Or(now.Machine, f.Machine),
		MACs: list(now.MACs, f.MACs), Uplinks: list(now.Uplinks, f.Uplinks),
	}
}

// LoadIdentity returns the journal's identity. A journal that has none, or one of
// another machine, gives a new id; renewed says that an older one was given up, so
// that nothing that the journal owns may be used.
func LoadIdentity(j *journal.Journal, machine Fingerprint) (id Identity, renewed bool, err error) {
	known, err := journal.Load[Identity](j, bucketHost)
	if err != nil {
		return Identity{}, false, err
	}
	id, ok := known[keyIdentity]
	switch {
	case !ok:
		return Identity{ID: ownership.Host(NewID()), Machine: Fingerprint{}.refreshed(machine)}, false, nil
	case !id.Machine.Same(machine):
		return Identity{ID: ownership.Host(NewID()), Machine: Fingerprint{}.refreshed(machine)}, true, nil
	}
	id.Seen = max(id.Seen, known[keySeen].Seen)
	id.Machine = id.Machine.refreshed(machine)
	return id, false, nil
}

// Op keeps an identity in the journal.
func (id Identity) Op() journal.Op { return journal.Put(bucketHost, keyIdentity, id) }

// sight is one look at the store, in two linearizable reads: the later revision is
// never older than what it is compared with.
func (c *Cluster) sight(ctx context.Context, id Identity) (Sight, error) {
	clusterKey, selfKey := sightKeys(id.ID)
	var s Sight
	var err error
	var rev int64
	if s.Cluster, rev, err = c.cfg.Store.Get(ctx, clusterKey); err != nil {
		return s, err
	}
	if s.Self, s.Rev, err = c.cfg.Store.Get(ctx, selfKey); err != nil {
		return s, err
	}
	s.Rev = min(rev, s.Rev)
	rec, err := decode[Record](s.Cluster)
	behind := id.UUID != "" && id.Epoch < rec.Epoch
	if err != nil || rec.Phase != PhaseRecovering && !behind {
		return s, nil //nolint:nilerr // Judge says it
	}
	back, err := c.cfg.Store.Read(ctx, fmt.Sprintf("%s%d/", prefixBack, rec.Epoch))
	if err != nil {
		return s, err
	}
	for _, kv := range back.KVs {
		s.Back = append(s.Back, ownership.Host(kv.Key[len(fmt.Sprintf("%s%d/", prefixBack, rec.Epoch)):]))
	}
	return s, nil
}

func hostOf(key, prefix string) ownership.Host { return ownership.Host(key[len(prefix):]) }
