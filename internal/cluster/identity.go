package cluster

import (
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
}

// Same reports whether two fingerprints can be of one machine. A card may come or
// go, but not all of them at once.
func (f Fingerprint) Same(g Fingerprint) bool {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	if differ(f.Product, g.Product) || differ(f.Machine, g.Machine) {
		return false
	}
	return len(f.MACs) == 0 || len(g.MACs) == 0 || slices.ContainsFunc(f.MACs, func(m string) bool { return slices.Contains(g.MACs, m) })
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
		return Identity{ID: ownership.Host(NewID()), Machine: machine}, false, nil
	case !id.Machine.Same(machine):
		return Identity{ID: ownership.Host(NewID()), Machine: machine}, true, nil
	}
	id.Seen = max(id.Seen, known[keySeen].Seen)
	if len(machine.MACs) > 0 {
		id.Machine = machine
	}
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
